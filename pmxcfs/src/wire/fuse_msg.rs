//! Changes of the configuration tree, group messages 1 to 8.
//!
//! A path is what stands before the first NUL of its field, without check of its parts: whether it
//! names anything is decided when the change is applied, by all members alike. Fields that an
//! operation does not use are ignored.

use bytes::{BufMut, Bytes, BytesMut};

use super::{DecodeError, Reader, length_field, size_of_field, terminated};

/// A change, or a step in the removal of an expired lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FuseMessage {
    /// Write, or change of the length.
    Write {
        /// The file.
        path: Bytes,
        /// Where `data` goes; if `truncate` also the least length.
        offset: u32,
        /// Cut the file behind the written bytes.
        truncate: bool,
        /// What to write; may be empty.
        data: Bytes,
    },
    /// New directory.
    Mkdir {
        /// The directory.
        path: Bytes,
    },
    /// Removal of a file or an empty directory.
    Delete {
        /// What to remove.
        path: Bytes,
    },
    /// Rename.
    Rename {
        /// Old path.
        from: Bytes,
        /// New path.
        to: Bytes,
    },
    /// New empty file.
    Create {
        /// The file.
        path: Bytes,
    },
    /// New modification time.
    Mtime {
        /// File or directory.
        path: Bytes,
        /// Seconds since 1970.
        mtime: u32,
    },
    /// Somebody wants the lock at `path`: asks the lowest node whether it has expired.
    UnlockRequest {
        /// Checksum of the lock's entry as the asking node sees it.
        checksum: [u8; 32],
        /// The lock directory.
        path: Bytes,
    },
    /// The lock has expired: all nodes remove it if its checksum is still the same.
    Unlock {
        /// Checksum of the lock's entry.
        checksum: [u8; 32],
        /// The lock directory.
        path: Bytes,
    },
}

impl FuseMessage {
    /// Reads the payload of a normal message of the configuration group.
    ///
    /// # Errors
    ///
    /// [`DecodeError::EmptyPath`] for a change without a path, which merely fails;
    /// [`DecodeError::EmptyRenameTarget`], [`DecodeError::UnknownSubtype`],
    /// [`DecodeError::TooShort`] and [`DecodeError::Malformed`] for what makes a member leave.
    pub fn decode(subtype: u16, payload: Bytes) -> Result<Self, DecodeError> {
        match subtype {
            subtype::WRITE..=subtype::MTIME => Self::decode_change(subtype, payload),
            subtype::UNLOCK_REQUEST | subtype::UNLOCK => {
                let mut reader = Reader::new(payload);
                let checksum = reader.array()?;
                let path = terminated(&reader.rest(), "path of the lock is not terminated")?;
                Ok(if subtype == subtype::UNLOCK {
                    Self::Unlock { checksum, path }
                } else {
                    Self::UnlockRequest { checksum, path }
                })
            }
            other => Err(DecodeError::UnknownSubtype(other)),
        }
    }

    fn decode_change(subtype: u16, payload: Bytes) -> Result<Self, DecodeError> {
        let fields = Fields::decode(payload)?;
        // A rename without target is the graver fault, so it is looked for first.
        let to = match (subtype, fields.to) {
            (subtype::RENAME, None) => return Err(DecodeError::EmptyRenameTarget),
            (_, to) => to.unwrap_or_default(),
        };
        let path = fields.path.ok_or(DecodeError::EmptyPath)?;
        Ok(match subtype {
            subtype::WRITE => Self::Write {
                path,
                offset: fields.offset,
                truncate: fields.flags != 0,
                data: fields.data,
            },
            subtype::MKDIR => Self::Mkdir { path },
            subtype::DELETE => Self::Delete { path },
            subtype::RENAME => Self::Rename { from: path, to },
            subtype::CREATE => Self::Create { path },
            subtype::MTIME => Self::Mtime {
                path,
                mtime: fields.offset,
            },
            other => return Err(DecodeError::UnknownSubtype(other)),
        })
    }

    /// The group message number.
    #[must_use]
    pub fn subtype(&self) -> u16 {
        match self {
            Self::Write { .. } => subtype::WRITE,
            Self::Mkdir { .. } => subtype::MKDIR,
            Self::Delete { .. } => subtype::DELETE,
            Self::Rename { .. } => subtype::RENAME,
            Self::Create { .. } => subtype::CREATE,
            Self::Mtime { .. } => subtype::MTIME,
            Self::UnlockRequest { .. } => subtype::UNLOCK_REQUEST,
            Self::Unlock { .. } => subtype::UNLOCK,
        }
    }

    /// The payload; its message number is [`FuseMessage::subtype`].
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Write {
                path,
                offset,
                truncate,
                data,
            } => encode_change(path, None, *offset, u32::from(*truncate), data),
            Self::Mkdir { path } | Self::Delete { path } | Self::Create { path } => {
                encode_change(path, None, 0, 0, &[])
            }
            Self::Rename { from, to } => encode_change(from, Some(to), 0, 0, &[]),
            Self::Mtime { path, mtime } => encode_change(path, None, *mtime, 0, &[]),
            Self::UnlockRequest { checksum, path } | Self::Unlock { checksum, path } => {
                let mut out = BytesMut::with_capacity(checksum.len() + path.len() + 1);
                out.put_slice(checksum);
                out.put_slice(path);
                out.put_u8(0);
                out.freeze()
            }
        }
    }

    /// The path that the message is about; of a rename the old one.
    #[must_use]
    pub fn path(&self) -> &Bytes {
        match self {
            Self::Write { path, .. }
            | Self::Mkdir { path }
            | Self::Delete { path }
            | Self::Rename { from: path, .. }
            | Self::Create { path }
            | Self::Mtime { path, .. }
            | Self::UnlockRequest { path, .. }
            | Self::Unlock { path, .. } => path,
        }
    }
}

/// The common layout of the messages 1 to 6.
struct Fields {
    offset: u32,
    flags: u32,
    path: Option<Bytes>,
    to: Option<Bytes>,
    data: Bytes,
}

impl Fields {
    fn decode(payload: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let size = reader.u32()?;
        let offset = reader.u32()?;
        let path_len = reader.u32()?;
        let to_len = reader.u32()?;
        let flags = reader.u32()?;
        let total = u64::from(size) + u64::from(path_len) + u64::from(to_len);
        if u64::try_from(reader.remaining()) != Ok(total) {
            return Err(DecodeError::Malformed("lengths of a change do not add up"));
        }
        let path = name(&mut reader, path_len, "path is not terminated")?;
        let to = name(&mut reader, to_len, "target of a rename is not terminated")?;
        Ok(Self {
            offset,
            flags,
            path,
            to,
            data: reader.rest(),
        })
    }
}

/// A name field; an absent one differs from an empty name.
fn name(
    reader: &mut Reader,
    len: u32,
    unterminated: &'static str,
) -> Result<Option<Bytes>, DecodeError> {
    if len == 0 {
        return Ok(None);
    }
    terminated(&reader.take(size_of_field(len))?, unterminated).map(Some)
}

fn encode_change(path: &[u8], to: Option<&Bytes>, offset: u32, flags: u32, data: &[u8]) -> Bytes {
    let to_len = to.map_or(0, |to| to.len() + 1);
    let mut out = BytesMut::with_capacity(20 + path.len() + 1 + to_len + data.len());
    out.put_u32_le(length_field(data.len()));
    out.put_u32_le(offset);
    out.put_u32_le(length_field(path.len() + 1));
    out.put_u32_le(length_field(to_len));
    out.put_u32_le(flags);
    out.put_slice(path);
    out.put_u8(0);
    if let Some(to) = to {
        out.put_slice(to);
        out.put_u8(0);
    }
    out.put_slice(data);
    out.freeze()
}

/// Message numbers of the group.
mod subtype {
    pub(super) const WRITE: u16 = 1;
    pub(super) const MKDIR: u16 = 2;
    pub(super) const DELETE: u16 = 3;
    pub(super) const RENAME: u16 = 4;
    pub(super) const CREATE: u16 = 5;
    pub(super) const MTIME: u16 = 6;
    pub(super) const UNLOCK_REQUEST: u16 = 7;
    pub(super) const UNLOCK: u16 = 8;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{dfsm::Message, vectors};

    fn check(bytes: Bytes, what: &str) -> Option<FuseMessage> {
        let Message::Normal {
            subtype, payload, ..
        } = Message::decode(1, bytes).unwrap()
        else {
            return None;
        };
        let message = FuseMessage::decode(subtype, payload.clone()).expect(what);
        assert_eq!(message.subtype(), subtype, "{what}");
        assert_eq!(message.encode(), payload, "{what}");
        Some(message)
    }

    #[test]
    fn captured_changes_round_trip() {
        let names = vectors::names(".hex");
        let changes = names
            .iter()
            .filter(|name| name.starts_with("dcdb-"))
            .filter_map(|name| check(vectors::hex(name), name))
            .count();
        assert_eq!(changes, 14);
        for name in vectors::names(".trace") {
            for (_, bytes) in vectors::trace_received(&name) {
                check(bytes, &name);
            }
        }
    }

    #[test]
    fn captured_changes_have_the_known_fields() {
        let change = |name: &str| check(vectors::hex(name), name).unwrap();
        assert_eq!(
            change("dcdb-write.hex"),
            FuseMessage::Write {
                path: "testdir/file.cfg".into(),
                offset: 0,
                truncate: false,
                data: "hello\n".into(),
            }
        );
        assert_eq!(
            change("dcdb-truncate.hex"),
            FuseMessage::Write {
                path: "testdir/renamed.cfg".into(),
                offset: 3,
                truncate: true,
                data: Bytes::new(),
            }
        );
        assert_eq!(
            change("dcdb-rename-over.hex"),
            FuseMessage::Rename {
                from: "testdir/renamed.cfg".into(),
                to: "testdir/other.cfg".into(),
            }
        );
        assert_eq!(
            change("dcdb-mtime.hex"),
            FuseMessage::Mtime {
                path: "testdir/renamed.cfg".into(),
                mtime: 1_600_000_000
            }
        );
        let unlock = change("dcdb-unlock.hex");
        assert!(matches!(
            &unlock,
            FuseMessage::Unlock {
                checksum: [0xe3, 0x89, ..],
                ..
            }
        ));
        assert_eq!(unlock.path(), "priv/lock/vectorlock");
    }

    /// A change with the given length fields in front of `rest`.
    fn change(size: u32, path: u32, to: u32, rest: &[u8]) -> Bytes {
        let words = [size, 0, path, to, 0].map(u32::to_le_bytes);
        [words.as_flattened(), rest].concat().into()
    }

    #[test]
    fn faults_are_told_apart() {
        let decode = FuseMessage::decode;
        assert_eq!(decode(1, change(0, 0, 0, b"")), Err(DecodeError::EmptyPath));
        assert_eq!(
            decode(4, change(0, 0, 0, b"")),
            Err(DecodeError::EmptyRenameTarget)
        );
        assert_eq!(
            decode(4, change(0, 2, 0, b"a\0")),
            Err(DecodeError::EmptyRenameTarget)
        );
        assert_eq!(
            decode(4, change(0, 2, 1, b"a\0\0")),
            Ok(FuseMessage::Rename {
                from: "a".into(),
                to: Bytes::new()
            })
        );
        assert_eq!(
            decode(2, change(0, 1, 0, b"\0")),
            Ok(FuseMessage::Mkdir { path: Bytes::new() })
        );
        assert_eq!(decode(9, Bytes::new()), Err(DecodeError::UnknownSubtype(9)));
        assert_eq!(decode(0, Bytes::new()), Err(DecodeError::UnknownSubtype(0)));
        for (size, path, to, rest) in [
            (0, 2, 0, &b"ab"[..]),
            (0, 2, 0, b"a\0x"),
            (1, 2, 0, b"a\0"),
            (0, 2, 2, b"a\0bc"),
            (u32::MAX, u32::MAX, u32::MAX, b"a\0"),
            (2_u32.wrapping_neg(), 2, 2, b"a\0"),
        ] {
            let result = decode(4, change(size, path, to, rest));
            assert!(
                matches!(result, Err(DecodeError::Malformed(_))),
                "{result:?}"
            );
        }
        assert!(matches!(
            decode(1, Bytes::from_static(&[0; 19])),
            Err(DecodeError::TooShort { .. })
        ));
        assert!(matches!(
            decode(7, Bytes::from_static(&[0; 32])),
            Err(DecodeError::Malformed(_))
        ));
        assert!(decode(8, Bytes::from_static(&[0; 33])).is_ok());
    }

    #[test]
    fn payload_shares_the_received_buffer() {
        let bytes = change(3, 2, 0, b"a\0xyz");
        let range = bytes.as_ptr_range();
        let Ok(FuseMessage::Write { data, .. }) = FuseMessage::decode(1, bytes.clone()) else {
            panic!("not a write");
        };
        assert!(range.contains(&data.as_ptr()));
    }

    fn paths() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(1_u8.., 0..40).prop_map(Bytes::from)
    }

    fn messages() -> impl Strategy<Value = FuseMessage> {
        let data = prop::collection::vec(any::<u8>(), 0..60).prop_map(Bytes::from);
        prop_oneof![
            (paths(), any::<u32>(), any::<bool>(), data).prop_map(
                |(path, offset, truncate, data)| FuseMessage::Write {
                    path,
                    offset,
                    truncate,
                    data
                }
            ),
            paths().prop_map(|path| FuseMessage::Mkdir { path }),
            paths().prop_map(|path| FuseMessage::Delete { path }),
            (paths(), paths()).prop_map(|(from, to)| FuseMessage::Rename { from, to }),
            paths().prop_map(|path| FuseMessage::Create { path }),
            (paths(), any::<u32>()).prop_map(|(path, mtime)| FuseMessage::Mtime { path, mtime }),
            (any::<[u8; 32]>(), paths())
                .prop_map(|(checksum, path)| FuseMessage::UnlockRequest { checksum, path }),
            (any::<[u8; 32]>(), paths())
                .prop_map(|(checksum, path)| FuseMessage::Unlock { checksum, path }),
        ]
    }

    proptest! {
        #[test]
        fn decode_inverts_encode(message in messages()) {
            prop_assert_eq!(FuseMessage::decode(message.subtype(), message.encode()), Ok(message));
        }

        #[test]
        fn any_bytes_are_handled(
            subtype in 0_u16..10,
            lengths in any::<[u8; 3]>(),
            rest in prop::collection::vec(0_u8..3, 0..60),
        ) {
            // Small length fields, so that a fair share of the cases fits.
            let [size, path, to] = lengths.map(|len| u32::from(len % 24));
            let fit = change(size, path, to, &rest[..rest.len().min((size + path + to) as usize)]);
            for bytes in [fit, Bytes::from(rest)] {
                if let Ok(message) = FuseMessage::decode(subtype, bytes) {
                    // Bytes behind an inner NUL and unused fields are dropped, nothing else.
                    prop_assert_eq!(
                        FuseMessage::decode(subtype, message.encode()),
                        Ok(message)
                    );
                }
            }
        }
    }
}
