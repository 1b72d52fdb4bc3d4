//! Tells the service manager how the daemon is, by the protocol of `sd_notify(3)`. Without one nothing happens.

use std::env;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use tracing::debug;

/// Everything named is attached and serves.
pub(super) fn ready() {
    send("READY=1\nSTATUS=balancing");
}

/// The configuration is read again.
pub(super) fn reloading() {
    let since_boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    let micros = since_boot.map_or(0, |time| time.tv_sec() * 1_000_000 + time.tv_nsec() / 1000);
    send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
}

/// The daemon ends; forwarding goes on.
pub(super) fn stopping() {
    send("STOPPING=1");
}

fn send(state: &str) {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else { return };
    let sent = || {
        let address = match path.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&path)?,
        };
        UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)
    };
    if let Err(error) = sent() {
        debug!(%error, "the service manager was not told");
    }
}
