//! Nodes (`ValidateNode`, `validateNodeTaints`).

use super::{Rules, metadata, names};
use crate::manifest::path::field;
use crate::objects::Node;
use std::collections::HashSet;

pub(super) fn check(node: &Node, rules: &mut Rules) {
    // ValidateNodeName = NameIsDNSSubdomain
    metadata::check(&node.metadata, names::dns_subdomain, rules);
    pod_cidrs(node, rules);
    taints(node, rules);
    let mut seen = HashSet::new();
    for (index, address) in node.status.addresses.iter().enumerate() {
        let path = || field!["status", "addresses", index];
        // Not the API server's: what is no address is of no use to whoever reads these.
        if matches!(address.r#type.as_str(), "InternalIP" | "ExternalIP") {
            rules.address(&address.address, || path().then("address"));
        }
        // ValidateNodeUpdate
        if !seen.insert((&address.r#type, &address.address)) {
            rules.error(path(), format!("{} {} is given twice: keep one", address.r#type, address.address));
        }
    }
}

/// `ValidateNode`: at most one range of each family.
fn pod_cidrs(node: &Node, rules: &mut Rules) {
    let ranges = &node.spec.pod_cidrs;
    let v4 = ranges.iter().filter(|range| range.addr().is_ipv4()).count();
    if v4 > 1 || ranges.len() - v4 > 1 {
        let given: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        let message = format!("`{}`: at most one range of each family is allowed", given.join(", "));
        rules.error(field!["spec", "podCIDRs"], message);
    }
    if let (Some(first), Some(single)) = (ranges.first(), node.spec.pod_cidr)
        && *first != single
    {
        rules.error(field!["spec", "podCIDRs"], format!("`{first}`: the first must be podCIDR, which is {single}"));
    }
}

/// `validateNodeTaints`
fn taints(node: &Node, rules: &mut Rules) {
    let mut seen = HashSet::new();
    for (index, taint) in node.spec.taints.iter().enumerate() {
        let path = |name: &str| field!["spec", "taints", index, name];
        rules.value(names::qualified_name(&taint.key), || path("key"), &taint.key);
        rules.value(names::label_value(&taint.value), || path("value"), &taint.value);
        rules.word(&taint.effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"], || path("effect"));
        if !seen.insert((&taint.key, &taint.effect)) {
            let message = format!("`{}` with {} is given twice: keep one", taint.key, taint.effect);
            rules.error(path("key"), message);
        }
    }
}
