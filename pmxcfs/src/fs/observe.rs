//! Follows the published trees: keeps removed files for their handles, and notes what the kernel
//! has to forget. Runs on the thread that publishes, so it only takes notes.

use std::{collections::BTreeMap, sync::Arc};

use imbl::ordmap::DiffItem;

use super::{
    Fs, Stale, ino_of,
    open::{Gone, OpenFile},
};
use crate::{
    dcdb::{Applied, Observer, Step},
    memdb::{Change, Content, Inode, Name, Tree, TreeEntry},
};

impl Observer for Fs {
    fn published(&self, old: &Arc<Tree>, new: &Arc<Tree>, step: Step<'_>) {
        match step {
            Step::Changes(changes) => {
                let mut before = Before::new(old);
                for published in changes {
                    self.follow(&mut before, published);
                }
            }
            Step::Replaced => {
                for open in self.open.all() {
                    match new.get(open.inode).filter(|entry| !entry.is_dir()) {
                        Some(entry) => self.file_changed(old, &open, entry, false),
                        None => file_gone(&open, Gone::Elsewhere),
                    }
                }
                self.restless.add_all((self.clock)());
                self.notes.everything(old);
            }
        }
    }

    fn writability_changed(&self) {
        self.notes.all_attributes();
    }
}

impl Fs {
    fn follow(&self, before: &mut Before<'_>, published: &Applied) {
        let Applied { change, own } = published;
        if let Some(entry) = &change.upsert
            && let Some(open) = self.open.of(entry.inode)
        {
            self.file_changed(before.tree, &open, entry, *own);
        }
        if let Some(inode) = change.delete
            && let Some(open) = self.open.of(inode)
        {
            file_gone(&open, if *own { Gone::Here } else { Gone::Elsewhere });
        }
        if !own {
            self.note_foreign(before, change);
        }
        before.follow(change);
    }

    fn note_foreign(&self, before: &Before<'_>, change: &Change) {
        let tree = before.tree;
        if let Some(inode) = change.delete {
            if let Some(entry) = before.get(inode) {
                self.note_name(tree, entry);
            }
            self.note_inode(tree, inode, Stale::Attributes);
        }
        let Some(entry) = &change.upsert else {
            return;
        };
        let old = before.get(entry.inode);
        if old.is_none_or(|old| !same_name(old, entry)) {
            self.note_name(tree, entry);
            if let Some(old) = old {
                self.note_name(tree, old);
            }
        }
        let same_content = old.is_some_and(|old| same_content(old, entry));
        let stale = if same_content {
            Stale::Attributes
        } else {
            Stale::Content
        };
        if stale == Stale::Content {
            self.restless.add(ino_of(entry.inode), (self.clock)());
        }
        self.note_inode(tree, entry.inode, stale);
    }

    fn note_inode(&self, old: &Arc<Tree>, inode: Inode, stale: Stale) {
        let ino = ino_of(inode);
        if self.known.contains(ino) {
            self.notes.inode(ino, stale, old);
        }
    }

    fn note_name(&self, old: &Arc<Tree>, entry: &TreeEntry) {
        let dir = ino_of(entry.parent);
        if self.known.contains(dir) {
            self.notes.name(dir, Arc::clone(&entry.name), old);
        }
    }

    /// A file that is open has a new published state.
    fn file_changed(&self, old: &Arc<Tree>, open: &OpenFile, entry: &Arc<TreeEntry>, own: bool) {
        let mut state = open.state();
        let same = same_content(&state.entry, entry);
        state.entry = Arc::clone(entry);
        if own && !same {
            // This is the operation that a handle waits for: its edits are in the tree now, and
            // must not be applied a second time.
            for edits in state.edits.values_mut() {
                edits.publishing = None;
            }
        }
        if !same && state.rebuild() && own {
            self.notes.inode(ino_of(entry.inode), Stale::Content, old);
        }
    }
}

/// Entries just before each change of a batch: those of the tree before all of them, and what the
/// changes made of them since. A name may exist for a part of a batch only, and be cached then.
struct Before<'a> {
    tree: &'a Arc<Tree>,
    since: BTreeMap<Inode, Arc<TreeEntry>>,
}

impl<'a> Before<'a> {
    fn new(tree: &'a Arc<Tree>) -> Self {
        Self {
            tree,
            since: BTreeMap::new(),
        }
    }

    fn get(&self, inode: Inode) -> Option<&Arc<TreeEntry>> {
        self.since.get(&inode).or_else(|| self.tree.get(inode))
    }

    fn follow(&mut self, change: &Change) {
        if let Some(entry) = &change.upsert {
            self.since.insert(entry.inode, Arc::clone(entry));
        }
    }
}

fn file_gone(open: &OpenFile, by: Gone) {
    open.state().gone.get_or_insert(by);
    open.observed();
}

fn same_name(a: &TreeEntry, b: &TreeEntry) -> bool {
    a.parent == b.parent && a.name == b.name
}

/// Whether two entries certainly have the same bytes, without comparing them.
fn same_content(a: &TreeEntry, b: &TreeEntry) -> bool {
    match (&a.content, &b.content) {
        (Content::File(a), Content::File(b)) => a.as_ptr() == b.as_ptr() && a.len() == b.len(),
        (Content::Hollow(a), Content::Hollow(b)) => a == b,
        (Content::Directory, Content::Directory) => true,
        _ => false,
    }
}

/// Numbers of the kernel, with how stale they are, of all entries that differ between two trees.
#[must_use]
pub fn differences(old: &Tree, new: &Tree) -> Vec<(u64, Stale)> {
    let changes = old.entries().diff(new.entries());
    let changes = changes.map(|item| {
        let (inode, stale): (Inode, Stale) = match item {
            DiffItem::Add(inode, _) => (*inode, Stale::Content),
            DiffItem::Remove(inode, _) => (*inode, Stale::Attributes),
            DiffItem::Update { old, new } => {
                let stale = if same_content(old.1, new.1) {
                    Stale::Attributes
                } else {
                    Stale::Content
                };
                (*new.0, stale)
            }
        };
        (ino_of(inode), stale)
    });
    changes.collect()
}

/// Directory (by number of the kernel) and name of all names that differ between two trees.
#[must_use]
pub fn differing_names(old: &Tree, new: &Tree) -> Vec<(u64, Name)> {
    let mut names = Vec::new();
    let mut note = |entry: &TreeEntry| names.push((ino_of(entry.parent), Arc::clone(&entry.name)));
    for item in old.entries().diff(new.entries()) {
        match item {
            DiffItem::Add(_, entry) | DiffItem::Remove(_, entry) => note(entry),
            DiffItem::Update { old, new } if !same_name(old.1, new.1) => {
                note(old.1);
                note(new.1);
            }
            DiffItem::Update { .. } => {}
        }
    }
    names
}
