//! The annotations of our own.

/// Of a Service: its algorithm.
pub const ALGORITHM_ANNOTATION: &str = "lb-ctl/algorithm";
/// Of a Pod, or of an EndpointSlice for all its endpoints: their weight.
pub const WEIGHT_ANNOTATION: &str = "lb-ctl/weight";
/// Of a Pod without `status.podIP`: its addresses, separated by commas.
pub const POD_IP_ANNOTATION: &str = "lb-ctl/pod-ip";
/// Of a Service: the pool that it gets an address of a load balancer from.
pub const POOL_ANNOTATION: &str = "lb-ctl/address-pool";
/// Of any object: the set that it was applied as part of, by `apply --prune`.
pub const SET_ANNOTATION: &str = "lb-ctl/applied-from";

/// What begins like them and is none of them is misspelt.
pub const ANNOTATIONS: [&str; 5] =
    [POOL_ANNOTATION, ALGORITHM_ANNOTATION, SET_ANNOTATION, POD_IP_ANNOTATION, WEIGHT_ANNOTATION];
/// How they all begin.
pub const ANNOTATION_PREFIX: &str = "lb-ctl/";
