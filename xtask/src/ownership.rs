//! Files that a run under sudo left behind are handed to the workspace's owner.
//!
//! A root-owned file in `target` makes the owner's next build fail, and one in `docs` the next edit. Symbolic links are handed
//! over themselves, never what they point to.

use nix::unistd::geteuid;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::Path;

use crate::workspace;

/// Gives root's files under `target` and `docs` to the owner of the workspace, where that is somebody else.
pub(crate) fn hand_over() {
    if !geteuid().is_root() {
        return;
    }
    let Ok(owner) = fs::symlink_metadata(workspace::root()) else { return };
    if owner.uid() == 0 {
        return;
    }
    for name in ["target", "docs", "Cargo.lock"] {
        let path = workspace::root().join(name);
        if path.exists()
            && let Err(error) = give(&path, owner.uid(), owner.gid())
        {
            eprintln!("warning: some files under {} stay owned by root: {error}", path.display());
        }
    }
}

fn give(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.uid() == 0 {
        lchown(path, Some(uid), Some(gid))?;
    }
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), uid, gid)?;
        }
    }
    Ok(())
}
