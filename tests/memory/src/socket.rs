//! System calls and the memory of sockets, as the core's socket hooks see them.

use crate::memory::Memory;
use lb_common::{Event, Peer, Reason, ServiceKey, SocketKey, Telling};
use lb_ebpf::env::{Clock, Step};
use lb_ebpf::socket::{Socket, SocketTables};
use lb_ebpf::{InsertError, Tables};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Whom sockets asked for.
#[derive(Debug)]
pub struct Sockets {
    /// Each value lives until the process ends, as in the kernel it lives until a program ends.
    entries: RefCell<BTreeMap<SocketKey, &'static Peer>>,
    room: Cell<bool>,
}

impl Default for Sockets {
    fn default() -> Self {
        Self { entries: RefCell::default(), room: Cell::new(true) }
    }
}

impl Sockets {
    /// Whether entries are taken.
    pub fn make_room(&self, room: bool) {
        self.room.set(room);
    }

    /// Loses everything, as an LRU does under pressure.
    pub fn lose(&self) {
        self.entries.borrow_mut().clear();
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl SocketTables for Memory {
    fn asked(&self, key: &SocketKey) -> Option<&Peer> {
        self.sockets.entries.borrow().get(key).copied()
    }

    fn remember(&self, key: &SocketKey, asked: &Peer) -> Result<(), InsertError> {
        if !self.sockets.room.get() {
            return Err(InsertError::Full);
        }
        self.sockets.entries.borrow_mut().insert(*key, Box::leak(Box::new(*asked)));
        Ok(())
    }

    fn forget(&self, key: &SocketKey) {
        self.sockets.entries.borrow_mut().remove(key);
    }

    fn cluster_address(&self, node_port: &ServiceKey) -> Option<&Peer> {
        self.image.node_ports.get(node_port)
    }

    fn count_call(&self, reason: Reason) {
        self.count(reason, 0);
    }

    fn tell_call(&self, event: &mut Event, now: u32) {
        let Some(telling) = self.telling() else { return };
        if !telling.has_share(Telling::LOSSES, now) {
            telling.skipped[Telling::LOSSES] += 1;
            return;
        }
        telling.told[Telling::LOSSES] += 1;
        telling.lost[Telling::LOSSES] += u64::from(!self.tell(event));
    }

    fn count_socket(&self, service: u32, backend: u32) {
        self.count_connection(service, backend);
    }
}

/// A system call of a process, on a socket whose hooks are those of IPv4 or IPv6.
#[derive(Clone, Debug)]
pub struct Call<const VERSION: u8> {
    /// What it names, or is told.
    pub to: SocketAddr,
    /// The socket's protocol.
    pub protocol: u8,
    /// The socket.
    pub cookie: u64,
    /// The socket's network namespace.
    pub namespace: u64,
    /// Whether the socket has a peer.
    pub connected: bool,
    /// The tick.
    pub tick: u32,
}

impl<const VERSION: u8> Clock for Call<VERSION> {
    fn tick(&self) -> u32 {
        self.tick
    }

    fn repeat<S: Step>(&self, times: u32, body: &mut S) {
        let _ = (0..times).all(|index| body.step(index));
    }
}

impl<const VERSION: u8> Socket for Call<VERSION> {
    const VERSION: u8 = VERSION;

    fn address(&self) -> [u8; 16] {
        match self.to.ip() {
            IpAddr::V4(address) => {
                assert_eq!(VERSION, 4, "such a socket writes it mapped");
                let mut octets = [0; 16];
                octets[..4].copy_from_slice(&address.octets());
                octets
            }
            IpAddr::V6(address) => {
                assert_eq!(VERSION, 6, "such a socket knows no IPv6");
                address.octets()
            }
        }
    }

    fn port(&self) -> [u8; 2] {
        self.to.port().to_be_bytes()
    }

    fn set(&mut self, address: &[u8; 16], port: [u8; 2]) {
        let ip = if VERSION == 4 {
            IpAddr::from([address[0], address[1], address[2], address[3]])
        } else {
            Ipv6Addr::from(*address).into()
        };
        self.to = SocketAddr::new(ip, u16::from_be_bytes(port));
    }

    fn protocol(&self) -> u8 {
        self.protocol
    }

    fn cookie(&self) -> u64 {
        self.cookie
    }

    fn is_connected(&self) -> bool {
        self.connected
    }

    fn namespace(&self) -> u64 {
        self.namespace
    }
}
