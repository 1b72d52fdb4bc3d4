//! The store under arbitrary sequences of changes and restarts.

use jiff::Timestamp;
use lb_ctl::manifest::{self, Validate};
use lb_ctl::objects::{Key, Kind, ObjectId, Objects};
use lb_ctl::store::{Options, Snapshot, SourceId, Store, Update};
use proptest::prelude::*;
use std::collections::HashMap;
use std::path::Path;
use tempfile::TempDir;

const FEED: &str = "directory";
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// A Service that asks for little or much.
#[derive(Clone, Debug)]
struct Wish {
    name: usize,
    kind: usize,
    ip: Option<u8>,
    node_port: Option<u16>,
    dual: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<Wish>),
    File(usize, Option<Vec<Wish>>),
    Delete(usize),
    Restart,
}

fn wish() -> impl Strategy<Value = Wish> {
    (
        0..NAMES.len(),
        0..4_usize,
        prop::option::weighted(0.3, 1..6_u8),
        prop::option::weighted(0.3, 30000..30004_u16),
        any::<bool>(),
    )
        .prop_map(|(name, kind, ip, node_port, dual)| Wish { name, kind, ip, node_port, dual })
}

fn step() -> impl Strategy<Value = Step> {
    let wishes = || prop::collection::vec(wish(), 0..3);
    prop_oneof![
        3 => wishes().prop_map(Step::Apply),
        4 => (0..3_usize, prop::option::weighted(0.8, wishes())).prop_map(|(file, wishes)| Step::File(file, wishes)),
        2 => (0..NAMES.len()).prop_map(Step::Delete),
        1 => Just(Step::Restart),
    ]
}

fn text(wishes: &[Wish]) -> String {
    let manifest = |wish: &Wish| {
        let kind = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"][wish.kind];
        let mut spec = vec![format!("type: {kind}")];
        if wish.kind == 3 {
            spec.push("externalName: x.example".to_owned());
        }
        spec.extend(wish.ip.map(|ip| format!("clusterIP: 10.0.0.{ip}")));
        spec.extend(wish.dual.then(|| "ipFamilyPolicy: PreferDualStack".to_owned()));
        let node_port = wish.node_port.map(|port| format!(", nodePort: {port}")).unwrap_or_default();
        let ports = format!("ports: [{{name: t, port: 53{node_port}}}, {{name: u, port: 53, protocol: UDP}}]");
        let name = NAMES[wish.name];
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{}, {ports}}}\n", spec.join(", "))
    };
    wishes.iter().map(manifest).collect::<Vec<_>>().join("---\n")
}

fn open(folder: &Path) -> Store {
    Store::open(Options {
        state_file: Some(folder.join("state.json")),
        service_cidrs: vec!["10.0.0.0/28".parse().unwrap(), "fd00::/124".parse().unwrap()],
        node_port_range: 30000..=30008,
    })
    .unwrap()
}

fn file(number: usize) -> SourceId {
    SourceId::File(format!("/m/{number}.yaml").into())
}

/// Every Service has what its type needs, and no two have the same.
fn check(objects: &Objects) -> Result<(), TestCaseError> {
    let mut addresses = HashMap::new();
    let mut ports = HashMap::new();
    for (key, service) in &objects.services {
        let spec = &service.spec;
        let kind = spec.r#type.to_string();
        prop_assert_eq!(spec.cluster_ips.len(), spec.ip_families.len(), "{}", key);
        prop_assert_eq!(spec.cluster_ip.is_some(), kind != "ExternalName");
        prop_assert_eq!(service.cluster_addresses().len(), spec.cluster_ips.len());
        for address in service.cluster_addresses() {
            prop_assert_eq!(addresses.insert(address, key), None);
        }
        for port in &spec.ports {
            prop_assert_eq!(
                port.node_port.is_some(),
                matches!(&*kind, "NodePort" | "LoadBalancer"),
                "{}: {:?}",
                key,
                spec
            );
            if let Some(number) = port.node_port {
                prop_assert!(ports.insert(number, key).is_none_or(|other| other == key));
            }
        }
    }
    Ok(())
}

/// What is a Service's for life. `c` too, when it comes again from the same manifest.
fn held(objects: &Objects) -> HashMap<Key, Vec<String>> {
    objects.services.iter().map(|(key, service)| (key.clone(), service.spec.cluster_ips.clone())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_shared_and_what_is_held_is_kept(steps in prop::collection::vec(step(), 1..25)) {
        let folder = TempDir::new().unwrap();
        let mut store = open(folder.path());
        let mut files: HashMap<usize, Vec<Wish>> = HashMap::new();
        for step in steps {
            let before = store.snapshot();
            let source = |store: &Store, key: &Key| store.source_of(&ObjectId { kind: Kind::Service, key: key.clone() });
            let sources: HashMap<Key, _> = before.services.keys().map(|key| (key.clone(), source(&store, key))).collect();
            let mut same_lives = true;
            let accepted = match &step {
                Step::Apply(wishes) => {
                    let parsed = manifest::parse(&text(wishes), "cli", "default");
                    parsed.is_ok_and(|parsed| store.apply(&SourceId::Cli, parsed, Timestamp::UNIX_EPOCH).is_ok())
                }
                Step::File(number, wishes) => {
                    let snapshot = match wishes {
                        Some(wishes) => {
                            Snapshot::Objects(manifest::read(&text(wishes), "file", "default", Validate::Strict))
                        }
                        None => Snapshot::Gone,
                    };
                    match wishes {
                        Some(wishes) => files.insert(*number, wishes.clone()),
                        None => files.remove(number),
                    };
                    let changes = vec![(file(*number), snapshot)];
                    let update = Update { feed: FEED.to_owned(), changes, synced: true };
                    store.update(update, Timestamp::UNIX_EPOCH)[0].1.is_ok()
                }
                Step::Delete(name) => {
                    let id = ObjectId { kind: Kind::Service, key: Key::new("default", NAMES[*name]) };
                    same_lives = false;
                    store.delete(&[id], Timestamp::UNIX_EPOCH).is_ok()
                }
                Step::Restart if store.problems().is_empty() => {
                    drop(store);
                    store = open(folder.path());
                    store.register(FEED);
                    let changes = files.iter().map(|(number, wishes)| {
                        (file(*number), Snapshot::Objects(manifest::parse(&text(wishes), "file", "default").unwrap()))
                    });
                    let update = Update { feed: FEED.to_owned(), changes: changes.collect(), synced: true };
                    let outcomes = store.update(update, Timestamp::UNIX_EPOCH);
                    prop_assert!(outcomes.iter().all(|(_, outcome)| outcome.is_ok()), "{:?}", outcomes);
                    prop_assert_eq!(held(&store.snapshot()), held(&before), "a restart changed what Services hold");
                    true
                }
                Step::Restart => true,
            };
            let now = store.snapshot();
            check(&now)?;
            if !accepted && store.problems().is_empty() {
                prop_assert_eq!(&now, &before, "refused, and yet something changed: {:?}", step);
            }
            for (key, held_before) in held(&before).into_iter().filter(|_| same_lives) {
                let Some(service) = now.services.get(&key) else { continue };
                // Another source's Service of the same name, which had to wait.
                if sources[&key] != source(&store, &key) {
                    continue;
                }
                let was_of = before.services[&key].spec.r#type;
                if let (Some(old), Some(new)) = (held_before.first(), service.spec.cluster_ips.first()) {
                    prop_assert!(old == new || was_of != service.spec.r#type, "{}: {} became {}", key, old, new);
                }
            }
        }
    }
}
