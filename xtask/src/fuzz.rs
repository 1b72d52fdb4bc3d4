//! `cargo xtask fuzz`: libFuzzer looks for input that upsets what reads it.
//!
//! Guided by coverage, on the stable compiler: the passes that libFuzzer needs are LLVM's own and are asked for by flag. No
//! sanitizer is linked, since the code under test is safe Rust: a read outside of a slice panics by itself. Overflow
//! checks and debug assertions are on.

use anyhow::{Context, ensure};
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::process::{self, shown, step};
use crate::{build, workspace};

/// What the compiler must add so that libFuzzer sees where an input leads.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing";

/// Longer inputs teach nothing more, neither frames nor manifests.
const MAX_LENGTH: u32 = 4096;

/// Flags of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The target: a file of `tests/fuzz/fuzz_targets`; all of them, one after the other, if none is named.
    target: Option<String>,
    /// How long each is run.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Where chance begins; 0 begins elsewhere each time.
    #[arg(long, default_value_t = 0)]
    seed: u32,
    /// Run this one input, such as the one that a crash left behind, and nothing else.
    #[arg(long, value_name = "FILE", requires = "target")]
    input: Option<std::path::PathBuf>,
}

impl Args {
    /// All targets, for so long each, and always from the same beginning: a run that passed once passes again.
    pub(crate) fn all(seconds: u64) -> Self {
        Self { target: None, seconds, seed: 2026, input: None }
    }
}

/// Builds the targets, runs them, and says which input upset one.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let folder = workspace::root().join("tests/fuzz");
    step("building the fuzz targets");
    let mut cargo = process::host_cargo();
    cargo
        .env("RUSTFLAGS", COVERAGE)
        .env("CARGO_TARGET_DIR", workspace::root().join("target/fuzz"))
        // With a target named, build scripts and macros are built without these flags.
        .args(["build", "--profile=fuzz", "--package=lb-fuzz", "--features=libfuzzer", "--target"])
        .arg(host()?);
    let mut targets: Vec<_> = build::artifacts(&mut cargo)?
        .into_iter()
        .filter(|artifact| artifact.target.is("bin") && artifact.manifest_path.starts_with(&folder))
        .filter_map(|artifact| Some((artifact.target.name, artifact.executable?)))
        .filter(|(name, _)| args.target.as_ref().is_none_or(|target| target == name))
        .collect();
    targets.sort();
    let wanted = args.target.as_deref().unwrap_or("any");
    ensure!(!targets.is_empty(), "no fuzz target is called `{wanted}`: see tests/fuzz/fuzz_targets");
    for (name, path) in &targets {
        run_target(name, path, args)?;
    }
    Ok(())
}

fn run_target(name: &str, path: &Path, args: &Args) -> anyhow::Result<()> {
    let found = workspace::root().join("target/fuzz/corpus").join(name);
    let crashes = workspace::root().join("target/fuzz/crashes").join(name);
    for folder in [&found, &crashes] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let seeds: &[&str] = match name {
        "manifests" => &["examples", "lb-ctl/tests/fixtures/good", "lb-ctl/tests/fixtures/bad"],
        _ => &[&format!("tests/fuzz/seeds/{name}")],
    };
    let mut command = Command::new(path);
    command.current_dir(workspace::root()).arg("-close_fd_mask=0");
    command.arg(format!("-artifact_prefix={}/", crashes.display()));
    if let Some(input) = &args.input {
        command.arg(std::path::absolute(input)?);
    } else {
        command.arg(format!("-max_total_time={}", args.seconds)).arg(format!("-max_len={MAX_LENGTH}"));
        command.arg(format!("-seed={}", args.seed));
        // From the start: the seeds are as long as packets are.
        command.arg("-len_control=0");
        command.args(["-print_final_stats=1", "-verbosity=0", "-timeout=10", "-rss_limit_mb=2048"]);
        // What is found goes to the first folder; the others are only read.
        command.arg(&found).args(seeds);
    }
    step(format_args!("fuzzing {name}: {}", shown(&command)));
    process::run(&mut command).with_context(|| {
        format!(
            "fuzzing {name}: the input is in {0}; again: `cargo xtask fuzz {name} --input {0}/FILE`",
            crashes.display()
        )
    })
}

/// The host's target triple.
fn host() -> anyhow::Result<String> {
    let told = process::answer(Command::new("rustc").arg("-vV")).context("`rustc -vV` does not run")?;
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not say what its host is")?.to_owned())
}
