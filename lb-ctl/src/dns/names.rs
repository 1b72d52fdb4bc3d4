//! All names that this server is asked about, as one immutable table.
//!
//! A name exists if it is in the table or if one below it is: so a name without records of the type that is asked for is told
//! from one that does not exist (RFC 2308, RFC 8020), wherever it stands.

use super::path::Path;
use super::records::{Data, Records};
use crate::objects::Key;
use imbl::OrdMap;
#[cfg(test)]
use std::collections::BTreeMap;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// A name, and whose contribution to it.
type Place = (Path, Key);

/// Names and their records. Cloning is cheap, however many there are.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    table: OrdMap<Place, Arc<BTreeSet<Data>>>,
    /// The names at and below which nobody else is asked.
    pub(super) zones: Arc<[Path]>,
    /// The name of this server.
    pub(super) server: Path,
    /// Another one for each version (RFC 1035, 3.3.13).
    pub(super) serial: u32,
    /// Every source has told its objects: what is not here does not exist.
    pub(super) is_whole: bool,
}

impl Names {
    /// The nearest zone that a name is within.
    pub(super) fn zone_of(&self, name: &Path) -> Option<&Path> {
        self.zones.iter().filter(|zone| name.is_within(zone)).max_by_key(|zone| zone.length())
    }

    /// All records of a name, each once; `None`: it does not exist.
    pub(super) fn look_up(&self, name: &Path) -> Option<BTreeSet<&Data>> {
        let from = (name.clone(), Key::new("", ""));
        let mut behind = self.table.range(from..).peekable();
        let exists = behind.peek().is_some_and(|((found, _), _)| found.is_within(name));
        exists.then(|| behind.take_while(|((found, _), _)| found == name).flat_map(|(_, data)| &**data).collect())
    }
}

/// The table while it changes: knows what each object has contributed.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) names: Names,
    given: HashMap<Key, Vec<Path>>,
}

impl Ledger {
    /// Replaces what an object contributes. Costs as much as that is.
    pub(super) fn replace(&mut self, object: &Key, records: Records) {
        let before = self.given.remove(object).unwrap_or_default();
        let gone = before.into_iter().filter(|name| !records.contains_key(name));
        gone.for_each(|name| drop(self.names.table.remove(&(name, object.clone()))));
        if !records.is_empty() {
            self.given.insert(object.clone(), records.keys().cloned().collect());
        }
        for (name, data) in records {
            self.names.table.insert((name, object.clone()), Arc::new(data));
        }
    }

    /// Everything in the table, in order.
    #[cfg(test)]
    pub(super) fn dump(&self) -> BTreeMap<Place, BTreeSet<Data>> {
        self.names.table.iter().map(|(place, data)| (place.clone(), BTreeSet::clone(data))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        Path::parse(text).unwrap()
    }

    fn text(name: &str) -> Records {
        [(path(name), [Data::Text("x")].into())].into()
    }

    #[test]
    fn a_name_exists_if_one_below_it_does() {
        let mut ledger = Ledger::default();
        ledger.replace(&Key::new("n", "one"), text("a.b.c"));
        let found = |ledger: &Ledger, name| ledger.names.look_up(&path(name)).map(|data| data.len());
        assert_eq!(
            ["a.b.c", "b.c", "c", "x.b.c", "x.a.b.c", "d", "ab.c"].map(|name| found(&ledger, name)),
            [Some(1), Some(0), Some(0), None, None, None, None]
        );
        ledger.replace(&Key::new("n", "one"), Records::new());
        assert_eq!(["a.b.c", "b.c", "c"].map(|name| found(&ledger, name)), [None; 3]);
        assert!(ledger.dump().is_empty() && ledger.given.is_empty());
    }

    #[test]
    fn several_objects_give_one_name_and_take_back_only_their_own() {
        let mut ledger = Ledger::default();
        let (one, two) = (Key::new("n", "one"), Key::new("n", "two"));
        let pointer = |to: &str| -> Records { [(path("1.arpa"), [Data::Pointer(path(to))].into())].into() };
        ledger.replace(&one, pointer("a"));
        ledger.replace(&two, pointer("b"));
        let before = ledger.names.clone();
        assert_eq!(before.look_up(&path("1.arpa")).unwrap().len(), 2);
        ledger.replace(&one, pointer("c"));
        ledger.replace(&two, Records::new());
        assert_eq!(ledger.names.look_up(&path("1.arpa")).unwrap(), [&Data::Pointer(path("c"))].into());
        assert_eq!(before.look_up(&path("1.arpa")).unwrap().len(), 2, "who has a version keeps it");
    }

    #[test]
    fn the_nearest_zone_counts() {
        let zones = ["arpa", "10.in-addr.arpa", "cluster.local"].map(path);
        let names = Names { zones: zones.into(), ..Names::default() };
        assert_eq!(names.zone_of(&path("1.10.in-addr.arpa")), Some(&path("10.in-addr.arpa")));
        assert_eq!(names.zone_of(&path("11.in-addr.arpa")), Some(&path("arpa")));
        assert_eq!(names.zone_of(&path("xcluster.local")), None);
    }
}
