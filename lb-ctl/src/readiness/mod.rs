//! Whether the pods of this node are ready, found out as their kubelet would: a pod that carries a `readinessProbe`, and no
//! condition `Ready` in its manifest, is probed from here.
//!
//! What is found becomes the pod's condition `Ready` ([`Readiness::judged`]), and all that follows reads it there as it would
//! read the kubelet's. Pods of other nodes, and those of no node, are taken at their manifests' word: each node probes its own.
//!
//! A pod that is new is not ready before its probe says so. One that the maps held when the daemon was started is ready
//! until its probe has failed as often as it takes: the maps are what remembers, so nothing dips by a restart. The same
//! holds for a pod whose probe is changed.

mod action;
mod attempt;
mod course;
mod grpc;
mod http;
#[cfg(test)]
mod tests;

use crate::api::Problem;
use crate::figures::ProbeFigures;
use crate::objects::{Key, Objects, Pod, Table, differences};
use action::Plan;
use attempt::Clerk;
use course::State;
use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

/// Findings that are taken in at a time: each time costs a look at everything.
const AT_A_TIME: usize = 1024;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Readiness {
    node: String,
    runtime: Handle,
    clerk: Clerk,
    /// The pods as their manifests have them, and as they are.
    seen: Table<Pod>,
    shown: Table<Pod>,
    watches: BTreeMap<Key, Watch>,
    /// Addresses that an earlier daemon sent connections to; until all pods are known.
    served: HashSet<IpAddr>,
    watched: u64,
    findings: mpsc::UnboundedSender<Finding>,
    found: mpsc::UnboundedReceiver<Finding>,
    fresh: Vec<Finding>,
}

/// A pod that is probed, or should be.
#[derive(Debug, Default)]
struct Watch {
    /// Tells this watch from earlier ones of the same pod.
    serial: u64,
    plans: Vec<Plan>,
    /// What is known of each plan's container.
    states: Vec<Option<State>>,
    /// Why containers with a probe are not probed.
    refused: Vec<String>,
    /// They end with it.
    _tasks: Vec<AbortOnDropHandle<()>>,
}

/// A container is in another state.
#[derive(Debug)]
struct Finding {
    pod: Key,
    serial: u64,
    plan: usize,
    state: State,
}

impl Readiness {
    /// Probes the pods of `node`; probes run on `runtime`. Pods with an address that is `served` already are ready until
    /// their probes say otherwise.
    pub(crate) fn new(node: String, served: HashSet<IpAddr>, runtime: Handle) -> Self {
        let (findings, found) = mpsc::unbounded_channel();
        Self {
            node,
            runtime,
            clerk: Clerk::default(),
            seen: Table::new(),
            shown: Table::new(),
            watches: BTreeMap::new(),
            served,
            watched: 0,
            findings,
            found,
            fresh: Vec::new(),
        }
    }

    /// All pods are known: one that comes from now on is new, whatever its address.
    pub(crate) fn settle(&mut self) {
        self.served = HashSet::new();
    }

    /// Probes these pods from now on.
    pub(crate) fn follow(&mut self, pods: &Table<Pod>) {
        let shown = self.overlay(pods);
        let seen = std::mem::replace(&mut self.seen, pods.clone());
        for (key, _, pod) in differences(&seen, pods) {
            let (plans, refused) = pod.map(|pod| action::plans(pod, &self.node)).unwrap_or_default();
            if plans.is_empty() && refused.is_empty() {
                self.watches.remove(key);
            } else if self.watches.get(key).is_none_or(|watch| watch.plans != plans || watch.refused != refused) {
                for why in &refused {
                    warn!("pod {key}: {why}");
                }
                let watch = self.watch(key, plans, refused);
                self.watches.insert(key.clone(), watch);
            }
        }
        self.shown = shown;
    }

    fn watch(&mut self, key: &Key, plans: Vec<Plan>, refused: Vec<String>) -> Watch {
        self.watched += 1;
        let serial = self.watched;
        let states = self.beginnings(key, &plans);
        let task = |(number, (plan, state)): (usize, (&Plan, &Option<State>))| {
            let (findings, pod) = (self.findings.clone(), key.clone());
            let report = move |state| {
                // Nobody listens any more: the daemon is ending.
                findings.send(Finding { pod: pod.clone(), serial, plan: number, state }).ok();
            };
            let watched = attempt::watch(self.clerk.clone(), key.clone(), plan.clone(), state.clone(), report);
            AbortOnDropHandle::new(self.runtime.spawn(watched))
        };
        let tasks = plans.iter().zip(&states).enumerate().map(task).collect();
        Watch { serial, plans, states, refused, _tasks: tasks }
    }

    /// What is known at first of the containers of a pod.
    fn beginnings(&self, key: &Key, plans: &[Plan]) -> Vec<Option<State>> {
        let before = self.watches.get(key);
        let begin = |plan: &Plan| {
            let same = |(other, _): &(&Plan, &Option<State>)| other.is_of_same_container(plan);
            let known = before.and_then(|watch| watch.plans.iter().zip(&watch.states).find(same));
            known.and_then(|(_, state)| state.clone()).or_else(|| self.served.contains(&plan.pod).then_some(Ok(())))
        };
        plans.iter().map(begin).collect()
    }

    /// Objects as they are: what was found out stands in the conditions of the pods.
    pub(crate) fn judged(&self, objects: &Objects) -> Objects {
        Objects { pods: self.overlay(&objects.pods), ..objects.clone() }
    }

    fn overlay(&self, pods: &Table<Pod>) -> Table<Pod> {
        let mut shown = self.shown.clone();
        for (key, _, pod) in differences(&self.seen, pods) {
            match pod {
                Some(pod) => drop(shown.insert(key.clone(), self.judge(key, pod))),
                None => drop(shown.remove(key)),
            }
        }
        shown
    }

    fn judge(&self, key: &Key, pod: &Arc<Pod>) -> Arc<Pod> {
        let (plans, _) = action::plans(pod, &self.node);
        if plans.is_empty() {
            return Arc::clone(pod);
        }
        let state = match self.watches.get(key).filter(|watch| watch.plans == plans) {
            Some(watch) => together(&plans, &watch.states),
            None => together(&plans, &self.beginnings(key, &plans)),
        };
        let mut pod = Pod::clone(pod);
        pod.set_probed(state);
        Arc::new(pod)
    }

    /// Waits until something was found out, to be [taken](Self::take). Nothing is lost if it is not waited for to the end.
    pub(crate) async fn changed(&mut self) {
        self.found.recv_many(&mut self.fresh, AT_A_TIME).await;
    }

    /// Takes in what was found out. Says whether that changes any pod.
    pub(crate) fn take(&mut self) -> bool {
        let mut is_change = false;
        for Finding { pod: key, serial, plan, state } in std::mem::take(&mut self.fresh) {
            let Some(watch) = self.watches.get_mut(&key).filter(|watch| watch.serial == serial) else { continue };
            let before = together(&watch.plans, &watch.states);
            watch.states[plan] = Some(state);
            let now = together(&watch.plans, &watch.states);
            let Some(pod) = self.seen.get(&key).filter(|_| before != now) else { continue };
            match &now {
                Ok(()) => info!("pod {key} is ready"),
                Err(why) => info!("pod {key} is not ready: {why}"),
            }
            let judged = self.judge(&key, pod);
            self.shown.insert(key, judged);
            is_change = true;
        }
        is_change
    }

    /// How many attempts came to what, and how the pods are that are probed.
    pub(crate) fn figures(&self) -> ProbeFigures {
        let (succeeded, failed) = self.clerk.outcomes();
        let probed = self.watches.values().filter(|watch| !watch.plans.is_empty());
        let ready = probed.clone().filter(|watch| together(&watch.plans, &watch.states).is_ok()).count();
        ProbeFigures { succeeded, failed, ready: ready as u64, not_ready: (probed.count() - ready) as u64 }
    }

    /// Probes that nobody takes.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        self.watches.keys().flat_map(|key| self.problems_of(key)).collect()
    }

    /// Probes of a pod that nobody takes.
    pub(crate) fn problems_of(&self, pod: &Key) -> Vec<Problem> {
        let refused = self.watches.get(pod).map(|watch| watch.refused.as_slice()).unwrap_or_default();
        refused.iter().map(|why| Problem { subject: format!("pod {pod}"), message: why.clone() }).collect()
    }
}

/// A pod is ready when all of its containers are.
fn together(plans: &[Plan], states: &[Option<State>]) -> State {
    for (plan, state) in plans.iter().zip(states) {
        let container = &plan.container;
        match state {
            Some(Ok(())) => {}
            Some(Err(why)) => return Err(format!("the readiness probe of container {container} fails: {why}")),
            None => return Err(format!("the readiness probe of container {container} has not succeeded yet")),
        }
    }
    Ok(())
}
