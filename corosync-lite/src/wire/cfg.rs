//! Messages of the command service: reload, key change, kill and shutdown.

use bytes::Bytes;

use super::exec::{Source, decode_name, encode_name};
use super::{DecodeError, NodeId, Put, Reader};

const FUNCTION_RING_REENABLE: u16 = 0;
const FUNCTION_KILL_NODE: u16 = 1;
const FUNCTION_SHUTDOWN: u16 = 2;
const FUNCTION_RELOAD: u16 = 3;
const FUNCTION_CRYPTO_RECONFIG: u16 = 4;

/// A message of this service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Of old versions; ignored.
    RingReenable(Source),
    /// This node has to stop at once.
    KillNode {
        /// Which one.
        node: NodeId,
        /// Text for its log.
        reason: Bytes,
    },
    /// The sender is about to leave.
    Shutdown,
    /// Every node reads its configuration file again.
    Reload(Source),
    /// The sender moves its own transport one step on in a change of keys.
    CryptoReconfig(CryptoPhase),
}

/// Steps of a change of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CryptoPhase {
    /// Send with the new key.
    Activate,
    /// Forget the old one.
    Cleanup,
}

impl Message {
    pub(super) fn function(&self) -> u16 {
        match self {
            Self::RingReenable(_) => FUNCTION_RING_REENABLE,
            Self::KillNode { .. } => FUNCTION_KILL_NODE,
            Self::Shutdown => FUNCTION_SHUTDOWN,
            Self::Reload(_) => FUNCTION_RELOAD,
            Self::CryptoReconfig(_) => FUNCTION_CRYPTO_RECONFIG,
        }
    }

    pub(super) fn decode(
        function: u32,
        reader: &mut Reader<'_>,
        bytes: &Bytes,
    ) -> Result<Self, DecodeError> {
        let message = match u16::try_from(function) {
            Ok(FUNCTION_RING_REENABLE) => Self::RingReenable(Source::decode(reader)?),
            Ok(FUNCTION_KILL_NODE) => {
                let node = NodeId(reader.u32()?);
                reader.skip(4)?;
                let reason = decode_name(reader, bytes)?;
                Self::KillNode { node, reason }
            }
            Ok(FUNCTION_SHUTDOWN) => Self::Shutdown,
            Ok(FUNCTION_RELOAD) => Self::Reload(Source::decode(reader)?),
            Ok(FUNCTION_CRYPTO_RECONFIG) => {
                let phase = match reader.u32()? {
                    1 => CryptoPhase::Activate,
                    2 => CryptoPhase::Cleanup,
                    _ => return Err(DecodeError::Malformed("phase of a key change")),
                };
                reader.skip(4)?;
                Self::CryptoReconfig(phase)
            }
            _ => return Err(DecodeError::UnknownKind(function)),
        };
        Ok(message)
    }

    /// A reason of more than 256 bytes is cut.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::RingReenable(source) | Self::Reload(source) => source.encode(out),
            Self::KillNode { node, reason } => {
                out.put_u32(node.0);
                out.put_zeros(4);
                encode_name(reason, out);
            }
            Self::Shutdown => (),
            Self::CryptoReconfig(phase) => {
                out.put_u32(match phase {
                    CryptoPhase::Activate => 1,
                    CryptoPhase::Cleanup => 2,
                });
                out.put_zeros(4);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::exec;
    use super::*;

    fn message() -> impl Strategy<Value = Message> {
        let source = any::<(u32, u64)>().prop_map(|(node, connection)| Source {
            node: NodeId(node),
            connection,
        });
        let reason = prop::collection::vec(any::<u8>(), 0..=256).prop_map(Bytes::from);
        prop_oneof![
            source.clone().prop_map(Message::RingReenable),
            source.prop_map(Message::Reload),
            (any::<u32>(), reason).prop_map(|(node, reason)| Message::KillNode {
                node: NodeId(node),
                reason,
            }),
            Just(Message::Shutdown),
            Just(Message::CryptoReconfig(CryptoPhase::Activate)),
            Just(Message::CryptoReconfig(CryptoPhase::Cleanup)),
        ]
    }

    proptest! {
        #[test]
        fn messages_decode_to_what_was_encoded(message in message()) {
            let message = exec::Message::Cfg(message);
            let mut out = Vec::new();
            message.encode(&mut out);
            prop_assert_eq!(exec::Message::decode(&Bytes::from(out)), Ok(message));
        }
    }
}
