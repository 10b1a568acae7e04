//! Reads the captured messages for the tests of this crate.

use std::path::PathBuf;

use bytes::Bytes;

use super::MemberId;

/// The folder of captured messages.
pub(crate) fn folder() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/vectors/replication"
    ))
}

/// The message of `name`, a `.hex` file.
pub(crate) fn hex(name: &str) -> Bytes {
    unhex(std::fs::read_to_string(folder().join(name)).unwrap().trim())
}

/// The bytes of `name`, a `.bin` file.
pub(crate) fn bin(name: &str) -> Bytes {
    std::fs::read(folder().join(name)).unwrap().into()
}

/// Names of all files with this ending, sorted.
pub(crate) fn names(ending: &str) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(ending))
        .collect();
    names.sort();
    assert!(!names.is_empty(), "no *{ending} in {}", folder().display());
    names
}

/// All messages that a trace shows as received, with their senders.
pub(crate) fn trace_received(name: &str) -> Vec<(MemberId, Bytes)> {
    let text = std::fs::read_to_string(folder().join(name)).unwrap();
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace().skip(1);
            if words.next() != Some("recv") {
                return None;
            }
            let (node_id, pid) = words.next().unwrap().split_once('/').unwrap();
            let from = MemberId {
                node: node_id.parse().unwrap(),
                pid: pid.parse().unwrap(),
            };
            Some((from, unhex(words.next().unwrap())))
        })
        .collect()
}

fn unhex(text: &str) -> Bytes {
    assert!(text.len().is_multiple_of(2));
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
        .collect()
}
