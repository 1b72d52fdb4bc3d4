//! The audit finds what is wrong with the live maps, repairs what it says it does, and finds nothing on a healthy node.

use lb_common::maps;
use lb_common::{
    Affinity, AffinityKey, Backend, Budget, Device, Flow, FlowKey, Fragment, FragmentKey, NetworkKey, NextHop, Owned,
    Peer, ReasonCount, Service, ServiceKey, Settings, Slot, SocketKey, TCP, Traffic, UDP, gate, network,
};
use lb_ctl::api::{AuditAnswer, Finding};
use lb_ctl::audit::{Invariant, UNPROMISED};
use lb_ctl::playground::client::Connection;
use lb_ctl::playground::manifests;
use lb_tests::fixture::{Fixture, Setup, node_port};
use lb_tests::{needs_datapath, traffic};
use std::collections::BTreeSet;
use std::env;
use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

/// How long the churn goes on.
const CHURN: Duration = Duration::from_secs(20);
/// A tick that is long to come.
const LATE: u32 = u32::MAX / 2;
/// Ids that nobody ever had.
const NOBODY: u32 = 4000;

/// Runs `lb-ctl audit`: its exit code and what it found.
fn audit(fixture: &Fixture, repair: bool) -> (i32, AuditAnswer) {
    let mut command = Command::new(BINARY);
    command.args(["audit", "-o", "json"]).args(repair.then_some("--repair")).arg("--socket").arg(fixture.socket());
    let output = command.output().expect("the CLI runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let answer = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().expect("an exit code"), answer)
}

/// Numbers that look like chance, the same for the same seed (splitmix64).
struct Chance(u64);

impl Chance {
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
struct Corruption {
    map: &'static str,
    kind: &'static str,
    invariant: Invariant,
    /// Whether the next audit after a repair finds nothing.
    is_repaired: bool,
    spoil: fn(&Fixture, &mut Chance) -> String,
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
    A: Copy + 'static,
    FlowKey<A>: aya::Pod,
    Flow<A>: aya::Pod,
{
    let all = fixture.entries::<FlowKey<A>, Flow<A>>(map);
    // Those that are over belong to nobody's connection, and may expire meanwhile.
    let live = all
        .into_iter()
        .filter(|(key, flow)| key.protocol == TCP && flow.flags & (Flow::<A>::FINS | Flow::<A>::RST) == 0);
    chance.of(&live.collect::<Vec<_>>())
}

fn spoil_flow<A>(fixture: &Fixture, map: &str, chance: &mut Chance, spoil: fn(&mut Flow<A>)) -> String
where
    A: Copy + Into<IpAddr> + 'static,
    FlowKey<A>: aya::Pod,
    Flow<A>: aya::Pod,
{
    let (key, mut flow) = flow::<A>(fixture, map, chance);
    spoil(&mut flow);
    fixture.put(map, key, flow);
    key.src.into().to_string()
}

fn lose_half<A>(fixture: &Fixture, map: &str, chance: &mut Chance) -> String
where
    A: Copy + Into<IpAddr> + 'static,
    FlowKey<A>: aya::Pod,
    Flow<A>: aya::Pod,
{
    let (key, flow) = flow::<A>(fixture, map, chance);
    fixture.delete::<_, Flow<A>>(map, &key);
    flow.partner(key.protocol).src.into().to_string()
}

/// A first packet that nobody sent, of a service port that never was.
fn stray<A: Copy>(fixture: &Fixture, map: &str, src: A, dst: A, to: A)
where
    FlowKey<A>: aya::Pod,
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
        zero: [0; 8],
    };
    // Long enough ago for nobody to be using it, and too short for it to expire.
    settled.tick -= 5;
    fixture.put(map, key, settled);
}

fn now() -> u32 {
    lb_ctl::datapath::conntrack::now()
}

/// Every way, some for each map.
fn corruptions() -> Vec<Corruption> {
    let unrepaired = |corruption| Corruption { is_repaired: false, ..corruption };
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
        ruin(maps::OWNED4, "missing", Invariant::Addresses, |fixture, chance| {
            let (key, _) = address::<[u8; 4]>(fixture, maps::OWNED4, chance);
            fixture.delete::<_, Owned>(maps::OWNED4, &key);
            IpAddr::from(key).to_string()
        }),
        ruin(maps::OWNED4, "dangling", Invariant::Addresses, |fixture, chance| {
            let (key, _) = address::<[u8; 4]>(fixture, maps::OWNED4, chance);
            fixture.put(maps::OWNED4, key, Owned::new(NOBODY));
            IpAddr::from(key).to_string()
        }),
        ruin(maps::OWNED6, "extra", Invariant::Addresses, |fixture, chance| {
            let (_, owned) = address::<[u8; 16]>(fixture, maps::OWNED6, chance);
            let key = std::net::Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0xfffe);
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
            let place = gate::Place::from(address);
            fixture.change::<u64>(maps::GATE, place.word, |bits| *bits &= !place.bit);
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
            let nowhere = lb_common::BackendSet::new(9000, service.backends.count(), 7);
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
            let everywhere = std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0).octets();
            fixture.set_network6(maps::NETWORKS6, NetworkKey::new(network::KEPT, everywhere, 32), true);
            "2001:db8::/32".to_owned()
        }),
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
        ruin(maps::NEW4, "extra", Invariant::FlowRecord, |fixture, _| {
            stray(fixture, maps::NEW4, [203, 0, 113, 1], [10, 96, 0, 1], [10, 244, 1, 9]);
            "203.0.113.1".to_owned()
        }),
        ruin(maps::NEW6, "extra", Invariant::FlowRecord, |fixture, _| {
            let address = |last| std::net::Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, last).octets();
            stray(fixture, maps::NEW6, address(1), address(2), address(3));
            "2001:db8:9::1".to_owned()
        }),
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

/// Counters that the audit leaves alone are put back by the test.
fn put_back(fixture: &Fixture, corruption: &Corruption) {
    match corruption.map {
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

/// One of each map's corruptions by chance, and as many more as make at least twenty; all with `LB_FULL`.
fn chosen(chance: &mut Chance) -> Vec<Corruption> {
    let mut all = corruptions();
    if env::var_os("LB_FULL").is_some() {
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

/// Connections that are confirmed and then idle, of both families.
fn idle(fixture: &Fixture) -> Vec<Connection> {
    let ways = fixture.cluster().into_iter().chain(node_port());
    let open = |to| {
        let mut connection = fixture.client().connect(to).expect("the Service answers");
        (0..2).for_each(|_| drop(connection.get().expect("the Service answers")));
        connection
    };
    let open: Vec<Connection> = ways.map(open).collect();
    // The last acknowledgement comes late, and would put right what is spoiled before it.
    thread::sleep(Duration::from_millis(300));
    open
}

#[test]
fn every_corruption_of_the_maps_is_found_named_and_repaired() {
    needs_datapath!();
    let seed =
        env::var("LB_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| u64::from(std::process::id()));
    println!("LB_SEED={seed} repeats this");
    let mut chance = Chance(seed);
    let fixture = Fixture::with(BINARY, Setup::DEMO, &["--audit-interval=0", "--cluster-cidr=10.244.0.0/16"]);
    let kept = manifests::numbers().replace("  selector:", "  sessionAffinity: ClientIP\n  selector:");
    fixture.apply(&kept).expect("the CLI applies");
    let everything = chosen(&mut chance);
    assert!(everything.len() >= 20, "{} corruptions", everything.len());
    let spoiled: BTreeSet<&str> = everything.iter().map(|corruption| corruption.map).chain(UNPROMISED).collect();
    assert_eq!(spoiled, maps::MAPS.iter().map(|map| map.name).collect(), "every map is spoiled");

    assert_eq!(audit(&fixture, false).0, 0, "nothing is wrong at first");
    for corruption in &everything {
        let what = format!("LB_SEED={seed}: {} {}", corruption.map, corruption.kind);
        let connections = idle(&fixture);
        let object = (corruption.spoil)(&fixture, &mut chance);
        let (code, answer) = audit(&fixture, true);
        assert_eq!(code, 1, "{what}: {answer:?}");
        let is_it = |finding: &&Finding| {
            finding.invariant == corruption.invariant.name()
                && finding.map == corruption.map
                && (finding.object.contains(&object) || finding.detail.contains(&object))
        };
        let finding = answer.findings.iter().find(is_it);
        let finding = finding.unwrap_or_else(|| panic!("{what}: nothing about {object:?} in {:#?}", answer.findings));
        println!("{what}: {}: {}", finding.object, finding.detail);
        assert_eq!(finding.repaired, corruption.is_repaired, "{what}: {answer:#?}");
        assert_eq!(corruption.is_repaired, !corruption.invariant.repair().is_empty(), "{what}: as documented");
        if !corruption.is_repaired {
            put_back(&fixture, corruption);
        }
        let (code, answer) = audit(&fixture, false);
        assert_eq!(code, 0, "{what}: {answer:#?}");
        traffic::one_each(&fixture).unwrap_or_else(|error| panic!("{what}: {error}"));
        drop(connections);
    }
}

#[test]
fn a_lost_half_of_a_connection_is_made_again() {
    needs_datapath!();
    let fixture = Fixture::with(BINARY, Setup::DEMO, &["--audit-interval=0"]);
    let mut connections = idle(&fixture);
    let replies: Vec<_> = fixture
        .entries::<FlowKey<[u8; 4]>, Flow<[u8; 4]>>(maps::FLOWS4)
        .into_iter()
        .filter(|(_, flow)| flow.is_reply())
        .collect();
    assert!(replies.len() >= 2, "{replies:?}");
    for (key, _) in &replies {
        fixture.delete::<_, Flow<[u8; 4]>>(maps::FLOWS4, key);
    }
    let (code, answer) = audit(&fixture, true);
    assert_eq!((code, answer.findings.len()), (1, replies.len()), "{answer:#?}");
    let now = fixture.entries::<FlowKey<[u8; 4]>, Flow<[u8; 4]>>(maps::FLOWS4);
    for (key, lost) in &replies {
        let (_, made) = now.iter().find(|(other, _)| other == key).expect("it is there again");
        assert_eq!(
            (made.src, made.dst, made.src_port, made.dst_port),
            (lost.src, lost.dst, lost.src_port, lost.dst_port)
        );
        assert_eq!(
            (made.address_delta, made.port_delta, made.backend),
            (lost.address_delta, lost.port_delta, lost.backend)
        );
    }
    for connection in &mut connections {
        connection.get().expect("the connection lives on");
    }
    assert_eq!(audit(&fixture, false).0, 0);
}

#[test]
fn the_daemon_repairs_by_itself_and_says_so() {
    needs_datapath!();
    let fixture = Fixture::with(BINARY, Setup::DEMO, &["--audit-interval=1"]);
    for (key, _) in fixture.entries::<ServiceKey, Service>(maps::SERVICES) {
        fixture.delete::<_, Service>(maps::SERVICES, &key);
    }
    let deadline = Instant::now() + Duration::from_secs(15);
    while traffic::one_each(&fixture).is_err() {
        assert!(Instant::now() < deadline, "the Service does not come back: {}", fixture.log());
        thread::sleep(Duration::from_millis(100));
    }
    // The round that repaired ends a little later.
    let audited = loop {
        let audited = fixture.status().expect("the daemon answers").audit;
        if audited.repaired > 0 || Instant::now() > deadline {
            break audited;
        }
        thread::sleep(Duration::from_millis(100));
    };
    assert!(audited.found > 0 && audited.found == audited.repaired, "{audited:?}");
    assert!(audited.latest.iter().all(|finding| finding.invariant == "services"), "{audited:?}");
    assert!(fixture.log().contains("the audit found: it is missing"), "{}", fixture.log());
}

/// A Service that comes and goes, with these of the pods behind it.
fn passing(number: u64, ready: bool) -> String {
    let name = number % 5;
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{ name: passing-{name}, namespace: playground }}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  sessionAffinity: {}
  selector: {{ app: web }}
  ports:
  - {{ name: a, port: 80, targetPort: 8080 }}
  - {{ name: b, port: 53, targetPort: 8080, protocol: UDP }}
---
apiVersion: v1
kind: Service
metadata: {{ name: slices, namespace: playground }}
spec: {{ ports: [{{ port: 80, targetPort: 8080 }}] }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: slices-1, namespace: playground, labels: {{ kubernetes.io/service-name: slices }} }}
addressType: IPv4
ports: [{{ port: 8080 }}]
endpoints:
- addresses: [\"10.244.9.{}\"]
  conditions: {{ ready: {ready} }}
- addresses: [\"10.244.9.{}\"]
",
        if ready { "ClientIP" } else { "None" },
        number % 200 + 1,
        (number + 1) % 200 + 1,
    )
}

#[test]
fn nothing_is_found_while_services_endpoints_and_connections_come_and_go() {
    needs_datapath!();
    let fixture = Fixture::with(BINARY, Setup::DEMO, &["--audit-interval=1"]);
    let (over, asked, applied) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let (fixture, over) = (&fixture, &over);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                fixture.apply(&passing(number, number % 2 == 0)).expect("the CLI applies");
                if number % 3 == 2 {
                    let name = format!("passing-{}", number % 5);
                    fixture.cli(&["delete", "service", &name, "-n", "playground"], "").expect("the CLI deletes");
                }
                applied.fetch_add(1, Ordering::Relaxed);
            }
        });
        for to in fixture.cluster().into_iter().chain(node_port()) {
            let asked = &asked;
            scope.spawn(move || {
                let mut held = Vec::new();
                for number in 0usize.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let mut connection = fixture.client().connect(to).expect("the Service answers");
                    connection.get().expect("the Service answers");
                    // Some end, some stay and are used again.
                    if number % 4 == 0 {
                        held.push(connection);
                    }
                    if let Some(place) = number.checked_rem(held.len()) {
                        held[place].get().expect("the connection lives on");
                    }
                    held.truncate(50);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let deadline = Instant::now() + CHURN;
        let mut audits = 0;
        let clean = loop {
            let (code, answer) = audit(fixture, false);
            if code != 0 || Instant::now() > deadline {
                break (code, answer);
            }
            audits += 1;
            thread::sleep(Duration::from_millis(200));
        };
        over.store(true, Ordering::Relaxed);
        assert_eq!(clean.0, 0, "after {audits} audits: {:#?}", clean.1);
        assert!(audits > 3, "only {audits} audits");
    });
    let audited = fixture.status().expect("the daemon answers").audit;
    let (asked, applied) = (asked.into_inner(), applied.into_inner());
    println!("{asked} connections, {applied} changes, {} rounds in the background", audited.rounds);
    assert!(asked > 500 && applied > 20 && audited.rounds > 0, "{asked} {applied} {audited:?}");
    assert_eq!(audited.found, 0, "{audited:#?}");
}

/// Confirmed connections of a client with so many ports, made of one that there is.
fn multiply(fixture: &Fixture, count: u16) {
    let all = fixture.entries::<FlowKey<[u8; 4]>, Flow<[u8; 4]>>(maps::FLOWS4);
    let (key, flow) =
        all.iter().find(|(_, flow)| !flow.is_reply() && flow.flags & Flow::<[u8; 4]>::SNAT == 0).expect("a flow");
    let (_, reply) = all.iter().find(|(other, _)| *other == flow.partner(TCP)).expect("its other direction");
    let mut flows = fixture.hash::<FlowKey<[u8; 4]>, Flow<[u8; 4]>>(maps::FLOWS4);
    for port in 1..=count {
        let port = port.to_be_bytes();
        let (key, flow) = (FlowKey { src_port: port, ..*key }, Flow { src_port: port, ..*flow });
        flows.insert(key, flow, 0).expect("room for a flow");
        flows.insert(flow.partner(TCP), Flow { dst_port: port, ..*reply }, 0).expect("room for a flow");
    }
}

#[test]
fn a_round_costs_little_for_each_entry_and_waits_between_its_pieces() {
    needs_datapath!();
    let fixture = Fixture::with(BINARY, Setup::DEMO, &["--audit-interval=1"]);
    // One at least is with a pod of this node, whose client keeps its address.
    let _connections: Vec<_> = (0..5).flat_map(|_| idle(&fixture)).collect();
    let services: String = (0..300).map(|number| {
        format!("---\napiVersion: v1\nkind: Service\nmetadata: {{ name: many-{number}, namespace: playground }}\nspec: {{ ipFamilyPolicy: RequireDualStack, selector: {{ app: web }}, ports: [{{ port: 80, targetPort: 8080 }}] }}\n")
    }).collect();
    fixture.apply(&services).expect("the CLI applies");
    multiply(&fixture, 8000);
    let (code, answer) = audit(&fixture, false);
    assert_eq!(code, 0, "{answer:#?}");
    assert!(answer.entries > 16_000, "{answer:?}");
    let each = answer.busy_micros as f64 / answer.entries as f64;
    println!("{} entries in {} ms: {each:.2} us each", answer.entries, answer.busy_micros / 1000);
    // A code without optimization takes several times as long as one with.
    assert!(each < 60.0, "{each} us for an entry");

    let rounds = || fixture.status().expect("the daemon answers").audit;
    let begun = Instant::now();
    let first = rounds().rounds;
    while rounds().rounds < first + 2 && begun.elapsed() < Duration::from_secs(120) {
        thread::sleep(Duration::from_millis(200));
    }
    let audited = rounds();
    assert!(audited.rounds >= first + 2 && audited.found == 0, "{audited:?}");
    // The whole of the second round lies in this time, and its pauses are 49 times its work.
    let share = audited.busy_micros as f64 / begun.elapsed().as_micros() as f64;
    println!("{:.2}% of one CPU in the background", share * 100.0);
    assert!(share < 0.03, "{share}");
}
