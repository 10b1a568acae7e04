//! What campaigns start with: captured traffic of the originals.

use std::fs;
use std::path::{Path, PathBuf};

/// A file or folder of captured traffic.
#[must_use]
pub fn vectors(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("vectors")
        .join(name)
}

/// Text of a captured file.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn text(name: &str) -> String {
    let path = vectors(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Bytes written in hexadecimal; what is no digit is skipped.
#[must_use]
pub fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .filter_map(|digit| u8::try_from(digit).ok())
        .collect();
    digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// Messages of the ring protocol.
#[must_use]
pub fn ring_messages() -> Vec<Vec<u8>> {
    text("totem/srp-packets.txt")
        .lines()
        .filter_map(|line| line.rsplit_once('|'))
        .map(|(_, hex)| unhex(hex))
        .collect()
}

/// Single opened datagrams, those of the ring protocol and those of the transport.
///
/// # Panics
/// When the file is not what it should be.
#[must_use]
pub fn datagrams() -> Vec<Vec<u8>> {
    let all: Vec<serde_json::Value> =
        serde_json::from_str(&text("totem/packets.json")).expect("a list of datagrams");
    all.iter()
        .filter_map(|entry| entry["wire"].as_str())
        .map(unhex)
        .collect()
}

/// Texts of `corosync.conf`.
///
/// # Panics
/// When the file is not what it should be.
#[must_use]
pub fn configurations() -> Vec<Vec<u8>> {
    let all: Vec<serde_json::Value> =
        serde_json::from_str(&text("totem/conf-cases.json")).expect("a list of cases");
    all.iter()
        .filter_map(|entry| entry["config"].as_str())
        .map(|text| text.as_bytes().to_vec())
        .collect()
}

/// Messages of local clients and what they were answered, by the first letter of the captured
/// line: `>` and `*` requests, `<` responses, `!` events. The first byte is the service's number
/// in `SERVICES`.
#[must_use]
pub fn local_messages(kinds: &[&str]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    for (number, service) in (0..).zip(SERVICES) {
        for name in files("ipc", ".hex") {
            let name = name.display().to_string();
            if !name.contains(&format!("/cs-{service}")) {
                continue;
            }
            let text = fs::read_to_string(&name).unwrap_or_default();
            let frames = text.lines().filter_map(|line| line.split_once(' '));
            for (_, frame) in frames.filter(|(kind, _)| kinds.contains(kind)) {
                let mut message = vec![number];
                message.extend(frame_bytes(frame));
                messages.push(message);
            }
        }
    }
    messages
}

/// Local services, as the names of files have them.
pub const SERVICES: [&str; 5] = ["cfg", "cmap", "cpg", "quorum", "votequorum"];

/// Length and tokens: `HH...`, `NxHH` or `Nx..`.
fn frame_bytes(frame: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for token in frame.split_ascii_whitespace().skip(1) {
        let (count, hex) = token
            .split_once('x')
            .map_or((1, token), |(count, hex)| (count.parse().unwrap_or(0), hex));
        let unit = if hex == ".." { vec![0] } else { unhex(hex) };
        bytes.extend(unit.repeat(count));
    }
    bytes
}

/// Messages between members of a configuration file system, and their states.
#[must_use]
pub fn replication_messages() -> Vec<Vec<u8>> {
    files("replication", ".hex")
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .map(|text| unhex(&text))
        .collect()
}

/// States in files of their own.
#[must_use]
pub fn replication_states() -> Vec<Vec<u8>> {
    files("replication", ".bin")
        .iter()
        .filter_map(|path| fs::read(path).ok())
        .collect()
}

/// Files of a folder with this ending, in order.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(vectors(folder)).into_iter().flatten();
    let mut paths: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_seeds_of_all_kinds() {
        assert!(ring_messages().len() > 5);
        assert!(datagrams().len() > 20);
        assert!(configurations().len() > 100);
        assert!(local_messages(&[">", "*"]).len() > 50);
        assert!(replication_messages().len() > 30);
        assert!(!replication_states().is_empty());
        assert_eq!(frame_bytes("5 0aFf 3x.."), [10, 255, 0, 0, 0]);
    }
}
