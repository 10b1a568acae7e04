//! The text of `corosync.conf`: lines, sections and items, as they were written.
//!
//! Nothing is lost: comments, order, blanks and line ends stay, and [`Document::print`] gives back
//! the bytes that were parsed. Edits touch the lines that they change and no others. What a key
//! means is not known here.
//!
//! The grammar is one of lines: `name {`, `key: value`, `}`, comments that start a line, blank
//! lines. `{` anywhere in a line opens a section; there are no quotes and no continuations.
//!
//! Invariant: `print(parse(x)) == x`, and no input makes the parser panic.

use super::error::{ConfigError, Place, Problem};

/// Longest line, its end included.
const LINE_MAX: usize = 511;
/// Bounds of a full key, `section.section.key`. They also keep nesting shallow.
const KEY_MAX: usize = 255;
const KEY_MIN: usize = 3;
/// Editors of other systems put it in front; it would become part of the first name.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
const BLANKS: [char; 2] = [' ', '\t'];

/// A whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    root: Section,
}

/// A section, or the whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    name: String,
    open: Line,
    parts: Vec<Part>,
    close: Line,
}

/// What a section consists of, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// A comment or a blank line.
    Note(Line),
    /// `key: value`.
    Item(Item),
    /// `name { ... }`.
    Section(Section),
}

/// `key: value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    line: Line,
    key: String,
    value: String,
    /// Byte offsets in the line.
    key_at: usize,
    value_at: usize,
}

/// One line as it stands in the file, its end included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    bytes: Vec<u8>,
    /// Counted from 1; 0 for lines that were added.
    number: usize,
}

impl Document {
    /// Parses a whole file.
    ///
    /// # Errors
    /// The first line that Corosync would not take.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        if text.starts_with(BYTE_ORDER_MARK) {
            let line = Line {
                bytes: text
                    .split(|byte| *byte == b'\n')
                    .next()
                    .unwrap_or(text)
                    .to_vec(),
                number: 1,
            };
            return Err(line.error(0, Problem::ByteOrderMark));
        }
        // The last entry is the innermost open section.
        let mut open: Vec<Section> = Vec::new();
        let mut current = Section::default();
        for (number, bytes) in (1..).zip(text.split_inclusive(|byte| *byte == b'\n')) {
            let line = Line {
                bytes: bytes.to_vec(),
                number,
            };
            if bytes.len() > LINE_MAX {
                return Err(line.error(LINE_MAX, Problem::LineTooLong));
            }
            match classify(&line)? {
                Kind::Note => current.parts.push(Part::Note(line)),
                Kind::Start(name) => {
                    check_section(&open, &current, &name, &line)?;
                    let inner = Section {
                        name,
                        open: line,
                        ..Section::default()
                    };
                    open.push(std::mem::replace(&mut current, inner));
                }
                Kind::Item(item) => {
                    check_key(&open, &current, &item)?;
                    current.parts.push(Part::Item(item));
                }
                Kind::End => {
                    let at = line.indent();
                    let outer = open.pop();
                    let outer = outer.ok_or_else(|| line.error(at, Problem::UnexpectedClose))?;
                    let mut inner = std::mem::replace(&mut current, outer);
                    inner.close = line;
                    current.parts.push(Part::Section(inner));
                }
            }
        }
        if open.is_empty() {
            return Ok(Self { root: current });
        }
        // The original names the end of the file, which helps nobody find the section.
        Err(current
            .open
            .error(current.open.indent(), Problem::MissingClose))
    }

    /// The bytes of the file.
    pub fn print(&self) -> Vec<u8> {
        let mut text = Vec::new();
        self.root.print(&mut text);
        text
    }

    /// The file as a section without a name.
    pub fn root(&self) -> &Section {
        &self.root
    }

    /// The same, to be edited.
    pub fn root_mut(&mut self) -> &mut Section {
        &mut self.root
    }
}

impl Section {
    /// Its name; empty for the whole file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Everything in it, in order.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Its items, in order.
    pub fn items(&self) -> impl DoubleEndedIterator<Item = &Item> {
        self.parts.iter().filter_map(|part| match part {
            Part::Item(item) => Some(item),
            Part::Note(_) | Part::Section(_) => None,
        })
    }

    /// All sections directly in it, in order.
    pub fn sections(&self) -> impl DoubleEndedIterator<Item = &Self> {
        self.parts.iter().filter_map(|part| match part {
            Part::Section(section) => Some(section),
            Part::Note(_) | Part::Item(_) => None,
        })
    }

    /// All sections of that name directly in it.
    pub fn named<'a>(&'a self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a Self> {
        self.sections().filter(move |section| section.name == name)
    }

    /// The same, to be edited.
    pub fn named_mut<'a>(&'a mut self, name: &'a str) -> impl Iterator<Item = &'a mut Self> {
        self.parts.iter_mut().filter_map(move |part| match part {
            Part::Section(section) if section.name == name => Some(section),
            Part::Note(_) | Part::Item(_) | Part::Section(_) => None,
        })
    }

    /// The item that counts: of repeated keys the last one.
    pub fn item(&self, key: &str) -> Option<&Item> {
        self.items().rev().find(|item| item.key == key)
    }

    /// Value of the item that counts.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.item(key).map(Item::value)
    }

    /// Line that opens it; 0 for the whole file and for one that was added.
    pub fn line(&self) -> usize {
        self.open.number
    }

    pub(super) fn open_place(&self) -> Place {
        self.open.place(self.open.indent())
    }

    pub(super) fn close_place(&self) -> Place {
        self.close.place(self.close.indent())
    }

    /// Changes the item that counts, or adds one behind the last item.
    ///
    /// The line keeps its indentation and end. `value` must not hold `{` or line breaks; what
    /// comes of such a value is caught when the result is parsed.
    pub fn set(&mut self, key: &str, value: &str) {
        let found = self.parts.iter_mut().rev().find_map(|part| match part {
            Part::Item(item) if item.key == key => Some(item),
            Part::Note(_) | Part::Item(_) | Part::Section(_) => None,
        });
        if let Some(item) = found {
            item.set_value(value);
            return;
        }
        let is_item = |part: &Part| matches!(part, Part::Item(_));
        let after = self
            .parts
            .iter()
            .rposition(is_item)
            .map_or(0, |last| last + 1);
        if after == self.parts.len() {
            self.end_last_line();
        }
        let line = Line::new(&self.inner_indent(), &format!("{key}: {value}"));
        let value_at = line.bytes.len() - value.len() - 1;
        let key_at = line.indent();
        let item = Item {
            line,
            key: key.to_owned(),
            value: value.to_owned(),
            key_at,
            value_at,
        };
        self.parts.insert(after, Part::Item(item));
    }

    /// Removes all items of that key; whether there were any.
    pub fn unset(&mut self, key: &str) -> bool {
        let before = self.parts.len();
        self.parts
            .retain(|part| !matches!(part, Part::Item(item) if item.key == key));
        self.parts.len() != before
    }

    /// Adds a section at the end; `fill` puts something into it.
    pub fn add_section(&mut self, name: &str, fill: impl FnOnce(&mut Self)) {
        let indent = self.inner_indent();
        let open = Line::new(&indent, &format!("{name} {{"));
        let close = Line::new(&indent, "}");
        let mut section = Self {
            name: name.to_owned(),
            open,
            parts: Vec::new(),
            close,
        };
        fill(&mut section);
        // A last line without its end would run into the next one.
        self.end_last_line();
        self.parts.push(Part::Section(section));
    }

    /// Removes the sections for which `is_gone` holds; how many.
    pub fn remove_sections(&mut self, mut is_gone: impl FnMut(&Self) -> bool) -> usize {
        let before = self.parts.len();
        self.parts
            .retain(|part| !matches!(part, Part::Section(section) if is_gone(section)));
        before - self.parts.len()
    }

    fn print(&self, text: &mut Vec<u8>) {
        text.extend(&self.open.bytes);
        for part in &self.parts {
            match part {
                Part::Note(line) => text.extend(&line.bytes),
                Part::Item(item) => text.extend(&item.line.bytes),
                Part::Section(section) => section.print(text),
            }
        }
        text.extend(&self.close.bytes);
    }

    /// Indentation of what is in it: that of its first part, else two blanks more than its own.
    fn inner_indent(&self) -> String {
        let first = self.parts.iter().find_map(|part| match part {
            Part::Note(_) => None,
            Part::Item(item) => Some(&item.line),
            Part::Section(section) => Some(&section.open),
        });
        match first {
            Some(line) => line.indentation(),
            None if self.name.is_empty() => String::new(),
            None => self.open.indentation() + "  ",
        }
    }

    fn end_last_line(&mut self) {
        let last = match self.parts.last_mut() {
            Some(Part::Note(line)) => line,
            Some(Part::Item(item)) => &mut item.line,
            Some(Part::Section(section)) => &mut section.close,
            None => return,
        };
        if !last.bytes.ends_with(b"\n") {
            last.bytes.push(b'\n');
        }
    }
}

impl Item {
    /// Text before the first colon.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Text behind it, without blanks around it.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Counted from 1; 0 for one that was added.
    pub fn line(&self) -> usize {
        self.line.number
    }

    pub(super) fn key_place(&self) -> Place {
        self.line.place(self.key_at)
    }

    pub(super) fn value_place(&self) -> Place {
        self.line.place(self.value_at)
    }

    fn set_value(&mut self, value: &str) {
        let end = self.line.content().1.to_vec();
        self.line.bytes.truncate(self.value_at);
        if self.line.bytes.ends_with(b":") {
            self.line.bytes.push(b' ');
            self.value_at += 1;
        }
        self.line.bytes.extend(value.as_bytes());
        self.line.bytes.extend(end);
        value.clone_into(&mut self.value);
    }
}

impl Line {
    fn new(indent: &str, text: &str) -> Self {
        Self {
            bytes: format!("{indent}{text}\n").into_bytes(),
            number: 0,
        }
    }

    /// The line without trailing blanks and end, and what was cut off.
    fn content(&self) -> (&[u8], &[u8]) {
        let line = self.bytes.strip_suffix(b"\n").unwrap_or(&self.bytes);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let length = line
            .iter()
            .rposition(|byte| !blank(byte))
            .map_or(0, |last| last + 1);
        self.bytes.split_at(length)
    }

    fn indent(&self) -> usize {
        let blank = |byte: &&u8| matches!(**byte, b' ' | b'\t');
        self.bytes.iter().take_while(blank).count()
    }

    fn indentation(&self) -> String {
        let bytes = self.bytes.get(..self.indent()).unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    }

    fn place(&self, at: usize) -> Place {
        let line = self.bytes.strip_suffix(b"\n").unwrap_or(&self.bytes);
        let text = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned();
        Place {
            line: self.number,
            column: at + 1,
            text,
        }
    }

    fn error(&self, at: usize, problem: Problem) -> ConfigError {
        ConfigError {
            at: Some(self.place(at)),
            problem,
        }
    }
}

enum Kind {
    Note,
    Start(String),
    Item(Item),
    End,
}

/// The original looks for `{` first, then for `:`, then for `}`, anywhere in the line.
fn classify(line: &Line) -> Result<Kind, ConfigError> {
    let (content, _) = line.content();
    let indent = line.indent().min(content.len());
    let find = |wanted: u8| content.iter().position(|byte| *byte == wanted);
    let text = |from: usize, to: usize| {
        String::from_utf8_lossy(content.get(from..to).unwrap_or_default()).into_owned()
    };
    if let Some(at) = find(0) {
        return Err(line.error(at, Problem::NulByte));
    }
    if content.get(indent).is_none_or(|byte| *byte == b'#') {
        return Ok(Kind::Note);
    }
    if let Some(brace) = find(b'{') {
        let name = text(indent, brace);
        let name = name.trim_end_matches([' ', '\t', ':', '{']);
        return if brace + 1 < content.len() {
            let after = text(brace + 1, content.len());
            let blanks = after.len() - after.trim_start_matches(BLANKS).len();
            Err(line.error(brace + 1 + blanks, Problem::TextAfterOpen))
        } else if name.is_empty() {
            Err(line.error(brace, Problem::MissingSectionName))
        } else {
            Ok(Kind::Start(name.to_owned()))
        };
    }
    if let Some(colon) = find(b':') {
        let key = text(indent, colon).trim_end_matches(BLANKS).to_owned();
        let after = content.get(colon + 1..).unwrap_or_default();
        let blank = |byte: &&u8| matches!(**byte, b' ' | b'\t');
        let value_at = colon + 1 + after.iter().take_while(blank).count();
        let value = text(value_at, content.len());
        let line = line.clone();
        return Ok(Kind::Item(Item {
            line,
            key,
            value,
            key_at: indent,
            value_at,
        }));
    }
    match content.get(indent..) {
        Some(b"}") => Ok(Kind::End),
        _ if find(b'}').is_some() => Err(line.error(indent, Problem::TextBesideClose)),
        _ => Err(line.error(indent, Problem::NotASetting)),
    }
}

/// Full key of `last` in the innermost open section.
fn path(open: &[Section], current: &Section, last: &str) -> String {
    let names = open
        .iter()
        .chain([current])
        .map(Section::name)
        .filter(|name| !name.is_empty());
    names.chain([last]).collect::<Vec<_>>().join(".")
}

fn check_section(
    open: &[Section],
    current: &Section,
    name: &str,
    line: &Line,
) -> Result<(), ConfigError> {
    if path(open, current, name).len() >= KEY_MAX {
        return Err(line.error(line.indent(), Problem::SectionPathTooLong));
    }
    Ok(())
}

fn check_key(open: &[Section], current: &Section, item: &Item) -> Result<(), ConfigError> {
    let key = path(open, current, &item.key);
    if key.len() > KEY_MAX {
        return Err(item.line.error(item.key_at, Problem::KeyPathTooLong));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:".contains(c);
    if key.len() < KEY_MIN || !key.chars().all(allowed) {
        return Err(item.line.error(item.key_at, Problem::BadKey { key }));
    }
    Ok(())
}

#[cfg(test)]
#[path = "syntax_tests.rs"]
mod tests;
