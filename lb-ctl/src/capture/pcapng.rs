//! A stream of packets in the format that tcpdump and Wireshark read: pcapng (draft-ietf-opsawg-pcapng).
//!
//! Each program on each interface is two interfaces of the file: `eth0@xdp-in` with the packets as they came to it, `eth0@xdp-out`
//! with the same packets as they left. What became of a packet stands beside it as a comment: what the program answered to the
//! kernel, and why.

use super::{Copy, Hook, Pair};
use lb_common::Captured;
use lb_common::capture::SNAPLEN;
use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::time::Duration;

/// Timestamps are in units of 10^-9 seconds.
const NANOSECONDS: u8 = 9;
/// Makes the bytes of a file, piece by piece.
#[derive(Debug)]
pub struct File {
    writer: Writer,
    interfaces: HashMap<(u32, Hook, u8), u32>,
    /// What the kernel's monotonic clock lacks of the time of day.
    offset: Duration,
}

/// The library's writer has no Debug.
struct Writer(PcapNgWriter<Vec<u8>>);

impl std::fmt::Debug for Writer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Writer")
    }
}

impl File {
    /// A file whose packets' times, of the kernel's monotonic clock, are so much before the time of day.
    pub fn new(offset: Duration) -> io::Result<Self> {
        let writer = PcapNgWriter::new(Vec::new()).map_err(io::Error::other)?;
        Ok(Self { writer: Writer(writer), interfaces: HashMap::new(), offset })
    }

    /// The bytes that came about since the last call.
    pub fn bytes(&mut self) -> Vec<u8> {
        std::mem::take(self.writer.0.get_mut())
    }

    /// Writes both copies of a packet. `name`: of an interface, by its index.
    pub fn write(&mut self, pair: &Pair, name: &dyn Fn(u32) -> String) -> io::Result<()> {
        self.write_copy(&pair.came, 0, None, name)?;
        self.write_copy(&pair.left, pair.lost, Some(fate(&pair.left, name)), name)
    }

    fn write_copy(
        &mut self,
        copy: &Copy,
        lost: u32,
        fate: Option<String>,
        name: &dyn Fn(u32) -> String,
    ) -> io::Result<()> {
        let interface_id = self.interface(copy, name)?;
        let mut options = Vec::new();
        options.extend(fate.map(|fate| EnhancedPacketOption::Comment(Cow::Owned(fate))));
        // Bits 0-1: 1 inbound, 2 outbound.
        options.push(EnhancedPacketOption::Flags(if copy.hook() == Hook::Egress { 2 } else { 1 }));
        if lost > 0 {
            options.push(EnhancedPacketOption::DropCount(u64::from(lost)));
        }
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: self.offset + Duration::from_nanos(copy.head.time),
            original_len: copy.head.length,
            data: Cow::Borrowed(&copy.bytes),
            options,
        };
        self.writer.0.write_pcapng_block(block).map(drop).map_err(io::Error::other)
    }

    /// The number of the file's interface for a copy, described when it is met first.
    fn interface(&mut self, copy: &Copy, name: &dyn Fn(u32) -> String) -> io::Result<u32> {
        let key = (copy.head.ifindex, copy.hook(), copy.head.side);
        if let Some(id) = self.interfaces.get(&key) {
            return Ok(*id);
        }
        let (side, done) = if copy.head.side == Captured::CAME { ("in", "came to") } else { ("out", "left") };
        let (name, hook) = (name(copy.head.ifindex), copy.hook());
        let mut block = InterfaceDescriptionBlock::new(DataLink::ETHERNET, SNAPLEN as u32);
        block.options = vec![
            InterfaceDescriptionOption::IfName(format!("{name}@{hook}-{side}").into()),
            InterfaceDescriptionOption::IfDescription(
                format!("packets as they {done} the program at {hook} of {name}").into(),
            ),
            InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
        ];
        self.writer.0.write_pcapng_block(block).map_err(io::Error::other)?;
        let id = self.interfaces.len() as u32;
        self.interfaces.insert(key, id);
        Ok(id)
    }
}

/// What became of a packet, in words.
fn fate(left: &Copy, name: &dyn Fn(u32) -> String) -> String {
    let reason = left.reason().map_or_else(
        || format!("reason {}", left.head.reason),
        |reason| format!("{}: {}", reason.name(), reason.sentence()),
    );
    let sent = if left.head.sent_to == 0 { String::new() } else { format!(" to {}", name(left.head.sent_to)) };
    format!("{}{sent}, {reason}", action(left))
}

/// What a program answered, by its name in `include/uapi/linux/bpf.h`.
fn action(left: &Copy) -> Cow<'static, str> {
    match (left.hook(), left.head.action) {
        (Hook::Xdp, 0) => "XDP_ABORTED".into(),
        (Hook::Xdp, 1) => "XDP_DROP".into(),
        (Hook::Xdp, 2) => "XDP_PASS".into(),
        (Hook::Xdp, 3) => "XDP_TX".into(),
        (Hook::Xdp, 4) => "XDP_REDIRECT".into(),
        (Hook::Ingress | Hook::Egress, -1) => "TCX_NEXT".into(),
        (Hook::Ingress | Hook::Egress, 0) => "TCX_PASS".into(),
        (Hook::Ingress | Hook::Egress, 2) => "TCX_DROP".into(),
        (Hook::Ingress | Hook::Egress, 7) => "TCX_REDIRECT".into(),
        (_, other) => format!("action {other}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::Reason;
    use pcap_file::pcapng::{Block, PcapNgReader};

    fn pair(ifindex: u32, sent_to: u32, lost: u32) -> Pair {
        let head = Captured {
            time: 1_000_000_007,
            ifindex,
            length: 60,
            action: 4,
            reason: Reason::Forwarded as u8,
            ..Captured::default()
        };
        let came = Copy { head, bytes: [1; 60].into() };
        let left = Copy { head: Captured { side: Captured::LEFT, sent_to, ..head }, bytes: [2; 60].into() };
        Pair { came, left, lost }
    }

    #[test]
    fn what_is_written_is_read_by_others() {
        let mut file = File::new(Duration::from_secs(100)).unwrap();
        let name = |ifindex: u32| format!("eth{ifindex}");
        let mut bytes = file.bytes();
        file.write(&pair(1, 2, 0), &name).unwrap();
        bytes.extend(file.bytes());
        file.write(&pair(1, 2, 3), &name).unwrap();
        bytes.extend(file.bytes());
        let mut reader = PcapNgReader::new(&bytes[..]).unwrap();
        let mut seen = Vec::new();
        while let Some(block) = reader.next_block() {
            match block.unwrap() {
                Block::InterfaceDescription(block) => seen.push(format!("{:?}", block.options[0])),
                Block::EnhancedPacket(block) => {
                    assert_eq!(block.timestamp, Duration::new(101, 7));
                    seen.push(format!("{} {} {:?}", block.interface_id, block.data[0], block.options));
                }
                other => panic!("{other:?}"),
            }
        }
        insta::assert_snapshot!(seen.join("\n"), @r#"
        IfName("eth1@xdp-in")
        0 1 [Flags(1)]
        IfName("eth1@xdp-out")
        1 2 [Comment("XDP_REDIRECT to eth2, forwarded: A request was translated and sent to its backend."), Flags(1)]
        0 1 [Flags(1)]
        1 2 [Comment("XDP_REDIRECT to eth2, forwarded: A request was translated and sent to its backend."), Flags(1), DropCount(3)]
        "#);
    }
}
