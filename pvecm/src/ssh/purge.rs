//! What a removed node leaves behind: the keys that let it in, and those of its SSH server.
//!
//! A node's own record names its keys exactly. Nodes that another release has set up have none;
//! their keys are known by the comment `root@NODE`. Keys that a remaining node has as well stay.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::hosts::{self, names_of, pinned, shared};
use super::keys::{Entry, Key, entries, lines};
use super::{PINS, ROOT_KEYS};
use crate::failure::Outcome;
use crate::host::changes::{Changes, Mode};
use crate::host::files::{self, SECRET};
use crate::host::lock::ClusterLock;
use crate::host::{Host, pve};
use crate::value::NodeName;
use crate::verb::updatecerts::LOCK;

/// What is left of a removed node in the files for SSH.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// A line for people about each thing.
    pub lines: Vec<String>,
}

/// Looks for what is left of a node; changes nothing.
///
/// # Errors
/// When a file can not be read.
pub fn remains(host: &Host, node: &NodeName) -> Outcome<Remains> {
    let mut changes = Changes::new(host, Mode::Look, true);
    step(&mut changes, node)
}

/// Removes what is left of a node, which must not be in the cluster's configuration any more: else
/// its next `updatecerts` brings it back. Returns what was removed.
///
/// # Errors
/// When there is no quorum, or a file can not be read or written.
pub fn purge(host: &Host, node: &NodeName) -> Outcome<Remains> {
    if remains(host, node)? == Remains::default() {
        return Ok(Remains::default());
    }
    pve::need_quorum(&host.paths)?;
    let _lock = ClusterLock::take(&host.paths.pve("priv/lock"), LOCK)?;
    step(&mut Changes::new(host, Mode::Make, true), node)
}

fn step(changes: &mut Changes<'_>, node: &NodeName) -> Outcome<Remains> {
    let host = changes.host();
    let name = node.as_str();
    let mut remains = Remains::default();
    let (record, pins) = (
        host.paths.node(name, ROOT_KEYS),
        host.paths.node(name, PINS),
    );

    let own = keys_of(host, name)?;
    let (of_others, pins_of_others) = keys_of_others(host, name)?;
    let path = host.paths.pve("priv/authorized_keys");
    let present = files::read(&path)?.unwrap_or_default();
    let mut kept = Vec::new();
    for line in lines(&present) {
        let gone = Entry::parse(line).filter(|entry| {
            !of_others.contains(&entry.key)
                && (own.contains(&entry.key) || is_by_comment(entry.comment, name))
        });
        match gone {
            Some(entry) => remains.lines.push(format!(
                "key {} of '{}' in '{}'",
                entry.key.fingerprint(),
                String::from_utf8_lossy(entry.comment),
                path.display()
            )),
            None => {
                kept.extend(line);
                kept.push(b'\n');
            }
        }
    }
    if !remains.lines.is_empty() {
        changes.file(&path, &kept, SECRET)?;
    }

    let path = shared(host);
    if let Some(present) = files::read(&path)? {
        let mut pinned = pinned(host, name)?;
        pinned.retain(|key| !pins_of_others.contains(key));
        let kept = hosts::without(&present, &names_of(name, address_of(host, name)), |_| true);
        let kept = hosts::without_keys(&kept, &pinned);
        let gone = lines(&present).count() - lines(&kept).count();
        if lines(&present).ne(lines(&kept)) {
            let path_shown = path.display();
            remains
                .lines
                .push(format!("host keys in '{path_shown}' ({gone} lines)"));
            changes.file(&path, &kept, SECRET)?;
        }
    }

    // Last: they say what is to be removed, should this be broken off.
    for path in [&record, &pins] {
        if path.exists() {
            remains.lines.push(format!("'{}'", path.display()));
            changes.absent(path)?;
        }
    }
    Ok(remains)
}

fn keys_of(host: &Host, node: &str) -> Outcome<BTreeSet<Key>> {
    let text = files::read(&host.paths.node(node, ROOT_KEYS))?.unwrap_or_default();
    Ok(entries(&text).map(|entry| entry.key).collect())
}

/// Keys of the root and of the SSH server of all other nodes, this one included.
fn keys_of_others(host: &Host, node: &str) -> Outcome<(BTreeSet<Key>, BTreeSet<Key>)> {
    let (mut roots, mut servers) = (BTreeSet::new(), BTreeSet::new());
    for other in pve::node_directories(&host.paths) {
        if other != node {
            roots.extend(keys_of(host, &other)?);
            servers.extend(pinned(host, &other)?);
        }
    }
    let own = files::read(&host.paths.ssh("id_rsa.pub"))?.unwrap_or_default();
    roots.extend(entries(&own).map(|entry| entry.key));
    Ok((roots, servers))
}

/// Whether a comment is `root@NODE`, perhaps with a domain.
fn is_by_comment(comment: &[u8], node: &str) -> bool {
    let comment = String::from_utf8_lossy(comment);
    let Some((user, host)) = comment.trim().split_once('@') else {
        return false;
    };
    let label = host.split('.').next().unwrap_or_default();
    user == "root" && label.eq_ignore_ascii_case(node)
}

/// Last known address of a node, unless another node has it now.
fn address_of(host: &Host, node: &str) -> Option<IpAddr> {
    let members = pve::members(&host.paths).map(|members| members.nodelist);
    let members = members.unwrap_or_default();
    let known = members.get(node).and_then(|member| member.ip);
    let address = known.or_else(|| {
        let found = crate::host::resolve(node).ok()?;
        found.into_iter().find(|ip| !ip.is_loopback())
    })?;
    let mut others = members.iter().filter(|(name, _)| *name != node);
    (!others.any(|(_, member)| member.ip == Some(address))).then_some(address)
}
