//! Changes of an existing configuration.
//!
//! Each of them raises the version by one, however much it changes.

use std::collections::BTreeMap;

use corosync_lite::config::Section;

use super::{ClusterConf, entry, interface_number, ring_key};
use crate::value::{LINK_MAX, Link, NodeName};

/// Why a change is not possible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// No such node.
    #[error("Node/IP: {0} is not a known host of the cluster.")]
    UnknownNode(String),
    /// A link must have an address of each node.
    #[error("link {link} needs an address of node '{node}'")]
    MissingAddress {
        /// The link.
        link: u8,
        /// Who has none.
        node: String,
    },
    /// The link is there already.
    #[error("link {0} exists already; change its addresses one by one")]
    LinkExists(u8),
    /// Two nodes can not be told apart by one name.
    #[error("the cluster has a node '{0}' already")]
    NameTaken(String),
    /// All numbers of links are in use.
    #[error("all links that there can be are in use: remove one with 'pvecm link remove' first")]
    NoSpareLink,
    /// No such link.
    #[error("link {0} is not in the configuration")]
    UnknownLink(u8),
    /// Without it the nodes could not talk any more.
    #[error("link {0} is the only one and can not be removed")]
    LastLink(u8),
}

impl ClusterConf {
    /// Adds a node, or replaces the entry of that name.
    pub fn put_node(&mut self, name: &NodeName, id: u32, votes: u32, links: &BTreeMap<u8, String>) {
        let fill = |node: &mut Section| {
            node.set("name", name.as_str());
            node.set("nodeid", &id.to_string());
            if votes != 0 {
                node.set("quorum_votes", &votes.to_string());
            }
            for (link, address) in links {
                node.set(&ring_key(*link), address);
            }
        };
        if self.node(name.as_str()).is_some() {
            self.edit_node(name.as_str(), |node| {
                for link in 0..=LINK_MAX {
                    node.unset(&ring_key(link));
                }
                node.unset("quorum_votes");
                fill(node);
            });
        } else {
            let root = self.document.root_mut();
            // Where there are several lists, the last one is where people look.
            match root.named_mut("nodelist").last() {
                Some(list) => list.add_section("node", fill),
                None => root.add_section("nodelist", |list| list.add_section("node", fill)),
            }
        }
        self.raise_version();
    }

    /// Takes all votes from a node that is in a configuration which was not written yet: the version
    /// stays.
    pub fn set_probation(&mut self, node: &str) {
        self.edit_node(node, |section| section.set("quorum_votes", "0"));
    }

    /// Lets one vote be enough as long as there are two nodes at most, or not, in a configuration that was
    /// not written yet: the version stays. The nodes wait for each other after a start, unless the text
    /// says otherwise.
    pub fn set_two_node(&mut self, is_enough: bool) {
        let root = self.document.root_mut();
        for quorum in root.named_mut("quorum") {
            quorum.unset("two_node");
        }
        if is_enough {
            match root.named_mut("quorum").last() {
                Some(quorum) => quorum.set("two_node", "1"),
                None => root.add_section("quorum", |quorum| quorum.set("two_node", "1")),
            }
        }
    }

    /// Gives a node its votes; with 0 none are written, as for a node that is added with none.
    ///
    /// # Errors
    /// When it is not there; nothing is changed then.
    pub fn set_votes(&mut self, node: &str, votes: u32) -> Result<(), EditError> {
        if self.node(node).is_none() {
            return Err(EditError::UnknownNode(node.to_owned()));
        }
        self.edit_node(node, |section| {
            if votes == 0 {
                section.unset("quorum_votes");
            } else {
                section.set("quorum_votes", &votes.to_string());
            }
        });
        self.raise_version();
        Ok(())
    }

    /// Takes a node out.
    ///
    /// # Errors
    /// When it is not there; nothing is changed then.
    pub fn remove_node(&mut self, name: &str) -> Result<(), EditError> {
        let lists = self.document.root_mut().named_mut("nodelist");
        let is_it = |part: &Section| part.name() == "node" && entry(part).name == name;
        let removed: usize = lists.map(|list| list.remove_sections(is_it)).sum();
        if removed == 0 {
            return Err(EditError::UnknownNode(name.to_owned()));
        }
        self.raise_version();
        Ok(())
    }

    /// Adds a link with the address of each node on it.
    ///
    /// # Errors
    /// When it is there, or an address is missing; nothing is changed then.
    pub fn add_link(
        &mut self,
        link: u8,
        addresses: &BTreeMap<String, String>,
        priority: u8,
    ) -> Result<(), EditError> {
        if self.links().contains(&link) {
            return Err(EditError::LinkExists(link));
        }
        let nodes = self.nodes();
        if let Some(node) = nodes
            .iter()
            .find(|node| !addresses.contains_key(&node.name))
        {
            let node = node.name.clone();
            return Err(EditError::MissingAddress { link, node });
        }
        let known = |name: &&String| !nodes.iter().any(|node| node.name == **name);
        if let Some(unknown) = addresses.keys().find(known) {
            return Err(EditError::UnknownNode(unknown.clone()));
        }
        for (name, address) in addresses {
            self.edit_node(name, |node| node.set(&ring_key(link), address));
        }
        if priority != 0 || !self.interfaces().is_empty() {
            self.edit_interface(link, |section| set_priority(section, priority));
        }
        self.raise_version();
        Ok(())
    }

    /// Takes a link out.
    ///
    /// # Errors
    /// When it is not there, or is the last one; nothing is changed then.
    pub fn remove_link(&mut self, link: u8) -> Result<(), EditError> {
        match self.links().as_slice() {
            links if !links.contains(&link) => return Err(EditError::UnknownLink(link)),
            [_] => return Err(EditError::LastLink(link)),
            _ => {}
        }
        for node in self.nodes() {
            self.edit_node(&node.name, |section| {
                section.unset(&ring_key(link));
            });
        }
        for totem in self.document.root_mut().named_mut("totem") {
            totem.remove_sections(|section| {
                section.name() == "interface" && interface_number(section) == Some(link)
            });
        }
        self.raise_version();
        Ok(())
    }

    /// Moves a node to another address on a link that exists.
    ///
    /// # Errors
    /// When there is no such node or link; nothing is changed then.
    pub fn set_address(&mut self, node: &str, link: u8, address: &str) -> Result<(), EditError> {
        let found = self.node(node);
        let found = found.ok_or_else(|| EditError::UnknownNode(node.to_owned()))?;
        if !found.addresses.contains_key(&link) {
            return Err(EditError::UnknownLink(link));
        }
        self.edit_node(node, |section| section.set(&ring_key(link), address));
        self.raise_version();
        Ok(())
    }

    /// Gives a node another name; its number, votes and addresses stay.
    ///
    /// # Errors
    /// When there is no such node, or the new name is taken; nothing is changed then.
    pub fn rename_node(&mut self, old: &str, new: &NodeName) -> Result<(), EditError> {
        if self.node(old).is_none() {
            return Err(EditError::UnknownNode(old.to_owned()));
        }
        if self.node(new.as_str()).is_some() {
            return Err(EditError::NameTaken(new.to_string()));
        }
        self.edit_node(old, |section| section.set("name", new.as_str()));
        self.raise_version();
        Ok(())
    }

    /// Sets how much a link is wanted; the highest one carries the traffic.
    ///
    /// # Errors
    /// When there is no such link; nothing is changed then.
    pub fn set_priority(&mut self, link: u8, priority: u8) -> Result<(), EditError> {
        if !self.links().contains(&link) {
            return Err(EditError::UnknownLink(link));
        }
        self.edit_interface(link, |section| set_priority(section, priority));
        self.raise_version();
        Ok(())
    }

    /// Gives a text a version above that of another one, which it is to replace.
    pub fn raise_above(&mut self, other: &Self) {
        let next = self.version().max(other.version()).saturating_add(1);
        self.set_version(next);
    }

    /// Addresses of a joining node, as it is written into its entry.
    #[must_use]
    pub fn addresses(links: &BTreeMap<u8, Link>) -> BTreeMap<u8, String> {
        let address = |(link, at): (&u8, &Link)| (*link, at.address.clone());
        links.iter().map(address).collect()
    }

    fn edit_node(&mut self, name: &str, edit: impl Fn(&mut Section)) {
        let lists = self.document.root_mut().named_mut("nodelist");
        let nodes = lists.flat_map(|list| list.named_mut("node"));
        nodes.filter(|node| entry(node).name == name).for_each(edit);
    }

    /// Edits the section of a link, made if it is not there. With the first of them every link gets
    /// one: it is all or none.
    fn edit_interface(&mut self, link: u8, edit: impl Fn(&mut Section)) {
        if self.interfaces().is_empty() {
            for other in self.links().into_iter().filter(|other| *other != link) {
                self.make_interface(other, |_| {});
            }
        }
        let root = self.document.root_mut();
        let sections = root
            .named_mut("totem")
            .flat_map(|totem| totem.named_mut("interface"));
        let mut found = false;
        for section in sections.filter(|section| interface_number(section) == Some(link)) {
            found = true;
            edit(section);
        }
        if !found {
            self.make_interface(link, edit);
        }
    }

    fn make_interface(&mut self, link: u8, edit: impl Fn(&mut Section)) {
        let root = self.document.root_mut();
        let make = |totem: &mut Section| {
            totem.add_section("interface", |section| {
                section.set("linknumber", &link.to_string());
                edit(section);
            });
        };
        match root.named_mut("totem").last() {
            Some(totem) => make(totem),
            None => root.add_section("totem", make),
        }
    }

    fn raise_version(&mut self) {
        self.set_version(self.version().saturating_add(1));
    }

    pub(crate) fn set_version(&mut self, version: u64) {
        let next = version.to_string();
        let root = self.document.root_mut();
        // The last one counts, so that is the one to be raised.
        match root
            .named_mut("totem")
            .filter(|totem| totem.value("config_version").is_some())
            .last()
        {
            Some(totem) => totem.set("config_version", &next),
            None => root.add_section("totem", |totem| totem.set("config_version", &next)),
        }
    }
}

fn set_priority(section: &mut Section, priority: u8) {
    if priority == 0 {
        section.unset("knet_link_priority");
    } else {
        section.set("knet_link_priority", &priority.to_string());
    }
}
