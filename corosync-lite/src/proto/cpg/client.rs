//! What is known of one connection of a client.

use std::collections::BTreeMap;

use super::table::{Process, Table};
use crate::service::Status;
use crate::service::cpg::{Group, IterKind, MESSAGE_MAX, Part};

/// Walks that one client may have at a time.
const WALKS_MAX: usize = 1024;

/// A connection.
#[derive(Debug, Default)]
pub(super) struct Client {
    pub(super) state: State,
    /// It wants no more events.
    pub(super) finalized: bool,
    walks: BTreeMap<u64, Walk>,
    last_walk: u64,
}

/// How a connection stands to its group: it has at most one.
#[derive(Debug, Default)]
pub(super) enum State {
    /// In none.
    #[default]
    Idle,
    /// The join is on its way.
    Joining(Membership),
    /// The join was delivered.
    Joined(Membership),
    /// The leave is on its way; events go on until it is delivered.
    Leaving(Membership),
}

/// Membership of a connection in its group.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) group: Group,
    pub(super) pid: u32,
    /// It wants to know the ring as soon as it is in.
    pub(super) wants_ring: bool,
    /// When the join was delivered.
    pub(super) since: u64,
    pub(super) sending: Sending,
}

/// A message that the client sends in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// None.
    Nothing,
    /// So many bytes are to come.
    Open(u32),
    /// The members of the group changed in the middle of it.
    Interrupted,
}

/// A walk through groups. It holds its place only, so it sees what changes behind that.
#[derive(Debug)]
struct Walk {
    kind: IterKind,
    group: Option<Group>,
    process: Option<Process>,
}

impl Client {
    /// The membership, from the request to join until the leave is delivered.
    pub(super) fn membership(&self) -> Option<&Membership> {
        match &self.state {
            State::Idle => None,
            State::Joining(member) | State::Joined(member) | State::Leaving(member) => Some(member),
        }
    }

    /// The membership of one who is in the group, and is to know what happens in it.
    pub(super) fn member(&mut self) -> Option<&mut Membership> {
        match &mut self.state {
            State::Idle | State::Joining(_) => None,
            State::Joined(member) | State::Leaving(member) => Some(member),
        }
    }

    /// The membership of one who may send.
    pub(super) fn sender(&mut self) -> Option<&mut Membership> {
        match &mut self.state {
            State::Idle | State::Leaving(_) => None,
            State::Joining(member) | State::Joined(member) => Some(member),
        }
    }

    /// Whether there is a [`Self::sender`].
    pub(super) fn can_send(&self) -> bool {
        matches!(self.state, State::Joining(_) | State::Joined(_))
    }

    /// Starts a walk.
    pub(super) fn walk_start(&mut self, kind: IterKind, group: Group) -> Result<u64, Status> {
        if self.walks.len() >= WALKS_MAX {
            return Err(Status::NO_MEMORY);
        }
        let group = (kind == IterKind::One).then_some(group);
        let walk = Walk {
            kind,
            group,
            process: None,
        };
        self.last_walk += 1;
        self.walks.insert(self.last_walk, walk);
        Ok(self.last_walk)
    }

    /// The next place of a walk.
    pub(super) fn walk_next(
        &mut self,
        handle: u64,
        table: &Table,
    ) -> Result<(Group, u32, u32), Status> {
        let walk = self.walks.get_mut(&handle).ok_or(Status::LIBRARY)?;
        walk.next(table).ok_or(Status::NO_SECTIONS)
    }

    /// Ends a walk.
    pub(super) fn walk_end(&mut self, handle: u64) -> Status {
        match self.walks.remove(&handle) {
            Some(_) => Status::OK,
            None => Status::LIBRARY,
        }
    }
}

impl Membership {
    /// Whether the next part of a message may be sent, and is noted then.
    pub(super) fn take_part(&mut self, part: Part, length: u32, len: usize) -> Result<(), Status> {
        let open = match (part, self.sending) {
            (Part::First, _) => length,
            (_, Sending::Open(left)) => left,
            (_, Sending::Interrupted) => return Err(Status::INTERRUPT),
            (_, Sending::Nothing) => return Err(Status::INVALID_PARAM),
        };
        self.sending = Sending::Nothing;
        let left = u32::try_from(len)
            .ok()
            .and_then(|len| open.checked_sub(len));
        match left {
            Some(_) if len > MESSAGE_MAX => Err(Status::INVALID_PARAM),
            Some(0) if part == Part::Last => Ok(()),
            Some(left) if part != Part::Last => {
                self.sending = Sending::Open(left);
                Ok(())
            }
            _ => Err(Status::INVALID_PARAM),
        }
    }

    /// The members of the group changed.
    pub(super) fn interrupt(&mut self) {
        if let Sending::Open(_) = self.sending {
            self.sending = Sending::Interrupted;
        }
    }
}

impl Walk {
    fn next(&mut self, table: &Table) -> Option<(Group, u32, u32)> {
        if self.kind == IterKind::Names {
            let group = table.next_group(self.group.as_ref())?.clone();
            self.group = Some(group.clone());
            return Some((group, 0, 0));
        }
        loop {
            let group = match &self.group {
                Some(group) => group,
                None => table.next_group(None)?,
            };
            let group = group.clone();
            if let Some(process) = table.next_member(&group, self.process) {
                (self.group, self.process) = (Some(group.clone()), Some(process));
                return Some((group, process.node.0, process.pid));
            }
            if self.kind == IterKind::One {
                return None;
            }
            self.group = Some(table.next_group(Some(&group))?.clone());
            self.process = None;
        }
    }
}
