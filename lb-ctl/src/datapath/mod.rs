//! The datapath in the kernel, from user space: loaded, attached, adopted, removed.
//!
//! Everything is pinned, so forwarding outlives the daemon. A new daemon takes over in this order, and a crash at any
//! point leaves what the next one can take over or remove:
//!
//! 1. [`Datapath::open`] takes the locks, makes or adopts the maps and loads the programs. What is attached goes on.
//! 2. The caller brings the maps ([`Datapath::maps`]) up to date.
//! 3. [`Datapath::attach`] for each interface, and [`Datapath::serve_sockets`] for a cgroup: a program that is there is
//!    replaced in one step, with no packet between.
//! 4. [`Datapath::settle`] takes off what no interface needs any more, and removes the earlier maps.

pub mod affinity;
mod attach;
mod attachment;
pub(crate) mod bpf;
mod bpffs;
mod capture;
pub mod census;
mod cleanup;
pub mod conntrack;
mod error;
mod events;
mod filters;
pub mod flow_table;
mod handover;
mod instance;
mod layout;
mod links;
mod lock;
mod meta;
mod peer;
mod programs;
mod refusal;
mod require;
pub(crate) mod side;
mod sockets;
mod target;
pub mod test_run;
pub mod tracer;

pub(crate) use attach::wants_xdp;
pub use attachment::{AttachError, Attachment, Mode, PeerTarget, Role, TcMode, UnknownMode, XdpState, XdpTarget};
pub use bpffs::DEFAULT_BPFFS;
pub(crate) use bpffs::is_bpffs;
pub use capture::Ring;
pub use cleanup::cleanup;
pub use error::Error;
pub use events::{Events, Untold};
pub use handover::Settled;
pub use instance::{Instance, SharedMaps};
pub use programs::{Clock, PacketLog};
pub(crate) use refusal::others_on;
pub(crate) use require::{kernel_is_at_least, privilege};
pub use sockets::Cgroup;

use crate::host::{HostView, Interface};
use crate::maps::PinnedMaps;
use attach::Attacher;
use bpffs::Pins;
use handover::Handover;
use layout::{Half, Layout};
use lb_common::maps::{DEFAULT_MAX_FLOWS, MAX_FLOWS_RANGE};
use links::Links;
use lock::{InstanceLock, NamespaceLock};
use meta::Meta;
use programs::{Kind, Programs};
use sockets::SocketLinks;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use target::Prober;
use test_run::HookPoint;
use tracing::warn;

/// Name of the instance when the user gives none.
pub const DEFAULT_INSTANCE: &str = "default";

/// Where a datapath lives and how large it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// A directory on a BPF file system.
    pub bpffs: PathBuf,
    /// Keeps several datapaths on one BPF file system apart.
    pub instance: String,
    /// How many flows of each family must fit.
    pub max_flows: u32,
    /// How programs come to the TC hooks.
    pub tc: TcMode,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bpffs: PathBuf::from(DEFAULT_BPFFS),
            instance: DEFAULT_INSTANCE.to_owned(),
            max_flows: DEFAULT_MAX_FLOWS,
            tc: TcMode::Auto,
        }
    }
}

/// A datapath under this process's control. Dropping it leaves everything attached.
#[derive(Debug)]
pub struct Datapath {
    programs: Programs,
    /// The programs that go back on the hooks after a capture.
    plain: Option<Programs>,
    maps: PinnedMaps,
    shared: SharedMaps,
    links: Links,
    sockets: SocketLinks,
    attachments: BTreeMap<u32, Attachment>,
    handover: Handover,
    _locks: (InstanceLock, NamespaceLock),
}

/// What the maps of this build look like: the hashes of the layouts of configuration maps and flow tables.
pub fn layout() -> String {
    Layout::wanted(0).text()
}

impl Datapath {
    /// Takes control of the instance, in the network namespace of the calling thread.
    pub fn open(options: &Options) -> Result<Self, Error> {
        Self::open_object(options, crate::OBJECT.ok_or(Error::NoObject)?)
    }

    /// The same with a BPF object of the caller's.
    pub fn open_object(options: &Options, object: &[u8]) -> Result<Self, Error> {
        Self::load(options, object, Kind::Plain)
    }

    /// The same as [`Datapath::open`], with a clock that the caller sets ahead.
    pub fn open_with_clock(options: &Options) -> Result<(Self, Clock), Error> {
        let mut datapath = Self::load(options, crate::OBJECT.ok_or(Error::NoObject)?, Kind::Timed)?;
        let clock = datapath.programs.clock()?;
        Ok((datapath, clock))
    }

    fn load(options: &Options, object: &[u8], kind: Kind) -> Result<Self, Error> {
        require::check(options)?;
        bpffs::ensure(&options.bpffs)?;
        let pins = Pins::new(options);
        let namespace = NamespaceLock::take()?;
        let instance = InstanceLock::take(&pins, &options.instance)?;
        let wanted = Layout::wanted(options.max_flows);
        let in_use = claim(&pins, wanted)?;
        let handover = Handover::begin(&pins, wanted, in_use)?;
        let (config, flows) = (handover.directory(Half::Config), handover.directory(Half::Flows));
        let shared = SharedMaps { config, flows };
        let programs = Programs::load(object, &shared, kind)?;
        crate::memory::give_back_files();
        Ok(Self {
            programs,
            plain: None,
            maps: PinnedMaps::open(&shared.config, &shared.flows)?,
            shared,
            links: Links::open(&pins, options)?,
            sockets: SocketLinks::scan(&pins)?,
            attachments: BTreeMap::new(),
            handover,
            _locks: (instance, namespace),
        })
    }

    /// The program `lb_xdp`, `lb_tcx_ingress` or one of their neighbours in the object, for whoever runs it by hand.
    pub fn program(&self, name: &str) -> io::Result<OwnedFd> {
        self.programs.find(name).ok_or(io::ErrorKind::NotFound)?.try_clone_to_owned()
    }

    /// The maps.
    pub fn maps(&self) -> PinnedMaps {
        self.maps.clone()
    }

    /// Where the maps are, for other instances of the programs.
    pub fn shared_maps(&self) -> SharedMaps {
        self.shared.clone()
    }

    /// The tags of the programs that are on the hooks of interfaces, as far as the kernel tells: it does not of filters.
    pub fn tags(&self) -> BTreeMap<(u32, HookPoint), u64> {
        self.links.tags()
    }

    /// Takes an interface under management, or changes its mode.
    pub fn attach(&mut self, interface: &Interface, mode: Mode) -> Result<Attachment, AttachError> {
        match (Attacher { programs: &self.programs, links: &mut self.links }).attach(interface, mode) {
            Ok(mut attachment) => {
                // Some drivers offer to take frames only once a program is attached, so this comes last.
                attachment.target =
                    Prober::new(&self.programs, Some(interface.index)).target(interface, &attachment.xdp);
                self.attachments.insert(interface.index, attachment.clone());
                Ok(attachment)
            }
            Err(error) => {
                self.attachments.remove(&interface.index);
                Err(error)
            }
        }
    }

    /// Takes an interface out of management; whether anything was attached.
    pub fn detach(&mut self, ifindex: u32) -> Result<bool, Error> {
        let managed = self.attachments.remove(&ifindex).is_some();
        Ok(!self.links.remove_all(ifindex)?.is_empty() || managed)
    }

    /// Translates what processes in a cgroup ask for at their sockets. Does nothing where that is so already. A cgroup that
    /// takes only some of the hooks keeps none.
    pub fn serve_sockets(&mut self, path: &Path) -> Result<(), Error> {
        let cgroup = Cgroup::open(path).inspect_err(|_| self.sockets.lose())?;
        if self.sockets.serves(&cgroup) {
            return Ok(());
        }
        self.programs.load_sockets()?;
        self.sockets.serve(&cgroup, &self.programs)
    }

    /// The cgroup whose processes are served at their sockets.
    pub fn sockets(&self) -> Option<&Path> {
        self.sockets.served()
    }

    /// What the programs log, to be read by the caller; once.
    pub fn packet_log(&mut self) -> Option<PacketLog> {
        self.programs.packet_log()
    }

    /// What the programs tell of packets and flows; once.
    pub fn events(&mut self) -> Result<Events, Error> {
        self.programs.events()
    }

    /// The managed interfaces.
    pub fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.attachments.values()
    }

    /// Looks at the managed interfaces again: names, roles, whether XDP can send by them and TCX to their other ends. Forgets those that have gone.
    /// Says whether anything changed. To be called when the network changed, and every now and then: a pod's NAPI is
    /// switched on without a word to us.
    pub fn refresh(&mut self, view: &HostView) -> bool {
        let prober = Prober::new(&self.programs, None);
        let mut changed = false;
        let mut gone = Vec::new();
        for (ifindex, attachment) in &mut self.attachments {
            let Some(interface) = view.interfaces.get(ifindex) else {
                gone.push(*ifindex);
                continue;
            };
            let target = prober.again(interface, &attachment.xdp, &attachment.target);
            let role = attach::role(interface, attachment.mode);
            let own_mac = attach::own_mac(interface);
            let peer = peer::judge(interface, role);
            changed |= attachment.target != target || attachment.role != role || attachment.name != interface.name;
            changed |= attachment.own_mac != own_mac || attachment.peer != peer;
            attachment.peer = peer;
            attachment.own_mac = own_mac;
            attachment.name.clone_from(&interface.name);
            attachment.target = target;
            attachment.role = role;
        }
        for ifindex in gone {
            changed = true;
            if let Err(error) = self.detach(ifindex) {
                warn!(ifindex, %error, "the links of an interface that has gone could not be removed");
            }
        }
        changed
    }

    /// Ends the take-over: what is attached to interfaces that are not managed any more is taken off, flows that the
    /// earlier programs changed in the meantime are carried over, and the earlier maps are removed.
    pub fn settle(&mut self) -> Result<Settled, Error> {
        let mut detached = Vec::new();
        for ifindex in self.links.interfaces() {
            if !self.attachments.contains_key(&ifindex) {
                let hooks = self.links.remove_all(ifindex)?;
                detached.extend(hooks.iter().map(|hook| format!("{hook} from interface {ifindex}")));
            }
        }
        if self.sockets.served().is_none() {
            let hooks = self.sockets.remove()?;
            detached.extend((hooks > 0).then(|| format!("{hooks} socket hooks from a cgroup")));
        }
        Ok(Settled { detached, ..self.handover.finish()? })
    }
}

/// Makes maps in a directory of a BPF file system for a datapath that is attached nowhere and remembers little. Nobody is kept
/// from doing the same elsewhere.
pub fn maps_in(directory: &Path, max_flows: u32) -> Result<(SharedMaps, PinnedMaps), Error> {
    require::check(&Options { max_flows, ..Options::default() })?;
    let shared = SharedMaps { config: directory.join("config"), flows: directory.join("flows") };
    layout::open_or_create(&shared.config, Half::Config, max_flows)?;
    layout::open_or_create(&shared.flows, Half::Flows, MAX_FLOWS_RANGE.0)?;
    let maps = PinnedMaps::open(&shared.config, &shared.flows)?;
    Ok((shared, maps))
}

/// What attaching to the interface would come to at best.
pub fn as_if_attached(interface: &Interface, mode: Mode) -> Attachment {
    attach::as_if(interface, mode)
}

/// Makes sure that the pins are of this network namespace; the layout of the maps in use, if there are any.
fn claim(pins: &Pins, wanted: Layout) -> Result<Option<Layout>, Error> {
    let here = Meta::here(wanted)?;
    match Meta::read(pins)? {
        Some(found) if found.same_namespace(&here) => return Ok(Some(found.layout)),
        Some(_) if !Links::scan(pins)?.interfaces().is_empty() => {
            return Err(Error::OtherNamespace(pins.root().into()));
        }
        Some(_) => {
            warn!(pins = %pins.root().display(), "the pins are of a network namespace that has gone; beginning anew");
            cleanup::wipe(pins)?;
        }
        None => {}
    }
    here.write(pins)?;
    Ok(None)
}
