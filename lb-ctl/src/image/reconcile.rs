//! The loop body: views and host in, maps up to date.

use super::inspect::{Cursor, Inspected, inspect};
use super::renderer::{Refused, Renderer};
use super::{HostFacts, Withdrawn, apply, plan, withdrawn};
use crate::maps::{Image, LbMaps, MapError, MapOp};
use crate::model::Views;
use std::collections::HashSet;
use std::time::Instant;

/// What one round did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Writes performed.
    pub writes: usize,
    /// Whether any of them was of an owned address.
    pub addresses_changed: bool,
    /// Services that do not fit.
    pub refused: Vec<Refused>,
}

/// A round failed: some of its writes may have been performed. The next round reads the maps back and goes on.
#[derive(Debug, thiserror::Error)]
#[error("bringing the maps up to date: {source}")]
pub struct ReconcileError {
    /// Which write or read failed, and how.
    #[from]
    pub source: MapError,
}

/// A renderer and what the maps hold.
#[derive(Clone, Debug)]
pub struct Reconciler {
    renderer: Renderer,
    realized: Image,
    /// Whether `realized` is sure: not after a failure, since a failed write may have been performed.
    is_sure: bool,
    withdrawn: HashSet<Withdrawn>,
}

impl Reconciler {
    /// Adopts what the maps hold.
    pub fn adopt(maps: &dyn LbMaps, now: Instant) -> Result<Self, MapError> {
        let realized = maps.read()?;
        Ok(Self {
            renderer: Renderer::restore(maps, &realized, now),
            realized,
            is_sure: true,
            withdrawn: HashSet::new(),
        })
    }

    /// Makes the maps hold what these Services and this host ask for. Services that are missing from `views` are
    /// withdrawn, so it must not be called before every source has told its objects.
    pub fn reconcile(
        &mut self,
        maps: &mut dyn LbMaps,
        views: &Views,
        host: &HostFacts,
        now: Instant,
    ) -> Result<Reconciled, ReconcileError> {
        let refused = self.renderer.render(views, host, now);
        let ops = if self.is_sure {
            self.renderer.plan(&self.realized)
        } else {
            self.realized = maps.read()?;
            plan(self.renderer.image(), &self.realized)
        };
        self.perform(maps, &ops)?;
        self.renderer.settle(now);
        let is_of_address = |op: &MapOp| matches!(op, MapOp::PutOwned(..) | MapOp::DeleteOwned(_));
        Ok(Reconciled { writes: ops.len(), addresses_changed: ops.iter().any(is_of_address), refused })
    }

    /// Reads the maps back and repairs what differs from the image, which nobody but us should cause. Gives the number
    /// of writes.
    pub fn audit(&mut self, maps: &mut dyn LbMaps) -> Result<usize, ReconcileError> {
        self.is_sure = false;
        self.realized = maps.read()?;
        let ops = plan(self.renderer.image(), &self.realized);
        self.perform(maps, &ops)?;
        Ok(ops.len())
    }

    /// Compares a piece of the maps with the image. `None` where that would tell nothing: a write has failed, and is to be tried
    /// again.
    pub fn inspect(&self, maps: &dyn LbMaps, cursor: Cursor, limit: usize) -> Result<Option<Inspected>, MapError> {
        if !self.is_sure {
            return Ok(None);
        }
        inspect(self.renderer.image(), maps, cursor, limit).map(Some)
    }

    /// Takes nothing for granted of what the maps hold: the next round reads them back.
    pub fn doubt(&mut self) {
        self.is_sure = false;
    }

    fn perform(&mut self, maps: &mut dyn LbMaps, ops: &[MapOp]) -> Result<(), MapError> {
        self.is_sure = false;
        let mut before = withdrawn::endpoints(&self.realized, ops);
        before.extend(std::mem::take(&mut self.renderer.released));
        let applied = apply(maps, ops, self.renderer.image(), &mut self.realized);
        // Whatever became of the rest: flows to these must not stay.
        let now = withdrawn::endpoints(&self.realized, ops);
        let gone = before.into_iter().filter(|endpoint| !now.contains(endpoint));
        let stranded = gone.filter(|gone| withdrawn::is_stranded(&self.renderer, &self.realized, gone));
        self.withdrawn.extend(stranded.map(|(_, endpoint)| endpoint));
        self.is_sure = applied.is_ok();
        applied
    }

    /// Takes what was withdrawn since it was last asked for.
    pub fn take_withdrawn(&mut self) -> HashSet<Withdrawn> {
        std::mem::take(&mut self.withdrawn)
    }

    /// What the maps hold, as far as is known.
    pub fn realized(&self) -> &Image {
        &self.realized
    }

    /// The renderer: the image, and the ids of frontends and backends.
    pub fn renderer(&self) -> &Renderer {
        &self.renderer
    }
}
