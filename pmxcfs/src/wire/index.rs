//! State blob of the configuration group and the entries that repair a member.
//!
//! The blob lists every entry of the tree with its digest. Members compare blobs byte for byte, so
//! the encoding of a tree is unique.

use bytes::{BufMut, Bytes, BytesMut};

use super::{DecodeError, Reader, length_field, size_of_field, terminated};

/// Index of a whole tree: what a member sends as its state.
///
/// Invariant of decoded values: inodes ascend strictly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemdbIndex {
    /// Version of the root.
    pub version: u64,
    /// Highest inode in the tree.
    pub last_inode: u64,
    /// Node that made the last change; 0 if it was made without a cluster.
    pub writer: u32,
    /// Time of the last change.
    pub mtime: u32,
    /// All entries, the root among them, by ascending inode.
    pub entries: Vec<IndexEntry>,
}

/// One tree entry in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// Its inode; 0 is the root.
    pub inode: u64,
    /// SHA-256 over its fields and data.
    pub digest: [u8; 32],
}

const INDEX_HEADER_LEN: usize = 32;
const INDEX_ENTRY_LEN: usize = 40;

impl MemdbIndex {
    /// Reads and checks a blob.
    ///
    /// # Errors
    ///
    /// If the lengths do not agree or the inodes do not ascend. A member that meets such a blob
    /// leaves.
    pub fn decode(blob: Bytes) -> Result<Self, DecodeError> {
        let have = blob.len();
        let mut reader = Reader::new(blob);
        let version = reader.u64()?;
        let last_inode = reader.u64()?;
        let writer = reader.u32()?;
        let mtime = reader.u32()?;
        let count = reader.u32()?;
        let total = reader.u32()?;
        let expected = u64::from(count) * 40 + 32;
        if u64::from(total) != expected || size_of_field(total) != have {
            return Err(DecodeError::Malformed("lengths of an index do not agree"));
        }
        // The count is backed by bytes now, so it is safe to allocate for it.
        let mut entries: Vec<IndexEntry> = Vec::with_capacity(size_of_field(count));
        while reader.remaining() > 0 {
            let entry = IndexEntry {
                inode: reader.u64()?,
                digest: reader.array()?,
            };
            if entries.last().is_some_and(|last| last.inode >= entry.inode) {
                return Err(DecodeError::Malformed("inodes of an index do not ascend"));
            }
            entries.push(entry);
        }
        Ok(Self {
            version,
            last_inode,
            writer,
            mtime,
            entries,
        })
    }

    /// The blob.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let total = INDEX_HEADER_LEN + INDEX_ENTRY_LEN * self.entries.len();
        let mut out = BytesMut::with_capacity(total);
        out.put_u64_le(self.version);
        out.put_u64_le(self.last_inode);
        out.put_u32_le(self.writer);
        out.put_u32_le(self.mtime);
        out.put_u32_le(length_field(self.entries.len()));
        out.put_u32_le(length_field(total));
        for entry in &self.entries {
            out.put_u64_le(entry.inode);
            out.put_slice(&entry.digest);
        }
        out.freeze()
    }
}

/// Kind of a tree entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// Directory, 4 on the wire and in the database.
    Directory,
    /// File, 8 on the wire and in the database.
    File,
}

impl EntryKind {
    /// The number used on the wire and in the database.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Directory => 4,
            Self::File => 8,
        }
    }

    /// The kind of a number; none for all but 4 and 8.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            4 => Some(Self::Directory),
            8 => Some(Self::File),
            _ => None,
        }
    }
}

/// One entry of the leader's tree, sent to members that lack it.
///
/// The root goes as inode 0 of parent 0, a directory with an empty name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateEntry {
    /// Inode of the directory that holds it.
    pub parent: u64,
    /// Its inode.
    pub inode: u64,
    /// Version of the tree when it was last changed.
    pub version: u64,
    /// Node that changed it.
    pub writer: u32,
    /// Time of that change.
    pub mtime: u32,
    /// Directory or file.
    pub kind: EntryKind,
    /// Name in its directory.
    pub name: Bytes,
    /// Content; empty for directories.
    pub data: Bytes,
}

const UPDATE_FIXED_LEN: usize = 41;

impl UpdateEntry {
    /// Reads an update.
    ///
    /// # Errors
    ///
    /// If lengths, kind or terminator are wrong. A member that waits for updates then leaves.
    pub fn decode(payload: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let parent = reader.u64()?;
        let inode = reader.u64()?;
        let version = reader.u64()?;
        let writer = reader.u32()?;
        let mtime = reader.u32()?;
        let size = reader.u32()?;
        let name_len = reader.u32()?;
        let Some(kind) = EntryKind::from_code(reader.u8()?) else {
            return Err(DecodeError::Malformed(
                "kind of an update is neither directory nor file",
            ));
        };
        if u64::try_from(reader.remaining()) != Ok(u64::from(size) + u64::from(name_len)) {
            return Err(DecodeError::Malformed("lengths of an update do not add up"));
        }
        if kind == EntryKind::Directory && size != 0 {
            return Err(DecodeError::Malformed("update of a directory with data"));
        }
        let name = reader.take(size_of_field(name_len))?;
        let name = terminated(&name, "name of an update is not terminated")?;
        let data = reader.rest();
        Ok(Self {
            parent,
            inode,
            version,
            writer,
            mtime,
            kind,
            name,
            data,
        })
    }

    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let len = UPDATE_FIXED_LEN + self.name.len() + 1 + self.data.len();
        let mut out = BytesMut::with_capacity(len);
        out.put_u64_le(self.parent);
        out.put_u64_le(self.inode);
        out.put_u64_le(self.version);
        out.put_u32_le(self.writer);
        out.put_u32_le(self.mtime);
        out.put_u32_le(length_field(self.data.len()));
        out.put_u32_le(length_field(self.name.len() + 1));
        out.put_u8(self.kind.code());
        out.put_slice(&self.name);
        out.put_u8(0);
        out.put_slice(&self.data);
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{dfsm::Message, vectors};

    /// Decodes and re-encodes the state and update messages among `bytes`.
    fn check(bytes: Bytes, what: &str) -> bool {
        match Message::decode(1, bytes).unwrap() {
            Message::State { blob, .. } => {
                let index = MemdbIndex::decode(blob.clone()).expect(what);
                assert_eq!(index.encode(), blob, "{what}");
            }
            Message::Update { payload, .. } => {
                let entry = UpdateEntry::decode(payload.clone()).expect(what);
                assert_eq!(entry.encode(), payload, "{what}");
            }
            _ => return false,
        }
        true
    }

    #[test]
    fn captured_blobs_and_updates_round_trip() {
        let names = vectors::names(".hex");
        let hits = names
            .iter()
            .filter(|name| name.starts_with("dcdb-"))
            .filter(|name| check(vectors::hex(name), name))
            .count();
        assert_eq!(hits, 7);
        for name in vectors::names(".trace") {
            let received = vectors::trace_received(&name);
            assert!(
                received
                    .into_iter()
                    .filter(|(_, bytes)| check(bytes.clone(), &name))
                    .count()
                    > 0
            );
        }
    }

    #[test]
    fn captured_index_has_the_known_fields() {
        let index = MemdbIndex::decode(vectors::bin("memdb-index.bin")).unwrap();
        assert_eq!((index.version, index.last_inode, index.writer), (17, 16, 1));
        assert_eq!(index.mtime, 1_795_298_769);
        let inodes: Vec<u64> = index.entries.iter().map(|entry| entry.inode).collect();
        assert_eq!(inodes, [0, 2, 4, 5, 6, 7, 8, 9, 10, 12, 15, 16]);
    }

    fn update(name: &str) -> UpdateEntry {
        let Message::Update { payload, .. } = Message::decode(1, vectors::hex(name)).unwrap()
        else {
            panic!("{name}");
        };
        UpdateEntry::decode(payload).unwrap()
    }

    #[test]
    fn captured_updates_have_the_known_fields() {
        assert_eq!(
            update("dcdb-update-root.hex"),
            UpdateEntry {
                parent: 0,
                inode: 0,
                version: 17,
                writer: 1,
                mtime: 1_795_298_769,
                kind: EntryKind::Directory,
                name: Bytes::new(),
                data: Bytes::new(),
            }
        );
        let file = update("dcdb-update-file.hex");
        assert_eq!(
            (file.parent, file.inode, file.kind),
            (8, 12, EntryKind::File)
        );
        assert_eq!(file.name, "100.conf");
        assert_eq!(file.data, "name: vm100\nmemory: 512\n");
    }

    #[test]
    fn faulty_blobs_are_refused() {
        let good = vectors::bin("memdb-index.bin");
        for len in 0..good.len() {
            assert!(MemdbIndex::decode(good.slice(..len)).is_err(), "{len}");
        }
        // One entry more than there are bytes for.
        let mut more = good.to_vec();
        more[24] += 1;
        assert!(MemdbIndex::decode(more.into()).is_err());
        let mut index = MemdbIndex::decode(good).unwrap();
        index.entries.swap(3, 4);
        assert!(MemdbIndex::decode(index.encode()).is_err());
        index.entries.swap(3, 4);
        index.entries[4].inode = index.entries[3].inode;
        assert!(MemdbIndex::decode(index.encode()).is_err());
    }

    #[test]
    fn faulty_updates_are_refused() {
        let good = update("dcdb-update-file.hex").encode();
        for len in 0..good.len() {
            assert!(UpdateEntry::decode(good.slice(..len)).is_err(), "{len}");
        }
        let with = |at: usize, byte: u8| {
            let mut bytes = good.to_vec();
            bytes[at] = byte;
            UpdateEntry::decode(bytes.into())
        };
        assert!(with(40, 5).is_err(), "kind");
        assert!(with(40, 4).is_err(), "directory with data");
        assert!(with(36, 8).is_err(), "shorter name");
        assert!(with(49, b'x').is_err(), "unterminated name");
        assert!(with(39, 0xff).is_err(), "huge name");
    }

    fn indexes() -> impl Strategy<Value = MemdbIndex> {
        let entries = prop::collection::btree_map(any::<u64>(), any::<[u8; 32]>(), 0..20);
        (
            any::<u64>(),
            any::<u64>(),
            any::<u32>(),
            any::<u32>(),
            entries,
        )
            .prop_map(|(version, last_inode, writer, mtime, entries)| MemdbIndex {
                version,
                last_inode,
                writer,
                mtime,
                entries: entries
                    .into_iter()
                    .map(|(inode, digest)| IndexEntry { inode, digest })
                    .collect(),
            })
    }

    fn updates() -> impl Strategy<Value = UpdateEntry> {
        let name = prop::collection::vec(1_u8.., 0..30).prop_map(Bytes::from);
        let data = prop::collection::vec(any::<u8>(), 0..60).prop_map(Bytes::from);
        (
            any::<[u64; 3]>(),
            any::<[u32; 2]>(),
            any::<bool>(),
            name,
            data,
        )
            .prop_map(
                |([parent, inode, version], [writer, mtime], is_file, name, data)| UpdateEntry {
                    parent,
                    inode,
                    version,
                    writer,
                    mtime,
                    kind: if is_file {
                        EntryKind::File
                    } else {
                        EntryKind::Directory
                    },
                    name,
                    data: if is_file { data } else { Bytes::new() },
                },
            )
    }

    proptest! {
        #[test]
        fn decode_inverts_encode(index in indexes(), entry in updates()) {
            prop_assert_eq!(MemdbIndex::decode(index.encode()), Ok(index));
            prop_assert_eq!(UpdateEntry::decode(entry.encode()), Ok(entry));
        }

        #[test]
        fn any_bytes_are_handled(
            at in any::<prop::sample::Index>(),
            byte: u8,
            noise in prop::collection::vec(any::<u8>(), 0..120),
            index in indexes(),
            entry in updates(),
        ) {
            let damaged = |bytes: Bytes| {
                let mut bytes = bytes.to_vec();
                let at = at.index(bytes.len());
                bytes[at] = byte;
                Bytes::from(bytes)
            };
            for bytes in [damaged(index.encode()), noise.clone().into()] {
                if let Ok(index) = MemdbIndex::decode(bytes.clone()) {
                    prop_assert_eq!(index.encode(), bytes);
                }
            }
            for bytes in [damaged(entry.encode()), noise.into()] {
                if let Ok(entry) = UpdateEntry::decode(bytes) {
                    // Bytes of the name behind an inner NUL are dropped, nothing else.
                    prop_assert_eq!(UpdateEntry::decode(entry.encode()), Ok(entry));
                }
            }
        }
    }
}
