//! What nodes compare: the index of a tree and the checksum of the whole.

use std::sync::Arc;

use super::{
    entry::{Content, Digest, Inode, TreeEntry, TreeHasher},
    tree::Tree,
};

impl Tree {
    /// Highest inode in the tree, 0 when it is empty.
    #[must_use]
    pub fn last_inode(&self) -> Inode {
        self.entries
            .get_max()
            .map_or(Inode::ROOT, |(inode, _)| *inode)
    }

    /// Number and digest of every entry, the root first, ascending.
    pub fn digests(&self) -> impl Iterator<Item = (Inode, Digest)> + '_ {
        let root = (Inode::ROOT, self.root_entry().digest());
        std::iter::once(root).chain(self.entries.iter().map(|(inode, e)| (*inode, e.digest())))
    }

    /// Checksum of the whole tree.
    #[must_use]
    pub fn checksum(&self) -> Digest {
        let mut hasher = TreeHasher::default();
        hasher.entry(&self.root_entry());
        for (_, entry) in &self.entries {
            hasher.entry(entry);
        }
        hasher.finish()
    }

    /// Gives hollow files the zero bytes that readers see in them.
    ///
    /// The node whose tree wins a tie calls this before it describes its tree: members that never
    /// allocated the bytes are then repaired by the transfer. Returns what was filled.
    pub fn fill_hollow(&mut self) -> Vec<Arc<TreeEntry>> {
        let hollow: Vec<_> = self
            .entries
            .values()
            .filter(|entry| matches!(entry.content, Content::Hollow(_)))
            .map(Arc::clone)
            .collect();
        let fill = |entry: Arc<TreeEntry>| {
            self.put(TreeEntry::new(
                entry.inode,
                entry.parent,
                entry.version,
                entry.writer,
                entry.mtime,
                Arc::clone(&entry.name),
                Content::File(entry.data()),
            ))
        };
        hollow.into_iter().map(fill).collect()
    }
}
