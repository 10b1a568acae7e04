//! Whose keys let in: one file for all nodes, which root's own file links to.
//!
//! What is in the file stays, in its order; what is missing is appended. A key is the same in
//! whatever type, comment or place it comes; the same key with other options is another line,
//! because it means something else.

use std::collections::BTreeSet;
use std::fs;

use super::ROOT_KEYS;
use super::keys::{Entry, Key, entries, lines};
use crate::conf::ClusterConf;
use crate::failure::Outcome;
use crate::host::Host;
use crate::host::changes::Changes;
use crate::host::files::{self, PUBLIC, SECRET};

/// Root's own keys of before the link, until they are merged.
pub(super) const BACKUP: &str = "authorized_keys.org";

/// Merges and links.
pub(super) fn merge(changes: &mut Changes<'_>) -> Outcome {
    let host = changes.host();
    let (own, record) = (own_key(changes)?, own_record(host)?);
    let shared = host.paths.pve("priv/authorized_keys");
    let (local, backup) = (host.paths.ssh("authorized_keys"), host.paths.ssh(BACKUP));
    let mut add = Vec::new();
    if !fs::read_link(&local).is_ok_and(|target| target == shared) {
        // A link to nowhere has nothing.
        add.extend(files::read(&local)?);
    }
    add.extend(files::read(&backup)?);

    let mut needed = own.clone().unwrap_or_default();
    let mut of_others = BTreeSet::new();
    for node in members(host).filter(|node| *node != host.name.as_str()) {
        let text = files::read(&host.paths.node(&node, ROOT_KEYS))?.unwrap_or_default();
        of_others.extend(entries(&text).map(|entry| entry.key));
        needed.push(b'\n');
        needed.extend(text);
    }
    let mut gone = BTreeSet::new();
    if let Some(own) = &own {
        let present: BTreeSet<Key> = entries(own).map(|entry| entry.key).collect();
        let recorded = entries(&record).map(|entry| entry.key);
        gone.extend(recorded.filter(|key| !present.contains(key) && !of_others.contains(key)));
    }

    let present = files::read(&shared)?.unwrap_or_default();
    let merged = merged(&present, &add, &needed, &gone);
    changes.file(&shared, &merged, SECRET)?;
    if let Some(own) = own {
        // Afterwards: until the old key is out of the one file it stays in the other.
        let path = host.paths.node(host.name.as_str(), ROOT_KEYS);
        changes.file(&path, &own, PUBLIC)?;
    }
    changes.directory(&host.paths.ssh(""), super::root::DIRECTORY)?;
    changes.link(&local, &shared)?;
    changes.absent(&backup)
}

/// Keeps the keys that let in on this node now for the merge after it has joined a cluster, whose
/// files take the place of this node's.
///
/// # Errors
/// When a file can not be read or written.
pub fn carry_over(host: &Host) -> Outcome {
    let backup = host.paths.ssh(BACKUP);
    let old = files::read(&backup)?.unwrap_or_default();
    let now = files::read(&host.paths.ssh("authorized_keys"))?.unwrap_or_default();
    let shared = files::read(&host.paths.pve("priv/authorized_keys"))?.unwrap_or_default();
    let kept = merged(&old, &[now, shared], b"", &BTreeSet::new());
    if kept.is_empty() || kept == old {
        return Ok(());
    }
    files::replace(&backup, &kept, SECRET)
}

/// The new content of the file.
fn merged(present: &[u8], add: &[Vec<u8>], needed: &[u8], gone: &BTreeSet<Key>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut seen = BTreeSet::new();
    let mut others = BTreeSet::new();
    let mut put = |line: &[u8]| {
        out.extend(line);
        out.push(b'\n');
    };
    let mut keys = BTreeSet::new();
    let foreign = add
        .iter()
        .flat_map(|text| lines(text))
        .map(|line| (line, false));
    for (line, is_present) in lines(present).map(|line| (line, true)).chain(foreign) {
        let line = line.trim_ascii_end();
        match Entry::parse(line) {
            Some(entry) if gone.contains(&entry.key) => {}
            Some(entry) => {
                if seen.insert((entry.options.to_vec(), entry.key.clone())) {
                    put(line);
                }
                keys.insert(entry.key);
            }
            // Comments and what nobody understands: all that was there, once what is new.
            None => {
                let is_new = others.insert(line.to_vec());
                if is_present || (is_new && !line.is_empty()) {
                    put(line);
                }
            }
        }
    }
    for line in lines(needed) {
        // Who limits a node's key by options does so on purpose.
        if Entry::parse(line).is_some_and(|entry| keys.insert(entry.key)) {
            put(line.trim_ascii_end());
        }
    }
    out
}

/// The key of this node's root: one line.
fn own_key(changes: &mut Changes<'_>) -> Outcome<Option<Vec<u8>>> {
    let path = changes.host().paths.ssh("id_rsa.pub");
    let text = files::read(&path)?.unwrap_or_default();
    let line = lines(&text).find(|line| Entry::parse(line).is_some());
    let own = line.map(|line| [line.trim_ascii_end(), b"\n"].concat());
    if own.is_none() && !text.is_empty() {
        changes.warn(format!("'{}' holds no public key", path.display()));
    }
    Ok(own)
}

fn own_record(host: &Host) -> Outcome<Vec<u8>> {
    let path = host.paths.node(host.name.as_str(), ROOT_KEYS);
    Ok(files::read(&path)?.unwrap_or_default())
}

/// Nodes of the cluster's configuration; none without one.
fn members(host: &Host) -> impl Iterator<Item = String> {
    let text = files::read(&host.paths.cluster_conf()).ok().flatten();
    let conf = text.and_then(|text| ClusterConf::parse(&text).ok());
    let nodes = conf.map(|conf| conf.nodes()).unwrap_or_default();
    // Names come from a file that people edit, and become part of a path.
    let names = nodes.into_iter().map(|node| node.name);
    names.filter(|name| name.parse::<crate::value::NodeName>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::super::keys::tests::line;
    use super::*;

    fn merge(present: &str, add: &[&str], needed: &str) -> String {
        let add: Vec<_> = add.iter().map(|text| text.as_bytes().to_vec()).collect();
        let merged = merged(
            present.as_bytes(),
            &add,
            needed.as_bytes(),
            &BTreeSet::new(),
        );
        String::from_utf8(merged).unwrap()
    }

    #[test]
    fn nothing_is_lost_and_nothing_is_twice() {
        let (a, b) = (line("ssh-rsa", 1, "root@n1"), line("ssh-ed25519", 2, ""));
        let c = format!(
            "from=\"10.0.0.0/8\" {}",
            line("ecdsa-sha2-nistp256", 3, "x")
        );
        let present = format!("# by hand\n\n{a}\n{c}\nno key at all\n{a}\n");
        let twice = line("ssh-rsa", 1, "another comment");
        let merged = merge(
            &present,
            &[&format!("{b}\n\n# by hand\n# more\n{c}\n{twice}")],
            &a,
        );
        let expected = format!("# by hand\n\n{a}\n{c}\nno key at all\n{b}\n# more\n");
        assert_eq!(merged, expected);
        assert_eq!(
            merge(&merged, &[], &a),
            merged,
            "a second time changes nothing"
        );
    }

    #[test]
    fn the_same_key_with_other_options_is_another_line() {
        let a = line("ssh-rsa", 1, "x");
        let limited = format!("restrict {a}");
        assert_eq!(merge(&limited, &[&a], ""), format!("{limited}\n{a}\n"));
        assert_eq!(merge(&limited, &[], &a), format!("{limited}\n"));
    }

    #[test]
    fn an_empty_file_starts_with_a_key() {
        let a = line("ssh-rsa", 1, "x");
        assert_eq!(merge("", &[], &a), format!("{a}\n"));
    }

    #[test]
    fn bytes_that_are_no_text_stay() {
        let mut present = line("ssh-rsa", 1, "caf").into_bytes();
        present.extend(b"\xe9\n\xff\n");
        assert_eq!(merged(&present, &[], b"", &BTreeSet::new()), present);
    }
}
