//! A file's documents, cut apart at their boundaries.
//!
//! YAML forbids `---` and `...` in the first column of any content, quoted and literal text included, so the cut needs no
//! parser, and a syntax error in one document cannot hide the errors of the next.

/// A document's text and the line of the file it begins in, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Document<'t> {
    pub(crate) text: &'t str,
    pub(crate) lines_before: u32,
}

/// The documents of `text`, without those that hold nothing but comments.
pub(crate) fn documents(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let mut start = 0;
    let mut lines_before = 0;
    let mut content = Content::Nothing;
    let mut at = 0;
    for (number, line) in (0..).zip(text.split_inclusive('\n')) {
        let bare = line.trim_end_matches(['\n', '\r']);
        let begins = is_marker(bare, "---");
        // Directives belong to the document that their `---` opens.
        if begins && content != Content::Directives {
            if content == Content::Something {
                documents.push(Document { text: &text[start..at], lines_before });
            }
            (start, lines_before) = (at, number);
            content = Content::Nothing;
        }
        at += line.len();
        if is_marker(bare, "...") {
            if content == Content::Something {
                documents.push(Document { text: &text[start..at], lines_before });
            }
            (start, lines_before) = (at, number + 1);
            content = Content::Nothing;
        } else {
            content = content.with(if begins { bare[3..].trim_start() } else { bare });
        }
    }
    if content == Content::Something {
        documents.push(Document { text: &text[start..], lines_before });
    }
    documents
}

/// What has been seen since the last boundary.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    Nothing,
    Directives,
    Something,
}

impl Content {
    fn with(self, line: &str) -> Self {
        let trimmed = line.trim_start_matches([' ', '\t', '\u{feff}']);
        match self {
            Content::Something => self,
            _ if trimmed.is_empty() || trimmed.starts_with('#') => self,
            _ if line.starts_with('%') => Content::Directives,
            _ => Content::Something,
        }
    }
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<(&str, u32)> {
        documents(text).into_iter().map(|document| (document.text, document.lines_before)).collect()
    }

    #[test]
    fn one_document_needs_no_marker() {
        assert_eq!(cut("a: 1\n"), [("a: 1\n", 0)]);
        assert_eq!(cut(""), []);
        assert_eq!(cut("# nothing\n\n---\n# here\n---\n"), []);
    }

    #[test]
    fn markers_keep_the_line_numbers() {
        assert_eq!(cut("a: 1\n---\n# b\nb: 2\n...\nc: 3"), [("a: 1\n", 0), ("---\n# b\nb: 2\n...\n", 1), ("c: 3", 5)]);
    }

    #[test]
    fn content_may_follow_the_marker() {
        assert_eq!(cut("--- {a: 1}\n--- # note\nb: 2\n"), [("--- {a: 1}\n", 0), ("--- # note\nb: 2\n", 1)]);
    }

    #[test]
    fn directives_stay_with_their_document() {
        assert_eq!(cut("%YAML 1.2\n---\na: 1\n"), [("%YAML 1.2\n---\na: 1\n", 0)]);
    }

    #[test]
    fn longer_dashes_are_no_marker() {
        assert_eq!(cut("a: |\n  x\n----\n"), [("a: |\n  x\n----\n", 0)]);
    }
}
