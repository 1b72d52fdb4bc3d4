//! Where in an object a value is, as the API server writes it: `spec.ports[0].nodePort`, `metadata.labels[app]`.

use std::fmt;

/// The way from an object's root to one of its values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldPath(pub(crate) Vec<Segment>);

/// One step of a [`FieldPath`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    /// A named field.
    Field(String),
    /// A member of a list.
    Index(usize),
    /// An entry of a free map such as labels; its key may hold dots and slashes.
    Entry(String),
}

/// Builds a [`FieldPath`]: `field!["spec", "ports", 0, "port"]`.
macro_rules! field {
    ($($segment:expr),* $(,)?) => {
        $crate::manifest::path::FieldPath(vec![$($crate::manifest::path::Segment::from($segment)),*])
    };
}
pub(crate) use field;

impl FieldPath {
    /// This path, one step further.
    pub(crate) fn then(&self, segment: impl Into<Segment>) -> Self {
        let mut segments = self.0.clone();
        segments.push(segment.into());
        Self(segments)
    }

    /// Whether `self` is `other` or leads to it.
    pub(crate) fn leads_to(&self, other: &Self) -> bool {
        other.0.len() >= self.0.len() && self.0.iter().zip(&other.0).all(|(a, b)| a.key() == b.key())
    }
}

impl Segment {
    /// The map key, or the index as text.
    fn key(&self) -> std::borrow::Cow<'_, str> {
        match self {
            Segment::Field(name) | Segment::Entry(name) => name.as_str().into(),
            Segment::Index(index) => index.to_string().into(),
        }
    }
}

impl From<&str> for Segment {
    fn from(name: &str) -> Self {
        Segment::Field(name.to_owned())
    }
}

impl From<usize> for Segment {
    fn from(index: usize) -> Self {
        Segment::Index(index)
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Field(name) if position == 0 => f.write_str(name)?,
                Segment::Field(name) => write!(f, ".{name}")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Entry(key) => write!(f, "[{}]", super::diagnostic::printable(key))?,
            }
        }
        Ok(())
    }
}
