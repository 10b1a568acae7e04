//! Host keys of nodes.
//!
//! Each node pins its own in its directory of the cluster file system; nodes trust those alone.
//! Clusters of older releases have a file for all as well, which admins' clients may read through a
//! link: where it is there, what it says of this node is kept right.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;

use super::PINS;
use super::keys::{Key, entries, lines, split_word};
use crate::failure::Outcome;
use crate::host::Host;
use crate::host::changes::Changes;
use crate::host::files::{self, PUBLIC, SECRET};

/// Start of a host name that is a hash: `|1|SALT|HASH`.
const HASHED: &[u8] = b"|1|";

/// The file of clusters of older releases.
pub(super) fn shared(host: &Host) -> PathBuf {
    host.paths.pve("priv/known_hosts")
}

/// Writes down the host keys of this node.
pub(super) fn pin(changes: &mut Changes<'_>) -> Outcome {
    let host = changes.host();
    let keys = own_keys(host)?;
    if keys.is_empty() {
        let directory = host.paths.at("etc/ssh");
        changes.warn(format!(
            "no SSH host key in '{}': other nodes can not reach this one by SSH; 'ssh-keygen -A' \
             makes them",
            directory.display()
        ));
        return Ok(());
    }
    let name = host.name.as_str();
    let text: String = keys
        .iter()
        .map(|key| format!("{name} {}\n", key.text()))
        .collect();
    changes.file(&host.paths.node(name, PINS), text.as_bytes(), PUBLIC)
}

/// Corrects what the file of old clusters says of this node, if there is such a file.
pub(super) fn refresh(changes: &mut Changes<'_>, address: Option<IpAddr>) -> Outcome {
    let host = changes.host();
    let path = shared(host);
    let Some(present) = files::read(&path)?.filter(|text| !text.is_empty()) else {
        return Ok(());
    };
    let keys = own_keys(host)?;
    if keys.is_empty() {
        return Ok(());
    }
    let names = names_of(host.name.as_str(), address);
    let mut text = without(&present, &names, |key| !keys.contains(key));
    for name in &names {
        for key in &keys {
            if !knows(&text, name, key) {
                text.extend(format!("{name} {}\n", key.text()).bytes());
            }
        }
    }
    changes.file(&path, &text, SECRET)
}

/// Gives this node its own file of known hosts, where it has a link to the cluster's.
///
/// # Errors
/// When the file can not be read or written.
pub fn unmerge(changes: &mut Changes<'_>) -> Outcome {
    let path = changes.host().paths.at("etc/ssh/ssh_known_hosts");
    if !path.is_symlink() {
        return Ok(());
    }
    let due = format!(
        "replace the link '{}' by a copy of its content",
        path.display()
    );
    if changes.due(due)? {
        let content = files::read(&path)?.unwrap_or_default();
        files::replace(&path, &content, PUBLIC)?;
    }
    Ok(())
}

/// Names that a node has in files of known hosts.
pub(super) fn names_of(node: &str, address: Option<IpAddr>) -> Vec<String> {
    // Clients look for names in lower case.
    let mut names = vec![node.to_ascii_lowercase()];
    names.extend(address.map(|address| address.to_string()));
    names
}

/// The keys of this node's SSH server, RSA first as the original has it.
fn own_keys(host: &Host) -> Outcome<Vec<Key>> {
    let directory = host.paths.at("etc/ssh");
    let mut files: BTreeSet<PathBuf> = BTreeSet::new();
    for found in fs::read_dir(&directory).into_iter().flatten().flatten() {
        let name = found.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("ssh_host_") && name.ends_with("_key") {
            files.insert(found.path());
        }
    }
    for setting in super::sshd::settings(host)? {
        if setting.name.eq_ignore_ascii_case("HostKey") {
            files.insert(host.paths.at(setting.value.trim_matches('"')));
        }
    }
    let mut keys = Vec::new();
    for file in files.into_iter().filter(|file| file.exists()) {
        let mut public = file.into_os_string();
        public.push(".pub");
        let text = files::read(public.as_ref())?.unwrap_or_default();
        for entry in entries(&text) {
            if !keys.contains(&entry.key) {
                keys.push(entry.key);
            }
        }
    }
    keys.sort_by_key(|key| !key.text().starts_with("ssh-rsa "));
    Ok(keys)
}

/// The pinned keys of a node.
pub(super) fn pinned(host: &Host, node: &str) -> Outcome<BTreeSet<Key>> {
    let text = files::read(&host.paths.node(node, PINS))?.unwrap_or_default();
    Ok(lines(&text)
        .filter_map(Known::parse)
        .map(|it| it.key)
        .collect())
}

/// A text without what it says of these names about keys that `is_wrong`.
pub(super) fn without(text: &[u8], names: &[String], is_wrong: impl Fn(&Key) -> bool) -> Vec<u8> {
    let mut out = Vec::new();
    for line in lines(text) {
        let known = Known::parse(line).filter(|known| is_wrong(&known.key));
        let kept = match known {
            None => Some(line.to_vec()),
            Some(known) => known.without(names),
        };
        if let Some(line) = kept {
            out.extend(line);
            out.push(b'\n');
        }
    }
    out
}

/// A text without the lines of these keys, whatever names they have.
pub(super) fn without_keys(text: &[u8], keys: &BTreeSet<Key>) -> Vec<u8> {
    let kept = |line: &&[u8]| !Known::parse(line).is_some_and(|known| keys.contains(&known.key));
    lines(text)
        .filter(kept)
        .flat_map(|line| [line, b"\n"].concat())
        .collect()
}

fn knows(text: &[u8], name: &str, key: &Key) -> bool {
    let mut known = lines(text).filter_map(Known::parse);
    known.any(|it| it.key == *key && it.names.split(|byte| *byte == b',').any(|it| is(it, name)))
}

/// A line that binds names to a key. Lines with a marker (`@revoked`) are none: they mean something
/// else.
struct Known<'a> {
    names: &'a [u8],
    key: Key,
    rest: &'a [u8],
}

impl<'a> Known<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let line = line.trim_ascii();
        if line.starts_with(b"#") || line.starts_with(b"@") {
            return None;
        }
        let (names, rest) = split_word(line);
        let (kind, after) = split_word(rest);
        let key = Key::parse(kind, split_word(after).0)?;
        Some(Self { names, key, rest })
    }

    /// The line without these names; nothing if there are no others.
    fn without(&self, names: &[String]) -> Option<Vec<u8>> {
        let all = self.names.split(|byte| *byte == b',');
        let kept: Vec<_> = all
            .filter(|found| !names.iter().any(|name| is(found, name)))
            .collect();
        (!kept.is_empty()).then(|| [&kept.join(&b','), &b" "[..], self.rest].concat())
    }
}

/// Whether a name in a file, plain or hashed, is this one.
fn is(found: &[u8], name: &str) -> bool {
    match found.strip_prefix(HASHED) {
        Some(hashed) => matches_hash(hashed, name).unwrap_or(false),
        None => found.eq_ignore_ascii_case(name.as_bytes()),
    }
}

fn matches_hash(hashed: &[u8], name: &str) -> Option<bool> {
    let split = hashed.iter().position(|byte| *byte == b'|')?;
    let (salt, hash) = (&hashed[..split], &hashed[split + 1..]);
    let salt = PKey::hmac(&STANDARD.decode(salt).ok()?).ok()?;
    let mut signer = Signer::new(MessageDigest::sha1(), &salt).ok()?;
    signer.update(name.as_bytes()).ok()?;
    Some(signer.sign_to_vec().ok()? == STANDARD.decode(hash).ok()?)
}

#[cfg(test)]
mod tests {
    use super::super::keys::tests::{keygen, line};
    use super::*;
    use crate::host::command::program;

    fn key(number: u8) -> String {
        line("ssh-rsa", number, "")
    }

    #[test]
    fn wrong_keys_of_a_name_go_and_other_names_stay() {
        let text = format!(
            "# by hand\nn1 {}\nn1,n2,10.0.0.1 {} c\nn3 {}\n@revoked n1 {}\nnonsense\n",
            key(1),
            key(2),
            key(2),
            key(2)
        );
        let names = names_of("N1", Some("10.0.0.1".parse().unwrap()));
        let wrong = |it: &Key| it.text() == key(2);
        let left = String::from_utf8(without(text.as_bytes(), &names, wrong)).unwrap();
        let expected = format!(
            "# by hand\nn1 {}\nn2 {} c\nn3 {}\n@revoked n1 {}\nnonsense\n",
            key(1),
            key(2),
            key(2),
            key(2)
        );
        assert_eq!(left, expected);
    }

    #[test]
    fn hashed_names_are_recognized() {
        let dir = tempfile::TempDir::new().unwrap();
        let (_, line) = keygen(dir.path());
        let path = dir.path().join("known");
        fs::write(&path, format!("n1,10.0.0.1 {line}")).unwrap();
        let args = ["-H", "-f", path.to_str().unwrap()];
        program("ssh-keygen", args).output().unwrap();
        let text = fs::read(&path).unwrap();
        assert!(text.starts_with(HASHED));
        let left = |name: &str| without(&text, &[name.to_owned()], |_| true);
        assert_eq!(left("n2"), text);
        assert_eq!(lines(&left("n1")).count(), 1);
        assert_eq!(lines(&left("10.0.0.1")).count(), 1);
        for broken in ["|1|", "|1||", "|1|a|b", "|1|AAAA"] {
            assert!(!is(broken.as_bytes(), "n1"), "{broken}");
        }
    }
}
