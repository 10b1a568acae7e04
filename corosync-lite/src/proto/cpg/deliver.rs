//! What comes back in the common order.

use super::client::{Membership, State};
use super::table::Process;
use super::wire::{self, Piece};
use super::{Cpg, LIST_MAX, Log, Output, address, holder};
use crate::service::ClientId;
use crate::service::cpg::{Address, Event, Group, Part, Reason};
use crate::wire::NodeId;

impl Cpg {
    pub(super) fn deliver_join(&mut self, sender: NodeId, joining: &wire::Process) {
        let Ok(group) = Group::new(&joining.group) else {
            return;
        };
        let (node, pid) = (sender, joining.pid);
        self.note_in_sync(sender, &group, pid, true);
        if self.is_lost(sender) {
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

    pub(super) fn deliver_leave(&mut self, sender: NodeId, leaving: &wire::Process) {
        let Ok(group) = Group::new(&leaving.group) else {
            return;
        };
        let (node, pid) = (sender, leaving.pid);
        self.note_in_sync(sender, &group, pid, false);
        if self.is_lost(sender) {
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

    pub(super) fn deliver_mcast(&mut self, sender: NodeId, mcast: &wire::Mcast) {
        let Some((group, receivers)) = self.receivers(&mcast.group, u64::MAX) else {
            return;
        };
        let (node, pid) = (sender, mcast.pid);
        // Any process of the node will do: nodes must not decide differently, and this is how
        // others do it.
        if self.is_lost(sender) || !self.table.has_node(group.as_bytes(), sender) {
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

    pub(super) fn deliver_partial(&mut self, sender: NodeId, partial: &wire::Partial) {
        let (node, pid) = (sender, partial.pid);
        let part = (partial.piece, partial.total, partial.payload.len());
        let process = Process { node, pid };
        let since = if self.is_lost(sender) {
            None
        } else {
            let (group, position) = (&partial.group, self.position);
            self.table.take_part(group, process, part, position)
        };
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
    pub(super) fn announce(&mut self, group: &Group, left: &[Address], joined: &[Address]) {
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
}
