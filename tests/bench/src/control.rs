//! Part 3: the control plane, from manifests to what becomes of a packet.

use anyhow::{Context, ensure};
use aya::programs::ProgramFd;
use lb_ctl::api::{ApplyRequest, ManifestText};
use lb_ctl::manifest::Validate;
use lb_tests::frames::{self, Flags};
use lb_yardsticks::Place;
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::maglev;
use crate::manifests::{self, FIRST, HOT4};
use crate::names;
use crate::node::{Node, client4};
use crate::quiet;
use crate::report::{Part, Report, Row};
use crate::statistics::{Figure, median, percentile};
use crate::wrapper::{Hook, Packets, Wrapper};
use crate::{Extent, say};

/// Endpoints of each Service.
const ENDPOINTS: u32 = 10;
/// Flows that the maps are made for: the daemon's default, which also bounds the number of Services.
pub(crate) const MAX_FLOWS: u32 = lb_common::maps::DEFAULT_MAX_FLOWS;
/// The Service whose endpoint changes, by the API, the CLI or the watched directory: these stand behind all others.
pub(crate) const WATCHED: u32 = 1 << 19;
/// The row of what a process that is told by a socket takes at least.
pub(crate) const WOKEN: &str = "a thread that waits on a socket and writes a line: p99";
/// For how long it is watched doing nothing: what it does regularly it does once in this time.
const IDLE: Duration = Duration::from_secs(10);
/// For how long a change may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How a change is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Api,
    Cli,
    Directory,
}

/// Measures all of it.
pub(crate) fn all(binary: &Path, wrapper: &mut Wrapper, extent: &Extent, report: &mut Report) -> anyhow::Result<()> {
    maglev::tables(report);
    for services in &extent.control {
        at(binary, wrapper, extent, *services, report)?;
    }
    Ok(())
}

fn at(binary: &Path, wrapper: &mut Wrapper, extent: &Extent, services: u32, report: &mut Report) -> anyhow::Result<()> {
    say(format_args!("control plane: {services} Services"));
    let mut node = Node::start(binary, MAX_FLOWS)?;
    let daemon = node.daemon()?;
    let mut add = |name: &str, unit: &str, best: f64, median: f64| {
        report.add(Row {
            part: Part::Control,
            place: "daemon".to_owned(),
            name: name.to_owned(),
            flows: 0,
            services,
            unit: unit.to_owned(),
            figure: Figure { best, median, noise: 0.0 },
            ratio: None,
            to: String::new(),
            share: 1.0,
        });
    };

    quiet::wait();
    if services > 0 {
        let text = manifests::services(0..services, ENDPOINTS);
        let parse = cpu_of(|| lb_ctl::manifest::parse(&text, "bench.yaml", "default").map(drop))?;
        parse.1.map_err(|_| anyhow::anyhow!("the bench's own manifests are refused"))?;
        let (before, start) = (cpu(daemon)?, Instant::now());
        let answer = send(node.socket(), &text)?;
        node.wait_for_services(services)?;
        let took = start.elapsed().as_secs_f64();
        drop(answer);
        let used = settled(daemon)? - before;
        add("apply: to programmed maps", "s", took, took);
        add("apply: the daemon's CPU", "s", used, used);
        add("one typed parse of the same text: CPU", "s", parse.0, parse.0);
        add("apply: CPU beyond the parse", "s", used - parse.0, used - parse.0);
    }

    settled(daemon)?;
    let before = cpu(daemon)?;
    std::thread::sleep(IDLE);
    let idle = (cpu(daemon)? - before).max(0.0) / IDLE.as_secs_f64() * 100.0;
    add("idle CPU", "%", idle, idle);
    let resident = resident_megabytes(daemon)?;
    add("resident memory", "MB", resident, resident);
    let bytes = map_megabytes(&node)?;
    add("all maps, as the kernel counts", "MB", bytes, bytes);

    for (way, name, samples) in [
        (Way::Api, "one endpoint, to its effect on a packet", extent.changes),
        (Way::Cli, "one endpoint by the CLI, to its effect", extent.changes / 5),
        (Way::Directory, "one endpoint by the watched directory", extent.changes / 10),
    ] {
        let times = changes(&mut node, wrapper, way, samples.max(5))?;
        let best = percentile(&times, 0.02);
        add(&format!("{name}: p50"), "ms", median(&times), median(&times));
        if way == Way::Api {
            let p99 = percentile(&times, 0.99);
            add(&format!("{name}: p99"), "ms", p99, p99);
            let woken = percentile(&wakes(&node, wrapper, samples.max(5))?, 0.99);
            add(WOKEN, "ms", woken, woken);
        }
        add(&format!("{name}: best"), "ms", best, median(&times));
    }
    // In a node of its own, so that the figures above are those of a daemon that tells no names.
    drop(node);
    let times = names::changes(binary, services, ENDPOINTS, extent.changes)?;
    for (which, time) in [("p50", median(&times)), ("p99", percentile(&times, 0.99))] {
        add(&format!("one Service's port, to its name's answer: {which}"), "ms", time, median(&times));
    }
    Ok(())
}

/// Moves a Service from one endpoint to another and back, and measures from the first byte of the request to the first packet
/// that goes there. Milliseconds.
fn changes(node: &mut Node, wrapper: &mut Wrapper, way: Way, samples: u32) -> anyhow::Result<Vec<f64>> {
    let number = WATCHED + way as u32;
    let address = Ipv4Addr::from_bits(FIRST.to_bits() + number);
    let endpoint = |index: u32| Ipv4Addr::new(10, 201, way as u8, (index % 2) as u8 + 1);
    let service = manifests::services(number..number + 1, 0);
    let whole = |index| service_with(&service, number, endpoint(index));
    match way {
        Way::Directory => tell(node, way, &whole(0))?,
        Way::Api | Way::Cli => drop(send(node.socket(), &whole(0))?),
    }
    let mut probe = Probe::new(node, address)?;
    probe.wait_for(node, wrapper, endpoint(0))?;
    let mut times = Vec::new();
    for index in 1..=samples {
        let text =
            if way == Way::Directory { whole(index) } else { manifests::slice(number, 0, Some(endpoint(index))) };
        let socket = node.socket().to_owned();
        quiet::wait();
        let start = Instant::now();
        let seen = std::thread::scope(|scope| -> anyhow::Result<Duration> {
            let node_here: &Node = node;
            let teller = scope.spawn(move || match way {
                Way::Api => send(&socket, &text).map(drop),
                Way::Cli | Way::Directory => tell(node_here, way, &text),
            });
            let seen = probe.wait_for(node_here, wrapper, endpoint(index));
            teller.join().map_err(|_| anyhow::anyhow!("the teller panicked"))??;
            seen.map(|at| at.duration_since(start))
        })?;
        times.push(seen.as_secs_f64() * 1000.0);
    }
    Ok(times)
}

/// What nobody who is told by a socket and writes it down can be faster than: from the first byte on the socket to what a
/// thread does that waits for it, adds a line to a file, and makes it known. Seen by the same packets. Milliseconds.
fn wakes(node: &Node, wrapper: &mut Wrapper, samples: u32) -> anyhow::Result<Vec<f64>> {
    let mut probe = Probe::new(node, FIRST)?;
    let program = node.program(Hook::Tc, node.uplink())?;
    let mut file = fs::File::create(node.playground().directory().join("woken"))?;
    let (near, mut far) = UnixStream::pair()?;
    let done = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| -> anyhow::Result<()> {
            let mut told = [0; 4];
            while far.read(&mut told)? == told.len() {
                file.write_all(&[b'x'; 256])?;
                done.store(u32::from_le_bytes(told), Ordering::Release);
                file.sync_data()?;
            }
            Ok(())
        });
        // Closed however this ends, since the thread waits for it.
        let mut near = near;
        let mut times = Vec::new();
        for index in 1..=samples {
            let start = Instant::now();
            near.write_all(&index.to_le_bytes())?;
            let seen = node.run(|| {
                while done.load(Ordering::Acquire) != index {
                    ensure!(start.elapsed() < PATIENCE, "a thread was not woken within {PATIENCE:?}");
                    probe.send(node, wrapper, &program)?;
                }
                Ok(Instant::now())
            })??;
            times.push(seen.duration_since(start).as_secs_f64() * 1000.0);
        }
        drop(near);
        waiting.join().map_err(|_| anyhow::anyhow!("the thread panicked"))??;
        Ok(times)
    })
}

/// A Service with this one endpoint.
fn service_with(service: &str, number: u32, endpoint: Ipv4Addr) -> String {
    // The empty slice at the end gives way to one with the endpoint.
    let (service, _) = service.split_at(service.find("---\napiVersion: discovery").unwrap_or(service.len()));
    service.to_owned() + &manifests::slice(number, 0, Some(endpoint))
}

/// Tells the daemon by other ways than its API.
fn tell(node: &Node, way: Way, text: &str) -> anyhow::Result<()> {
    if way == Way::Cli {
        return node.cli(&["apply", "-f", "-"], text).map(drop);
    }
    let directory = node.manifests();
    // Whole or not at all, as an editor does it.
    let hidden = directory.join(".watched");
    fs::write(&hidden, text)?;
    fs::rename(&hidden, directory.join("watched.yaml"))?;
    Ok(())
}

/// Sends packets to a Service, to see where they go.
struct Probe {
    packets: Packets,
    number: u32,
}

impl Probe {
    fn new(node: &Node, address: Ipv4Addr) -> anyhow::Result<Self> {
        ensure!(address != HOT4, "the probe has a Service of its own");
        let from = SocketAddr::new(client4().into(), 1024);
        let frame = frames::tcp(from, SocketAddr::new(address.into(), 80), Flags::Syn, &[0; 40]);
        node.program(Hook::Tc, node.uplink())?;
        Ok(Self { packets: Packets { frame, place: Place::Source4, flows: 0, first: 0, services: 1 }, number: 0 })
    }

    /// Sends one from the calling thread, and gives it as it left.
    fn send(&mut self, node: &Node, wrapper: &mut Wrapper, program: &ProgramFd) -> anyhow::Result<Vec<u8>> {
        self.number += 1;
        self.packets.first = self.number;
        let run = wrapper.run(Hook::Tc, program, node.uplink(), &self.packets, 1)?;
        // It is not to keep the daemon from this CPU: no client does.
        std::thread::yield_now();
        Ok(run.frame)
    }

    /// When the first packet went to `backend`.
    fn wait_for(&mut self, node: &Node, wrapper: &mut Wrapper, backend: Ipv4Addr) -> anyhow::Result<Instant> {
        let program = node.program(Hook::Tc, node.uplink())?;
        let start = Instant::now();
        node.run(|| {
            while start.elapsed() < PATIENCE {
                let frame = self.send(node, wrapper, &program)?;
                let now = Instant::now();
                if frame.get(30..34) == Some(&backend.octets()) {
                    return Ok(now);
                }
            }
            anyhow::bail!("no packet went to {backend} within {PATIENCE:?}")
        })?
    }
}

/// Applies by the API itself, and gives the answer.
pub(crate) fn send(socket: &Path, text: &str) -> anyhow::Result<String> {
    let files = vec![ManifestText { origin: "bench.yaml".to_owned(), text: text.to_owned() }];
    let body = serde_json::to_vec(&ApplyRequest {
        namespace: "default".to_owned(),
        files,
        validate: Validate::Strict,
        dry_run: false,
        prune: None,
    })?;
    let mut stream = UnixStream::connect(socket).with_context(|| format!("cannot reach {}", socket.display()))?;
    let head = format!(
        "POST /v1/apply HTTP/1.1\r\nhost: lb-ctl\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "the daemon answers {}", answer.chars().take(2000).collect::<String>());
    Ok(answer)
}

/// Seconds of CPU that `work` takes on this thread, and what it gives.
fn cpu_of<T>(work: impl FnOnce() -> T) -> anyhow::Result<(f64, T)> {
    let now = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(|time| Duration::from(time).as_secs_f64());
    let start = now()?;
    let done = work();
    Ok((now()? - start, done))
}

/// Seconds of CPU that a process has used, its threads that have ended included.
fn cpu(pid: u32) -> anyhow::Result<f64> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid as i32))?;
    Ok(Duration::from(clock_gettime(clock)?).as_secs_f64())
}

/// The same, once it rests.
fn settled(pid: u32) -> anyhow::Result<f64> {
    let mut last = cpu(pid)?;
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(300));
        let now = cpu(pid)?;
        if now - last < 0.003 {
            return Ok(now);
        }
        last = now;
    }
    Ok(last)
}

fn resident_megabytes(pid: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("the kernel tells no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1000.0 * 1.024)
}

/// What the kernel accounts for the maps (`memlock` in their fdinfo).
fn map_megabytes(node: &Node) -> anyhow::Result<f64> {
    let mut bytes = 0u64;
    for spec in lb_common::maps::MAPS {
        let pins = node.pins();
        let Some(pin) = pins.get(spec.name) else { continue };
        let map = aya::maps::MapData::from_pin(pin)?;
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd()))?;
        let line = info.lines().find_map(|line| line.strip_prefix("memlock:")).unwrap_or("0");
        bytes += line.trim().parse::<u64>().unwrap_or(0);
    }
    Ok(bytes as f64 / 1e6)
}
