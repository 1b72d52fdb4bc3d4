//! How the endpoints behind a port become the slots of a set, which share connections evenly.
//!
//! With `random` each endpoint has as many slots as its weight, all of them divided by what they have in common: exact, and one
//! slot each where weights are equal. With `maglev` the slots are a Maglev table.

use super::maglev::{self, Candidate};
use super::renderer::Refusal;
use lb_common::BackendSet;
use std::net::IpAddr;

/// The slots of a set: for each the index of a member.
pub(super) type Layout = Vec<u32>;

/// The endpoints that stand behind a port, with what decides which of them a connection is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Pool {
    /// In order of address and port.
    pub(super) members: Vec<Member>,
    /// Size of the Maglev table; `None`: the algorithm is `random`.
    pub(super) table_size: Option<u32>,
}

/// One member of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Member {
    pub(super) address: IpAddr,
    /// Zero for [`super::fragment::Entry::target_port`].
    pub(super) port: u16,
    /// Zero: it gets no new connections, and keeps those it has.
    pub(super) weight: u8,
}

impl Pool {
    /// Its members that have a weight, with equal ones.
    pub(super) fn each_once(&self) -> Self {
        let with_weight = self.members.iter().filter(|member| member.weight > 0);
        Self { members: with_weight.map(|member| Member { weight: 1, ..*member }).collect(), table_size: None }
    }

    /// The slots of its set; none where no member has a weight.
    pub(super) fn layout(&self) -> Result<Layout, Refusal> {
        match self.table_size {
            None => self.in_proportion(),
            Some(table_size) => self.table(table_size),
        }
    }

    fn in_proportion(&self) -> Result<Layout, Refusal> {
        let weights = || self.members.iter().map(|member| u32::from(member.weight));
        let divisor = weights().fold(0, common_divisor).max(1);
        let slots = weights().map(|weight| weight / divisor).sum();
        if slots > BackendSet::MAX_SLOTS {
            return Err(Refusal::TooManySlots { slots });
        }
        let of_member = |(index, weight): (u32, u32)| std::iter::repeat_n(index, (weight / divisor) as usize);
        Ok((0..).zip(weights()).flat_map(of_member).collect())
    }

    fn table(&self, table_size: u32) -> Result<Layout, Refusal> {
        let endpoints = self.members.iter().filter(|member| member.weight > 0).count();
        if endpoints > table_size as usize {
            return Err(Refusal::TableTooSmall { endpoints, table_size });
        }
        let of_one_address = self.members.chunk_by(|one, other| one.address == other.address);
        let candidates: Vec<Candidate> = of_one_address.flat_map(|members| (0..).zip(members)).map(candidate).collect();
        Ok(maglev::table(&candidates, table_size))
    }
}

fn candidate((port_rank, member): (u32, &Member)) -> Candidate {
    Candidate { name: maglev::name(member.address, port_rank), weight: member.weight }
}

const fn common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pool(weights: &[u8], table_size: Option<u32>) -> Pool {
        let member =
            |(index, weight): (u8, &u8)| Member { address: [10, 0, 0, index].into(), port: 0, weight: *weight };
        Pool { members: (0..).zip(weights).map(member).collect(), table_size }
    }

    #[test]
    fn equal_weights_take_one_slot_each_and_none_takes_none() {
        for (weights, slots) in [
            (&[1, 1, 1][..], &[0, 1, 2][..]),
            (&[50, 50], &[0, 1]),
            (&[10, 30], &[0, 1, 1, 1]),
            (&[0, 7, 0], &[1]),
            (&[0, 0], &[]),
            (&[], &[]),
        ] {
            assert_eq!(pool(weights, None).layout().unwrap(), slots, "{weights:?}");
        }
    }

    #[test]
    fn a_table_that_is_too_small_is_refused() {
        assert_eq!(pool(&[1; 4], Some(3)).layout(), Err(Refusal::TableTooSmall { endpoints: 4, table_size: 3 }));
        assert_eq!(pool(&[1, 1, 0, 1], Some(3)).layout().unwrap().len(), 3);
        assert!(pool(&[0, 0], Some(3)).layout().unwrap().is_empty());
    }

    #[test]
    fn ports_of_one_address_are_told_apart_and_their_numbers_do_not_count() {
        let with_ports = |ports: [u16; 3]| {
            let address = |index| IpAddr::from([10, 0, 0, index]);
            let member = |(index, port)| Member { address: address(index), port, weight: 1 };
            let members = [1, 1, 2].into_iter().zip(ports).map(member).collect();
            Pool { members, table_size: Some(251) }.layout().unwrap()
        };
        let table = with_ports([80, 81, 80]);
        assert_eq!(table, with_ports([8080, 9090, 8081]));
        assert!((0..3).all(|index| table.iter().filter(|slot| **slot == index).count() >= 83));
    }

    proptest! {
        #[test]
        fn slots_are_in_proportion_to_weights(weights in prop::collection::vec(0u8..=100, 0..30)) {
            let layout = pool(&weights, None).layout().unwrap();
            let total: u32 = weights.iter().copied().map(u32::from).sum();
            for (index, weight) in (0..).zip(&weights) {
                let slots = layout.iter().filter(|slot| **slot == index).count() as u32;
                prop_assert_eq!(slots * total, u32::from(*weight) * layout.len() as u32);
            }
        }
    }
}
