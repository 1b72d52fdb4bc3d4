//! What a reader copies from the documents works: the examples are accepted, and so is every command line of the README.

use clap::Parser;
use lb_ctl::cli::args::Args;
use lb_ctl::daemon::Options;
use lb_ctl::daemon::config::Origin;
use lb_ctl::manifest;
use lb_ctl::objects::ServiceType::{ClusterIP, ExternalName, LoadBalancer, NodePort};
use lb_ctl::objects::{Kind, Object, ObjectId};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the workspace's root")
}

/// The examples' file names and texts.
fn examples() -> BTreeMap<String, String> {
    let entries = fs::read_dir(root().join("examples")).expect("the folder examples is there");
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    paths.map(|path| (path.file_name().unwrap_or_default().to_string_lossy().into_owned(), read(&path))).collect()
}

#[test]
fn every_example_is_accepted_without_a_warning_and_no_two_clash() {
    let mut seen: BTreeMap<ObjectId, String> = BTreeMap::new();
    let mut types = BTreeSet::new();
    for (file, text) in examples() {
        let parsed = manifest::parse(&text, &file, "default").unwrap_or_else(|errors| {
            panic!("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
        });
        let warnings: Vec<_> = parsed.warnings.iter().map(ToString::to_string).collect();
        assert!(warnings.is_empty(), "{warnings:#?}");
        for located in parsed.objects {
            if let Object::Service(service) = &located.object {
                types.insert(service.spec.r#type.to_string());
            }
            if let Some(other) = seen.insert(located.object.id(), file.clone()) {
                panic!("{} is in {other} and in {file}", located.object.id());
            }
        }
    }
    let all = [ClusterIP, NodePort, LoadBalancer, ExternalName].map(|kind| kind.to_string());
    assert_eq!(types, BTreeSet::from(all), "there is an example for each type of Service");
    assert!(seen.keys().any(|id| id.kind == Kind::EndpointSlice));
}

/// The lines of a document's blocks of shell commands.
fn shell_lines(markdown: &str) -> Vec<&str> {
    let mut in_shell = false;
    let mut lines = Vec::new();
    for line in markdown.lines() {
        match line.trim() {
            "```sh" => in_shell = true,
            "```" => in_shell = false,
            command if in_shell && !command.is_empty() => lines.push(command),
            _ => {}
        }
    }
    lines
}

#[test]
fn every_command_line_of_the_readme_is_one() {
    let text = fs::read_to_string(root().join("README.md")).expect("README.md is there");
    let commands: Vec<&str> = shell_lines(&text).into_iter().filter(|line| line.starts_with("lb-ctl ")).collect();
    assert!(commands.len() >= 8, "only {} commands found: is this test still reading it?", commands.len());
    for command in commands {
        if let Err(error) = Args::try_parse_from(command.split_whitespace()) {
            panic!("README.md says `{command}`: {error}");
        }
    }
}

#[test]
fn the_packaged_configuration_is_accepted() {
    let file = Some(root().join("packaging/config.yaml"));
    let config = Origin { flags: Options::default(), file }.load().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.manifests.as_deref(), Some(Path::new("/etc/lb-ctl/manifests")));
}
