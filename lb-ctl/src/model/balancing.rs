//! How a Service's connections are given to its endpoints, and by what weights.

use crate::objects::{
    ALGORITHM_ANNOTATION, Algorithm, DEFAULT_WEIGHT, EndpointSlice, Pod, Service, WEIGHT_ANNOTATION, weight,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Size of Maglev tables when none is configured: the least at which, of up to a thousand endpoints, one that goes moves
/// less than 1% of the connections of the others.
pub const DEFAULT_MAGLEV_TABLE_SIZE: u32 = 65_537;

/// How connections are given to endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Balancing {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// Size of Maglev tables, a prime.
    pub maglev_table_size: u32,
}

impl Default for Balancing {
    fn default() -> Self {
        Self { algorithm: Algorithm::default(), maglev_table_size: DEFAULT_MAGLEV_TABLE_SIZE }
    }
}

impl Balancing {
    /// Size of the Maglev table, if there is one.
    pub fn table_size(self) -> Option<u32> {
        (self.algorithm == Algorithm::Maglev).then_some(self.maglev_table_size)
    }

    /// What holds for a Service on a node where this does for those that say nothing.
    pub(super) fn of(self, service: &Service, problems: &mut Vec<String>) -> Self {
        let asked = Algorithm::of(&service.metadata.annotations).unwrap_or_else(|right| {
            problems.push(format!("annotation {ALGORITHM_ANNOTATION} {right}: {} is used", self.algorithm));
            None
        });
        Self { algorithm: asked.unwrap_or(self.algorithm), ..self }
    }
}

/// The weight of a Pod as an endpoint.
pub(super) fn of_pod(pod: &Pod) -> u8 {
    weight(&pod.metadata.annotations).ok().flatten().unwrap_or(DEFAULT_WEIGHT)
}

/// The weight of an endpoint of a slice: its Pod's if that is one of the Service's `pods` and says it, else the slice's.
pub(super) fn of_endpoint(slice: &EndpointSlice, pod: Option<&str>, pods: &[Arc<Pod>]) -> u8 {
    let found = pod.and_then(|name| pods.binary_search_by(|pod| pod.metadata.name.as_str().cmp(name)).ok());
    let of_pod = found.and_then(|index| weight(&pods[index].metadata.annotations).ok().flatten());
    of_pod.or_else(|| weight(&slice.metadata.annotations).ok().flatten()).unwrap_or(DEFAULT_WEIGHT)
}

/// Sentences about weights that cannot be.
pub(super) fn bad_weights(slices: &[Arc<EndpointSlice>], pods: &[Arc<Pod>]) -> Vec<String> {
    let slices = slices.iter().map(|slice| ("EndpointSlice", &slice.metadata));
    let all = slices.chain(pods.iter().map(|pod| ("Pod", &pod.metadata)));
    let sentence = |(kind, metadata): (&str, &crate::objects::Metadata)| {
        let right = weight(&metadata.annotations).err()?;
        Some(format!("{kind} {}: annotation {WEIGHT_ANNOTATION} {right}: it is left out", metadata.name))
    };
    all.filter_map(sentence).collect()
}
