//! Which families a Service has (`initIPFamilyFields`).

use super::{Problems, is_headless};
use crate::manifest::path::field;
use crate::manifest::rules::names::address;
use crate::objects::{IpFamily, Labels, ServiceSpec};

const SINGLE: &str = "SingleStack";
const PREFER: &str = "PreferDualStack";
const REQUIRE: &str = "RequireDualStack";

/// How `clusterIP`, `clusterIPs` and `ipFamilies` go together (`ValidateServiceClusterIPsRelatedFields`).
pub(super) fn related(spec: &ServiceSpec, problems: &mut Problems) {
    let path = || field!["spec", "clusterIPs"];
    match (&spec.cluster_ip, spec.cluster_ips.first()) {
        (Some(first), Some(of_list)) if first != of_list => {
            problems.push((path(), format!("`{of_list}`: the first must be clusterIP, which is {first}")));
        }
        (None, Some(of_list)) => problems.push((path(), format!("needs `clusterIP: {of_list}` beside it"))),
        _ => {}
    }
    if is_headless(spec) {
        return;
    }
    for (index, (text, family)) in spec.cluster_ips.iter().zip(&spec.ip_families).enumerate() {
        if let Some(address) = address(text)
            && IpFamily::of(address) != *family
        {
            let message = format!("{text} is not {}, which ipFamilies[{index}] asks for", name(*family));
            problems.push((path().then(index), message));
        }
    }
}

/// Fills `ipFamilyPolicy` and `ipFamilies`.
pub(super) fn complete(
    new: &mut ServiceSpec,
    old: Option<&ServiceSpec>,
    configured: &[IpFamily],
    problems: &mut Problems,
) {
    if old.is_some_and(|old| is_unchanged_preference(new, old)) {
        return;
    }
    let is_free = is_headless_without_selector(new);
    let policy = policy(new, old, is_free);
    if let Some(old) = old {
        give_up_the_second(new, old, &policy, problems);
    }
    if policy == SINGLE && (new.cluster_ips.len() == 2 || new.ip_families.len() == 2) {
        let message = format!("`{SINGLE}` must be {PREFER} or {REQUIRE} for two families");
        problems.push((field!["spec", "ipFamilyPolicy"], message));
    }
    if !is_headless(new) {
        infer_from_addresses(new, configured, problems);
    }
    if !is_free && problems.is_empty() {
        check_configured(new, &policy, configured, problems);
    }
    if !problems.is_empty() {
        return;
    }
    if new.ip_families.is_empty() {
        new.ip_families.extend(configured.first());
    }
    if let ([only], true) = (&new.ip_families[..], policy != SINGLE && (is_free || configured.len() == 2)) {
        let second = other(*only);
        new.ip_families.push(second);
    }
}

/// What prefers two families keeps what it has when the node's ranges change (`isMatchingPreferDualStackClusterIPFields`).
fn is_unchanged_preference(new: &ServiceSpec, old: &ServiceSpec) -> bool {
    new.ip_family_policy.as_deref() == Some(PREFER)
        && old.ip_family_policy == new.ip_family_policy
        && (old.r#type, &old.cluster_ips, &old.ip_families) == (new.r#type, &new.cluster_ips, &new.ip_families)
}

/// The policy that is asked for, that there was, or that suits.
fn policy(new: &mut ServiceSpec, old: Option<&ServiceSpec>, is_free: bool) -> String {
    let kept = old.and_then(|old| old.ip_family_policy.clone());
    let inferred = if is_free { REQUIRE } else { SINGLE };
    new.ip_family_policy.get_or_insert_with(|| kept.unwrap_or_else(|| inferred.to_owned())).clone()
}

/// Its endpoints are written by hand, and may be of any family.
fn is_headless_without_selector(spec: &ServiceSpec) -> bool {
    is_headless(spec) && spec.selector.as_ref().is_none_or(Labels::is_empty)
}

/// `SingleStack` alone says clearly that the second family is to go.
fn give_up_the_second(new: &mut ServiceSpec, old: &ServiceSpec, policy: &str, problems: &mut Problems) {
    if policy == SINGLE {
        if new.cluster_ips == old.cluster_ips {
            new.cluster_ips.truncate(1);
        }
        if new.ip_families == old.ip_families {
            new.ip_families.truncate(1);
        }
    } else if new.cluster_ips.len() == 1 && old.cluster_ips.len() == 2
        || new.ip_families.len() == 1 && old.ip_families.len() == 2
    {
        let message = format!("`{policy}` must be {SINGLE} to give up the second family");
        problems.push((field!["spec", "ipFamilyPolicy"], message));
    }
}

fn infer_from_addresses(new: &mut ServiceSpec, configured: &[IpFamily], problems: &mut Problems) {
    for index in new.ip_families.len()..new.cluster_ips.len() {
        let text = &new.cluster_ips[index];
        let Some(family) = address(text).map(IpFamily::of) else { continue };
        if configured.contains(&family) {
            new.ip_families.push(family);
        } else {
            problems.push((field!["spec", "clusterIPs", index], format!("{text}: {}", missing(family, configured))));
        }
    }
}

fn check_configured(new: &ServiceSpec, policy: &str, configured: &[IpFamily], problems: &mut Problems) {
    if policy == REQUIRE && configured.len() < 2 {
        let has = configured.iter().map(|family| name(*family)).next().unwrap_or("none");
        let message =
            format!("`{REQUIRE}` needs service CIDRs of both families, and this node has {has}: use {PREFER}");
        problems.push((field!["spec", "ipFamilyPolicy"], message));
    }
    for (index, family) in new.ip_families.iter().enumerate().filter(|(_, family)| !configured.contains(family)) {
        problems.push((field!["spec", "ipFamilies", index], missing(*family, configured)));
    }
}

fn missing(family: IpFamily, configured: &[IpFamily]) -> String {
    let has: Vec<&str> = configured.iter().map(|family| name(*family)).collect();
    format!("{} is not configured on this node, whose service CIDRs are {}", name(family), has.join(" and "))
}

const fn other(family: IpFamily) -> IpFamily {
    match family {
        IpFamily::IPv4 => IpFamily::IPv6,
        IpFamily::IPv6 => IpFamily::IPv4,
    }
}

const fn name(family: IpFamily) -> &'static str {
    match family {
        IpFamily::IPv4 => "IPv4",
        IpFamily::IPv6 => "IPv6",
    }
}
