//! From the tree to the typed object, with every error and not just the first.
//!
//! The types' own `Deserialize` is the schema; it stops at the first error. So the reader takes the culprit out of sight,
//! as though it were absent, and reads again, until the object is read or nothing is left of it.

use super::diagnostic::{Position, printable};
use super::nearest::nearest;
use super::path::{FieldPath, Segment};
use super::scalar::{Plain, plain};
use super::tree::{Entry, Node, Value};
use ipnet::IpNet;
use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, Visitor,
};
use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

/// More errors than this in one object help nobody.
const MAX_ERRORS: usize = 50;

/// A value that does not fit its type.
#[derive(Debug)]
pub(crate) struct Misfit {
    pub(crate) at: Position,
    pub(crate) path: FieldPath,
    pub(crate) message: String,
    /// It is a field that the type does not have, and nothing else is wrong with it.
    pub(crate) is_stranger: bool,
}

/// An object as far as it could be read, and all that could not be.
pub(crate) struct Reading<T> {
    pub(crate) object: Option<T>,
    pub(crate) misfits: Vec<Misfit>,
    /// Members of lists that could not be read, by their paths.
    lost: Vec<FieldPath>,
}

impl<T> Reading<T> {
    /// The path in the file of what has `path` in the object, whose lists are shorter by what was lost.
    pub(crate) fn in_file(&self, path: &FieldPath) -> FieldPath {
        let mut found = FieldPath::default();
        for segment in &path.0 {
            let mut segment = segment.clone();
            if let Segment::Index(index) = &mut segment {
                let of_this_list = self.lost.iter().filter_map(|lost| match lost.0.split_last() {
                    Some((Segment::Index(index), list)) if list == found.0 => Some(*index),
                    _ => None,
                });
                let mut lost: Vec<usize> = of_this_list.collect();
                lost.sort_unstable();
                *index = lost.into_iter().fold(*index, |index, lost| index + usize::from(lost <= index));
            }
            found.0.push(segment);
        }
        found
    }
}

/// Reads an object.
pub(crate) fn read<T: DeserializeOwned>(node: &Node<'_>) -> Reading<T> {
    let hidden = Hidden::default();
    let mut reading = Reading { object: None, misfits: Vec::new(), lost: Vec::new() };
    loop {
        let error = match T::deserialize(Reader { node, hidden: &hidden, nulls: Nulls::Absent }) {
            Ok(object) => return Reading { object: Some(object), ..reading },
            Err(error) => error.located(node),
        };
        let is_root = error.culprit == Some(address(node));
        let is_new = error.culprit.is_some_and(|culprit| hidden.0.borrow_mut().insert(culprit));
        let (is_silent, is_item) = (error.silent, error.is_item);
        let misfit = Misfit::from(error);
        if is_item {
            let index = misfit.path.0.iter().rposition(|step| matches!(step, Segment::Index(_)));
            reading.lost.extend(index.map(|index| FieldPath(misfit.path.0[..=index].to_vec())));
        }
        if !is_silent {
            reading.misfits.push(misfit);
        }
        if is_root || !is_new || reading.misfits.len() == MAX_ERRORS {
            return reading;
        }
    }
}

/// The values taken out of sight, by their address in the tree.
#[derive(Default)]
struct Hidden(RefCell<HashSet<usize>>);

impl Hidden {
    fn has(&self, node: &Node<'_>) -> bool {
        let hidden = self.0.borrow();
        !hidden.is_empty() && hidden.contains(&address(node))
    }
}

fn address(node: &Node<'_>) -> usize {
    std::ptr::from_ref(node).addr()
}

/// An error on its way out of the tree, gathering its path.
#[derive(Debug)]
struct ReadError {
    message: String,
    missing: Option<&'static str>,
    culprit: Option<usize>,
    at: Position,
    /// From the inside out.
    path: Vec<Segment>,
    /// It follows from an earlier error.
    silent: bool,
    /// The culprit is a member of a list.
    is_item: bool,
    is_stranger: bool,
}

impl ReadError {
    fn new(message: String) -> Self {
        let (at, path) = (Position::default(), Vec::new());
        Self { message, missing: None, culprit: None, at, path, silent: false, is_item: false, is_stranger: false }
    }

    /// Blames `node`, unless something inside it is to blame already.
    fn located(mut self, node: &Node<'_>) -> Self {
        if self.culprit.is_none() {
            self.culprit = Some(address(node));
            self.at = node.at;
            self.path.extend(self.missing.map(Segment::from));
        }
        self
    }
}

impl From<ReadError> for Misfit {
    fn from(error: ReadError) -> Self {
        let path = FieldPath(error.path.into_iter().rev().collect());
        Misfit { at: error.at, path, message: error.message, is_stranger: error.is_stranger }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ReadError {}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("must be {}", in_words(&expected.to_string())))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("must be {}", in_words(&expected.to_string())))
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("must be {}", one_of(expected)))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self { is_stranger: true, ..Self::new(unknown_field(field, expected)) }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { missing: Some(field), ..Self::new("is required".to_owned()) }
    }
}

/// What to say of a field nobody knows.
pub(crate) fn unknown_field(field: &str, known: &[&str]) -> String {
    match nearest(field, known.iter().copied()) {
        Some(nearest) if !field.is_empty() => format!("unknown field: did you mean `{nearest}`?"),
        _ if known.len() <= 12 => format!("unknown field: the fields here are {}", known.join(", ")),
        _ => "unknown field".to_owned(),
    }
}

/// `A, B or C`.
pub(crate) fn one_of(words: &[&str]) -> String {
    // The empty word stands for a default, as absence does.
    let words: Vec<&str> = words.iter().copied().filter(|word| !word.is_empty()).collect();
    match words.as_slice() {
        [] => "nothing".to_owned(),
        [word] => (*word).to_owned(),
        [others @ .., last] => format!("{} or {last}", others.join(", ")),
    }
}

/// serde's names for types, in words for a person who writes YAML.
fn in_words(expected: &str) -> &str {
    match expected {
        "i64" | "u64" | "i32" | "u32" => "a whole number",
        "u16" => "a whole number from 0 to 65535",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "a mapping",
        _ if expected.starts_with("struct ") => "a mapping",
        _ if expected.starts_with("enum ") => "one of its words",
        _ => expected,
    }
}

/// Whether an entry without a value is as good as absent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nulls {
    /// In a struct, as in the API.
    Absent,
    /// In a free map such as labels, where it stands for the empty text.
    Kept,
}

#[derive(Clone, Copy)]
struct Reader<'r, 't> {
    node: &'r Node<'t>,
    hidden: &'r Hidden,
    nulls: Nulls,
}

impl<'r, 't> Reader<'r, 't> {
    fn misfit(self, expected: &str) -> ReadError {
        let hint = match (&self.node.value, expected) {
            (Value::Plain(text), "text") if plain(text) != Plain::Null => {
                format!("must be text: write \"{}\", in quotes", printable(text))
            }
            _ => format!("must be {expected}, not {}", self.node.shown()),
        };
        ReadError::new(hint).located(self.node)
    }

    /// Adds the value to what serde or a parser of addresses says of it.
    fn explain(self, mut error: ReadError) -> ReadError {
        if error.culprit.is_some() || error.missing.is_some() {
            return error.located(self.node);
        }
        error.message = match error.message.as_str() {
            "invalid IP address syntax" => match self.node.text().unwrap_or_default() {
                // What is a range was not taken for one.
                text if text.parse::<IpNet>().is_ok() => {
                    format!("{} is not an IP address: leave out the length behind the slash", self.node.shown())
                }
                text if text.contains('/') => format!("{} is not an address range", self.node.shown()),
                _ => format!("{} is not an IP address", self.node.shown()),
            },
            message if message.starts_with("data did not match any variant of untagged enum IntOrString") => {
                format!("must be a number or a name, not {}", self.node.shown())
            }
            message if message.starts_with("must be ") => format!("{}, not {}", error.message, self.node.shown()),
            // A parser of our own that says it already, or something too large to be shown.
            message if self.node.text().is_none_or(|text| message.starts_with(&format!("`{text}`"))) => {
                message.to_owned()
            }
            message => format!("{}: {message}", self.node.shown()),
        };
        error.located(self.node)
    }

    fn map<'de, V: Visitor<'de>>(self, entries: &'r [Entry<'t>], visitor: V) -> Result<V::Value, ReadError> {
        let access = Entries { rest: entries.iter(), value: None, hidden: self.hidden, nulls: self.nulls };
        visitor.visit_map(access).map_err(|mut error| {
            // What was taken out of sight is not missing: it has had its error.
            if let Some(missing) = error.missing.filter(|_| error.culprit.is_none()) {
                error.silent = entries.iter().any(|entry| entry.key == missing && self.hidden.has(&entry.value));
            }
            error.located(self.node)
        })
    }

    fn number<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let Value::Plain(text) = &self.node.value else { return Err(self.misfit("a whole number")) };
        let number = match plain(text) {
            Plain::Int(number) => Some(number),
            #[expect(clippy::float_cmp, reason = "exactly a whole number, or not")]
            Plain::Float(number) if number.trunc() == number && number.abs() < 1e15 => Some(number as i64),
            _ => None,
        };
        let number = number.ok_or_else(|| self.misfit("a whole number"))?;
        visitor.visit_i64(number).map_err(|error| self.explain(error))
    }

    fn string<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let text = match &self.node.value {
            Value::Text(text) => text,
            Value::Plain(text) if plain(text) == Plain::Text => text,
            Value::Plain(text) if plain(text) == Plain::Null => "",
            _ => return Err(self.misfit("text")),
        };
        visitor.visit_str(text).map_err(|error| self.explain(error))
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
            self.number(visitor)
        }
    )*};
}

macro_rules! strings {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
            self.string(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader<'_, '_> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::Text(text) => visitor.visit_str(text),
            Value::Plain(text) => match plain(text) {
                Plain::Null => visitor.visit_unit(),
                Plain::Bool(value) => visitor.visit_bool(value),
                Plain::Int(value) => visitor.visit_i64(value),
                Plain::Float(value) => visitor.visit_f64(value),
                Plain::Text => visitor.visit_str(text),
            },
            Value::List(_) => return self.deserialize_seq(visitor),
            Value::Map(entries) => return Reader { nulls: Nulls::Kept, ..self }.map(entries, visitor),
        }
        .map_err(|error: ReadError| self.explain(error))
    }

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.node.text().and_then(|text| text.parse().ok()) {
            Some(number) => visitor.visit_u64(number),
            None => self.number(visitor),
        }
    }

    strings! { deserialize_char deserialize_str deserialize_string deserialize_identifier }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::Plain(text) => match plain(text) {
                Plain::Bool(value) => visitor.visit_bool(value),
                _ => Err(self.misfit("true or false")),
            },
            _ => Err(self.misfit("true or false")),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        if self.node.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let Value::List(items) = &self.node.value else { return Err(self.misfit("a list")) };
        visitor.visit_seq(Items { items: items.iter().enumerate(), hidden: self.hidden })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let Value::Map(entries) = &self.node.value else { return Err(self.misfit("a mapping")) };
        Reader { nulls: Nulls::Kept, ..self }.map(entries, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let Value::Map(entries) = &self.node.value else { return Err(self.misfit("a mapping")) };
        Reader { nulls: Nulls::Absent, ..self }.map(entries, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        words: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let text = self.node.text().ok_or_else(|| self.misfit(&one_of(words)))?;
        let word: StrDeserializer<'_, ReadError> = text.into_deserializer();
        visitor.visit_enum(word).map_err(|error| self.explain(error))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! { i128 u128 f32 f64 bytes byte_buf unit unit_struct tuple tuple_struct }
}

struct Entries<'r, 't> {
    rest: std::slice::Iter<'r, Entry<'t>>,
    value: Option<&'r Entry<'t>>,
    hidden: &'r Hidden,
    nulls: Nulls,
}

impl<'de> MapAccess<'de> for Entries<'_, '_> {
    type Error = ReadError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, ReadError> {
        let (hidden, nulls) = (self.hidden, self.nulls);
        let visible =
            |entry: &&Entry<'_>| !hidden.has(&entry.value) && (nulls == Nulls::Kept || !entry.value.is_null());
        let Some(entry) = self.rest.find(visible) else { return Ok(None) };
        self.value = Some(entry);
        let key: StrDeserializer<'_, ReadError> = entry.key.as_ref().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|error| {
            let mut error = error.located(&entry.value);
            error.at = entry.at;
            error.path.push(self.segment(entry));
            error
        })
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ReadError> {
        let entry = self.value.take().ok_or_else(|| ReadError::new("a value without its key".to_owned()))?;
        let reader = Reader { node: &entry.value, hidden: self.hidden, nulls: Nulls::Absent };
        seed.deserialize(reader).map_err(|error| {
            let mut error = reader.explain(error);
            error.path.push(self.segment(entry));
            error
        })
    }
}

impl Entries<'_, '_> {
    fn segment(&self, entry: &Entry<'_>) -> Segment {
        match self.nulls {
            Nulls::Absent => Segment::Field(printable(&entry.key)),
            Nulls::Kept => Segment::Entry(entry.key.clone().into_owned()),
        }
    }
}

struct Items<'r, 't> {
    items: std::iter::Enumerate<std::slice::Iter<'r, Node<'t>>>,
    hidden: &'r Hidden,
}

impl<'de> SeqAccess<'de> for Items<'_, '_> {
    type Error = ReadError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, ReadError> {
        let hidden = self.hidden;
        let Some((index, node)) = self.items.find(|(_, node)| !hidden.has(node)) else { return Ok(None) };
        let reader = Reader { node, hidden, nulls: Nulls::Absent };
        seed.deserialize(reader).map(Some).map_err(|error| {
            let mut error = reader.explain(error);
            error.is_item |= error.culprit == Some(address(node));
            error.path.push(Segment::Index(index));
            error
        })
    }
}
