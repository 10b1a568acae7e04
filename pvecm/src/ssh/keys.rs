//! Public keys, and lines of text that hold them.
//!
//! Lines are bytes: comments of users are in any encoding.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A public key of any type, as SSH encodes it; its type is part of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(Vec<u8>);

impl Key {
    /// Reads the two words `TYPE BASE64`.
    pub fn parse(kind: &[u8], text: &[u8]) -> Option<Self> {
        let blob = STANDARD.decode(text).ok()?;
        let (length, rest) = blob.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        (!kind.is_empty() && rest.get(..length)? == kind).then_some(Self(blob))
    }

    /// The two words `TYPE BASE64`.
    pub fn text(&self) -> String {
        let kind = self.0.split_first_chunk::<4>().and_then(|(length, rest)| {
            let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
            rest.get(..length)
        });
        let kind = String::from_utf8_lossy(kind.unwrap_or_default());
        format!("{kind} {}", STANDARD.encode(&self.0))
    }

    /// As `ssh-keygen -l` shows it.
    pub fn fingerprint(&self) -> String {
        let hash = openssl::sha::sha256(&self.0);
        format!("SHA256:{}", STANDARD.encode(hash).trim_end_matches('='))
    }
}

/// A line of `authorized_keys`, or of a file with one public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What limits the key's use; may be empty.
    pub options: &'a [u8],
    /// The key.
    pub key: Key,
    /// The rest of the line.
    pub comment: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Reads a line; nothing if it holds no key.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let line = line.trim_ascii();
        if line.starts_with(b"#") {
            return None;
        }
        let plain = key_and_comment(line).map(|(key, comment)| (&line[..0], key, comment));
        let (options, key, comment) = plain.or_else(|| {
            let (options, rest) = split_options(line)?;
            let (key, comment) = key_and_comment(rest)?;
            Some((options, key, comment))
        })?;
        Some(Self {
            options,
            key,
            comment,
        })
    }
}

/// The lines of a text that hold keys.
pub fn entries(text: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    lines(text).filter_map(Entry::parse)
}

/// The lines of a text, without what ends them.
pub fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let text = (!text.is_empty()).then_some(text);
    text.into_iter()
        .flat_map(|text| text.split(|byte| *byte == b'\n'))
}

/// The first word and what follows the blanks after it.
pub fn split_word(line: &[u8]) -> (&[u8], &[u8]) {
    let end = line.iter().position(u8::is_ascii_whitespace);
    let (word, rest) = line.split_at(end.unwrap_or(line.len()));
    (word, rest.trim_ascii_start())
}

fn key_and_comment(line: &[u8]) -> Option<(Key, &[u8])> {
    let (kind, rest) = split_word(line);
    let (text, comment) = split_word(rest);
    Some((Key::parse(kind, text)?, comment))
}

/// Options end at the first blank outside quotes.
fn split_options(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut quoted = false;
    let mut bytes = line.iter().enumerate();
    while let Some((position, byte)) = bytes.next() {
        match byte {
            b'\\' if line.get(position + 1) == Some(&b'"') => drop(bytes.next()),
            b'"' => quoted = !quoted,
            b' ' | b'\t' if !quoted => {
                let (options, rest) = line.split_at(position);
                return Some((options, rest.trim_ascii_start()));
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
pub mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use proptest::prelude::*;

    use super::*;
    use crate::host::command::program;

    /// A line with a made-up key.
    pub fn line(kind: &str, number: u8, comment: &str) -> String {
        let mut blob = u32::try_from(kind.len()).unwrap().to_be_bytes().to_vec();
        blob.extend(kind.as_bytes());
        blob.extend([0, 0, 0, 1, number]);
        format!("{kind} {} {comment}", STANDARD.encode(blob))
            .trim_end()
            .to_owned()
    }

    #[test]
    fn keys_of_all_types_are_found_with_options_and_without_comment() {
        for kind in [
            "ssh-rsa",
            "ssh-ed25519",
            "ecdsa-sha2-nistp256",
            "sk-ssh-ed25519@openssh.com",
            "ssh-rsa-cert-v01@openssh.com",
        ] {
            let plain = line(kind, 1, "");
            let key = Entry::parse(plain.as_bytes()).unwrap().key;
            assert_eq!(key.text(), plain);
            let full = line(kind, 1, "root@n1 of the lab");
            assert_eq!(Entry::parse(full.as_bytes()).unwrap().key, key);
            for options in [
                "no-pty",
                r#"command="a b \"c d\" ssh-rsa AAAA",from="10.0.0.0/8""#,
                "from=\"*.lab,!x\",restrict",
            ] {
                let text = format!(" \t{options}  {full}\r");
                let entry = Entry::parse(text.as_bytes()).unwrap();
                assert_eq!(entry.options, options.as_bytes());
                assert_eq!(
                    (entry.key, entry.comment),
                    (key.clone(), &b"root@n1 of the lab"[..])
                );
            }
        }
    }

    #[test]
    fn other_lines_hold_no_key() {
        let key = line("ssh-rsa", 1, "x");
        for text in [
            "",
            " ",
            "# comment",
            &format!("#{key}"),
            "ssh-rsa",
            "ssh-rsa AAAA",
            "ssh-rsa !!!! x",
            "ssh-dss AAAAB3NzaC1yc2E= another type inside",
            &key.replacen("ssh-rsa", "ssh-dss", 1),
            "\"",
            &format!("\"a {key}"),
        ] {
            assert_eq!(Entry::parse(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn lines_end_with_or_without_newline() {
        let all = |text: &'static str| lines(text.as_bytes()).collect::<Vec<_>>();
        assert_eq!(all(""), [b""; 0]);
        assert_eq!(all("\n"), [b""; 0]);
        assert_eq!(all("a"), [b"a"]);
        assert_eq!(all("a\n\nb\n"), [&b"a"[..], b"", b"b"]);
    }

    /// A new key: its file and its line.
    pub fn keygen(dir: &Path) -> (PathBuf, String) {
        let path = dir.join("key");
        let name = path.to_str().unwrap();
        let args = ["-q", "-t", "ed25519", "-N", "", "-C", "x", "-f", name];
        program("ssh-keygen", args).output().unwrap();
        let public = path.with_extension("pub");
        let line = fs::read_to_string(&public).unwrap();
        (public, line)
    }

    #[test]
    fn fingerprints_are_as_ssh_keygen_shows_them() {
        let dir = tempfile::TempDir::new().unwrap();
        let (path, line) = keygen(dir.path());
        let shown = program("ssh-keygen", ["-l", "-f", path.to_str().unwrap()]);
        let shown = shown.output().unwrap();
        let key = Entry::parse(line.as_bytes()).unwrap().key;
        assert_eq!(shown.split(' ').nth(1), Some(&*key.fingerprint()));
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(text: Vec<u8>) {
            for entry in entries(&text) {
                prop_assert!(!entry.key.text().is_empty());
            }
        }
    }
}
