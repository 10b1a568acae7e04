//! Requests of the kernel, translated to calls of [`Fs`], and their answers.

use std::sync::Arc;

use super::{
    blocking::Blocking,
    descriptors,
    device::Device,
    protocol::{
        self, AttrOut, Call, InitIn, InitOut, Lines, RenameIn, Request, SetAttrIn, StatFsOut,
        TimeIn, Ttls, WriteIn,
    },
    reply::Reply,
};
use crate::{
    fs::{Attr, Fs, FsError, Kind, OpenRequest, Opened, SetAttr, TimeChange},
    memdb::MAX_FILE_SIZE,
};

/// How long the kernel keeps what it is told to forget when it changes, seconds.
const LASTING: u64 = 3600;

/// How long the kernel keeps attributes that an invalidation may have overtaken: those of an inode
/// that it did not know before the answer. Seconds.
const FRESH: u64 = 1;

/// How long it keeps names where it can not be told to forget all of them at once, seconds.
const LASTING_WITHOUT_EPOCH: u64 = 1;

/// First protocol version whose kernel forgets all names at one word.
const EPOCH_VERSION: (u32, u32) = (7, 44);

/// Oldest version that lays messages out as we do.
const OLDEST_VERSION: (u32, u32) = (7, 23);

/// Capabilities that are used where the kernel has them.
const CAPABILITIES: u64 = protocol::ASYNC_READ
    | protocol::ATOMIC_O_TRUNC
    | protocol::EXPORT_SUPPORT
    | protocol::BIG_WRITES
    | protocol::PARALLEL_DIROPS
    | protocol::MAX_PAGES
    | protocol::CACHE_SYMLINKS
    | protocol::INIT_EXT
    | protocol::DIRECT_IO_ALLOW_MMAP;

/// Pages of 4 KiB in the largest request: a whole file.
const PAGES_MAX: u16 = 256;

/// Longest name as `statfs` has always told it.
const NAME_MAX_SHOWN: u32 = 256;

/// Serves the requests of one mount.
#[derive(Debug)]
pub(super) struct Adapter {
    fs: Arc<Fs>,
    blocking: Blocking,
    device: Arc<Device>,
    lasting_names: u64,
}

impl Adapter {
    /// Agrees with the kernel on how to talk. `init` is its first request.
    pub(super) fn new(
        fs: Arc<Fs>,
        blocking: Blocking,
        device: Arc<Device>,
        (unique, init): (u64, InitIn),
    ) -> Result<Self, UnknownVersion> {
        let reply = Reply::new(&device, unique);
        if init.version.0 != protocol::VERSION.0 || init.version < OLDEST_VERSION {
            reply.error(libc::EPROTO);
            return Err(UnknownVersion(init.version));
        }
        let missing = CAPABILITIES & !init.capabilities;
        if missing != 0 {
            tracing::debug!("the kernel lacks the FUSE capabilities {missing:#x}");
        }
        reply.init(&InitOut {
            max_readahead: init.max_readahead,
            capabilities: CAPABILITIES & init.capabilities,
            max_write: MAX_FILE_SIZE,
            max_pages: PAGES_MAX,
        });
        let lasting_names = if has_epoch(&init) {
            LASTING
        } else {
            LASTING_WITHOUT_EPOCH
        };
        Ok(Self {
            fs,
            blocking,
            device,
            lasting_names,
        })
    }

    /// Stores and answers the changes that were left for that.
    pub(super) fn settle(&self) {
        self.fs.settle();
    }

    /// Whether callers wait for something that other threads bring.
    pub(super) fn is_waited_for(&self) -> bool {
        self.blocking.has_calls()
    }

    /// Does what a request asks for. Answers, or sees to it that somebody will, and does not wait
    /// for other nodes.
    pub(super) fn handle(&self, request: &Request<'_>) {
        let Request {
            unique, node, pid, ..
        } = *request;
        match request.call {
            // These want no answer.
            Call::Forget { times } => return self.fs.forget(node, times),
            Call::ForgetMany(all) => {
                return all.for_each(|(ino, times)| self.fs.forget(ino, times));
            }
            _ => {}
        }
        let reply = Reply::new(&self.device, unique);
        match request.call {
            Call::Lookup { name } => self.lookup(node, name, reply),
            Call::GetAttr => reply_attr(reply, self.fs.getattr(node)),
            Call::SetAttr(set) => self.set_attr(node, &set, reply),
            Call::ReadLink => reply_data(reply, self.fs.readlink(node)),
            Call::MkNod { mode, name } => self.mknod(node, mode, name, reply),
            Call::MkDir { name } => self.fs.mkdir_then(node, name, self.made(reply)),
            Call::Unlink { name } => self.fs.unlink_then(node, name, self.changed(reply)),
            Call::RmDir { name } => self.fs.rmdir_then(node, name, self.changed(reply)),
            Call::Rename(rename) => self.rename(node, &rename, reply),
            Call::Link => reply.error(libc::EPERM),
            Call::Open { flags } => self.open(node, OpenRequest { flags, pid }, reply),
            Call::Create { flags, name } => {
                self.create(node, name, OpenRequest { flags, pid }, reply);
            }
            Call::Read {
                handle,
                offset,
                size,
            } => reply_data(reply, self.fs.read(handle, offset, size)),
            Call::Write(write) => self.write(&write, pid, reply),
            Call::StatFs => self.statfs(reply),
            Call::Flush { handle } => self.flush(handle, pid, reply),
            Call::Release { handle } => self.release(handle, reply),
            Call::FSync { handle } => self.waiting(reply, move |fs| fs.fsync(handle)),
            Call::FSyncDir => self.waiting(reply, |fs| fs.sync()),
            Call::OpenDir => match self.fs.opendir(node) {
                Ok(handle) => reply.opened(handle, 0),
                Err(error) => reply.error(error.errno()),
            },
            Call::ReadDir {
                handle,
                offset,
                size,
            } => self.read_dir(handle, offset, size, reply),
            Call::ReleaseDir { handle } => {
                self.fs.close(handle, Ok(()));
                reply.ok();
            }
            Call::Destroy => reply.ok(),
            Call::Malformed => {
                tracing::error!("the kernel sent a request that makes no sense");
                reply.error(libc::EIO);
            }
            // The kernel remembers this answer to some, those about extended attributes among
            // them, and does not ask again.
            Call::Init(_) | Call::Forget { .. } | Call::ForgetMany(_) | Call::Other => {
                reply.error(libc::ENOSYS)
            }
        }
    }

    /// Runs a call that may wait, on a thread of its own.
    fn waiting(
        &self,
        reply: Reply,
        call: impl FnOnce(&Arc<Fs>) -> Result<(), FsError> + Send + 'static,
    ) {
        let fs = Arc::clone(&self.fs);
        self.blocking.run(move || reply_empty(reply, call(&fs)));
    }

    /// Answers once an entry is made.
    fn made(&self, reply: Reply) -> Box<dyn FnOnce(Result<Attr, FsError>) + Send> {
        let (ttl, under_way) = (self.lasting_names, self.blocking.call());
        Box::new(move |result| {
            match result {
                Ok(attr) => reply_entry(reply, &attr, ttl),
                Err(error) => reply.error(error.errno()),
            }
            drop(under_way);
        })
    }

    /// Answers once a change is made.
    fn changed(&self, reply: Reply) -> Box<dyn FnOnce(Result<(), FsError>) + Send> {
        let under_way = self.blocking.call();
        Box::new(move |result| {
            reply_empty(reply, result);
            drop(under_way);
        })
    }

    fn lookup(&self, dir: u64, name: &[u8], reply: Reply) {
        match self.fs.lookup(dir, name) {
            Ok(Some(attr)) => reply_entry(reply, &attr, self.lasting_names),
            // An answer that the kernel may keep: there is no such name.
            Ok(None) => {
                let ttls = Ttls {
                    name: self.lasting_names,
                    attr: 0,
                };
                reply.entry(ttls, &AttrOut::default());
            }
            Err(error) => reply.error(error.errno()),
        }
    }

    fn set_attr(&self, ino: u64, set: &SetAttrIn, reply: Reply) {
        let handle = set.handle();
        let set = SetAttr {
            mode: set.mode(),
            uid: set.uid(),
            gid: set.gid(),
            size: set.size(),
            atime: set.atime().map(time_change),
            mtime: set.mtime().map(time_change),
        };
        if set.mtime.is_none() && (set.size.is_none() || handle.is_some()) {
            return reply_attr(reply, self.fs.setattr(ino, handle, &set));
        }
        let fs = Arc::clone(&self.fs);
        self.blocking
            .run(move || reply_attr(reply, fs.setattr(ino, handle, &set)));
    }

    fn mknod(&self, dir: u64, mode: u32, name: &[u8], reply: Reply) {
        if mode & libc::S_IFMT != libc::S_IFREG {
            return reply.error(libc::ENOSYS);
        }
        self.fs.mknod_then(dir, name, self.made(reply));
    }

    fn rename(&self, dir: u64, rename: &RenameIn<'_>, reply: Reply) {
        if rename.flags != 0 {
            return reply.error(libc::EINVAL);
        }
        let (from, to) = ((dir, rename.name), (rename.new_dir, rename.new_name));
        self.fs.rename_then(from, to, self.changed(reply));
    }

    fn open(&self, ino: u64, request: OpenRequest, reply: Reply) {
        match self.fs.open(ino, request) {
            Ok(opened) => reply.opened(opened.handle, open_flags(opened)),
            Err(error) => reply.error(error.errno()),
        }
    }

    fn create(&self, dir: u64, name: &[u8], request: OpenRequest, reply: Reply) {
        let (name_ttl, under_way) = (self.lasting_names, self.blocking.call());
        let answer = move |result: Result<(Attr, Opened), FsError>| {
            match result {
                // What the session of the new handle changes, the kernel knows.
                Ok((attr, opened)) => reply.created(
                    Ttls {
                        name: name_ttl,
                        attr: FRESH,
                    },
                    &attr_of(&attr),
                    opened.handle,
                    open_flags(opened),
                ),
                Err(error) => reply.error(error.errno()),
            }
            drop(under_way);
        };
        self.fs.create_then(dir, name, request, Box::new(answer));
    }

    fn write(&self, write: &WriteIn<'_>, pid: u32, reply: Reply) {
        // Pages of a mapping have their place; only write calls append.
        let from_pages = write.write_flags & protocol::WRITE_CACHE != 0;
        let append = write.flags & libc::O_APPEND != 0 && !from_pages;
        let WriteIn {
            handle,
            offset,
            data,
            ..
        } = *write;
        match self.fs.write(handle, offset, data, append, pid) {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(error.errno()),
        }
    }

    fn flush(&self, handle: u64, pid: u32, reply: Reply) {
        let probe = match self.fs.flush_probe(handle) {
            Ok(Some(probe)) => probe,
            Ok(None) => return reply.ok(),
            Err(error) => return reply.error(error.errno()),
        };
        if descriptors::remains(&probe, pid) {
            return reply.ok();
        }
        let answer = self.changed(reply);
        if let Err(answer) = self.fs.flush_then(handle, answer) {
            let fs = Arc::clone(&self.fs);
            self.blocking.run(move || answer(fs.flush(handle)));
        }
    }

    fn release(&self, handle: u64, reply: Reply) {
        if !self.fs.has_edits(handle) {
            self.fs.close(handle, Ok(()));
            return reply.ok();
        }
        let (fs, answer) = (Arc::clone(&self.fs), self.changed(reply));
        let close = move |published| {
            fs.close(handle, published);
            answer(Ok(()));
        };
        if let Err(close) = self.fs.flush_then(handle, Box::new(close)) {
            let fs = Arc::clone(&self.fs);
            self.blocking.run(move || close(fs.flush(handle)));
        }
    }

    fn read_dir(&self, handle: u64, offset: u64, size: u32, reply: Reply) {
        let listing = match self.fs.listing(handle) {
            Ok(listing) => listing,
            Err(error) => return reply.error(error.errno()),
        };
        let mut lines = Lines::new(size);
        for (line, next) in listing.from(offset).iter().zip(offset + 1..) {
            if !lines.add(line.ino, next, file_type(line.kind), &line.name) {
                break;
            }
        }
        reply.lines(&lines);
    }

    fn statfs(&self, reply: Reply) {
        let stats = self.fs.statfs();
        reply.statfs(&StatFsOut {
            blocks: stats.blocks,
            free_blocks: stats.free_blocks,
            files: stats.files,
            free_files: stats.free_files,
            block_size: stats.block_size,
            name_max: NAME_MAX_SHOWN,
        });
    }
}

/// The kernel speaks a version of the protocol that we do not.
#[derive(Debug, thiserror::Error)]
#[error("the kernel speaks FUSE {}.{}, this needs 7.23 or later", .0.0, .0.1)]
pub(super) struct UnknownVersion((u32, u32));

/// Whether the kernel forgets all names at one word.
pub(super) fn has_epoch(init: &InitIn) -> bool {
    init.version >= EPOCH_VERSION
}

fn reply_empty(reply: Reply, result: Result<(), FsError>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error.errno()),
    }
}

fn reply_data(reply: Reply, result: Result<bytes::Bytes, FsError>) {
    match result {
        Ok(data) => reply.data(&data),
        Err(error) => reply.error(error.errno()),
    }
}

fn reply_attr(reply: Reply, result: Result<Attr, FsError>) {
    match result {
        Ok(attr) => reply.attr(if attr.lasting { LASTING } else { 0 }, &attr_of(&attr)),
        Err(error) => reply.error(error.errno()),
    }
}

/// Attributes that come with a name expire soon: the kernel would keep them even if an
/// invalidation came before it knew the inode.
fn reply_entry(reply: Reply, attr: &Attr, name: u64) {
    let ttls = Ttls {
        name,
        attr: if attr.lasting { FRESH } else { 0 },
    };
    reply.entry(ttls, &attr_of(attr));
}

fn open_flags(opened: Opened) -> u32 {
    let mut cache = protocol::FOPEN_KEEP_CACHE;
    if opened.uncached {
        cache |= protocol::FOPEN_DIRECT_IO;
    }
    if opened.can_write {
        cache
    } else {
        cache | protocol::FOPEN_NOFLUSH
    }
}

fn file_type(kind: Kind) -> u32 {
    match kind {
        Kind::Directory => libc::S_IFDIR,
        Kind::File => libc::S_IFREG,
        Kind::Link => libc::S_IFLNK,
    }
}

fn attr_of(attr: &Attr) -> AttrOut {
    AttrOut {
        ino: attr.ino,
        size: attr.size,
        blocks: if attr.kind == Kind::File {
            attr.size.div_ceil(512)
        } else {
            0
        },
        time: u64::from(attr.mtime),
        mode: file_type(attr.kind) | u32::from(attr.mode),
        nlink: attr.nlink,
        gid: attr.gid,
    }
}

/// The seconds of a time, modulo 2^32.
fn time_change(time: TimeIn) -> TimeChange {
    match time {
        TimeIn::Now => TimeChange::Now,
        TimeIn::At(seconds) => {
            TimeChange::At(u32::try_from(seconds & u64::from(u32::MAX)).unwrap_or(u32::MAX))
        }
    }
}
