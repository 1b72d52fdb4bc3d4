//! Nodes.

use super::{Rules, metadata, names};
use crate::manifest::path::field;
use crate::objects::Node;

pub(super) fn check(node: &Node, rules: &mut Rules) {
    metadata::check(&node.metadata, names::dns_subdomain, rules);
    for (index, address) in node.status.addresses.iter().enumerate() {
        if matches!(address.r#type.as_str(), "InternalIP" | "ExternalIP") {
            rules.address(&address.address, || field!["status", "addresses", index, "address"]);
        }
    }
}
