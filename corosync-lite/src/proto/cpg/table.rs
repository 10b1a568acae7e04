//! Who is in which group, on all nodes.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::service::cpg::Group;
use crate::wire::NodeId;
use crate::wire::cpg::Piece;

/// A process of a node. Lists for clients are in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Process {
    pub(super) node: NodeId,
    pub(super) pid: u32,
}

/// Most memberships of the processes of one node.
const PROCESSES_MAX: usize = 1 << 16;

/// The members of all groups.
///
/// Invariant: no group without members is kept, so names of groups are those in use.
#[derive(Debug, Default)]
pub(super) struct Table {
    groups: BTreeMap<Group, Members>,
    /// Memberships by node, to bound them.
    counts: BTreeMap<NodeId, usize>,
}

/// The members of one group, with the message in parts that each is sending.
pub(super) type Members = BTreeMap<Process, Option<Assembly>>;

/// A message of which parts came, and more have to come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Assembly {
    /// Bytes to come.
    left: u32,
    /// When its first part was delivered.
    pub(super) since: u64,
}

impl Table {
    /// Adds a process. False when it is there already, or its node has too many.
    pub(super) fn insert(&mut self, group: &Group, process: Process) -> bool {
        let count = self.counts.entry(process.node).or_default();
        if *count >= PROCESSES_MAX {
            return false;
        }
        let members = self.groups.entry(group.clone()).or_default();
        let new = !members.contains_key(&process);
        if new {
            members.insert(process, None);
            *count += 1;
        }
        new
    }

    /// Takes a process out. False when it was not there.
    pub(super) fn remove(&mut self, group: &[u8], process: Process) -> bool {
        let Some(members) = self.groups.get_mut(group) else {
            return false;
        };
        if members.remove(&process).is_none() {
            return false;
        }
        if members.is_empty() {
            self.groups.remove(group);
        }
        if let Some(count) = self.counts.get_mut(&process.node) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&process.node);
            }
        }
        true
    }

    /// Takes out all that `goes` names; gives them back by group, in order.
    pub(super) fn remove_all(
        &mut self,
        mut goes: impl FnMut(&Group, Process) -> bool,
    ) -> BTreeMap<Group, Vec<Process>> {
        let mut gone: BTreeMap<Group, Vec<Process>> = BTreeMap::new();
        for (group, process) in self.all() {
            if goes(group, process) {
                gone.entry(group.clone()).or_default().push(process);
            }
        }
        for (group, processes) in &gone {
            for process in processes {
                self.remove(group.as_bytes(), *process);
            }
        }
        gone
    }

    /// The members of a group, in order.
    pub(super) fn members(&self, group: &[u8]) -> impl Iterator<Item = Process> + '_ {
        self.groups
            .get(group)
            .into_iter()
            .flat_map(|members| members.keys().copied())
    }

    /// How many members a group has.
    pub(super) fn len(&self, group: &[u8]) -> usize {
        self.groups.get(group).map_or(0, BTreeMap::len)
    }

    /// Whether a process is in a group.
    pub(super) fn contains(&self, group: &[u8], process: Process) -> bool {
        self.groups
            .get(group)
            .is_some_and(|members| members.contains_key(&process))
    }

    /// Whether any process of a node is in a group.
    pub(super) fn has_node(&self, group: &[u8], node: NodeId) -> bool {
        let first = Process { node, pid: 0 };
        let last = Process {
            node,
            pid: u32::MAX,
        };
        self.groups
            .get(group)
            .is_some_and(|members| members.range(first..=last).next().is_some())
    }

    /// All members of all groups, in order.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Group, Process)> {
        self.groups
            .iter()
            .flat_map(|(group, members)| members.keys().map(move |process| (group, *process)))
    }

    /// The first group behind a name, or of all.
    pub(super) fn next_group(&self, behind: Option<&Group>) -> Option<&Group> {
        let from = behind.map_or(Bound::Unbounded, Bound::Excluded);
        let mut groups = self.groups.range::<Group, _>((from, Bound::Unbounded));
        groups.next().map(|(group, _)| group)
    }

    /// The first member of a group behind a process, or of all.
    pub(super) fn next_member(&self, group: &Group, behind: Option<Process>) -> Option<Process> {
        let from = behind.map_or(Bound::Unbounded, Bound::Excluded);
        let mut members = self.groups.get(group)?.range((from, Bound::Unbounded));
        members.next().map(|(process, _)| *process)
    }

    /// Notes a part of a message of `total` bytes. Gives when its first part was delivered, or
    /// nothing when the part does not go on with what was there before, is longer than what is
    /// missing, or is the last one and leaves a gap: client libraries copy parts unchecked.
    pub(super) fn take_part(
        &mut self,
        group: &[u8],
        process: Process,
        (piece, total, len): (Piece, u32, usize),
        now: u64,
    ) -> Option<u64> {
        let assembly = self.groups.get_mut(group)?.get_mut(&process)?;
        let current = match piece {
            Piece::First => Assembly {
                left: total,
                since: now,
            },
            Piece::Continued | Piece::Last => assembly.take()?,
        };
        *assembly = None;
        let left = current.left.checked_sub(u32::try_from(len).ok()?)?;
        if piece != Piece::Last {
            *assembly = Some(Assembly { left, ..current });
        } else if left > 0 {
            return None;
        }
        Some(current.since)
    }
}
