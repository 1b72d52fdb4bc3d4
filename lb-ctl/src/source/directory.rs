//! A watched directory of manifests: every `*.yaml`, `*.yml` and `*.json` in it is a source of its own.
//!
//! An event says only that something happened; what is there is found by looking at the whole directory, so that no lost,
//! merged or reordered event can matter. A file that is still being written is left for its writer's close, as half a
//! manifest may well be a valid one. A file that its writer has closed, or that was moved here, is whole: it is looked at
//! at once, unless much is going on. Hidden files and editors' leavings are no manifests.

use super::scan::{Scanner, is_manifest};
use super::{Error, Source};
use crate::store::{Snapshot, SourceId, Update};
use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};

/// How long nothing must happen before the directory is looked at, unless what changed is whole.
const QUIET: Duration = Duration::from_millis(100);
/// After a look at what was whole it is left alone for so many times what the look cost.
const SHARE: u32 = 10;
/// How long it is left alone at most.
const PATIENCE: Duration = Duration::from_secs(1);
/// A writer that has not closed its file for so long is not waited for.
const WRITER: Duration = Duration::from_secs(5);
/// A directory is looked at this often without any event: network file systems send none for the changes of others.
const REGULAR: Duration = Duration::from_secs(30);
/// How often a directory that has gone is looked for.
const GONE: Duration = Duration::from_secs(1);

/// See the [module](self).
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    watcher: RecommendedWatcher,
    events: mpsc::UnboundedReceiver<notify::Result<Event>>,
    scanner: Scanner,
    /// Files that someone is writing, and since when nothing was written.
    writers: HashMap<PathBuf, Instant>,
    /// Files that have come to be whole since the last look.
    whole: HashSet<PathBuf>,
    /// A file has gone since: what it held may come back under another name.
    is_missing_one: bool,
    /// When what is whole may be looked at again.
    next_look: Instant,
}

impl Directory {
    /// Opens and watches a directory. From here on, no change is missed.
    pub fn open(path: impl Into<PathBuf>, default_namespace: impl Into<String>) -> Result<Self, Error> {
        let path = path.into();
        // A relative path would mean another directory after a `chdir`, and shows badly in `status`.
        let path = std::path::absolute(&path).unwrap_or(path);
        match path.metadata() {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(Error::NotADirectory(path)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Error::Missing(path)),
            Err(error) => return Err(Error::Unreadable { path, error }),
        }
        std::fs::read_dir(&path).map_err(|error| Error::Unreadable { path: path.clone(), error })?;
        let (sender, events) = mpsc::unbounded_channel();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // To look at the directory is an event too, and must not lead to the next look.
            let is_of_a_reader = |event: &Event| match event.kind {
                EventKind::Access(access) => access != AccessKind::Close(AccessMode::Write),
                _ => false,
            };
            if !event.as_ref().is_ok_and(is_of_a_reader) {
                drop(sender.send(event));
            }
        });
        let mut watcher = watcher.map_err(|error| Error::Unwatchable { path: path.clone(), error })?;
        watch(&mut watcher, &path).map_err(|error| Error::Unwatchable { path: path.clone(), error })?;
        let scanner = Scanner::new(path.clone(), default_namespace.into());
        Ok(Self {
            path,
            watcher,
            events,
            scanner,
            writers: HashMap::new(),
            whole: HashSet::new(),
            is_missing_one: false,
            next_look: Instant::now(),
        })
    }

    /// Looks at the directory and tells what changed; `Err` when nobody listens.
    async fn look(&mut self, updates: &mpsc::Sender<Update>, is_first: bool) -> Result<(), ()> {
        let mut changes = self.scan(false).await?;
        if is_first {
            // The first update is of all files, so those that are being written are waited for, but not for ever.
            let patience = Instant::now() + PATIENCE;
            while !self.scanner.is_settled() {
                tokio::time::sleep(QUIET).await;
                changes.extend(self.scan(Instant::now() > patience).await?);
            }
            changes.sort_by(|(a, _), (b, _)| a.cmp(b));
        } else if changes.is_empty() {
            return Ok(());
        }
        let update = Update { feed: self.feed(), changes, synced: is_first };
        updates.send(update).await.map_err(drop)
    }

    async fn scan(&mut self, no_time: bool) -> Result<Vec<(SourceId, Snapshot)>, ()> {
        self.writers.retain(|_, since| since.elapsed() < WRITER);
        let busy: Vec<PathBuf> = self.writers.keys().cloned().collect();
        let whole = std::mem::take(&mut self.whole);
        let start = Instant::now();
        self.is_missing_one = false;
        let mut scanner = std::mem::take(&mut self.scanner);
        // Parsing may take a while.
        let task = tokio::task::spawn_blocking(move || {
            let changes = scanner.scan(&busy, &whole, no_time);
            (scanner, changes)
        });
        // It fails only when the runtime is about to end.
        let (scanner, changes) = task.await.map_err(drop)?;
        self.scanner = scanner;
        self.next_look = Instant::now() + start.elapsed() * SHARE;
        Ok(changes.into_iter().map(|(path, snapshot)| (SourceId::File(path), snapshot)).collect())
    }

    /// Waits until something has happened and it is quiet again.
    async fn wait(&mut self) -> Result<(), ()> {
        let pause = match &self.scanner {
            scanner if scanner.is_gone() => GONE,
            scanner if scanner.is_settled() => REGULAR,
            _ => QUIET,
        };
        let pause =
            self.writers.values().map(|since| WRITER.saturating_sub(since.elapsed())).fold(pause, Duration::min);
        let Ok(event) = timeout(pause, self.events.recv()).await else { return Ok(()) };
        self.note(event.ok_or(())?);
        let patience = tokio::time::Instant::now() + PATIENCE;
        loop {
            while let Ok(event) = self.events.try_recv() {
                self.note(event);
            }
            let pause = if self.is_whole() {
                QUIET.min(self.next_look.saturating_duration_since(Instant::now()))
            } else {
                QUIET
            };
            if pause.is_zero() {
                return Ok(());
            }
            tokio::select! {
                event = self.events.recv() => self.note(event.ok_or(())?),
                () = tokio::time::sleep(pause) => return Ok(()),
                () = sleep_until(patience) => return Ok(()),
            }
        }
    }

    /// Whether there is something to see that nobody is changing any more.
    fn is_whole(&self) -> bool {
        !self.whole.is_empty() && self.writers.is_empty() && !self.is_missing_one
    }

    /// Keeps account of who is writing, and of what is whole.
    fn note(&mut self, event: notify::Result<Event>) {
        // An overflow of the queue, for one: the directory is looked at all the same.
        let Ok(event) = event else { return self.writers.clear() };
        let last = event.paths.len().saturating_sub(1);
        for (place, path) in event.paths.into_iter().enumerate().filter(|(_, path)| is_manifest(path)) {
            match event.kind {
                EventKind::Modify(ModifyKind::Data(_)) => {
                    self.whole.remove(&path);
                    self.writers.insert(path, Instant::now());
                }
                EventKind::Modify(ModifyKind::Name(RenameMode::Both)) if place < last => self.gone(&path),
                EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => self.gone(&path),
                EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Modify(ModifyKind::Name(_)) => {
                    self.writers.remove(&path);
                    self.whole.insert(path);
                }
                _ => {}
            }
        }
    }

    fn gone(&mut self, path: &Path) {
        self.writers.remove(path);
        self.whole.remove(path);
        self.is_missing_one = true;
    }
}

impl Source for Directory {
    fn feed(&self) -> String {
        format!("directory:{}", self.path.display())
    }

    async fn run(mut self, updates: mpsc::Sender<Update>) -> Result<(), Error> {
        let mut is_first = true;
        loop {
            let was_gone = self.scanner.is_gone();
            if self.look(&updates, is_first).await.is_err() {
                return Ok(());
            }
            is_first = false;
            if was_gone && !self.scanner.is_gone() {
                // Another directory of the same name: the watch went with the old one.
                let _ = self.watcher.unwatch(&self.path);
                watch(&mut self.watcher, &self.path)
                    .map_err(|error| Error::Unwatchable { path: self.path.clone(), error })?;
                // What changed between the look and the watch.
                continue;
            }
            tokio::select! {
                () = updates.closed() => return Ok(()),
                waited = self.wait() => if waited.is_err() { return Ok(()) },
            }
        }
    }
}

fn watch(watcher: &mut RecommendedWatcher, path: &Path) -> notify::Result<()> {
    watcher.watch(path, RecursiveMode::NonRecursive)
}
