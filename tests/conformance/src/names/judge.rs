//! An answer against what is expected.

use super::schema::{Expect, Expected, Kind, Query};
use anyhow::{Context, anyhow, ensure};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::Record;
use std::net::IpAddr;

/// An answer as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// As in `NOERROR`.
    pub code: String,
    /// Name, type and data of each record.
    pub answers: Vec<[String; 3]>,
    /// Types of what stands for the absence of answers.
    pub authorities: Vec<String>,
    /// As answers.
    pub additionals: Vec<[String; 3]>,
}

impl Seen {
    pub(super) fn of(message: &Message) -> Self {
        let whole =
            |record: &Record| [record.name.to_string(), record.record_type().to_string(), record.data.to_string()];
        let code = match message.metadata.response_code {
            ResponseCode::NoError => "NOERROR".to_owned(),
            ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
            ResponseCode::ServFail => "SERVFAIL".to_owned(),
            ResponseCode::Refused => "REFUSED".to_owned(),
            ResponseCode::NotImp => "NOTIMP".to_owned(),
            ResponseCode::FormErr => "FORMERR".to_owned(),
            other => other.to_string(),
        };
        Self {
            code,
            answers: message.answers.iter().map(whole).collect(),
            authorities: message.authorities.iter().map(|record| record.record_type().to_string()).collect(),
            additionals: message.additionals.iter().map(whole).collect(),
        }
    }
}

/// Holds an answer, which `ask` gets, against what is expected.
pub fn judge(query: &Query, ask: impl Fn(&str, &str) -> anyhow::Result<Seen>) -> anyhow::Result<()> {
    let [name, kind] = &query.q;
    let (expect, seen) = (&query.expect, ask(name, kind)?);
    let code = match expect.kind {
        Kind::Answer | Kind::Nodata => "NOERROR",
        Kind::Nxdomain => "NXDOMAIN",
        Kind::Error => "SERVFAIL",
    };
    let code = expect.rcode.as_deref().unwrap_or(code);
    ensure!(seen.code == code, "expected {code}; it is {}", seen.code);
    ensure!(expect.kind != Kind::Answer || !seen.answers.is_empty(), "expected answers; there are none");
    let mut left = seen.answers.clone();
    for expected in &expect.answers {
        let mut found = Err(anyhow!("it is {:?}", seen.answers));
        for (index, record) in left.iter().enumerate() {
            if expected.is(record, &ask)? {
                found = Ok(index);
                break;
            }
        }
        left.remove(found.with_context(|| format!("expected {expected:?}"))?);
    }
    ensure!(left.is_empty(), "not expected: {left:?}");
    // What an alias stands for comes behind it.
    for (index, [_, kind, target]) in seen.answers.iter().enumerate() {
        let early = |[owner, ..]: &[String; 3]| kind == "CNAME" && owner.eq_ignore_ascii_case(target);
        ensure!(!seen.answers[..index].iter().any(early), "{target} comes before its alias");
    }
    ensure!(!expect.authority_soa || seen.authorities.iter().any(|kind| kind == "SOA"), "there is no SOA record");
    if !expect.additional_may_include.is_empty() {
        for [owner, kind, data] in &seen.additionals {
            let allowed = expect.additional_may_include.iter().any(|(name, wanted, value)| {
                same_name(name, owner) && wanted == kind && value.eq_ignore_ascii_case(data)
            });
            ensure!(allowed, "not expected beside the answers: {owner} {kind} {data}");
        }
    }
    Ok(())
}

pub(super) fn same_name(one: &str, other: &str) -> bool {
    one.trim_end_matches('.').eq_ignore_ascii_case(other.trim_end_matches('.'))
}

impl Expect {
    /// The addresses that a process gets which looks the name up; none where an answer is no address.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let addresses = self
            .answers
            .iter()
            .filter_map(|answer| if let Expected::Text(text) = answer { text.parse().ok() } else { None });
        addresses.collect()
    }
}

impl Expected {
    fn is(
        &self,
        [_, kind, data]: &[String; 3],
        ask: &impl Fn(&str, &str) -> anyhow::Result<Seen>,
    ) -> anyhow::Result<bool> {
        Ok(match self {
            // Addresses, names and texts; zones have one SOA and one NS record, whatever these say.
            Self::Text(text) => text == kind || same_name(text, data),
            Self::Typed(typed) => {
                typed.iter().all(|(name, text)| name.eq_ignore_ascii_case(kind) && same_name(text, data))
            }
            Self::Service { port, target, target_any_name_resolving_to: address } => {
                let mut parts = data.split(' ').skip(2);
                let (found, host) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
                let resolves = || -> anyhow::Result<bool> {
                    let Some(address) = address else { return Ok(true) };
                    let kind = if address.contains(':') { "AAAA" } else { "A" };
                    Ok(ask(host, kind)?.answers.iter().any(|[.., data]| data == address))
                };
                kind == "SRV"
                    && found == port.to_string()
                    && target.as_ref().is_none_or(|target| same_name(target, host))
                    && resolves()?
            }
        })
    }
}
