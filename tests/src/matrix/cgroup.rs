//! A cgroup of the test's own, so that socket hooks see its clients, which are threads of the test itself, and nobody else.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// A child cgroup (version 2) that this process is in until it is dropped.
#[derive(Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
    before: PathBuf,
}

impl Cgroup {
    /// Makes one below the cgroup this process is in, and moves the process there. What it starts is there too.
    pub(super) fn enter() -> io::Result<Self> {
        let own = own()?;
        let path = own.join(format!("lb-ctl-matrix-{}", std::process::id()));
        fs::create_dir(&path)?;
        let cgroup = Self { path, before: own };
        join(&cgroup.path)?;
        Ok(cgroup)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let left = join(&self.before);
        // Processes that were killed leave it a moment later.
        let deadline = Instant::now() + Duration::from_secs(10);
        let removed = loop {
            match fs::remove_dir(&self.path) {
                Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
                done => break done,
            }
        };
        if let Err(error) = left.and(removed) {
            eprintln!("removing the cgroup {}: {error}", self.path.display());
        }
    }
}

fn join(cgroup: &Path) -> io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())
}

/// The directory of this process's cgroup: where version 2 is mounted, which is not always `/sys/fs/cgroup`.
fn own() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mount = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (_, path, kind) = (words.next()?, words.next()?, words.next()?);
        (kind == "cgroup2").then(|| path.to_owned())
    });
    let cgroups = fs::read_to_string("/proc/self/cgroup")?;
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::/"));
    match (mount, own) {
        (Some(mount), Some(own)) => Ok(Path::new(&mount).join(own)),
        _ => Err(io::Error::new(io::ErrorKind::NotFound, "no cgroup of version 2 is mounted")),
    }
}
