//! A TCP or UDP packet over IPv4 without options, as a minimal program sees it: one bounds check, then constant offsets.

use super::{Flow, FlowKey, ServiceKey};

/// Ethernet, IPv4 and TCP headers.
const HEADERS: usize = 54;
const ADDRESSES: usize = 26;
const DESTINATION: usize = 30;
const PORTS: usize = 34;
const DESTINATION_PORT: usize = 36;
const PROTOCOL: usize = 23;
const TCP_FLAGS: usize = 47;
const TCP: u8 = 6;
const IP_CHECKSUM: usize = 24;
/// Where the checksum of TCP stands.
pub(super) const TCP_CHECKSUM: usize = 50;

const IPV4: u16 = 0x0800_u16.to_be();

/// The address that requests are sent on to, as it lies in a frame.
pub(super) const BACKEND: u32 = u32::from_ne_bytes(lb_yardsticks::BACKEND);
pub(super) const BACKEND_PORT: u16 = 8080_u16.to_be();

/// Headers that lie within bounds.
#[derive(Clone, Copy)]
pub(super) struct Frame(usize);

impl Frame {
    /// The frame between two addresses, if it is long enough and of the right kind.
    #[inline(always)]
    pub(super) fn parse(data: usize, end: usize) -> Option<Self> {
        if data + HEADERS > end {
            return None;
        }
        let frame = Self(data);
        (frame.get::<u16>(12) == IPV4 && frame.get::<u8>(14) == 0x45).then_some(frame)
    }

    #[inline(always)]
    fn get<T: Copy>(self, offset: usize) -> T {
        // SAFETY: `parse` checked the bounds for every offset used here.
        unsafe { ((self.0 + offset) as *const T).read_unaligned() }
    }

    #[inline(always)]
    fn set<T: Copy>(self, offset: usize, value: T) {
        // SAFETY: as above.
        unsafe { ((self.0 + offset) as *mut T).write_unaligned(value) }
    }

    #[inline(always)]
    pub(super) fn key(self) -> FlowKey {
        FlowKey {
            addresses: self.get(ADDRESSES),
            rest: u64::from(self.get::<u32>(PORTS)) | u64::from(self.protocol()) << 32,
        }
    }

    /// The tuple of the packets of a backend, at its port.
    #[inline(always)]
    pub(super) fn reply_key(self, backend: u32, port: u16) -> FlowKey {
        let ports = u64::from(port) | u64::from(self.get::<u16>(PORTS)) << 16;
        FlowKey {
            addresses: u64::from(backend) | u64::from(self.get::<u32>(ADDRESSES)) << 32,
            rest: ports | u64::from(self.protocol()) << 32,
        }
    }

    #[inline(always)]
    pub(super) fn protocol(self) -> u8 {
        self.get(PROTOCOL)
    }

    /// The service that a packet with this tuple is for. Made of the tuple, in whose words a frame is written: who reads a word
    /// that was written in other pieces a moment ago waits for them.
    #[inline(always)]
    pub(super) fn service(self) -> ServiceKey {
        let FlowKey { addresses, rest } = self.key();
        addresses >> 32 | rest << 16 & !0xffff_ffff
    }

    /// The address that a packet with this tuple is for, in host order.
    #[inline(always)]
    pub(super) fn service_address(self) -> u32 {
        u32::from_be((self.key().addresses >> 32) as u32)
    }

    /// The flow that this packet would open.
    #[inline(always)]
    pub(super) fn flow(self) -> Flow {
        let delta = delta(self.get(DESTINATION), BACKEND);
        let port_delta = fold((!self.get::<u16>(DESTINATION_PORT) as u32 & 0xffff) + u32::from(BACKEND_PORT));
        Flow {
            address: BACKEND,
            port: BACKEND_PORT,
            delta,
            port_delta,
            sum: fold(u32::from(delta) + u32::from(port_delta)),
            service: 1,
        }
    }

    #[inline(always)]
    pub(super) fn swap_macs(self) {
        let (first, second, third) = (self.get::<u32>(0), self.get::<u32>(4), self.get::<u32>(8));
        self.set(0, second >> 16 | third << 16);
        self.set(4, third >> 16 | first << 16);
        self.set(8, first >> 16 | second << 16);
    }

    /// Writes the destination and the header's own checksum.
    #[inline(always)]
    pub(super) fn rewrite(self, flow: &Flow) {
        self.set(DESTINATION, flow.address);
        self.set(DESTINATION_PORT, flow.port);
        self.update(IP_CHECKSUM, flow.delta);
    }

    /// The same for the source.
    #[inline(always)]
    pub(super) fn rewrite_source(self, flow: &Flow) {
        self.set(ADDRESSES, flow.address);
        self.set(PORTS, flow.port);
        self.update(IP_CHECKSUM, flow.delta);
    }

    /// Writes both MACs.
    #[inline(always)]
    pub(super) fn set_macs(self, [first, second, third]: [u32; 3]) {
        self.set(0, first);
        self.set(4, second);
        self.set(8, third);
    }

    /// Whether it begins a TCP connection.
    #[inline(always)]
    pub(super) fn is_syn(self) -> bool {
        const SYN_ACK: u8 = 0x12;
        const SYN: u8 = 0x02;
        self.protocol() == TCP && self.get::<u8>(TCP_FLAGS) & SYN_ACK == SYN
    }

    /// Brings the checksum of TCP up to date.
    #[inline(always)]
    pub(super) fn update_transport(self, flow: &Flow) {
        self.update(TCP_CHECKSUM, flow.sum);
    }

    /// Adds to a checksum.
    #[inline(always)]
    fn update(self, offset: usize, delta: u16) {
        let sum = u32::from(!self.get::<u16>(offset)) + u32::from(delta);
        // One carry at most.
        self.set(offset, !(sum + (sum >> 16)) as u16);
    }
}

/// What it adds to a checksum that one address takes the place of another.
#[inline(always)]
pub(super) fn delta(old: u32, new: u32) -> u16 {
    fold((!old & 0xffff) + (!old >> 16) + (new & 0xffff) + (new >> 16))
}

#[inline(always)]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}
