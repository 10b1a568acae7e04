//! One node: the daemon with its disk and its sockets, and the processes that use it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use corosync_lite::{
    proto::node::{Node, SocketSpec, Stored},
    service::ClientId,
};

use super::{cluster::Cluster, network::Packet};
use crate::sim::net::Group as ReplicaGroup;

/// Datagrams that wait for a daemon that stands still, as in a socket buffer.
pub(super) const SOCKET_MAX: usize = 400;

/// Whom a connection belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The process in a slot.
    Process(usize),
    /// A group of the replica.
    Replica(ReplicaGroup),
    /// Somebody who asks once.
    Passerby,
}

/// What a process is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not connected.
    #[default]
    Away,
    /// Connected, in no group.
    Idle,
    /// Waits for its own join.
    Joining,
    /// In its group.
    Joined,
    /// Waits for its own leave.
    Leaving,
}

/// A process that takes part in a group, time and again under another number.
#[derive(Clone, Debug, Default)]
pub(super) struct Process {
    pub(super) stage: Stage,
    pub(super) client: Option<ClientId>,
    pub(super) pid: u32,
    pub(super) group: u64,
    /// Messages sent, and those among them that are too short to carry a number.
    pub(super) sent: u32,
    pub(super) short: u32,
    /// A long message, and how much of it is sent.
    pub(super) partial: Option<(Bytes, usize)>,
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: u32,
    /// The daemon, while it runs.
    pub(super) node: Option<Node>,
    /// The file on this machine.
    pub(super) file: Cluster,
    pub(super) stored: Stored,
    pub(super) sockets: Vec<SocketSpec>,
    pub(super) paused: bool,
    /// What came while it stood still.
    pub(super) waiting: VecDeque<Packet>,
    pub(super) wake_at: Option<u64>,
    /// Requests to process groups are not taken.
    pub(super) is_blocked: bool,
    /// Links on which the system refuses to send.
    pub(super) unusable: BTreeSet<u8>,
    /// It dies after so many more outputs.
    pub(super) dies_after: Option<u64>,
    pub(super) owners: BTreeMap<ClientId, Owner>,
    pub(super) processes: Vec<Process>,
    pub(super) reload_wanted: bool,
    pub(super) must_stop: bool,
    /// Highest ring sequence that was installed, if nothing was forgotten since.
    pub(super) installed_seq: u64,
}

impl Member {
    pub(super) fn new(id: u32, file: Cluster, processes: u32) -> Self {
        Self {
            id,
            node: None,
            file,
            stored: Stored::default(),
            sockets: Vec::new(),
            paused: false,
            waiting: VecDeque::new(),
            wake_at: None,
            is_blocked: false,
            unusable: BTreeSet::new(),
            dies_after: None,
            owners: BTreeMap::new(),
            processes: (0..processes).map(|_| Process::default()).collect(),
            reload_wanted: false,
            must_stop: false,
            installed_seq: 0,
        }
    }

    /// The daemon, if it runs and does not stand still.
    pub(super) fn awake(&mut self) -> Option<&mut Node> {
        self.node.as_mut().filter(|_| !self.paused)
    }

    /// One line for the reader of a failure.
    pub(super) fn describe(&self) -> String {
        let Some(node) = &self.node else {
            return format!("n{} down", self.id);
        };
        let members: Vec<u32> = node.members().iter().map(|member| member.0).collect();
        let stages: Vec<Stage> = self.processes.iter().map(|it| it.stage).collect();
        format!(
            "n{} ring {} {:?} members {members:?} synchronized={} quorate={} paused={} blocked={} \
             queued={} stored={} processes {stages:?}",
            self.id,
            node.ring(),
            node.phase(),
            u8::from(node.is_synchronized()),
            u8::from(node.is_quorate()),
            u8::from(self.paused),
            u8::from(self.is_blocked),
            node.queued(),
            self.stored.ring_seq,
        )
    }
}
