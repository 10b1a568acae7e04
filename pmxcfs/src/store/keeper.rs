//! The database file as the storage of the configuration database.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{Store, StoreError, Syncer};
use crate::{
    clock,
    dcdb::{self, Patience, Storage, StorageError},
    memdb::{Change, Tree},
};

/// Copies of overwritten databases that are kept.
const BACKUPS_KEPT: usize = 10;

/// A [`Store`] and the folder for copies of it.
#[derive(Debug)]
pub struct Keeper {
    store: Store,
    backups: PathBuf,
}

impl Keeper {
    /// Wraps an open database; copies go to `backups`.
    #[must_use]
    pub fn new(store: Store, backups: PathBuf) -> Self {
        Self { store, backups }
    }
}

impl From<StoreError> for StorageError {
    fn from(error: StoreError) -> Self {
        let text = error.chain();
        if error.is_no_space() {
            Self::NoSpace(text)
        } else if error.is_busy() {
            Self::Busy(text)
        } else {
            Self::Failed(text)
        }
    }
}

impl dcdb::Syncer for Syncer {
    fn sync(&self) -> Result<(), StorageError> {
        Ok(Self::sync(self)?)
    }
}

impl Storage for Keeper {
    fn set_patience(&mut self, patience: Patience) {
        let timeout = match patience {
            Patience::None => Duration::ZERO,
            Patience::Usual => super::Options::default().busy_timeout,
        };
        self.store.set_busy_timeout(timeout);
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), StorageError> {
        Ok(self.store.commit(changes)?)
    }

    fn replace(&mut self, old: &Tree, new: &Tree) -> Result<(), StorageError> {
        Ok(self.store.replace(old, new)?)
    }

    fn syncer(&self) -> Arc<dyn dcdb::Syncer> {
        Arc::new(self.store.syncer())
    }

    fn backup(&mut self) -> Result<(), StorageError> {
        let copy = self
            .store
            .backup(&self.backups, clock::unix_seconds(), BACKUPS_KEPT)?;
        tracing::info!("kept a copy of the database as '{}'", copy.display());
        Ok(())
    }

    fn probe(&mut self) -> Result<(), StorageError> {
        Ok(self.store.probe()?)
    }
}
