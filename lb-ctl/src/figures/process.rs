//! The daemon's own process, as the kernel tells of it in proc(5).

use nix::unistd::{SysconfVar, sysconf};
use serde::{Deserialize, Serialize};
use std::fs;

/// What it uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessFigures {
    /// Seconds of CPU time, in user and in kernel mode.
    pub cpu_seconds: f64,
    /// Bytes of memory that it occupies.
    pub resident_bytes: u64,
    /// When it was started, in seconds since the epoch.
    pub start_seconds: f64,
    /// Files and sockets that it has open.
    pub open_files: u64,
}

impl ProcessFigures {
    /// As they are now; zeros where /proc does not tell.
    pub fn read() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let open_files = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
        let seconds = |name| sysconf(name).ok().flatten().unwrap_or(1) as f64;
        let (ticks, page) = (seconds(SysconfVar::CLK_TCK), seconds(SysconfVar::PAGE_SIZE));
        let found = Self::parse(&read("/proc/self/stat"), &read("/proc/stat"), ticks, page);
        Self { open_files, ..found.unwrap_or_default() }
    }

    /// From the texts of /proc/self/stat and /proc/stat; `ticks` a second, `page` bytes a page.
    fn parse(own: &str, machine: &str, ticks: f64, page: f64) -> Option<Self> {
        // The name stands in parentheses and may hold anything. Behind it comes field 3.
        let fields: Vec<&str> = own.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let boot = machine.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse::<f64>().ok()?;
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) as f64 / ticks,
            resident_bytes: (field(24)? as f64 * page) as u64,
            start_seconds: boot + field(22)? as f64 / ticks,
            open_files: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let own = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 150 0 0 20 0 3 0 12345 9999 42 18446744073709551615";
        let found = ProcessFigures::parse(own, "cpu 1 2\nbtime 1700000000\n", 100.0, 4096.0).unwrap();
        assert_eq!((found.cpu_seconds, found.resident_bytes), (4.0, 42 * 4096));
        assert!((found.start_seconds - 1_700_000_123.45).abs() < 1e-6);
        assert_eq!(ProcessFigures::parse("7 (a", "", 100.0, 4096.0), None);
    }

    #[test]
    fn this_process_is_found() {
        let found = ProcessFigures::read();
        assert!(found.resident_bytes > 1 << 20 && found.start_seconds > 1.6e9 && found.open_files > 2, "{found:?}");
    }
}
