//! The replicated database as the file system sees it.

use std::sync::{Arc, mpsc::sync_channel};

use bytes::Bytes;
use thiserror::Error;

use crate::memdb::{Change, Op, OpError, Tree};

/// Why a proposed change did not happen, or may not have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProposeError {
    /// The operation was refused in its place of the order.
    #[error(transparent)]
    Op(#[from] OpError),
    /// This node is not part of a majority.
    #[error("no quorum: this node is read-only until a majority of the nodes is connected")]
    NoQuorum,
    /// The group did not take or order the change in time. It may happen all the same.
    #[error("the cluster did not order the change in time; look before trying again")]
    Busy,
    /// This node could not store the change; nothing of it is left.
    #[error("the database could not be written: {0}")]
    Storage(String),
    /// No space is left, on the disk or within the limits of the tree.
    #[error("no space left: {0}")]
    NoSpace(String),
    /// The change would damage the cluster and is refused before it is sent.
    #[error("{0}")]
    Forbidden(String),
    /// The new content is not acceptable.
    #[error("{0}")]
    InvalidContent(String),
}

impl ProposeError {
    /// The errno that a caller of the file system gets.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Op(error) => error.errno(),
            Self::NoQuorum => libc::EACCES,
            Self::Busy => libc::EBUSY,
            Self::Storage(_) => libc::EIO,
            Self::NoSpace(_) => libc::ENOSPC,
            Self::Forbidden(_) => libc::EPERM,
            Self::InvalidContent(_) => libc::EINVAL,
        }
    }
}

/// One applied change as observers see it.
#[derive(Clone, Debug)]
pub struct Applied {
    /// What changed.
    pub change: Change,
    /// Whether this node's own file system proposed it, so that its kernel knows.
    pub own: bool,
}

/// What was published.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// Single changes, in order.
    Changes(&'a [Applied]),
    /// The whole tree was replaced by that of another member.
    Replaced,
}

/// Follows the published trees, in order.
///
/// Called by the thread that publishes, after the new tree is visible to readers and before the
/// callers of the changes are answered: implementations only take notes and never wait.
pub trait Observer: Send + Sync {
    /// A new tree was published.
    fn published(&self, old: &Arc<Tree>, new: &Arc<Tree>, step: Step<'_>);
    /// [`Backend::writable`] may answer differently now.
    fn writability_changed(&self);
}

/// Takes the result of a change, bytes written or 0, on whatever thread has it. Must not wait.
pub type Done = Box<dyn FnOnce(Result<u32, ProposeError>) + Send>;

/// The replicated database as the file system sees it.
pub trait Backend: Send + Sync + 'static {
    /// The last published tree. Never waits.
    fn snapshot(&self) -> Arc<Tree>;

    /// Whether changes are accepted at present; decides the mode bits.
    ///
    /// # Errors
    /// Why not: no quorum, or a database that can not be written.
    fn writable(&self) -> Result<(), ProposeError>;

    /// Has a change ordered and applied; returns bytes written or 0. Waits for its own place in
    /// the order, for a bounded time.
    ///
    /// # Errors
    /// See [`ProposeError`].
    fn propose(&self, op: Op) -> Result<u32, ProposeError>;

    /// As [`Backend::propose`], but hands the result to `done` instead of waiting for it.
    ///
    /// Does not wait for other nodes, nor for the disk: what has to be stored here may wait for
    /// [`Backend::settle`], which the caller calls when it has submitted all that it has.
    fn submit(&self, op: Op, done: Done) {
        done(self.propose(op));
    }

    /// Stores what was submitted and waits for it, in one transaction, and answers it. Does not
    /// wait for a transaction of another thread, which then takes care of the rest.
    fn settle(&self) {}

    /// Makes everything that was published durable on this node's disk.
    ///
    /// # Errors
    /// [`ProposeError::Storage`] when the disk does not take it.
    fn sync(&self) -> Result<(), ProposeError>;

    /// Asks for the release of a lock directory that its holder may have left behind.
    ///
    /// The caller proposes the time change that carried the request afterwards.
    ///
    /// # Errors
    /// [`OpError::NotFound`] when the lock was old enough and is gone now.
    fn request_unlock(&self, path: &Bytes) -> Result<(), ProposeError>;
}

/// Waits for the result of a change.
pub(crate) fn wait_for(start: impl FnOnce(Done)) -> Result<u32, ProposeError> {
    let (sender, receiver) = sync_channel(1);
    // There is room for the one answer.
    start(Box::new(move |answer| drop(sender.try_send(answer))));
    receiver.recv().unwrap_or(Err(ProposeError::Busy))
}
