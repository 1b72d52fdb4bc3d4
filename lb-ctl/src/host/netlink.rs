//! One netlink socket: requests, dumps and notifications, for rtnetlink and for generic netlink alike.
//!
//! Only the envelope is known here (RFC 3549: header, attributes, errors with the kernel's own words); what is inside
//! is read by the callers, attribute by attribute, so that a link of a kind nobody has heard of disturbs nothing.

use netlink_sys::{Socket, SocketAddr, protocols};
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::TimeVal;
use std::io;
use std::time::Duration;

/// `NLM_F_REQUEST`
const REQUEST: u16 = 0x01;
/// `NLM_F_ACK`
const ACK: u16 = 0x04;
/// `NLM_F_DUMP_INTR`: the table changed while it was dumped.
const INTERRUPTED: u16 = 0x10;
/// `NLM_F_DUMP`
const DUMP: u16 = 0x300;
/// `NLM_F_CAPPED` and `NLM_F_ACK_TLVS` on an error message.
const CAPPED: u16 = 0x100;
const ACK_ATTRIBUTES: u16 = 0x200;
/// `NLMSG_ERROR` and `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLMSGERR_ATTR_MSG`
const ERROR_MESSAGE: u16 = 1;
const HEADER: usize = 16;
/// The kernel's dumps come in pieces of at most 32 KiB.
const BUFFER: usize = 64 * 1024;
/// A dump that keeps being interrupted is taken as it is after so many tries.
const DUMP_TRIES: usize = 5;
/// Attribute kinds carry flags in their upper bits (`NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`).
const KIND_MASK: u16 = 0x3fff;

/// The kernel said no.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.reason())]
pub struct Refused {
    /// The error number.
    pub error: io::Error,
    /// What the kernel adds in words.
    pub message: Option<String>,
}

impl Refused {
    /// The kernel's words and the error number, or only the latter.
    pub fn reason(&self) -> String {
        match &self.message {
            Some(message) => format!("{message} ({})", self.error),
            None => self.error.to_string(),
        }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self { error, message: None }
    }
}

/// A request in the making.
pub(crate) struct Request {
    kind: u16,
    bytes: Vec<u8>,
}

impl Request {
    /// A request of this message type that begins with the family's own header.
    pub(crate) fn new(kind: u16, header: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes.extend_from_slice(header);
        pad(&mut bytes);
        Self { kind, bytes }
    }

    /// Adds an attribute.
    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        push_attribute(&mut self.bytes, kind, value);
        self
    }

    fn finish(mut self, flags: u16, sequence: u32) -> Vec<u8> {
        let length = self.bytes.len() as u32;
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[4..6].copy_from_slice(&self.kind.to_ne_bytes());
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// Appends an attribute, padded as RFC 3549 wants it.
pub(crate) fn push_attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    pad(bytes);
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A message from the kernel: its type, and its payload behind the netlink header.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) kind: u16,
    flags: u16,
    sequence: u32,
    pub(crate) payload: Vec<u8>,
}

#[cfg(test)]
impl Message {
    /// A message as the kernel would send it.
    pub(crate) fn new(kind: u16, payload: Vec<u8>) -> Self {
        Self { kind, flags: 0, sequence: 0, payload }
    }
}

/// The attributes in `bytes`, as far as they are well formed.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & KIND_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The number at `offset`, in the machine's order.
pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?))
}

/// The number at `offset`, in the machine's order.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

/// The string in an attribute, without the final NUL.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// What a wait for notifications ended with.
#[derive(Debug)]
pub(crate) enum Event {
    /// These came.
    Messages(Vec<Message>),
    /// More came than the socket could hold: anything may have changed.
    Overrun,
    /// Nothing came in time.
    Silence,
}

/// A netlink socket in the network namespace of the thread that opened it.
pub(crate) struct Connection {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Connection {
    /// A socket to the routing subsystem.
    pub(crate) fn route() -> io::Result<Self> {
        Self::open(protocols::NETLINK_ROUTE)
    }

    /// A socket to the generic subsystem.
    pub(crate) fn generic() -> io::Result<Self> {
        Self::open(protocols::NETLINK_GENERIC)
    }

    /// A socket to the firewall's subsystem.
    pub(crate) fn netfilter() -> io::Result<Self> {
        Self::open(protocols::NETLINK_NETFILTER)
    }

    /// A socket to the routing subsystem for which dumps are filtered by what the request says (Linux 4.20).
    pub(crate) fn strict() -> io::Result<Self> {
        let connection = Self::route()?;
        connection.socket.set_netlink_get_strict_chk(true)?;
        Ok(connection)
    }

    fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Both since Linux 4.12: errors in words, and without the request echoed.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Joins a multicast group.
    pub(crate) fn subscribe(&mut self, group: u32) -> io::Result<()> {
        self.socket.add_membership(group)
    }

    /// Sends a request and returns what the kernel answers before it acknowledges.
    pub(crate) fn request(&mut self, request: Request) -> Result<Vec<Message>, Refused> {
        self.exchange(request, REQUEST | ACK).map(|(messages, _)| messages)
    }

    /// The same with flags that say how something is to be made (`NLM_F_CREATE` and its neighbours).
    pub(crate) fn change(&mut self, request: Request, flags: u16) -> Result<Vec<Message>, Refused> {
        self.exchange(request, REQUEST | ACK | flags).map(|(messages, _)| messages)
    }

    /// Reads a whole table.
    pub(crate) fn dump(&mut self, request: impl Fn() -> Request) -> Result<Vec<Message>, Refused> {
        let mut last = Vec::new();
        for _ in 0..DUMP_TRIES {
            let (messages, interrupted) = self.exchange(request(), REQUEST | DUMP)?;
            last = messages;
            if !interrupted {
                break;
            }
        }
        Ok(last)
    }

    fn exchange(&mut self, request: Request, flags: u16) -> Result<(Vec<Message>, bool), Refused> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = request.finish(flags, self.sequence);
        self.socket.send(&bytes, 0)?;
        let mut answers = Vec::new();
        let mut interrupted = false;
        loop {
            for message in self.receive()? {
                if message.sequence != self.sequence {
                    continue;
                }
                interrupted |= message.flags & INTERRUPTED != 0;
                match message.kind {
                    ERROR | DONE => return refusal(&message).map_or(Ok((answers, interrupted)), Err),
                    _ => answers.push(message),
                }
            }
        }
    }

    /// Waits for notifications.
    pub(crate) fn wait(&mut self, timeout: Duration) -> io::Result<Event> {
        let timeout = TimeVal::new(timeout.as_secs() as _, i64::from(timeout.subsec_micros().max(1)) as _);
        setsockopt(&self.socket, ReceiveTimeout, &timeout)?;
        match self.receive() {
            Ok(messages) => Ok(Event::Messages(messages)),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => Ok(Event::Silence),
                Some(libc::ENOBUFS) => Ok(Event::Overrun),
                _ => Err(error),
            },
        }
    }

    fn receive(&mut self) -> io::Result<Vec<Message>> {
        let length = loop {
            match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                other => break other?,
            }
        };
        let mut rest = &self.buffer[..length.min(BUFFER)];
        let mut messages = Vec::new();
        while let Some(message) = parse(rest) {
            rest = rest.get((message.payload.len() + HEADER).next_multiple_of(4)..).unwrap_or_default();
            messages.push(message);
        }
        Ok(messages)
    }
}

fn parse(bytes: &[u8]) -> Option<Message> {
    let length = u32_at(bytes, 0)? as usize;
    Some(Message {
        kind: u16_at(bytes, 4)?,
        flags: u16_at(bytes, 6)?,
        sequence: u32_at(bytes, 8)?,
        payload: bytes.get(HEADER..length)?.to_vec(),
    })
}

/// The error in an `NLMSG_ERROR` or `NLMSG_DONE`, unless it says that all went well.
fn refusal(message: &Message) -> Option<Refused> {
    let code = u32_at(&message.payload, 0)? as i32;
    if code >= 0 {
        return None;
    }
    let mut words = None;
    if message.flags & ACK_ATTRIBUTES != 0 {
        // Behind the code: of an error the request's header, with its payload unless that was capped.
        let skipped = match message.kind {
            DONE => 4,
            _ if message.flags & CAPPED != 0 => 4 + HEADER,
            _ => 4 + (u32_at(&message.payload, 4)? as usize).next_multiple_of(4),
        };
        let rest = message.payload.get(skipped..).unwrap_or_default();
        words = attributes(rest).find(|(kind, _)| *kind == ERROR_MESSAGE).map(|(_, value)| text(value));
    }
    Some(Refused { error: io::Error::from_raw_os_error(-code), message: words })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_far_as_they_are_whole() {
        let mut bytes = Vec::new();
        push_attribute(&mut bytes, 3, b"eth0\0");
        push_attribute(&mut bytes, 0x8012, &[1, 2, 3]);
        let read: Vec<_> = attributes(&bytes).collect();
        assert_eq!(read, [(3, &b"eth0\0"[..]), (18, &[1, 2, 3][..])]);
        assert_eq!(text(read[0].1), "eth0");
        // A length that reaches past the end, or below its own header, ends the list.
        assert_eq!(attributes(&bytes[..8]).count(), 0);
        assert_eq!(attributes(&[2, 0, 1, 0, 0, 0, 0, 0]).count(), 0);
    }

    #[test]
    fn a_refusal_carries_the_kernels_words() {
        let mut payload = (-libc::EOPNOTSUPP).to_ne_bytes().to_vec();
        payload.extend_from_slice(&[0; HEADER]);
        push_attribute(&mut payload, ERROR_MESSAGE, b"no such mode\0");
        let message = Message { kind: ERROR, flags: CAPPED | ACK_ATTRIBUTES, sequence: 1, payload };
        let refused = refusal(&message).expect("an error");
        assert_eq!(refused.error.raw_os_error(), Some(libc::EOPNOTSUPP));
        assert!(refused.reason().starts_with("no such mode ("), "{}", refused.reason());
        let accepted = Message { payload: vec![0; 20], ..message };
        assert!(refusal(&accepted).is_none());
    }
}
