//! A packet socket on one interface: frames that no socket of the kernel would send.

use lb_ctl::playground::Error;
use lb_ctl::playground::links::Links;
use lb_ctl::playground::netns::NetNs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, bind, recvfrom, send, socket,
};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// One end of a cable.
pub struct Wire {
    socket: OwnedFd,
    /// Destination and source MAC of frames to the other end.
    macs: [u8; 12],
}

impl Wire {
    /// The interface `name` of `space`, for frames to the interface `peer` of `other`.
    pub fn open(space: &NetNs, name: &str, other: &NetNs, peer: &str) -> Result<Self, Error> {
        let links = Links::open(space)?;
        let (index, own) = (links.index(name)?, links.mac(name)?);
        let far = Links::open(other)?.mac(peer)?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let opened = space.run(|| -> nix::Result<OwnedFd> {
            let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
            let address = libc::sockaddr_ll {
                sll_family: libc::AF_PACKET as u16,
                sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
                sll_ifindex: index as i32,
                sll_hatype: 0,
                sll_pkttype: 0,
                sll_halen: 0,
                sll_addr: [0; 8],
            };
            // SAFETY: a whole `sockaddr_ll`, given with its size.
            let address =
                unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(size_of::<libc::sockaddr_ll>() as u32)) };
            bind(socket.as_raw_fd(), &address.ok_or(nix::Error::EINVAL)?)?;
            Ok(socket)
        })?;
        let mut macs = [0; 12];
        macs[..6].copy_from_slice(&far);
        macs[6..].copy_from_slice(&own);
        Ok(Self { socket: opened.map_err(Error::broken)?, macs })
    }

    /// Sends a frame to the other end, whatever MACs it has.
    pub fn send(&self, frame: &[u8]) {
        self.send_to([0, 1, 2, 3, 4, 5].map(|place| self.macs[place]), frame);
    }

    /// Sends a frame to this MAC, whatever MACs it has.
    pub fn send_to(&self, mac: [u8; 6], frame: &[u8]) {
        let mut frame = frame.to_vec();
        frame[..6].copy_from_slice(&mac);
        frame[6..12].copy_from_slice(&self.macs[6..]);
        send(self.socket.as_raw_fd(), &frame, MsgFlags::empty()).expect("the interface takes the frame");
    }

    /// The next frame that came in and is `wanted`, or `None` after `patience`.
    pub fn within(&self, patience: Duration, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let deadline = Instant::now() + patience;
        let mut buffer = vec![0; 65_536];
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((length, _)) if buffer[..6] == self.macs[6..] && wanted(&buffer[..length]) => {
                    return Some(buffer[..length].to_vec());
                }
                Ok(_) => {}
                Err(_) if Instant::now() > deadline => return None,
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// The next frame that came in and is `wanted`.
    pub fn next(&self, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        self.within(PATIENCE, wanted)
    }
}
