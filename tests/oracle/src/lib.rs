//! Judges what a load balancer's datapath made of a packet.
//!
//! The oracle knows packets (RFC 791, 8200, 768, 9293, 792, 4443, 9260) and what a Service promises, and nothing of the
//! datapath: it has no dependencies, reads frames and sums checksums with its own code, and is told in plain data what the
//! node looks like. So a mistake in the datapath's own idea of a header, a checksum or a flow cannot hide here.
//!
//! - [`translation`]: exactly the promised bytes changed, and every checksum is as right or as wrong as before.
//! - [`icmp`]: the same for ICMP errors, whose embedded packet is translated too.
//! - [`answer`]: packets that the datapath makes itself: RST, ICMP errors, echo replies.
//! - [`ledger`]: what must become of each of many packets, given what became of those before.

pub mod answer;
pub mod checksum;
pub mod icmp;
pub mod ledger;
pub mod packet;
pub mod translation;

use std::fmt;

/// What is wrong with an outcome, in a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(pub String);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

/// `Ok` if `holds`, else a [`Fault`] that says `what`.
pub(crate) fn demand(holds: bool, what: impl FnOnce() -> String) -> Result<(), Fault> {
    if holds { Ok(()) } else { Err(Fault(what())) }
}
