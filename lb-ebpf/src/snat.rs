//! Lends a flow the source tuple its backend will see, such that no two flows share one.
//!
//! The reply's own entry is the allocation: it is keyed by the tuple the backend answers to, and inserting it fails where
//! that is taken. The client's address and port are kept wherever the reply comes back through this node by itself.
//! Where another flow of the same client already uses them towards the same backend (by another Service), only the port
//! changes.

use crate::conntrack;
use crate::env::{Env, Step};
use crate::tables::{InsertError, Tables};
use crate::{Address, AddressTables, pick};
use lb_common::{Flow, FlowKey, Reason, Settings};

/// How many tuples are probed for one new flow, as many as netfilter does: a flood must not buy much work with a packet.
const PROBES: u32 = 128;
/// The last few probes may take a tuple from a flow that is in doubt, since nobody has confirmed it or it was reset: a flood
/// then evicts only its like.
const DISPLACING: u32 = 8;
/// How often in a tick each CPU may go on to search all that is lent, first for what is free and then for what it may
/// take. Where nothing is either, that takes about 5 ms for the default range of one address (measured, 28,976 ports looked up
/// twice); so no flood gets more of a CPU by it than half a percent for each address lent.
const SEARCHES: u32 = 1;

/// The one of `count` source addresses with which the search for a port begins for a flow with this hash.
#[inline(always)]
pub fn address<A: Address>(settings: &Settings, count: u32, hash: u64) -> A {
    A::lent(settings, pick::place(hash << 32, count))
}

/// Finds a source tuple for `flow`, whose addresses are set, and inserts the reply's entry. The client's own port is kept
/// with the client's own address; else the ports of all `addresses` lent are probed from a place that the hash gives, first a
/// few, then, as far as this CPU's budget reaches, all. Returns whether it took that. Only the client's own port will do
/// where the packet at hand `keeps_port`.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "inlined; a record of them would take its room on the stack")]
pub fn lend<A: Address, T: Tables + AddressTables<A>, E: Env>(
    tables: &T,
    env: &E,
    settings: &Settings,
    mut addresses: u32,
    key: &FlowKey<A>,
    flow: &mut Flow<A>,
    hash: u64,
    keeps_port: bool,
) -> Result<bool, Reason> {
    if keeps_port && flow.flags & Flow::<A>::SNAT != 0 {
        return Err(Reason::SctpFragment);
    }
    if flow.flags & Flow::<A>::SNAT == 0 {
        match claim_own(tables, key, flow) {
            Ok(()) => return Ok(false),
            Err(InsertError::Full) => return Err(Reason::TableFull),
            Err(InsertError::Exists) if keeps_port => return Err(Reason::SctpFragment),
            Err(InsertError::Exists) => addresses = 1,
        }
    }
    let first = u32::from(settings.snat_port_first);
    let ports = (u32::from(settings.snat_port_last) + 1).saturating_sub(first);
    let total = ports * addresses;
    if first == 0 || total == 0 {
        return Err(Reason::SnatExhausted);
    }
    let start = pick::place(hash << 32, total);
    let outcome = Err(Reason::SnatExhausted);
    let mut probe = Probe { tables, settings, key, flow, first, ports, total, start, patience: PROBES, outcome };
    env.repeat(PROBES + DISPLACING, &mut probe);
    if probe.outcome != Err(Reason::SnatExhausted) || total <= DISPLACING || !may_search(tables, probe.flow.tick) {
        return probe.outcome.map(|()| false);
    }
    probe.patience = total;
    env.repeat(total * 2, &mut probe);
    probe.outcome.map(|()| true)
}

/// Whether this CPU may search once more in tick `now`; if so, it is counted.
#[inline(always)]
fn may_search<T: Tables>(tables: &T, now: u32) -> bool {
    let Some(budget) = tables.budget() else {
        return false;
    };
    let budget = budget.in_tick(now);
    let may = budget.searches < SEARCHES;
    budget.searches += u32::from(may);
    may
}

/// The search for a free tuple, one for each index.
struct Probe<'a, A, T> {
    tables: &'a T,
    settings: &'a Settings,
    key: &'a FlowKey<A>,
    flow: &'a mut Flow<A>,
    first: u32,
    ports: u32,
    total: u32,
    start: u32,
    /// How many are probed before the search begins anew and displaces.
    patience: u32,
    outcome: Result<(), Reason>,
}

impl<A: Address, T: Tables + AddressTables<A>> Step for Probe<'_, A, T> {
    #[inline(always)]
    fn step(&mut self, index: u32) -> bool {
        let displaces = index >= self.patience;
        let index = if displaces { index - self.patience } else { index };
        if index >= self.total {
            return true;
        }
        let place = self.start + index;
        let place = if place >= self.total { place - self.total } else { place };
        // Never divided by zero: then nothing is searched.
        let address = place.checked_div(self.ports).unwrap_or(0);
        if self.flow.flags & Flow::<A>::SNAT != 0 {
            self.flow.src = A::lent(self.settings, address);
        }
        self.flow.src_port = ((self.first + place - address * self.ports) as u16).to_be_bytes();
        self.outcome = match claim(self.tables, self.key, self.flow, displaces) {
            Ok(()) => Ok(()),
            Err(InsertError::Full) => Err(Reason::TableFull),
            Err(InsertError::Exists) => return true,
        };
        false
    }
}

/// Claims the client's own tuple. It is nearly always free, so nobody is asked before the entry goes there.
#[inline(always)]
fn claim_own<A: Address, T: AddressTables<A>>(
    tables: &T,
    key: &FlowKey<A>,
    flow: &mut Flow<A>,
) -> Result<(), InsertError> {
    match insert(tables, key, flow) {
        Err(InsertError::Exists) => claim(tables, key, flow, false),
        done => done,
    }
}

/// Claims the tuple that `flow` rewrites to, by inserting the reply's entry, if whoever holds it makes way.
#[inline(always)]
fn claim<A: Address, T: AddressTables<A>>(
    tables: &T,
    key: &FlowKey<A>,
    flow: &mut Flow<A>,
    displaces: bool,
) -> Result<(), InsertError> {
    if makes_way(tables, key, flow, displaces) { insert(tables, key, flow) } else { Err(InsertError::Exists) }
}

/// Whether the tuple that `flow` rewrites to may be claimed. A flow that is over, or that is in doubt if `displaces`,
/// is forgotten; of this very flow, the entry that is to be replaced. Not inlined: it has a stack frame of its own.
#[inline(never)]
fn makes_way<A: Address, T: AddressTables<A>>(tables: &T, key: &FlowKey<A>, flow: &Flow<A>, displaces: bool) -> bool {
    let Some(scratch) = tables.scratch() else {
        return false;
    };
    let wanted = &mut scratch.mirror_key;
    conntrack::write_partner(key.protocol, flow, wanted);
    let Some(holder) = tables.flow(wanted) else {
        return true;
    };
    if holder.is_partner(key) {
        tables.delete(wanted);
    } else if holder.is_over(key.protocol, flow.tick) || (displaces && holder.is_doubtful()) {
        // Both entries: by the other one, its client would go on with a source that is no longer its own.
        conntrack::forget(tables, wanted, holder);
    } else {
        return false;
    }
    true
}

/// Inserts the reply's entry of `flow`. Not inlined: it has a stack frame of its own.
#[inline(never)]
fn insert<A: Address, T: AddressTables<A>>(
    tables: &T,
    key: &FlowKey<A>,
    flow: &mut Flow<A>,
) -> Result<(), InsertError> {
    let Some(scratch) = tables.scratch() else {
        return Err(InsertError::Full);
    };
    conntrack::note_deltas(key, flow);
    conntrack::mirror(key, flow, scratch);
    tables.insert(&scratch.mirror_key, &scratch.mirror)
}
