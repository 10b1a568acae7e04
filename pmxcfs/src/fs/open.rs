//! Open files: handles, and what processes of this node see of a file that is being written.
//!
//! | lock | guards | held while |
//! |---|---|---|
//! | `OpenFiles::by_inode` | which files are open | taking a snapshot, never during a change |
//! | [`Publication`] | one publication of a file at a time | a change is ordered: long |
//! | `OpenFile::state` | sessions, view, last published entry | copying bytes only |
//!
//! Order: the publication before `by_inode` before `state`. The observer takes the last two only, so it
//! never waits for a change.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;

use super::{FsError, Virtual, session::Session};
use crate::memdb::{Inode, TreeEntry};

/// How long a reader of [`OpenFile::settled`] waits for an observer that is about to report.
const OBSERVER_GRACE: Duration = Duration::from_secs(5);

/// Who removed an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    /// This node's file system: writes go on and vanish with the last handle.
    Here,
    /// Another node: pending writes are an error.
    Elsewhere,
}

/// Pending edits of one handle.
#[derive(Debug, Default)]
pub(super) struct Edits {
    /// Not submitted yet.
    pub(super) pending: Session,
    /// Submitted, and not yet known to be applied.
    pub(super) publishing: Option<Session>,
    /// Order among the handles of the file.
    pub(super) last_write: u64,
    /// A write that did not fit: the file is not published without it.
    pub(super) failed: Option<FsError>,
    /// Time that was set after the last write, to be kept when the edits are published.
    pub(super) mtime: Option<u32>,
    /// Last process that wrote.
    pub(super) writer_pid: u32,
}

impl Edits {
    fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.publishing.is_none() && self.failed.is_none()
    }
}

/// What is known about an open file.
#[derive(Debug)]
pub(super) struct State {
    /// As last published; stays when the entry is removed.
    pub(super) entry: Arc<TreeEntry>,
    pub(super) gone: Option<Gone>,
    /// Edits by handle, only of handles that have some.
    pub(super) edits: BTreeMap<u64, Edits>,
    /// The file with all edits in place; set exactly while there are edits.
    pub(super) view: Option<Vec<u8>>,
    /// Time of the last write, seconds since 1970.
    pub(super) mtime: u32,
    handles: BTreeMap<u64, i32>,
    writes: u64,
}

impl State {
    /// Length of the file as processes of this node see it.
    pub(super) fn len(&self) -> usize {
        match &self.view {
            Some(view) => view.len(),
            None => self.entry.size() as usize,
        }
    }

    /// Whether there are edits that other nodes do not have.
    pub(super) fn is_dirty(&self) -> bool {
        self.view.is_some()
    }

    /// Edits of a handle and the view, for an edit that happens now.
    pub(super) fn edit(&mut self, handle: u64, now: u32) -> (&mut Edits, &mut Vec<u8>) {
        self.writes += 1;
        self.mtime = now;
        let view = self.view.get_or_insert_with(|| self.entry.data().to_vec());
        let edits = self.edits.entry(handle).or_default();
        edits.last_write = self.writes;
        edits.mtime = None;
        (edits, view)
    }

    /// Keeps a time that is set on a file with edits, which would get another when they are
    /// published; false if it has none. `handle` is the one it was set through, if known.
    pub(super) fn keep_mtime(&mut self, handle: Option<u64>, mtime: u32) -> bool {
        let last = self.edits.iter().max_by_key(|(_, edits)| edits.last_write);
        let last = last.map(|(id, _)| *id);
        let handle = handle.filter(|id| self.edits.contains_key(id)).or(last);
        let Some(edits) = handle.and_then(|id| self.edits.get_mut(&id)) else {
            return false;
        };
        edits.mtime = Some(mtime);
        self.mtime = mtime;
        true
    }

    /// Computes the view anew after the base or the edits changed.
    ///
    /// True if it differs from what it was, so that cached pages are wrong.
    pub(super) fn rebuild(&mut self) -> bool {
        self.edits.retain(|_, edits| !edits.is_idle());
        let base = self.entry.data();
        let before = self.view.take();
        if !self.edits.is_empty() {
            let mut view = base.to_vec();
            let mut in_order: Vec<_> = self.edits.values().collect();
            in_order.sort_by_key(|edits| edits.last_write);
            for edits in in_order {
                if let Some(session) = &edits.publishing {
                    session.apply(&mut view);
                }
                edits.pending.apply(&mut view);
            }
            self.view = Some(view);
        }
        let after = self.view.as_deref().unwrap_or(&base);
        before.is_some_and(|before| before != after)
    }

    /// Handles with the given open flags, that one not counted.
    pub(super) fn others_like(&self, handle: u64, flags: i32) -> usize {
        let others = self.handles.iter();
        others
            .filter(|(id, other)| **id != handle && **other == flags)
            .count()
    }
}

/// A file that some process of this node has open.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) inode: Inode,
    /// Whether a publication is under way.
    publishing: Mutex<bool>,
    published: Condvar,
    state: Mutex<State>,
    observed: Condvar,
}

impl OpenFile {
    fn new(entry: &Arc<TreeEntry>) -> Self {
        Self {
            inode: entry.inode,
            publishing: Mutex::new(false),
            published: Condvar::new(),
            state: Mutex::new(State {
                entry: Arc::clone(entry),
                gone: None,
                edits: BTreeMap::new(),
                view: None,
                mtime: 0,
                handles: BTreeMap::new(),
                writes: 0,
            }),
            observed: Condvar::new(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets threads in [`Self::settled`] look again.
    pub(super) fn observed(&self) {
        self.observed.notify_all();
    }

    /// The state once the observer has reported that the entry is gone, which a reader may see in
    /// the published tree a moment earlier.
    pub(super) fn settled(&self) -> MutexGuard<'_, State> {
        let waited =
            self.observed
                .wait_timeout_while(self.state(), OBSERVER_GRACE, |state: &mut State| {
                    state.gone.is_none()
                });
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Begins a publication, once no other one is under way.
    pub(super) fn begin_publication(self: &Arc<Self>) -> Publication {
        let publishing = self
            .publishing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .published
            .wait_while(publishing, |publishing| *publishing);
        *waited.unwrap_or_else(PoisonError::into_inner) = true;
        Publication(Arc::clone(self))
    }

    /// Begins a publication, if no other one is under way.
    pub(super) fn try_publication(self: &Arc<Self>) -> Option<Publication> {
        let mut publishing = self
            .publishing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *publishing {
            return None;
        }
        *publishing = true;
        Some(Publication(Arc::clone(self)))
    }
}

/// A publication under way. Unlike a lock it may end on another thread than it began on.
#[derive(Debug)]
pub(super) struct Publication(Arc<OpenFile>);

impl Drop for Publication {
    fn drop(&mut self) {
        *self
            .0
            .publishing
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = false;
        self.0.published.notify_one();
    }
}

/// What a handle of the kernel stands for.
#[derive(Clone, Debug)]
pub(super) enum Handle {
    /// A file of the tree.
    File(FileHandle),
    /// A computed file and its text when it was opened.
    Virtual(Virtual, Bytes),
    /// A directory and the names that it had when it was opened.
    Directory(Arc<super::Listing>),
}

/// A file of the tree, opened.
#[derive(Clone, Debug)]
pub(super) struct FileHandle {
    pub(super) id: u64,
    pub(super) file: Arc<OpenFile>,
    /// Process that opened it.
    pub(super) pid: u32,
    /// Open flags that a descriptor shows.
    pub(super) flags: i32,
}

/// All open files and handles.
#[derive(Debug, Default)]
pub(super) struct OpenFiles {
    by_inode: Mutex<BTreeMap<Inode, Arc<OpenFile>>>,
    handles: RwLock<HashMap<u64, Handle>>,
    last_handle: AtomicU64,
}

impl OpenFiles {
    /// Opens a file. `entry` is looked up while no observer can run in between.
    pub(super) fn open(
        &self,
        entry: impl FnOnce() -> Result<Arc<TreeEntry>, FsError>,
        pid: u32,
        flags: i32,
    ) -> Result<FileHandle, FsError> {
        let mut by_inode = self.by_inode();
        let entry = entry()?;
        let file = by_inode
            .entry(entry.inode)
            .or_insert_with(|| Arc::new(OpenFile::new(&entry)));
        let handle = FileHandle {
            id: self.next_handle(),
            file: Arc::clone(file),
            pid,
            flags,
        };
        handle.file.state().handles.insert(handle.id, flags);
        drop(by_inode);
        self.insert(handle.id, Handle::File(handle.clone()));
        Ok(handle)
    }

    /// Opens something that is no file of the tree.
    pub(super) fn open_other(&self, handle: Handle) -> u64 {
        let id = self.next_handle();
        self.insert(id, handle);
        id
    }

    /// The open file of an inode.
    pub(super) fn of(&self, inode: Inode) -> Option<Arc<OpenFile>> {
        self.by_inode().get(&inode).cloned()
    }

    /// All open files.
    pub(super) fn all(&self) -> Vec<Arc<OpenFile>> {
        self.by_inode().values().cloned().collect()
    }

    pub(super) fn get(&self, handle: u64) -> Result<Handle, FsError> {
        let handles = self.handles.read().unwrap_or_else(PoisonError::into_inner);
        handles.get(&handle).cloned().ok_or(FsError::BadHandle)
    }

    pub(super) fn file(&self, handle: u64) -> Result<FileHandle, FsError> {
        match self.get(handle)? {
            Handle::File(file) => Ok(file),
            Handle::Virtual(..) | Handle::Directory(_) => Err(FsError::BadHandle),
        }
    }

    /// Forgets a handle, and its file with the last one.
    pub(super) fn close(&self, handle: u64) {
        let mut handles = self.handles.write().unwrap_or_else(PoisonError::into_inner);
        let closed = handles.remove(&handle);
        drop(handles);
        let Some(Handle::File(closed)) = closed else {
            return;
        };
        let mut by_inode = self.by_inode();
        let mut state = closed.file.state();
        state.handles.remove(&handle);
        if state.edits.remove(&handle).is_some() {
            state.rebuild();
        }
        if state.handles.is_empty() {
            by_inode.remove(&closed.file.inode);
        }
    }

    fn next_handle(&self) -> u64 {
        self.last_handle.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn insert(&self, id: u64, handle: Handle) {
        let mut handles = self.handles.write().unwrap_or_else(PoisonError::into_inner);
        handles.insert(id, handle);
    }

    fn by_inode(&self) -> MutexGuard<'_, BTreeMap<Inode, Arc<OpenFile>>> {
        self.by_inode.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
