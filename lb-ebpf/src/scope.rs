//! Who asks a Service, and which of its records counts for that client.
//!
//! A Service whose `externalTrafficPolicy` is Local has two records at an address for clients outside: everybody's, with the
//! backends of this node alone, and one for clients within the cluster, who are sent anywhere. kube-proxy does the same
//! (`pkg/proxy/iptables/proxier.go`, "short-circuits"): pods and the node itself are told by their addresses. And a
//! Service may turn clients away whose address is in none of its source ranges (`loadBalancerSourceRanges`).
//!
//! It is asked once, when a flow is opened, so a flow outlives any change of these.

use crate::Address;
use crate::datapath::{is_for_another_host, is_open, refuse};
use crate::env::Env;
use crate::packet::Packet;
use crate::tables::{AddressTables, Tables};
use crate::trace;
use crate::verdict::{Action, Verdict};
use lb_common::network::{KEPT, PODS};
use lb_common::{Device, FlowKey, Owned, Reason, Scratch, Service, ServiceKey, Step, StepKind};

/// No [`Owned::id`].
const NOBODY: u32 = u32::MAX;

/// Looks up what the first packet of a flow asks for, to the address of ours that has the id `owned`. What is found stands in the
/// working memory: the record that counts for the client, and what is to know of it. Not inlined: it has a stack frame of its
/// own.
#[inline(never)]
pub(crate) fn receive<P, A, T, E>(packet: &P, tables: &T, env: &E, key: &FlowKey<A>, owned: u32) -> Verdict
where
    P: Packet,
    A: Address,
    T: Tables + AddressTables<A>,
    E: Env,
{
    let device = tables.device(env.ifindex());
    if is_for_another_host(packet, &device) {
        trace::detail(tables, StepKind::FlowPassedOver, Step::STRAYS);
        return Verdict::pass(Reason::NotOurs);
    }
    let asked = ServiceKey { address: owned, port: key.dst_port, protocol: key.protocol, family: A::VERSION };
    let Some(service) = tables.service(&asked) else {
        trace::no_service(tables, &asked);
        // On an address of the node itself, every other port is the host's.
        return if Owned::is_node_id(owned) {
            Verdict::pass(Reason::NotOurs)
        } else {
            refuse::<A>(Reason::NoServicePort)
        };
    };
    trace::service(tables, StepKind::Service, &asked, service, 0);
    // The kernel would have refused such a packet on its way in; it is not asked here. Only the node's own processes have
    // the node's own addresses, or those of a load balancer, where the node holds them too.
    let is_host = device.flags & Device::HOST != 0;
    // The gate is closed for nearly every client, and small: the table costs a look into memory for each of them.
    // A number in either case: the verifier would refuse the register of one that is not there.
    let owned = if is_open(tables, &key.src) { tables.owned(&key.src) } else { None };
    let source = owned.unwrap_or(NOBODY);
    if key.src.is_martian() || (source != NOBODY && !is_host) {
        trace::detail(tables, StepKind::Client, 1);
        return Verdict::drop(Reason::MartianSource);
    }
    let Some(scratch): Option<&mut Scratch<A>> = tables.scratch() else {
        return Verdict::drop(Reason::StoreFailed);
    };
    let is_node = Owned::is_node_id(source);
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
    narrow(tables, asked, key)
}

const CHOOSE: Verdict = Verdict { ifindex: 0, action: Action::Choose, reason: Reason::NotOurs };

/// The record for the client, where the Service tells its clients apart. Not inlined, so that few Services pay for it.
#[inline(never)]
fn narrow<A, T>(tables: &T, asked: ServiceKey, key: &FlowKey<A>) -> Verdict
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
            trace::service(tables, StepKind::Policy, &asked, &scratch.service, 0);
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
