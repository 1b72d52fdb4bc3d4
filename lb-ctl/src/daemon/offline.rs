//! A trace without a daemon: what the datapath would make of a packet if these manifests were all there is.
//!
//! The daemon's own model and image fill maps of their own, on a BPF file system that nobody else sees and that goes with the
//! thread. Interfaces, addresses and routes are those of the network namespace that it runs in; nothing is attached there.

use super::balancer::{Balancer, Inputs};
use super::config::Config;
use super::packet_trace::{self, Walked};
use super::{interfaces, pattern};
use crate::api::ManifestText;
use crate::api::trace::{TraceAnswer, TraceRequest};
use crate::datapath::{self, Attachment, Mode};
use crate::host::{self, HostView};
use crate::manifest::{self, Parsed, Validate};
use crate::store::{self, SourceId, Store};
use crate::trace::{Error, Scene};
use jiff::Timestamp;
use lb_common::HostPair;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// What is to know of such a trace.
const NOTE: &str = "no daemon was asked: no connection is known, and XDP is taken to be attached wherever it is wanted";

/// Traces a packet through what these manifests would be on this node.
pub fn trace(request: &TraceRequest, config: &Config, manifests: &[ManifestText]) -> Result<TraceAnswer, Error> {
    let store = read(config, manifests)?;
    let directory = Directory::new()?;
    let maps = directory.0.as_path();
    // The thread's mounts are its own, and go with it.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            mount_bpffs(maps)?;
            trace_in(request, config, &store, maps)
        });
        thread.join().unwrap_or_else(|_| Err(Error::Request("the trace broke off".to_owned())))
    })
}

/// A directory that is removed when it is not used any more.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Result<Self, Error> {
        let path = std::env::temp_dir().join(format!("lb-ctl-trace-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(|source| datapath::Error::Path {
            action: "make the directory",
            path: path.clone(),
            source,
        })?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // An empty directory harms nobody.
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn mount_bpffs(at: &Path) -> Result<(), Error> {
    let failed = |errno: nix::Error| match errno {
        nix::Error::EPERM => {
            datapath::Error::Privilege("CAP_SYS_ADMIN, CAP_BPF and CAP_NET_ADMIN to trace without a daemon".to_owned())
        }
        errno => datapath::Error::Path { action: "mount a BPF file system at", path: at.into(), source: errno.into() },
    };
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).map_err(failed)?;
    mount(Some("bpf"), at, Some("bpf"), MsFlags::empty(), None::<&str>).map_err(failed)?;
    Ok(())
}

/// The objects of the manifests, with what is allocated for them.
fn read(config: &Config, manifests: &[ManifestText]) -> Result<Store, Error> {
    let opened = Store::open(store::Options {
        state_file: None,
        service_cidrs: config.service_cidrs.clone(),
        node_port_range: config.node_port_range.clone(),
    });
    let mut store = opened.map_err(|error| Error::Request(error.to_string()))?;
    store.offer(config.load_balancer_pools.clone());
    let mut parsed = Parsed::default();
    for file in manifests {
        parsed.extend(manifest::read(&file.text, &file.origin, "default", Validate::Strict));
    }
    store.apply(&SourceId::Cli, parsed, Timestamp::now()).map_err(|rejected| match rejected {
        store::Rejected::Invalid(diagnostics) => {
            Error::Request(diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        }
        other => Error::Request(other.to_string()),
    })?;
    Ok(store)
}

fn trace_in(request: &TraceRequest, config: &Config, store: &Store, directory: &Path) -> Result<TraceAnswer, Error> {
    let (shared, mut maps) = datapath::maps_in(directory, config.max_flows)?;
    let failed = |error: &dyn std::error::Error| Error::Request(error.to_string());
    let (name, lent) = (config.node_name.clone(), config.snat_addresses.clone());
    let route_to = |address: IpAddr| host::route_to(address).unwrap_or_default();
    let objects = store.snapshot();
    let mut balancer = Balancer::adopt(&maps, name, lent, Instant::now()).map_err(|error| failed(&error))?;
    let (host, _) = balancer.survey(&host::snapshot()?, &objects, &route_to);
    let attachments = attachments(config, &host, request.interface.as_deref());
    let devices = interfaces::devices(&attachments, config.to_pods);
    let inputs = Inputs {
        objects: Arc::clone(&objects),
        host: Arc::clone(&host),
        devices: Some(devices),
        pair: HostPair::default(),
        balancing: config.balancing,
        maglev_seed: config.maglev_seed,
        path: config.path,
        pods: (config.detect_local, config.cluster_cidrs.clone()),
        masquerade_all: config.masquerade_all,
        nodeport_addresses: config.nodeport_addresses.clone(),
        no_loopback: !config.localhost_nodeports,
    };
    balancer.observe(&inputs, &route_to, Timestamp::now());
    balancer.reconcile(&mut maps, Instant::now()).map_err(|error| failed(&error))?;
    let scene = Scene { host, attachments, ..Scene::default() };
    let walked = Walked::walk(request, &scene, &shared)?;
    let names = packet_trace::names(&balancer, &walked.services());
    let mut answer = walked.explain(request, &scene, names);
    answer.notes.insert(0, NOTE.to_owned());
    Ok(answer)
}

/// The interfaces that would be managed: those that the configuration names, and the one that the packet comes in by if that is
/// named.
fn attachments(config: &Config, host: &HostView, named: Option<&str>) -> Vec<Attachment> {
    let mode = |name: &str| match pattern::mode_for(&config.interfaces, name) {
        None if named == Some(name) => Some(Mode::Auto),
        mode => mode,
    };
    let interfaces = host.interfaces.values().filter(|interface| interface.ethernet && !interface.loopback);
    interfaces.filter_map(|interface| Some(datapath::as_if_attached(interface, mode(&interface.name)?))).collect()
}
