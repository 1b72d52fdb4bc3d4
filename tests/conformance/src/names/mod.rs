//! Cases of `dns/v1`: manifests, then questions that are asked of the daemon's own DNS server, over real sockets.

mod judge;
mod schema;
mod server;

pub use judge::{Seen, judge};
pub use schema::{Expansion, Expect, File, Group, Lookup, Query};
pub use server::Server;

use crate::judge::{Judgement, Met};
use crate::report::Report;
use crate::run::Names;
use crate::schema::Level;
use anyhow::{Context, ensure};
use schema::Pods;
use serde_yaml::Value;
use server::LOCAL;

/// Runs all cases of a file.
pub fn run(file: &File, name: &str, report: &mut Report) {
    if let Some(conf) = &file.resolv_conf {
        let count = conf["cases"].as_sequence().map_or(0, Vec::len);
        report.skip(count, format!("{name}: resolv_conf is a kubelet's to write"));
    }
    for (index, value) in file.groups.iter().enumerate() {
        let id = value["id"].as_str().unwrap_or("?");
        let name = format!("{name} {id}");
        // What processes look up is of the first case.
        let expansion = file.search_expansion.as_ref().filter(|_| index == 0);
        let done = Group::read(value).and_then(|group| group.run(&name, expansion, report));
        if let Err(error) = done {
            report.add(name, Level::Must, Judgement::Missed(format!("{error:#}")));
        }
    }
}

impl Group {
    /// Reads a case. The error names the field.
    pub fn read(value: &Value) -> anyhow::Result<Self> {
        Ok(serde_yaml::from_value(value.clone())?)
    }

    /// Its questions before anything changes.
    pub fn queries(&self) -> anyhow::Result<Vec<Query>> {
        self.queries.iter().map(Query::read).collect()
    }

    fn run(&self, name: &str, expansion: Option<&Expansion>, report: &mut Report) -> anyhow::Result<()> {
        if self.options.pods != Pods::Disabled || !self.options.others.is_empty() {
            let count = self.queries.len() + self.steps.iter().map(|step| step.queries.len()).sum::<usize>();
            report.skip(count, format!("{name}: it requires {:?}", self.options));
            return Ok(());
        }
        let mut server = Server::start(self, LOCAL)?;
        let mut names = Names::default();
        let mut ask = |server: &Server, name: &str, queries: &[Value], report: &mut Report| {
            for query in queries {
                let (what, level, judged) = match Query::read(query) {
                    Ok(query) => {
                        let judged = judge(&query, |name, kind| server.ask(name, kind));
                        (query.q.join(" "), query.level.unwrap_or(Level::Must), judged)
                    }
                    Err(error) => (serde_yaml::to_string(&query["q"])?.trim().to_owned(), Level::Must, Err(error)),
                };
                let level = self.level.filter(|level| *level != Level::Must).unwrap_or(level);
                let judged =
                    judged.map_or_else(|why| Judgement::Missed(format!("{why:#}")), |()| Judgement::Met(Met::Exactly));
                report.add(names.unique(format!("{name}: {what}")), level, judged);
            }
            anyhow::Ok(())
        };
        server.change(&[], &self.manifests)?;
        ask(&server, name, &self.queries, report)?;
        for (index, step) in self.steps.iter().enumerate() {
            server.change(&step.delete, &step.apply)?;
            ask(&server, &format!("{name}: step {}", index + 1), &step.queries, report)?;
        }
        for lookup in expansion.iter().flat_map(|expansion| &expansion.cases) {
            let judged = match lookup.judge(&server) {
                Ok(()) => Judgement::Met(Met::Exactly),
                Err(why) => Judgement::Missed(format!("{why:#}")),
            };
            report.add(format!("{name}: lookup {} ndots {}", lookup.lookup, lookup.ndots), Level::Must, judged);
        }
        Ok(())
    }
}

impl Query {
    fn read(value: &Value) -> anyhow::Result<Self> {
        Ok(serde_yaml::from_value(value.clone())?)
    }
}

impl Lookup {
    /// Each name before the last one must not exist: whoever looks up would stop there.
    fn judge(&self, server: &Server) -> anyhow::Result<()> {
        let (last, before) = self.queries_in_order.split_last().context("nothing is asked")?;
        for name in before {
            let seen = server.ask(name, "A")?;
            ensure!(seen.code == "NXDOMAIN", "{name}: expected NXDOMAIN; it is {}", seen.code);
        }
        let is_service = self.found == "SRV";
        let seen = server.ask(last, if is_service { "SRV" } else { "A" })?;
        let found = seen.answers.iter().any(|[_, kind, data]| *(if is_service { kind } else { data }) == self.found);
        ensure!(found, "{last}: expected {}; it is {:?}", self.found, seen.answers);
        Ok(())
    }
}
