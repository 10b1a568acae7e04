//! Process groups: who is in which group, and messages to groups in one order for all.
//!
//! [`Cpg`] is the part of one node, without I/O. It is told what clients ask, what came from the
//! other nodes, and what the synchronization of a new configuration wants; what is to be done
//! comes out of [`Cpg::poll_output`], in order. Not here: order itself, flow control, the form of
//! messages.
//!
//! A client's join, leave or message takes effect when it comes back in the common order, on its
//! own node as on all others. A configuration that is new costs one exchange: each node lists its
//! own processes, and when all lists are there, each takes the same new state and tells its
//! clients what that changes for them.
//!
//! # Invariants
//!
//! - A client gets events of a group from its own join to its own leave, both included, and of no
//!   other group.
//! - Members of a group on nodes that went through the same configurations get the same changes
//!   of members and the same messages between them, in the same order.
//! - Nodes that a configuration was not shared with are told as gone before they are told as new,
//!   also when the synchronizations in between were broken off.
//! - A part of a message goes only to who got the parts before it, and never exceeds the message.
//!
//! # Limits
//!
//! Processes of a node, members in a list for clients, walks of a client. What clients send is
//! bounded by the user: it asks [`cost`] and hands a request in when there is room.

mod client;
mod deliver;
mod request;
mod sync;
mod table;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub use super::srp::Lane;
use crate::service::cpg::{Address, Event, Group, Reason, Request, Response};
use crate::service::{ClientId, RingId as ClientRingId};
use crate::wire::cpg::{self as wire, Message};
use crate::wire::{NodeId, RingId};
use client::{Client, Membership, State};
use sync::Sync;
use table::{Process, Table};

/// Most members in one list for clients: their library and they have arrays of this size and do
/// not look. A group takes no more local members when it has that many.
const LIST_MAX: usize = 128;
/// Flag of a request to join: tell the ring, too.
const FLAG_RING: u32 = 1;

/// Something to be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a message to all nodes, this one included.
    Mcast {
        /// When it may be sent.
        lane: Lane,
        /// The message.
        message: Message,
    },
    /// Answer a client.
    Respond(ClientId, Response),
    /// Tell a client.
    Event(ClientId, Event),
    /// Something unusual happened. It may happen with each message.
    Log(Log),
}

/// What is worth a line in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Log {
    /// A message was dropped: no process of its node is in the group.
    UnknownSender {
        /// The group.
        group: Group,
        /// The node.
        node: NodeId,
        /// The process.
        pid: u32,
    },
    /// A part of a message was dropped: it does not fit to the parts before it. To be expected
    /// of messages that began before this node knew of the sender.
    StrayPart {
        /// The group.
        group: Group,
        /// The node.
        node: NodeId,
        /// The process.
        pid: u32,
    },
    /// A process was not taken into a group: its node has too many.
    TooManyProcesses {
        /// The group.
        group: Group,
        /// The node.
        node: NodeId,
        /// The process.
        pid: u32,
    },
}

/// Process groups of one node; see the module.
#[derive(Debug)]
pub struct Cpg {
    local: NodeId,
    clients: BTreeMap<ClientId, Client>,
    /// Local processes from the request to join until the leave is delivered, with their
    /// connections while those are there.
    holders: BTreeMap<Group, BTreeMap<u32, Option<ClientId>>>,
    table: Table,
    /// Members and ring of the last synchronization that was completed.
    members: BTreeSet<NodeId>,
    ring: RingId,
    /// Members that shared all configurations since then.
    survivors: BTreeSet<NodeId>,
    sync: Option<Sync>,
    /// Number of the message that is being delivered.
    position: u64,
    outputs: VecDeque<Output>,
}

/// Bytes of the message that a request causes. Nothing: it causes none, and may be handed in
/// whatever the room, in a synchronization as well.
#[must_use]
pub fn cost(request: &Request) -> Option<usize> {
    match request {
        Request::Join { .. } | Request::Leave { .. } => Some(wire::PROCESS_LEN),
        Request::Mcast { data, .. } => Some(wire::MCAST_HEAD_LEN + data.len()),
        Request::PartialMcast { data, .. } => Some(wire::PARTIAL_HEAD_LEN + data.len()),
        Request::Membership { .. }
        | Request::LocalNode
        | Request::IterInit { .. }
        | Request::IterNext { .. }
        | Request::IterFinalize { .. }
        | Request::Finalize
        | Request::ZeroCopy { .. } => None,
    }
}

impl Cpg {
    /// No groups and no configuration yet.
    #[must_use]
    pub fn new(local: NodeId) -> Self {
        Self {
            local,
            clients: BTreeMap::new(),
            holders: BTreeMap::new(),
            table: Table::default(),
            members: BTreeSet::new(),
            ring: RingId::default(),
            survivors: BTreeSet::new(),
            sync: None,
            position: 0,
            outputs: VecDeque::new(),
        }
    }

    /// The next thing to be done.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// All members of all groups as the common order has it: group, node, process.
    pub fn processes(&self) -> impl Iterator<Item = (&Group, NodeId, u32)> {
        let all = self.table.all();
        all.map(|(group, process)| (group, process.node, process.pid))
    }

    /// Whether what a client sends goes to its group.
    pub fn can_send(&self, client: ClientId) -> bool {
        let client = self.clients.get(&client);
        client.is_some_and(Client::can_send)
    }

    /// A client came.
    pub fn client_connected(&mut self, client: ClientId) {
        self.clients.insert(client, Client::default());
    }

    /// A client is gone: nothing is sent to it any more.
    pub fn client_gone(&mut self, client: ClientId) {
        let Some(gone) = self.clients.remove(&client) else {
            return;
        };
        if let Some(member) = gone.membership() {
            let holder = holder(&mut self.holders, member.group.as_bytes(), member.pid);
            if let Some(holder) = holder {
                *holder = None;
            }
        }
        if let State::Joining(member) | State::Joined(member) = gone.state {
            self.mcast_leave(&member, wire::Reason::ProcessDown);
        }
    }

    /// Takes a message of any node, this one included, in the common order.
    pub fn handle_message(&mut self, sender: NodeId, message: Message) {
        self.position += 1;
        match message {
            Message::Join(process) => self.deliver_join(sender, &process),
            Message::Leave(process) => self.deliver_leave(sender, &process),
            Message::Joinlist(entries) => self.deliver_joinlist(sender, &entries),
            Message::Mcast(mcast) => self.deliver_mcast(sender, &mcast),
            Message::Partial(partial) => self.deliver_partial(sender, &partial),
            // Of use to readers of logs only: each node goes by what itself saw.
            Message::Downlist(_) => (),
        }
    }

    fn mcast_leave(&mut self, member: &Membership, reason: wire::Reason) {
        self.mcast_ordinary(Message::Leave(wire::Process {
            group: member.group.to_bytes(),
            pid: member.pid,
            reason,
        }));
    }

    fn mcast_ordinary(&mut self, message: Message) {
        let lane = Lane::Ordinary;
        self.outputs.push_back(Output::Mcast { lane, message });
    }

    /// Sends an event to a client that wants any.
    fn tell(&mut self, client: ClientId, event: Event) {
        if self
            .clients
            .get(&client)
            .is_some_and(|client| !client.finalized)
        {
            self.outputs.push_back(Output::Event(client, event));
        }
    }

    fn totem_event(&self) -> Event {
        let members = self.members.iter().take(LIST_MAX);
        Event::TotemConfchg {
            ring: ClientRingId {
                nodeid: self.ring.rep.0,
                seq: self.ring.seq,
            },
            members: members.map(|node| node.0).collect(),
        }
    }
}

fn holder<'a>(
    holders: &'a mut BTreeMap<Group, BTreeMap<u32, Option<ClientId>>>,
    group: &[u8],
    pid: u32,
) -> Option<&'a mut Option<ClientId>> {
    holders.get_mut(group)?.get_mut(&pid)
}

fn address(process: Process, reason: Reason) -> Address {
    Address {
        nodeid: process.node.0,
        pid: process.pid,
        reason,
    }
}

#[cfg(test)]
mod tests;
