//! Changes that were sent and not answered yet.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::dcdb::{Done, ProposeError};

/// Result of a proposal: bytes written or 0.
pub(super) type Answer = Result<u32, ProposeError>;

struct Waiter {
    done: Done,
    deadline: Instant,
}

/// Who gets the answer, by the running number of the proposal.
///
/// Invariant: each of them is answered at most once, and gone from here afterwards; no lock is
/// held while somebody is told.
#[derive(Default)]
pub(super) struct Waiters(Mutex<BTreeMap<u64, Waiter>>);

impl Waiters {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Waiter>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a change that was sent.
    pub(super) fn add(&self, count: u64, done: Done, deadline: Instant) {
        self.lock().insert(count, Waiter { done, deadline });
    }

    /// Whether somebody still waits for that change.
    pub(super) fn contains(&self, count: u64) -> bool {
        self.lock().contains_key(&count)
    }

    /// Answers, if somebody still waits.
    pub(super) fn answer(&self, count: u64, answer: Answer) {
        let waiter = self.lock().remove(&count);
        if let Some(waiter) = waiter {
            (waiter.done)(answer);
        }
    }

    /// Answers everybody.
    pub(super) fn abort(&self, error: &ProposeError) {
        let waiters = std::mem::take(&mut *self.lock());
        for waiter in waiters.into_values() {
            (waiter.done)(Err(error.clone()));
        }
    }

    /// Answers those whose time is over: their change may happen all the same.
    pub(super) fn expire(&self, now: Instant) {
        let expired: Vec<Waiter> = {
            let mut waiters = self.lock();
            let due: Vec<u64> = waiters
                .iter()
                .filter(|(_, waiter)| waiter.deadline <= now)
                .map(|(count, _)| *count)
                .collect();
            due.iter()
                .filter_map(|count| waiters.remove(count))
                .collect()
        };
        for waiter in expired {
            (waiter.done)(Err(ProposeError::Busy));
        }
    }
}

impl fmt::Debug for Waiters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiters")
            .field("waiting", &self.lock().len())
            .finish()
    }
}
