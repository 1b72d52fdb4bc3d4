//! A network namespace, a mount namespace and a BPF file system that live as long as one test.
//!
//! A test runs in a thread that has left the machine's namespaces. When the thread ends, the kernel takes everything in
//! them away, however the test ended: interfaces, pins, programs.

use lb_ctl::datapath::{Datapath, Options};
use lb_ctl::host::{Interface, snapshot};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// Small maps: the kernel charges for what is preallocated.
pub(crate) const MAX_FLOWS: u32 = 1024;

/// What a test has to itself.
pub(crate) struct Sandbox {
    directory: PathBuf,
}

/// Runs a test in a sandbox. Without root, or without a BPF object, says loudly that it does not.
pub(crate) fn sandboxed(test: impl FnOnce(&Sandbox) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        return skip("it needs root");
    }
    if lb_ctl::OBJECT.is_none() {
        return skip("the BPF object is not built (`cargo xtask build`)");
    }
    // Removed when the thread has ended: the mount in it is gone then.
    let directory = tempfile::Builder::new().prefix("lbe-").tempdir().expect("a directory");
    let sandbox = Sandbox { directory: directory.path().to_owned() };
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("namespaces of our own");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .expect("mounts of our own");
        std::fs::create_dir(sandbox.bpffs()).expect("a mount point");
        mount(Some("bpf"), &sandbox.bpffs(), Some("bpf"), MsFlags::empty(), None::<&str>)
            .expect("a BPF file system of our own");
        test(&sandbox);
    });
    let result = thread.join();
    drop(directory);
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// Says that a test was left out where nobody captures it, or fails where none may be.
fn skip(why: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(std::env::var_os("LB_REQUIRE_ROOT").is_none(), "{name} cannot do its work: {why}");
    let _ = writeln!(std::io::stderr(), "LEFT OUT: {name}: {why}");
}

impl Sandbox {
    /// A directory outside of any BPF file system.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn bpffs(&self) -> PathBuf {
        self.directory.join("bpf")
    }

    pub(crate) fn options(&self, instance: &str) -> Options {
        Options { bpffs: self.bpffs(), instance: instance.to_owned(), max_flows: MAX_FLOWS, ..Options::default() }
    }

    pub(crate) fn open(&self, instance: &str) -> Datapath {
        Datapath::open(&self.options(instance)).expect("a datapath")
    }

    /// Where an instance's pins are.
    pub(crate) fn pins(&self, instance: &str) -> PathBuf {
        self.bpffs().join("lb-ctl").join(instance)
    }

    /// The directory of pinned maps whose name begins so; there must be exactly one.
    pub(crate) fn maps(&self, instance: &str, prefix: &str) -> PathBuf {
        let names = names(&self.pins(instance));
        let found: Vec<_> = names.iter().filter(|name| name.starts_with(prefix)).collect();
        assert_eq!(found.len(), 1, "{names:?}");
        self.pins(instance).join(found[0])
    }
}

/// The names in a directory, sorted.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

/// Runs a command, given as one line, and returns what it prints.
pub(crate) fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().expect("a command")).args(words).output().expect(line);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Makes a veth pair; both ends are up.
pub(crate) fn veth(name: &str, peer: &str) -> Interface {
    run(&format!("ip link add {name} type veth peer name {peer}"));
    run(&format!("ip link set {name} up"));
    run(&format!("ip link set {peer} up"));
    interface(name)
}

pub(crate) fn interface(name: &str) -> Interface {
    snapshot().expect("the interfaces").interface(name).expect(name).clone()
}

/// A network namespace held by a thread.
pub(crate) struct Pod {
    path: String,
    hold: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Pod {
    pub(crate) fn new() -> Self {
        let (ready, is_ready) = channel();
        let (hold, end) = channel::<()>();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
            let thread = nix::unistd::gettid();
            ready.send(format!("/proc/{}/task/{thread}/ns/net", std::process::id())).expect("a listener");
            let _ = end.recv();
        });
        Self { path: is_ready.recv().expect("a namespace"), hold: Some((hold, thread)) }
    }

    /// Moves an interface into the namespace and brings it up.
    pub(crate) fn take(&self, name: &str) {
        run(&format!("ip link set {name} netns {}", self.path));
        self.run(&format!("ip link set {name} up"));
    }

    /// Runs a command in the namespace.
    pub(crate) fn run(&self, line: &str) -> String {
        run(&format!("nsenter --net={} {line}", self.path))
    }

    /// Does something in the namespace, in the sandbox's file systems.
    pub(crate) fn enter<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        let namespace = std::fs::File::open(&self.path).expect("the namespace");
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                nix::sched::setns(namespace, CloneFlags::CLONE_NEWNET).expect("the namespace");
                action()
            });
            thread.join().expect("no panic")
        })
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if let Some((hold, thread)) = self.hold.take() {
            drop(hold);
            let _ = thread.join();
        }
    }
}
