//! Which ids were ever given out. Flows outlive the records that they name, so a record that is gone proves nothing; an id
//! that nobody ever gave out does.

use std::collections::HashMap;
use std::net::IpAddr;

/// The ids of service ports and backends that were given out up to one moment.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// Counter ids of service ports below this.
    pub(crate) service_ids: u32,
    /// The last generation of each backend's id, and its address while its record is there.
    pub(crate) backends: HashMap<u32, (u16, Option<IpAddr>)>,
    /// Where there was a former daemon: how many backends there can be, and the generation before which it gave ids out.
    pub(crate) former: Option<(u32, u16)>,
}

impl Given {
    /// Whether a service port ever had this id.
    pub fn has_service(&self, id: u32) -> bool {
        id < self.service_ids
    }

    /// What is known of a backend's id under a generation.
    pub fn backend(&self, id: u32, generation: u16) -> Use {
        let is_before = |other: u16| generation != 0 && (generation.wrapping_sub(other) as i16) < 0;
        match (self.backends.get(&id), self.former) {
            (Some((last, Some(address))), _) if *last == generation => Use::Now(*address),
            (Some((last, _)), _) if *last == generation || is_before(*last) => Use::Past,
            (None, Some((capacity, first))) if id < capacity && is_before(first) => Use::Past,
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
        let backends = HashMap::from([(0, (3, Some(address))), (1, (2, None))]);
        let fresh = Given { service_ids: 2, backends, former: None };
        let adopted = Given { former: Some((8, 4)), ..fresh.clone() };
        for given in [&fresh, &adopted] {
            let of = |id, generation| given.backend(id, generation);
            assert_eq!(
                [of(0, 3), of(0, 2), of(0, 4), of(0, 0)],
                [Use::Now(address), Use::Past, Use::Never, Use::Never]
            );
            assert_eq!([of(1, 2), of(1, 1), of(1, 3)], [Use::Past, Use::Past, Use::Never]);
            assert!(given.has_service(1) && !given.has_service(2));
        }
        assert_eq!(fresh.backend(5, 1), Use::Never);
        assert_eq!(
            [adopted.backend(5, 1), adopted.backend(5, 4), adopted.backend(8, 1)],
            [Use::Past, Use::Never, Use::Never]
        );
    }
}
