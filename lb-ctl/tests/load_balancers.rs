//! Addresses for Services of the type LoadBalancer: who gets which, for how long, and why somebody gets none.

use jiff::Timestamp;
use lb_ctl::manifest;
use lb_ctl::objects::{Key, Kind, ObjectId};
use lb_ctl::store::{Applied, Options, Rejected, SourceId, Store};
use std::path::Path;
use tempfile::TempDir;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn open(folder: Option<&Path>, pools: &[&str]) -> Store {
    let options = Options {
        state_file: folder.map(|folder| folder.join("state.json")),
        service_cidrs: vec!["10.96.0.0/24".parse().unwrap(), "fd00:96::/112".parse().unwrap()],
        node_port_range: 30000..=30100,
    };
    let mut store = Store::open(options).unwrap();
    store.offer(pools.iter().map(|pool| pool.parse().unwrap()).collect());
    store
}

fn balancer(name: &str, metadata: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, {metadata}}}\nspec: {{type: LoadBalancer, {spec} ports: [{{port: 80}}]}}\n"
    )
}

fn apply(store: &mut Store, text: &str) -> Result<Applied, Rejected> {
    store.apply(&SourceId::Cli, manifest::parse(text, "test.yaml", "default").unwrap(), NOW)
}

fn key(name: &str) -> Key {
    Key::new("default", name)
}

/// The addresses of a load balancer, or why it has none.
fn external(store: &Store, name: &str) -> String {
    let addresses = store.snapshot().services[&key(name)].load_balancer_addresses();
    match store.why_pending(&key(name)) {
        Some(why) => {
            assert!(addresses.is_empty(), "{addresses:?}: {why}");
            why
        }
        None => addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    }
}

fn delete(store: &mut Store, name: &str) {
    store.delete(&[ObjectId { kind: Kind::Service, key: key(name) }], NOW).unwrap();
}

#[test]
fn a_load_balancer_keeps_its_address_until_it_is_none() {
    let mut store = open(None, &["public=192.0.2.1-192.0.2.20"]);
    apply(&mut store, &balancer("web", "", "")).unwrap();
    let address = external(&store, "web");
    assert!(address.starts_with("192.0.2."), "{address}");
    apply(&mut store, &balancer("web", "labels: {a: b}", "externalTrafficPolicy: Local,")).unwrap();
    assert_eq!(external(&store, "web"), address);
    apply(&mut store, &balancer("web", "", "").replace("LoadBalancer", "NodePort")).unwrap();
    assert_eq!(external(&store, "web"), "");
    apply(&mut store, &balancer("other", "", &format!("loadBalancerIP: {address},"))).unwrap();
    assert_eq!(external(&store, "other"), address, "it was given back");
}

#[test]
fn an_address_survives_a_restart() {
    let folder = TempDir::new().unwrap();
    let pools = ["public=192.0.2.0/28"];
    let mut store = open(Some(folder.path()), &pools);
    apply(&mut store, &balancer("web", "", "")).unwrap();
    let file = SourceId::File("/m/api.yaml".into());
    let text = balancer("api", "", "");
    let parsed = || manifest::parse(&text, "/m/api.yaml", "default").unwrap();
    store.replace(&file, parsed(), NOW).unwrap();
    let (web, api) = (external(&store, "web"), external(&store, "api"));
    assert_ne!(web, api);
    store.flush().unwrap();
    drop(store);

    let mut store = open(Some(folder.path()), &pools);
    assert_eq!(external(&store, "web"), web);
    // Before the file is read again, somebody else asks for what it had.
    store.register("files");
    apply(&mut store, &balancer("thief", "", &format!("loadBalancerIP: {api},"))).unwrap();
    store.replace(&file, parsed(), NOW).unwrap();
    assert_eq!((external(&store, "web"), external(&store, "api")), (web, api.clone()));
    assert_eq!(external(&store, "thief"), format!("loadBalancerIP {api} is in use by service/default/api"));
}

#[test]
fn who_waits_is_served_when_an_address_is_free_again() {
    let mut store = open(None, &["public=192.0.2.1"]);
    apply(&mut store, &balancer("first", "", "")).unwrap();
    apply(&mut store, &balancer("second", "", "")).unwrap();
    assert_eq!(external(&store, "first"), "192.0.2.1");
    insta::assert_snapshot!(external(&store, "second"), @"no IPv4 address is free in the pool `public`: add a range, or delete a Service");
    delete(&mut store, "first");
    assert_eq!(external(&store, "second"), "192.0.2.1");
    let mut later = open(None, &[]);
    apply(&mut later, &balancer("web", "", "")).unwrap();
    insta::assert_snapshot!(external(&later, "web"), @"no address pool is configured for Services without a loadBalancerClass");
    later.offer(vec!["public=192.0.2.1".parse().unwrap()]);
    assert_eq!(external(&later, "web"), "192.0.2.1");
}

#[test]
fn a_pool_is_chosen_by_annotation_or_class() {
    let mut store = open(None, &["a=192.0.2.1", "b@example.net/b=192.0.2.2", "c@example.net/c=192.0.2.3,2001:db8::3"]);
    for (name, metadata, spec, expected) in [
        ("plain", "", "", "192.0.2.1"),
        ("class", "", "loadBalancerClass: example.net/b,", "192.0.2.2"),
        ("named", "annotations: {lb-ctl/address-pool: c}", "ipFamilyPolicy: PreferDualStack,", "192.0.2.3 2001:db8::3"),
        (
            "odd",
            "",
            "loadBalancerClass: example.net/d,",
            "no address pool is for the loadBalancerClass `example.net/d`",
        ),
        ("lost", "annotations: {lb-ctl/address-pool: d}", "", "no address pool is called `d`: there is a, b, c"),
        ("far", "", "loadBalancerIP: 198.51.100.1,", "loadBalancerIP 198.51.100.1 is not in the pool `a`"),
        ("text", "", "loadBalancerIP: somewhere,", "loadBalancerIP `somewhere` is not an IP address"),
    ] {
        apply(&mut store, &balancer(name, metadata, spec)).unwrap();
        assert_eq!(external(&store, name), expected, "{name}");
    }
}

#[test]
fn an_address_of_another_load_balancer_is_left_as_it_is() {
    let mut store = open(None, &["public=192.0.2.1"]);
    let given = balancer("web", "", "") + "status: {loadBalancer: {ingress: [{ip: 198.51.100.7}]}}\n";
    apply(&mut store, &given).unwrap();
    assert_eq!(external(&store, "web"), "198.51.100.7");
    let inside = balancer("api", "", "") + "status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}\n";
    apply(&mut store, &inside).unwrap();
    apply(&mut store, &balancer("late", "", "")).unwrap();
    assert!(external(&store, "late").starts_with("no IPv4 address is free"), "nobody gets it twice");
}

#[test]
fn what_is_refused_gives_nothing_away() {
    let mut store = open(None, &["public=192.0.2.1"]);
    let bad = balancer("web", "", "") + "---\n" + &balancer("bad", "", "clusterIP: 192.0.2.9,");
    apply(&mut store, &bad).unwrap_err();
    apply(&mut store, &balancer("good", "", "")).unwrap();
    assert_eq!(external(&store, "good"), "192.0.2.1");
}

#[test]
fn an_address_that_no_pool_has_any_more_goes_and_another_comes() {
    let folder = TempDir::new().unwrap();
    let mut store = open(Some(folder.path()), &["public=192.0.2.1,2001:db8::1"]);
    apply(&mut store, &balancer("web", "", "ipFamilyPolicy: PreferDualStack,")).unwrap();
    let foreign = balancer("foreign", "", "") + "status: {loadBalancer: {ingress: [{ip: 198.51.100.7}]}}\n";
    apply(&mut store, &foreign).unwrap();
    assert_eq!(external(&store, "web"), "192.0.2.1 2001:db8::1");
    let mut offer = |pools: &[&str]| store.offer(pools.iter().map(|pool| pool.parse().unwrap()).collect()).join("\n");
    assert_eq!(offer(&["wider=192.0.2.0-192.0.2.9,2001:db8::1"]), "", "who has an address keeps it");
    insta::assert_snapshot!(offer(&["other=203.0.113.1,2001:db8::1"]), @"service/default/web gave up 192.0.2.1, which its address pools do not have any more: it has 203.0.113.1, 2001:db8::1 now");
    insta::assert_snapshot!(offer(&[]), @"service/default/web gave up 203.0.113.1, 2001:db8::1, which its address pools do not have any more: it waits for another");
    assert_eq!(offer(&["public=203.0.113.2"]), "");
    assert_eq!((external(&store, "web"), external(&store, "foreign")), ("203.0.113.2".into(), "198.51.100.7".into()));
    store.flush().unwrap();
    drop(store);
    let mut store = open(Some(folder.path()), &["public=203.0.113.1-203.0.113.9"]);
    assert_eq!(external(&store, "web"), "203.0.113.2", "it is remembered");
    assert_eq!(external(&store, "foreign"), "198.51.100.7");
    store.flush().unwrap();
    drop(store);

    // The pools changed while no daemon ran.
    let mut store = open(Some(folder.path()), &[]);
    insta::assert_snapshot!(external(&store, "web"), @"no address pool is configured for Services without a loadBalancerClass");
    assert_eq!(external(&store, "foreign"), "198.51.100.7");
    store.flush().unwrap();
    drop(store);
    let store = open(Some(folder.path()), &["public=192.0.2.1"]);
    assert_eq!((external(&store, "web"), external(&store, "foreign")), ("192.0.2.1".into(), "198.51.100.7".into()));
}
