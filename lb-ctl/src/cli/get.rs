//! `get`: lists and watches.

use super::args::{Format, Get};
use super::output::{Output, Table};
use super::query::{self, Target};
use super::tables::Columns;
use super::{Failed, REFUSED, SUCCESS};
use crate::api::catalogue::Selection;
use crate::api::{Client, ClientError, EventKind, FailureReason};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::io;

/// Lists what was asked for, and watches it if asked to.
pub(super) async fn run(client: &Client, get: &Get, out: &mut Output) -> Result<u8, Failed> {
    let targets = query::targets(&get.objects)?;
    if get.watch {
        let [target] = targets.as_slice() else {
            return Err(Failed::Usage("a watch takes one type of object".to_owned()));
        };
        return watch(client, get, target, out).await;
    }
    let typed = targets.len() > 1;
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for target in &targets {
        let mut items = Vec::new();
        for name in names(target) {
            match client.list(&selection(get, target, name)).await {
                Ok(listed) => items.extend(listed),
                Err(ClientError::Refused(failure)) if failure.reason == FailureReason::NotFound => {
                    missing.push(Failed::Client(ClientError::Refused(failure)));
                }
                Err(error) => return Err(error.into()),
            }
        }
        found.push((target, items));
    }
    let asked_by_name = targets.iter().any(|target| !target.names.is_empty());
    match get.output {
        Format::Table | Format::Wide => print_tables(get, &found, typed, asked_by_name, out)?,
        Format::Name => {
            for (target, items) in &found {
                for item in items {
                    out.line(format_args!("{}/{}", target.resource.singular(), name_of(item)))?;
                }
            }
        }
        Format::Json | Format::Yaml => {
            let items: Vec<Value> = found.into_iter().flat_map(|(_, items)| items).collect();
            let asked_for_one = targets.len() == 1 && targets[0].names.len() == 1;
            match items.as_slice() {
                [item] if asked_for_one => print(item, get.output, out)?,
                [] if asked_for_one => {}
                items => {
                    let metadata = json!({"resourceVersion": ""});
                    let list = json!({"apiVersion": "v1", "items": items, "kind": "List", "metadata": metadata});
                    print(&list, get.output, out)?;
                }
            }
        }
    }
    missing.iter().for_each(Failed::report);
    Ok(if missing.is_empty() { SUCCESS } else { REFUSED })
}

fn print_tables(
    get: &Get,
    found: &[(&Target, Vec<Value>)],
    typed: bool,
    asked_by_name: bool,
    out: &mut Output,
) -> Result<(), Failed> {
    let now = Timestamp::now();
    let mut first = true;
    for (target, items) in found {
        let columns = columns(get, target, typed);
        let mut table = columns.table();
        for item in items {
            table.push(columns.row(item, now).map_err(io::Error::other)?);
        }
        if table.is_empty() {
            continue;
        }
        if !first {
            out.line(format_args!(""))?;
        }
        first = false;
        if !get.no_headers {
            out.text(&table.header())?;
        }
        out.text(&table.take_rows())?;
    }
    if first && !asked_by_name {
        let namespaced = found.iter().any(|(target, _)| target.resource.is_namespaced());
        if get.all_namespaces || !namespaced {
            eprintln!("No resources found");
        } else {
            eprintln!("No resources found in {} namespace.", namespace(get));
        }
    }
    Ok(())
}

async fn watch(client: &Client, get: &Get, target: &Target, out: &mut Output) -> Result<u8, Failed> {
    let ([] | [_]) = target.names.as_slice() else {
        return Err(Failed::Usage("a watch takes one name, or none for all".to_owned()));
    };
    let columns = columns(get, target, false);
    let mut table: Table = columns.table();
    let mut headed = get.no_headers;
    let mut events = client.watch(&selection(get, target, target.names.first().map(String::as_str))).await?;
    while let Some(event) = events.next().await? {
        match get.output {
            Format::Table | Format::Wide => {
                table.push(columns.row(&event.object, Timestamp::now()).map_err(io::Error::other)?);
                if !headed {
                    out.text(&table.header())?;
                    headed = true;
                }
                out.text(&table.take_rows())?;
            }
            Format::Name => {
                let gone = if event.kind == EventKind::Deleted { " deleted" } else { "" };
                out.line(format_args!("{}/{}{gone}", target.resource.singular(), name_of(&event.object)))?;
            }
            Format::Json => print(&event.object, get.output, out)?,
            Format::Yaml => {
                out.line(format_args!("---"))?;
                print(&event.object, get.output, out)?;
            }
        }
    }
    Ok(SUCCESS)
}

fn print(value: &Value, format: Format, out: &mut Output) -> io::Result<()> {
    if format == Format::Yaml { out.yaml(value) } else { out.json(value) }
}

fn columns(get: &Get, target: &Target, typed: bool) -> Columns {
    Columns { resource: target.resource, namespace: get.all_namespaces, typed, wide: get.output == Format::Wide }
}

/// Each name, or one `None` for all.
fn names(target: &Target) -> impl Iterator<Item = Option<&str>> {
    let all = target.names.is_empty().then_some(None);
    all.into_iter().chain(target.names.iter().map(|name| Some(name.as_str())))
}

fn selection(get: &Get, target: &Target, name: Option<&str>) -> Selection {
    let namespaced = target.resource.is_namespaced() && !get.all_namespaces;
    Selection {
        resource: target.resource,
        namespace: namespaced.then(|| namespace(get).to_owned()),
        name: name.map(str::to_owned),
    }
}

fn namespace(get: &Get) -> &str {
    get.namespace.as_deref().unwrap_or("default")
}

fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}
