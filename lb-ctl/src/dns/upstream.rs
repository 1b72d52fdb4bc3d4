//! The servers that know of everything else.
//!
//! A question is passed on as it came, under a number and from a port that nobody can guess, and its answer is handed back as
//! it comes: whatever two ends agree on, such as signatures, is theirs. A server that does not answer is asked last for a
//! while.

use super::message::{Request, Transport, read_answer};
use arc_swap::ArcSwap;
use hickory_proto::op::ResponseCode;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{timeout, timeout_at};

/// How long one server may take before the next one is asked.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How long all of them together may take: a client waits for five seconds (resolv.conf(5)).
const DEADLINE: Duration = Duration::from_millis(4500);
/// How long a server that did not answer is asked last.
const REST: Duration = Duration::from_secs(10);
/// Questions that are under way at a time.
const SEATS: usize = 1024;
/// The largest message.
const LARGEST: usize = 65_535;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Upstream {
    servers: ArcSwap<Vec<SocketAddr>>,
    /// Until when servers are asked last.
    resting: Mutex<HashMap<SocketAddr, Instant>>,
    seats: Semaphore,
    /// Keyed by chance, so that its hashes cannot be guessed.
    chance: RandomState,
    asked: AtomicU64,
}

impl Upstream {
    /// Nobody is known yet.
    pub(super) fn new() -> Self {
        Self {
            servers: ArcSwap::default(),
            resting: Mutex::default(),
            seats: Semaphore::new(SEATS),
            chance: RandomState::new(),
            asked: AtomicU64::new(0),
        }
    }

    /// Asks these from now on, the first one first.
    pub(super) fn set(&self, servers: Vec<SocketAddr>) {
        self.servers.store(servers.into());
    }

    /// Whom it asks.
    pub(super) fn servers(&self) -> Vec<SocketAddr> {
        self.servers.load().to_vec()
    }

    /// Asks until somebody answers. The answer has the question's number. `None`: nobody does, or too much is asked.
    pub(super) async fn ask(&self, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let _seat = self.seats.try_acquire().ok()?;
        let mut question = question.to_vec();
        let id = [*question.first()?, *question.get(1)?];
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        question[..2].copy_from_slice(&self.chance.hash_one(number).to_ne_bytes()[..2]);
        let request = Request::read(&question, Transport::Tcp).ok()?;
        let deadline = tokio::time::Instant::now() + DEADLINE;
        let mut answer = timeout_at(deadline, self.ask_all(&question, &request, transport)).await.ok()??;
        answer.get_mut(..2)?.copy_from_slice(&id);
        Some(answer)
    }

    /// Asks one after the other, and once more, since datagrams get lost. A server that cannot or does not want to tell is
    /// believed only where no other one can.
    async fn ask_all(&self, question: &[u8], request: &Request, transport: Transport) -> Option<Vec<u8>> {
        let mut second_best = None;
        for _ in 0..2 {
            for server in self.in_order() {
                let asked = async {
                    match transport {
                        Transport::Udp => by_udp(server, question, request).await,
                        Transport::Tcp => by_tcp(server, question, request).await,
                    }
                };
                let Ok(Ok((bytes, code))) = timeout(PATIENCE, asked).await else {
                    self.resting().insert(server, Instant::now() + REST);
                    continue;
                };
                self.resting().remove(&server);
                if !matches!(code, ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp) {
                    return Some(bytes);
                }
                second_best.get_or_insert(bytes);
            }
            if second_best.is_some() {
                break;
            }
        }
        second_best
    }

    /// All servers; those that rest come last.
    fn in_order(&self) -> Vec<SocketAddr> {
        let now = Instant::now();
        let resting = self.resting();
        let mut servers = self.servers();
        servers.sort_by_key(|server| resting.get(server).is_some_and(|until| *until > now));
        servers
    }

    fn resting(&self) -> std::sync::MutexGuard<'_, HashMap<SocketAddr, Instant>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer and its code, if these bytes are the answer to the request.
fn checked(bytes: &[u8], question: &[u8], request: &Request) -> Option<ResponseCode> {
    let answer = read_answer(bytes)?;
    (bytes.get(..2) == question.get(..2) && request.is_answered_by(&answer)).then_some(answer.metadata.response_code)
}

/// From a port of its own, that takes datagrams of this server alone. Whatever else comes there is overheard.
async fn by_udp(server: SocketAddr, question: &[u8], request: &Request) -> io::Result<(Vec<u8>, ResponseCode)> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; LARGEST];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(code) = checked(&buffer[..length], question, request) {
            buffer.truncate(length);
            return Ok((buffer, code));
        }
    }
}

async fn by_tcp(server: SocketAddr, question: &[u8], request: &Request) -> io::Result<(Vec<u8>, ResponseCode)> {
    let mut stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    write(&mut stream, question).await?;
    let bytes = read(&mut stream).await?;
    let code = checked(&bytes, question, request).ok_or(io::ErrorKind::InvalidData)?;
    Ok((bytes, code))
}

/// Writes a message behind its length (RFC 1035, 4.2.2), both at once.
pub(super) async fn write(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await
}

/// Reads a message and the length before it.
pub(super) async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}
