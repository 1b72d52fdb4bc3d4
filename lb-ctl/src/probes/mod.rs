//! Readiness of pods that no kubelet looks after: whose manifest has a `readinessProbe` and no condition `Ready`.
//!
//! Each such container is probed by a task of its own, with the probe's periods and thresholds, as a kubelet does
//! (`pkg/kubelet/prober`): not ready until the first success. What is found out is shown as the pod's condition `Ready`, so
//! that everybody downstream reads it as though a kubelet had said it. It is remembered on the disk: a daemon that is started
//! again goes on from there, without a dip.

mod attempt;
mod memory;
mod target;
mod task;
#[cfg(test)]
mod tests;

use crate::api::Problem;
use crate::objects::{Condition, Key, Objects, Pod, differences};
use memory::Memory;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use task::Watched;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::info;

/// News of one container.
#[derive(Debug)]
pub(crate) struct Told {
    pod: Key,
    /// Which of the pod's probed containers.
    index: usize,
    /// Tells a task from those that came before it.
    generation: u64,
    ready: bool,
    /// Why not, if not.
    why: String,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Probes {
    /// Where tasks run; without it nothing is probed, and every pod is taken at its word.
    runtime: Option<Handle>,
    sender: mpsc::UnboundedSender<Told>,
    pub(crate) news: mpsc::UnboundedReceiver<Told>,
    pods: BTreeMap<Key, Probed>,
    /// Pods whose readiness has turned since it was shown.
    turned: BTreeSet<Key>,
    memory: Memory,
    generation: u64,
    seen: Arc<Objects>,
    shown: Arc<Objects>,
}

/// A pod that is probed.
#[derive(Debug)]
struct Probed {
    pod: Arc<Pod>,
    containers: Vec<Watched>,
}

impl Probed {
    fn is_ready(&self) -> bool {
        self.containers.iter().all(|container| container.ready)
    }

    /// The pod with its readiness.
    fn shown(&self) -> Arc<Pod> {
        let mut pod = Pod::clone(&self.pod);
        let status = if self.is_ready() { "True" } else { "False" };
        pod.status.conditions.push(Condition { r#type: "Ready".to_owned(), status: status.to_owned() });
        Arc::new(pod)
    }
}

impl Probes {
    /// Nothing is probed yet. What was found out before is in the file at `memory`.
    pub(crate) fn new(runtime: Option<Handle>, memory: PathBuf) -> Self {
        let (sender, news) = mpsc::unbounded_channel();
        let memory = if runtime.is_some() { Memory::open(memory) } else { Memory::none() };
        Self {
            runtime,
            sender,
            news,
            pods: BTreeMap::new(),
            turned: BTreeSet::new(),
            memory,
            generation: 0,
            seen: Arc::default(),
            shown: Arc::default(),
        }
    }

    /// Probes the pods among `objects` that want it, and answers the objects as they are to be read. Costs what has changed.
    pub(crate) fn follow(&mut self, objects: &Arc<Objects>) -> Arc<Objects> {
        if Arc::ptr_eq(objects, &self.seen) && self.turned.is_empty() {
            return Arc::clone(&self.shown);
        }
        let seen = std::mem::replace(&mut self.seen, Arc::clone(objects));
        let mut pods = self.shown.pods.clone();
        for (key, _, now) in differences(&seen.pods, &objects.pods) {
            if let Some(pod) = now {
                pods.insert(key.clone(), self.watch(key, pod));
            } else {
                self.pods.remove(key);
                self.memory.forget(key);
                pods.remove(key);
            }
        }
        for key in std::mem::take(&mut self.turned) {
            if let Some(probed) = self.pods.get(&key) {
                pods.insert(key, probed.shown());
            }
        }
        self.shown = Arc::new(Objects { pods, ..Objects::clone(objects) });
        Arc::clone(&self.shown)
    }

    /// Takes news of a container.
    pub(crate) fn take(&mut self, told: Told) {
        let Some(probed) = self.pods.get_mut(&told.pod) else { return };
        let was_ready = probed.is_ready();
        let watched = probed.containers.get_mut(told.index).filter(|of| of.generation == told.generation);
        let Some(watched) = watched else { return };
        (watched.ready, watched.why) = (told.ready, told.why);
        let is_ready = probed.is_ready();
        if is_ready != was_ready {
            let (pod, container) = (&told.pod, &watched_name(probed, told.index));
            info!(%pod, container, ready = is_ready, "its readiness has turned: {}", why(probed));
            self.memory.keep(&told.pod, &probed.pod, is_ready);
            self.turned.insert(told.pod);
        }
    }

    /// Pods that are not ready, and why.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let unready = self.pods.iter().filter(|(_, probed)| !probed.is_ready());
        let problem = |(key, probed): (&Key, &Probed)| Problem {
            subject: format!("pod {key}"),
            message: format!("not ready: {}", why(probed)),
        };
        unready.map(problem).collect()
    }

    /// Begins to probe a pod, goes on, or ends. Answers the pod as it is to be read.
    fn watch(&mut self, key: &Key, pod: &Arc<Pod>) -> Arc<Pod> {
        let before = self.pods.remove(key);
        let (Some(runtime), Some(targets)) = (&self.runtime, target::of(pod)) else { return Arc::clone(pod) };
        let remembered = self.memory.was_ready(key, pod);
        let mut kept: Vec<Watched> = before.map(|probed| probed.containers).unwrap_or_default();
        let mut containers = Vec::new();
        for (index, target) in targets.into_iter().enumerate() {
            // What is probed as before goes on; a changed probe begins anew.
            if let Some(same) = kept.iter().position(|watched| (watched.index, &watched.target) == (index, &target)) {
                containers.push(kept.swap_remove(same));
                continue;
            }
            self.generation += 1;
            let place = task::Place { pod: key.clone(), index, generation: self.generation };
            containers.push(Watched::start(runtime, place, target, remembered, self.sender.clone()));
        }
        let probed = Probed { pod: Arc::clone(pod), containers };
        let shown = probed.shown();
        self.pods.insert(key.clone(), probed);
        shown
    }
}

fn watched_name(probed: &Probed, index: usize) -> String {
    probed.containers.get(index).map(|watched| watched.target.container.clone()).unwrap_or_default()
}

/// What keeps a pod from being ready.
fn why(probed: &Probed) -> String {
    let unready = probed.containers.iter().filter(|container| !container.ready);
    let told: Vec<String> = unready.map(|container| format!("{}: {}", container.target, container.why)).collect();
    if told.is_empty() { "every probe succeeds".to_owned() } else { told.join("; ") }
}
