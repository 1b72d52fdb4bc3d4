//! Each rule of the API server with what it takes and what it refuses: `fixtures/rules.yaml`.

use lb_ctl::manifest::{self, Diagnostic};
use lb_ctl::objects::ObjectId;
use lb_ctl::store::{Options, Rejected, SourceId, Store};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(rename = "rule")]
    name: String,
    /// What of the API server says so; our code names it too.
    restates: Vec<String>,
    #[serde(default = "service")]
    kind: String,
    #[serde(default)]
    cidrs: Vec<String>,
    accept: Vec<Case>,
    reject: Vec<Case>,
}

fn service() -> String {
    "Service".to_owned()
}

#[derive(Deserialize)]
struct Case {
    old: Option<Value>,
    #[serde(default)]
    existing: Vec<Value>,
    field: Option<String>,
    #[serde(default)]
    fields: BTreeMap<String, Value>,
    #[serde(flatten)]
    object: BTreeMap<String, Value>,
}

/// What a case differs from.
fn plain(kind: &str) -> Value {
    let metadata = json!({"name": "web", "namespace": "shop"});
    match kind {
        "EndpointSlice" => json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": kind, "metadata": metadata, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.7"]}], "ports": [{"port": 8080}],
        }),
        "Pod" => json!({
            "apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": {"containers": [{"name": "c"}]},
            "status": {"podIP": "10.0.0.7"},
        }),
        "Service" => json!({"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": {"ports": [{"port": 80}]}}),
        _ => json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "web"}}),
    }
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                if value.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (into, from) => *into = from.clone(),
    }
}

fn apply(store: &mut Store, kind: &str, difference: &Value) -> Result<ObjectId, Vec<Diagnostic>> {
    let mut object = plain(kind);
    merge(&mut object, difference);
    let text = serde_json::to_string_pretty(&object).unwrap();
    let parsed = manifest::parse(&text, "case.json", "default")?;
    let id = parsed.objects[0].object.id();
    match store.apply(&SourceId::Cli, parsed, jiff::Timestamp::UNIX_EPOCH) {
        Ok(_) => Ok(id),
        Err(Rejected::Invalid(errors)) => Err(errors),
        Err(other) => panic!("{other}"),
    }
}

/// The value at a path such as `spec.ports[0].nodePort`; a dot in a key stands behind a backslash.
fn field<'v>(value: &'v Value, path: &str) -> &'v Value {
    let path = path.replace("\\.", "\0");
    path.split(['.', '[']).fold(value, |value, step| {
        let step = step.trim_end_matches(']').replace('\0', ".");
        let found = if value.is_array() { value.get(step.parse::<usize>().unwrap()) } else { value.get(&step) };
        found.unwrap_or(&Value::Null)
    })
}

impl Rule {
    /// The outcome of a case, and the store after it.
    fn run(&self, case: &Case) -> (Result<ObjectId, Vec<Diagnostic>>, Store) {
        let cidrs = if self.cidrs.is_empty() { vec!["10.96.0.0/16".to_owned()] } else { self.cidrs.clone() };
        let service_cidrs = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        let mut store =
            Store::open(Options { state_file: None, service_cidrs, node_port_range: 30000..=32767 }).unwrap();
        for object in case.existing.iter().chain(&case.old) {
            apply(&mut store, &self.kind, object).unwrap_or_else(|errors| panic!("{}: before: {errors:?}", self.name));
        }
        let before = store.snapshot();
        let outcome = apply(&mut store, &self.kind, &serde_json::to_value(&case.object).unwrap());
        assert!(outcome.is_ok() || before == store.snapshot(), "{}: refused, and yet something changed", self.name);
        (outcome, store)
    }

    fn check(&self, failed: &mut Vec<String>) {
        for case in &self.accept {
            let (outcome, store) = self.run(case);
            let shown = format!("{}: {:?}", self.name, case.object);
            match outcome {
                Err(errors) => failed.push(format!("{shown} is refused: {errors:?}")),
                Ok(id) => {
                    let object = serde_json::to_value(store.snapshot().get(&id).unwrap()).unwrap();
                    let wrong = case.fields.iter().filter(|(path, value)| field(&object, path) != *value);
                    failed.extend(wrong.map(|(path, _)| format!("{shown}: {path} is {}", field(&object, path))));
                }
            }
        }
        for case in &self.reject {
            let wanted = case.field.as_ref().unwrap_or_else(|| panic!("{}: no `field`", self.name));
            match self.run(case).0 {
                Ok(_) => failed.push(format!("{}: {:?} is accepted", self.name, case.object)),
                Err(errors) => {
                    assert!(errors.iter().all(|error| error.line > 0), "an error without a place: {errors:?}");
                    if !errors.iter().any(|error| error.field.starts_with(wanted)) {
                        failed.push(format!("{}: {:?} is refused for {errors:?}", self.name, case.object));
                    }
                }
            }
        }
    }
}

fn rules() -> Vec<Rule> {
    serde_yaml::from_str(include_str!("fixtures/rules.yaml")).unwrap()
}

#[test]
fn every_rule_takes_and_refuses() {
    let mut failed = Vec::new();
    for rule in rules() {
        assert!(!rule.accept.is_empty() && !rule.reject.is_empty(), "{}: a case of each kind", rule.name);
        rule.check(&mut failed);
    }
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

fn sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else {
            text.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn the_code_says_what_it_restates() {
    let mut text = String::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for folder in ["manifest", "store"] {
        sources(&source.join(folder), &mut text);
    }
    for rule in rules() {
        for name in &rule.restates {
            assert!(text.contains(name.as_str()), "{}: no code names {name}", rule.name);
        }
    }
}
