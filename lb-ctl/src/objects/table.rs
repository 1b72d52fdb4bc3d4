//! Tables that share what they have in common with their earlier versions.
//!
//! A table is a persistent B+ tree: a clone is as cheap as a pointer, a change copies the way to one leaf, and what differs
//! between two versions is found without looking at what they share. That is what makes a change cost as much as it changes:
//! every stage keeps the version that it saw last, and compares.

use super::Key;
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use std::sync::Arc;

/// Values by namespace and name, in this order.
pub type Table<T> = OrdMap<Key, Arc<T>>;

/// What differs between two tables, in order of key: the value before, and the value now. The more the two share, the
/// cheaper.
pub fn differences<'t, T: Eq>(
    before: &'t Table<T>,
    now: &'t Table<T>,
) -> impl Iterator<Item = (&'t Key, Option<&'t Arc<T>>, Option<&'t Arc<T>>)> {
    before.diff(now).map(|item| match item {
        DiffItem::Add(key, now) => (key, None, Some(now)),
        DiffItem::Update { old: (key, before), new: (_, now) } => (key, Some(before), Some(now)),
        DiffItem::Remove(key, before) => (key, Some(before), None),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn differences_lead_from_one_version_to_the_other(
            first in prop::collection::btree_map(0..400_u32, 0..3_u32, 0..400),
            changes in prop::collection::vec((0..400_u32, prop::option::of(0..3_u32)), 0..40),
        ) {
            let key = |number: u32| Key::new("default", format!("s{number:03}"));
            let before: Table<u32> = first.iter().map(|(number, value)| (key(*number), Arc::new(*value))).collect();
            let mut now = before.clone();
            for (number, value) in changes {
                match value {
                    Some(value) => drop(now.insert(key(number), Arc::new(value))),
                    None => drop(now.remove(&key(number))),
                }
            }
            let flat = |table: &Table<u32>| table.iter().map(|(key, value)| (key.clone(), **value)).collect::<BTreeMap<_, _>>();
            let (mut replayed, target) = (flat(&before), flat(&now));
            let mut last = None;
            for (key, old, new) in differences(&before, &now) {
                prop_assert!(last < Some(key), "in order");
                last = Some(key);
                prop_assert_ne!(old, new);
                prop_assert_eq!(replayed.get(key), old.map(|value| &**value));
                match new {
                    Some(value) => drop(replayed.insert(key.clone(), **value)),
                    None => drop(replayed.remove(key)),
                }
            }
            prop_assert_eq!(replayed, target);
        }
    }
}
