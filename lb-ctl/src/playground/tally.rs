//! What the clients counted: which pod answered which request, over which way in.

use super::echo::Answer;
use super::error::Error;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// One row: requests from one client to one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Who asked.
    pub from: String,
    /// What the address is: `ClusterIP`, `NodePort`.
    pub kind: &'static str,
    /// Which port of the Service it is.
    pub port: &'static str,
    /// Where to.
    pub to: SocketAddr,
    /// Answers by pod.
    pub pods: BTreeMap<String, u64>,
}

impl Row {
    /// The row of these answers.
    pub fn new(from: &str, kind: &'static str, port: &'static str, to: SocketAddr, answers: &[Answer]) -> Self {
        let mut pods = BTreeMap::new();
        for answer in answers {
            *pods.entry(answer.pod.clone()).or_insert(0) += 1;
        }
        Self { from: from.to_owned(), kind, port, to, pods }
    }

    /// An error that names the pods among `expected` that answered nothing, or those that should not have.
    pub fn check_reached<'a>(&self, expected: impl IntoIterator<Item = &'a str>) -> Result<(), Error> {
        let expected: Vec<&str> = expected.into_iter().collect();
        let missing: Vec<&&str> = expected.iter().filter(|pod| !self.pods.contains_key(**pod)).collect();
        let strange: Vec<&String> = self.pods.keys().filter(|pod| !expected.contains(&pod.as_str())).collect();
        if missing.is_empty() && strange.is_empty() {
            return Ok(());
        }
        let way = format!("from {} to the {} {}", self.from, self.kind, self.to);
        Err(Error::broken(format_args!("{way}: not reached: {missing:?}; answered, but should not: {strange:?}")))
    }
}

/// Everything the clients counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    rows: Vec<Row>,
    /// Connections by Service port.
    ports: BTreeMap<&'static str, u64>,
    /// Connections by pod and family: a pod that returned under another address starts anew.
    pods: BTreeMap<(String, bool), u64>,
}

impl Tally {
    /// Adds a row.
    pub fn add(&mut self, row: Row) {
        for (pod, count) in &row.pods {
            *self.ports.entry(row.port).or_insert(0) += count;
            *self.pods.entry((pod.clone(), row.to.is_ipv4())).or_insert(0) += count;
        }
        self.rows.push(row);
    }

    /// Forgets what a pod has answered: it is gone, and its successor has another address.
    pub fn forget_pod(&mut self, pod: &str) {
        self.pods.retain(|(name, _), _| name != pod);
    }

    /// Connections to a Service port.
    pub fn port(&self, port: &str) -> u64 {
        self.ports.get(port).copied().unwrap_or(0)
    }

    /// Connections that a pod answered on an address of this family.
    pub fn pod(&self, pod: &str, address: IpAddr) -> u64 {
        self.pods.get(&(pod.to_owned(), address.is_ipv4())).copied().unwrap_or(0)
    }

    /// The rows since the last call, as a table, and forgets them.
    pub fn take_table(&mut self) -> Table {
        Table(std::mem::take(&mut self.rows))
    }
}

/// Rows, ready to be printed.
#[derive(Clone, Debug)]
pub struct Table(Vec<Row>);

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut pods: Vec<&str> = self.0.iter().flat_map(|row| row.pods.keys()).map(String::as_str).collect();
        pods.sort_unstable();
        pods.dedup();
        write!(f, "  {:<10}{:<11}{:<24}{:<6}", "FROM", "TO", "ADDRESS", "PORT")?;
        for pod in &pods {
            write!(f, "{:>9}", pod.to_uppercase())?;
        }
        writeln!(f, "{:>9}", "TOTAL")?;
        for row in &self.0 {
            write!(f, "  {:<10}{:<11}{:<24}{:<6}", row.from, row.kind, row.to.to_string(), row.port)?;
            for pod in &pods {
                write!(f, "{:>9}", row.pods.get(*pod).copied().unwrap_or(0))?;
            }
            writeln!(f, "{:>9}", row.pods.values().sum::<u64>())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(pods: &[&str]) -> Row {
        let answer =
            |pod: &&str| Answer { pod: (*pod).to_owned(), client: [192, 0, 2, 10].into(), port: 40_000, request: 1 };
        let answers: Vec<Answer> = pods.iter().map(answer).collect();
        Row::new("outside", "ClusterIP", "http", "10.96.0.7:80".parse().unwrap(), &answers)
    }

    #[test]
    fn a_pod_that_was_never_reached_and_one_that_should_not_answer_are_named() {
        assert!(row(&["web-1", "web-2"]).check_reached(["web-1", "web-2"]).is_ok());
        let missing = row(&["web-1"]).check_reached(["web-1", "web-2"]).unwrap_err().to_string();
        assert!(missing.contains("not reached: [\"web-2\"]"), "{missing}");
        let strange = row(&["web-1", "web-2"]).check_reached(["web-1"]).unwrap_err().to_string();
        assert!(strange.contains("should not: [\"web-2\"]"), "{strange}");
    }

    #[test]
    fn sums_add_up() {
        let mut tally = Tally::default();
        tally.add(row(&["web-1", "web-2", "web-1"]));
        tally.add(row(&["web-1"]));
        let v4 = IpAddr::from([10, 0, 0, 1]);
        assert_eq!((tally.port("http"), tally.port("echo")), (4, 0));
        assert_eq!((tally.pod("web-1", v4), tally.pod("web-1", "::1".parse().unwrap())), (3, 0));
        tally.forget_pod("web-1");
        assert_eq!((tally.pod("web-1", v4), tally.port("http")), (0, 4));
        let table = tally.take_table().to_string();
        assert!(table.lines().nth(1).unwrap().ends_with("2        1        3"), "{table}");
    }
}
