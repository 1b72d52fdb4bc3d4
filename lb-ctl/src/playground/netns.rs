//! Network namespaces, registered under `/run/netns` as iproute2 does, so that `ip netns exec` finds them.
//!
//! Only `CLONE_NEWNET` is ever unshared or entered: the mount namespace stays the caller's, and a bpffs that it mounted
//! stays in sight.

use super::error::{Doing, Error};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// Where named network namespaces are registered.
pub const REGISTRY: &str = "/run/netns";

/// A registered network namespace. Dropping it does not remove it: see [`NetNs::unregister`].
#[derive(Debug)]
pub struct NetNs {
    name: String,
    file: File,
}

impl NetNs {
    /// Makes a namespace and registers it under `name`.
    pub fn create(name: &str) -> Result<Self, Error> {
        share_registry()?;
        let path = Path::new(REGISTRY).join(name);
        let create = OpenOptions::new().write(true).create_new(true).open(&path);
        create.doing(|| format!("create {}", path.display()))?;
        let made = on_a_thread(|| -> nix::Result<()> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        });
        made?.doing(|| format!("make network namespace {name}"))?;
        Self::open(name)
    }

    /// Opens a registered namespace.
    pub fn open(name: &str) -> Result<Self, Error> {
        let path = Path::new(REGISTRY).join(name);
        let file = File::open(&path).doing(|| format!("open {}", path.display()))?;
        Ok(Self { name: name.to_owned(), file })
    }

    /// The name it is registered under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Moves the calling thread into the namespace.
    pub fn enter(&self) -> io::Result<()> {
        Ok(setns(&self.file, CloneFlags::CLONE_NEWNET)?)
    }

    /// Runs `work` on a thread inside the namespace and waits for it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let done = on_a_thread(|| self.enter().map(|()| work()));
        done?.doing(|| format!("enter network namespace {}", self.name))
    }

    /// Starts a process inside the namespace.
    pub fn spawn(&self, command: &mut Command) -> Result<Child, Error> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.run(|| command.spawn())?.doing(|| format!("start {program} in {}", self.name))
    }

    /// Starts a process inside the namespace that sees `file` in place of `target`, as nobody else does.
    pub fn spawn_seeing(&self, command: &mut Command, file: &Path, target: &Path) -> Result<Child, Error> {
        let program = command.get_program().to_string_lossy().into_owned();
        let spawned = self.run(|| -> io::Result<Child> {
            // The thread's own mounts, and its child's: gone with both.
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
            mount(Some(file), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            command.spawn()
        })?;
        spawned.doing(|| format!("start {program} in {} with {} as {}", self.name, file.display(), target.display()))
    }

    /// Writes a sysctl below `/proc/sys/net`, which shows the namespace of the thread that looks.
    pub fn sysctl(&self, name: &str, value: impl Display) -> Result<(), Error> {
        let path = Path::new("/proc/sys/net").join(name);
        let value = value.to_string();
        self.run(|| fs::write(&path, &value))?.doing(|| format!("set {name}={value} in {}", self.name))
    }

    /// Takes a name out of the registry; the kernel frees the namespace when its last process and socket are gone.
    /// A name that is not there is no error.
    pub fn unregister(name: &str) -> Result<(), Error> {
        let path = Path::new(REGISTRY).join(name);
        match umount2(&path, MntFlags::MNT_DETACH) {
            // Not mounted: the process died between making the file and the mount.
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(error) => return Err(error).doing(|| format!("unmount {}", path.display())),
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).doing(|| format!("remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Names in the registry that are `wanted`, sorted.
pub fn registered(wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let entries = fs::read_dir(REGISTRY).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| wanted(name)).collect();
    names.sort();
    names
}

/// Processes other than this one whose network namespace is registered under one of `names`.
pub fn processes(names: &[String]) -> Vec<i32> {
    let inode = |path: PathBuf| fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    let spaces: Vec<_> = names.iter().filter_map(|name| inode(Path::new(REGISTRY).join(name))).collect();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    pids.filter(|pid| *pid != own)
        .filter(|pid| inode(format!("/proc/{pid}/ns/net").into()).is_some_and(|space| spaces.contains(&space)))
        .collect()
}

/// Runs `work` on a thread of its own, so that a namespace it enters is left with it.
fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    // Taken by the thread that starts.
    let work = Mutex::new(Some(work));
    let deadline = Instant::now() + Duration::from_secs(1);
    thread::scope(|scope| {
        loop {
            let run = || work.lock().ok().and_then(|mut work| work.take()).map(|work| work());
            match thread::Builder::new().spawn_scoped(scope, run) {
                Ok(thread) => {
                    let done = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                    return done.ok_or_else(|| Error::broken("a thread did not find its work"));
                }
                // Also while another thread execs, which then ends this one: see `signals`.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(error).doing(|| "start a thread".to_owned()),
            }
        }
    })
}

/// Makes the registry a shared mount, exactly as iproute2 does it, so that either of us finds what the other made.
fn share_registry() -> Result<(), Error> {
    fs::create_dir_all(REGISTRY).doing(|| format!("create {REGISTRY}"))?;
    let share = || mount(None::<&str>, REGISTRY, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    match share() {
        // Not a mount point yet.
        Err(nix::Error::EINVAL) => {
            mount(Some(REGISTRY), REGISTRY, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
                .and_then(|()| share())
                .doing(|| format!("make {REGISTRY} a shared mount"))
        }
        shared => shared.doing(|| format!("make {REGISTRY} a shared mount")),
    }
}
