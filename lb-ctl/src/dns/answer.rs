//! What is answered to a question by the table alone. Pure.

use super::message::Request;
use super::names::Names;
use super::path::Path;
use super::records::Data;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Seconds that an answer may be kept: what it says of pods changes.
const TTL: u32 = 5;
/// The version of the schema does not.
const TTL_OF_TEXT: u32 = 28_800;
/// How many aliases are followed.
const ALIASES: usize = 8;
/// Priority and weight of every SRV record: all are alike.
const SRV_PREFERENCE: (u16, u16) = (0, 100);

/// What becomes of a question.
#[derive(Debug)]
pub(super) enum Answer {
    /// Everything is said.
    Whole(Message),
    /// The answer ends with an alias to this name, of which others know.
    Continued(Message, Name),
    /// Others know.
    Elsewhere,
}

/// Answers a question by these names.
pub(super) fn answer(names: &Names, request: &Request) -> Answer {
    let asked = Path::of(&request.query.name);
    let mut reply = request.reply();
    let Some(zone) = names.zone_of(&asked) else {
        // The reverse name of a pod: we answer if we know it.
        let known = names.look_up(&asked).unwrap_or_default();
        let fitting = of_type(&known, request.query.query_type);
        if fitting.is_empty() {
            return Answer::Elsewhere;
        }
        add_answers(&mut reply, names, &asked, &request.query.name, &fitting);
        return Answer::Whole(reply);
    };
    if !names.is_whole {
        // Never that a name does not exist: clients would remember.
        reply.metadata.response_code = ResponseCode::ServFail;
        return Answer::Whole(reply);
    }
    follow(names, zone, asked, request, reply)
}

/// Follows aliases as far as our zones go.
fn follow(names: &Names, zone: &Path, asked: Path, request: &Request, mut reply: Message) -> Answer {
    reply.metadata.authoritative = true;
    // As the client wrote it: some compare with case.
    let (mut zone, mut path, mut name) = (zone, asked, request.query.name.clone());
    for _ in 0..ALIASES {
        let known = names.look_up(&path);
        if known.is_none() {
            reply.metadata.response_code = ResponseCode::NXDomain;
        }
        let known = known.unwrap_or_default();
        let fitting = of_type(&known, request.query.query_type);
        if !fitting.is_empty() {
            add_answers(&mut reply, names, &path, &name, &fitting);
            return Answer::Whole(reply);
        }
        let Some(target) =
            known.iter().find_map(|data| if let Data::Alias(target) = data { Some(target) } else { None })
        else {
            reply.add_authority(authority(names, zone, zone.name()));
            return Answer::Whole(reply);
        };
        reply.add_answer(Record::from_rdata(name, TTL, RData::CNAME(CNAME(target.name()))));
        (path, name) = (target.clone(), target.name());
        match names.zone_of(&path) {
            Some(nearest) => zone = nearest,
            None => return Answer::Continued(reply, name),
        }
    }
    // They lead too far, or in a circle.
    reply.metadata.response_code = ResponseCode::ServFail;
    Answer::Whole(reply)
}

/// The records of the type that is asked for.
fn of_type<'d>(known: &BTreeSet<&'d Data>, wanted: RecordType) -> Vec<&'d Data> {
    match wanted {
        // One type of them, whichever it is, is enough (RFC 8482, 4.1).
        RecordType::ANY => {
            let first = known.first().map(|data| record_type(data));
            known.iter().copied().filter(|data| Some(record_type(data)) == first).collect()
        }
        wanted => known.iter().copied().filter(|data| record_type(data) == wanted).collect(),
    }
}

fn record_type(data: &Data) -> RecordType {
    match data {
        Data::Address(IpAddr::V4(_)) => RecordType::A,
        Data::Address(IpAddr::V6(_)) => RecordType::AAAA,
        Data::Service(..) => RecordType::SRV,
        Data::Pointer(_) => RecordType::PTR,
        Data::Alias(_) => RecordType::CNAME,
        Data::Text(_) => RecordType::TXT,
        Data::NameServer(_) => RecordType::NS,
        Data::Authority => RecordType::SOA,
    }
}

/// Adds records of one name, and the addresses of the hosts they name. Each answer begins elsewhere, so that clients which
/// take the first address spread.
fn add_answers(reply: &mut Message, names: &Names, path: &Path, name: &Name, data: &[&Data]) {
    let begin = usize::from(reply.metadata.id) % data.len().max(1);
    let (behind, first) = data.split_at(begin);
    reply.add_answers(first.iter().chain(behind).map(|data| record(names, path, name.clone(), data)));
    let target = |data: &&Data| match data {
        Data::Service(_, target) | Data::NameServer(target) => Some(target.clone()),
        _ => None,
    };
    let targets: BTreeSet<Path> = data.iter().filter_map(target).collect();
    for target in targets {
        let known = names.look_up(&target).unwrap_or_default();
        let addresses = known.into_iter().filter(|data| matches!(data, Data::Address(_)));
        let name = target.name();
        reply.add_additionals(addresses.map(|data| record(names, &target, name.clone(), data)));
    }
}

/// One record of `path`, whose name is written `name`.
fn record(names: &Names, path: &Path, name: Name, data: &Data) -> Record {
    let rdata = match data {
        Data::Address(IpAddr::V4(address)) => RData::A(A(*address)),
        Data::Address(IpAddr::V6(address)) => RData::AAAA(AAAA(*address)),
        Data::Service(port, target) => {
            let (priority, weight) = SRV_PREFERENCE;
            RData::SRV(SRV::new(priority, weight, *port, target.name()))
        }
        Data::Pointer(target) => RData::PTR(PTR(target.name())),
        Data::Alias(target) => RData::CNAME(CNAME(target.name())),
        Data::Text(text) => RData::TXT(TXT::new(vec![(*text).to_owned()])),
        Data::NameServer(target) => RData::NS(NS(target.name())),
        Data::Authority => return authority(names, path, name),
    };
    let ttl = if matches!(data, Data::Text(_)) { TTL_OF_TEXT } else { TTL };
    Record::from_rdata(name, ttl, rdata)
}

/// The SOA record of a zone. Its last field is for how long it may be remembered that something does not exist (RFC 2308, 4).
fn authority(names: &Names, zone: &Path, name: Name) -> Record {
    let (refresh, retry, expire) = (7200, 1800, 86_400);
    let mailbox = zone.child("hostmaster").name();
    let soa = SOA::new(names.server.name(), mailbox, names.serial, refresh, retry, expire, TTL);
    Record::from_rdata(name, TTL, RData::SOA(soa))
}
