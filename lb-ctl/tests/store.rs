//! The store over its life: transactions, sources, allocation, restarts.

use jiff::Timestamp;
use lb_ctl::manifest::{self, Diagnostic, Parsed};
use lb_ctl::objects::{Key, Kind, ObjectId, Service};
use lb_ctl::store::{Applied, Change, Error, Options, Rejected, Snapshot, SourceId, Store, Update};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;
const FEED: &str = "manifests";

fn options(folder: Option<&Path>) -> Options {
    Options {
        state_file: folder.map(|folder| folder.join("state.json")),
        service_cidrs: vec!["10.96.0.0/24".parse().unwrap(), "fd00:96::/112".parse().unwrap()],
        node_port_range: 30000..=30100,
    }
}

fn memory() -> Store {
    Store::open(options(None)).unwrap()
}

fn file(name: &str) -> SourceId {
    SourceId::File(format!("/m/{name}.yaml").into())
}

fn service(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{spec} ports: [{{port: 80}}]}}\n")
}

fn parse(text: &str) -> Parsed {
    manifest::parse(text, "test.yaml", "default").unwrap_or_else(|errors| panic!("{errors:#?}"))
}

fn apply(store: &mut Store, text: &str) -> Result<Applied, Rejected> {
    store.apply(&SourceId::Cli, parse(text), NOW)
}

/// One delivery of a directory.
fn deliver(store: &mut Store, files: &[(&str, Option<&str>)], synced: bool) -> Vec<Result<Applied, Rejected>> {
    let change = |(name, text): &(&str, Option<&str>)| {
        (file(name), text.map_or(Snapshot::Gone, |text| Snapshot::Objects(parse(text))))
    };
    let update = Update { feed: FEED.to_owned(), changes: files.iter().map(change).collect(), synced };
    store.update(update, NOW).into_iter().map(|(_, outcome)| outcome).collect()
}

fn id(kind: Kind, name: &str) -> ObjectId {
    let namespace = if kind.is_namespaced() { "default" } else { "" };
    ObjectId { kind, key: Key::new(namespace, name) }
}

fn get(store: &Store, name: &str) -> Arc<Service> {
    store.snapshot().services[&Key::new("default", name)].clone()
}

fn address(store: &Store, name: &str) -> String {
    get(store, name).spec.cluster_ip.clone().unwrap()
}

fn errors(outcome: Result<Applied, Rejected>) -> Vec<String> {
    match outcome {
        Err(Rejected::Invalid(diagnostics)) => diagnostics.iter().map(Diagnostic::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_applied_unless_all_is() {
    let mut store = memory();
    let text = [
        service("good", ""),
        service("outside", "clusterIP: 192.0.2.1,"),
        service("low", "type: NodePort,").replace("port: 80", "port: 80, nodePort: 29999"),
    ];
    let refused = errors(apply(&mut store, &text.join("---\n")));
    insta::assert_snapshot!(refused.join("\n"));
    assert!(store.snapshot().services.is_empty());
    apply(&mut store, &text[0]).unwrap();
}

#[test]
fn what_became_of_each_object_is_told() {
    let mut store = memory();
    let text = service("web", "") + "---\n" + &service("api", "type: NodePort,");
    let changes =
        |applied: Applied| applied.changes.into_iter().map(|(id, change)| (id.to_string(), change)).collect::<Vec<_>>();
    let both = |change| vec![("service/default/web".to_owned(), change), ("service/default/api".to_owned(), change)];
    assert_eq!(changes(apply(&mut store, &text).unwrap()), both(Change::Created));
    assert_eq!(changes(apply(&mut store, &text).unwrap()), both(Change::Unchanged));
    assert_eq!(changes(apply(&mut store, &text.replace("80", "81")).unwrap()), both(Change::Configured));
    assert_eq!(get(&store, "web").metadata.creation_timestamp.as_deref(), Some("1970-01-01T00:00:00Z"));
    let later = "2026-01-01T00:00:00Z".parse().unwrap();
    store.apply(&SourceId::Cli, parse(&text), later).unwrap();
    assert_eq!(get(&store, "web").metadata.creation_timestamp.as_deref(), Some("1970-01-01T00:00:00Z"));
}

#[test]
fn a_snapshot_never_changes() {
    let mut store = memory();
    let before = store.snapshot();
    apply(&mut store, &service("web", "")).unwrap();
    assert!(before.services.is_empty());
    assert_eq!(store.snapshot().services.len(), 1);
}

#[test]
fn an_object_has_one_source() {
    let mut store = memory();
    store.register(FEED);
    apply(&mut store, &service("mine", "")).unwrap();
    let outcomes = deliver(
        &mut store,
        &[("a", Some(&service("web", ""))), ("b", Some(&service("web", ""))), ("c", Some(&service("mine", "")))],
        true,
    );
    assert!(outcomes[0].is_ok());
    let mut told: Vec<_> = outcomes.into_iter().skip(1).flat_map(errors).collect();
    told.extend(errors(apply(&mut store, &service("web", ""))));
    told.extend(errors(apply(&mut store, &(service("two", "") + "---\n" + &service("two", "")))));
    let refused = store.delete(&[id(Kind::Service, "web")], NOW);
    told.extend(errors(refused.map(|_| Applied::default())));
    insta::assert_snapshot!(told.join("\n"));
    assert_eq!(store.source_of(&id(Kind::Service, "web")), Some(file("a")));
    assert_eq!(store.problems().len(), 2);
}

#[test]
fn a_refused_file_is_taken_when_its_obstacle_goes() {
    let mut store = memory();
    deliver(
        &mut store,
        &[("a", Some(&service("web", ""))), ("b", Some(&service("web", "clusterIP: 10.96.0.9,")))],
        true,
    );
    assert_eq!(store.problems()[0].source, "file:/m/b.yaml");
    deliver(&mut store, &[("a", None)], true);
    assert!(store.problems().is_empty());
    assert_eq!(address(&store, "web"), "10.96.0.9");

    apply(&mut store, &service("own", "")).unwrap();
    deliver(&mut store, &[("c", Some(&service("own", "")))], true);
    store.delete(&[id(Kind::Service, "own")], NOW).unwrap();
    assert_eq!(store.source_of(&id(Kind::Service, "own")), Some(file("c")));
}

#[test]
fn a_file_that_turns_bad_keeps_its_last_good_objects() {
    let mut store = memory();
    deliver(&mut store, &[("a", Some(&service("web", "")))], true);
    let bad = manifest::read_bytes(b"kind: [", "/m/a.yaml", "default");
    let (changes, bad) = (vec![(file("a"), Snapshot::Objects(bad.clone()))], bad.errors);
    let update = Update { feed: FEED.to_owned(), changes, synced: true };
    assert!(store.update(update, NOW)[0].1.is_err());
    assert_eq!(store.snapshot().services.len(), 1);
    let problem = &store.problems()[0];
    assert_eq!((problem.source.as_str(), &problem.diagnostics, problem.kept), ("file:/m/a.yaml", &bad, 1));
    deliver(&mut store, &[("a", Some(&service("api", "")))], true);
    assert!(store.problems().is_empty());
    assert_eq!(store.snapshot().services.keys().map(ToString::to_string).collect::<Vec<_>>(), ["default/api"]);
}

#[test]
fn all_that_is_wrong_with_a_file_is_told_together() {
    let mut store = memory();
    apply(&mut store, &service("mine", "")).unwrap();
    let read = |text: &str| Snapshot::Objects(manifest::read_bytes(text.as_bytes(), "/m/a.yaml", "default"));
    let good = service("web", "clusterIP: 10.96.0.7,");
    let text = [
        service("typo", "sesionAffinity: None,"),
        service("mine", ""),
        service("new", "clusterIP: 10.96.0.7,"),
        service("out", "clusterIP: 10.99.0.1,"),
        service("ports", "type: Nodeport,"),
    ];
    let changes = vec![(file("a"), read(&text.join("---\n"))), (file("b"), Snapshot::Objects(parse(&good)))];
    let outcomes = store.update(Update { feed: FEED.to_owned(), changes, synced: true }, NOW);
    let failed: Vec<_> = outcomes.iter().filter(|(_, outcome)| outcome.is_err()).map(|(source, _)| source).collect();
    assert_eq!(failed, [&file("a")]);
    let told: Vec<String> = store.problems()[0].diagnostics.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(told.join("\n"), @r"
    /m/a.yaml:4:8: service/typo: spec.sesionAffinity: unknown field: did you mean `sessionAffinity`?
    /m/a.yaml:6:1: service/mine: was applied with `lb-ctl apply`, and file:/m/a.yaml has it too: keep it in one place (`lb-ctl delete service/mine -n default`)
    /m/a.yaml:14:19: service/new: spec.clusterIPs[0]: 10.96.0.7 is in use by service/default/web (file:/m/b.yaml): choose another, or leave it out to get a free one
    /m/a.yaml:19:19: service/out: spec.clusterIPs[0]: 10.99.0.1 is not in a service CIDR (10.96.0.0/24, fd00:96::/112): leave it out to get one that is
    /m/a.yaml:24:14: service/ports: spec.type: must be ClusterIP, NodePort, LoadBalancer or ExternalName, not `Nodeport`
    ");
    // The same, once it was good: what it has stays, and so does what it does not ask for any more.
    let fixed = service("new", "") + "---\n" + &service("old", "clusterIP: 10.96.0.8,");
    assert!(deliver(&mut store, &[("a", Some(&fixed))], true)[0].is_ok());
    let renamed = service("newer", "clusterIP: 10.96.0.8,") + "---\n" + &service("new", "nosuch: 1,");
    let changes = vec![(file("a"), read(&renamed))];
    assert!(store.update(Update { feed: FEED.to_owned(), changes, synced: true }, NOW)[0].1.is_err());
    let told: Vec<String> = store.problems()[0].diagnostics.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 1, "an address that is given to another Service of the file is free: {told:?}");
    assert_eq!((address(&store, "old"), store.snapshot().services.len()), ("10.96.0.8".to_owned(), 4));
}

#[test]
fn an_object_may_move_from_file_to_file() {
    let mut store = memory();
    let first = service("x", "") + "---\n" + &service("web", "type: NodePort,");
    deliver(&mut store, &[("b", Some(&first))], true);
    let before = get(&store, "web");
    // Renamed, and moved to a file that comes before.
    deliver(&mut store, &[("b", None), ("c", Some(&first))], true);
    assert_eq!(get(&store, "web"), before);
    let outcomes =
        deliver(&mut store, &[("a", Some(&service("web", "type: NodePort,"))), ("c", Some(&service("x", "")))], true);
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(get(&store, "web"), before);
    assert_eq!(store.source_of(&id(Kind::Service, "web")), Some(file("a")));
}

#[test]
fn the_store_is_synced_when_every_feed_has_delivered() {
    let mut store = memory();
    assert!(store.is_synced());
    store.register(FEED);
    store.register("other");
    deliver(&mut store, &[], false);
    deliver(&mut store, &[], true);
    assert!(!store.is_synced());
    store.update(Update { feed: "other".to_owned(), changes: Vec::new(), synced: true }, NOW);
    assert!(store.is_synced());
}

#[test]
fn an_address_in_use_names_its_holder() {
    let mut store = memory();
    deliver(&mut store, &[("a", Some(&service("web", "")))], true);
    let taken = address(&store, "web");
    let refused = errors(apply(&mut store, &service("api", &format!("clusterIP: {taken},"))));
    assert_eq!(
        refused,
        [format!(
            "test.yaml:4:19: service/api: spec.clusterIPs[0]: {taken} is in use by service/default/web (file:/m/a.yaml): \
             choose another, or leave it out to get a free one"
        )]
    );
    deliver(&mut store, &[("a", None)], true);
    apply(&mut store, &service("api", &format!("clusterIP: {taken},"))).unwrap();
}

#[test]
fn while_files_are_missing_a_given_address_beats_a_chosen_one() {
    for given_first in [false, true] {
        let mut store = memory();
        store.register(FEED);
        let chosen = {
            // What `auto` gets when it is alone.
            let mut alone = memory();
            apply(&mut alone, &service("auto", "type: NodePort,")).unwrap();
            get(&alone, "auto")
        };
        let (ip, port) = (chosen.spec.cluster_ip.clone().unwrap(), chosen.spec.ports[0].node_port.unwrap());
        let given = service("given", &format!("type: NodePort, clusterIP: {ip},"))
            .replace("port: 80", &format!("port: 80, nodePort: {port}"));
        let auto = service("auto", "type: NodePort,");
        let order = if given_first {
            [("a", Some(&*given)), ("b", Some(&*auto))]
        } else {
            [("a", Some(&*auto)), ("b", Some(&*given))]
        };
        for one in order {
            assert!(deliver(&mut store, &[one], false)[0].is_ok());
        }
        deliver(&mut store, &[], true);
        assert_eq!((address(&store, "given"), get(&store, "given").spec.ports[0].node_port), (ip.clone(), Some(port)));
        let moved = get(&store, "auto");
        assert_ne!(moved.spec.cluster_ip.as_deref(), Some(&*ip));
        assert!(
            moved.spec.cluster_ips == [moved.spec.cluster_ip.clone().unwrap()]
                && moved.spec.ports[0].node_port.is_some()
        );
        assert_ne!(moved.spec.ports[0].node_port, Some(port));
    }
}

#[test]
fn a_full_range_is_an_error_and_what_is_released_is_free() {
    let mut store = memory();
    let many = |count: usize| (0..count).map(|n| service(&format!("s{n}"), "")).collect::<Vec<_>>().join("---\n");
    apply(&mut store, &many(254)).unwrap();
    let refused = errors(apply(&mut store, &service("more", "")));
    assert!(refused[0].contains("no free IPv4 address is left"), "{refused:?}");
    let freed = address(&store, "s7");
    store.delete(&[id(Kind::Service, "s7")], NOW).unwrap();
    apply(&mut store, &service("more", "")).unwrap();
    assert_eq!(address(&store, "more"), freed);
}

#[test]
fn deleting_what_is_not_there_deletes_nothing() {
    let mut store = memory();
    apply(&mut store, &service("web", "")).unwrap();
    let refused = store.delete(&[id(Kind::Service, "web"), id(Kind::Pod, "web")], NOW).unwrap_err();
    assert_eq!(refused.to_string(), "not found: pod/default/web");
    assert_eq!(store.snapshot().services.len(), 1);
}

#[test]
fn a_restart_keeps_objects_addresses_ports_and_ages() {
    let folder = TempDir::new().unwrap();
    let own = service("own", "type: NodePort, ipFamilyPolicy: RequireDualStack,")
        + "---\napiVersion: v1\nkind: Node\nmetadata: {name: a}\n";
    let theirs = service("theirs", "type: LoadBalancer, externalTrafficPolicy: Local,");
    let start = || {
        let mut store = Store::open(options(Some(folder.path()))).unwrap();
        store.register(FEED);
        store
    };
    let mut store = start();
    deliver(&mut store, &[], true);
    apply(&mut store, &own).unwrap();
    // These take the values that `theirs` would get if it were alone, and go again.
    deliver(
        &mut store,
        &[(
            "a",
            Some(&service(
                "blocker",
                &format!("type: NodePort, clusterIP: {},", {
                    let mut alone = memory();
                    apply(&mut alone, &theirs).unwrap();
                    address(&alone, "theirs")
                }),
            )),
        )],
        true,
    );
    deliver(&mut store, &[("b", Some(&theirs))], true);
    deliver(&mut store, &[("a", None)], true);
    let before = store.snapshot();
    drop(store);

    let mut store = start();
    assert_eq!(store.snapshot().services.len(), 1, "what the CLI applied is there at once");
    let later = "2026-01-01T00:00:00Z".parse().unwrap();
    let changes = vec![(file("b"), Snapshot::Objects(parse(&theirs)))];
    store.update(Update { feed: FEED.to_owned(), changes, synced: true }, later);
    assert_eq!(*store.snapshot(), *before);
}

#[test]
fn after_a_restart_the_services_that_are_no_more_hold_nothing() {
    let folder = TempDir::new().unwrap();
    let mut store = Store::open(options(Some(folder.path()))).unwrap();
    deliver(&mut store, &[("a", Some(&service("gone", "clusterIP: 10.96.0.77,")))], true);
    drop(store);
    let mut store = Store::open(options(Some(folder.path()))).unwrap();
    store.register(FEED);
    // It may come yet.
    assert!(apply(&mut store, &service("web", "clusterIP: 10.96.0.77,")).is_err());
    deliver(&mut store, &[], true);
    apply(&mut store, &service("web", "clusterIP: 10.96.0.77,")).unwrap();
}

#[test]
fn a_file_is_not_taken_for_an_update_that_it_could_not_be_after_a_restart() {
    let mut store = memory();
    let node_port = service("web", "type: NodePort,").replace("port: 80", "port: 80, nodePort: 30001");
    let leftover = node_port.replace("type: NodePort,", "");
    deliver(&mut store, &[("a", Some(&node_port))], true);
    let refused = errors(deliver(&mut store, &[("a", Some(&leftover))], true).remove(0));
    assert!(refused[0].contains("spec.ports[0].nodePort: 30001 is of no use for the type ClusterIP"), "{refused:?}");
    // Over the socket it is an update, as with kubectl.
    deliver(&mut store, &[("a", None)], true);
    apply(&mut store, &node_port).unwrap();
    apply(&mut store, &leftover).unwrap();
    assert_eq!(get(&store, "web").spec.ports[0].node_port, None);
}

#[test]
fn a_state_file_that_is_not_understood_is_refused_and_left_alone() {
    let folder = TempDir::new().unwrap();
    let (path, backup) = (folder.path().join("state.json"), folder.path().join("state.json.bak"));
    let open = || Store::open(options(Some(folder.path())));
    let told = |error: Error| error.to_string().replace(folder.path().to_str().unwrap(), "/lib");
    for name in ["web", "api"] {
        apply(&mut open().unwrap(), &service(name, "")).unwrap();
    }
    let mut messages = Vec::new();
    for bad in
        ["{\"version\": 1, \"objects\": [", "", "{\"version\": 3, \"nodes\": []}", "{\"version\": 1, \"objects\": 7}"]
    {
        fs::write(&path, bad).unwrap();
        messages.push(told(open().unwrap_err()));
        assert_eq!(fs::read_to_string(&path).unwrap(), bad);
    }
    fs::write(&backup, "too").unwrap();
    messages.push(told(open().unwrap_err()));
    fs::remove_file(&path).unwrap();
    messages.push(told(open().unwrap_err()));
    insta::assert_snapshot!(messages.join("\n"));
}

/// Services enough that one more is a line in the journal.
fn many(folder: &TempDir) -> Store {
    let mut store = Store::open(options(Some(folder.path()))).unwrap();
    apply(&mut store, &["a", "b", "c", "d", "e"].map(|name| service(name, "")).join("---\n")).unwrap();
    store
}

fn names(store: &Store) -> String {
    store.snapshot().services.keys().map(|key| key.name.as_str()).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_last_good_copy_is_good_and_the_journal_goes_on_from_it() {
    let folder = TempDir::new().unwrap();
    let mut store = many(&folder);
    apply(&mut store, &service("f", "")).unwrap();
    let held = store.snapshot();
    drop(store);
    fs::write(folder.path().join("state.json"), "{").unwrap();
    fs::rename(folder.path().join("state.json.bak"), folder.path().join("state.json")).unwrap();
    assert_eq!(Store::open(options(Some(folder.path()))).unwrap().snapshot(), held);
}

#[test]
fn a_change_is_a_line_in_the_journal() {
    let folder = TempDir::new().unwrap();
    let (state, journal) = (folder.path().join("state.json"), folder.path().join("state.json.journal"));
    let mut store = many(&folder);
    let whole = fs::read(&state).unwrap();
    apply(&mut store, &service("f", "")).unwrap();
    store.delete(&[id(Kind::Service, "b")], NOW).unwrap();
    store.flush().unwrap();
    let held = store.snapshot();
    drop(store);
    assert_eq!(fs::read(&state).unwrap(), whole, "the file is as it was");
    let lines = fs::read_to_string(&journal).unwrap();
    assert_eq!(lines.lines().count(), 2, "{lines}");

    let mut store = Store::open(options(Some(folder.path()))).unwrap();
    assert_eq!(store.snapshot(), held, "with addresses and all");
    // The first change of a daemon writes the whole.
    apply(&mut store, &service("g", "")).unwrap();
    assert_eq!(fs::read_to_string(&journal).unwrap(), "");
    drop(store);
    // A daemon that died between the two finds lines that the file has already.
    fs::write(&journal, &lines).unwrap();
    let store = Store::open(options(Some(folder.path()))).unwrap();
    assert_eq!(names(&store), "a c d e f g");
}

#[test]
fn a_torn_line_never_happened_and_a_damaged_one_is_told() {
    let folder = TempDir::new().unwrap();
    let journal = folder.path().join("state.json.journal");
    let mut store = many(&folder);
    apply(&mut store, &service("f", "")).unwrap();
    apply(&mut store, &service("g", "")).unwrap();
    drop(store);
    let lines = fs::read_to_string(&journal).unwrap();
    let first = lines.find('\n').unwrap() + 1;
    for (length, expected) in
        [(0, "a b c d e"), (first - 1, "a b c d e"), (first, "a b c d e f"), (lines.len() - 1, "a b c d e f")]
    {
        fs::write(&journal, &lines[..length]).unwrap();
        let store = Store::open(options(Some(folder.path()))).unwrap();
        assert_eq!(names(&store), expected, "{length} of {} bytes", lines.len());
    }
    fs::write(&journal, lines.replacen("[{", "{[", 1)).unwrap();
    let error = Store::open(options(Some(folder.path()))).unwrap_err().to_string();
    assert!(error.contains("state.json.journal is damaged (line 1: "), "{error}");
}

#[test]
fn what_cannot_be_kept_is_not_applied() {
    let folder = TempDir::new().unwrap();
    let mut store = Store::open(options(Some(folder.path()))).unwrap();
    apply(&mut store, &service("web", "clusterIP: 10.96.0.5,")).unwrap();
    // A folder in the place of the temporary file: no write can succeed.
    fs::create_dir(folder.path().join("state.json.tmp")).unwrap();
    let mut store = Store::open(options(Some(folder.path()))).unwrap();
    let refused = apply(&mut store, &service("api", "clusterIP: 10.96.0.6,")).unwrap_err();
    assert!(matches!(refused, Rejected::State(Error::Io { .. })), "{refused}");
    assert!(store.delete(&[id(Kind::Service, "web")], NOW).is_err());
    assert_eq!(store.snapshot().services.len(), 1);
    // Files are served all the same, and the failure shows.
    assert!(deliver(&mut store, &[("a", Some(&service("api", "clusterIP: 10.96.0.6,")))], true)[0].is_ok());
    assert!(store.problems()[0].diagnostics[0].message.contains("cannot be written"));
    store.save_again();
    assert!(store.problems()[0].diagnostics[0].message.contains("cannot be written"));
    fs::remove_dir(folder.path().join("state.json.tmp")).unwrap();
    // What was allocated meanwhile is kept as soon as there is room.
    store.save_again();
    assert!(store.problems().is_empty());
    assert!(fs::read_to_string(folder.path().join("state.json")).unwrap().contains("10.96.0.6"));
    store.delete(&[id(Kind::Service, "web")], NOW).unwrap();
    assert!(store.problems().is_empty());
}

#[test]
fn ten_thousand_services_are_no_quadratic_work() {
    let mut store = Store::open(Options {
        state_file: None,
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        node_port_range: 30000..=32767,
    })
    .unwrap();
    let text = (0..10_000).map(|n| service(&format!("s{n}"), "")).collect::<Vec<_>>().join("---\n");
    let started = std::time::Instant::now();
    apply(&mut store, &text).unwrap();
    apply(&mut store, &text).unwrap();
    for n in 0..20 {
        apply(&mut store, &service(&format!("s{n}"), "sessionAffinity: ClientIP,")).unwrap();
    }
    // Unoptimized it takes about three seconds; quadratic work would take minutes.
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
    println!("{:?}", started.elapsed());
}

#[test]
fn service_networks_are_used_up_in_order_and_come_and_go_while_nobody_needs_them() {
    let cidrs = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<ipnet::IpNet>>();
    let (first, second) = ("10.1.0.0/30", "10.2.0.0/30");
    let mut store = Store::open(Options { service_cidrs: cidrs(&[first, second]), ..options(None) }).unwrap();
    let network = |store: &Store, name: &str| address(store, name).rsplit_once('.').unwrap().0.to_owned();
    for (name, expected) in [("a", "10.1.0"), ("b", "10.1.0"), ("c", "10.2.0"), ("d", "10.2.0")] {
        apply(&mut store, &service(name, "")).unwrap();
        assert_eq!(network(&store, name), expected, "{name}");
    }
    let full = errors(apply(&mut store, &service("e", "")));
    assert!(full[0].contains("no free IPv4 address is left in the service CIDRs"), "{full:?}");

    // A third one comes, in front of the others, and of another family.
    store.set_service_cidrs(&cidrs(&["fd00:3::/112", "10.3.0.0/30", first, second])).unwrap();
    apply(&mut store, &service("e", "ipFamilies: [IPv4],")).unwrap();
    assert_eq!(network(&store, "e"), "10.3.0");
    apply(&mut store, &service("six", "")).unwrap();
    assert!(address(&store, "six").starts_with("fd00:3::"));

    let refused = store.set_service_cidrs(&cidrs(&["fd00:3::/112", "10.3.0.0/30", second])).unwrap_err().to_string();
    assert!(
        refused.starts_with("service CIDR 10.1.0.0/30 cannot be taken away: service/default/a has 10.1.0."),
        "{refused}"
    );
    assert!(refused.contains("and another Service"), "{refused}");
    for name in ["a", "b"] {
        store.delete(&[id(Kind::Service, name)], NOW).unwrap();
    }
    store.set_service_cidrs(&cidrs(&["fd00:3::/112", "10.3.0.0/30", second])).unwrap();
    let gone = errors(apply(&mut store, &service("f", "clusterIP: 10.1.0.1,")));
    assert!(gone[0].contains("10.1.0.1 is not in a service CIDR"), "{gone:?}");
    // A wider network that has the addresses in it takes the place of the narrower one.
    store.set_service_cidrs(&cidrs(&["10.2.0.0/16", "10.3.0.0/30", "fd00:3::/112"])).unwrap();
    assert!(store.set_service_cidrs(&cidrs(&["10.2.0.0/16", "10.2.4.0/24"])).is_err(), "they overlap");
}

#[test]
fn a_state_file_that_cannot_be_written_is_told_at_once_and_files_are_taken_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(options(Some(folder.path()))).unwrap();
    assert!(store.problems().is_empty());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "trying leaves nothing behind");

    // No folder can be made there, not even by root.
    store = Store::open(options(Some(Path::new("/proc/none")))).unwrap();
    let problems = store.problems();
    let [problem] = problems.as_slice() else { panic!("{problems:?}") };
    assert!(problem.diagnostics[0].to_string().contains("cannot be written"), "{problem:?}");
    store.register(FEED);
    assert!(deliver(&mut store, &[("a.yaml", Some(&service("a", "")))], true)[0].is_ok());
    assert_eq!(store.snapshot().services.len(), 1);
}
