//! Group messaging as this daemon needs it: two process groups, quorum and the node list.
//!
//! The module owns the vocabulary ([`GroupEvent`], [`NodeList`], [`McastError`]) and the trait
//! [`Group`] that the cluster loop drives. [`corosync`] implements it with the Corosync client
//! libraries; nothing outside that folder knows them. Local mode has no group at all.
//!
//! Threads: one thread, the cluster thread, owns the [`Group`] and calls all of its methods. Any
//! thread may multicast through a [`Sender`] meanwhile.
//!
//! Invariants, kept by every implementation:
//! - members of a group get the same messages and the same membership changes in one order;
//! - a message that was sent after a change of quorum was announced to this node is handed out
//!   after that change;
//! - nothing follows [`GroupEvent::Disconnected`] until the next [`Group::connect`].

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub mod corosync;
pub mod retry;

pub use crate::wire::MemberId;

/// The two groups of this daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GroupName {
    /// The configuration tree: persistent, changed only with quorum.
    Config,
    /// Status values and the cluster log: volatile, needs no quorum.
    Status,
}

impl GroupName {
    /// Both groups, in the order in which their events are handed out.
    pub const ALL: [Self; 2] = [Self::Config, Self::Status];

    /// Name of the group between nodes. The NUL at the end is part of the name: a process that
    /// joins without it lands in another, empty group.
    #[must_use]
    pub const fn wire_name(self) -> &'static str {
        match self {
            Self::Config => "pve_dcdb_v1\0",
            Self::Status => "pve_kvstore_v1\0",
        }
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Config => "config",
            Self::Status => "status",
        })
    }
}

/// What the group layer tells the cluster loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupEvent {
    /// A message, own ones included.
    Deliver {
        /// The group it was sent to.
        group: GroupName,
        /// Who sent it.
        from: MemberId,
        /// The whole message, however large.
        payload: Bytes,
    },
    /// The membership of a group changed.
    Confchg {
        /// The group.
        group: GroupName,
        /// All members from now on, sorted.
        members: Vec<MemberId>,
        /// Who is gone. Nodes may see different lists for the same change.
        left: Vec<MemberId>,
        /// Who is new. Nodes may see different lists for the same change.
        joined: Vec<MemberId>,
    },
    /// State of quorum: the first one comes right after connecting, then one for each change.
    Quorum {
        /// Whether this node is in the partition that may decide.
        quorate: bool,
        /// Ids of the nodes in this node's partition.
        members: Vec<u32>,
    },
    /// The configured nodes: once after connecting, then whenever they changed.
    NodeList(NodeList),
    /// The messaging daemon is gone. All groups are left, quorum is unknown (treat it as lost).
    Disconnected {
        /// For the log.
        reason: String,
    },
}

/// The nodes of the cluster, as the messaging daemon knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeList {
    /// Name of the cluster, empty if it has none.
    pub cluster_name: String,
    /// `totem.config_version`, 0 if it has none.
    pub config_version: u64,
    /// In the order of the configuration file. Ids are not 0, names not empty.
    pub nodes: Vec<NodeInfo>,
}

impl NodeList {
    /// `config_version` as shown to users, who always saw its low 32 bits.
    #[must_use]
    pub fn display_version(&self) -> u32 {
        u32::try_from(self.config_version & u64::from(u32::MAX)).unwrap_or(u32::MAX)
    }
}

/// One configured node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// Node id, not 0.
    pub id: u32,
    /// Key `name`, else `ring0_addr`. Not empty.
    pub name: String,
    /// Votes of the node, 1 unless configured.
    pub votes: u32,
    /// Address on the first link, if configured.
    pub ring0_addr: Option<String>,
}

/// Why a message was not sent. Nothing reached the other members in any of these cases, or at
/// most a part that they throw away.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum McastError {
    /// Queues are full or the membership is changing: send again a little later.
    #[error("group messaging is busy, try again")]
    Backpressure,
    /// This process has not joined the group, or has left it.
    #[error("not a member of the group")]
    NotMember,
    /// No connection to the messaging daemon.
    #[error("no connection to corosync: check that the service corosync runs on this node")]
    Disconnected,
    /// Any other refusal; trying again will not help.
    #[error("corosync refused the message: {0}")]
    Other(String),
}

/// Why connecting or joining failed. The caller tries again later in every case.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// The messaging daemon can not be reached, or went away.
    #[error(
        "no connection to corosync ({call}: {reason}): check that the service corosync runs on this node"
    )]
    Unavailable {
        /// What was tried.
        call: &'static str,
        /// What the library said.
        reason: String,
    },
    /// The daemon starts, or the membership is changing.
    #[error("corosync is busy ({call}), try again")]
    Busy {
        /// What was tried.
        call: &'static str,
    },
    /// Without a quorum provider every partition would count as quorate.
    #[error(
        "corosync has no quorum provider: set `provider: corosync_votequorum` in section quorum of corosync.conf and restart corosync"
    )]
    NoQuorumProvider,
    /// Joining a group twice.
    #[error("already a member of group {0}")]
    AlreadyJoined(GroupName),
    /// Any other refusal.
    #[error("corosync refused {call}: {reason}, see the log of corosync")]
    Refused {
        /// What was tried.
        call: &'static str,
        /// What the library said.
        reason: String,
    },
}

/// Extended virtual synchrony with quorum, driven by one thread.
pub trait Group {
    /// Connects to the messaging daemon. The first [`Group::wait`] afterwards brings
    /// [`GroupEvent::NodeList`], and [`GroupEvent::Quorum`] comes by itself. Does nothing when
    /// connected. How often to try again is the caller's choice.
    ///
    /// # Errors
    /// When the daemon is not there, not ready, or has no quorum provider. Nothing stays open.
    fn connect(&mut self) -> Result<(), GroupError>;

    /// Whether there is a connection.
    fn is_connected(&self) -> bool;

    /// Id of this node, known while connected.
    fn local_node_id(&self) -> Option<u32>;

    /// A handle for multicasting. It outlives connections: while there is none it returns
    /// [`McastError::Disconnected`].
    fn sender(&self) -> Sender;

    /// Joins `group`. Takes effect with the [`GroupEvent::Confchg`] that lists this process.
    ///
    /// # Errors
    /// [`GroupError::Busy`] while an earlier leave of this process is not through everywhere.
    fn join(&mut self, group: GroupName) -> Result<(), GroupError>;

    /// Leaves `group` at once, without an event. Does nothing for a group not joined. The caller
    /// throws away what it still holds of that group from an earlier [`Group::wait`].
    fn leave(&mut self, group: GroupName);

    /// Leaves both groups and closes the connection, without an event.
    fn disconnect(&mut self);

    /// Waits until there is something to do, `wake` is readable, or `timeout` is over (`None`:
    /// no limit), and appends what happened to `events`, quorum first, a bounded number a call.
    /// Returns whether `wake` is readable; reading it is up to the caller.
    fn wait(
        &mut self,
        timeout: Option<Duration>,
        wake: BorrowedFd<'_>,
        events: &mut Vec<GroupEvent>,
    ) -> bool;
}

/// Sending, callable from every thread.
pub trait Multicast: Send + Sync {
    /// Sends `payload` to all members of `group`, this process included, in the total order.
    ///
    /// # Errors
    /// See [`McastError`].
    fn mcast(&self, group: GroupName, payload: &[u8]) -> Result<(), McastError>;
}

/// A shared handle to a [`Multicast`].
#[derive(Clone)]
pub struct Sender(Arc<dyn Multicast>);

impl Sender {
    /// Wraps an implementation.
    #[must_use]
    pub fn new(inner: Arc<dyn Multicast>) -> Self {
        Self(inner)
    }

    /// Sends `payload` to all members of `group`, this process included, in the total order.
    ///
    /// The caller keeps messages of an earlier membership from being sent after a new join.
    ///
    /// # Errors
    /// See [`McastError`]; [`retry`] tells how often to try again after [`McastError::Backpressure`].
    pub fn mcast(&self, group: GroupName, payload: &[u8]) -> Result<(), McastError> {
        self.0.mcast(group, payload)
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_ordered_by_node_then_process() {
        let mut members =
            [(2, 1), (1, 9), (10, 0), (1, 10)].map(|(node, pid)| MemberId { node, pid });
        members.sort();
        assert_eq!(
            members.map(|m| (m.node, m.pid)),
            [(1, 9), (1, 10), (2, 1), (10, 0)]
        );
    }

    #[test]
    fn wire_names_count_their_nul() {
        assert_eq!(GroupName::Config.wire_name().len(), 12);
        assert_eq!(GroupName::Status.wire_name().len(), 15);
    }

    #[test]
    fn shown_version_is_cut_to_32_bits() {
        let list = |config_version| NodeList {
            config_version,
            ..NodeList::default()
        };
        assert_eq!(list(7).display_version(), 7);
        assert_eq!(list((1 << 32) + 5).display_version(), 5);
        assert_eq!(list(u64::MAX).display_version(), u32::MAX);
    }
}
