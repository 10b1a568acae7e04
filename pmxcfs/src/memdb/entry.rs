//! One node of the tree, file or directory, and its digests.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

/// SHA-256 value.
pub type Digest = [u8; 32];

/// Last component of a path: any bytes but NUL and `/`.
pub type Name = Arc<[u8]>;

/// Number of an entry; also its key in the database. Never reused within one history.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Inode(pub u64);

impl Inode {
    /// The root directory.
    pub const ROOT: Self = Self(0);
}

impl fmt::Debug for Inode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Display for Inode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What an entry holds.
#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    /// A directory; its children are kept by the tree.
    Directory,
    /// A file and its bytes.
    File(Bytes),
    /// A file of that size whose bytes were never allocated.
    ///
    /// Some members of a cluster get into this state when an empty file is grown by truncate:
    /// their digest counts the size but no bytes. Readers see zeros.
    Hollow(u32),
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory => f.write_str("Directory"),
            Self::File(data) => write!(f, "File({} bytes)", data.len()),
            Self::Hollow(size) => write!(f, "Hollow({size})"),
        }
    }
}

/// Type byte of a directory on disk and on the wire.
pub(crate) const KIND_DIRECTORY: u8 = 4;
/// Type byte of a file on disk and on the wire.
pub(crate) const KIND_FILE: u8 = 8;

/// One entry of the tree. Immutable: a change makes a new one.
pub struct TreeEntry {
    /// Own number.
    pub inode: Inode,
    /// Directory that it is in.
    pub parent: Inode,
    /// Version of the tree that the last change of this entry made.
    pub version: u64,
    /// Node that submitted the last change; 0 outside a cluster.
    pub writer: u32,
    /// Time of the last change, seconds since 1970, or what utime set.
    pub mtime: u32,
    /// Last path component.
    pub name: Name,
    /// File bytes, or that it is a directory.
    pub content: Content,
    /// Cached: contents never change once an entry exists.
    digest: OnceLock<Digest>,
}

impl TreeEntry {
    /// An entry from its fields.
    #[must_use]
    pub fn new(
        inode: Inode,
        parent: Inode,
        version: u64,
        writer: u32,
        mtime: u32,
        name: Name,
        content: Content,
    ) -> Self {
        Self {
            inode,
            parent,
            version,
            writer,
            mtime,
            name,
            content,
            digest: OnceLock::new(),
        }
    }

    /// The same entry with another stamp.
    #[must_use]
    pub fn restamped(&self, version: u64, writer: u32, mtime: u32) -> Self {
        Self::new(
            self.inode,
            self.parent,
            version,
            writer,
            mtime,
            Arc::clone(&self.name),
            self.content.clone(),
        )
    }

    /// Whether this is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.content == Content::Directory
    }

    /// Type byte: 4 directory, 8 file.
    #[must_use]
    pub fn kind(&self) -> u8 {
        if self.is_dir() {
            KIND_DIRECTORY
        } else {
            KIND_FILE
        }
    }

    /// Size in bytes; 0 for a directory.
    #[must_use]
    pub fn size(&self) -> u32 {
        match &self.content {
            Content::Directory => 0,
            Content::File(data) => u32::try_from(data.len()).unwrap_or(u32::MAX),
            Content::Hollow(size) => *size,
        }
    }

    /// The bytes that a reader sees: empty for a directory, zeros for a hollow file.
    #[must_use]
    pub fn data(&self) -> Bytes {
        match &self.content {
            Content::Directory => Bytes::new(),
            Content::File(data) => data.clone(),
            Content::Hollow(size) => Bytes::from(vec![0; *size as usize]),
        }
    }

    /// Index digest: what members compare to find the entries that differ.
    #[must_use]
    pub fn digest(&self) -> Digest {
        *self.digest.get_or_init(|| {
            let mut hasher = TreeHasher::default();
            hasher.common(self);
            hasher.finish()
        })
    }

    /// Checksum of a lock entry: the inode number goes in as well.
    #[must_use]
    pub fn lock_checksum(&self) -> Digest {
        let mut hasher = TreeHasher::default();
        hasher.entry(self);
        hasher.finish()
    }
}

impl PartialEq for TreeEntry {
    fn eq(&self, other: &Self) -> bool {
        self.inode == other.inode
            && self.parent == other.parent
            && self.version == other.version
            && self.writer == other.writer
            && self.mtime == other.mtime
            && self.name == other.name
            && self.content == other.content
    }
}

impl Eq for TreeEntry {}

impl fmt::Debug for TreeEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TreeEntry")
            .field("inode", &self.inode)
            .field("parent", &self.parent)
            .field("version", &self.version)
            .field("writer", &self.writer)
            .field("mtime", &self.mtime)
            .field("name", &String::from_utf8_lossy(&self.name))
            .field("content", &self.content)
            .finish()
    }
}

/// Builds the digests of entries and of the whole tree (little endian, see `docs/FORMATS.md`).
#[derive(Default, Debug)]
pub struct TreeHasher(Sha256);

impl TreeHasher {
    /// Adds the fields that every digest of an entry covers.
    pub fn common(&mut self, entry: &TreeEntry) {
        self.0.update(entry.version.to_le_bytes());
        self.0.update(entry.writer.to_le_bytes());
        self.0.update(entry.mtime.to_le_bytes());
        self.0.update(entry.size().to_le_bytes());
        self.0.update([entry.kind()]);
        self.0.update(entry.parent.0.to_le_bytes());
        self.0.update(&entry.name);
        if let Content::File(data) = &entry.content {
            self.0.update(data);
        }
    }

    /// Adds the inode number and the common fields.
    pub fn entry(&mut self, entry: &TreeEntry) {
        self.0.update(entry.inode.0.to_le_bytes());
        self.common(entry);
    }

    /// The digest of all that was added.
    #[must_use]
    pub fn finish(self) -> Digest {
        self.0.finalize().into()
    }
}
