//! The tree that readers see.

use std::{
    fmt,
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

use super::{Observer, Step};
use crate::memdb::Tree;

/// The last published tree and who follows it.
///
/// Invariant: what is published is in the database. The lock is held only to copy or to swap one
/// reference, so readers never wait.
pub struct Published {
    tree: RwLock<Arc<Tree>>,
    observer: OnceLock<Arc<dyn Observer>>,
}

impl Published {
    /// Publishes what the database holds at start.
    #[must_use]
    pub fn new(tree: Tree) -> Self {
        Self {
            tree: RwLock::new(Arc::new(tree)),
            observer: OnceLock::new(),
        }
    }

    /// Sets who follows the tree; only the first call counts.
    pub fn observe(&self, observer: Arc<dyn Observer>) {
        drop(self.observer.set(observer));
    }

    /// The last published tree.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Tree> {
        Arc::clone(&self.tree.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Publishes a tree. Called by one thread at a time, in order.
    pub fn publish(&self, tree: Tree, step: Step<'_>) {
        let new = Arc::new(tree);
        let old = {
            let mut current = self.tree.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, Arc::clone(&new))
        };
        if let Some(observer) = self.observer.get() {
            observer.published(&old, &new, step);
        }
    }

    /// Tells the observer that changes may be accepted or refused from now on.
    pub fn writability_changed(&self) {
        if let Some(observer) = self.observer.get() {
            observer.writability_changed();
        }
    }
}

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Published")
            .field("root", &self.snapshot().root())
            .finish_non_exhaustive()
    }
}
