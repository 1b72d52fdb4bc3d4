//! Lends a flow the source tuple its backend will see, such that no two flows share one.
//!
//! The reply's own entry is the allocation: it is keyed by the tuple the backend answers to, and inserting it fails where
//! that is taken. The client's address and port are kept wherever the reply comes back through this node by itself.
//! Where another flow of the same client already uses them towards the same backend (by another Service), only the port
//! changes.

use crate::conntrack;
use crate::env::{Env, Step};
use crate::tables::{InsertError, Table, Tables};
use crate::{Address, AddressTables, pick};
use lb_common::{Flow, FlowKey, Reason, Settings};

/// How many tuples are probed for one new flow, as many as netfilter does: a flood must not buy much work with a packet.
const PROBES: u32 = 128;
/// The last few probes may take a tuple from a flow that nobody has confirmed: a flood then evicts only its like.
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
/// few, then, as far as this CPU's budget reaches, all. Returns whether it took that.
#[inline(always)]
pub fn lend<A: Address, T: Tables + AddressTables<A>, E: Env>(
    tables: &T,
    env: &E,
    settings: &Settings,
    mut addresses: u32,
    key: &FlowKey<A>,
    flow: &mut Flow<A>,
    hash: u64,
) -> Result<bool, Reason> {
    if flow.flags & Flow::<A>::SNAT == 0 {
        match claim(tables, key, flow, false) {
            Ok(()) => return Ok(false),
            Err(InsertError::Full) => return Err(Reason::TableFull),
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

/// Claims the tuple that `flow` rewrites to, by inserting the reply's entry. An entry whose flow is over, or that belongs to
/// this very flow, is replaced; one that nobody has confirmed too, if `displaces`. Not inlined: it has a stack frame of
/// its own.
#[inline(never)]
fn claim<A: Address, T: AddressTables<A>>(
    tables: &T,
    key: &FlowKey<A>,
    flow: &mut Flow<A>,
    displaces: bool,
) -> Result<(), InsertError> {
    let Some(scratch) = tables.scratch() else {
        return Err(InsertError::Full);
    };
    conntrack::write_partner(key.protocol, flow, &mut scratch.mirror_key);
    if let Some((table, holder)) = conntrack::find(tables, &scratch.mirror_key) {
        let yields =
            holder.is_partner(key) || holder.is_over(key.protocol, flow.tick) || (displaces && holder.is_unconfirmed());
        if !yields {
            return Err(InsertError::Exists);
        }
        tables.delete(table, &scratch.mirror_key);
    }
    conntrack::note_deltas(key, flow);
    conntrack::mirror(key, flow, scratch);
    tables.insert(Table::New, &scratch.mirror_key, &scratch.mirror)
}
