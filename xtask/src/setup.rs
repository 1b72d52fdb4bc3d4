//! `cargo xtask setup`: what building and testing need, installed where it is missing.
//!
//! It says what it will install before it does, changes nothing when everything is there (and is then done in a fraction of
//! a second), never removes a package to make room for another, and never touches rustup's toolchains.

use anyhow::{Context, bail, ensure};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::privilege::{Needed, Privilege, through_sudo};
use crate::process::{self, shown, step};
use crate::toolchain::{BPF_LINKER, Compiler, DEBIAN_BPF_CORE, DEBIAN_COMPILER, LLVM, NIGHTLY, Route};
use crate::workspace;

/// Debian's packages for the BPF object, without the one that carries LLVM's version in its name.
const BPF_PACKAGES: [&str; 4] = [DEBIAN_COMPILER, "cargo-web", "rust-web-clippy", DEBIAN_BPF_CORE];

/// Programs that the tests call, and the Debian package of each.
/// `c++` builds libFuzzer.
const TEST_PROGRAMS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("ethtool", "ethtool"),
    ("c++", "g++"),
    ("dig", "bind9-dnsutils"),
    ("tshark", "tshark"),
];

/// What the bench compares with: a file, below the root or below [`peers_root`], and the Debian package that has it.
const PEERS: [(&str, &str); 6] = [
    ("usr/sbin/iptables-legacy-restore", "iptables"),
    ("usr/bin/iperf3", "iperf3"),
    ("usr/bin/wrk", "wrk"),
    ("usr/sbin/haproxy", "haproxy"),
    ("usr/sbin/nginx", "nginx-light"),
    ("usr/lib/nginx/modules/ngx_stream_module.so", "libnginx-mod-stream"),
];

/// What checks rules and metrics for Prometheus, and the Debian package that has it. That is unpacked and not installed: it
/// would start a service on this machine.
const PROMTOOL: (&str, &str) = ("usr/bin/promtool", "prometheus");

/// Where that package is unpacked.
fn promtool_root() -> PathBuf {
    workspace::tools().join("prometheus")
}

fn has_promtool() -> bool {
    process::find("promtool").is_some() || promtool_root().join(PROMTOOL.0).exists()
}

/// Fetches the package by itself: its program needs nothing of what it depends on.
fn unpack_promtool() -> anyhow::Result<()> {
    let archives = promtool_root().join("archives");
    fs::create_dir_all(&archives).with_context(|| format!("cannot make {}", archives.display()))?;
    let mut download = Command::new("apt-get");
    download.args(["-q", "download", PROMTOOL.1]).current_dir(&archives);
    step(shown(&download));
    process::run(&mut download)?;
    unpack(&archives, &promtool_root())
}

/// Unpacks the Debian packages in a directory.
fn unpack(archives: &Path, root: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(archives)? {
        let package = entry?.path();
        if package.extension().is_some_and(|extension| extension == "deb") {
            process::run(Command::new("dpkg").arg("-x").arg(&package).arg(root))?;
            fs::remove_file(&package)?;
        }
    }
    Ok(())
}

/// Where the peers' packages are unpacked.
fn peers_root() -> PathBuf {
    workspace::tools().join("peers")
}

/// Unpacks the peers that are missing below `target/`, with what they depend on: installed, some would start services on this
/// machine.
pub(crate) fn peers() -> anyhow::Result<()> {
    let root = peers_root();
    let is_there = |file: &str| [PathBuf::from("/"), root.clone()].iter().any(|root| root.join(file).exists());
    let missing: Vec<&str> =
        PEERS.into_iter().filter(|(file, _)| !is_there(file)).map(|(_, package)| package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    step(format_args!(
        "setup: will unpack Debian's packages {} into {}",
        missing.join(" "),
        workspace::relative(&root)
    ));
    let archives = root.join("archives");
    fs::create_dir_all(archives.join("partial")).with_context(|| format!("cannot make {}", archives.display()))?;
    let mut download = Command::new("apt-get");
    // Only what is not installed is fetched, and nothing is changed, so no lock is needed.
    download.args(["-q", "install", "--yes", "--download-only", "--no-install-recommends"]);
    download.args(["-o", "Debug::NoLocking=1", "-o"]).arg(format!("Dir::Cache::archives={}", archives.display()));
    download.args(&missing);
    step(shown(&download));
    process::run(&mut download)?;
    unpack(&archives, &root)
}

/// Installs what is missing on this route.
pub(crate) fn run(route: Route) -> anyhow::Result<()> {
    let done = match route {
        Route::Debian => debian()?,
        Route::Rustup => rustup().map(|()| false)?,
    };
    step(if done { "setup: done" } else { "setup: everything needed is there" });
    Ok(())
}

/// Says whether anything had to be installed.
fn debian() -> anyhow::Result<bool> {
    let packages = missing_packages();
    let linker = !linker_is_current();
    if !packages.is_empty() {
        step(format_args!("setup: will install Debian's packages {}", packages.join(" ")));
        if packages.iter().any(|package| package.starts_with("llvm")) {
            step("setup: (with what they depend on about 210 MB to fetch, 1.2 GB on disk)");
        }
    }
    let promtool = !has_promtool();
    if promtool {
        let root = promtool_root();
        step(format_args!(
            "setup: will unpack Debian's package {} into {}, for promtool",
            PROMTOOL.1,
            workspace::relative(&root)
        ));
    }
    if linker {
        step(format_args!(
            "setup: will build bpf-linker {BPF_LINKER} from the Rust package registry into {} (one to three minutes)",
            workspace::relative(&workspace::tools())
        ));
    }
    if !packages.is_empty() {
        install_packages(&packages)?;
    }
    check_compiler()?;
    if linker {
        install_linker()?;
    }
    if promtool {
        unpack_promtool()?;
    }
    Ok(linker || promtool || !packages.is_empty())
}

/// Packages that are not installed, or whose compiler is too old.
fn missing_packages() -> Vec<String> {
    let llvm = format!("llvm-{LLVM}-dev");
    let for_bpf: Vec<&str> = BPF_PACKAGES.into_iter().chain([llvm.as_str()]).collect();
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat=${Package} ${db:Status-Status}\n"]).args(&for_bpf);
    // It fails when it does not know one of the packages, and still prints the others.
    let known = query.output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let installed = |package: &str| known.lines().any(|line| line == format!("{package} installed"));
    let outdated = Compiler::of_debian().is_some_and(|compiler| !compiler.is_new_enough());

    let programs =
        TEST_PROGRAMS.into_iter().filter(|(program, _)| !program_exists(program)).map(|(_, package)| package);
    for_bpf
        .iter()
        .copied()
        .filter(|package| outdated || !installed(package))
        .chain(programs)
        .map(str::to_owned)
        .collect()
}

/// Whether root would find the program; a user's `PATH` often lacks the last two.
fn program_exists(program: &str) -> bool {
    process::find(program).is_some()
        || ["/usr/sbin", "/sbin"].iter().any(|directory| fs::metadata(format!("{directory}/{program}")).is_ok())
}

fn install_packages(packages: &[String]) -> anyhow::Result<()> {
    let quiet = [("DEBIAN_FRONTEND", "noninteractive".to_owned())];
    let apt = |mut command: Command, arguments: &[&str]| {
        command.args(["-q", "-o", "DPkg::Lock::Timeout=300"]).args(arguments);
        command
    };
    let update = ["update"];
    let install: Vec<&str> = ["install", "--yes", "--no-remove", "--no-install-recommends"]
        .into_iter()
        .chain(packages.iter().map(String::as_str))
        .collect();

    let privilege = Privilege::detect();
    let command = |arguments: &[&str]| {
        privilege.command("apt-get", &quiet).map(|command| apt(command, arguments)).ok_or_else(|| {
            let lines = [apt(through_sudo("apt-get", &[]), &update), apt(through_sudo("apt-get", &[]), &install)];
            Needed::root(format!("Debian's packages {} are missing", packages.join(" ")), &lines)
        })
    };

    let mut update = command(&update)?;
    step(shown(&update));
    if let Err(error) = process::run(&mut update) {
        // A list that cannot be renewed may still name what we need; if it does not, the next step says so.
        eprintln!("warning: {error:#}");
    }
    let mut install = command(&install)?;
    step(shown(&install));
    process::run(&mut install).context(
        "Debian's packages could not be installed. They stand in the main and security archives of Debian 12: are both in \
         apt's sources? A package that conflicts (Debian's own rustc or rustup) is not removed for you. \
         The other route is `--toolchain rustup`",
    )
}

/// Debian's compiler and the linker must hold the same LLVM.
fn check_compiler() -> anyhow::Result<()> {
    let compiler = Compiler::of_debian().context("Debian's rustc does not say its version: `/usr/bin/rustc -vV`")?;
    ensure!(
        compiler.is_new_enough(),
        "Debian's rustc is {}, and {} is needed: enable Debian's security archive in apt's sources, or use `--toolchain rustup`",
        compiler.release,
        env!("CARGO_PKG_RUST_VERSION")
    );
    ensure!(
        compiler.llvm == LLVM,
        "Debian's rustc {} now comes with LLVM {}, and this version of lb-ctl expects LLVM {LLVM}: \
         raise `LLVM` (and if need be `BPF_LINKER`) in xtask/src/toolchain.rs",
        compiler.release,
        compiler.llvm
    );
    Ok(())
}

/// Whether bpf-linker is there in the version and with the LLVM that we name: cargo notes both where it installs.
fn linker_is_current() -> bool {
    let notes = fs::read_to_string(workspace::tools().join(".crates2.json")).unwrap_or_default();
    Route::Debian.linker().is_some()
        && notes.contains(&format!("\"bpf-linker {BPF_LINKER} ("))
        && notes.contains(&format!("\"llvm-{LLVM}\""))
}

fn install_linker() -> anyhow::Result<()> {
    let mut command = process::host_cargo();
    command
        .args(["install", "bpf-linker", "--locked", "--force", "--no-default-features", "--version", BPF_LINKER])
        .arg(format!("--features=llvm-{LLVM}"))
        .arg("--root")
        .arg(workspace::tools())
        .env("LLVM_PREFIX", format!("/usr/lib/llvm-{LLVM}"))
        // Else cargo ends with the advice to put this directory into PATH.
        .env("PATH", path_with(workspace::tools().join("bin")));
    step(format_args!("LLVM_PREFIX=/usr/lib/llvm-{LLVM} {}", shown(&command)));
    process::run(&mut command)
        .context("bpf-linker could not be built; it needs the Rust package registry and a C linker (`cc`)")
}

fn path_with(directory: PathBuf) -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    env::join_paths(std::iter::once(directory).chain(env::split_paths(&path))).unwrap_or(path)
}

/// Checks the other route, and installs nothing there: toolchains of rustup are the user's, and an update of one cannot be
/// undone.
fn rustup() -> anyhow::Result<()> {
    let mut missing = Vec::new();
    let mut lines = Vec::new();
    let mut components = Command::new("rustup");
    components.args(["component", "list", "--installed", "--toolchain", NIGHTLY]);
    match process::answer(&mut components) {
        None => {
            missing.push("rustup's nightly compiler with rust-src");
            lines.push(format!("rustup toolchain install {NIGHTLY} --profile minimal --component rust-src,clippy"));
        }
        Some(list) if !list.lines().any(|component| component == "rust-src") => {
            missing.push("rust-src for the nightly compiler");
            lines.push(format!("rustup component add rust-src --toolchain {NIGHTLY}"));
        }
        Some(_) => {}
    }
    if Route::Rustup.linker().is_none() {
        missing.push("a bpf-linker in PATH that reads the nightly compiler's bitcode");
        lines.push("cargo install cargo-binstall".to_owned());
        lines.push("cargo binstall bpf-linker".to_owned());
    }
    if !missing.is_empty() {
        bail!(Needed::new(format!("the route of rustup lacks {}", missing.join(" and ")), lines));
    }
    Ok(())
}
