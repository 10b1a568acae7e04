//! What the running messaging daemon says about quorum and members.
//!
//! | module | does |
//! |---|---|
//! | `ask` | asks the daemon, Corosync or corosync-lite, over its local services |
//! | [`expected`] | what a change of the expected votes does, said before it is made |
//! | `print` | the blocks of `corosync-quorumtool`, to the character |
//! | [`words`] | says in words what they mean: who is missing, why, and what is possible |
//! | `sys` | the two calls of the C library that have no safe form |
//!
//! The services are asked with this project's own client, not through the C libraries: those wait
//! for an answer without a limit, and their binding has neither the addresses of a node nor the
//! total of votes.
//!
//! Invariant: nothing here waits for the daemon without a limit; printing is pure.

mod ask;
pub mod expected;
mod print;
mod sys;
pub mod words;

#[cfg(test)]
mod tests;

use std::net::IpAddr;

pub use ask::{NoState, Peer, Service, ask, ask_peers, set_expected};
pub use corosync_lite::service::votequorum::flags;
pub use print::{IdForm, NameForm, blocks, complaints, flag_names, header, membership};
pub use sys::date;

/// The quorum as a node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// What decides.
    pub provider: String,
    /// This node.
    pub node: u32,
    /// The node that the ring is named after.
    pub ring_node: u32,
    /// Number of the ring.
    pub ring_seq: u64,
    /// This node may act.
    pub quorate: bool,
    /// The counting, as this node sees it.
    pub votes: Votes,
    /// Nodes of the ring, in the daemon's order.
    pub members: Vec<Member>,
}

/// The counting of votes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Votes {
    /// What this node expects.
    pub expected: u32,
    /// The most that anyone expects.
    pub highest_expected: u32,
    /// Votes that are here.
    pub total: u32,
    /// Votes that must be here.
    pub needed: u32,
    /// Bits of [`flags`].
    pub flags: u32,
}

/// A node of the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub id: u32,
    /// Its votes, and how it stands to the device; `None` if it has just left.
    pub info: Option<Info>,
    /// Its name in the configuration, else what its address resolves to.
    pub name: String,
    /// Its address on the first link, or the daemon's number of the error.
    pub address: Result<IpAddr, i32>,
}

/// Votes of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Its own.
    pub votes: u32,
    /// Bits of [`flags`].
    pub flags: u32,
    /// Votes of the device.
    pub device_votes: u32,
    /// Name of the device; empty if there is none.
    pub device_name: String,
}
