//! Exactly the promised bytes changed, and every checksum is as right, or as wrong, as before.
//!
//! A translator that updates checksums by difference (RFC 1624) keeps a wrong one wrong by the same amount: the error stays
//! for the receiver to find. One that is recomputed would hide that the packet was damaged on its way.

use crate::packet::{Packet, SCTP, UDP};
use crate::{Fault, checksum, demand};
use std::net::{IpAddr, SocketAddr};

/// What was promised of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The source it must have. For a later fragment the port does not matter.
    pub source: SocketAddr,
    /// The destination it must have.
    pub destination: SocketAddr,
    /// Whether it was forwarded in place of the stack: then its TTL is one less.
    pub forwarded: bool,
    /// Destination and source MAC it must have, where the datapath writes them.
    pub macs: Option<[u8; 12]>,
}

/// A copy of the packet in which the promised bytes are written; those of checksums are left out of the comparison.
pub(crate) struct Expected {
    bytes: Vec<u8>,
    checksums: Vec<(usize, usize)>,
}

impl Expected {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), checksums: Vec::new() }
    }

    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Leaves a checksum to be judged by itself.
    pub(crate) fn leave_out(&mut self, checksum: Option<(usize, usize)>) {
        self.checksums.extend(checksum);
    }

    pub(crate) fn addresses(&mut self, packet: &Packet<'_>, source: IpAddr, destination: IpAddr) {
        let (offset, length) = packet.addresses();
        for (index, address) in [source, destination].into_iter().enumerate() {
            let octets = match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            assert_eq!(octets.len(), length, "an expectation of the other family");
            self.write(offset + index * length, &octets);
        }
    }

    pub(crate) fn ports(&mut self, packet: &Packet<'_>, source: u16, destination: u16) {
        if packet.ports().is_some() && !packet.is_later_fragment() {
            self.write(packet.transport, &source.to_be_bytes());
            self.write(packet.transport + 2, &destination.to_be_bytes());
        }
    }

    /// Compares all bytes but the checksums.
    pub(crate) fn equals(&self, after: &[u8]) -> Result<(), Fault> {
        demand(self.bytes.len() == after.len(), || {
            format!("the length changed from {} to {}", self.bytes.len(), after.len())
        })?;
        let differs = (0..after.len()).find(|at| {
            let is_checksum = self.checksums.iter().any(|(offset, length)| (*offset..offset + length).contains(at));
            !is_checksum && self.bytes[*at] != after[*at]
        });
        match differs {
            None => Ok(()),
            Some(at) => Err(Fault(format!("byte {at} is {:#04x} instead of {:#04x}", after[at], self.bytes[at]))),
        }
    }
}

/// Judges what became of the frame `before`.
pub fn judge(before: &[u8], after: &[u8], promised: &Translation) -> Result<(), Fault> {
    let packet = Packet::read(before).map_err(|unread| Fault(format!("{unread:?}, and yet it was translated")))?;
    let mut expected = Expected::of(before);
    expected.addresses(&packet, promised.source.ip(), promised.destination.ip());
    expected.ports(&packet, promised.source.port(), promised.destination.port());
    if promised.forwarded {
        demand(packet.ttl > 1, || format!("forwarded with a TTL of {}", packet.ttl))?;
        expected.write(packet.ttl_offset(), &[packet.ttl - 1]);
    }
    if let Some(macs) = promised.macs {
        expected.write(0, &macs);
    }
    expected.leave_out(packet.header_checksum_offset().map(|offset| (offset, 2)));
    expected.leave_out(packet.checksum());
    expected.equals(after)?;
    let after = Packet::read(after).map_err(|unread| Fault(format!("what came out is {unread:?}")))?;
    same_checksums(&packet, &after)
}

/// Every checksum of `after` is as right, or as wrong, as that of `before`.
pub(crate) fn same_checksums(before: &Packet<'_>, after: &Packet<'_>) -> Result<(), Fault> {
    same_header_checksum(before, after)?;
    let Some((offset, _)) = before.checksum() else {
        return Ok(());
    };
    if before.protocol == SCTP {
        return same_crc(before, after);
    }
    let given = |packet: &Packet<'_>| [packet.bytes[offset], packet.bytes[offset + 1]];
    if before.protocol == UDP {
        let (old, new) = (given(before), given(after));
        // RFC 768: zero says that there is none.
        demand((old == [0; 2]) == (new == [0; 2]), || format!("UDP's checksum went from {old:02x?} to {new:02x?}"))?;
        if old == [0; 2] {
            return Ok(());
        }
    }
    same_error("the transport's checksum", before.transport_sum(), after.transport_sum())
}

/// The same of the IPv4 header's alone.
pub(crate) fn same_header_checksum(before: &Packet<'_>, after: &Packet<'_>) -> Result<(), Fault> {
    same_error("the IPv4 header's checksum", before.header_sum(), after.header_sum())
}

fn same_error(what: &str, before: u16, after: u16) -> Result<(), Fault> {
    let (before, after) = (checksum::error(before), checksum::error(after));
    demand(before == after, || format!("{what} was wrong by {before:#x} and is now by {after:#x}"))
}

/// The CRC is linear: it is wrong by the same bits.
fn same_crc(before: &Packet<'_>, after: &Packet<'_>) -> Result<(), Fault> {
    let error = |packet: &Packet<'_>| {
        packet.sctp_checksums().map(|(given, computed)| u32::from_ne_bytes(given) ^ u32::from_ne_bytes(computed))
    };
    // Four bytes of zeros: the sender has left it to hardware, which fills them in last of all.
    if let (Some((old @ [0, 0, 0, 0], _)), Some((new, _))) = (before.sctp_checksums(), after.sctp_checksums()) {
        return demand(new == old, || format!("an SCTP checksum left to hardware became {new:02x?}"));
    }
    // Of a first fragment nobody can tell, unless nothing was changed that it covers.
    if before.is_first_fragment() {
        return demand(before.payload() == after.payload(), || "SCTP's header changed in a fragment".to_owned());
    }
    demand(error(before) == error(after), || {
        format!("SCTP's checksum was wrong by {:x?} and is now by {:x?}", error(before), error(after))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A SYN as Linux makes them, from 198.51.100.9:40000 to 10.96.0.1:80, with timestamps and window scaling, DSCP CS1 and ECT(0).
    fn syn() -> Vec<u8> {
        let mut frame = vec![
            0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1, 0x08, 0x00, // Ethernet
            0x45, 0x22, 0x00, 0x3c, 0xbe, 0xef, 0x40, 0x00, 0x40, 0x06, 0x00, 0x00, 198, 51, 100, 9, 10, 96, 0,
            1, // IPv4
            0x9c, 0x40, 0x00, 0x50, 0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0, 0xa0, 0x02, 0xfa, 0xf0, 0, 0, 0, 0, // TCP
            2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7, // options
        ];
        seal(&mut frame);
        frame
    }

    /// Writes right checksums, by hand.
    fn seal(frame: &mut [u8]) {
        frame[24..26].fill(0);
        frame[50..52].fill(0);
        let header = !checksum::sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&header.to_be_bytes());
        let sum = !Packet::read(frame).unwrap().transport_sum();
        frame[50..52].copy_from_slice(&sum.to_be_bytes());
        assert!(Packet::read(frame).unwrap().is_right());
    }

    /// As a right translator would: to 10.244.1.1:8080, everything recomputed in full.
    fn translated() -> Vec<u8> {
        let mut frame = syn();
        frame[30..34].copy_from_slice(&[10, 244, 1, 1]);
        frame[36..38].copy_from_slice(&8080u16.to_be_bytes());
        frame[22] -= 1;
        seal(&mut frame);
        frame
    }

    fn promise() -> Translation {
        Translation {
            source: "198.51.100.9:40000".parse().unwrap(),
            destination: "10.244.1.1:8080".parse().unwrap(),
            forwarded: true,
            macs: None,
        }
    }

    #[test]
    fn a_right_translation_is_accepted() {
        assert_eq!(judge(&syn(), &translated(), &promise()), Ok(()));
        let mut macs = translated();
        macs[..12].copy_from_slice(&[9; 12]);
        assert_eq!(judge(&syn(), &macs, &Translation { macs: Some([9; 12]), ..promise() }), Ok(()));
        assert!(judge(&syn(), &macs, &promise()).is_err());
    }

    #[test]
    fn every_other_byte_is_found() {
        for at in 0..translated().len() {
            let mut wrong = translated();
            wrong[at] ^= 0x10;
            assert!(judge(&syn(), &wrong, &promise()).is_err(), "byte {at}");
        }
        assert!(judge(&syn(), &syn(), &promise()).is_err());
        let longer = [translated(), vec![0]].concat();
        assert!(judge(&syn(), &longer, &promise()).is_err());
    }

    #[test]
    fn a_damaged_packet_stays_damaged() {
        let (mut before, mut after) = (syn(), translated());
        for frame in [&mut before, &mut after] {
            frame[70] ^= 0x55;
            frame[18] ^= 0x01;
        }
        assert_eq!(judge(&before, &after, &promise()), Ok(()));
        seal(&mut after);
        let fault = judge(&before, &after, &promise()).unwrap_err();
        assert!(fault.to_string().contains("was wrong by"), "{fault}");
    }

    #[test]
    fn a_udp_checksum_of_zero_stays_and_a_computed_one_is_never_zero() {
        // 198.51.100.9:1 to 10.96.0.1:53, four bytes.
        let mut before = vec![2; 14];
        before[12..14].copy_from_slice(&[8, 0]);
        before.extend([0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 198, 51, 100, 9, 10, 96, 0, 1]);
        before.extend([0, 1, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4]);
        let header = (!checksum::sum(&before[14..34])).to_be_bytes();
        before[24..26].copy_from_slice(&header);
        assert!(Packet::read(&before).unwrap().is_right());
        let mut after = before.clone();
        after[30..34].copy_from_slice(&[10, 244, 1, 1]);
        after[24..26].fill(0);
        let header = (!checksum::sum(&after[14..34])).to_be_bytes();
        after[24..26].copy_from_slice(&header);
        let promised = Translation {
            source: "198.51.100.9:1".parse().unwrap(),
            destination: "10.244.1.1:53".parse().unwrap(),
            forwarded: false,
            macs: None,
        };
        assert_eq!(judge(&before, &after, &promised), Ok(()));
        let sum = (!Packet::read(&after).unwrap().transport_sum()).to_be_bytes();
        let mut invented = after.clone();
        invented[40..42].copy_from_slice(&sum);
        assert!(judge(&before, &invented, &promised).is_err(), "a checksum came from nowhere");
        let sum = (!Packet::read(&before).unwrap().transport_sum()).to_be_bytes();
        before[40..42].copy_from_slice(&sum);
        assert!(judge(&before, &after, &promised).is_err(), "a checksum was lost");
        assert_eq!(judge(&before, &invented, &promised), Ok(()));
    }

    #[test]
    fn sctp_keeps_its_checksum_when_only_addresses_change() {
        let mut before = vec![2; 14];
        before[12..14].copy_from_slice(&[8, 0]);
        before.extend([0x45, 0, 0, 36, 0, 0, 0, 0, 64, 132, 0, 0, 198, 51, 100, 9, 10, 96, 0, 1]);
        before.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 4]);
        let crc = checksum::crc32c(&before[34..]);
        before[42..46].copy_from_slice(&crc);
        let header = (!checksum::sum(&before[14..34])).to_be_bytes();
        before[24..26].copy_from_slice(&header);
        assert!(Packet::read(&before).unwrap().is_right());
        let mut after = before.clone();
        after[30..34].copy_from_slice(&[10, 244, 1, 1]);
        after[24..26].fill(0);
        let header = (!checksum::sum(&after[14..34])).to_be_bytes();
        after[24..26].copy_from_slice(&header);
        let promised = Translation {
            source: "198.51.100.9:40000".parse().unwrap(),
            destination: "10.244.1.1:80".parse().unwrap(),
            forwarded: false,
            macs: None,
        };
        assert_eq!(judge(&before, &after, &promised), Ok(()));
        after[36..38].copy_from_slice(&[0x1f, 0x90]);
        let promised = Translation { destination: "10.244.1.1:8080".parse().unwrap(), ..promised };
        assert!(judge(&before, &after, &promised).is_err(), "the port changed and the checksum did not");
        after[42..46].fill(0);
        let crc = checksum::crc32c(&after[34..]);
        after[42..46].copy_from_slice(&crc);
        assert_eq!(judge(&before, &after, &promised), Ok(()));
    }
}
