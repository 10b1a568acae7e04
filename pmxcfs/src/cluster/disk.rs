//! The thread that stores and publishes what the cluster thread has applied.
//!
//! It takes everything that waits at once: changes that were delivered while a transaction ran
//! share the next one. Callers are answered once their change is stored and published.
//!
//! Invariant: the published tree is what the storage holds. When a transaction fails, the working
//! tree goes back to it, everything that waits is dropped, and the node leaves the group to come
//! back in sync.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;

use super::{Shared, waiters::Answer};
use crate::{
    clock, confwatch,
    dcdb::{Applied, ProposeError, Step, Storage, StorageError},
    memdb::{Change, Tree},
};

/// Time between two attempts to write to a disk that failed.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_secs(2);

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
    failed: bool,
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

    /// Adds items, and the tree after them.
    pub(super) fn push(&self, items: Vec<Item>, tree: &Tree) {
        let mut queue = self.lock();
        queue.items.extend(items);
        queue.tree = Some(tree.clone());
        drop(queue);
        self.changed.notify_one();
    }

    /// Makes the thread end once everything is stored.
    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_one();
    }

    fn wait(&self) -> Work {
        let mut queue = self.lock();
        loop {
            if !queue.items.is_empty()
                && let Some(tree) = queue.tree.clone()
            {
                return Work::Store(std::mem::take(&mut queue.items), Box::new(tree));
            }
            if queue.stop {
                return Work::Stop;
            }
            if queue.failed {
                let waited = self.changed.wait_timeout(queue, PROBE_INTERVAL);
                let (guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                queue = guard;
                if timeout.timed_out() && queue.items.is_empty() && !queue.stop {
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
    Store(Vec<Item>, Box<Tree>),
    Probe,
    Stop,
}

/// Body of the thread.
pub(super) fn run(shared: &Shared) {
    loop {
        match shared.disk.wait() {
            Work::Store(items, tree) => store(shared, items, &tree),
            Work::Probe => probe(shared),
            Work::Stop => return,
        }
    }
}

/// Changes that go into one transaction, and what follows it.
#[derive(Default)]
struct Segment {
    changes: Vec<Change>,
    own: Vec<Option<u64>>,
    answers: Vec<(u64, Answer)>,
    confs: Vec<(Bytes, bool)>,
}

fn store(shared: &Shared, items: Vec<Item>, last: &Tree) {
    let mut storage = shared.lock_storage();
    let mut segment = Segment::default();
    for item in items {
        match item {
            Item::Change { change, own } => {
                segment.changes.push(change);
                segment.own.push(own);
            }
            Item::Answer { count, answer } => segment.answers.push((count, answer)),
            Item::Conf { content, reload } => segment.confs.push((content, reload)),
            Item::Replace { old, new, diverged } => {
                let before = std::mem::take(&mut segment);
                if !finish(shared, &mut **storage, before, &old)
                    || !replace(shared, &mut **storage, &old, *new, diverged)
                {
                    return;
                }
            }
        }
    }
    finish(shared, &mut **storage, segment, last);
}

/// Stores and publishes a segment and answers its callers. False when it could not be stored.
fn finish(shared: &Shared, storage: &mut dyn Storage, segment: Segment, tree: &Tree) -> bool {
    if !segment.changes.is_empty() {
        if let Err(error) = storage.commit(&segment.changes) {
            fail(shared, &error, &segment.answers);
            return false;
        }
        let known = |own: Option<u64>| own.is_some_and(|count| shared.waiters.contains(count));
        let applied: Vec<Applied> = segment
            .changes
            .into_iter()
            .zip(segment.own)
            .map(|(change, own)| Applied {
                change,
                own: known(own),
            })
            .collect();
        shared
            .published
            .publish(tree.clone(), Step::Changes(&applied));
    }
    for (count, answer) in segment.answers {
        shared.waiters.answer(count, answer);
    }
    for (content, reload) in segment.confs {
        update_host_conf(shared, &content, reload);
    }
    true
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
            fail(shared, &error, &[]);
            return false;
        }
    }
    if let Err(error) = storage.replace(old, &new) {
        fail(shared, &error, &[]);
        return false;
    }
    shared.published.publish(new, Step::Replaced);
    true
}

fn fail(shared: &Shared, error: &StorageError, answers: &[(u64, Answer)]) {
    tracing::error!(
        "the database could not be written, this node is read-only until that works again: {error}"
    );
    let refused = ProposeError::from(error.clone());
    {
        let mut core = shared.lock_core();
        let mut queue = shared.disk.lock();
        queue.items.clear();
        queue.failed = true;
        let stored = shared.published.snapshot();
        core.dfsm
            .app_mut()
            .reset((*stored).clone(), clock::unix_seconds());
        core.dfsm
            .handle_failure(format!("the database could not be written: {error}"), false);
        core.fault = Some(refused.clone());
    }
    for (count, _) in answers {
        shared.waiters.answer(*count, Err(refused.clone()));
    }
    shared.waiters.abort(&refused);
    shared.refresh_writable();
    shared.wake();
}

fn probe(shared: &Shared) {
    let tried = shared.lock_storage().probe();
    match tried {
        Ok(()) => {
            tracing::info!("the database can be written again, the node joins the others");
            shared.disk.lock().failed = false;
            shared.lock_core().fault = None;
            shared.refresh_writable();
            shared.wake();
        }
        Err(error) => tracing::debug!("the database can still not be written: {error}"),
    }
}

fn update_host_conf(shared: &Shared, content: &[u8], reload: bool) {
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
