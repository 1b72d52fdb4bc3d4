//! The metrics: every name, once, with what it means. The exposition, docs/metrics.md and the tests of dashboard and alerts
//! follow from this table.
//!
//! Names are those of Prometheus' conventions (<https://prometheus.io/docs/practices/naming/>): base units, `_total` for
//! what only grows.

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It comes and goes.
    Gauge,
    /// Durations by bucket.
    Histogram,
}

impl Kind {
    /// Its name in the exposition format.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// Declares the metrics.
macro_rules! metrics {
    ($($variant:ident $kind:ident $name:literal [$($label:literal)*] $help:literal;)+) => {
        /// One metric.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Metric {
            $(#[doc = $help] $variant,)+
        }

        impl Metric {
            /// Every metric, in the order of the exposition.
            pub const ALL: &'static [Metric] = &[$(Metric::$variant,)+];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self { $(Metric::$variant => $name,)+ }
            }

            /// What it means, in a sentence.
            pub const fn help(self) -> &'static str {
                match self { $(Metric::$variant => $help,)+ }
            }

            /// How it behaves.
            pub const fn kind(self) -> Kind {
                match self { $(Metric::$variant => Kind::$kind,)+ }
            }

            /// The names of its labels.
            pub const fn labels(self) -> &'static [&'static str] {
                match self { $(Metric::$variant => &[$($label),*],)+ }
            }
        }
    };
}

metrics! {
    BuildInfo Gauge "lbctl_build_info" ["version" "layout"]
        "1; version of the daemon, and the hashes of its maps' layouts: daemons with the same ones adopt each other's maps.";
    Ready Gauge "lbctl_ready" []
        "Whether every source has been read, the maps hold what follows, and every named interface that exists has its hooks.";
    Problems Gauge "lbctl_problems" []
        "What an operator should look at: as many as lb-ctl status lists.";
    SourceSynced Gauge "lbctl_source_synced" ["source"]
        "Whether a source of manifests has been read in full at least once.";
    SourceErrors Gauge "lbctl_source_errors" ["source"]
        "Errors in what a source of manifests gave last; what it gave before still counts.";
    Objects Gauge "lbctl_objects" ["kind"]
        "Objects that are known, by plural of their kind.";
    Interfaces Gauge "lbctl_interfaces" ["state"]
        "Named interfaces: attached, with the datapath's hooks, or missing.";
    ChangeDelay Histogram "lbctl_change_delay_seconds" []
        "From the moment a change was taken (manifests, readiness, the node's network) to the moment the maps had it.";
    ChangeWaiting Gauge "lbctl_change_waiting_seconds" []
        "For how long the oldest change has waited to be in the maps; 0 if none waits.";
    MapWrites Counter "lbctl_map_writes_total" []
        "Writes of the daemon to the configuration maps.";
    FailedRounds Counter "lbctl_map_failures_total" []
        "Rounds in which the maps could not be brought up to date; each is tried again.";
    ReasonPackets Counter "lbctl_packets_total" ["reason" "fate"]
        "Packets by the reason of their verdict (docs/reasons.md) and their fate: dropped or passed. A GSO packet counts as one.";
    ReasonBytes Counter "lbctl_bytes_total" ["reason" "fate"]
        "Bytes by reason and fate, with link-layer headers.";
    ServiceConnections Counter "lbctl_service_connections_total" ["namespace" "service" "port" "protocol"]
        "Flows created through a port of a Service on this node, on all its addresses together.";
    ServicePackets Counter "lbctl_service_packets_total" ["namespace" "service" "port" "protocol" "direction"]
        "Packets through a port of a Service on this node: request, from clients, or reply.";
    ServiceBytes Counter "lbctl_service_bytes_total" ["namespace" "service" "port" "protocol" "direction"]
        "Bytes through a port of a Service on this node, with link-layer headers: request, from clients, or reply.";
    ServiceEndpoints Gauge "lbctl_service_endpoints" ["namespace" "service" "port" "protocol" "state"]
        "Endpoints of a port of a Service: used, those that new connections go to, or unused.";
    BackendConnections Counter "lbctl_backend_connections_total" ["backend" "pod"]
        "Flows created to an endpoint's address from this node, by all Services and ports together.";
    BackendPackets Counter "lbctl_backend_packets_total" ["backend" "pod" "direction"]
        "Packets to an endpoint's address (request) and from it (reply), by all Services and ports together.";
    BackendBytes Counter "lbctl_backend_bytes_total" ["backend" "pod" "direction"]
        "Bytes to an endpoint's address (request) and from it (reply), with link-layer headers.";
    Names Gauge "lbctl_metrics_names" ["of" "told"]
        "Ports of Services (service) and endpoints' addresses (backend) that have series of their own, and those that are added up under (others): see --metrics-limit.";
    MapEntries Gauge "lbctl_map_entries" ["map"]
        "Entries in a map; in those that packets write, as the sweeper counted them on its last round, those that have expired included. Of flows, those that go on and are confirmed: others make way where there is no room.";
    MapMax Gauge "lbctl_map_max_entries" ["map"]
        "Entries that are sure to fit into a map.";
    MapEvictable Gauge "lbctl_map_evictable_entries" ["map"]
        "Entries of flows whose client has not gone on after an answer yet, or whose connection has ended, as the sweeper counted them on its last round: they make way where there is no room.";
    MapEvictions Counter "lbctl_map_evictions_total" ["map"]
        "Entries that were pushed out of a full table before their time: an estimate, made from a sample each second.";
    InsertFailures Counter "lbctl_flow_insert_failures_total" []
        "Packets that were dropped because their flow found no room.";
    NatPorts Gauge "lbctl_nat_ports" ["address"]
        "Source ports of a lent address that can be lent towards each backend port.";
    NatPortsUsed Gauge "lbctl_nat_ports_used" ["address"]
        "Source ports of a lent address that live connections hold towards the backend port to which most are lent.";
    DnsMessages Counter "lbctl_dns_messages_total" ["transport"]
        "Messages to the DNS server.";
    DnsAnswers Counter "lbctl_dns_answers_total" ["outcome"]
        "What became of questions: own, answered from the cluster's names; forwarded, answered by another server; failed, answered by none; refused, no question that can be answered.";
    Probes Counter "lbctl_readiness_probes_total" ["result"]
        "Attempts of readiness probes from here.";
    ProbedPods Gauge "lbctl_readiness_pods" ["state"]
        "Pods that are probed from here.";
    CpuSeconds Counter "process_cpu_seconds_total" []
        "CPU time of the daemon, in user and in kernel mode. Packets cost the CPUs they come in by, and are not in it.";
    Resident Gauge "process_resident_memory_bytes" []
        "Memory that the daemon occupies. The maps are the kernel's, and are not in it.";
    StartTime Gauge "process_start_time_seconds" []
        "When the daemon was started, in seconds since the epoch.";
    OpenFiles Gauge "process_open_fds" []
        "Files and sockets that the daemon has open.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_follow_the_conventions() {
        let names: BTreeSet<_> = Metric::ALL.iter().map(|metric| metric.name()).collect();
        assert_eq!(names.len(), Metric::ALL.len());
        for metric in Metric::ALL {
            let (name, help) = (metric.name(), metric.help());
            assert_eq!(metric.kind() == Kind::Counter, name.ends_with("_total"), "{name}");
            assert!(name.starts_with("lbctl_") || name.starts_with("process_"), "{name}");
            assert!(help.ends_with('.') && !help.contains('|'), "{name}: {help}");
        }
    }
}
