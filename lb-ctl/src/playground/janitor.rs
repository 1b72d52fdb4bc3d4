//! Removal of a playground, also when the process that made it was killed.
//!
//! Everything a playground makes can be found by its name: namespaces `<name>-*` in the registry, the processes inside
//! them, and the directory `/run/<name>` with the bpffs in it. [`remove`] needs nothing else, may be repeated, and may
//! run twice at the same time. A janitor process holds the read end of a pipe; when the other end closes without the
//! word to keep, the maker is gone, whatever ended it, and the janitor removes what is left.

use super::error::{Doing, Error};
use super::name::Name;
use super::netns::{self, NetNs};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The hidden subcommand that runs [`attend`].
pub const SUBCOMMAND: &str = "playground-janitor";

/// What is written to the pipe when the playground shall stay.
const KEEP: &[u8] = b"keep";

/// A janitor process that watches over one playground.
#[derive(Debug)]
pub struct Janitor {
    process: Child,
    pipe: Option<ChildStdin>,
}

impl Janitor {
    /// Starts one by `binary`, out of reach of the terminal's Ctrl-C.
    pub fn start(binary: &Path, name: &Name) -> Result<Self, Error> {
        let mut command = Command::new(binary);
        command.args([SUBCOMMAND, name.as_str()]).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = command.spawn().doing(|| format!("start {}", binary.display()))?;
        Ok(Self { pipe: process.stdin.take(), process })
    }

    /// Sends the janitor home: the playground stays.
    pub fn keep(mut self) -> Result<(), Error> {
        if let Some(mut pipe) = self.pipe.take() {
            pipe.write_all(KEEP).doing(|| "speak to the janitor".to_owned())?;
        }
        Ok(())
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        drop(self.pipe.take());
        // It ends by itself now, and only its exit code is lost if waiting fails.
        self.process.wait().ok();
    }
}

/// What the janitor process does: waits until its pipe is closed, then removes, or not.
pub fn attend(name: &Name) -> Result<(), Error> {
    let mut word = Vec::new();
    io::stdin().read_to_end(&mut word).doing(|| "listen to the playground's maker".to_owned())?;
    if word == KEEP { Ok(()) } else { remove(name).map(drop) }
}

/// Removes the playground `name` and tells what was there.
pub fn remove(name: &Name) -> Result<Vec<String>, Error> {
    let mut removed = Vec::new();
    let spaces = netns::registered(|space| name.owns(space));
    removed.extend(kill_processes(&spaces)?.into_iter().map(|pid| format!("process {pid}")));
    for space in spaces {
        NetNs::unregister(&space)?;
        removed.push(format!("network namespace {space}"));
    }
    let bpffs = name.bpffs();
    match umount2(&bpffs, MntFlags::MNT_DETACH) {
        Ok(()) => removed.push(format!("bpffs {}", bpffs.display())),
        Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(error) => return Err(error).doing(|| format!("unmount {}", bpffs.display())),
    }
    let directory = name.directory();
    match fs::remove_dir_all(&directory) {
        Ok(()) => removed.push(format!("directory {}", directory.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).doing(|| format!("remove {}", directory.display())),
    }
    Ok(removed)
}

/// Takes the lock that says a playground's maker is alive; `None` when somebody else holds it.
pub fn lock(name: &Name) -> Result<Option<Flock<File>>, Error> {
    let path = name.directory().join("lock");
    let file = File::create(&path).doing(|| format!("create {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error).doing(|| format!("lock {}", path.display())),
    }
}

/// Kills every other process inside the namespaces `spaces`, and waits until they are gone.
pub fn kill_processes(spaces: &[String]) -> Result<Vec<i32>, Error> {
    let mut killed = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let alive = netns::processes(spaces);
        if alive.is_empty() {
            return Ok(killed);
        }
        for pid in &alive {
            match kill(Pid::from_raw(*pid), Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error).doing(|| format!("kill process {pid}")),
            }
        }
        killed.extend(alive.iter().filter(|pid| !killed.contains(pid)).copied().collect::<Vec<_>>());
        if Instant::now() > deadline {
            return Err(Error::broken(format_args!("these processes do not end: {alive:?}")));
        }
        thread::sleep(Duration::from_millis(5));
    }
}
