//! A TCP socket on which requests are answered, one for each connection.

use super::answers::{self, Answers};
use crate::objects::IpFamily;
use futures_util::future::BoxFuture;
use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nix::sys::socket::{Shutdown, shutdown};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

/// How long a client may take: anybody can reach these ports.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many clients are served at a time, on all listeners together; others wait in the kernel's queues.
const SEATS: usize = 256;
/// Pause after a connection could not be accepted.
const BREATH: Duration = Duration::from_millis(100);

/// For whom a socket listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// The proxy's own health.
    Proxy,
    /// That, and its metrics.
    Metrics,
    /// The Service whose health check port it is.
    Service,
}

/// Makes the text of all metrics, or says why it cannot.
pub(crate) type Scrape = Arc<dyn Fn() -> BoxFuture<'static, Result<Vec<u8>, String>> + Send + Sync>;

/// Who answers: the same for all listeners.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) answers: Arc<Answers>,
    /// Absent: there are no metrics.
    pub(super) scrape: Option<Scrape>,
    seats: Arc<Semaphore>,
    runtime: Handle,
}

impl Desk {
    /// One whose work is done by `runtime`.
    pub(super) fn new(runtime: Handle) -> Self {
        Self { answers: Arc::default(), scrape: None, seats: Arc::new(Semaphore::new(SEATS)), runtime }
    }

    async fn accept(self, socket: Arc<TcpListener>, role: Role) {
        // The semaphore is never closed.
        while let Ok(seat) = Arc::clone(&self.seats).acquire_owned().await {
            match socket.accept().await {
                Ok((stream, _)) => {
                    let desk = self.clone();
                    tokio::spawn(async move {
                        // Nobody is to be told of a client that went, or did not speak HTTP in time.
                        drop(tokio::time::timeout(PATIENCE, desk.serve(stream, role)).await);
                        drop(seat);
                    });
                }
                Err(_) => tokio::time::sleep(BREATH).await,
            }
        }
    }

    async fn serve(&self, stream: TcpStream, role: Role) -> Result<(), hyper::Error> {
        let Ok(asked) = stream.local_addr() else { return Ok(()) };
        let service = service_fn(async |request: hyper::Request<hyper::body::Incoming>| {
            Ok::<_, Infallible>(match (role, request.uri().path()) {
                (Role::Metrics, "/metrics") => self.metrics().await,
                (Role::Proxy | Role::Metrics, path) => self.answers.facts().of_proxy(path),
                (Role::Service, _) => self.answers.facts().of_service(asked.port(), IpFamily::of(asked.ip())),
            })
        });
        http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service).await
    }

    async fn metrics(&self) -> Response<Full<Bytes>> {
        let Some(scrape) = &self.scrape else { return answers::metrics(Err("there are no metrics".to_owned())) };
        answers::metrics(scrape().await)
    }
}

/// A bound socket. Dropping it closes it at once: the next connection is refused.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Arc<TcpListener>,
    task: AbortHandle,
}

impl Listener {
    /// Listens in the calling thread's network namespace.
    pub(super) fn open(address: SocketAddr, role: Role, desk: &Desk) -> io::Result<Self> {
        let socket = std::net::TcpListener::bind(address)?;
        socket.set_nonblocking(true)?;
        let _runtime = desk.runtime.enter();
        let socket = Arc::new(TcpListener::from_std(socket)?);
        let task = desk.runtime.spawn(desk.clone().accept(Arc::clone(&socket), role)).abort_handle();
        Ok(Self { socket, task })
    }

    #[cfg(test)]
    pub(super) fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // The task lets go of the socket only by and by. There is nothing to do for a socket that does not listen.
        shutdown(self.socket.as_raw_fd(), Shutdown::Both).ok();
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    fn desk() -> (tokio::runtime::Runtime, Desk) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let desk = Desk::new(runtime.handle().clone());
        (runtime, desk)
    }

    fn ask(to: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(to).unwrap();
        stream.write_all(request).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn every_request_is_answered_and_its_connection_closed() {
        let (_runtime, desk) = desk();
        let listener = Listener::open("[::1]:0".parse().unwrap(), Role::Proxy, &desk).unwrap();
        for method in ["GET", "POST"] {
            let answer = ask(listener.address(), format!("{method} /livez HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(answer.contains("\r\nx-content-type-options: nosniff\r\n"), "{answer}");
        }
        let answer = ask(listener.address(), b"SSH-2.0-x\r\n\r\n");
        assert!(!answer.contains(" 200 "), "{answer}");
    }

    #[test]
    fn a_dropped_listener_refuses_at_once_and_its_port_is_free() {
        let (_runtime, desk) = desk();
        let listener = Listener::open("127.0.0.1:0".parse().unwrap(), Role::Service, &desk).unwrap();
        let address = listener.address();
        let kept = TcpStream::connect(address).unwrap();
        let taken = Listener::open(address, Role::Service, &desk).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let again = Listener::open(address, Role::Service, &desk).unwrap();
        assert!(ask(again.address(), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 404"));
        drop(kept);
    }
}
