//! What is in a directory now, compared with what was there before.

use crate::manifest::{self, Diagnostic, MAX_BYTES, Parsed};
use crate::store::Snapshot;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A file changed this recently may be half written: emptied, and not yet filled again.
const UNSETTLED: Duration = Duration::from_millis(100);
/// Who empties a file means to fill it again, and a busy disk may hold that up.
const EMPTIED: Duration = Duration::from_secs(2);
/// A file changed this recently may change again within the resolution of its time stamp.
const RACY: Duration = Duration::from_secs(2);

/// A directory and what was last seen in it.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    directory: PathBuf,
    namespace: String,
    files: BTreeMap<PathBuf, Seen>,
    is_gone: bool,
    is_settled: bool,
}

/// What was last seen of a file.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    stamp: Option<Stamp>,
    /// Hash of the content, or of the reason why there is none.
    content: u64,
}

/// What changes when a file does.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Scanner {
    pub(super) fn new(directory: PathBuf, namespace: String) -> Self {
        Self { directory, namespace, ..Self::default() }
    }

    /// Whether the directory itself was not there at the last scan.
    pub(super) fn is_gone(&self) -> bool {
        self.is_gone
    }

    /// Whether the last scan passed over no file because it had just changed.
    pub(super) fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// The files that are not what they were, by name. Those in `busy` are passed over, and those that changed just now,
    /// unless they are known to be `whole` or there is no time.
    pub(super) fn scan(
        &mut self,
        busy: &[PathBuf],
        whole: &HashSet<PathBuf>,
        no_time: bool,
    ) -> Vec<(PathBuf, Snapshot)> {
        self.is_settled = true;
        let listed = match list(&self.directory) {
            Ok(listed) => listed,
            Err(error) => return self.gone(&error),
        };
        let mut changes = Vec::new();
        if std::mem::take(&mut self.is_gone) {
            changes.push((self.directory.clone(), Snapshot::Gone));
        }
        let missing: Vec<PathBuf> = self.files.keys().filter(|path| !listed.contains(*path)).cloned().collect();
        let mut present = Vec::new();
        for path in listed.into_iter().filter(|path| !busy.contains(path)) {
            if let Some(snapshot) = self.look_at(&path, whole.contains(&path), no_time) {
                present.push((path, snapshot));
            }
        }
        // A file that is gone may be another's new name: both are told together, or what its Services hold is lost.
        if self.is_settled || no_time {
            for path in missing {
                self.files.remove(&path);
                changes.push((path, Snapshot::Gone));
            }
        }
        changes.extend(present);
        changes
    }

    /// All files at once are more likely a mistake, or a mount that is missing, than what anyone wants: they keep their
    /// objects.
    fn gone(&mut self, error: &io::Error) -> Vec<(PathBuf, Snapshot)> {
        if std::mem::replace(&mut self.is_gone, true) {
            return Vec::new();
        }
        let message = format!("the directory cannot be read ({error}): its files keep their last good objects");
        let diagnostic = Diagnostic::of_file(self.directory.display().to_string(), message);
        vec![(self.directory.clone(), Snapshot::Objects(Parsed::unreadable(diagnostic)))]
    }

    fn look_at(&mut self, path: &Path, is_whole: bool, no_time: bool) -> Option<Snapshot> {
        let stamp = stamp(path);
        let is_unsettled = |stamp: &Stamp| match stamp.size {
            0 => is_younger(stamp, EMPTIED),
            _ => !is_whole && is_younger(stamp, UNSETTLED),
        };
        if !no_time && stamp.as_ref().is_some_and(is_unsettled) {
            self.is_settled = false;
            return None;
        }
        let before = self.files.get(path);
        if let (Some(Seen { stamp: Some(seen), .. }), Some(stamp)) = (before, &stamp)
            && seen == stamp
            && !is_younger(stamp, RACY)
        {
            return None;
        }
        let read = read(path);
        // Someone may have begun to write it since: what was read is then neither the old nor the new.
        if !no_time && self::stamp(path) != stamp {
            self.is_settled = false;
            return None;
        }
        let mut hasher = DefaultHasher::new();
        read.hash(&mut hasher);
        let content = hasher.finish();
        let is_same = before.is_some_and(|before| before.content == content);
        self.files.insert(path.to_owned(), Seen { stamp, content });
        if is_same {
            return None;
        }
        let origin = path.display().to_string();
        let parsed = match read {
            Ok(bytes) => manifest::read_bytes(&bytes, &origin, &self.namespace),
            Err(reason) => Parsed::unreadable(Diagnostic::of_file(origin, reason)),
        };
        Some(Snapshot::Objects(parsed))
    }
}

/// The manifests in a directory.
fn list(directory: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        // Through links, as a mounted ConfigMap has them; one that leads nowhere is a file that cannot be read.
        if is_manifest(&path) && fs::metadata(&path).map_or(true, |metadata| !metadata.is_dir()) {
            files.insert(path);
        }
    }
    Ok(files)
}

/// By its name: not hidden, and with the ending of a manifest.
pub(super) fn is_manifest(path: &Path) -> bool {
    let is_hidden = path.file_name().and_then(|name| name.to_str()).is_none_or(|name| name.starts_with(['.', '#']));
    let ending = path.extension().and_then(|ending| ending.to_str());
    !is_hidden && matches!(ending, Some("yaml" | "yml" | "json"))
}

/// `None` for a file that is not there.
fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some(Stamp {
        inode: (metadata.dev(), metadata.ino()),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

/// Whether a file has changed within `age`. A time in the future says nothing.
fn is_younger(stamp: &Stamp, age: Duration) -> bool {
    let (seconds, nanoseconds) = stamp.changed;
    let (Ok(seconds), Ok(nanoseconds)) = (u64::try_from(seconds), u32::try_from(nanoseconds)) else { return false };
    let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
    SystemTime::now().duration_since(changed).is_ok_and(|passed| passed < age)
}

/// A file's bytes, or why not. Nothing but an ordinary file is opened, as a pipe would never end.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let cannot = |error: io::Error| format!("cannot be read: {error}");
    let metadata = fs::metadata(path).map_err(cannot)?;
    if !metadata.is_file() {
        return Err("is not an ordinary file".to_owned());
    }
    if metadata.len() > MAX_BYTES as u64 {
        return Err(format!("larger than {} MiB: split it into several files", MAX_BYTES >> 20));
    }
    let mut bytes = Vec::new();
    // It may grow while it is read.
    let file = fs::File::open(path).map_err(cannot)?;
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() > MAX_BYTES {
        return Err(format!("larger than {} MiB: split it into several files", MAX_BYTES >> 20));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_are_told_by_their_names() {
        for name in ["a.yaml", "b.yml", "c.json", "a b.yaml"] {
            assert!(is_manifest(&Path::new("/m").join(name)), "{name}");
        }
        for name in [
            ".a.yaml",
            "..data",
            "#a.yaml#",
            "#a.yaml",
            "a.yaml~",
            ".a.yaml.swp",
            "a.yaml.tmp",
            "4913",
            "a.txt",
            "yaml",
        ] {
            assert!(!is_manifest(&Path::new("/m").join(name)), "{name}");
        }
    }
}
