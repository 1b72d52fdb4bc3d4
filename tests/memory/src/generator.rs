//! Packets and states for the core, made up by proptest: whole cases, so that later packets meet what earlier ones left.

use crate::frames::DESTINATION_MAC;
use crate::small::{
    self, EMPTY, FAR, Family, LOCAL_1, LOCAL_2, NODE_PORT, ON_HOST, SIGNAL, SIGNAL_FAR, SINGLE, TWIN, WEB,
};
use lb_common::Budget;
use lb_ebpf::Hook;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A state of the node and what it meets in it.
#[derive(Clone, Debug)]
pub struct Case {
    /// What the daemon has written.
    pub world: World,
    /// Whether XDP has already left a new flow to the kernel in this tick.
    pub revalidated: bool,
    /// How many answers were given in this tick before.
    pub answered: u32,
    /// What happens.
    pub steps: Vec<Step>,
}

impl Case {
    /// What the CPU has spent when it begins, in `tick`.
    pub fn budget(&self, tick: u32) -> Budget {
        Budget { tick, answers: self.answered, ..Budget::default() }
    }
}

/// Deviations from [`small::image`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct World {
    /// No service sends anything to [`LOCAL_1`] any more.
    pub without_first: bool,
    /// Nor to [`LOCAL_2`].
    pub without_second: bool,
    /// The id of [`LOCAL_2`] was given to another pod, [`REPLACEMENT`].
    pub replaced: bool,
    /// Only one port is lent.
    pub few_ports: bool,
    /// No address is lent.
    pub no_lent: bool,
    /// New connections take the way through the stack.
    pub stack: bool,
    /// Services tell their clients apart ([`small::set_policies`]).
    pub policies: bool,
    /// Pods that get no new connections keep their UDP clients.
    pub draining: bool,
    /// No Service has a UDP port.
    pub without_ports: bool,
    /// Packets can be handed to the pods' own ends.
    pub peers: bool,
}

/// The pod that takes the place of [`LOCAL_2`].
pub const REPLACEMENT: u32 = 5;

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Step {
    /// A packet from a client, or from anyone.
    Packet(Box<Recipe>),
    /// A backend answers one of the requests that came out.
    Reply {
        /// Which.
        of: Index,
        /// How.
        shape: Shape,
    },
    /// The client of one of the requests that came out goes on.
    Again {
        /// Which.
        of: Index,
        /// How.
        shape: Shape,
    },
    /// Somebody else asks for the same as one of the requests that came out.
    Another {
        /// Which.
        of: Index,
        /// From which port.
        port: u16,
        /// How.
        shape: Shape,
    },
    /// An ICMP error about one of the requests that came out, or about its answer.
    Error {
        /// Which.
        of: Index,
        /// What it says.
        error: Box<Complaint>,
    },
    /// Time passes.
    Age(u32),
    /// A flow entry is lost.
    Lose(Index),
    /// Flags of a flow entry change.
    Spoil(Index, u16),
    /// The daemon writes something else.
    World(World),
}

/// An ICMP error.
#[derive(Clone, Debug)]
pub struct Complaint {
    /// About the request, and so to the client; else about the answer, and so to the backend.
    pub is_about_request: bool,
    /// From a router on the way; else from where the packet was sent to.
    pub is_routers: bool,
    /// ICMP type in IPv4 and in IPv6.
    pub kinds: [u8; 2],
    /// The packet it is about.
    pub about: Shape,
    /// How much of that it quotes.
    pub quoted: usize,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Added to its checksum.
    pub error: u16,
}

impl Complaint {
    /// The frame of an error about a packet of this shape from `from` to `to`.
    pub fn frame(&self, shape: &Shape, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
        let about = shape.frame(from, to);
        let quote = &about[14..about.len() - shape.padding];
        let kind = self.kinds[usize::from(from.is_ipv6())];
        let mut message = vec![kind, 0, 0, 0, 0, 0, 5, 0x14];
        message.extend(&quote[..quote.len().min(self.quoted)]);
        let speaker = if self.is_routers { Sender::Stranger.address(family_of(from)) } else { to.ip() };
        let (protocol, sum) = if from.is_ipv4() {
            (1, lb_oracle::checksum::sum(&message))
        } else {
            (58, lb_oracle::checksum::with_pseudo_header(speaker, from.ip(), 58, &message))
        };
        message[2..4].copy_from_slice(&(!sum).wrapping_add(self.error).to_be_bytes());
        let outer = Shape { ttl: self.ttl, extensions: Vec::new(), fragment: None, errors: (0, 0), ..shape.clone() };
        outer.packet(protocol, speaker, from.ip(), &message)
    }
}

fn family_of(address: SocketAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// Who sends a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// An outside client.
    Client,
    /// A client to whom there is no route back.
    Stranger,
    /// [`LOCAL_1`] or [`LOCAL_2`].
    Pod(u32),
    /// The node itself.
    Node,
    /// An address that nobody has.
    Martian,
}

/// Where it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A service's ClusterIP, and the port.
    Cluster(u32, u16),
    /// A port of the node.
    Node(u16),
    /// A pod, past all Services.
    Pod(u32),
    /// Somebody outside.
    Outside,
}

/// The transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP with these flags and this many words of options.
    Tcp(u8, u8),
    /// UDP; without a checksum, if true.
    Udp(bool),
    /// ICMP or ICMPv6 of this type.
    Icmp(u8),
    /// SCTP whose first chunk is of this type; its checksum left to hardware, if true.
    Sctp(u8, bool),
    /// Another protocol.
    Other(u8),
}

/// The parts of a packet that do not say where it goes.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The transport. A reply or continuation is of the flow's own protocol.
    pub transport: Transport,
    /// TTL or hop limit.
    pub ttl: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Bytes of payload.
    pub payload: usize,
    /// Bytes behind the IP packet, as short Ethernet frames have.
    pub padding: usize,
    /// Words of IPv4 options, or kinds of IPv6 extension headers (modulo what there is).
    pub extensions: Vec<u8>,
    /// Fragment offset in units of 8 bytes, and whether more follow.
    pub fragment: Option<(u16, bool)>,
    /// Added to the transport's and to the IPv4 header's checksum.
    pub errors: (u16, u16),
}

/// A packet.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Where it is met.
    pub hook: Hook,
    /// Whether by the interface that pods feed.
    pub inside: bool,
    /// Its family.
    pub family: Family,
    /// Who sends it.
    pub sender: Sender,
    /// From which port.
    pub port: u16,
    /// Where to.
    pub target: Target,
    /// Everything else.
    pub shape: Shape,
    /// VLAN tags before the IP header.
    pub tags: usize,
    /// To another host's MAC.
    pub is_anothers: bool,
    /// Bytes that are spoiled.
    pub damage: Vec<(u16, u8)>,
    /// Bytes that are cut off at the end.
    pub cut: usize,
}

impl Sender {
    /// Its address.
    pub fn address(self, family: Family) -> IpAddr {
        match (self, family) {
            (Sender::Client, _) => family.client(),
            (Sender::Pod(id), _) => family.backend(id),
            (Sender::Node, _) => family.node(),
            (Sender::Stranger, Family::V4) => Ipv4Addr::new(203, 0, 113, 5).into(),
            (Sender::Stranger, Family::V6) => Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 5).into(),
            (Sender::Martian, Family::V4) => Ipv4Addr::LOCALHOST.into(),
            (Sender::Martian, Family::V6) => Ipv6Addr::LOCALHOST.into(),
        }
    }
}

impl Recipe {
    /// Source and destination.
    pub fn tuple(&self) -> (SocketAddr, SocketAddr) {
        let to = match self.target {
            Target::Cluster(service, port) => self.family.cluster(service, port),
            Target::Node(port) => SocketAddr::new(self.family.node(), port),
            Target::Pod(id) => SocketAddr::new(self.family.backend(id), small::TARGET_PORT),
            Target::Outside => SocketAddr::new(self.family.client(), 443),
        };
        (SocketAddr::new(self.sender.address(self.family), self.port), to)
    }

    /// The frame.
    pub fn frame(&self) -> Vec<u8> {
        let (from, to) = self.tuple();
        let mut frame = self.shape.frame(from, to);
        if self.is_anothers {
            frame[4] ^= 0x80;
        }
        for _ in 0..self.tags {
            frame.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
        }
        for (offset, change) in &self.damage {
            if let Some(byte) = frame.get_mut(usize::from(*offset)) {
                *byte ^= change;
            }
        }
        let ethertype = frame.get(12..14).map(<[u8]>::to_vec);
        frame.truncate(frame.len().saturating_sub(self.cut).max(shortest(&ethertype.unwrap_or_default())));
        frame
    }
}

/// `BPF_PROG_TEST_RUN` takes no shorter frames of this ethertype (`bpf_prog_test_run_skb`).
pub fn shortest(ethertype: &[u8]) -> usize {
    match ethertype {
        [0x08, 0x00] => 14 + 20,
        [0x86, 0xdd] => 14 + 40,
        _ => 15,
    }
}

impl Shape {
    /// The frame of this shape from one address and port to another.
    pub fn frame(&self, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
        let protocol = match (self.transport, from.is_ipv4()) {
            (Transport::Tcp(..), _) => 6,
            (Transport::Udp(_), _) => 17,
            (Transport::Icmp(_), true) => 1,
            (Transport::Icmp(_), false) => 58,
            (Transport::Sctp(..), _) => 132,
            (Transport::Other(protocol), _) => protocol,
        };
        self.packet(protocol, from.ip(), to.ip(), &self.segment(protocol, from, to))
    }

    /// The frame of an IP packet of `protocol` that holds `segment`.
    fn packet(&self, protocol: u8, from: IpAddr, to: IpAddr, segment: &[u8]) -> Vec<u8> {
        let mut frame = DESTINATION_MAC.to_vec();
        frame.extend([2, 0, 0, 0, 0, 1]);
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => self.ipv4(&mut frame, protocol, from, to, segment.len()),
            (IpAddr::V6(from), IpAddr::V6(to)) => self.ipv6(&mut frame, protocol, from, to, segment.len()),
            _ => unreachable!("one packet, one family"),
        }
        frame.extend(segment);
        frame.resize(frame.len() + self.padding, 0xee);
        frame
    }

    fn segment(&self, protocol: u8, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
        let mut segment = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
        let checksum = match self.transport {
            Transport::Tcp(flags, options) => {
                segment.extend([0, 0, 3, 232, 0, 0, 7, 208, (5 + options % 11) << 4, flags, 16, 0, 0, 0, 0, 0]);
                segment.extend(vec![1; usize::from(options % 11) * 4]);
                Some(16)
            }
            Transport::Udp(is_without) => {
                segment.extend([(8 + self.payload as u16).to_be_bytes(), [0; 2]].concat());
                (!is_without).then_some(6)
            }
            Transport::Icmp(kind) => {
                segment = vec![kind, 0, 0, 0, 0, 7, 0, 1];
                Some(2)
            }
            Transport::Sctp(chunk, _) => {
                // A verification tag, room for the checksum, and a chunk of all that follows.
                segment.extend([7, 7, 7, 7, 0, 0, 0, 0, chunk, 3]);
                segment.extend((self.payload as u16 + 4).to_be_bytes());
                None
            }
            Transport::Other(_) => {
                segment.extend([0; 8]);
                None
            }
        };
        segment.extend((0..self.payload).map(|index| (index as u8).wrapping_mul(31)));
        if let Some(at) = checksum {
            let sum = match protocol {
                1 => lb_oracle::checksum::sum(&segment),
                _ => lb_oracle::checksum::with_pseudo_header(from.ip(), to.ip(), protocol, &segment),
            };
            let right = if sum == 0xffff && protocol == 17 { 0xffff } else { !sum };
            segment[at..at + 2].copy_from_slice(&right.wrapping_add(self.errors.0).to_be_bytes());
        }
        if let Transport::Sctp(_, false) = self.transport {
            let right = u32::from_le_bytes(lb_oracle::checksum::crc32c(&segment));
            segment[8..12].copy_from_slice(&(right ^ u32::from(self.errors.0)).to_le_bytes());
        }
        segment
    }

    fn ipv4(&self, frame: &mut Vec<u8>, protocol: u8, from: Ipv4Addr, to: Ipv4Addr, length: usize) {
        let options: Vec<u8> = self.extensions.iter().take(10).flat_map(|_| [1, 1, 1, 1]).collect();
        let header = 20 + options.len();
        let start = frame.len() + 2;
        frame.extend([0x08, 0x00, 0x40 | (header / 4) as u8, self.traffic_class]);
        frame.extend(((header + length) as u16).to_be_bytes());
        let (offset, more) = self.fragment.unwrap_or_default();
        let fragment = offset & 0x1fff | u16::from(more) << 13 | u16::from(self.fragment.is_none()) << 14;
        frame.extend([0xbe, 0xef]);
        frame.extend(fragment.to_be_bytes());
        frame.extend([self.ttl, protocol, 0, 0]);
        frame.extend(from.octets());
        frame.extend(to.octets());
        frame.extend(options);
        let checksum = (!lb_oracle::checksum::sum(&frame[start..])).wrapping_add(self.errors.1);
        frame[start + 10..start + 12].copy_from_slice(&checksum.to_be_bytes());
    }

    fn ipv6(&self, frame: &mut Vec<u8>, protocol: u8, from: Ipv6Addr, to: Ipv6Addr, length: usize) {
        // Each with what a routing header says of segments left.
        let named = |kind: &u8| ([60, 0, 60, 43, 60, 0, 43, 51][usize::from(*kind) % 8], kind >> 6 & 1);
        let mut kinds: Vec<(u8, u8)> = self.extensions.iter().map(named).collect();
        kinds.extend(self.fragment.map(|_| (44, 0)));
        let mut headers = Vec::new();
        for (index, (kind, segments_left)) in kinds.iter().enumerate() {
            let next = kinds.get(index + 1).map_or(protocol, |(next, _)| *next);
            let (offset, more) = self.fragment.unwrap_or_default();
            match kind {
                44 => {
                    headers.extend([next, 0]);
                    headers.extend((offset << 3 | u16::from(more)).to_be_bytes());
                    headers.extend([0, 0, 0, 9]);
                }
                43 => headers.extend([next, 0, 0, *segments_left, 0, 0, 0, 0]),
                // An integrity check value that holds nothing.
                51 => headers.extend([next, 0, 0, 0, 0, 0, 0, 1]),
                // For the others, padding.
                _ if self.extensions.len() == 1 => headers.extend([[next, 1].as_slice(), &[1, 12], &[0; 12]].concat()),
                _ => headers.extend([next, 0, 1, 4, 0, 0, 0, 0]),
            }
        }
        frame.extend([0x86, 0xdd, 0x60 | self.traffic_class >> 4, self.traffic_class << 4 | 0x0a, 0xbc, 0xde]);
        frame.extend(((headers.len() + length) as u16).to_be_bytes());
        frame.extend([kinds.first().map_or(protocol, |(first, _)| *first), self.ttl]);
        frame.extend(from.octets());
        frame.extend(to.octets());
        frame.extend(headers);
    }
}

fn tcp() -> impl Strategy<Value = Transport> {
    let flags = select(vec![0x02, 0x02, 0x12, 0x10, 0x10, 0x18, 0x11, 0x04, 0x14, 0x00, 0xc2, 0x3f]);
    (flags, select(vec![0u8, 0, 0, 3, 10])).prop_map(|(flags, options)| Transport::Tcp(flags, options))
}

fn sctp() -> impl Strategy<Value = Transport> {
    (select(vec![1u8, 1, 2, 10, 11, 0, 0, 3, 7, 8, 14, 6]), select(vec![false, false, false, true]))
        .prop_map(|(chunk, is_unsummed)| Transport::Sctp(chunk, is_unsummed))
}

fn transport() -> impl Strategy<Value = Transport> {
    prop_oneof![
        6 => tcp(),
        3 => any::<bool>().prop_map(Transport::Udp),
        1 => sctp(),
        1 => select(vec![Transport::Icmp(8), Transport::Icmp(128), Transport::Icmp(3), Transport::Other(47)]),
    ]
}

fn shape() -> impl Strategy<Value = Shape> {
    (
        transport(),
        select(vec![64u8, 64, 64, 64, 255, 2, 1, 0]),
        select(vec![0u8, 0, 0x22, 0xff]),
        prop_oneof![6 => 0..64usize, 1 => 1400..1500usize, 1 => 1500..2000usize],
        select(vec![0usize, 0, 0, 6, 46]),
        prop_oneof![8 => Just(Vec::new()), 2 => prop::collection::vec(any::<u8>(), 1..8)],
        prop_oneof![6 => Just(None), 1 => (select(vec![0u16, 0, 0, 1, 185, 0x1fff]), any::<bool>()).prop_map(Some)],
        prop_oneof![6 => Just((0, 0)), 1 => any::<(u16, u16)>()],
    )
        .prop_map(|(transport, ttl, traffic_class, payload, padding, extensions, fragment, errors)| {
            // Some fragments begin at zero and are the last: no fragment at all in IPv4, an atomic one in IPv6.
            Shape { transport, ttl, traffic_class, payload, padding, extensions, fragment, errors }
        })
}

/// How packets go on in a connection that nothing happens to, as nearly all do.
fn usual() -> impl Strategy<Value = Shape> {
    let transport =
        select(vec![Transport::Tcp(0x10, 0), Transport::Tcp(0x18, 3), Transport::Udp(false), Transport::Udp(true)]);
    (
        transport,
        select(vec![64u8, 64, 64, 2]),
        prop_oneof![4 => 12..64usize, 1 => 1400..1500usize],
        select(vec![0usize, 6]),
    )
        .prop_map(|(transport, ttl, payload, padding)| Shape {
            transport,
            ttl,
            traffic_class: 0,
            payload,
            padding,
            extensions: Vec::new(),
            fragment: None,
            errors: (0, 0),
        })
}

fn further() -> impl Strategy<Value = Shape> {
    prop_oneof![shape(), usual()]
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        12 => select(vec![WEB, WEB, SINGLE, TWIN, FAR, EMPTY, ON_HOST]).prop_map(|service| Target::Cluster(service, 80)),
        3 => Just(Target::Cluster(small::DNS, 53)),
        2 => select(vec![(SIGNAL, 80), (SIGNAL_FAR, 80), (SIGNAL, small::TARGET_PORT)])
            .prop_map(|(service, port)| Target::Cluster(service, port)),
        1 => Just(Target::Cluster(WEB, 81)),
        2 => select(vec![NODE_PORT, NODE_PORT, 22]).prop_map(Target::Node),
        1 => select(vec![Target::Pod(LOCAL_1), Target::Outside]),
    ]
}

fn recipe() -> impl Strategy<Value = Recipe> {
    let sender = prop_oneof![
        8 => Just(Sender::Client),
        4 => select(vec![Sender::Pod(LOCAL_1), Sender::Pod(LOCAL_2)]),
        1 => select(vec![Sender::Stranger, Sender::Node, Sender::Martian]),
    ];
    let damage = prop_oneof![
        8 => Just((Vec::new(), 0)),
        1 => (prop::collection::vec((12..90u16, any::<u8>()), 1..3), Just(0)),
        1 => (Just(Vec::new()), 1..60usize),
    ];
    (
        (select(vec![Hook::Xdp, Hook::Xdp, Hook::Ingress, Hook::Ingress, Hook::Egress]), any::<bool>()),
        select(Family::BOTH.to_vec()),
        (sender, 1..5u16, target()),
        shape(),
        prop_oneof![20 => Just((0, false)), 1 => Just((1, false)), 1 => Just((2, false)), 1 => Just((0, true))],
        damage,
    )
        .prop_map(|((hook, inside), family, (sender, port, target), shape, (tags, is_anothers), (damage, cut))| {
            // XDP is on the uplink alone.
            let inside = hook != Hook::Xdp && (inside || matches!(sender, Sender::Pod(_)));
            // Where a flow's frames come by two interfaces, of which one takes any MAC, it is taken at the other too.
            let is_anothers = is_anothers && !inside;
            let mut shape = shape;
            // Most packets to the name server are UDP, most others TCP.
            if let (Target::Cluster(small::DNS, _), Transport::Tcp(flags, _)) = (target, shape.transport) {
                shape.transport = Transport::Udp(flags & 1 == 1);
            }
            // And most others to the exchange SCTP.
            if let (Target::Cluster(SIGNAL | SIGNAL_FAR, _), Transport::Tcp(flags, _)) = (target, shape.transport) {
                shape.transport = Transport::Sctp(flags % 16, false);
            }
            Recipe { hook, inside, family, sender, port, target, shape, tags, is_anothers, damage, cut }
        })
}

fn world() -> impl Strategy<Value = World> {
    let odd = any::<[bool; 10]>().prop_map(
        |[
            without_first,
            without_second,
            replaced,
            few_ports,
            no_lent,
            stack,
            policies,
            draining,
            without_ports,
            peers,
        ]| {
            World {
                without_first,
                without_second,
                replaced,
                few_ports,
                no_lent,
                stack,
                policies,
                draining,
                without_ports,
                peers,
            }
        },
    );
    let withdrawn = any::<[bool; 4]>().prop_map(|[first, draining, without_ports, policies]| World {
        without_first: first,
        without_second: !first,
        policies,
        draining,
        without_ports,
        ..World::default()
    });
    let stack = World { stack: true, ..World::default() };
    let peers = World { peers: true, ..World::default() };
    let crowded = World { few_ports: true, ..World::default() };
    let policies = World { policies: true, ..World::default() };
    prop_oneof![
        6 => Just(World::default()),
        2 => Just(stack),
        2 => Just(policies),
        2 => Just(peers),
        1 => Just(crowded),
        1 => odd,
        1 => withdrawn,
    ]
}

fn complaint() -> impl Strategy<Value = Complaint> {
    (
        any::<(bool, bool)>(),
        select(vec![[3u8, 1], [3, 2], [11, 3], [12, 4], [4, 5], [5, 137]]),
        shape(),
        prop_oneof![2 => 20..60usize, 2 => 48..120usize, 1 => Just(2000)],
        select(vec![64u8, 64, 64, 1]),
        prop_oneof![6 => Just(0), 1 => any::<u16>()],
    )
        .prop_map(|((is_about_request, is_routers), kinds, about, quoted, ttl, error)| Complaint {
            is_about_request,
            is_routers,
            kinds,
            about,
            quoted,
            ttl,
            error,
        })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => recipe().prop_map(|recipe| Step::Packet(Box::new(recipe))),
        5 => (any::<Index>(), further()).prop_map(|(of, shape)| Step::Reply { of, shape }),
        5 => (any::<Index>(), further()).prop_map(|(of, shape)| Step::Again { of, shape }),
        2 => (any::<Index>(), 1..5u16, shape()).prop_map(|(of, port, shape)| Step::Another { of, port, shape }),
        2 => (any::<Index>(), complaint()).prop_map(|(of, error)| Step::Error { of, error: Box::new(error) }),
        1 => select(vec![1, 2, 9, 30, 60, 120, 180, 250, 3000]).prop_map(Step::Age),
        1 => any::<Index>().prop_map(Step::Lose),
        1 => (any::<Index>(), 2..128u16).prop_map(|(of, flags)| Step::Spoil(of, flags)),
        2 => world().prop_map(Step::World),
    ]
}

/// Cases of up to a dozen steps.
pub fn cases() -> impl Strategy<Value = Case> {
    let answered = prop_oneof![7 => Just(0), 1 => Just(Budget::ANSWERS - 1), 1 => Just(Budget::ANSWERS)];
    (world(), any::<bool>(), answered, prop::collection::vec(step(), 1..12))
        .prop_map(|(world, revalidated, answered, steps)| Case { world, revalidated, answered, steps })
}
