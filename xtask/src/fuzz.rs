//! x
use crate::toolchain::Route;
/// x
#[derive(clap::Args)]
pub(crate) struct Args {}
/// x
pub(crate) fn run(_: Route, _: &Args) -> anyhow::Result<()> { Ok(()) }
