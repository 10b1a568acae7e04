//! A backend in memory, for tests: applies at once, and can be told to block, to fail, and to
//! bring changes of other nodes.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, Weak,
        atomic::{AtomicU32, Ordering},
        mpsc::sync_channel,
    },
    thread,
};

use bytes::Bytes;

use super::{ChangeDone, FsError, StatusSource};
use crate::{
    dcdb::{Applied, Backend, Done, Observer, ProposeError, Step, guard},
    memdb::{Op, OpError, Stamp, Tree},
};

/// What the backend was told to do.
#[derive(Debug, Default)]
struct Orders {
    refuse: Option<ProposeError>,
    fail_next: VecDeque<ProposeError>,
    blocked: bool,
    disk_held: bool,
    waiting: usize,
    remote_first: Option<Op>,
}

/// A tree in memory that accepts operations.
#[derive(Default)]
pub struct MemBackend {
    published: RwLock<Arc<Tree>>,
    working: Mutex<Tree>,
    orders: Mutex<Orders>,
    disk: Mutex<()>,
    changed: Condvar,
    observers: Mutex<Vec<Weak<dyn Observer>>>,
    log: Mutex<Vec<Op>>,
    unlocks: Mutex<Vec<Bytes>>,
    syncs: AtomicU32,
    clock: AtomicU32,
    me: Weak<Self>,
}

impl std::fmt::Debug for MemBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemBackend").finish_non_exhaustive()
    }
}

impl MemBackend {
    /// An empty tree.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            ..Self::default()
        })
    }

    /// Reports to that observer from now on.
    pub fn observe(&self, observer: &Arc<impl Observer + 'static>) {
        let observer: Arc<dyn Observer> = observer.clone();
        lock(&self.observers).push(Arc::downgrade(&observer));
    }

    /// Refuses changes for that reason, or accepts them again.
    pub fn refuse(&self, reason: Option<ProposeError>) {
        lock(&self.orders).refuse = reason;
        for observer in self.observers() {
            observer.writability_changed();
        }
    }

    /// Makes the next change fail.
    pub fn fail_next(&self, error: ProposeError) {
        lock(&self.orders).fail_next.push_back(error);
    }

    /// Lets another node's change win against the next own one.
    pub fn remote_first(&self, op: Op) {
        lock(&self.orders).remote_first = Some(op);
    }

    /// Holds own changes back until [`Self::unblock`].
    pub fn block(&self) {
        lock(&self.orders).blocked = true;
    }

    /// Lets own changes go on.
    pub fn unblock(&self) {
        lock(&self.orders).blocked = false;
        self.changed.notify_all();
    }

    /// Makes the disk take nothing until [`Self::release_disk`].
    pub fn hold_disk(&self) {
        lock(&self.orders).disk_held = true;
    }

    /// Lets the disk go on.
    pub fn release_disk(&self) {
        lock(&self.orders).disk_held = false;
        self.changed.notify_all();
    }

    /// Waits until that many own changes are held back, or the disk holds a thread up.
    pub fn wait_blocked(&self, count: usize) {
        let mut orders = lock(&self.orders);
        while orders.waiting < count {
            orders = self
                .changed
                .wait(orders)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A change of another node.
    ///
    /// # Panics
    /// When the tree refuses it.
    pub fn remote(&self, op: Op) {
        let result = self.apply(&op, false);
        assert!(result.is_ok(), "{op:?}: {result:?}");
    }

    /// A change of another node, which the tree may refuse.
    ///
    /// # Errors
    /// Why the tree refused it.
    pub fn try_remote(&self, op: &Op) -> Result<u32, ProposeError> {
        self.apply(op, false)
    }

    /// Content of a file that another node writes, made if it does not exist.
    pub fn remote_write(&self, path: &str, data: &[u8]) {
        let path = Bytes::from(path.to_owned());
        if self.snapshot().find(&path).is_none() {
            self.remote(Op::Create { path: path.clone() });
        }
        self.remote(Op::Write {
            path,
            offset: 0,
            data: Bytes::copy_from_slice(data),
            truncate: true,
        });
    }

    /// Replaces the whole tree by what `change` makes of it.
    pub fn replace(&self, change: impl FnOnce(&mut Tree)) {
        let mut working = lock(&self.working);
        change(&mut working);
        let (old, new) = self.swap(&working);
        for observer in self.observers() {
            observer.published(&old, &new, Step::Replaced);
        }
    }

    /// Content of a file.
    #[must_use]
    pub fn content(&self, path: &str) -> Option<Bytes> {
        let tree = self.snapshot();
        tree.find(path.as_bytes()).map(|entry| entry.data())
    }

    /// Takes the own operations so far.
    pub fn take_log(&self) -> Vec<Op> {
        std::mem::take(&mut lock(&self.log))
    }

    /// Takes the locks whose release was asked for.
    pub fn take_unlocks(&self) -> Vec<Bytes> {
        std::mem::take(&mut lock(&self.unlocks))
    }

    /// How often durability was asked for.
    #[must_use]
    pub fn syncs(&self) -> u32 {
        self.syncs.load(Ordering::Relaxed)
    }

    fn apply(&self, op: &Op, own: bool) -> Result<u32, ProposeError> {
        let mut working = lock(&self.working);
        let stamp = Stamp {
            writer: u32::from(!own),
            mtime: 1_000_000 + self.clock.fetch_add(1, Ordering::Relaxed),
        };
        let outcome = working.apply(op, stamp);
        if let Some(change) = outcome.change {
            let (old, new) = self.swap(&working);
            let published = [Applied { change, own }];
            for observer in self.observers() {
                observer.published(&old, &new, Step::Changes(&published));
            }
        }
        Ok(outcome.result?)
    }

    fn swap(&self, working: &Tree) -> (Arc<Tree>, Arc<Tree>) {
        let new = Arc::new(working.clone());
        let mut published = self
            .published
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        (std::mem::replace(&mut *published, Arc::clone(&new)), new)
    }

    fn observers(&self) -> Vec<Arc<dyn Observer>> {
        let observers = lock(&self.observers);
        observers.iter().filter_map(Weak::upgrade).collect()
    }

    fn pass_gate(&self) -> Result<(), ProposeError> {
        let mut orders = lock(&self.orders);
        if orders.blocked {
            orders.waiting += 1;
            self.changed.notify_all();
            while orders.blocked {
                orders = self
                    .changed
                    .wait(orders)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            orders.waiting -= 1;
        }
        if let Some(error) = orders.fail_next.pop_front() {
            return Err(error);
        }
        let remote = orders.remote_first.take();
        drop(orders);
        if let Some(op) = remote {
            self.remote(op);
        }
        Ok(())
    }
}

impl Backend for MemBackend {
    fn snapshot(&self) -> Arc<Tree> {
        let published = self.published.read();
        Arc::clone(&published.unwrap_or_else(PoisonError::into_inner))
    }

    fn writable(&self) -> Result<(), ProposeError> {
        lock(&self.orders).refuse.clone().map_or(Ok(()), Err)
    }

    fn propose(&self, op: Op) -> Result<u32, ProposeError> {
        self.writable()?;
        self.pass_gate()?;
        lock(&self.log).push(op.clone());
        let op = guard::checked(&self.snapshot(), op)?;
        self.apply(&op, true)
    }

    fn submit(&self, op: Op, done: Done) {
        match self.me.upgrade() {
            Some(me) if lock(&self.orders).blocked => {
                thread::spawn(move || done(me.propose(op)));
            }
            _ => done(self.propose(op)),
        }
    }

    fn settle(&self) {
        let Ok(_disk) = self.disk.try_lock() else {
            return;
        };
        let mut orders = lock(&self.orders);
        if !orders.disk_held {
            return;
        }
        orders.waiting += 1;
        self.changed.notify_all();
        while orders.disk_held {
            orders = self
                .changed
                .wait(orders)
                .unwrap_or_else(PoisonError::into_inner);
        }
        orders.waiting -= 1;
    }

    fn sync(&self) -> Result<(), ProposeError> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn request_unlock(&self, path: &Bytes) -> Result<(), ProposeError> {
        lock(&self.unlocks).push(path.clone());
        match self.snapshot().find(path) {
            Some(_) => Ok(()),
            None => Err(OpError::NotFound.into()),
        }
    }
}

/// Fixed texts for computed files.
#[derive(Debug, Default)]
pub struct FixedStatus {
    texts: Mutex<(String, bool)>,
    losses: Mutex<Vec<String>>,
}

impl FixedStatus {
    /// Changes the text of `.members`, `.rrd` and `.clusterlog`.
    pub fn set(&self, text: &str) {
        lock(&self.texts).0 = text.to_owned();
    }

    /// Takes the reports of losses so far.
    pub fn take_losses(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.losses))
    }

    fn text(&self) -> Bytes {
        Bytes::from(lock(&self.texts).0.clone())
    }
}

impl StatusSource for FixedStatus {
    fn version(&self, tree: &Tree) -> Bytes {
        Bytes::from(format!("{{\n\"version\": {}\n}}\n", tree.root().version))
    }

    fn members(&self) -> Bytes {
        self.text()
    }

    fn rrd(&self) -> Bytes {
        self.text()
    }

    fn cluster_log(&self) -> Bytes {
        self.text()
    }

    fn debug(&self) -> bool {
        lock(&self.texts).1
    }

    fn set_debug(&self, on: bool) {
        lock(&self.texts).1 = on;
    }

    fn report_loss(&self, text: &str) {
        lock(&self.losses).push(text.to_owned());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a change and waits for its result.
///
/// # Errors
/// What the change leads to.
///
/// # Panics
/// When nobody answers.
pub fn wait<T: Send + 'static>(start: impl FnOnce(ChangeDone<T>)) -> Result<T, FsError> {
    let (sender, receiver) = sync_channel(1);
    start(Box::new(move |result| drop(sender.send(result))));
    receiver.recv().expect("each change is answered")
}
