//! `cargo xtask build`: the BPF object, then the binary that carries it.

use anyhow::Context;
use serde::Deserialize;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;
use std::{fs, io::BufRead, io::BufReader};

use crate::process::{self, shown, step};
use crate::toolchain::Route;
use crate::{setup, workspace};

/// Flags of `cargo xtask build`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build the host's binaries with optimizations; the BPF object always has them.
    #[arg(long)]
    pub(crate) release: bool,
}

/// Builds everything, with its toolchain if that is missing.
pub(crate) fn run(route: Route, args: &Args) -> anyhow::Result<()> {
    setup::run(route)?;
    bpf(route, workspace::DATAPATH)?;
    let binary = lb_ctl(args.release)?;
    step(format_args!("built {}", workspace::relative(&binary)));
    Ok(())
}

/// Builds a BPF object.
pub(crate) fn bpf(route: Route, name: &str) -> anyhow::Result<()> {
    step(format_args!("building the BPF object {name}"));
    let start = Instant::now();
    process::run(&mut route.cargo("build", name)).with_context(|| format!("the BPF object {name} does not build"))?;
    let object = workspace::bpf_object(name);
    let bytes = fs::metadata(&object).with_context(|| format!("no object at {}", object.display()))?.len();
    step(format_args!(
        "built {} ({} KiB, {:.1} s)",
        workspace::relative(&object),
        bytes / 1024,
        start.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// Builds the binary `lb-ctl` and returns its path.
pub(crate) fn lb_ctl(release: bool) -> anyhow::Result<PathBuf> {
    binary("lb-ctl", release)
}

/// Builds the binary that has the name of its package and returns its path.
pub(crate) fn binary(name: &str, release: bool) -> anyhow::Result<PathBuf> {
    step(format_args!("building {name}"));
    let mut command = process::host_cargo();
    command.args(["build", "--package", name]);
    if release {
        command.arg("--release");
    }
    let artifacts = artifacts(&mut command)?;
    artifacts
        .into_iter()
        .find(|artifact| artifact.target.name == name && artifact.target.is("bin"))
        .and_then(|artifact| artifact.executable)
        .with_context(|| format!("cargo built no binary {name}"))
}

/// What cargo says of one thing it built.
#[derive(Debug, Deserialize)]
pub(crate) struct Artifact {
    /// The package's manifest.
    pub(crate) manifest_path: PathBuf,
    /// What was built.
    pub(crate) target: Target,
    /// How it was built.
    pub(crate) profile: Profile,
    /// Where it is, if it can be run.
    pub(crate) executable: Option<PathBuf>,
}

/// A target of a package.
#[derive(Debug, Deserialize)]
pub(crate) struct Target {
    /// Its name.
    pub(crate) name: String,
    /// `lib`, `bin`, `test` and the like.
    kind: Vec<String>,
}

impl Target {
    /// Whether it is of this kind.
    pub(crate) fn is(&self, kind: &str) -> bool {
        self.kind.iter().any(|of_target| of_target == kind)
    }
}

/// A profile, as far as it matters here.
#[derive(Debug, Deserialize)]
pub(crate) struct Profile {
    /// Whether it holds tests.
    pub(crate) test: bool,
}

/// Runs a cargo command that builds, with its progress and errors shown as ever, and returns what it built.
pub(crate) fn artifacts(command: &mut Command) -> anyhow::Result<Vec<Artifact>> {
    command.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start `{}`", shown(command)))?;
    let mut artifacts = Vec::new();
    for line in child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines) {
        artifacts.extend(artifact(&line.context("cannot read what cargo prints")?)?);
    }
    let status = child.wait()?;
    anyhow::ensure!(status.success(), "`{}` failed: {status}", shown(command));
    Ok(artifacts)
}

/// The artifact that a line of cargo's output tells of, if it tells of one.
fn artifact(line: &str) -> anyhow::Result<Option<Artifact>> {
    #[derive(Deserialize)]
    struct Message {
        reason: String,
    }
    let message: Message = serde_json::from_str(line).with_context(|| format!("cargo printed `{line}`"))?;
    if message.reason != "compiler-artifact" {
        return Ok(None);
    }
    serde_json::from_str(line).map(Some).with_context(|| format!("cargo printed `{line}`"))
}

#[cfg(test)]
mod tests {
    use super::artifact;

    #[test]
    fn artifacts_are_told_from_other_messages() {
        assert!(artifact(r#"{"reason":"build-finished","success":true}"#).unwrap().is_none());
        let line = r#"{"reason":"compiler-artifact","package_id":"path+file:///x/tests#lb-tests@0.1.0",
            "manifest_path":"/x/tests/Cargo.toml","target":{"kind":["test"],"name":"docs","src_path":"/x/tests/tests/docs.rs"},
            "profile":{"opt_level":"0","test":true},"features":[],"filenames":["/x/t"],"executable":"/x/t","fresh":true}"#;
        let artifact = artifact(&line.replace('\n', " ")).unwrap().unwrap();
        assert!(artifact.profile.test && artifact.target.is("test") && !artifact.target.is("bin"));
        assert_eq!(artifact.executable.unwrap().to_str(), Some("/x/t"));
        assert!(super::artifact("not json").is_err());
    }
}
