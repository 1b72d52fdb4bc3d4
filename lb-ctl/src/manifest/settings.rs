//! A file of settings, read as manifests are: every error at once, each with its place.

use super::diagnostic::{Diagnostic, Position};
use super::path::FieldPath;
use super::{documents, reader, tree};
use serde::de::DeserializeOwned;

/// Reads the one document of a file. An empty file says nothing.
pub(crate) fn settings<T: DeserializeOwned + Default>(text: &str, origin: &str) -> Result<T, Vec<Diagnostic>> {
    let mut errors = Vec::new();
    let mut find = |at: Position, field: &FieldPath, message: String| {
        let (origin, field) = (origin.to_owned(), field.to_string());
        errors.push(Diagnostic { origin, line: at.line, column: at.column, object: None, field, message });
    };
    let mut read = None;
    for document in documents::documents(text.strip_prefix('\u{feff}').unwrap_or(text)) {
        let (root, faults) = tree::read(&document);
        for fault in faults {
            find(fault.at, &FieldPath::default(), fault.message);
        }
        let Some(root) = root.filter(|root| !root.is_null()) else { continue };
        if read.is_some() {
            find(root.at, &FieldPath::default(), "a second document: settings are one".to_owned());
            continue;
        }
        let reading = reader::read::<T>(&root);
        for (index, misfit) in reading.misfits.iter().enumerate() {
            // What is wrong with a list without its wrong members follows from these.
            let follows = reading.misfits[..index].iter().any(|inner| misfit.path.leads_to(&inner.path));
            if !follows {
                find(misfit.at, &misfit.path, misfit.message.clone());
            }
        }
        read = Some(reading.object.unwrap_or_default());
    }
    errors.sort_by_key(|error| (error.line, error.column));
    if errors.is_empty() { Ok(read.unwrap_or_default()) } else { Err(errors) }
}
