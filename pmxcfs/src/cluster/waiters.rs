//! Callers that wait for their own proposal.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use crate::dcdb::ProposeError;

/// Result of a proposal: bytes written or 0.
pub(super) type Answer = Result<u32, ProposeError>;

/// Callers by the running number of their proposal.
///
/// Invariant: each of them is answered at most once, and gone from here afterwards.
#[derive(Debug, Default)]
pub(super) struct Waiters(Mutex<BTreeMap<u64, SyncSender<Answer>>>);

impl Waiters {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, SyncSender<Answer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a caller.
    pub(super) fn add(&self, count: u64) -> Receiver<Answer> {
        let (sender, receiver) = sync_channel(1);
        self.lock().insert(count, sender);
        receiver
    }

    /// Forgets a caller that waits no longer. False when it was answered meanwhile.
    pub(super) fn remove(&self, count: u64) -> bool {
        self.lock().remove(&count).is_some()
    }

    /// Whether somebody still waits for that proposal.
    pub(super) fn contains(&self, count: u64) -> bool {
        self.lock().contains_key(&count)
    }

    /// Answers a caller, if it still waits.
    pub(super) fn answer(&self, count: u64, answer: Answer) {
        if let Some(sender) = self.lock().remove(&count) {
            // The channel has room for the one answer; a caller that gave up has dropped it.
            drop(sender.try_send(answer));
        }
    }

    /// Answers everybody.
    pub(super) fn abort(&self, error: &ProposeError) {
        for (_, sender) in std::mem::take(&mut *self.lock()) {
            drop(sender.try_send(Err(error.clone())));
        }
    }
}
