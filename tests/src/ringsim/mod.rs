//! The deterministic simulator of whole messaging daemons: N nodes in one thread, from one seed.
//!
//! Each node is the production [`corosync_lite::proto::node::Node`], which holds everything between
//! its sockets and its clients. The simulator is the world around them: a network with several
//! links, disks that keep what was stored, processes that join groups and send, and on top of some
//! of them the configuration replica of the cluster file system. A history has two phases: first
//! faults, while nothing may become wrong; then none, and the nodes have to form one ring and
//! deliver what is under way within a bound of virtual time.
//!
//! | module | owns |
//! |---|---|
//! | [`options`] | what kind of history a seed stands for |
//! | `cluster` | the configuration files of the nodes |
//! | `network` | links: loss, delay, cuts; datagrams on their way |
//! | `member` | one node with its disk, its sockets and its processes |
//! | `world` | the order of events |
//! | `workload` | what processes do |
//! | `faults` | what goes wrong, and when it ends |
//! | `phases` | the parts of a history, and what must be so in the end |
//! | `check` | extended virtual synchrony, views, quorum: what must hold at any time |
//! | `replicas` | the file system's state machine on top |
//! | `journal` | what happened |
//!
//! Invariant: a seed decides everything, see [`crate::sim`].

mod check;
mod cluster;
mod faults;
mod journal;
mod member;
mod network;
pub mod options;
mod phases;
mod replicas;
mod workload;
mod world;

pub use self::{
    check::Counts,
    options::{Defect, Fault, Options},
    world::{Report, World},
};

/// Runs the history of a seed.
#[must_use]
pub fn run(seed: u64) -> Report {
    World::new(Options::draw(seed)).run()
}
