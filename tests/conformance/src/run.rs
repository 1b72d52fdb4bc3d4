//! Runs files of cases, one case after the other on one node.

use crate::environment::Environment;
use crate::judge::{self, Judgement, Memory, Met};
use crate::node::{Node, Under};
use crate::report::Report;
use crate::schema::{Case, File, Level, Read, Reference, StepView};
use crate::{entry, names, probe};
use anyhow::{Context, anyhow, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

/// What a case may require: that backends are derived from Pods and selectors.
const ABILITIES: [&str; 1] = ["endpoint-controller"];

/// The files at these paths: a directory stands for all that is YAML or JSON in it and below.
pub fn files(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        let kind = fs::metadata(path).with_context(|| path.display().to_string())?;
        if !kind.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut entries = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
        entries.sort();
        entries.retain(|entry| {
            let extension = entry.extension().and_then(|extension| extension.to_str());
            entry.is_dir() || matches!(extension, Some("yaml" | "yml" | "json"))
        });
        files.extend(self::files(&entries)?);
    }
    Ok(files)
}

/// Runs all cases of these files. `binary` is what [`crate::process`] is started by.
pub fn run(files: &[PathBuf], binary: &Path, under: Under) -> anyhow::Result<Report> {
    on_a_node(binary, under, |node| {
        let mut run = Run { node, report: Report::default() };
        for file in files {
            run.file(file);
        }
        Ok(run.report)
    })
}

/// Does something on a node that lives as long as that takes.
pub fn on_a_node<T: Send>(
    binary: &Path,
    under: Under,
    work: impl FnOnce(&mut Node) -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    // Removed when the thread has ended: the mount in it is gone then.
    let directory = tempfile::Builder::new().prefix("lb-conformance-").tempdir()?;
    let bpffs = directory.path().join("bpf");
    fs::create_dir(&bpffs)?;
    thread::scope(|scope| {
        let work = || {
            // A thread that has left the machine's namespaces takes all that it made with it when it ends.
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("it takes root")?;
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
            mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>)?;
            work(&mut Node::new(&bpffs, binary, under)?)
        };
        scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

struct Run<'a> {
    node: &'a mut Node,
    report: Report,
}

impl Run<'_> {
    fn file(&mut self, path: &Path) {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        match Read::file(path) {
            Ok(Read::Cases(file)) => {
                for case in &file.cases {
                    self.case(&name, &file, case);
                }
            }
            Ok(Read::Names(file)) => names::run(&file, &name, &mut self.report),
            Ok(Read::NotYet(schema, count)) => {
                self.report.skip(count, format!("{name}: schema {schema} is not supported yet"));
            }
            Err(error) => self.report.add(name, Level::Must, Judgement::Missed(format!("{error:#}"))),
        }
    }

    fn case(&mut self, file_name: &str, file: &File, value: &serde_yaml::Value) {
        let name = format!("{file_name} {}", Case::id_of(value));
        let case = match Case::read(value) {
            Ok(case) => case,
            Err(error) => return self.report.add(name, Level::Must, Judgement::Missed(format!("{error:#}"))),
        };
        if let Some(missing) = case.requires.iter().find(|what| !ABILITIES.contains(&what.as_str())) {
            return self.report.skip(case.size(), format!("{name}: it requires {missing}"));
        }
        let mut course = Course { memory: Memory::default(), objects: BTreeMap::new(), trouble: None };
        for (index, step) in case.steps().enumerate() {
            let environment = Environment::of([&file.defaults.env, &case.env, step.env]);
            if course.trouble.is_none() {
                let taken = environment
                    .as_ref()
                    .map_err(|error| anyhow!("env: {error:#}"))
                    .and_then(|environment| self.take(&case, &step, index, environment, &mut course));
                course.trouble = taken.err().map(|error| format!("{error:#}"));
            }
            let environment = environment.ok();
            self.judge(&name, &case, &step, index, environment.as_ref(), &mut course);
        }
    }

    /// Brings the node to where the step wants it.
    fn take(
        &mut self,
        case: &Case,
        step: &StepView<'_>,
        index: usize,
        environment: &Environment,
        course: &mut Course,
    ) -> anyhow::Result<()> {
        if index == 0 {
            self.node.set_synced(true)?;
            self.node.begin(environment, &case.node_state)?;
        } else {
            let objects: Vec<Value> = course.objects.values().cloned().collect();
            self.node.enter(environment, &case.node_state, &objects)?;
        }
        let is_synced = step.informers_synced.is_none_or(|kinds| kinds.values().all(|synced| *synced));
        if !is_synced {
            self.node.set_synced(false)?;
        }
        let deleted = step.delete.iter().map(Reference::id).collect::<anyhow::Result<Vec<_>>>()?;
        if !deleted.is_empty() {
            course.objects.retain(|id, _| !deleted.iter().any(|deleted| deleted.to_string() == *id));
            self.node.delete(deleted)?;
        }
        let manifests = step.apply.iter().map(json).collect::<anyhow::Result<Vec<_>>>()?;
        self.node.apply(&manifests)?;
        for manifest in manifests {
            course.objects.insert(id(&manifest)?, manifest);
        }
        let is_sticky = |object: &Value| object["spec"]["sessionAffinity"] == "ClientIP";
        course.memory.has_affinity = course.objects.values().any(is_sticky);
        if is_synced {
            self.node.set_synced(true)?;
        }
        if case.proxy_healthy == Some(false) {
            self.node.lag()?;
        }
        Ok(())
    }

    /// Judges everything that the step asks.
    fn judge(
        &mut self,
        name: &str,
        case: &Case,
        step: &StepView<'_>,
        index: usize,
        environment: Option<&Environment>,
        course: &mut Course,
    ) {
        let name = |what: &str| match index {
            0 => format!("{name}: {what}"),
            _ => format!("{name}: step {}: {what}", index + 1),
        };
        let mut names = Names::default();
        let trouble = course.trouble.clone();
        let judged = |done: anyhow::Result<Judgement>| match (&trouble, done) {
            (Some(trouble), _) => Judgement::Missed(trouble.clone()),
            (None, Ok(judgement)) => judgement,
            (None, Err(error)) => Judgement::Missed(format!("{error:#}")),
        };
        let met = |()| Judgement::Met(Met::Exactly);
        let is_ready = trouble.is_none();
        for flow in step.flows {
            let done = if is_ready { judge::flow(self.node, flow, &mut course.memory) } else { Err(anyhow!("")) };
            self.report.add(names.unique(name(&flow.name)), case.level_of(flow.level), judged(done));
        }
        for probe in step.probes {
            let done = if is_ready { probe::judge(probe).map(met) } else { Err(anyhow!("")) };
            self.report.add(names.unique(name(&probe.name)), case.level_of(probe.level), judged(done));
        }
        let objects: Vec<Value> = course.objects.values().cloned().collect();
        for entry in step.entries {
            let to = std::net::SocketAddr::new(entry.orig_dst, entry.orig_dport);
            let what = format!("{:?} {to}: {}", entry.proto, entry.why);
            let done = match environment.filter(|_| is_ready) {
                Some(environment) => {
                    let memory = &mut course.memory;
                    entry::judge(self.node, environment, &case.node_state, &objects, entry, memory).map(met)
                }
                None => Err(anyhow!("")),
            };
            self.report.add(names.unique(name(&what)), case.level_of(entry.level), judged(done));
        }
    }
}

/// What a case remembers from step to step.
struct Course {
    memory: Memory,
    /// Manifests by what they name.
    objects: BTreeMap<String, Value>,
    /// Why the rest of the case cannot be run.
    trouble: Option<String>,
}

/// Tells things of the same name apart.
#[derive(Default)]
pub(crate) struct Names(BTreeMap<String, usize>);

impl Names {
    pub(crate) fn unique(&mut self, name: String) -> String {
        let count = self.0.entry(name.clone()).and_modify(|count| *count += 1).or_insert(1);
        if *count == 1 { name } else { format!("{name} ({count})") }
    }
}

fn json(manifest: &serde_yaml::Value) -> anyhow::Result<Value> {
    serde_json::to_value(manifest).context("a manifest is no JSON")
}

/// What a manifest names, as the store writes it.
fn id(manifest: &Value) -> anyhow::Result<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &manifest["metadata"];
    let kind = text(&manifest["kind"]);
    ensure!(!kind.is_empty(), "a manifest has no kind");
    let object = Reference::new(kind, text(&metadata["namespace"]), text(&metadata["name"]));
    Ok(object.id()?.to_string())
}
