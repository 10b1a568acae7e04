//! The exchange after each configuration change.
//!
//! Not all that reaches a node between a configuration and the end of its exchange is part of the
//! exchange, and lists say nothing of the ring that they are for. So only lists that come in an
//! exchange are looked at, and joins and leaves that come with them are noted as well.

use std::collections::{BTreeMap, BTreeSet};

use super::{Cpg, Lane, Output, Process, address};
use crate::service::cpg::{Address, Group, Reason};
use crate::wire::cpg::{Downlist, JoinlistEntry, Message};
use crate::wire::{NodeId, RingId};

/// Entries of one message with a list. A longer list takes several, which add up.
const ENTRIES_MAX: usize = 7000;
/// Most entries of one node that are kept.
const LISTED_MAX: usize = 1 << 16;

/// An exchange in progress.
#[derive(Debug)]
pub(super) struct Sync {
    members: BTreeSet<NodeId>,
    ring: RingId,
    /// Per node what it listed. False: it left, whether it comes in a list or not.
    listed: BTreeMap<NodeId, BTreeMap<(Group, u32), bool>>,
}

impl Sync {
    fn lists(&self, node: NodeId, group: &Group, pid: u32) -> bool {
        let listed = self.listed.get(&node);
        let entry = listed.and_then(|listed| listed.get(&(group.clone(), pid)));
        entry == Some(&true)
    }

    /// The table's entries of other nodes, as they will be; those who are no members left out.
    fn present(&self, local: NodeId) -> impl Iterator<Item = (&Group, Process)> {
        let from_members = self
            .listed
            .iter()
            .filter(move |(node, _)| **node != local && self.members.contains(node));
        from_members.flat_map(|(node, listed)| {
            let present = listed.iter().filter(|(_, present)| **present);
            present.map(|((group, pid), _)| {
                let (node, pid) = (*node, *pid);
                (group, Process { node, pid })
            })
        })
    }
}

impl Cpg {
    /// A regular configuration was installed. `transitional` names the members that were in the
    /// configuration before it as well.
    pub fn sync_init(&mut self, members: &[NodeId], transitional: &[NodeId], ring: RingId) {
        let members: BTreeSet<NodeId> = members.iter().copied().collect();
        // An exchange that was broken off does not make its configuration undone: who missed it
        // may have missed messages.
        self.survivors
            .retain(|node| members.contains(node) && transitional.contains(node));
        self.sync = Some(Sync {
            members,
            ring,
            listed: BTreeMap::new(),
        });
    }

    /// Sends what the other nodes need.
    pub fn sync_process(&mut self) {
        let left = self.members.iter().copied();
        let left = left.filter(|node| self.is_lost(*node)).collect();
        let old_members = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        self.mcast_sync(Message::Downlist(Downlist { old_members, left }));
        let own = self.table.all();
        let own = own.filter(|(_, process)| process.node == self.local);
        let entries: Vec<JoinlistEntry> = own
            .map(|(group, process)| JoinlistEntry {
                pid: process.pid,
                group: group.to_bytes(),
            })
            .collect();
        for entries in entries.chunks(ENTRIES_MAX) {
            self.mcast_sync(Message::Joinlist(entries.to_vec()));
        }
    }

    /// All members have sent theirs, and it was delivered: takes the new state.
    pub fn sync_activate(&mut self) {
        let Some(sync) = self.sync.take() else {
            return;
        };
        let (local, survivors) = (self.local, &self.survivors);
        let gone = self
            .table
            .remove_all(|_, process| process.node != local && !survivors.contains(&process.node));
        self.announce_gone(&gone, Reason::NodeDown);
        let mut came: BTreeMap<Group, Vec<Address>> = BTreeMap::new();
        for (group, process) in sync.present(local) {
            if self.table.insert(group, process) {
                let joined = came.entry(group.clone()).or_default();
                joined.push(address(process, Reason::NodeUp));
            }
        }
        for (group, joined) in &came {
            self.announce(group, &[], joined);
        }
        let gone = self.table.remove_all(|group, process| {
            process.node != local && !sync.lists(process.node, group, process.pid)
        });
        self.announce_gone(&gone, Reason::ProcessDown);
        self.survivors = sync.members.clone();
        self.members = sync.members;
        self.ring = sync.ring;
        let event = self.totem_event();
        let clients: Vec<_> = self.clients.keys().copied().collect();
        for client in clients {
            self.tell(client, event.clone());
        }
    }

    /// A newer configuration comes: what was listed is worth nothing.
    pub fn sync_abort(&mut self) {
        self.sync = None;
    }

    pub(super) fn deliver_joinlist(&mut self, sender: NodeId, entries: &[JoinlistEntry]) {
        let Some(sync) = &mut self.sync else {
            return;
        };
        let listed = sync.listed.entry(sender).or_default();
        for entry in entries {
            if let Ok(group) = Group::new(&entry.group)
                && listed.len() < LISTED_MAX
            {
                listed.entry((group, entry.pid)).or_insert(true);
            }
        }
    }

    /// Notes a join or leave that comes in an exchange.
    pub(super) fn note_in_sync(&mut self, sender: NodeId, group: &Group, pid: u32, present: bool) {
        let Some(sync) = &mut self.sync else {
            return;
        };
        let listed = sync.listed.entry(sender).or_default();
        if listed.len() < LISTED_MAX {
            listed.insert((group.clone(), pid), present);
        }
    }

    /// Whether a node did not share all configurations since the last exchange that was completed.
    ///
    /// What such a node says refers to members that are not the ones known here, so it has no
    /// effect. It comes before the next exchange is complete, or, when that is broken off, from a
    /// node that had completed it and is not in the configuration after it.
    pub(super) fn is_lost(&self, node: NodeId) -> bool {
        node != self.local && !self.survivors.contains(&node)
    }

    fn announce_gone(&mut self, gone: &BTreeMap<Group, Vec<Process>>, reason: Reason) {
        for (group, processes) in gone {
            let left = processes.iter().map(|process| address(*process, reason));
            let left: Vec<Address> = left.collect();
            self.announce(group, &left, &[]);
        }
    }

    fn mcast_sync(&mut self, message: Message) {
        let lane = Lane::Sync;
        self.outputs.push_back(Output::Mcast { lane, message });
    }
}
