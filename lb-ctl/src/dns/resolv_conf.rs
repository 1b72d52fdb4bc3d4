//! The servers that a resolv.conf(5) names.

use std::net::{IpAddr, SocketAddr};

/// Where the node's own is.
pub(super) const PATH: &str = "/etc/resolv.conf";
/// The port of every server in such a file.
const PORT: u16 = 53;

/// The servers in order. Lines that are not understood are left to others, as resolvers do; so are addresses with a scope
/// (`fe80::1%eth0`).
pub(super) fn servers(text: &str) -> Vec<SocketAddr> {
    let named = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, PORT))
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_in_order_and_the_rest_is_left_alone() {
        let text = "# nameserver 192.0.2.9\nsearch a b\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 # x\n\
                    nameserver fe80::1%eth0\nnameserver\nnameservers 192.0.2.3\noptions ndots:5\n";
        let expected = ["192.0.2.1:53", "[2001:db8::1]:53"].map(|text| text.parse().unwrap());
        assert_eq!(servers(text), expected);
        assert_eq!(servers(""), []);
    }
}
