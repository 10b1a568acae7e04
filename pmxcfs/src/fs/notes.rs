//! What the kernel has to forget, from the threads that learn it to the ones that tell it.
//!
//! Writers of notes never wait. Each kind is a set, so repeated changes of one entry cost one
//! note; past [`LIMIT`] a set is replaced by the tree as it was, to be compared with the present
//! one. Order within a kind does not matter: a note says "forget", never what to remember.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use crate::memdb::{Name, Tree};

/// Notes of one kind that are kept singly.
pub const LIMIT: usize = 16_384;

/// How much of an inode the kernel has to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stale {
    /// Attributes.
    Attributes,
    /// Attributes and cached pages.
    Content,
}

/// Inodes to forget.
#[derive(Debug, Default)]
pub struct InodeBatch {
    /// By the number that the kernel knows.
    pub inodes: BTreeMap<u64, Stale>,
    /// Every inode that differs from that tree, too.
    pub since: Option<Arc<Tree>>,
    /// Attributes of every entry, too.
    pub all_attributes: bool,
}

/// Names to forget.
#[derive(Debug, Default)]
pub struct NameBatch {
    /// Directory, by the number that the kernel knows, and name in it.
    pub names: BTreeSet<(u64, Name)>,
    /// Every name, and at least those that differ from that tree.
    pub since: Option<Arc<Tree>>,
}

#[derive(Debug, Default)]
struct State {
    inodes: InodeBatch,
    names: NameBatch,
    closed: bool,
}

/// The notes that wait to be told to the kernel.
#[derive(Debug, Default)]
pub struct Notes {
    state: Mutex<State>,
    changed: Condvar,
}

impl Notes {
    /// An inode changed; `old` is the tree before.
    pub fn inode(&self, ino: u64, stale: Stale, old: &Arc<Tree>) {
        let mut state = self.lock();
        let batch = &mut state.inodes;
        if batch.inodes.len() < LIMIT || batch.inodes.contains_key(&ino) {
            let noted = batch.inodes.entry(ino).or_insert(stale);
            *noted = stale.max(*noted);
        } else if batch.since.is_none() {
            batch.since = Some(Arc::clone(old));
        }
        self.changed.notify_all();
    }

    /// A name came, went, or stands for another entry; `old` is the tree before.
    pub fn name(&self, dir: u64, name: Name, old: &Arc<Tree>) {
        let mut state = self.lock();
        let batch = &mut state.names;
        if batch.names.len() < LIMIT {
            batch.names.insert((dir, name));
        } else if batch.since.is_none() {
            batch.since = Some(Arc::clone(old));
        }
        self.changed.notify_all();
    }

    /// Anything may have changed since `old`.
    pub fn everything(&self, old: &Arc<Tree>) {
        let mut state = self.lock();
        state.inodes.since.get_or_insert_with(|| Arc::clone(old));
        state.names.since.get_or_insert_with(|| Arc::clone(old));
        self.changed.notify_all();
    }

    /// The modes of all entries changed.
    pub fn all_attributes(&self) {
        self.lock().inodes.all_attributes = true;
        self.changed.notify_all();
    }

    /// Waits for inodes to forget; `None` once closed.
    pub fn next_inodes(&self) -> Option<InodeBatch> {
        self.next(|state| {
            let batch = &state.inodes;
            let pending = !batch.inodes.is_empty() || batch.since.is_some() || batch.all_attributes;
            pending.then(|| std::mem::take(&mut state.inodes))
        })
    }

    /// Waits for names to forget; `None` once closed.
    pub fn next_names(&self) -> Option<NameBatch> {
        self.next(|state| {
            let pending = !state.names.names.is_empty() || state.names.since.is_some();
            pending.then(|| std::mem::take(&mut state.names))
        })
    }

    /// Ends the waits; what is noted is dropped.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn next<T>(&self, mut take: impl FnMut(&mut State) -> Option<T>) -> Option<T> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(batch) = take(&mut state) {
                return Some(batch);
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_of_one_inode_become_the_stronger_one() {
        let (notes, tree) = (Notes::default(), Arc::new(Tree::new()));
        notes.inode(7, Stale::Content, &tree);
        notes.inode(7, Stale::Attributes, &tree);
        let batch = notes.next_inodes().unwrap();
        assert_eq!(batch.inodes, BTreeMap::from([(7, Stale::Content)]));
        assert!(batch.since.is_none() && !batch.all_attributes);
    }

    #[test]
    fn a_flood_is_replaced_by_the_tree_before_it() {
        let (notes, tree) = (Notes::default(), Arc::new(Tree::new()));
        for ino in 0..u64::try_from(LIMIT).unwrap() + 10 {
            notes.inode(ino, Stale::Content, &tree);
            notes.name(ino, Name::from(&b"x"[..]), &tree);
        }
        let batch = notes.next_inodes().unwrap();
        assert_eq!(batch.inodes.len(), LIMIT);
        assert!(batch.since.is_some());
        let batch = notes.next_names().unwrap();
        assert_eq!(batch.names.len(), LIMIT);
        assert!(batch.since.is_some());
    }

    #[test]
    fn closing_ends_the_wait() {
        let notes = Notes::default();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| notes.next_names());
            notes.close();
            assert!(waiting.join().unwrap().is_none());
        });
    }
}
