//! Runs the sources of objects beside the engine, and starts them again when they end or are to look anew.

use crate::source::{Directory, Error, Source as _};
use crate::store::{Store, Update};
use std::path::PathBuf;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::error;

/// Updates that wait for the engine.
const UPDATES_AHEAD: usize = 16;

/// The watched directory, if there is one.
#[derive(Debug)]
pub(super) struct Sources {
    directory: Option<PathBuf>,
    updates: mpsc::Sender<Update>,
    task: Option<JoinHandle<()>>,
    problem: Option<String>,
}

impl Sources {
    /// Opens the sources and registers them in the store. They tell by the receiver, once [`Sources::start`]ed.
    pub(super) fn open(directory: Option<PathBuf>, store: &mut Store) -> Result<(Self, mpsc::Receiver<Update>), Error> {
        let (updates, receiver) = mpsc::channel(UPDATES_AHEAD);
        let mut sources = Self { directory, updates, task: None, problem: None };
        if let Some(path) = &sources.directory {
            let opened = Directory::open(path, "default")?;
            store.register(opened.feed());
            sources.start(opened);
        }
        Ok((sources, receiver))
    }

    fn start(&mut self, directory: Directory) {
        let updates = self.updates.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = directory.run(updates).await {
                error!("{error}");
            }
        });
        if let Some(earlier) = self.task.replace(task) {
            earlier.abort();
        }
        self.problem = None;
    }

    /// Looks at everything anew.
    pub(super) fn look_anew(&mut self) {
        let Some(path) = &self.directory else { return };
        match Directory::open(path, "default") {
            Ok(directory) => self.start(directory),
            Err(error) => self.problem = Some(error.to_string()),
        }
    }

    /// Starts again what has ended.
    pub(super) fn look_after(&mut self) {
        if self.problem.is_some() || self.task.as_ref().is_some_and(JoinHandle::is_finished) {
            self.look_anew();
        }
    }

    /// What keeps a source from telling.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// The directory.
    pub(super) fn directory(&self) -> Option<String> {
        self.directory.as_ref().map(|path| path.display().to_string())
    }
}

impl Drop for Sources {
    fn drop(&mut self) {
        self.task.iter().for_each(JoinHandle::abort);
    }
}
