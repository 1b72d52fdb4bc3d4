//! Traces a packet through the live datapath: the programs of an instance that is loaded for it, over the live maps.
//!
//! What is slow (the kernel verifies the programs) happens away from the engine, which only tells what the node looks like and
//! what its numbers are called.

use super::balancer::Balancer;
use super::engine::Engine;
use crate::api::trace::{TraceAnswer, TraceRequest};
use crate::api::{Failure, FailureReason};
use crate::datapath::SharedMaps;
use crate::datapath::tracer::Tracer;
use crate::host;
use crate::trace::walk::Start;
use crate::trace::{self, Error, Met, Names, Scene, ServiceName};
use lb_common::BackendSet;
use lb_common::trace::StepKind;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

impl Engine {
    /// What a packet meets on this node.
    pub(super) fn scene(&self) -> Scene {
        Scene {
            host: Arc::clone(&self.host.borrow()),
            attachments: self.hooks.attachments().into_iter().cloned().collect(),
            tags: self.hooks.tags(),
            pair: self.host_clients.ends().map(|(_, outer)| outer),
            sockets: self.hooks.sockets().map(Into::into),
        }
    }
}

/// The names of service ports with these ids, and of the pods behind them.
pub(super) fn names(balancer: &Balancer, ids: &BTreeSet<u32>) -> Names {
    let mut names = Names::default();
    for view in balancer.views().values() {
        for port in &view.ports {
            let mut is_met = false;
            for frontend in &port.frontends {
                for id in balancer.renderer().service_ids(frontend).filter(|id| ids.contains(id)) {
                    is_met = true;
                    let number = format!("{}/{:?}", frontend.port, frontend.protocol);
                    let service = ServiceName {
                        service: view.key.to_string(),
                        port: if port.name.is_empty() { number } else { format!("{} ({number})", port.name) },
                        kind: format!("{:?}", frontend.kind),
                    };
                    names.services.insert(id, service);
                }
            }
            for endpoint in port.endpoints.iter().filter(|_| is_met) {
                let node = endpoint.node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
                let pod = endpoint.pod.as_ref().map(|pod| format!("pod {pod}{node}"));
                pod.map(|pod| names.pods.insert(SocketAddr::new(endpoint.address, endpoint.port), pod));
            }
        }
    }
    names
}

/// A packet's walk, and what it could have been given on it.
#[derive(Debug)]
pub(super) struct Walked {
    start: Start,
    met: Vec<Met>,
    names: Names,
}

impl Walked {
    /// Loads an instance of the programs over `maps`, sends the packet through it, and drops the instance.
    pub(super) fn walk(request: &TraceRequest, scene: &Scene, maps: &SharedMaps) -> Result<Self, Error> {
        let start = scene.start(request, host::route_to)?;
        let object = crate::OBJECT.ok_or(crate::datapath::Error::NoObject)?;
        let mut tracer = Tracer::load(object, maps)?;
        let met = trace::walk(&mut tracer, scene, &start, host::route_to)?;
        let mut names = Names::default();
        let picks = met.iter().flat_map(|met| &met.traced.steps).filter(|step| step.kind == StepKind::Picked as u8);
        for set in picks.map(|step| BackendSet(step.words[0])) {
            names.sets.insert(set, tracer.members(set)?);
        }
        Ok(Self { start, met, names })
    }

    /// The ids of service ports that were met.
    pub(super) fn services(&self) -> BTreeSet<u32> {
        let steps = self.met.iter().flat_map(|met| &met.traced.steps);
        steps
            .filter_map(|step| match StepKind::from_number(step.kind)? {
                StepKind::Service | StepKind::Policy => Some(step.number),
                StepKind::FlowFound | StepKind::Rewritten => Some(step.more),
                _ => None,
            })
            .collect()
    }

    /// The whole in words.
    pub(super) fn explain(mut self, request: &TraceRequest, scene: &Scene, names: Names) -> TraceAnswer {
        self.names.services = names.services;
        self.names.pods = names.pods;
        trace::explain(request, scene, &self.start, &self.met, &self.names)
    }
}

/// Why there is no trace, for who asked.
pub(super) fn failure(error: &Error) -> Failure {
    let reason = match error {
        Error::Request(_) => FailureReason::BadRequest,
        _ => FailureReason::InternalError,
    };
    Failure::new(reason, error.to_string())
}
