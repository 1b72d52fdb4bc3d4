//! The core's socket hooks on the host: which call is sent where, which one fails, and what the process is shown.

use lb_common::{BackendSet, Event, HostPair, Reason, SCTP, TCP, UDP};
use lb_ebpf::socket;
use lb_tests::memory::Memory;
use lb_tests::small::{
    self, DNS, EMPTY, FAR, Family, LOCAL_1, LOCAL_2, NAMESPACE, NODE_PORT, REMOTE, TARGET_PORT, UDP_NODE_PORT, WEB,
};
use lb_tests::socket::Call;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// The namespace of a pod.
const POD: u64 = 0x0d0d;

/// The system calls that have hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    Connect,
    Send,
    Show,
}

fn run<const VERSION: u8>(hook: Hook, mut call: Call<VERSION>, tables: &Memory) -> (Reason, SocketAddr) {
    let reason = match hook {
        Hook::Connect => socket::connect(&mut call, tables),
        Hook::Send => socket::send(&mut call, tables),
        Hook::Show => {
            socket::show(&mut call, tables);
            Reason::NotOurs
        }
    };
    (reason, call.to)
}

/// One call: `to` decides which family's hooks run.
#[derive(Clone, Copy, Debug)]
struct Asking {
    protocol: u8,
    cookie: u64,
    namespace: u64,
    connected: bool,
    tick: u32,
}

impl Asking {
    const TCP: Self = Self { protocol: TCP, cookie: 1, namespace: NAMESPACE, connected: false, tick: 0 };
    const UDP: Self = Self { protocol: UDP, ..Self::TCP };

    fn call(self, hook: Hook, to: SocketAddr, tables: &Memory) -> (Reason, SocketAddr) {
        let Self { protocol, cookie, namespace, connected, tick } = self;
        match to {
            SocketAddr::V4(_) => run(hook, Call::<4> { to, protocol, cookie, namespace, connected, tick }, tables),
            SocketAddr::V6(_) => run(hook, Call::<6> { to, protocol, cookie, namespace, connected, tick }, tables),
        }
    }

    fn in_a_pod(self) -> Self {
        Self { namespace: POD, ..self }
    }

    fn connected(self) -> Self {
        Self { connected: true, ..self }
    }

    fn on(self, cookie: u64) -> Self {
        Self { cookie, ..self }
    }
}

fn tables() -> Memory {
    Memory::new(small::image(2, 3))
}

/// The same, on a node with a veth pair by which its processes reach ClusterIPs.
fn tables_with_pair() -> Memory {
    let mut image = small::image(2, 3);
    image.settings.host = HostPair { ifindex: 7, macs: [0; 12] };
    Memory::new(image)
}

fn mapped(address: SocketAddr) -> SocketAddr {
    let SocketAddr::V4(v4) = address else { panic!("{address} is not IPv4") };
    SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
}

/// How a socket writes an address.
type Form = fn(SocketAddr) -> SocketAddr;

/// Who calls what, by which protocol, from which namespace; the backends that may be given, or why the call fails (no
/// reason: it is left alone).
type Case<'a> = (Hook, u8, u64, SocketAddr, Result<&'a [u32], Option<Reason>>);

/// Each family's addresses, and IPv4's as a socket of both families writes them.
fn forms() -> [(Family, Form); 3] {
    [(Family::V4, |address| address), (Family::V6, |address| address), (Family::V4, mapped)]
}

fn loopback(family: Family) -> IpAddr {
    if family == Family::V4 { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() }
}

/// By which Linux understands the machine itself.
fn unspecified(family: Family) -> IpAddr {
    if family == Family::V4 { [0; 4].into() } else { [0; 16].into() }
}

fn backends(family: Family, ids: &[u32], form: Form) -> BTreeSet<SocketAddr> {
    ids.iter().map(|id| form(SocketAddr::new(family.backend(*id), TARGET_PORT))).collect()
}

#[test]
fn every_call_goes_where_the_table_says() {
    use Hook::{Connect, Send};
    let (host, pod) = (NAMESPACE, POD);
    for (family, form) in forms() {
        let web = family.cluster(WEB, 80);
        let dns = family.cluster(DNS, 53);
        let node = |port| SocketAddr::new(family.node(), port);
        let own = |port| SocketAddr::new(loopback(family), port);
        let stranger = SocketAddr::new(family.client(), 80);
        let either = &[LOCAL_1, LOCAL_2][..];
        let (refused, left) = (Some(Reason::NoServicePort), None);
        let nowhere = |port| SocketAddr::new(unspecified(family), port);
        let cases: [Case<'_>; 29] = [
            (Connect, TCP, host, web, Ok(either)),
            (Connect, TCP, pod, web, Ok(either)),
            (Connect, TCP, host, family.cluster(FAR, 80), Ok(&[REMOTE])),
            (Connect, TCP, host, node(NODE_PORT), Ok(either)),
            (Connect, TCP, pod, node(NODE_PORT), Ok(either)),
            (Connect, TCP, host, own(NODE_PORT), Ok(either)),
            (Connect, TCP, pod, own(NODE_PORT), Err(left)),
            (Connect, TCP, host, nowhere(NODE_PORT), Ok(either)),
            (Connect, TCP, pod, nowhere(NODE_PORT), Err(left)),
            (Connect, TCP, host, own(22), Err(left)),
            (Connect, TCP, host, node(22), Err(left)),
            (Connect, TCP, host, family.cluster(WEB, 81), Err(refused)),
            (Connect, TCP, pod, family.cluster(WEB, 81), Err(refused)),
            (Connect, TCP, host, family.cluster(EMPTY, 80), Err(Some(Reason::NoBackend))),
            (Connect, TCP, host, stranger, Err(left)),
            (Connect, TCP, host, SocketAddr::new(family.backend(LOCAL_1), TARGET_PORT), Err(left)),
            (Connect, UDP, host, dns, Err(left)),
            (Connect, UDP, pod, dns, Err(left)),
            (Connect, UDP, host, node(UDP_NODE_PORT), Err(left)),
            (Connect, UDP, host, family.cluster(WEB, 54), Err(left)),
            (Connect, SCTP, host, web, Err(left)),
            (Connect, 0, host, web, Err(left)),
            (Send, UDP, host, dns, Ok(either)),
            (Send, UDP, pod, dns, Ok(either)),
            (Send, UDP, host, node(UDP_NODE_PORT), Ok(either)),
            (Send, UDP, host, own(UDP_NODE_PORT), Ok(either)),
            (Send, UDP, pod, own(UDP_NODE_PORT), Err(left)),
            (Send, UDP, host, family.cluster(WEB, 54), Err(refused)),
            (Send, SCTP, host, dns, Err(left)),
        ];
        for (hook, protocol, namespace, to, expected) in cases {
            let (tables, to) = (tables(), form(to));
            let what = format!("{hook:?} {protocol} of {namespace:#x} to {to}");
            let (reason, got) = Asking { protocol, namespace, ..Asking::TCP }.call(hook, to, &tables);
            match expected {
                Ok(ids) => {
                    assert_eq!(reason, Reason::SocketTranslated, "{what}");
                    assert!(backends(family, ids, form).contains(&got), "{what}: {got}");
                    let counted: u64 = tables.services.borrow().values().map(|traffic| traffic.connections).sum();
                    assert_eq!(counted, u64::from(hook == Connect), "{what}: connections are counted, datagrams not");
                }
                Err(why) => {
                    assert_eq!((reason, got), (why.unwrap_or(Reason::NotOurs), to), "{what}");
                    assert!(tables.sockets.is_empty() && tables.services.borrow().is_empty(), "{what}");
                    assert_eq!(reason.is_drop(), why.is_some(), "{what}: the call fails");
                }
            }
            assert_eq!(tables.packets(reason), u64::from(reason != Reason::NotOurs), "{what}: counted once");
            let told: Vec<_> = tables.events.take().iter().map(|event| (event.kind, event.reason())).collect();
            let refusal = reason.is_drop().then_some((Event::REJECTED, Some(reason)));
            assert_eq!(told, Vec::from_iter(refusal), "{what}: a call that fails is told");
        }
    }
}

#[test]
fn the_process_is_shown_whom_it_asked_for() {
    for (family, form) in forms() {
        for to in [family.cluster(WEB, 80), SocketAddr::new(loopback(family), NODE_PORT)] {
            let (tables, to) = (tables(), form(to));
            let (_, given) = Asking::TCP.call(Hook::Connect, to, &tables);
            assert_eq!(Asking::TCP.call(Hook::Show, given, &tables).1, to);
            assert_eq!(Asking::TCP.on(2).call(Hook::Show, given, &tables).1, given, "another socket asked for nothing");
            assert_eq!(Asking::UDP.call(Hook::Show, given, &tables).1, given, "nor did it by another protocol");
            tables.sockets.lose();
            assert_eq!(Asking::TCP.call(Hook::Show, given, &tables).1, given, "what was evicted is shown as it is");
        }
    }
}

#[test]
fn a_reply_is_shown_as_it_was_asked_for_whatever_the_form() {
    // A socket of both families names an IPv4 address mapped, but the kernel runs the IPv4 hook for its datagrams; who
    // answered is told by the IPv6 hook.
    let (tables, to) = (tables(), Family::V4.cluster(DNS, 53));
    let (_, given) = Asking::UDP.call(Hook::Send, to, &tables);
    assert_eq!(Asking::UDP.call(Hook::Show, mapped(given), &tables).1, mapped(to));
}

#[test]
fn a_socket_that_goes_straight_to_a_backend_is_shown_the_backend() {
    for family in Family::BOTH {
        for (asking, hook, to) in
            [(Asking::TCP, Hook::Connect, family.cluster(WEB, 80)), (Asking::UDP, Hook::Send, family.cluster(DNS, 53))]
        {
            let tables = tables();
            let (_, given) = asking.call(hook, to, &tables);
            assert_eq!(asking.call(hook, given, &tables), (Reason::NotOurs, given));
            assert_eq!(asking.call(Hook::Show, given, &tables).1, given);
        }
    }
}

#[test]
fn datagrams_of_one_socket_stay_while_the_backends_stay_and_leave_one_that_dies() {
    for family in Family::BOTH {
        let mut tables = tables();
        let to = family.cluster(DNS, 53);
        let sockets = 0..64;
        let given = |tables: &Memory, cookie| Asking::UDP.on(cookie).call(Hook::Send, to, tables).1;
        let first: Vec<SocketAddr> = sockets.clone().map(|cookie| given(&tables, cookie)).collect();
        assert_eq!(first.iter().copied().collect::<BTreeSet<_>>(), backends(family, &[LOCAL_1, LOCAL_2], |it| it));
        let again: Vec<SocketAddr> = sockets.clone().map(|cookie| given(&tables, cookie)).collect();
        assert_eq!(first, again);
        assert_eq!(tables.sockets.len(), 64, "one entry for each socket, not for each datagram");

        // The first backend dies: its Service publishes the other alone.
        let (_, web) = tables
            .image
            .services
            .iter_mut()
            .find(|(key, _)| key.protocol == UDP && key.ip() == Some(family.cluster(DNS, 0).ip()))
            .expect("the small node has one");
        web.backends = BackendSet::new(web.backends.base() + 1, 1, 2);
        for cookie in sockets {
            assert_eq!(given(&tables, cookie), SocketAddr::new(family.backend(LOCAL_2), TARGET_PORT));
        }
    }
}

#[test]
fn connections_spread_over_sockets_and_depend_on_the_seed() {
    let choices = |seed| -> Vec<SocketAddr> {
        let mut tables = tables();
        tables.image.settings.seed = seed;
        let to = Family::V4.cluster(WEB, 80);
        (0..400).map(|cookie| Asking::TCP.on(cookie).call(Hook::Connect, to, &tables).1).collect()
    };
    let (one, other) = (choices(1), choices(2));
    assert_ne!(one, other);
    let first = one.iter().filter(|choice| **choice == one[0]).count();
    // 400 tosses of a coin: outside with probability 1e-6.
    assert!((150..=250).contains(&first), "{first} of 400");
}

#[test]
fn a_connected_udp_socket_of_the_node_gets_the_cluster_address_where_packets_are_seen() {
    for (family, form) in forms() {
        let cluster = form(family.cluster(DNS, 53));
        for own in [family.node(), loopback(family)] {
            let tables = tables_with_pair();
            let to = form(SocketAddr::new(own, UDP_NODE_PORT));
            assert_eq!(Asking::UDP.call(Hook::Connect, to, &tables), (Reason::SocketTranslated, cluster));
            assert_eq!(Asking::UDP.call(Hook::Show, cluster, &tables).1, to, "the process asked for the node port");
            assert!(tables.services.borrow().is_empty(), "the packets count the connection");
            // Connected anew to the ClusterIP itself, it is shown that.
            assert_eq!(Asking::UDP.call(Hook::Connect, cluster, &tables), (Reason::NotOurs, cluster));
            assert_eq!(Asking::UDP.call(Hook::Show, cluster, &tables).1, cluster);
            // A pod's packets are seen anyway, and other ports are the host's.
            assert_eq!(Asking::UDP.in_a_pod().call(Hook::Connect, to, &tables), (Reason::NotOurs, to));
            let other = form(SocketAddr::new(own, 53));
            assert_eq!(Asking::UDP.call(Hook::Connect, other, &tables), (Reason::NotOurs, other));
        }
    }
}

/// A socket takes answers from its peer alone; and the kernel names that peer, as if the process did, where a socket of both
/// families is connected to an IPv4 address.
#[test]
fn a_connected_udp_socket_is_given_no_backend_when_it_names_whom_it_sends_to() {
    for (family, form) in forms() {
        let tables = tables_with_pair();
        let connected = Asking::UDP.connected();
        let cluster = form(family.cluster(DNS, 53));
        for asking in [connected, connected.in_a_pod()] {
            assert_eq!(asking.call(Hook::Send, cluster, &tables), (Reason::NotOurs, cluster));
        }
        let to = form(SocketAddr::new(family.node(), UDP_NODE_PORT));
        assert_eq!(Asking::UDP.call(Hook::Connect, to, &tables).1, cluster);
        assert_eq!(connected.call(Hook::Send, cluster, &tables), (Reason::NotOurs, cluster), "named by the kernel");
        assert_eq!(connected.call(Hook::Show, cluster, &tables).1, to, "which is not what the process asked for");
        assert_eq!(
            connected.call(Hook::Send, to, &tables),
            (Reason::SocketTranslated, cluster),
            "named by the process"
        );
        assert_eq!(tables.packets(Reason::SocketTranslated), 2);
        let other = form(family.cluster(WEB, 54));
        assert_eq!(connected.call(Hook::Send, other, &tables), (Reason::NotOurs, other), "packets are refused instead");
    }
}

#[test]
fn what_cannot_be_remembered_is_refused_as_it_was_asked() {
    let tables = tables();
    tables.sockets.make_room(false);
    let to = Family::V4.cluster(WEB, 80);
    assert_eq!(Asking::TCP.call(Hook::Connect, to, &tables), (Reason::TableFull, to));
    assert!(Reason::TableFull.is_drop());
    assert!(tables.services.borrow().is_empty(), "no connection was made");
}

#[test]
fn a_namespace_that_is_not_known_leaves_loopback_alone() {
    let mut tables = tables();
    tables.image.settings.netns_cookie = 0;
    let to = SocketAddr::new(loopback(Family::V4), NODE_PORT);
    let asking = Asking { namespace: 0, ..Asking::TCP };
    assert_eq!(asking.call(Hook::Connect, to, &tables), (Reason::NotOurs, to));
}
