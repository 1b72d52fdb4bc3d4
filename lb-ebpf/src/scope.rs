//! Who asks a Service, and which of its records counts for that client.
//!
//! A Service whose `externalTrafficPolicy` is Local has two records at an address for clients outside: everybody's, with the
//! backends of this node alone, and one for clients within the cluster, who are sent anywhere. kube-proxy does the same
//! (`pkg/proxy/iptables/proxier.go`, "short-circuits"): pods and the node itself are told by their addresses. And a
//! Service may turn clients away whose address is in none of its source ranges (`loadBalancerSourceRanges`).
//!
//! It is asked once, when a flow is opened, so a flow outlives any change of these.

use crate::Address;
use crate::datapath::{is_for_another_host, owners, refuse};
use crate::env::Env;
use crate::packet::Packet;
use crate::tables::{AddressTables, Tables};
use crate::trace;
use crate::verdict::{Action, Verdict};
use lb_common::gate;
use lb_common::network::{KEPT, PODS};
use lb_common::{Device, FlowKey, Owned, Reason, Scratch, Service, ServiceKey, Step, StepKind};

/// Nobody of [`Owned`].
const NOBODY: u32 = u32::MAX;

/// The key of the Service that a packet asks for by its address.
#[inline(always)]
pub(crate) fn asked<A: Address>(key: &FlowKey<A>) -> ServiceKey {
    ServiceKey { address: key.dst.octets(), port: key.dst_port, protocol: key.protocol, family: A::VERSION }
}

/// The record of everybody for what is asked for, which is then told by its own key: that of the address, or else that of the node
/// port. Where there is none, whose the address is, if that is not the host's business alone.
#[inline(always)]
pub(crate) fn find<'t, A, T>(
    tables: &'t T,
    key: &FlowKey<A>,
    asked: &mut ServiceKey,
) -> Result<&'t Service, Option<Owned>>
where
    A: Address,
    T: Tables + AddressTables<A>,
{
    let owners = owners(tables, &key.dst);
    if owners & gate::SERVICES != 0
        && let Some(service) = tables.service(asked)
    {
        return Ok(service);
    }
    if owners & gate::NODE != 0 {
        let of_node = asked.at_node();
        if let Some(service) = tables.service(&of_node)
            && tables.owned(&key.dst) == Some(Owned::NODE)
        {
            *asked = of_node;
            return Ok(service);
        }
        // Most of what passes the gate and is of no flow is for the host: it takes one lookup.
        if owners & gate::SERVICES == 0 && !tables.traces() {
            return Err(None);
        }
    }
    Err(tables.owned(&key.dst))
}

/// Looks up what the first packet of a flow asks for, to an address that may be ours. What is found stands in the working memory:
/// the record that counts for the client, and what is to know of it. Not inlined: it has a stack frame of its own.
#[inline(never)]
pub(crate) fn receive<P, A, T, E>(packet: &P, tables: &T, env: &E, key: &FlowKey<A>) -> Verdict
where
    P: Packet,
    A: Address,
    T: Tables + AddressTables<A>,
    E: Env,
{
    let mut asked = asked(key);
    let found = find(tables, key, &mut asked);
    match found {
        Ok(_) if asked.is_of_node() => trace::owned(tables, Some(Owned::NODE)),
        Ok(_) => {}
        Err(owned) => {
            trace::owned(tables, owned);
            if owned.is_none() {
                return Verdict::pass(Reason::NotOurs);
            }
        }
    }
    let device = tables.device(env.ifindex());
    if is_for_another_host(packet, &device) {
        trace::detail(tables, StepKind::FlowPassedOver, Step::STRAYS);
        return Verdict::pass(Reason::NotOurs);
    }
    let service = match found {
        Ok(service) => service,
        Err(owned) => {
            trace::no_service(tables, &asked);
            // On an address of the node itself, every other port is the host's.
            let is_hosts = owned.is_none_or(Owned::is_node);
            return if is_hosts { Verdict::pass(Reason::NotOurs) } else { refuse::<A>(Reason::NoServicePort) };
        }
    };
    trace::service(tables, StepKind::Service, &asked, service, 0);
    // The kernel would have refused such a packet on its way in; it is not asked here. Only the node's own processes have
    // the node's own addresses, or those of a load balancer, where the node holds them too.
    let is_host = device.flags & Device::HOST != 0;
    // The gate is closed for nearly every client, and small: the table costs a look into memory for each of them.
    // A number in either case: the verifier would refuse the register of one that is not there.
    let owned = if owners(tables, &key.src) != 0 { tables.owned(&key.src) } else { None };
    let source = match owned {
        Some(owned) => owned.0,
        None => NOBODY,
    };
    if key.src.is_martian() || (source != NOBODY && !is_host) {
        trace::detail(tables, StepKind::Client, 1);
        return Verdict::drop(Reason::MartianSource);
    }
    let Some(scratch): Option<&mut Scratch<A>> = tables.scratch() else {
        return Verdict::drop(Reason::StoreFailed);
    };
    let is_node = source != NOBODY && Owned(source).is_node();
    // A client of ours has its replies come back through this node. By the daemon's veth pair also comes what the host
    // forwards to a Service for others.
    let is_here = device.flags & Device::LOCAL_CLIENTS != 0 && (!is_host || is_node);
    scratch.client_flags = flag(is_host, Scratch::<A>::HOST)
        | flag(is_node, Scratch::<A>::NODE)
        | flag(source != NOBODY, Scratch::<A>::OWN)
        | flag(is_here, Scratch::<A>::KEEPS_ADDRESS);
    scratch.service = *service;
    trace::client(tables, scratch);
    let asks = Service::RANGED | Service::SCOPED | if is_here { 0 } else { Service::INTERNAL };
    if service.flags & asks == 0 {
        return CHOOSE;
    }
    narrow(tables, &asked, key)
}

const CHOOSE: Verdict = Verdict { ifindex: 0, action: Action::Choose, reason: Reason::NotOurs };

/// The record for the client, where the Service tells its clients apart. Not inlined, so that few Services pay for it.
#[inline(never)]
fn narrow<A, T>(tables: &T, asked: &ServiceKey, key: &FlowKey<A>) -> Verdict
where
    A: Address,
    T: Tables + AddressTables<A>,
{
    let Some(scratch): Option<&mut Scratch<A>> = tables.scratch() else {
        return Verdict::drop(Reason::StoreFailed);
    };
    let (flags, id) = (scratch.service.flags, scratch.service.id);
    if flags & Service::RANGED != 0 {
        let is_in = tables.is_in(id, &key.src);
        trace::source_range(tables, id, is_in);
        if !is_in {
            return Verdict::drop(Reason::SourceRange);
        }
    }
    if flags & Service::SCOPED == 0 {
        if flags & Service::INTERNAL != 0 && tables.is_in(KEPT, &key.src) {
            scratch.client_flags |= Scratch::<A>::KEEPS_ADDRESS;
        }
        return CHOOSE;
    }
    if scratch.client_flags & Scratch::<A>::OWN == 0 {
        if !tables.is_in(PODS, &key.src) {
            trace::service(tables, StepKind::Policy, asked, &scratch.service, 0);
            return CHOOSE;
        }
        // A pod of another node has its own node to balance for it; where it comes here all the same, kube-proxy keeps its
        // address as well.
        scratch.client_flags |= Scratch::<A>::KEEPS_ADDRESS;
    }
    if let Some(within) = tables.service(&asked.within()) {
        scratch.service = *within;
    }
    trace::service(tables, StepKind::Policy, &asked.within(), &scratch.service, 1);
    CHOOSE
}

const fn flag(is_set: bool, flag: u32) -> u32 {
    if is_set { flag } else { 0 }
}
