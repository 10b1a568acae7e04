//! Making, moving and removing entries: each is one operation, replicated at once, since it may
//! decide a race between nodes. All of these wait.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{
    Attr, Fs, FsError, Stale, ino_of,
    names::{Found, check_name, directory, find, path_in},
    perm::file_mode,
};
use crate::memdb::Op;

impl Fs {
    /// Makes a directory.
    ///
    /// # Errors
    /// [`FsError::Exists`], or whatever the change leads to.
    pub fn mkdir(&self, dir: u64, name: &[u8]) -> Result<Attr, FsError> {
        self.make(dir, name, |path| Op::Mkdir { path })
    }

    /// Makes an empty file without opening it.
    ///
    /// # Errors
    /// [`FsError::Exists`], or whatever the change leads to.
    pub fn mknod(&self, dir: u64, name: &[u8]) -> Result<Attr, FsError> {
        self.make(dir, name, |path| Op::Create { path })
    }

    /// Removes a file.
    ///
    /// # Errors
    /// [`FsError::IsDirectory`] for a directory, or whatever the change leads to.
    pub fn unlink(&self, dir: u64, name: &[u8]) -> Result<(), FsError> {
        self.remove(dir, name, false)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// [`FsError::NotDirectory`] for a file, or whatever the change leads to.
    pub fn rmdir(&self, dir: u64, name: &[u8]) -> Result<(), FsError> {
        self.remove(dir, name, true)
    }

    /// Moves a file or an empty directory.
    ///
    /// # Errors
    /// [`FsError::Fixed`] from or onto a computed entry, or whatever the change leads to.
    pub fn rename(
        &self,
        (dir, name): (u64, &[u8]),
        (new_dir, new_name): (u64, &[u8]),
    ) -> Result<(), FsError> {
        check_name(new_name)?;
        let tree = self.snapshot();
        let (dir, new_dir) = (directory(&tree, dir)?, directory(&tree, new_dir)?);
        let entry = match find(&tree, dir, name) {
            None => return Err(FsError::NotFound),
            Some(Found::Virtual(_)) => return Err(FsError::Fixed),
            Some(Found::Entry(entry)) => entry,
        };
        match find(&tree, new_dir, new_name) {
            Some(Found::Virtual(_)) => return Err(FsError::Fixed),
            Some(Found::Entry(target)) if target.is_dir() && !entry.is_dir() => {
                return Err(FsError::IsDirectory);
            }
            Some(Found::Entry(target)) if !target.is_dir() && entry.is_dir() => {
                return Err(FsError::NotDirectory);
            }
            _ => {}
        }
        let _changing = [
            self.changing.enter(ino_of(dir)),
            self.changing.enter(ino_of(new_dir)),
        ];
        let from = path_in(&tree, dir, name)?;
        let to = path_in(&tree, new_dir, new_name)?;
        let mode_changes = entry.is_dir() || file_mode(&from, true) != file_mode(&to, true);
        self.backend.propose(Op::Rename { from, to })?;
        if mode_changes {
            // The kernel moves the name by itself but keeps the mode that the old path had.
            self.notes
                .inode(ino_of(entry.inode), Stale::Attributes, &tree);
        }
        Ok(())
    }

    /// Makes what was published durable on this node.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn sync(&self) -> Result<(), FsError> {
        Ok(self.backend.sync()?)
    }

    fn make(
        &self,
        dir: u64,
        name: &[u8],
        op: impl FnOnce(bytes::Bytes) -> Op,
    ) -> Result<Attr, FsError> {
        check_name(name)?;
        let tree = self.snapshot();
        let parent = directory(&tree, dir)?;
        if find(&tree, parent, name).is_some() {
            return Err(FsError::Exists);
        }
        let _changing = self.changing.enter(dir);
        self.backend.propose(op(path_in(&tree, parent, name)?))?;
        self.lookup(dir, name)?.ok_or(FsError::NotFound)
    }

    fn remove(&self, dir: u64, name: &[u8], is_dir: bool) -> Result<(), FsError> {
        let tree = self.snapshot();
        let dir = directory(&tree, dir)?;
        match find(&tree, dir, name) {
            None => return Err(FsError::NotFound),
            Some(Found::Virtual(_)) if is_dir => return Err(FsError::NotDirectory),
            Some(Found::Virtual(_)) => return Err(FsError::Fixed),
            Some(Found::Entry(entry)) => match (entry.is_dir(), is_dir) {
                (true, false) => return Err(FsError::IsDirectory),
                (false, true) => return Err(FsError::NotDirectory),
                _ => {}
            },
        }
        let _changing = self.changing.enter(ino_of(dir));
        let path = path_in(&tree, dir, name)?;
        self.backend.propose(Op::Delete { path })?;
        Ok(())
    }
}

/// Directories in which changes of this node are under way.
#[derive(Debug, Default)]
pub(super) struct Changing(Mutex<BTreeMap<u64, usize>>);

impl Changing {
    /// Counts a change until the result is dropped.
    pub(super) fn enter(&self, dir: u64) -> ChangingGuard<'_> {
        *self.lock().entry(dir).or_default() += 1;
        ChangingGuard(self, dir)
    }

    pub(super) fn contains(&self, dir: u64) -> bool {
        self.lock().contains_key(&dir)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A change under way.
pub(super) struct ChangingGuard<'a>(&'a Changing, u64);

impl Drop for ChangingGuard<'_> {
    fn drop(&mut self) {
        let mut changing = self.0.lock();
        if let Some(count) = changing.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                changing.remove(&self.1);
            }
        }
    }
}
