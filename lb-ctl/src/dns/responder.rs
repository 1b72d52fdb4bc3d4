//! Bytes in, bytes out: who answers questions, whatever way they come.

use super::answer::{Answer, answer};
use super::counters::Counters;
use super::message::{Request, Transport, Unusable, read_answer};
use super::names::Names;
use super::upstream::Upstream;
use arc_swap::ArcSwap;
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::Name;

/// Answers from the names as they are, and from what others know. Each question is answered by one version of the names.
#[derive(Debug)]
pub(super) struct Responder {
    pub(super) names: ArcSwap<Names>,
    pub(super) upstream: Upstream,
    pub(super) counters: Counters,
}

/// What becomes of a message.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Nobody is answered.
    Nothing,
    /// This is sent back.
    Reply(Vec<u8>),
    /// Others are asked first.
    Waits(Box<Waiting>),
}

/// A question of which others know.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) request: Request,
    /// The answer so far, if it ends with an alias to this name; `None`: others are asked the question itself.
    pub(super) alias: Option<(Message, Name)>,
}

impl Responder {
    /// One that answers by these names.
    pub(super) fn new(names: Names) -> Self {
        Self { names: ArcSwap::from_pointee(names), upstream: Upstream::new(), counters: Counters::default() }
    }

    /// What can be done at once.
    pub(super) fn begin(&self, bytes: &[u8], transport: Transport) -> Outcome {
        match transport {
            Transport::Udp => self.counters.udp.count(),
            Transport::Tcp => self.counters.tcp.count(),
        }
        let request = match Request::read(bytes, transport) {
            Ok(request) => request,
            Err(unusable) => {
                self.counters.refused.count();
                return match unusable {
                    Unusable::Silence => Outcome::Nothing,
                    Unusable::Refused(reply) => Outcome::Reply(reply),
                };
            }
        };
        let alias = match answer(&self.names.load(), &request) {
            Answer::Whole(reply) => {
                self.counters.own.count();
                return Outcome::Reply(request.encode(reply));
            }
            Answer::Continued(reply, name) => Some((reply, name)),
            Answer::Elsewhere => None,
        };
        Outcome::Waits(Box::new(Waiting { request, alias }))
    }

    /// What had to wait for others. `bytes` are those of the question.
    pub(super) async fn finish(&self, bytes: &[u8], waiting: Waiting, transport: Transport) -> Vec<u8> {
        self.counters.forwarded.count();
        let Waiting { request, alias } = waiting;
        let finished = match alias {
            None => self.upstream.ask(bytes, transport).await,
            Some((reply, name)) => self.go_on(&request, reply, name).await,
        };
        finished.unwrap_or_else(|| {
            self.counters.failed.count();
            request.failure(ResponseCode::ServFail)
        })
    }

    /// Adds what others say of the name that an answer ends with. The code is that of the last name (RFC 6604, 3).
    async fn go_on(&self, request: &Request, reply: Message, name: Name) -> Option<Vec<u8>> {
        let mut question = Message::query();
        question.metadata.recursion_desired = true;
        question.add_query(Query::query(name, request.query.query_type));
        let mut edns = Edns::new();
        edns.set_max_payload(super::message::LARGEST);
        question.set_edns(edns);
        let question = question.to_vec().ok()?;
        let mut found = read_answer(&self.upstream.ask(&question, Transport::Udp).await?)?;
        if found.metadata.truncation {
            found = read_answer(&self.upstream.ask(&question, Transport::Tcp).await?)?;
        }
        Some(joined(request, reply, found))
    }
}

/// An answer that ends with an alias, and what others say of that.
pub(super) fn joined(request: &Request, mut reply: Message, found: Message) -> Vec<u8> {
    reply.metadata.response_code = found.metadata.response_code;
    reply.add_answers(found.answers);
    reply.add_authorities(found.authorities);
    request.encode(reply)
}
