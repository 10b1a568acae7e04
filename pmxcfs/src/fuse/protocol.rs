//! The kernel's protocol: layout of requests and answers, in the byte order of the machine.
//!
//! Only what the file system serves is here; other requests are [`Call::Other`]. What the kernel
//! sends is taken at its word as little as anything else: a request that is cut short is [`Call::Malformed`].

/// Version that is spoken; the kernel's may be newer.
pub(super) const VERSION: (u32, u32) = (7, 40);

/// Capabilities, by their bits in the first message, which has them in two halves.
pub(super) const ASYNC_READ: u64 = 1;
pub(super) const ATOMIC_O_TRUNC: u64 = 1 << 3;
pub(super) const EXPORT_SUPPORT: u64 = 1 << 4;
pub(super) const BIG_WRITES: u64 = 1 << 5;
pub(super) const PARALLEL_DIROPS: u64 = 1 << 18;
pub(super) const MAX_PAGES: u64 = 1 << 22;
pub(super) const CACHE_SYMLINKS: u64 = 1 << 23;
/// There is a second half.
pub(super) const INIT_EXT: u64 = 1 << 30;
/// Shared mappings of files that are not cached.
pub(super) const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;

/// How an opened file is used.
pub(super) const FOPEN_DIRECT_IO: u32 = 1;
pub(super) const FOPEN_KEEP_CACHE: u32 = 1 << 1;
pub(super) const FOPEN_NOFLUSH: u32 = 1 << 5;

/// The bytes of a write come from pages of the kernel's cache.
pub(super) const WRITE_CACHE: u32 = 1;

pub(super) const NOTIFY_INVAL_INODE: i32 = 2;
pub(super) const NOTIFY_INVAL_ENTRY: i32 = 3;
pub(super) const NOTIFY_EPOCH: i32 = 8;

/// Bytes in front of the data of a write request.
pub(super) const WRITE_OVERHEAD: usize = IN_HEADER + 40;

const IN_HEADER: usize = 40;
const OUT_HEADER: usize = 16;
const ENTRY: usize = 40 + ATTR;
const ATTR: usize = 88;
const OPENED: usize = 16;
const DIRENT: usize = 24;

/// A request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    /// Number of the request; 0 if it wants no answer.
    pub(super) unique: u64,
    /// What it is about.
    pub(super) node: u64,
    /// Process that asks; 0 if unknown.
    pub(super) pid: u32,
    pub(super) call: Call<'a>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Call<'a> {
    Lookup { name: &'a [u8] },
    Forget { times: u64 },
    ForgetMany(Forgotten<'a>),
    GetAttr,
    SetAttr(SetAttrIn),
    ReadLink,
    MkNod { mode: u32, name: &'a [u8] },
    MkDir { name: &'a [u8] },
    Unlink { name: &'a [u8] },
    RmDir { name: &'a [u8] },
    Rename(RenameIn<'a>),
    Link,
    Open { flags: i32 },
    Read { handle: u64, offset: u64, size: u32 },
    Write(WriteIn<'a>),
    StatFs,
    Release { handle: u64 },
    FSync { handle: u64 },
    Flush { handle: u64 },
    Init(InitIn),
    OpenDir,
    ReadDir { handle: u64, offset: u64, size: u32 },
    ReleaseDir { handle: u64 },
    FSyncDir,
    Create { flags: i32, name: &'a [u8] },
    Destroy,
    Other,
    Malformed,
}

/// Attributes to set; times in whole seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct SetAttrIn {
    valid: u32,
    handle: u64,
    size: u64,
    atime: u64,
    mtime: u64,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeIn {
    Now,
    /// Seconds since 1970, as two's complement.
    At(u64),
}

impl SetAttrIn {
    fn field<T>(&self, bit: u32, value: T) -> Option<T> {
        (self.valid & (1 << bit) != 0).then_some(value)
    }

    pub(super) fn mode(&self) -> Option<u32> {
        self.field(0, self.mode)
    }

    pub(super) fn uid(&self) -> Option<u32> {
        self.field(1, self.uid)
    }

    pub(super) fn gid(&self) -> Option<u32> {
        self.field(2, self.gid)
    }

    pub(super) fn size(&self) -> Option<u64> {
        self.field(3, self.size)
    }

    pub(super) fn atime(&self) -> Option<TimeIn> {
        let now = self.field(7, TimeIn::Now);
        self.field(4, now.unwrap_or(TimeIn::At(self.atime)))
    }

    pub(super) fn mtime(&self) -> Option<TimeIn> {
        let now = self.field(8, TimeIn::Now);
        self.field(5, now.unwrap_or(TimeIn::At(self.mtime)))
    }

    pub(super) fn handle(&self) -> Option<u64> {
        self.field(6, self.handle)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct RenameIn<'a> {
    pub(super) name: &'a [u8],
    pub(super) new_dir: u64,
    pub(super) new_name: &'a [u8],
    pub(super) flags: u32,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct WriteIn<'a> {
    pub(super) handle: u64,
    pub(super) offset: u64,
    pub(super) write_flags: u32,
    /// Flags of the open file.
    pub(super) flags: i32,
    pub(super) data: &'a [u8],
}

/// Inodes that the kernel has forgotten, each with how many answers had told it of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forgotten<'a>(Fields<'a>);

impl Iterator for Forgotten<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<Self::Item> {
        Some((self.0.u64()?, self.0.u64()?))
    }
}

/// What the kernel can do.
#[derive(Clone, Copy, Debug)]
pub(super) struct InitIn {
    pub(super) version: (u32, u32),
    pub(super) max_readahead: u32,
    pub(super) capabilities: u64,
}

/// What is agreed on.
#[derive(Clone, Copy, Debug)]
pub(super) struct InitOut {
    pub(super) max_readahead: u32,
    pub(super) capabilities: u64,
    pub(super) max_write: u32,
    pub(super) max_pages: u16,
}

/// Attributes of an inode.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AttrOut {
    pub(super) ino: u64,
    pub(super) size: u64,
    pub(super) blocks: u64,
    /// Seconds since 1970, for all three times.
    pub(super) time: u64,
    /// Kind and permission bits.
    pub(super) mode: u32,
    pub(super) nlink: u32,
    pub(super) gid: u32,
}

impl<'a> Request<'a> {
    /// Reads a request; `None` if not even its head is there.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let (_, opcode) = (fields.u32()?, fields.u32()?);
        let (unique, node) = (fields.u64()?, fields.u64()?);
        fields.skip(8)?;
        let pid = fields.u32()?;
        fields.skip(4)?;
        Some(Self {
            unique,
            node,
            pid,
            call: call(opcode, fields).unwrap_or(Call::Malformed),
        })
    }
}

fn call(opcode: u32, mut fields: Fields<'_>) -> Option<Call<'_>> {
    let call = match opcode {
        1 => Call::Lookup {
            name: fields.name()?,
        },
        2 => Call::Forget {
            times: fields.u64()?,
        },
        42 => {
            fields.skip(8)?;
            Call::ForgetMany(Forgotten(fields))
        }
        3 => Call::GetAttr,
        4 => Call::SetAttr(set_attr(&mut fields)?),
        5 => Call::ReadLink,
        8 => {
            let mode = fields.u32()?;
            fields.skip(12)?;
            let name = fields.name()?;
            Call::MkNod { mode, name }
        }
        9 => {
            fields.skip(8)?;
            Call::MkDir {
                name: fields.name()?,
            }
        }
        10 => Call::Unlink {
            name: fields.name()?,
        },
        11 => Call::RmDir {
            name: fields.name()?,
        },
        12 => Call::Rename(rename(&mut fields, false)?),
        13 => Call::Link,
        14 => Call::Open {
            flags: fields.i32()?,
        },
        16 => Call::Write(write(&mut fields)?),
        17 => Call::StatFs,
        26 => Call::Init(init(&mut fields)?),
        27 => Call::OpenDir,
        30 => Call::FSyncDir,
        35 => {
            let flags = fields.i32()?;
            fields.skip(12)?;
            let name = fields.name()?;
            Call::Create { flags, name }
        }
        38 => Call::Destroy,
        45 => Call::Rename(rename(&mut fields, true)?),
        15 | 18 | 20 | 25 | 28 | 29 => on_handle(opcode, &mut fields)?,
        _ => Call::Other,
    };
    Some(call)
}

fn on_handle<'a>(opcode: u32, fields: &mut Fields<'_>) -> Option<Call<'a>> {
    let handle = fields.u64()?;
    Some(match opcode {
        15 | 28 => {
            let (offset, size) = (fields.u64()?, fields.u32()?);
            if opcode == 15 {
                Call::Read {
                    handle,
                    offset,
                    size,
                }
            } else {
                Call::ReadDir {
                    handle,
                    offset,
                    size,
                }
            }
        }
        18 => Call::Release { handle },
        20 => Call::FSync { handle },
        25 => Call::Flush { handle },
        29 => Call::ReleaseDir { handle },
        _ => Call::Other,
    })
}

fn set_attr(fields: &mut Fields<'_>) -> Option<SetAttrIn> {
    let valid = fields.u32()?;
    fields.skip(4)?;
    let (handle, size) = (fields.u64()?, fields.u64()?);
    fields.skip(8)?;
    let (atime, mtime) = (fields.u64()?, fields.u64()?);
    // The third time and the nanoseconds of all.
    fields.skip(8 + 12)?;
    let mode = fields.u32()?;
    fields.skip(4)?;
    let (uid, gid) = (fields.u32()?, fields.u32()?);
    Some(SetAttrIn {
        valid,
        handle,
        size,
        atime,
        mtime,
        mode,
        uid,
        gid,
    })
}

fn rename<'a>(fields: &mut Fields<'a>, has_flags: bool) -> Option<RenameIn<'a>> {
    let new_dir = fields.u64()?;
    let flags = if has_flags { fields.u32()? } else { 0 };
    fields.skip(if has_flags { 4 } else { 0 })?;
    Some(RenameIn {
        name: fields.name()?,
        new_dir,
        new_name: fields.name()?,
        flags,
    })
}

fn write<'a>(fields: &mut Fields<'a>) -> Option<WriteIn<'a>> {
    let (handle, offset) = (fields.u64()?, fields.u64()?);
    let (size, write_flags) = (fields.u32()?, fields.u32()?);
    fields.skip(8)?;
    let flags = fields.i32()?;
    fields.skip(4)?;
    Some(WriteIn {
        handle,
        offset,
        write_flags,
        flags,
        data: fields.take(usize::try_from(size).ok()?)?,
    })
}

fn init(fields: &mut Fields<'_>) -> Option<InitIn> {
    let (version, max_readahead) = ((fields.u32()?, fields.u32()?), fields.u32()?);
    let mut capabilities = u64::from(fields.u32()?);
    if capabilities & INIT_EXT != 0 {
        capabilities |= u64::from(fields.u32()?) << 32;
    }
    Some(InitIn {
        version,
        max_readahead,
        capabilities,
    })
}

/// The rest of a request.
#[derive(Clone, Copy, Debug)]
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn skip(&mut self, len: usize) -> Option<()> {
        self.take(len).map(drop)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_ne_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_ne_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_ne_bytes)
    }

    /// A name up to its NUL.
    fn name(&mut self) -> Option<&'a [u8]> {
        let len = self.0.iter().position(|byte| *byte == 0)?;
        let name = self.take(len)?;
        self.skip(1)?;
        Some(name)
    }
}

/// Bytes of an answer, of a length that is known beforehand.
struct Out<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Out<N> {
    fn new() -> Self {
        Self {
            bytes: [0; N],
            at: 0,
        }
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
        self
    }

    fn u16(self, value: u16) -> Self {
        self.bytes(&value.to_ne_bytes())
    }

    fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_ne_bytes())
    }

    fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_ne_bytes())
    }

    fn attr(self, attr: &AttrOut) -> Self {
        self.u64(attr.ino)
            .u64(attr.size)
            .u64(attr.blocks)
            .u64(attr.time)
            .u64(attr.time)
            .u64(attr.time)
            // Nanoseconds.
            .u32(0)
            .u32(0)
            .u32(0)
            .u32(attr.mode)
            .u32(attr.nlink)
            // The owner is root.
            .u32(0)
            .u32(attr.gid)
            .u32(0)
            .u32(4096)
            .u32(0)
    }

    fn entry(self, ttls: Ttls, attr: &AttrOut) -> Self {
        self.u64(attr.ino)
            .u64(0)
            .u64(ttls.name)
            .u64(ttls.attr)
            .u32(0)
            .u32(0)
            .attr(attr)
    }

    fn opened(self, handle: u64, flags: u32) -> Self {
        self.u64(handle).u32(flags).u32(0)
    }
}

/// How long the kernel keeps an answer, seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ttls {
    pub(super) name: u64,
    pub(super) attr: u64,
}

pub(super) fn out_header(error: i32, unique: u64, payload: usize) -> [u8; OUT_HEADER] {
    let len = u32::try_from(OUT_HEADER + payload).unwrap_or(u32::MAX);
    let out = Out::new().u32(len).bytes(&error.to_ne_bytes());
    out.u64(unique).bytes
}

pub(super) fn init_out(init: &InitOut) -> [u8; 64] {
    Out::new()
        .u32(VERSION.0)
        .u32(VERSION.1)
        .u32(init.max_readahead)
        .u32(half(init.capabilities))
        // Requests in the background, and how many of them are many.
        .u16(16)
        .u16(12)
        .u32(init.max_write)
        // Granularity of times, nanoseconds.
        .u32(1)
        .u16(init.max_pages)
        .u16(0)
        .u32(half(init.capabilities >> 32))
        .bytes
}

/// The lower one.
fn half(capabilities: u64) -> u32 {
    u32::try_from(capabilities & u64::from(u32::MAX)).unwrap_or(u32::MAX)
}

/// An entry; number 0 says that there is none.
pub(super) fn entry_out(ttls: Ttls, attr: &AttrOut) -> [u8; ENTRY] {
    Out::new().entry(ttls, attr).bytes
}

pub(super) fn attr_out(ttl: u64, attr: &AttrOut) -> [u8; 16 + ATTR] {
    Out::new().u64(ttl).u64(0).attr(attr).bytes
}

pub(super) fn open_out(handle: u64, flags: u32) -> [u8; OPENED] {
    Out::new().opened(handle, flags).bytes
}

pub(super) fn create_out(
    ttls: Ttls,
    attr: &AttrOut,
    handle: u64,
    flags: u32,
) -> [u8; ENTRY + OPENED] {
    Out::new().entry(ttls, attr).opened(handle, flags).bytes
}

pub(super) fn write_out(written: u32) -> [u8; 8] {
    Out::new().u32(written).bytes
}

/// Figures of the file system.
#[derive(Clone, Copy, Debug)]
pub(super) struct StatFsOut {
    pub(super) blocks: u64,
    pub(super) free_blocks: u64,
    pub(super) files: u64,
    pub(super) free_files: u64,
    pub(super) block_size: u32,
    pub(super) name_max: u32,
}

pub(super) fn statfs_out(stats: &StatFsOut) -> [u8; 80] {
    Out::new()
        .u64(stats.blocks)
        .u64(stats.free_blocks)
        .u64(stats.free_blocks)
        .u64(stats.files)
        .u64(stats.free_files)
        .u32(stats.block_size)
        .u32(stats.name_max)
        .u32(stats.block_size)
        .bytes
}

/// Lines of a listing, as many as fit.
#[derive(Debug)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    max: usize,
}

impl Lines {
    pub(super) fn new(max: u32) -> Self {
        Self {
            bytes: Vec::new(),
            max: usize::try_from(max).unwrap_or(usize::MAX),
        }
    }

    /// Adds a line whose successor is at `next`; false if it does not fit. `kind` is the type in
    /// the upper bits of a mode.
    pub(super) fn add(&mut self, ino: u64, next: u64, kind: u32, name: &[u8]) -> bool {
        let len = (DIRENT + name.len()).next_multiple_of(8);
        if self.bytes.len() + len > self.max {
            return false;
        }
        let name_len = u32::try_from(name.len()).unwrap_or(u32::MAX);
        let head: Out<DIRENT> = Out::new().u64(ino).u64(next).u32(name_len).u32(kind >> 12);
        let end = self.bytes.len() + len;
        self.bytes.extend_from_slice(&head.bytes);
        self.bytes.extend_from_slice(name);
        self.bytes.resize(end, 0);
        true
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(IN_HEADER + body.len()).unwrap();
        let head: Out<IN_HEADER> = Out::new().u32(len).u32(opcode).u64(7).u64(3).u64(0).u32(42);
        [&head.bytes[..], body].concat()
    }

    #[test]
    fn the_parts_of_requests_are_found() {
        let bytes = request(45, b"\x09\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0from\0to\0");
        let decoded = Request::decode(&bytes).unwrap();
        assert_eq!((decoded.unique, decoded.node, decoded.pid), (7, 3, 42));
        let Call::Rename(rename) = decoded.call else {
            panic!("{decoded:?}");
        };
        assert_eq!((rename.name, rename.new_name), (&b"from"[..], &b"to"[..]));
        assert_eq!((rename.new_dir, rename.flags), (9, 2));

        let body: Out<43> = Out::new().u64(5).u64(6).u32(3).u32(1).u64(0).u32(1024);
        let mut body = body.bytes;
        body[40..].copy_from_slice(b"abc");
        let bytes = request(16, &body);
        let Some(Call::Write(write)) = Request::decode(&bytes).map(|request| request.call) else {
            panic!("no write");
        };
        assert_eq!(
            (write.handle, write.offset, write.data),
            (5, 6, &b"abc"[..])
        );
        assert_eq!((write.write_flags, write.flags), (1, 1024));
        assert_eq!(bytes.len(), WRITE_OVERHEAD + 3);
    }

    #[test]
    fn set_attributes_are_those_that_are_valid() {
        let body: Out<88> = Out::new()
            .u32(1 << 3 | 1 << 5 | 1 << 6 | 1 << 4 | 1 << 7)
            .u32(0)
            .u64(8)
            .u64(100)
            .u64(0)
            .u64(11)
            .u64(12);
        let bytes = request(4, &body.bytes);
        let Some(Call::SetAttr(set)) = Request::decode(&bytes).map(|request| request.call) else {
            panic!("no attributes");
        };
        assert_eq!((set.mode(), set.uid(), set.gid()), (None, None, None));
        assert_eq!((set.handle(), set.size()), (Some(8), Some(100)));
        assert_eq!(set.atime(), Some(TimeIn::Now));
        assert_eq!(set.mtime(), Some(TimeIn::At(12)));
    }

    #[test]
    fn a_listing_stops_before_it_is_too_long() {
        let mut lines = Lines::new(64);
        assert!(lines.add(1, 1, libc::S_IFDIR, b"."));
        assert!(lines.add(2, 2, libc::S_IFREG, b"12345678"));
        assert!(!lines.add(3, 3, libc::S_IFREG, b""));
        assert_eq!(lines.bytes().len(), 64);
        assert_eq!(lines.bytes()[20], 4);
        assert_eq!(&lines.bytes()[56..], b"12345678");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(opcode in 0u32..50, body in proptest::collection::vec(any::<u8>(), 0..100)) {
            let bytes = request(opcode, &body);
            drop(format!("{:?}", Request::decode(&bytes)));
            drop(format!("{:?}", Request::decode(&bytes[..bytes.len().min(30)])));
        }
    }
}
