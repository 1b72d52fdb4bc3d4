//! What a sender is told: pings are answered, refusals come at once, a spent TTL is reported, a flood is answered in
//! moderation.

use lb_ctl::playground::PodNetwork::Bridged;
use lb_ctl::playground::netns::NetNs;
use lb_ctl::playground::offload::Offload;
use lb_ctl::playground::topology::{Dual, Node};
use lb_tests::fixture::{Fixture, Setup};
use lb_tests::ping::ping;
use lb_tests::{needs_datapath, traffic};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");
/// Longer than any answer takes, and shorter than TCP waits before it tries again.
const AT_ONCE: Duration = Duration::from_millis(900);

/// Datagrams of a flood: many times what may be answered, and done in well under a second.
const FLOOD: u64 = 30_000;

/// A Service that no pod fits.
const NOBODY: &str = "apiVersion: v1
kind: Service
metadata: { name: nobody, namespace: playground }
spec:
  ipFamilyPolicy: RequireDualStack
  selector: { app: nobody }
  ports:
  - { name: http, port: 80 }
  - { name: dns, port: 53, protocol: UDP }
";

/// Both kinds of wire, and both kinds of pod network.
const SETUPS: [Setup; 2] =
    [Setup::DEMO, Setup { wire: "tcx", pods: Bridged, rp_filter: 1, firewall: true, ..Setup::DEMO }];

fn any(family: IpAddr) -> SocketAddr {
    let any: IpAddr = if family.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    SocketAddr::new(any, 0)
}

/// How a TCP connection from inside `space` fails, and after how long.
fn connect(space: &NetNs, to: SocketAddr) -> (Option<ErrorKind>, Duration) {
    let started = Instant::now();
    let outcome = space.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(3)).map(drop));
    (outcome.expect("a namespace of our own").err().map(|error| error.kind()), started.elapsed())
}

/// How a datagram from inside `space` fails, and after how long.
fn send(space: &NetNs, to: SocketAddr) -> (Option<ErrorKind>, Duration) {
    let started = Instant::now();
    let sent = || -> io::Result<()> {
        let socket = UdpSocket::bind(any(to.ip()))?;
        socket.set_read_timeout(Some(Duration::from_secs(3)))?;
        socket.connect(to)?;
        socket.send(b"is anybody there?")?;
        socket.recv(&mut [0; 64]).map(drop)
    };
    let outcome = space.run(sent).expect("a namespace of our own");
    (outcome.err().map(|error| error.kind()), started.elapsed())
}

#[test]
fn pings_to_a_service_are_answered() {
    needs_datapath!();
    for setup in SETUPS {
        let fixture = Fixture::new(BINARY, setup);
        let visitor = fixture.pod("visitor").expect("runs");
        for service in fixture.cluster() {
            for space in [fixture.client_space(), visitor.space()] {
                let before = fixture.reason("echo-replied");
                assert!(ping(space, service.ip()), "{setup:?}: no echo from {service} in {}", space.name());
                assert!(fixture.reason("echo-replied") > before);
            }
        }
    }
}

/// Every asker, both families, both protocols: no backend and no such port. Each is refused at once.
fn refused(fixture: &Fixture, setup: Setup) {
    fixture.apply(NOBODY).expect("the CLI applies");
    let nobody: Dual = fixture.cluster_address_of("nobody").expect("addresses are allocated");
    let visitor = fixture.pod("visitor").expect("runs");
    for space in [fixture.client_space(), visitor.space()] {
        for (address, served) in nobody.addresses().into_iter().zip(fixture.cluster()) {
            for (reason, tcp, udp) in [
                ("no-backend", SocketAddr::new(address, 80), SocketAddr::new(address, 53)),
                ("no-service-port", SocketAddr::new(served.ip(), 81), SocketAddr::new(served.ip(), 54)),
            ] {
                for (protocol, (error, after)) in [("TCP", connect(space, tcp)), ("UDP", send(space, udp))] {
                    let way = format!("{setup:?}: {} by {protocol}, {reason}, {address}", space.name());
                    assert_eq!(error, Some(ErrorKind::ConnectionRefused), "{way}");
                    assert!(after < AT_ONCE, "{way}: after {after:?}");
                }
                assert!(fixture.reason(reason) > 0);
            }
        }
    }
    traffic::one_each(fixture).expect("the other Service answers");
}

#[test]
fn what_is_refused_is_refused_at_once() {
    needs_datapath!();
    for setup in SETUPS {
        refused(&Fixture::new(BINARY, setup), setup);
    }
}

/// Pods leave their checksums to hardware, and the device back to them does not do it either: the kernel then completes
/// the checksums of the packets that we have made.
#[test]
fn answers_are_right_when_checksums_are_completed_behind_us() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let node = fixture.node_space(Node::One);
    for link in ["veth-visitor", "eth0"] {
        Offload::TxChecksum.set(node, link, false).unwrap_or_else(|error| panic!("{error}"));
    }
    refused(&fixture, Setup::DEMO);
    let visitor = fixture.pod("visitor").expect("runs");
    for service in fixture.cluster_udp() {
        assert!(ping(visitor.space(), service.ip()));
        assert_eq!(reporter(visitor.space(), service), service.ip());
    }
}

/// Who reports that a datagram with a TTL of 1 from inside `space` has spent it.
fn reporter(space: &NetNs, to: SocketAddr) -> IpAddr {
    let probe = || -> io::Result<Option<IpAddr>> {
        let socket = UdpSocket::bind(any(to.ip()))?;
        if to.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
            setsockopt(&socket, sockopt::Ipv4Ttl, &1)?;
        } else {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
            setsockopt(&socket, sockopt::Ipv6Ttl, &1)?;
        }
        socket.send_to(b"how far?", to)?;
        let deadline = Instant::now() + Duration::from_secs(2);
        loop {
            let (mut bytes, mut control) = ([0; 64], vec![0; 512]);
            let mut pieces = [IoSliceMut::new(&mut bytes)];
            let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
            match recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut pieces, Some(&mut control), flags) {
                Ok(message) => {
                    return Ok(message.cmsgs()?.find_map(|control| match control {
                        ControlMessageOwned::Ipv4RecvErr(error, Some(from)) if error.ee_type == 11 => {
                            Some(Ipv4Addr::from(u32::from_be(from.sin_addr.s_addr)).into())
                        }
                        ControlMessageOwned::Ipv6RecvErr(error, Some(from)) if error.ee_type == 3 => {
                            Some(Ipv6Addr::from(from.sin6_addr.s6_addr).into())
                        }
                        _ => None,
                    }));
                }
                Err(nix::Error::EAGAIN) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
                Err(error) => return Err(error.into()),
            }
        }
    };
    let reported = space.run(probe).expect("a namespace of our own");
    reported.unwrap_or_else(|error| panic!("{to}: {error}")).expect("the error is \"time exceeded\"")
}

#[test]
fn a_spent_ttl_is_reported_by_the_service() {
    needs_datapath!();
    for setup in SETUPS {
        let fixture = Fixture::new(BINARY, setup);
        let visitor = fixture.pod("visitor").expect("runs");
        for space in [fixture.client_space(), visitor.space()] {
            for service in fixture.cluster_udp() {
                assert_eq!(reporter(space, service), service.ip(), "{setup:?}: {}", space.name());
            }
        }
        assert!(fixture.reason("ttl-exceeded") >= 4);
    }
}

#[test]
fn a_flood_is_answered_in_moderation() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let [to, _] = fixture.cluster().map(|service| SocketAddr::new(service.ip(), 9));
    let started = Instant::now();
    let sent = fixture.client_space().run(|| -> io::Result<u64> {
        let socket = UdpSocket::bind(any(to.ip()))?;
        // An answer to an earlier one may be reported instead of sending.
        Ok((0..FLOOD).filter(|_| socket.send_to(b"x", to).is_ok()).count() as u64)
    });
    let sent = sent.expect("a namespace of our own").expect("a socket");
    let (answered, limited) = (fixture.reason("no-service-port"), fixture.reason("answer-limited"));
    let ticks = (started.elapsed().as_nanos() >> lb_common::flow::TICK_SHIFT) as u64 + 2;
    let processors = thread::available_parallelism().expect("a number").get() as u64;
    let most = u64::from(lb_common::Budget::ANSWERS) * ticks * processors;
    assert!(answered <= most, "{answered} answers in {ticks} ticks");
    assert!(answered > 0 && limited > 0, "{answered} answered, {limited} not, of {sent}");
    assert!(answered + limited > sent * 9 / 10, "each is counted: {answered} and {limited} of {sent}");
    traffic::one_each(&fixture).expect("the Service answers meanwhile");
}
