//! What is asked of every input, whoever made it up: a fuzzer, or a file of seeds.
//!
//! Each function takes bytes and panics where a promise is broken. The targets in `fuzz_targets/` hand them what libFuzzer
//! finds; the tests here hand them the seeds.

use hickory_proto::op::{Edns, Message, OpCode, Query};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use jiff::Timestamp;
use lb_ctl::api::{ApplyRequest, DeleteRequest, catalogue};
use lb_ctl::dns::{Dns, Settings, Transport};
use lb_ctl::manifest::{self, Diagnostic, Parsed};
use lb_ctl::model::{NodeView, services};
use lb_ctl::objects::{Object, Objects};
use lb_ctl::store::{Applied, Options, Rejected, SourceId, Store};
use lb_ebpf::Hook;
use lb_memory::frames::{self, Flags};
use lb_memory::generator::{Case, World};
use lb_memory::node::{INSIDE, UPLINK};
use lb_memory::small::{FAR, Family, LOCAL_1, ON_HOST, SINGLE, WEB};
use lb_memory::trial::{Interfaces, Trial};
use lb_oracle::ledger::Told;
use std::cell::RefCell;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::runtime::{Builder, Runtime};

const INTERFACES: Interfaces = Interfaces { uplink: UPLINK, inside: INSIDE };

fn trial() -> Trial {
    Trial::new(INTERFACES, &Case { world: World::default(), revalidated: true, answered: 0, steps: Vec::new() }, 10_001)
}

/// The hook and interface that a byte stands for.
fn place(byte: u8) -> (Hook, u32) {
    match byte % 5 {
        0 => (Hook::Xdp, UPLINK),
        1 => (Hook::Ingress, UPLINK),
        2 => (Hook::Ingress, INSIDE),
        3 => (Hook::Egress, UPLINK),
        _ => (Hook::Egress, INSIDE),
    }
}

/// A hook (one byte) and a frame. Twice, so that it also meets the flow it may have made. The oracle judges both.
pub fn frame(data: &[u8]) {
    let Some((first, frame)) = data.split_first() else { return };
    let (hook, ifindex) = place(*first);
    let mut trial = trial();
    for _ in 0..2 {
        if let Err(fault) = trial.frame(hook, ifindex, frame.to_vec()) {
            panic!("{fault}");
        }
    }
}

/// A hook (one byte) and a frame that meets flows which are there already, in both directions.
pub fn reply(data: &[u8]) {
    let Some((first, frame)) = data.split_first() else { return };
    let (hook, ifindex) = place(*first);
    let mut trial = trial();
    for request in requests() {
        let told = trial.frame(Hook::Ingress, UPLINK, request);
        assert!(matches!(told, Ok(Told::Requested(..))), "the request is translated");
    }
    if let Err(fault) = trial.frame(hook, ifindex, frame.to_vec()) {
        panic!("{fault}");
    }
}

/// Requests that make the flows of [`reply`].
fn requests() -> Vec<Vec<u8>> {
    let mut requests = Vec::new();
    for family in Family::BOTH {
        let client = |port| SocketAddr::new(family.client(), port);
        requests.push(frames::udp(client(1), family.cluster(WEB, 53), b"query"));
        for (port, service) in [(2, SINGLE), (3, ON_HOST), (4, FAR)] {
            requests.push(frames::tcp(client(port), family.cluster(service, 80), Flags::Syn, b""));
        }
    }
    requests
}

/// A manifest, through parser and store. Errors name places inside of the text, and leave everything as it was; what is
/// accepted is the same when it is applied again, and when it is applied as it is printed.
pub fn manifest(data: &[u8]) {
    let parsed = manifest::read_bytes(data, "fuzz.yaml", "default");
    let mut store = store();
    if !parsed.errors.is_empty() {
        // What can be read in spite of the errors is judged too.
        check_places(&refusal(store.apply(&SourceId::Cli, parsed, Timestamp::UNIX_EPOCH)), data);
        assert_eq!(*store.snapshot(), Objects::default());
        return;
    }
    let again = parsed.clone();
    match store.apply(&SourceId::Cli, parsed, Timestamp::UNIX_EPOCH) {
        Err(Rejected::Invalid(diagnostics)) => {
            check_places(&diagnostics, data);
            assert_eq!(*store.snapshot(), Objects::default());
        }
        Err(other) => panic!("{other}"),
        Ok(applied) => {
            check_unchanged(&mut store, again);
            for (id, _) in applied.changes {
                let object = store.snapshot().get(&id).expect("it was applied");
                let printed = catalogue::whole(&object).to_string();
                let parsed = manifest::parse(&printed, "printed.json", "default")
                    .unwrap_or_else(|errors| panic!("{printed} is not what it was: {errors:?}"));
                check_unchanged(&mut store, parsed);
            }
        }
    }
}

/// A store as a node has it that balances everything.
fn store() -> Store {
    let options = Options {
        state_file: None,
        service_cidrs: vec!["10.96.0.0/24".parse().expect("a network"), "fd00:96::/112".parse().expect("a network")],
        node_port_range: 30000..=30100,
    };
    let mut store = Store::open(options).expect("a store");
    store.offer(vec!["public=192.0.2.0/28,2001:db8::/120".parse().expect("a pool")]);
    store
}

fn refusal(outcome: Result<Applied, Rejected>) -> Vec<Diagnostic> {
    match outcome {
        Err(Rejected::Invalid(diagnostics)) => diagnostics,
        other => panic!("{other:?}"),
    }
}

fn check_unchanged(store: &mut Store, parsed: Parsed) {
    let before = store.snapshot();
    let applied = store.apply(&SourceId::Cli, parsed, Timestamp::UNIX_EPOCH).expect("it was accepted before");
    assert!(!applied.is_change(), "{:?}", applied.changes);
    assert_eq!(before, store.snapshot());
}

fn check_places(diagnostics: &[Diagnostic], data: &[u8]) {
    assert!(!diagnostics.is_empty(), "refused without a reason");
    let text = String::from_utf8_lossy(data);
    let text = text.replace("\r\n", "\n");
    // A carriage return alone breaks a line for YAML (1.2, 5.4) and not for who looks for the place in an editor: behind one,
    // places are not looked at.
    let is_countable = !text.contains('\r');
    let lines: Vec<&str> = text.split(['\n', '\r']).collect();
    for diagnostic in diagnostics {
        let (line, column) = (diagnostic.line as usize, diagnostic.column as usize);
        // The end of a text whose last line is not ended is told as the line after it.
        assert!(line <= lines.len() + 1, "{diagnostic}: there are {} lines", lines.len());
        assert!(!diagnostic.message.is_empty() && !diagnostic.to_string().contains('\n'), "{diagnostic:?}");
        if is_countable && (1..=lines.len()).contains(&line) {
            // The place after the last character is one too.
            let length = lines[line - 1].chars().count();
            assert!((1..=length + 1).contains(&column), "{diagnostic}: the line has {length} characters");
        }
    }
}

/// A state file, and the body of a request.
pub fn state(data: &[u8]) {
    thread_local! {
        static FOLDER: RefCell<tempfile::TempDir> = RefCell::new(tempfile::tempdir().expect("a folder"));
    }
    FOLDER.with_borrow(|folder| {
        let path = folder.path().join("state.json");
        fs::write(&path, data).expect("a file");
        let options = Options {
            state_file: Some(path.clone()),
            service_cidrs: vec![
                "10.96.0.0/24".parse().expect("a network"),
                "fd00:96::/112".parse().expect("a network"),
            ],
            node_port_range: 30000..=30100,
        };
        if let Err(error) = Store::open(options) {
            assert!(!error.to_string().is_empty());
            assert_eq!(fs::read(&path).expect("it is still there"), data, "what is not understood is left alone");
        }
    });
    let _ = serde_json::from_slice::<ApplyRequest>(data);
    let _ = serde_json::from_slice::<DeleteRequest>(data);
}

/// The DNS server of [`name`], with a Service of each kind.
fn name_server(runtime: &Runtime) -> Dns {
    const SERVICES: [&str; 3] = [
        "{metadata: {name: web, namespace: n}, spec: {clusterIP: 10.96.0.1, ports: [{name: p, port: 80}]}}",
        "{metadata: {name: pods, namespace: n}, spec: {clusterIP: None, ports: [{name: p, port: 80}]}}",
        "{metadata: {name: out, namespace: n}, spec: {type: ExternalName, externalName: a.b}}",
    ];
    let slice = (1..=100).map(|number| format!("{{addresses: [10.1.0.{number}]}}")).collect::<Vec<_>>().join(", ");
    let slice = format!(
        "{{metadata: {{name: pods, namespace: n, labels: {{kubernetes.io/service-name: pods}}}}, addressType: IPv4, \
         ports: [{{name: p, port: 8080}}], endpoints: [{slice}]}}"
    );
    let mut objects = Objects::default();
    for service in SERVICES {
        objects.insert(Object::Service(Arc::new(serde_yaml::from_str(service).expect("a Service"))));
    }
    objects.insert(Object::EndpointSlice(Arc::new(serde_yaml::from_str(&slice).expect("a slice"))));
    // It need not listen.
    let settings = Settings { addresses: vec![SocketAddr::from(([127, 0, 0, 1], 53))], ..Settings::default() };
    let mut dns = Dns::new(settings, runtime.handle().clone());
    dns.follow(&objects.namespaces, &services(&objects, &NodeView::default()));
    dns
}

/// How a message comes (one byte), its length (one byte), the message, and what other servers would answer.
pub fn name(data: &[u8]) {
    thread_local! {
        static SERVER: (Runtime, Dns) = {
            let runtime = Builder::new_current_thread().build().expect("a runtime");
            let dns = name_server(&runtime);
            (runtime, dns)
        };
    }
    let [how, length, rest @ ..] = data else { return };
    let (asked, others) = rest.split_at(rest.len().min(usize::from(*length)));
    let transport = if how & 1 == 0 { Transport::Udp } else { Transport::Tcp };
    SERVER.with(|(_, dns)| {
        let Some(reply) = dns.answer_with(asked, transport, others) else { return };
        if reply == others {
            return;
        }
        assert_eq!(reply[..2], asked[..2], "an answer has the question's number");
        assert!(asked[2] & 0x80 == 0 && reply[2] & 0x80 != 0, "questions are answered, and answers are not");
        assert!(transport == Transport::Tcp || reply.len() <= 1232, "{} bytes are too many", reply.len());
        let message = Message::from_vec(&reply).expect("others can read it");
        assert!(message.queries.len() <= 1);
        assert_eq!(dns.answer_with(&reply, transport, &[]), None, "nobody answers an answer");
    });
}

/// Seeds for [`name`].
fn names() -> Vec<Vec<u8>> {
    let question = |name: &str, kind| {
        let mut message = Message::query();
        // By chance otherwise.
        message.metadata.id = 7;
        message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
        message
    };
    let with = |how: u8, message: Vec<u8>, others: &[u8]| {
        [&[how, u8::try_from(message.len()).expect("short")], message.as_slice(), others].concat()
    };
    let mut seeds = Vec::new();
    for (name, kind) in [
        ("web.n.svc.cluster.local.", RecordType::A),
        ("_p._tcp.pods.n.svc.cluster.local.", RecordType::SRV),
        ("1.0.96.10.in-addr.arpa.", RecordType::PTR),
        ("x.n.svc.cluster.local.", RecordType::ANY),
        ("cluster.local.", RecordType::SOA),
        ("dns-version.cluster.local.", RecordType::TXT),
    ] {
        let mut message = question(name, kind);
        seeds.push(with(0, message.to_vec().expect("a message"), &[]));
        message.set_edns(Edns::new());
        seeds.push(with(1, message.to_vec().expect("a message"), &[]));
    }
    let mut answer = question("a.b.", RecordType::A).into_response();
    let address = RData::A(A::new(192, 0, 2, 1));
    answer.add_answer(Record::from_rdata(Name::from_ascii("a.b.").expect("a name"), 60, address));
    let alias = question("out.n.svc.cluster.local.", RecordType::A).to_vec().expect("a message");
    seeds.push(with(0, alias.clone(), &answer.to_vec().expect("a message")));
    // No answer: only an update's records may be without data.
    answer.add_answer(Record::update0(Name::from_ascii("a.b.").expect("a name"), 60, RecordType::A));
    answer.metadata.op_code = OpCode::Update;
    seeds.push(with(0, alias, &answer.to_vec().expect("a message")));
    seeds
}

/// Seeds for [`frame`], [`reply`] and [`name`]: names and inputs.
pub fn seeds() -> [(&'static str, Vec<Vec<u8>>); 3] {
    let with = |place: u8, frame: Vec<u8>| [vec![place], frame].concat();
    let (mut requests, mut replies) = (Vec::new(), Vec::new());
    for family in Family::BOTH {
        let client = |port| SocketAddr::new(family.client(), port);
        let backend = |id| SocketAddr::new(family.backend(id), lb_memory::small::TARGET_PORT);
        requests.push(with(0, frames::tcp(client(1), family.cluster(WEB, 80), Flags::Syn, b"")));
        requests.push(with(1, frames::udp(client(1), family.cluster(WEB, 53), b"query")));
        requests.push(with(1, frames::echo(family.client(), family.cluster(WEB, 80).ip())));
        requests.push(with(1, frames::other(family.client(), family.cluster(WEB, 80).ip())));
        replies.push(with(2, frames::tcp(backend(LOCAL_1), client(2), Flags::SynAck, b"answer")));
        replies.push(with(2, frames::udp(backend(LOCAL_1), client(1), b"answer")));
        replies.push(with(3, frames::tcp(SocketAddr::new(family.node(), 8080), client(3), Flags::Fin, b"")));
        replies.push(with(1, frames::tcp(client(2), family.cluster(SINGLE, 80), Flags::Ack, b"goes on")));
    }
    [("frames", requests), ("replies", replies), ("names", names())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};

    /// Set to anything, it makes the test write the seeds that are generated.
    const UPDATE: &str = "LB_UPDATE_SEEDS";

    fn folder(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
    }

    fn each(folder: &Path, take: fn(&[u8])) {
        let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let files: Vec<_> = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
        assert!(!files.is_empty(), "{} has no seeds", folder.display());
        for file in files {
            take(&fs::read(file).unwrap());
        }
    }

    #[test]
    fn the_seeds_are_current_and_upset_nothing() {
        for (name, inputs) in seeds() {
            for (index, input) in inputs.iter().enumerate() {
                let path = folder("seeds").join(name).join(format!("{index:02}"));
                if std::env::var_os(UPDATE).is_some() {
                    fs::write(&path, input).unwrap();
                }
                let found = fs::read(&path).unwrap_or_default();
                assert_eq!(&found, input, "{}: {UPDATE}=1 cargo test -p lb-fuzz writes it", path.display());
            }
        }
        each(&folder("seeds/frames"), frame);
        each(&folder("seeds/replies"), reply);
        each(&folder("seeds/names"), name);
        each(&folder("seeds/state"), state);
        each(&folder("../../examples"), manifest);
        each(&folder("../../lb-ctl/tests/fixtures/good"), manifest);
        each(&folder("../../lb-ctl/tests/fixtures/bad"), manifest);
    }
}
