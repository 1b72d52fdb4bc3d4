//! `delete`: by manifest or by name; all or nothing.

use super::args::Delete;
use super::output::Output;
use super::{Failed, SUCCESS, manifests, query};
use crate::api::{Client, DeleteRequest, ObjectName, Resource};

pub(super) async fn run(client: &Client, delete: &Delete, out: &mut Output) -> Result<u8, Failed> {
    let namespace = delete.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let (files, objects) = if delete.objects.is_empty() {
        (manifests::read(&delete.files)?, Vec::new())
    } else {
        (Vec::new(), named(&delete.objects, &namespace)?)
    };
    let ignore_not_found = delete.ignore_not_found;
    let answer = client.delete(&DeleteRequest { namespace, files, objects, ignore_not_found }).await?;
    for object in &answer.deleted {
        out.line(format_args!("{} \"{}\" deleted", object.kind.resource(), object.name))?;
    }
    Ok(SUCCESS)
}

fn named(arguments: &[String], namespace: &str) -> Result<Vec<ObjectName>, Failed> {
    let mut objects = Vec::new();
    for target in query::targets(arguments)? {
        let Resource::Kind(kind) = target.resource else {
            let message = "endpoints are made of pods or endpointslices: delete these";
            return Err(Failed::Usage(message.to_owned()));
        };
        if target.names.is_empty() {
            return Err(Failed::Usage(format!("name the {} to delete", target.resource)));
        }
        let namespace = if kind.is_namespaced() { namespace } else { "" };
        let names = target.names.into_iter();
        objects.extend(names.map(|name| ObjectName { kind, namespace: namespace.to_owned(), name }));
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Kind;

    #[test]
    fn objects_are_named_with_their_namespace() {
        let arguments = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let objects = named(&arguments("svc/web no/n1"), "shop").unwrap();
        let object = |kind, namespace: &str, name: &str| ObjectName {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        assert_eq!(objects, [object(Kind::Service, "shop", "web"), object(Kind::Node, "", "n1")]);
        for line in ["svc", "endpoints web"] {
            assert!(named(&arguments(line), "default").is_err(), "{line}");
        }
    }
}
