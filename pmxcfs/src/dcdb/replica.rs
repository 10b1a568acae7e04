//! This node's copy of the configuration tree as a member of the group: applies what is
//! delivered, describes its tree for a round, chooses the leader, takes over the leader's tree.
//!
//! A core without I/O: what has to be stored, published or sent comes out of
//! [`Replica::poll_effect`], in order.
//!
//! Invariant: the working tree here is ahead of the database, never behind it, and equals the
//! tree of every other member that has been delivered the same messages.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    dfsm::{App, Delivery, Evaluation, Violation},
    memdb::{
        Change, Content, Digest, Inode, LockEffect, LockTable, Name, Op, Root, Stamp, Tree,
        TreeEntry, is_lock_path,
    },
    wire::{
        DecodeError, MemberId,
        fuse_msg::FuseMessage,
        index::{EntryKind, IndexEntry, MemdbIndex, UpdateEntry},
    },
};

/// What follows from a message or a round.
#[derive(Clone, Debug)]
pub enum Effect {
    /// A change to store and publish. `own` is the running number, if this process proposed it.
    Applied {
        /// What changed.
        change: Change,
        /// Running number of the proposal.
        own: Option<u64>,
    },
    /// The whole tree was replaced by the leader's.
    Replaced {
        /// The tree before.
        old: Box<Tree>,
        /// The tree from now on.
        new: Box<Tree>,
        /// Whether changes are lost that only this node had, so that a copy is worth keeping.
        diverged: bool,
    },
    /// The cluster configuration may have changed. `reload`: this node has to ask for a reload.
    Conf {
        /// Whether this process made the change.
        reload: bool,
    },
    /// The lock is old enough: tell all members to remove it.
    GrantUnlock {
        /// The lock.
        path: Bytes,
        /// Checksum of its entry.
        checksum: Digest,
    },
}

/// The states of a round, while this process waits for the leader's updates.
#[derive(Clone, Debug)]
struct Round {
    leader: MemberId,
    blob: Bytes,
    index: MemdbIndex,
}

impl Round {
    /// Digest of an entry in the leader's state, whose entries are ascending.
    fn digest(&self, inode: u64) -> Option<Digest> {
        let entries = &self.index.entries;
        let at = entries.binary_search_by_key(&inode, |entry| entry.inode);
        entries.get(at.ok()?).map(|entry| entry.digest)
    }
}

/// See the module documentation.
#[derive(Clone, Debug)]
pub struct Replica {
    tree: Tree,
    locks: LockTable,
    quorate: bool,
    /// Whether this process is the only member of its group.
    is_alone: bool,
    lowest: bool,
    round: Option<Round>,
    effects: VecDeque<Effect>,
}

impl Replica {
    /// A copy of the tree that the database holds. `now` is in seconds.
    #[must_use]
    pub fn new(tree: Tree, now: u64) -> Self {
        let locks = LockTable::default().rebuilt(&tree, now);
        Self {
            tree,
            locks,
            quorate: false,
            is_alone: false,
            lowest: false,
            round: None,
            effects: VecDeque::new(),
        }
    }

    /// The working tree.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Goes back to what the database holds, after a change could not be stored.
    pub fn reset(&mut self, tree: Tree, now: u64) {
        self.locks = self.locks.rebuilt(&tree, now);
        self.tree = tree;
        self.round = None;
        self.effects.clear();
    }

    /// Quorum was gained or lost.
    pub fn set_quorate(&mut self, quorate: bool) {
        self.quorate = quorate;
    }

    /// Whether this node is part of a majority.
    #[must_use]
    pub fn is_quorate(&self) -> bool {
        self.quorate
    }

    /// Takes the next effect.
    #[must_use]
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// The message that carries an operation.
    #[must_use]
    pub fn message_for(op: Op) -> FuseMessage {
        match op {
            Op::Mkdir { path } => FuseMessage::Mkdir { path },
            Op::Create { path } => FuseMessage::Create { path },
            Op::Write {
                path,
                offset,
                data,
                truncate,
            } => FuseMessage::Write {
                path,
                offset,
                truncate,
                data,
            },
            Op::Rename { from, to } => FuseMessage::Rename { from, to },
            Op::Delete { path } => FuseMessage::Delete { path },
            Op::Mtime { path, mtime } => FuseMessage::Mtime { path, mtime },
            Op::Unlock { path, checksum } => FuseMessage::Unlock { checksum, path },
        }
    }

    fn apply(&mut self, now: u64, op: &Op, stamp: Stamp, own: Option<u64>) -> Delivery {
        let outcome = self.tree.apply(op, stamp);
        tracing::debug!("{op}, from node {}: {:?}", stamp.writer, outcome.result);
        if let Some(effect) = &outcome.lock {
            self.follow_lock(effect, now);
        }
        if let Some(change) = outcome.change {
            self.effects.push_back(Effect::Applied { change, own });
        }
        if outcome.touched_conf && outcome.result.is_ok() {
            self.effects.push_back(Effect::Conf {
                reload: own.is_some(),
            });
        }
        let result = match outcome.result {
            Ok(written) => i32::try_from(written).unwrap_or(i32::MAX),
            Err(error) => -error.errno(),
        };
        Delivery { result, ok: true }
    }

    fn follow_lock(&mut self, effect: &LockEffect, now: u64) {
        self.locks.follow(effect, now);
    }

    /// A node wants a lock released; the lowest node decides.
    fn unlock_request(&mut self, now: u64, path: Bytes, checksum: Digest) {
        let current = self
            .tree
            .find(&path)
            .filter(|entry| entry.is_dir() && is_lock_path(&path));
        let unchanged = current.is_some_and(|entry| entry.lock_checksum() == checksum);
        if unchanged && self.lowest && self.locks.expired(&path, &checksum, now) {
            self.effects
                .push_back(Effect::GrantUnlock { path, checksum });
        }
    }

    fn index(&self) -> MemdbIndex {
        let root = self.tree.root();
        let entry = |(inode, digest): (Inode, Digest)| IndexEntry {
            inode: inode.0,
            digest,
        };
        MemdbIndex {
            version: root.version,
            last_inode: self.tree.last_inode().0,
            writer: root.writer,
            mtime: root.mtime,
            entries: self.tree.digests().map(entry).collect(),
        }
    }

    fn update_for(&self, inode: Inode) -> Option<Bytes> {
        let entry = match inode {
            Inode::ROOT => Arc::new(self.tree.root_entry()),
            inode => Arc::clone(self.tree.get(inode)?),
        };
        let update = UpdateEntry {
            parent: entry.parent.0,
            inode: entry.inode.0,
            version: entry.version,
            writer: entry.writer,
            mtime: entry.mtime,
            kind: if entry.is_dir() {
                EntryKind::Directory
            } else {
                EntryKind::File
            },
            name: Bytes::copy_from_slice(&entry.name),
            data: entry.data(),
        };
        Some(update.encode())
    }

    /// The tree that the leader's updates make of the own one.
    fn merged(&self, round: &Round, updates: Vec<Bytes>) -> Result<(Tree, bool), Violation> {
        let old_version = self.tree.root().version;
        let mut root = self.tree.root();
        let mut entries = self.tree.entries().clone();
        let kept: BTreeSet<u64> = round
            .index
            .entries
            .iter()
            .map(|entry| entry.inode)
            .collect();
        for inode in self
            .tree
            .entries()
            .keys()
            .filter(|inode| !kept.contains(&inode.0))
        {
            entries.remove(inode);
        }
        let mut diverged = false;
        for payload in updates {
            let update = UpdateEntry::decode(payload)
                .map_err(|error| Violation(format!("update of {}: {error}", round.leader)))?;
            if update.inode == 0 {
                let UpdateEntry {
                    version,
                    writer,
                    mtime,
                    ..
                } = update;
                root = Root {
                    version,
                    writer,
                    mtime,
                };
                continue;
            }
            let described = round.digest(update.inode);
            let entry = entry_from(update, described);
            diverged |= entry.version <= old_version
                && !self
                    .tree
                    .get(entry.inode)
                    .is_some_and(|old| holds_the_same(old, &entry));
            entries.insert(entry.inode, Arc::new(entry));
        }
        let rows = entries.values().cloned().collect();
        let (tree, _) = Tree::load(root, rows).map_err(|issues| {
            let first = issues.first().map(ToString::to_string).unwrap_or_default();
            Violation(format!(
                "the tree of {} can not be represented: {first}",
                round.leader
            ))
        })?;
        Ok((tree, diverged))
    }
}

/// The entry of an update, as the leader's state describes it.
///
/// A leader whose file has a length and no data sends zeros, since there is no other way to send
/// it. Unless the leader is the lowest node its state describes the file without data, and only a
/// file without data makes the same tree.
fn entry_from(update: UpdateEntry, described: Option<Digest>) -> TreeEntry {
    let size = u32::try_from(update.data.len()).unwrap_or(u32::MAX);
    let is_zero = size > 0 && update.data.iter().all(|byte| *byte == 0);
    let name = Name::from(&update.name[..]);
    let entry = |content| {
        TreeEntry::new(
            Inode(update.inode),
            Inode(update.parent),
            update.version,
            update.writer,
            update.mtime,
            Arc::clone(&name),
            content,
        )
    };
    let sent = entry(match update.kind {
        EntryKind::Directory => Content::Directory,
        EntryKind::File => Content::File(update.data),
    });
    if !is_zero || sent.is_dir() || described == Some(sent.digest()) {
        return sent;
    }
    let hollow = entry(Content::Hollow(size));
    if described == Some(hollow.digest()) {
        hollow
    } else {
        sent
    }
}

/// Whether nothing but times and writers are lost with the old entry.
///
/// Each node of a new cluster has made its own entry of the same configuration, at its own time.
fn holds_the_same(old: &TreeEntry, new: &TreeEntry) -> bool {
    let place = |entry: &TreeEntry| (entry.inode, entry.parent, entry.version);
    place(old) == place(new) && old.name == new.name && old.content == new.content
}

/// Entries of the leader that are missing or different at another member.
fn missing(leader: &MemdbIndex, other: &MemdbIndex, into: &mut BTreeSet<u64>) {
    let mut theirs = other.entries.iter().peekable();
    for entry in &leader.entries {
        while theirs.next_if(|other| other.inode < entry.inode).is_some() {}
        let same = theirs.peek().is_some_and(|other| **other == *entry);
        if !same {
            into.insert(entry.inode);
        }
    }
}

/// Place of the member whose tree wins: highest version, then latest time, then lowest node.
fn leader_of(indices: &[MemdbIndex]) -> usize {
    let mut best = 0;
    let rank = |at: usize| indices.get(at).map(|index| (index.version, index.mtime));
    for at in 1..indices.len() {
        if rank(at) > rank(best) {
            best = at;
        }
    }
    best
}

impl App for Replica {
    const PROTOCOL: u32 = 1;
    const VERIFIES: bool = true;

    fn membership(&mut self, members: &[MemberId], lowest: bool) {
        self.round = None;
        self.is_alone = members.len() == 1;
        self.lowest = lowest;
    }

    fn state(&mut self, _now: u64) -> Bytes {
        if self.lowest {
            // The lowest node wins a tie, and what it sends then repairs members that never
            // allocated the bytes of these files.
            let root = self.tree.root();
            for entry in self.tree.fill_hollow() {
                let change = Change {
                    upsert: Some(entry),
                    delete: None,
                    root,
                };
                self.effects
                    .push_back(Effect::Applied { change, own: None });
            }
        }
        self.index().encode()
    }

    fn evaluate(
        &mut self,
        _now: u64,
        states: &[(MemberId, Bytes)],
        own: usize,
    ) -> Result<Evaluation, Violation> {
        let decode = |(member, blob): &(MemberId, Bytes)| {
            MemdbIndex::decode(blob.clone())
                .map_err(|error| Violation(format!("state of {member}: {error}")))
        };
        let indices: Vec<MemdbIndex> = states.iter().map(decode).collect::<Result<_, _>>()?;
        let best = leader_of(&indices);
        let (Some((leader, blob)), Some(index)) = (states.get(best), indices.get(best)) else {
            return Err(Violation("a round without members".into()));
        };
        let synced = states.iter().map(|(_, state)| state == blob).collect();
        let updates = (best == own).then(|| {
            let mut inodes = BTreeSet::new();
            for other in &indices {
                missing(index, other, &mut inodes);
            }
            inodes
                .into_iter()
                .filter_map(|inode| self.update_for(Inode(inode)))
                .collect()
        });
        self.round = Some(Round {
            leader: *leader,
            blob: blob.clone(),
            index: index.clone(),
        });
        Ok(Evaluation {
            synced,
            updates,
            messages: Vec::new(),
        })
    }

    fn commit(&mut self, now: u64, updates: Vec<Bytes>) -> Result<(), Violation> {
        let Some(round) = self.round.take() else {
            return Err(Violation("updates without a round".into()));
        };
        let (mut tree, diverged) = self.merged(&round, updates)?;
        tree.continue_counters(&self.tree);
        let old = std::mem::replace(&mut self.tree, tree);
        if self.index().encode() != round.blob {
            self.tree = old;
            let text = format!("the updates of {} do not make its tree", round.leader);
            return Err(Violation(text));
        }
        self.locks = self.locks.rebuilt(&self.tree, now);
        let new = Box::new(self.tree.clone());
        self.effects.push_back(Effect::Replaced {
            old: Box::new(old),
            new,
            diverged,
        });
        self.effects.push_back(Effect::Conf { reload: false });
        Ok(())
    }

    fn deliver(
        &mut self,
        now: u64,
        from: MemberId,
        own: Option<u64>,
        (subtype, time, payload): (u16, u32, Bytes),
    ) -> Delivery {
        if !self.quorate {
            // Another member may have taken it for a message with quorum, which shows in a round.
            // Where there is none, to leave would only keep this node's tree out of the round with
            // those that it meets next, whose trees can be old ones.
            return Delivery {
                result: -libc::EACCES,
                ok: self.is_alone,
            };
        }
        let message = match FuseMessage::decode(subtype, payload) {
            Ok(message) => message,
            Err(DecodeError::EmptyPath) => {
                return Delivery {
                    result: -libc::EINVAL,
                    ok: true,
                };
            }
            Err(_) => {
                return Delivery {
                    result: -libc::EPERM,
                    ok: false,
                };
            }
        };
        let op = match message {
            FuseMessage::Write {
                path,
                offset,
                truncate,
                data,
            } => Op::Write {
                path,
                offset,
                data,
                truncate,
            },
            FuseMessage::Mkdir { path } => Op::Mkdir { path },
            FuseMessage::Delete { path } => Op::Delete { path },
            FuseMessage::Rename { from, to } => Op::Rename { from, to },
            FuseMessage::Create { path } => Op::Create { path },
            FuseMessage::Mtime { path, mtime } => Op::Mtime { path, mtime },
            FuseMessage::UnlockRequest { checksum, path } => {
                self.unlock_request(now, path, checksum);
                return Delivery {
                    result: 0,
                    ok: true,
                };
            }
            FuseMessage::Unlock { checksum, path } => Op::Unlock { path, checksum },
        };
        let stamp = Stamp {
            writer: from.node,
            mtime: time,
        };
        self.apply(now, &op, stamp, own)
    }

    fn checksum(&mut self) -> Digest {
        self.tree.checksum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(node: u32) -> MemberId {
        MemberId { node, pid: 1 }
    }

    fn write(tree: &mut Tree, path: &'static [u8], offset: u32, data: &'static [u8]) {
        let path = Bytes::from_static(path);
        let stamp = Stamp {
            writer: 2,
            mtime: 1,
        };
        let create = Op::Create { path: path.clone() };
        tree.apply(&create, stamp).result.unwrap();
        let write = Op::Write {
            path,
            offset,
            data: Bytes::from_static(data),
            truncate: true,
        };
        tree.apply(&write, stamp).result.unwrap();
    }

    /// A round of the lowest node with an empty tree and a leader.
    fn join(leader: Tree) -> (Replica, Replica) {
        join_with(Tree::new(), leader)
    }

    fn join_with(lowest: Tree, leader: Tree) -> (Replica, Replica) {
        let mut lowest = Replica::new(lowest, 0);
        let mut leader = Replica::new(leader, 0);
        lowest.membership(&[member(1), member(2)], true);
        leader.membership(&[member(1), member(2)], false);
        let states = [
            (member(1), App::state(&mut lowest, 0)),
            (member(2), App::state(&mut leader, 0)),
        ];
        let evaluation = leader.evaluate(0, &states, 1).unwrap();
        assert_eq!(evaluation.synced, [false, true]);
        lowest.evaluate(0, &states, 0).unwrap();
        lowest.commit(0, evaluation.updates.unwrap()).unwrap();
        (lowest, leader)
    }

    #[test]
    fn a_length_without_data_is_taken_over_from_a_leader_that_is_not_the_lowest() {
        let mut tree = Tree::new();
        write(&mut tree, b"hollow", 7, b"");
        write(&mut tree, b"zeros", 0, &[0; 7]);
        let (lowest, leader) = join(tree);
        assert_eq!(lowest.tree(), leader.tree());
        let hollow = lowest.tree().find(b"hollow").unwrap();
        assert_eq!(hollow.content, Content::Hollow(7));
    }

    /// A tree as the first start makes it of the host's file.
    fn imported(now: u32, text: &'static [u8]) -> Tree {
        let mut tree = Tree::new();
        let (path, data) = (
            Bytes::from_static(b"corosync.conf"),
            Bytes::from_static(text),
        );
        let stamp = Stamp {
            writer: 0,
            mtime: now,
        };
        let create = Op::Create { path: path.clone() };
        tree.apply(&create, stamp).result.unwrap();
        let write = Op::Write {
            path,
            offset: 0,
            data,
            truncate: true,
        };
        tree.apply(&write, stamp).result.unwrap();
        tree
    }

    fn diverged(mut replica: Replica) -> bool {
        let effects = std::iter::from_fn(|| replica.poll_effect());
        let mut replaced = effects.filter_map(|effect| match effect {
            Effect::Replaced { diverged, .. } => Some(diverged),
            _ => None,
        });
        replaced.next().unwrap()
    }

    #[test]
    fn nodes_that_imported_the_same_file_at_other_times_have_nothing_to_lose() {
        let (first, leader) = join_with(imported(10, b"conf"), imported(12, b"conf"));
        assert_eq!(first.tree(), leader.tree());
        assert!(!diverged(first));
        let (first, _) = join_with(imported(10, b"mine"), imported(12, b"conf"));
        assert!(diverged(first), "another text");
    }
}
