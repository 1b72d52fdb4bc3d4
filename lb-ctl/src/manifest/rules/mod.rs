//! What makes an object valid by itself, whatever else there is.
//!
//! Follows the API server's validation (`pkg/apis/core/validation/validation.go` where nothing else is said), and its field
//! paths. Each function names the one that it restates. Rules that an update softens (fields that only another type may
//! have) are the store's.

mod endpoint_slice;
mod load_balancer;
mod metadata;
pub(crate) mod names;
mod node;
mod pod;
mod ports;
mod probe;
mod service;

use super::diagnostic::printable;
use super::path::FieldPath;
use crate::objects::Object;
use names::Check;
use std::net::IpAddr;

/// What the rules found in an object.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) errors: Vec<(FieldPath, String)>,
    pub(crate) warnings: Vec<(FieldPath, String)>,
}

/// Checks an object that has its defaults.
pub(crate) fn check(object: &Object) -> Rules {
    let mut rules = Rules::default();
    metadata::misplaced(object, &mut rules);
    match object {
        Object::Namespace(object) => metadata::check(&object.metadata, names::dns_label, &mut rules),
        Object::Node(object) => node::check(object, &mut rules),
        Object::Service(object) => service::check(object, &mut rules),
        Object::Pod(object) => pod::check(object, &mut rules),
        Object::EndpointSlice(object) => endpoint_slice::check(object, &mut rules),
    }
    rules
}

impl Rules {
    pub(crate) fn error(&mut self, path: FieldPath, message: impl Into<String>) {
        self.errors.push((path, message.into()));
    }

    fn warning(&mut self, path: FieldPath, message: impl Into<String>) {
        self.warnings.push((path, message.into()));
    }

    /// An error that names the value and what would be right, unless `check` passed.
    fn value(&mut self, check: Check, path: impl FnOnce() -> FieldPath, value: impl std::fmt::Display) {
        if let Err(right) = check {
            self.error(path(), format!("`{}` {right}", printable(&value.to_string())));
        }
    }

    /// A value that must be one of a few words.
    fn word(&mut self, value: &str, words: &[&str], path: impl FnOnce() -> FieldPath) {
        if !words.contains(&value) {
            let words = super::reader::one_of(words);
            self.error(path(), format!("must be {words}, not `{}`", printable(value)));
        }
    }

    /// An address; absent after an error.
    fn address(&mut self, text: &str, path: impl FnOnce() -> FieldPath) -> Option<IpAddr> {
        let address = names::address(text);
        if address.is_none() {
            self.error(
                path(),
                format!("`{}` is not an IP address, such as 10.96.0.10 or fd00:96::10", printable(text)),
            );
        }
        address
    }
}
