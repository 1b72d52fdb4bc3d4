//! Captured packets are the real ones: what tshark reads of them is what clients and pods saw.

use lb_ctl::playground::manifests::{NAMESPACE, SERVICE};
use lb_ctl::playground::topology::CLIENT;
use lb_tests::fixture::{Fixture, Setup};
use lb_tests::needs_datapath;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");

/// How long a capture may take to begin or to end.
const PATIENCE: Duration = Duration::from_mins(1);

/// What tshark tells of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    interface: String,
    from: SocketAddr,
    to: SocketAddr,
    comment: String,
}

/// A capture under way. It is ended when the test ends, however that is.
struct Capture(Child);

impl Drop for Capture {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Capture {
    /// Starts one, and waits until its programs are in place.
    fn start(fixture: &Fixture, file: &Path, filter: &[&str]) -> Self {
        let began = count(fixture, "programs that copy packets are in place");
        let mut command = Command::new(BINARY);
        command.arg("--socket").arg(fixture.socket()).args(["monitor", "--pcap"]).arg(file).args(filter);
        let capture = Self(command.stderr(Stdio::null()).spawn().expect("the CLI starts"));
        wait(fixture, || count(fixture, "programs that copy packets are in place") > began);
        capture
    }

    /// Waits until it has what it wants.
    fn end(mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.0.try_wait().expect("the CLI can be waited for").is_none() {
            assert!(Instant::now() < deadline, "the capture does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn count(fixture: &Fixture, message: &str) -> usize {
    fixture.log().matches(message).count()
}

fn wait(fixture: &Fixture, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{}", fixture.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What tshark reads from a file, with every checksum validated.
fn read(file: &Path) -> Vec<Row> {
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(file).args(["-T", "fields", "-E", "separator=|"]);
    for preference in ["ip", "tcp", "udp"] {
        tshark.args(["-o", &format!("{preference}.check_checksum:TRUE")]);
    }
    let fields = [
        "frame.interface_name",
        "ip.src",
        "ip.dst",
        "ipv6.src",
        "ipv6.dst",
        "tcp.srcport",
        "tcp.dstport",
        "udp.srcport",
        "udp.dstport",
        "ip.checksum.status",
        "tcp.checksum.status",
        "udp.checksum.status",
        "frame.comment",
    ];
    for field in fields {
        tshark.args(["-e", field]);
    }
    let output = tshark.output().expect("tshark runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(row).collect()
}

fn row(line: &str) -> Row {
    let fields: Vec<&str> = line.split('|').collect();
    let [interface, v4_from, v4_to, v6_from, v6_to, tcp_from, tcp_to, udp_from, udp_to, ip, tcp, udp, comment] =
        fields[..]
    else {
        panic!("{line}");
    };
    let place = |v4: &str, v6: &str, tcp: &str, udp: &str| {
        let address = format!("{v4}{v6}").parse().expect("an address");
        SocketAddr::new(address, format!("{tcp}{udp}").parse().expect("a port"))
    };
    // 1 is good; IPv6 has no checksum of its own.
    assert!(ip == "1" || !v6_from.is_empty(), "{line}");
    assert_eq!(format!("{tcp}{udp}"), "1", "{line}");
    Row {
        interface: interface.to_owned(),
        from: place(v4_from, v6_from, tcp_from, udp_from),
        to: place(v4_to, v6_to, tcp_to, udp_to),
        comment: comment.to_owned(),
    }
}

/// The client's address of the same family.
fn client(to: SocketAddr) -> IpAddr {
    let addresses = CLIENT.addresses();
    addresses.into_iter().find(|address| address.is_ipv4() == to.is_ipv4()).expect("both families")
}

#[test]
fn both_sides_of_a_translated_connection_have_right_checksums() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let file = fixture.directory().join("packets.pcapng");
    for to in fixture.cluster().into_iter().chain(fixture.cluster_udp()) {
        let udp = fixture.cluster_udp().contains(&to);
        let packets = if udp { "2" } else { "6" };
        let capture = Capture::start(&fixture, &file, &["--count", packets]);
        let answer = if udp { fixture.client().datagram(to, b"who is there?") } else { fixture.client().get(to) };
        let answer = answer.expect("an answer");
        let arrived = SocketAddr::new(answer.client, answer.port);
        let pods = fixture.pod(&answer.pod).expect("a pod").address().addresses();
        let pod = pods.into_iter().find(|address| address.is_ipv4() == to.is_ipv4()).expect("both families");
        capture.end();
        let rows = read(&file);
        let sides: Vec<_> = rows.chunks(2).map(|pair| (&pair[0], &pair[1])).collect();
        assert_eq!(sides.len().to_string(), packets);
        for (came, left) in &sides {
            let is_request = came.to == to;
            if is_request {
                assert_eq!((came.from.ip(), left.from, left.to.ip()), (client(to), arrived, pod), "{came:?} {left:?}");
            } else {
                let seen = (came.from.ip(), came.to, left.from, left.to.ip());
                assert_eq!(seen, (pod, arrived, to, client(to)), "{came:?} {left:?}");
            }
            assert!(came.comment.is_empty(), "{came:?}");
            let outcome = if is_request { "forwarded: " } else { "replied: " };
            assert!(left.comment.contains(outcome), "{left:?}");
            let hook = came.interface.strip_suffix("-in").expect("the way in");
            assert_eq!(left.interface, format!("{hook}-out"));
            // XDP leaves a packet now and then to TCX, the first one always.
            assert!(if is_request { hook.starts_with("eth0@") } else { hook.ends_with("@ingress") }, "{came:?}");
        }
        assert!(udp || sides.iter().any(|(came, _)| came.interface == "eth0@xdp-in"), "{sides:?}");
        assert!(sides.iter().any(|(came, _)| came.to == to) && sides.iter().any(|(came, _)| came.from.ip() == pod));
    }
}

#[test]
fn filters_find_what_is_wanted_and_the_last_reader_ends_the_capture() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let [to, other] = fixture.cluster();
    let file = fixture.directory().join("packets.pcapng");
    let nowhere = SocketAddr::new(to.ip(), 9);
    let reasons = Capture::start(&fixture, &file, &["--reason", "no-service-port", "--count", "1"]);
    fixture.client().get(to).expect("an answer");
    fixture.client().connect(nowhere).expect_err("nobody is there");
    reasons.end();
    let rows = read(&file);
    assert_eq!(rows[0].to, nowhere);
    let ended = || count(&fixture, "the capture has ended");
    wait(&fixture, || ended() == 1);

    // Two at a time, and the programs go when the last has gone.
    let second = fixture.directory().join("second.pcapng");
    let service = format!("{NAMESPACE}/{SERVICE}");
    let client = client(to).to_string();
    let by_client = Capture::start(&fixture, &file, &["--client", &client, "--count", "3"]);
    let mut by_service = Command::new(BINARY);
    let by_service = by_service.arg("--socket").arg(fixture.socket()).args(["monitor", "--service", &service]);
    let by_service = Capture(by_service.arg("--pcap").arg(&second).spawn().expect("the CLI starts"));
    wait(&fixture, || second.metadata().is_ok_and(|file| file.len() > 0));
    fixture.client().get(other).expect("an answer");
    fixture.client().get(to).expect("an answer");
    by_client.end();
    assert_eq!(ended(), 1);
    wait(&fixture, || read(&second).iter().any(|row| row.to == other));
    drop(by_service);
    wait(&fixture, || ended() == 2);
    let clients: BTreeSet<_> = read(&file).iter().flat_map(|row| [row.from.ip(), row.to.ip()]).collect();
    assert!(!clients.contains(&other.ip()), "{clients:?}");
    fixture.client().get(to).expect("an answer");
}
