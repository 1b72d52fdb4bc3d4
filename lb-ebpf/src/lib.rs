//! The datapath: one core, generic over small traits, under thin hooks.
//!
//! The core ([`process`]) sees a packet through [`Packet`], the maps through [`Tables`] and the kernel through [`Env`]. The
//! hooks in `kernel/` adapt XDP and TCX to these traits; tests adapt byte vectors and hash maps. Both compile the same
//! core, so what a test single-steps on the host is what the kernel runs.
//!
//! The way of nearly every packet: [`shortcut`]. That of all others, which would be that one's too: [`parse`] (and [`fragment`]) →
//! [`datapath`] (flow hit? owned? service? pick?), with [`scope`] for who asks → [`conntrack`], [`snat`] and [`affinity`] for what is
//! remembered → [`rewrite`] → [`Verdict`]. Beside it: [`icmp`] for errors about flows, [`answer`] for what we tell a sender, and
//! [`event`] for what we tell an operator. What processes ask for at their sockets goes through [`socket`], before there is a packet.
#![no_std]
#![expect(clippy::inline_always, reason = "a BPF call costs stack and nanoseconds; what is not inlined says so")]

#[cfg(test)]
extern crate std;

pub mod address;
pub mod affinity;
pub mod answer;
pub mod checksum;
pub mod conntrack;
pub mod datapath;
pub mod env;
pub mod event;
pub mod fragment;
pub mod icmp;
pub mod packet;
pub mod parse;
pub mod pick;
pub mod rewrite;
pub mod scope;
pub mod sctp;
pub mod shortcut;
pub mod snat;
pub mod socket;
pub mod tables;
pub mod trace;
pub mod verdict;

pub use address::Address;
pub use datapath::process;
pub use env::{Env, Hook, Route};
pub use packet::Packet;
pub use tables::{AddressTables, InsertError, Tables};
pub use verdict::{Action, Verdict};
