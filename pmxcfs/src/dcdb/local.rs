//! The database of one node alone.
//!
//! | lock | guards | held |
//! |---|---|---|
//! | `working` | the tree ahead of the database, and what waits for the database | while an operation is applied |
//! | `disk` | the storage and how far it got | during a transaction |
//!
//! Group commit: a caller applies its operation, queues it and lets `working` go. Whoever gets
//! `disk` stores everything that waits in one transaction and answers all of its callers; the
//! others leave theirs to it and go on. A lone caller does all of it without a change of threads.
//!
//! Invariant: nothing waits in the queue while nobody has `disk`, but for what was submitted and
//! not settled yet: who lets it go looks at the queue afterwards, and who finds it taken has queued
//! before.
//!
//! Order of locks: `disk` before `working`.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
};

use bytes::Bytes;

use super::{
    Applied, Backend, Done, Observer, ProposeError, Step, guard,
    published::Published,
    storage::{Closed, Storage, StorageError, Syncer},
    wait_for,
};
use crate::{
    clock,
    memdb::{Change, LockTable, Op, OpError, Stamp, Tree, is_lock_path},
};

struct Waiting {
    op: Op,
    stamp: Stamp,
    change: Change,
    /// Bytes written.
    written: u32,
    /// Proposed by the file system, so that the kernel knows of it.
    own: bool,
    done: Done,
}

struct Working {
    tree: Tree,
    locks: LockTable,
    queue: Vec<Waiting>,
}

/// An answer and who gets it.
type Answer = (Done, Result<u32, ProposeError>);

/// See the module documentation.
pub struct LocalDb {
    working: Mutex<Working>,
    disk: Mutex<Box<dyn Storage>>,
    syncer: Arc<dyn Syncer>,
    published: Published,
}

impl LocalDb {
    /// A database of the tree that the storage holds.
    #[must_use]
    pub fn new(tree: Tree, storage: Box<dyn Storage>) -> Self {
        let locks = LockTable::default().rebuilt(&tree, clock::unix_seconds());
        let working = Working {
            tree: tree.clone(),
            locks,
            queue: Vec::new(),
        };
        Self {
            working: Mutex::new(working),
            syncer: storage.syncer(),
            disk: Mutex::new(storage),
            published: Published::new(tree),
        }
    }

    /// Sets who follows the published trees.
    pub fn observe(&self, observer: Arc<dyn Observer>) {
        self.published.observe(observer);
    }

    /// Closes the storage. Changes that come later fail.
    pub fn stop(&self) {
        *Self::lock(&self.disk) = Box::new(Closed);
        self.store();
    }

    fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, op: Op, own: bool, done: Done) {
        match self.apply(op, own, done) {
            None => self.store(),
            Some((done, answer)) => done(answer),
        }
    }

    /// Applies an operation and queues it; the answer, if there is nothing to store.
    fn apply(&self, op: Op, own: bool, done: Done) -> Option<Answer> {
        let mut working = Self::lock(&self.working);
        let op = match guard::checked(&working.tree, op) {
            Ok(op) => op,
            Err(error) => return Some((done, Err(error))),
        };
        let stamp = Stamp {
            writer: 0,
            mtime: clock::unix_seconds_u32(),
        };
        let outcome = working.tree.apply(&op, stamp);
        tracing::debug!("{op}: {:?}", outcome.result);
        if let Some(effect) = &outcome.lock {
            working.locks.follow(effect, clock::unix_seconds());
        }
        match (outcome.result, outcome.change) {
            (Err(error), _) => Some((done, Err(error.into()))),
            (Ok(written), None) => Some((done, Ok(written))),
            (Ok(written), Some(change)) => {
                working.queue.push(Waiting {
                    op,
                    stamp,
                    change,
                    written,
                    own,
                    done,
                });
                None
            }
        }
    }

    /// Stores everything that waits, unless another thread is at it.
    fn store(&self) {
        while !Self::lock(&self.working).queue.is_empty() {
            let mut disk = match self.disk.try_lock() {
                Ok(disk) => disk,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            let answers = self.store_batch(&mut **disk);
            drop(disk);
            for (done, answer) in answers {
                done(answer);
            }
        }
    }

    fn store_batch(&self, disk: &mut dyn Storage) -> Vec<Answer> {
        let (batch, tree) = {
            let mut working = Self::lock(&self.working);
            (std::mem::take(&mut working.queue), working.tree.clone())
        };
        let changes: Vec<Change> = batch.iter().map(|waiting| waiting.change.clone()).collect();
        match disk.commit(&changes) {
            Ok(()) => {
                self.publish(tree, &batch);
                batch
                    .into_iter()
                    .map(|waiting| (waiting.done, Ok(waiting.written)))
                    .collect()
            }
            Err(error) => self.undo(disk, batch, &error),
        }
    }

    fn publish(&self, tree: Tree, batch: &[Waiting]) {
        let applied: Vec<Applied> = batch
            .iter()
            .map(|waiting| Applied {
                change: waiting.change.clone(),
                own: waiting.own,
            })
            .collect();
        self.published.publish(tree, Step::Changes(&applied));
    }

    /// After a failed transaction: goes back to what is stored. If the disk was full, tries each
    /// operation alone, so that only those fail for which there is no room; after other failures
    /// trying again would only make the callers wait once more for the same answer.
    fn undo(
        &self,
        disk: &mut dyn Storage,
        mut batch: Vec<Waiting>,
        error: &StorageError,
    ) -> Vec<Answer> {
        tracing::error!("the database could not be written: {error}");
        let try_again = batch.len() > 1 && matches!(error, StorageError::NoSpace(_));
        let mut working = Self::lock(&self.working);
        batch.append(&mut working.queue);
        let mut tree = (*self.published.snapshot()).clone();
        let mut answers = Vec::new();
        for mut waiting in batch {
            if !try_again {
                answers.push((waiting.done, Err(ProposeError::from(error.clone()))));
                continue;
            }
            let before = tree.clone();
            let outcome = tree.apply(&waiting.op, waiting.stamp);
            let stored = match (outcome.result, outcome.change) {
                (Err(error), _) => Err(ProposeError::from(error)),
                (Ok(_), None) => Ok(()),
                (Ok(_), Some(change)) => {
                    waiting.change = change.clone();
                    disk.commit(&[change]).map_err(ProposeError::from)
                }
            };
            let written = waiting.written;
            match &stored {
                Ok(()) => self.publish(tree.clone(), std::slice::from_ref(&waiting)),
                Err(_) => tree = before,
            }
            answers.push((waiting.done, stored.map(|()| written)));
        }
        working.locks = working.locks.rebuilt(&tree, clock::unix_seconds());
        working.tree = tree;
        answers
    }
}

impl Backend for LocalDb {
    fn snapshot(&self) -> Arc<Tree> {
        self.published.snapshot()
    }

    fn writable(&self) -> Result<(), ProposeError> {
        Ok(())
    }

    fn propose(&self, op: Op) -> Result<u32, ProposeError> {
        wait_for(|done| self.change(op, true, done))
    }

    fn submit(&self, op: Op, done: Done) {
        if let Some((done, answer)) = self.apply(op, true, done) {
            done(answer);
        }
    }

    fn settle(&self) {
        self.store();
    }

    fn sync(&self) -> Result<(), ProposeError> {
        Ok(self.syncer.sync()?)
    }

    fn request_unlock(&self, path: &Bytes) -> Result<(), ProposeError> {
        let expired = {
            let mut working = Self::lock(&self.working);
            let entry = working.tree.find(path);
            let lock = entry.filter(|entry| entry.is_dir() && is_lock_path(path));
            let Some(checksum) = lock.map(|entry| entry.lock_checksum()) else {
                return Ok(());
            };
            working
                .locks
                .expired(path, &checksum, clock::unix_seconds())
        };
        if expired {
            let op = Op::Delete { path: path.clone() };
            wait_for(|done| self.change(op, false, done))?;
            return Err(OpError::NotFound.into());
        }
        Ok(())
    }
}

impl fmt::Debug for LocalDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalDb")
            .field("published", &self.published)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dcdb::Patience;

    /// A disk that can be full, and counts its transactions.
    #[derive(Default)]
    struct Memory {
        rows: Vec<Change>,
        room: Option<usize>,
        slow: Arc<Slow>,
    }

    /// A disk that takes until somebody holds the second lock no more.
    #[derive(Default)]
    struct Slow(Mutex<u32>, Mutex<()>);

    impl Syncer for Slow {
        fn sync(&self) -> Result<(), StorageError> {
            *LocalDb::lock(&self.0) += 1;
            drop(LocalDb::lock(&self.1));
            Ok(())
        }
    }

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Memory>>);

    impl Storage for Shared {
        fn set_patience(&mut self, _: Patience) {}

        fn commit(&mut self, changes: &[Change]) -> Result<(), StorageError> {
            let mut memory = LocalDb::lock(&self.0);
            if memory.room.is_some_and(|room| changes.len() > room) {
                return Err(StorageError::NoSpace("full".into()));
            }
            memory.room = memory.room.map(|room| room - changes.len());
            memory.rows.extend_from_slice(changes);
            Ok(())
        }

        fn replace(&mut self, _: &Tree, _: &Tree) -> Result<(), StorageError> {
            Err(StorageError::Failed("not in local mode".into()))
        }

        fn syncer(&self) -> Arc<dyn Syncer> {
            Arc::clone(&LocalDb::lock(&self.0).slow) as Arc<dyn Syncer>
        }

        fn backup(&mut self) -> Result<(), StorageError> {
            Ok(())
        }

        fn probe(&mut self) -> Result<(), StorageError> {
            Ok(())
        }
    }

    fn create(path: &str) -> Op {
        Op::Create {
            path: Bytes::copy_from_slice(path.as_bytes()),
        }
    }

    #[test]
    fn parallel_writers_all_get_their_place() {
        let disk = Shared::default();
        let db = LocalDb::new(Tree::new(), Box::new(disk.clone()));
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let db = &db;
                scope.spawn(move || {
                    for i in 0..50 {
                        db.propose(create(&format!("f{writer}.{i}"))).unwrap();
                        assert!(
                            db.snapshot()
                                .find(format!("f{writer}.{i}").as_bytes())
                                .is_some()
                        );
                    }
                });
            }
        });
        assert_eq!(db.snapshot().entry_count(), 401);
        let versions: Vec<u64> = LocalDb::lock(&disk.0)
            .rows
            .iter()
            .map(|change| change.root.version)
            .collect();
        assert_eq!(
            versions,
            (2..=401).collect::<Vec<_>>(),
            "stored in order, each once"
        );
    }

    #[test]
    fn a_full_disk_fails_the_operation_and_nothing_else() {
        let disk = Shared::default();
        let db = LocalDb::new(Tree::new(), Box::new(disk.clone()));
        db.propose(create("a")).unwrap();
        LocalDb::lock(&disk.0).room = Some(0);
        let error = db.propose(create("b")).unwrap_err();
        assert_eq!(error.errno(), libc::ENOSPC);
        assert!(db.snapshot().find(b"b").is_none());
        assert!(db.snapshot().find(b"a").is_some());
        LocalDb::lock(&disk.0).room = None;
        db.propose(create("b")).unwrap();
        let last = LocalDb::lock(&disk.0).rows.last().unwrap().root.version;
        assert_eq!((last, db.snapshot().root().version), (3, 3));
    }

    #[test]
    fn when_a_batch_does_not_fit_the_parts_that_fit_are_stored() {
        let disk = Shared::default();
        let db = LocalDb::new(Tree::new(), Box::new(disk.clone()));
        // Two operations wait while the disk is busy, and only one fits.
        let results = std::thread::scope(|scope| {
            let busy = LocalDb::lock(&db.disk);
            LocalDb::lock(&disk.0).room = Some(1);
            let threads = ["a", "b"].map(|name| {
                let db = &db;
                scope.spawn(move || db.propose(create(name)))
            });
            while LocalDb::lock(&db.working).queue.len() < 2 {
                std::thread::yield_now();
            }
            drop(busy);
            db.store();
            threads.map(|thread| thread.join().unwrap())
        });
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
        assert_eq!(db.snapshot().entry_count(), 2);
        assert_eq!(LocalDb::lock(&disk.0).rows.len(), 1);
    }

    #[test]
    fn nobody_waits_for_the_sync_of_somebody_else() {
        let disk = Shared::default();
        let db = LocalDb::new(Tree::new(), Box::new(disk.clone()));
        let slow = Arc::clone(&LocalDb::lock(&disk.0).slow);
        std::thread::scope(|scope| {
            let held = LocalDb::lock(&slow.1);
            let sync = scope.spawn(|| db.sync());
            while *LocalDb::lock(&slow.0) == 0 {
                std::thread::yield_now();
            }
            let (done, answer) = std::sync::mpsc::channel();
            scope.spawn({
                let db = &db;
                move || done.send(db.propose(create("meanwhile")))
            });
            let answer = answer.recv_timeout(std::time::Duration::from_secs(60));
            assert!(!sync.is_finished());
            drop(held);
            assert_eq!(answer, Ok(Ok(0)));
        });
    }

    #[test]
    fn a_fresh_lock_is_not_released() {
        let db = LocalDb::new(Tree::new(), Box::new(Shared::default()));
        for path in ["priv", "priv/lock", "priv/lock/x"] {
            db.propose(Op::Mkdir {
                path: Bytes::copy_from_slice(path.as_bytes()),
            })
            .unwrap();
        }
        let path = Bytes::from_static(b"priv/lock/x");
        assert_eq!(db.request_unlock(&path), Ok(()));
        let refused = db.propose(Op::Mtime { path, mtime: 0 });
        assert_eq!(refused, Err(OpError::Access.into()));
    }
}
