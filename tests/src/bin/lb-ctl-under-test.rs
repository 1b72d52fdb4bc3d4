//! The `lb-ctl` that the tests run: the shipped binary's one line, rebuilt with every change of the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(lb_ctl::cli::run(std::env::args_os()))
}
