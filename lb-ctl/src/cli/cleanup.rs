//! `cleanup`: removes what a daemon that no longer runs left in the kernel.

use super::args::{Cleanup, Target};
use super::output::Output;
use super::{Failed, SUCCESS};
use crate::daemon::{Options, config};
use crate::datapath;

pub(super) fn run(cleanup: &Cleanup, target: &Target, out: &mut Output) -> Result<u8, Failed> {
    if target.socket.is_some() && target.instance.is_none() {
        let message =
            "a socket does not tell what to remove: name the --instance (and its --bpffs, if not the default)";
        return Err(Failed::Usage(message.to_owned()));
    }
    let flags = Options { bpffs: cleanup.bpffs.clone(), instance: target.instance.clone(), ..Options::default() };
    let options = config::Origin { flags, file: cleanup.config.clone() }.options()?;
    let instance = options.instance.unwrap_or_else(|| config::DEFAULT_INSTANCE.to_owned());
    config::check_instance(&instance)?;
    let bpffs = options.bpffs.unwrap_or_else(|| config::DEFAULT_BPFFS.into());
    let max_flows = options.max_flows.unwrap_or(lb_common::maps::DEFAULT_MAX_FLOWS);
    let options = datapath::Options { bpffs, instance, max_flows, ..datapath::Options::default() };
    let removed = datapath::cleanup(&options)?;
    if removed.is_empty() {
        let place = options.bpffs.display();
        out.line(format_args!("nothing of instance `{}` is left on the BPF file system {place}", options.instance))?;
    }
    for what in removed {
        out.line(format_args!("{what}"))?;
    }
    Ok(SUCCESS)
}
