//! Which source an object belongs to.

use super::SourceId;
use crate::objects::ObjectId;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The one source of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) source: SourceId,
    /// Line in the source's file.
    pub(super) line: u32,
}

/// Owners by object, and objects by source.
#[derive(Debug, Default)]
pub(super) struct Ownership {
    pub(super) owners: HashMap<ObjectId, Owner>,
    by_source: BTreeMap<SourceId, BTreeSet<ObjectId>>,
}

impl Ownership {
    /// The objects of a source.
    pub(super) fn of(&self, source: &SourceId) -> impl Iterator<Item = &ObjectId> {
        self.by_source.get(source).into_iter().flatten()
    }

    /// Gives an object to an owner, or to none; the answer is the owner before.
    pub(super) fn set(&mut self, id: &ObjectId, owner: Option<Owner>) -> Option<Owner> {
        let before = match owner {
            Some(owner) => {
                self.by_source.entry(owner.source.clone()).or_default().insert(id.clone());
                self.owners.insert(id.clone(), owner)
            }
            None => self.owners.remove(id),
        };
        if let Some(before) = &before
            && self.owners.get(id).is_none_or(|owner| owner.source != before.source)
            && let Some(objects) = self.by_source.get_mut(&before.source)
        {
            objects.remove(id);
            if objects.is_empty() {
                self.by_source.remove(&before.source);
            }
        }
        before
    }
}
