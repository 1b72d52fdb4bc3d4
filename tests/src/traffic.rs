//! Traffic that must work in every setup, with everything checked that can be seen from the two ends.

use crate::fixture::{Fixture, node_port, node_port_udp};
use lb_ctl::playground::content::Hash;
use lb_ctl::playground::echo::Answer;
use lb_ctl::playground::topology::{CLIENT, Dual};
use lb_ctl::playground::{Client, Error};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// The Service's pods.
pub const PODS: [&str; 3] = ["web-1", "web-2", "web-3"];
/// Connections in which each of three pods is met, but for once in 10^10.
const ENOUGH: usize = 60;

/// Who asks.
#[derive(Clone, Copy)]
pub struct Asker<'a> {
    /// Name of the pod; `outside` is the client.
    pub name: &'static str,
    /// Its addresses.
    pub address: Dual,
    /// Its sockets.
    pub client: Client<'a>,
}

/// The outside client, a pod, and a pod that is also a backend.
pub fn askers(fixture: &Fixture) -> [Asker<'_>; 3] {
    let pod = |name| {
        let pod = fixture.pod(name).expect("the playground's own pod");
        Asker { name, address: pod.address(), client: pod.client() }
    };
    [Asker { name: "outside", address: CLIENT, client: fixture.client() }, pod("visitor"), pod("web-1")]
}

/// Every way in over TCP, both families: every pod answers, sees the address it should, and takes and gives
/// `length` bytes unharmed.
pub fn tcp(fixture: &Fixture, length: u64) -> Result<(), Error> {
    let hash = Hash::of_content(length, length);
    for asker in askers(fixture) {
        for to in fixture.cluster().into_iter().chain(node_port()) {
            let way = format!("{} to {to}", asker.name);
            let mut met = BTreeSet::new();
            for _ in 0..ENOUGH {
                let mut connection = asker.client.connect(to)?;
                let answer = connection.get()?;
                check_source(&asker, &answer, &way);
                if !met.insert(answer.pod.clone()) {
                    continue;
                }
                let received = connection.upload(length)?;
                assert_eq!((received.length, received.hash), (length, hash.value()), "{way}: upload to {}", answer.pod);
                assert_eq!(connection.download(length)?, (length, hash), "{way}: download from {}", answer.pod);
                let last = connection.get()?;
                assert_eq!(
                    (&last.pod, last.port, last.request),
                    (&answer.pod, answer.port, 4),
                    "{way}: one connection"
                );
                if met.len() == PODS.len() {
                    break;
                }
            }
            assert_eq!(met.iter().map(String::as_str).collect::<Vec<_>>(), PODS, "{way}");
        }
    }
    Ok(())
}

/// Every way in over UDP, both families: every pod answers, and one socket keeps its pod.
pub fn udp(fixture: &Fixture) -> Result<(), Error> {
    for asker in askers(fixture) {
        for to in fixture.cluster_udp().into_iter().chain(node_port_udp()) {
            let way = format!("{} to {to} by UDP", asker.name);
            let mut met = BTreeSet::new();
            for _ in 0..ENOUGH {
                let socket = asker.client.datagrams(to)?;
                let answer = socket.exchange(b"first")?;
                check_source(&asker, &answer, &way);
                assert_eq!(socket.exchange(&[b'x'; 1200])?, answer, "{way}: a socket keeps its pod");
                met.insert(answer.pod);
                if met.len() == PODS.len() {
                    break;
                }
            }
            assert_eq!(met.iter().map(String::as_str).collect::<Vec<_>>(), PODS, "{way}");
        }
    }
    Ok(())
}

/// One answer over each way in.
pub fn one_each(fixture: &Fixture) -> Result<Vec<Answer>, Error> {
    let mut answers = Vec::new();
    for asker in askers(fixture) {
        for to in fixture.cluster().into_iter().chain(node_port()) {
            answers.push(asker.client.get(to)?);
        }
    }
    Ok(answers)
}

/// Pods on the node see the client's own address. A pod that asked itself does not, nor does a remote pod asked from
/// outside: their replies would miss the node.
fn check_source(asker: &Asker<'_>, answer: &Answer, way: &str) {
    let own = asker.address.like(answer.client);
    let translated = answer.pod == asker.name || (answer.pod == "web-3" && asker.name == "outside");
    assert_eq!(answer.client != own, translated, "{way}: {} saw {}", answer.pod, answer.client);
}

/// `GET /` over `count` connections: the answers, and nothing lost.
pub fn many(client: Client<'_>, to: SocketAddr, count: usize) -> Vec<Answer> {
    let answers = client.get_many(to, count).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(answers.len(), count);
    answers
}
