//! The state of the daemon on this host, for people and programs.
//!
//! Everything is asked of the local services, so it works with Corosync, too, as far as that tells.
//!
//! | module | does |
//! |---|---|
//! | `ask` | asks the services |
//! | `render` | puts it in words |

mod ask;
mod render;

use std::collections::BTreeMap;

use serde::Serialize;

pub use ask::{AskError, ask};

/// How things are.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Status {
    /// This node.
    pub node: u32,
    /// Name of the cluster.
    pub cluster: Option<String>,
    /// Of the configuration in force.
    pub config_version: Option<u64>,
    /// How datagrams travel.
    pub transport: String,
    /// The membership.
    pub ring: Ring,
    /// Whether this node may act, and why.
    pub quorum: Quorum,
    /// All nodes of the configuration, and members that it does not have.
    pub nodes: Vec<Node>,
    /// Timers in force, in milliseconds, and counters, as below `runtime.config.totem`.
    pub settings: BTreeMap<String, u32>,
    /// Counters of the ring, as below `stats.srp`.
    pub counters: BTreeMap<String, u64>,
    /// Datagrams that were dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
}

/// The membership.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ring {
    /// Its number, as in the log.
    pub id: String,
    /// Its members.
    pub members: Vec<u32>,
}

/// Whether this node may act, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Quorum {
    /// It may.
    pub quorate: bool,
    /// What decides; none: everybody may.
    pub provider: Option<String>,
    /// The counting, if votes are counted.
    pub votes: Option<Votes>,
    /// The same in words.
    pub words: String,
}

/// The counting of votes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Votes {
    /// Of all nodes and the device.
    pub expected: u32,
    /// Of those that are here.
    pub present: u32,
    /// That must be here.
    pub needed: u32,
    /// Options in force.
    pub options: Vec<&'static str>,
    /// The device that votes, and how many votes it has.
    pub device: Option<(String, u32)>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Node {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: Option<String>,
    /// Its votes, if they are counted and known.
    pub votes: Option<u32>,
    /// It is in the ring.
    pub member: bool,
    /// A link to it works; none for this node, and for transports that do not watch links.
    pub reachable: Option<bool>,
    /// Links to it by number.
    pub links: BTreeMap<u8, Link>,
}

/// A link to a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Link {
    /// Pongs come.
    pub up: bool,
    /// Own address.
    pub from: String,
    /// Address of the node.
    pub to: String,
    /// Bytes of payload in a datagram.
    pub mtu: u32,
    /// Average time from ping to pong, in milliseconds.
    pub latency_ms: Option<f64>,
    /// Times it came up.
    pub ups: Option<u64>,
    /// Times it went down.
    pub downs: Option<u64>,
}
