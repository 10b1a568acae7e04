//! The text of a new cluster: byte for byte what the original writes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::ring_key;
use crate::value::{ClusterName, Link, NodeName};

/// The node that a cluster begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstNode {
    /// Its name.
    pub name: NodeName,
    /// Its number, 1 or more.
    pub id: u32,
    /// Its votes.
    pub votes: u32,
    /// Where it is, by link.
    pub links: BTreeMap<u8, Link>,
}

/// The configuration of a cluster of one node.
///
/// `token_coefficient` is in milliseconds per node beyond the second.
#[must_use]
pub fn create(name: &ClusterName, node: &FirstNode, token_coefficient: u32) -> String {
    let mut text = String::from("logging {\n  debug: off\n  to_syslog: yes\n}\n\n");
    text += "nodelist {\n  node {\n";
    line(&mut text, "name", &node.name);
    line(&mut text, "nodeid", &node.id);
    line(&mut text, "quorum_votes", &node.votes);
    for (link, at) in &node.links {
        line(&mut text, &ring_key(*link), &at.address);
    }
    text += "  }\n}\n\nquorum {\n  provider: corosync_votequorum\n}\n\n";
    text += &format!("totem {{\n  cluster_name: {name}\n  config_version: 1\n");
    for (link, at) in &node.links {
        text += "  interface {\n";
        if let Some(priority) = at.priority.filter(|priority| *priority != 0) {
            line(&mut text, "knet_link_priority", &priority);
        }
        line(&mut text, "linknumber", link);
        text += "  }\n";
    }
    text += "  ip_version: ipv4-6\n  link_mode: passive\n  secauth: on\n";
    text += &format!("  token_coefficient: {token_coefficient}\n  version: 2\n}}\n\n");
    text
}

fn line(text: &mut String, key: &str, value: &dyn std::fmt::Display) {
    // Writing to a string does not fail.
    writeln!(text, "    {key}: {value}").ok();
}
