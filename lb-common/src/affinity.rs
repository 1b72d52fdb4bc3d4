//! Session affinity: which backend a client had last, for Services that keep a client with its backend.

use crate::flow::TICK_SHIFT;
use crate::record;

/// A client of a Service port: the key of the map [`crate::maps::AFFINITY`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct AffinityKey {
    /// Its address as one or two numbers, IPv4 in the first; or the cookie of its network namespace and zero.
    pub client: [u64; 2],
    /// [`crate::Service::affinity_id`]: all ways to reach the Service port share it.
    pub service: u32,
    /// IP version of the address, 4 or 6. Zero: a process told by its network namespace, since a socket may not have an
    /// address yet; the node itself always is.
    pub kind: u8,
    /// Padding; zero.
    pub zero: [u8; 3],
}

impl AffinityKey {
    /// The processes of the network namespace with this cookie.
    pub const fn of_namespace(cookie: u64, service: u32) -> Self {
        Self { client: [cookie, 0], service, kind: 0, zero: [0; 3] }
    }
}

/// The backend of a client: the value of the map.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Affinity {
    /// Index into the map [`crate::maps::BACKENDS`].
    pub backend: u32,
    /// Tick of the client's last new connection.
    pub tick: u32,
    /// [`crate::Backend::generation`] of the backend meant.
    pub generation: u16,
    /// The backend's port, network order.
    pub port: [u8; 2],
    /// Where it stood in [`crate::Service::members`]: the first place to look for it.
    pub place: u32,
}

impl Affinity {
    /// A place in no backend set.
    pub const NO_PLACE: u32 = u32::MAX;

    /// A timeout of so many seconds in ticks, rounded up: a client is never forgotten early.
    pub const fn ticks(seconds: u32) -> u32 {
        ((seconds as u64 * 1_000_000_000) >> TICK_SHIFT) as u32 + 1
    }

    /// Whether the client was silent for more than `ticks` at tick `now`.
    pub const fn is_expired(&self, now: u32, ticks: u32) -> bool {
        now.saturating_sub(self.tick) > ticks
    }
}

record!(AffinityKey = 24, Affinity = 16);

#[cfg(test)]
mod tests {
    use super::Affinity;

    #[test]
    fn a_client_is_known_for_as_long_as_was_asked_and_little_longer() {
        for seconds in [1, 3, 60, 10_800, 86_400] {
            let seen = Affinity { tick: 100, ..Affinity::default() };
            let is_known = |now: &u32| !seen.is_expired(*now, Affinity::ticks(seconds));
            let last = (100..200_000).rfind(is_known).unwrap_or(0);
            // Seen at the end of its tick, asked for at the beginning of the last one; and the other way round.
            let tick = (1u64 << super::TICK_SHIFT) as f64 / 1e9;
            let shortest = f64::from(last - 100) * tick;
            assert!(shortest >= f64::from(seconds), "{seconds}: {shortest}");
            assert!(shortest + tick <= f64::from(seconds) + 2.5 * tick, "{seconds}: {shortest}");
        }
    }
}
