//! `monitor --pcap`: packets into a file.

use super::args::Monitor;
use super::{Failed, SUCCESS};
use crate::api::{CaptureRequest, Client};
use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::path::Path;
use tokio::signal::unix::{SignalKind, signal};

/// Bytes of a file without packets: its section header.
const EMPTY: usize = 28;

/// Writes what is captured to `path`, `-` for standard output, until interrupted or the wanted packets have come.
pub(super) async fn run(client: &Client, monitor: &Monitor, path: &Path) -> Result<u8, Failed> {
    let request = CaptureRequest {
        clients: monitor.client.clone(),
        backends: monitor.backend.clone(),
        service: monitor.service.clone(),
        reasons: monitor.reason.clone(),
        count: monitor.count,
    };
    let to_output = path == Path::new("-");
    if to_output && io::stdout().is_terminal() {
        let remedy = "name a file, or pipe it: `lb-ctl monitor --pcap - | tshark -r -`";
        return Err(Failed::Usage(format!("packets are not written to a terminal: {remedy}")));
    }
    let mut interrupted = signal(SignalKind::interrupt())?;
    eprintln!("preparing: the kernel verifies the programs that copy packets");
    // A capture that cannot begin leaves an earlier file as it was.
    let mut pieces = tokio::select! {
        pieces = client.capture(&request) => pieces?,
        _ = interrupted.recv() => return Ok(SUCCESS),
    };
    let mut file: Box<dyn Write> = if to_output {
        Box::new(io::stdout())
    } else {
        Box::new(File::create(path).map_err(|error| Failed::Usage(format!("{}: {error}", path.display())))?)
    };
    eprintln!("capturing to {}; Ctrl-C ends", path.display());
    let mut written = 0;
    loop {
        let piece = tokio::select! {
            piece = pieces.next() => piece?,
            _ = interrupted.recv() => None,
        };
        let Some(piece) = piece else { break };
        written += piece.len();
        file.write_all(&piece)?;
        file.flush()?;
    }
    if written <= EMPTY {
        eprintln!("no packet came that was asked for; {written} bytes written to {}", path.display());
    } else {
        eprintln!("{written} bytes written to {}", path.display());
    }
    Ok(SUCCESS)
}
