//! What the configuration database needs of its disk.

use std::sync::Arc;

use thiserror::Error;

use super::ProposeError;
use crate::memdb::{Change, Tree};

/// Why something could not be stored. Nothing of it is left on disk.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StorageError {
    /// The disk is full.
    #[error("{0}")]
    NoSpace(String),
    /// Another process holds the database, for longer than the patience.
    #[error("{0}")]
    Busy(String),
    /// Any other failure.
    #[error("{0}")]
    Failed(String),
}

impl From<StorageError> for ProposeError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::NoSpace(text) => Self::NoSpace(text),
            StorageError::Busy(text) | StorageError::Failed(text) => Self::Storage(text),
        }
    }
}

/// How long a caller of [`Storage`] can wait for other processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Not at all: [`StorageError::Busy`] at once.
    None,
    /// As long as other users of the database wait, some seconds.
    Usual,
}

/// Makes everything that was stored before survive a loss of power. Apart from the [`Storage`], so
/// that nobody else waits meanwhile.
pub trait Syncer: Send + Sync {
    /// Waits for the disk.
    ///
    /// # Errors
    /// When the disk does not take it.
    fn sync(&self) -> Result<(), StorageError>;
}

/// Keeps the tree on disk. Every call is one transaction: all of it or nothing.
///
/// Invariant: after an error the storage stays usable, and holds what it held before.
pub trait Storage: Send {
    /// How long to wait for another process that holds the database; for a while by default.
    fn set_patience(&mut self, patience: Patience);

    /// Stores changes, in order.
    ///
    /// # Errors
    /// When nothing was stored.
    fn commit(&mut self, changes: &[Change]) -> Result<(), StorageError>;

    /// Replaces the tree `old`, which is what it holds, by `new`.
    ///
    /// # Errors
    /// When nothing was stored, or what was stored does not read back as `new`.
    fn replace(&mut self, old: &Tree, new: &Tree) -> Result<(), StorageError>;

    /// What makes all that is stored survive a loss of power.
    fn syncer(&self) -> Arc<dyn Syncer>;

    /// Keeps a copy of the present content, before it is overwritten by another history.
    ///
    /// # Errors
    /// When the copy could not be made.
    fn backup(&mut self) -> Result<(), StorageError>;

    /// Tries whether a change could be stored now, after a failure.
    ///
    /// # Errors
    /// When it still could not.
    fn probe(&mut self) -> Result<(), StorageError>;
}

/// In the place of a storage that was closed because the daemon ends.
#[derive(Clone, Copy, Debug)]
pub struct Closed;

impl Closed {
    fn refuse() -> Result<(), StorageError> {
        Err(StorageError::Failed("the daemon is stopping".into()))
    }
}

impl Storage for Closed {
    fn set_patience(&mut self, _: Patience) {}

    fn commit(&mut self, _: &[Change]) -> Result<(), StorageError> {
        Self::refuse()
    }

    fn replace(&mut self, _: &Tree, _: &Tree) -> Result<(), StorageError> {
        Self::refuse()
    }

    fn syncer(&self) -> Arc<dyn Syncer> {
        Arc::new(*self)
    }

    fn backup(&mut self) -> Result<(), StorageError> {
        Self::refuse()
    }

    fn probe(&mut self) -> Result<(), StorageError> {
        Self::refuse()
    }
}

impl Syncer for Closed {
    fn sync(&self) -> Result<(), StorageError> {
        Self::refuse()
    }
}
