//! A process with sockets of its own, in a network namespace and a cgroup: a cgroup holds whole processes, so a thread of
//! the test cannot stand for one.
//!
//! It does what it is told, a line of JSON on its standard input, and tells what came of it, a line on its standard output.

use crate::cgroup::Cgroup;
use lb_ctl::playground::echo::Answer;
use lb_ctl::playground::netns::NetNs;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// How long it waits for anything.
const PATIENCE: Duration = Duration::from_secs(3);

/// What it is told to do. Sockets are numbered in the order in which they were opened.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Order {
    /// Opens a TCP connection.
    Connect(SocketAddr),
    /// Asks over a TCP connection who is there.
    Get(usize),
    /// Opens a UDP socket on this address, not connected.
    Bind(IpAddr),
    /// Sends a datagram from it and waits for the answer.
    Send(usize, SocketAddr),
    /// Opens a connected UDP socket.
    ConnectUdp(SocketAddr),
    /// Sends a datagram by a connected UDP socket and waits for the answer.
    Exchange(usize),
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Told {
    /// The socket.
    pub socket: usize,
    /// The kernel's number for it (`SO_COOKIE`).
    pub cookie: u64,
    /// Its own address.
    pub local: SocketAddr,
    /// Whom the process is shown: the peer of a connection, or the sender of a datagram.
    pub shown: Option<SocketAddr>,
    /// Who answered, if somebody was asked.
    pub answer: Option<Answer>,
}

/// A running process. Dropping it ends it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    orders: ChildStdin,
    told: BufReader<ChildStdout>,
}

impl Process {
    /// Starts one by `binary`, which does nothing but [`serve`], in a namespace and a cgroup.
    pub fn start(binary: &str, space: &NetNs, cgroup: &Cgroup) -> Self {
        let mut command = Command::new(binary);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = space.spawn(&mut command).expect("the process starts");
        cgroup.take(&child);
        let (orders, told) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        Self { child, orders, told: BufReader::new(told) }
    }

    fn tell(&mut self, order: &Order) -> io::Result<Told> {
        serde_json::to_writer(&mut self.orders, order).expect("the process listens");
        self.orders.write_all(b"\n").expect("the process listens");
        let mut line = String::new();
        self.told.read_line(&mut line).expect("the process answers");
        let told: Result<Told, (Option<i32>, String)> = serde_json::from_str(&line).expect("the process answers");
        told.map_err(|(number, words)| number.map_or_else(|| io::Error::other(words), io::Error::from_raw_os_error))
    }

    /// Opens a TCP connection.
    pub fn connect(&mut self, to: SocketAddr) -> io::Result<Told> {
        self.tell(&Order::Connect(to))
    }

    /// Asks over a TCP connection who is there.
    pub fn get(&mut self, socket: usize) -> io::Result<Told> {
        self.tell(&Order::Get(socket))
    }

    /// Opens a UDP socket on this address, not connected.
    pub fn bind(&mut self, address: IpAddr) -> io::Result<Told> {
        self.tell(&Order::Bind(address))
    }

    /// Sends a datagram from an unconnected UDP socket and waits for the answer.
    pub fn send(&mut self, socket: usize, to: SocketAddr) -> io::Result<Told> {
        self.tell(&Order::Send(socket, to))
    }

    /// Opens a connected UDP socket.
    pub fn connect_udp(&mut self, to: SocketAddr) -> io::Result<Told> {
        self.tell(&Order::ConnectUdp(to))
    }

    /// Sends a datagram by a connected UDP socket and waits for the answer.
    pub fn exchange(&mut self, socket: usize) -> io::Result<Told> {
        self.tell(&Order::Exchange(socket))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What the process does until its standard input ends.
pub fn serve() {
    let mut sockets = Sockets::default();
    for line in io::stdin().lines().map_while(Result::ok) {
        let order = serde_json::from_str(&line).expect("an order");
        let done = sockets.obey(&order).map_err(|error| (error.raw_os_error(), error.to_string()));
        println!("{}", serde_json::to_string(&done).expect("plain data"));
    }
}

#[derive(Default)]
struct Sockets {
    connections: Vec<TcpStream>,
    datagrams: Vec<UdpSocket>,
}

impl Sockets {
    fn obey(&mut self, order: &Order) -> io::Result<Told> {
        match *order {
            Order::Connect(to) => {
                let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                self.connections.push(stream);
                self.connection(self.connections.len() - 1, None)
            }
            Order::Get(socket) => {
                let answer = get(&self.connections[socket])?;
                self.connection(socket, Some(answer))
            }
            Order::Bind(address) => self.open(UdpSocket::bind((address, 0))?),
            Order::ConnectUdp(to) => {
                let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
                let socket = UdpSocket::bind((any, 0))?;
                socket.connect(to)?;
                self.open(socket)
            }
            Order::Send(socket, to) => {
                self.datagrams[socket].send_to(b"ping", to)?;
                self.answer(socket)
            }
            Order::Exchange(socket) => {
                self.datagrams[socket].send(b"ping")?;
                self.answer(socket)
            }
        }
    }

    fn connection(&self, socket: usize, answer: Option<Answer>) -> io::Result<Told> {
        let stream = &self.connections[socket];
        let shown = Some(stream.peer_addr()?);
        Ok(Told { socket, cookie: cookie(stream)?, local: stream.local_addr()?, shown, answer })
    }

    fn open(&mut self, opened: UdpSocket) -> io::Result<Told> {
        opened.set_read_timeout(Some(PATIENCE))?;
        let told = Told {
            socket: self.datagrams.len(),
            cookie: cookie(&opened)?,
            local: opened.local_addr()?,
            shown: opened.peer_addr().ok(),
            answer: None,
        };
        self.datagrams.push(opened);
        Ok(told)
    }

    fn answer(&self, socket: usize) -> io::Result<Told> {
        let receiver = &self.datagrams[socket];
        let mut buffer = [0; 2048];
        let (length, from) = receiver.recv_from(&mut buffer)?;
        let head = buffer[..length].split(|byte| *byte == b'\n').next().unwrap_or_default();
        let answer = Some(serde_json::from_slice(head)?);
        Ok(Told { socket, cookie: cookie(receiver)?, local: receiver.local_addr()?, shown: Some(from), answer })
    }
}

/// The kernel's number for a socket.
fn cookie(socket: &impl AsRawFd) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// `GET /` over a connection that is kept open.
fn get(mut stream: &TcpStream) -> io::Result<Answer> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: service\r\nContent-Length: 0\r\n\r\n")?;
    let mut lines = BufReader::new(stream).lines();
    // The body is one line of JSON, behind the empty line that ends the head.
    for line in lines.by_ref() {
        if line?.is_empty() {
            break;
        }
    }
    let body = lines.next().ok_or(io::ErrorKind::UnexpectedEof)??;
    Ok(serde_json::from_str(&body)?)
}
