//! A cgroup that lives as long as one test, with the processes in it.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

/// What the names of all tests' cgroups begin with.
const PREFIX: &str = "lb-ctl-test-";

/// A cgroup of the test's own, a child of the root cgroup. Dropping it kills what is in it and removes it.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes one; `name` tells the cgroups of one test process apart.
    pub fn new(name: &str) -> Self {
        let mount = mount_point();
        remove_abandoned(&mount);
        let path = mount.join(format!("{PREFIX}{}-{name}", std::process::id()));
        fs::create_dir(&path).expect("root makes cgroups");
        Self { path }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves a process into it.
    pub fn take(&self, process: &Child) {
        fs::write(self.path.join("cgroup.procs"), process.id().to_string()).expect("root moves its own children");
    }

    /// The ids of the programs on one of its hooks (`enum bpf_attach_type`), in order.
    pub fn programs(&self, attach_type: u32) -> Vec<u32> {
        /// Attributes of `BPF_PROG_QUERY` with all that the kernel writes back.
        #[repr(C)]
        struct Query {
            target: u32,
            attach_type: u32,
            flags: u32,
            attach_flags: u32,
            ids: u64,
            count: u32,
            reserved: u32,
            rest: [u64; 4],
        }
        const BPF_PROG_QUERY: libc::c_uint = 16;
        let directory = fs::File::open(&self.path).expect("it is there");
        let mut ids = vec![0u32; 64];
        let mut query = Query {
            target: std::os::fd::AsRawFd::as_raw_fd(&directory) as u32,
            attach_type,
            flags: 0,
            attach_flags: 0,
            ids: ids.as_mut_ptr() as u64,
            count: ids.len() as u32,
            reserved: 0,
            rest: [0; 4],
        };
        // SAFETY: the layout of BPF_PROG_QUERY; the vector has room for `count` ids.
        let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<Query>()) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        ids.truncate(query.count as usize);
        ids
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("the cgroup {} is left behind: {error}", self.path.display());
        }
    }
}

/// Kills the processes in a cgroup of a test's, by id, and removes it.
fn remove(path: &Path) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let processes = fs::read_to_string(path.join("cgroup.procs"))?;
        for id in processes.lines().filter_map(|line| line.parse().ok()) {
            // It may have ended by itself just now.
            kill(Pid::from_raw(id), Signal::SIGKILL).ok();
        }
        match fs::remove_dir(path) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

/// Removes the cgroups of test processes that were killed.
fn remove_abandoned(mount: &Path) {
    let entries = fs::read_dir(mount).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if maker.is_some_and(|maker| !Path::new(&format!("/proc/{maker}")).exists()) {
            // Another test may be doing the same.
            remove(&entry.path()).ok();
        }
    }
}

/// Where the cgroup2 file system is mounted.
fn mount_point() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("a list of mounts");
    let mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found = mounts.into_iter().find(|fields| fields.get(2) == Some(&"cgroup2"));
    found.map(|fields| PathBuf::from(fields[1])).expect("a cgroup2 file system is mounted")
}
