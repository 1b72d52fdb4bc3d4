//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! A one's complement sum does not depend on byte order as long as every word is read the same way, so words are read
//! in the machine's own order, as they lie in memory. A *delta* is a folded sum that, added to the complement of a
//! checksum, accounts for a change: `~new = ~old + delta`, `delta = sum(new words) + ~sum(old words)`. Deltas of
//! separate changes add up; the delta of the opposite change is the complement.

/// Two bytes of a packet as a word to add up.
#[inline(always)]
pub const fn word(bytes: [u8; 2]) -> u32 {
    u16::from_ne_bytes(bytes) as u32
}

/// The sum of the four words that lie in eight bytes, read in the machine's own order.
#[inline(always)]
pub fn words(bytes: u64) -> u32 {
    let halves = [bytes as u32, (bytes >> 32) as u32];
    (halves[0] & 0xffff) + (halves[0] >> 16) + (halves[1] & 0xffff) + (halves[1] >> 16)
}

/// The sum of the two words that lie in four bytes of a packet.
#[inline(always)]
pub fn pair(bytes: [u8; 4]) -> u32 {
    words(u64::from(u32::from_ne_bytes(bytes)))
}

/// Folds carries back until 16 bits are left.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The delta of a change from words that add up to `old` to words that add up to `new`.
#[inline(always)]
pub const fn delta(old: u32, new: u32) -> u16 {
    add(fold(new), !fold(old))
}

/// The delta of two changes together.
#[inline(always)]
pub const fn add(first: u16, second: u16) -> u16 {
    // At most one carry.
    let sum = first as u32 + second as u32;
    (sum + (sum >> 16)) as u16
}

/// The checksum `old` (as it lies in memory) after a change of `delta` (RFC 1624, equation 3).
#[inline(always)]
pub fn update(old: [u8; 2], delta: u16) -> [u8; 2] {
    let complement = !(word(old) as u16);
    (!add(complement, delta)).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// RFC 1071 as written, over big-endian words.
    fn full(bytes: &[u8]) -> u16 {
        let mut sum: u64 = 0;
        for pair in bytes.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn an_update_equals_a_full_recompute() {
        // Every pairing of awkward words, at the place of a changed word, in a buffer that does not sum to zero.
        let words = [0u16, 1, 0xff, 0x100, 0x7fff, 0x8000, 0xfffe, 0xffff, 0x1234];
        for old in words {
            for new in words {
                let mut bytes: Vec<u8> = [0x45u8, 0, 0, 0x54, 0xab, 0xcd].to_vec();
                bytes.extend_from_slice(&old.to_be_bytes());
                let before = full(&bytes).to_be_bytes();
                bytes[6..8].copy_from_slice(&new.to_be_bytes());
                let expected = full(&bytes);
                let delta = delta(word(old.to_be_bytes()), word(new.to_be_bytes()));
                assert_eq!(u16::from_be_bytes(update(before, delta)), expected, "{old:#x} -> {new:#x}");
            }
        }
    }

    #[test]
    fn the_complement_undoes() {
        for old in [0u32, 7, 0xffff, 0x1_fffe, 0x7_1234] {
            for new in [1u32, 0xfffe, 0x3_0000] {
                let there = delta(old, new);
                let checksum = [0x12, 0x34];
                assert_eq!(update(update(checksum, there), !there), checksum);
            }
        }
    }
}
