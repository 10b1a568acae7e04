//! Opening, reading and writing files. Nothing here waits.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Attr, ChangeDone, Fs, FsError, Node, Stale, Virtual, ino_of,
    names::{Found, check_name, directory, find, path_in},
    open::{FileHandle, Gone, Handle, State},
};
use crate::{
    dcdb::ProposeError,
    memdb::{Inode, MAX_FILE_SIZE, MAX_TOTAL_BYTES, Op, OpError, TreeEntry},
};

/// How a file is opened.
#[derive(Clone, Copy, Debug)]
pub struct OpenRequest {
    /// Flags of `open(2)`.
    pub flags: i32,
    /// Process that opens; 0 if unknown.
    pub pid: u32,
}

impl OpenRequest {
    fn has(self, flag: i32) -> bool {
        self.flags & flag != 0
    }

    /// Flags that a descriptor keeps and shows.
    fn kept(self) -> i32 {
        self.flags & (libc::O_ACCMODE | libc::O_APPEND)
    }

    fn can_write(self) -> bool {
        self.flags & libc::O_ACCMODE != libc::O_RDONLY
    }
}

/// An opened file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Handle for everything that follows.
    pub handle: u64,
    /// Whether the content must not be cached: it was computed for this handle, or other nodes
    /// change it at the moment.
    pub uncached: bool,
    /// Whether it can be written, so that closing it matters.
    pub can_write: bool,
}

impl Fs {
    /// Opens a file.
    ///
    /// # Errors
    /// [`FsError::Stale`] when it is gone; with `O_TRUNC` also why the tree takes no changes.
    pub fn open(&self, ino: u64, request: OpenRequest) -> Result<Opened, FsError> {
        let inode = match Node::from_ino(ino) {
            Node::Virtual(entry) => return self.open_virtual(entry, request),
            Node::Entry(inode) => inode,
        };
        if request.has(libc::O_TRUNC) {
            self.backend.writable()?;
        }
        let entry = || {
            let tree = self.snapshot();
            let entry = tree.get(inode).ok_or(FsError::Stale)?;
            if entry.is_dir() {
                return Err(FsError::IsDirectory);
            }
            Ok(Arc::clone(entry))
        };
        let handle = self.open.open(entry, request.pid, request.kept())?;
        if request.has(libc::O_TRUNC) {
            self.truncate_handle(&handle, 0);
        }
        Ok(Opened {
            handle: handle.id,
            // What is written here is merged with what the kernel has.
            uncached: !request.can_write() && self.restless.contains(ino, (self.clock)()),
            can_write: request.can_write(),
        })
    }

    /// Makes and opens a file; one that is there by now is opened unless `O_EXCL` forbids it:
    /// [`FsError::Exists`], or whatever the change leads to.
    pub fn create_then(
        self: &Arc<Self>,
        dir: u64,
        name: &[u8],
        request: OpenRequest,
        done: ChangeDone<(Attr, Opened)>,
    ) {
        let path = match self.path_to_create(dir, name, request) {
            Ok(Some(path)) => path,
            Ok(None) => return done(self.open_made(dir, name, request)),
            Err(error) => return done(Err(error)),
        };
        let changing = self.changing.enter(dir);
        let (fs, name) = (Arc::clone(self), name.to_vec());
        let answer = move |result| {
            let opened = match result {
                Ok(_) => fs.open_made(dir, &name, request),
                // Another node was first. A guest id in use is another error.
                Err(ProposeError::Op(OpError::Exists)) if !request.has(libc::O_EXCL) => {
                    fs.open_made(dir, &name, request)
                }
                Err(error) => Err(error.into()),
            };
            drop(changing);
            done(opened);
        };
        self.backend.submit(Op::Create { path }, Box::new(answer));
    }

    /// The path of a file that has to be made first, if that is so.
    fn path_to_create(
        &self,
        dir: u64,
        name: &[u8],
        request: OpenRequest,
    ) -> Result<Option<Bytes>, FsError> {
        check_name(name)?;
        let tree = self.snapshot();
        let parent = directory(&tree, dir)?;
        if find(&tree, parent, name).is_none() {
            return path_in(&tree, parent, name).map(Some);
        }
        if request.has(libc::O_EXCL) {
            return Err(FsError::Exists);
        }
        Ok(None)
    }

    fn open_made(
        &self,
        dir: u64,
        name: &[u8],
        request: OpenRequest,
    ) -> Result<(Attr, Opened), FsError> {
        let tree = self.snapshot();
        let ino = match find(&tree, directory(&tree, dir)?, name) {
            None => return Err(FsError::NotFound),
            Some(Found::Virtual(entry)) => entry.ino(),
            Some(Found::Entry(entry)) => ino_of(entry.inode),
        };
        self.known.add(ino);
        let opened = self.open(ino, request).map_err(|error| match error {
            FsError::Stale => FsError::NotFound,
            error => error,
        });
        let both = opened.and_then(|opened| Ok((self.getattr(ino)?, opened)));
        if both.is_err() {
            self.known.forget(ino, 1);
        }
        both
    }

    /// Reads from an open file; fewer bytes than asked for only at its end.
    ///
    /// # Errors
    /// [`FsError::BadHandle`] when it is not open.
    pub fn read(&self, handle: u64, offset: u64, size: u32) -> Result<Bytes, FsError> {
        let file = match self.open.get(handle)? {
            Handle::Virtual(_, text) => return Ok(slice(&text, offset, size)),
            Handle::Directory(_) => return Err(FsError::IsDirectory),
            Handle::File(file) => file.file,
        };
        let state = file.state();
        if let Some(view) = &state.view {
            let (start, end) = range(view.len(), offset, size);
            return Ok(Bytes::copy_from_slice(&view[start..end]));
        }
        let last = Arc::clone(&state.entry);
        let gone = state.gone.is_some();
        drop(state);
        let entry = match self.snapshot().get(file.inode) {
            Some(entry) if !gone && !entry.is_dir() => Arc::clone(entry),
            _ => last,
        };
        Ok(slice(&entry.data(), offset, size))
    }

    /// Writes to an open file; other nodes get it when the file is closed or synced.
    ///
    /// With `append` the place is the end of the file as this node sees it.
    ///
    /// # Errors
    /// Why the tree takes no changes; [`FsError::TooLarge`], [`FsError::NoSpace`].
    pub fn write(
        &self,
        handle: u64,
        offset: u64,
        data: &[u8],
        append: bool,
        pid: u32,
    ) -> Result<u32, FsError> {
        let file = match self.open.get(handle)? {
            Handle::Virtual(entry, _) => return self.write_virtual(entry, offset, data),
            Handle::Directory(_) => return Err(FsError::BadHandle),
            Handle::File(file) => file,
        };
        let written = u32::try_from(data.len()).map_err(|_| FsError::TooLarge)?;
        if data.is_empty() {
            return Ok(0);
        }
        self.backend.writable()?;
        let tree = self.snapshot();
        let mut state = file.file.state();
        let asked = usize::try_from(offset).unwrap_or(usize::MAX);
        let offset = if append { state.len() } else { asked };
        let end = offset.saturating_add(data.len());
        let fits = fits(&state, tree.total_bytes(), end);
        let base = state.entry.size() as usize;
        if let Err(error) = fits {
            // Without this the part that fitted would be published at close.
            let failed = error.clone();
            let (edits, _) = state.edit(file.id, (self.clock)());
            edits.failed = Some(failed);
            return Err(error);
        }
        let (edits, view) = state.edit(file.id, (self.clock)());
        edits.writer_pid = pid;
        if append {
            edits.pending.append(data);
        } else {
            edits.pending.write(base, offset, data);
        }
        if view.len() < end {
            view.resize(end, 0);
        }
        view[offset..end].copy_from_slice(data);
        drop(state);
        if offset != asked {
            // The kernel keeps the bytes where it thought that the end was.
            let ino = ino_of(file.file.inode);
            self.notes.inode(ino, Stale::Content, &tree);
        }
        Ok(written)
    }

    pub(super) fn truncate_open(&self, handle: u64, size: usize) -> Result<(), FsError> {
        match self.open.get(handle)? {
            Handle::Virtual(Virtual::Debug, _) => Ok(()),
            Handle::Virtual(..) => Err(FsError::Computed),
            Handle::Directory(_) => Err(FsError::BadHandle),
            Handle::File(file) => {
                fits(&file.file.state(), self.snapshot().total_bytes(), size)?;
                self.truncate_handle(&file, size);
                Ok(())
            }
        }
    }

    fn truncate_handle(&self, handle: &FileHandle, size: usize) {
        let mut state = handle.file.state();
        let base = state.entry.size() as usize;
        let (edits, view) = state.edit(handle.id, (self.clock)());
        edits.pending.truncate(base, size);
        edits.failed = None;
        view.resize(size, 0);
    }

    fn open_virtual(&self, entry: Virtual, request: OpenRequest) -> Result<Opened, FsError> {
        if request.has(libc::O_TRUNC) && entry != Virtual::Debug {
            return Err(FsError::Computed);
        }
        let text = entry.text(&*self.status, &self.snapshot());
        Ok(Opened {
            handle: self.open.open_other(Handle::Virtual(entry, text)),
            uncached: true,
            can_write: request.can_write(),
        })
    }

    fn write_virtual(&self, entry: Virtual, offset: u64, data: &[u8]) -> Result<u32, FsError> {
        if data.is_empty() {
            return Ok(0);
        }
        let on = match (entry, offset, data) {
            (Virtual::Debug, 0, [b'0', b'\n', ..]) => false,
            (Virtual::Debug, 0, [b'1', b'\n', ..]) => true,
            _ => return Err(FsError::Computed),
        };
        self.status.set_debug(on);
        Ok(2)
    }

    /// The entry of an open file if it is still in the tree.
    pub(super) fn live_entry(&self, inode: Inode) -> Option<(Bytes, Arc<TreeEntry>)> {
        let tree = self.snapshot();
        let entry = tree.get(inode).filter(|entry| !entry.is_dir())?;
        Some((Bytes::from(tree.path_of(inode)?), Arc::clone(entry)))
    }
}

/// Whether the file may become `len` bytes long.
fn fits(state: &State, total: u64, len: usize) -> Result<(), FsError> {
    if len > MAX_FILE_SIZE as usize {
        return Err(FsError::TooLarge);
    }
    let committed = match state.gone {
        None => u64::from(state.entry.size()),
        Some(Gone::Here | Gone::Elsewhere) => return Ok(()),
    };
    let grows = len as u64 > committed;
    if grows && total - committed.min(total) + len as u64 > MAX_TOTAL_BYTES {
        return Err(FsError::NoSpace);
    }
    Ok(())
}

fn range(len: usize, offset: u64, size: u32) -> (usize, usize) {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(len);
    let end = start.saturating_add(size as usize).min(len);
    (start, end)
}

fn slice(data: &Bytes, offset: u64, size: u32) -> Bytes {
    let (start, end) = range(data.len(), offset, size);
    data.slice(start..end)
}
