//! `monitor --pcap`: packets into a file.

use super::args::Monitor;
use super::{Failed, SUCCESS};
use crate::api::{CaptureRequest, Client};
use crate::objects::Key;
use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::path::Path;
use tokio::signal;

/// Writes what is captured to `path`, `-` for standard output, until interrupted or the wanted packets have come.
pub(super) async fn run(client: &Client, monitor: &Monitor, path: &Path) -> Result<u8, Failed> {
    let service = monitor.service.as_deref().map(|name| match name.split_once('/') {
        Some((namespace, name)) => Key::new(namespace, name),
        None => Key::new("default", name),
    });
    let request = CaptureRequest {
        clients: monitor.client.clone(),
        backends: monitor.backend.clone(),
        service,
        reasons: monitor.reason.clone(),
        count: monitor.count,
    };
    let to_output = path == Path::new("-");
    if to_output && io::stdout().is_terminal() {
        let remedy = "name a file, or pipe it: `lb-ctl monitor --pcap - | tshark -r -`";
        return Err(Failed::Usage(format!("packets are not written to a terminal: {remedy}")));
    }
    // A capture that cannot begin leaves an earlier file as it was.
    let mut pieces = client.capture(&request).await?;
    let mut file: Box<dyn Write> = if to_output {
        Box::new(io::stdout())
    } else {
        let created = File::create(path).map_err(|error| Failed::Usage(format!("{}: {error}", path.display())))?;
        eprintln!("capturing to {}; Ctrl-C ends", path.display());
        Box::new(created)
    };
    let mut written = 0;
    loop {
        let piece = tokio::select! {
            piece = pieces.next() => piece?,
            _ = signal::ctrl_c() => None,
        };
        let Some(piece) = piece else { break };
        written += piece.len();
        file.write_all(&piece)?;
        file.flush()?;
    }
    if !to_output {
        eprintln!("{written} bytes written to {}", path.display());
    }
    Ok(SUCCESS)
}
