//! What holds for one interface that would be managed.

use super::{Line, Lines, Verdict, Wanted, quoted, sysctl};
use crate::daemon::options::PathMode;
use crate::datapath::bpf::Hook;
use crate::datapath::{Mode, others_on, wants_xdp};
use crate::host::{HostView, Interface, XdpFeatures, ethtool, xdp_features};
use std::collections::BTreeMap;

/// The smallest MTU of IPv6 (RFC 8200, 5), and the largest frame of one page that leaves room for what XDP needs.
const SMALLEST_MTU: u32 = 1280;
const LARGEST_IN_A_PAGE: u32 = 3498;

/// What is known of the interface beside its link.
struct Facts {
    /// What its driver says it can do for XDP; `None`: the kernel cannot tell.
    xdp: Option<XdpFeatures>,
    offloads: BTreeMap<String, bool>,
    wants_xdp: bool,
}

pub(super) fn lines(interface: &Interface, mode: Mode, wanted: &Wanted, view: &HostView) -> Vec<Line> {
    let mut lines = Lines::of(&interface.name);
    if !interface.ethernet {
        lines.fail(
            "link",
            format!("it carries no Ethernet frames (kind `{}`): it is never managed", interface.kind),
            "",
        );
        return lines.lines;
    }
    let features = xdp_features::xdp_features(Some(interface.index)).ok().flatten();
    let facts = Facts {
        xdp: features.and_then(|features| features.get(&interface.index).copied()),
        offloads: ethtool::features(&interface.name).unwrap_or_default(),
        wants_xdp: wants_xdp(interface, mode),
    };
    link(&mut lines, interface, view);
    native(&mut lines, interface, mode, &facts);
    mtu(&mut lines, interface, &facts);
    offloads(&mut lines, interface, &facts);
    queues(&mut lines, interface, &facts);
    programs(&mut lines, interface, mode, &facts);
    target(&mut lines, interface, &facts);
    sysctls(&mut lines, interface, wanted);
    lines.lines
}

fn link(lines: &mut Lines<'_>, interface: &Interface, view: &HostView) {
    let name = quoted(&interface.name);
    if interface.up {
        lines.pass("link", "it is up");
    } else {
        lines.warn("link", "it is down", format!("ip link set dev {name} up"));
    }
    let master = interface.master.and_then(|index| view.interfaces.get(&index));
    match master {
        Some(bond) if ["bond", "team"].contains(&bond.kind.as_str()) => lines.fail(
            "member",
            format!(
                "it is a member of {0} ({1}), by which its packets come in: name {0} in its place",
                bond.name, bond.kind
            ),
            format!("lb-ctl preflight {}", quoted(&bond.name)),
        ),
        Some(master) if master.kind == "bridge" => {
            lines.pass("member", format!("it is a port of the bridge {}: name its other ports too", master.name));
        }
        Some(master) => lines.pass("member", format!("it belongs to {} ({})", master.name, master.kind)),
        None if interface.kind == "bridge" => {
            let ports = view.interfaces.values().filter(|port| port.master == Some(interface.index));
            let ports: Vec<String> = ports.map(|port| quoted(&port.name)).collect();
            lines.warn(
                "member",
                "it is a bridge: packets switched between its ports are not seen on it; name its ports",
                format!("lb-ctl preflight {}", ports.join(" ")),
            );
        }
        None => lines.pass("member", "it belongs to no bridge or bond"),
    }
    let vlans = view.interfaces.values().filter(|upper| upper.kind == "vlan" && upper.lower == Some(interface.index));
    let vlans: Vec<String> = vlans.map(|vlan| quoted(&vlan.name)).collect();
    if !vlans.is_empty() {
        lines.warn(
            "vlan",
            "tagged frames are left to the host here: name the VLAN interfaces on it too, if clients or pods are behind them",
            format!("lb-ctl preflight {name} {}", vlans.join(" ")),
        );
    }
}

fn native(lines: &mut Lines<'_>, interface: &Interface, mode: Mode, facts: &Facts) {
    let name = quoted(&interface.name);
    if !facts.wants_xdp {
        let why = if mode == Mode::Tcx { "as asked for" } else { "no wire feeds it" };
        return lines.pass("xdp", format!("TCX does the work here ({why})"));
    }
    match (facts.xdp, mode) {
        (_, Mode::XdpGeneric) => {
            lines.pass("xdp", "generic XDP, as asked for: it takes any driver, and about as long as TCX");
        }
        (Some(features), _) if features.has(XdpFeatures::BASIC) => lines.pass("xdp", "its driver runs XDP natively"),
        (Some(_), Mode::Xdp) => lines.fail(
            "xdp",
            "its driver does not run XDP natively, and nothing less is asked for",
            format!("lb-ctl preflight {name}=auto"),
        ),
        (Some(_), _) => lines.warn(
            "xdp",
            "its driver does not run XDP natively: generic XDP is tried, and TCX does the work where that is refused",
            format!("lb-ctl preflight {name}=tcx"),
        ),
        (None, _) => {
            lines.warn("xdp", "this kernel does not tell whether its driver runs XDP natively (Linux 6.3)", "");
        }
    }
}

fn mtu(lines: &mut Lines<'_>, interface: &Interface, facts: &Facts) {
    let (name, mtu) = (quoted(&interface.name), interface.mtu);
    let takes_pieces = facts.xdp.is_some_and(|features| features.has(XdpFeatures::RX_SG));
    if mtu < SMALLEST_MTU {
        let message =
            format!("its MTU is {mtu}: IPv6 needs {SMALLEST_MTU}, and larger packets are refused (`mtu-exceeded`)");
        lines.warn("mtu", message, format!("ip link set dev {name} mtu 1500"));
    } else if facts.wants_xdp && mtu > LARGEST_IN_A_PAGE && !takes_pieces {
        let message = format!(
            "its MTU is {mtu}, and its driver does not say that XDP takes frames in pieces: above {LARGEST_IN_A_PAGE} most refuse"
        );
        lines.warn("mtu", message, format!("ip link set dev {name} mtu {LARGEST_IN_A_PAGE}"));
    } else {
        lines.pass("mtu", format!("its MTU is {mtu}"));
    }
}

fn offloads(lines: &mut Lines<'_>, interface: &Interface, facts: &Facts) {
    let name = quoted(&interface.name);
    let is_on = |feature: &str| facts.offloads.get(feature).copied().unwrap_or(false);
    let merging: Vec<&str> = [("rx-lro", "lro"), ("rx-gro-hw", "rx-gro-hw")]
        .into_iter()
        .filter(|(feature, _)| is_on(feature))
        .map(|(_, word)| word)
        .collect();
    if !merging.is_empty() && facts.wants_xdp {
        let off: Vec<String> = merging.iter().map(|word| format!("{word} off")).collect();
        lines.warn(
            "offloads",
            format!(
                "its hardware merges packets ({}), which XDP does not go with and forwarding should not do",
                merging.join(", ")
            ),
            format!("ethtool -K {name} {}", off.join(" ")),
        );
    } else {
        let gro = if is_on("rx-gro") { "on" } else { "off" };
        lines.pass("offloads", format!("nothing is merged by hardware; GRO is {gro}"));
    }
    if interface.kind == "veth" && facts.wants_xdp {
        lines.warn(
            "checksums",
            "local senders leave checksums to hardware that a veth does not have: unless a wire feeds its other end, XDP sends wrong \
             ones (the command is for the other end)",
            "ethtool -K eth0 tx off",
        );
    }
}

fn queues(lines: &mut Lines<'_>, interface: &Interface, facts: &Facts) {
    let Ok(channels) = ethtool::channels(&interface.name) else { return };
    let cpus = std::thread::available_parallelism().map_or(1, usize::from) as u32;
    let (word, now, most) = if channels.most_combined > 0 {
        ("combined", channels.combined, channels.most_combined)
    } else {
        ("tx", channels.tx, channels.most_tx)
    };
    let could = cpus.min(most);
    if facts.wants_xdp && now < could {
        lines.warn(
            "queues",
            format!("{now} of up to {most} queues for {cpus} CPUs: what XDP sends on shares them, or is refused by some drivers"),
            format!("ethtool -L {} {word} {could}", quoted(&interface.name)),
        );
    } else {
        lines.pass("queues", format!("{now} queues for {cpus} CPUs"));
    }
}

fn programs(lines: &mut Lines<'_>, interface: &Interface, mode: Mode, facts: &Facts) {
    let others = |hook| others_on(interface.index, hook);
    let (xdp, tc) = (others(Hook::XdpNative), [others(Hook::Ingress), others(Hook::Egress)].concat());
    if let Some(other) = xdp.first() {
        let verdict = match mode {
            _ if !facts.wants_xdp => Verdict::Pass,
            Mode::Auto | Mode::Tcx => Verdict::Warn,
            Mode::Xdp | Mode::XdpGeneric => Verdict::Fail,
        };
        let means = if facts.wants_xdp { "only one fits, so ours is refused" } else { "it sees packets before us" };
        let remedy = format!("ip link set dev {} xdp off", quoted(&interface.name));
        let remedy = if verdict == Verdict::Pass { String::new() } else { remedy };
        lines.add("programs", verdict, format!("{other} is attached at XDP: {means}"), remedy);
    }
    if !tc.is_empty() {
        let all = tc.join(", ");
        lines.pass(
            "programs",
            format!("at TCX there are {all} too: ours go first, and what they leave alone comes to these"),
        );
    }
    if xdp.is_empty() && tc.is_empty() {
        lines.pass("programs", "no other programs are attached");
    }
}

/// Whether XDP can send by it.
fn target(lines: &mut Lines<'_>, interface: &Interface, facts: &Facts) {
    let Some(features) = facts.xdp else { return };
    if features.has(XdpFeatures::NDO_XMIT) {
        lines.pass("redirect", "it takes frames that XDP sends on to it");
    } else if interface.kind == "veth" {
        lines.warn(
            "redirect",
            "its other end does not poll with NAPI, so XDP cannot send to it: TCX does, more slowly (the command is for the other \
             end, in the pod)",
            "ethtool -K eth0 gro on",
        );
    } else if facts.wants_xdp {
        // Many drivers say so only once a program is attached.
        lines.pass(
            "redirect",
            "it does not say yet that it takes frames which XDP sends on; some do with a program attached",
        );
    } else {
        lines.pass("redirect", "XDP cannot send to it: TCX does, more slowly");
    }
}

fn sysctls(lines: &mut Lines<'_>, interface: &Interface, wanted: &Wanted) {
    let (name, dotted) = (&interface.name, interface.name.replace('.', "/"));
    match sysctl(&format!("net/ipv4/conf/{name}/forwarding")) {
        // Where the whole node does not forward, one line says so.
        Some(0) if sysctl("net/ipv4/ip_forward") != Some(0) => lines.fail(
            "forwarding",
            "what comes in by it is not forwarded (`forwarding-disabled`)",
            format!("sysctl -w {}", quoted(&format!("net.ipv4.conf.{dotted}.forwarding=1"))),
        ),
        Some(0) | None => {}
        Some(_) => lines.pass("forwarding", "what comes in by it may be sent on"),
    }
    let of = |class: &str| sysctl(&format!("net/ipv4/conf/{class}/rp_filter")).unwrap_or(0);
    let effective = of("all").max(of(name));
    if effective == 1 && wanted.path == PathMode::Stack {
        lines.warn(
            "rp-filter",
            "rp_filter is strict, and --path stack takes connections through it: clients whose way back leads out by another interface are lost",
            format!("sysctl -w {}", quoted(&format!("net.ipv4.conf.{dotted}.rp_filter=2"))),
        );
    } else {
        let note = if effective == 0 { "off" } else { "on, and no translated packet is lost to it" };
        lines.pass("rp-filter", format!("rp_filter is {note}"));
    }
}
