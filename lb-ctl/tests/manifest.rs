//! Manifests as users write them: what is read, and what is said of those that cannot be.

use lb_ctl::manifest::{self, Diagnostic, Parsed, Validate};
use lb_ctl::objects::{Object, Service};
use lb_ctl::store::{Options, Rejected, SourceId, Store};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

fn fixtures(folder: &str) -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(folder);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn parse(text: &str) -> Result<Parsed, Vec<Diagnostic>> {
    manifest::parse(text, "test.yaml", "default")
}

fn services(text: &str) -> Vec<Arc<Service>> {
    let parsed = parse(text).unwrap_or_else(|errors| panic!("{errors:#?}"));
    let service = |located: manifest::Located| match located.object {
        Object::Service(service) => Some(service),
        _ => None,
    };
    parsed.objects.into_iter().filter_map(service).collect()
}

/// Between what is applied first and the update of it that is refused.
const THEN: &str = "# then\n";

fn store() -> Store {
    let service_cidrs = vec!["10.96.0.0/16".parse().unwrap()];
    Store::open(Options { state_file: None, service_cidrs, node_port_range: 30000..=32767 }).unwrap()
}

/// What is said of a manifest by everyone who has a say.
fn refusals(text: &str, name: &str) -> Vec<Diagnostic> {
    let (before, text) = match text.split_once(THEN) {
        // The lines stay where they are in the file.
        Some((before, after)) => (before, "\n".repeat(before.lines().count() + 1) + after),
        None => ("", text.to_owned()),
    };
    let mut store = store();
    let apply = |store: &mut Store, parsed| store.apply(&SourceId::Cli, parsed, jiff::Timestamp::UNIX_EPOCH);
    apply(&mut store, parse(before).unwrap()).unwrap();
    match apply(&mut store, manifest::read(&text, name, "default", Validate::Strict)) {
        Err(Rejected::Invalid(errors)) => errors,
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn an_annotation_of_ours_where_it_means_nothing_is_told() {
    let service = |annotation: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: a, annotations: {{{annotation}}}}}, spec: {{ports: [{{port: 1}}]}}}}"
        )
    };
    let told = |annotation: &str| {
        let warnings = parse(&service(annotation)).unwrap().warnings;
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(told("lb-ctl/algorithm: maglev, lb-ctl/address-pool: a"), [""; 0]);
    insta::assert_snapshot!(told("lb-ctl/weight: '5'").join("\n"), @"test.yaml:1:67: service/a: metadata.annotations[lb-ctl/weight]: means nothing on a Service: it is for a Pod or EndpointSlice");
    insta::assert_snapshot!(told("lb-ctl/pod-ip: 10.0.0.1").join("\n"), @"test.yaml:1:67: service/a: metadata.annotations[lb-ctl/pod-ip]: means nothing on a Service: it is for a Pod");
}

#[test]
fn what_is_none_of_ours_says_what_would_be() {
    let endpoints = "{apiVersion: v1, kind: Endpoints, metadata: {name: db}, subsets: []}";
    let skipped = parse(endpoints).unwrap().skipped;
    insta::assert_snapshot!(skipped[0].why(), @"lb-ctl does not read this kind: say the addresses in an EndpointSlice (discovery.k8s.io/v1) with the label `kubernetes.io/service-name: db`");
}

#[test]
fn every_error_of_a_bad_manifest_is_told() {
    let files = fixtures("bad");
    assert!(files.len() >= 30, "{} bad manifests", files.len());
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let lines: Vec<String> =
            refusals(&fs::read_to_string(&file).unwrap(), &name).iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(name, lines.join("\n"));
    }
}

#[test]
fn unknown_fields_and_repeated_keys_are_what_the_user_says() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: web, lables: {}}\nspec:\n  prots: []\n  ports: [{port: 1}]\n  \
                ports: [{port: 2}]\nspce: 1\n";
    let read = |validate| manifest::read(text, "a.yaml", "default", validate);
    let lines = |diagnostics: &[Diagnostic]| diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>();
    let strict = read(Validate::Strict);
    insta::assert_snapshot!(lines(&strict.errors).join("\n"), @r"
    a.yaml:3:23: service/web: metadata.lables: unknown field: did you mean `labels`?
    a.yaml:5:3: service/web: spec.prots: unknown field: did you mean `ports`?
    a.yaml:7:3: the key `ports` is here twice: keep one
    a.yaml:8:1: service/web: spce: unknown field: did you mean `spec`?
    ");
    let warned = read(Validate::Warn);
    assert!(warned.errors.is_empty(), "{:?}", warned.errors);
    let sorted = |lines: Vec<String>| lines.into_iter().collect::<std::collections::BTreeSet<_>>();
    assert_eq!(sorted(lines(&warned.warnings)), sorted(lines(&strict.errors)));
    let ignored = read(Validate::Ignore);
    assert!(ignored.errors.is_empty() && ignored.warnings.is_empty());
    // The later one of two counts, as for kubectl.
    let Object::Service(service) = &ignored.objects[0].object else { panic!() };
    assert_eq!(service.spec.ports[0].port, 2);
}

#[test]
fn a_misspelt_annotation_of_ours_is_told() {
    let annotations = "{lb-ctl/wieght: '1', lb-ctl/weight: '1', example.net/lb-ctl: x}";
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, annotations: {annotations}}}\nstatus: {{podIP: 10.0.0.1}}\n"
    );
    let told = parse(&pod).unwrap().warnings;
    insta::assert_snapshot!(told[0], @"test.yaml:3:35: pod/p: metadata.annotations[lb-ctl/wieght]: lb-ctl has no such annotation: there are lb-ctl/address-pool, lb-ctl/algorithm, lb-ctl/applied-from, lb-ctl/pod-ip, lb-ctl/weight");
    assert_eq!(told.len(), 1);
}

#[test]
fn a_service_of_a_template_is_told_that_it_takes_pods() {
    let template = "spec: {template: {metadata: {labels: {app: web, v: '1'}}}}";
    let deployment = format!("apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\n{template}\n");
    let service =
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{port: 80}]}\n";
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {app: web}}\nstatus: {podIP: 10.0.0.1}\n";
    let warnings = |documents: &[&str]| {
        let parsed = parse(&documents.join("---\n")).unwrap();
        store().apply(&SourceId::Cli, parsed, jiff::Timestamp::UNIX_EPOCH).unwrap().warnings
    };
    let told = warnings(&[service, &deployment]);
    insta::assert_snapshot!(told[0], @"test.yaml:1:1: service/web: spec.selector: app=web matches no Pod, only the template of deployment/web (test.yaml:6), of which nobody makes pods here: apply the pods themselves, as `kubectl get pods -n default -l app=web -o yaml` prints them");
    assert_eq!(told.len(), 1);
    assert_eq!(warnings(&[service, &deployment, pod]), [], "it has a pod");
    assert_eq!(warnings(&[&service.replace("app: web", "app: api"), &deployment]), [], "it is not its template");
    assert_eq!(warnings(&[service, &deployment.replace("{name: web}", "{name: web, namespace: b}")]), [], "elsewhere");
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: w, labels: {kubernetes.io/service-name: \
                 web}}\naddressType: IPv4\nendpoints: []\n";
    assert_eq!(warnings(&[service, &deployment, slice]), [], "its endpoints are written by hand");
}

#[test]
fn a_kubectl_dump_is_read_whole() {
    let file = &fixtures("good")[0];
    let parsed = manifest::parse(&fs::read_to_string(file).unwrap(), "dump.yaml", "default").unwrap();
    let ids: Vec<_> = parsed.objects.iter().map(|located| (located.object.id().to_string(), located.line)).collect();
    assert_eq!(
        ids,
        [
            ("service/shop/web".to_owned(), 3),
            ("pod/shop/web-7d4b-x2x8q".to_owned(), 35),
            ("endpointslice.discovery.k8s.io/shop/web-9k2lp".to_owned(), 74),
            ("node/node-a".to_owned(), 111),
            ("namespace/shop".to_owned(), 124),
        ]
    );
    let skipped: Vec<_> = parsed.skipped.iter().map(|skipped| (skipped.kind.as_str(), skipped.line)).collect();
    assert_eq!(skipped, [("Deployment", 99), ("Endpoints", 106)]);
    assert_eq!(parsed.warnings, []);
}

#[test]
fn defaults_are_those_of_the_api_server() {
    let service = &services("apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}\n")[0];
    insta::assert_json_snapshot!(service);
    let balancer = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {type: LoadBalancer, \
                    sessionAffinity: ClientIP, ports: [{port: 53, protocol: UDP, targetPort: dns}]}\n";
    insta::assert_json_snapshot!(services(balancer)[0]);
}

#[test]
fn a_config_of_an_affinity_that_is_off_is_dropped() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {sessionAffinity: None, \
                sessionAffinityConfig: {clientIP: {timeoutSeconds: 90}}, ports: [{port: 80}]}\n";
    assert_eq!(services(text)[0].spec.session_affinity_config, None);
}

#[test]
fn anchors_and_merge_keys_are_read() {
    let text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  labels: &labels {app: web}\nspec:\n  \
                selector:\n    <<: *labels\n    tier: front\n  ports: [{port: 80}]\n";
    let selector = services(text)[0].spec.selector.clone().unwrap();
    assert_eq!(selector.into_iter().map(|(k, v)| k + "=" + &v).collect::<Vec<_>>(), ["app=web", "tier=front"]);
}

#[test]
fn json_with_tabs_is_read() {
    let text = "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Service\",\n\t\"metadata\": {\"name\": \"web\"},\n\
                \t\"spec\": {\"ports\": [{\"port\": 80, \"name\": null}]}\n}\n";
    assert_eq!(services(text)[0].spec.ports[0].port, 80);
}

#[test]
fn a_typed_list_implies_the_kind_of_its_items() {
    let text = "apiVersion: v1\nkind: ServiceList\nitems:\n- metadata: {name: web}\n  spec: {ports: [{port: 80}]}\n";
    assert_eq!(services(text)[0].metadata.key().to_string(), "default/web");
}

#[test]
fn the_kinds_of_others_are_skipped() {
    let text = "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: web}\n---\n\
                apiVersion: v1\nkind: ConfigMap\nmetadata: {name: conf}\ndata: {a: !!binary aGk=}\n";
    // A tag that has no meaning is an error of syntax, in whatever kind.
    assert!(parse(text).is_err());
    let parsed = parse(&text.replace("!!binary ", "")).unwrap();
    let skipped: Vec<_> = parsed.skipped.iter().map(|s| format!("{} {} {}", s.api_version, s.kind, s.name)).collect();
    assert_eq!(skipped, ["serving.knative.dev/v1 Service web", "v1 ConfigMap conf"]);
}

#[test]
fn a_pod_without_an_address_is_warned_of_by_name() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\nspec: {containers: [{name: c}]}\n";
    let warnings = parse(pod).unwrap().warnings;
    insta::assert_snapshot!(warnings[0], @"test.yaml:1:1: pod/web: no address, so no endpoint of any Service: take the manifest from `kubectl get pods -o yaml`, write an EndpointSlice, or add the annotation `lb-ctl/pod-ip`");
    for way_out in
        ["status: {podIP: 10.0.0.1}\n", "status: {podIPs: [{ip: fd00::1}]}\n", "status: {phase: Succeeded}\n"]
    {
        assert_eq!(parse(&format!("{pod}{way_out}")).unwrap().warnings, [], "{way_out}");
    }
    let annotated = pod.replace("labels:", "annotations: {lb-ctl/pod-ip: '10.0.0.1,fd00::1'}, labels:");
    assert_eq!(parse(&annotated).unwrap().warnings, []);
}

#[test]
fn columns_do_not_count_a_byte_order_mark() {
    let errors = parse("\u{feff}kind: Service\n").unwrap_err();
    assert_eq!(errors[0].to_string(), "test.yaml:1:1: apiVersion: is required, such as `v1`");
}

#[test]
fn what_is_not_text_or_too_large_is_refused() {
    let errors = manifest::read_bytes(b"a: 1\nb: \xff\n", "x.yaml", "default").errors;
    assert_eq!(errors[0].to_string(), "x.yaml:2:1: not UTF-8 text: save it in that encoding");
    let errors = parse(&" ".repeat(manifest::MAX_BYTES + 1)).unwrap_err();
    assert_eq!(errors[0].to_string(), "test.yaml: larger than 64 MiB: split it into several files");
}

mod arbitrary {
    use super::parse;
    use proptest::prelude::*;

    /// Pieces that bring a parser into trouble sooner than random letters do.
    fn piece() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => prop::sample::select(vec![
                "apiVersion: v1\n", "kind: Service\n", "kind: List\n", "items:\n", "metadata: {name: web}\n", "spec:\n",
                "  ports:\n", "  - port: 80\n", "    name: ", "---\n", "...\n", "%YAML 1.2\n", "- ", "? ", ": ", "&a ", "*a",
                "<<: *a\n", "!!str ", "!x ", "{", "}", "[", "]", ",", "|\n", ">-\n", "'", "\"", "\\u12", "\t", "\r\n", "#",
                "\u{feff}", "\u{85}", "\0", "é",
            ]).prop_map(str::to_owned),
            1 => "\\PC{0,8}",
            1 => "[ \\n]{1,6}",
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn text_is_parsed_or_refused_with_a_place(pieces in prop::collection::vec(piece(), 0..40)) {
            let text = pieces.concat();
            if let Err(errors) = parse(&text) {
                let lines = u32::try_from(text.split('\n').count()).unwrap();
                prop_assert!(!errors.is_empty());
                for error in errors {
                    prop_assert!((1..=lines + 1).contains(&error.line), "{error} in {text:?}");
                }
            }
        }

        #[test]
        fn bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = lb_ctl::manifest::read_bytes(&bytes, "x.yaml", "default");
        }

        #[test]
        fn a_damaged_manifest_is_parsed_or_refused(at in 0usize..2600, cut in 0usize..40, insert in piece()) {
            let mut text = include_str!("fixtures/good/kubectl-dump.yaml").to_owned();
            let at = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap();
            let end = (at + cut).min(text.len());
            text.replace_range(at..end, &insert);
            let _ = parse(&text);
        }
    }
}
