//! Which packets somebody wants to see.

use super::{Copy, Pair};
use crate::objects::Protocol;
use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use ipnet::IpNet;
use lb_common::Reason;
use std::net::{IpAddr, SocketAddr};

/// What a packet must have to be shown; what is empty asks for nothing. A packet and the one that it became count as one, so
/// that both directions of a connection are found by what either end of it sees.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Its client is in one of these networks.
    pub clients: Vec<IpNet>,
    /// Its backend has one of these addresses.
    pub backends: Vec<IpAddr>,
    /// It asks at one of these places, or answers from there. `None` asks for nothing.
    pub places: Option<Vec<(SocketAddr, Protocol)>>,
    /// This became of it.
    pub reasons: Vec<Reason>,
}

/// Who sends a packet to whom.
struct Ends {
    from: SocketAddr,
    to: SocketAddr,
    protocol: Option<Protocol>,
}

impl Filter {
    /// Whether the packet is wanted.
    pub fn takes(&self, pair: &Pair) -> bool {
        if !self.reasons.is_empty() && !pair.left.reason().is_some_and(|reason| self.reasons.contains(&reason)) {
            return false;
        }
        if self.clients.is_empty() && self.backends.is_empty() && self.places.is_none() {
            return true;
        }
        let (Some(came), Some(left)) = (ends(&pair.came), ends(&pair.left)) else { return false };
        // A request goes from its client to the Service and becomes one to the backend; a reply the other way round.
        let is_client = |address: IpAddr| self.clients.iter().any(|network| network.contains(&address));
        let is_backend = |address: IpAddr| self.backends.contains(&address);
        let is_place = |place: SocketAddr, protocol: Option<Protocol>| {
            let places = self.places.as_deref().unwrap_or_default();
            protocol.is_some_and(|protocol| places.contains(&(place, protocol)))
        };
        (self.clients.is_empty() || is_client(came.from.ip()) || is_client(left.to.ip()))
            && (self.backends.is_empty() || is_backend(left.to.ip()) || is_backend(came.from.ip()))
            && (self.places.is_none() || is_place(came.to, came.protocol) || is_place(left.from, left.protocol))
    }
}

fn ends(copy: &Copy) -> Option<Ends> {
    let packet = LaxSlicedPacket::from_ethernet(&copy.bytes).ok()?;
    let (from, to): (IpAddr, IpAddr) = match packet.net.as_ref()? {
        LaxNetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        LaxNetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        LaxNetSlice::Arp(_) => return None,
    };
    let (ports, protocol) = match packet.transport.as_ref() {
        Some(TransportSlice::Tcp(tcp)) => ((tcp.source_port(), tcp.destination_port()), Some(Protocol::TCP)),
        Some(TransportSlice::Udp(udp)) => ((udp.source_port(), udp.destination_port()), Some(Protocol::UDP)),
        _ => ((0, 0), None),
    };
    Some(Ends { from: SocketAddr::new(from, ports.0), to: SocketAddr::new(to, ports.1), protocol })
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use lb_common::Captured;

    /// Who sends to whom, addresses and ports.
    type Way<'a> = (&'a str, u16, &'a str, u16);

    fn copy(way: Way<'_>, reason: Reason) -> Copy {
        let (from, from_port, to, to_port) = way;
        let ethernet = PacketBuilder::ethernet2([1; 6], [2; 6]);
        let mut bytes = Vec::new();
        match (from.parse().unwrap(), to.parse().unwrap()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
            _ => panic!("two families"),
        }
        .tcp(from_port, to_port, 1, 1000)
        .write(&mut bytes, b"hello")
        .unwrap();
        Copy { head: Captured { reason: reason as u8, ..Captured::default() }, bytes: bytes.into() }
    }

    fn pair(came: Way<'_>, left: Way<'_>, reason: Reason) -> Pair {
        Pair { came: copy(came, reason), left: copy(left, reason), lost: 0 }
    }

    fn request() -> Pair {
        let (came, left) = (("192.0.2.1", 4000, "10.96.0.10", 80), ("192.0.2.1", 4000, "10.244.1.5", 8080));
        pair(came, left, Reason::Forwarded)
    }

    fn reply() -> Pair {
        let (came, left) = (("10.244.1.5", 8080, "192.0.2.1", 4000), ("10.96.0.10", 80, "192.0.2.1", 4000));
        pair(came, left, Reason::Replied)
    }

    fn other() -> Pair {
        let way = ("2001:db8::1", 4000, "fd00::10", 80);
        pair(way, way, Reason::NoBackend)
    }

    fn taken(filter: &Filter) -> [bool; 3] {
        [request(), reply(), other()].map(|pair| filter.takes(&pair))
    }

    #[test]
    fn both_directions_of_a_connection_are_found_by_either_end() {
        assert_eq!(taken(&Filter::default()), [true; 3]);
        let clients = vec!["192.0.2.0/24".parse().unwrap()];
        assert_eq!(taken(&Filter { clients, ..Filter::default() }), [true, true, false]);
        let backends = vec!["10.244.1.5".parse().unwrap()];
        assert_eq!(taken(&Filter { backends, ..Filter::default() }), [true, true, false]);
        let clients = vec!["10.96.0.10/32".parse().unwrap()];
        assert_eq!(taken(&Filter { clients, ..Filter::default() }), [false; 3]);
    }

    #[test]
    fn a_service_is_where_it_is_asked() {
        let at = |places: &[(&str, Protocol)]| {
            let places = places.iter().map(|(place, protocol)| (place.parse().unwrap(), *protocol));
            Filter { places: Some(places.collect()), ..Filter::default() }
        };
        assert_eq!(taken(&at(&[("10.96.0.10:80", Protocol::TCP)])), [true, true, false]);
        assert_eq!(
            taken(&at(&[("10.96.0.10:81", Protocol::TCP), ("[fd00::10]:80", Protocol::TCP)])),
            [false, false, true]
        );
        assert_eq!(taken(&at(&[("10.96.0.10:80", Protocol::UDP)])), [false; 3]);
        assert_eq!(taken(&at(&[])), [false; 3]);
    }

    #[test]
    fn a_reason_is_what_became_of_the_packet() {
        let reasons = vec![Reason::NoBackend];
        assert_eq!(taken(&Filter { reasons, ..Filter::default() }), [false, false, true]);
    }

    #[test]
    fn what_is_no_packet_passes_only_where_nothing_is_asked() {
        let broken = Copy { head: Captured::default(), bytes: [0; 3].into() };
        let pair = Pair { came: broken.clone(), left: broken, lost: 0 };
        assert!(Filter::default().takes(&pair));
        assert!(!Filter { backends: vec!["10.0.0.1".parse().unwrap()], ..Filter::default() }.takes(&pair));
    }
}
