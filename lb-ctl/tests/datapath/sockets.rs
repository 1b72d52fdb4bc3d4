//! Socket hooks on a cgroup that nobody is in.

use crate::sandbox::{Sandbox, names, sandboxed};
use aya::maps::{HashMap, Map, MapData};
use lb_common::{Peer, SocketKey, TCP};
use lb_ctl::datapath::{Datapath, Error, Options, cleanup};
use std::path::{Path, PathBuf};

/// A cgroup that is removed with its value.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str) -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("a list of mounts");
        let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let found = fields.into_iter().find(|fields| fields.get(2) == Some(&"cgroup2"));
        let mount = found.map(|fields| PathBuf::from(fields[1])).expect("a cgroup2 file system is mounted");
        let path = mount.join(format!("lb-ctl-sandbox-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).expect("root makes cgroups");
        Self(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Nobody is in it; the test may have removed it itself.
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn pinned(sandbox: &Sandbox) -> usize {
    let links = names(&sandbox.pins("one").join("links"));
    links.iter().filter(|name| name.starts_with("socket-")).count()
}

#[test]
fn hooks_are_pinned_adopted_and_taken_off() {
    sandboxed(|sandbox| {
        let (one, other) = (Cgroup::new("one"), Cgroup::new("other"));
        let mut datapath = sandbox.open("one");
        datapath.serve_sockets(&one.0).expect("attached");
        datapath.serve_sockets(&one.0).expect("attached already");
        assert_eq!((datapath.sockets(), pinned(sandbox)), (Some(&*one.0), 8));
        drop(datapath);

        // Another cgroup, and one that has gone.
        let mut datapath = sandbox.open("one");
        assert_eq!(datapath.sockets(), None, "not before it is asked for");
        datapath.serve_sockets(&other.0).expect("attached");
        std::fs::remove_dir(&other.0).expect("nobody is in it");
        let error = datapath.serve_sockets(&other.0).unwrap_err();
        assert!(matches!(error, Error::Cgroup { .. }) && datapath.sockets().is_none(), "{error}");
        datapath.serve_sockets(&one.0).expect("attached");
        assert_eq!((datapath.sockets(), pinned(sandbox)), (Some(&*one.0), 8));
        drop(datapath);

        // Nobody asks for it any more.
        let mut datapath = sandbox.open("one");
        let settled = datapath.settle().expect("settled");
        assert_eq!(settled.detached, ["8 socket hooks from a cgroup"]);
        assert_eq!(pinned(sandbox), 0);
        datapath.serve_sockets(&one.0).expect("attached");
        drop(datapath);
        let removed = cleanup(&sandbox.options("one")).expect("removed");
        assert!(removed.contains(&"detached 8 socket hooks from their cgroup".to_owned()), "{removed:?}");
    });
}

fn sockets(directory: &Path) -> HashMap<MapData, SocketKey, Peer> {
    let map = MapData::from_pin(directory.join("SOCKETS")).expect("the map");
    Map::LruHashMap(map).try_into().expect("a hash")
}

#[test]
fn another_size_carries_over_whom_sockets_asked_for() {
    sandboxed(|sandbox| {
        let asked = Peer::new(4, TCP, [10; 16], [0, 80]);
        let key = SocketKey { cookie: 7, peer: Peer::new(4, TCP, [11; 16], [0, 81]) };
        drop(sandbox.open("one"));
        sockets(&sandbox.maps("one", "flows-")).insert(key, asked, 0).expect("written");
        let larger = Options { max_flows: 2048, ..sandbox.options("one") };
        Datapath::open(&larger).expect("a datapath").settle().expect("settled");
        assert_eq!(sockets(&sandbox.maps("one", "flows-")).get(&key, 0).expect("carried over"), asked);
    });
}
