//! The syntax of names, labels and addresses, as the API server checks it. Each check answers what would be right.

use std::net::IpAddr;

/// What would be right, if the text is not.
pub(crate) type Check = Result<(), &'static str>;

/// A namespace, a port's name, a hostname (RFC 1123 label).
pub(crate) fn dns_label(text: &str) -> Check {
    let ok = text.len() <= 63 && is_label(text, |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    ok.then_some(()).ok_or(
        "must be a DNS label: at most 63 lower-case letters, digits and `-`, beginning and ending with a letter or digit",
    )
}

/// A Service's name (RFC 1035 label).
pub(crate) fn dns_1035_label(text: &str) -> Check {
    let ok = dns_label(text).is_ok() && text.starts_with(|first: char| first.is_ascii_lowercase());
    ok.then_some(()).ok_or(
        "must be a DNS label: at most 63 lower-case letters, digits and `-`, beginning with a letter and ending with a letter or digit",
    )
}

/// The name of a Pod, a Node, an EndpointSlice (RFC 1123 subdomain).
pub(crate) fn dns_subdomain(text: &str) -> Check {
    let is_part = |part: &str| is_label(part, |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let ok = text.len() <= 253 && text.split('.').all(is_part);
    ok.then_some(()).ok_or(
        "must be a DNS name: at most 253 lower-case letters, digits, `-` and `.`, each part beginning and ending with a letter or digit",
    )
}

/// The key of a label or annotation, `appProtocol`, `loadBalancerClass`: `name` or `example.com/name`.
pub(crate) fn qualified_name(text: &str) -> Check {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    let ok = prefix.is_none_or(|prefix| dns_subdomain(prefix).is_ok()) && name.len() <= 63 && is_word(name);
    ok.then_some(()).ok_or(
        "must be `name` or `example.com/name`, the name being at most 63 letters, digits, `-`, `_` and `.`, beginning and ending with a letter or digit",
    )
}

/// The value of a label.
pub(crate) fn label_value(text: &str) -> Check {
    let ok = text.is_empty() || text.len() <= 63 && is_word(text);
    ok.then_some(())
        .ok_or("must be at most 63 letters, digits, `-`, `_` and `.`, beginning and ending with a letter or digit")
}

/// The name a `targetPort` or a container's port may have (RFC 6335).
pub(crate) fn port_name(text: &str) -> Check {
    let ok = text.len() <= 15
        && is_label(text, |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        && !text.contains("--")
        && text.bytes().any(|byte| byte.is_ascii_lowercase());
    ok.then_some(()).ok_or(
        "must be a port name: at most 15 lower-case letters, digits and single `-`, with at least one letter, not beginning or ending with `-`",
    )
}

/// The name of an HTTP header (`IsHTTPHeaderName`).
pub(crate) fn header_name(text: &str) -> Check {
    let ok = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    ok.then_some(()).ok_or("must be letters, digits and `-`, such as `X-Header-Name`")
}

/// A port number.
pub(crate) fn port_number(number: i64) -> Check {
    if (1..=65535).contains(&number) { Ok(()) } else { Err("must be between 1 and 65535") }
}

/// A domain name of two parts or more, which may end in a dot (`IsFullyQualifiedDomainName`).
pub(crate) fn full_domain(text: &str) -> Check {
    let bare = text.strip_suffix('.').unwrap_or(text);
    let ok = dns_subdomain(bare).is_ok() && bare.contains('.') && bare.split('.').all(|part| part.len() <= 63);
    ok.then_some(()).ok_or("must be a full domain name such as `db.example.net`, in lower case")
}

/// An address as the API server reads it (`ParseIPSloppy`): numbers of an IPv4 address may begin with zeros, and an IPv4
/// address may be wrapped in an IPv6 one.
pub(crate) fn address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let parts: Vec<&str> = text.split('.').collect();
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if parts.len() != 4 || !parts.iter().all(is_number) {
        return None;
    }
    let bare = parts.iter().map(|part| match part.trim_start_matches('0') {
        "" => "0",
        digits => digits,
    });
    bare.collect::<Vec<_>>().join(".").parse().ok()
}

/// An address that a packet from afar can come to (`ValidateNonSpecialIP`).
pub(crate) fn not_special(address: IpAddr) -> Check {
    let (is_link_local, is_link_local_multicast) = match address {
        IpAddr::V4(address) => (address.is_link_local(), address.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(address) => (address.is_unicast_link_local(), address.segments()[0] & 0xff0f == 0xff02),
    };
    if address.is_unspecified() {
        Err("must not be the unspecified address")
    } else if address.is_loopback() {
        Err("must not be a loopback address")
    } else if is_link_local {
        Err("must not be a link-local address")
    } else if is_link_local_multicast {
        Err("must not be a multicast address of the link")
    } else {
        Ok(())
    }
}

/// Lower-case or whatever `inner` allows, and `-` inside.
fn is_label(text: &str, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    inner(first) && inner(last) && bytes.iter().all(|&byte| inner(byte) || byte == b'-')
}

fn is_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    first.is_ascii_alphanumeric()
        && last.is_ascii_alphanumeric()
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(check: impl Fn(&str) -> Check, good: &[&str], bad: &[&str]) {
        for text in good {
            assert_eq!(check(text), Ok(()), "{text:?}");
        }
        for text in bad {
            assert!(check(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn names_follow_their_rfcs() {
        let long = "a".repeat(64);
        table(dns_label, &["a", "0", "a-b", &long[..63]], &["", "-a", "a-", "A", "a.b", "a_b", &long]);
        table(dns_1035_label, &["a", "a0"], &["", "0a", "a-", &long]);
        table(dns_subdomain, &["a.b", "0.a-b"], &["", ".", "a..b", "a.-b", "A", &"a".repeat(254)]);
        table(port_name, &["http", "a-1", "1a"], &["", "80", "a--b", "-a", "HTTP", "abcdefghijklmnop"]);
    }

    #[test]
    fn labels_follow_their_syntax() {
        let long = "v".repeat(64);
        table(qualified_name, &["app", "Team", "a.b_c", "x.io/a"], &["", "/a", "a/", "a/b/c", "-a", "X.io/a", &long]);
        table(label_value, &["", "v", "A.b_c-1", &long[..63]], &["-", "a-", "a b", &long]);
    }

    #[test]
    fn special_addresses_are_refused() {
        for bad in ["0.0.0.0", "127.0.0.1", "169.254.0.1", "224.0.0.1", "::", "::1", "fe80::1", "ff02::1"] {
            assert!(not_special(bad.parse().unwrap()).is_err(), "{bad}");
        }
        for good in ["192.0.2.1", "10.0.0.1", "fd00::1", "2001:db8::1", "239.1.1.1", "ff05::2"] {
            assert!(not_special(good.parse().unwrap()).is_ok(), "{good}");
        }
    }

    #[test]
    fn addresses_are_read_as_the_api_server_reads_them() {
        for (text, means) in [
            ("10.0.0.1", Some("10.0.0.1")),
            ("010.000.0.08", Some("10.0.0.8")),
            ("::ffff:10.0.0.1", Some("10.0.0.1")),
            ("FD00::1", Some("fd00::1")),
            ("10.0.0", None),
            ("10.0.0.256", None),
            ("10.0..1", None),
            ("+1.0.0.1", None),
            ("fe80::1%eth0", None),
            ("", None),
        ] {
            assert_eq!(address(text), means.map(|means| means.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn a_full_domain_has_two_parts() {
        table(full_domain, &["a.b", "a.b.", "db.example.net"], &["a", "a.", "", "A.b", "-a.b"]);
    }
}
