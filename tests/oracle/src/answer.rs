//! Packets that a datapath makes itself, in answer to one that came in: all of it is judged, since all of it is new.

use crate::icmp;
use crate::packet::{ACK, ETHERNET, FIN, ICMP, ICMPV6, Packet, RST, SYN, TCP};
use crate::{Fault, demand};
use std::net::IpAddr;

/// As many bytes of a packet, at least, an error quotes where its headers are long.
pub const QUOTED: usize = 128;

/// An ICMP error that was promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Nobody listens on the port (RFC 792: 3/3; RFC 4443: 1/4).
    PortUnreachable,
    /// The way out takes packets of this many bytes (RFC 1191: 3/4; RFC 4443: 2/0).
    TooBig(u16),
    /// TTL or hop limit ran out (RFC 792: 11/0; RFC 4443: 3/0).
    TimeExceeded,
    /// There is no way on (RFC 792: 3/1; RFC 4443: 1/0).
    NoWay,
    /// Nobody understands the protocol (RFC 792: 3/2; RFC 4443, 3.4: 4/1 with the place that names it).
    ProtocolUnreachable,
}

/// Reads both, and demands of the answer what every answer owes: right checksums, lengths that agree, the way back.
fn read<'a>(offending: &'a [u8], answer: &'a [u8], is_echo: bool) -> Result<(Packet<'a>, Packet<'a>), Fault> {
    let unread = |what: &str, error| Fault(format!("{what} is {error:?}"));
    let from = Packet::read(offending).map_err(|error| unread("what was answered", error))?;
    let to = Packet::read(answer).map_err(|error| unread("the answer", error))?;
    // An echo reply is its request turned round: a request that was damaged on its way stays so.
    demand(to.is_right() || (is_echo && !from.is_right()), || "the answer has a wrong checksum".to_owned())?;
    demand(matches!(to.fragment, None | Some((0, false))), || "the answer is a fragment".to_owned())?;
    demand(to.ttl >= 64, || format!("the answer has a TTL of {}", to.ttl))?;
    demand(to.destination == from.source, || format!("the answer goes to {}", to.destination))?;
    demand(answer[..6] == offending[6..12], || "the answer goes to another MAC than its cause came from".to_owned())?;
    demand(is_single(from.source) && is_single(from.destination), || "a group was answered".to_owned())?;
    Ok((from, to))
}

/// What is new ends where its packet ends, or is as long as the shortest frame.
fn has_no_tail(to: &Packet<'_>, answer: &[u8]) -> Result<(), Fault> {
    demand(to.end == answer.len() || answer.len() == 60, || "the answer has a tail".to_owned())
}

/// Whether it is the address of one host.
fn is_single(address: IpAddr) -> bool {
    !address.is_multicast() && !address.is_unspecified() && address != IpAddr::from([255; 4])
}

/// Judges a RST (RFC 9293, 3.10.7.1): of the sequence number the peer expects, or acknowledging all that it sent.
pub fn reset(offending: &[u8], answer: &[u8]) -> Result<(), Fault> {
    let (from, to) = read(offending, answer, false)?;
    has_no_tail(&to, answer)?;
    let tuples = (from.tuple(), to.tuple());
    let (Ok(Some((client, service))), Ok(Some((source, destination)))) = tuples else {
        return Err(Fault("a RST without ports, or for something without".to_owned()));
    };
    demand((source, destination) == (service, client), || format!("the RST says {source} to {destination}"))?;
    demand(from.protocol == TCP && to.protocol == TCP, || "a RST is for TCP".to_owned())?;
    let (segment, reset) = (from.payload(), to.payload());
    let flags = from.flags();
    demand(flags & RST == 0, || "a RST was answered".to_owned())?;
    demand(reset.len() == 20 && reset[12] >> 4 == 5, || "the RST carries options or data".to_owned())?;
    let word = |bytes: &[u8], at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let data = segment.len() - usize::from(segment[12] >> 4) * 4;
    let length = data as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    let promised = if flags & ACK != 0 {
        (word(segment, 8), 0, RST)
    } else {
        (0, word(segment, 4).wrapping_add(length), RST | ACK)
    };
    let found = (word(reset, 4), word(reset, 8), to.flags());
    demand(found == promised, || format!("sequence, acknowledgement, flags are {found:?} instead of {promised:?}"))?;
    demand(reset[18..20] == [0; 2], || "the RST has an urgent pointer".to_owned())
}

/// Judges an ICMP error that `speaker` (any address if `None`) sends about a packet.
pub fn error(offending: &[u8], answer: &[u8], promised: Error, speaker: Option<IpAddr>) -> Result<(), Fault> {
    let (from, to) = read(offending, answer, false)?;
    has_no_tail(&to, answer)?;
    let is_v4 = from.source.is_ipv4();
    demand(!icmp::is_error(&from), || "an ICMP error was answered by another (RFC 1122, 3.2.2)".to_owned())?;
    demand(!from.is_later_fragment(), || "a later fragment was answered (RFC 1122, 3.2.2)".to_owned())?;
    demand(speaker.is_none_or(|speaker| to.source == speaker), || format!("the error comes from {}", to.source))?;
    demand(is_single(to.source), || format!("the error comes from {}", to.source))?;
    demand(to.protocol == if is_v4 { ICMP } else { ICMPV6 }, || format!("protocol {}", to.protocol))?;
    let message = to.payload();
    let (kind, rest) = match (promised, is_v4) {
        (Error::PortUnreachable, true) => ([3, 3], [0; 4]),
        (Error::PortUnreachable, false) => ([1, 4], [0; 4]),
        (Error::TooBig(mtu), true) => ([3, 4], u32::from(mtu).to_be_bytes()),
        (Error::TooBig(mtu), false) => ([2, 0], u32::from(mtu).to_be_bytes()),
        (Error::TimeExceeded, true) => ([11, 0], [0; 4]),
        (Error::TimeExceeded, false) => ([3, 0], [0; 4]),
        (Error::NoWay, true) => ([3, 1], [0; 4]),
        (Error::NoWay, false) => ([1, 0], [0; 4]),
        (Error::ProtocolUnreachable, true) => ([3, 2], [0; 4]),
        (Error::ProtocolUnreachable, false) => ([4, 1], (from.named_at as u32).to_be_bytes()),
    };
    demand(message.get(..2) == Some(&kind) && message.get(4..8) == Some(&rest), || {
        format!("the message begins with {:02x?}", &message[..message.len().min(8)])
    })?;
    // The packet as it came, from its IP header on: at least the header and eight bytes (RFC 792); at most what no path refuses
    // (RFC 1812, 4.3.2.3: 576 bytes; RFC 4443, 2.4c: 1280).
    let (quote, original) = (&message[8..], &offending[ETHERNET..from.end]);
    // Whole words are enough.
    let least = original.len().min(from.transport - ETHERNET + 8).min(QUOTED) & !3;
    let most = if is_v4 { 576 } else { 1280 };
    demand(quote.len() >= least, || format!("only {} bytes are quoted", quote.len()))?;
    demand(to.length() <= most, || format!("the error has {} bytes", to.length()))?;
    demand(original.starts_with(quote), || "what is quoted is not what came".to_owned())
}

/// Judges the reply to an echo request (RFC 792, RFC 4443): its identifier, number and data.
pub fn echo(request: &[u8], reply: &[u8]) -> Result<(), Fault> {
    let (from, to) = read(request, reply, true)?;
    demand(to.source == from.destination, || format!("the reply comes from {}", to.source))?;
    let kinds = if from.source.is_ipv4() { (ICMP, 8, 0) } else { (ICMPV6, 128, 129) };
    demand((from.protocol, to.protocol) == (kinds.0, kinds.0), || "not ICMP".to_owned())?;
    let (asked, told) = (from.payload(), to.payload());
    let code = asked.get(1).copied().unwrap_or_default();
    let found = (asked.get(..2), told.get(..2));
    demand(found == (Some(&[kinds.1, code]), Some(&[kinds.2, code])), || "wrong type".to_owned())?;
    demand(asked[4..] == told[4..], || "identifier, number or data differ".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum;

    const CLIENT: [u8; 4] = [198, 51, 100, 9];
    const SERVICE: [u8; 4] = [10, 96, 0, 1];

    /// An IPv4 frame with right checksums; `at` is where the transport's checksum stands in it.
    fn v4(from: [u8; 4], to: [u8; 4], protocol: u8, at: usize, payload: &[u8]) -> Vec<u8> {
        let macs =
            if from == CLIENT { [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1] } else { [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2] };
        let mut frame = macs.to_vec();
        frame.extend([8, 0, 0x45, 0, 0, 20 + payload.len() as u8, 0, 0, 0x40, 0, 64, protocol, 0, 0]);
        frame.extend(from);
        frame.extend(to);
        frame.extend(payload);
        let header = (!checksum::sum(&frame[14..34])).to_be_bytes();
        frame[24..26].copy_from_slice(&header);
        let sum = (!Packet::read(&frame).unwrap().transport_sum()).to_be_bytes();
        frame[34 + at..36 + at].copy_from_slice(&sum);
        frame
    }

    fn tcp(from: [u8; 4], to: [u8; 4], ports: [u16; 2], numbers: [u32; 2], flags: u8, data: &[u8]) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(ports.map(u16::to_be_bytes).concat());
        segment.extend(numbers.map(u32::to_be_bytes).concat());
        segment.extend([0x50, flags, 0x10, 0, 0, 0, 0, 0]);
        segment.extend(data);
        v4(from, to, TCP, 16, &segment)
    }

    #[test]
    fn resets_of_a_syn_and_of_data() {
        let syn = tcp(CLIENT, SERVICE, [40000, 80], [0xffff_ffff, 0], SYN, b"");
        let right = tcp(SERVICE, CLIENT, [80, 40000], [0, 0], RST | ACK, b"");
        assert_eq!(reset(&syn, &right), Ok(()));
        assert!(reset(&syn, &tcp(SERVICE, CLIENT, [80, 40000], [0, 0xffff_ffff], RST | ACK, b"")).is_err());
        assert!(reset(&syn, &tcp(SERVICE, CLIENT, [80, 40000], [0, 0], RST, b"")).is_err());
        assert!(reset(&syn, &tcp(SERVICE, CLIENT, [81, 40000], [0, 0], RST | ACK, b"")).is_err());

        let data = tcp(CLIENT, SERVICE, [40000, 80], [1000, 7777], ACK, b"hello");
        assert_eq!(reset(&data, &tcp(SERVICE, CLIENT, [80, 40000], [7777, 0], RST, b"")), Ok(()));
        assert!(reset(&data, &right).is_err());
        // Without ACK every byte and the FIN are acknowledged.
        let fin = tcp(CLIENT, SERVICE, [40000, 80], [1000, 0], FIN, b"hello");
        assert_eq!(reset(&fin, &tcp(SERVICE, CLIENT, [80, 40000], [0, 1006], RST | ACK, b"")), Ok(()));
        let rst = tcp(CLIENT, SERVICE, [40000, 80], [1000, 0], RST, b"");
        assert!(reset(&rst, &tcp(SERVICE, CLIENT, [80, 40000], [0, 1000], RST | ACK, b"")).is_err(), "never a RST");
    }

    #[test]
    fn a_port_that_is_unreachable() {
        let query = v4(CLIENT, SERVICE, 17, 6, &[0, 9, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4]);
        let message = [&[3, 3, 0, 0, 0, 0, 0, 0], &query[14..]].concat();
        let right = v4(SERVICE, CLIENT, ICMP, 2, &message);
        let service = Some(IpAddr::from(SERVICE));
        assert_eq!(error(&query, &right, Error::PortUnreachable, service), Ok(()));
        assert!(error(&query, &right, Error::TimeExceeded, service).is_err());
        assert!(error(&query, &right, Error::PortUnreachable, Some(IpAddr::from([192, 0, 2, 1]))).is_err());
        let translated = v4(SERVICE, CLIENT, ICMP, 2, &[&message[..24], &[10, 244, 1, 1], &message[28..]].concat());
        assert!(error(&query, &translated, Error::PortUnreachable, service).is_err(), "it quotes what never came");
        assert!(error(&query, &v4(SERVICE, CLIENT, ICMP, 2, &message[..20]), Error::PortUnreachable, service).is_err());
        assert!(error(&right, &v4(CLIENT, SERVICE, ICMP, 2, &message), Error::PortUnreachable, None).is_err());
        let too_big = v4(SERVICE, CLIENT, ICMP, 2, &[&[3, 4, 0, 0, 0, 0, 5, 0x78], &query[14..]].concat());
        assert_eq!(error(&query, &too_big, Error::TooBig(1400), service), Ok(()));
    }

    #[test]
    fn echo_and_its_reply() {
        let request = v4(CLIENT, SERVICE, ICMP, 2, &[8, 0, 0, 0, 0, 7, 0, 1, b'p', b'i', b'n', b'g', b'!']);
        let reply = v4(SERVICE, CLIENT, ICMP, 2, &[0, 0, 0, 0, 0, 7, 0, 1, b'p', b'i', b'n', b'g', b'!']);
        assert_eq!(echo(&request, &reply), Ok(()));
        let other = v4(SERVICE, CLIENT, ICMP, 2, &[0, 0, 0, 0, 0, 7, 0, 2, b'p', b'i', b'n', b'g', b'!']);
        assert!(echo(&request, &other).is_err() && echo(&request, &request).is_err());
    }
}
