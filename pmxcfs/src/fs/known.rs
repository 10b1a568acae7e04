//! What the kernel knows of the tree: it is told to forget nothing else.
//!
//! Most changes of other nodes concern entries that no process here has looked at, and telling
//! the kernel wakes threads.
//!
//! Invariant: an entry counts as known before the answer that makes the kernel know it is computed
//! from a snapshot. So a change that is published later finds it known, and an earlier one is in
//! the answer. Names are known of directories that are.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::ROOT_INO;

/// Numbers of inodes, with how often the kernel was told of each and has not forgotten it.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<HashMap<u64, u64>>);

impl Known {
    /// The kernel is about to be told of an inode.
    pub(super) fn add(&self, ino: u64) {
        *self.lock().entry(ino).or_default() += 1;
    }

    /// The kernel has forgotten that it was told of an inode so often.
    pub(super) fn forget(&self, ino: u64, times: u64) {
        let mut known = self.lock();
        let Some(count) = known.get_mut(&ino) else {
            return;
        };
        *count = count.saturating_sub(times);
        if *count == 0 {
            known.remove(&ino);
        }
    }

    pub(super) fn contains(&self, ino: u64) -> bool {
        ino == ROOT_INO || self.lock().contains_key(&ino)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
