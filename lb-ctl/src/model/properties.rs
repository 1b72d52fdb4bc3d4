//! A model that follows changes comes to what one comes to that begins with the outcome.

use super::{Model, NodeView, services};
use crate::objects::{
    AddressType, Endpoint, EndpointPort, EndpointSlice, Key, Kind, Labels, Object, ObjectId, Objects, Pod, PodIp,
    SERVICE_NAME_LABEL, Service, ServicePort, ServiceType,
};
use proptest::prelude::*;
use std::sync::Arc;

/// One change. Few names and values, so that objects meet.
#[derive(Clone, Debug)]
enum Step {
    Service { name: u8, address: u8, node_port: bool, selector: Option<(u8, Option<u8>)>, age: Option<u8> },
    Pod { name: u8, app: Option<u8>, tier: Option<u8>, address: u8, ready: bool },
    Slice { name: u8, service: Option<u8>, address: u8, names: bool },
    Delete { kind: Kind, name: u8 },
    Node(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let selector = prop::option::weighted(0.8, (0..3_u8, prop::option::of(0..2_u8)));
    prop_oneof![
        3 => (0..5_u8, 0..3_u8, any::<bool>(), selector, prop::option::of(0..3_u8)).prop_map(
            |(name, address, node_port, selector, age)| Step::Service { name, address, node_port, selector, age }
        ),
        4 => (0..6_u8, prop::option::of(0..3_u8), prop::option::of(0..2_u8), 0..9_u8, any::<bool>()).prop_map(
            |(name, app, tier, address, ready)| Step::Pod { name, app, tier, address, ready }
        ),
        2 => (0..4_u8, prop::option::weighted(0.8, 0..5_u8), 0..9_u8, prop::bool::weighted(0.2)).prop_map(
            |(name, service, address, names)| Step::Slice { name, service, address, names }
        ),
        2 => (prop_oneof![Just(Kind::Service), Just(Kind::Pod), Just(Kind::EndpointSlice)], 0..6_u8)
            .prop_map(|(kind, name)| Step::Delete { kind, name }),
        1 => (0..3_u8).prop_map(Step::Node),
    ]
}

/// Even and odd names are in different namespaces.
fn key(name: u8) -> Key {
    Key::new(["here", "there"][usize::from(name % 2)], format!("n{name}"))
}

fn node(number: u8) -> NodeView {
    NodeView { name: format!("node-{number}"), addresses: vec![[192, 168, 0, number].into()], ..NodeView::default() }
}

fn label(labels: &mut Labels, key: &str, value: Option<u8>) {
    labels.extend(value.map(|value| (key.to_owned(), value.to_string())));
}

fn object(step: &Step) -> Option<Object> {
    match step {
        Step::Service { name, address, node_port, selector, age } => {
            let mut service = Service::default();
            (service.metadata.namespace, service.metadata.name) = (key(*name).namespace, key(*name).name);
            service.metadata.creation_timestamp = age.map(|age| format!("2024-05-0{}T00:00:00Z", age + 1));
            service.spec.cluster_ips = vec![format!("10.96.0.{address}")];
            service.spec.selector = selector.map(|(app, tier)| {
                let mut labels = Labels::new();
                label(&mut labels, "app", Some(app));
                label(&mut labels, "tier", tier);
                labels
            });
            if *node_port {
                service.spec.r#type = ServiceType::NodePort;
            }
            let number = node_port.then_some(30_000 + i64::from(*address));
            service.spec.ports = vec![ServicePort { port: 80, node_port: number, ..ServicePort::default() }];
            Some(Object::Service(Arc::new(service)))
        }
        Step::Pod { name, app, tier, address, ready } => {
            let mut pod = Pod::default();
            (pod.metadata.namespace, pod.metadata.name) = (key(*name).namespace, key(*name).name);
            label(&mut pod.metadata.labels, "app", *app);
            label(&mut pod.metadata.labels, "tier", *tier);
            pod.spec.node_name = Some(format!("node-{}", address % 3));
            pod.status.pod_ips = vec![PodIp { ip: [10, 244, 0, *address].into() }];
            pod.status.phase = Some(if *ready { "Running" } else { "Failed" }.to_owned());
            Some(Object::Pod(Arc::new(pod)))
        }
        Step::Slice { name, service, address, names } => {
            let mut slice = EndpointSlice {
                api_version: String::new(),
                kind: String::new(),
                metadata: crate::objects::Metadata::default(),
                address_type: if *names { AddressType::FQDN } else { AddressType::IPv4 },
                endpoints: vec![Endpoint { addresses: vec![format!("10.244.1.{address}")], ..Endpoint::default() }],
                ports: vec![EndpointPort { port: Some(8080), ..EndpointPort::default() }],
            };
            (slice.metadata.namespace, slice.metadata.name) = (key(*name).namespace, key(*name).name);
            let service = service.map(|service| key(service).name);
            slice.metadata.labels.extend(service.map(|service| (SERVICE_NAME_LABEL.to_owned(), service)));
            Some(Object::EndpointSlice(Arc::new(slice)))
        }
        Step::Delete { .. } | Step::Node(_) => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn following_changes_is_the_same_as_beginning_anew(rounds in prop::collection::vec(prop::collection::vec(step(), 1..6), 1..30)) {
        let mut objects = Objects::default();
        let mut here = node(0);
        let mut model = Model::default();
        for round in rounds {
            for step in &round {
                match step {
                    Step::Delete { kind, name } => objects.remove(&ObjectId { kind: *kind, key: key(*name) }),
                    Step::Node(number) => here = node(*number),
                    _ => object(step).into_iter().for_each(|object| objects.insert(object)),
                }
            }
            let before = model.views().clone();
            model.update(&objects, &here);
            prop_assert_eq!(model.views(), &services(&objects, &here), "after {:?}", round);
            for (key, view) in model.views() {
                let old = before.get(key).filter(|old| *old == view);
                prop_assert!(old.is_none_or(|old| Arc::ptr_eq(old, view)), "{} is not new", key);
            }
        }
    }
}
