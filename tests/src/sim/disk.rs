//! A database on a simulated disk: rows, transactions, and what a loss of power leaves of them.
//!
//! Independent of the tree: it knows rows only, so a change that does not describe what happened
//! to the tree shows as a difference.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use pmxcfs::memdb::{Change, Root, Tree, TreeEntry};

use super::{lines::LineId, rng::Rng};

/// Transactions that a loss of power may undo, at most.
const UNSYNCED_MAX: usize = 8;

/// The rows of one state of the database.
#[derive(Clone, Debug)]
struct Rows {
    root: Root,
    entries: BTreeMap<u64, Arc<TreeEntry>>,
    line: LineId,
}

/// See the module documentation.
#[derive(Clone, Debug)]
pub struct Disk {
    rows: Rows,
    /// States before, oldest first, that a loss of power may lead back to.
    unsynced: VecDeque<Rows>,
    /// A copy that was made some time ago.
    copy: Rows,
    /// Takes nothing.
    pub full: bool,
}

impl Disk {
    /// A database that holds a tree.
    #[must_use]
    pub fn new(tree: &Tree, line: LineId) -> Self {
        let rows = Rows {
            root: tree.root(),
            entries: rows_of(tree),
            line,
        };
        Self {
            copy: rows.clone(),
            rows,
            unsynced: VecDeque::new(),
            full: false,
        }
    }

    /// Stores changes in one transaction; false if the disk is full.
    pub fn commit(&mut self, changes: &[Change], line: LineId) -> bool {
        if self.full {
            return false;
        }
        self.begin();
        for change in changes {
            if let Some(inode) = change.delete {
                self.rows.entries.remove(&inode.0);
            }
            if let Some(entry) = &change.upsert {
                self.rows.entries.insert(entry.inode.0, Arc::clone(entry));
            }
            self.rows.root = change.root;
        }
        self.rows.line = line;
        true
    }

    /// Replaces everything in one transaction; false if the disk is full.
    pub fn replace(&mut self, tree: &Tree, line: LineId) -> bool {
        if self.full {
            return false;
        }
        self.begin();
        self.rows = Rows {
            root: tree.root(),
            entries: rows_of(tree),
            line,
        };
        true
    }

    fn begin(&mut self) {
        self.unsynced.push_back(self.rows.clone());
        if self.unsynced.len() > UNSYNCED_MAX {
            self.unsynced.pop_front();
        }
    }

    /// Makes everything survive a loss of power.
    pub fn sync(&mut self) {
        self.unsynced.clear();
    }

    /// Loses transactions from the end that were not synced.
    pub fn lose_power(&mut self, rng: &mut Rng) {
        let kept = rng.index(self.unsynced.len() + 1);
        if let Some(rows) = self.unsynced.get(kept) {
            self.rows = rows.clone();
        }
        self.unsynced.clear();
    }

    /// The file is gone.
    pub fn lose_everything(&mut self) {
        *self = Self {
            full: self.full,
            ..Self::new(&Tree::new(), LineId::EMPTY)
        };
    }

    /// Keeps a copy for [`Disk::restore_copy`].
    pub fn make_copy(&mut self) {
        self.copy = self.rows.clone();
    }

    /// Somebody puts the copy back.
    pub fn restore_copy(&mut self) {
        self.rows = self.copy.clone();
        self.unsynced.clear();
    }

    /// Loses one row, silently.
    pub fn drop_row(&mut self) {
        self.rows.entries.pop_last();
    }

    /// The history that is stored.
    #[must_use]
    pub fn line(&self) -> LineId {
        self.rows.line
    }

    /// The tree that a start finds.
    ///
    /// # Errors
    /// What is wrong with the rows.
    pub fn load(&self) -> Result<Tree, String> {
        let rows = self.rows.entries.values().cloned().collect();
        let loaded = Tree::load(self.rows.root, rows);
        loaded.map(|(tree, _)| tree).map_err(|issues| {
            let texts: Vec<String> = issues.iter().map(ToString::to_string).collect();
            texts.join("; ")
        })
    }

    /// The first difference between the rows and a tree.
    #[must_use]
    pub fn difference(&self, tree: &Tree) -> Option<String> {
        if self.rows.root != tree.root() {
            return Some(format!(
                "{:?} stored, {:?} in memory",
                self.rows.root,
                tree.root()
            ));
        }
        let stored = self.rows.entries.values();
        let mut pairs = stored.zip(tree.entries().values());
        if let Some((stored, memory)) = pairs.find(|(stored, memory)| stored != memory) {
            return Some(format!("{stored:?} stored, {memory:?} in memory"));
        }
        let (rows, entries) = (self.rows.entries.len(), tree.entries().len());
        (rows != entries).then(|| format!("{rows} rows stored, {entries} entries in memory"))
    }
}

fn rows_of(tree: &Tree) -> BTreeMap<u64, Arc<TreeEntry>> {
    let entries = tree.entries().iter();
    entries
        .map(|(inode, entry)| (inode.0, Arc::clone(entry)))
        .collect()
}
