//! `diff`: what an apply would change, as a unified diff of manifests.
//!
//! Output and exit codes are those of `kubectl diff`: 0 no difference, 1 a difference, more than 1 an error.

use super::args::Diff;
use super::output::Output;
use super::{DIFFERENT, Failed, SUCCESS, apply, manifests};
use crate::api::{ApplyRequest, Client, Rehearsed};
use crate::manifest::Validate;
use serde_json::Value;
use similar::TextDiff;
use std::io;

/// Lines shown around a difference.
const AROUND: usize = 3;

pub(super) async fn run(client: &Client, diff: &Diff, out: &mut Output) -> Result<u8, Failed> {
    let namespace = diff.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let prune = if diff.prune { Some(apply::set(&diff.files)?) } else { None };
    let files = manifests::read(&diff.files)?;
    let request = ApplyRequest { namespace, files, validate: Validate::Strict, dry_run: true, prune };
    let answer = client.apply(&request).await.map_err(Failed::Compared)?;
    apply::tell(&answer);
    let mut is_different = false;
    for rehearsed in &answer.rehearsed {
        let text = compare(rehearsed).map_err(io::Error::other)?;
        is_different |= !text.is_empty();
        out.text(&text)?;
    }
    Ok(if is_different { DIFFERENT } else { SUCCESS })
}

/// What differs in one object; empty if nothing does.
fn compare(rehearsed: &Rehearsed) -> Result<String, serde_yaml::Error> {
    let (before, after) = (yaml(rehearsed.before.as_ref())?, yaml(rehearsed.after.as_ref())?);
    if before == after {
        return Ok(String::new());
    }
    let name = file_name(rehearsed);
    let (old, new) = (format!("LIVE/{name}"), format!("MERGED/{name}"));
    let diff = TextDiff::from_lines(&before, &after);
    let unified = diff.unified_diff().context_radius(AROUND).header(&old, &new).to_string();
    Ok(format!("diff -u -N {old} {new}\n{unified}"))
}

fn yaml(manifest: Option<&Value>) -> Result<String, serde_yaml::Error> {
    manifest.map_or_else(|| Ok(String::new()), serde_yaml::to_string)
}

/// `v1.Service.default.web`, as kubectl names the files it compares.
fn file_name(rehearsed: &Rehearsed) -> String {
    let object = &rehearsed.object;
    let version = object
        .kind
        .api_version()
        .rsplit_once('/')
        .map_or_else(|| object.kind.api_version().to_owned(), |(group, version)| format!("{group}.{version}"));
    let name = [version.as_str(), object.kind.name(), &object.namespace, &object.name];
    name.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ObjectName;
    use crate::objects::Kind;
    use serde_json::json;

    fn rehearsed(before: Option<Value>, after: Option<Value>) -> Rehearsed {
        let object = ObjectName { kind: Kind::EndpointSlice, namespace: "shop".to_owned(), name: "web-1".to_owned() };
        Rehearsed { object, before, after }
    }

    #[test]
    fn a_difference_is_shown_as_kubectl_shows_it() {
        let object = |port: u16| json!({"kind": "EndpointSlice", "addressType": "IPv4", "ports": [{"port": port}]});
        let changed = compare(&rehearsed(Some(object(80)), Some(object(81)))).unwrap();
        insta::assert_snapshot!(changed, @r"
        diff -u -N LIVE/discovery.k8s.io.v1.EndpointSlice.shop.web-1 MERGED/discovery.k8s.io.v1.EndpointSlice.shop.web-1
        --- LIVE/discovery.k8s.io.v1.EndpointSlice.shop.web-1
        +++ MERGED/discovery.k8s.io.v1.EndpointSlice.shop.web-1
        @@ -1,4 +1,4 @@
         kind: EndpointSlice
         addressType: IPv4
         ports:
        -- port: 80
        +- port: 81
        ");
        assert_eq!(compare(&rehearsed(Some(object(80)), Some(object(80)))).unwrap(), "");
        let new = compare(&rehearsed(None, Some(object(80)))).unwrap();
        assert!(new.contains("@@ -0,0 +1,4 @@\n+kind: EndpointSlice"), "{new}");
        let gone = compare(&rehearsed(Some(object(80)), None)).unwrap();
        assert!(gone.contains("\n-kind: EndpointSlice"), "{gone}");
    }
}
