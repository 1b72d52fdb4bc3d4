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

/// How many ports are probed for one new flow, as many as netfilter does: a flood must not buy much work with a packet.
const PROBES: u32 = 128;
/// The last few probes may take a port from a flow that nobody has confirmed: a flood then evicts only its like.
const DISPLACING: u32 = 8;

/// Finds a source port for `flow`, whose addresses are set, and inserts the reply's entry. The client's own port is kept
/// with the client's own address; else the range is probed from a place that the hash gives.
#[inline(always)]
pub fn lend<A: Address, T: Tables + AddressTables<A>, E: Env>(
    tables: &T,
    env: &E,
    settings: &Settings,
    key: &FlowKey<A>,
    flow: &mut Flow<A>,
    hash: u64,
) -> Result<(), Reason> {
    if flow.flags & Flow::<A>::SNAT == 0 {
        match claim(tables, key, flow, false) {
            Ok(()) => return Ok(()),
            Err(InsertError::Full) => return Err(Reason::TableFull),
            Err(InsertError::Exists) => {}
        }
    }
    let first = u32::from(settings.snat_port_first);
    let ports = (u32::from(settings.snat_port_last) + 1).saturating_sub(first);
    if first == 0 || ports == 0 {
        return Err(Reason::SnatExhausted);
    }
    let start = pick::place(hash << 32, ports);
    let mut probe = Probe { tables, key, flow, first, ports, start, outcome: Err(Reason::SnatExhausted) };
    env.repeat(PROBES + DISPLACING, &mut probe);
    probe.outcome
}

/// The search for a free port.
struct Probe<'a, A, T> {
    tables: &'a T,
    key: &'a FlowKey<A>,
    flow: &'a mut Flow<A>,
    first: u32,
    ports: u32,
    start: u32,
    outcome: Result<(), Reason>,
}

impl<A: Address, T: Tables + AddressTables<A>> Step for Probe<'_, A, T> {
    #[inline(always)]
    fn step(&mut self, index: u32) -> bool {
        let displaces = index >= PROBES;
        let index = if displaces { index - PROBES } else { index };
        if index >= self.ports {
            return true;
        }
        let offset = self.start + index;
        let port = self.first + if offset >= self.ports { offset - self.ports } else { offset };
        self.flow.src_port = (port as u16).to_be_bytes();
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
