//! What holds of the live maps at every moment, each once: the heading of a finding, a row of docs/audit.md, and the name
//! that the code finds it under.

use lb_common::maps;

/// Declares the invariants, each with its name, the maps that it is about, a sentence, and how it is repaired.
macro_rules! invariants {
    ($($variant:ident $name:literal [$($map:ident),*] $sentence:literal $repair:literal;)+) => {
        /// Something that holds of the maps.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Invariant {
            $(#[doc = $sentence] $variant,)+
        }

        impl Invariant {
            /// All of them, in the order of a report.
            pub const ALL: &'static [Invariant] = &[$(Invariant::$variant,)+];

            /// The stable name.
            pub const fn name(self) -> &'static str {
                match self { $(Invariant::$variant => $name,)+ }
            }

            /// The maps that it is about.
            pub const fn maps(self) -> &'static [&'static str] {
                match self { $(Invariant::$variant => &[$(maps::$map),*],)+ }
            }

            /// What holds.
            pub const fn sentence(self) -> &'static str {
                match self { $(Invariant::$variant => $sentence,)+ }
            }

            /// How it is made to hold again; empty: nobody touches it.
            pub const fn repair(self) -> &'static str {
                match self { $(Invariant::$variant => $repair,)+ }
            }
        }
    };
}

invariants! {
    Settings "settings" [SETTINGS]
        "The settings are those of the configuration and the node, and the seed is the one that was chosen when the maps were made."
        "written again";
    Devices "devices" [DEVICES]
        "Each managed interface has its record with what may be done with it, and no other interface has one."
        "written again, or deleted";
    Addresses "addresses" [OWNED4, OWNED6]
        "The owned addresses are those of the Services and of the node, each known as whose it is."
        "written again, or deleted";
    Gate "gate" [GATE]
        "The gate is open for packets to every owned address, from every backend, and of every live flow."
        "opened";
    Services "services" [SERVICES]
        "Each frontend that is served has its record, with the set, the counters and the policy of its Service, and there is no other record."
        "written again, or deleted; where backends or slots beneath it were wrong, withdrawn first";
    Networks "networks" [NETWORKS4, NETWORKS6]
        "The networks of each group are those of the cluster's pods and of the source ranges of the Services."
        "written again, or deleted";
    Slots "slots" [SLOTS]
        "The slots of each published set are the Service's endpoints by their weights, or its Maglev table, and name a backend that is alive by id and generation."
        "written again, while the Services that publish them are withdrawn";
    Backends "backends" [BACKENDS]
        "Each endpoint in use has its record, with its generation and where it is; one that nobody uses any more drains and is then gone; no other record is in use."
        "written again, or marked as not in use";
    NodePorts "node-ports" [NODE_PORTS]
        "Each UDP node port names the ClusterIP and port of its Service, and there is no other."
        "written again, or deleted";
    References "references" [SERVICES, SLOTS, BACKENDS, OWNED4, OWNED6, NODE_PORTS]
        "What the daemon means to write refers to nothing that is missing, is not alive, or is something else by now; no two records share an id."
        "";
    FlowRecord "flow-record" [FLOWS4, FLOWS6]
        "A flow is of TCP, UDP or SCTP, has no flag that means nothing, and its service port is one whose id was given out."
        "deleted with its other direction, if no packet passed between two looks";
    FlowBackend "flow-backend" [FLOWS4, FLOWS6]
        "A flow's backend was given out under its id and generation; while the record is in use so, its address is the one that the flow translates."
        "deleted with its other direction, if no packet passed between two looks";
    FlowPair "flow-pair" [FLOWS4, FLOWS6]
        "A confirmed flow has an entry for each direction, each the reverse of the other's rewrite, with the same backend and service port."
        "the missing one is made again, as the next packet would";
    FlowChecksum "flow-checksum" [FLOWS4, FLOWS6]
        "What a flow adds to checksums is the change of the addresses and ports that it makes."
        "deleted with its other direction, if no packet passed between two looks";
    FlowClock "flow-clock" [FLOWS4, FLOWS6]
        "No flow was used in a tick that is still to come: its way out would be taken for fresh, and it would never expire."
        "deleted with its other direction, if no packet passed between two looks";
    FlowWayOut "flow-way-out" [FLOWS4, FLOWS6]
        "The way out of a flow that was used in this tick or the last leads to an interface that is there."
        "";
    Affinity "affinity" [AFFINITY]
        "What is remembered of a client names a service port and a backend that were given out, and was not noted in a tick that is still to come."
        "deleted: the client's hash decides";
    Sockets "sockets" [SOCKETS]
        "A socket's peer and whom its process asked for are addresses of one family, with ports and one protocol."
        "deleted: the process is shown the backend";
    Fragments "fragments" [FRAGMENTS4, FRAGMENTS6]
        "What a first fragment left is of TCP, UDP or SCTP, the protocol of its datagram, and not of a tick that is still to come."
        "deleted";
    Counters "counters" [REASONS, SERVICE_STATS, BACKEND_STATS]
        "No packet is shorter than an IP header, so the bytes of a service port or backend are at least twenty times its packets; no reason counts bytes without packets, and one that has no name counts nothing."
        "";
    Budgets "budgets" [BUDGETS]
        "No CPU has spent more in a tick than it may, or in a tick that is still to come."
        "set to nothing spent";
}

/// Maps of which nothing is promised: they are written before they are read, packet by packet, or tell what has happened; or they
/// say where the entries of flow tables stand, and what is wrong in them is an entry that is missing.
pub const UNPROMISED: [&str; 9] = [
    maps::EVENTS,
    maps::LISTENED,
    maps::TELLINGS,
    maps::NEIGHBOUR,
    maps::SCRATCH4,
    maps::SCRATCH6,
    maps::FLOWS4_SETS,
    maps::FLOWS6_SETS,
    maps::HASHING,
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_map_has_an_invariant_or_says_that_it_has_none() {
        let promised = Invariant::ALL.iter().flat_map(|invariant| invariant.maps());
        let spoken_of: BTreeSet<&str> = promised.copied().chain(UNPROMISED).collect();
        let all: BTreeSet<&str> = maps::MAPS.iter().map(|map| map.name).collect();
        assert_eq!(spoken_of, all);
        let names: BTreeSet<&str> = Invariant::ALL.iter().map(|invariant| invariant.name()).collect();
        assert_eq!(names.len(), Invariant::ALL.len());
    }
}
