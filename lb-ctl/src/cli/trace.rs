//! `trace`: what would become of a packet, and why.
//!
//! Exit codes: 0 it is forwarded, delivered or answered; 1 it is not; 2 it could not be told.

use super::args::{Files, ReportFormat, Trace};
use super::output::Output;
use super::{DIFFERENT, Failed, SUCCESS, manifests};
use crate::api::Client;
use crate::api::trace::{TraceAnswer, TraceProtocol, TraceRequest};
use crate::daemon::config::Origin;
use crate::daemon::{Config, Options, offline};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The source port of a packet whose --from names none.
const PORT: u16 = 40_000;

pub(super) async fn run(client: &Client, trace: &Trace, out: &mut Output) -> Result<u8, Failed> {
    let request = request(trace).map_err(Failed::Usage)?;
    if trace.pcap.as_deref() == Some(Path::new("-")) {
        return Err(Failed::Usage("--pcap -: standard output has the steps; name a file".to_owned()));
    }
    let answer = match &trace.manifests {
        Some(directory) => without_daemon(&request, trace, directory)?,
        None => client.trace(&request).await.map_err(Failed::Compared)?,
    };
    show(trace, &answer, out)
}

/// Traces what the manifests in a directory would do here, by the node's configuration.
fn without_daemon(request: &TraceRequest, trace: &Trace, directory: &Path) -> Result<TraceAnswer, Failed> {
    let files = Files { filename: vec![directory.to_owned()], recursive: true };
    let flags = Options { node_name: trace.node.clone(), ..Options::default() };
    let mut options = Origin { flags, file: None }.options()?;
    if options.interfaces.is_empty() {
        // As if every one were named.
        options.interfaces.extend("*".parse());
    }
    let config = Config::resolve(options)?;
    Ok(offline::trace(request, &config, &manifests::read(&files)?)?)
}

/// Prints the answer, and writes the packet to a file if that is wanted.
pub(super) fn show(trace: &Trace, answer: &TraceAnswer, out: &mut Output) -> Result<u8, Failed> {
    if let Some(path) = &trace.pcap {
        let written = std::fs::write(path, pcap(&[&answer.frame_in, &answer.frame_out]));
        written.map_err(|error| Failed::Usage(format!("--pcap {}: {error}", path.display())))?;
    }
    match trace.output {
        ReportFormat::Text => out.text(&crate::trace::text(answer))?,
        ReportFormat::Json => out.json(answer)?,
        ReportFormat::Yaml => out.yaml(answer)?,
    }
    Ok(if answer.forwarded { SUCCESS } else { DIFFERENT })
}

/// What was typed, as a packet.
pub(super) fn request(trace: &Trace) -> Result<TraceRequest, String> {
    let (to, protocol) = trace.to.rsplit_once('/').unwrap_or((&trace.to, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => TraceProtocol::TCP,
        "udp" => TraceProtocol::UDP,
        "sctp" => TraceProtocol::SCTP,
        "icmp" | "icmpv6" => TraceProtocol::ICMP,
        other => return Err(format!("--to {}: `{other}` is no protocol: there are tcp, udp, sctp and icmp", trace.to)),
    };
    let (address, port) = end(to).ok_or_else(|| format!("--to {to}: write ADDRESS:PORT, such as 10.96.0.10:80"))?;
    let port = match (protocol, port) {
        (TraceProtocol::ICMP, None) => 0,
        (TraceProtocol::ICMP, Some(_)) => return Err(format!("--to {to}: ICMP has no ports")),
        (_, Some(port)) => port,
        (_, None) if address.is_ipv6() && !to.starts_with('[') => {
            return Err(format!(
                "--to {to}: an IPv6 address with a port is written [ADDRESS]:PORT, such as [fd00::10]:80"
            ));
        }
        (_, None) => return Err(format!("--to {to}: name the port too, such as {}", SocketAddr::new(address, 80))),
    };
    let from = &trace.from;
    let (source, source_port) =
        end(from).ok_or_else(|| format!("--from {from}: write ADDRESS or ADDRESS:PORT, such as 10.244.1.7:40000"))?;
    let flags = trace.flags.iter().map(|flag| flag.trim().to_owned()).filter(|flag| !flag.is_empty()).collect();
    Ok(TraceRequest {
        from: SocketAddr::new(source, source_port.unwrap_or(if protocol == TraceProtocol::ICMP { 0 } else { PORT })),
        to: SocketAddr::new(address, port),
        protocol,
        flags,
        interface: trace.interface.clone(),
    })
}

/// An address with or without a port.
fn end(text: &str) -> Option<(IpAddr, Option<u16>)> {
    if let Ok(both) = text.parse::<SocketAddr>() {
        return Some((both.ip(), Some(both.port())));
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().map(|address| (address, None))
}

/// A capture file (draft-ietf-opsawg-pcap) of these frames, in hexadecimal.
fn pcap(frames: &[&str]) -> Vec<u8> {
    const MAGIC: u32 = 0xa1b2_c3d4;
    const ETHERNET: u32 = 1;
    let mut file = Vec::new();
    file.extend(MAGIC.to_ne_bytes());
    file.extend(2u16.to_ne_bytes());
    file.extend(4u16.to_ne_bytes());
    file.extend([0, 0, 65_535, ETHERNET].into_iter().flat_map(u32::to_ne_bytes));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    for (index, frame) in frames.iter().enumerate() {
        let bytes: Vec<u8> = (0..frame.len() / 2)
            .filter_map(|index| u8::from_str_radix(frame.get(index * 2..index * 2 + 2)?, 16).ok())
            .collect();
        let length = bytes.len() as u32;
        let when = [now.as_secs() as u32, now.subsec_micros() / 2 + index as u32, length, length];
        file.extend(when.into_iter().flat_map(u32::to_ne_bytes));
        file.extend(bytes);
    }
    file
}

impl From<crate::trace::Error> for Failed {
    fn from(error: crate::trace::Error) -> Self {
        Failed::Usage(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(from: &str, to: &str) -> Trace {
        Trace {
            from: from.to_owned(),
            to: to.to_owned(),
            interface: None,
            flags: Vec::new(),
            pcap: None,
            output: ReportFormat::Text,
            manifests: None,
            node: None,
        }
    }

    #[test]
    fn ends_are_read_in_every_form() {
        for (from, to, expected) in [
            ("10.244.1.7", "10.96.0.10:80", "TCP 10.244.1.7:40000 10.96.0.10:80"),
            ("10.244.1.7:5", "10.96.0.10:53/udp", "UDP 10.244.1.7:5 10.96.0.10:53"),
            ("fd00::7", "[fd00::10]:80/tcp", "TCP [fd00::7]:40000 [fd00::10]:80"),
            ("[fd00::7]:9", "[fd00::10]:80/SCTP", "SCTP [fd00::7]:9 [fd00::10]:80"),
            ("10.0.0.1", "10.96.0.10/icmp", "ICMP 10.0.0.1:0 10.96.0.10:0"),
        ] {
            let request = request(&typed(from, to)).expect(to);
            assert_eq!(format!("{} {} {}", request.protocol, request.from, request.to), expected);
        }
        for (from, to, expected) in [
            ("10.244.1.7", "10.96.0.10", "name the port too, such as 10.96.0.10:80"),
            ("fd00::7", "fd00::10:80", "written [ADDRESS]:PORT"),
            ("10.244.1.7", "web:80", "write ADDRESS:PORT"),
            ("10.244.1.7", "10.96.0.10:80/gre", "`gre` is no protocol"),
            ("10.244.1.7", "10.96.0.10:80/icmp", "ICMP has no ports"),
            ("here", "10.96.0.10:80", "write ADDRESS or ADDRESS:PORT"),
        ] {
            let error = request(&typed(from, to)).expect_err(to);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_capture_file_holds_the_frames() {
        let file = pcap(&["0102", "030405"]);
        assert_eq!(file.len(), 24 + 16 + 2 + 16 + 3);
        assert_eq!((&file[40..42], &file[58..]), (&[1u8, 2][..], &[3u8, 4, 5][..]));
    }
}
