//! The rules of the mounted file system, without anything of the kernel's protocol.
//!
//! Owns: names and numbers as the kernel sees them, modes by path, computed entries, open files
//! with their pending edits, and the notes of what the kernel has to forget. Does not own: the
//! tree (read through [`Backend::snapshot`], changed through [`Backend::propose`]), and any I/O.
//!
//! Invariants:
//! * reads take a published snapshot and never wait for a change;
//! * a file is published with one operation per close or fsync, never in between;
//! * what the kernel may keep for long is exactly what [`Notes`] can make it forget.

mod attr;
mod change;
mod error;
mod files;
mod known;
mod names;
mod notes;
mod observe;
mod open;
mod perm;
mod publish;
mod restless;
mod session;
#[doc(hidden)]
pub mod testing;
mod virt;

use std::{fmt, sync::Arc};

pub use attr::{Attr, Kind, SetAttr, Stats, TimeChange};
pub use change::ChangeDone;
pub use error::FsError;
pub use files::{OpenRequest, Opened};
pub use names::{Listed, Listing};
pub use notes::{InodeBatch, NameBatch, Notes, Stale};
pub use observe::{differences, differing_names};
pub use perm::{dir_mode, file_mode, is_private, is_script, link_mode};
pub use publish::{FlushDone, FlushProbe};
pub use session::Session;
pub use virt::{StatusSource, Virtual, vmlist};

use crate::{
    dcdb::Backend,
    memdb::{Inode, Tree},
};

/// Longest name, in bytes.
pub const MAX_NAME: usize = 1024;

/// Number of the root as the kernel knows it.
pub const ROOT_INO: u64 = 1;

/// What a file system is made of.
pub struct FsConfig {
    /// The replicated tree.
    pub backend: Arc<dyn Backend>,
    /// Texts of computed files.
    pub status: Arc<dyn StatusSource>,
    /// Name of this node.
    pub node: String,
    /// Group of all entries.
    pub gid: u32,
    /// Seconds since 1970.
    pub clock: fn() -> u32,
}

/// The mounted file system. Also a [`crate::dcdb::Observer`], to be attached to its backend.
pub struct Fs {
    backend: Arc<dyn Backend>,
    status: Arc<dyn StatusSource>,
    node: String,
    gid: u32,
    clock: fn() -> u32,
    open: open::OpenFiles,
    notes: Arc<Notes>,
    changing: change::Changing,
    known: known::Known,
    restless: restless::Restless,
}

impl fmt::Debug for Fs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fs")
            .field("node", &self.node)
            .field("gid", &self.gid)
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for FsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FsConfig")
            .field("node", &self.node)
            .field("gid", &self.gid)
            .finish_non_exhaustive()
    }
}

impl Fs {
    /// A file system over a backend.
    #[must_use]
    pub fn new(config: FsConfig) -> Self {
        Self {
            backend: config.backend,
            status: config.status,
            node: config.node,
            gid: config.gid,
            clock: config.clock,
            open: open::OpenFiles::default(),
            notes: Arc::new(Notes::default()),
            changing: change::Changing::default(),
            known: known::Known::default(),
            restless: restless::Restless::default(),
        }
    }

    /// What the kernel has to forget.
    #[must_use]
    pub fn notes(&self) -> &Arc<Notes> {
        &self.notes
    }

    /// The last published tree.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Tree> {
        self.backend.snapshot()
    }

    /// Stores and publishes the changes that were submitted and wait for that, and answers them.
    pub fn settle(&self) {
        self.backend.settle();
    }

    /// Whether a change of this node is under way in a directory, by the number that the kernel
    /// knows, so that the kernel holds its lock.
    #[must_use]
    pub fn is_changing(&self, dir: u64) -> bool {
        self.changing.contains(dir)
    }

    /// The kernel has forgotten an inode that so many answers told it of.
    pub fn forget(&self, ino: u64, times: u64) {
        self.known.forget(ino, times);
    }

    fn is_writable(&self) -> bool {
        self.backend.writable().is_ok()
    }
}

/// An entry by the number that the kernel knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    /// Root, file or directory of the tree.
    Entry(Inode),
    /// Computed entry.
    Virtual(Virtual),
}

impl Node {
    fn from_ino(ino: u64) -> Self {
        match Virtual::from_ino(ino) {
            Some(entry) => Self::Virtual(entry),
            None => Self::Entry(Inode(ino.wrapping_sub(1))),
        }
    }
}

/// The number that the kernel knows an entry of the tree by.
#[must_use]
pub fn ino_of(inode: Inode) -> u64 {
    inode.0.wrapping_add(1)
}

#[cfg(test)]
mod tests;
