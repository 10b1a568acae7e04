//! Files that other nodes change at the moment.
//!
//! The kernel reads cached content page by page, and forgets it page by page: a read during which
//! a next version comes would be of both. So it is not asked to cache a file while that changes.
//!
//! Invariant: a file whose content another node changed in this second or in the one before is
//! restless. What is older goes with the next look.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

/// The changes of two seconds.
#[derive(Debug, Default)]
struct Changes {
    /// The later of both, in seconds since 1970.
    second: u32,
    /// Inodes that changed in it.
    latest: HashSet<u64>,
    /// Inodes that changed in the one before.
    before: HashSet<u64>,
    /// Second in which the whole tree was replaced.
    all: Option<u32>,
}

impl Changes {
    fn go_on_to(&mut self, now: u32) {
        // A clock that is set back is one that goes on, too: nothing stays restless by that.
        if now == self.second {
            return;
        }
        let latest = std::mem::take(&mut self.latest);
        self.before = if now == self.second.wrapping_add(1) {
            latest
        } else {
            HashSet::new()
        };
        self.second = now;
    }
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Restless(Mutex<Changes>);

impl Restless {
    /// Another node changed the content of a file.
    pub(super) fn add(&self, ino: u64, now: u32) {
        self.with(now, |changes| {
            changes.latest.insert(ino);
        });
    }

    /// Any content may have changed.
    pub(super) fn add_all(&self, now: u32) {
        self.with(now, |changes| changes.all = Some(now));
    }

    pub(super) fn contains(&self, ino: u64, now: u32) -> bool {
        self.with(now, |changes| {
            changes.latest.contains(&ino)
                || changes.before.contains(&ino)
                || changes.all.is_some_and(|all| now.abs_diff(all) < 2)
        })
    }

    fn with<T>(&self, now: u32, what: impl FnOnce(&mut Changes) -> T) -> T {
        let mut changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        changes.go_on_to(now);
        what(&mut changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_restless_in_the_second_of_its_change_and_the_next() {
        let restless = Restless::default();
        assert!(!restless.contains(7, 100));
        restless.add(7, 100);
        restless.add(8, 101);
        let at = |now| [7, 8, 9].map(|ino| restless.contains(ino, now));
        assert_eq!(at(101), [true, true, false]);
        assert_eq!(at(102), [false, true, false]);
        assert_eq!(at(103), [false; 3]);
        restless.add_all(103);
        assert_eq!(at(104), [true; 3]);
        assert_eq!(at(105), [false; 3]);
    }

    #[test]
    fn a_clock_that_is_set_makes_nothing_restless_for_long() {
        let restless = Restless::default();
        restless.add(7, 1000);
        assert!(!restless.contains(7, 10));
        restless.add(7, 10);
        assert!(!restless.contains(7, 4000));
    }
}
