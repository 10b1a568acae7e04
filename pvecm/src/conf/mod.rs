//! `corosync.conf` as a cluster's members agree on it.
//!
//! | module | owns |
//! |---|---|
//! | `create` | the text of a new cluster |
//! | `edit` | changes of an existing text |
//! | `moved` | the way to another address of a node |
//! | `check` | what a joining node may bring, and what a configuration must not hold |
//!
//! A [`ClusterConf`] is the text together with what the command needs of it. Edits touch the lines
//! that they change: comments, order and unknown keys stay.
//!
//! Invariant: every changed text has a higher `config_version` than the one it came from, and
//! parses again.

mod check;
mod create;
mod edit;
mod moved;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use corosync_lite::config::{ConfigError, Document, IpVersion, Section};

pub use check::{Admission, Fault, JoinRefused, Joiner, Resolve, verify};
pub use create::{FirstNode, create};
pub use edit::EditError;

use crate::value::LINK_MAX;

/// Votes of a node whose entry does not say.
const VOTES: u32 = 1;

/// A configuration: its text, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConf {
    document: Document,
}

/// An entry of the node list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEntry {
    /// Key `name`, else the first address, as the original knows a node.
    pub name: String,
    /// Key `nodeid`, if it is a number.
    pub id: Option<u32>,
    /// Key `quorum_votes`, 1 if absent.
    pub votes: u32,
    /// Addresses or host names by link.
    pub addresses: BTreeMap<u8, String>,
}

impl NodeEntry {
    /// Votes of these nodes together, however many somebody has written into the file.
    pub fn votes_of<'a>(nodes: impl IntoIterator<Item = &'a Self>) -> u64 {
        nodes.into_iter().map(|node| u64::from(node.votes)).sum()
    }
}

/// Why a configuration can not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfError {
    /// The text is not well-formed.
    #[error("{0}")]
    Syntax(#[from] ConfigError),
    /// There is no version to be raised.
    #[error(
        "invalid corosync config: unable to read config version; set totem.config_version to a number"
    )]
    NoVersion,
}

impl ClusterConf {
    /// Reads a text.
    ///
    /// # Errors
    /// The first line that Corosync would not take either, or the lack of a version.
    pub fn parse(text: &[u8]) -> Result<Self, ConfError> {
        let conf = Self {
            document: Document::parse(text)?,
        };
        conf.written_version().ok_or(ConfError::NoVersion)?;
        Ok(conf)
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        self.document.print()
    }

    /// Key `totem.config_version`.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.written_version().unwrap_or(0)
    }

    fn written_version(&self) -> Option<u64> {
        self.setting("totem", "config_version")?.parse().ok()
    }

    /// Key `totem.cluster_name`.
    #[must_use]
    pub fn cluster_name(&self) -> Option<&str> {
        self.setting("totem", "cluster_name")
    }

    /// Which addresses host names stand for.
    #[must_use]
    pub fn ip_version(&self) -> IpVersion {
        match self.setting("totem", "ip_version") {
            Some("ipv4") => IpVersion::V4,
            Some("ipv6") => IpVersion::V6,
            Some("ipv4-6") => IpVersion::V4Then6,
            _ => IpVersion::V6Then4,
        }
    }

    /// Whether a device votes.
    #[must_use]
    pub fn has_device(&self) -> bool {
        let quorum = self.document.root().named("quorum");
        quorum
            .flat_map(|section| section.named("device"))
            .next()
            .is_some()
    }

    /// Whether one vote is enough as long as there are two nodes at most.
    #[must_use]
    pub fn is_two_node(&self) -> bool {
        let number = self.setting("quorum", "two_node");
        number.is_some_and(|text| text.parse::<u8>().is_ok_and(|number| number != 0))
    }

    /// The node list, in the order of the file.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeEntry> {
        self.node_sections().map(entry).collect()
    }

    /// One node.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<NodeEntry> {
        self.nodes().into_iter().find(|node| node.name == name)
    }

    /// Numbers of the links that have a section of their own, with the priority, 0 if absent.
    #[must_use]
    pub fn interfaces(&self) -> BTreeMap<u8, u8> {
        let totem = self.document.root().named("totem");
        let sections = totem.flat_map(|totem| totem.named("interface"));
        sections
            .filter_map(|section| {
                let priority = section.value("knet_link_priority");
                let priority = priority.and_then(|text| text.parse().ok());
                Some((interface_number(section)?, priority.unwrap_or(0)))
            })
            .collect()
    }

    /// Links in use by any node.
    #[must_use]
    pub fn links(&self) -> Vec<u8> {
        let nodes = self.nodes();
        let used = |link: &u8| nodes.iter().any(|node| node.addresses.contains_key(link));
        (0..=LINK_MAX).filter(used).collect()
    }

    /// Priority of a link in use, 0 if none is written.
    #[must_use]
    pub fn priority(&self, link: u8) -> Option<u8> {
        let is_used = self.links().contains(&link);
        is_used.then(|| self.interfaces().get(&link).copied().unwrap_or(0))
    }

    /// Value of the last setting of that name, as Corosync sees it.
    #[must_use]
    pub fn setting(&self, section: &str, key: &str) -> Option<&str> {
        let sections = self.document.root().sections().rev();
        sections
            .filter(|found| found.name() == section)
            .find_map(|found| found.value(key))
    }

    fn node_sections(&self) -> impl Iterator<Item = &Section> {
        let lists = self.document.root().named("nodelist");
        lists.flat_map(|list| list.named("node"))
    }
}

/// The key of an address.
fn ring_key(link: u8) -> String {
    format!("ring{link}_addr")
}

fn entry(section: &Section) -> NodeEntry {
    let addresses: BTreeMap<u8, String> = (0..=LINK_MAX)
        .filter_map(|link| Some((link, section.value(&ring_key(link))?.to_owned())))
        .collect();
    let number = |key| section.value(key).and_then(|text| text.parse().ok());
    let name = section.value("name").map(str::to_owned);
    NodeEntry {
        name: name.unwrap_or_else(|| addresses.get(&0).cloned().unwrap_or_default()),
        id: number("nodeid"),
        votes: number("quorum_votes").unwrap_or(VOTES),
        addresses,
    }
}

/// Number of an `interface` section, in either generation's spelling.
fn interface_number(section: &Section) -> Option<u8> {
    let number = section.value("linknumber");
    number
        .or_else(|| section.value("ringnumber"))
        .unwrap_or("0")
        .parse()
        .ok()
}
