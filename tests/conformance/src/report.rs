//! What a run came to.

use crate::judge::{Judgement, Met};
use crate::schema::Level;
use std::collections::BTreeMap;
use std::fmt;

/// What a run came to.
#[derive(Debug, Default)]
pub struct Report {
    /// What must be and is.
    pub passed: Vec<String>,
    /// How many of these keep the client's address where kube-proxy rewrites it.
    pub keeping_the_client: usize,
    /// What must be and is not, with why.
    pub failed: BTreeMap<String, String>,
    /// How much was not run.
    pub skipped: usize,
    /// Why it was not.
    notes: Vec<String>,
    /// What does not count.
    apart: BTreeMap<Level, Apart>,
}

/// What does not count, of one level.
#[derive(Debug, Default)]
struct Apart {
    met: usize,
    met_other: Vec<String>,
    missed: Vec<String>,
}

impl Report {
    /// Adds the judgement of one thing. Its name becomes unique.
    pub fn add(&mut self, name: String, level: Level, judgement: Judgement) {
        if level != Level::Must {
            let apart = self.apart.entry(level).or_default();
            match judgement {
                Judgement::Met(_) => apart.met += 1,
                Judgement::MetOther(_) => apart.met_other.push(name),
                Judgement::Missed(why) => apart.missed.push(format!("{name}: {why}")),
            }
            return;
        }
        match judgement {
            Judgement::Met(met) => {
                self.passed.push(name);
                self.keeping_the_client += usize::from(met == Met::KeepingTheClient);
            }
            Judgement::MetOther(why) | Judgement::Missed(why) => {
                self.failed.insert(name, why);
            }
        }
    }

    /// Adds `count` things that are not run.
    pub fn skip(&mut self, count: usize, why: String) {
        self.skipped += count;
        self.notes.push(why);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, why) in &self.failed {
            writeln!(f, "FAILED {name}: {why}")?;
        }
        for note in &self.notes {
            writeln!(f, "skipped {note}")?;
        }
        for (level, apart) in &self.apart {
            for line in &apart.missed {
                writeln!(f, "{level}, not as expected: {line}")?;
            }
            for name in &apart.met_other {
                writeln!(f, "{level}, as kube-proxy's iptables mode does it: {name}")?;
            }
        }
        for (level, Apart { met, met_other, missed }) in &self.apart {
            let other = met_other.len();
            writeln!(f, "{level}: {met} as expected, {other} as the iptables mode, {} otherwise", missed.len())?;
        }
        let kept = self.keeping_the_client;
        writeln!(f, "masquerade: {kept} of those passed keep the client's address where kube-proxy rewrites it")?;
        write!(f, "{} passed, {} failed, {} skipped", self.passed.len(), self.failed.len(), self.skipped)
    }
}
