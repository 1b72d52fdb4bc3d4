//! The documents say what is: the files they name exist, no module, map or reason is missing from them.

use lb_common::{Reason, maps};
use lb_ctl::figures::metrics::Metric;
use lb_tests::metrics::{FILES, metric_of, named};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Set to anything, it makes the test write the documents that are generated.
const UPDATE: &str = "LB_UPDATE_DOCS";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the workspace's root")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What stands between backticks, outside of code blocks, and the targets of links.
fn names(markdown: &str) -> BTreeSet<&str> {
    let mut in_block = false;
    let prose = markdown.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        in_block ^= is_fence;
        !in_block && !is_fence
    });
    prose
        .flat_map(|line| {
            let spans = line.split('`').skip(1).step_by(2);
            let links = line.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
            spans.chain(links)
        })
        .collect()
}

/// Whether a name is meant as a file or folder of this workspace.
fn is_path(name: &&str) -> bool {
    const ENDINGS: [&str; 6] = [".rs", ".md", ".toml", ".yaml", ".service", "/"];
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    !name.starts_with(['/', '.']) && name.chars().all(plain) && ENDINGS.iter().any(|ending| name.ends_with(ending))
}

#[test]
fn every_file_that_a_document_names_exists() {
    for (document, at_least) in
        [("ARCHITECTURE.md", 30), ("CONTRIBUTING.md", 10), ("README.md", 5), ("CHANGELOG.md", 0), ("docs/rules.md", 1)]
    {
        let text = read(document);
        let paths: Vec<&str> = names(&text).into_iter().filter(is_path).collect();
        assert!(paths.len() >= at_least, "{document} names only {} files: is this test still reading it?", paths.len());
        let missing: Vec<_> = paths.iter().filter(|path| !root().join(path).exists()).collect();
        assert!(missing.is_empty(), "{document} names what does not exist: {missing:?}");
    }
}

#[test]
fn the_architecture_has_a_place_for_every_module() {
    let text = read("ARCHITECTURE.md");
    let named = names(&text);
    let missing: Vec<String> = ["lb-common/src", "lb-ebpf/src", "lb-ebpf/src/kernel", "lb-ctl/src"]
        .into_iter()
        .flat_map(modules)
        .filter(|module| !named.iter().any(|name| name.starts_with(module.as_str())))
        .collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md says nothing of {missing:#?}");
}

/// The files and folders (these with a `/` at their end) in a folder of source.
fn modules(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    let declares_modules = |path: &Path| ["lib.rs", "mod.rs", "main.rs"].iter().any(|name| path.ends_with(name));
    paths
        .iter()
        .filter(|path| !declares_modules(path))
        .map(|path| {
            let name = path.file_name().expect("an entry has a name").to_string_lossy();
            format!("{folder}/{name}{}", if path.is_dir() { "/" } else { "" })
        })
        .collect()
}

#[test]
fn the_architecture_names_every_map() {
    let text = read("ARCHITECTURE.md");
    let named = names(&text);
    let missing: Vec<_> = maps::MAPS.iter().map(|map| map.name).filter(|name| !named.contains(name)).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md says nothing of the maps {missing:?}");
}

#[test]
fn every_rule_is_held_by_tests_that_run() {
    let tests = tests_that_run();
    assert!(tests.len() > 200, "only {} tests found: is this test still reading them?", tests.len());
    let text = read("docs/rules.md");
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| rule |")).collect();
    assert!(rows.len() > 30, "docs/rules.md has only {} rows: is this test still reading it?", rows.len());
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let [rule, held_by] = cells[..] else { panic!("docs/rules.md: not a rule and its tests: {row}") };
        let held_by = names(held_by);
        assert!(!held_by.is_empty(), "docs/rules.md: no test holds the rule:{rule}");
        let missing: Vec<_> = held_by.iter().filter(|name| !tests.contains(**name)).collect();
        assert!(missing.is_empty(), "docs/rules.md: no such test, or one that is ignored: {missing:?}");
    }
}

/// The names of all tests of the workspace that are not ignored.
fn tests_that_run() -> BTreeSet<String> {
    let mut folders = ["lb-common", "lb-ebpf", "lb-ctl", "tests", "xtask"].map(|folder| root().join(folder)).to_vec();
    let mut tests = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                tests.extend(test_names(&text));
            }
        }
    }
    tests
}

/// The functions in a file of Rust that are tests and not ignored.
fn test_names(rust: &str) -> Vec<String> {
    let (mut is_test, mut is_ignored, mut found) = (false, false, Vec::new());
    for line in rust.lines().map(str::trim) {
        is_test |= line == "#[test]" || line == "#[tokio::test]";
        is_ignored |= line.starts_with("#[ignore");
        if let Some(name) = line.strip_prefix("fn ").or_else(|| line.strip_prefix("async fn ")) {
            let name: String = name.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            found.extend((is_test && !is_ignored).then_some(name));
            (is_test, is_ignored) = (false, false);
        }
    }
    found
}

#[test]
fn tests_are_told_from_other_functions_and_from_ignored_ones() {
    let text = "#[test]\nfn a() {}\nfn b() {}\n#[test]\n#[ignore = \"slow\"]\nfn c() {}\n    #[test]\n    fn d(x in any::<u8>()) {}\n";
    assert_eq!(test_names(text), ["a", "d"]);
}

#[test]
fn every_reason_has_its_row() {
    let expected = reasons();
    let path = root().join("docs/reasons.md");
    if env::var_os(UPDATE).is_some() {
        fs::write(&path, &expected).expect("docs/reasons.md can be written");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/reasons.md is not current: {UPDATE}=1 cargo test -p lb-tests --test docs writes it"
    );
}

/// The document of all reasons.
fn reasons() -> String {
    let mut text = String::from(
        "# Reasons\n\n\
         What became of a packet, and why. `lb-ctl status` shows how many packets got each reason. The numbers are stable.\n\n\
         <!-- Written by a test from lb-common/src/reason.rs: see CONTRIBUTING.md. -->\n\n\
         | # | reason | packet | what happened | what to do |\n|---|---|---|---|---|\n",
    );
    for reason in Reason::ALL {
        let fate = if reason.is_drop() { "dropped" } else { "passed on" };
        let (number, name) = (*reason as u8, reason.name());
        writeln!(text, "| {number} | `{name}` | {fate} | {} | {} |", reason.sentence(), reason.remedy())
            .expect("a String takes all");
    }
    text
}

#[test]
fn every_metric_has_its_row() {
    let expected = metrics();
    let path = root().join("docs/metrics.md");
    if env::var_os(UPDATE).is_some() {
        fs::write(&path, &expected).expect("docs/metrics.md can be written");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/metrics.md is not current: {UPDATE}=1 cargo test -p lb-tests --test docs writes it"
    );
}

/// The document of all metrics, and of who makes use of them.
fn metrics() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         `lb-ctl daemon --metrics ADDRESS:PORT` tells them on `/metrics`, in Prometheus' text format, beside `/healthz`, \
         `/livez` and `/readyz`.\n\n\
         - A counter of Services or endpoints never goes down while the daemon runs, also when a Service loses one of its \
         addresses. After a restart it begins with what the maps have counted.\n\
         - `--metrics-detail` and `--metrics-limit` bound the series: seven for each port of a Service, five for each \
         endpoint's address, the rest added up under the name `(others)`. Who has series of its own keeps them.\n\
         - Entries of the tables that packets write are counted by the sweeper, which goes round them in a second where they \
         are nearly empty, and in about two minutes where they are full.\n\
         - The same figures are at the control API: \
         `curl --unix-socket /run/lb-ctl/default.sock http://lb-ctl/v1/figures`. `lb-ctl top` shows them.\n\n\
         A dashboard for Grafana is [lb-ctl.json](../packaging/grafana/lb-ctl.json); alert rules are in \
         [alerts.yaml](../packaging/prometheus/alerts.yaml). The last column says which of them a metric is in.\n\n\
         <!-- Written by a test from lb-ctl/src/figures/metrics.rs: see CONTRIBUTING.md. -->\n\n\
         | metric | kind | labels | what it means | in |\n|---|---|---|---|---|\n",
    );
    let [dashboard, alerts] = FILES.map(read);
    for metric in Metric::ALL {
        let names = |text: &str| named(text).into_iter().any(|name| metric_of(name) == Some(*metric));
        let of_alerts: Vec<&str> = alerts.split("  - alert: ").skip(1).filter(|rule| names(rule)).collect();
        let of_alerts = of_alerts.iter().filter_map(|rule| rule.lines().next());
        let users: Vec<&str> = names(&dashboard).then_some("dashboard").into_iter().chain(of_alerts).collect();
        let labels: Vec<String> = metric.labels().iter().map(|label| format!("`{label}`")).collect();
        let (name, kind) = (metric.name(), metric.kind().name());
        writeln!(text, "| `{name}` | {kind} | {} | {} | {} |", labels.join(", "), metric.help(), users.join(", "))
            .expect("a String takes all");
    }
    text
}

#[test]
fn the_dashboard_has_every_metric() {
    let dashboard = read(FILES[0]);
    let shown: BTreeSet<Metric> = named(&dashboard).into_iter().filter_map(metric_of).collect();
    let missing: Vec<&str> =
        Metric::ALL.iter().filter(|metric| !shown.contains(metric)).map(|metric| metric.name()).collect();
    assert!(missing.is_empty(), "{} shows nothing of {missing:?}", FILES[0]);
}

#[test]
fn names_are_found_in_prose_and_not_in_code() {
    let text = "See `a/b.rs`, `x` and [this](docs/c.md).\n```sh\ncat `no/code.rs`\n```\n- `d/` and `/etc/e.yaml`\n";
    let paths: Vec<&str> = names(text).into_iter().filter(is_path).collect();
    assert_eq!(paths, ["a/b.rs", "d/", "docs/c.md"]);
}
