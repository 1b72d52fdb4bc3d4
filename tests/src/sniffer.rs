//! What the node's stack gets to see: a packet socket. Frames that XDP has finished never come this far.

use lb_ctl::playground::Error;
use lb_ctl::playground::netns::NetNs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket, sockopt,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

/// `PACKET_OUTGOING`: frames that the node sends.
const OUTGOING: u8 = 4;

/// Listens to every interface of a namespace.
pub struct Sniffer(OwnedFd);

/// A TCP or UDP packet that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// By which interface.
    pub index: u32,
    /// Its source.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
}

impl Sniffer {
    /// Room for all frames of a test, so that none goes unseen.
    const ROOM: usize = 16 << 20;

    /// Starts to listen.
    pub fn open(space: &NetNs) -> Result<Self, Error> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let opened = space.run(|| socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll))?;
        let opened = opened.map_err(Error::broken)?;
        setsockopt(&opened, sockopt::RcvBufForce, &Self::ROOM).map_err(Error::broken)?;
        Ok(Self(opened))
    }

    /// What came in since the last call.
    pub fn arrivals(&self) -> Vec<Arrival> {
        let mut buffer = [0; 128];
        let mut arrivals = Vec::new();
        while let Ok((length, from)) = recvfrom::<LinkAddr>(self.0.as_raw_fd(), &mut buffer) {
            let Some(from) = from.filter(|from| from.pkttype() != OUTGOING) else { continue };
            if let Some((source, destination)) = ends(&buffer[..length]) {
                arrivals.push(Arrival { index: from.ifindex() as u32, source, destination });
            }
        }
        arrivals
    }
}

/// Source and destination of a TCP or UDP packet in an Ethernet frame.
fn ends(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    const TRANSPORTS: [u8; 2] = [lb_common::TCP, lb_common::UDP];
    let v4 = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?).into());
    let v6 = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(frame.get(at..at + 16)?).ok()?).into());
    match frame.get(12..14)? {
        [0x08, 0x00] if TRANSPORTS.contains(frame.get(23)?) => Some((v4(26)?, v4(30)?)),
        [0x86, 0xdd] if TRANSPORTS.contains(frame.get(20)?) => Some((v6(22)?, v6(38)?)),
        _ => None,
    }
}
