//! Bytes that both ends can make up by themselves, and a hash to compare them by.

/// Bytes that follow from a seed: `SplitMix64`, eight bytes a step.
#[derive(Clone, Debug)]
pub struct Content {
    state: u64,
    word: [u8; 8],
    used: usize,
}

impl Content {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Self {
        Self { state: seed, word: [0; 8], used: 8 }
    }

    /// Fills `buffer` with the next bytes.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for byte in buffer {
            if self.used == self.word.len() {
                self.word = self.next_word().to_le_bytes();
                self.used = 0;
            }
            *byte = self.word[self.used];
            self.used += 1;
        }
    }

    fn next_word(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

/// FNV-1a with 64 bits: order, length and every bit matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash(u64);

impl Hash {
    /// The hash of nothing.
    pub const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Takes more bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// The hash so far.
    pub const fn value(self) -> u64 {
        self.0
    }

    /// The hash of the first `length` bytes of the stream of `seed`.
    pub fn of_content(seed: u64, length: u64) -> Self {
        let (mut hash, mut content, mut buffer) = (Self::new(), Content::new(seed), [0; 8192]);
        let mut left = length;
        while left > 0 {
            let part = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            content.fill(&mut buffer[..part]);
            hash.update(&buffer[..part]);
            left -= part as u64;
        }
        hash
    }
}

impl Default for Hash {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::{Content, Hash};

    #[test]
    fn the_stream_does_not_depend_on_how_it_is_cut() {
        let (mut whole, mut parts) = ([0; 1000], [0; 1000]);
        Content::new(7).fill(&mut whole);
        let mut content = Content::new(7);
        for part in parts.chunks_mut(13) {
            content.fill(part);
        }
        assert_eq!(whole, parts);
        let mut hash = Hash::new();
        hash.update(&whole);
        assert_eq!(hash, Hash::of_content(7, 1000));
    }

    #[test]
    fn one_flipped_or_missing_byte_changes_the_hash() {
        let mut bytes = [0; 64];
        Content::new(1).fill(&mut bytes);
        let mut good = Hash::new();
        good.update(&bytes);
        for index in 0..bytes.len() {
            let mut bad = bytes;
            bad[index] ^= 1;
            let mut hash = Hash::new();
            hash.update(&bad);
            assert_ne!(hash, good);
        }
        let mut short = Hash::new();
        short.update(&bytes[..63]);
        assert_ne!(short, good);
    }

    #[test]
    fn fnv_matches_its_published_vector() {
        let mut hash = Hash::new();
        hash.update(b"foobar");
        assert_eq!(hash.value(), 0x8594_4171_f739_67e8);
    }
}
