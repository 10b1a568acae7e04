//! Storing and publishing what the cluster thread has applied.
//!
//! The cluster thread does it itself, once it has handled all messages that were there: they share
//! one transaction, and no change of threads delays the callers. What it can not do at once, for
//! another process holds the database or a whole tree is to be replaced, a thread of its own does,
//! so that messages are handled meanwhile; what was delivered while it was busy shares its next
//! transaction. Callers are answered once their change is stored and published.
//!
//! Invariant: the published tree is what the storage holds. Items are taken and stored under the
//! lock of the storage, so their order stays. When a transaction fails, the working tree goes back
//! to what is stored, everything that waits is dropped, and the node leaves the group to come back
//! in sync.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{Shared, waiters::Answer};
use crate::{
    clock, confwatch,
    dcdb::{Applied, Patience, ProposeError, Step, Storage, StorageError},
    memdb::{Change, Tree},
};

/// Items that may wait while the disk is slow or held by another process.
const ITEMS_MAX: usize = 65_536;

/// Time between two attempts to write to a disk that failed.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// The same after the disk took a little several times, but not what the others had for it: each
/// time the group changes twice, and all nodes synchronize.
const PROBE_INTERVAL_MAX: Duration = Duration::from_secs(60);
/// A disk that has worked for so long is whole.
const WHOLE_AFTER: Duration = Duration::from_secs(60);

/// How long to wait before the next attempt.
#[derive(Debug)]
struct Pauses {
    next: Duration,
    /// Since the last attempt that worked.
    works_since: Option<Instant>,
}

impl Default for Pauses {
    fn default() -> Self {
        Self {
            next: PROBE_INTERVAL,
            works_since: None,
        }
    }
}

impl Pauses {
    fn fails(&mut self, now: Instant) {
        let Some(since) = self.works_since.take() else {
            return;
        };
        self.next = if now.saturating_duration_since(since) < WHOLE_AFTER {
            (self.next * 2).min(PROBE_INTERVAL_MAX)
        } else {
            PROBE_INTERVAL
        };
    }

    fn works(&mut self, now: Instant) {
        self.works_since = Some(now);
    }
}

/// One thing to do, in order.
pub(super) enum Item {
    Change {
        change: Change,
        own: Option<u64>,
    },
    Replace {
        old: Box<Tree>,
        new: Box<Tree>,
        diverged: bool,
    },
    Answer {
        count: u64,
        answer: Answer,
    },
    Conf {
        content: Bytes,
        reload: bool,
    },
}

#[derive(Default)]
struct Queue {
    items: Vec<Item>,
    /// The working tree after the last item.
    tree: Option<Tree>,
    /// The cluster thread has left the items to the other thread.
    handed_over: bool,
    failed: bool,
    pauses: Pauses,
    stop: bool,
}

/// What waits to be stored.
#[derive(Default)]
pub(super) struct DiskQueue {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl DiskQueue {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds items, and the tree after them. False when more wait than may wait.
    #[must_use]
    pub(super) fn push(&self, items: Vec<Item>, tree: &Tree) -> bool {
        let mut queue = self.lock();
        queue.items.extend(items);
        queue.tree = Some(tree.clone());
        queue.items.len() <= ITEMS_MAX
    }

    fn hand_over(&self) {
        self.lock().handed_over = true;
        self.changed.notify_one();
    }

    /// To be called under the lock of the storage.
    fn take(&self) -> Option<(Vec<Item>, Tree)> {
        let mut queue = self.lock();
        queue.handed_over = false;
        let tree = queue.tree.take()?;
        Some((std::mem::take(&mut queue.items), tree))
    }

    /// Puts back what could not be stored now, in front of what has come since.
    fn put_back(&self, mut items: Vec<Item>, tree: Tree) {
        let mut queue = self.lock();
        items.append(&mut queue.items);
        queue.items = items;
        queue.tree.get_or_insert(tree);
    }

    /// Makes the thread end once everything is stored.
    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_one();
    }

    fn wait(&self) -> Work {
        let mut queue = self.lock();
        loop {
            if queue.tree.is_some() && (queue.handed_over || queue.stop) {
                return Work::Store;
            }
            if queue.stop {
                return Work::Stop;
            }
            if queue.failed {
                let pause = queue.pauses.next;
                let waited = self.changed.wait_timeout(queue, pause);
                let (guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                queue = guard;
                if timeout.timed_out() && queue.tree.is_none() && !queue.stop {
                    return Work::Probe;
                }
            } else {
                queue = self
                    .changed
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

enum Work {
    Store,
    Probe,
    Stop,
}

/// Body of the thread.
pub(super) fn run(shared: &Shared) {
    loop {
        match shared.disk.wait() {
            Work::Store => {
                let mut storage = shared.lock_storage();
                storage.set_patience(Patience::Usual);
                if let Some((items, tree)) = shared.disk.take() {
                    store(shared, &mut **storage, items, &tree);
                }
            }
            Work::Probe => probe(shared),
            Work::Stop => return,
        }
    }
}

/// Stores what waits on the calling thread, if that is possible without waiting for anybody.
pub(super) fn store_now(shared: &Shared, fits: bool) {
    if !fits {
        let text = format!("more than {ITEMS_MAX} changes wait for the disk");
        // Whatever transaction is under way comes to its end first.
        let _storage = shared.lock_storage();
        return fail(shared, &StorageError::Failed(text));
    }
    let Ok(mut storage) = shared.storage.try_lock() else {
        return shared.disk.hand_over();
    };
    let Some((items, tree)) = shared.disk.take() else {
        return;
    };
    let is_heavy = items
        .iter()
        .any(|item| matches!(item, Item::Replace { .. }));
    if !is_heavy {
        let segment = Segment::of(&items);
        storage.set_patience(Patience::None);
        match storage.commit(&segment.changes) {
            Err(StorageError::Busy(_)) => {}
            Err(error) => return fail(shared, &error),
            Ok(()) => return conclude(shared, segment, tree),
        }
    }
    shared.disk.put_back(items, tree);
    drop(storage);
    shared.disk.hand_over();
}

/// Changes that go into one transaction, and what follows it.
#[derive(Default)]
struct Segment {
    changes: Vec<Change>,
    own: Vec<Option<u64>>,
    answers: Vec<(u64, Answer)>,
    confs: Vec<(Bytes, bool)>,
}

impl Segment {
    fn of(items: &[Item]) -> Self {
        let mut segment = Self::default();
        for item in items {
            segment.add(item);
        }
        segment
    }

    fn add(&mut self, item: &Item) {
        match item {
            Item::Change { change, own } => {
                self.changes.push(change.clone());
                self.own.push(*own);
            }
            Item::Answer { count, answer } => self.answers.push((*count, answer.clone())),
            Item::Conf { content, reload } => self.confs.push((content.clone(), *reload)),
            Item::Replace { .. } => {}
        }
    }
}

fn store(shared: &Shared, storage: &mut dyn Storage, items: Vec<Item>, last: &Tree) {
    let mut segment = Segment::default();
    for item in items {
        let Item::Replace { old, new, diverged } = item else {
            segment.add(&item);
            continue;
        };
        let before = std::mem::take(&mut segment);
        if !finish(shared, storage, before, &old) || !replace(shared, storage, &old, *new, diverged)
        {
            return;
        }
    }
    finish(shared, storage, segment, last);
}

/// Stores and publishes a segment and answers its callers. False when it could not be stored.
fn finish(shared: &Shared, storage: &mut dyn Storage, segment: Segment, tree: &Tree) -> bool {
    if !segment.changes.is_empty()
        && let Err(error) = storage.commit(&segment.changes)
    {
        fail(shared, &error);
        return false;
    }
    conclude(shared, segment, tree.clone());
    true
}

/// Publishes what was stored and answers its callers.
fn conclude(shared: &Shared, segment: Segment, tree: Tree) {
    let Segment {
        changes,
        own,
        answers,
        confs,
    } = segment;
    if !changes.is_empty() {
        let known = |own: Option<u64>| own.is_some_and(|count| shared.waiters.contains(count));
        let applied: Vec<Applied> = changes
            .into_iter()
            .zip(own)
            .map(|(change, own)| Applied {
                change,
                own: known(own),
            })
            .collect();
        shared.published.publish(tree, Step::Changes(&applied));
    }
    for (count, answer) in answers {
        shared.waiters.answer(count, answer);
    }
    for (content, reload) in confs {
        update_host_conf(shared, &content, reload);
    }
}

fn replace(
    shared: &Shared,
    storage: &mut dyn Storage,
    old: &Tree,
    new: Tree,
    diverged: bool,
) -> bool {
    if diverged {
        tracing::warn!(
            version = old.root().version,
            "this node's tree held changes that the cluster does not have; the cluster's tree \
             replaces it, a copy of the old database is kept in the backup folder"
        );
        if let Err(error) = storage.backup() {
            tracing::error!("no copy of the old database could be kept: {error}");
            fail(shared, &error);
            return false;
        }
    }
    if let Err(error) = storage.replace(old, &new) {
        fail(shared, &error);
        return false;
    }
    shared.published.publish(new, Step::Replaced);
    true
}

/// Everybody who waits is refused: nothing of what they wait for is left.
fn fail(shared: &Shared, error: &StorageError) {
    tracing::error!(
        "the database could not be written, this node is read-only until that works again: {error}"
    );
    let refused = ProposeError::from(error.clone());
    {
        let mut core = shared.lock_core();
        let mut queue = shared.disk.lock();
        queue.items.clear();
        queue.tree = None;
        if !std::mem::replace(&mut queue.failed, true) {
            queue.pauses.fails(clock::monotonic());
        }
        let stored = shared.published.snapshot();
        core.dfsm
            .app_mut()
            .reset((*stored).clone(), clock::unix_seconds());
        core.dfsm
            .handle_failure(format!("the database could not be written: {error}"), false);
        core.fault = Some(refused.clone());
    }
    shared.waiters.abort(&refused);
    let text = format!("the database of this node could not be written, it is read-only: {error}");
    shared.status.log(3, "database", &text);
    shared.disk.changed.notify_one();
    shared.refresh_writable();
    shared.wake();
}

fn probe(shared: &Shared) {
    let tried = shared.lock_storage().probe();
    match tried {
        Ok(()) => {
            tracing::info!("the database can be written again, the node joins the others");
            {
                let mut queue = shared.disk.lock();
                queue.failed = false;
                queue.pauses.works(clock::monotonic());
            }
            shared.lock_core().fault = None;
            shared.refresh_writable();
            shared.wake();
        }
        Err(error) => tracing::debug!("the database can still not be written: {error}"),
    }
}

pub(super) fn update_host_conf(shared: &Shared, content: &[u8], reload: bool) {
    use confwatch::Outcome;
    match confwatch::sync_host_file(content, &shared.options.host_conf) {
        Ok(outcome) => {
            match outcome {
                Outcome::Empty | Outcome::Unchanged => {}
                Outcome::NoVersion => tracing::error!(
                    "corosync.conf in the cluster has no config_version, this host keeps its own"
                ),
                Outcome::HostNewer { tree, host } => tracing::error!(
                    "this host's corosync.conf is newer (version {host}) than the cluster's \
                     ({tree}) and stays"
                ),
                Outcome::Written { version, .. } => tracing::info!(
                    "wrote new corosync config '{}' (version = {version})",
                    shared.options.host_conf.display()
                ),
            }
            if reload && outcome.wants_reload() {
                shared.reload_corosync();
            }
        }
        Err(error) => tracing::error!("{error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_fails_again_and_again_is_tried_less_often() {
        let start = clock::monotonic();
        let mut pauses = Pauses::default();
        let mut now = start;
        let mut taken = Vec::new();
        for _ in 0..7 {
            pauses.fails(now);
            taken.push(pauses.next.as_secs());
            now += pauses.next;
            pauses.works(now);
            now += Duration::from_secs(3);
        }
        assert_eq!(taken, [2, 4, 8, 16, 32, 60, 60]);
        // It has held for long: another fault is a new one.
        pauses.fails(now + WHOLE_AFTER);
        assert_eq!(pauses.next, PROBE_INTERVAL);
    }
}
