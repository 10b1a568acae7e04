//! Proposing changes from the threads of the file system.

use std::{
    sync::{
        MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{Core, Shared, waiters::Answer};
use crate::{
    clock, confwatch,
    dcdb::{ProposeError, Replica, guard},
    dfsm::Mode,
    group::{GroupName, McastError, retry},
    memdb::{Op, Stamp, Tree, is_lock_path},
    wire::fuse_msg::FuseMessage,
};

/// How long a caller waits for its change to be ordered and applied.
///
/// Longer than it takes to notice that nodes are gone, so that the majority's writes succeed.
pub(super) const PROPOSE_LIMIT: Duration = Duration::from_secs(60);

impl Shared {
    /// Has `op` ordered, applied and stored.
    pub(super) fn propose(&self, op: Op) -> Answer {
        let deadline = clock::monotonic() + PROPOSE_LIMIT;
        let (count, answer) = {
            let core = self.lock_core();
            let core = self.wait_for_sync(core, deadline)?;
            let op = guard::checked(core.dfsm.app().tree(), op)?;
            self.check_conf(core.dfsm.app().tree(), &op)?;
            let message = Replica::message_for(op);
            self.send_waiting(core, &message, deadline)?
        };
        let left = deadline.saturating_duration_since(clock::monotonic());
        match answer.recv_timeout(left) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Disconnected) => Err(ProposeError::Busy),
            Err(RecvTimeoutError::Timeout) if self.waiters.remove(count) => Err(ProposeError::Busy),
            // Answered in the moment in which the time was over.
            Err(RecvTimeoutError::Timeout) => answer.recv().unwrap_or(Err(ProposeError::Busy)),
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

    /// Waits until this node may send changes.
    fn wait_for_sync<'a>(
        &self,
        mut core: MutexGuard<'a, Core>,
        deadline: Instant,
    ) -> Result<MutexGuard<'a, Core>, ProposeError> {
        loop {
            core.refusal()?;
            if core.dfsm.mode() == Mode::Synced {
                return Ok(core);
            }
            core = self.wait_for_change(core, deadline)?;
        }
    }

    fn wait_for_change<'a>(
        &self,
        core: MutexGuard<'a, Core>,
        until: Instant,
    ) -> Result<MutexGuard<'a, Core>, ProposeError> {
        let left = until.saturating_duration_since(clock::monotonic());
        if left.is_zero() {
            return Err(ProposeError::Busy);
        }
        let waited = self.changed.wait_timeout(core, left);
        Ok(waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    fn send_waiting(
        &self,
        mut core: MutexGuard<'_, Core>,
        message: &FuseMessage,
        deadline: Instant,
    ) -> Result<(u64, Receiver<Answer>), ProposeError> {
        let give_up = deadline.min(clock::monotonic() + retry::PAUSE * retry::ATTEMPTS);
        loop {
            let (count, bytes) = make(&mut core, message);
            let answer = self.waiters.add(count);
            let error = match self.sender.mcast(GroupName::Config, &bytes) {
                Ok(()) => return Ok((count, answer)),
                Err(error) => error,
            };
            self.waiters.remove(count);
            let now = clock::monotonic();
            if error != McastError::Backpressure || now >= give_up {
                tracing::warn!("a change could not be sent: {error}");
                return Err(ProposeError::Busy);
            }
            // The daemon is busy: a little later, or when something changes.
            let waited = self.changed.wait_timeout(core, retry::PAUSE);
            core = waited.unwrap_or_else(PoisonError::into_inner).0;
            core = self.wait_for_sync(core, deadline)?;
        }
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
        let content = |tree: &Tree| {
            tree.find(confwatch::TREE_NAME.as_bytes())
                .filter(|entry| !entry.is_dir())
                .map(|entry| entry.data())
        };
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
