//! A document as a tree in which every value knows its line and column.
//!
//! Nothing a file can hold makes this panic, loop or grow out of proportion: nesting is bounded, and so is what aliases
//! may expand to (a "billion laughs" document is refused after [`MAX_ALIASED`] values). The first syntax error ends the
//! document, as what follows has no meaning.

use super::diagnostic::{Position, printable};
use super::documents::Document;
use super::scalar::{Plain, plain};
use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

/// How deep a document may nest; Kubernetes' own objects stay below 20.
const MAX_DEPTH: usize = 100;
/// How many values all aliases of a document may stand for.
const MAX_ALIASED: usize = 100_000;

/// A value and its place in the file.
#[derive(Clone, Debug)]
pub(crate) struct Node<'t> {
    pub(crate) at: Position,
    pub(crate) value: Value<'t>,
}

/// A value.
#[derive(Clone, Debug)]
pub(crate) enum Value<'t> {
    /// An unquoted word, whose meaning depends on what it looks like.
    Plain(Cow<'t, str>),
    /// Quoted or literal text.
    Text(Cow<'t, str>),
    /// A list.
    List(Vec<Node<'t>>),
    /// A mapping; keys are unique.
    Map(Vec<Entry<'t>>),
}

/// An entry of a mapping.
#[derive(Clone, Debug)]
pub(crate) struct Entry<'t> {
    pub(crate) at: Position,
    pub(crate) key: Cow<'t, str>,
    pub(crate) value: Node<'t>,
}

/// What is wrong with a document's syntax, and where.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) at: Position,
    pub(crate) message: String,
    /// A key is given twice; the later value counts, where that is let pass.
    pub(crate) is_repetition: bool,
}

impl Fault {
    fn new(at: Position, message: impl Into<String>) -> Self {
        Self { at, message: message.into(), is_repetition: false }
    }
}

impl<'t> Node<'t> {
    /// The value of `key`, if this is a mapping that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Node<'t>> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// The text of a scalar, whatever it may mean.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Plain(text) | Value::Text(text) => Some(text),
            Value::List(_) | Value::Map(_) => None,
        }
    }

    /// Whether it is absent as far as the API is concerned.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Plain(text) if plain(text) == Plain::Null)
    }

    /// How a message speaks of it.
    pub(crate) fn shown(&self) -> String {
        match &self.value {
            Value::Plain(text) if plain(text) == Plain::Null => "nothing".to_owned(),
            Value::Plain(text) => format!("`{}`", printable(text)),
            Value::Text(text) => format!("`\"{}\"`", printable(text)),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        }
    }

    fn size(&self) -> usize {
        1 + match &self.value {
            Value::Plain(_) | Value::Text(_) => 0,
            Value::List(items) => items.iter().map(Node::size).sum(),
            Value::Map(entries) => entries.iter().map(|entry| entry.value.size()).sum(),
        }
    }
}

/// Reads a document. The tree is absent when the document is empty or its syntax is broken.
pub(crate) fn read<'t>(document: &Document<'t>) -> (Option<Node<'t>>, Vec<Fault>) {
    let mut builder = Builder {
        events: Parser::new_from_str(document.text),
        lines_before: document.lines_before,
        anchors: HashMap::new(),
        aliased: 0,
        faults: Vec::new(),
    };
    let root = match builder.document() {
        Ok(root) => root,
        Err(fault) => {
            builder.faults.push(fault);
            None
        }
    };
    (root, builder.faults)
}

struct Builder<'t> {
    events: Parser<'t, StrInput<'t>>,
    lines_before: u32,
    /// Finished anchored values, and how many values each one is.
    anchors: HashMap<usize, (Node<'t>, usize)>,
    aliased: usize,
    /// Faults after which reading can go on.
    faults: Vec<Fault>,
}

impl<'t> Builder<'t> {
    fn document(&mut self) -> Result<Option<Node<'t>>, Fault> {
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
                Event::StreamEnd | Event::DocumentEnd => return Ok(None),
                event => {
                    let root = self.node(event, span, 0)?;
                    // The rest must be well-formed too; `a: 1}` is found only here.
                    loop {
                        let (event, span) = self.next()?;
                        match event {
                            Event::StreamEnd => return Ok(Some(root)),
                            Event::DocumentEnd => {}
                            _ => return Err(self.fault(span, "a second document without `---` before it")),
                        }
                    }
                }
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'t>, Span), Fault> {
        match self.events.next() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                let message = format!("not valid YAML: {}", printable(error.info()));
                let marker = *error.marker();
                Err(Fault::new(self.position(marker.line(), marker.col()), message))
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn position(&self, line: usize, column: usize) -> Position {
        let line = u32::try_from(line).unwrap_or(u32::MAX).saturating_add(self.lines_before);
        Position { line, column: u32::try_from(column).unwrap_or(u32::MAX).saturating_add(1) }
    }

    fn at(&self, span: Span) -> Position {
        self.position(span.start.line(), span.start.col())
    }

    fn fault(&self, span: Span, message: impl Into<String>) -> Fault {
        Fault::new(self.at(span), message)
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node<'t>, Fault> {
        if depth > MAX_DEPTH {
            return Err(self.fault(span, format!("nested more than {MAX_DEPTH} levels deep")));
        }
        let at = self.at(span);
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => (self.scalar(text, style, tag.as_deref(), span)?, anchor),
            Event::SequenceStart(anchor, _) => (Value::List(self.list(depth)?), anchor),
            Event::MappingStart(anchor, _) => (Value::Map(self.map(depth)?), anchor),
            Event::Alias(anchor) => {
                let Some((node, size)) = self.anchors.get(&anchor) else {
                    return Err(self.fault(span, "an alias inside the very value it stands for"));
                };
                let (value, size) = (node.value.clone(), *size);
                self.charge(size, span)?;
                // Errors in it are reported where it is written out once.
                let at = node_position(&self.anchors, anchor).unwrap_or(at);
                return Ok(Node { at, value });
            }
            _ => return Err(self.fault(span, "not valid YAML: a value was expected here")),
        };
        let node = Node { at, value };
        if anchor > 0 {
            let size = node.size();
            self.charge(size, span)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        Ok(node)
    }

    /// Counts what aliases and the copies kept for them hold.
    fn charge(&mut self, size: usize, span: Span) -> Result<(), Fault> {
        self.aliased += size;
        if self.aliased > MAX_ALIASED {
            let message = format!("aliases stand for more than {MAX_ALIASED} values: write them out");
            return Err(self.fault(span, message));
        }
        Ok(())
    }

    fn scalar(
        &self,
        text: Cow<'t, str>,
        style: ScalarStyle,
        tag: Option<&Tag>,
        span: Span,
    ) -> Result<Value<'t>, Fault> {
        match tag {
            None if style == ScalarStyle::Plain => Ok(Value::Plain(text)),
            None => Ok(Value::Text(text)),
            Some(tag) if tag.is_yaml_core_schema() => match tag.suffix.as_str() {
                "str" => Ok(Value::Text(text)),
                "int" | "float" | "bool" | "null" => Ok(Value::Plain(text)),
                other => Err(self.fault(span, format!("the tag `!!{}` has no meaning here", printable(other)))),
            },
            Some(tag) if tag.handle.is_empty() && tag.suffix == "!" => Ok(Value::Text(text)),
            Some(tag) => {
                Err(self.fault(span, format!("the tag `{}` has no meaning here", printable(&tag.to_string()))))
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node<'t>>, Fault> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(items);
            }
            items.push(self.node(event, span, depth + 1)?);
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<Entry<'t>>, Fault> {
        let mut entries: Vec<Entry<'t>> = Vec::new();
        let mut merged = Vec::new();
        let mut seen = Seen::default();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let at = self.at(span);
            let is_merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<");
            let key = match self.node(event, span, depth + 1)?.value {
                Value::Plain(key) | Value::Text(key) => key,
                // `{{ .Values.name }}` is a mapping whose key is a mapping.
                Value::Map(_) => {
                    let message =
                        "the key of a mapping must be text; if this is a template, render it first (`helm template`)";
                    return Err(Fault::new(at, message));
                }
                Value::List(_) => return Err(Fault::new(at, "the key of a mapping must be text")),
            };
            let (event, value_span) = self.next()?;
            let value = self.node(event, value_span, depth + 1)?;
            if is_merge {
                merged.push((at, value));
            } else if seen.is_new(&entries, &key) {
                entries.push(Entry { at, key, value });
            } else {
                let message = format!("the key `{}` is here twice: keep one", printable(&key));
                self.faults.push(Fault { is_repetition: true, ..Fault::new(at, message) });
                if let Some(entry) = entries.iter_mut().find(|entry| entry.key == key) {
                    *entry = Entry { at, key, value };
                }
            }
        }
        if !merged.is_empty() {
            let mut keys: HashSet<String> = entries.iter().map(|entry| entry.key.clone().into_owned()).collect();
            for (at, value) in merged {
                merge(&mut entries, &mut keys, value, at)?;
            }
        }
        Ok(entries)
    }
}

fn node_position(anchors: &HashMap<usize, (Node<'_>, usize)>, anchor: usize) -> Option<Position> {
    anchors.get(&anchor).map(|(node, _)| node.at)
}

/// Adds the entries of a merge key (`<<: *defaults`, or a list of such) that are not given already.
fn merge<'t>(
    entries: &mut Vec<Entry<'t>>,
    keys: &mut HashSet<String>,
    value: Node<'t>,
    at: Position,
) -> Result<(), Fault> {
    match value.value {
        Value::Map(inherited) => {
            entries.extend(inherited.into_iter().filter(|entry| keys.insert(entry.key.clone().into_owned())));
            Ok(())
        }
        Value::List(values) => values.into_iter().try_for_each(|value| match value.value {
            Value::Map(_) => merge(entries, keys, value, at),
            _ => Err(Fault::new(at, "`<<` merges mappings only")),
        }),
        _ => Err(Fault::new(at, "`<<` merges mappings only")),
    }
}

/// Finds duplicate keys without quadratic work in large mappings.
#[derive(Default)]
struct Seen(HashSet<String>);

impl Seen {
    const SMALL: usize = 16;

    fn is_new(&mut self, entries: &[Entry<'_>], key: &str) -> bool {
        if entries.len() < Self::SMALL {
            return entries.iter().all(|entry| entry.key != key);
        }
        if self.0.is_empty() {
            self.0.extend(entries.iter().map(|entry| entry.key.clone().into_owned()));
        }
        self.0.insert(key.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::documents::documents;

    fn parse(text: &str) -> (Option<Node<'_>>, Vec<String>) {
        let (root, faults) = read(&documents(text)[0]);
        let shown = |fault: Fault| format!("{}:{}: {}", fault.at.line, fault.at.column, fault.message);
        (root, faults.into_iter().map(shown).collect())
    }

    #[test]
    fn places_are_those_of_the_file() {
        let text = "# note\n---\na:\n  b: [x, \"y\"]\n";
        let (root, faults) = parse(text);
        assert!(faults.is_empty());
        let list = root.as_ref().and_then(|root| root.get("a")?.get("b")).unwrap();
        let Value::List(items) = &list.value else { panic!("{list:?}") };
        assert_eq!((items[1].at.line, items[1].at.column), (4, 10));
    }

    #[test]
    fn aliases_and_merge_keys_work() {
        let (root, faults) = parse("a: &x {k: v, l: w}\nb: *x\nc:\n  <<: *x\n  k: own\n");
        assert!(faults.is_empty(), "{faults:?}");
        let root = root.unwrap();
        assert_eq!(root.get("b").and_then(|b| b.get("k")?.text()), Some("v"));
        assert_eq!(root.get("c").and_then(|c| c.get("k")?.text()), Some("own"));
        assert_eq!(root.get("c").and_then(|c| c.get("l")?.text()), Some("w"));
    }

    #[test]
    fn alias_bombs_are_refused() {
        let level = |level: u32| {
            let below = if level == 0 { "x".to_owned() } else { format!("*a{}", level - 1) };
            format!("a{level}: &a{level} [{}]\n", vec![below; 10].join(", "))
        };
        let text = (0..12).map(level).collect::<Vec<_>>().concat();
        let (root, faults) = parse(&text);
        assert!(root.is_none());
        assert!(faults[0].contains("aliases stand for more than"), "{faults:?}");
        let (_, faults) = parse("a: &a [*a]\n");
        assert!(faults[0].contains("inside the very value"), "{faults:?}");
    }

    #[test]
    fn deep_nesting_is_refused() {
        let (_, faults) = parse(&"- ".repeat(100_000));
        assert!(faults[0].contains("nested more than"), "{faults:?}");
        let (_, faults) = parse(&"[".repeat(100_000));
        assert_eq!(faults.len(), 1);
    }

    #[test]
    fn duplicate_keys_are_found_in_small_and_large_mappings() {
        let text = (0..40).map(|number| format!("k{number}: {number}\n")).collect::<Vec<_>>().concat();
        assert_eq!(parse(&(text.clone() + "k7: 1\n")).1, ["41:1: the key `k7` is here twice: keep one"]);
        assert_eq!(parse("a: 1\na: 2\n").1, ["2:1: the key `a` is here twice: keep one"]);
        assert!(parse(&text).1.is_empty());
    }

    #[test]
    fn syntax_errors_have_a_place() {
        assert_eq!(parse("a: 1\nb: c: d\n").1, ["2:5: not valid YAML: mapping values are not allowed in this context"]);
        assert_eq!(parse("a: {b: c}}\n").1, ["1:10: not valid YAML: misplaced bracket"]);
    }
}
