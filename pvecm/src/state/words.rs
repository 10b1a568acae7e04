//! What the numbers mean, in words: who is missing, which links are down, what is possible.

use corosync_lite::status::{Link, Node};
use serde::Serialize;

use super::{State, flags};

/// Latency from which a cluster begins to suffer, in milliseconds.
pub const LATENCY_WARN_MS: f64 = 5.0;
/// Latency that only very small clusters bear, in milliseconds.
pub const LATENCY_BAD_MS: f64 = 10.0;

/// Times that a link may go down before it is said to be unreliable.
pub const DOWNS_MANY: u64 = 5;

/// What the state means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Words {
    /// Whether this node may act, and why.
    pub quorum: String,
    /// Configured nodes that are not in the ring.
    pub missing: Vec<String>,
    /// Links that are down or slow.
    pub links: Vec<String>,
    /// What happens next, and what can be done.
    pub possible: Vec<String>,
}

/// What the state means. `nodes` are all nodes that are configured, with the links to them.
#[must_use]
pub fn words(state: &State, nodes: &[Node]) -> Words {
    let missing: Vec<&Node> = nodes.iter().filter(|node| !is_here(state, node)).collect();
    let links = nodes.iter().flat_map(|node| {
        let troubled = node.links.iter();
        troubled.filter_map(move |(number, link)| trouble(node, *number, link))
    });
    Words {
        quorum: quorum(state),
        missing: missing.iter().map(|node| called(node)).collect(),
        links: links.collect(),
        possible: possible(state, nodes, &missing),
    }
}

impl Words {
    /// As a block in the manner of the others, with an empty line in front of it.
    #[must_use]
    pub fn block(&self) -> String {
        let mut text = "\nIn words\n--------\n".to_owned();
        let lines = |label: &str, values: &[String]| {
            let mut out = String::new();
            for (position, value) in values.iter().enumerate() {
                let label = if position == 0 { label } else { "" };
                out += &format!("{label:<17} {value}\n");
            }
            out
        };
        text += &lines("Quorum:", std::slice::from_ref(&self.quorum));
        let missing: Vec<String> = if self.missing.is_empty() {
            vec!["none".to_owned()]
        } else {
            vec![self.missing.join(", ")]
        };
        text += &lines("Missing nodes:", &missing);
        text += &lines("Links:", &self.links);
        text + &lines("Possible:", &self.possible)
    }
}

fn is_here(state: &State, node: &Node) -> bool {
    state.members.iter().any(|member| member.id == node.id)
}

/// A node as people are told of it.
#[must_use]
pub fn called(node: &Node) -> String {
    match &node.name {
        Some(name) => format!("{name} (node {})", node.id),
        None => format!("node {}", node.id),
    }
}

fn votes(count: u32) -> String {
    match count {
        1 => "1 vote".to_owned(),
        count => format!("{count} votes"),
    }
}

/// Whether this node may act, and why.
#[must_use]
pub fn quorum(state: &State) -> String {
    let counted = &state.votes;
    let (total, expected, needed) = (counted.total, counted.expected, counted.needed);
    let mut text = format!("{total} of {expected} votes are here, {needed} needed");
    if state.quorate {
        text += ": this node may act";
    } else if total >= needed && is_waiting(state) {
        text += ", but wait_for_all is set: all nodes must have been here together once since the \
                 start, so this node may not act";
    } else {
        text += ": this node may not act, /etc/pve is read-only and guests do not start";
    }
    text
}

/// Enough votes are here, but not all nodes have been seen since the start.
fn is_waiting(state: &State) -> bool {
    state.votes.flags & flags::WAIT_FOR_ALL != 0
}

/// What is wrong with a link, if anything is.
fn trouble(node: &Node, number: u8, link: &Link) -> Option<String> {
    let to = called(node);
    if !link.up {
        let others = node.links.values().any(|link| link.up);
        let rest = if others {
            "; another link to it works"
        } else if node.links.len() > 1 {
            "; no link to it works"
        } else {
            ""
        };
        return Some(format!(
            "link {number} to {to} at {} is down{rest}",
            link.to
        ));
    }
    let Some(latency) = link.latency_ms.filter(|ms| *ms >= LATENCY_WARN_MS) else {
        let downs = link.downs.filter(|downs| *downs >= DOWNS_MANY)?;
        return Some(format!(
            "link {number} to {to} at {} went down {downs} times since the start of corosync: check cables \
             and switch ports",
            link.to
        ));
    };
    Some(format!(
        "link {number} to {to} at {} takes {latency:.1} ms, more than {LATENCY_WARN_MS} ms are \
         too slow for a cluster",
        link.to
    ))
}

fn possible(state: &State, nodes: &[Node], missing: &[&Node]) -> Vec<String> {
    if state.quorate {
        return spare(state, nodes);
    }
    let mut lines = Vec::new();
    let total = state.votes.total;
    if !missing.is_empty() {
        let names: Vec<_> = missing.iter().map(|node| called(node)).collect();
        let lacking = state.votes.needed.saturating_sub(total);
        let enough = if lacking == 0 {
            "all of them are needed".to_owned()
        } else {
            format!("{} more bring quorum", votes(lacking))
        };
        lines.push(format!(
            "start {} or mend the links there: {enough}",
            names.join(", ")
        ));
        lines.push(format!(
            "if all of them are switched off for sure: 'pvecm expected {}' lets this side act \
             without them, until they are back",
            total.max(1)
        ));
    } else {
        lines.push("all nodes are here: look at 'journalctl -u corosync'".to_owned());
    }
    lines
}

/// How much may still fail.
fn spare(state: &State, nodes: &[Node]) -> Vec<String> {
    let counted = &state.votes;
    let spare = counted.total.saturating_sub(counted.needed);
    let is_two_node = counted.flags & flags::TWO_NODE != 0;
    let has_device = counted.flags & flags::DEVICE_REGISTERED != 0;
    let mut lines = Vec::new();
    if nodes.len() > 1 && is_two_node {
        lines.push(
            "two_node is set: the other node may fail, and the faster one goes on when only the \
             links fail"
                .to_owned(),
        );
    } else if nodes.len() > 1 && spare == 0 {
        lines.push(
            "no more vote may be lost: with the next one this side stops taking changes".to_owned(),
        );
    } else if nodes.len() > 1 {
        lines.push(format!("{} may be lost without harm", votes(spare)));
    }
    if nodes.len() == 2 && !is_two_node && !has_device {
        lines.push(
            "with two nodes each one stops when the other fails: a third node or a vote of a \
             QDevice mends that, or 'two_node: 1' in the section quorum of corosync.conf, with \
             which both have to be there once after each start"
                .to_owned(),
        );
    }
    lines
}
