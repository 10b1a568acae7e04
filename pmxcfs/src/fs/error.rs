//! Why a file system call failed, and the one place where that becomes an errno.

use thiserror::Error;

use crate::dcdb::ProposeError;

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FsError {
    /// The change was refused, or could not be ordered or stored.
    #[error(transparent)]
    Change(#[from] ProposeError),
    /// No entry of that name.
    #[error("no such file or directory")]
    NotFound,
    /// The kernel asked for an entry that is gone; it looks the path up again.
    #[error("the entry is gone; its path may name another one by now")]
    Stale,
    /// Another node removed or replaced the file while it was being written here.
    #[error("the file was removed or replaced by another node while it was open for writing")]
    Removed,
    /// The name is taken.
    #[error("exists already")]
    Exists,
    /// A file is needed.
    #[error("is a directory")]
    IsDirectory,
    /// A directory is needed.
    #[error("not a directory")]
    NotDirectory,
    /// The root and computed entries are not changed by callers.
    #[error("this entry belongs to the cluster file system itself and can not be changed")]
    Fixed,
    /// Owner and mode follow from the path.
    #[error("owner and mode follow from the path and can not be changed")]
    NotPermitted,
    /// The content of a computed file.
    #[error("the content of this file is computed and can not be written")]
    Computed,
    /// Nothing of that kind exists here.
    #[error("not implemented")]
    Unimplemented,
    /// The arguments make no sense.
    #[error("invalid argument")]
    Invalid,
    /// The file would be larger than a file may be.
    #[error(
        "larger than the limit of {} bytes for one file",
        crate::memdb::MAX_FILE_SIZE
    )]
    TooLarge,
    /// All files together would be larger than they may be.
    #[error(
        "all files together would exceed {} bytes",
        crate::memdb::MAX_TOTAL_BYTES
    )]
    NoSpace,
    /// The name is longer than a name may be.
    #[error("name is longer than {} bytes", super::MAX_NAME)]
    NameTooLong,
    /// No such open file.
    #[error("no such open file")]
    BadHandle,
}

impl FsError {
    /// The errno that the caller gets.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Change(error) => error.errno(),
            Self::NotFound | Self::Removed => libc::ENOENT,
            Self::Stale => libc::ESTALE,
            Self::Exists => libc::EEXIST,
            Self::IsDirectory => libc::EISDIR,
            Self::NotDirectory => libc::ENOTDIR,
            Self::Fixed => libc::EACCES,
            Self::NotPermitted => libc::EPERM,
            Self::Computed => libc::EIO,
            Self::Unimplemented => libc::ENOSYS,
            Self::Invalid => libc::EINVAL,
            Self::TooLarge => libc::EFBIG,
            Self::NoSpace => libc::ENOSPC,
            Self::NameTooLong => libc::ENAMETOOLONG,
            Self::BadHandle => libc::EBADF,
        }
    }
}
