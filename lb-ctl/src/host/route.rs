//! Asks the kernel's routing table about one address.

use super::Error;
use super::netlink::{Connection, Request, attributes, u32_at};
use super::snapshot::ip;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

/// `RTM_GETROUTE`, `struct rtmsg`, `RTA_*`, `RTN_LOCAL`
const GET_ROUTE: u16 = 26;
const HEADER: usize = 12;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_VIA: u16 = 18;
const LOCAL: u8 = 2;

/// How a packet of the node's own would leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The interface.
    pub ifindex: u32,
    /// The next hop, where the destination is not on the link itself.
    pub gateway: Option<IpAddr>,
    /// The source address the kernel would choose.
    pub prefsrc: Option<IpAddr>,
    /// Whether the destination is an address of this node.
    pub local: bool,
}

/// The routing table of the network namespace in which it was opened. Many may be asked for, so they share a socket.
pub struct Routes(Mutex<Connection>);

impl Routes {
    /// That of the calling thread's namespace.
    pub fn open() -> Result<Self, Error> {
        Ok(Self(Mutex::new(Connection::route()?)))
    }

    /// The route to `address`; `None` if there is none.
    pub fn to(&self, address: IpAddr) -> Result<Option<Route>, Error> {
        // What a panic left behind is at worst an answer, which is told by its number.
        ask(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner), address)
    }
}

/// The route to `address` from the calling thread's namespace; `None` if there is none.
pub fn route_to(address: IpAddr) -> Result<Option<Route>, Error> {
    ask(&mut Connection::route()?, address)
}

fn ask(connection: &mut Connection, address: IpAddr) -> Result<Option<Route>, Error> {
    let (family, bits, bytes) = match address {
        IpAddr::V4(address) => (libc::AF_INET, 32, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6, 128, address.octets().to_vec()),
    };
    let mut header = [0; HEADER];
    header[0] = family as u8;
    header[1] = bits;
    let answers = match connection.request(Request::new(GET_ROUTE, &header).attribute(RTA_DST, &bytes)) {
        Ok(answers) => answers,
        Err(refused) => {
            return match refused.error.raw_os_error() {
                Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL) => Ok(None),
                _ => Err(Error::List { what: "routes", source: refused }),
            };
        }
    };
    Ok(answers.first().filter(|answer| answer.payload.len() >= HEADER).and_then(|answer| {
        let mut route = Route { ifindex: 0, gateway: None, prefsrc: None, local: answer.payload[7] == LOCAL };
        for (kind, value) in attributes(&answer.payload[HEADER..]) {
            match kind {
                RTA_OIF => route.ifindex = u32_at(value, 0)?,
                RTA_GATEWAY => route.gateway = ip(value),
                // A gateway of the other family: two bytes of family first.
                RTA_VIA => route.gateway = value.get(2..).and_then(ip),
                RTA_PREFSRC => route.prefsrc = ip(value),
                _ => {}
            }
        }
        (route.ifindex != 0).then_some(route)
    }))
}
