//! Why a packet got its verdict.
//!
//! One enum is at once the index of the drop counter, the metric's label, the explanation a person reads and a row of
//! the documentation. Numbers are stable and append-only: they are written into maps that outlive the daemon.

/// Declares the reasons with their stable number, name, explanation and remedy.
macro_rules! reasons {
    ($($number:literal $variant:ident $name:literal $sentence:literal $remedy:literal;)+) => {
        /// Why a packet got its verdict. The number is the index into the map [`crate::maps::REASONS`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason {
            $(#[doc = $sentence] $variant = $number,)+
        }

        impl Reason {
            /// Every reason, in order of its number.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)+];

            /// The stable name: a metric label, a filter, a column.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name,)+ }
            }

            /// What happened, in one sentence.
            pub const fn sentence(self) -> &'static str {
                match self { $(Reason::$variant => $sentence,)+ }
            }

            /// What an operator can do about it; empty where nothing is wrong.
            pub const fn remedy(self) -> &'static str {
                match self { $(Reason::$variant => $remedy,)+ }
            }
        }
    };
}

reasons! {
    0 NotOurs "not-ours"
        "The packet is neither addressed to a Service nor part of a translated flow; it was left as it came." "";
    1 Forwarded "forwarded"
        "A request was translated and sent to its backend." "";
    2 Replied "replied"
        "A reply was translated back and sent to its client." "";
    3 Delivered "delivered"
        "A translated packet was handed to a socket of this node." "";
    4 Malformed "malformed"
        "A header is cut short or contradicts itself; the packet was left to the host's stack."
        "Capture on the sender's side: a broken sender, or a tunnel that cuts packets.";
    5 Vlan "vlan-tag"
        "The packet carries a VLAN tag; it was left to the host's stack, which hands it to the VLAN interface."
        "Name the VLAN interface itself with --interface.";
    6 ExtensionHeader "extension-header"
        "The chain of IPv6 extension headers is longer than the datapath walks, or holds one behind which nothing may be translated (authentication, a routing header with segments left); the packet was left to the host's stack." "";
    7 Fragment "fragment"
        "A later fragment to an owned address whose first one was not seen here or belonged to no flow, or a fragment of a protocol without ports; it was left to the host's stack."
        "Look for a network that sends fragments of one packet by different ways or out of order; with path MTU discovery nothing is fragmented.";
    8 Icmp "icmp"
        "Within the datapath: an ICMP or ICMPv6 message, whose own reason is found next. No packet ends with it." "";
    9 Protocol "protocol"
        "An owned address was addressed by a protocol that no Service can have; the packet was rejected with an ICMP error."
        "Look for who sends it: Services are TCP, UDP and SCTP.";
    10 NoServicePort "no-service-port"
        "The address belongs to a Service, but no Service port has this number and protocol; the packet was rejected with a TCP reset or an ICMP error."
        "Compare the port and the protocol with `lb-ctl get services -A`; `lb-ctl describe service NAME -n NAMESPACE` lists every port.";
    11 NoBackend "no-backend"
        "The Service has no ready backend; the packet was rejected with a TCP reset or an ICMP error."
        "See `lb-ctl describe service NAME -n NAMESPACE`: do the selector's labels match pods, and are these ready?";
    12 BackendGone "backend-gone"
        "The chosen backend's record was withdrawn while the packet was on its way; the packet was dropped and the next one is tried anew." "";
    13 TableFull "table-full"
        "The flow could not be recorded because its table is full or was contended; the packet was dropped."
        "See in `lb-ctl status` how full the tables are, and raise --max-flows; shortly before a table is full, a few in ten thousand find no room in it.";
    14 SnatExhausted "snat-exhausted"
        "No free source port was found for a connection that needs source translation; the packet was dropped."
        "See the lent ports in `lb-ctl status`; lend another address of the node (--snat-address), spread the clients over more nodes, or add backends.";
    15 NoSnatAddress "no-snat-address"
        "The connection needs source translation and the node has no address of this family to lend; the packet was dropped."
        "Give the node an address of this family on a managed interface, or a Node manifest that names one.";
    16 NoRoute "no-route"
        "The kernel has no route to the translated destination; the packet was dropped, and its sender told by an ICMP error."
        "Compare `ip route get <backend>` on the node with where the backend is.";
    17 Blackhole "blackhole"
        "The node's route to the translated destination is a blackhole; the packet was dropped in silence, as that route wants it."
        "Remove the blackhole route: `ip route show type blackhole`.";
    18 Unreachable "unreachable"
        "The node's route to the translated destination says unreachable; the packet was dropped, and its sender told by an ICMP error."
        "Remove the unreachable route: `ip route show type unreachable`.";
    19 Prohibited "prohibited"
        "The node's route to the translated destination says prohibit; the packet was dropped, and its sender told by an ICMP error."
        "Remove the prohibit route: `ip route show type prohibit`.";
    20 ForwardingDisabled "forwarding-disabled"
        "The node does not forward packets that come in by this interface; the packet was dropped."
        "sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1";
    21 NextHopUnsupported "next-hop-unsupported"
        "The route to the translated destination leads into a tunnel or another device the datapath cannot send by; the packet was dropped."
        "Give the backend a route by an Ethernet-like interface: `ip route get <backend>` names the one it has.";
    22 MtuExceeded "mtu-exceeded"
        "The packet is larger than the MTU of the way out; it was dropped, and its sender told that MTU by an ICMP error."
        "If transfers stall, look for a firewall that drops the ICMP error before it reaches the sender.";
    23 TtlExceeded "ttl-exceeded"
        "The packet's TTL or hop limit ended here; it was dropped, and its sender told by an ICMP error."
        "Look for a routing loop: `traceroute` to the Service.";
    24 StoreFailed "store-failed"
        "The packet's bytes could not be rewritten; it was dropped."
        "This is a defect: please report it with the kernel's version.";
    25 ForwardedTableFull "forwarded-table-full"
        "Not given any more: confirmed flows were once kept apart, and a request was told by this whose flow found no room among them."
        "";
    26 MartianSource "martian-source"
        "The source address of a new connection is none that a client can have: unspecified, loopback, multicast or reserved, the node's own, or a Service's; the packet was dropped."
        "Look for a host that forges addresses behind the interface it came in by: `lb-ctl monitor --reason martian-source` shows it.";
    27 AnswerLimited "answer-limited"
        "A reject or an ICMP error was due to the sender, but this CPU had sent its share for the second; the packet was dropped in silence."
        "Look for a flood or a port scan: `lb-ctl why` names what is asked for, and by whom.";
    28 EchoReplied "echo-replied"
        "An echo request (ping) to an owned address was answered by the datapath." "";
    29 IcmpTranslated "icmp-translated"
        "An ICMP or ICMPv6 error about a translated flow was translated and sent on to the flow's other side." "";
    30 SocketTranslated "socket-translated"
        "A local process connected or sent to a Service, and its socket was given the backend's address at once." "";
    31 ForwardedSnatScarce "forwarded-snat-scarce"
        "A request was translated and sent to its backend, but a free source port was found only by searching the whole range: it is nearly used up."
        "Give the node another address to lend, spread the clients over more nodes, or add backends.";
    32 IcmpUnrelated "icmp-unrelated"
        "An ICMP or ICMPv6 message to an owned address that is neither an echo request nor an error about a known flow; it was dropped." "";
    33 SctpFragment "sctp-fragment"
        "A fragmented SCTP packet whose port would have to change: its checksum covers all fragments, of which only the first was seen; it was dropped."
        "Let the Service's port be the targetPort, or lower the sender's MTU: SCTP fragments by itself.";
    34 ForwardedMidway "forwarded-midway"
        "A packet from the middle of a connection whose flow is not known here was translated and sent to the backend that its hash gives, which is the one it had while the Service's backends are the same."
        "Where the flow was lost for want of room, raise --max-flows; where nodes share connections, let the Service use the algorithm `maglev`.";
    35 NoLocalBackend "no-local-backend"
        "The Service's traffic policy keeps connections on the node they come to, and its backends are all elsewhere; the packet was dropped in silence, as load balancers expect it, or the process's call refused."
        "See `lb-ctl describe service NAME -n NAMESPACE`: send clients to a node with a backend, which its health check tells, or set the policy to Cluster.";
    36 SourceRange "source-range"
        "The Service's loadBalancerSourceRanges do not name the client; the packet was dropped in silence."
        "Add the client's network to loadBalancerSourceRanges if it may use the Service; `lb-ctl why` names the clients, `lb-ctl describe service` the ranges.";
}

impl Reason {
    /// The reason with this stable number, or `None` if this build does not know it.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Whether the packet was dropped.
    pub const fn is_drop(self) -> bool {
        !matches!(
            self,
            Reason::NotOurs
                | Reason::Forwarded
                | Reason::Replied
                | Reason::Delivered
                | Reason::Malformed
                | Reason::Vlan
                | Reason::ExtensionHeader
                | Reason::Fragment
                | Reason::Icmp
                | Reason::ForwardedTableFull
                | Reason::EchoReplied
                | Reason::IcmpTranslated
                | Reason::SocketTranslated
                | Reason::ForwardedSnatScarce
                | Reason::ForwardedMidway
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Reason;
    use std::collections::BTreeSet;

    #[test]
    fn numbers_are_dense_and_names_unique() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(index, *reason as usize, "{reason:?}");
            assert_eq!(Reason::from_number(index as u8), Some(*reason));
        }
        let names: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        assert_eq!(Reason::from_number(Reason::ALL.len() as u8), None);
    }

    #[test]
    fn every_avoidable_drop_has_a_remedy() {
        for reason in Reason::ALL
            .iter()
            .filter(|reason| reason.is_drop() && !matches!(reason, Reason::BackendGone | Reason::IcmpUnrelated))
        {
            assert!(!reason.remedy().is_empty(), "{reason:?} drops packets and names no remedy");
        }
    }
}
