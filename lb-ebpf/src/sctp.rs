//! The checksum of SCTP (`CRC32c`, RFC 9260 appendix A), brought up to date by difference.
//!
//! It covers the ports but no addresses. A CRC is linear: it changes by the CRC (from zero, without complement) of the
//! changed bits followed by as many zeros as there are bytes behind them. As a polynomial that is the change times a power of
//! x, so the payload need not be read and may have any length.

use crate::env::{Env, Step};

/// The polynomial of `CRC32c` without x^32, lowest power in the highest bit, as in all that follows.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// x^(8 * 2^k) modulo the polynomial, by k: what 2^k bytes of zeros multiply by.
const ZEROS: [u32; 32] = {
    let mut powers = [0; 32];
    // x^8
    powers[0] = 1 << 23;
    let mut index = 1;
    while index < powers.len() {
        powers[index] = multiply(powers[index - 1], powers[index - 1]);
        index += 1;
    }
    powers
};

/// The product of two polynomials modulo the CRC's. Without branches, so that the verifier has one path to follow.
#[inline(always)]
const fn multiply(a: u32, b: u32) -> u32 {
    let (mut product, mut shifted, mut bit) = (0, b, 0);
    while bit < 32 {
        product ^= shifted & ((a << bit) as i32 >> 31) as u32;
        shifted = (shifted >> 1) ^ (POLYNOMIAL & (shifted & 1).wrapping_neg());
        bit += 1;
    }
    product
}

/// Multiplies by the powers that the bits of a length name.
struct Advance {
    value: u32,
    length: u32,
}

impl Step for Advance {
    #[inline(always)]
    fn step(&mut self, index: u32) -> bool {
        let (Some(power), Some(rest)) = (ZEROS.get(index as usize), self.length.checked_shr(index)) else {
            return false;
        };
        if rest & 1 != 0 {
            self.value = multiply(self.value, *power);
        }
        rest > 1
    }
}

/// The checksum `old` of a packet of `length` bytes, as it stands there, after its first four bytes (the ports) have changed
/// from `before` to `after`. Not inlined: it has a stack frame of its own.
#[inline(never)]
pub fn update<E: Env>(env: &E, old: u32, before: u32, after: u32, length: u32) -> u32 {
    let mut change = Advance { value: before ^ after, length };
    env.repeat(u32::BITS, &mut change);
    old ^ change.value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Address, Hook, Route};
    use lb_common::FlowKey;
    use std::vec::Vec;

    struct Host;

    impl Env for Host {
        const HOOK: Hook = Hook::Xdp;

        fn tick(&self) -> u32 {
            0
        }

        fn ifindex(&self) -> u32 {
            0
        }

        fn repeat<S: Step>(&self, times: u32, body: &mut S) {
            let _ = (0..times).all(|index| body.step(index));
        }

        fn route<A: Address>(&self, _: &FlowKey<A>) -> Route {
            Route::NotForwarded
        }
    }

    /// `CRC32c` as written, bit by bit.
    fn full(bytes: &[u8]) -> u32 {
        let mut crc = !0u32;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 != 0 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            }
        }
        !crc
    }

    #[test]
    fn the_reference_is_the_one_of_the_standards() {
        // The check value of CRC-32/ISCSI, and 32 zeros from RFC 3720, B.4.
        assert_eq!(full(b"123456789"), 0xe306_9283);
        assert_eq!(full(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn an_update_equals_a_full_recompute_at_every_length() {
        for length in (4..200).chain([1499, 1500, 4095, 4096, 9000, 65_535, 70_000, 1 << 20]) {
            let mut bytes: Vec<u8> = (0..length).map(|index| (index * 7 + index / 251) as u8).collect();
            for ports in [[0u8, 80, 0x1f, 0x90], [0xff; 4], [0; 4], [0x80, 0, 0, 1]] {
                let before: [u8; 4] = *bytes.first_chunk().expect("four bytes");
                let old = full(&bytes);
                bytes[..4].copy_from_slice(&ports);
                let updated =
                    update(&Host, old, u32::from_le_bytes(before), u32::from_le_bytes(ports), bytes.len() as u32);
                assert_eq!(updated, full(&bytes), "{length} bytes, ports {ports:02x?}");
            }
        }
    }
}
