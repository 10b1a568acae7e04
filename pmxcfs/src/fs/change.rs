//! Making, moving and removing entries: each is one operation, replicated at once, since it may
//! decide a race between nodes. Nobody waits for it: the result goes to who asked for it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use super::{
    Attr, Fs, FsError, Stale, ino_of,
    names::{Found, check_name, directory, find, path_in},
    perm::file_mode,
};
use crate::{
    dcdb::ProposeError,
    memdb::{Op, Tree},
};

/// Takes the result of a change, on whatever thread has it.
pub type ChangeDone<T> = Box<dyn FnOnce(Result<T, FsError>) + Send>;

impl Fs {
    /// Makes a directory: [`FsError::Exists`], or whatever the change leads to.
    pub fn mkdir_then(self: &Arc<Self>, dir: u64, name: &[u8], done: ChangeDone<Attr>) {
        self.make(dir, name, |path| Op::Mkdir { path }, done);
    }

    /// Makes an empty file without opening it: [`FsError::Exists`], or whatever the change leads
    /// to.
    pub fn mknod_then(self: &Arc<Self>, dir: u64, name: &[u8], done: ChangeDone<Attr>) {
        self.make(dir, name, |path| Op::Create { path }, done);
    }

    /// Removes a file: [`FsError::IsDirectory`] for a directory, or whatever the change leads to.
    pub fn unlink_then(self: &Arc<Self>, dir: u64, name: &[u8], done: ChangeDone<()>) {
        self.remove(dir, name, false, done);
    }

    /// Removes an empty directory: [`FsError::NotDirectory`] for a file, or whatever the change
    /// leads to.
    pub fn rmdir_then(self: &Arc<Self>, dir: u64, name: &[u8], done: ChangeDone<()>) {
        self.remove(dir, name, true, done);
    }

    /// Moves a file or an empty directory: [`FsError::Fixed`] from or onto a computed entry, or
    /// whatever the change leads to.
    pub fn rename_then(
        self: &Arc<Self>,
        from: (u64, &[u8]),
        to: (u64, &[u8]),
        done: ChangeDone<()>,
    ) {
        let tree = self.snapshot();
        let Rename {
            op,
            ino,
            dirs,
            mode_changes,
        } = match plan_rename(&tree, from, to) {
            Ok(rename) => rename,
            Err(error) => return done(Err(error)),
        };
        let changing = dirs.map(|dir| self.changing.enter(dir));
        let fs = Arc::clone(self);
        let answer = move |result: Result<u32, ProposeError>| {
            if result.is_ok() && mode_changes {
                // The kernel moves the name by itself but keeps the mode that the old path had.
                fs.notes.inode(ino, Stale::Attributes, &tree);
            }
            drop(changing);
            done(result.map(drop).map_err(FsError::from));
        };
        self.backend.submit(op, Box::new(answer));
    }

    /// Makes what was published durable on this node.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn sync(&self) -> Result<(), FsError> {
        Ok(self.backend.sync()?)
    }

    fn make(
        self: &Arc<Self>,
        dir: u64,
        name: &[u8],
        op: impl FnOnce(Bytes) -> Op,
        done: ChangeDone<Attr>,
    ) {
        let path = match self.free_path(dir, name) {
            Ok(path) => path,
            Err(error) => return done(Err(error)),
        };
        let changing = self.changing.enter(dir);
        let (fs, name) = (Arc::clone(self), name.to_vec());
        let answer = move |result: Result<u32, ProposeError>| {
            let found = result
                .map_err(FsError::from)
                .and_then(|_| fs.lookup(dir, &name));
            drop(changing);
            done(found.and_then(|found| found.ok_or(FsError::NotFound)));
        };
        self.backend.submit(op(path), Box::new(answer));
    }

    /// The path of a name that does not exist yet.
    fn free_path(&self, dir: u64, name: &[u8]) -> Result<Bytes, FsError> {
        check_name(name)?;
        let tree = self.snapshot();
        let parent = directory(&tree, dir)?;
        if find(&tree, parent, name).is_some() {
            return Err(FsError::Exists);
        }
        path_in(&tree, parent, name)
    }

    fn remove(self: &Arc<Self>, dir: u64, name: &[u8], is_dir: bool, done: ChangeDone<()>) {
        let path = match removable_path(&self.snapshot(), dir, name, is_dir) {
            Ok(path) => path,
            Err(error) => return done(Err(error)),
        };
        let changing = self.changing.enter(dir);
        let answer = move |result: Result<u32, ProposeError>| {
            drop(changing);
            done(result.map(drop).map_err(FsError::from));
        };
        self.backend.submit(Op::Delete { path }, Box::new(answer));
    }
}

/// A rename that can be tried.
struct Rename {
    op: Op,
    /// What is moved, by the number of the kernel.
    ino: u64,
    /// From where to where, likewise.
    dirs: [u64; 2],
    /// The path decides about the mode.
    mode_changes: bool,
}

fn plan_rename(
    tree: &Tree,
    (dir, name): (u64, &[u8]),
    (new_dir, new_name): (u64, &[u8]),
) -> Result<Rename, FsError> {
    check_name(new_name)?;
    let (from_dir, to_dir) = (directory(tree, dir)?, directory(tree, new_dir)?);
    let entry = match find(tree, from_dir, name) {
        None => return Err(FsError::NotFound),
        Some(Found::Virtual(_)) => return Err(FsError::Fixed),
        Some(Found::Entry(entry)) => entry,
    };
    match find(tree, to_dir, new_name) {
        Some(Found::Virtual(_)) => return Err(FsError::Fixed),
        Some(Found::Entry(target)) if target.is_dir() && !entry.is_dir() => {
            return Err(FsError::IsDirectory);
        }
        Some(Found::Entry(target)) if !target.is_dir() && entry.is_dir() => {
            return Err(FsError::NotDirectory);
        }
        _ => {}
    }
    let from = path_in(tree, from_dir, name)?;
    let to = path_in(tree, to_dir, new_name)?;
    Ok(Rename {
        ino: ino_of(entry.inode),
        dirs: [dir, new_dir],
        mode_changes: entry.is_dir() || file_mode(&from, true) != file_mode(&to, true),
        op: Op::Rename { from, to },
    })
}

fn removable_path(tree: &Tree, dir: u64, name: &[u8], is_dir: bool) -> Result<Bytes, FsError> {
    let dir = directory(tree, dir)?;
    match find(tree, dir, name) {
        None => return Err(FsError::NotFound),
        Some(Found::Virtual(_)) if is_dir => return Err(FsError::NotDirectory),
        Some(Found::Virtual(_)) => return Err(FsError::Fixed),
        Some(Found::Entry(entry)) => match (entry.is_dir(), is_dir) {
            (true, false) => return Err(FsError::IsDirectory),
            (false, true) => return Err(FsError::NotDirectory),
            _ => {}
        },
    }
    path_in(tree, dir, name)
}

/// Directories in which changes of this node are under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Changing(Arc<Mutex<BTreeMap<u64, usize>>>);

impl Changing {
    /// Counts a change until the result is dropped.
    pub(super) fn enter(&self, dir: u64) -> ChangingGuard {
        *self.lock().entry(dir).or_default() += 1;
        ChangingGuard(self.clone(), dir)
    }

    pub(super) fn contains(&self, dir: u64) -> bool {
        self.lock().contains_key(&dir)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A change under way.
pub(super) struct ChangingGuard(Changing, u64);

impl Drop for ChangingGuard {
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
