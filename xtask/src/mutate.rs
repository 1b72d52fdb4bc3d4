//! `cargo xtask mutate`: does the oracle notice when the datapath's core goes wrong?
//!
//! The core is copied, together with what runs it on the host under the oracle, and nothing else. The copy as it is must pass.
//! Then one listed mistake at a time is written into it, and the same run must fail, by an objection of the oracle. A mistake
//! whose place in the source is no longer found is an error: the list goes along with the core.

use anyhow::{Context, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use std::{fs, io};

use crate::process::{self, step};
use crate::{build, workspace};

/// A mistake that somebody could make.
struct Mutation {
    /// What it is called.
    name: &'static str,
    /// What it breaks.
    breaks: &'static str,
    /// The file.
    file: &'static str,
    /// What stands there once.
    original: &'static str,
    /// What is written instead.
    mutated: &'static str,
}

const MUTATIONS: [Mutation; 31] = [
    Mutation {
        name: "header-checksum",
        breaks: "the IPv4 header's checksum forgets the change of addresses",
        file: "lb-ebpf/src/address.rs",
        original: "let delta = if takes_hop { checksum::add(delta, Self::HOP) } else { delta };",
        mutated: "let delta = if takes_hop { Self::HOP } else { 0 };",
    },
    Mutation {
        name: "lost-carry",
        breaks: "the carry of two changes' sum is lost",
        file: "lb-ebpf/src/checksum.rs",
        original: "(sum + (sum >> 16)) as u16",
        mutated: "sum as u16",
    },
    Mutation {
        name: "made-up-checksum",
        breaks: "a UDP packet without a checksum gets a wrong one",
        file: "lb-ebpf/src/rewrite.rs",
        original: "zero_means_none: !is_tcp,",
        mutated: "zero_means_none: is_tcp,",
    },
    Mutation {
        name: "reply-checksum",
        breaks: "a reply's checksum is updated as if it were the request",
        file: "lb-ebpf/src/conntrack.rs",
        original: "mirror.address_delta = !flow.address_delta;",
        mutated: "mirror.address_delta = flow.address_delta;",
    },
    Mutation {
        name: "ttl-checksum",
        breaks: "the TTL's change is summed in the wrong half of its word",
        file: "lb-ebpf/src/address.rs",
        original: "const HOP: u16 = checksum::delta(1_u16.to_le() as u32, 0);",
        mutated: "const HOP: u16 = checksum::delta(0x100_u16.to_le() as u32, 0);",
    },
    Mutation {
        name: "last-hop",
        breaks: "a packet leaves with a TTL of zero",
        file: "lb-ebpf/src/datapath.rs",
        original: "if hop.takes_hop() && wire.ttl <= 1 {",
        mutated: "if hop.takes_hop() && wire.ttl < 1 {",
    },
    Mutation {
        name: "ip-options",
        breaks: "IPv4 options are taken for the transport header",
        file: "lb-ebpf/src/parse.rs",
        original: "transport(packet, addresses, header.proto, header_length, length, header.ttl, fragment)",
        mutated: "transport(packet, addresses, header.proto, Ipv4Hdr::LEN, length, header.ttl, fragment)",
    },
    Mutation {
        name: "target-port",
        breaks: "a backend is reached at the Service's port",
        file: "lb-ebpf/src/datapath.rs",
        original: "flow.dst_port = affinity::port_of(service, slot);",
        mutated: "flow.dst_port = key.dst_port;",
    },
    Mutation {
        name: "pinned-udp",
        breaks: "a UDP client stays with a backend that is gone",
        file: "lb-ebpf/src/conntrack.rs",
        original: "if !opens && wire.key.protocol != UDP {",
        mutated: "if !opens {",
    },
    Mutation {
        name: "swapped-embedded",
        breaks: "an ICMP error embeds the client as its packet's destination",
        file: "lb-ebpf/src/icmp.rs",
        original: "packet.store(embedded + A::SOURCE_OFFSET, flow.dst)?;",
        mutated: "packet.store(embedded + A::SOURCE_OFFSET, flow.src)?;",
    },
    Mutation {
        name: "embedded-checksum",
        breaks: "an ICMP error's own checksum forgets that of the packet it embeds",
        file: "lb-ebpf/src/icmp.rs",
        original: "delta = checksum::add(delta, !change);",
        mutated: "let _ = change;",
    },
    Mutation {
        name: "routers-errors",
        breaks: "an ICMP error of a router on the way seems to come from the Service",
        file: "lb-ebpf/src/icmp.rs",
        original: "if outer.src == key.src { flow.src } else { outer.src }",
        mutated: "flow.src",
    },
    Mutation {
        name: "late-fragments",
        breaks: "later fragments do not follow the first",
        file: "lb-ebpf/src/fragment.rs",
        original: "!wire.is_later() || find(tables, wire, now())",
        mutated: "!wire.is_later() || now() == 0",
    },
    Mutation {
        name: "fragment-ports",
        breaks: "the data of a later fragment is taken for ports",
        file: "lb-ebpf/src/parse.rs",
        original: "self.0 > 1",
        mutated: "false",
    },
    Mutation {
        name: "shared-source",
        breaks: "a new connection takes the source of one that lives",
        file: "lb-ebpf/src/snat.rs",
        original: "(displaces && holder.is_doubtful())",
        mutated: "!displaces",
    },
    Mutation {
        name: "kept-source",
        breaks: "a connection goes on with a source that was given to another",
        file: "lb-ebpf/src/snat.rs",
        original: "conntrack::forget(tables, wanted, holder);",
        mutated: "tables.delete(wanted);",
    },
    Mutation {
        name: "hairpin",
        breaks: "a pod that reaches itself through its Service sees its own address",
        file: "lb-ebpf/src/datapath.rs",
        original: "} else if key.src == address || !(backend.is_local() || is(Scratch::<A>::KEEPS_ADDRESS)) {",
        mutated: "} else if !(backend.is_local() || is(Scratch::<A>::KEEPS_ADDRESS)) {",
    },
    Mutation {
        name: "pods-outside",
        breaks: "pods are taken for clients from outside where a Service tells these apart",
        file: "lb-ebpf/src/scope.rs",
        original: "if !tables.is_in(PODS, &key.src) {",
        mutated: "if tables.is_in(PODS, &key.src) {",
    },
    Mutation {
        name: "source-ranges",
        breaks: "a Service serves clients outside of its source ranges",
        file: "lb-ebpf/src/scope.rs",
        original: "return Verdict::drop(Reason::SourceRange);",
        mutated: "return CHOOSE;",
    },
    Mutation {
        name: "told-elsewhere",
        breaks: "a client is refused where only other nodes have backends for it",
        file: "lb-ebpf/src/datapath.rs",
        original: "flags & Service::ELSEWHERE != 0",
        mutated: "flags & Service::ELSEWHERE == 0",
    },
    Mutation {
        name: "orphans",
        breaks: "UDP flows of a port that no Service has any more are refused",
        file: "lb-ebpf/src/conntrack.rs",
        original: "is_there || (!opens && !is_served(tables, &wire.key))",
        mutated: "is_there",
    },
    Mutation {
        name: "draining-udp",
        breaks: "a UDP client loses a backend that still serves",
        file: "lb-ebpf/src/conntrack.rs",
        original: "else { backend.is_serving() }",
        mutated: "else { backend.is_alive() }",
    },
    Mutation {
        name: "sctp-length",
        breaks: "SCTP's checksum is brought up to date as if the packet were 14 bytes shorter",
        file: "lb-ebpf/src/rewrite.rs",
        original: "(wire.length + IP_OFFSET as u32).saturating_sub",
        mutated: "wire.length.saturating_sub",
    },
    Mutation {
        name: "sctp-power",
        breaks: "SCTP's checksum is brought up to date without the highest power of two in the packet's length",
        file: "lb-ebpf/src/sctp.rs",
        original: "rest > 1",
        mutated: "rest > 3",
    },
    Mutation {
        name: "short-last-hop",
        breaks: "by the short way a packet leaves with a TTL of zero",
        file: "lb-ebpf/src/shortcut.rs",
        original: "plain.ttl <= 1",
        mutated: "plain.ttl < 1",
    },
    Mutation {
        name: "short-opening",
        breaks: "by the short way a connection that begins anew goes on with the backend of the old one",
        file: "lb-ebpf/src/shortcut.rs",
        original: "plain.tcp_flags & SYN != 0",
        mutated: "plain.tcp_flags & SYN > 2",
    },
    Mutation {
        name: "short-end",
        breaks: "by the short way a connection ends for one of its entries alone",
        file: "lb-ebpf/src/shortcut.rs",
        original: "conntrack::refresh(tables, &scratch.forgotten_key, flow);",
        mutated: "",
    },
    Mutation {
        name: "short-silence",
        breaks: "by the short way a flow goes on that was silent for too long",
        file: "lb-ebpf/src/shortcut.rs",
        original: "flow.tick != env.tick()",
        mutated: "flow.tick > env.tick()",
    },
    Mutation {
        name: "short-mtu",
        breaks: "by the short way a packet leaves that is too long for its link",
        file: "lb-ebpf/src/shortcut.rs",
        original: "length > u32::from(flow.hop.mtu)",
        mutated: "length > u32::MAX - 1",
    },
    Mutation {
        name: "short-udp",
        breaks: "by the short way a UDP client stays with a backend that is gone",
        file: "lb-ebpf/src/shortcut.rs",
        original: "!(plain.is_tcp || is_reply || is_serving(tables, flow))",
        mutated: "!(plain.is_tcp || is_reply || is_serving(tables, flow) || flow.backend > 0)",
    },
    Mutation {
        name: "short-fragments",
        breaks: "by the short way the data of a later fragment is taken for ports",
        file: "lb-ebpf/src/parse.rs",
        original: "head.load::<u16>(IP_OFFSET + 6)? & WHOLE != 0",
        mutated: "head.load::<u16>(IP_OFFSET + 6)? & WHOLE == 7",
    },
];

/// A mistake is looked for in as many cases as this, of which the first few show most.
const CASES: u32 = 200_000;

/// The crates that are copied: the core, its contract, and what runs it on the host.
const CRATES: [&str; 4] = ["lb-common", "lb-ebpf", "tests/memory", "tests/oracle"];

/// Flags of `cargo xtask mutate`.
#[derive(Default, clap::Args)]
pub(crate) struct Args {
    /// Only the mutations whose name contains one of these.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// Tries them, and says at the end which went unnoticed.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let chosen: Vec<&Mutation> = MUTATIONS
        .iter()
        .filter(|mutation| args.names.is_empty() || args.names.iter().any(|name| mutation.name.contains(name.as_str())))
        .collect();
    ensure!(!chosen.is_empty(), "no mutation's name contains any of `{}`", args.names.join("`, `"));
    let start = Instant::now();
    let copy = Workspace::new()?;
    step("mutations: the core as it is");
    if let Some(objection) = copy.objection()? {
        bail!("the oracle objects to the core as it is: {objection}");
    }
    let mut unnoticed = Vec::new();
    for mutation in &chosen {
        match copy.try_out(mutation).with_context(|| format!("mutation {}", mutation.name))? {
            Some(objection) => step(format_args!("mutations: {} is noticed: {objection}", mutation.name)),
            None => unnoticed.push(format!("{} ({})", mutation.name, mutation.breaks)),
        }
    }
    ensure!(unnoticed.is_empty(), "the oracle did not notice {}", unnoticed.join(", "));
    step(format_args!("mutations: the oracle noticed all {} in {:.0} s", chosen.len(), start.elapsed().as_secs_f64()));
    Ok(())
}

/// A workspace of the copied crates.
struct Workspace {
    root: PathBuf,
}

impl Workspace {
    fn new() -> anyhow::Result<Self> {
        let root = workspace::root().join("target/mutations/workspace");
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| format!("cannot clear {}", root.display()))?;
        }
        for name in CRATES {
            copy(&workspace::root().join(name), &root.join(name))
                .with_context(|| format!("cannot copy {name} to {}", root.display()))?;
        }
        fs::copy(workspace::root().join("Cargo.lock"), root.join("Cargo.lock")).context("cannot copy Cargo.lock")?;
        let manifest = fs::read_to_string(workspace::root().join("Cargo.toml")).context("cannot read Cargo.toml")?;
        fs::write(root.join("Cargo.toml"), of_copies(&manifest)?).context("cannot write the copy's Cargo.toml")?;
        Ok(Self { root })
    }

    /// Writes a mistake, asks the oracle, and takes the mistake back.
    fn try_out(&self, mutation: &Mutation) -> anyhow::Result<Option<String>> {
        let file = self.root.join(mutation.file);
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", mutation.file))?;
        let found = text.matches(mutation.original).count();
        ensure!(
            found == 1,
            "`{}` stands {found} times in {}: bring xtask/src/mutate.rs up to date",
            mutation.original,
            mutation.file
        );
        fs::write(&file, text.replacen(mutation.original, mutation.mutated, 1))?;
        let outcome = self.objection();
        fs::write(&file, text)?;
        outcome
    }

    /// Runs the core under the oracle. Returns the first objection, if there is one.
    fn objection(&self) -> anyhow::Result<Option<String>> {
        let mut cargo = process::host_cargo();
        cargo
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", workspace::root().join("target/mutations/target"))
            // A mistake may leave something unused.
            .env("RUSTFLAGS", "--cap-lints=allow")
            .args(["build", "--quiet", "--offline", "--package=lb-memory", "--test=oracle"]);
        let artifacts = build::artifacts(&mut cargo)?;
        let test = artifacts
            .into_iter()
            .filter(|artifact| artifact.target.name == "oracle")
            .find_map(|artifact| artifact.executable)
            .context("cargo built no test of the oracle")?;
        let output = Command::new(&test)
            .current_dir(self.root.join("tests/memory"))
            // The first failure will do.
            .env("PROPTEST_MAX_SHRINK_ITERS", "0")
            .env("LB_CASES", CASES.to_string())
            .env("RUST_BACKTRACE", "0")
            .output()
            .with_context(|| format!("cannot start {}", test.display()))?;
        if output.status.success() {
            return Ok(None);
        }
        let printed = [output.stdout, output.stderr].concat();
        let printed = String::from_utf8_lossy(&printed);
        let objection = printed.lines().find_map(|line| line.strip_prefix("Test failed: "));
        let objection = objection.with_context(|| format!("it fails, and not by the oracle:\n{printed}"))?;
        Ok(Some(objection.chars().take(120).collect()))
    }
}

/// The workspace's manifest with the copied crates alone as members.
fn of_copies(manifest: &str) -> anyhow::Result<String> {
    let members = format!("members = {CRATES:?}");
    let lines: Vec<&str> = manifest
        .lines()
        .filter(|line| !line.starts_with("default-members = "))
        .map(|line| if line.starts_with("members = ") { members.as_str() } else { line })
        .collect();
    ensure!(lines.contains(&members.as_str()), "Cargo.toml has no line that begins with `members = `");
    Ok(lines.join("\n") + "\n")
}

/// Copies a folder.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() { copy(&entry.path(), &to)? } else { fs::copy(entry.path(), to).map(drop)? }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutation_finds_its_place_once() {
        for mutation in &MUTATIONS {
            let text = fs::read_to_string(workspace::root().join(mutation.file)).unwrap();
            assert_eq!(text.matches(mutation.original).count(), 1, "{}: `{}`", mutation.name, mutation.original);
            assert_ne!(mutation.original, mutation.mutated);
        }
    }

    #[test]
    fn the_copy_has_members_of_its_own() {
        let copied = of_copies("[workspace]\nmembers = [\"a\"]\ndefault-members = [\"a\"]\n[x]\n").unwrap();
        assert_eq!(copied, format!("[workspace]\nmembers = {CRATES:?}\n[x]\n"));
        assert!(of_copies("[package]\n").is_err());
    }
}
