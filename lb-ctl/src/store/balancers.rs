//! Addresses for load balancers: Services of the type LoadBalancer get one of each of their families from the pools of the
//! configuration, and keep it as long as they are such.
//!
//! The annotation [`POOL_ANNOTATION`] names a pool; without it, a Service with a `loadBalancerClass` is served by the pools
//! of this class, and one without by the pools without. What a manifest says in `status.loadBalancer` stays: another load
//! balancer is at work there.

use super::pool::{Band, Pool, address, number};
use crate::manifest::rules::names;
use crate::objects::{IpFamily, Key, LoadBalancerIngress, LoadBalancerStatus, POOL_ANNOTATION, Service, ServiceType};
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A pool of addresses, as configured.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AddressPool {
    /// Its name.
    pub name: String,
    /// Its addresses, of either family.
    pub addresses: Vec<AddressRange>,
    /// The class of load balancers that it serves; none: those without.
    pub load_balancer_class: Option<String>,
}

/// Addresses from the first to the last: `192.0.2.0/28`, `192.0.2.1-192.0.2.9` or `192.0.2.1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

impl AddressRange {
    /// Whether the two have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.first.is_ipv4() == other.first.is_ipv4() && self.first <= other.last && other.first <= self.last
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && (self.first..=self.last).contains(&address)
    }

    fn band(&self) -> Band {
        let first = number(self.first);
        Band { first, count: (number(self.last) - first).saturating_add(1), reserved: 0 }
    }
}

impl From<IpNet> for AddressRange {
    fn from(network: IpNet) -> Self {
        Self { first: network.network(), last: network.broadcast() }
    }
}

impl FromStr for AddressRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not 192.0.2.0/28, 192.0.2.1-192.0.2.9 or 192.0.2.1");
        let parse = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| wrong());
        let range = if text.contains('/') {
            text.trim().parse::<IpNet>().map_err(|_| wrong())?.into()
        } else {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            Self { first: parse(first)?, last: parse(last)? }
        };
        if range.first.is_ipv4() != range.last.is_ipv4() || range.first > range.last {
            return Err(format!("`{text}`: the last address must be of the first one's family, and not before it"));
        }
        for end in [range.first, range.last] {
            names::not_special(end).map_err(|right| format!("`{text}`: {end} {right}"))?;
        }
        Ok(range)
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl<'de> Deserialize<'de> for AddressRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// `NAME[@CLASS]=RANGE[,RANGE]...`
impl FromStr for AddressPool {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, ranges) = text.split_once('=').ok_or("write NAME=RANGE, such as public=192.0.2.0/28")?;
        let (name, class) = name.split_once('@').map_or((name, None), |(name, class)| (name, Some(class)));
        let addresses = ranges.split(',').map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self { name: name.to_owned(), addresses, load_balancer_class: class.map(str::to_owned) })
    }
}

impl fmt::Display for AddressPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(class) = &self.load_balancer_class {
            write!(f, "@{class}")?;
        }
        for (index, range) in self.addresses.iter().enumerate() {
            write!(f, "{}{range}", if index == 0 { "=" } else { "," })?;
        }
        Ok(())
    }
}

/// The pools, and who holds which address.
#[derive(Debug)]
pub(super) struct Balancers {
    pub(super) pools: Vec<AddressPool>,
    pub(super) held: Pool<IpAddr>,
}

impl Balancers {
    pub(super) fn new() -> Self {
        Self { pools: Vec::new(), held: Pool::new() }
    }

    /// Takes up what a Service has. What is in none of its pools was given by its manifest.
    pub(super) fn take_up(&mut self, service: &Service) {
        let owner = service.metadata.key();
        for address in service.load_balancer_addresses() {
            if self.held.held_by_other(address, &owner).is_none() {
                self.held.hold(address, &owner, !self.has_for(service, address));
            }
        }
    }

    /// Whether an address is in a pool that serves this Service.
    fn has_for(&self, service: &Service, address: IpAddr) -> bool {
        let pools = eligible(&self.pools, service).unwrap_or_default();
        pools.iter().flat_map(|pool| &pool.addresses).any(|range| range.contains(address))
    }

    /// Takes a Service's addresses back.
    pub(super) fn release(&mut self, service: &Service) {
        let owner = service.metadata.key();
        service.load_balancer_addresses().into_iter().for_each(|address| self.held.release(address, &owner));
    }

    /// Takes from a Service the addresses that came from pools and are in none any more, and gives it others. The answer is
    /// what it lost.
    pub(super) fn move_out(&mut self, service: &mut Service) -> Vec<IpAddr> {
        let owner = service.metadata.key();
        let is_ours =
            |address: IpAddr| self.held.holder(address).is_some_and(|holder| holder.owner == owner && !holder.given);
        let (lost, kept): (Vec<IpAddr>, Vec<IpAddr>) = service
            .load_balancer_addresses()
            .into_iter()
            .partition(|address| is_ours(*address) && !self.has_for(service, *address));
        if !lost.is_empty() {
            self.release(service);
            service.status.load_balancer = LoadBalancerStatus::default();
            self.assign(service, &kept);
        }
        lost
    }

    /// Gives a Service its addresses, those `before` if they are still to be had. `dropTypeDependentFields` is why one of
    /// another type has none.
    pub(super) fn assign(&mut self, service: &mut Service, before: &[IpAddr]) {
        if service.spec.r#type != ServiceType::LoadBalancer {
            service.status.load_balancer = LoadBalancerStatus::default();
            return;
        }
        if !service.status.load_balancer.ingress.is_empty() {
            return self.take_up(service);
        }
        let owner = service.metadata.key();
        let Ok(pools) = eligible(&self.pools, service) else { return };
        let ranges: Vec<AddressRange> = pools.iter().flat_map(|pool| pool.addresses.iter().copied()).collect();
        let wanted = wanted(service);
        for family in &service.spec.ip_families {
            let usable = |address: &IpAddr| {
                IpFamily::of(*address) == *family
                    && ranges.iter().any(|range| range.contains(*address))
                    && self.held.held_by_other(*address, &owner).is_none()
            };
            let found = match &wanted {
                Some(wanted) => wanted.as_ref().ok().copied().filter(usable),
                None => before.iter().copied().find(usable).or_else(|| {
                    let mut ranges = ranges.iter().filter(|range| IpFamily::of(range.first) == *family);
                    ranges.find_map(|range| self.held.choose(range.band(), &owner, |value| address(*family, value)))
                }),
            };
            if let Some(address) = found {
                self.held.hold(address, &owner, false);
                let ip = Some(address.to_string());
                let entry = LoadBalancerIngress { ip, hostname: None, ip_mode: Some("VIP".to_owned()) };
                service.status.load_balancer.ingress.push(entry);
            }
        }
    }

    /// Why a load balancer has no address, if it has none.
    pub(super) fn why_none(&self, service: &Service) -> Option<String> {
        let has_any = !service.status.load_balancer.ingress.is_empty();
        if service.spec.r#type != ServiceType::LoadBalancer || has_any {
            return None;
        }
        let pools = match eligible(&self.pools, service) {
            Ok(pools) => pools,
            Err(why) => return Some(why),
        };
        let shown = pools.iter().map(|pool| format!("`{}`", pool.name)).collect::<Vec<_>>().join(", ");
        let Some(wanted) = wanted(service) else {
            let families: Vec<String> =
                service.spec.ip_families.iter().map(|family| format!("IPv{}", family.version())).collect();
            let families = families.join(" or ");
            return Some(format!(
                "no {families} address is free in the pool {shown}: add a range, or delete a Service"
            ));
        };
        let wanted = match wanted {
            Ok(wanted) => wanted,
            Err(text) => return Some(format!("loadBalancerIP `{text}` is not an IP address")),
        };
        if !pools.iter().flat_map(|pool| &pool.addresses).any(|range| range.contains(wanted)) {
            return Some(format!("loadBalancerIP {wanted} is not in the pool {shown}"));
        }
        let owner = service.metadata.key();
        Some(match self.held.held_by_other(wanted, &owner) {
            Some(holder) => format!("loadBalancerIP {wanted} is in use by service/{}", holder.owner),
            None => format!("loadBalancerIP {wanted} is of none of the Service's families"),
        })
    }

    /// Whether `owner` has `address`.
    pub(super) fn has(&self, owner: &Key, address: IpAddr) -> bool {
        self.held.holder(address).is_some_and(|holder| holder.owner == *owner)
    }
}

/// `spec.loadBalancerIP`, or what stands there and is none.
fn wanted(service: &Service) -> Option<Result<IpAddr, String>> {
    let text = service.spec.load_balancer_ip.as_deref().filter(|text| !text.is_empty())?;
    Some(names::address(text).ok_or_else(|| text.to_owned()))
}

/// The pools that may serve a Service, or why there is none.
fn eligible<'p>(pools: &'p [AddressPool], service: &Service) -> Result<Vec<&'p AddressPool>, String> {
    if let Some(name) = service.metadata.annotations.get(POOL_ANNOTATION) {
        let found = pools.iter().find(|pool| pool.name == *name);
        let names: Vec<&str> = pools.iter().map(|pool| pool.name.as_str()).collect();
        let known =
            if names.is_empty() { "there is none".to_owned() } else { format!("there is {}", names.join(", ")) };
        return found.map(|pool| vec![pool]).ok_or_else(|| format!("no address pool is called `{name}`: {known}"));
    }
    let class = &service.spec.load_balancer_class;
    let found: Vec<&AddressPool> = pools.iter().filter(|pool| pool.load_balancer_class == *class).collect();
    match (found.is_empty(), class) {
        (false, _) => Ok(found),
        (true, Some(class)) => Err(format!("no address pool is for the loadBalancerClass `{class}`")),
        (true, None) => Err("no address pool is configured for Services without a loadBalancerClass".to_owned()),
    }
}
