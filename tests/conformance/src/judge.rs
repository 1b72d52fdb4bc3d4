//! Whether flows are as a case expects.

use crate::node::Node;
use crate::packet::{Ends, Outcome, Turn};
use crate::schema::{ClientKind, Distribution, Expect, Flow, Verdict};
use anyhow::{anyhow, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// Connections for each backend that may be chosen: enough to miss one in 10^7 runs.
const FOR_EACH_BACKEND: usize = 16;
/// Connections where nothing is chosen.
const FEW: usize = 4;
/// Source ports: behind those of the node itself would be as good.
const PORTS: std::ops::Range<u16> = 33_000..60_000;

/// How an expectation was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// To the letter.
    Exactly,
    /// The client's address is kept where kube-proxy rewrites it, and the reply comes back by this node all the same.
    KeepingTheClient,
}

/// How a flow came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// As expected.
    Met(Met),
    /// As the other mode of kube-proxy does it; and why not as expected.
    MetOther(String),
    /// Otherwise: why.
    Missed(String),
}

/// What a case remembers from flow to flow.
#[derive(Debug)]
pub struct Memory {
    /// The backends that labels stand for.
    labels: BTreeMap<String, SocketAddr>,
    /// A Service of the case keeps each client with one backend: one client cannot reach them all.
    pub has_affinity: bool,
    next_port: u16,
}

impl Default for Memory {
    fn default() -> Self {
        Self { labels: BTreeMap::new(), has_affinity: false, next_port: PORTS.start }
    }
}

impl Memory {
    /// Another source port than the last time.
    pub fn port(&mut self) -> u16 {
        let port = self.next_port;
        self.next_port = if port + 1 < PORTS.end { port + 1 } else { PORTS.start };
        port
    }
}

/// One packet and what became of it.
struct Sample {
    ends: Ends,
    outcome: Outcome,
}

/// Sends a flow's packets and judges what becomes of them.
pub fn flow(node: &mut Node, flow: &Flow, memory: &mut Memory) -> anyhow::Result<Judgement> {
    if let Some(seconds) = flow.at_seconds {
        node.wait_until(seconds)?;
    }
    let samples = sample(node, flow, memory)?;
    let why = match evaluate(node, flow, &flow.expect, &samples, memory) {
        Ok(met) => return Ok(Judgement::Met(met)),
        Err(why) => why.to_string(),
    };
    let other = flow.expect_iptables.as_ref().map(|other| evaluate(node, flow, other, &samples, memory));
    Ok(if matches!(other, Some(Ok(_))) { Judgement::MetOther(why) } else { Judgement::Missed(why) })
}

fn sample(node: &mut Node, flow: &Flow, memory: &mut Memory) -> anyhow::Result<Vec<Sample>> {
    let expected = || std::iter::once(&flow.expect).chain(&flow.expect_iptables);
    let mut samples = Vec::new();
    for _ in 0..expected().map(|expect| connections(flow, expect)).max().unwrap_or(FEW) {
        let port = |given: Option<u16>, fresh: u16| if flow.to.port.is_some() { given.unwrap_or(fresh) } else { 0 };
        let from = SocketAddr::new(flow.from.ip, port(flow.from.port, memory.port()));
        let ends =
            Ends { protocol: flow.to.protocol, from, to: SocketAddr::new(flow.to.ip, flow.to.port.unwrap_or(0)) };
        let outcome = node.send(flow.from.kind, ends, Turn::Open)?;
        let is_possible = expected().any(|expect| may_be(&outcome, expect));
        samples.push(Sample { ends, outcome });
        if !is_possible {
            break;
        }
    }
    Ok(samples)
}

/// How many connections show whether an expectation is met.
fn connections(flow: &Flow, expect: &Expect) -> usize {
    let asked = flow.repeat.max(flow.distribution.and_then(|spread| spread.min_samples)).map(|count| count as usize);
    match expect.verdict {
        Verdict::Forward if flow.sticky.is_some() => asked.unwrap_or(1),
        Verdict::Forward => asked.unwrap_or(0).max((expect.backends.len() * FOR_EACH_BACKEND).max(FEW)),
        _ => asked.unwrap_or(FEW),
    }
}

/// Whether one packet alone does not contradict the expectation.
fn may_be(outcome: &Outcome, expect: &Expect) -> bool {
    match expect.verdict {
        Verdict::Forward => matches!(outcome, Outcome::Forwarded { backend, .. } if expect.backends.contains(backend)),
        Verdict::Reject => *outcome == Outcome::Rejected,
        Verdict::Drop => *outcome == Outcome::Dropped,
        Verdict::Passthrough | Verdict::Local => *outcome == Outcome::Passed,
    }
}

fn evaluate(
    node: &mut Node,
    flow: &Flow,
    expect: &Expect,
    samples: &[Sample],
    memory: &mut Memory,
) -> anyhow::Result<Met> {
    if let Some(sample) = samples.iter().find(|sample| !may_be(&sample.outcome, expect)) {
        bail!("expected {expect}; it was {}", sample.outcome);
    }
    if expect.verdict == Verdict::Local {
        ensure!(node.is_own(flow.to.ip)?, "expected local; {} is no address of the node", flow.to.ip);
    }
    let mut reached: BTreeMap<SocketAddr, usize> = BTreeMap::new();
    let mut came_back = BTreeSet::new();
    let mut met = Met::Exactly;
    for Sample { ends, outcome } in samples {
        let Outcome::Forwarded { source, backend } = outcome else { continue };
        *reached.entry(*backend).or_default() += 1;
        stick(flow, *backend, memory)?;
        let is_kept = source.ip() == flow.from.ip;
        ensure!(
            !(is_kept && backend.ip() == flow.from.ip),
            "{backend} reaches itself, and would answer itself: its address must be rewritten"
        );
        match expect.masquerades(*backend) {
            Some(false) => ensure!(is_kept, "towards {backend} the client's address is rewritten, to {}", source.ip()),
            Some(true) if is_kept => {
                if came_back.insert(*backend) {
                    comes_back(node, flow, *ends, *source, *backend)?;
                }
                met = Met::KeepingTheClient;
            }
            _ => {}
        }
    }
    if expect.verdict == Verdict::Forward {
        match flow.distribution {
            Some(spread) => spreads(spread, &reached, expect.backends.len(), samples.len())?,
            None if flow.sticky.is_some() || (memory.has_affinity && reached.len() == 1) => {}
            None => {
                let missed: Vec<String> =
                    expect.backends.iter().filter(|one| !reached.contains_key(one)).map(ToString::to_string).collect();
                ensure!(missed.is_empty(), "expected {expect}; {} was never chosen", missed.join(", "));
            }
        }
    }
    Ok(met)
}

/// Holds a backend against the one that the flow's label stands for.
fn stick(flow: &Flow, backend: SocketAddr, memory: &mut Memory) -> anyhow::Result<()> {
    let Some(label) = &flow.sticky else { return Ok(()) };
    let known = *memory.labels.entry(label.clone()).or_insert(backend);
    if known != backend {
        ensure!(flow.may_move, "the client moved from {known} to {backend}");
        memory.labels.insert(label.clone(), backend);
    }
    Ok(())
}

/// Whether the reply to a client whose address the backend sees comes back by this node, and is translated there.
fn comes_back(node: &mut Node, flow: &Flow, ends: Ends, source: SocketAddr, backend: SocketAddr) -> anyhow::Result<()> {
    let is_process = matches!(flow.from.kind, ClientKind::Node | ClientKind::Loopback | ClientKind::SelfVip);
    if is_process && node.is_own(flow.to.ip)? {
        // Translated at its socket: no packet ever names the Service.
        return Ok(());
    }
    let client_is_here = is_process || flow.from.kind == ClientKind::PodOnThisNode;
    ensure!(
        client_is_here || node.is_here(backend.ip())?,
        "towards {backend} the client's address is kept, and the reply goes past this node"
    );
    let reply = node.answer(Ends { protocol: ends.protocol, from: backend, to: source })?;
    let right = Outcome::Forwarded { source: ends.to, backend: ends.from };
    ensure!(reply == right, "towards {backend} the client's address is kept, but the reply is {reply}");
    Ok(())
}

fn spreads(
    spread: Distribution,
    reached: &BTreeMap<SocketAddr, usize>,
    backends: usize,
    samples: usize,
) -> anyhow::Result<()> {
    let least = spread.min_distinct.unwrap_or(1);
    ensure!(reached.len() >= least, "expected {least} backends at least; {} were chosen", reached.len());
    let Some(tolerance) = spread.tolerance.filter(|_| spread.uniform) else { return Ok(()) };
    ensure!(reached.len() == backends, "expected all of {backends} backends; {} were chosen", reached.len());
    let ideal = samples as f64 / backends as f64;
    let worst = reached.iter().map(|(backend, count)| (backend, (*count as f64 / ideal - 1.0).abs()));
    let worst = worst.max_by(|one, other| one.1.total_cmp(&other.1)).ok_or_else(|| anyhow!("nothing was chosen"))?;
    ensure!(worst.1 <= tolerance, "the share of {} is off by {:.0}%", worst.0, worst.1 * 100.0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_compared_with_equal_ones() {
        let [a, b] = ["10.0.0.1:1", "10.0.0.2:1"].map(|text| text.parse::<SocketAddr>().unwrap());
        let spread = Distribution { uniform: true, min_samples: None, tolerance: Some(0.2), min_distinct: Some(2) };
        let judged = |reached: &[(SocketAddr, usize)]| {
            let reached = reached.iter().copied().collect();
            spreads(spread, &reached, 2, 100).map_err(|error| error.to_string())
        };
        assert_eq!(judged(&[(a, 55), (b, 45)]), Ok(()));
        assert_eq!(judged(&[(a, 61), (b, 39)]), Err("the share of 10.0.0.2:1 is off by 22%".to_owned()));
        assert_eq!(judged(&[(a, 100)]), Err("expected 2 backends at least; 1 were chosen".to_owned()));
    }

    #[test]
    fn ports_are_fresh_until_all_were_used() {
        let mut memory = Memory::default();
        let ports: BTreeSet<u16> = PORTS.map(|_| memory.port()).collect();
        assert_eq!(ports.len(), PORTS.len());
        assert_eq!(memory.port(), PORTS.start);
    }
}
