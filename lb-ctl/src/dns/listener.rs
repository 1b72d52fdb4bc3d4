//! The sockets of one address, on which questions are answered.

use super::message::Transport;
use super::responder::{Outcome, Responder};
use super::upstream;
use nix::sys::socket::{Shutdown, shutdown};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// How long a client by TCP may be silent (RFC 7766, 6.2.3).
const PATIENCE: Duration = Duration::from_secs(5);
/// How many clients by TCP are served at a time; others wait in the kernel's queue.
const SEATS: usize = 256;
/// Pause after a socket failed.
const BREATH: Duration = Duration::from_millis(100);
/// The longest question by UDP.
const LONGEST: usize = 4096;

/// Bound sockets. Dropping them closes them.
#[derive(Debug)]
pub(super) struct Listener {
    address: SocketAddr,
    tcp: Arc<TcpListener>,
    tasks: [AbortHandle; 2],
}

impl Listener {
    /// Listens in the calling thread's network namespace; `runtime` answers. Port 0: any that is free with both protocols.
    pub(super) fn open(address: SocketAddr, responder: &Arc<Responder>, runtime: &Handle) -> io::Result<Self> {
        let tcp = std::net::TcpListener::bind(address)?;
        let address = tcp.local_addr()?;
        let udp = std::net::UdpSocket::bind(address)?;
        tcp.set_nonblocking(true)?;
        udp.set_nonblocking(true)?;
        let _runtime = runtime.enter();
        let (tcp, udp) = (Arc::new(TcpListener::from_std(tcp)?), Arc::new(UdpSocket::from_std(udp)?));
        let tasks = [
            runtime.spawn(datagrams(udp, Arc::clone(responder))).abort_handle(),
            runtime.spawn(streams(Arc::clone(&tcp), Arc::clone(responder))).abort_handle(),
        ];
        Ok(Self { address, tcp, tasks })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // The task lets go of the socket only by and by. There is nothing to do for a socket that does not listen.
        shutdown(self.tcp.as_raw_fd(), Shutdown::Both).ok();
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

async fn datagrams(socket: Arc<UdpSocket>, responder: Arc<Responder>) {
    let mut buffer = [0; LONGEST];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(BREATH).await;
            continue;
        };
        let bytes = &buffer[..length];
        match responder.begin(bytes, Transport::Udp) {
            Outcome::Nothing => {}
            // A client that cannot be reached asks again, or has gone.
            Outcome::Reply(reply) => drop(socket.send_to(&reply, client).await),
            Outcome::Waits(waiting) => {
                let (socket, responder, bytes) = (Arc::clone(&socket), Arc::clone(&responder), bytes.to_vec());
                tokio::spawn(async move {
                    let reply = responder.finish(&bytes, *waiting, Transport::Udp).await;
                    drop(socket.send_to(&reply, client).await);
                });
            }
        }
    }
}

async fn streams(socket: Arc<TcpListener>, responder: Arc<Responder>) {
    let seats = Arc::new(Semaphore::new(SEATS));
    // The semaphore is never closed.
    while let Ok(seat) = Arc::clone(&seats).acquire_owned().await {
        match socket.accept().await {
            Ok((stream, _)) => {
                let responder = Arc::clone(&responder);
                tokio::spawn(async move {
                    // Nobody is to be told of a client that went.
                    drop(serve(stream, &responder).await);
                    drop(seat);
                });
            }
            Err(_) => tokio::time::sleep(BREATH).await,
        }
    }
}

/// Answers one question after the other, until the client goes or is silent for too long.
async fn serve(mut stream: TcpStream, responder: &Responder) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let bytes = timeout(PATIENCE, upstream::read(&mut stream)).await??;
        let reply = match responder.begin(&bytes, Transport::Tcp) {
            Outcome::Nothing => return Ok(()),
            Outcome::Reply(reply) => reply,
            Outcome::Waits(waiting) => responder.finish(&bytes, *waiting, Transport::Tcp).await,
        };
        timeout(PATIENCE, upstream::write(&mut stream, &reply)).await??;
    }
}
