//! What this process may do and where it stands: capabilities, mounts, memory.

use super::{Line, Lines, Wanted, file, quoted};
use crate::datapath::{Cgroup, DEFAULT_BPFFS, Error, is_bpffs, privilege};
use lb_common::maps::{MAPS, MAX_FLOWS_RANGE, MapKind, MapSpec, NO_PREALLOC};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, access};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What the kernel keeps with each entry of a hash, and for each of its buckets (`struct htab_elem`, `struct bucket`).
const ELEMENT: u64 = 48;
const BUCKET: u64 = 16;

pub(super) fn lines(wanted: &Wanted) -> Vec<Line> {
    let mut lines = Lines::of("node");
    match privilege() {
        Ok(()) => lines.pass("privileges", "the process may load and attach programs"),
        Err(Error::Privilege(missing)) => {
            lines.fail("privileges", format!("the process lacks {missing}: run it as root"), "sudo lb-ctl preflight");
        }
        Err(error) => lines.fail("privileges", error.to_string(), ""),
    }
    bpffs(&mut lines, &wanted.bpffs);
    if let Some(cgroup) = &wanted.socket_lb {
        match Cgroup::open(cgroup) {
            Ok(_) => lines.pass("cgroup", format!("{} is a cgroup2 directory", cgroup.display())),
            Err(Error::Cgroup { reason, remedy, .. }) => {
                lines.fail("cgroup", format!("--socket-lb {}: {reason}; {remedy}", cgroup.display()), "");
            }
            Err(error) => lines.fail("cgroup", error.to_string(), ""),
        }
    }
    memory(&mut lines, wanted.max_flows);
    lines.lines
}

fn bpffs(lines: &mut Lines<'_>, path: &Path) {
    let place = path.display();
    let mount = format!("mount -t bpf bpf {}", quoted(&place.to_string()));
    if !is_bpffs(path) {
        if path == Path::new(DEFAULT_BPFFS) && path.exists() {
            lines.warn("bpffs", format!("no BPF file system is mounted at {place}: the daemon mounts one"), mount);
            if is_private_mount_namespace() {
                private(lines, path);
            }
        } else if path.exists() {
            lines.fail("bpffs", format!("{place} is not on a BPF file system"), mount);
        } else {
            let create = format!("mkdir -p {0} && {mount}", quoted(&place.to_string()));
            lines.fail("bpffs", format!("{place} does not exist"), create);
        }
        return;
    }
    let is_read_only = statvfs(path).is_ok_and(|of| of.flags().contains(FsFlags::ST_RDONLY));
    if is_read_only {
        let remedy = format!("mount -o remount,rw {}", quoted(&place.to_string()));
        lines.fail("bpffs", format!("{place} is mounted read-only"), remedy);
    } else if access(path, AccessFlags::W_OK).is_err() {
        lines.fail(
            "bpffs",
            format!("{place} may not be written by this process: run it as root"),
            "sudo lb-ctl preflight",
        );
    } else {
        lines.pass("bpffs", format!("a BPF file system is at {place}"));
    }
    match is_seen_by_init(path) {
        Some(false) => private(lines, path),
        Some(true) => lines.pass("bpffs-private", "the BPF file system outlives the daemon"),
        None => {}
    }
}

fn private(lines: &mut Lines<'_>, path: &Path) {
    let message = format!(
        "the BPF file system at {} is in a mount namespace of this process (as `ip netns exec` or PrivateMounts= make one): what is \
         pinned there, and forwarding with it, ends with the last process in it, and so it does when the daemon stops. Mount one \
         where process 1 sees it, outside of /sys, and name it with --bpffs",
        path.display()
    );
    let remedy = "nsenter --target 1 --mount sh -c 'mkdir -p /run/lb-ctl/bpf && mount -t bpf bpf /run/lb-ctl/bpf'";
    lines.warn("bpffs-private", message, remedy);
}

/// Whether this process has mounts of its own, which process 1 does not see; not where that cannot be told.
fn is_private_mount_namespace() -> bool {
    // The kernel gives no two mounts the same number, and a mount namespace is made of copies.
    let first = |text: &str| text.lines().next().and_then(|line| field(line, 0)).map(str::to_owned);
    let (own, init) = (fs::read_to_string("/proc/self/mountinfo"), fs::read_to_string("/proc/1/mountinfo"));
    let (Ok(own), Ok(init)) = (own, init) else { return false };
    first(&own).is_some_and(|number| !init.lines().any(|line| field(line, 0) == Some(number.as_str())))
}

/// Whether process 1 has the same file system mounted; `None`: that cannot be told.
fn is_seen_by_init(path: &Path) -> Option<bool> {
    let device = fs::metadata(path).ok()?.dev();
    let device = format!("{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let mounts = fs::read_to_string("/proc/1/mountinfo").ok()?;
    Some(mounts.lines().any(|line| field(line, 2) == Some(device.as_str())))
}

/// A field of a line of mountinfo: 0 is the mount's number, 2 the file system's device.
fn field(line: &str, number: usize) -> Option<&str> {
    line.split(' ').nth(number)
}

fn memory(lines: &mut Lines<'_>, max_flows: u32) {
    let cpus = aya::util::nr_cpus().unwrap_or(1) as u64;
    let (at_once, bill) = bill(max_flows, cpus);
    let total = meminfo("MemTotal");
    let available = meminfo("MemAvailable");
    let (first, full) = (mebibytes(at_once), mebibytes(bill));
    let words = format!("the maps take {first} at once and {full} when they are full, for --max-flows {max_flows}");
    // The number of flows whose maps take half of what there is.
    let fitting = |room: u64| {
        let share = u128::from(max_flows) * u128::from(room / 2) / u128::from(bill.max(1));
        u32::try_from(share).unwrap_or(u32::MAX).clamp(MAX_FLOWS_RANGE.0, MAX_FLOWS_RANGE.1)
    };
    match (total, available) {
        (Some(total), _) if bill > total => {
            let remedy = format!("lb-ctl daemon --max-flows {}", fitting(total));
            lines.fail("memory", format!("{words}, and the node has {}", mebibytes(total)), remedy);
        }
        (_, Some(available)) if bill > available => {
            let remedy = format!("lb-ctl daemon --max-flows {}", fitting(available));
            lines.warn("memory", format!("{words}, and {} are free", mebibytes(available)), remedy);
        }
        _ => lines.pass("memory", format!("{words}; RLIMIT_MEMLOCK does not count since Linux 5.11")),
    }
}

/// Bytes of kernel memory that the maps take from the start, and when they are full.
fn bill(max_flows: u32, cpus: u64) -> (u64, u64) {
    let is_made_at_once = |spec: &&MapSpec| spec.flags & NO_PREALLOC == 0;
    let all = |specs: &mut dyn Iterator<Item = &MapSpec>| specs.map(|spec| size(spec, max_flows, cpus)).sum();
    (all(&mut MAPS.iter().filter(is_made_at_once)), all(&mut MAPS.iter()))
}

fn size(spec: &MapSpec, max_flows: u32, cpus: u64) -> u64 {
    let entries = u64::from(spec.entries_for(max_flows));
    let (key, value) = ((spec.key as u64).next_multiple_of(8), (spec.value as u64).next_multiple_of(8));
    match spec.kind {
        MapKind::Array => entries * value,
        MapKind::RingBuf => entries,
        MapKind::PerCpuArray => entries * value * cpus,
        MapKind::Hash | MapKind::LruHash => {
            // Those that are filled beforehand have one more for each CPU.
            let spare = if spec.flags & NO_PREALLOC == 0 { cpus } else { 0 };
            (entries + spare) * (ELEMENT + key + value) + entries.next_power_of_two() * BUCKET
        }
        MapKind::LpmTrie => entries * (ELEMENT + key + value),
    }
}

fn meminfo(name: &str) -> Option<u64> {
    let text = file("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes << 10)
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bill_grows_with_flows_and_processors() {
        let (at_once, full) = bill(1_000_000, 4);
        assert!(at_once < full && (1100 << 20..1400 << 20).contains(&at_once), "{at_once} {full}");
        assert!(bill(131_072, 4).1 < full / 5 && bill(131_072, 64) > bill(131_072, 4));
    }
}
