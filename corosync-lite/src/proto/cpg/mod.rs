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
mod sync;
mod table;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

pub use super::srp::Lane;
use crate::service::cpg::{Address, Event, Group, MESSAGE_MAX, Part, Reason, Request, Response};
use crate::service::{ClientId, RingId as ClientRingId, Status};
use crate::wire::cpg::{self as wire, Message, Piece};
use crate::wire::exec::Source;
use crate::wire::{NodeId, RingId};
use client::{Client, Membership, Sending, State};
use sync::Sync;
use table::{Process, Table};

/// Most members in one list of an event: client libraries have arrays of this size and do not
/// look. A group takes no more local members when it has that many.
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
    /// A part of a message was dropped: it does not fit to the parts before it.
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

    /// Takes a request of a client. There has to be room for what [`cost`] says.
    pub fn handle_request(&mut self, client: ClientId, request: Request) {
        if !self.clients.contains_key(&client) {
            return;
        }
        let response = match request {
            Request::Join { group, pid, flags } => {
                Response::Join(self.join(client, group, pid, flags))
            }
            Request::Leave { group, .. } => Response::Leave(self.leave(client, &group)),
            Request::Mcast { data, .. } => {
                self.mcast(client, data);
                return;
            }
            Request::PartialMcast {
                length, part, data, ..
            } => Response::PartialMcast(status(self.partial_mcast(client, length, part, data))),
            Request::Membership { group } => {
                let members = self.table.members(group.as_bytes());
                Response::Membership(
                    members
                        .map(|process| address(process, Reason::None))
                        .collect(),
                )
            }
            Request::LocalNode => Response::LocalNode(self.local.0),
            Request::Finalize => {
                self.with_client(client, |client, _| client.finalized = true);
                Response::Finalize(Status::OK)
            }
            Request::ZeroCopy { .. } => Response::ZeroCopy(Status::NOT_SUPPORTED),
            Request::IterInit { group, kind } => Response::IterInit(
                self.with_client(client, |client, _| client.walk_start(kind, group))
                    .unwrap_or(Err(Status::LIBRARY)),
            ),
            Request::IterNext { handle } => Response::IterNext(
                self.with_client(client, |client, table| client.walk_next(handle, table))
                    .unwrap_or(Err(Status::LIBRARY)),
            ),
            Request::IterFinalize { handle } => Response::IterFinalize(
                self.with_client(client, |client, _| client.walk_end(handle))
                    .unwrap_or(Status::LIBRARY),
            ),
        };
        self.outputs.push_back(Output::Respond(client, response));
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

    fn with_client<T>(
        &mut self,
        client: ClientId,
        act: impl FnOnce(&mut Client, &Table) -> T,
    ) -> Option<T> {
        let client = self.clients.get_mut(&client)?;
        Some(act(client, &self.table))
    }

    fn join(&mut self, client: ClientId, group: Group, pid: u32, flags: u32) -> Status {
        if let Some(holder) = holder(&mut self.holders, group.as_bytes(), pid) {
            let live = holder.and_then(|holder| self.clients.get(&holder));
            return match live {
                Some(live) if !live.finalized => Status::EXIST,
                // On its way out.
                _ => Status::TRY_AGAIN,
            };
        }
        let full = self.table.len(group.as_bytes()) >= LIST_MAX;
        let Some(joining) = self.clients.get_mut(&client) else {
            return Status::LIBRARY;
        };
        match joining.state {
            State::Leaving(_) => return Status::BUSY,
            State::Joining(_) | State::Joined(_) => return Status::EXIST,
            State::Idle if full => return Status::NO_RESOURCES,
            State::Idle => (),
        }
        joining.state = State::Joining(Membership {
            group: group.clone(),
            pid,
            wants_ring: flags & FLAG_RING != 0,
            since: 0,
            sending: Sending::Nothing,
        });
        self.mcast_ordinary(Message::Join(wire::Process {
            group: group.to_bytes(),
            pid,
            reason: wire::Reason::Join,
        }));
        let holders = self.holders.entry(group).or_default();
        holders.insert(pid, Some(client));
        Status::OK
    }

    /// The process is the one that joined: a client that has forked says another number.
    fn leave(&mut self, client: ClientId, group: &Group) -> Status {
        let Some(leaving) = self.clients.get_mut(&client) else {
            return Status::LIBRARY;
        };
        match std::mem::take(&mut leaving.state) {
            State::Joined(member) if member.group == *group => {
                let gone = Membership {
                    group: member.group.clone(),
                    ..member
                };
                leaving.state = State::Leaving(member);
                self.mcast_leave(&gone, wire::Reason::Leave);
                Status::OK
            }
            State::Joining(member) if member.group == *group => {
                leaving.state = State::Joining(member);
                Status::BUSY
            }
            other => {
                leaving.state = other;
                Status::NOT_EXIST
            }
        }
    }

    /// A client that may not send is not told: its library does not wait for an answer.
    fn mcast(&mut self, client: ClientId, data: Bytes) {
        let sending = self.clients.get_mut(&client);
        let Some(member) = sending.and_then(Client::sender) else {
            return;
        };
        if data.len() > MESSAGE_MAX {
            return;
        }
        let message = Message::Mcast(wire::Mcast {
            group: member.group.to_bytes(),
            pid: member.pid,
            source: source(self.local, client),
            payload: data,
        });
        self.mcast_ordinary(message);
    }

    fn partial_mcast(
        &mut self,
        client: ClientId,
        length: u32,
        part: Part,
        data: Bytes,
    ) -> Result<(), Status> {
        let sending = self.clients.get_mut(&client);
        let member = sending.and_then(Client::sender).ok_or(Status::NOT_EXIST)?;
        member.take_part(part, length, data.len())?;
        let message = Message::Partial(wire::Partial {
            group: member.group.to_bytes(),
            total: length,
            pid: member.pid,
            piece: match part {
                Part::First => Piece::First,
                Part::Middle => Piece::Continued,
                Part::Last => Piece::Last,
            },
            source: source(self.local, client),
            payload: data,
        });
        self.mcast_ordinary(message);
        Ok(())
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

    fn deliver_join(&mut self, sender: NodeId, joining: &wire::Process) {
        let Ok(group) = Group::new(&joining.group) else {
            return;
        };
        let (node, pid) = (sender, joining.pid);
        if !self.note_in_sync(sender, &group, pid, true) {
            return;
        }
        let process = Process { node, pid };
        if !self.table.insert(&group, process) {
            if !self.table.contains(group.as_bytes(), process) {
                let log = Log::TooManyProcesses { group, node, pid };
                self.outputs.push_back(Output::Log(log));
            }
            return;
        }
        let wants_ring = (sender == self.local)
            .then(|| self.complete_join(&group, pid))
            .flatten();
        self.announce(&group, &[], &[address(process, Reason::Join)]);
        if let Some(client) = wants_ring {
            let event = self.totem_event();
            self.tell(client, event);
        }
    }

    /// The client that joined is in; gives it back when it wants to know the ring.
    fn complete_join(&mut self, group: &Group, pid: u32) -> Option<ClientId> {
        let holder = (*holder(&mut self.holders, group.as_bytes(), pid)?)?;
        let client = self.clients.get_mut(&holder)?;
        client.state = match std::mem::take(&mut client.state) {
            State::Joining(member) => State::Joined(Membership {
                since: self.position,
                ..member
            }),
            other => other,
        };
        let wants_ring = client.member()?.wants_ring;
        wants_ring.then_some(holder)
    }

    fn deliver_leave(&mut self, sender: NodeId, leaving: &wire::Process) {
        let Ok(group) = Group::new(&leaving.group) else {
            return;
        };
        let (node, pid) = (sender, leaving.pid);
        if !self.note_in_sync(sender, &group, pid, false) {
            return;
        }
        let process = Process { node, pid };
        if !self.table.remove(group.as_bytes(), process) {
            return;
        }
        let reason = match leaving.reason {
            wire::Reason::Join => Reason::Join,
            wire::Reason::Leave | wire::Reason::Other(_) => Reason::Leave,
            wire::Reason::NodeDown => Reason::NodeDown,
            wire::Reason::NodeUp => Reason::NodeUp,
            wire::Reason::ProcessDown => Reason::ProcessDown,
        };
        self.announce(&group, &[address(process, reason)], &[]);
        if sender == self.local {
            self.complete_leave(&group, pid);
        }
    }

    /// The client that left may join again.
    fn complete_leave(&mut self, group: &Group, pid: u32) {
        let Some(holders) = self.holders.get_mut(group) else {
            return;
        };
        let holder = holders.remove(&pid).flatten();
        if holders.is_empty() {
            self.holders.remove(group);
        }
        if let Some(client) = holder.and_then(|holder| self.clients.get_mut(&holder)) {
            client.state = State::Idle;
        }
    }

    fn deliver_mcast(&mut self, sender: NodeId, mcast: &wire::Mcast) {
        let Some((group, receivers)) = self.receivers(&mcast.group, u64::MAX) else {
            return;
        };
        let (node, pid) = (sender, mcast.pid);
        // Any process of the node will do: nodes must not decide differently, and this is how
        // others do it.
        if !self.table.has_node(group.as_bytes(), sender) {
            let log = Log::UnknownSender { group, node, pid };
            self.outputs.push_back(Output::Log(log));
            return;
        }
        for client in receivers {
            let event = Event::Deliver {
                group: group.clone(),
                nodeid: node.0,
                pid,
                data: mcast.payload.clone(),
            };
            self.outputs.push_back(Output::Event(client, event));
        }
    }

    fn deliver_partial(&mut self, sender: NodeId, partial: &wire::Partial) {
        let (node, pid) = (sender, partial.pid);
        let part = (partial.piece, partial.total, partial.payload.len());
        let process = Process { node, pid };
        let since = self
            .table
            .take_part(&partial.group, process, part, self.position);
        // Those who came after the first part got none and get none.
        let before = since.unwrap_or(u64::MAX);
        let Some((group, receivers)) = self.receivers(&partial.group, before) else {
            return;
        };
        if since.is_none() {
            let log = Log::StrayPart { group, node, pid };
            self.outputs.push_back(Output::Log(log));
            return;
        }
        for client in receivers {
            let event = Event::PartialDeliver {
                group: group.clone(),
                nodeid: node.0,
                pid,
                length: partial.total,
                part: match partial.piece {
                    Piece::First => Part::First,
                    Piece::Continued => Part::Middle,
                    Piece::Last => Part::Last,
                },
                data: partial.payload.clone(),
            };
            self.outputs.push_back(Output::Event(client, event));
        }
    }

    /// The local clients that joined a group before a position, if there are any.
    fn receivers(&mut self, group: &[u8], before: u64) -> Option<(Group, Vec<ClientId>)> {
        let (group, holders) = self.holders.get_key_value(group)?;
        let mut receivers = Vec::new();
        for holder in holders.values().flatten() {
            let Some(client) = self.clients.get_mut(holder) else {
                continue;
            };
            if client.finalized {
                continue;
            }
            if client.member().is_some_and(|member| member.since < before) {
                receivers.push(*holder);
            }
        }
        (!receivers.is_empty()).then(|| (group.clone(), receivers))
    }

    /// Tells the local members of a group who left or joined; the table has it already.
    fn announce(&mut self, group: &Group, left: &[Address], joined: &[Address]) {
        let Some(holders) = self.holders.get(group) else {
            return;
        };
        let mut receivers = Vec::new();
        for holder in holders.values().flatten() {
            let Some(client) = self.clients.get_mut(holder) else {
                continue;
            };
            let finalized = client.finalized;
            if let Some(member) = client.member() {
                member.interrupt();
                receivers.extend((!finalized).then_some(*holder));
            }
        }
        if receivers.is_empty() {
            return;
        }
        let members = self.table.members(group.as_bytes()).take(LIST_MAX);
        let members: Vec<Address> = members
            .map(|process| address(process, Reason::None))
            .collect();
        let left = left.chunks(LIST_MAX).map(|left| (left, &[][..]));
        let joined = joined.chunks(LIST_MAX).map(|joined| (&[][..], joined));
        for (left, joined) in left.chain(joined) {
            let event = Event::Confchg {
                group: group.clone(),
                members: members.clone(),
                left: left.to_vec(),
                joined: joined.to_vec(),
            };
            for client in &receivers {
                self.outputs
                    .push_back(Output::Event(*client, event.clone()));
            }
        }
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

fn source(node: NodeId, client: ClientId) -> Source {
    Source {
        node,
        connection: client.0,
    }
}

fn status(result: Result<(), Status>) -> Status {
    result.err().unwrap_or(Status::OK)
}

#[cfg(test)]
mod tests;
