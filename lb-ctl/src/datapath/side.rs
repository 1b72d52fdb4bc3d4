//! The tables beside the flows, which the datapath writes for itself: clients and their backends, sockets and their peers, first
//! fragments, counters, budgets. Judged entry by entry; like flows, what looks wrong counts when it does so again.

use super::affinity::AffinityTable;
use super::bpf::{Map, PerCpuArray};
use crate::audit::Invariant;
use crate::image::{Given, Use};
use crate::maps::{MapError, pinned::open};
use lb_common::maps::{AFFINITY, BUDGETS, FRAGMENTS4, FRAGMENTS6, REASONS, SOCKETS};
use lb_common::{
    Affinity, AffinityKey, Budget, Fragment, FragmentKey, Peer, Reason, ReasonCount, SCTP, SocketKey, TCP, Traffic, UDP,
};
use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// The shortest packet: an IPv4 header.
const SHORTEST: u64 = 20;

/// Tables that nobody else reads.
#[derive(Clone, Debug)]
pub(crate) struct SideTables {
    affinity: AffinityTable,
    sockets: Map<SocketKey, Peer>,
    fragments4: Map<FragmentKey<[u8; 4]>, Fragment>,
    fragments6: Map<FragmentKey<[u8; 16]>, Fragment>,
    budgets: PerCpuArray<Budget>,
    reasons: PerCpuArray<ReasonCount>,
}

/// Something wrong with an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SideFinding {
    /// What does not hold.
    pub(crate) invariant: Invariant,
    /// The map.
    pub(crate) map: &'static str,
    /// The entry in an operator's words.
    pub(crate) object: String,
    /// What is wrong with it.
    pub(crate) detail: String,
    /// The entry, for the repair.
    place: Entry,
}

impl SideFinding {
    /// Whether another look found the same.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (self.invariant, self.map, &self.place, &self.object)
            == (other.invariant, other.map, &other.place, &other.object)
    }
}

/// An entry by its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Client(AffinityKey),
    Socket(SocketKey),
    Fragment4(FragmentKey<[u8; 4]>),
    Fragment6(FragmentKey<[u8; 16]>),
    Counter,
    Budget,
}

/// Where a walk through these tables stands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SideWalk {
    table: usize,
    position: Option<u32>,
}

impl SideTables {
    pub(crate) fn open(config: &Path, flows: &Path, affinity: &AffinityTable) -> Result<Self, MapError> {
        Ok(Self {
            affinity: affinity.clone(),
            sockets: open(flows, SOCKETS, Map::new)?,
            fragments4: open(config, FRAGMENTS4, Map::new)?,
            fragments6: open(config, FRAGMENTS6, Map::new)?,
            budgets: open(config, BUDGETS, PerCpuArray::new)?,
            reasons: open(config, REASONS, PerCpuArray::new)?,
        })
    }

    /// Looks at the next `limit` entries or so; how many that were. `None`: all have been looked at.
    pub(crate) fn step(
        &self,
        walk: &mut SideWalk,
        given: &Given,
        now: u32,
        limit: usize,
        found: &mut Vec<SideFinding>,
    ) -> Result<Option<usize>, MapError> {
        let position = &mut walk.position;
        let seen = match walk.table {
            0 => look(AFFINITY, self.affinity.clients(), position, limit, found, |key, value| {
                client(key, value, given, now)
            })?,
            1 => look(SOCKETS, &self.sockets, position, limit, found, socket)?,
            2 => look(FRAGMENTS4, &self.fragments4, position, limit, found, |key, value| {
                let (object, wrong) = fragment(key, value, now)?;
                Some((Entry::Fragment4(*key), object, wrong))
            })?,
            3 => look(FRAGMENTS6, &self.fragments6, position, limit, found, |key, value| {
                let (object, wrong) = fragment(key, value, now)?;
                Some((Entry::Fragment6(*key), object, wrong))
            })?,
            4 => self.counters(found)?,
            5 => self.budgets(now, found)?,
            _ => return Ok(None),
        };
        if walk.position.is_none() {
            walk.table += 1;
        }
        Ok(Some(seen))
    }

    /// Looks at the counters of all reasons.
    fn counters(&self, found: &mut Vec<SideFinding>) -> Result<usize, MapError> {
        let counters = self.reasons.entries();
        for number in 0..counters {
            let copies = self.reasons.get(number).map_err(failed(REASONS, "read"))?;
            let (packets, bytes) = copies.iter().fold((0u64, 0u64), |(packets, bytes), copy| {
                (packets.wrapping_add(copy.packets), bytes.wrapping_add(copy.bytes))
            });
            let reason = u8::try_from(number).ok().and_then(Reason::from_number);
            let wrong = match reason {
                None if packets != 0 || bytes != 0 => {
                    Some(format!("it counts {packets} packets, and no reason has this number"))
                }
                // What sockets ask for is counted too, and has no bytes.
                Some(_) if packets == 0 && bytes != 0 => Some(format!("it counts {bytes} bytes without packets")),
                _ => None,
            };
            found.extend(wrong.map(|detail| SideFinding {
                invariant: Invariant::Counters,
                map: REASONS,
                object: reason.map_or_else(|| format!("reason {number}"), |reason| format!("reason {}", reason.name())),
                detail,
                place: Entry::Counter,
            }));
        }
        Ok(counters as usize)
    }

    fn budgets(&self, now: u32, found: &mut Vec<SideFinding>) -> Result<usize, MapError> {
        let copies = self.budgets.get(0).map_err(failed(BUDGETS, "read"))?;
        for (cpu, budget) in copies.iter().enumerate() {
            let detail = if budget.tick > now + 1 {
                format!("it is of tick {}, and this is {now}", budget.tick)
            } else if budget.answers > Budget::ANSWERS {
                format!("{} answers are spent of {}", budget.answers, Budget::ANSWERS)
            } else {
                continue;
            };
            let object = format!("budget of CPU {cpu}");
            found.push(SideFinding {
                invariant: Invariant::Budgets,
                map: BUDGETS,
                object,
                detail,
                place: Entry::Budget,
            });
        }
        Ok(copies.len())
    }

    /// Repairs an entry as [`Invariant::repair`] says; whether it was.
    pub(crate) fn repair(&self, finding: &SideFinding) -> Result<bool, MapError> {
        let failed = failed(finding.map, "repair");
        match finding.place {
            Entry::Client(key) => self.affinity.clients().delete(&key).map_err(failed),
            Entry::Socket(key) => self.sockets.delete(&key).map_err(failed),
            Entry::Fragment4(key) => self.fragments4.delete(&key).map_err(failed),
            Entry::Fragment6(key) => self.fragments6.delete(&key).map_err(failed),
            Entry::Budget => self.budgets.fill(0, Budget::default()).map(|()| true).map_err(failed),
            Entry::Counter => Ok(false),
        }
    }
}

/// What is wrong with the counters of a service port or a backend.
pub(crate) fn wrong_traffic(traffic: &Traffic) -> Option<String> {
    too_short(traffic.packets, traffic.bytes).or_else(|| too_short(traffic.reply_packets, traffic.reply_bytes))
}

/// A finding about such counters.
pub(crate) fn counter_finding(map: &'static str, object: String, detail: String) -> SideFinding {
    SideFinding { invariant: Invariant::Counters, map, object, detail, place: Entry::Counter }
}

fn too_short(packets: u64, bytes: u64) -> Option<String> {
    let is_short = packets.checked_mul(SHORTEST).is_none_or(|least| bytes < least);
    is_short.then(|| format!("it counts {packets} packets of {bytes} bytes together"))
}

fn look<K: aya::Pod, V: aya::Pod>(
    map: &'static str,
    table: &Map<K, V>,
    position: &mut Option<u32>,
    limit: usize,
    found: &mut Vec<SideFinding>,
    judge: impl Fn(&K, &V) -> Option<(Entry, String, String)>,
) -> Result<usize, MapError> {
    let mut batches = table.batches().of(limit).resume(*position);
    let Some(batch) = batches.next() else {
        *position = None;
        return Ok(0);
    };
    let batch = batch.map_err(failed(map, "read"))?;
    *position = batches.goes_on();
    let invariant = match map {
        AFFINITY => Invariant::Affinity,
        SOCKETS => Invariant::Sockets,
        _ => Invariant::Fragments,
    };
    let wrong = batch.iter().filter_map(|(key, value)| judge(key, value));
    found.extend(wrong.map(|(place, object, detail)| SideFinding { invariant, map, object, detail, place }));
    Ok(batch.len())
}

fn client(key: &AffinityKey, value: &Affinity, given: &Given, now: u32) -> Option<(Entry, String, String)> {
    let [high, low] = key.client;
    let who = match key.kind {
        4 => Ipv4Addr::from_bits(high as u32).to_string(),
        6 => Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).to_string(),
        _ => format!("of network namespace {high}"),
    };
    let wrong = if ![0, 4, 6].contains(&key.kind) {
        format!("it is of kind {}", key.kind)
    } else if !given.has_service(key.service) {
        format!("no service port ever had the id {}", key.service)
    } else if given.backend(value.backend, value.generation) == Use::Never {
        format!("no backend ever had the id {} and generation {}", value.backend, value.generation)
    } else if value.port == [0; 2] {
        "its backend has no port".to_owned()
    } else if value.tick > now + 1 {
        format!("it was noted in tick {}, and this is {now}", value.tick)
    } else {
        return None;
    };
    Some((Entry::Client(*key), format!("client {who} of service port id {}", key.service), wrong))
}

fn socket(key: &SocketKey, value: &Peer) -> Option<(Entry, String, String)> {
    let address = |peer: &Peer| match peer.family {
        4 => Some(SocketAddr::new(IpAddr::from(peer.v4()), u16::from_be_bytes(peer.port))),
        6 => Some(SocketAddr::new(IpAddr::from(peer.address), u16::from_be_bytes(peer.port))),
        _ => None,
    };
    let (got, asked) = (address(&key.peer), address(value));
    let wrong = match (got, asked) {
        (Some(got), Some(asked)) if got.is_ipv4() != asked.is_ipv4() => format!("it got {got} for {asked}"),
        (Some(_), Some(asked)) if asked.port() == 0 || asked.ip().is_unspecified() => format!("it asked for {asked}"),
        (Some(got), Some(_)) if got.port() == 0 || got.ip().is_unspecified() => format!("it got {got}"),
        (None, _) | (_, None) => format!("its families are {} and {}", key.peer.family, value.family),
        _ if key.peer.protocol != value.protocol || ![TCP, UDP, SCTP].contains(&value.protocol) => {
            format!("its protocols are {} and {}", key.peer.protocol, value.protocol)
        }
        _ => return None,
    };
    Some((
        Entry::Socket(*key),
        format!("socket {} of {}", key.cookie, got.map_or_else(String::new, |got| got.to_string())),
        wrong,
    ))
}

fn fragment<A: Copy + Into<IpAddr> + Debug>(
    key: &FragmentKey<A>,
    value: &Fragment,
    now: u32,
) -> Option<(String, String)> {
    let wrong = if ![TCP, UDP, SCTP].contains(&value.protocol) {
        format!("its protocol is {}", value.protocol)
    } else if key.protocol != 0 && key.protocol != value.protocol {
        format!("it is of protocol {}, and its datagram of {}", value.protocol, key.protocol)
    } else if value.tick > now + 1 {
        format!("it was seen in tick {}, and this is {now}", value.tick)
    } else {
        return None;
    };
    let (from, to): (IpAddr, IpAddr) = (key.src.into(), key.dst.into());
    Some((format!("datagram {} from {from} to {to}", key.id), wrong))
}

fn failed(map: &'static str, action: &'static str) -> impl Fn(io::Error) -> MapError {
    move |source| MapError { map, action: action.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Past;

    #[test]
    fn clients_sockets_and_fragments_are_judged_by_what_was_given_out() {
        let given = Given::new(Past::None, (2, [(0, (1, None))].into()), 8);
        let key = AffinityKey { client: [0xc000_0201, 0], service: 1, kind: 4, zero: [0; 3] };
        let value = Affinity { backend: 0, tick: 10, generation: 1, port: [0, 80], place: 0 };
        assert_eq!(client(&key, &value, &given, 10), None);
        for (key, value, expected) in [
            (AffinityKey { service: 2, ..key }, value, "service port"),
            (AffinityKey { kind: 5, ..key }, value, "kind 5"),
            (key, Affinity { generation: 2, ..value }, "generation 2"),
            (key, Affinity { port: [0; 2], ..value }, "no port"),
            (key, Affinity { tick: 12, ..value }, "tick 12"),
        ] {
            let (_, object, wrong) = client(&key, &value, &given, 10).expect("a finding");
            assert!(wrong.contains(expected) && object.starts_with("client "), "{object}: {wrong}");
        }
        let peer = |last, port| {
            Peer::new(
                4,
                TCP,
                {
                    let mut a = [0; 16];
                    a[..4].copy_from_slice(&[10, 0, 0, last]);
                    a
                },
                [0, port],
            )
        };
        let key = SocketKey { cookie: 1, peer: peer(1, 80) };
        assert_eq!(socket(&key, &peer(2, 80)), None);
        for wrong in [
            peer(2, 0),
            Peer { protocol: UDP, ..peer(2, 80) },
            Peer { family: 6, ..peer(2, 80) },
            Peer { family: 0, ..peer(2, 80) },
        ] {
            assert!(socket(&key, &wrong).is_some(), "{wrong:?}");
        }
        let key = FragmentKey::new([192, 0, 2, 1], [10, 96, 0, 1], 7, UDP);
        let first = Fragment { src_port: [0; 2], dst_port: [0, 53], tick: 10, protocol: UDP, zero: [0; 7] };
        assert_eq!(fragment(&key, &first, 10), None);
        assert!(fragment(&key, &Fragment { protocol: TCP, ..first }, 10).is_some());
        assert!(fragment(&key, &Fragment { tick: 12, ..first }, 10).is_some());
        assert_eq!(wrong_traffic(&Traffic { packets: 2, bytes: 40, ..Traffic::default() }), None);
        assert!(wrong_traffic(&Traffic { reply_packets: 2, reply_bytes: 39, ..Traffic::default() }).is_some());
    }
}
