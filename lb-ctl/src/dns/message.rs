//! Messages on the wire: what can be asked at all, and answers that fit.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};

/// Bytes of a header (RFC 1035, 4.1.1).
const HEADER: usize = 12;
/// What fits into a datagram of a client that says nothing of larger ones (RFC 1035, 4.2.1).
const PLAIN: u16 = 512;
/// The largest datagram that is sent, so that it is fragmented nowhere (RFC 9715, 3.1).
pub(super) const LARGEST: u16 = 1232;

/// Bytes of the shortest record: more than fit so need not be tried.
const SHORTEST: usize = 12;

/// How a message comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// In a stream, behind its length.
    Tcp,
}

/// A question that can be answered.
#[derive(Clone, Debug)]
pub(super) struct Request {
    message: Message,
    /// What is asked.
    pub(super) query: Query,
    /// The length that the answer may have.
    limit: usize,
}

/// What comes of bytes that are no such question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// Nobody is to be answered: an answer, or less than a header. Else two servers could go on for ever.
    Silence,
    /// Whoever asks is told why not.
    Refused(Vec<u8>),
}

impl Request {
    /// Reads a message.
    pub(super) fn read(bytes: &[u8], transport: Transport) -> Result<Self, Unusable> {
        let [high, low, flags, ..] = *bytes else { return Err(Unusable::Silence) };
        if bytes.len() < HEADER || flags & 0x80 != 0 {
            return Err(Unusable::Silence);
        }
        let id = u16::from_be_bytes([high, low]);
        let op_code = OpCode::from_u8((flags >> 3) & 15);
        let refused = |code| Unusable::Refused(encode(&mut Message::error_msg(id, op_code, code), usize::from(PLAIN)));
        if op_code != OpCode::Query {
            return Err(refused(ResponseCode::NotImp));
        }
        let message = Message::from_vec(bytes).map_err(|_| refused(ResponseCode::FormErr))?;
        let [query] = message.queries.as_slice() else { return Err(refused(ResponseCode::FormErr)) };
        let limit = match transport {
            Transport::Udp => message.edns.as_ref().map_or(PLAIN, Edns::max_payload).clamp(PLAIN, LARGEST),
            Transport::Tcp => u16::MAX,
        };
        let request = Self { query: query.clone(), limit: limit.into(), message };
        let version = request.message.edns.as_ref().map_or(0, Edns::version);
        let code = if version > 0 {
            Some(ResponseCode::BADVERS)
        } else if request.query.query_class != DNSClass::IN
            || matches!(request.query.query_type, RecordType::AXFR | RecordType::IXFR)
        {
            // Whole zones are not handed out.
            Some(ResponseCode::Refused)
        } else {
            None
        };
        match code {
            Some(code) => Err(Unusable::Refused(request.failure(code))),
            None => Ok(request),
        }
    }

    /// An answer without records, to be filled.
    pub(super) fn reply(&self) -> Message {
        let asked = &self.message.metadata;
        let mut reply = Message::response(asked.id, OpCode::Query);
        reply.metadata.recursion_desired = asked.recursion_desired;
        reply.metadata.recursion_available = true;
        reply.metadata.checking_disabled = asked.checking_disabled;
        reply.add_query(self.query.clone());
        if let Some(asked) = &self.message.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(LARGEST).set_dnssec_ok(asked.flags().dnssec_ok);
            reply.set_edns(edns);
        }
        reply
    }

    /// The bytes of an answer, as much of it as may be sent.
    pub(super) fn encode(&self, mut reply: Message) -> Vec<u8> {
        encode(&mut reply, self.limit)
    }

    /// The bytes of an answer that says why there is none.
    pub(super) fn failure(&self, code: ResponseCode) -> Vec<u8> {
        let mut reply = self.reply();
        reply.metadata.response_code = code;
        self.encode(reply)
    }

    /// Whether this answer is from a server that was asked the same. Only one that failed need not say what it was asked.
    pub(super) fn is_answered_by(&self, answer: &Message) -> bool {
        let same = |query: &Query| {
            (&query.name, query.query_type, query.query_class)
                == (&self.query.name, self.query.query_type, self.query.query_class)
        };
        let has_failed = !matches!(answer.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain);
        answer.queries.first().map_or(has_failed, same)
    }
}

/// Reads what another server answers to a question. Answers to other operations are none: an update's records may be without
/// data (RFC 2136, 2.4), and in an answer of ours nobody could read them.
pub(super) fn read_answer(bytes: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let is_answer = answer.metadata.message_type == MessageType::Response && answer.metadata.op_code == OpCode::Query;
    is_answer.then_some(answer)
}

/// The bytes of a message, at most `limit`: what comes last goes first, and where answers are missing the client is told to
/// ask by TCP (RFC 2181, 9).
fn encode(message: &mut Message, limit: usize) -> Vec<u8> {
    let fitting = |message: &Message| message.to_vec().ok().filter(|bytes| bytes.len() <= limit);
    let most = limit / SHORTEST;
    if message.answers.len() <= most {
        if let Some(bytes) = fitting(message) {
            return bytes;
        }
        message.additionals.clear();
        if let Some(bytes) = fitting(message) {
            return bytes;
        }
    }
    message.metadata.truncation = true;
    message.additionals.clear();
    message.authorities.clear();
    // As many answers as fit: some clients make do with them.
    let mut all = std::mem::take(&mut message.answers);
    all.truncate(most);
    let (mut fit, mut too_many, mut best) = (0, all.len() + 1, Vec::new());
    while fit + 1 < too_many {
        let count = usize::midpoint(fit, too_many);
        message.answers = all[..count].to_vec();
        match fitting(message) {
            Some(bytes) => (fit, best) = (count, bytes),
            None => too_many = count,
        }
    }
    if fit == 0 {
        message.answers.clear();
        // A question and a header fit into any datagram.
        best = message.to_vec().unwrap_or_default();
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::{Name, RData, Record};

    fn question(name: &str, kind: RecordType) -> Message {
        let mut message = Message::query();
        message.metadata.id = 4711;
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    fn refused(message: &Message) -> ResponseCode {
        match Request::read(&message.to_vec().unwrap(), Transport::Udp) {
            Err(Unusable::Refused(bytes)) => {
                let reply = Message::from_vec(&bytes).unwrap();
                assert_eq!((reply.metadata.id, reply.metadata.message_type), (4711, MessageType::Response));
                reply.metadata.response_code
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_no_question_is_refused_or_not_answered() {
        assert_eq!(Request::read(b"", Transport::Udp).unwrap_err(), Unusable::Silence);
        assert_eq!(Request::read(&[0; 11], Transport::Udp).unwrap_err(), Unusable::Silence);
        let mut message = question("a.", RecordType::A);
        message.metadata.message_type = MessageType::Response;
        assert_eq!(Request::read(&message.to_vec().unwrap(), Transport::Tcp).unwrap_err(), Unusable::Silence);
        let mut message = question("a.", RecordType::A);
        message.metadata.op_code = OpCode::Update;
        assert_eq!(refused(&message), ResponseCode::NotImp);
        let mut message = question("a.", RecordType::A);
        message.queries.clear();
        assert_eq!(refused(&message), ResponseCode::FormErr);
        message = question("a.", RecordType::A);
        message.add_query(message.queries[0].clone());
        assert_eq!(refused(&message), ResponseCode::FormErr);
        message = question("a.", RecordType::A);
        message.queries[0].query_class = DNSClass::CH;
        assert_eq!(refused(&message), ResponseCode::Refused);
        assert_eq!(refused(&question("a.", RecordType::AXFR)), ResponseCode::Refused);
        let mut message = question("a.", RecordType::A);
        let mut edns = Edns::new();
        edns.set_version(1);
        message.set_edns(edns);
        // Its number means something else to other records, and is read as that.
        assert_eq!(u16::from(refused(&message)), u16::from(ResponseCode::BADVERS));
        let mut bytes = question("a.", RecordType::A).to_vec().unwrap();
        bytes.truncate(14);
        let Err(Unusable::Refused(reply)) = Request::read(&bytes, Transport::Udp) else { panic!("it is cut off") };
        assert_eq!(Message::from_vec(&reply).unwrap().metadata.response_code, ResponseCode::FormErr);
    }

    /// An answer of `count` addresses to a client that takes `payload` bytes: its length, how many came, and the mark.
    fn answered(count: u8, payload: Option<u16>, transport: Transport) -> (usize, usize, bool) {
        let mut message = question("a.", RecordType::A);
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            message.set_edns(edns);
        }
        let request = Request::read(&message.to_vec().unwrap(), transport).unwrap();
        let mut reply = request.reply();
        for number in 0..count {
            let address = RData::A(hickory_proto::rr::rdata::A::new(10, 0, 0, number));
            reply.add_answer(Record::from_rdata(request.query.name.clone(), 5, address.clone()));
            reply.add_additional(Record::from_rdata(Name::from_ascii("b.").unwrap(), 5, address));
        }
        let bytes = request.encode(reply);
        let reply = Message::from_vec(&bytes).unwrap();
        assert_eq!(reply.edns.is_some(), payload.is_some());
        assert!(reply.metadata.recursion_desired && reply.metadata.recursion_available);
        (bytes.len(), reply.answers.len(), reply.metadata.truncation)
    }

    #[test]
    fn an_update_is_no_answer() {
        let mut answer = question("a.", RecordType::A).into_response();
        assert!(read_answer(&answer.to_vec().unwrap()).is_some());
        answer.add_answer(Record::update0(Name::from_ascii("a.").unwrap(), 60, RecordType::A));
        answer.metadata.op_code = OpCode::Update;
        let bytes = answer.to_vec().unwrap();
        assert_eq!(Message::from_vec(&bytes).unwrap().answers.len(), 1, "as such it can be read");
        assert!(read_answer(&bytes).is_none());
        assert!(read_answer(&question("a.", RecordType::A).to_vec().unwrap()).is_none(), "nor is a question");
    }

    #[test]
    fn answers_fit_what_the_client_takes() {
        let (length, came, cut) = answered(20, None, Transport::Udp);
        assert!(length <= 512 && came == 20 && !cut, "what is additional goes first: {length} {came} {cut}");
        let (length, came, cut) = answered(200, None, Transport::Udp);
        assert!(length <= 512 && length > 490 && cut, "{length} {came} {cut}");
        let (length, came, cut) = answered(200, Some(4096), Transport::Udp);
        assert!(length <= 1232 && length > 1200 && came < 200 && cut, "{length} {came} {cut}");
        let (_, came, cut) = answered(200, Some(100), Transport::Udp);
        assert!(came > 0 && cut, "512 bytes fit always");
        assert_eq!(answered(200, None, Transport::Tcp).1, 200);
        assert!(!answered(200, None, Transport::Tcp).2);
    }
}
