//! The daemon's veth pair, by which processes of this node reach Services.
//!
//! ```text
//!  process ─► route to the Services ─► lbh0 ═ lbh1 ─► our programs ─► backend
//!  process ◄──────────────── stack ◄── lbh0 ═ lbh1 ◄─ our programs ◄─ its reply
//! ```
//! A packet of the node's own is routed before any hook sees it, so routes to the Services lead into the inner end; what comes
//! out of the outer end is met there like any client's. Replies come in by the inner end, where the route to their source
//! is, so no filter takes them for forged. The pair is marked as ours by its alias and the routes by their protocol
//! number; it outlives the daemon, as the programs on it do.

use super::netlink::{Connection, Refused, Request, attributes, push_attribute, text, u32_at};
use super::snapshot::ip;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

/// The end that holds the routes.
pub const INNER: &str = "lbh0";
/// The end that our programs are on.
pub const OUTER: &str = "lbh1";
/// Who made a route, as `ip route` shows it (`rtm_protocol`): a number that nobody has registered.
pub const ROUTE_PROTOCOL: u8 = 108;

/// `RTM_NEWLINK`, `RTM_DELLINK`, `RTM_GETLINK`, `RTM_SETLINK`, `RTM_NEWROUTE`, `RTM_DELROUTE`, `RTM_GETROUTE`
const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const SET_LINK: u16 = 19;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;
/// `NLM_F_REPLACE`, `NLM_F_EXCL`, `NLM_F_CREATE`
const REPLACE: u16 = 0x100;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
/// `struct ifinfomsg`, `struct rtmsg`: their lengths. `NLA_F_NESTED`
const LINK_HEADER: usize = 16;
const ROUTE_HEADER: usize = 12;
const NESTED: u16 = 0x8000;
/// `IFLA_*`, `VETH_INFO_PEER`
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;
/// `IFLA_INET6_ADDR_GEN_MODE`, `IN6_ADDR_GEN_MODE_NONE`: no link-local address, and so nothing is said on the link.
const ADDRESS_GENERATION: u16 = 8;
const NO_ADDRESS: [u8; 1] = [1];
/// `IFF_UP`, `IFF_NOARP`: the inner end asks nobody for a neighbour.
const UP: u32 = 1;
const NO_ARP: u32 = 0x80;
/// `RTA_DST`, `RTA_OIF`, `RTA_PREFSRC`; `RT_TABLE_MAIN`, `RT_SCOPE_UNIVERSE`, `RT_SCOPE_LINK`, `RTN_UNICAST`
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PREFSRC: u16 = 7;
const TABLE_MAIN: u8 = 254;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const UNICAST: u8 = 1;

/// The pair as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Index of the inner end.
    pub inner: u32,
    /// Index of the outer end.
    pub outer: u32,
    /// MAC of the inner end.
    pub inner_mac: [u8; 6],
    /// MAC of the outer end.
    pub outer_mac: [u8; 6],
}

/// The pair cannot be had as it should be.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// No netlink socket.
    #[error("netlink: {0}")]
    Netlink(#[from] io::Error),
    /// The name is somebody else's.
    #[error("there is an interface {name} already, {owner}: {remedy}, or do without with --host-clients=false")]
    Taken {
        /// The name.
        name: &'static str,
        /// Whose it is, as far as can be told.
        owner: String,
        /// What would help.
        remedy: String,
    },
    /// The kernel refused.
    #[error("cannot {action}: {source}")]
    Refused {
        /// What was tried.
        action: String,
        /// Its answer.
        source: Refused,
    },
}

/// One end as the kernel shows it.
#[derive(Clone, Debug, Default)]
struct End {
    index: u32,
    flags: u32,
    mac: [u8; 6],
    mtu: u32,
    kind: String,
    alias: String,
    peer: Option<u32>,
}

/// Makes the pair, or takes over that of an earlier daemon of the same instance, and brings it up with this MTU.
pub fn ensure(instance: &str, mtu: u32) -> Result<Pair, PairError> {
    let mut connection = Connection::route()?;
    if ends(&mut connection, instance)?.is_none() {
        create(&mut connection)?;
    }
    let Some([inner, outer]) = ends(&mut connection, instance)? else {
        return Err(PairError::Netlink(io::ErrorKind::NotFound.into()));
    };
    for (name, end, flags) in [(INNER, &inner, UP | NO_ARP), (OUTER, &outer, UP)] {
        configure(&mut connection, name, end, instance, mtu, flags)?;
    }
    Ok(Pair { inner: inner.index, outer: outer.index, inner_mac: inner.mac, outer_mac: outer.mac })
}

/// Removes the pair of this instance, and with it the routes; whether there was one.
pub fn remove(instance: &str) -> Result<bool, PairError> {
    let mut connection = Connection::route()?;
    let Ok(Some([inner, _])) = ends(&mut connection, instance) else { return Ok(false) };
    let deleted = connection.request(Request::new(DELETE_LINK, &link_header(inner.index, 0, 0)));
    deleted.map_err(refused(|| format!("remove {INNER}")))?;
    Ok(true)
}

/// Makes the routes into the pair be these: destinations, each with the source that the node uses towards it. Routes that
/// others made are never touched.
pub fn set_routes(pair: &Pair, wanted: &BTreeMap<IpNet, IpAddr>) -> Result<(), PairError> {
    let mut connection = Connection::route()?;
    let present = routes(pair)?;
    for to in present.keys().filter(|to| !wanted.contains_key(to)) {
        let gone = connection.request(route(DELETE_ROUTE, pair, *to));
        gone.map_err(refused(|| format!("remove the route {to} dev {INNER}")))?;
    }
    // One that fails keeps none of the others out.
    let mut failure = Ok(());
    for (to, source) in wanted {
        let flags = match present.get(to) {
            Some(Some(present)) if present == source => continue,
            Some(_) => CREATE | REPLACE,
            None => CREATE | EXCLUSIVE,
        };
        let request = route(NEW_ROUTE, pair, *to).attribute(RTA_PREFSRC, &octets(*source));
        if let Err(source_error) = connection.change(request, flags) {
            failure = Err(refused(|| format!("add the route {to} dev {INNER} src {source}"))(source_error));
        }
    }
    failure
}

/// Our routes into the pair, with their source.
fn routes(pair: &Pair) -> Result<BTreeMap<IpNet, Option<IpAddr>>, PairError> {
    let mut connection = Connection::strict()?;
    let mut found = BTreeMap::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut header = [0; ROUTE_HEADER];
        (header[0], header[5]) = (family as u8, ROUTE_PROTOCOL);
        let request = || Request::new(GET_ROUTE, &header).attribute(RTA_OIF, &pair.inner.to_ne_bytes());
        let answers = connection.dump(request).map_err(refused(|| format!("list the routes of {INNER}")))?;
        for payload in answers.iter().map(|answer| &answer.payload).filter(|payload| payload.len() >= ROUTE_HEADER) {
            let unspecified = if family == libc::AF_INET { [0; 4].into() } else { IpAddr::from([0; 16]) };
            let (mut to, mut source, mut interface) = (unspecified, None, None);
            for (kind, value) in attributes(&payload[ROUTE_HEADER..]) {
                match kind {
                    RTA_DST => to = ip(value).unwrap_or(to),
                    RTA_PREFSRC => source = ip(value),
                    RTA_OIF => interface = u32_at(value, 0),
                    _ => {}
                }
            }
            if payload[5] == ROUTE_PROTOCOL
                && interface == Some(pair.inner)
                && let Ok(to) = IpNet::new(to, payload[1])
            {
                found.insert(to, source);
            }
        }
    }
    Ok(found)
}

/// Both ends, inner first, if both are ours; `None` if there is neither.
fn ends(connection: &mut Connection, instance: &str) -> Result<Option<[End; 2]>, PairError> {
    match (end(connection, INNER)?, end(connection, OUTER)?) {
        (None, None) => Ok(None),
        (Some(inner), Some(outer)) if are_ours(&inner, &outer, instance) => Ok(Some([inner, outer])),
        (Some(end), _) => Err(taken(INNER, &end)),
        (None, Some(end)) => Err(taken(OUTER, &end)),
    }
}

/// Whether the two ends are each other's peers and carry our mark, or none yet, as a daemon that was killed while it made
/// them leaves them.
fn are_ours(inner: &End, outer: &End, instance: &str) -> bool {
    let is_pair = inner.peer == Some(outer.index) && outer.peer == Some(inner.index);
    let is_marked =
        |end: &End| end.alias == alias(instance) || (end.alias.is_empty() && end.flags & UP == 0 && end.kind == "veth");
    is_pair && is_marked(inner) && is_marked(outer)
}

fn taken(name: &'static str, end: &End) -> PairError {
    let (owner, remedy) = match end.alias.strip_prefix("lb-ctl/") {
        Some(instance) => (
            format!("of the instance `{instance}` of lb-ctl"),
            format!("remove it with `lb-ctl cleanup --instance {instance}`"),
        ),
        None => ("which lb-ctl did not make".to_owned(), format!("rename it with `ip link set {name} name ...`")),
    };
    PairError::Taken { name, owner, remedy }
}

fn alias(instance: &str) -> String {
    format!("lb-ctl/{instance}")
}

fn create(connection: &mut Connection) -> Result<(), PairError> {
    let mut peer = vec![0; LINK_HEADER];
    push_attribute(&mut peer, IFLA_IFNAME, &name(INNER));
    let (mut data, mut info) = (Vec::new(), Vec::new());
    push_attribute(&mut data, VETH_PEER, &peer);
    push_attribute(&mut info, IFLA_INFO_KIND, b"veth");
    push_attribute(&mut info, NESTED | IFLA_INFO_DATA, &data);
    let request = Request::new(NEW_LINK, &link_header(0, 0, 0))
        .attribute(IFLA_IFNAME, &name(OUTER))
        .attribute(NESTED | IFLA_LINKINFO, &info);
    connection
        .change(request, CREATE | EXCLUSIVE)
        .map_err(refused(|| format!("make the veth pair {INNER} and {OUTER}")))
        .map(drop)
}

/// Gives an end what it lacks: silence, mark, MTU, flags.
fn configure(
    connection: &mut Connection,
    name: &str,
    end: &End,
    instance: &str,
    mtu: u32,
    flags: u32,
) -> Result<(), PairError> {
    if end.alias != alias(instance) {
        let (mut six, mut families) = (Vec::new(), Vec::new());
        push_attribute(&mut six, ADDRESS_GENERATION, &NO_ADDRESS);
        push_attribute(&mut families, NESTED | libc::AF_INET6 as u16, &six);
        let silence = Request::new(SET_LINK, &link_header(end.index, 0, 0)).attribute(NESTED | IFLA_AF_SPEC, &families);
        match connection.request(silence) {
            Err(error) if error.error.raw_os_error() != Some(libc::EAFNOSUPPORT) => {
                return Err(refused(|| format!("keep {name} without a link-local address"))(error));
            }
            // A kernel or a device without IPv6 makes no such address.
            _ => {}
        }
    }
    let is_right = end.alias == alias(instance) && end.mtu == mtu && end.flags & (UP | NO_ARP) == flags;
    if is_right {
        return Ok(());
    }
    let request = Request::new(SET_LINK, &link_header(end.index, flags, UP | NO_ARP))
        .attribute(IFLA_IFALIAS, alias(instance).as_bytes())
        .attribute(IFLA_MTU, &mtu.to_ne_bytes());
    connection.request(request).map_err(refused(|| format!("bring {name} up with an MTU of {mtu}"))).map(drop)
}

fn end(connection: &mut Connection, wanted: &'static str) -> Result<Option<End>, PairError> {
    let request = Request::new(GET_LINK, &link_header(0, 0, 0)).attribute(IFLA_IFNAME, &name(wanted));
    let answers = match connection.request(request) {
        Ok(answers) => answers,
        Err(error) if error.error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
        Err(error) => return Err(refused(|| format!("look at {wanted}"))(error)),
    };
    Ok(answers.first().and_then(|answer| {
        let payload = &answer.payload;
        let mut end = End { index: u32_at(payload, 4)?, flags: u32_at(payload, 8)?, ..End::default() };
        let mut is_elsewhere = false;
        for (kind, value) in attributes(payload.get(LINK_HEADER..)?) {
            match kind {
                IFLA_ADDRESS => end.mac = value.try_into().unwrap_or_default(),
                IFLA_MTU => end.mtu = u32_at(value, 0)?,
                IFLA_LINK => end.peer = u32_at(value, 0),
                IFLA_IFALIAS => end.alias = text(value),
                IFLA_LINK_NETNSID => is_elsewhere = true,
                IFLA_LINKINFO => {
                    let kind = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                    end.kind = kind.map(|(_, value)| text(value)).unwrap_or_default();
                }
                _ => {}
            }
        }
        if is_elsewhere {
            end.peer = None;
        }
        Some(end)
    }))
}

fn refused(action: impl FnOnce() -> String) -> impl FnOnce(Refused) -> PairError {
    move |source| PairError::Refused { action: action(), source }
}

fn name(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

fn link_header(index: u32, flags: u32, change: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// A request about our route to `to`.
fn route(kind: u16, pair: &Pair, to: IpNet) -> Request {
    let (family, scope) = match to {
        IpNet::V4(_) => (libc::AF_INET, SCOPE_LINK),
        IpNet::V6(_) => (libc::AF_INET6, SCOPE_UNIVERSE),
    };
    let mut header = [0; ROUTE_HEADER];
    (header[0], header[1]) = (family as u8, to.prefix_len());
    (header[4], header[5], header[6], header[7]) = (TABLE_MAIN, ROUTE_PROTOCOL, scope, UNICAST);
    Request::new(kind, &header).attribute(RTA_DST, &octets(to.network())).attribute(RTA_OIF, &pair.inner.to_ne_bytes())
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_ours_by_its_mark_or_while_it_is_being_made() {
        let half = |index, peer| End { index, peer: Some(peer), kind: "veth".to_owned(), ..End::default() };
        let (inner, outer) = (half(4, 5), half(5, 4));
        assert!(are_ours(&inner, &outer, "default"), "made, and not marked yet");
        let marked = |end: &End, alias: &str| End { flags: UP, alias: alias.to_owned(), ..end.clone() };
        let up = |alias| (marked(&inner, alias), marked(&outer, alias));
        let (mine, theirs, nobodys) = (up("lb-ctl/default"), up("lb-ctl/other"), up(""));
        assert!(are_ours(&mine.0, &mine.1, "default"));
        assert!(!are_ours(&theirs.0, &theirs.1, "default"));
        assert!(!are_ours(&nobodys.0, &nobodys.1, "default"), "somebody uses it");
        assert!(!are_ours(&End { peer: None, ..mine.0.clone() }, &mine.1, "default"), "its peer is elsewhere");
        let error = taken(INNER, &theirs.0).to_string();
        assert!(error.contains("lb-ctl cleanup --instance other"), "{error}");
        assert!(taken(INNER, &nobodys.0).to_string().contains("ip link set lbh0 name"), "{error}");
    }
}
