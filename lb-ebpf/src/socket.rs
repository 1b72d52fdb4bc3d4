//! Translation at the socket: once for each connection, before there is a packet.
//!
//! The hooks run in a process's own system call, so they also serve what no packet hook sees: the node's own node ports,
//! on its addresses and on loopback.
//!
//! - TCP `connect`: the socket gets the address of a backend, and its packets go straight there.
//! - UDP sent without `connect`: each datagram gets one. Replies are shown as coming from the Service.
//! - UDP `connect`: the kernel runs no hook when a connected socket sends, so an address given here would stay when its
//!   backend dies. Such sockets are left to the packet hooks, which move a UDP flow at once. Only a node port asked for on
//!   the node itself, of which no packet hook ever sees a packet, becomes the ClusterIP of the same Service, whose packets
//!   they see.
//! - UDP sent by a connected socket that names an address with the datagram all the same: as if it connected to that,
//!   since it takes answers from its peer alone. The kernel itself names one for a socket of IPv6 that is connected to a
//!   mapped IPv4 address (`udpv6_sendmsg` in `net/ipv6/udp.c`).
//!
//! What a process asks for and cannot have fails at once with `ECONNREFUSED`; on the node's own addresses a port that is
//! no node port is the host's.

use crate::env::Clock;
use crate::tables::{InsertError, Tables};
use crate::{Address, affinity, event, pick};
use lb_common::{
    Affinity, AffinityKey, Backend, Event, Owned, Peer, Reason, Service, ServiceKey, Settings, SocketKey, TCP, UDP,
};

/// The first twelve bytes of an IPv4 address mapped into IPv6 (RFC 4291, 2.5.5.2).
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// A system call that names an address, or is told one.
pub trait Socket: Clock {
    /// IP version of the address as the process writes it: 4, or 6 where it may also be an IPv4 address mapped into IPv6.
    const VERSION: u8;

    /// The address, as in [`Peer::address`], but perhaps mapped.
    fn address(&self) -> [u8; 16];

    /// The port, network order.
    fn port(&self) -> [u8; 2];

    /// Puts another address and port in place.
    fn set(&mut self, address: &[u8; 16], port: [u8; 2]);

    /// IP protocol number of the socket.
    fn protocol(&self) -> u8;

    /// The socket's cookie: no other socket has it until the machine boots again.
    fn cookie(&self) -> u64;

    /// Whether the socket has a peer, from which alone it takes datagrams.
    fn is_connected(&self) -> bool;

    /// Cookie of the socket's network namespace ([`lb_common::Settings::netns_cookie`]).
    fn namespace(&self) -> u64;
}

/// The tables that only sockets use.
pub trait SocketTables: Tables {
    /// Whom a socket asked for that was given this peer.
    fn asked(&self, key: &SocketKey) -> Option<&Peer>;

    /// Remembers whom a socket asked for.
    fn remember(&self, key: &SocketKey, asked: &Peer) -> Result<(), InsertError>;

    /// Forgets it.
    fn forget(&self, key: &SocketKey);

    /// The ClusterIP of the Service port behind a node port.
    fn cluster_address(&self, node_port: &ServiceKey) -> Option<&Peer>;

    /// Counts what became of a call.
    fn count_call(&self, reason: Reason);

    /// Tells an event of a call at tick `now`, as far as this CPU has not told its share. It may be interrupted by packets, which
    /// tell too.
    fn tell_call(&self, event: &mut Event, now: u32);

    /// Counts a connection for its service port and its backend.
    fn count_socket(&self, service: u32, backend: u32);
}

/// A process connects. The reason says whether the call must fail.
#[inline(always)]
pub fn connect<S: Socket, T: SocketTables>(socket: &mut S, tables: &T) -> Reason {
    let asked = peer(socket);
    let reason = match asked.protocol {
        TCP => to_backend(socket, tables, &asked, true),
        UDP => to_cluster_address(socket, tables, &asked),
        _ => return Reason::NotOurs,
    };
    conclude(socket, tables, &asked, reason)
}

/// A process sends a datagram to an address that it names. The reason says whether the call must fail.
#[inline(always)]
pub fn send<S: Socket, T: SocketTables>(socket: &mut S, tables: &T) -> Reason {
    let asked = peer(socket);
    if asked.protocol != UDP {
        return Reason::NotOurs;
    }
    if socket.is_connected() {
        let reason = to_cluster_address(socket, tables, &asked);
        if reason != Reason::NotOurs {
            count(socket, tables, &asked, reason);
        }
        // Nothing is forgotten: the address may be the one that was given when it connected.
        return reason;
    }
    let reason = to_backend(socket, tables, &asked, false);
    conclude(socket, tables, &asked, reason)
}

/// A process is told whom its socket talks to, or whom a datagram came from: it is shown whom it asked for.
#[inline(always)]
pub fn show<S: Socket, T: SocketTables>(socket: &mut S, tables: &T) {
    let key = SocketKey { cookie: socket.cookie(), peer: peer(socket) };
    if let Some(asked) = tables.asked(&key) {
        write(socket, asked);
    }
}

/// Counts, and where the socket goes where it wanted forgets that the Service was once meant by that.
#[inline(always)]
fn conclude<S: Socket, T: SocketTables>(socket: &S, tables: &T, asked: &Peer, reason: Reason) -> Reason {
    if reason != Reason::NotOurs {
        count(socket, tables, asked, reason);
        return reason;
    }
    let key = SocketKey { cookie: socket.cookie(), peer: *asked };
    if tables.asked(&key).is_some() {
        tables.forget(&key);
    }
    reason
}

/// Counts what became of a call, and tells of one that fails.
#[inline(always)]
fn count<S: Socket, T: SocketTables>(socket: &S, tables: &T, asked: &Peer, reason: Reason) {
    tables.count_call(reason);
    if reason.is_drop() {
        event::tell_refusal(tables, asked, reason, socket.tick());
    }
}

/// Sends a socket to a backend of the Service it asks for.
#[inline(always)]
fn to_backend<S: Socket, T: SocketTables>(socket: &mut S, tables: &T, asked: &Peer, connects: bool) -> Reason {
    let mut key = service_key(asked);
    let mut found = tables.service(&key);
    if found.is_none() {
        match owner(socket, tables, asked) {
            NODE => key = key.at_node(),
            SERVICE => return Reason::NoServicePort,
            _ => return Reason::NotOurs,
        }
        found = tables.service(&key);
    }
    let Some(service) = found else {
        return Reason::NotOurs;
    };
    if service.flags & Service::RANGED != 0 {
        // Only the packet says where it comes from.
        return Reason::NotOurs;
    }
    // Whoever has a socket here is within the cluster.
    let service =
        if service.flags & Service::SCOPED != 0 { tables.service(&key.within()).unwrap_or(service) } else { service };
    let cookie = socket.cookie();
    let Some((port, id, backend)) = choose(socket, tables, service, &SocketKey { cookie, peer: *asked }) else {
        return match service.backends.count() {
            0 if service.flags & Service::ELSEWHERE != 0 => Reason::NoLocalBackend,
            0 => Reason::NoBackend,
            _ => Reason::BackendGone,
        };
    };
    let given = Peer::new(asked.family, asked.protocol, backend.address, port);
    if give(socket, tables, asked, cookie, &given).is_err() {
        return Reason::TableFull;
    }
    if connects {
        tables.count_socket(service.id, id);
    }
    Reason::SocketTranslated
}

/// Sends a connected UDP socket that asks for a node port of its own node to the ClusterIP of the same Service, if its
/// packets will be seen there.
#[inline(always)]
fn to_cluster_address<S: Socket, T: SocketTables>(socket: &mut S, tables: &T, asked: &Peer) -> Reason {
    let has_packet_path = tables.settings().is_some_and(|settings| settings.host.ifindex != 0);
    if !has_packet_path || !is_on_node(socket, tables) || owner(socket, tables, asked) != NODE {
        return Reason::NotOurs;
    }
    let Some(given) = tables.cluster_address(&service_key(asked).at_node()) else {
        return Reason::NotOurs;
    };
    let cookie = socket.cookie();
    match give(socket, tables, asked, cookie, given) {
        Ok(()) => Reason::SocketTranslated,
        Err(_) => Reason::TableFull,
    }
}

/// What [`owner`] says.
const NODE: u32 = Owned::NODE.0;
const SERVICE: u32 = Owned::SERVICE.0;
const NOBODY: u32 = u32::MAX;

/// Whose the address asked for is: the number of [`Owned`], or [`NOBODY`]. Loopback is the node's, for the node's own processes.
#[inline(always)]
fn owner<S: Socket, T: SocketTables>(socket: &S, tables: &T, asked: &Peer) -> u32 {
    let is_v4 = asked.family == 4;
    let is_loopback = if is_v4 { is_loopback4(asked.v4()) } else { is_loopback6(&asked.address) };
    if is_loopback && is_on_node(socket, tables) {
        return if serves_loopback(tables) { NODE } else { NOBODY };
    }
    // Resolved where it is found: the verifier does not follow an `Option` that is carried further.
    match if is_v4 { tables.owned(&asked.v4()) } else { tables.owned(&asked.address) } {
        Some(owned) => owned.0,
        None => NOBODY,
    }
}

/// `127.0.0.0/8`; and the unspecified address, by which Linux also understands the machine itself.
#[inline(always)]
fn is_loopback4(address: [u8; 4]) -> bool {
    address[0] == 127 || address == <[u8; 4]>::UNSPECIFIED
}

/// `::1` and `::`: all but the last bit zero.
#[inline(always)]
fn is_loopback6(address: &[u8; 16]) -> bool {
    let [high, low] = address.words();
    high == 0 && low >> 1 == 0
}

#[inline(always)]
fn serves_loopback<T: SocketTables>(tables: &T) -> bool {
    tables.settings().is_some_and(|settings| settings.flags & Settings::NO_LOOPBACK == 0)
}

/// Whether the process is in the network namespace that the datapath serves, and not in a pod.
#[inline(always)]
fn is_on_node<S: Socket, T: SocketTables>(socket: &S, tables: &T) -> bool {
    tables.settings().is_some_and(|settings| settings.netns_cookie != 0 && settings.netns_cookie == socket.namespace())
}

#[inline(always)]
fn service_key(asked: &Peer) -> ServiceKey {
    ServiceKey { address: asked.address, port: asked.port, protocol: asked.protocol, family: asked.family }
}

/// The port, id and record of the backend for a socket that asks for a Service: the same one as long as the Service's
/// backends are the same. Where clients keep their backends, all processes of a network namespace are one client: a socket
/// need not have an address yet.
#[inline(always)]
fn choose<'t, S: Socket, T: SocketTables>(
    socket: &S,
    tables: &'t T,
    service: &Service,
    asking: &SocketKey,
) -> Option<([u8; 2], u32, &'t Backend)> {
    let mut set = service.backends;
    if set.count() == 0 {
        return None;
    }
    let settings = tables.settings()?;
    let mut client = AffinityKey::default();
    let mut place = pick::place(pick::of_socket(settings.seed, asking), set.count());
    if affinity::is_kept(service) {
        affinity::write_namespace(service, socket.namespace(), &mut client);
        place = affinity::place(tables, socket, service, &client);
        if place == Affinity::NO_PLACE {
            place = pick::place(pick::of_client(pick::seed(settings, service), &client), set.count());
        } else {
            set = service.members;
        }
    }
    let slot = tables.slot(set.base() + place)?;
    let backend = tables.backend(slot.backend)?;
    if backend.generation != slot.generation || backend.family != asking.peer.family {
        return None;
    }
    let port = affinity::port_of(service, slot);
    if affinity::is_kept(service) {
        let kept = Affinity { backend: slot.backend, tick: socket.tick(), generation: slot.generation, port, place };
        affinity::note(tables, &client, &kept);
    }
    Some((port, slot.backend, backend))
}

/// Gives the socket another peer than it asked for, and remembers that. Where it cannot be remembered nothing is given:
/// the answer would come from a stranger.
#[inline(always)]
fn give<S: Socket, T: SocketTables>(
    socket: &mut S,
    tables: &T,
    asked: &Peer,
    cookie: u64,
    given: &Peer,
) -> Result<(), InsertError> {
    let key = SocketKey { cookie, peer: *given };
    // Most datagrams go where the one before went.
    if tables.asked(&key) != Some(asked) {
        tables.remember(&key, asked)?;
    }
    write(socket, given);
    Ok(())
}

/// The address of the call, unmapped.
#[inline(always)]
fn peer<S: Socket>(socket: &S) -> Peer {
    let (address, port, protocol) = (socket.address(), socket.port(), socket.protocol());
    if S::VERSION == 6 && address.first_chunk() == Some(&MAPPED) {
        let mut unmapped = [0; 16];
        unmapped[..4].copy_from_slice(&address[12..]);
        return Peer::new(4, protocol, unmapped, port);
    }
    Peer::new(S::VERSION, protocol, address, port)
}

/// Writes an address into the call, in the form the process uses.
#[inline(always)]
fn write<S: Socket>(socket: &mut S, peer: &Peer) {
    if S::VERSION == 6 && peer.family == 4 {
        let mut mapped = [0; 16];
        mapped[..12].copy_from_slice(&MAPPED);
        mapped[12..].copy_from_slice(&peer.v4());
        return socket.set(&mapped, peer.port);
    }
    socket.set(&peer.address, peer.port);
}
