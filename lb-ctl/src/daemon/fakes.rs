//! Stand-ins for the kernel: interfaces that exist nowhere, hooks that attach nothing, maps in memory.

use super::interfaces::Hooks;
use crate::datapath::{AttachError, Attachment, Error, Mode, PeerTarget, Ring, Role, Settled, XdpState, XdpTarget};
use crate::host::{HostView, Interface};
use crate::maps::{FakeMaps, Image, LbMaps, MapError, MapOp};
use lb_common::{ReasonCount, Traffic};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// An interface of this name; `lo` is the loopback.
pub(super) fn interface(index: u32, name: &str) -> Interface {
    Interface {
        index,
        name: name.to_owned(),
        kind: "veth".to_owned(),
        mac: None,
        mtu: 1500,
        up: true,
        master: None,
        lower: None,
        has_default_route: false,
        hardware: false,
        wire: false,
        ends_elsewhere: false,
        qdisc: "noqueue".to_owned(),
        egress_filters: Vec::new(),
        ethernet: name != "lo",
        leads_to_nodes: false,
        loopback: name == "lo",
    }
}

/// A network of interfaces with one address each.
pub(super) fn network(interfaces: &[(u32, &str, &str)]) -> HostView {
    let mut host = HostView::default();
    for (index, name, address) in interfaces {
        host.interfaces.insert(*index, interface(*index, name));
        host.addresses.push((*index, address.parse().unwrap()));
    }
    host
}

/// What the fake hooks hold, seen from outside.
#[derive(Debug, Default)]
pub(super) struct Attached {
    pub(super) by_index: BTreeMap<u32, Attachment>,
    /// Interfaces that refuse.
    pub(super) refusing: BTreeSet<String>,
    pub(super) attempts: usize,
    pub(super) settled: bool,
    /// The cgroup does not take the hooks.
    pub(super) refuses_sockets: bool,
}

/// Hooks that attach nothing.
#[derive(Debug, Default)]
pub(super) struct FakeHooks {
    /// Shared with the test.
    pub(super) attached: Arc<Mutex<Attached>>,
    /// A copy to lend out.
    copy: BTreeMap<u32, Attachment>,
    sockets: Option<PathBuf>,
}

impl FakeHooks {
    fn change<T>(&mut self, change: impl FnOnce(&mut Attached) -> T) -> T {
        let mut attached = self.attached.lock().unwrap();
        let result = change(&mut attached);
        self.copy.clone_from(&attached.by_index);
        result
    }
}

impl Hooks for FakeHooks {
    fn attach(&mut self, interface: &Interface, mode: Mode) -> Result<Attachment, AttachError> {
        self.change(|attached| {
            attached.attempts += 1;
            if attached.refusing.contains(&interface.name) {
                return Err(AttachError::Loopback { interface: interface.name.clone() });
            }
            let attachment = Attachment {
                ifindex: interface.index,
                name: interface.name.clone(),
                mode,
                xdp: XdpState::Off { why: String::new() },
                tcx: true,
                clsact: false,
                role: Role::LocalClients,
                target: XdpTarget::Yes,
                peer: PeerTarget::no(""),
                own_mac: None,
                adopted: false,
                notes: Vec::new(),
            };
            attached.by_index.insert(interface.index, attachment.clone());
            Ok(attachment)
        })
    }

    fn detach(&mut self, ifindex: u32) -> Result<bool, Error> {
        Ok(self.change(|attached| attached.by_index.remove(&ifindex).is_some()))
    }

    fn attachments(&self) -> Vec<&Attachment> {
        self.copy.values().collect()
    }

    fn refresh(&mut self, view: &HostView) -> bool {
        self.change(|attached| {
            let before = attached.by_index.len();
            attached.by_index.retain(|index, _| view.interfaces.contains_key(index));
            attached.by_index.len() != before
        })
    }

    fn serve_sockets(&mut self, cgroup: &Path) -> Result<(), Error> {
        if self.change(|attached| attached.refuses_sockets) {
            self.sockets = None;
            return Err(Error::Option("the cgroup refuses".to_owned()));
        }
        self.sockets = Some(cgroup.into());
        Ok(())
    }

    fn sockets(&self) -> Option<&Path> {
        self.sockets.as_deref()
    }

    fn settle(&mut self) -> Result<Settled, Error> {
        self.change(|attached| attached.settled = true);
        Ok(Settled::default())
    }

    fn capture(&mut self) -> Result<Ring, Error> {
        Err(Error::NoObject)
    }

    fn end_capture(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// Maps in memory that a test looks into while an engine writes them.
#[derive(Debug)]
pub(super) struct SharedMaps<M = FakeMaps>(pub(super) Arc<Mutex<M>>);

impl<M> Clone for SharedMaps<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M> SharedMaps<M> {
    pub(super) fn new(maps: M) -> Self {
        Self(Arc::new(Mutex::new(maps)))
    }
}

impl<M: LbMaps> LbMaps for SharedMaps<M> {
    fn read(&self) -> Result<Image, MapError> {
        self.0.lock().unwrap().read()
    }

    fn apply(&mut self, op: &MapOp) -> Result<(), MapError> {
        self.0.lock().unwrap().apply(op)
    }

    fn capacity(&self, map: &str) -> u32 {
        self.0.lock().unwrap().capacity(map)
    }

    fn reasons(&self) -> Result<Vec<ReasonCount>, MapError> {
        self.0.lock().unwrap().reasons()
    }

    fn service_stats(&self, ids: &[u32]) -> Result<BTreeMap<u32, Traffic>, MapError> {
        self.0.lock().unwrap().service_stats(ids)
    }

    fn backend_stats(&self, ids: &[u32]) -> Result<BTreeMap<u32, Traffic>, MapError> {
        self.0.lock().unwrap().backend_stats(ids)
    }
}
