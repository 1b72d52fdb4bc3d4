//! Standard output: lines, tables as kubectl lays them out, JSON and YAML.

use serde::Serialize;
use std::fmt;
use std::io::{self, BufWriter, Write};

/// Blanks between two columns.
const GAP: usize = 3;

/// Where results are written. Errors, a broken pipe among them, come back from every call.
pub(super) struct Output {
    writer: BufWriter<Box<dyn Write>>,
}

impl Output {
    /// Standard output.
    pub(super) fn stdout() -> Self {
        Self { writer: BufWriter::new(Box::new(io::stdout())) }
    }

    /// Writes one line and shows it.
    pub(super) fn line(&mut self, line: fmt::Arguments<'_>) -> io::Result<()> {
        writeln!(self.writer, "{line}")?;
        self.writer.flush()
    }

    /// Writes one of many lines; they are shown when there are enough, or at the end.
    pub(super) fn one_of_many(&mut self, line: fmt::Arguments<'_>) -> io::Result<()> {
        writeln!(self.writer, "{line}")
    }

    /// Shows what was written.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }

    /// Writes text as it is and shows it.
    pub(super) fn text(&mut self, text: &str) -> io::Result<()> {
        self.writer.write_all(text.as_bytes())?;
        self.writer.flush()
    }

    /// Writes indented JSON, as kubectl does.
    pub(super) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        let mut text = Vec::new();
        let indent = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, indent)).map_err(io::Error::other)?;
        self.writer.write_all(&text)?;
        self.line(format_args!(""))
    }

    /// Writes YAML.
    pub(super) fn yaml(&mut self, value: &impl Serialize) -> io::Result<()> {
        let text = serde_yaml::to_string(value).map_err(io::Error::other)?;
        self.text(&text)
    }
}

/// Rows under headers. Columns are as wide as their widest cell so far, so that lines of a watch stay in line.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    widths: Vec<usize>,
}

impl Table {
    /// An empty table.
    pub(super) fn new(header: Vec<&'static str>) -> Self {
        let widths = header.iter().map(|cell| cell.len()).collect();
        Self { header, rows: Vec::new(), widths }
    }

    /// Adds a row with as many cells as there are headers.
    pub(super) fn push(&mut self, row: Vec<String>) {
        debug_assert_eq!(row.len(), self.header.len(), "{row:?} under {:?}", self.header);
        for (width, cell) in self.widths.iter_mut().zip(&row) {
            *width = (*width).max(cell.chars().count());
        }
        self.rows.push(row);
    }

    /// Whether it has no rows.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The line of headers.
    pub(super) fn header(&self) -> String {
        self.layout(self.header.iter().copied())
    }

    /// Takes the rows out, laid out one a line.
    pub(super) fn take_rows(&mut self) -> String {
        let rows = std::mem::take(&mut self.rows);
        rows.iter().map(|row| self.layout(row.iter().map(String::as_str))).collect()
    }

    fn layout<'a>(&self, cells: impl Iterator<Item = &'a str>) -> String {
        let mut line = String::new();
        for (cell, width) in cells.zip(&self.widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count()) + GAP));
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.header())?;
        f.write_str(&self.clone().take_rows())
    }
}

/// `a,b,c`, or `<none>`.
pub(super) fn list(items: impl IntoIterator<Item = impl ToString>) -> String {
    let joined = items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(",");
    if joined.is_empty() { "<none>".to_owned() } else { joined }
}
