//! The frame of a packet that is traced.

use super::Error;
use crate::api::trace::{TraceProtocol, TraceRequest};
use std::net::IpAddr;

/// The MAC that it seems to come from: one that is local to us (IEEE 802).
const SOURCE_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
/// TTL and hop limit.
const TTL: u8 = 64;
/// A window that is open.
const WINDOW: u16 = 0xfaf0;
/// TCP flags by their names, lowest bit first (RFC 9293).
const FLAGS: [&str; 6] = ["fin", "syn", "rst", "psh", "ack", "urg"];

/// Ethernet frame of the packet that `request` asks for, to `mac`.
pub fn frame(request: &TraceRequest, mac: [u8; 6]) -> Result<Vec<u8>, Error> {
    let (from, to) = (request.from.ip(), request.to.ip());
    let (protocol, payload) = payload(request)?;
    let mut frame = Vec::from(mac);
    frame.extend(SOURCE_MAC);
    let header = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            frame.extend([0x08, 0x00]);
            let mut header = vec![0x45, 0];
            header.extend((20 + payload.len() as u16).to_be_bytes());
            header.extend([0, 0, 0x40, 0, TTL, protocol, 0, 0]);
            header.extend(from.octets());
            header.extend(to.octets());
            let sum = checksum(&[&header]);
            header[10..12].copy_from_slice(&sum);
            header
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            frame.extend([0x86, 0xdd]);
            let mut header = vec![0x60, 0, 0, 0];
            header.extend((payload.len() as u16).to_be_bytes());
            header.extend([protocol, TTL]);
            header.extend(from.octets());
            header.extend(to.octets());
            header
        }
        _ => {
            return Err(Error::Request(format!(
                "{from} and {to} are of different IP versions: no packet has both; give --from an address of the version of --to"
            )));
        }
    };
    frame.extend(header);
    frame.extend(with_checksum(request, protocol, payload));
    Ok(frame)
}

/// The flags of a TCP segment as one number.
fn flags(names: &[String]) -> Result<u8, Error> {
    if names.is_empty() {
        return Ok(0x02);
    }
    names.iter().try_fold(0, |flags, name| {
        let bit = FLAGS.iter().position(|known| known.eq_ignore_ascii_case(name));
        let unknown = || Error::Request(format!("`{name}` is no TCP flag: there are {}", FLAGS.join(", ")));
        bit.map(|bit| flags | 1 << bit).ok_or_else(unknown)
    })
}

/// The IP protocol and what stands behind the IP header, checksum zero.
fn payload(request: &TraceRequest) -> Result<(u8, Vec<u8>), Error> {
    if !request.flags.is_empty() && request.protocol != TraceProtocol::TCP {
        return Err(Error::Request(format!("--flags are TCP's, and the packet is {}", request.protocol)));
    }
    let mut bytes = Vec::new();
    if request.protocol != TraceProtocol::ICMP {
        bytes.extend(request.from.port().to_be_bytes());
        bytes.extend(request.to.port().to_be_bytes());
    }
    let protocol = match request.protocol {
        TraceProtocol::TCP => {
            let flags = flags(&request.flags)?;
            bytes.extend([0, 0, 0, 1]);
            bytes.extend(u32::from(flags & 0x10 != 0).to_be_bytes());
            bytes.extend([0x50, flags]);
            bytes.extend(WINDOW.to_be_bytes());
            bytes.extend([0; 4]);
            lb_common::TCP
        }
        TraceProtocol::UDP => {
            bytes.extend([0, 8, 0, 0]);
            lb_common::UDP
        }
        TraceProtocol::SCTP => {
            // Verification tag and checksum, then an INIT of one stream each way (RFC 9260, 3.3.2).
            bytes.extend([0; 8]);
            bytes.extend([1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
            lb_common::SCTP
        }
        TraceProtocol::ICMP => {
            let (kind, protocol) = if request.to.is_ipv4() { (8, 1) } else { (128, 58) };
            bytes.extend([kind, 0, 0, 0, 0, 1, 0, 1]);
            protocol
        }
    };
    Ok((protocol, bytes))
}

fn with_checksum(request: &TraceRequest, protocol: u8, mut payload: Vec<u8>) -> Vec<u8> {
    let at = match request.protocol {
        TraceProtocol::TCP => 16,
        TraceProtocol::UDP => 6,
        TraceProtocol::ICMP => 2,
        TraceProtocol::SCTP => {
            let sum = crc32c(&payload);
            payload[8..12].copy_from_slice(&sum.to_le_bytes());
            return payload;
        }
    };
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let mut pseudo = octets(request.from.ip());
    pseudo.extend(octets(request.to.ip()));
    pseudo.extend((payload.len() as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, protocol]);
    // ICMP of IPv4 covers itself alone (RFC 792).
    let is_plain = request.protocol == TraceProtocol::ICMP && request.to.is_ipv4();
    let sum = if is_plain { checksum(&[&payload]) } else { checksum(&[&pseudo, &payload]) };
    payload[at..at + 2].copy_from_slice(&sum);
    payload
}

/// The Internet checksum (RFC 1071) over parts of an even length each, but for the last.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words.map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !(sum as u16);
    // In UDP zero means that there is none.
    (if sum == 0 { 0xffff } else { sum }).to_be_bytes()
}

/// `CRC32c` (RFC 9260, appendix A), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 != 0 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(protocol: TraceProtocol, from: &str, to: &str) -> TraceRequest {
        let (from, to) = (from.parse().expect("an address"), to.parse().expect("an address"));
        TraceRequest { from, to, protocol, flags: Vec::new(), interface: None }
    }

    #[test]
    fn frames_have_sums_that_add_up() {
        for (from, to) in [("10.244.1.7:4000", "10.96.0.10:80"), ("[fd00::7]:4000", "[fd00::10]:80")] {
            for protocol in [TraceProtocol::TCP, TraceProtocol::UDP, TraceProtocol::SCTP, TraceProtocol::ICMP] {
                let bytes = frame(&request(protocol, from, to), [2; 6]).expect("a frame");
                let headers = if from.starts_with('[') { 54 } else { 34 };
                if headers == 34 {
                    assert_eq!(checksum(&[&bytes[14..34]]), [0xff; 2], "{protocol} {from}");
                }
                if protocol != TraceProtocol::SCTP && !(protocol == TraceProtocol::ICMP && headers == 34) {
                    let addresses = if headers == 34 { &bytes[26..34] } else { &bytes[22..54] };
                    let number = if headers == 34 { bytes[23] } else { bytes[20] };
                    let rest = [0, (bytes.len() - headers) as u8, 0, number];
                    assert_eq!(checksum(&[addresses, &rest, &bytes[headers..]]), [0xff; 2], "{protocol} {from}");
                }
            }
        }
        // RFC 3720, B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let mixed = request(TraceProtocol::TCP, "10.0.0.1:1", "[fd00::1]:80");
        assert!(frame(&mixed, [0; 6]).unwrap_err().to_string().contains("different IP versions"));
        let mut odd = request(TraceProtocol::TCP, "10.0.0.1:1", "10.0.0.2:80");
        odd.flags = vec!["syn".to_owned(), "nix".to_owned()];
        assert!(frame(&odd, [0; 6]).unwrap_err().to_string().contains("`nix` is no TCP flag"));
        odd.protocol = TraceProtocol::UDP;
        assert!(frame(&odd, [0; 6]).unwrap_err().to_string().contains("--flags are TCP's"));
    }
}
