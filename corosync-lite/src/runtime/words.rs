//! The lines of the log. Where Corosync has a line for the same thing, people and scripts look for
//! it, so it is here, too.

use std::fmt::Write as _;

use crate::proto::node::{Level, Log, Node, SocketId};
use crate::wire::NodeId;

/// Writes what happened.
pub(super) fn say(log: &Log) {
    match log {
        Log::LinkUp { node, link } => {
            tracing::info!(target: "KNET", "link: host: {node} link: {link} is up");
        }
        Log::LinkDown { node, link, .. } => {
            let words = log.to_string();
            let why = words.rsplit(": ").next().unwrap_or_default();
            tracing::warn!(target: "KNET", "link: host: {node} link: {link} is down: {why}");
        }
        Log::NodeReachable(node) => {
            tracing::info!(target: "KNET", "host: host: {node} can be reached");
        }
        Log::NodeUnreachable(node) => {
            tracing::warn!(target: "KNET", "host: host: {node} has no active links");
        }
        Log::Ring { .. } => tracing::debug!(target: "TOTEM", "{log}"),
        Log::TokenLate(after) => tracing::warn!(
            target: "TOTEM",
            "Token has not been received in {} ms: this host, another one or the network is \
             overloaded",
            after.as_millis()
        ),
        Log::Membership {
            ring,
            members,
            joined,
            left,
        } => {
            let mut change = String::new();
            for (word, nodes) in [(" joined:", joined), (" left:", left)] {
                if !nodes.is_empty() {
                    change += word;
                    change += &list(nodes);
                }
            }
            tracing::info!(
                target: "TOTEM",
                "A new membership ({ring}) was formed. Members{change}"
            );
            tracing::info!(target: "QUORUM", "Members[{}]:{}", members.len(), list(members));
        }
        Log::Synchronized(_) => tracing::info!(
            target: "MAIN",
            "Completed service synchronization, ready to provide service."
        ),
        Log::Quorate(is) => quorate(*is),
        Log::Service { level, text } => service(*level, text),
    }
}

/// Whether this node may act has changed.
fn quorate(is: bool) {
    if is {
        tracing::info!(
            target: "QUORUM",
            "This node is within the primary component and will provide service."
        );
    } else {
        tracing::warn!(
            target: "QUORUM",
            "This node is within the non-primary component and will NOT provide any services."
        );
    }
}

/// Words of a service. What they begin with tells which one it is.
fn service(level: Level, text: &str) {
    macro_rules! to {
        ($target:literal, $text:expr) => {
            match level {
                Level::Debug => tracing::debug!(target: $target, "{}", $text),
                Level::Info => tracing::info!(target: $target, "{}", $text),
                Level::Warn => tracing::warn!(target: $target, "{}", $text),
                Level::Error => tracing::error!(target: $target, "{}", $text),
            }
        };
    }
    match text.split_once(": ") {
        Some(("quorum", text)) => to!("QUORUM", text),
        Some(("reload", _)) => to!("CFG", text),
        Some(("state", _)) => to!("MAIN", text),
        _ => to!("SERV", text),
    }
}

/// How a socket is called.
pub(super) fn socket(id: SocketId) -> String {
    match id {
        SocketId::Link(number) => format!("link {number}"),
        SocketId::Multicast => "multicast".to_owned(),
        SocketId::Sender => "sending".to_owned(),
    }
}

/// Writes how things are.
pub(super) fn state(node: &Node, clients: usize) {
    let members = node.members();
    tracing::info!(
        target: "MAIN",
        "node {}, ring {}, members:{}",
        node.id(),
        node.ring(),
        list(&members)
    );
    let quorum = if node.is_quorate() {
        "this node has quorum"
    } else {
        "this node has no quorum"
    };
    let services = if node.is_synchronized() {
        "services are ready"
    } else {
        "services are synchronizing"
    };
    tracing::info!(target: "MAIN", "{quorum}, {services}, {clients} local clients");
}

fn list(nodes: &[NodeId]) -> String {
    let mut text = String::new();
    for node in nodes {
        // Writing to a String does not fail.
        write!(text, " {node}").ok();
    }
    text
}
