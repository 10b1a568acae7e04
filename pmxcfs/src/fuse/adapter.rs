//! Requests of the kernel, translated to calls of [`Fs`], and their replies.

use std::{
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, Version, WriteFlags,
};

use super::{blocking::Blocking, descriptors};
use crate::{
    fs::{Attr, Fs, FsError, Kind, OpenRequest, Opened, SetAttr, TimeChange},
    memdb::MAX_FILE_SIZE,
};

/// How long the kernel keeps what it is told to forget when it changes.
const LASTING: Duration = Duration::from_secs(3600);

/// How long the kernel keeps attributes that an invalidation may have overtaken: those of an inode
/// that it did not know before the answer.
const FRESH: Duration = Duration::from_secs(1);

/// How long it keeps names where it can not be told to forget all of them at once.
const LASTING_WITHOUT_EPOCH: Duration = Duration::from_secs(1);

/// First protocol version whose kernel forgets all names at one word.
const EPOCH_VERSION: Version = Version(7, 44);

/// Capabilities that are used where the kernel has them.
const CAPABILITIES: [InitFlags; 5] = [
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_EXPORT_SUPPORT,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_MAX_PAGES,
];

/// Serves the requests of one mount.
pub(super) struct Adapter {
    fs: Arc<Fs>,
    blocking: Blocking,
    lasting_names: Duration,
    has_epoch: Arc<OnceLock<bool>>,
}

impl Adapter {
    pub(super) fn new(fs: Arc<Fs>, blocking: Blocking) -> Self {
        Self {
            fs,
            blocking,
            lasting_names: LASTING,
            has_epoch: Arc::default(),
        }
    }

    /// Whether the kernel forgets all names at one word; known once mounted.
    pub(super) fn has_epoch(&self) -> Arc<OnceLock<bool>> {
        Arc::clone(&self.has_epoch)
    }

    /// Runs a call that may wait.
    fn waiting(&self, call: impl FnOnce(&Arc<Fs>) + Send + 'static) {
        let fs = Arc::clone(&self.fs);
        self.blocking.run(move || call(&fs));
    }

    /// A call that may wait and makes an entry.
    fn make(
        &self,
        reply: ReplyEntry,
        call: impl FnOnce(&Fs) -> Result<Attr, FsError> + Send + 'static,
    ) {
        let ttl = self.lasting_names;
        self.waiting(move |fs| match call(fs) {
            Ok(attr) => reply_entry(reply, &attr, ttl),
            Err(error) => reply.error(errno(&error)),
        });
    }

    /// A call that may wait and has no result.
    fn change(
        &self,
        reply: ReplyEmpty,
        call: impl FnOnce(&Fs) -> Result<(), FsError> + Send + 'static,
    ) {
        self.waiting(move |fs| reply_empty(reply, call(fs)));
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for capability in CAPABILITIES {
            if let Err(missing) = config.add_capabilities(capability) {
                tracing::debug!(?missing, "the kernel lacks a FUSE capability");
            }
        }
        // A whole file in one request.
        if let Err(nearest) = config.set_max_write(MAX_FILE_SIZE) {
            tracing::debug!(nearest, "writes are cut into smaller requests");
        }
        let has_epoch = config.kernel_abi() >= EPOCH_VERSION;
        if !has_epoch {
            self.lasting_names = LASTING_WITHOUT_EPOCH;
        }
        self.has_epoch.get_or_init(|| has_epoch);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.fs.lookup(parent.0, name.as_bytes()) {
            Ok(Some(attr)) => reply_entry(reply, &attr, self.lasting_names),
            Ok(None) => reply_absent(reply, self.lasting_names),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply_attr(reply, self.fs.getattr(ino.0));
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr {
            mode,
            uid,
            gid,
            size,
            atime: atime.map(time_change),
            mtime: mtime.map(time_change),
        };
        let handle = fh.map(|fh| fh.0);
        if set.mtime.is_none() && (set.size.is_none() || handle.is_some()) {
            return reply_attr(reply, self.fs.setattr(ino.0, handle, &set));
        }
        self.waiting(move |fs| reply_attr(reply, fs.setattr(ino.0, handle, &set)));
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.fs.readlink(ino.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn mknod(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        if mode & libc::S_IFMT != libc::S_IFREG {
            return reply.error(Errno::ENOSYS);
        }
        let name = name.as_bytes().to_vec();
        self.make(reply, move |fs| fs.mknod(parent.0, &name));
    }

    fn mkdir(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let name = name.as_bytes().to_vec();
        self.make(reply, move |fs| fs.mkdir(parent.0, &name));
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.change(reply, move |fs| fs.unlink(parent.0, &name));
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.change(reply, move |fs| fs.rmdir(parent.0, &name));
    }

    fn symlink(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _link_name: &OsStr,
        _target: &Path,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let (name, newname) = (name.as_bytes().to_vec(), newname.as_bytes().to_vec());
        self.change(reply, move |fs| {
            fs.rename((parent.0, &name), (newparent.0, &newname))
        });
    }

    fn link(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _newparent: INodeNo,
        _newname: &OsStr,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EPERM);
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.fs.open(ino.0, open_request(req, flags.0)) {
            Ok(opened) => reply.opened(FileHandle(opened.handle), open_flags(opened)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let request = open_request(req, flags);
        let name = name.as_bytes().to_vec();
        self.waiting(move |fs| match fs.create(parent.0, &name, request) {
            // One lifetime for name and attributes. What the session of the new handle changes,
            // the kernel knows.
            Ok((attr, opened)) => reply.created(
                &FRESH,
                &file_attr(&attr),
                Generation(0),
                FileHandle(opened.handle),
                open_flags(opened),
            ),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.fs.read(fh.0, offset, size) {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn write(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // Pages of a mapping have their place; only write calls append.
        let from_pages = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let append = flags.0 & libc::O_APPEND != 0 && !from_pages;
        match self.fs.write(fh.0, offset, data, append, req.pid()) {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn flush(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let probe = match self.fs.flush_probe(fh.0) {
            Ok(Some(probe)) => probe,
            Ok(None) => return reply.ok(),
            Err(error) => return reply.error(errno(&error)),
        };
        if descriptors::remains(&probe, req.pid()) {
            return reply.ok();
        }
        let call = self.blocking.call();
        let answer = move |result| {
            reply_empty(reply, result);
            drop(call);
        };
        if let Err(answer) = self.fs.flush_then(fh.0, Box::new(answer)) {
            self.waiting(move |fs| answer(fs.flush(fh.0)));
        }
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let release = move |fs: &Fs| {
            fs.release(fh.0);
            Ok(())
        };
        if self.fs.has_edits(fh.0) {
            return self.change(reply, release);
        }
        reply_empty(reply, release(&self.fs));
    }

    fn fsync(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.change(reply, move |fs| fs.fsync(fh.0));
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.fs.opendir(ino.0) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listing = match self.fs.listing(fh.0) {
            Ok(listing) => listing,
            Err(error) => return reply.error(errno(&error)),
        };
        for (line, next) in listing.from(offset).iter().zip(offset + 1..) {
            let name = OsStr::from_bytes(&line.name);
            if reply.add(INodeNo(line.ino), next, file_type(line.kind), name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.fs.releasedir(fh.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.change(reply, Fs::sync);
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let stats = self.fs.statfs();
        reply.statfs(
            stats.blocks,
            stats.free_blocks,
            stats.free_blocks,
            stats.files,
            stats.free_files,
            stats.block_size,
            NAME_MAX_SHOWN,
            stats.block_size,
        );
    }

    // The kernel remembers ENOSYS for these and answers EOPNOTSUPP by itself from then on.

    fn setxattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn getxattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _size: u32,
        reply: ReplyXattr,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _req: &Request, _ino: INodeNo, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn removexattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }
}

/// Longest name as `statfs` has always told it.
const NAME_MAX_SHOWN: u32 = 256;

fn errno(error: &FsError) -> Errno {
    Errno::from_i32(error.errno())
}

fn reply_empty(reply: ReplyEmpty, result: Result<(), FsError>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

fn reply_attr(reply: ReplyAttr, result: Result<Attr, FsError>) {
    match result {
        Ok(attr) => {
            let ttl = if attr.lasting {
                LASTING
            } else {
                Duration::ZERO
            };
            reply.attr(&ttl, &file_attr(&attr));
        }
        Err(error) => reply.error(errno(&error)),
    }
}

/// Attributes that come with a name expire soon: the kernel would keep them even if an
/// invalidation came before it knew the inode.
fn reply_entry(reply: ReplyEntry, attr: &Attr, ttl: Duration) {
    let attr_ttl = if attr.lasting { FRESH } else { Duration::ZERO };
    reply.entry_with_ttls(&attr_ttl, &ttl, &file_attr(attr), Generation(0));
}

/// An answer that the kernel may keep: there is no such name.
fn reply_absent(reply: ReplyEntry, ttl: Duration) {
    let absent = Attr {
        ino: 0,
        kind: Kind::File,
        size: 0,
        mode: 0,
        nlink: 0,
        gid: 0,
        mtime: 0,
        lasting: false,
    };
    reply_entry(reply, &absent, ttl);
}

fn open_request(req: &Request, flags: i32) -> OpenRequest {
    OpenRequest {
        flags,
        pid: req.pid(),
    }
}

fn open_flags(opened: Opened) -> FopenFlags {
    let mut flags = if opened.computed {
        FopenFlags::FOPEN_DIRECT_IO
    } else {
        FopenFlags::FOPEN_KEEP_CACHE
    };
    flags.set(FopenFlags::FOPEN_NOFLUSH, !opened.can_write);
    flags
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::File => FileType::RegularFile,
        Kind::Link => FileType::Symlink,
    }
}

fn file_attr(attr: &Attr) -> FileAttr {
    let time = UNIX_EPOCH + Duration::from_secs(u64::from(attr.mtime));
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: if attr.kind == Kind::File {
            attr.size.div_ceil(512)
        } else {
            0
        },
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(attr.kind),
        perm: attr.mode,
        nlink: attr.nlink,
        uid: 0,
        gid: attr.gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// The seconds of a time, modulo 2^32.
fn time_change(time: TimeOrNow) -> TimeChange {
    let TimeOrNow::SpecificTime(time) = time else {
        return TimeChange::Now;
    };
    let seconds = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs(),
        Err(before) => before.duration().as_secs().wrapping_neg(),
    };
    TimeChange::At(u32::try_from(seconds & u64::from(u32::MAX)).unwrap_or(u32::MAX))
}
