//! What must be true before anything is touched.

use super::{Error, Options};
use aya::util::KernelVersion;
use lb_common::maps::MAX_FLOWS_RANGE;
use std::fs;

/// Capabilities, by number, without which nothing works.
const NEEDED: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (39, "CAP_BPF")];
/// `CAP_SYS_ADMIN` stands for all of them but `CAP_NET_ADMIN`.
const SYS_ADMIN: u32 = 21;

/// Whether the options make sense, the kernel is new enough and the process may use it.
pub(super) fn check(options: &Options) -> Result<(), Error> {
    options_make_sense(options)?;
    // XDP programs that take frames in several buffers, and `bpf_loop` (5.17).
    if !kernel_is_at_least(5, 18) {
        let found = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        return Err(Error::OldKernel { found: found.trim().to_owned(), needed: "5.18" });
    }
    privilege()
}

/// Whether the kernel is of this version or newer. One that does not tell is believed to be.
pub(crate) fn kernel_is_at_least(major: u8, minor: u8) -> bool {
    KernelVersion::current().map_or(true, |current| current >= KernelVersion::new(major, minor, 0))
}

pub(super) fn options_make_sense(options: &Options) -> Result<(), Error> {
    let name = &options.instance;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if name.is_empty() || name.len() > 63 || !name.bytes().all(allowed) {
        return Err(Error::Option(format!(
            "the instance name `{name}` is not made of 1 to 63 letters, digits, `-` and `_`"
        )));
    }
    let (least, most) = MAX_FLOWS_RANGE;
    if !(least..=most).contains(&options.max_flows) {
        return Err(Error::Option(format!(
            "--max-flows must lie between {least} and {most}, not {}",
            options.max_flows
        )));
    }
    Ok(())
}

/// Whether the process has what it needs.
pub(crate) fn privilege() -> Result<(), Error> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    // Where /proc is hidden the kernel will have its say.
    let Some(effective) = effective.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()) else {
        return Ok(());
    };
    let has = |capability: u32| effective >> capability & 1 == 1;
    let missing: Vec<_> = NEEDED
        .into_iter()
        .filter(|(capability, name)| !has(*capability) && (*name == "CAP_NET_ADMIN" || !has(SYS_ADMIN)))
        .map(|(_, name)| name)
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(Error::Privilege(missing.join(" and "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_directory_are_refused() {
        for name in ["", "..", "a/b", "a.b", "ä"] {
            let options = Options { instance: name.to_owned(), ..Options::default() };
            assert!(options_make_sense(&options).is_err(), "{name:?}");
        }
        assert!(options_make_sense(&Options::default()).is_ok());
        let tiny = Options { max_flows: 1, ..Options::default() };
        assert!(options_make_sense(&tiny).unwrap_err().to_string().contains("--max-flows"));
    }
}
