//! What the wrapper and the harness must agree on.
//!
//! `BPF_PROG_TEST_RUN` with `repeat` never resets the packet, so a program that rewrites it sees its own output. The wrapper
//! restores the frame's head, gives it the tuple of the next flow, notes the time now and then, and calls the program
//! under test by a tail call, unmodified.
#![no_std]
#![expect(clippy::inline_always, reason = "a call costs nanoseconds, which is what is measured here")]

/// Packets between two notes of the time.
pub const WINDOW: u32 = 1024;
/// Notes of the time that fit: a run may be `WINDOW * (NOTES - 1)` packets long.
pub const NOTES: u32 = 8192;
/// Bytes of the frame that are restored: everything that the programs change in a frame of this length or longer.
pub const HEAD: usize = WORDS_AT + 72;
/// Where the words begin in which the head is restored: those of IP headers, which begin eight bytes later, are then whole. Who
/// reads a word that was written a moment ago in other pieces waits for them, as nobody does for a frame that a device wrote.
pub const WORDS_AT: usize = 6;

/// Which part of the frame tells one flow from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Place {
    /// None: all packets are alike.
    Nowhere = 0,
    /// The source of IPv4: a request.
    Source4 = 1,
    /// The destination of IPv4: a reply.
    Destination4 = 2,
    /// The source of IPv6.
    Source6 = 3,
    /// The destination of IPv6.
    Destination6 = 4,
}

/// What the wrapper does, and where it stands: the only value of the map `CONTROL`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct Control {
    /// The frame's head from [`WORDS_AT`] on, restored before each packet.
    pub head: [u64; (HEAD - WORDS_AT) / 8],
    /// Packets so far.
    pub count: u64,
    /// The frame's first twelve bytes, which programs read in these words.
    pub macs: [u32; 3],
    /// State of the linear congruential generator that chooses the next flow.
    pub state: u32,
    /// Its multiplier; `multiplier % 4 == 1` and an odd increment visit every value of a power-of-two range once.
    pub multiplier: u32,
    /// Its increment.
    pub increment: u32,
    /// Which bits of the state number the flow.
    pub mask: u32,
    /// The number of the first flow.
    pub first: u32,
    /// A [`Place`].
    pub place: u32,
    /// The address that stays, as it lies in the frame: of IPv6 its last four bytes.
    pub address: u32,
    /// The port that stays, as it lies in the frame.
    pub port: u32,
    /// So many addresses from [`Control::address`] on are taken at random, in place of one.
    pub services: u32,
    /// The interface that the generator sends by; otherwise zero.
    pub ifindex: u32,
    /// Padding; zero.
    pub zero: u32,
}

const _: () = assert!(core::mem::size_of::<Control>() == HEAD - WORDS_AT + 64);

#[cfg(feature = "user")]
// SAFETY: `#[repr(C)]` of integers; the assertion above counts every byte.
unsafe impl aya::Pod for Control {}

/// The address (host order) and port of a flow: different for different numbers.
///
/// The number is scrambled (a bijection: each step can be undone), so that neighbours in number are none in any table.
#[inline(always)]
pub const fn tuple(number: u32) -> (u32, u16) {
    let mut hash = number ^ (number >> 16);
    hash = hash.wrapping_mul(0x7feb_352d);
    hash ^= hash >> 15;
    hash = hash.wrapping_mul(0x846c_a68b);
    hash ^= hash >> 16;
    (CLIENTS | hash >> 8, 1024 + ((hash & 0xff) << 6) as u16)
}

/// The backend that yardsticks send requests on to: the node has a route to it.
pub const BACKEND: [u8; 4] = [10, 200, 255, 1];

/// The network of all clients, 11.0.0.0/8; of IPv6 these are the last four bytes.
pub const CLIENTS: u32 = 11 << 24;

/// A pod, as frames and the node reach it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Pod {
    /// The first twelve bytes of frames to it, in words.
    pub macs: [u32; 3],
    /// Its address as it lies in a frame.
    pub address: u32,
    /// The node's end of its cable.
    pub ifindex: u32,
}

/// A Service with one endpoint and one client: the only value of the map `SERVED`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Served {
    /// Its address as it lies in a frame.
    pub service: u32,
    /// The endpoint.
    pub server: Pod,
    /// The client.
    pub client: Pod,
}

const _: () = assert!(core::mem::size_of::<Served>() == 44);

#[cfg(feature = "user")]
// SAFETY: `#[repr(C)]` of integers; the assertion above counts every byte.
unsafe impl aya::Pod for Served {}

/// The bits of a Service's address that tell its place where nothing is sought.
pub const PLACES: u32 = 0x1_ffff;
