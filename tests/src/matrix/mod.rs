//! The matrix: every way in which a Service can be used on a node, a cell each.
//!
//! A cell is run on a [`stage::Stage`], which is set up once for all cells of one [`Environment`]; what is not possible is
//! told by one table of rules ([`rules`]), and [`cover`] chooses the environments that are enough for a short run.

mod cgroup;
pub mod cover;
pub mod rules;
pub mod run;
pub mod stage;

use std::fmt;

/// Declares a dimension of the matrix: its values in their order, and how they are printed.
macro_rules! dimension {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$value_doc])* $value,)+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$value,)+];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $(Self::$value => $text,)+ })
            }
        }
    };
}

dimension! {
    /// IP version.
    Family {
        /// IPv4
        V4 = "v4",
        /// IPv6
        V6 = "v6",
    }
}

dimension! {
    /// What translates: the mode of the interfaces that wires feed (pods' interfaces carry TCX beside it), or the hooks
    /// in the client's cgroup.
    Hook {
        /// Native XDP.
        Native = "xdp",
        /// Generic XDP.
        Generic = "xdp-generic",
        /// TCX alone.
        Tcx = "tcx",
        /// The socket hooks.
        Socket = "socket",
    }
}

dimension! {
    /// Transport protocol.
    Protocol {
        /// TCP
        Tcp = "tcp",
        /// UDP
        Udp = "udp",
    }
}

dimension! {
    /// Who asks.
    Asker {
        /// A host beyond the wire.
        Outside = "outside",
        /// A pod of the node.
        Pod = "pod",
        /// A process of the node itself.
        Host = "host",
    }
}

dimension! {
    /// Who answers.
    Backend {
        /// A pod of the node.
        Local = "local",
        /// A pod of another node.
        Remote = "remote",
        /// The client itself.
        Itself = "itself",
    }
}

dimension! {
    /// The daemon's `--path`.
    Path {
        /// Past the host's stack.
        Direct = "direct",
        /// Through it.
        Stack = "stack",
    }
}

dimension! {
    /// `rp_filter` of the node.
    RpFilter {
        /// Off.
        Off = "rp_filter=0",
        /// Strict.
        Strict = "rp_filter=1",
    }
}

dimension! {
    /// `ct state invalid drop` in the node's firewall.
    Firewall {
        /// Without.
        Off = "ct=off",
        /// With.
        Stateful = "ct=on",
    }
}

dimension! {
    /// How pods are connected.
    Network {
        /// A route for each pod.
        Routed = "routed",
        /// All pods of a node on a bridge.
        Bridge = "bridge",
    }
}

/// How a node is set up: what cells can share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Environment {
    /// What translates.
    pub hook: Hook,
    /// The daemon's path.
    pub path: Path,
    /// `rp_filter`.
    pub rp_filter: RpFilter,
    /// The firewall.
    pub firewall: Firewall,
    /// How pods are connected.
    pub network: Network,
}

/// One cell. The order of the fields is the order in which cells are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell {
    /// IP version.
    pub family: Family,
    /// What translates.
    pub hook: Hook,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Who asks.
    pub asker: Asker,
    /// Who answers.
    pub backend: Backend,
    /// The daemon's path.
    pub path: Path,
    /// `rp_filter`.
    pub rp_filter: RpFilter,
    /// The firewall.
    pub firewall: Firewall,
    /// How pods are connected.
    pub network: Network,
}

impl Environment {
    /// All of them.
    pub fn all() -> Vec<Self> {
        let mut all: Vec<Self> = Cell::all().iter().map(Cell::environment).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The cells that run in it, in order.
    pub fn cells(&self) -> Vec<Cell> {
        Cell::all().into_iter().filter(|cell| cell.environment() == *self).collect()
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {} {}", self.hook, self.path, self.rp_filter, self.firewall, self.network)
    }
}

impl Cell {
    /// The whole matrix, in order.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for &family in Family::ALL {
            for &hook in Hook::ALL {
                for &protocol in Protocol::ALL {
                    for &asker in Asker::ALL {
                        for &backend in Backend::ALL {
                            for &path in Path::ALL {
                                for &rp_filter in RpFilter::ALL {
                                    for &firewall in Firewall::ALL {
                                        all.extend(Network::ALL.iter().map(|&network| Self {
                                            family,
                                            hook,
                                            protocol,
                                            asker,
                                            backend,
                                            path,
                                            rp_filter,
                                            firewall,
                                            network,
                                        }));
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
        all
    }

    /// The environment it runs in.
    pub fn environment(&self) -> Environment {
        let Self { hook, path, rp_filter, firewall, network, .. } = *self;
        Environment { hook, path, rp_filter, firewall, network }
    }

    /// Its values as numbers, one for each dimension.
    pub fn coordinates(&self) -> [u8; 9] {
        [
            self.family as u8,
            self.hook as u8,
            self.protocol as u8,
            self.asker as u8,
            self.backend as u8,
            self.path as u8,
            self.rp_filter as u8,
            self.firewall as u8,
            self.network as u8,
        ]
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {:<11} {} {:<7} {:<6} {:<6} {} {:<6} {:<6}",
            self.family,
            self.hook,
            self.protocol,
            self.asker,
            self.backend,
            self.path,
            self.rp_filter,
            self.firewall,
            self.network
        )
    }
}

/// What came of a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All was as it should be; who did the work.
    Good(String),
    /// What was observed instead.
    Failed(String),
    /// It cannot be, and why.
    NotApplicable(&'static str),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Good(how) => write!(f, "ok    {how}"),
            Outcome::Failed(observed) => write!(f, "FAIL  {observed}"),
            Outcome::NotApplicable(reason) => write!(f, "n/a: {reason}"),
        }
    }
}
