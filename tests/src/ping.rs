//! Ping: ICMP and ICMPv6 echo from inside a namespace, by the kernel's ping sockets.

use lb_ctl::playground::netns::NetNs;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

/// Pings `address` from inside `space`: up to three times, a second each.
pub fn ping(space: &NetNs, address: IpAddr) -> bool {
    // Open to this process's groups; the namespace is the test's own.
    space.sysctl("ipv4/ping_group_range", "0\t0").expect("a namespace of our own");
    let answered = space.run(|| (1..=3).any(|sequence| echo(address, sequence).unwrap_or(false)));
    answered.expect("a namespace of our own")
}

fn echo(address: IpAddr, sequence: u16) -> nix::Result<bool> {
    const REQUEST: [u8; 2] = [8, 128];
    const REPLY: [u8; 2] = [0, 129];
    let v6 = usize::from(address.is_ipv6());
    let (family, protocol) =
        [(AddressFamily::Inet, SockProtocol::Icmp), (AddressFamily::Inet6, SockProtocol::IcmpV6)][v6];
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(1, 0))?;
    let to = SockaddrStorage::from(SocketAddr::new(address, 0));
    let [high, low] = sequence.to_be_bytes();
    // The kernel fills in identifier and checksum.
    let message = [REQUEST[v6], 0, 0, 0, 0, 0, high, low, b'p', b'i', b'n', b'g'];
    sendto(socket.as_raw_fd(), &message, &to, MsgFlags::empty())?;
    let mut reply = [0; 64];
    let length = recv(socket.as_raw_fd(), &mut reply, MsgFlags::empty())?;
    Ok(length == message.len() && reply[0] == REPLY[v6] && reply[6..length] == message[6..])
}
