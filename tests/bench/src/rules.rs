//! The rules that kube-proxy writes, for those that we are compared with.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// A Service port.
pub(crate) struct Served {
    pub(crate) address: Ipv4Addr,
    /// `tcp` or `udp`.
    pub(crate) protocol: &'static str,
    pub(crate) port: u16,
    pub(crate) endpoints: Vec<Ipv4Addr>,
    /// The endpoints' port.
    pub(crate) target: u16,
}

/// What kube-proxy writes in its mode nftables (`pkg/proxy/nftables/proxier.go`), for a cluster whose network it is not told: a verdict map from address, protocol and port
/// to the Service's chain, there a random choice, and a chain for each endpoint.
pub(crate) fn nftables(services: &[Served]) -> String {
    let mut chains = String::new();
    let mut elements = Vec::new();
    for (index, Served { address, protocol, port, endpoints, target }) in services.iter().enumerate() {
        let mut choices = Vec::new();
        for (place, endpoint) in endpoints.iter().enumerate() {
            writeln!(
                chains,
                "chain endpoint-{index}-{place} {{ ip saddr {endpoint} jump mark-for-masquerade; meta l4proto {protocol} dnat to {endpoint}:{target}; }}"
            )
            .expect("a String takes all");
            choices.push(format!("{place} : goto endpoint-{index}-{place}"));
        }
        writeln!(
            chains,
            "chain service-{index} {{ numgen random mod {} vmap {{ {} }}; }}",
            choices.len(),
            choices.join(", ")
        )
        .expect("a String takes all");
        elements.push(format!("{address} . {protocol} . {port} : goto service-{index}"));
    }
    format!(
        "table ip kube-proxy {{
chain mark-for-masquerade {{ meta mark set meta mark or 0x4000; }}
chain masquerading {{ meta mark and 0x4000 == 0 return; meta mark set meta mark xor 0x4000; masquerade fully-random; }}
{chains}map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {} }} }}
chain services {{ ip daddr . meta l4proto . th dport vmap @service-ips; }}
chain nat-prerouting {{ type nat hook prerouting priority dstnat; policy accept; jump services; }}
chain nat-output {{ type nat hook output priority -100; policy accept; jump services; }}
chain nat-postrouting {{ type nat hook postrouting priority srcnat; policy accept; jump masquerading; }}
}}
",
        elements.join(",\n")
    )
}

/// What kube-proxy writes in its mode iptables (`pkg/proxy/iptables/proxier.go`): one rule for each Service in one list, there a
/// rule for each endpoint with its probability, and a chain for each endpoint.
pub(crate) fn iptables(services: &[Served]) -> String {
    let mut chains = String::from(
        "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-NODEPORTS - [0:0]\n",
    );
    let mut rules = String::from(
        "-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
",
    );
    for (index, Served { address, protocol, port, endpoints, target }) in services.iter().enumerate() {
        writeln!(chains, ":KUBE-SVC-{index} - [0:0]").expect("a String takes all");
        writeln!(
            rules,
            "-A KUBE-SERVICES -d {address}/32 -p {protocol} -m {protocol} --dport {port} -j KUBE-SVC-{index}"
        )
        .expect("a String takes all");
        for (place, endpoint) in endpoints.iter().enumerate() {
            let left = endpoints.len() - place;
            let chance = if left > 1 {
                format!("-m statistic --mode random --probability {:.10} ", 1.0 / left as f64)
            } else {
                String::new()
            };
            writeln!(chains, ":KUBE-SEP-{index}-{place} - [0:0]").expect("a String takes all");
            write!(
                rules,
                "-A KUBE-SVC-{index} {chance}-j KUBE-SEP-{index}-{place}
-A KUBE-SEP-{index}-{place} -s {endpoint}/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-{index}-{place} -p {protocol} -m {protocol} -j DNAT --to-destination {endpoint}:{target}
"
            )
            .expect("a String takes all");
        }
    }
    rules += "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n";
    format!("{chains}{rules}COMMIT\n")
}
