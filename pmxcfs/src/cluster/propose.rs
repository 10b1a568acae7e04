//! Proposing changes.
//!
//! A change is sent by the thread that proposes it, if this node is in sync and nothing waits in
//! front of it. Otherwise it is parked, and the cluster thread sends what is parked, in order, as
//! soon as that is possible: other members apply what a member sends out of sync in another order
//! than that member does. Nobody waits here; the answer goes to whoever asked for it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{Core, Shared, waiters::Answer};
use crate::{
    clock, confwatch,
    dcdb::{Done, ProposeError, Replica, guard},
    dfsm::Mode,
    group::{GroupName, McastError, retry},
    memdb::{Op, Stamp, Tree, is_lock_path},
    wire::fuse_msg::FuseMessage,
};

/// How long a change may take to be ordered and applied.
///
/// Longer than it takes to notice that nodes are gone, so that the majority's writes succeed.
pub(super) const PROPOSE_LIMIT: Duration = Duration::from_secs(60);

/// Changes that wait to be sent.
#[derive(Default)]
pub(super) struct Parked {
    queue: VecDeque<(Op, Done, Instant)>,
    /// Since when the messaging daemon takes nothing.
    busy_since: Option<Instant>,
}

impl Parked {
    /// Whether the messaging daemon has to be tried again soon.
    pub(super) fn is_refused(&self) -> bool {
        self.busy_since.is_some()
    }
}

/// What became of a change that was to be sent.
enum Sent {
    /// It is on its way; the answer comes later.
    Yes,
    /// Not now.
    NotYet(Op, Done),
    /// Never.
    Refused(Done, ProposeError),
}

impl Shared {
    /// Has `op` ordered, applied and stored.
    pub(super) fn submit(&self, op: Op, done: Done) {
        let deadline = clock::monotonic() + PROPOSE_LIMIT;
        let mut core = self.lock_core();
        let sent = if core.parked.queue.is_empty() {
            self.send(&mut core, op, done, deadline)
        } else {
            Sent::NotYet(op, done)
        };
        match sent {
            Sent::Yes => {}
            Sent::NotYet(op, done) => {
                core.parked.queue.push_back((op, done, deadline));
                self.wake();
            }
            Sent::Refused(done, error) => {
                drop(core);
                done(Err(error));
            }
        }
    }

    /// Sends what is parked, as far as that is possible now, and answers what is not possible.
    pub(super) fn send_parked(&self) {
        let now = clock::monotonic();
        let mut answers: Vec<(Done, Answer)> = Vec::new();
        {
            let mut core = self.lock_core();
            while let Some((op, done, deadline)) = core.parked.queue.pop_front() {
                let gave_up = core
                    .parked
                    .busy_since
                    .is_some_and(|since| now - since > retry::PAUSE * retry::ATTEMPTS);
                if deadline <= now || gave_up {
                    answers.push((done, Err(ProposeError::Busy)));
                    continue;
                }
                match self.send(&mut core, op, done, deadline) {
                    Sent::Yes => {}
                    Sent::Refused(done, error) => answers.push((done, Err(error))),
                    Sent::NotYet(op, done) => {
                        core.parked.queue.push_front((op, done, deadline));
                        break;
                    }
                }
            }
            if core.parked.queue.is_empty() {
                core.parked.busy_since = None;
            }
        }
        for (done, answer) in answers {
            done(answer);
        }
    }

    fn send(&self, core: &mut Core, op: Op, done: Done, deadline: Instant) -> Sent {
        if let Err(error) = core.refusal() {
            return Sent::Refused(done, error);
        }
        if core.dfsm.mode() != Mode::Synced {
            return Sent::NotYet(op, done);
        }
        let tree = core.dfsm.app().tree();
        let checked =
            guard::checked(tree, op.clone()).and_then(|op| self.check_conf(tree, &op).map(|()| op));
        let message = match checked {
            Ok(op) => Replica::message_for(op),
            Err(error) => return Sent::Refused(done, error),
        };
        let (count, bytes) = make(core, &message);
        match self.sender.mcast(GroupName::Config, &bytes) {
            Ok(()) => {
                core.parked.busy_since = None;
                // The answer can not come before the core is let go.
                self.waiters.add(count, done, deadline);
                Sent::Yes
            }
            Err(McastError::Backpressure) => {
                core.parked.busy_since.get_or_insert_with(clock::monotonic);
                Sent::NotYet(op, done)
            }
            Err(error) => {
                tracing::warn!("a change could not be sent: {error}");
                Sent::Refused(done, ProposeError::Busy)
            }
        }
    }

    /// Asks the lowest node to release an old lock; does not wait for it.
    pub(super) fn request_unlock(&self, path: &Bytes) -> Result<(), ProposeError> {
        let mut core = self.lock_core();
        let entry = core.dfsm.app().tree().find(path);
        let lock = entry.filter(|entry| entry.is_dir() && is_lock_path(path));
        let Some(checksum) = lock.map(|entry| entry.lock_checksum()) else {
            return Ok(());
        };
        core.refusal()?;
        if core.dfsm.mode() == Mode::Synced {
            let message = FuseMessage::UnlockRequest {
                checksum,
                path: path.clone(),
            };
            let (_, bytes) = make(&mut core, &message);
            if let Err(error) = self.sender.mcast(GroupName::Config, &bytes) {
                tracing::debug!("a request to release a lock was not sent: {error}");
            }
        }
        Ok(())
    }

    /// Refuses a cluster configuration that would cut the cluster or this node off.
    fn check_conf(&self, tree: &Tree, op: &Op) -> Result<(), ProposeError> {
        let touches = match op {
            Op::Write { path, .. } => path == confwatch::TREE_NAME.as_bytes(),
            Op::Rename { to, .. } => to == confwatch::TREE_NAME.as_bytes(),
            _ => false,
        };
        if !touches {
            return Ok(());
        }
        let mut after = tree.clone();
        after
            .apply(
                op,
                Stamp {
                    writer: 0,
                    mtime: 0,
                },
            )
            .result?;
        let content = |tree: &Tree| tree.file(confwatch::TREE_NAME.as_bytes());
        let old = content(tree).filter(|old| !old.is_empty());
        let new = content(&after).unwrap_or_default();
        confwatch::check(&new, old.as_deref(), &self.options.node_name).map_err(|error| {
            let text = format!("the new corosync.conf was refused, the old one stays: {error}");
            tracing::error!("{text}");
            self.status.log(4, "cluster", &text);
            ProposeError::InvalidContent(text)
        })
    }
}

fn make(core: &mut Core, message: &FuseMessage) -> (u64, Bytes) {
    let payload = message.encode();
    core.dfsm
        .make_normal(clock::unix_seconds_u32(), message.subtype(), payload)
}
