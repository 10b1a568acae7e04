//! Attributes: computed for reading, and accepted for setting where they change nothing.

use bytes::Bytes;

use super::{
    Fs, FsError, Node, ROOT_INO, Stale, Virtual, ino_of,
    perm::{dir_mode, file_mode, is_private, link_mode},
};
use crate::memdb::{
    Inode, MAX_ENTRIES, MAX_FILE_SIZE, MAX_TOTAL_BYTES, Op, Tree, TreeEntry, is_lock_path,
};

/// Unit in which space is counted for `statfs`, bytes.
const BLOCK: u64 = 4096;

/// Kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Directory.
    Directory,
    /// Regular file.
    File,
    /// Symbolic link.
    Link,
}

/// Attributes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Number that the kernel knows.
    pub ino: u64,
    /// Kind.
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u16,
    /// Names; 0 once removed, 2 for a directory.
    pub nlink: u32,
    /// Group; the owner is root.
    pub gid: u32,
    /// Seconds since 1970, for all three times.
    pub mtime: u32,
    /// Whether they hold until [`super::Notes`] says otherwise.
    pub lasting: bool,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeChange {
    /// Now.
    Now,
    /// Seconds since 1970, modulo 2^32.
    At(u32),
}

/// Attributes to set; `None` leaves one alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// Permission bits with special bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Access time: not kept, so setting it alone does nothing.
    pub atime: Option<TimeChange>,
    /// Modification time.
    pub mtime: Option<TimeChange>,
}

/// Figures of the whole file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Blocks in all.
    pub blocks: u64,
    /// Free blocks.
    pub free_blocks: u64,
    /// Entries in all.
    pub files: u64,
    /// Free entries.
    pub free_files: u64,
    /// Bytes of a block.
    pub block_size: u32,
}

impl Fs {
    /// Attributes by number.
    ///
    /// # Errors
    /// [`FsError::Stale`] when the entry is gone and not open.
    pub fn getattr(&self, ino: u64) -> Result<Attr, FsError> {
        match Node::from_ino(ino) {
            Node::Virtual(entry) => Ok(self.virtual_attr(entry, &self.snapshot())),
            Node::Entry(Inode::ROOT) => Ok(self.root_attr()),
            Node::Entry(inode) => self.inode_attr(inode),
        }
    }

    /// Target of a link.
    ///
    /// # Errors
    /// [`FsError::Invalid`] when it is none.
    pub fn readlink(&self, ino: u64) -> Result<Bytes, FsError> {
        let Node::Virtual(entry) = Node::from_ino(ino) else {
            return Err(FsError::Invalid);
        };
        let target = entry.link_target(&self.node).ok_or(FsError::Invalid)?;
        Ok(Bytes::from(target))
    }

    /// Sets attributes and returns those that result. Waits if a time or a length is set.
    ///
    /// # Errors
    /// Whatever the change leads to; [`FsError::NotPermitted`] for an owner or a mode that the
    /// path does not give.
    pub fn setattr(&self, ino: u64, handle: Option<u64>, set: &SetAttr) -> Result<Attr, FsError> {
        let now = self.getattr(ino)?;
        self.check_owner(set)?;
        if let Some(mode) = set.mode {
            self.check_mode(ino, &now, mode)?;
        }
        if let Some(size) = set.size {
            self.set_size(ino, handle, size)?;
        } else if let Some(time) = set.mtime {
            let mtime = match time {
                TimeChange::Now => (self.clock)(),
                TimeChange::At(mtime) => mtime,
            };
            let wants_release = set.atime == Some(TimeChange::At(0)) && mtime == 0;
            self.set_mtime(ino, handle, &now, mtime, wants_release)?;
        }
        let mut attr = self.getattr(ino)?;
        // The kernel takes this answer unseen, even when a newer change has overtaken it.
        attr.lasting = false;
        Ok(attr)
    }

    /// Figures of the whole file system.
    #[must_use]
    pub fn statfs(&self) -> Stats {
        let tree = self.snapshot();
        let blocks = MAX_TOTAL_BYTES / BLOCK;
        Stats {
            blocks,
            free_blocks: blocks.saturating_sub(tree.total_bytes().div_ceil(BLOCK)),
            files: MAX_ENTRIES,
            free_files: MAX_ENTRIES.saturating_sub(tree.entry_count()),
            block_size: u32::try_from(BLOCK).unwrap_or(u32::MAX),
        }
    }

    pub(super) fn root_attr(&self) -> Attr {
        Attr {
            ino: ROOT_INO,
            kind: Kind::Directory,
            size: 0,
            mode: dir_mode(b"", true),
            nlink: 2,
            gid: self.gid,
            mtime: 0,
            lasting: true,
        }
    }

    pub(super) fn virtual_attr(&self, entry: Virtual, tree: &Tree) -> Attr {
        let target = entry.link_target(&self.node);
        let (kind, size, mode) = match &target {
            Some(target) => (Kind::Link, target.len(), link_mode(self.is_writable())),
            None => {
                let text = entry.text(&*self.status, tree);
                (Kind::File, text.len(), entry.file_mode())
            }
        };
        Attr {
            ino: entry.ino(),
            kind,
            size: size as u64,
            mode,
            nlink: 1,
            gid: self.gid,
            mtime: 0,
            lasting: false,
        }
    }

    /// Attributes of an entry of `tree`.
    pub(super) fn entry_attr(&self, tree: &Tree, entry: &TreeEntry) -> Attr {
        // Before anything is read: if writability changes after, the note follows this answer.
        let writable = self.is_writable();
        let path = tree.path_of(entry.inode).unwrap_or_default();
        let kind = if entry.is_dir() {
            Kind::Directory
        } else {
            Kind::File
        };
        let mut attr = Attr {
            ino: ino_of(entry.inode),
            kind,
            size: u64::from(entry.size()),
            mode: match kind {
                Kind::Directory => dir_mode(&path, writable),
                Kind::File | Kind::Link => file_mode(&path, writable),
            },
            nlink: if kind == Kind::Directory { 2 } else { 1 },
            gid: self.gid,
            mtime: entry.mtime,
            lasting: true,
        };
        if kind == Kind::File
            && let Some(open) = self.open.of(entry.inode)
        {
            let state = open.state();
            if state.is_dirty() {
                attr.size = state.len() as u64;
                attr.mtime = state.mtime;
                attr.lasting = false;
            }
        }
        attr
    }

    fn inode_attr(&self, inode: Inode) -> Result<Attr, FsError> {
        // The open file first: were it looked at last, its edits could have been published in
        // between and the older entry be taken for lasting.
        let open = self.open.of(inode);
        let dirty = open.as_ref().is_some_and(|open| open.state().is_dirty());
        let tree = self.snapshot();
        if let Some(entry) = tree.get(inode) {
            let mut attr = self.entry_attr(&tree, entry);
            attr.lasting &= !dirty;
            return Ok(attr);
        }
        let state = open.as_ref().ok_or(FsError::Stale)?.state();
        Ok(Attr {
            ino: ino_of(inode),
            kind: Kind::File,
            size: state.len() as u64,
            mode: file_mode(b"", true),
            nlink: 0,
            gid: self.gid,
            mtime: state.entry.mtime,
            lasting: false,
        })
    }

    fn check_owner(&self, set: &SetAttr) -> Result<(), FsError> {
        let uid_ok = set.uid.is_none_or(|uid| uid == 0);
        let gid_ok = set.gid.is_none_or(|gid| gid == self.gid);
        if uid_ok && gid_ok {
            return Ok(());
        }
        Err(FsError::NotPermitted)
    }

    /// Accepts the mode that is shown, the one that would be shown with quorum, and what clients
    /// are used to set on anything.
    fn check_mode(&self, ino: u64, now: &Attr, mode: u32) -> Result<(), FsError> {
        let mode = mode & 0o7777;
        let path = match Node::from_ino(ino) {
            Node::Virtual(_) => Vec::new(),
            Node::Entry(inode) => self.snapshot().path_of(inode).unwrap_or_default(),
        };
        let usual = if is_private(&path) { 0o600 } else { 0o640 };
        let with_quorum = match now.kind {
            Kind::Directory => dir_mode(&path, true),
            Kind::File | Kind::Link => now.mode,
        };
        let accepted = [u32::from(now.mode), u32::from(with_quorum), usual];
        if accepted.contains(&mode) {
            return Ok(());
        }
        Err(FsError::NotPermitted)
    }

    fn set_mtime(
        &self,
        ino: u64,
        handle: Option<u64>,
        now: &Attr,
        mtime: u32,
        wants_release: bool,
    ) -> Result<(), FsError> {
        let Node::Entry(inode) = Node::from_ino(ino) else {
            return Err(FsError::Fixed);
        };
        if inode == Inode::ROOT {
            return Err(FsError::Fixed);
        }
        let open = self.open.of(inode);
        if open.is_some_and(|open| open.state().keep_mtime(handle, mtime)) {
            return Ok(self.backend.writable()?);
        }
        let path = self.snapshot().path_of(inode).map(Bytes::from);
        let Some(path) = path else {
            // Removed and still open: the time goes with the last handle.
            return Ok(());
        };
        let is_lock = now.kind == Kind::Directory && is_lock_path(&path);
        if !is_lock && mtime == now.mtime {
            return Ok(());
        }
        if is_lock && wants_release {
            self.backend.request_unlock(&path)?;
        }
        self.backend.propose(Op::Mtime { path, mtime })?;
        Ok(())
    }

    fn set_size(&self, ino: u64, handle: Option<u64>, size: u64) -> Result<(), FsError> {
        let inode = match Node::from_ino(ino) {
            Node::Virtual(Virtual::Debug) => return Ok(()),
            Node::Virtual(_) => return Err(FsError::Computed),
            Node::Entry(inode) => inode,
        };
        self.backend.writable()?;
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if size > MAX_FILE_SIZE as usize {
            return Err(FsError::TooLarge);
        }
        if let Some(handle) = handle {
            return self.truncate_open(handle, size);
        }
        self.truncate_path(inode, size)
    }

    /// `truncate(2)`: one operation at once. Pending edits of open handles are cut as well.
    fn truncate_path(&self, inode: Inode, size: usize) -> Result<(), FsError> {
        let open = self.open.of(inode);
        let _alone = open.as_ref().map(super::open::OpenFile::begin_publication);
        let tree = self.snapshot();
        let entry = tree.get(inode).ok_or(FsError::Stale)?;
        if entry.is_dir() {
            return Err(FsError::IsDirectory);
        }
        if entry.size() as usize != size {
            let path = tree.path_of(inode).ok_or(FsError::Stale)?;
            self.backend.propose(Op::Write {
                path: Bytes::from(path),
                offset: u32::try_from(size).map_err(|_| FsError::TooLarge)?,
                data: Bytes::new(),
                truncate: true,
            })?;
        }
        if let Some(open) = &open {
            let mut state = open.state();
            let base = state.entry.size() as usize;
            for edits in state.edits.values_mut() {
                edits.pending.truncate(base, size);
            }
            if state.rebuild() {
                self.notes.inode(ino_of(inode), Stale::Content, &tree);
            }
        }
        Ok(())
    }
}
