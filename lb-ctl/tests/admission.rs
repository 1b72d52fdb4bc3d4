//! What an API server accepts, refuses and fills in, as a table: `fixtures/admission.yaml`.

use lb_ctl::manifest;
use lb_ctl::objects::{Key, Kind, ObjectId};
use lb_ctl::store::{Options, Rejected, SourceId, Store};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(default)]
    cidrs: Vec<String>,
    #[serde(default)]
    before: Vec<Value>,
    apply: Value,
    /// The field of the first error; absent: accepted.
    refused: Option<String>,
    /// Values afterwards; null is absent.
    #[serde(default)]
    fields: BTreeMap<String, Value>,
}

fn apply(store: &mut Store, object: &Value) -> Result<(), Vec<String>> {
    let text = serde_json::to_string_pretty(object).unwrap();
    let fields = |diagnostics: Vec<manifest::Diagnostic>| {
        diagnostics
            .into_iter()
            .map(|diagnostic| format!("{}: {}", diagnostic.field, diagnostic.message))
            .collect::<Vec<_>>()
    };
    let parsed = manifest::parse(&text, "case.json", "default").map_err(fields)?;
    match store.apply(&SourceId::Cli, parsed, jiff::Timestamp::UNIX_EPOCH) {
        Ok(_) => Ok(()),
        Err(Rejected::Invalid(diagnostics)) => {
            assert!(
                diagnostics.iter().all(|diagnostic| diagnostic.line > 0),
                "an error without a place: {diagnostics:?}"
            );
            Err(fields(diagnostics))
        }
        Err(other) => panic!("{other}"),
    }
}

/// The value at a path such as `spec.ports[0].nodePort`.
fn field<'v>(value: &'v Value, path: &str) -> &'v Value {
    let steps: Vec<&str> = path.split(['.', '[']).map(|step| step.trim_end_matches(']')).collect();
    value.pointer(&format!("/{}", steps.join("/"))).unwrap_or(&Value::Null)
}

#[test]
fn services_and_slices_are_judged_as_by_an_api_server() {
    let text = include_str!("fixtures/admission.yaml");
    let cases: Vec<Case> = serde_yaml::from_str(text).unwrap();
    let mut failed = Vec::new();
    for case in &cases {
        let cidrs = if case.cidrs.is_empty() { vec!["10.96.0.0/16".to_owned()] } else { case.cidrs.clone() };
        let service_cidrs = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        let mut store =
            Store::open(Options { state_file: None, service_cidrs, node_port_range: 30000..=32767 }).unwrap();
        for object in &case.before {
            apply(&mut store, object).unwrap_or_else(|errors| panic!("{}: before: {errors:?}", case.name));
        }
        let before = store.snapshot();
        let outcome = apply(&mut store, &case.apply);
        match (&outcome, &case.refused) {
            (Ok(()), None) => {}
            (Err(errors), Some(field)) if errors.iter().any(|error| error.starts_with(field.as_str())) => {
                assert_eq!(before, store.snapshot(), "{}: refused, and yet something changed", case.name);
            }
            _ => failed.push(format!("{}: {outcome:?}", case.name)),
        }
        if outcome.is_ok() {
            let metadata = &case.apply["metadata"];
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let key = Key::new(text(&metadata["namespace"]), text(&metadata["name"]));
            let kind = if case.apply["kind"] == "Service" { Kind::Service } else { Kind::EndpointSlice };
            let object = serde_json::to_value(store.snapshot().get(&ObjectId { kind, key }).unwrap()).unwrap();
            for (path, value) in case.fields.iter().filter(|(path, value)| field(&object, path) != *value) {
                failed.push(format!("{}: {path} is {}, not {value}", case.name, field(&object, path)));
            }
        }
    }
    assert!(failed.is_empty(), "{} of {} cases failed:\n{}", failed.len(), cases.len(), failed.join("\n"));
}
