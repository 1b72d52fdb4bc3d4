//! The echo server of the playground's pods: every answer carries the pod's name and the client as the pod sees it.
//!
//! HTTP: `GET /` answers an [`Answer`], `GET /bytes/N` N bytes of [`Content`] with seed N, `POST /sink` a [`Received`].
//! Connections are kept open unless the client says `Connection: close`. UDP, on the same port: each datagram is
//! answered by the [`Answer`] with the datagram's own bytes appended after a newline.

use super::content::{Content, Hash};
use super::error::{Doing, Error};
use super::http::{Head, read_body};
use nix::sys::socket::sockopt::Ipv6RecvPacketInfo;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt};
use serde::{Deserialize, Serialize};
use std::io::{self, BufReader, BufWriter, IoSlice, IoSliceMut, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread;

/// Who answered, and whom it saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Name of the pod.
    pub pod: String,
    /// The client's address as it arrived.
    pub client: IpAddr,
    /// The client's port as it arrived.
    pub port: u16,
    /// How many requests this connection has made, this one included.
    pub request: u64,
}

/// What `POST /sink` took in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// Name of the pod.
    pub pod: String,
    /// Length of the body.
    pub length: u64,
    /// [`Hash`] of the body.
    pub hash: u64,
}

/// Serves HTTP and UDP on `port` of every address of both families, until the process ends.
pub fn serve(name: &str, port: u16) -> Result<(), Error> {
    let everywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let listener = TcpListener::bind(everywhere).doing(|| format!("listen on TCP port {port}"))?;
    let socket = UdpSocket::bind(everywhere).doing(|| format!("listen on UDP port {port}"))?;
    setsockopt(&socket, Ipv6RecvPacketInfo, &true).doing(|| format!("listen on UDP port {port}"))?;
    let name: Arc<str> = name.into();
    let datagrams = Arc::clone(&name);
    thread::spawn(move || echo_datagrams(&socket, &datagrams));
    for stream in listener.incoming() {
        match stream {
            Ok(stream) => {
                let name = Arc::clone(&name);
                // A client that hangs up early is the client's business.
                thread::spawn(move || converse(&stream, &name).ok());
            }
            // Out of file descriptors or memory for a moment: the next ones may fare better.
            Err(_) => thread::sleep(std::time::Duration::from_millis(10)),
        }
    }
    Ok(())
}

fn echo_datagrams(socket: &UdpSocket, name: &str) {
    let mut buffer = vec![0; 65_536];
    loop {
        // As with any datagram: it arrives or it does not.
        echo_datagram(socket, name, &mut buffer).ok();
    }
}

/// Answers from the address that was asked, which on a node with several is not the one its routes would choose (RFC
/// 3542, 6.2; IPv4 addresses are mapped here).
fn echo_datagram(socket: &UdpSocket, name: &str, buffer: &mut [u8]) -> io::Result<()> {
    let mut space = nix::cmsg_space!(libc::in6_pktinfo);
    let (length, from, asked) = {
        let mut pieces = [IoSliceMut::new(buffer)];
        let message = recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut pieces, Some(&mut space), MsgFlags::empty())?;
        let asked = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(info.ipi6_addr),
            _ => None,
        });
        (message.bytes, message.address.ok_or(io::ErrorKind::InvalidData)?, asked)
    };
    let answer =
        Answer { pod: name.to_owned(), client: IpAddr::from(from.ip()).to_canonical(), port: from.port(), request: 1 };
    let mut head = serde_json::to_vec(&answer)?;
    head.push(b'\n');
    let pieces = [IoSlice::new(&head), IoSlice::new(&buffer[..length])];
    let source = asked.map(|ipi6_addr| libc::in6_pktinfo { ipi6_addr, ipi6_ifindex: 0 });
    let control: Vec<_> = source.iter().map(ControlMessage::Ipv6PacketInfo).collect();
    sendmsg(socket.as_raw_fd(), &pieces, &control, MsgFlags::empty(), Some(&from))?;
    Ok(())
}

fn converse(stream: &TcpStream, name: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let peer = stream.peer_addr()?;
    let (mut input, mut output) = (BufReader::new(stream), BufWriter::new(stream));
    let mut request = 0;
    while let Some(head) = Head::read(&mut input)? {
        request += 1;
        let mut hash = Hash::new();
        read_body(&mut input, head.content_length, |piece| hash.update(piece))?;
        let mut words = head.start.split(' ');
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        match (method, path, path.strip_prefix("/bytes/").and_then(|length| length.parse().ok())) {
            ("GET", _, Some(length)) => send_content(&mut output, length)?,
            ("GET", "/", None) => {
                let (client, port) = (peer.ip().to_canonical(), peer.port());
                send_json(&mut output, "200 OK", &Answer { pod: name.to_owned(), client, port, request })?;
            }
            ("POST", "/sink", None) => {
                let (length, hash) = (head.content_length, hash.value());
                send_json(&mut output, "200 OK", &Received { pod: name.to_owned(), length, hash })?;
            }
            _ => send_json(&mut output, "404 Not Found", &"GET /, GET /bytes/N or POST /sink")?,
        }
        output.flush()?;
        if head.close {
            break;
        }
    }
    Ok(())
}

fn send_json(output: &mut impl Write, status: &str, body: &impl Serialize) -> io::Result<()> {
    let mut body = serde_json::to_vec(body)?;
    body.push(b'\n');
    let length = body.len();
    write!(output, "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n")?;
    output.write_all(&body)
}

fn send_content(output: &mut impl Write, length: u64) -> io::Result<()> {
    write!(output, "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n")?;
    let (mut content, mut buffer, mut left) = (Content::new(length), [0; 8192], length);
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        content.fill(&mut buffer[..part]);
        output.write_all(&buffer[..part])?;
        left -= part as u64;
    }
    Ok(())
}
