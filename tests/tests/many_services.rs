//! Services by the thousand, of every kind, come, change and go, and leave nothing behind in the maps of a real datapath.

use lb_common::maps::SERVICES;
use lb_ctl::daemon::options::HealthzAddress;
use lb_ctl::daemon::{ByHand, Config, Options};
use lb_ctl::datapath::{self, Datapath};
use lb_ctl::image::{DRAIN, GRACE};
use lb_ctl::maps::{Image, LbMaps as _, PinnedMaps};
use lb_ctl::objects::{Key, Kind, ObjectId};
use lb_ctl::playground::topology::Node;
use lb_tests::fixture::{Setup, bare};
use lb_tests::needs_datapath;
use std::fmt::Write as _;
use std::ops::Range;
use std::time::Instant;

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

/// Services in a run that may take its time, and in one that may not.
const MANY: u32 = 10_000;
const SOME: u32 = 1000;
/// Slots of a Maglev table.
const TABLE: u32 = 251;
/// In so many steps they come, change and go.
const STEPS: u32 = 4;
/// Room for all of them.
const MAX_FLOWS: u32 = 1 << 17;

/// Writes the manifests of a Service of this number.
type Writer = fn(u32, &mut Text);

/// Kinds of Services, with how many records each has in the maps; one that keeps outsiders to this node has one more, for the
/// cluster's own clients.
const KINDS: [(Writer, usize); 10] = [
    (plain, 1),
    (dual, 4),
    (node_port, 4),
    (load_balancer, 4),
    (headless, 0),
    (external_name, 0),
    (by_selector, 1),
    (sctp, 1),
    (many_ports, 8),
    (local, 3),
];

/// Manifests being written, before or after a change of every Service.
struct Text {
    text: String,
    changed: bool,
}

impl Text {
    fn service(&mut self, number: u32, spec: &str) {
        self.annotated(number, "", spec);
    }

    fn annotated(&mut self, number: u32, annotations: &str, spec: &str) {
        writeln!(
            self.text,
            "---
apiVersion: v1
kind: Service
metadata: {{ name: s-{number}, namespace: many, annotations: {{ {annotations} }} }}
spec:
{spec}"
        )
        .expect("a String takes all");
    }

    /// A slice with three endpoints of a family, one of which is another after the change.
    fn slice(&mut self, number: u32, family: u8, ports: &str) {
        let address = |index: u32| {
            let place = (number * 7 + index * 13) % 4096;
            match family {
                4 => format!("10.200.{}.{}", place >> 8, place & 255),
                _ => format!("\"fd00:200::{place:x}\""),
            }
        };
        writeln!(
            self.text,
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: s-{number}-v{family}, namespace: many, labels: {{ kubernetes.io/service-name: s-{number} }} }}
addressType: IPv{family}
ports: [{ports}]
endpoints:
- {{ addresses: [{}], nodeName: node-1, conditions: {{ ready: true }} }}
- {{ addresses: [{}], nodeName: node-2, conditions: {{ ready: true }} }}
- {{ addresses: [{}], nodeName: node-2, conditions: {{ ready: false, serving: true, terminating: true }} }}",
            address(0),
            address(if self.changed { 2 } else { 1 }),
            address(3),
        )
        .expect("a String takes all");
    }
}

/// A Maglev table, every other time and every time after the change.
fn plain(number: u32, text: &mut Text) {
    let algorithm = if text.changed || number.is_multiple_of(20) { "maglev" } else { "random" };
    text.annotated(number, &format!("lb-ctl/algorithm: {algorithm}"), "  ports: [{ port: 80, targetPort: 8080 }]");
    text.slice(number, 4, "{ port: 8080 }");
}

fn dual(number: u32, text: &mut Text) {
    text.service(
        number,
        "  ipFamilyPolicy: RequireDualStack
  ports: [{ name: a, port: 80, targetPort: 8080 }, { name: b, port: 53, protocol: UDP }]",
    );
    for family in [4, 6] {
        text.slice(number, family, "{ name: a, port: 8080 }, { name: b, port: 53, protocol: UDP }");
    }
}

fn node_port(number: u32, text: &mut Text) {
    let ports = "[{ name: a, port: 53 }, { name: b, port: 53, protocol: UDP }]";
    text.service(number, &format!("  type: NodePort\n  ports: {ports}"));
    text.slice(number, 4, "{ name: a, port: 53 }, { name: b, port: 53, protocol: UDP }");
}

fn load_balancer(number: u32, text: &mut Text) {
    let (high, low) = (number >> 8 & 255, number & 255);
    let timeout = if text.changed { 60 } else { 600 };
    text.service(
        number,
        &format!(
            "  type: LoadBalancer
  sessionAffinity: ClientIP
  sessionAffinityConfig: {{ clientIP: {{ timeoutSeconds: {timeout} }} }}
  externalIPs: [10.150.{high}.{low}]
  ports: [{{ port: 443 }}]
status: {{ loadBalancer: {{ ingress: [{{ ip: 10.151.{high}.{low} }}, {{ ip: 10.152.0.1, ipMode: Proxy }}] }} }}"
        ),
    );
    text.slice(number, 4, "{ port: 443 }");
}

fn headless(number: u32, text: &mut Text) {
    text.service(number, "  clusterIP: None\n  ports: [{ port: 80 }]");
    text.slice(number, 4, "{ port: 80 }");
}

fn external_name(number: u32, text: &mut Text) {
    let name = if text.changed { "b" } else { "a" };
    text.service(number, &format!("  type: ExternalName\n  externalName: {name}.example.com"));
}

/// Endpoints from Pods, of which one is not ready.
fn by_selector(number: u32, text: &mut Text) {
    let publish = text.changed;
    text.service(
        number,
        &format!(
            "  selector: {{ app: s-{number} }}
  publishNotReadyAddresses: {publish}
  ports: [{{ port: 80, targetPort: web }}]"
        ),
    );
    for (pod, ready) in [("a", "True"), ("b", "False")] {
        let place = number * 2 + u32::from(pod == "b");
        write!(
            text.text,
            "---
apiVersion: v1
kind: Pod
metadata: {{ name: s-{number}-{pod}, namespace: many, labels: {{ app: s-{number} }} }}
spec: {{ nodeName: node-1, containers: [{{ name: c, ports: [{{ name: web, containerPort: 8080 }}] }}] }}
status: {{ podIP: 10.201.{}.{}, conditions: [{{ type: Ready, status: \"{ready}\" }}] }}
",
            place >> 8 & 255,
            place & 255
        )
        .expect("a String takes all");
    }
}

fn sctp(number: u32, text: &mut Text) {
    text.service(number, "  sessionAffinity: ClientIP\n  ports: [{ port: 3868, protocol: SCTP }]");
    text.slice(number, 4, "{ port: 3868, protocol: SCTP }");
}

fn many_ports(number: u32, text: &mut Text) {
    let first = if text.changed { 2000 } else { 1000 };
    let ports: Vec<String> =
        (0..8).map(|index| format!("{{ name: p{index}, port: {}, targetPort: 8080 }}", first + index)).collect();
    text.service(number, &format!("  ports: [{}]", ports.join(", ")));
    let ports: Vec<String> = (0..8).map(|index| format!("{{ name: p{index}, port: 8080 }}")).collect();
    text.slice(number, 4, &ports.join(", "));
}

fn local(number: u32, text: &mut Text) {
    let policy = if text.changed { "Cluster" } else { "Local" };
    text.service(
        number,
        &format!(
            "  type: NodePort
  externalTrafficPolicy: {policy}
  internalTrafficPolicy: Local
  ports: [{{ port: 80 }}]"
        ),
    );
    text.slice(number, 4, "{ port: 80 }");
}

fn manifests(numbers: Range<u32>, changed: bool) -> String {
    let mut text = Text { text: String::new(), changed };
    for number in numbers {
        KINDS[number as usize % KINDS.len()].0(number, &mut text);
    }
    text.text
}

/// Every object of these Services.
fn objects(numbers: Range<u32>) -> Vec<ObjectId> {
    let named = |kind, name: String| ObjectId { kind, key: Key::new("many", name) };
    let of = |number: u32| {
        let mut all = vec![named(Kind::Service, format!("s-{number}"))];
        match number % 10 {
            5 => {}
            6 => all.extend(["a", "b"].map(|pod| named(Kind::Pod, format!("s-{number}-{pod}")))),
            1 => all.extend([4, 6].map(|family| named(Kind::EndpointSlice, format!("s-{number}-v{family}")))),
            _ => all.push(named(Kind::EndpointSlice, format!("s-{number}-v4"))),
        }
        all
    };
    numbers.flat_map(of).collect()
}

/// A daemon and its maps.
struct Running {
    daemon: ByHand,
    maps: PinnedMaps,
    start: Instant,
}

impl Running {
    fn image(&self) -> Image {
        self.maps.read().expect("the maps are read")
    }

    fn tell(&self, what: &str) {
        let image = self.image();
        println!(
            "{:>6.1} s  {what}: {} records of {}, {} slots, {} backends",
            self.start.elapsed().as_secs_f64(),
            image.services.len(),
            self.maps.capacity(SERVICES),
            image.slots.len(),
            image.backends.len()
        );
    }

    /// Nothing is left to be done, and no Service is refused.
    fn check(&mut self, what: &str) {
        let plan = self.daemon.plan(None).expect("a plan");
        assert!(!plan.is_change(), "{what}: {} writes are left to be done", plan.writes);
        self.tell(what);
    }

    /// Applies manifests: what happens is what the plan said.
    fn apply(&mut self, manifests: &str) {
        let plan = self.daemon.plan(Some(manifests)).expect("a plan");
        self.daemon.apply(manifests).unwrap_or_else(|why| panic!("{why}"));
        let after = self.image();
        let entries = |name| plan.maps.iter().find(|map| map.name == name).map(|map| map.entries_after);
        assert_eq!(entries(SERVICES), Some(after.services.len()));
        assert_eq!(entries(lb_common::maps::BACKENDS), Some(after.backends.len()));
    }
}

fn start(bpffs: std::path::PathBuf) -> Running {
    let options = datapath::Options { bpffs: bpffs.clone(), max_flows: MAX_FLOWS, ..datapath::Options::default() };
    let (datapath, clock) = Datapath::open_with_clock(&options).expect("the datapath is loaded");
    let maps = datapath.maps();
    let config = Config::resolve(Options {
        interfaces: vec!["eth0".parse().expect("a name")],
        node_name: Some("node-1".to_owned()),
        service_cidrs: ["10.96.0.0/16", "fd00:96::/108"].map(|cidr| cidr.parse().expect("a network")).to_vec(),
        node_port_range: Some("10000-32767".parse().expect("a range")),
        max_flows: Some(MAX_FLOWS),
        maglev_table_size: Some(TABLE),
        bpffs: Some(bpffs),
        healthz_address: Some(HealthzAddress(None)),
        ..Options::default()
    });
    let mut daemon = ByHand::new(config.expect("settings"), datapath, clock).expect("a daemon");
    daemon.look().expect("the network is seen");
    Running { daemon, maps, start: Instant::now() }
}

fn come_and_go(running: &mut Running, count: u32) {
    let batches = || (0..STEPS).map(|step| count * step / STEPS..count * (step + 1) / STEPS);
    let before = running.image();
    running.check("at first");
    for numbers in batches() {
        running.apply(&manifests(numbers, false));
    }
    running.check("loaded");
    let records: usize = (0..count).map(|number| KINDS[number as usize % KINDS.len()].1).sum();
    assert_eq!(running.image().services.len(), records, "every way into every Service has its record");

    for numbers in batches() {
        running.apply(&manifests(numbers, true));
    }
    running.check("changed");
    let kept_local = count as usize / KINDS.len();
    assert_eq!(running.image().services.len(), records - kept_local, "outsiders go anywhere now");

    for numbers in batches() {
        running.daemon.delete(objects(numbers)).unwrap_or_else(|why| panic!("{why}"));
    }
    running.check("deleted");
    assert!(running.image().services.is_empty() && running.image().slots.is_empty());

    // What flows may refer to rests for a while.
    running.daemon.set_ahead(DRAIN + GRACE).expect("time moves");
    running.daemon.look().expect("the network is seen");
    running.check("rested");
    assert!(running.image() == before, "something is left over:\n{}", running.image());
}

#[test]
fn services_of_every_kind_come_change_and_go_and_leave_nothing_behind() {
    needs_datapath!();
    let count = if std::env::var_os("LB_FULL").is_some() { MANY } else { SOME };
    let playground = bare(BINARY, Setup::DEMO);
    let bpffs = playground.name().bpffs();
    let lived = playground.node_space(Node::One).run(move || come_and_go(&mut start(bpffs), count));
    lived.expect("the namespace is entered");
}
