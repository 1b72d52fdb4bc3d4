//! A process of the node, for what no hook of an interface sees: a client that asks an address of its own node is served at
//! its socket, or not at all.
//!
//! It does what it is told by lines on its standard input. A packet socket sees where its packets go.

use crate::packet::{Ends, Outcome};
use crate::schema::Protocol;
use anyhow::{Context, ensure};
use lb_tests::cgroup::Cgroup;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, recvfrom,
    send, setsockopt, socket, sockopt,
};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The argument with which a binary does nothing but [`serve`].
pub const ARGUMENT: &str = "--process";
/// `PACKET_OUTGOING`: frames that the node sends, seen where they are sent.
const OUTGOING: u8 = 4;
/// How long silence must last.
const SILENCE: Duration = Duration::from_millis(300);

/// How often to look for a packet meanwhile.
const GLANCE: Duration = Duration::from_micros(200);

/// What the process is told: to close its socket and to open another. It answers with the number of the error.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    protocol: u8,
    from: IpAddr,
    to: SocketAddr,
}

/// The running process. Dropping it ends it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    orders: ChildStdin,
    told: BufReader<ChildStdout>,
    /// Sees all devices of the namespace.
    sniffer: OwnedFd,
    cgroup: Cgroup,
}

impl Process {
    /// Starts one by `binary`, in the calling thread's network namespace and in a cgroup of its own.
    pub fn start(binary: &Path) -> anyhow::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let sniffer = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
        let mut command = Command::new(binary);
        let mut child = command.arg(ARGUMENT).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (orders, told) = (child.stdin.take(), child.stdout.take());
        let (orders, told) = (orders.context("no pipe")?, BufReader::new(told.context("no pipe")?));
        let cgroup = Cgroup::new(&format!("conformance-{}", child.id()));
        cgroup.take(&child);
        Ok(Self { child, orders, told, sniffer, cgroup })
    }

    /// The cgroup whose processes are to be served.
    pub fn cgroup(&self) -> &Path {
        self.cgroup.path()
    }

    /// Sends the first packet of a connection and sees what becomes of it. `outside` are the devices at which packets
    /// arrive that have left the node.
    pub fn open(&mut self, ends: Ends, outside: &[u32]) -> anyhow::Result<Outcome> {
        let protocol = match ends.protocol {
            Protocol::TCP => lb_common::TCP,
            Protocol::UDP => lb_common::UDP,
            Protocol::SCTP => lb_common::SCTP,
            Protocol::ICMP | Protocol::ICMPv6 => return Ok(Outcome::Odd("a process sends no ICMP here".to_owned())),
        };
        while self.captured(outside).is_some() {}
        let order = Order { protocol, from: ends.from.ip(), to: ends.to };
        serde_json::to_writer(&mut self.orders, &order)?;
        self.orders.write_all(b"\n")?;
        let mut line = String::new();
        self.told.read_line(&mut line)?;
        ensure!(!line.is_empty(), "the node's process has ended");
        let outcome = |frame: Vec<u8>| Outcome::of_captured(ends, &frame);
        match serde_json::from_str::<Option<i32>>(&line)?.map(Errno::from_raw) {
            None => {}
            Some(Errno::ECONNREFUSED) => return Ok(Outcome::Rejected),
            // A program may refuse a call without a word of why.
            Some(Errno::EPERM) => return Ok(Outcome::Dropped),
            Some(error) => return Ok(Outcome::Odd(format!("the process is told: {}", error.desc()))),
        }
        let deadline = Instant::now() + SILENCE;
        loop {
            if let Some(frame) = self.captured(outside) {
                match outcome(frame) {
                    Some(outcome) => return Ok(outcome),
                    None => continue,
                }
            }
            if Instant::now() > deadline {
                return Ok(Outcome::Dropped);
            }
            thread::sleep(GLANCE);
        }
    }

    /// The next frame that came in by loopback or by one of these devices.
    fn captured(&self, outside: &[u32]) -> Option<Vec<u8>> {
        let mut buffer = [0; 2048];
        loop {
            let (length, from) = recvfrom::<LinkAddr>(self.sniffer.as_raw_fd(), &mut buffer).ok()?;
            let from = from?;
            let is_arrival = from.pkttype() != OUTGOING;
            if is_arrival && (from.hatype() == libc::ARPHRD_LOOPBACK || outside.contains(&(from.ifindex() as u32))) {
                return Some(buffer[..length].to_vec());
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What the process does until its standard input ends.
pub fn serve() {
    let mut held = None;
    for line in io::stdin().lines().map_while(Result::ok) {
        let order: Order = serde_json::from_str(&line).expect("an order");
        drop(held.take());
        let error = match open(&order) {
            Ok(socket) => {
                held = Some(socket);
                None
            }
            Err(error) => Some(error as i32),
        };
        println!("{}", serde_json::to_string(&error).expect("plain data"));
    }
}

/// Connects without waiting for the answer, and sends a datagram where that sends nothing.
fn open(order: &Order) -> Result<OwnedFd, Errno> {
    let family = if order.to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let (kind, protocol) = match order.protocol {
        lb_common::UDP => (SockType::Datagram, SockProtocol::Udp),
        lb_common::SCTP => (SockType::Stream, SockProtocol::Sctp),
        _ => (SockType::Stream, SockProtocol::Tcp),
    };
    let opened = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, protocol)?;
    // Closed, it shall be gone at once.
    setsockopt(&opened, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    bind(opened.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(order.from, 0)))?;
    match connect(opened.as_raw_fd(), &SockaddrStorage::from(order.to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    if order.protocol == lb_common::UDP {
        send(opened.as_raw_fd(), b"a payload", MsgFlags::empty())?;
    }
    Ok(opened)
}
