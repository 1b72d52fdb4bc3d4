//! Which endpoint a new connection goes to: the algorithm of a Service and the weights of its endpoints, by annotations.

use super::{ALGORITHM_ANNOTATION, Labels, WEIGHT_ANNOTATION};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Weight of an endpoint that nobody gave one.
pub const DEFAULT_WEIGHT: u8 = 1;
/// The greatest weight.
pub const MAX_WEIGHT: u8 = 100;

/// How a Service's connections are given to its endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// A keyed hash over the endpoints, another one on every node.
    #[default]
    Random,
    /// A Maglev table: every node gives a connection to the same endpoint, and most keep theirs when endpoints change.
    Maglev,
}

impl Algorithm {
    /// The name in annotations and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Random => "random",
            Algorithm::Maglev => "maglev",
        }
    }

    /// What the annotations of a Service say; an error says what would be right.
    pub fn of(annotations: &Labels) -> Result<Option<Self>, &'static str> {
        match annotations.get(ALGORITHM_ANNOTATION).map(|text| text.trim()) {
            None => Ok(None),
            Some("random") => Ok(Some(Algorithm::Random)),
            Some("maglev") => Ok(Some(Algorithm::Maglev)),
            Some(_) => Err("must be `random` or `maglev`"),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the annotations of a Pod or an EndpointSlice say of its weight: at most [`MAX_WEIGHT`]; with 0 an endpoint gets no
/// new connections. An error says what would be right.
pub fn weight(annotations: &Labels) -> Result<Option<u8>, &'static str> {
    let Some(text) = annotations.get(WEIGHT_ANNOTATION) else { return Ok(None) };
    let weight = text.trim().parse().ok().filter(|weight| *weight <= MAX_WEIGHT);
    weight.map(Some).ok_or("must be a whole number from 0 to 100")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_are_read_or_refused() {
        let with = |key: &str, value: &str| Labels::from([(key.to_owned(), value.to_owned())]);
        assert_eq!((Algorithm::of(&Labels::new()), weight(&Labels::new())), (Ok(None), Ok(None)));
        for algorithm in [Algorithm::Random, Algorithm::Maglev] {
            assert_eq!(Algorithm::of(&with(ALGORITHM_ANNOTATION, algorithm.name())), Ok(Some(algorithm)));
        }
        for (text, expected) in [("0", Some(0)), (" 3 ", Some(3)), ("100", Some(100))] {
            assert_eq!(weight(&with(WEIGHT_ANNOTATION, text)), Ok(expected));
        }
        for text in ["", "101", "-1", "1.5", "heavy"] {
            weight(&with(WEIGHT_ANNOTATION, text)).unwrap_err();
            Algorithm::of(&with(ALGORITHM_ANNOTATION, text)).unwrap_err();
        }
    }
}
