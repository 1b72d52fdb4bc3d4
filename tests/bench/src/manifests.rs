//! Services and their endpoints, as many as wanted, as text.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The namespace of all of them.
const NAMESPACE: &str = "bench";
/// The Service that most packets are for: one backend, both families, TCP 80 and UDP 53.
pub(crate) const HOT4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// Its other address.
pub(crate) const HOT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0xa);
/// Its backend.
pub(crate) const BACKEND4: Ipv4Addr = {
    let [a, b, c, d] = lb_yardsticks::BACKEND;
    Ipv4Addr::new(a, b, c, d)
};
/// Its backend's other address.
pub(crate) const BACKEND6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, 1);
/// Port of the backend.
pub(crate) const BACKEND_PORT: u16 = 8080;
/// The first of the other Services' addresses; the others follow.
pub(crate) const FIRST: Ipv4Addr = Ipv4Addr::new(10, 97, 0, 0);
/// So many backends share the load of all other Services: addresses from 10.200.0.0 on.
const BACKENDS: u32 = 4096;

/// The hot Service and its endpoints.
pub(crate) fn hot() -> String {
    let mut text = format!(
        "apiVersion: v1
kind: Service
metadata: {{ name: hot, namespace: {NAMESPACE} }}
spec:
  ipFamilyPolicy: RequireDualStack
  ipFamilies: [IPv4, IPv6]
  clusterIPs: [{HOT4}, \"{HOT6}\"]
  clusterIP: {HOT4}
  ports:
  - {{ name: http, port: 80, targetPort: {BACKEND_PORT} }}
  - {{ name: dns, port: 53, protocol: UDP, targetPort: {BACKEND_PORT} }}
"
    );
    for (family, address) in [("IPv4", BACKEND4.to_string()), ("IPv6", BACKEND6.to_string())] {
        // Of this node, so that clients keep their addresses.
        let lower = family.to_lowercase();
        write!(
            text,
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: hot-{lower}, namespace: {NAMESPACE}, labels: {{ kubernetes.io/service-name: hot }} }}
addressType: {family}
ports:
- {{ name: http, port: {BACKEND_PORT} }}
- {{ name: dns, port: {BACKEND_PORT}, protocol: UDP }}
endpoints:
- {{ addresses: [\"{address}\"], nodeName: node-1, conditions: {{ ready: true }} }}
"
        )
        .expect("a String takes all");
    }
    text
}

/// The Services numbered `numbers`, each with `endpoints` endpoints.
pub(crate) fn services(numbers: std::ops::Range<u32>, endpoints: u32) -> String {
    let mut text = String::new();
    for number in numbers {
        write!(
            text,
            "---
apiVersion: v1
kind: Service
metadata: {{ name: s-{number}, namespace: {NAMESPACE} }}
spec:
  clusterIP: {}
  ports:
  - {{ name: http, port: 80, targetPort: {BACKEND_PORT} }}
",
            Ipv4Addr::from_bits(FIRST.to_bits() + number)
        )
        .expect("a String takes all");
        text += &slice(number, endpoints, None);
    }
    text
}

/// The endpoints of one Service, with one more in the end if one is `added`.
pub(crate) fn slice(number: u32, endpoints: u32, added: Option<Ipv4Addr>) -> String {
    let mut text = format!(
        "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: s-{number}-x, namespace: {NAMESPACE}, labels: {{ kubernetes.io/service-name: s-{number} }} }}
addressType: IPv4
ports:
- {{ name: http, port: {BACKEND_PORT} }}
endpoints:
"
    );
    // Next to each other in number, so that few Services have the same set.
    let shared = (0..endpoints).map(|index| {
        let backend = (number.wrapping_mul(7) + index * (1 + number % 13)) % BACKENDS;
        Ipv4Addr::from_bits(Ipv4Addr::new(10, 200, 0, 0).to_bits() + backend)
    });
    for address in shared.chain(added) {
        writeln!(text, "- {{ addresses: [\"{address}\"], nodeName: node-1, conditions: {{ ready: true }} }}")
            .expect("a String takes all");
    }
    text
}
