//! Who holds which address and which node port, and the choice of free ones.
//!
//! A choice begins at a hash of the owner's name, so that a Service gets the same value again even when all state was
//! lost, and leaves the lower end of the range to values given by hand, as the API server does (KEP-3070, KEP-3668).

use super::error::Error;
use crate::objects::{IpFamily, Key};
use ipnet::IpNet;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

/// Who holds a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) owner: Key,
    /// Asked for by the manifest, not chosen here.
    pub(super) given: bool,
}

/// Values and their holders, with the way back to the last [`Pool::commit`].
#[derive(Debug)]
pub(super) struct Pool<T> {
    holders: HashMap<T, Holder>,
    journal: Vec<(T, Option<Holder>)>,
}

impl<T: Copy + Eq + Hash> Pool<T> {
    pub(super) fn new() -> Self {
        Self { holders: HashMap::new(), journal: Vec::new() }
    }

    pub(super) fn holder(&self, value: T) -> Option<&Holder> {
        self.holders.get(&value)
    }

    /// The other owner of a value, if it has one.
    pub(super) fn held_by_other(&self, value: T, owner: &Key) -> Option<&Holder> {
        self.holders.get(&value).filter(|holder| holder.owner != *owner)
    }

    pub(super) fn hold(&mut self, value: T, owner: &Key, given: bool) {
        let holder = Holder { owner: owner.clone(), given };
        let before = self.holders.insert(value, holder);
        self.journal.push((value, before));
    }

    /// Releases what `owner` holds; what another took over meanwhile stays.
    pub(super) fn release(&mut self, value: T, owner: &Key) {
        if self.holders.get(&value).is_some_and(|holder| holder.owner == *owner) {
            let before = self.holders.remove(&value);
            self.journal.push((value, before));
        }
    }

    pub(super) fn commit(&mut self) {
        self.journal.clear();
    }

    pub(super) fn roll_back(&mut self) {
        while let Some((value, before)) = self.journal.pop() {
            match before {
                Some(holder) => self.holders.insert(value, holder),
                None => self.holders.remove(&value),
            };
        }
    }

    /// A free value of `band` for `owner`.
    pub(super) fn choose(&self, band: Band, owner: &Key, value: impl Fn(u128) -> T) -> Option<T> {
        // Of this many different values at least one is free, or the band has fewer.
        let tries = self.holders.len() as u128 + 1;
        let is_free = |offset: &u128| !self.holders.contains_key(&value(band.first + offset));
        let upper = band.count - band.reserved;
        let start = u128::from(hash(owner)) % upper.max(1);
        let mut offsets = (0..upper.min(tries)).map(|step| band.reserved + (start + step) % upper);
        let mut lower = 0..band.reserved.min(tries);
        offsets.find(is_free).or_else(|| lower.find(is_free)).map(|offset| value(band.first + offset))
    }
}

/// A range of values, the first `reserved` of which are chosen last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Band {
    pub(super) first: u128,
    pub(super) count: u128,
    pub(super) reserved: u128,
}

impl Band {
    fn new(first: u128, count: u128, share: u128, most: u128) -> Self {
        let reserved = (count / share).clamp(16, most);
        Self { first, count, reserved: if reserved < count { reserved } else { 0 } }
    }
}

/// FNV-1a with a final mix: stable over versions, unlike the standard library's hasher.
fn hash(key: &Key) -> u64 {
    let bytes = key.namespace.bytes().chain([b'/']).chain(key.name.bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

/// The ClusterIPs.
#[derive(Debug)]
pub(super) struct Addresses {
    pub(super) pool: Pool<IpAddr>,
    ranges: Vec<(IpNet, Band)>,
}

impl Addresses {
    pub(super) fn new(cidrs: &[IpNet]) -> Result<Self, Error> {
        Ok(Self { pool: Pool::new(), ranges: ranges(cidrs)? })
    }

    /// Takes other ranges, unless a Service has an address of one that goes.
    pub(super) fn set_cidrs(&mut self, cidrs: &[IpNet]) -> Result<(), Error> {
        let ranges = ranges(cidrs)?;
        let stays = |address: &IpAddr| ranges.iter().any(|(cidr, _)| cidr.contains(address));
        for (cidr, _) in &self.ranges {
            let of_cidr = self.pool.holders.iter().filter(|(address, _)| cidr.contains(*address) && !stays(address));
            let mut held: Vec<(Key, IpAddr)> =
                of_cidr.map(|(address, holder)| (holder.owner.clone(), *address)).collect();
            held.sort();
            if let Some((owner, address)) = held.first() {
                let (owner, address, others) = (owner.clone(), *address, held.len() - 1);
                return Err(Error::ServiceCidrInUse { cidr: *cidr, owner, address, others });
            }
        }
        self.ranges = ranges;
        Ok(())
    }

    /// The configured families, the default one first.
    pub(super) fn families(&self) -> Vec<IpFamily> {
        let mut families = Vec::new();
        for (cidr, _) in &self.ranges {
            let family = IpFamily::of(cidr.addr());
            if !families.contains(&family) {
                families.push(family);
            }
        }
        families
    }

    /// Whether a Service may ask for `address`; the answer says why not.
    pub(super) fn check(&self, address: IpAddr) -> Result<(), String> {
        let Some((cidr, band)) = self.ranges.iter().find(|(cidr, _)| cidr.contains(&address)) else {
            let cidrs: Vec<String> = self.ranges.iter().map(|(cidr, _)| cidr.to_string()).collect();
            return Err(format!(
                "{address} is not in a service CIDR ({}): leave it out to get one that is",
                cidrs.join(", ")
            ));
        };
        let offset = number(address).checked_sub(band.first);
        if offset.is_some_and(|offset| offset < band.count) {
            return Ok(());
        }
        Err(format!("{address} is the network or broadcast address of {cidr}"))
    }

    pub(super) fn choose(&self, family: IpFamily, owner: &Key) -> Option<IpAddr> {
        let of_family = |(cidr, _): &&(IpNet, Band)| IpFamily::of(cidr.addr()) == family;
        let mut bands = self.ranges.iter().filter(of_family);
        bands.find_map(|(_, band)| self.pool.choose(*band, owner, |value| address(family, value)))
    }
}

/// The ranges in the order in which they are chosen from.
fn ranges(cidrs: &[IpNet]) -> Result<Vec<(IpNet, Band)>, Error> {
    let mut ranges = Vec::new();
    for cidr in cidrs {
        let cidr = cidr.trunc();
        let overlaps = |(other, _): &(IpNet, Band)| other.contains(&cidr) || cidr.contains(other);
        if ranges.iter().any(overlaps) {
            return Err(Error::ServiceCidr { cidr, reason: "overlaps another service CIDR" });
        }
        if cidr.addr().is_loopback() || cidr.addr().is_multicast() {
            return Err(Error::ServiceCidr { cidr, reason: "is not a range of ordinary addresses" });
        }
        ranges.push((cidr, band(cidr)));
    }
    if ranges.is_empty() { Err(Error::NoServiceCidr) } else { Ok(ranges) }
}

fn band(cidr: IpNet) -> Band {
    let size = 1_u128.checked_shl(u32::from(cidr.max_prefix_len() - cidr.prefix_len())).unwrap_or(u128::MAX);
    let first = number(cidr.network());
    let (first, count) = match cidr {
        _ if size <= 2 => (first, size),
        // Network and broadcast address.
        IpNet::V4(_) => (first + 1, size - 2),
        // The subnet routers' anycast address (RFC 4291).
        IpNet::V6(_) => (first + 1, size - 1),
    };
    Band::new(first, count, 16, 256)
}

pub(super) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

pub(super) fn address(family: IpFamily, number: u128) -> IpAddr {
    match family {
        IpFamily::IPv4 => Ipv4Addr::from_bits(number as u32).into(),
        IpFamily::IPv6 => Ipv6Addr::from_bits(number).into(),
    }
}

/// The node ports. A number belongs to one Service, which may use it with several protocols.
#[derive(Debug)]
pub(super) struct NodePorts {
    pub(super) pool: Pool<u16>,
    range: RangeInclusive<u16>,
}

impl NodePorts {
    pub(super) fn new(range: &RangeInclusive<u16>) -> Result<Self, Error> {
        if range.is_empty() || *range.start() == 0 {
            return Err(Error::NodePortRange { first: *range.start(), last: *range.end() });
        }
        Ok(Self { pool: Pool::new(), range: range.clone() })
    }

    /// Whether a Service may ask for `number`; the answer says why not.
    pub(super) fn check(&self, number: i64) -> Result<u16, String> {
        let port = u16::try_from(number).ok().filter(|port| self.range.contains(port));
        port.ok_or_else(|| {
            format!("{number} is not in the node port range {}-{}", self.range.start(), self.range.end())
        })
    }

    pub(super) fn choose(&self, owner: &Key) -> Option<u16> {
        let (first, last) = (u128::from(*self.range.start()), u128::from(*self.range.end()));
        let band = Band::new(first, last - first + 1, 32, 128);
        self.pool.choose(band, owner, |value| value as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn fill(cidr: &str) -> Vec<IpAddr> {
        let mut addresses = Addresses::new(&[cidr.parse().unwrap()]).unwrap();
        let family = addresses.families()[0];
        let mut chosen = Vec::new();
        for number in 0.. {
            let owner = Key::new("shop", format!("s{number}"));
            let Some(address) = addresses.choose(family, &owner) else { return chosen };
            assert_eq!(addresses.check(address), Ok(()));
            addresses.pool.hold(address, &owner, false);
            chosen.push(address);
        }
        unreachable!("a pool without end")
    }

    #[test]
    fn every_address_but_network_and_broadcast_is_chosen_once() {
        for (cidr, count) in
            [("10.0.0.0/24", 254), ("10.0.0.0/29", 6), ("10.0.0.0/31", 2), ("10.0.0.1/32", 1), ("fd00::/120", 255)]
        {
            let chosen = fill(cidr);
            assert_eq!(chosen.len(), count, "{cidr}");
            assert_eq!(chosen.iter().collect::<HashSet<_>>().len(), count, "{cidr}");
        }
    }

    #[test]
    fn the_lower_end_is_left_to_the_last() {
        let chosen = fill("10.0.0.0/24");
        let is_lower = |address: &IpAddr| matches!(address, IpAddr::V4(address) if address.octets()[3] <= 16);
        assert!(!chosen[..238].iter().any(is_lower));
        assert!(chosen[238..].iter().all(is_lower));
    }

    #[test]
    fn the_largest_range_works() {
        let addresses = Addresses::new(&["2001:db8::/32".parse().unwrap()]).unwrap();
        assert!(addresses.choose(IpFamily::IPv6, &Key::new("a", "b")).is_some());
        let addresses = Addresses::new(&["::/0".parse().unwrap()]).unwrap();
        assert!(addresses.choose(IpFamily::IPv6, &Key::new("a", "b")).is_some());
    }

    #[test]
    fn a_choice_depends_on_the_name_alone() {
        let choose = || {
            let addresses = Addresses::new(&["10.96.0.0/16".parse().unwrap()]).unwrap();
            addresses.choose(IpFamily::IPv4, &Key::new("shop", "web")).unwrap()
        };
        // Part of the contract: a new version must not move the addresses of a node whose state was lost.
        assert_eq!(choose().to_string(), "10.96.222.114");
    }

    #[test]
    fn what_is_rolled_back_never_happened() {
        let mut pool = Pool::new();
        let (a, b) = (Key::new("x", "a"), Key::new("x", "b"));
        pool.hold(1, &a, true);
        pool.commit();
        pool.release(1, &a);
        pool.hold(1, &b, false);
        pool.hold(2, &b, false);
        pool.roll_back();
        assert_eq!(pool.holder(1), Some(&Holder { owner: a, given: true }));
        assert_eq!(pool.holder(2), None);
    }

    #[test]
    fn bad_ranges_are_refused() {
        let cidrs =
            |texts: &[&str]| Addresses::new(&texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>());
        assert!(cidrs(&[]).is_err());
        assert!(cidrs(&["10.0.0.0/8", "10.1.0.0/16"]).is_err());
        assert!(cidrs(&["127.0.0.0/8"]).is_err());
        #[expect(clippy::reversed_empty_ranges, reason = "the mistake to be found")]
        let reversed = 2..=1;
        assert!(NodePorts::new(&reversed).is_err());
    }
}
