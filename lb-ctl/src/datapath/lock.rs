//! One daemon per instance, and one per network namespace.
//!
//! The instance's lock is an advisory lock on its directory of pins, so it guards exactly what it stands for. The
//! namespace's is a socket with an abstract name, which the kernel keeps apart by network namespace. Both end with the
//! process, however it ends.

use super::Error;
use super::bpffs::{Pins, make_directory};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::fs::{self, File};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::{Duration, Instant};

/// The abstract name of the namespace's lock.
const NAMESPACE_LOCK: &str = "lb-ctl/datapath";

/// How long a lock that is held is tried.
const PATIENCE: Duration = Duration::from_millis(400);

/// The lock on an instance's pins.
#[derive(Debug)]
pub(super) struct InstanceLock {
    _directory: Flock<File>,
}

impl InstanceLock {
    /// Takes the lock on the directory, which is made if need be.
    pub(super) fn take(pins: &Pins, instance: &str) -> Result<Self, Error> {
        loop {
            make_directory(pins.root())?;
            if let Some(lock) = Self::take_existing(pins, instance)? {
                return Ok(lock);
            }
        }
    }

    /// Takes the lock on the directory; `None` if there is none (any more).
    pub(super) fn take_existing(pins: &Pins, instance: &str) -> Result<Option<Self>, Error> {
        patiently(|| Self::try_existing(pins, instance))
    }

    fn try_existing(pins: &Pins, instance: &str) -> Result<Option<Self>, Error> {
        let failed = |source| Error::Path { action: "lock", path: pins.root().into(), source };
        let directory = match File::open(pins.root()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(failed)?,
        };
        let locked = directory.metadata().map_err(failed)?;
        let directory = match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(directory) => directory,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                return Err(Error::InstanceLocked { instance: instance.to_owned(), pid: holder(&locked) });
            }
            Err((_, errno)) => return Err(failed(errno.into())),
        };
        // A cleanup may have removed the directory while we waited for nothing: then this lock guards a ghost.
        let current = fs::metadata(pins.root());
        Ok(current.is_ok_and(|current| current.ino() == locked.ino()).then_some(Self { _directory: directory }))
    }
}

/// Tries again for a moment where the lock is held: the predecessor may be dying just now, or have left a copy of the lock
/// to a child that has not yet become another program.
fn patiently<T>(take: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
    let start = Instant::now();
    loop {
        match take() {
            Err(Error::InstanceLocked { .. } | Error::NamespaceLocked { .. }) if start.elapsed() < PATIENCE => {
                std::thread::sleep(PATIENCE / 20);
            }
            result => return result,
        }
    }
}

/// The process that holds a lock on this inode, as far as it can be seen from here.
fn holder(inode: &fs::Metadata) -> Option<u32> {
    let device = inode.dev();
    let wanted = format!("{:02x}:{:02x}:{}", libc::major(device), libc::minor(device), inode.ino());
    // 1: FLOCK  ADVISORY  WRITE 708 00:2a:1234 0 EOF
    fs::read_to_string("/proc/locks").ok()?.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        (fields.get(1) == Some(&"FLOCK") && fields.get(5) == Some(&wanted.as_str()))
            .then(|| fields[4].parse().ok())
            .flatten()
    })
}

/// The lock on the network namespace of the thread that took it.
#[derive(Debug)]
pub(super) struct NamespaceLock {
    _socket: UnixListener,
}

impl NamespaceLock {
    pub(super) fn take() -> Result<Self, Error> {
        patiently(Self::try_take)
    }

    fn try_take() -> Result<Self, Error> {
        let address = SocketAddr::from_abstract_name(NAMESPACE_LOCK).map_err(Error::NamespaceLock)?;
        match UnixListener::bind_addr(&address) {
            Ok(socket) => Ok(Self { _socket: socket }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let peer = UnixStream::connect_addr(&address).ok();
                let pid = peer.and_then(|peer| getsockopt(&peer, PeerCredentials).ok()).map(|peer| peer.pid() as u32);
                Err(Error::NamespaceLocked { pid })
            }
            Err(error) => Err(Error::NamespaceLock(error)),
        }
    }
}
