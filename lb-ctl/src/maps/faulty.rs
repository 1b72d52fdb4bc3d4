//! Maps that fail on demand: for tests of what happens then.

use super::fake::error;
use super::{Image, LbMaps, MapError, MapOp};
use lb_common::{ReasonCount, Traffic};
use std::collections::BTreeMap;
use std::fmt;
use std::io;

/// What is to happen to one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: it is performed.
    None,
    /// It fails and is not performed.
    Lost,
    /// It is performed, and yet reported as failed.
    Unconfirmed,
}

/// Maps whose writes fail as a function says.
pub struct FaultyMaps<M> {
    inner: M,
    fault: Box<dyn FnMut(&MapOp) -> Fault + Send>,
}

impl<M: fmt::Debug> fmt::Debug for FaultyMaps<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyMaps").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<M> FaultyMaps<M> {
    /// `inner`, where each write is first shown to `fault`.
    pub fn new(inner: M, fault: impl FnMut(&MapOp) -> Fault + Send + 'static) -> Self {
        Self { inner, fault: Box::new(fault) }
    }

    /// The maps beneath.
    pub fn inner(&self) -> &M {
        &self.inner
    }
}

impl<M: LbMaps> LbMaps for FaultyMaps<M> {
    fn read(&self) -> Result<Image, MapError> {
        self.inner.read()
    }

    fn apply(&mut self, op: &MapOp) -> Result<(), MapError> {
        let failure = || Err(error(op, io::Error::from_raw_os_error(libc::ENOMEM)));
        match (self.fault)(op) {
            Fault::None => self.inner.apply(op),
            Fault::Lost => failure(),
            Fault::Unconfirmed => self.inner.apply(op).and_then(|()| failure()),
        }
    }

    fn capacity(&self, map: &str) -> u32 {
        self.inner.capacity(map)
    }

    fn reasons(&self) -> Result<Vec<ReasonCount>, MapError> {
        self.inner.reasons()
    }

    fn service_stats(&self, ids: &[u32]) -> Result<BTreeMap<u32, Traffic>, MapError> {
        self.inner.service_stats(ids)
    }

    fn backend_stats(&self, ids: &[u32]) -> Result<BTreeMap<u32, Traffic>, MapError> {
        self.inner.backend_stats(ids)
    }
}
