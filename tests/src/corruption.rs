//! Ways to spoil the maps of a running daemon behind its back: for each map some, with what the audit must say of it.

use crate::fixture::Fixture;
use lb_common::maps;
use lb_common::table::Key;
use lb_common::{
    Affinity, AffinityKey, Backend, BackendSet, Budget, Device, Flow, FlowKey, Fragment, FragmentKey, NetworkKey,
    NextHop, Owned, Peer, ReasonCount, Service, ServiceKey, Settings, Slot, SocketKey, TCP, Traffic, UDP, gate,
    network,
};
use lb_ctl::audit::Invariant;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::net::{IpAddr, Ipv6Addr};

/// A tick that is long to come.
const LATE: u32 = u32::MAX / 2;
/// Ids that nobody ever had.
const NOBODY: u32 = 4000;

/// Numbers that look like chance, the same for the same seed (splitmix64).
#[derive(Debug)]
pub struct Chance(u64);

impl Chance {
    /// Those of this seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        assert!(!all.is_empty(), "there is something to choose from");
        all[(self.number() % all.len() as u64) as usize].clone()
    }
}

/// One way to spoil a map.
#[derive(Clone, Copy, Debug)]
pub struct Corruption {
    /// The map.
    pub map: &'static str,
    /// What is done to it.
    pub kind: &'static str,
    /// What does not hold then.
    pub invariant: Invariant,
    /// Whether the next audit after a repair finds nothing.
    pub is_repaired: bool,
    /// Does it, and gives what the finding must name.
    pub spoil: fn(&Fixture, &mut Chance) -> String,
}

const fn ruin(
    map: &'static str,
    kind: &'static str,
    invariant: Invariant,
    spoil: fn(&Fixture, &mut Chance) -> String,
) -> Corruption {
    Corruption { map, kind, invariant, is_repaired: true, spoil }
}

/// An entry of a hash, by chance.
fn any<K: aya::Pod, V: aya::Pod>(fixture: &Fixture, map: &str, chance: &mut Chance) -> (K, V) {
    chance.of(&fixture.entries(map))
}

/// A Service's address of this family, by chance.
fn address<K: aya::Pod>(fixture: &Fixture, map: &str, chance: &mut Chance) -> (K, Owned) {
    let all: Vec<_> = fixture.entries::<K, Owned>(map).into_iter().filter(|(_, owned)| !owned.is_node()).collect();
    chance.of(&all)
}

/// A set of more than one slot, by chance.
fn service(fixture: &Fixture, chance: &mut Chance) -> (ServiceKey, Service) {
    let all = fixture.entries::<ServiceKey, Service>(maps::SERVICES);
    chance.of(&all.into_iter().filter(|(_, service)| service.backends.count() > 1).collect::<Vec<_>>())
}

fn backend(fixture: &Fixture, chance: &mut Chance) -> u32 {
    let array = fixture.array::<Backend>(maps::BACKENDS);
    let all: Vec<u32> = (0..64).filter(|id| array.get(id, 0).is_ok_and(|backend| backend.family != 0)).collect();
    chance.of(&all)
}

/// An entry of an idle confirmed connection, by chance.
fn flow<A>(fixture: &Fixture, map: &str, chance: &mut Chance) -> (FlowKey<A>, Flow<A>)
where
    A: Copy + Debug + 'static,
    FlowKey<A>: aya::Pod + Key,
    Flow<A>: aya::Pod,
{
    let all = fixture.flows::<A>(map);
    // Those that are over belong to nobody's connection, and may expire meanwhile.
    let live = all
        .into_iter()
        .filter(|(key, flow)| key.protocol == TCP && flow.flags & (Flow::<A>::FINS | Flow::<A>::RST) == 0);
    chance.of(&live.collect::<Vec<_>>())
}

fn spoil_flow<A>(fixture: &Fixture, map: &str, chance: &mut Chance, spoil: fn(&mut Flow<A>)) -> String
where
    A: Copy + Debug + Into<IpAddr> + 'static,
    FlowKey<A>: aya::Pod + Key,
    Flow<A>: aya::Pod,
{
    let (key, mut flow) = flow::<A>(fixture, map, chance);
    spoil(&mut flow);
    fixture.flow_table(map).set(&key, &flow).expect("room for a flow");
    key.src.into().to_string()
}

fn lose_half<A>(fixture: &Fixture, map: &str, chance: &mut Chance) -> String
where
    A: Copy + Debug + Into<IpAddr> + 'static,
    FlowKey<A>: aya::Pod + Key,
    Flow<A>: aya::Pod,
{
    let (key, flow) = flow::<A>(fixture, map, chance);
    assert!(fixture.flow_table::<A>(map).delete(&key).expect("a table"), "it was there");
    flow.partner(key.protocol).src.into().to_string()
}

/// A first packet that nobody sent, of a service port that never was.
fn stray<A: Copy + Debug + 'static>(fixture: &Fixture, map: &str, src: A, dst: A, to: A)
where
    FlowKey<A>: aya::Pod + Key,
    Flow<A>: aya::Pod,
{
    let key = FlowKey::new(UDP, src, [200, 1], dst, [0, 53]);
    let mut settled = Flow {
        src,
        dst: to,
        src_port: key.src_port,
        dst_port: [31, 144],
        address_delta: 0,
        port_delta: 0,
        tick: now(),
        flags: 0,
        generation: 1,
        backend: NOBODY,
        service: NOBODY,
        hop: NextHop::default(),
        met: 0,
        zero: [0; 7],
    };
    // Long enough ago for nobody to be using it, and too short for it to expire.
    settled.tick -= 5;
    fixture.flow_table(map).set(&key, &settled).expect("room for a flow");
}

fn now() -> u32 {
    lb_ctl::datapath::conntrack::now()
}

/// Every way, some for each map.
fn all() -> Vec<Corruption> {
    [settings(), addresses(), sets(), flows(), side(), counters()].concat()
}

fn settings() -> Vec<Corruption> {
    vec![
        ruin(maps::SETTINGS, "wrong", Invariant::Settings, |fixture, _| {
            fixture.change::<Settings>(maps::SETTINGS, 0, |settings| settings.snat_port_last -= 1);
            "settings".to_owned()
        }),
        ruin(maps::SETTINGS, "wrong seed", Invariant::Settings, |fixture, chance| {
            fixture.change::<Settings>(maps::SETTINGS, 0, |settings| settings.seed ^= chance.number() | 1);
            "settings".to_owned()
        }),
        ruin(maps::DEVICES, "missing", Invariant::Devices, |fixture, chance| {
            let (index, _) = any::<u32, Device>(fixture, maps::DEVICES, chance);
            fixture.delete::<_, Device>(maps::DEVICES, &index);
            "interface ".to_owned()
        }),
        ruin(maps::DEVICES, "extra", Invariant::Devices, |fixture, _| {
            fixture.put(maps::DEVICES, 7777u32, Device::new(Device::XDP_TARGET));
            "interface 7777".to_owned()
        }),
    ]
}

fn addresses() -> Vec<Corruption> {
    vec![
        ruin(maps::OWNED4, "missing", Invariant::Addresses, |fixture, chance| {
            let (key, _) = address::<[u8; 4]>(fixture, maps::OWNED4, chance);
            fixture.delete::<_, Owned>(maps::OWNED4, &key);
            IpAddr::from(key).to_string()
        }),
        ruin(maps::OWNED4, "dangling", Invariant::Addresses, |fixture, chance| {
            let (key, _) = address::<[u8; 4]>(fixture, maps::OWNED4, chance);
            fixture.put(maps::OWNED4, key, Owned(NOBODY));
            IpAddr::from(key).to_string()
        }),
        ruin(maps::OWNED6, "extra", Invariant::Addresses, |fixture, chance| {
            let (_, owned) = address::<[u8; 16]>(fixture, maps::OWNED6, chance);
            let key = Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0xfffe);
            fixture.put(maps::OWNED6, key.octets(), owned);
            key.to_string()
        }),
        ruin(maps::OWNED6, "missing", Invariant::Addresses, |fixture, chance| {
            let (key, _) = address::<[u8; 16]>(fixture, maps::OWNED6, chance);
            fixture.delete::<_, Owned>(maps::OWNED6, &key);
            IpAddr::from(key).to_string()
        }),
        ruin(maps::GATE, "missing", Invariant::Gate, |fixture, chance| {
            let address = IpAddr::from(address::<[u8; 4]>(fixture, maps::OWNED4, chance).0);
            let place = gate::Place::from(gate::End::Service(address));
            fixture.change::<u64>(maps::GATE, place.word, |open| *open &= !place.bits);
            address.to_string()
        }),
        ruin(maps::SERVICES, "missing", Invariant::Services, |fixture, chance| {
            let (key, _) = service(fixture, chance);
            fixture.delete::<_, Service>(maps::SERVICES, &key);
            format!(":{}/", key.port())
        }),
        ruin(maps::SERVICES, "wrong", Invariant::Services, |fixture, chance| {
            let (key, service) = service(fixture, chance);
            fixture.put(maps::SERVICES, key, Service { flags: service.flags ^ Service::ELSEWHERE, ..service });
            format!(":{}/", key.port())
        }),
        ruin(maps::SERVICES, "dangling", Invariant::Services, |fixture, chance| {
            let (key, service) = service(fixture, chance);
            let nowhere = BackendSet::new(9000, service.backends.count(), 7);
            fixture.put(maps::SERVICES, key, Service { backends: nowhere, ..service });
            format!(":{}/", key.port())
        }),
        ruin(maps::SERVICES, "extra", Invariant::Services, |fixture, chance| {
            let (key, service) = service(fixture, chance);
            fixture.put(maps::SERVICES, ServiceKey { port: [0, 7], ..key }, Service { id: NOBODY, ..service });
            ":7/".to_owned()
        }),
        ruin(maps::NETWORKS4, "missing", Invariant::Networks, |fixture, _| {
            fixture.set_network4(maps::NETWORKS4, NetworkKey::new(network::PODS, [10, 244, 0, 0], 16), false);
            "10.244.0.0/16".to_owned()
        }),
        ruin(maps::NETWORKS4, "extra", Invariant::Networks, |fixture, _| {
            fixture.set_network4(maps::NETWORKS4, NetworkKey::new(network::PODS, [192, 0, 2, 0], 24), true);
            "192.0.2.0/24".to_owned()
        }),
        ruin(maps::NETWORKS6, "extra", Invariant::Networks, |fixture, _| {
            let everywhere = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0).octets();
            fixture.set_network6(maps::NETWORKS6, NetworkKey::new(network::KEPT, everywhere, 32), true);
            "2001:db8::/32".to_owned()
        }),
    ]
}

fn sets() -> Vec<Corruption> {
    vec![
        ruin(maps::SLOTS, "stale", Invariant::Slots, |fixture, chance| {
            let (_, service) = service(fixture, chance);
            let slot = service.backends.base() + (chance.number() % u64::from(service.backends.count())) as u32;
            fixture.change::<Slot>(maps::SLOTS, slot, |slot| slot.generation = slot.generation.wrapping_sub(1));
            format!("slot {slot} of service ")
        }),
        ruin(maps::SLOTS, "dangling", Invariant::Slots, |fixture, chance| {
            let (_, service) = service(fixture, chance);
            let slot = service.backends.base() + (chance.number() % u64::from(service.backends.count())) as u32;
            fixture.change::<Slot>(maps::SLOTS, slot, |slot| slot.backend = NOBODY);
            format!("slot {slot} of service ")
        }),
        ruin(maps::BACKENDS, "missing", Invariant::Backends, |fixture, chance| {
            let id = backend(fixture, chance);
            fixture.change::<Backend>(maps::BACKENDS, id, |backend| *backend = Backend::UNUSED);
            format!("backend {id} (")
        }),
        ruin(maps::BACKENDS, "stale", Invariant::Backends, |fixture, chance| {
            let id = backend(fixture, chance);
            fixture.change::<Backend>(maps::BACKENDS, id, |backend| backend.generation += 1);
            format!("backend {id} (")
        }),
        ruin(maps::BACKENDS, "extra", Invariant::Backends, |fixture, chance| {
            let id = backend(fixture, chance);
            let copy = fixture.array::<Backend>(maps::BACKENDS).get(&id, 0).expect("a record");
            fixture.change::<Backend>(maps::BACKENDS, NOBODY, |backend| *backend = copy);
            format!("backend {NOBODY} (")
        }),
        ruin(maps::NODE_PORTS, "missing", Invariant::NodePorts, |fixture, chance| {
            let (key, _) = any::<ServiceKey, Peer>(fixture, maps::NODE_PORTS, chance);
            fixture.delete::<_, Peer>(maps::NODE_PORTS, &key);
            format!("node port of service playground/web on node (IPv{})", key.version())
        }),
        ruin(maps::NODE_PORTS, "dangling", Invariant::NodePorts, |fixture, chance| {
            let (key, peer) = any::<ServiceKey, Peer>(fixture, maps::NODE_PORTS, chance);
            fixture.put(maps::NODE_PORTS, key, Peer { port: [0, 9], ..peer });
            "node port of service playground/web".to_owned()
        }),
    ]
}

fn flows() -> Vec<Corruption> {
    vec![
        ruin(maps::FLOWS4, "half", Invariant::FlowPair, |fixture, chance| {
            lose_half::<[u8; 4]>(fixture, maps::FLOWS4, chance)
        }),
        ruin(maps::FLOWS4, "dangling", Invariant::FlowBackend, |fixture, chance| {
            spoil_flow::<[u8; 4]>(fixture, maps::FLOWS4, chance, |flow| flow.backend = NOBODY)
        }),
        ruin(maps::FLOWS4, "from the future", Invariant::FlowClock, |fixture, chance| {
            spoil_flow::<[u8; 4]>(fixture, maps::FLOWS4, chance, |flow| flow.tick = LATE)
        }),
        ruin(maps::FLOWS6, "half", Invariant::FlowPair, |fixture, chance| {
            lose_half::<[u8; 16]>(fixture, maps::FLOWS6, chance)
        }),
        ruin(maps::FLOWS6, "wrong sum", Invariant::FlowChecksum, |fixture, chance| {
            spoil_flow::<[u8; 16]>(fixture, maps::FLOWS6, chance, |flow| flow.port_delta ^= 0x4321)
        }),
        ruin(maps::FLOWS6, "stale", Invariant::FlowBackend, |fixture, chance| {
            spoil_flow::<[u8; 16]>(fixture, maps::FLOWS6, chance, |flow| flow.generation += 7)
        }),
        ruin(maps::FLOWS4, "extra", Invariant::FlowRecord, |fixture, _| {
            stray(fixture, maps::FLOWS4, [203, 0, 113, 1], [10, 96, 0, 1], [10, 244, 1, 9]);
            "203.0.113.1".to_owned()
        }),
        ruin(maps::FLOWS6, "extra", Invariant::FlowRecord, |fixture, _| {
            let address = |last| Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, last).octets();
            stray(fixture, maps::FLOWS6, address(1), address(2), address(3));
            "2001:db8:9::1".to_owned()
        }),
    ]
}

fn side() -> Vec<Corruption> {
    vec![
        ruin(maps::AFFINITY, "dangling", Invariant::Affinity, |fixture, chance| {
            // Of a Service that keeps clients: others' are swept at once.
            let kept = fixture.entries::<ServiceKey, Service>(maps::SERVICES).into_iter();
            let kept: Vec<_> = kept.filter(|(_, service)| service.affinity_ticks != 0).collect();
            let (_, service) = chance.of(&kept);
            let key = AffinityKey { client: [0xcb00_7102, 0], service: service.affinity_id, kind: 4, zero: [0; 3] };
            fixture.put(
                maps::AFFINITY,
                key,
                Affinity { backend: NOBODY, tick: now(), generation: 1, port: [0, 80], place: 0 },
            );
            "203.0.113.2".to_owned()
        }),
        ruin(maps::SOCKETS, "wrong", Invariant::Sockets, |fixture, _| {
            let peer = |family| Peer::new(family, TCP, [10; 16], [0, 80]);
            fixture.put(maps::SOCKETS, SocketKey { cookie: 4711, peer: peer(4) }, peer(6));
            "socket 4711".to_owned()
        }),
        ruin(maps::FRAGMENTS4, "from the future", Invariant::Fragments, |fixture, _| {
            let key = FragmentKey::new([203, 0, 113, 3], [10, 96, 0, 1], 815, UDP);
            let first = Fragment { src_port: [1, 1], dst_port: [0, 53], tick: LATE, protocol: UDP, zero: [0; 7] };
            fixture.put(maps::FRAGMENTS4, key, first);
            "datagram 815 from 203.0.113.3".to_owned()
        }),
        ruin(maps::FRAGMENTS6, "wrong", Invariant::Fragments, |fixture, _| {
            let key = FragmentKey::new([0x20; 16], [0xfd; 16], 816, 0);
            let first = Fragment { src_port: [1, 1], dst_port: [0, 53], tick: now(), protocol: 1, zero: [0; 7] };
            fixture.put(maps::FRAGMENTS6, key, first);
            "datagram 816".to_owned()
        }),
    ]
}

fn counters() -> Vec<Corruption> {
    let unrepaired = |corruption| Corruption { is_repaired: false, ..corruption };
    vec![
        unrepaired(ruin(maps::REASONS, "extra", Invariant::Counters, |fixture, _| {
            fixture.change_copies::<ReasonCount>(maps::REASONS, 251, |count| count.packets += 1);
            "reason 251".to_owned()
        })),
        unrepaired(ruin(maps::SERVICE_STATS, "wrong", Invariant::Counters, |fixture, chance| {
            let (_, service) = service(fixture, chance);
            fixture.change_copies::<Traffic>(maps::SERVICE_STATS, service.id, |traffic| traffic.packets += 1 << 40);
            "service playground/".to_owned()
        })),
        unrepaired(ruin(maps::BACKEND_STATS, "wrong", Invariant::Counters, |fixture, chance| {
            let id = backend(fixture, chance);
            fixture.change_copies::<Traffic>(maps::BACKEND_STATS, id, |traffic| traffic.reply_packets += 1 << 40);
            format!("backend {id} (")
        })),
        ruin(maps::BUDGETS, "from the future", Invariant::Budgets, |fixture, _| {
            fixture.change_copies::<Budget>(maps::BUDGETS, 0, |budget| budget.tick = LATE);
            "budget of CPU 0".to_owned()
        }),
    ]
}

impl Corruption {
    /// Undoes what the audit leaves alone, on counters.
    pub fn put_back(&self, fixture: &Fixture) {
        match self.map {
            maps::REASONS => fixture.change_copies::<ReasonCount>(maps::REASONS, 251, |count| count.packets -= 1),
            map => {
                for id in 0..64 {
                    fixture.change_copies::<Traffic>(map, id, |traffic| {
                        traffic.packets &= (1 << 40) - 1;
                        traffic.reply_packets &= (1 << 40) - 1;
                    });
                }
            }
        }
    }
}

/// All of them, or one for each map by chance.
pub fn chosen(chance: &mut Chance, is_full: bool) -> Vec<Corruption> {
    let mut all = all();
    if is_full {
        return all;
    }
    let maps: BTreeSet<&str> = all.iter().map(|corruption| corruption.map).collect();
    let mut chosen = Vec::new();
    for map in maps {
        let places: Vec<usize> = (0..all.len()).filter(|place| all[*place].map == map).collect();
        chosen.push(all.swap_remove(chance.of(&places)));
    }
    chosen
}
