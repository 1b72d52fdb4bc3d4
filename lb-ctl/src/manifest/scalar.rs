//! What an unquoted word means.
//!
//! As kubectl reads it (YAML 1.1 by way of JSON), not as YAML 1.2 does: `yes` and `on` are booleans, so a label that
//! holds one must be quoted. Otherwise a manifest would mean one thing here and another in a cluster.

/// The meaning of a plain scalar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Plain {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text,
}

/// Reads a plain scalar.
pub(crate) fn plain(text: &str) -> Plain {
    let Some(first) = text.bytes().next() else { return Plain::Null };
    match first {
        b'0'..=b'9' | b'+' | b'-' | b'.' => number(text),
        _ => match text {
            "~" | "null" | "Null" | "NULL" => Plain::Null,
            "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Plain::Bool(true),
            "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Plain::Bool(false),
            _ => Plain::Text,
        },
    }
}

fn number(text: &str) -> Plain {
    let (sign, digits) = match text.as_bytes()[0] {
        b'-' => ("-", &text[1..]),
        b'+' => ("", &text[1..]),
        _ => ("", text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x', ..] => (16, &digits[2..]),
        [b'0', b'o', ..] => (8, &digits[2..]),
        [b'0', b'b', ..] => (2, &digits[2..]),
        [b'0', _, ..] if digits.bytes().all(|byte| matches!(byte, b'0'..=b'7')) => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.bytes().all(|byte| char::from(byte).is_digit(radix))
        && let Ok(value) = i64::from_str_radix(&format!("{sign}{digits}"), radix)
    {
        return Plain::Int(value);
    }
    float(text)
}

fn float(text: &str) -> Plain {
    if matches!(text, ".inf" | ".Inf" | ".INF" | "+.inf" | "-.inf" | ".nan" | ".NaN" | ".NAN") {
        return Plain::Float(f64::NAN);
    }
    // `parse` also takes words such as `infinity`, and addresses such as `10.0.0.1` it refuses.
    let digits_only = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
    match text.parse() {
        Ok(value) if digits_only && text.bytes().any(|byte| byte.is_ascii_digit()) => Plain::Float(value),
        _ => Plain::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_mean_what_kubectl_takes_them_for() {
        for (text, meaning) in [
            ("", Plain::Null),
            ("~", Plain::Null),
            ("true", Plain::Bool(true)),
            ("yes", Plain::Bool(true)),
            ("off", Plain::Bool(false)),
            ("80", Plain::Int(80)),
            ("+80", Plain::Int(80)),
            ("-1", Plain::Int(-1)),
            ("0x50", Plain::Int(80)),
            ("0120", Plain::Int(80)),
            ("0", Plain::Int(0)),
            ("080", Plain::Int(80)),
            ("1.5", Plain::Float(1.5)),
            ("1e3", Plain::Float(1000.0)),
            ("99999999999999999999", Plain::Float(1e20)),
            ("10.96.0.1", Plain::Text),
            ("fd00::1", Plain::Text),
            ("10.0.0.0/8", Plain::Text),
            ("http", Plain::Text),
            ("-", Plain::Text),
            (".", Plain::Text),
            ("2024-01-01T00:00:00Z", Plain::Text),
            ("inf", Plain::Text),
            ("1_000", Plain::Text),
        ] {
            assert_eq!(plain(text), meaning, "{text:?}");
        }
    }
}
