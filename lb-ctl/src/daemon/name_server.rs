//! Addresses of name servers as typed.

use serde::de::{self, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// The port of a name server that names none.
const PORT: u16 = 53;

/// The address of a name server: with a port, or without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameServer(pub SocketAddr);

/// A text is no [`NameServer`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address of a name server: write 10.244.0.1, 10.244.0.1:53 or [fd00::1]:53")]
pub struct NameServerError(String);

impl FromStr for NameServer {
    type Err = NameServerError;

    fn from_str(text: &str) -> Result<Self, NameServerError> {
        let alone = || text.parse::<IpAddr>().map(|address| SocketAddr::new(address, PORT));
        let address: Option<SocketAddr> = text.parse().or_else(|_| alone()).ok();
        let usable = address.filter(|address| address.port() != 0);
        usable.map(Self).ok_or_else(|| NameServerError(text.to_owned()))
    }
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for NameServer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// One address, or a list of them.
pub(super) fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<NameServer>, D::Error> {
    struct OneOrMore;

    impl<'de> Visitor<'de> for OneOrMore {
        type Value = Vec<NameServer>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an address of a name server, or a list of such")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            text.parse().map(|server| vec![server]).map_err(E::custom)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut servers: A) -> Result<Self::Value, A::Error> {
            let mut found = Vec::new();
            while let Some(server) = servers.next_element()? {
                found.push(server);
            }
            Ok(found)
        }
    }

    deserializer.deserialize_any(OneOrMore)
}
