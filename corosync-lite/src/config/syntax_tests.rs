use proptest::prelude::*;

use super::*;
use crate::config::Place;

fn problem(text: &str) -> (usize, usize, Problem) {
    let error = Document::parse(text.as_bytes()).unwrap_err();
    let at = error.at.unwrap();
    (at.line, at.column, error.problem)
}

const TEXT: &str = "# top\n\ntotem {\n  version: 2\r\n\tname : a : b \n  interface {\n    \
                    linknumber: 0\n  }\n}\nquorum:{\n}";

#[test]
fn sections_items_and_comments() {
    let document = Document::parse(TEXT.as_bytes()).unwrap();
    let root = document.root();
    assert_eq!(root.sections().count(), 2);
    let totem = root.named("totem").next().unwrap();
    assert_eq!(
        (totem.value("version"), totem.value("name")),
        (Some("2"), Some("a : b"))
    );
    assert_eq!((totem.line(), totem.item("name").unwrap().line()), (3, 5));
    assert_eq!(
        totem.named("interface").next().unwrap().value("linknumber"),
        Some("0")
    );
    assert_eq!(root.named("quorum").count(), 1);
    assert_eq!(document.print(), TEXT.as_bytes());
}

#[test]
fn problems_have_line_and_column() {
    assert_eq!(problem("foo { a: b }"), (1, 7, Problem::TextAfterOpen));
    assert_eq!(problem("a {\n {\n"), (2, 2, Problem::MissingSectionName));
    assert_eq!(problem("totem\n{\n}"), (1, 1, Problem::NotASetting));
    assert_eq!(problem("a {\n}\n }"), (3, 2, Problem::UnexpectedClose));
    assert_eq!(
        problem("a {\n b {\n } x\n"),
        (3, 2, Problem::TextBesideClose)
    );
    assert_eq!(problem("a {\n b {\n"), (2, 2, Problem::MissingClose));
    assert_eq!(problem("a {\n b: \0\n}"), (2, 5, Problem::NulByte));
    let bad = Problem::BadKey {
        key: "totem.x y".into(),
    };
    assert_eq!(problem("totem {\n x y: 1\n}"), (2, 2, bad));
    assert_eq!(
        problem(&"a {\n".repeat(10_000)).2,
        Problem::SectionPathTooLong
    );
}

#[test]
fn a_byte_order_mark_is_named_and_control_characters_are_not_shown() {
    let mark = "\u{feff}totem {\n version: 2\n}\n";
    assert_eq!(problem(mark), (1, 1, Problem::ByteOrderMark));
    let error = Document::parse(b"\x1b[2J\xff totem\n").unwrap_err();
    let text = error.render("\x07name");
    assert!(!text.contains(['\x1b', '\x07']), "{text}");
    assert!(text.contains("\n  ?[2J"), "{text}");
}

#[test]
fn long_lines_are_refused_even_as_comments() {
    let comment = |length| format!("{}\n", "#".repeat(length));
    assert!(Document::parse(comment(LINE_MAX - 1).as_bytes()).is_ok());
    assert_eq!(problem(&comment(LINE_MAX)).2, Problem::LineTooLong);
}

#[test]
fn errors_show_the_place() {
    let error = Document::parse(b"totem {\n\tx y: 1\n}").unwrap_err();
    let expected = "corosync.conf:2:2: Can't store key \"totem.x y\" into icmap, returned error \
                    is CS_ERR_NAME_TOO_LONG\n  \tx y: 1\n  \t^\n  use 3 to 255 letters, digits \
                    and . _ - / for the section and key together\n";
    assert_eq!(error.render("corosync.conf"), expected);
}

#[test]
fn the_key_is_not_shown() {
    let error = ConfigError {
        at: Some(Place {
            line: 3,
            column: 2,
            text: "\tkey: c2VjcmV0".to_owned(),
        }),
        problem: Problem::KeyTooShort,
    };
    let shown = error.render("corosync.conf");
    assert!(!shown.contains("c2Vj"), "{shown}");
    assert!(shown.contains("\tkey: (not shown)\n  \t^"), "{shown}");
}

#[test]
fn edits_touch_their_lines_alone() {
    let text = "# c\ntotem {\n\tversion: 2\r\n\tconfig_version : 7  \n\tempty:\n\n  # end\n}\n";
    let mut document = Document::parse(text.as_bytes()).unwrap();
    let totem = document.root_mut().named_mut("totem").next().unwrap();
    totem.set("config_version", "8");
    totem.set("version", "3");
    totem.set("empty", "full");
    totem.set("token", "500");
    assert!(totem.unset("nothing").eq(&false));
    let expected = "# c\ntotem {\n\tversion: 3\r\n\tconfig_version : 8  \n\tempty: full\n\
                    \ttoken: 500\n\n  # end\n}\n";
    assert_eq!(String::from_utf8(document.print()).unwrap(), expected);
    assert!(
        document
            .root_mut()
            .named_mut("totem")
            .next()
            .unwrap()
            .unset("token")
    );
    document.root_mut().add_section("nodelist", |list| {
        list.add_section("node", |node| node.set("nodeid", "1"));
        list.add_section("node", |node| node.set("nodeid", "2"));
        assert_eq!(
            list.remove_sections(|node| node.value("nodeid") == Some("1")),
            1
        );
    });
    let printed = String::from_utf8(document.print()).unwrap();
    assert!(
        printed.ends_with("}\nnodelist {\n  node {\n    nodeid: 2\n  }\n}\n"),
        "{printed}"
    );
    assert!(Document::parse(printed.as_bytes()).is_ok());
}

/// A text that is mostly right.
fn texts() -> impl Strategy<Value = String> {
    let item = "[ \t]{0,2}[a-z]{3,6}[ ]?:[ \t]?[a-z0-9:} ]{0,8}[ ]?(\r)?\n";
    let note = "[ \t]{0,2}(#[ -~]{0,10})?(\r)?\n";
    let leaf = prop_oneof![item, note];
    let inner = leaf.prop_recursive(4, 24, 5, |inner| {
        let parts = proptest::collection::vec(inner, 0..5);
        (
            parts,
            "[ ]{0,2}[a-z]{3}[ :]{0,2}\\{[ ]?\n",
            "[ ]{0,2}\\}[ ]?\n",
        )
            .prop_map(|(parts, open, close)| format!("{open}{}{close}", parts.concat()))
    });
    proptest::collection::vec(inner, 0..6).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn what_is_parsed_prints_as_it_was(text in texts(), cut: bool) {
        let text = if cut { text.trim_end_matches('\n') } else { &text };
        let document = Document::parse(text.as_bytes()).unwrap();
        prop_assert_eq!(document.print(), text.as_bytes());
    }

    #[test]
    fn any_bytes_are_taken(text in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(document) = Document::parse(&text) {
            prop_assert_eq!(document.print(), text);
        }
    }

    #[test]
    fn any_lines_are_taken(text in "([ {}:#a-c\r\n]){0,60}") {
        match Document::parse(text.as_bytes()) {
            Ok(document) => prop_assert_eq!(document.print(), text.as_bytes()),
            Err(error) => {
                prop_assert!(error.render("x").contains('^'));
                prop_assert!(error.at.unwrap().line <= text.lines().count() + 1);
            }
        }
    }

    #[test]
    fn what_is_set_is_read_back(text in texts(), key in "[a-z]{3,6}", value in "[a-z0-9:]{0,6}") {
        let mut document = Document::parse(text.as_bytes()).unwrap();
        document.root_mut().set(&key, &value);
        document.root_mut().add_section("new", |section| section.set(&key, &value));
        let again = Document::parse(&document.print()).unwrap();
        prop_assert_eq!(again.root().value(&key), Some(value.as_str()));
        prop_assert_eq!(again.root().named("new").last().unwrap().value(&key), Some(value.as_str()));
    }
}
