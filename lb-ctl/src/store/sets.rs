//! Sets of objects that were applied together, so that those which are no more in the set can be found: `apply --prune`.
//!
//! Which set an object belongs to is an annotation of it: everybody sees it, and it is kept with the object.

use super::{SourceId, Store};
use crate::manifest::Parsed;
use crate::objects::{ObjectId, SET_ANNOTATION};
use std::collections::BTreeSet;

/// Makes these objects members of a set.
pub fn mark(parsed: &mut Parsed, set: &str) {
    for located in parsed.objects.iter_mut().chain(&mut parsed.suspects) {
        located.object.metadata_mut().annotations.insert(SET_ANNOTATION.to_owned(), set.to_owned());
    }
}

impl Store {
    /// The members of a set that are not among `parsed`. What files hold is in no set.
    pub fn left_over(&self, parsed: &Parsed, set: &str) -> BTreeSet<ObjectId> {
        let stays: BTreeSet<ObjectId> =
            parsed.objects.iter().chain(&parsed.suspects).map(|located| located.object.id()).collect();
        let is_member = |id: &&ObjectId| {
            let object = self.objects.get(id);
            object.is_some_and(|object| object.metadata().annotations.get(SET_ANNOTATION).is_some_and(|of| of == set))
        };
        self.ownership.of(&SourceId::Cli).filter(is_member).filter(|id| !stays.contains(id)).cloned().collect()
    }
}
