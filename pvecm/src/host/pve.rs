//! The cluster file system as its files show it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;

use serde::Deserialize;

use super::Paths;
use super::files;
use crate::failure::{Failure, Outcome};
use crate::transaction;

/// Whether files can be read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The cluster file system is not there.
    Unmounted,
    /// It can be read.
    ReadOnly,
    /// It can be written to.
    Writable,
}

/// State of the mount at `/etc/pve`.
#[must_use]
pub fn state(paths: &Paths) -> State {
    match paths.pve("local").symlink_metadata() {
        Ok(link) if !link.is_symlink() => State::Unmounted,
        Ok(link) if link.mode() & 0o200 != 0 => State::Writable,
        Ok(_) => State::ReadOnly,
        Err(_) => State::Unmounted,
    }
}

/// Stops a command that needs the mount.
///
/// # Errors
/// When it is not there: with what to do.
pub fn need_mount(paths: &Paths) -> Outcome {
    match state(paths) {
        State::Unmounted => Err(Failure::refused(format!(
            "pve configuration filesystem (pmxcfs) not mounted on '{}': {}",
            paths.pve("").display(),
            match transaction::broken_off(&transaction::directory(paths)) {
                // That is why: it stops what it changes.
                Ok(Some(broken)) => format!(
                    "'{}' is at work, or was broken off {}; 'pvecm undo' puts back what it has changed",
                    broken.command, broken.when
                ),
                _ => "start it with 'systemctl start pve-cluster' and see 'journalctl -u pve-cluster' if \
                      that fails"
                    .to_owned(),
            }
        ))),
        State::ReadOnly | State::Writable => Ok(()),
    }
}

/// Stops a command that changes the cluster.
///
/// # Errors
/// When there is no quorum, or no mount.
pub fn need_quorum(paths: &Paths) -> Outcome {
    need_mount(paths)?;
    match state(paths) {
        State::Writable => Ok(()),
        State::Unmounted | State::ReadOnly => Err(Failure::no_quorum(
            "cluster not ready - no quorum? 'pvecm status' shows who is missing",
        )),
    }
}

/// What `.members` says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Members {
    /// Name of this node.
    #[serde(default)]
    pub nodename: String,
    /// Raised by each change.
    #[serde(default)]
    pub version: u64,
    /// The cluster, if this node is in one.
    pub cluster: Option<Cluster>,
    /// Configured nodes by name.
    #[serde(default)]
    pub nodelist: BTreeMap<String, Member>,
}

impl Members {
    /// Whether a node takes part now.
    #[must_use]
    pub fn is_online(&self, node: &str) -> bool {
        self.nodelist.get(node).is_some_and(|it| it.online == 1)
    }
}

/// The cluster in `.members`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// `config_version` in force.
    pub version: u64,
    /// How many nodes are configured.
    pub nodes: u32,
    /// 1 if there is quorum.
    pub quorate: u8,
}

/// A node in `.members`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Member {
    /// Its number.
    pub id: u32,
    /// 1 if it takes part now.
    pub online: u8,
    /// Its address, once it has told.
    pub ip: Option<IpAddr>,
}

/// Reads `.members`.
///
/// # Errors
/// When it is not there or not as expected.
pub fn members(paths: &Paths) -> Outcome<Members> {
    let path = paths.pve(".members");
    let text = files::read(&path)?.unwrap_or_default();
    serde_json::from_slice(&text)
        .map_err(|error| Failure::failed(format!("can not read '{}': {error}", path.display())))
}

/// A guest in `.vmlist`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Guest {
    /// Where its configuration is.
    pub node: String,
    /// `qemu`, `lxc` or `openvz`.
    #[serde(rename = "type")]
    pub kind: String,
}

impl Guest {
    /// Directory of its kind, below that of its node.
    #[must_use]
    pub fn folder(&self) -> &'static str {
        match self.kind.as_str() {
            "qemu" => "qemu-server",
            "openvz" => "openvz",
            _ => "lxc",
        }
    }

    /// Its kind, its name if that can be read, and its node.
    #[must_use]
    pub fn described(&self, paths: &Paths, id: u32) -> String {
        let conf = paths.node(&self.node, format!("{}/{id}.conf", self.folder()));
        let name = files::read(&conf).ok().flatten();
        let name = name.and_then(|conf| name_of_guest(&conf));
        described(&self.kind, name.as_deref(), &self.node)
    }
}

/// A guest in words.
#[must_use]
pub fn described(kind: &str, name: Option<&str>, node: &str) -> String {
    let name = name.map_or_else(String::new, |name| format!(" '{name}'"));
    format!("{kind}{name} on node '{node}'")
}

/// The name in the configuration of a guest; those of its snapshots do not count.
#[must_use]
pub fn name_of_guest(conf: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(conf);
    let mut lines = text.lines().take_while(|line| !line.starts_with('['));
    let name = lines.find_map(|line| {
        let (key, value) = line.split_once(':')?;
        matches!(key, "name" | "hostname").then(|| value.trim())
    })?;
    let shown = name.chars().filter(|letter| !letter.is_control());
    Some(shown.take(253).collect())
}

/// Names of the directories of nodes, in order; none while they can not be listed.
#[must_use]
pub fn node_directories(paths: &Paths) -> Vec<String> {
    let names = files::names(&paths.pve("nodes")).unwrap_or_default();
    let mut names: Vec<String> = names
        .into_iter()
        .filter_map(|name| name.into_string().ok())
        .collect();
    names.sort();
    names
}

/// All guests by number, as `.vmlist` has them.
///
/// # Errors
/// When it is not there or not as expected.
pub fn guests(paths: &Paths) -> Outcome<BTreeMap<u32, Guest>> {
    let path = paths.pve(".vmlist");
    let text = files::read(&path)?.unwrap_or_default();
    guests_of(&text)
        .map_err(|error| Failure::failed(format!("can not read '{}': {error}", path.display())))
}

/// All guests by number, of the text of a `.vmlist`.
///
/// # Errors
/// When it is not as expected.
pub fn guests_of(text: &[u8]) -> Result<BTreeMap<u32, Guest>, serde_json::Error> {
    #[derive(Deserialize)]
    struct List {
        #[serde(default)]
        ids: BTreeMap<u32, Guest>,
    }
    serde_json::from_slice(text).map(|list: List| list.ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transaction::Transaction;

    #[test]
    fn without_mount_a_command_that_was_broken_off_is_named() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let said = || need_mount(&paths).unwrap_err().to_string();
        assert!(said().contains("'systemctl start pve-cluster'"));
        let killed = Transaction::begin(&transaction::directory(&paths), "pvecm add n1").unwrap();
        std::mem::forget(killed);
        let said = said();
        assert!(said.contains("'pvecm add n1'"), "{said}");
        assert!(said.contains("'pvecm undo'"), "{said}");
    }
}
