//! The tree itself: look-ups and the pieces that [`super::Tree::apply`] is made of.

use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;

use super::{
    entry::{Content, Inode, Name, TreeEntry},
    guests::Guests,
    observed::ObservedCounters,
    path::{components, join},
};

/// State of the whole tree: version, and who changed it last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// Number of the last change; 1 when new.
    pub version: u64,
    /// Node that submitted the last change; 0 outside a cluster.
    pub writer: u32,
    /// Time of the last change, seconds since 1970.
    pub mtime: u32,
}

/// The replicated tree. See the module documentation.
#[derive(Clone, Debug)]
pub struct Tree {
    pub(super) root: Root,
    /// All entries but the root.
    pub(super) entries: OrdMap<Inode, Arc<TreeEntry>>,
    /// Children by directory; every directory, the root included, has a map.
    pub(super) children: OrdMap<Inode, OrdMap<Name, Inode>>,
    pub(super) total_bytes: u64,
    pub(super) guests: Guests,
    pub(super) observed: ObservedCounters,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// An empty tree at version 1, as a new database has it.
    #[must_use]
    pub fn new() -> Self {
        Self {
            root: Root {
                version: 1,
                writer: 0,
                mtime: 0,
            },
            entries: OrdMap::new(),
            children: OrdMap::unit(Inode::ROOT, OrdMap::new()),
            total_bytes: 0,
            guests: Guests::default(),
            observed: ObservedCounters::default(),
        }
    }

    /// State of the whole tree.
    #[must_use]
    pub fn root(&self) -> Root {
        self.root
    }

    /// The guest list.
    #[must_use]
    pub fn guests(&self) -> &Guests {
        &self.guests
    }

    /// Counters of observed files.
    #[must_use]
    pub fn observed(&self) -> &ObservedCounters {
        &self.observed
    }

    /// Number of entries, the root counted.
    #[must_use]
    pub fn entry_count(&self) -> u64 {
        self.entries.len() as u64 + 1
    }

    /// Sum of all file sizes, bytes.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// All entries but the root, in ascending order of inode.
    #[must_use]
    pub fn entries(&self) -> &OrdMap<Inode, Arc<TreeEntry>> {
        &self.entries
    }

    /// The root as an entry, the way it enters digests.
    #[must_use]
    pub fn root_entry(&self) -> TreeEntry {
        TreeEntry::new(
            Inode::ROOT,
            Inode::ROOT,
            self.root.version,
            self.root.writer,
            self.root.mtime,
            Name::from(&b""[..]),
            Content::Directory,
        )
    }

    /// Looks an entry up by number; the root is no entry.
    #[must_use]
    pub fn get(&self, inode: Inode) -> Option<&Arc<TreeEntry>> {
        self.entries.get(&inode)
    }

    /// Whether that inode is a directory of this tree, the root included.
    #[must_use]
    pub fn is_dir(&self, inode: Inode) -> bool {
        self.children.contains_key(&inode)
    }

    /// The entry of that name in a directory.
    #[must_use]
    pub fn child(&self, dir: Inode, name: &[u8]) -> Option<&Arc<TreeEntry>> {
        let inode = self.children.get(&dir)?.get(name)?;
        self.entries.get(inode)
    }

    /// Names and numbers in a directory, ascending by name; `None` if it is none.
    #[must_use]
    pub fn children(&self, dir: Inode) -> Option<&OrdMap<Name, Inode>> {
        self.children.get(&dir)
    }

    /// Finds the entry of a path. The root has none: `Some(None)`.
    #[must_use]
    pub fn lookup(&self, path: &[u8]) -> Option<Option<&Arc<TreeEntry>>> {
        let mut found = None;
        if path == b"." {
            return Some(None);
        }
        for name in components(path) {
            let dir = found.map_or(Inode::ROOT, |entry: &Arc<TreeEntry>| entry.inode);
            found = Some(self.child(dir, name)?);
        }
        Some(found)
    }

    /// Finds the file or directory of a path, the root excluded.
    #[must_use]
    pub fn find(&self, path: &[u8]) -> Option<&Arc<TreeEntry>> {
        self.lookup(path).flatten()
    }

    /// Content of the file at a path.
    #[must_use]
    pub fn file(&self, path: &[u8]) -> Option<Bytes> {
        let entry = self.find(path)?;
        (!entry.is_dir()).then(|| entry.data())
    }

    /// Path of an entry without leading slash; empty for the root, `None` if it is not reachable.
    #[must_use]
    pub fn path_of(&self, inode: Inode) -> Option<Vec<u8>> {
        let mut names: Vec<&[u8]> = Vec::new();
        let mut at = inode;
        while at != Inode::ROOT {
            let entry = self.entries.get(&at)?;
            names.push(&entry.name);
            at = entry.parent;
            if names.len() > self.entries.len() {
                // A cycle among directories, which only a damaged database holds.
                return None;
            }
        }
        Some(
            names
                .iter()
                .rev()
                .fold(Vec::new(), |path, name| join(&path, name)),
        )
    }

    /// Makes all counters continue from those of the tree that this one replaces.
    ///
    /// Every observed file and the guest list count as changed.
    pub fn continue_counters(&mut self, replaced: &Self) {
        self.observed = replaced.observed;
        self.observed.record_all();
        self.guests = self.list_guests(&replaced.guests).0;
    }

    pub(super) fn put(&mut self, entry: impl Into<Arc<TreeEntry>>) -> Arc<TreeEntry> {
        let entry = entry.into();
        self.total_bytes += u64::from(entry.size());
        if let Some(old) = self.entries.insert(entry.inode, Arc::clone(&entry)) {
            self.total_bytes -= u64::from(old.size());
            self.unlink_name(&old);
        }
        if entry.is_dir() && !self.children.contains_key(&entry.inode) {
            self.children.insert(entry.inode, OrdMap::new());
        }
        if let Some(siblings) = self.children.get_mut(&entry.parent) {
            siblings.insert(Arc::clone(&entry.name), entry.inode);
        }
        entry
    }

    pub(super) fn remove(&mut self, inode: Inode) {
        let Some(old) = self.entries.remove(&inode) else {
            return;
        };
        self.total_bytes -= u64::from(old.size());
        self.unlink_name(&old);
        self.children.remove(&inode);
    }

    fn unlink_name(&mut self, entry: &TreeEntry) {
        if let Some(siblings) = self.children.get_mut(&entry.parent)
            && siblings.get(&*entry.name) == Some(&entry.inode)
        {
            siblings.remove(&*entry.name);
        }
    }
}

impl PartialEq for Tree {
    /// Equal in what is replicated; counters of this process do not count.
    fn eq(&self, other: &Self) -> bool {
        self.root == other.root && self.entries == other.entries
    }
}
