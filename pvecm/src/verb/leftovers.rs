//! What a node leaves behind that is in the cluster no more.

use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::Outcome;
use crate::host::files::{self, SECRET, failed};
use crate::host::{Host, calendar, pve};
use crate::ssh;
use crate::value::NodeName;

/// Files of the cluster that name nodes, for programs other than this one.
const NAMING: [&str; 9] = [
    "datacenter.cfg",
    "ha/groups.cfg",
    "ha/manager_status",
    "ha/resources.cfg",
    "ha/rules.cfg",
    "jobs.cfg",
    "replication.cfg",
    "storage.cfg",
    "vzdump.cron",
];

/// What is left of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftovers {
    name: NodeName,
    /// Guests whose configuration is in its directory.
    guests: Vec<u32>,
    /// Its directory, if there.
    directory: Option<PathBuf>,
    /// Keys and host keys, a line each.
    keys: Vec<String>,
    /// Lines of other files that name it.
    mentions: Vec<String>,
}

impl Leftovers {
    /// Looks for what is left of a node.
    ///
    /// # Errors
    /// When a file can not be read.
    pub fn find(host: &Host, node: &NodeName) -> Outcome<Self> {
        let name = node.as_str();
        let guests = pve::guests(&host.paths)?;
        let guests = guests.iter().filter(|(_, guest)| guest.node == name);
        let directory = host.paths.pve("nodes").join(name);
        Ok(Self {
            name: node.clone(),
            guests: guests.map(|(id, _)| *id).collect(),
            directory: directory.is_dir().then_some(directory),
            keys: ssh::remains(host, node)?.lines,
            mentions: mentions(host, |line| names(line, name))?,
        })
    }

    /// What is left, in words.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let name = &self.name;
        let mut lines = Vec::new();
        if !self.guests.is_empty() {
            let ids: Vec<String> = self.guests.iter().map(u32::to_string).collect();
            lines.push(format!(
                "guests of '{name}' are still there: {}; move their files from nodes/{name} to the node \
                 that is to run them",
                ids.join(", ")
            ));
        }
        if let Some(directory) = &self.directory {
            lines.push(format!(
                "its directory '{}' is still there",
                directory.display()
            ));
        }
        let keys = self.keys.iter();
        lines.extend(keys.map(|key| format!("still there: {key}")));
        let mentions = self.mentions.iter();
        lines.extend(mentions.map(|mention| format!("it is still named in {mention}")));
        lines
    }

    /// Whether everything is gone that [`purge`](Self::purge) removes.
    #[must_use]
    pub fn is_purged(&self) -> bool {
        self.keys.is_empty() && (self.directory.is_none() || !self.guests.is_empty())
    }

    /// Removes keys, and the directory where no guest is in it; the directory is kept aside on this
    /// host. Returns what was done.
    ///
    /// # Errors
    /// When something can not be removed.
    pub fn purge(&self, host: &Host) -> Outcome<Vec<String>> {
        let mut done = Vec::new();
        let removed = ssh::purge(host, &self.name)?.lines;
        done.extend(removed.iter().map(|line| format!("removed: {line}")));
        if let Some(directory) = &self.directory
            && self.guests.is_empty()
        {
            let to = format!("backup/node-{}-{}", self.name, calendar().as_secs());
            let to = host.paths.database(to);
            keep_aside(directory, &to)?;
            fs::remove_dir_all(directory).map_err(|error| failed("remove", directory, &error))?;
            done.push(format!(
                "its directory is removed; a copy is in '{}'",
                to.display()
            ));
        }
        Ok(done)
    }
}

/// Lines of files for other programs that name something, each with where it is.
///
/// # Errors
/// When a file can not be read.
pub fn mentions(host: &Host, is_named: impl Fn(&str) -> bool) -> Outcome<Vec<String>> {
    let mut mentions = Vec::new();
    for file in NAMING {
        let text = files::read(&host.paths.pve(file))?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines = text.lines().zip(1..).filter(|(line, _)| is_named(line));
        mentions.extend(lines.map(|(line, number)| format!("{file}:{number}: {}", line.trim())));
    }
    Ok(mentions)
}

/// Copies a directory of the cluster to one that only root can read.
fn keep_aside(from: &Path, to: &Path) -> Outcome {
    use std::os::unix::fs::DirBuilderExt as _;
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder
        .create(to)
        .map_err(|error| failed("make directory", to, &error))?;
    for name in files::names(from)? {
        let (path, to) = (from.join(&name), to.join(&name));
        if path.is_dir() {
            keep_aside(&path, &to)?;
        } else {
            let content = fs::read(&path).map_err(|error| failed("read", &path, &error))?;
            files::replace(&to, &content, SECRET)?;
        }
    }
    Ok(())
}

/// Whether a line has the name as a word of its own.
fn names(line: &str, name: &str) -> bool {
    let inner = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
    line.split(|letter| !inner(letter)).any(|word| word == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words() {
        for line in ["nodes n2,n3", "n2", "\tnodes n3:2,n2:1", "local/n2 x"] {
            assert!(names(line, "n2"), "{line}");
        }
        for line in ["nodes n22", "an2", "n2-x", "x_n2", ""] {
            assert!(!names(line, "n2"), "{line}");
        }
    }
}
