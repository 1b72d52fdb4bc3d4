//! Names as the table orders them.

use hickory_proto::rr::Name;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// A name: its labels from the root down, lowercase, each behind its length. So what is below a name begins with that name's
/// bytes, and stands right behind it in order.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Path(Arc<[u8]>);

impl Path {
    /// The path of a name. Names are compared without case (RFC 4343).
    pub(super) fn of(name: &Name) -> Self {
        Self::from_labels(name.iter().rev())
    }

    /// The path of a name as text, such as `cluster.local`, if it can be one (RFC 1035, 2.3.4).
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let labels = text.rsplit('.');
        let fits = |label: &str| (1..=63).contains(&label.len());
        (text.len() <= 253 && labels.clone().all(fits)).then(|| Self::from_labels(labels.map(str::as_bytes)))
    }

    /// The name below `in-addr.arpa` or `ip6.arpa` that stands for an address (RFC 1035, 3.5; RFC 3596, 2.5).
    pub(super) fn reverse(address: IpAddr) -> Self {
        Self::reverse_zone(address, if address.is_ipv4() { 4 } else { 32 })
    }

    /// The name for the first `count` octets (IPv4) or nibbles (IPv6) of an address.
    pub(super) fn reverse_zone(address: IpAddr, count: usize) -> Self {
        let (family, labels): (_, Vec<String>) = match address {
            IpAddr::V4(address) => ("in-addr", address.octets().iter().map(ToString::to_string).collect()),
            IpAddr::V6(address) => {
                let nibbles = address.octets().into_iter().flat_map(|octet| [octet >> 4, octet & 15]);
                ("ip6", nibbles.map(|nibble| format!("{nibble:x}")).collect())
            }
        };
        let labels = ["arpa", family].into_iter().chain(labels.iter().take(count).map(String::as_str));
        Self::from_labels(labels.map(str::as_bytes))
    }

    fn from_labels<'l>(labels: impl Iterator<Item = &'l [u8]>) -> Self {
        Self::default().extend(labels)
    }

    fn extend<'l>(&self, labels: impl Iterator<Item = &'l [u8]>) -> Self {
        let mut bytes = self.0.to_vec();
        for label in labels {
            // A label has 63 bytes at most.
            bytes.push(label.len() as u8);
            bytes.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        Self(bytes.into())
    }

    /// The name below this one: `web` below `shop.svc` is `web.shop.svc`.
    pub(super) fn child(&self, label: &str) -> Self {
        self.extend(std::iter::once(label.as_bytes()))
    }

    /// Whether this is `zone` or below it.
    pub(super) fn is_within(&self, zone: &Self) -> bool {
        self.0.starts_with(&zone.0)
    }

    /// How long it is; of two names that a third one is within, the longer one is the nearer one.
    pub(super) fn length(&self) -> usize {
        self.0.len()
    }

    fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest: &[u8] = &self.0;
        std::iter::from_fn(move || {
            let (length, behind) = rest.split_first()?;
            let (label, behind) = behind.split_at_checked(usize::from(*length))?;
            rest = behind;
            Some(label)
        })
    }

    /// As a name for messages. Empty where it would be too long, which what a table holds never is.
    pub(super) fn name(&self) -> Name {
        let labels: Vec<&[u8]> = self.labels().collect();
        let mut name = Name::from_labels(labels.into_iter().rev()).unwrap_or_default();
        name.set_fqdn(true);
        name
    }

    /// Whether it is short enough for messages (RFC 1035, 2.3.4): names made of several parts may not be.
    pub(super) fn fits(&self) -> bool {
        // One more for the root.
        self.0.len() < Name::MAX_LENGTH
    }
}

impl Default for Path {
    /// The root.
    fn default() -> Self {
        Self(Arc::new([]))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name().fmt(f)
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        Path::parse(text).unwrap()
    }

    #[test]
    fn what_is_below_a_name_stands_right_behind_it() {
        let mut names = ["a.b", "b", "a.a.b", "ab", "b.a", "-.b", "a-a.b"].map(path);
        names.sort();
        let place = names.iter().position(|name| *name == path("b")).unwrap();
        assert!(names[place..place + 5].iter().all(|name| name.is_within(&path("b"))), "{names:?}");
        assert!(!path("ab").is_within(&path("b")) && !path("b").is_within(&path("a.b")));
    }

    #[test]
    fn names_come_back_without_their_case() {
        let name = Name::from_ascii("Web.SHOP.svc.cluster.local.").unwrap();
        assert_eq!(Path::of(&name), path("web.shop.svc.cluster.local"));
        assert_eq!(Path::of(&name).to_string(), "web.shop.svc.cluster.local.");
        assert_eq!(path("shop.svc").child("Web"), path("web.shop.svc"));
        assert_eq!(Path::default().to_string(), ".");
    }

    #[test]
    fn labels_are_told_apart_whatever_bytes_they_hold() {
        let odd = Name::from_labels([b"a\x01b".as_slice(), b"x"]).unwrap();
        assert_ne!(Path::of(&odd), path("b.a.x"));
        assert_eq!(Path::of(&odd).name(), odd.append_domain(&Name::root()).unwrap());
    }

    #[test]
    fn addresses_have_reverse_names() {
        assert_eq!(Path::reverse("10.96.200.4".parse().unwrap()).to_string(), "4.200.96.10.in-addr.arpa.");
        assert_eq!(Path::reverse_zone("10.96.0.0".parse().unwrap(), 2).to_string(), "96.10.in-addr.arpa.");
        let six = Path::reverse("fd00:244:0:1::21".parse().unwrap());
        assert_eq!(six.to_string(), "1.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.0.0.4.4.2.0.0.0.d.f.ip6.arpa.");
    }

    #[test]
    fn what_cannot_be_a_name_is_none() {
        let long = "a".repeat(64);
        let many = ["a"; 128].join(".");
        for bad in ["", ".", "a..b", long.as_str(), many.as_str()] {
            assert_eq!(Path::parse(bad), None, "{bad}");
        }
        assert_eq!(path("a.b."), path("a.b"));
    }
}
