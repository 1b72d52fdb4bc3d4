//! The cases of names as other people's resolvers see them, and what the runner says of a server that is wrong.

use lb_conformance::names::{self, File, Group, Seen, Server};
use lb_conformance::report::Report;
use lb_conformance::schema::{Level, Read};
use lb_tests::{needs_root, privilege};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

fn fixture() -> File {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/dns.yaml");
    match Read::file(&path).expect("a file of cases") {
        Read::Names(file) => file,
        other => panic!("{other:?}"),
    }
}

/// Works where nobody else is: in a network namespace with a loopback, and in a mount namespace.
fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let inside = || {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("root");
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).expect("root");
            // The C library finds addresses only of families of which the node has an address.
            for line in [
                "link set lo up",
                "link add one type veth peer name other",
                "address add 192.0.2.1/24 dev one",
                "address add 2001:db8::1/64 dev one nodad",
                "link set one up",
                "link set other up",
            ] {
                let told = run("ip", &line.split(' ').collect::<Vec<_>>());
                assert!(told.status.success(), "ip {line}: {}", String::from_utf8_lossy(&told.stderr));
            }
            work()
        };
        scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// The first case, and a server that has all of its objects.
fn first_case(file: &File, address: &str) -> (Group, Server) {
    let group = Group::read(&file.groups[0]).expect("a case");
    let mut server = Server::start(&group, address).expect("a server");
    server.change(&[], &group.manifests).expect("the objects are good");
    (group, server)
}

/// What `dig` prints, section by section.
fn dig(server: &Server, name: &str, kind: &str) -> anyhow::Result<Seen> {
    let (at, port) = (format!("@{}", server.address().ip()), server.address().port().to_string());
    let told = run("dig", &[&at, "-p", &port, "+tries=1", "+time=5", "+nosplit", name, kind]);
    let text = String::from_utf8(told.stdout)?;
    let mut seen = Seen::default();
    let mut section = "";
    for line in text.lines() {
        if let Some((_, rest)) = line.split_once("status: ") {
            rest.split(',').next().unwrap_or_default().clone_into(&mut seen.code);
        } else if let Some(name) = line.strip_prefix(";; ") {
            section = name;
        } else if !line.is_empty() && !line.starts_with(';') {
            let mut words = line.split_whitespace();
            let (owner, kind) = (words.next().unwrap_or_default(), words.nth(2).unwrap_or_default());
            let data = words.collect::<Vec<_>>().join(" ");
            let record = [owner.to_owned(), kind.to_owned(), data.trim_matches('"').to_owned()];
            match section {
                "ANSWER SECTION:" => seen.answers.push(record),
                "AUTHORITY SECTION:" => seen.authorities.push(record[1].clone()),
                "ADDITIONAL SECTION:" => seen.additionals.push(record),
                other => panic!("dig says {other}: {line}"),
            }
        }
    }
    Ok(seen)
}

#[test]
fn dig_gets_what_the_cases_say() {
    needs_root!();
    if !privilege::has_program("dig") {
        return;
    }
    let judged = apart(|| {
        let (group, server) = first_case(&fixture(), "127.0.0.1:53");
        let judge = |query: &names::Query| {
            let ask = |name: &str, kind: &str| dig(&server, name, kind);
            names::judge(query, ask).map_err(|why| format!("{:?}: {why:#}", query.q))
        };
        let queries = group.queries().expect("questions");
        queries.iter().filter(|query| query.level != Some(Level::Informative)).map(judge).collect::<Vec<_>>()
    });
    let wrong: Vec<&String> = judged.iter().filter_map(|judged| judged.as_ref().err()).collect();
    assert!(judged.len() > 25 && wrong.is_empty(), "{wrong:#?}");
}

/// What a process gets that looks a name up, by the C library: addresses of one family, each once.
fn getent(family: &str, name: &str) -> Vec<IpAddr> {
    let told = run("getent", &[family, name]);
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    let mut found: Vec<IpAddr> = text.lines().filter_map(|line| line.split(' ').next()?.parse().ok()).collect();
    found.sort();
    found.dedup();
    found
}

/// Lets the calling thread's processes see `text` in place of a file.
fn instead(directory: &Path, file: &str, text: &str) {
    let path = directory.join(file);
    fs::write(&path, text).expect("a file");
    let target = Path::new("/etc").join(file);
    mount(Some(&path), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .unwrap_or_else(|error| panic!("{}: {error}", target.display()));
}

#[test]
fn the_c_library_finds_what_the_cases_say() {
    needs_root!();
    let directory = tempfile::tempdir().expect("a directory");
    let wrong = apart(|| {
        let file = fixture();
        let (group, _server) = first_case(&file, "127.0.0.1:53");
        instead(directory.path(), "nsswitch.conf", "hosts: dns\n");
        instead(directory.path(), "resolv.conf", "nameserver 127.0.0.1\n");
        let mut wrong = Vec::new();
        let mut compare = |name: &str, family: &str, mut expected: Vec<IpAddr>| {
            expected.sort();
            let found = getent(family, name);
            if found != expected {
                wrong.push(format!("{name} {family}: {found:?} in place of {expected:?}"));
            }
        };
        for query in group.queries().expect("questions").iter().filter(|query| query.level == Some(Level::Must)) {
            match (query.q[0].as_str(), query.q[1].as_str()) {
                (name, "A") => compare(name, "ahostsv4", query.expect.addresses()),
                (name, "AAAA") => compare(name, "ahostsv6", query.expect.addresses()),
                _ => {}
            }
        }
        let expansion = file.search_expansion.expect("names that are looked up");
        for lookup in &expansion.cases {
            let search = expansion.searches.join(" ");
            let text = format!("nameserver 127.0.0.1\nsearch {search}\noptions ndots:{}\n", lookup.ndots);
            fs::write(directory.path().join("resolv.conf"), text).expect("a file");
            if let Ok(address) = lookup.found.parse() {
                compare(&lookup.lookup, "ahostsv4", vec![address]);
            }
        }
        wrong
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn whatever_is_not_as_expected_is_told() {
    let service = "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: n}, spec: {clusterIP: 10.96.0.1, \
                   ports: [{name: p, port: 80}]}}";
    let (s, srv) = ("s.n.svc.k.", "_p._tcp.s.n.svc.k.");
    let right = [
        format!("{{q: [{s}, A], expect: {{kind: answer, answers: [10.96.0.1]}}}}"),
        format!("{{q: [{s}, A], expect: {{kind: answer, answers: [{{a: 10.96.0.1}}]}}}}"),
        format!("{{q: [{s}, AAAA], expect: {{kind: nodata, authority_soa: true}}}}"),
        format!("{{q: [{srv}, SRV], expect: {{kind: answer, answers: [{{port: 80, target: {s}}}]}}}}"),
        format!(
            "{{q: [{srv}, SRV], expect: {{kind: answer, answers: [{{port: 80, target_any_name_resolving_to: 10.96.0.1}}]}}}}"
        ),
    ];
    let wrong = [
        (format!("{{q: [{s}, A], expect: {{kind: answer, answer: [10.96.0.1]}}}}"), "unknown field `answer`"),
        (format!("{{q: [{s}, A], expect: {{kind: nxdomain}}}}"), "expected NXDOMAIN; it is NOERROR"),
        (format!("{{q: [{s}, A], expect: {{kind: answer, answers: [10.96.0.2]}}}}"), "expected Text"),
        (format!("{{q: [{s}, A], expect: {{kind: nodata}}}}"), "not expected: "),
        (format!("{{q: [{s}, AAAA], expect: {{kind: answer}}}}"), "expected answers; there are none"),
        (format!("{{q: [x.{s}, A], expect: {{kind: nodata}}}}"), "expected NOERROR; it is NXDOMAIN"),
        (format!("{{q: [{s}, A], expect: {{kind: answer, answers: [10.96.0.1], authority_soa: true}}}}"), "no SOA"),
        (format!("{{q: [{srv}, SRV], expect: {{kind: answer, answers: [{{port: 81}}]}}}}"), "expected Service"),
        (
            format!(
                "{{q: [{srv}, SRV], expect: {{kind: answer, answers: [{{port: 80, target_any_name_resolving_to: 10.9.9.9}}]}}}}"
            ),
            "expected Service",
        ),
        (
            format!(
                "{{q: [{srv}, SRV], expect: {{kind: answer, answers: [{{port: 80}}], additional_may_include: [[x., A, 10.9.9.9]]}}}}"
            ),
            "not expected beside",
        ),
    ];
    let all: Vec<&str> = right.iter().chain(wrong.iter().map(|(query, _)| query)).map(String::as_str).collect();
    let text = format!(
        "{{groups: [{{id: g, zone: k, manifests: [{service}], queries: [{}]}}, \
         {{id: odd, zone: k, queries: [], retries: 3}}, {{id: pods, zone: k, options: {{pods: verified}}, queries: [{}]}}]}}",
        all.join(", "),
        right[0]
    );
    let file: File = serde_yaml::from_str(&text).expect("a file");
    let mut report = Report::default();
    names::run(&file, "f", &mut report);
    let odd = report.failed.remove("f odd").expect("a failure");
    assert!(odd.contains("unknown field `retries`"), "{odd}");
    assert_eq!(report.skipped, 1);
    assert_eq!((report.passed.len(), report.failed.len()), (right.len(), wrong.len()), "{report}");
    for (_, why) in &wrong {
        assert!(report.failed.values().any(|told| told.contains(why)), "{why}: {:#?}", report.failed);
    }
}
