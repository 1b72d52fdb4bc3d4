//! What holds for the whole node: forwarding, and others that answer for Services.

use super::{Line, Lines, sysctl};
use crate::host::{HostView, nftables};
use std::fs;
use std::net::IpAddr;

/// The chain and the table by which kube-proxy's rules are known.
const CHAIN: &str = "KUBE-SERVICES";
const TABLE: &str = "kube-proxy";

pub(super) fn lines(view: &HostView) -> Vec<Line> {
    let mut lines = Lines::of("node");
    let has = |of: fn(&IpAddr) -> bool| view.addresses.iter().any(|(_, network)| of(&network.addr()));
    let is_v4 = |address: &IpAddr| address.is_ipv4() && !address.is_loopback();
    // Link-local addresses (fe80::/10) need no router.
    let is_v6 = |address: &IpAddr| match address {
        IpAddr::V6(v6) => !v6.is_loopback() && v6.segments()[0] & 0xffc0 != 0xfe80,
        IpAddr::V4(_) => false,
    };
    for (check, name, path, has) in [
        ("forwarding-v4", "net.ipv4.ip_forward", "net/ipv4/ip_forward", has(is_v4)),
        ("forwarding-v6", "net.ipv6.conf.all.forwarding", "net/ipv6/conf/all/forwarding", has(is_v6)),
    ] {
        match (sysctl(path), has) {
            (Some(0), true) => {
                let message = format!("{name} is 0: nothing can be sent on to pods");
                lines.fail(check, message, format!("sysctl -w {name}=1"));
            }
            (Some(0), false) => lines.pass(check, format!("{name} is 0, and the node has no address of this family")),
            (Some(_), _) => lines.pass(check, format!("{name} is on")),
            (None, _) => lines.warn(check, format!("{name} cannot be read"), ""),
        }
    }
    others(&mut lines);
    lines.lines
}

/// Whoever else answers for Services here.
fn others(lines: &mut Lines<'_>) {
    let chains = nftables::chains().unwrap_or_default();
    let mut found: Vec<String> = Vec::new();
    let mut remedy = "kube-proxy --cleanup".to_owned();
    if let Some((family, table, _)) = chains.iter().find(|(_, _, chain)| chain == CHAIN) {
        found.push(format!("chain {CHAIN} in the table {family} {table}"));
    }
    if let Some((family, table, _)) = chains.iter().find(|(_, table, _)| table == TABLE) {
        found.push(format!("table {family} {table}"));
        remedy = format!("nft delete table {family} {table}");
    }
    if fs::read_to_string("/proc/net/ip_vs").is_ok_and(|text| text.lines().count() > 3) {
        found.push("virtual servers of IPVS".to_owned());
        "ipvsadm --clear".clone_into(&mut remedy);
    }
    if found.is_empty() {
        lines.pass("other-proxy", "no rules of kube-proxy are seen in nftables or IPVS");
    } else {
        let message = format!(
            "rules of another Service proxy are there ({}): both answer for the same addresses unless they have different networks \
             and node ports, and lb-ctl comes first",
            found.join(", ")
        );
        lines.warn("other-proxy", message, remedy);
    }
}
