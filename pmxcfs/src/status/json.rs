//! Escaping for the JSON texts of the virtual files.

use std::fmt;

/// The text that `write` writes.
pub(crate) fn text(write: impl FnOnce(&mut String) -> fmt::Result) -> String {
    let mut out = String::new();
    write(&mut out).expect("a String takes everything");
    out
}

/// The inside of a JSON string; bytes that are not UTF-8 become replacement characters.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for c in String::from_utf8_lossy(bytes).chars() {
        push_escaped(&mut out, c);
    }
    out
}

/// The inside of a JSON string for a stored log text.
///
/// Such a text already has `\"` for quotes and `\uXXXX` for foreign characters, but single
/// backslashes of the original text, too. Those are doubled; complete escapes stay.
#[must_use]
pub fn escape_log_text(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_ref();
    while let Some(c) = rest.chars().next() {
        let escape_len = stored_escape_len(rest);
        let len = if escape_len > 0 {
            escape_len
        } else {
            c.len_utf8()
        };
        let (head, tail) = rest.split_at(len);
        if escape_len > 0 {
            out.push_str(head);
        } else {
            push_escaped(&mut out, c);
        }
        rest = tail;
    }
    out
}

/// Bytes of the complete escape that `text` starts with, 0 if it starts with something else.
fn stored_escape_len(text: &str) -> usize {
    if text.starts_with("\\\"") {
        return 2;
    }
    let digits = text.strip_prefix("\\u").and_then(|tail| tail.get(..4));
    let is_hex = |digits: &&str| digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let code = digits
        .filter(is_hex)
        .and_then(|digits| u32::from_str_radix(digits, 16).ok());
    // Half of a surrogate pair is not a character, and parsers reject it.
    if code.is_some_and(|code| char::from_u32(code).is_some()) {
        6
    } else {
        0
    }
}

fn push_escaped(out: &mut String, c: char) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\0'..='\u{1f}' => {
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        }
        _ => out.push(c),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(inside: &str) -> String {
        serde_json::from_str(&format!("\"{inside}\"")).expect(inside)
    }

    #[test]
    fn strings_survive_a_parser() {
        let text = "a\"b\\c\n\u{0}\u{7f}\u{e4}\u{1f600}";
        assert_eq!(parse(&escape(text.as_bytes())), text);
        assert_eq!(escape(b"plain"), "plain");
    }

    #[test]
    fn stored_escapes_stay_and_backslashes_are_doubled() {
        for (stored, printed) in [
            (r#"say \"x\""#, r#"say \"x\""#),
            (r"\u00e4", r"\u00e4"),
            (r"C:\dir\", r"C:\\dir\\"),
            (r#"\\""#, r#"\\\""#),
            (r"\u00", r"\\u00"),
            (r"\u00g0", r"\\u00g0"),
            (r"\ud800", r"\\ud800"),
            (r"\n", r"\\n"),
        ] {
            assert_eq!(escape_log_text(stored.as_bytes()), printed);
            parse(printed);
        }
        assert_eq!(escape_log_text(b"a\"b\n"), "a\\\"b\\u000a");
    }

    proptest! {
        #[test]
        fn output_always_parses(
            bytes in prop::collection::vec(any::<u8>(), 0..60),
            text in r#"[\\u"0-9a-fx]{0,40}"#,
        ) {
            for input in [&bytes[..], text.as_bytes()] {
                parse(&escape(input));
                parse(&escape_log_text(input));
            }
        }
    }
}
