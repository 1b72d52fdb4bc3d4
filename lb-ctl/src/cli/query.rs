//! What `get`, `describe` and `delete` are asked for, from what was typed: `svc web api`, `svc,po`, `svc/web po/a`.

use super::Failed;
use crate::api::catalogue::Selection;
use crate::api::{Client, ClientError, Resource};
use crate::objects::{Key, Kind};

/// A resource and the names asked for; no names: all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) resource: Resource,
    pub(super) names: Vec<String>,
}

/// The meaning of the arguments, by kubectl's rules: either every one is TYPE/NAME, or the first is TYPE[,TYPE...] and
/// the rest are names.
pub(super) fn targets(arguments: &[String]) -> Result<Vec<Target>, Failed> {
    let Some((first, rest)) = arguments.split_first() else {
        return Err(usage("name what you want: TYPE [NAME...] or TYPE/NAME"));
    };
    if first.contains('/') {
        let mut targets: Vec<Target> = Vec::new();
        for argument in arguments {
            let Some((resource, name)) = argument.split_once('/').filter(|(_, name)| !name.is_empty()) else {
                return Err(usage(format!("`{argument}` is not TYPE/NAME, as the first argument is")));
            };
            let resource = parse(resource)?;
            match targets.iter_mut().find(|target| target.resource == resource) {
                Some(target) => target.names.push(name.to_owned()),
                None => targets.push(Target { resource, names: vec![name.to_owned()] }),
            }
        }
        return Ok(targets);
    }
    if let Some(name) = rest.iter().find(|name| name.contains('/')) {
        return Err(usage(format!("there is no need to name a type twice: `{name}` after `{first}`")));
    }
    let resources: Vec<Resource> = if first == "all" {
        vec![Kind::Pod.into(), Kind::Service.into()]
    } else {
        first.split(',').map(parse).collect::<Result<_, _>>()?
    };
    Ok(resources.into_iter().map(|resource| Target { resource, names: rest.to_vec() }).collect())
}

/// That there is this Service; who asks for one that is not would wait for nothing.
pub(super) async fn service(client: &Client, key: &Key) -> Result<(), ClientError> {
    let (namespace, name) = (Some(key.namespace.clone()), Some(key.name.clone()));
    client.list(&Selection { resource: Kind::Service.into(), namespace, name }).await.map(drop)
}

fn parse(name: &str) -> Result<Resource, Failed> {
    name.parse().map_err(|error| usage(format!("{error}")))
}

fn usage(message: impl Into<String>) -> Failed {
    Failed::Usage(message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(line: &str) -> Result<String, String> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let targets = targets(&arguments).map_err(|error| error.to_string())?;
        Ok(targets
            .iter()
            .map(|target| format!("{}:{}", target.resource, target.names.join("+")))
            .collect::<Vec<_>>()
            .join(" "))
    }

    #[test]
    fn types_and_names_combine_as_in_kubectl() {
        for (line, expected) in [
            ("svc", "services:"),
            ("svc web api", "services:web+api"),
            ("svc,po", "services: pods:"),
            ("svc,ep web", "services:web endpoints:web"),
            ("svc/web po/a svc/api", "services:web+api pods:a"),
            ("all", "pods: services:"),
        ] {
            assert_eq!(meaning(line).as_deref(), Ok(expected), "{line}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (line, expected) in [
            ("deploy", "there is no resource type \"deploy\""),
            ("svc/web api", "`api` is not TYPE/NAME"),
            ("svc/", "is not TYPE/NAME"),
            ("svc po/a", "no need to name a type twice"),
        ] {
            let error = meaning(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
