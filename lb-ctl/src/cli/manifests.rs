//! Reads the manifests that `-f` names: files, directories, standard input. The text goes to the daemon as it is.

use super::args::Files;
use crate::api::ManifestText;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Endings of files that are manifests, in a directory.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// A manifest cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// No `-f`.
    #[error("name the manifests: -f FILE, -f DIR, or -f - for standard input")]
    Nothing,
    /// Not there, or not allowed.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A directory without manifests.
    #[error("there is no .yaml, .yml or .json file in {}", .0.display())]
    Empty(PathBuf),
    /// A URL.
    #[error("{0} is a URL: nothing is downloaded; write `curl -fsS {0} | lb-ctl apply -f -`")]
    Url(String),
}

/// Whether any manifests are named at all.
pub(super) const fn named(files: &Files) -> Result<(), ReadError> {
    if files.filename.is_empty() { Err(ReadError::Nothing) } else { Ok(()) }
}

/// All texts, in the order in which they were named; in a directory by name.
pub(super) fn read(files: &Files) -> Result<Vec<ManifestText>, ReadError> {
    named(files)?;
    let mut texts = Vec::new();
    for path in &files.filename {
        let typed = path.to_string_lossy();
        if path.as_os_str() == "-" {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).map_err(failed(Path::new("standard input")))?;
            texts.push(ManifestText { origin: "stdin".to_owned(), text });
        } else if typed.starts_with("http://") || typed.starts_with("https://") {
            return Err(ReadError::Url(typed.into_owned()));
        } else if path.is_dir() {
            let before = texts.len();
            read_directory(path, files.recursive, &mut texts)?;
            if texts.len() == before {
                return Err(ReadError::Empty(path.clone()));
            }
        } else {
            texts.push(read_file(path)?);
        }
    }
    Ok(texts)
}

fn read_directory(directory: &Path, recursive: bool, texts: &mut Vec<ManifestText>) -> Result<(), ReadError> {
    let entries = std::fs::read_dir(directory).map_err(failed(directory))?;
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>().map_err(failed(directory))?;
    paths.sort();
    for path in paths {
        let ending = path.extension().and_then(|ending| ending.to_str());
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden {
            continue;
        }
        if path.is_dir() {
            if recursive {
                read_directory(&path, recursive, texts)?;
            }
        } else if ending.is_some_and(|ending| ENDINGS.contains(&ending)) {
            texts.push(read_file(&path)?);
        }
    }
    Ok(())
}

fn read_file(path: &Path) -> Result<ManifestText, ReadError> {
    let text = std::fs::read_to_string(path).map_err(failed(path))?;
    Ok(ManifestText { origin: path.display().to_string(), text })
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> ReadError + '_ {
    move |source| ReadError::Read { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &Path, recursive: bool) -> Result<Vec<String>, ReadError> {
        let files = Files { filename: vec![path.to_owned()], recursive };
        let origins = read(&files)?.into_iter().map(|text| text.origin);
        Ok(origins.map(|origin| origin.rsplit('/').next().unwrap().to_owned()).collect())
    }

    #[test]
    fn a_directory_gives_its_manifests_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        std::fs::create_dir(path.join("sub")).unwrap();
        for name in ["b.yml", "a.yaml", "c.json", "d.txt", ".hidden.yaml", "sub/e.yaml"] {
            std::fs::write(path.join(name), "").unwrap();
        }
        assert_eq!(names(path, false).unwrap(), ["a.yaml", "b.yml", "c.json"]);
        assert_eq!(names(path, true).unwrap(), ["a.yaml", "b.yml", "c.json", "e.yaml"]);
        assert_eq!(names(&path.join("d.txt"), false).unwrap(), ["d.txt"], "a file that is named is read");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(names(directory.path(), false), Err(ReadError::Empty(_))));
        let missing = names(&directory.path().join("missing.yaml"), false).unwrap_err().to_string();
        assert!(missing.contains("missing.yaml: No such file"), "{missing}");
        assert!(matches!(names(Path::new("https://example.com/a.yaml"), false), Err(ReadError::Url(_))));
    }
}
