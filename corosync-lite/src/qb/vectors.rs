//! Reads captured conversations of the original programs, for tests.
//!
//! One frame per line: a direction (`>` request, `*` one-way request, `<` response, `!` event),
//! its length, and tokens: hexadecimal bytes, `NxHH` for a repeated byte, `Nx..` for bytes that
//! may hold anything. Lines that start with `#` or `@` are notes.

use std::path::{Path, PathBuf};

/// Who sent a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Request,
    OneWay,
    Response,
    Event,
}

/// One captured message.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// The last note before it.
    pub(crate) note: String,
    /// Service of the last connection opened before it.
    pub(crate) direction: Direction,
    /// Bytes that may hold anything are zero here.
    pub(crate) bytes: Vec<u8>,
    /// False where any value will do.
    fixed: Vec<bool>,
}

impl Frame {
    /// Whether `other` says the same.
    pub(crate) fn matches(&self, other: &[u8]) -> bool {
        let same = |index: usize| !self.fixed[index] || self.bytes[index] == other[index];
        other.len() == self.bytes.len() && (0..other.len()).all(same)
    }
}

/// Path of a file with captured data.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/vectors")
        .join(name)
}

/// All frames of a file.
pub(crate) fn frames(name: &str) -> Vec<Frame> {
    let text = std::fs::read_to_string(path(name)).expect(name);
    let (mut note, mut frames) = (String::new(), Vec::new());
    for line in text.lines() {
        let mut tokens = line.split_ascii_whitespace();
        let direction = match tokens.next() {
            Some(">") => Direction::Request,
            Some("*") => Direction::OneWay,
            Some("<") => Direction::Response,
            Some("!") => Direction::Event,
            Some("#") => {
                note = line[1..].trim().to_owned();
                continue;
            }
            _ => continue,
        };
        let length: usize = tokens
            .next()
            .and_then(|token| token.parse().ok())
            .expect(line);
        let (mut bytes, mut fixed) = (Vec::new(), Vec::new());
        for token in tokens {
            let (count, hex) = match token.split_once('x') {
                Some((count, hex)) => (count.parse().expect(line), hex),
                None => (1, token),
            };
            let (unit, known) = match hex {
                ".." => (vec![0], false),
                _ => (unhex(hex), true),
            };
            for _ in 0..count {
                bytes.extend(&unit);
            }
            fixed.resize(bytes.len(), known);
        }
        assert_eq!(bytes.len(), length, "{line}");
        let note = note.clone();
        frames.push(Frame {
            note,
            direction,
            bytes,
            fixed,
        });
    }
    frames
}

/// Bytes of hexadecimal text.
pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("a hexadecimal digit");
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::try_from(digit(pair[0]) * 16 + digit(pair[1])).expect("two digits"))
        .collect()
}
