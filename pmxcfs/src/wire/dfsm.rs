//! Messages of the generic state machine that both groups share.
//!
//! [`Message::decode`] makes the checks that do not depend on the state of the receiver, in the
//! order in which all members make them: length of the common header, version, length of the
//! normal or state header. A state message that is odd in its *payload* still decodes, as
//! [`Message::Malformed`]: whether it matters depends on its epoch, which the receiver compares
//! first.

use bytes::{BufMut, Bytes, BytesMut};

use super::{DecodeError, MemberId, Reader};

/// Bytes of the header that every message starts with.
pub const COMMON_HEADER_LEN: usize = 16;
/// Bytes before the payload of a normal message.
pub const NORMAL_HEADER_LEN: usize = 24;
/// Bytes before the payload of all other messages.
pub const STATE_HEADER_LEN: usize = 32;

/// Identifies one round of synchronisation.
///
/// Only equality matters; the fields serve to make it unique.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Epoch {
    /// Membership changes that the process which opened the round has seen.
    pub counter: u32,
    /// Wall clock of that process, seconds.
    pub time: u32,
    /// Its node id.
    pub node_id: u32,
    /// Its process id.
    pub pid: u32,
}

impl Epoch {
    /// The epoch that `member` opens at its `counter`-th membership change.
    #[must_use]
    pub fn new(counter: u32, time: u32, member: MemberId) -> Self {
        Self {
            counter,
            time,
            node_id: member.node,
            pid: member.pid,
        }
    }
}

/// A group message. `time` is the sender's wall clock in seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A message of the group itself.
    Normal {
        /// Message number of the group.
        subtype: u16,
        /// Becomes the modification time of the change.
        time: u32,
        /// Running number of the sending process, from 1.
        count: u64,
        /// Meaning depends on the group and the subtype.
        payload: Bytes,
    },
    /// Opens a round: all members answer with their state.
    SyncStart {
        /// Clock of the sender.
        time: u32,
        /// The epoch of the new round.
        epoch: Epoch,
    },
    /// State of one member.
    State {
        /// Clock of the sender.
        time: u32,
        /// Round to which it belongs.
        epoch: Epoch,
        /// State blob of the group. An empty one does not count as an answer.
        blob: Bytes,
    },
    /// One part of what the leader has and others lack.
    Update {
        /// Clock of the sender.
        time: u32,
        /// Round to which it belongs.
        epoch: Epoch,
        /// Meaning depends on the group.
        payload: Bytes,
    },
    /// The leader has sent all updates.
    UpdateComplete {
        /// Clock of the sender.
        time: u32,
        /// Round to which it belongs.
        epoch: Epoch,
    },
    /// Asks all members to compute their checksum at this point.
    VerifyRequest {
        /// Clock of the sender.
        time: u32,
        /// Round to which it belongs.
        epoch: Epoch,
        /// Number of the request.
        id: u64,
    },
    /// Checksum of the process that asked for it.
    Verify {
        /// Clock of the sender.
        time: u32,
        /// Round to which it belongs.
        epoch: Epoch,
        /// Number of the request.
        id: u64,
        /// SHA-256 of the sender's whole tree.
        checksum: [u8; 32],
    },
    /// A verification message of wrong length. Counts only if its epoch is the current one.
    Malformed {
        /// Type in the header: 5 or 6.
        kind: u16,
        /// Clock of the sender.
        time: u32,
        /// Round to which it belongs.
        epoch: Epoch,
        /// What follows the header.
        payload: Bytes,
    },
    /// A type that this version does not know. Counts only if its epoch is the current one.
    Unknown {
        /// Type in the header: 7 or more.
        kind: u16,
        /// Clock of the sender.
        time: u32,
        /// Round to which it belongs.
        epoch: Epoch,
        /// What follows the header.
        payload: Bytes,
    },
}

impl Message {
    /// Reads a message of a group that speaks `version`.
    ///
    /// # Errors
    ///
    /// `TooShort`, `NewerVersion` or `OlderVersion`, the first that applies in protocol order.
    pub fn decode(version: u32, bytes: Bytes) -> Result<Self, DecodeError> {
        let have = bytes.len();
        let mut reader = Reader::new(bytes);
        if have < COMMON_HEADER_LEN {
            return Err(DecodeError::TooShort {
                need: COMMON_HEADER_LEN,
                have,
            });
        }
        let kind = reader.u16()?;
        let subtype = reader.u16()?;
        let theirs = reader.u32()?;
        if theirs > version {
            return Err(DecodeError::NewerVersion {
                own: version,
                theirs,
            });
        }
        if theirs < version {
            return Err(DecodeError::OlderVersion {
                own: version,
                theirs,
            });
        }
        let time = reader.u32()?;
        let _reserved = reader.u32()?;
        if kind == kind::NORMAL {
            let count = reader.u64()?;
            return Ok(Self::Normal {
                subtype,
                time,
                count,
                payload: reader.rest(),
            });
        }
        if have < STATE_HEADER_LEN {
            return Err(DecodeError::TooShort {
                need: STATE_HEADER_LEN,
                have,
            });
        }
        let epoch = Epoch {
            counter: reader.u32()?,
            time: reader.u32()?,
            node_id: reader.u32()?,
            pid: reader.u32()?,
        };
        Ok(Self::decode_state(kind, time, epoch, reader.rest()))
    }

    fn decode_state(kind: u16, time: u32, epoch: Epoch, payload: Bytes) -> Self {
        match kind {
            kind::SYNC_START => Self::SyncStart { time, epoch },
            kind::STATE => Self::State {
                time,
                epoch,
                blob: payload,
            },
            kind::UPDATE => Self::Update {
                time,
                epoch,
                payload,
            },
            kind::UPDATE_COMPLETE => Self::UpdateComplete { time, epoch },
            kind::VERIFY_REQUEST | kind::VERIFY => {
                Self::decode_verify(kind, time, epoch, payload.clone()).unwrap_or(Self::Malformed {
                    kind,
                    time,
                    epoch,
                    payload,
                })
            }
            _ => Self::Unknown {
                kind,
                time,
                epoch,
                payload,
            },
        }
    }

    fn decode_verify(kind: u16, time: u32, epoch: Epoch, payload: Bytes) -> Option<Self> {
        let mut reader = Reader::new(payload);
        let id = reader.u64().ok()?;
        let message = if kind == kind::VERIFY {
            Self::Verify {
                time,
                epoch,
                id,
                checksum: reader.array().ok()?,
            }
        } else {
            Self::VerifyRequest { time, epoch, id }
        };
        (reader.remaining() == 0).then_some(message)
    }

    /// The message as it is sent in a group that speaks `version`.
    #[must_use]
    pub fn encode(&self, version: u32) -> Bytes {
        let payload = match self {
            Self::Normal { payload, .. }
            | Self::State { blob: payload, .. }
            | Self::Update { payload, .. }
            | Self::Malformed { payload, .. }
            | Self::Unknown { payload, .. } => payload.as_ref(),
            Self::SyncStart { .. }
            | Self::UpdateComplete { .. }
            | Self::VerifyRequest { .. }
            | Self::Verify { .. } => &[],
        };
        let mut out = BytesMut::with_capacity(STATE_HEADER_LEN + 40 + payload.len());
        out.put_u16_le(self.kind());
        out.put_u16_le(if let Self::Normal { subtype, .. } = self {
            *subtype
        } else {
            0
        });
        out.put_u32_le(version);
        out.put_u32_le(self.time());
        out.put_u32_le(0);
        if let Some(epoch) = self.epoch() {
            out.put_u32_le(epoch.counter);
            out.put_u32_le(epoch.time);
            out.put_u32_le(epoch.node_id);
            out.put_u32_le(epoch.pid);
        }
        match self {
            Self::Normal { count, .. } => out.put_u64_le(*count),
            Self::VerifyRequest { id, .. } => out.put_u64_le(*id),
            Self::Verify { id, checksum, .. } => {
                out.put_u64_le(*id);
                out.put_slice(checksum);
            }
            _ => {}
        }
        out.put_slice(payload);
        out.freeze()
    }

    /// Wall clock of the sender, seconds.
    #[must_use]
    pub fn time(&self) -> u32 {
        match self {
            Self::Normal { time, .. }
            | Self::SyncStart { time, .. }
            | Self::State { time, .. }
            | Self::Update { time, .. }
            | Self::UpdateComplete { time, .. }
            | Self::VerifyRequest { time, .. }
            | Self::Verify { time, .. }
            | Self::Malformed { time, .. }
            | Self::Unknown { time, .. } => *time,
        }
    }

    /// The round to which a state message belongs; none for normal messages.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        match self {
            Self::Normal { .. } => None,
            Self::SyncStart { epoch, .. }
            | Self::State { epoch, .. }
            | Self::Update { epoch, .. }
            | Self::UpdateComplete { epoch, .. }
            | Self::VerifyRequest { epoch, .. }
            | Self::Verify { epoch, .. }
            | Self::Malformed { epoch, .. }
            | Self::Unknown { epoch, .. } => Some(*epoch),
        }
    }

    /// The type number of the header.
    #[must_use]
    pub fn kind(&self) -> u16 {
        match self {
            Self::Normal { .. } => kind::NORMAL,
            Self::SyncStart { .. } => kind::SYNC_START,
            Self::State { .. } => kind::STATE,
            Self::Update { .. } => kind::UPDATE,
            Self::UpdateComplete { .. } => kind::UPDATE_COMPLETE,
            Self::VerifyRequest { .. } => kind::VERIFY_REQUEST,
            Self::Verify { .. } => kind::VERIFY,
            Self::Malformed { kind, .. } | Self::Unknown { kind, .. } => *kind,
        }
    }
}

/// Type numbers.
mod kind {
    pub(super) const NORMAL: u16 = 0;
    pub(super) const SYNC_START: u16 = 1;
    pub(super) const STATE: u16 = 2;
    pub(super) const UPDATE: u16 = 3;
    pub(super) const UPDATE_COMPLETE: u16 = 4;
    pub(super) const VERIFY_REQUEST: u16 = 5;
    pub(super) const VERIFY: u16 = 6;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::vectors;

    fn version_of(name: &str) -> u32 {
        u32::from(name.starts_with("dcdb-"))
    }

    #[test]
    fn captured_messages_round_trip() {
        for name in vectors::names(".hex") {
            let bytes = vectors::hex(&name);
            let version = version_of(&name);
            let message = Message::decode(version, bytes.clone()).expect(&name);
            assert_eq!(message.encode(version), bytes, "{name}");
            assert!(
                !matches!(message, Message::Malformed { .. } | Message::Unknown { .. }),
                "{name}"
            );
        }
    }

    #[test]
    fn captured_headers_have_the_known_fields() {
        let message = Message::decode(1, vectors::hex("dcdb-verify.hex")).unwrap();
        let Message::Verify {
            time,
            epoch,
            id,
            checksum,
        } = message
        else {
            panic!("{message:?}")
        };
        assert_eq!((time, id), (1_795_298_797, 1));
        let member = MemberId {
            node: 1,
            pid: 15657,
        };
        assert_eq!(epoch, Epoch::new(2, 1_795_298_770, member));
        assert_eq!(checksum[..4], [0xd2, 0x7c, 0xeb, 0x52]);

        let message = Message::decode(1, vectors::hex("dcdb-write.hex")).unwrap();
        assert!(matches!(
            message,
            Message::Normal {
                subtype: 1,
                count: 3,
                ..
            }
        ));
    }

    #[test]
    fn traces_decode() {
        for name in vectors::names(".trace") {
            let received = vectors::trace_received(&name);
            assert!(!received.is_empty(), "{name}");
            for (_, bytes) in received {
                let message = Message::decode(1, bytes.clone()).expect(&name);
                assert_eq!(message.encode(1), bytes, "{name}");
            }
        }
    }

    #[test]
    fn checks_come_in_protocol_order() {
        let header = |kind: u16, version: u32| {
            let mut out = BytesMut::new();
            out.put_u16_le(kind);
            out.put_u16_le(0);
            out.put_u32_le(version);
            out.put_u64_le(0);
            out
        };
        let short = header(0, 9).freeze().slice(..15);
        assert_eq!(
            Message::decode(1, short),
            Err(DecodeError::TooShort { need: 16, have: 15 })
        );
        assert_eq!(
            Message::decode(1, header(0, 2).freeze()),
            Err(DecodeError::NewerVersion { own: 1, theirs: 2 })
        );
        assert_eq!(
            Message::decode(1, header(0, 0).freeze()),
            Err(DecodeError::OlderVersion { own: 1, theirs: 0 })
        );
        assert_eq!(
            Message::decode(1, header(0, 1).freeze()),
            Err(DecodeError::TooShort { need: 24, have: 16 })
        );
        assert_eq!(
            Message::decode(1, header(9, 1).freeze()),
            Err(DecodeError::TooShort { need: 32, have: 16 })
        );
    }

    #[test]
    fn odd_verification_keeps_its_epoch() {
        let epoch = Epoch::new(7, 8, MemberId { node: 9, pid: 10 });
        let verify = Message::Verify {
            time: 1,
            epoch,
            id: 2,
            checksum: [3; 32],
        }
        .encode(1);
        for len in 32..verify.len() {
            let cut = Message::decode(1, verify.slice(..len)).unwrap();
            assert!(matches!(cut, Message::Malformed { kind: 6, .. }), "{cut:?}");
            assert_eq!(cut.epoch(), Some(epoch));
        }
        let request = Message::VerifyRequest {
            time: 1,
            epoch,
            id: 2,
        }
        .encode(1);
        let longer: Bytes = [&request[..], &[0]].concat().into();
        let decoded = Message::decode(1, longer).unwrap();
        assert!(matches!(decoded, Message::Malformed { kind: 5, .. }));
    }

    fn epochs() -> impl Strategy<Value = Epoch> {
        any::<[u32; 4]>().prop_map(|[counter, time, node_id, pid]| Epoch {
            counter,
            time,
            node_id,
            pid,
        })
    }

    fn payloads() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..100).prop_map(Bytes::from)
    }

    fn messages() -> impl Strategy<Value = Message> {
        prop_oneof![
            (any::<u16>(), any::<u32>(), any::<u64>(), payloads()).prop_map(
                |(subtype, time, count, payload)| Message::Normal {
                    subtype,
                    time,
                    count,
                    payload
                }
            ),
            (any::<u32>(), epochs()).prop_map(|(time, epoch)| Message::SyncStart { time, epoch }),
            (any::<u32>(), epochs(), payloads()).prop_map(|(time, epoch, blob)| Message::State {
                time,
                epoch,
                blob
            }),
            (any::<u32>(), epochs(), payloads()).prop_map(|(time, epoch, payload)| {
                Message::Update {
                    time,
                    epoch,
                    payload,
                }
            }),
            (any::<u32>(), epochs())
                .prop_map(|(time, epoch)| Message::UpdateComplete { time, epoch }),
            (any::<u32>(), epochs(), any::<u64>())
                .prop_map(|(time, epoch, id)| Message::VerifyRequest { time, epoch, id }),
            (any::<u32>(), epochs(), any::<u64>(), any::<[u8; 32]>()).prop_map(
                |(time, epoch, id, checksum)| Message::Verify {
                    time,
                    epoch,
                    id,
                    checksum
                }
            ),
            (7_u16.., any::<u32>(), epochs(), payloads()).prop_map(
                |(kind, time, epoch, payload)| Message::Unknown {
                    kind,
                    time,
                    epoch,
                    payload
                }
            ),
        ]
    }

    proptest! {
        #[test]
        fn decode_inverts_encode(message in messages(), version: u32) {
            prop_assert_eq!(Message::decode(version, message.encode(version)), Ok(message));
        }

        #[test]
        fn any_bytes_are_handled(
            kind in 0_u16..9,
            version in 0_u32..3,
            tail in prop::collection::vec(any::<u8>(), 0..90),
        ) {
            let bytes: Bytes =
                [&kind.to_le_bytes()[..], &[0, 0], &version.to_le_bytes(), &tail].concat().into();
            if let Ok(message) = Message::decode(1, bytes.clone()) {
                let again = message.encode(1);
                prop_assert_eq!(&again[..12], &bytes[..12]);
                // The reserved word is ignored, and so is what follows a complete message.
                prop_assert_eq!(&again[16..], &bytes[16..again.len()]);
            }
        }
    }
}
