//! Operations on the tree and what they lead to.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use thiserror::Error;

use super::{
    entry::{Digest, Inode, TreeEntry},
    tree::Root,
};

/// One replicated operation.
///
/// Paths are as they travel: looked up tolerantly (leading, doubled and trailing slashes are
/// skipped), but compared literally for side effects such as the guest list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Makes a directory.
    Mkdir {
        /// What to make.
        path: Bytes,
    },
    /// Makes an empty file.
    Create {
        /// What to make.
        path: Bytes,
    },
    /// Writes into a file, or sets its length.
    Write {
        /// The file.
        path: Bytes,
        /// Where the data goes; without data, the new length if `truncate`.
        offset: u32,
        /// What to write; may be empty.
        data: Bytes,
        /// Whether the file ends where the data ends.
        truncate: bool,
    },
    /// Moves a file or an empty directory, replacing a file or an empty directory.
    Rename {
        /// Old path.
        from: Bytes,
        /// New path.
        to: Bytes,
    },
    /// Removes a file or an empty directory.
    Delete {
        /// What to remove.
        path: Bytes,
    },
    /// Sets the time of an entry; refreshes a lock.
    Mtime {
        /// The entry.
        path: Bytes,
        /// Seconds since 1970.
        mtime: u32,
    },
    /// Removes a lock directory, if it is still the one with that checksum.
    Unlock {
        /// The lock.
        path: Bytes,
        /// Checksum of its entry when the release was granted.
        checksum: Digest,
    },
}

impl Op {
    /// The path that the operation is about; the source of a rename.
    #[must_use]
    pub fn path(&self) -> &Bytes {
        match self {
            Self::Mkdir { path }
            | Self::Create { path }
            | Self::Write { path, .. }
            | Self::Rename { from: path, .. }
            | Self::Delete { path }
            | Self::Mtime { path, .. }
            | Self::Unlock { path, .. } => path,
        }
    }
}

/// For messages: what happens to which path, without the data.
impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = String::from_utf8_lossy(self.path());
        match self {
            Self::Mkdir { .. } => write!(f, "mkdir '{path}'"),
            Self::Create { .. } => write!(f, "create '{path}'"),
            Self::Write {
                offset,
                data,
                truncate,
                ..
            } => {
                let end = if *truncate { ", its new end" } else { "" };
                write!(f, "write {} bytes at {offset} of '{path}'{end}", data.len())
            }
            Self::Rename { to, .. } => {
                write!(f, "rename '{path}' to '{}'", String::from_utf8_lossy(to))
            }
            Self::Delete { .. } => write!(f, "delete '{path}'"),
            Self::Mtime { mtime, .. } => write!(f, "set the time of '{path}' to {mtime}"),
            Self::Unlock { .. } => write!(f, "unlock '{path}'"),
        }
    }
}

/// Who changes the tree, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Node id of the submitter; 0 outside a cluster.
    pub writer: u32,
    /// Clock of the submitter, seconds since 1970.
    pub mtime: u32,
}

/// Why an operation was refused. Every member refuses for the same reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OpError {
    /// The entry or its parent does not exist.
    #[error("no such file or directory")]
    NotFound,
    /// A file stands where a directory is needed, or the other way round.
    #[error("not a directory, or not a file")]
    NotDirectory,
    /// The root, a name such as `.`, or a lock that somebody holds.
    #[error("not permitted on this entry")]
    Access,
    /// The name is taken.
    #[error("exists already")]
    Exists,
    /// The guest id is in use by another node or as another kind of guest.
    #[error("guest id is in use elsewhere in the cluster")]
    GuestExists,
    /// The write would end behind the size limit.
    #[error("larger than a file may be")]
    TooLarge,
    /// The directory has entries.
    #[error("directory is not empty")]
    NotEmpty,
    /// The operation makes no sense: empty path, or a rename into itself.
    #[error("invalid argument")]
    Invalid,
}

impl OpError {
    /// The errno that the original reports, which peers and clients know.
    #[must_use]
    pub fn errno(self) -> i32 {
        match self {
            Self::NotFound => libc::ENOENT,
            Self::NotDirectory => libc::ENOTDIR,
            Self::Access => libc::EACCES,
            Self::Exists | Self::GuestExists => libc::EEXIST,
            Self::TooLarge => libc::EFBIG,
            Self::NotEmpty => libc::ENOTEMPTY,
            Self::Invalid => libc::EINVAL,
        }
    }
}

/// What an operation changes in the database, all in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Row to write, new or replaced.
    pub upsert: Option<Arc<TreeEntry>>,
    /// Row to delete.
    pub delete: Option<Inode>,
    /// State of the whole tree after the change.
    pub root: Root,
}

/// What happens to the timer of a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockEffect {
    /// Taken or refreshed: its age starts now.
    Started(Bytes, Digest),
    /// Gone.
    Ended(Bytes),
}

/// Result of [`super::Tree::apply`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes written by a write, else 0.
    pub result: Result<u32, OpError>,
    /// What to store. Set for each success; for a failure only where the tree changed all the
    /// same, as the original does.
    pub change: Option<Change>,
    /// Effect on lock timers.
    pub lock: Option<LockEffect>,
    /// Whether the cluster configuration may have changed.
    pub touched_conf: bool,
}

impl Outcome {
    pub(crate) fn refused(error: OpError) -> Self {
        Self {
            result: Err(error),
            change: None,
            lock: None,
            touched_conf: false,
        }
    }
}
