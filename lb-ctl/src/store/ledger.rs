//! What each Service holds, and the allocation of what it lacks.
//!
//! The order makes the outcome independent of the order of Services: first everyone keeps what it had, then comes what
//! manifests ask for by value, then free values are chosen.

use super::admission::{gets_node_ports, has_health_check, is_headless};
use super::balancers::Balancers;
use super::error::Error;
use super::pool::{Addresses, NodePorts};
use super::state::{Allocation, Held};
use crate::manifest::path::{FieldPath, field};
use crate::objects::{IpFamily, Key, Service, ServiceSpec, ServiceType};
use ipnet::IpNet;
use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// ClusterIPs and node ports, and who holds them.
#[derive(Debug)]
pub(super) struct Ledger {
    addresses: Addresses,
    ports: NodePorts,
    pub(super) balancers: Balancers,
}

/// A value that a Service wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Value {
    Address(IpAddr),
    Port(u16),
    /// An address of a load balancer; no field of a spec asks for it.
    Balancer(IpAddr),
}

/// A value of a Service's spec, and the field it is in.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) value: Value,
    pub(super) field: FieldPath,
    pub(super) given: bool,
}

/// Why a claim failed.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Another Service holds it, and whether it asked for it by value.
    Held { by: Key, given: bool },
    /// It is outside of the ranges.
    Unfit(String),
}

impl Ledger {
    pub(super) fn new(cidrs: &[IpNet], node_ports: &RangeInclusive<u16>) -> Result<Self, Error> {
        let (addresses, ports) = (Addresses::new(cidrs)?, NodePorts::new(node_ports)?);
        Ok(Self { addresses, ports, balancers: Balancers::new() })
    }

    /// Takes other service CIDRs, unless a Service has an address of one that goes.
    pub(super) fn set_cidrs(&mut self, cidrs: &[IpNet]) -> Result<(), Error> {
        self.addresses.set_cidrs(cidrs)
    }

    /// The families a Service may have.
    pub(super) fn families(&self) -> Vec<IpFamily> {
        self.addresses.families()
    }

    pub(super) fn commit(&mut self) {
        self.addresses.pool.commit();
        self.ports.pool.commit();
        self.balancers.held.commit();
    }

    pub(super) fn roll_back(&mut self) {
        self.addresses.pool.roll_back();
        self.ports.pool.roll_back();
        self.balancers.held.roll_back();
    }

    /// Takes everything in `spec` back from its owner.
    pub(super) fn release(&mut self, owner: &Key, spec: &ServiceSpec) {
        for claim in claims(spec, |_| false) {
            self.release_value(owner, claim.value);
        }
    }

    /// Takes up what a Service of the state file holds.
    pub(super) fn take_up(&mut self, owner: &Key, spec: &ServiceSpec) {
        for claim in claims(spec, |_| true) {
            if self.free_for(owner, claim.value).is_ok() {
                self.hold(owner, &claim);
            }
        }
    }

    /// Holds for its owner what a Service had in an earlier life, as far as nobody else has it.
    pub(super) fn reserve(&mut self, owner: &Key, had: &Allocation, is_given: impl Fn(bool) -> bool) {
        for (value, given) in had.values() {
            if self.free_for(owner, value).is_ok() {
                self.hold(owner, &Claim { value, field: FieldPath::default(), given: is_given(given) });
            }
        }
    }

    /// Gives a Service the families it had in an earlier life, unless its manifest says something of them.
    pub(super) fn adopt_families(&self, spec: &mut ServiceSpec, had: &Allocation) {
        let mut families: Vec<IpFamily> = had.cluster_ips.iter().map(|held| IpFamily::of(held.value)).collect();
        let first = had.cluster_ips.first().map(|held| held.value.to_string());
        let is_silent = spec.ip_families.is_empty() && spec.cluster_ips.is_empty();
        let is_same = spec.cluster_ip.is_none() || spec.cluster_ip == first;
        let configured = self.families();
        let is_possible = families.iter().all(|family| configured.contains(family));
        if is_silent && is_same && is_possible && spec.r#type != ServiceType::ExternalName {
            if spec.ip_family_policy.is_none() {
                spec.ip_family_policy.clone_from(&had.ip_family_policy);
            }
            if spec.ip_family_policy.as_deref() == Some("SingleStack") {
                families.truncate(1);
            }
            spec.ip_families = families;
        }
    }

    /// Takes all of it back.
    pub(super) fn forget(&mut self, owner: &Key, had: &Allocation) {
        for (value, _) in had.values() {
            self.release_value(owner, value);
        }
    }

    /// Takes back what a Service had in an earlier life and no longer has.
    pub(super) fn release_unused(&mut self, owner: &Key, had: &Allocation, spec: &ServiceSpec) {
        let used: HashSet<Value> = claims(spec, |_| false).into_iter().map(|claim| claim.value).collect();
        for (value, _) in had.values().filter(|(value, _)| !used.contains(value)) {
            self.release_value(owner, value);
        }
    }

    fn release_value(&mut self, owner: &Key, value: Value) {
        match value {
            Value::Address(address) => self.addresses.pool.release(address, owner),
            Value::Port(port) => self.ports.pool.release(port, owner),
            Value::Balancer(address) => self.balancers.held.release(address, owner),
        }
    }

    /// Lets `owner` hold a value that it has held before.
    pub(super) fn keep(&mut self, owner: &Key, claim: &Claim) -> Result<(), Refusal> {
        self.free_for(owner, claim.value)?;
        self.hold(owner, claim);
        Ok(())
    }

    /// Lets `owner` hold a value that its manifest asks for.
    pub(super) fn claim(&mut self, owner: &Key, claim: &Claim) -> Result<(), Refusal> {
        match claim.value {
            Value::Address(address) => self.addresses.check(address),
            Value::Port(port) => self.ports.check(port.into()).map(drop),
            Value::Balancer(_) => Ok(()),
        }
        .map_err(Refusal::Unfit)?;
        self.keep(owner, claim)
    }

    /// Lets `owner` hold a value whoever has it now.
    pub(super) fn hold(&mut self, owner: &Key, claim: &Claim) {
        match claim.value {
            Value::Address(address) => self.addresses.pool.hold(address, owner, claim.given),
            Value::Port(port) => self.ports.pool.hold(port, owner, claim.given),
            Value::Balancer(address) => self.balancers.held.hold(address, owner, claim.given),
        }
    }

    fn free_for(&self, owner: &Key, value: Value) -> Result<(), Refusal> {
        let holder = match value {
            Value::Address(address) => self.addresses.pool.held_by_other(address, owner),
            Value::Port(port) => self.ports.pool.held_by_other(port, owner),
            Value::Balancer(address) => self.balancers.held.held_by_other(address, owner),
        };
        holder.map_or(Ok(()), |holder| Err(Refusal::Held { by: holder.owner.clone(), given: holder.given }))
    }

    /// Whether an address is in one of the ranges; the answer says why not.
    pub(super) fn check_address(&self, address: IpAddr) -> Result<(), String> {
        self.addresses.check(address)
    }

    /// Whether a number that is no port at all, or out of the range, is asked for.
    pub(super) fn check_port(&self, number: i64) -> Result<u16, String> {
        self.ports.check(number)
    }

    /// Fills in what `spec` lacks (`allocateCreate`, `allocateUpdate`): what it `had` before the daemon's last start, if it is still free, or something new.
    pub(super) fn allocate(
        &mut self,
        owner: &Key,
        spec: &mut ServiceSpec,
        had: Option<&Allocation>,
    ) -> Result<(), (FieldPath, String)> {
        if spec.r#type != ServiceType::ExternalName && !is_headless(spec) {
            self.allocate_addresses(owner, spec, had)?;
        }
        if gets_node_ports(spec) {
            self.allocate_node_ports(owner, spec, had)?;
        }
        if has_health_check(spec) && spec.health_check_node_port.is_none() {
            let before = had.and_then(|had| had.health_check_node_port.as_ref()).map(|held| held.value);
            let port = self.port(owner, before).ok_or_else(|| exhausted(field!["spec", "healthCheckNodePort"]))?;
            spec.health_check_node_port = Some(port.into());
        }
        Ok(())
    }

    fn allocate_addresses(
        &mut self,
        owner: &Key,
        spec: &mut ServiceSpec,
        had: Option<&Allocation>,
    ) -> Result<(), (FieldPath, String)> {
        for (index, family) in spec.ip_families.iter().enumerate() {
            if spec.cluster_ips.get(index).is_some_and(|given| !given.is_empty()) {
                continue;
            }
            let before = had.and_then(|had| {
                let mut addresses = had.cluster_ips.iter().map(|held| held.value);
                addresses.find(|address| IpFamily::of(*address) == *family)
            });
            let usable = |address: &IpAddr| {
                self.addresses.check(*address).is_ok() && self.addresses.pool.held_by_other(*address, owner).is_none()
            };
            let address = before.filter(usable).or_else(|| self.addresses.choose(*family, owner)).ok_or_else(|| {
                let message = format!("no free IPv{} address is left in the service CIDRs", family.version());
                (field!["spec", "clusterIPs", index], message)
            })?;
            self.addresses.pool.hold(address, owner, false);
            match spec.cluster_ips.get_mut(index) {
                Some(hole) => *hole = address.to_string(),
                None => spec.cluster_ips.push(address.to_string()),
            }
        }
        spec.cluster_ip = spec.cluster_ips.first().cloned();
        Ok(())
    }

    fn allocate_node_ports(
        &mut self,
        owner: &Key,
        spec: &mut ServiceSpec,
        had: Option<&Allocation>,
    ) -> Result<(), (FieldPath, String)> {
        for index in 0..spec.ports.len() {
            let port = &spec.ports[index];
            if port.node_port.is_some() {
                continue;
            }
            // The same port over TCP and UDP gets the same number, as DNS wants it.
            let sibling = spec.ports.iter().find_map(|other| {
                let number = other.node_port.filter(|_| other.port == port.port && other.protocol != port.protocol)?;
                let is_taken = |port_: &crate::objects::ServicePort| {
                    port_.node_port == Some(number) && port_.protocol == port.protocol
                };
                (!spec.ports.iter().any(is_taken)).then_some(number)
            });
            let number = if let Some(number) = sibling {
                number
            } else {
                let name = port.name.as_deref().unwrap_or_default();
                let before = had.and_then(|had| had.node_ports.get(name)).map(|held| held.value);
                let chosen = self.port(owner, before);
                i64::from(chosen.ok_or_else(|| exhausted(field!["spec", "ports", index, "nodePort"]))?)
            };
            spec.ports[index].node_port = Some(number);
        }
        Ok(())
    }

    /// A free node port, `before` if it is still free. One the owner itself uses for something else is not.
    fn port(&mut self, owner: &Key, before: Option<u16>) -> Option<u16> {
        let is_free = |port: &u16| {
            self.ports.check(i64::from(*port)).is_ok()
                && match self.ports.pool.holder(*port) {
                    None => true,
                    Some(holder) => holder.owner == *owner && !holder.given,
                }
        };
        let port = before.filter(is_free).or_else(|| self.ports.choose(owner))?;
        self.ports.pool.hold(port, owner, false);
        Some(port)
    }

    /// What a Service holds, for the state file.
    pub(super) fn allocation(&self, service: &Service) -> Allocation {
        let owner = service.metadata.key();
        let is_given = |value: Value| {
            let holder = match value {
                Value::Address(address) => self.addresses.pool.holder(address),
                Value::Port(port) => self.ports.pool.holder(port),
                Value::Balancer(address) => self.balancers.held.holder(address),
            };
            holder.is_some_and(|holder| holder.owner == owner && holder.given)
        };
        let mut allocation = Allocation::default();
        if service.cluster_addresses().is_empty() {
            return allocation;
        }
        allocation.ip_family_policy.clone_from(&service.spec.ip_family_policy);
        for claim in claims(&service.spec, is_given) {
            if let Value::Address(value) = claim.value {
                allocation.cluster_ips.push(Held { value, given: claim.given });
            }
        }
        let held = |number: i64| {
            let value = u16::try_from(number).ok()?;
            Some(Held { value, given: is_given(Value::Port(value)) })
        };
        for port in &service.spec.ports {
            if let Some(held) = port.node_port.and_then(held) {
                allocation.node_ports.insert(port.name.clone().unwrap_or_default(), held);
            }
        }
        allocation.health_check_node_port = service.spec.health_check_node_port.and_then(held);
        let balancers = service.load_balancer_addresses().into_iter();
        let balancers = balancers.filter(|address| self.balancers.has(&owner, *address));
        let held = |value| Held { value, given: is_given(Value::Balancer(value)) };
        allocation.load_balancer = balancers.map(held).collect();
        allocation
    }
}

fn exhausted(path: FieldPath) -> (FieldPath, String) {
    (path, "no free node port is left: widen the node port range".to_owned())
}

/// All values in `spec`, each once.
pub(super) fn claims(spec: &ServiceSpec, is_given: impl Fn(Value) -> bool) -> Vec<Claim> {
    let mut claims = Vec::new();
    let mut seen = HashSet::new();
    let mut add = |value: Value, field: FieldPath| {
        if seen.insert(value) {
            claims.push(Claim { value, field, given: is_given(value) });
        }
    };
    for (index, text) in spec.cluster_ips.iter().enumerate() {
        if let Ok(address) = text.parse() {
            add(Value::Address(address), field!["spec", "clusterIPs", index]);
        }
    }
    for (index, port) in spec.ports.iter().enumerate() {
        if let Some(number) = port.node_port.and_then(|number| u16::try_from(number).ok()) {
            add(Value::Port(number), field!["spec", "ports", index, "nodePort"]);
        }
    }
    if let Some(number) = spec.health_check_node_port.and_then(|number| u16::try_from(number).ok()) {
        add(Value::Port(number), field!["spec", "healthCheckNodePort"]);
    }
    claims
}
