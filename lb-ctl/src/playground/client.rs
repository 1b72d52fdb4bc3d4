//! The client: real sockets opened inside a namespace, talking to the [`super::echo`] server.

use super::content::{Content, Hash};
use super::echo::{Answer, Received};
use super::error::{Doing, Error};
use super::http::{Head, read_body};
use super::netns::NetNs;
use super::topology::Dual;
use std::io::{self, BufReader, BufWriter, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// How long a server may take to start.
const STARTING: Duration = Duration::from_secs(10);

/// Opens connections from inside one namespace.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    space: &'a NetNs,
    timeout: Duration,
}

impl<'a> Client<'a> {
    /// A client inside `space` that waits five seconds for anything.
    pub fn new(space: &'a NetNs) -> Self {
        Self { space, timeout: Duration::from_secs(5) }
    }

    /// Waits until the echo server `name` answers at both addresses.
    pub fn wait_for(&self, name: &str, at: Dual, port: u16) -> Result<(), Error> {
        let deadline = Instant::now() + STARTING;
        for address in at.addresses() {
            loop {
                match self.get(SocketAddr::new(address, port)) {
                    Ok(answer) if answer.pod == name => break,
                    Ok(answer) => return Err(Error::broken(format_args!("{} answered for {name}", answer.pod))),
                    Err(error) if Instant::now() > deadline => return Err(error),
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        }
        Ok(())
    }

    /// The same client with another patience.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Opens a TCP connection.
    pub fn connect(&self, to: SocketAddr) -> Result<Connection, Error> {
        let timeout = self.timeout;
        let opened = self.space.run(|| Connection::open(to, timeout))?;
        opened.doing(|| format!("connect to {to} from {}", self.space.name()))
    }

    /// `GET /` over a connection of its own.
    pub fn get(&self, to: SocketAddr) -> Result<Answer, Error> {
        self.connect(to)?.get()
    }

    /// `GET /` over `count` connections, one after the other, all opened by one thread.
    pub fn get_many(&self, to: SocketAddr, count: usize) -> Result<Vec<Answer>, Error> {
        let timeout = self.timeout;
        let answers = self.space.run(|| {
            let one = |_| Connection::open(to, timeout).and_then(|mut connection| connection.request("/"));
            (0..count).map(one).collect::<io::Result<Vec<Answer>>>()
        })?;
        answers.doing(|| format!("GET http://{to}/ from {}", self.space.name()))
    }

    /// Sends a datagram from a socket of its own and waits for the echo; it is not sent again.
    pub fn datagram(&self, to: SocketAddr, payload: &[u8]) -> Result<Answer, Error> {
        self.datagrams(to)?.exchange(payload)
    }

    /// A connected UDP socket that talks to `to`: the kernel takes datagrams from there alone.
    pub fn datagrams(&self, to: SocketAddr) -> Result<Datagrams, Error> {
        self.open_datagrams(to, true)
    }

    /// A UDP socket that names `to` with each datagram and looks itself where the answer comes from.
    pub fn unconnected_datagrams(&self, to: SocketAddr) -> Result<Datagrams, Error> {
        self.open_datagrams(to, false)
    }

    fn open_datagrams(&self, to: SocketAddr, connected: bool) -> Result<Datagrams, Error> {
        let timeout = self.timeout;
        let opened = self.space.run(|| -> io::Result<UdpSocket> {
            let any = if to.is_ipv4() {
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
            } else {
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
            };
            let socket = UdpSocket::bind(any)?;
            socket.set_read_timeout(Some(timeout))?;
            if connected {
                socket.connect(to)?;
            }
            Ok(socket)
        })?;
        let socket = opened.doing(|| format!("open a UDP socket to {to} in {}", self.space.name()))?;
        Ok(Datagrams { socket, to, connected })
    }
}

/// A TCP connection to an echo server. It stays in its namespace whatever thread uses it.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    to: SocketAddr,
}

impl Connection {
    pub(super) fn open(to: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Self { stream: BufReader::new(stream), to })
    }

    /// The address and port of this end.
    pub fn local(&self) -> Result<SocketAddr, Error> {
        self.stream.get_ref().local_addr().doing(|| format!("ask for the own end of a connection to {}", self.to))
    }

    /// The address and port of the other end, as the client's own kernel tells it.
    pub fn peer(&self) -> Result<SocketAddr, Error> {
        self.stream.get_ref().peer_addr().doing(|| format!("ask for the other end of a connection to {}", self.to))
    }

    /// `GET /`
    pub fn get(&mut self) -> Result<Answer, Error> {
        let to = self.to;
        self.request("/").doing(|| format!("GET http://{to}/"))
    }

    /// `GET /bytes/N`: how many bytes came and their hash, to be compared with [`Hash::of_content`].
    pub fn download(&mut self, length: u64) -> Result<(u64, Hash), Error> {
        let to = self.to;
        let mut hash = Hash::new();
        let came = self.send("GET", &format!("/bytes/{length}"), 0).and_then(|()| {
            let head = self.head()?;
            read_body(&mut self.stream, head.content_length, |piece| hash.update(piece))?;
            Ok(head.content_length)
        });
        Ok((came.doing(|| format!("GET http://{to}/bytes/{length}"))?, hash))
    }

    /// `POST /sink` with the first `length` bytes of the stream of seed `length`.
    pub fn upload(&mut self, length: u64) -> Result<Received, Error> {
        let to = self.to;
        let done = self.send("POST", "/sink", length).and_then(|()| {
            let (mut content, mut buffer, mut left) = (Content::new(length), [0; 8192], length);
            let mut output = BufWriter::new(self.stream.get_ref());
            while left > 0 {
                let part = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                content.fill(&mut buffer[..part]);
                output.write_all(&buffer[..part])?;
                left -= part as u64;
            }
            output.flush()?;
            drop(output);
            self.json()
        });
        done.doing(|| format!("POST http://{to}/sink"))
    }

    pub(super) fn request(&mut self, path: &str) -> io::Result<Answer> {
        self.send("GET", path, 0)?;
        self.json()
    }

    fn send(&mut self, method: &str, path: &str, length: u64) -> io::Result<()> {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {length}\r\n\r\n", self.to);
        self.stream.get_ref().write_all(head.as_bytes())
    }

    fn head(&mut self) -> io::Result<Head> {
        let head = Head::read(&mut self.stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if head.start.split(' ').nth(1) == Some("200") { Ok(head) } else { Err(io::Error::other(head.start)) }
    }

    fn json<T: serde::de::DeserializeOwned>(&mut self) -> io::Result<T> {
        let head = self.head()?;
        let mut body = Vec::new();
        read_body(&mut self.stream, head.content_length, |piece| body.extend_from_slice(piece))?;
        Ok(serde_json::from_slice(&body)?)
    }
}

/// A UDP socket that talks to one address. It stays in its namespace whatever thread uses it.
#[derive(Debug)]
pub struct Datagrams {
    socket: UdpSocket,
    to: SocketAddr,
    connected: bool,
}

impl Datagrams {
    /// The address and port of this end.
    pub fn local(&self) -> Result<SocketAddr, Error> {
        self.socket.local_addr().doing(|| format!("ask for the own end of a socket to {}", self.to))
    }

    /// Sends a datagram and waits for the echo; it is not sent again.
    pub fn exchange(&self, payload: &[u8]) -> Result<Answer, Error> {
        let to = self.to;
        let exchange = || -> io::Result<Answer> {
            let mut buffer = vec![0; 65_536];
            let (length, from) = if self.connected {
                self.socket.send(payload)?;
                (self.socket.recv(&mut buffer)?, self.socket.peer_addr()?)
            } else {
                self.socket.send_to(payload, to)?;
                self.socket.recv_from(&mut buffer)?
            };
            if from != to {
                return Err(io::Error::other(format!("the answer comes from {from}")));
            }
            let mut parts = buffer[..length].splitn(2, |byte| *byte == b'\n');
            let answer = serde_json::from_slice(parts.next().unwrap_or_default())?;
            if parts.next() == Some(payload) { Ok(answer) } else { Err(io::Error::other("the echo differs")) }
        };
        exchange().doing(|| format!("send a datagram to {to}"))
    }
}
