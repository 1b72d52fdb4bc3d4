//! Backend records: one for each address, whoever uses it, and its way out.
//!
//! An address keeps its id and generation while it has a record. While no Service chooses it for new connections, but
//! one has it among the endpoints that serve, it is [`Backend::SERVING`] in place of [`Backend::ALIVE`]. When the last
//! Service stops using it, the record has neither (UDP flows move, established connections go on), and after [`DRAIN`] it is
//! deleted. Its id then rests before another address gets it, with the next generation, so that flows
//! that still name the id are told apart.

use super::fragment::{Locality, Use};
use super::ids::Ids;
use super::sets::next_generation;
use super::{DRAIN, GRACE, HostFacts};
use ipnet::IpNet;
use lb_common::{Backend, Peer};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

/// The address in a backend's record; `None` for a record that is not in use.
pub fn backend_address(backend: &Backend) -> Option<IpAddr> {
    address(backend.family, backend.address)
}

/// The address of a peer, if its record is sound.
pub(super) fn peer_address(peer: &Peer) -> Option<IpAddr> {
    address(peer.family, peer.address)
}

fn address(family: u8, bytes: [u8; 16]) -> Option<IpAddr> {
    let [a, b, c, d, ..] = bytes;
    match family {
        4 => Some(Ipv4Addr::new(a, b, c, d).into()),
        6 => Some(Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

/// An address as records hold it, with its family.
pub(super) fn octets(address: IpAddr) -> ([u8; 16], u8) {
    match address {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            (bytes, 4)
        }
        IpAddr::V6(v6) => (v6.octets(), 6),
    }
}

/// Every backend record in the image, by address.
#[derive(Clone, Debug)]
pub(super) struct Backends {
    entries: BTreeMap<IpAddr, Entry>,
    ids: Ids,
    /// The last generation of ids that were used and given up.
    generations: HashMap<u32, u16>,
    /// The generation of an id whose past is not known.
    first_generation: u16,
    /// Used by nobody in the image, but perhaps still in the maps.
    draining: BTreeSet<IpAddr>,
    drained: VecDeque<(Instant, IpAddr)>,
    /// Entries whose record may have to change.
    changed: BTreeSet<IpAddr>,
}

#[derive(Clone, Debug)]
struct Entry {
    id: u32,
    generation: u16,
    flags: u16,
    /// How many Services use it, by what they say about where it is.
    uses: [u32; Locality::COUNT],
    /// How many of them choose it for new connections.
    chosen: u32,
    /// When the record is to be deleted.
    until: Option<Instant>,
}

impl Entry {
    fn is_used(&self) -> bool {
        self.uses.iter().any(|uses| *uses > 0)
    }

    fn is_local(&self, address: IpAddr, host: &HostFacts) -> bool {
        let says = |locality: Locality| self.uses[locality as usize] > 0;
        !says(Locality::Remote) && (says(Locality::Local) || host.is_local(address))
    }

    fn record(&self, address: IpAddr) -> Backend {
        let (bytes, family) = octets(address);
        Backend { address: bytes, flags: self.flags, generation: self.generation, family, reserved: [0; 3] }
    }
}

impl Backends {
    /// Takes over the records of a former daemon; of two with one address the first. Those that nobody used drain anew.
    pub(super) fn restore(capacity: u32, records: &BTreeMap<u32, Backend>, now: Instant) -> Self {
        let mut entries = BTreeMap::new();
        let mut drained = VecDeque::new();
        let mut unknown = Vec::new();
        for (&id, record) in records.iter().filter(|(id, _)| **id < capacity) {
            match backend_address(record).filter(|address| record.generation != 0 && !entries.contains_key(address)) {
                Some(address) => {
                    let until = (!record.is_serving()).then_some(now + DRAIN);
                    drained.extend(until.map(|until| (until, address)));
                    let (generation, flags) = (record.generation, record.flags);
                    let entry = Entry { id, generation, flags, uses: [0; Locality::COUNT], chosen: 0, until };
                    entries.insert(address, entry);
                }
                None => unknown.push(id),
            }
        }
        let used = records.keys().copied().filter(|id| *id < capacity).collect();
        let mut ids = Ids::new(capacity, &used);
        for id in unknown {
            ids.release(id);
        }
        let latest = records.values().map(|record| record.generation).max();
        Self {
            changed: entries.keys().copied().collect(),
            entries,
            ids,
            generations: HashMap::new(),
            // Ids given up before are known to nobody: what names them has an earlier generation.
            first_generation: latest.map_or(1, next_generation),
            draining: BTreeSet::new(),
            drained,
        }
    }

    pub(super) fn ids(&self) -> &Ids {
        &self.ids
    }

    /// Id and generation of the record for `address`.
    pub(super) fn get(&self, address: IpAddr) -> Option<(u32, u16)> {
        self.entries.get(&address).map(|entry| (entry.id, entry.generation))
    }

    /// The last generation of each id that was given out, with its address while its record is there.
    pub(super) fn given(&self) -> HashMap<u32, (u16, Option<IpAddr>)> {
        let past = self.generations.iter().map(|(id, generation)| (*id, (*generation, None)));
        let present = self.entries.iter().map(|(address, entry)| (entry.id, (entry.generation, Some(*address))));
        past.chain(present).collect()
    }

    /// Every record of the image.
    pub(super) fn records(&self) -> impl Iterator<Item = (u32, Backend)> {
        self.entries.iter().map(|(address, entry)| (entry.id, entry.record(*address)))
    }

    /// One more Service uses `address`. `None`: it has no record and no id is free.
    pub(super) fn acquire(&mut self, address: IpAddr, usage: Use) -> Option<()> {
        if !self.entries.contains_key(&address) {
            let id = self.ids.take()?;
            let generation = self.generations.get(&id).map_or(self.first_generation, |last| next_generation(*last));
            let entry = Entry { id, generation, flags: 0, uses: [0; Locality::COUNT], chosen: 0, until: None };
            self.entries.insert(address, entry);
        }
        let entry = self.entries.get_mut(&address)?;
        entry.uses[usage.locality as usize] += 1;
        entry.chosen += u32::from(usage.is_chosen);
        self.changed.insert(address);
        Some(())
    }

    /// One Service fewer uses `address`.
    pub(super) fn release(&mut self, address: IpAddr, usage: Use) {
        if let Some(entry) = self.entries.get_mut(&address) {
            let uses = &mut entry.uses[usage.locality as usize];
            *uses = uses.saturating_sub(1);
            entry.chosen = entry.chosen.saturating_sub(usage.is_chosen.into());
            self.changed.insert(address);
        }
    }

    /// Other routes lead to these networks: the records of what is in them are looked at again.
    pub(super) fn routes_changed(&mut self, networks: impl Iterator<Item = IpNet>) {
        for network in networks {
            let inside = self.entries.range(network.network()..=network.broadcast());
            self.changed.extend(inside.map(|(address, _)| *address));
        }
    }

    /// The node has other addresses: every record is looked at again.
    pub(super) fn host_changed(&mut self) {
        self.changed.extend(self.entries.keys());
    }

    /// Brings the records of what changed up to date and gives them.
    pub(super) fn update(&mut self, host: &HostFacts) -> Vec<(u32, Backend)> {
        let mut records = Vec::with_capacity(self.changed.len());
        for address in std::mem::take(&mut self.changed) {
            let Some(entry) = self.entries.get_mut(&address) else { continue };
            if entry.is_used() {
                let local = if entry.is_local(address, host) { Backend::LOCAL } else { 0 };
                let node = if host.node_addresses.contains(&address) { Backend::NODE } else { 0 };
                let role = if entry.chosen > 0 { Backend::ALIVE } else { Backend::SERVING };
                entry.flags = role | local | node;
                entry.until = None;
                self.draining.remove(&address);
            } else if entry.flags & (Backend::ALIVE | Backend::SERVING) != 0 {
                entry.flags &= !(Backend::ALIVE | Backend::SERVING);
                self.draining.insert(address);
            } else {
                continue;
            }
            records.push((entry.id, entry.record(address)));
        }
        records
    }

    /// The maps hold the image: records that nobody uses begin to drain, and released ids to rest.
    pub(super) fn settle(&mut self, now: Instant) {
        self.ids.settle(now, GRACE);
        for address in std::mem::take(&mut self.draining) {
            if let Some(entry) = self.entries.get_mut(&address) {
                entry.until = Some(now + DRAIN);
                self.drained.push_back((now + DRAIN, address));
            }
        }
    }

    /// Forgets the records that have drained, and gives their ids.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<u32> {
        self.ids.expire(now);
        let mut deleted = Vec::new();
        while let Some(&(until, address)) = self.drained.front()
            && until <= now
        {
            self.drained.pop_front();
            // Not if it came back meanwhile, or came back and drains anew.
            if self.entries.get(&address).is_some_and(|entry| entry.until == Some(until))
                && let Some(entry) = self.entries.remove(&address)
            {
                self.generations.insert(entry.id, entry.generation);
                self.ids.release(entry.id);
                deleted.push(entry.id);
            }
        }
        deleted
    }

    /// When [`Backends::expire`] has something to do next.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.drained.front().map(|(until, _)| *until)
    }
}
