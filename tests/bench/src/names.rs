//! Part 3 too: from the change of a Service to what the daemon's DNS server says of it.

use anyhow::{Context, ensure};
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::control::{MAX_FLOWS, PATIENCE, WATCHED, send};
use crate::manifests;
use crate::node::Node;
use crate::quiet;
use crate::say;

/// Where the daemon answers, in its own namespace.
const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 5300);
/// The Service's port at first, and then in turn.
const PORTS: [u16; 2] = [80, 81];

/// Changes the port of one among so many Services over and over again, and measures from the first byte of the request on
/// the control socket to the first answer over UDP that has the new one, while the server is asked without a pause.
/// Milliseconds.
pub(crate) fn changes(binary: &Path, services: u32, endpoints: u32, samples: u32) -> anyhow::Result<Vec<f64>> {
    say(format_args!("names: {services} Services"));
    let mut node = Node::start_with(binary, MAX_FLOWS, &["--dns", &SERVER.to_string()])?;
    node.fill(services, endpoints)?;
    let service = manifests::services(WATCHED..WATCHED + 1, endpoints);
    let with = |port: u16| service.replace("port: 80,", &format!("port: {port},"));
    ensure!(with(PORTS[0]) != with(PORTS[1]), "the port is not where it was");
    let socket = node.run(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)))??;
    socket.set_read_timeout(Some(PATIENCE))?;
    send(node.socket(), &with(PORTS[0]))?;
    wait_for(&socket, PORTS[0])?;
    let mut times = Vec::new();
    for port in PORTS.iter().rev().cycle().take(samples as usize) {
        let text = with(*port);
        quiet::wait();
        let start = Instant::now();
        let seen = std::thread::scope(|scope| -> anyhow::Result<Instant> {
            let teller = scope.spawn(|| send(node.socket(), &text).map(drop));
            let seen = wait_for(&socket, *port);
            teller.join().map_err(|_| anyhow::anyhow!("the teller panicked"))??;
            seen
        })?;
        times.push(seen.duration_since(start).as_secs_f64() * 1000.0);
        // Changes that come in a row are another figure.
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(times)
}

/// When the Service was first said to have this port.
fn wait_for(socket: &UdpSocket, port: u16) -> anyhow::Result<Instant> {
    let mut question = Message::query();
    let name = format!("_http._tcp.s-{WATCHED}.bench.svc.cluster.local.");
    question.add_query(Query::query(Name::from_ascii(name)?, RecordType::SRV));
    let question = question.to_vec()?;
    let (mut buffer, start) = ([0; 1500], Instant::now());
    while start.elapsed() < PATIENCE {
        socket.send_to(&question, SERVER)?;
        let length = socket.recv(&mut buffer).context("no answer")?;
        let now = Instant::now();
        let answer = Message::from_vec(&buffer[..length])?;
        if answer.answers.iter().any(|record| matches!(&record.data, RData::SRV(srv) if srv.port == port)) {
            return Ok(now);
        }
    }
    anyhow::bail!("no answer had port {port} within {PATIENCE:?}")
}
