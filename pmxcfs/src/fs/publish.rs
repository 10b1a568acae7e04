//! Publishing the edits of a handle as one operation. All of this waits for the order.

use std::{ops::ControlFlow, sync::Arc};

use bytes::Bytes;

use super::{
    Fs, FsError, Stale, ino_of,
    open::{FileHandle, Gone, Handle, Publication, State},
    session::Session,
};
use crate::{
    dcdb::ProposeError,
    memdb::{Content, Op, OpError, TreeEntry},
};

/// How often a file is looked up anew when it was renamed just before its operation.
const RENAME_RETRIES: usize = 3;

/// Takes the result of a flush.
pub type FlushDone = Box<dyn FnOnce(Result<(), FsError>) + Send>;

/// What tells whether a descriptor remains that a closed one was a copy of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlushProbe {
    /// Number of the file.
    pub ino: u64,
    /// Access mode and `O_APPEND`, as the descriptor shows them.
    pub flags: i32,
    /// Process that opened it; 0 if unknown.
    pub opener: u32,
    /// Process that wrote last; 0 if none did.
    pub writer: u32,
    /// Other handles whose descriptors look the same.
    pub others: usize,
    /// Whether publishing now would leave an empty file, so that a closer look pays.
    pub emptied: bool,
}

/// What happens to edits that could not be published.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnFailure {
    /// The caller can try again.
    Keep,
    /// Nobody will ask again.
    Discard,
}

impl Fs {
    /// What to check before [`Self::flush`]; `None` when there is nothing to publish.
    ///
    /// # Errors
    /// [`FsError::BadHandle`] when it is not open.
    pub fn flush_probe(&self, handle: u64) -> Result<Option<FlushProbe>, FsError> {
        let Handle::File(file) = self.open.get(handle)? else {
            return Ok(None);
        };
        let state = file.file.state();
        let Some(edits) = state.edits.get(&handle) else {
            return Ok(None);
        };
        Ok(Some(FlushProbe {
            ino: ino_of(file.file.inode),
            flags: file.flags,
            opener: file.pid,
            writer: edits.writer_pid,
            others: state.others_like(handle, file.flags),
            emptied: edits.pending.is_emptied(),
        }))
    }

    /// Publishes the edits of a handle at `close`; on failure they are dropped.
    ///
    /// # Errors
    /// Whatever the change leads to; [`FsError::Removed`].
    pub fn flush(&self, handle: u64) -> Result<(), FsError> {
        match self.open.get(handle)? {
            Handle::File(file) => self.publish(&file, OnFailure::Discard),
            Handle::Virtual(..) | Handle::Directory(_) => Ok(()),
        }
    }

    /// Publishes the edits of a handle and makes them durable; on failure they are kept, so that
    /// another try does not report success for lost bytes.
    ///
    /// # Errors
    /// Whatever the change leads to; [`FsError::Removed`].
    pub fn fsync(&self, handle: u64) -> Result<(), FsError> {
        match self.open.get(handle)? {
            Handle::File(file) => {
                self.publish(&file, OnFailure::Keep)?;
                self.sync()
            }
            Handle::Virtual(..) | Handle::Directory(_) => Ok(()),
        }
    }

    /// Whether closing a handle for good has something to publish.
    #[must_use]
    pub fn has_edits(&self, handle: u64) -> bool {
        let file = self.open.file(handle);
        file.is_ok_and(|file| file.file.state().edits.contains_key(&handle))
    }

    /// Closes a handle for good, after the last publication of its edits came to that result. No
    /// caller waits for it any more, so a failure goes to
    /// [`StatusSource::report_loss`](super::StatusSource).
    pub fn close(&self, handle: u64, published: Result<(), FsError>) {
        if let (Ok(file), Err(error)) = (self.open.file(handle), published) {
            let path = self.live_entry(file.file.inode).map(|(path, _)| path);
            let path =
                path.unwrap_or_else(|| Bytes::copy_from_slice(&file.file.state().entry.name));
            self.status.report_loss(&format!(
                "writes to '{}' could not be published after its last close; look at it and write \
                 it again: {error}",
                String::from_utf8_lossy(&path)
            ));
        }
        self.open.close(handle);
    }

    /// As [`Self::flush`], but hands the result to `done` instead of waiting for it. Gives `done`
    /// back when another publication of the file is under way, and it would have to wait for that.
    ///
    /// # Errors
    /// `done` itself, not called.
    pub fn flush_then(self: &Arc<Self>, handle: u64, done: FlushDone) -> Result<(), FlushDone> {
        let handle = match self.open.get(handle) {
            Ok(Handle::File(handle)) => handle,
            Ok(Handle::Virtual(..) | Handle::Directory(_)) => {
                done(Ok(()));
                return Ok(());
            }
            Err(error) => {
                done(Err(error));
                return Ok(());
            }
        };
        if !handle.file.state().edits.contains_key(&handle.id) {
            done(Ok(()));
            return Ok(());
        }
        let Some(publication) = handle.file.try_publication() else {
            return Err(done);
        };
        let begun = self.begin(&handle);
        let flush = Flush {
            fs: Arc::clone(self),
            handle,
            publication,
            done,
        };
        match begun {
            Ok(Some((session, mtime))) => flush.submit(session, mtime, None, RENAME_RETRIES),
            Ok(None) => flush.end(Ok(())),
            Err(error) => flush.end(Err(error)),
        }
        Ok(())
    }

    fn publish(&self, handle: &FileHandle, on_failure: OnFailure) -> Result<(), FsError> {
        if !handle.file.state().edits.contains_key(&handle.id) {
            return Ok(());
        }
        let _alone = handle.file.begin_publication();
        let result = self.begin(handle).and_then(|begun| match begun {
            Some((session, mtime)) => self.submit(handle, &session, mtime),
            None => Ok(()),
        });
        self.conclude(handle, result, on_failure)
    }

    fn conclude(
        &self,
        handle: &FileHandle,
        mut result: Result<(), FsError>,
        on_failure: OnFailure,
    ) -> Result<(), FsError> {
        if result.is_err() && handle.file.state().gone == Some(Gone::Here) {
            // Unlinked by another process of this node while the operation was on its way.
            result = Ok(());
        }
        self.finish(handle, result.is_ok() || on_failure == OnFailure::Discard);
        result
    }

    /// Takes the edits that are to be published; `None` if there is nothing left to do.
    fn begin(&self, handle: &FileHandle) -> Result<Option<(Session, Option<u32>)>, FsError> {
        let mut state = handle.file.state();
        let gone = state.gone;
        let Some(edits) = state.edits.get_mut(&handle.id) else {
            return Ok(None);
        };
        if gone == Some(Gone::Here) {
            return Ok(None);
        }
        if let Some(error) = edits.failed.take() {
            // The caller knows by now; what was written with it goes.
            edits.pending = Session::default();
            return Err(error);
        }
        let mtime = edits.mtime;
        let session = std::mem::take(&mut edits.pending);
        edits.publishing = Some(session.clone());
        if gone == Some(Gone::Elsewhere) {
            return Err(FsError::Removed);
        }
        Ok(Some((session, mtime)))
    }

    fn submit(
        &self,
        handle: &FileHandle,
        session: &Session,
        mtime: Option<u32>,
    ) -> Result<(), FsError> {
        let mut last_path = None;
        for _ in 0..RENAME_RETRIES {
            let (path, op) = match self.next_op(handle, session, last_path.as_ref()) {
                ControlFlow::Continue(next) => next,
                ControlFlow::Break(result) => return result,
            };
            let result = op.map_or(Ok(0), |op| self.backend.propose(op));
            let time = |_| match self.time_op(&path, mtime) {
                Some(op) => self.backend.propose(op),
                None => Ok(0),
            };
            match result.and_then(time) {
                Ok(_) => return Ok(()),
                Err(ProposeError::Op(OpError::NotFound)) => last_path = Some(path),
                Err(error) => return Err(error.into()),
            }
        }
        Err(FsError::Removed)
    }

    /// The path and the operation to propose, if there is one, or what to answer. `last_path` is where
    /// the file was not found a moment ago.
    fn next_op(
        &self,
        handle: &FileHandle,
        session: &Session,
        last_path: Option<&Bytes>,
    ) -> ControlFlow<Result<(), FsError>, (Bytes, Option<Op>)> {
        let Some((path, entry)) = self.live_entry(handle.file.inode) else {
            return ControlFlow::Break(match handle.file.settled().gone {
                Some(Gone::Here) => Ok(()),
                Some(Gone::Elsewhere) | None => Err(FsError::Removed),
            });
        };
        if last_path == Some(&path) {
            return ControlFlow::Break(Err(FsError::Removed));
        }
        let op = session.to_op(path.clone(), &entry.data());
        ControlFlow::Continue((path, op))
    }

    /// Sets the time that was set on the file before its edits were published.
    fn time_op(&self, path: &Bytes, mtime: Option<u32>) -> Option<Op> {
        let mtime = mtime?;
        let tree = self.snapshot();
        let differs = tree.find(path).is_some_and(|entry| entry.mtime != mtime);
        differs.then(|| Op::Mtime {
            path: path.clone(),
            mtime,
        })
    }

    /// Ends a publication: its edits are applied or dropped, or pending again.
    fn finish(&self, handle: &FileHandle, done: bool) {
        let tree = self.snapshot();
        let mut state = handle.file.state();
        if done && state.gone == Some(Gone::Here) {
            keep_to_itself(&mut state);
        } else if let Some(edits) = state.edits.get_mut(&handle.id) {
            let published = edits.publishing.take();
            if let Some(mut session) = published.filter(|_| !done) {
                let later = std::mem::take(&mut edits.pending);
                session.extend(tree_len(&tree, handle), later);
                edits.pending = session;
            }
        }
        if state.rebuild() {
            let ino = ino_of(handle.file.inode);
            self.notes.inode(ino, Stale::Content, &tree);
        }
    }
}

/// A flush whose answer is on its way.
struct Flush {
    fs: Arc<Fs>,
    handle: FileHandle,
    publication: Publication,
    done: FlushDone,
}

impl Flush {
    fn submit(self, session: Session, mtime: Option<u32>, last_path: Option<Bytes>, tries: usize) {
        let (path, op) = match self.fs.next_op(&self.handle, &session, last_path.as_ref()) {
            ControlFlow::Continue(next) if tries > 0 => next,
            ControlFlow::Continue(_) => return self.end(Err(FsError::Removed)),
            ControlFlow::Break(result) => return self.end(result),
        };
        let backend = Arc::clone(&self.fs.backend);
        let answer = move |result| match result {
            Ok(_) => self.set_time(&path, mtime),
            Err(ProposeError::Op(OpError::NotFound)) => {
                self.submit(session, mtime, Some(path), tries - 1);
            }
            Err(error) => self.end(Err(error.into())),
        };
        match op {
            Some(op) => backend.submit(op, Box::new(answer)),
            None => answer(Ok(0)),
        }
    }

    fn set_time(self, path: &Bytes, mtime: Option<u32>) {
        let backend = Arc::clone(&self.fs.backend);
        match self.fs.time_op(path, mtime) {
            Some(op) => backend.submit(
                op,
                Box::new(move |result| self.end(result.map(|_| ()).map_err(FsError::from))),
            ),
            None => self.end(Ok(())),
        }
    }

    fn end(self, result: Result<(), FsError>) {
        let result = self.fs.conclude(&self.handle, result, OnFailure::Discard);
        drop(self.publication);
        (self.done)(result);
    }
}

/// A file that was unlinked here takes the edits in, for the handles that remain.
fn keep_to_itself(state: &mut State) {
    let Some(view) = state.view.take() else {
        return;
    };
    state.edits.clear();
    let entry = &state.entry;
    state.entry = Arc::new(TreeEntry::new(
        entry.inode,
        entry.parent,
        entry.version,
        entry.writer,
        entry.mtime,
        Arc::clone(&entry.name),
        Content::File(Bytes::from(view)),
    ));
}

fn tree_len(tree: &crate::memdb::Tree, handle: &FileHandle) -> usize {
    let entry = tree.get(handle.file.inode);
    entry.map_or(0, |entry| entry.size() as usize)
}
