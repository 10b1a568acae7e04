//! Copies of the database that are kept before something overwrites it.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rusqlite::types::{ToSqlOutput, ValueRef};

use super::{FILE_MODE, Store, StoreError, sync_dir};

impl Store {
    /// Copies the database into a folder, as `config-NOW.db`, and keeps the newest `keep` copies.
    ///
    /// The copy is consistent and complete once it has its name; it is durable on return. It is a
    /// database of its own, to be put in the place of `config.db`. Other files there, such as the
    /// compressed dumps that management commands make, are left alone. `now`: seconds since 1970.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::is_no_space`] is the likely one. Nothing half is left behind.
    pub fn backup(&self, folder: &Path, now: u64, keep: usize) -> Result<PathBuf, StoreError> {
        make_folder(folder)?;
        let copy = folder.join(format!("{PREFIX}{now}{SUFFIX}"));
        let partial = folder.join(format!("{PREFIX}{now}{SUFFIX}.partial"));
        let result = self.copy_to(&partial).and_then(|()| {
            fs::rename(&partial, &copy).map_err(StoreError::io("create", &copy))?;
            sync_dir(folder)
        });
        if let Err(error) = result {
            remove(&partial)?;
            return Err(error);
        }
        for old in copies(folder)?.into_iter().rev().skip(keep.max(1)) {
            remove(&folder.join(format!("{PREFIX}{old}{SUFFIX}")))?;
        }
        Ok(copy)
    }

    fn copy_to(&self, target: &Path) -> Result<(), StoreError> {
        use std::os::unix::ffi::OsStrExt;
        // SQLite writes into an existing file if it is empty, and keeps its mode.
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(target)
            .map_err(StoreError::io("create", target))?;
        let name = ToSqlOutput::Borrowed(ValueRef::Text(target.as_os_str().as_bytes()));
        self.conn
            .execute("VACUUM main INTO ?1", [name])
            .map_err(StoreError::sqlite("copy the database to", target))?;
        file.sync_all().map_err(StoreError::io("sync", target))
    }
}

fn make_folder(folder: &Path) -> Result<(), StoreError> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => folder.parent().map_or(Ok(()), sync_dir),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(StoreError::io("create", folder)(error)),
    }
}

/// Times of the copies that are there, ascending.
fn copies(folder: &Path) -> Result<Vec<u64>, StoreError> {
    let error = || StoreError::io("read", folder);
    let mut times = Vec::new();
    for item in fs::read_dir(folder).map_err(error())? {
        let name = item.map_err(error())?.file_name();
        let time = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX));
        // Names that were not made here, such as one with leading zeros, are not ours to remove.
        if let Some(text) = time
            && let Ok(time) = text.parse::<u64>()
            && time.to_string() == text
        {
            times.push(time);
        }
    }
    times.sort_unstable();
    Ok(times)
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

const PREFIX: &str = "config-";
const SUFFIX: &str = ".db";
