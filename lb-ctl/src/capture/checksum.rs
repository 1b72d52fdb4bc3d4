//! Checksums that a sender left to its network card.
//!
//! A local sender (a pod, the node) writes only the sum of the pseudo-header and leaves the rest to the card. A packet copied
//! on its way there would seem broken to whoever reads it, so the rest is done here as the card would.

use etherparse::checksum::Sum16BitWords;
use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};

/// Completes the transport's checksum if it is the pseudo-header's sum alone (which a complete one is once in 65,536 times) and the
/// packet is there as a whole.
pub(super) fn complete(bytes: &mut [u8]) {
    if let Some((offset, checksum)) = completed(bytes) {
        bytes[offset..offset + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Where the checksum stands, and what completes it.
fn completed(bytes: &[u8]) -> Option<(usize, u16)> {
    let packet = LaxSlicedPacket::from_ethernet(bytes).ok()?;
    let (segment, field, protocol) = match packet.transport.as_ref()? {
        TransportSlice::Tcp(tcp) => (tcp.slice(), 16, lb_common::TCP),
        TransportSlice::Udp(udp) => (udp.slice(), 6, lb_common::UDP),
        _ => return None,
    };
    let mut sum = Sum16BitWords::new();
    let length = match packet.net.as_ref()? {
        LaxNetSlice::Ipv4(ip) => {
            let header = ip.header();
            let length = usize::from(header.total_len()).checked_sub(header.slice().len())?;
            sum = sum.add_4bytes(header.source()).add_4bytes(header.destination());
            length
        }
        LaxNetSlice::Ipv6(ip) => {
            let header = ip.header();
            sum = sum.add_16bytes(header.source()).add_16bytes(header.destination());
            // Extension headers are between.
            let end = usize::from(header.payload_length()) + header.slice().len();
            let start = offset_in(header.slice(), segment)?;
            end.checked_sub(start)?
        }
        LaxNetSlice::Arp(_) => return None,
    };
    let pseudo = sum.add_2bytes([0, protocol]).add_4bytes((length as u32).to_be_bytes());
    let found = *segment.get(field..field + 2)?.first_chunk::<2>()?;
    // The library gives complements; what the sender wrote is the plain sum.
    if u16::from_be_bytes(found) != !u16::from_be(pseudo.ones_complement()) {
        return None;
    }
    let start = offset_in(bytes, segment)?;
    let whole = bytes.get(start..start + length)?;
    // The field holds the pseudo-header's sum already, so the sum over everything is that of both.
    let checksum = u16::from_be(Sum16BitWords::new().add_slice(whole).ones_complement());
    let is_udp = protocol == lb_common::UDP;
    Some((start + field, if is_udp && checksum == 0 { u16::MAX } else { checksum }))
}

/// How far into `outer` the slice `inner` of it begins.
fn offset_in(outer: &[u8], inner: &[u8]) -> Option<usize> {
    (inner.as_ptr() as usize).checked_sub(outer.as_ptr() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    /// A complete packet, and where its checksum stands.
    fn packets() -> Vec<(Vec<u8>, usize)> {
        let v4 = || PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4([192, 0, 2, 1], [10, 0, 0, 1], 64);
        let v6 = || PacketBuilder::ethernet2([1; 6], [2; 6]).ipv6([1; 16], [2; 16], 64);
        let mut all = Vec::new();
        for payload in [&b""[..], b"odd", b"even"] {
            for (builder, at) in [(v4 as fn() -> _, 34), (v6, 54)] {
                let mut bytes = Vec::new();
                builder().tcp(1000, 80, 7, 512).write(&mut bytes, payload).unwrap();
                all.push((bytes, at + 16));
                let mut bytes = Vec::new();
                builder().udp(1000, 53).write(&mut bytes, payload).unwrap();
                all.push((bytes, at + 6));
            }
        }
        all
    }

    /// As a sender leaves it to its card: the whole sum without that of the segment.
    fn left_to_the_card(complete: &[u8], at: usize) -> Vec<u8> {
        let mut bytes = complete.to_vec();
        let start = if complete[12] == 0x08 { 34 } else { 54 };
        bytes[at..at + 2].fill(0);
        let segment = !u16::from_be(Sum16BitWords::new().add_slice(&bytes[start..]).ones_complement());
        let whole = !u16::from_be_bytes([complete[at], complete[at + 1]]);
        // whole = pseudo + segment, in ones' complement.
        let pseudo = u32::from(whole) + u32::from(!segment);
        let pseudo = (pseudo & 0xffff) + (pseudo >> 16);
        bytes[at..at + 2].copy_from_slice(&(pseudo as u16).to_be_bytes());
        bytes
    }

    #[test]
    fn what_was_left_to_the_card_is_completed_and_nothing_else_is_touched() {
        for (whole, at) in packets() {
            let mut bytes = left_to_the_card(&whole, at);
            assert_ne!(bytes, whole);
            complete(&mut bytes);
            assert_eq!(bytes, whole);
            complete(&mut bytes);
            assert_eq!(bytes, whole, "complete already");
            let mut wrong = whole.clone();
            wrong[at] ^= 0x55;
            let before = wrong.clone();
            complete(&mut wrong);
            assert_eq!(wrong, before, "wrong stays wrong");
        }
    }

    #[test]
    fn what_was_cut_short_stays_as_it_is() {
        for (whole, at) in packets() {
            let bytes = left_to_the_card(&whole, at);
            for length in 0..bytes.len() {
                let mut cut = bytes[..length].to_vec();
                complete(&mut cut);
                assert_eq!(cut, &bytes[..length], "{length}");
            }
        }
    }
}
