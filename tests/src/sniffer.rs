//! What the node's stack gets to see: a packet socket. Frames that XDP has finished never come this far.

use lb_ctl::playground::Error;
use lb_ctl::playground::netns::NetNs;
use nix::sys::socket::{AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, socket};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

/// `PACKET_OUTGOING`: frames that the node sends.
const OUTGOING: u8 = 4;

/// Listens to every interface of a namespace.
pub struct Sniffer(OwnedFd);

impl Sniffer {
    /// Starts to listen.
    pub fn open(space: &NetNs) -> Result<Self, Error> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let opened = space.run(|| socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll))?;
        opened.map(Self).map_err(Error::broken)
    }

    /// Counts the packets to `destination` that came in by the interface `index` since the last call.
    pub fn arrived(&self, index: u32, destination: IpAddr) -> usize {
        let mut buffer = [0; 2048];
        let mut count = 0;
        while let Ok((length, from)) = recvfrom::<LinkAddr>(self.0.as_raw_fd(), &mut buffer) {
            let here = from.is_some_and(|from| from.ifindex() == index as usize && from.pkttype() != OUTGOING);
            count += usize::from(here && destination_of(&buffer[..length]) == Some(destination));
        }
        count
    }
}

/// Destination of an IP packet in an Ethernet frame.
fn destination_of(frame: &[u8]) -> Option<IpAddr> {
    match frame.get(12..14)? {
        [0x08, 0x00] => Some(Ipv4Addr::from(<[u8; 4]>::try_from(frame.get(30..34)?).ok()?).into()),
        [0x86, 0xdd] => Some(Ipv6Addr::from(<[u8; 16]>::try_from(frame.get(38..54)?).ok()?).into()),
        _ => None,
    }
}
