//! A parser for `corosync.conf`, as strict as Corosync's own.
//!
//! The grammar is one of lines: `name {`, `key: value`, `}`, comments that start a line, blank
//! lines. Comments are not kept; every section and item knows its line.

use super::check::{ConfError, Problem};

/// Longest line, its newline included.
const LINE_MAX: usize = 511;

/// Bounds of a full key, `section.section.key`.
const KEY_MAX: usize = 255;
const KEY_MIN: usize = 3;

/// A section, or the whole file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) name: String,
    /// Counted from 1; 0 for the whole file.
    pub(super) line: usize,
    pub(super) items: Vec<Item>,
    pub(super) sections: Vec<Self>,
}

/// `key: value`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) line: usize,
}

impl Section {
    /// The item that counts: of repeated keys the last one.
    pub(super) fn item(&self, key: &str) -> Option<&Item> {
        self.items.iter().rev().find(|item| item.key == key)
    }

    /// Value of the item that counts.
    pub(super) fn value(&self, key: &str) -> Option<&str> {
        self.item(key).map(|item| item.value.as_str())
    }

    /// All sections of that name.
    pub(super) fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> + 'a {
        self.sections
            .iter()
            .filter(move |section| section.name == name)
    }
}

/// Parses a whole file.
///
/// # Errors
/// The first line that Corosync would not take.
pub(super) fn parse(text: &[u8]) -> Result<Section, ConfError> {
    // The last entry is the innermost open section.
    let mut open = Vec::new();
    let mut current = Section::default();
    for (line, bytes) in (1..).zip(text.split_inclusive(|byte| *byte == b'\n')) {
        let at = |problem| ConfError {
            line: Some(line),
            problem,
        };
        if bytes.len() > LINE_MAX {
            return Err(at(Problem::LineTooLong { limit: LINE_MAX }));
        }
        match parse_line(bytes).map_err(at)? {
            Line::Blank => {}
            Line::Start(name) => {
                check_path(&open, &current, &name).map_err(at)?;
                let inner = Section {
                    name,
                    line,
                    ..Section::default()
                };
                open.push(std::mem::replace(&mut current, inner));
            }
            Line::Item { key, value } => {
                check_key(&open, &current, &key).map_err(at)?;
                current.items.push(Item { key, value, line });
            }
            Line::End => {
                let mut outer = open.pop().ok_or_else(|| at(Problem::UnexpectedClose))?;
                std::mem::swap(&mut outer, &mut current);
                current.sections.push(outer);
            }
        }
    }
    if open.is_empty() {
        return Ok(current);
    }
    let problem = Problem::MissingClose {
        section: current.name,
    };
    Err(ConfError {
        line: Some(current.line),
        problem,
    })
}

enum Line {
    Blank,
    Start(String),
    Item { key: String, value: String },
    End,
}

/// Corosync looks for `{` first, then for `:`, then for `}`, anywhere in the line.
fn parse_line(bytes: &[u8]) -> Result<Line, Problem> {
    if bytes.contains(&0) {
        return Err(Problem::NulByte);
    }
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_matches([' ', '\t', '\r', '\n']);
    if text.is_empty() || text.starts_with('#') {
        return Ok(Line::Blank);
    }
    if let Some((name, after)) = text.split_once('{') {
        let name = name.trim_end_matches([' ', '\t', ':']);
        return if !after.is_empty() {
            Err(Problem::TextAfterOpen)
        } else if name.is_empty() {
            Err(Problem::MissingSectionName)
        } else {
            Ok(Line::Start(name.to_owned()))
        };
    }
    if let Some((key, value)) = text.split_once(':') {
        let blanks = [' ', '\t'];
        let key = key.trim_end_matches(blanks).to_owned();
        return Ok(Line::Item {
            key,
            value: value.trim_start_matches(blanks).to_owned(),
        });
    }
    match text {
        "}" => Ok(Line::End),
        _ if text.contains('}') => Err(Problem::TextBesideClose),
        _ => Err(Problem::NotASetting),
    }
}

fn path_length(open: &[Section], current: &Section, last: &str) -> usize {
    let inner = open
        .iter()
        .chain([current])
        .filter(|section| !section.name.is_empty());
    inner.map(|section| section.name.len() + 1).sum::<usize>() + last.len()
}

/// The bound also keeps nesting shallow.
fn check_path(open: &[Section], current: &Section, name: &str) -> Result<(), Problem> {
    if path_length(open, current, name) >= KEY_MAX {
        return Err(Problem::PathTooLong { limit: KEY_MAX });
    }
    Ok(())
}

fn check_key(open: &[Section], current: &Section, key: &str) -> Result<(), Problem> {
    let length = path_length(open, current, key);
    if length > KEY_MAX {
        return Err(Problem::PathTooLong { limit: KEY_MAX });
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:".contains(c);
    let names = open
        .iter()
        .chain([current])
        .map(|section| section.name.as_str())
        .chain([key]);
    if length < KEY_MIN || names.flat_map(str::chars).any(|c| !allowed(c)) {
        return Err(Problem::BadKey {
            key: key.to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn problem(text: &str) -> (Option<usize>, Problem) {
        let error = parse(text.as_bytes()).unwrap_err();
        (error.line, error.problem)
    }

    #[test]
    fn sections_items_and_comments() {
        let text = "# top\n\ntotem {\n  version: 2\r\n\tname : a : b \n  interface {\n    linknumber: 0\n  }\n}\nquorum:{\n}";
        let root = parse(text.as_bytes()).unwrap();
        assert_eq!(root.sections.len(), 2);
        let totem = root.named("totem").next().unwrap();
        assert_eq!(
            (totem.value("version"), totem.value("name")),
            (Some("2"), Some("a : b"))
        );
        assert_eq!((totem.line, totem.item("name").unwrap().line), (3, 5));
        assert_eq!(totem.sections[0].value("linknumber"), Some("0"));
        assert_eq!(root.named("quorum").count(), 1);
    }

    #[test]
    fn of_repeated_keys_the_last_counts() {
        let root = parse(b"totem {\n token: 1\n token: 2 # x\n}").unwrap();
        assert_eq!(root.sections[0].value("token"), Some("2 # x"));
    }

    #[test]
    fn what_corosync_refuses_is_refused_with_its_line() {
        assert_eq!(problem("foo { a: b }"), (Some(1), Problem::TextAfterOpen));
        assert_eq!(problem("a {\n{\n"), (Some(2), Problem::MissingSectionName));
        assert_eq!(problem("totem\n{\n}"), (Some(1), Problem::NotASetting));
        assert_eq!(problem("a {\n}\n}"), (Some(3), Problem::UnexpectedClose));
        assert_eq!(
            problem("a {\n b {\n } x\n"),
            (Some(3), Problem::TextBesideClose)
        );
        let missing = Problem::MissingClose {
            section: "b".into(),
        };
        assert_eq!(problem("a {\n b {\n"), (Some(2), missing));
        assert_eq!(
            problem("totem {\n x y: 1\n}"),
            (Some(2), Problem::BadKey { key: "x y".into() })
        );
        assert_eq!(
            problem("a: b"),
            (Some(1), Problem::BadKey { key: "a".into() })
        );
        assert_eq!(problem("a {\n b: \0\n}"), (Some(2), Problem::NulByte));
    }

    #[test]
    fn long_lines_are_refused_even_as_comments() {
        let comment = |length| format!("{}\n", "#".repeat(length));
        assert!(parse(comment(LINE_MAX - 1).as_bytes()).is_ok());
        assert_eq!(
            problem(&comment(LINE_MAX)),
            (Some(1), Problem::LineTooLong { limit: LINE_MAX })
        );
    }

    #[test]
    fn nesting_is_bounded() {
        let (_, problem) = problem(&"a {\n".repeat(10_000));
        assert_eq!(problem, Problem::PathTooLong { limit: KEY_MAX });
    }

    /// What the real daemon says to a set of texts.
    #[test]
    fn agrees_with_corosync() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/vectors/totem/conf-cases.json"
        );
        let cases: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let grammar = [
            "Line too long",
            "Line is not",
            "Missing section name",
            "Missing closing brace",
            "Extra characters",
            "Unexpected closing",
            "Can't store key",
            "New key makes total",
        ];
        let mut refused = 0;
        for case in cases.as_array().unwrap() {
            let field = |name: &str| case[name].as_str().unwrap();
            let said = field("message").strip_prefix("parser error: FILE:");
            let (line, said) = said
                .and_then(|said| said.split_once(": "))
                .unwrap_or_default();
            let ours = parse(field("config").as_bytes());
            if !grammar.iter().any(|text| said.starts_with(text)) {
                assert!(ours.is_ok(), "{}: {ours:?}", field("name"));
                continue;
            }
            refused += 1;
            let error = ours.expect_err(field("name"));
            // Corosync names the last line, which helps nobody find the open section.
            if !matches!(error.problem, Problem::MissingClose { .. }) {
                assert_eq!(error.line, line.parse().ok(), "{}: {error}", field("name"));
            }
        }
        assert_eq!(refused, 15);
    }

    #[derive(Clone, Debug)]
    enum Node {
        Item(String, String),
        Section(String, Vec<Self>),
    }

    fn nodes() -> impl Strategy<Value = Vec<Node>> {
        let key = "[a-z0-9_./-]{3,8}";
        let value = "([!-z][ -z|~]{0,10}[!-z|~])?".prop_filter("no brace", |v| !v.contains('{'));
        let item = (key, value).prop_map(|(key, value)| Node::Item(key, value));
        let leaf = proptest::collection::vec(item, 0..4);
        leaf.prop_recursive(3, 24, 4, move |inner| {
            let section = (key, inner).prop_map(|(name, inside)| Node::Section(name, inside));
            let item = (key, "[a-z]{0,5}").prop_map(|(key, value)| Node::Item(key, value));
            proptest::collection::vec(prop_oneof![section, item], 0..4)
        })
    }

    fn print(nodes: &[Node], text: &mut String) {
        for node in nodes {
            match node {
                Node::Item(key, value) => *text += &format!("# note\n\t{key} :  {value} \n"),
                Node::Section(name, inside) => {
                    *text += &format!("  {name}  {{\n\n");
                    print(inside, text);
                    *text += " }\n";
                }
            }
        }
    }

    fn same(section: &Section, nodes: &[Node]) -> bool {
        let (mut items, mut sections) = (section.items.iter(), section.sections.iter());
        let all = nodes.iter().all(|node| match node {
            Node::Item(key, value) => items
                .next()
                .is_some_and(|item| (&item.key, &item.value) == (key, value)),
            Node::Section(name, inside) => sections
                .next()
                .is_some_and(|section| &section.name == name && same(section, inside)),
        });
        all && items.next().is_none() && sections.next().is_none()
    }

    proptest! {
        #[test]
        fn what_is_printed_is_parsed(nodes in nodes()) {
            let mut text = String::new();
            print(&nodes, &mut text);
            let parsed = parse(text.as_bytes()).unwrap();
            prop_assert!(same(&parsed, &nodes), "{text}\n{parsed:?}");
        }

        #[test]
        fn any_bytes_are_taken(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(parse(&text));
        }

        #[test]
        fn any_lines_are_taken(text in "([ {}:#a-c\r\n]){0,60}") {
            if let Err(error) = parse(text.as_bytes()) {
                prop_assert!(error.line.is_some_and(|line| line <= text.lines().count() + 1));
            }
        }
    }
}
