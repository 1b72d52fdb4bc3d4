//! Checksums, summed in full: the Internet's (RFC 1071) and SCTP's CRC32c (RFC 9260, appendix A).

use std::net::IpAddr;

/// The one's complement sum of `bytes` as big-endian words, an odd last byte padded with zero. All ones, or zero for nothing
/// but zeros, where `bytes` hold a right checksum.
pub fn sum(bytes: &[u8]) -> u16 {
    add(bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
}

/// The one's complement sum of words.
fn add(words: impl Iterator<Item = u16>) -> u16 {
    let mut sum: u64 = words.map(u64::from).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum of the pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1).
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u16 {
    let mut bytes = Vec::with_capacity(40);
    for address in [source, destination] {
        match address {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
    }
    bytes.extend((length as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    sum(&bytes)
}

/// The sum of a pseudo-header and what it stands before.
pub fn with_pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, bytes: &[u8]) -> u16 {
    add([pseudo_header(source, destination, protocol, bytes.len()), sum(bytes)].into_iter())
}

/// Whether a sum that includes the checksum says that this is right.
pub fn is_right(sum: u16) -> bool {
    sum == 0xffff
}

/// How wrong a checksum is: the sum that includes it, with the two forms of zero made one. A translation keeps it.
pub fn error(sum: u16) -> u16 {
    if sum == 0xffff { 0 } else { sum }
}

/// The CRC32c of bytes, as SCTP writes it into a packet.
pub fn crc32c(bytes: &[u8]) -> [u8; 4] {
    /// The Castagnoli polynomial, bits reversed.
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
        }
    }
    (!crc).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071() {
        // Section 3: 00 01 f2 03 f4 f5 f6 f7 sums to ddf2.
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!(sum(&[0x12]), 0x1200);
    }

    #[test]
    fn the_examples_of_rfc_3720() {
        // Appendix B.4: 32 bytes of zeros, of ones, and counting up.
        assert_eq!(crc32c(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(crc32c(&[0xff; 32]), [0x43, 0xab, 0xa8, 0x62]);
        let counting: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&counting), [0x4e, 0x79, 0xdd, 0x46]);
    }

    #[test]
    fn a_header_from_the_books() {
        // The IPv4 header that RFC 1071's readers know from the literature: checksum b861.
        let header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01, 0xc0, 0xa8,
            0x00, 0xc7,
        ];
        assert!(is_right(sum(&header)));
        let mut spoiled = header;
        spoiled[8] = 0x3f;
        assert!(!is_right(sum(&spoiled)));
    }
}
