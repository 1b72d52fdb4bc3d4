//! What can go wrong with a datapath, each in one sentence with its remedy.

use crate::{host, maps};
use std::io;
use std::path::PathBuf;

/// The datapath cannot be opened, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option makes no sense.
    #[error("{0}")]
    Option(String),
    /// This build has no BPF object.
    #[error("this build of lb-ctl carries no datapath: build it with `cargo xtask build`")]
    NoObject,
    /// The process may not do this.
    #[error("lb-ctl needs {0}: run it as root, or give it these capabilities")]
    Privilege(String),
    /// The kernel is too old.
    #[error("this kernel is Linux {found}; lb-ctl needs at least {needed}")]
    OldKernel {
        /// What runs.
        found: String,
        /// What is needed.
        needed: &'static str,
    },
    /// Pins can live only on a BPF file system.
    #[error(
        "{0} is not on a BPF file system: mount one with `mount -t bpf bpf {0}`, or name another place with --bpffs"
    )]
    NotBpffs(PathBuf),
    /// Something on the file system went wrong.
    #[error("cannot {action} {}: {source}", path.display())]
    Path {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Another daemon has this instance.
    #[error(
        "another lb-ctl daemon{} runs the instance `{instance}`: stop it first, or choose another name with --instance",
        process(*pid)
    )]
    InstanceLocked {
        /// Name of the instance.
        instance: String,
        /// The daemon, if it can be seen.
        pid: Option<u32>,
    },
    /// Another daemon serves this network namespace.
    #[error("another lb-ctl daemon{} serves this network namespace: stop it first", process(*pid))]
    NamespaceLocked {
        /// The daemon, if it can be seen.
        pid: Option<u32>,
    },
    /// The namespace's lock could not be taken for another reason.
    #[error("cannot lock the network namespace: {0}")]
    NamespaceLock(io::Error),
    /// The namespace could not be told from others.
    #[error("cannot tell which network namespace this is: {0}")]
    Namespace(io::Error),
    /// A program could not take another's place.
    #[error("the program of {hook} on interface {ifindex} could not be replaced: {source}")]
    Replace {
        /// The hook.
        hook: String,
        /// The interface.
        ifindex: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The pins belong elsewhere.
    #[error(
        "{} belongs to another network namespace, where its programs are still attached: choose another name with \
         --instance, or remove it with `lb-ctl cleanup`",
        .0.display()
    )]
    OtherNamespace(PathBuf),
    /// Something else stands where a map of ours should.
    #[error("{} is pinned and is not the map it should be: remove it with `lb-ctl cleanup`", .0.display())]
    ForeignPin(PathBuf),
    /// A map could not be made or opened.
    #[error("the map {map} ({entries} entries) could not be {action}: {source}{}", memory(source))]
    Map {
        /// Name of the map.
        map: &'static str,
        /// What was tried.
        action: &'static str,
        /// Its size.
        entries: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A map could not be read or written.
    #[error(transparent)]
    Access(#[from] maps::MapError),
    /// The object could not be read or relocated.
    #[error("the BPF object is unusable: {0}")]
    Object(String),
    /// The kernel refused a program.
    #[error("the kernel refused the program {program}: {reason}{log}")]
    Rejected {
        /// Name of the program.
        program: &'static str,
        /// The kernel's answer.
        reason: io::Error,
        /// The last lines of the verifier's log, each on a line of its own.
        log: String,
    },
    /// A program could not be run on a frame.
    #[error("the program {program} could not be run on a frame: {source}")]
    Run {
        /// Name of the program.
        program: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Filters could not be listed or removed.
    #[error("the filters of lb-ctl on clsact qdiscs cannot be listed or removed: {0}")]
    Filters(io::Error),
    /// The daemon's veth pair could not be removed.
    #[error(transparent)]
    Pair(#[from] host::pair::PairError),
    /// The directory is no cgroup.
    #[error("--socket-lb {}: {reason}; {remedy}", path.display())]
    Cgroup {
        /// What was named.
        path: PathBuf,
        /// Why it is none.
        reason: String,
        /// What can be done.
        remedy: String,
    },
    /// The kernel did not attach a socket hook.
    #[error("the cgroup {} refused the socket hook {hook}: {source}{}", cgroup.display(), cgroup_remedy(source))]
    SocketHook {
        /// Name of the hook.
        hook: &'static str,
        /// Which cgroup.
        cgroup: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The network could not be read.
    #[error(transparent)]
    Host(#[from] host::Error),
}

fn process(pid: Option<u32>) -> String {
    pid.filter(|pid| *pid != 0).map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

fn cgroup_remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            "; a program that allows no others is attached there or above (`bpftool cgroup tree` shows it): remove it, or \
             name another cgroup"
        }
        Some(libc::E2BIG) => "; too many programs are attached there: remove one, or name another cgroup",
        _ => "",
    }
}

fn memory(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOMEM | libc::E2BIG) => "; choose a smaller --max-flows",
        _ => "",
    }
}
