//! Locks: directories below `priv/lock`, and how old this node thinks they are.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{entry::Digest, op::LockEffect, tree::Tree};

/// A lock that nobody refreshed for more than that many whole seconds may be released.
pub const LOCK_LIFETIME_SECS: u64 = 120;

/// Name of a lock: the path is exactly `priv/lock/NAME`.
#[must_use]
pub fn lock_name(path: &[u8]) -> Option<&[u8]> {
    let (dir, name) = super::path::split(path);
    (dir == b"priv/lock" && !name.is_empty()).then_some(name)
}

/// Whether the path is anywhere below `priv/lock/`.
#[must_use]
pub fn is_lock_path(path: &[u8]) -> bool {
    let start = path
        .iter()
        .position(|&byte| byte != b'/')
        .unwrap_or(path.len());
    path[start..]
        .strip_prefix(b"priv/lock/")
        .is_some_and(|rest| !rest.is_empty())
}

#[derive(Clone, Debug)]
struct Timer {
    /// Seconds of the caller's clock.
    since: u64,
    checksum: Digest,
}

/// When this node first saw the present state of each lock. Private to the node.
#[derive(Clone, Debug, Default)]
pub struct LockTable(BTreeMap<Bytes, Timer>);

impl LockTable {
    /// Starts a table for all locks of a tree. `now` is in seconds.
    ///
    /// Timers of `self` go on for locks that did not change.
    #[must_use]
    pub fn rebuilt(&self, tree: &Tree, now: u64) -> Self {
        let Some(dir) = tree.find(b"priv/lock") else {
            return Self::default();
        };
        let locks = tree.children(dir.inode).into_iter().flatten();
        let timers = locks.filter_map(|(name, inode)| {
            let entry = tree.get(*inode).filter(|entry| entry.is_dir())?;
            let path = Bytes::from([b"priv/lock/", &name[..]].concat());
            let checksum = entry.lock_checksum();
            let known = self.0.get(&path).filter(|timer| timer.checksum == checksum);
            let timer = known.cloned().unwrap_or(Timer {
                since: now,
                checksum,
            });
            Some((path, timer))
        });
        Self(timers.collect())
    }

    /// Follows a change of the tree.
    pub fn follow(&mut self, effect: &LockEffect, now: u64) {
        match effect {
            LockEffect::Started(path, checksum) => {
                self.0.insert(
                    path.clone(),
                    Timer {
                        since: now,
                        checksum: *checksum,
                    },
                );
            }
            LockEffect::Ended(path) => {
                self.0.remove(path);
            }
        }
    }

    /// Whether the lock in that state is old enough to be released.
    ///
    /// A lock without timer, or whose state changed, starts its timer and is not.
    pub fn expired(&mut self, path: &Bytes, checksum: &Digest, now: u64) -> bool {
        match self.0.get_mut(path) {
            Some(timer) if timer.checksum == *checksum => {
                now.saturating_sub(timer.since) > LOCK_LIFETIME_SECS
            }
            _ => {
                self.0.insert(
                    path.clone(),
                    Timer {
                        since: now,
                        checksum: *checksum,
                    },
                );
                false
            }
        }
    }
}
