//! The flow tables against themselves and against what was given out.
//!
//! The datapath writes them all the time, so what looks wrong once may have been looked at in the middle of a change: a flow
//! being made, moved or forgotten. A finding is what looks wrong again, the same way, some ticks later.

use super::{FamilyTable, FlowEntry, FlowTables, Sweep, failed};
use crate::audit::Invariant;
use crate::datapath::bpf::map::Put;
use crate::image::{Given, Use};
use crate::maps::MapError;
use lb_common::flow::TICK_SHIFT;
use lb_common::gate::{End, Place};
use lb_common::table::Key;
use lb_common::{Flow, FlowKey, NextHop, SCTP, TCP, UDP};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};

/// What a look at flows is judged by.
pub(crate) struct FlowFacts<'a> {
    /// The current tick.
    pub(crate) now: u32,
    /// The ids that were given out.
    pub(crate) given: &'a Given,
    /// The interfaces that there are.
    pub(crate) interfaces: &'a BTreeSet<u32>,
    /// The gate, word by word.
    pub(crate) gate: &'a [u64],
}

/// One entry that looks wrong.
#[derive(Clone, Debug)]
pub(crate) struct Suspect {
    id: FlowId,
    /// What it says.
    pub(crate) entry: FlowEntry,
    /// The map that it is in.
    pub(crate) map: &'static str,
    /// What is wrong, each with the invariant.
    pub(crate) violations: Vec<(Invariant, String)>,
}

/// An entry by its key.
#[derive(Clone, Copy, Debug)]
enum FlowId {
    V4(FlowKey<[u8; 4]>),
    V6(FlowKey<[u8; 16]>),
}

impl FlowTables {
    /// Looks at the next `limit` entries or so; how many that were. `None`: all have been looked at.
    pub(crate) fn suspects(
        &self,
        sweep: &mut Sweep,
        facts: &FlowFacts<'_>,
        limit: usize,
        suspects: &mut Vec<Suspect>,
    ) -> Result<Option<usize>, MapError> {
        let (table, position) = (sweep.table, &mut sweep.position);
        let seen = match table {
            0 => self.v4.suspects(position, facts, limit, FlowId::V4, suspects)?,
            1 => self.v6.suspects(position, facts, limit, FlowId::V6, suspects)?,
            _ => return Ok(None),
        };
        if sweep.position.is_none() {
            *sweep = Sweep { table: table + 1, ..Sweep::default() };
        }
        Ok(Some(seen))
    }

    /// Looks at a suspect again; `None`: nothing is wrong with it in the same way any more.
    pub(crate) fn look_again(&self, suspect: &Suspect, facts: &FlowFacts<'_>) -> Result<Option<Suspect>, MapError> {
        let found = match suspect.id {
            FlowId::V4(key) => self.v4.look(&key, facts, FlowId::V4)?,
            FlowId::V6(key) => self.v6.look(&key, facts, FlowId::V6)?,
        };
        let was_wrong = |of: &Invariant| suspect.violations.iter().any(|(invariant, _)| invariant == of);
        Ok(found.and_then(|mut found| {
            found.violations.retain(|(invariant, _)| was_wrong(invariant));
            (!found.violations.is_empty()).then_some(found)
        }))
    }

    /// Repairs what is wrong with an entry in one way, as [`Invariant::repair`] says; whether it was. `idle`: no packet of it
    /// passed between two looks.
    pub(crate) fn repair(&self, suspect: &Suspect, invariant: Invariant, idle: bool) -> Result<bool, MapError> {
        match (invariant, suspect.id) {
            (Invariant::FlowPair, FlowId::V4(key)) => self.v4.complete(&key),
            (Invariant::FlowPair, FlowId::V6(key)) => self.v6.complete(&key),
            (Invariant::FlowWayOut, _) => Ok(false),
            (_, FlowId::V4(key)) if idle => self.v4.remove(&key, suspect.entry.tick),
            (_, FlowId::V6(key)) if idle => self.v6.remove(&key, suspect.entry.tick),
            _ => Ok(false),
        }
    }
}

impl Suspect {
    /// The end by which the gate must let its packets pass.
    pub(crate) fn admitted(&self) -> End {
        self.entry.admitted()
    }

    /// The flow in an operator's words.
    pub(crate) fn name(&self) -> String {
        let protocol = match self.entry.protocol {
            TCP => "TCP",
            UDP => "UDP",
            SCTP => "SCTP",
            _ => "?",
        };
        let way = if self.entry.is_reply() { "replies" } else { "requests" };
        format!("{way} {} -> {} {protocol}", self.entry.source, self.entry.destination)
    }
}

impl<A> FamilyTable<A>
where
    A: Copy + Debug + PartialEq + Into<IpAddr> + 'static,
    FlowKey<A>: aya::Pod + Key,
    Flow<A>: aya::Pod,
{
    fn suspects(
        &self,
        position: &mut Option<u32>,
        facts: &FlowFacts<'_>,
        limit: usize,
        id: fn(FlowKey<A>) -> FlowId,
        suspects: &mut Vec<Suspect>,
    ) -> Result<usize, MapError> {
        let Self { map, name } = self;
        let mut batches = map.batches().of_size(limit).resume(*position);
        let Some(batch) = batches.next() else {
            *position = None;
            return Ok(0);
        };
        let batch = batch.map_err(failed(name, "read"))?;
        *position = batches.position();
        for (key, flow) in &batch {
            suspects.extend(self.judge(key, flow, facts, id)?);
        }
        Ok(batch.len())
    }

    fn look(
        &self,
        key: &FlowKey<A>,
        facts: &FlowFacts<'_>,
        id: fn(FlowKey<A>) -> FlowId,
    ) -> Result<Option<Suspect>, MapError> {
        let Some(flow) = self.map.get(key).map_err(failed(self.name, "read"))? else { return Ok(None) };
        self.judge(key, &flow, facts, id)
    }

    fn judge(
        &self,
        key: &FlowKey<A>,
        flow: &Flow<A>,
        facts: &FlowFacts<'_>,
        id: fn(FlowKey<A>) -> FlowId,
    ) -> Result<Option<Suspect>, MapError> {
        if flow.is_expired(key.protocol, facts.now) {
            return Ok(None);
        }
        let entry = FlowEntry::new(key, flow);
        let mut violations = violations(&entry, facts);
        if let Some(wrong) = wrong_sum(&entry, flow.address_delta, flow.port_delta) {
            violations.push((Invariant::FlowChecksum, wrong));
        }
        if flow.zero != [0; 7] || key.zero != [0; 3] {
            violations.push((Invariant::FlowRecord, "its padding is not zero".to_owned()));
        }
        // Any other may lose one of its entries where there is no room.
        if Flow::<A>::keeps_place(flow.flags) {
            violations.extend(self.wrong_partner(key, flow)?.map(|wrong| (Invariant::FlowPair, wrong)));
        }
        let suspect = Suspect { id: id(*key), entry, map: self.name, violations };
        Ok((!suspect.violations.is_empty()).then_some(suspect))
    }

    /// What is wrong with the entry for the other direction. That another flow has its place is not: the later of two that
    /// share a backend's answers has them.
    fn wrong_partner(&self, key: &FlowKey<A>, flow: &Flow<A>) -> Result<Option<String>, MapError> {
        let Some(partner) = self.map.get(&flow.partner(key.protocol)).map_err(failed(self.name, "read"))? else {
            let other = if flow.is_reply() { "requests" } else { "replies" };
            return Ok(Some(format!("there is no entry for its {other}")));
        };
        if !partner.is_partner(key) {
            return Ok(None);
        }
        let same = (flow.backend, flow.generation, flow.service)
            == (partner.backend, partner.generation, partner.service)
            && flow.is_reply() != partner.is_reply();
        Ok((!same)
            .then(|| "the entry for its other direction is of another backend, service port or direction".to_owned()))
    }

    /// Makes the entry for the other direction if there is none; whether it did.
    fn complete(&self, key: &FlowKey<A>) -> Result<bool, MapError> {
        let Self { map, name } = self;
        let Some(flow) = map.get(key).map_err(failed(name, "read"))? else { return Ok(false) };
        match map.put(&flow.partner(key.protocol), &mirror(key, &flow), Put::New) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EEXIST | libc::E2BIG | libc::ENOMEM)) => Ok(false),
            Err(error) => Err(failed(name, "write")(error)),
        }
    }

    /// Forgets both entries of a flow that is as it was in this tick; whether it did.
    fn remove(&self, key: &FlowKey<A>, tick: u32) -> Result<bool, MapError> {
        let Self { map, name } = self;
        let Some(flow) = map.get(key).map_err(failed(name, "read"))?.filter(|flow| flow.tick == tick) else {
            return Ok(false);
        };
        let partner_key = flow.partner(key.protocol);
        let partner = map.get(&partner_key).map_err(failed(name, "read"))?;
        if partner.is_some_and(|partner| partner.is_partner(key)) {
            map.delete(&partner_key).map_err(failed(name, "repair"))?;
        }
        map.delete(key).map_err(failed(name, "repair"))
    }
}

/// The entry for the other direction, as the datapath makes it (`conntrack::mirror` in lb-ebpf).
fn mirror<A: Copy>(key: &FlowKey<A>, flow: &Flow<A>) -> Flow<A> {
    let fixed = NextHop { flags: flow.hop.flags & NextHop::FIXED, ..NextHop::default() };
    Flow {
        src: key.dst,
        dst: key.src,
        src_port: key.dst_port,
        dst_port: key.src_port,
        address_delta: !flow.address_delta,
        port_delta: !flow.port_delta,
        tick: flow.tick.saturating_sub(1),
        flags: (flow.flags & Flow::<A>::SHARED) | (!flow.flags & Flow::<A>::REPLY),
        hop: fixed,
        ..*flow
    }
}

/// What is wrong with an entry by itself and by what was given out.
fn violations(entry: &FlowEntry, facts: &FlowFacts<'_>) -> Vec<(Invariant, String)> {
    type F = Flow<[u8; 4]>;
    let mut found = Vec::new();
    if ![TCP, UDP, SCTP].contains(&entry.protocol) {
        found.push((Invariant::FlowRecord, format!("its protocol is {}", entry.protocol)));
    }
    if entry.flags & !(F::SHARED | F::REPLY) != 0 {
        found.push((Invariant::FlowRecord, format!("its flags are {:#x}", entry.flags)));
    }
    if !facts.given.has_service(entry.service) {
        found.push((Invariant::FlowRecord, format!("no service port ever had the id {}", entry.service)));
    }
    let translated = if entry.is_reply() { entry.source.ip() } else { entry.rewritten_destination.ip() };
    match facts.given.backend(entry.backend, entry.generation) {
        Use::Now(address) if address != translated => {
            let (id, generation) = (entry.backend, entry.generation);
            found.push((
                Invariant::FlowBackend,
                format!("backend {id}, generation {generation}, is {address}, and it translates {translated}"),
            ));
        }
        Use::Never => {
            let (id, generation) = (entry.backend, entry.generation);
            found
                .push((Invariant::FlowBackend, format!("no backend ever had the id {id} and generation {generation}")));
        }
        Use::Now(_) | Use::Past => {}
    }
    // The datapath's clock may be a tick ahead of the reader's.
    if entry.tick > facts.now + 1 {
        let seconds = (u64::from(entry.tick - facts.now) << TICK_SHIFT) / 1_000_000_000;
        found.push((Invariant::FlowClock, format!("its last packet comes in {seconds} s")));
    }
    let is_fresh = entry.tick + 1 >= facts.now;
    if is_fresh && entry.hop.ifindex != 0 && !facts.interfaces.contains(&entry.hop.ifindex) {
        found.push((Invariant::FlowWayOut, format!("it leads to interface {}, which is not there", entry.hop.ifindex)));
    }
    let end = entry.admitted();
    let Place { word, bits } = Place::from(end);
    if facts.gate.get(word as usize).is_none_or(|open| open & bits == 0) {
        found.push((Invariant::Gate, format!("the gate is shut for {end}: they pass untranslated")));
    }
    found
}

/// What is wrong with what an entry adds to checksums: ones' complement sums, in which all ones are zero.
fn wrong_sum(entry: &FlowEntry, address_delta: u16, port_delta: u16) -> Option<String> {
    let is_right = |delta: u16, before: [u64; 2], after: [u64; 2]| {
        let delta = u64::from(u16::from_be_bytes(delta.to_ne_bytes()));
        (delta + before.iter().sum::<u64>()) % 0xffff == after.iter().sum::<u64>() % 0xffff
    };
    let ports = |a: SocketAddr, b: SocketAddr| [u64::from(a.port()), u64::from(b.port())];
    let addresses = |a: SocketAddr, b: SocketAddr| [sum(a.ip()), sum(b.ip())];
    let (from, to) = (entry.source, entry.destination);
    let (new_from, new_to) = (entry.rewritten_source, entry.rewritten_destination);
    let wrong = if !is_right(address_delta, addresses(from, to), addresses(new_from, new_to)) {
        "addresses"
    } else if !is_right(port_delta, ports(from, to), ports(new_from, new_to)) {
        "ports"
    } else {
        return None;
    };
    Some(format!("what it adds to checksums for its {wrong} is not their change"))
}

/// The sum of an address's words in network order.
fn sum(address: IpAddr) -> u64 {
    let words = |bytes: &[u8]| bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(pair[1])).sum();
    match address {
        IpAddr::V4(v4) => words(&v4.octets()),
        IpAddr::V6(v6) => words(&v6.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Past;
    use lb_common::Scratch;

    fn flow() -> (FlowKey<[u8; 4]>, Flow<[u8; 4]>) {
        let key = FlowKey::new(TCP, [192, 0, 2, 9], [0xab, 0xcd], [10, 96, 0, 10], [0, 80]);
        let mut flow = Flow {
            src: key.src,
            dst: [10, 244, 1, 5],
            src_port: key.src_port,
            dst_port: [0x1f, 0x90],
            address_delta: 0,
            port_delta: 0,
            tick: 100,
            flags: Flow::<[u8; 4]>::ANSWERED | Flow::<[u8; 4]>::CONFIRMED,
            generation: 3,
            backend: 0,
            service: 1,
            hop: NextHop { ifindex: 7, mtu: 1500, flags: NextHop::XDP | NextHop::HOST, ..NextHop::default() },
            met: 0,
            zero: [0; 7],
        };
        lb_ebpf::conntrack::note_deltas(&key, &mut flow);
        (key, flow)
    }

    fn judged(key: &FlowKey<[u8; 4]>, flow: &Flow<[u8; 4]>) -> Vec<Invariant> {
        let backends = [(0, (3, Some(IpAddr::from([10, 244, 1, 5]))))].into();
        let given = Given::new(Past::None, (2, backends), 8);
        let mut gate = vec![0u64; lb_common::gate::WORDS as usize];
        for end in [End::Destination([10, 96, 0, 10].into()), End::Source([10, 244, 1, 5].into())] {
            let Place { word, bits } = Place::from(end);
            gate[word as usize] |= bits;
        }
        let facts = FlowFacts { now: 100, given: &given, interfaces: &[7].into(), gate: &gate };
        let entry = FlowEntry::new(key, flow);
        let mut found: Vec<Invariant> =
            violations(&entry, &facts).into_iter().map(|(invariant, _)| invariant).collect();
        found.extend(wrong_sum(&entry, flow.address_delta, flow.port_delta).map(|_| Invariant::FlowChecksum));
        found
    }

    #[test]
    fn each_mistake_in_an_entry_is_told_from_the_others() {
        let (key, right) = flow();
        assert_eq!(judged(&key, &right), []);
        let cases = [
            (Flow { service: 2, ..right }, Invariant::FlowRecord),
            (Flow { flags: right.flags | 0x400, ..right }, Invariant::FlowRecord),
            (Flow { backend: 1, ..right }, Invariant::FlowBackend),
            (Flow { generation: 4, ..right }, Invariant::FlowBackend),
            (Flow { address_delta: right.address_delta ^ 0x10, ..right }, Invariant::FlowChecksum),
            (Flow { port_delta: right.port_delta ^ 0x10, ..right }, Invariant::FlowChecksum),
            (Flow { tick: 200, ..right }, Invariant::FlowClock),
            (Flow { hop: NextHop { ifindex: 8, ..right.hop }, ..right }, Invariant::FlowWayOut),
        ];
        for (wrong, invariant) in cases {
            assert_eq!(judged(&key, &wrong), [invariant], "{wrong:?}");
        }
        // What is of an earlier generation, or leads nowhere since a while, is only old.
        assert_eq!(judged(&key, &Flow { generation: 2, ..right }), []);
        assert_eq!(judged(&key, &Flow { tick: 90, hop: NextHop { ifindex: 8, ..right.hop }, ..right }), []);
        let elsewhere = Flow { dst: [10, 244, 1, 6], ..right };
        assert_eq!(judged(&key, &elsewhere), [Invariant::FlowBackend, Invariant::FlowChecksum]);
        let other = FlowKey { dst: [10, 96, 0, 11], ..key };
        assert!(judged(&other, &right).contains(&Invariant::Gate));
    }

    #[test]
    fn the_other_direction_is_made_as_the_datapath_makes_it() {
        let (key, flow) = flow();
        let mut scratch: Scratch<[u8; 4]> = empty();
        lb_ebpf::conntrack::mirror(&key, &flow, &mut scratch);
        assert_eq!(mirror(&key, &flow), scratch.mirror);
        assert_eq!(flow.partner(TCP), scratch.mirror_key);
        let entry = FlowEntry::new(&scratch.mirror_key, &scratch.mirror);
        assert_eq!(wrong_sum(&entry, scratch.mirror.address_delta, scratch.mirror.port_delta), None);
    }

    /// Working memory with nothing in it.
    fn empty() -> Scratch<[u8; 4]> {
        // SAFETY: a record of numbers and arrays of numbers, for which zeros are valid.
        unsafe { std::mem::zeroed() }
    }
}
