//! What an object contributes to the table, by the Kubernetes DNS specification (kubernetes/dns, docs/specification.md). Pure.

use super::path::Path;
use crate::model::{Host, ServiceView};
use crate::objects::{Protocol, ServiceType};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

/// The version of the specification (2.2).
const SCHEMA_VERSION: &str = "1.1.0";

/// One record's data.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Data {
    /// A or AAAA.
    Address(IpAddr),
    /// SRV: port and target.
    Service(u16, Path),
    /// PTR.
    Pointer(Path),
    /// CNAME: the only record of its name.
    Alias(Path),
    /// TXT.
    Text(&'static str),
    /// NS.
    NameServer(Path),
    /// SOA: what else it says is the same for all zones.
    Authority,
}

/// Records by name. A name without records exists all the same.
pub(super) type Records = BTreeMap<Path, BTreeSet<Data>>;

/// The name of this server, as `CoreDNS` has it.
pub(super) fn server(domain: &Path) -> Path {
    domain.child("dns").child("ns")
}

/// What there is without any object. `own` are the server's addresses.
pub(super) fn of_zones(domain: &Path, zones: &[Path], own: &[IpAddr]) -> Records {
    let mut records = Records::new();
    let server = server(domain);
    for zone in zones {
        records.insert(zone.clone(), [Data::Authority, Data::NameServer(server.clone())].into());
    }
    records.insert(server, own.iter().copied().map(Data::Address).collect());
    records.insert(domain.child("dns-version"), [Data::Text(SCHEMA_VERSION)].into());
    records.insert(domain.child("svc"), BTreeSet::new());
    // Pods have no records of their own (2.6 is deprecated), but the name is known.
    records.insert(domain.child("pod"), BTreeSet::new());
    records
}

/// A namespace exists, also if nothing is in it.
pub(super) fn of_namespace(domain: &Path, name: &str) -> Records {
    [(domain.child("svc").child(name), BTreeSet::new())].into()
}

/// The records of a Service and its endpoints.
pub(super) fn of_service(domain: &Path, service: &ServiceView) -> Records {
    let namespace = domain.child("svc").child(&service.key.namespace);
    let own = namespace.child(&service.key.name);
    let mut records = Records::new();
    let mut add = |name: &Path, data: Data| {
        // Only the longest of names and domains together come to one that no message can hold.
        if name.fits() {
            records.entry(name.clone()).or_default().insert(data);
        }
    };
    if service.r#type == ServiceType::ExternalName {
        if let Some(target) = service.external_name.as_deref().and_then(alias) {
            add(&own, Data::Alias(target));
        }
    } else {
        for address in &service.cluster_addresses {
            add(&own, Data::Address(*address));
            add(&Path::reverse(*address), Data::Pointer(own.clone()));
        }
        if !service.cluster_addresses.is_empty() {
            for port in service.ports.iter().filter(|port| !port.name.is_empty()) {
                serve(&own, &port.name, port.protocol, Data::Service(port.port, own.clone()), &mut add);
            }
        }
        for host in &service.hosts {
            let name = own.child(&label(host));
            if service.headless {
                add(&own, Data::Address(host.address));
                for port in &*host.ports {
                    serve(&own, &port.name, port.protocol, Data::Service(port.port, name.clone()), &mut add);
                }
            }
            add(&name, Data::Address(host.address));
            add(&Path::reverse(host.address), Data::Pointer(name));
        }
    }
    if records.is_empty() {
        // The Service's name does not exist (2.4.1), its namespace's does.
        records.insert(namespace, BTreeSet::new());
    }
    records
}

/// A named port of a Service, under the port's name and, as `CoreDNS` has it, under the Service's own.
fn serve(service: &Path, port: &str, protocol: Protocol, data: Data, add: &mut impl FnMut(&Path, Data)) {
    let protocol = match protocol {
        Protocol::TCP => "_tcp",
        Protocol::UDP => "_udp",
        Protocol::SCTP => "_sctp",
    };
    add(&service.child(protocol).child(&format!("_{port}")), data.clone());
    add(service, data);
}

/// The name of an endpoint below its Service's: the one it was given, else one made of its address, as `CoreDNS` does.
fn label(host: &Host) -> String {
    host.name.clone().unwrap_or_else(|| host.address.to_string().replace(['.', ':'], "-"))
}

/// What an ExternalName stands for. One that looks like an IPv4 address is no name, and resolves to nothing.
fn alias(name: &str) -> Option<Path> {
    let is_address = name.trim_end_matches('.').parse::<Ipv4Addr>().is_ok();
    Path::parse(name).filter(|path| !is_address && path.fits())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NodeView, services};
    use crate::objects::{Object, Objects};
    use std::sync::Arc;

    /// Name, type and data of each record of a Service with these slices and pods, in order.
    fn records(service: &str, slices: &[&str], pods: &[&str]) -> Vec<String> {
        let mut objects = Objects::default();
        objects.insert(Object::Service(Arc::new(serde_yaml::from_str(service).unwrap())));
        for slice in slices {
            objects.insert(Object::EndpointSlice(Arc::new(serde_yaml::from_str(slice).unwrap())));
        }
        for pod in pods {
            objects.insert(Object::Pod(Arc::new(serde_yaml::from_str(pod).unwrap())));
        }
        let views = services(&objects, &NodeView::default());
        let (_, view) = views.iter().next().unwrap();
        let domain = Path::parse("k").unwrap();
        let all = of_service(&domain, view).into_iter().flat_map(|(name, data)| {
            let some = data.iter().map(|data| format!("{name} {data:?}")).collect::<Vec<_>>();
            if some.is_empty() { vec![format!("{name}")] } else { some }
        });
        all.collect()
    }

    #[test]
    fn a_service_with_an_address_has_it_whatever_its_endpoints() {
        let service = "{metadata: {name: s, namespace: n}, spec: {clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 'fd00::1'], \
                       ports: [{name: a, port: 80}, {name: a, port: 80, protocol: UDP}]}}";
        assert_eq!(
            records(service, &[], &[]),
            [
                "s.n.svc.k. Address(10.0.0.1)",
                "s.n.svc.k. Address(fd00::1)",
                "s.n.svc.k. Service(80, s.n.svc.k.)",
                "_a._tcp.s.n.svc.k. Service(80, s.n.svc.k.)",
                "_a._udp.s.n.svc.k. Service(80, s.n.svc.k.)",
                "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa. Pointer(s.n.svc.k.)",
                "1.0.0.10.in-addr.arpa. Pointer(s.n.svc.k.)",
            ]
        );
        let unnamed = "{metadata: {name: s, namespace: n}, spec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}}";
        assert_eq!(
            records(unnamed, &[], &[]),
            ["s.n.svc.k. Address(10.0.0.1)", "1.0.0.10.in-addr.arpa. Pointer(s.n.svc.k.)"]
        );
    }

    const HEADLESS: &str = "{metadata: {name: h, namespace: n}, spec: {clusterIP: None, clusterIPs: [None], \
                            selector: {app: x}, ports: [{name: p, port: 80, targetPort: 8080}]}}";

    #[test]
    fn a_headless_service_is_its_ready_endpoints() {
        let slice = "{metadata: {name: h1, namespace: n, labels: {kubernetes.io/service-name: h, \
                     service.kubernetes.io/headless: ''}}, addressType: IPv4, ports: [{name: p, port: 8080}], endpoints: \
                     [{addresses: [10.1.0.1, 10.1.0.9], hostname: a}, {addresses: [10.1.0.2]}, \
                     {addresses: [10.1.0.3], hostname: c, conditions: {ready: false}}]}";
        let expected = [
            "h.n.svc.k. Address(10.1.0.1)",
            "h.n.svc.k. Address(10.1.0.2)",
            "h.n.svc.k. Address(10.1.0.9)",
            "h.n.svc.k. Service(8080, a.h.n.svc.k.)",
            "h.n.svc.k. Service(8080, 10-1-0-2.h.n.svc.k.)",
            "a.h.n.svc.k. Address(10.1.0.1)",
            "a.h.n.svc.k. Address(10.1.0.9)",
            "_p._tcp.h.n.svc.k. Service(8080, a.h.n.svc.k.)",
            "_p._tcp.h.n.svc.k. Service(8080, 10-1-0-2.h.n.svc.k.)",
            "10-1-0-2.h.n.svc.k. Address(10.1.0.2)",
            "1.0.1.10.in-addr.arpa. Pointer(a.h.n.svc.k.)",
            "2.0.1.10.in-addr.arpa. Pointer(10-1-0-2.h.n.svc.k.)",
            "9.0.1.10.in-addr.arpa. Pointer(a.h.n.svc.k.)",
        ];
        assert_eq!(records(HEADLESS, &[slice], &[]), expected);
        let publish = HEADLESS.replace("clusterIP: None,", "clusterIP: None, publishNotReadyAddresses: true,");
        let published = records(&publish, &[slice], &[]);
        assert!(published.contains(&"c.h.n.svc.k. Address(10.1.0.3)".to_owned()), "{published:?}");
        assert_eq!(records(HEADLESS, &[], &[]), ["n.svc.k."], "without endpoints there is no such name");
    }

    #[test]
    fn a_pod_has_a_name_below_the_service_that_it_says() {
        let pod = |name: &str, rest: &str| {
            format!("{{metadata: {{name: {name}, namespace: n, labels: {{app: x}}}}, {rest}}}")
        };
        let named = pod("a", "spec: {hostname: db-0, subdomain: h}, status: {podIP: 10.1.0.1}");
        let elsewhere = pod("b", "spec: {hostname: db-1, subdomain: other}, status: {podIP: 'fd00::2'}");
        let ill = pod("c", "status: {podIP: 10.1.0.3, conditions: [{type: Ready, status: 'False'}]}");
        let found = records(HEADLESS, &[], &[&named, &elsewhere, &ill]);
        let of_it: BTreeSet<&str> =
            found.iter().filter_map(|record| record.strip_suffix(" Address(10.1.0.1)")).collect();
        assert_eq!(of_it, ["db-0.h.n.svc.k.", "h.n.svc.k."].into());
        assert!(found.contains(&"fd00--2.h.n.svc.k. Address(fd00::2)".to_owned()), "{found:?}");
        assert!(!found.iter().any(|record| record.contains("10.1.0.3")), "{found:?}");
        assert!(found.contains(&"_p._tcp.h.n.svc.k. Service(8080, db-0.h.n.svc.k.)".to_owned()), "{found:?}");
    }

    #[test]
    fn endpoints_behind_an_address_have_names_if_they_were_given_one() {
        let service = "{metadata: {name: s, namespace: n}, spec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}}";
        let slice = "{metadata: {name: s1, namespace: n, labels: {kubernetes.io/service-name: s}}, addressType: IPv4, \
                     ports: [{port: 80}], endpoints: [{addresses: [10.1.0.1], hostname: a}, {addresses: [10.1.0.2]}]}";
        let found = records(service, &[slice], &[]);
        assert!(found.contains(&"a.s.n.svc.k. Address(10.1.0.1)".to_owned()), "{found:?}");
        assert!(found.contains(&"1.0.1.10.in-addr.arpa. Pointer(a.s.n.svc.k.)".to_owned()), "{found:?}");
        assert!(!found.iter().any(|record| record.contains("10.1.0.2")), "{found:?}");
    }

    #[test]
    fn an_external_name_is_an_alias_unless_it_is_no_name() {
        let service = |to: &str| {
            let text = "{metadata: {name: e, namespace: n}, spec: {type: ExternalName, externalName: 'TO'}}";
            records(&text.replace("TO", to), &[], &[])
        };
        assert_eq!(service("www.example.com"), ["e.n.svc.k. Alias(www.example.com.)"]);
        assert_eq!(service("www.example.com."), ["e.n.svc.k. Alias(www.example.com.)"]);
        assert_eq!(service("192.0.2.1"), ["n.svc.k."]);
    }
}
