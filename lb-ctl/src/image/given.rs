//! Which ids were ever given out. Flows outlive the records that they name, so a record that is gone proves nothing; an id
//! that nobody ever gave out does.

use std::collections::HashMap;
use std::net::IpAddr;

/// What was before this daemon, by what the maps held when it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Past {
    /// Nothing: no daemon's settings, and no flows.
    #[default]
    None,
    /// A daemon, whose records were taken over. What it had given out and taken back is known to nobody.
    Adopted,
    /// Flows of which no record tells anything: the configuration maps were made anew.
    Unknown,
}

/// The ids of service ports and backends that were given out up to one moment.
#[derive(Clone, Debug, Default)]
pub struct Given {
    past: Past,
    /// Counter ids of service ports below this.
    service_ids: u32,
    /// The last generation of each backend's id, and its address while its record is there.
    backends: HashMap<u32, (u16, Option<IpAddr>)>,
    /// How many service ports and backends there can be.
    capacity: u32,
}

impl Given {
    /// Counter ids below the first were given out, and these backends, of at most so many.
    pub(crate) fn new(
        past: Past,
        (service_ids, backends): (u32, HashMap<u32, (u16, Option<IpAddr>)>),
        capacity: u32,
    ) -> Self {
        Self { past, service_ids, backends, capacity }
    }

    /// Whether a service port ever had this id, as far as can be told.
    pub fn has_service(&self, id: u32) -> bool {
        id < if self.past == Past::None { self.service_ids } else { self.capacity }
    }

    /// What is known of a backend's id under a generation.
    pub fn backend(&self, id: u32, generation: u16) -> Use {
        let is_possible = id < self.capacity && generation != 0;
        let is_before = |last: u16| (generation.wrapping_sub(last) as i16) < 0;
        match (self.past, self.backends.get(&id)) {
            _ if !is_possible => Use::Never,
            (Past::Unknown, _) | (Past::Adopted, None) => Use::Past,
            (_, Some((last, Some(address)))) if *last == generation => Use::Now(*address),
            (_, Some((last, _))) if *last == generation || is_before(*last) => Use::Past,
            _ => Use::Never,
        }
    }
}

/// How an id is used under a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// The backend with this address has it.
    Now(IpAddr),
    /// Some backend had it once.
    Past,
    /// Nobody ever had it.
    Never,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_used_was_used_or_never_was() {
        let address = IpAddr::from([10, 244, 0, 1]);
        let after = |past| Given::new(past, (2, HashMap::from([(0, (3, Some(address))), (1, (2, None))])), 8);
        let (fresh, adopted) = (after(Past::None), after(Past::Adopted));
        for given in [&fresh, &adopted] {
            let of = |id, generation| given.backend(id, generation);
            let now = Use::Now(address);
            assert_eq!([of(0, 3), of(0, 2), of(0, 4), of(0, 0)], [now, Use::Past, Use::Never, Use::Never]);
            assert_eq!([of(1, 2), of(1, 1), of(1, 3)], [Use::Past, Use::Past, Use::Never]);
            assert_eq!(of(8, 1), Use::Never);
        }
        assert_eq!([fresh.backend(5, 1), adopted.backend(5, 1)], [Use::Never, Use::Past]);
        assert!(fresh.has_service(1) && !fresh.has_service(2) && adopted.has_service(7) && !adopted.has_service(8));
        // Ids begin anew where nothing was taken over, so nothing is proven by one that flows have from before.
        assert_eq!(after(Past::Unknown).backend(0, 3), Use::Past);
    }
}
