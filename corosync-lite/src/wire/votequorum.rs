//! Messages of the vote counting.

use std::fmt;
use std::ops::BitOr;

use bytes::Bytes;

use super::{DecodeError, NodeId, Put, Reader};

const FUNCTION_NODE_INFO: u16 = 0;
const FUNCTION_RECONFIGURE: u16 = 1;
const FUNCTION_DEVICE: u16 = 2;
const FUNCTION_DEVICE_RENAME: u16 = 3;
/// Field of a device's name; the name is shorter by its terminator.
const DEVICE_NAME_CAPACITY: usize = 255;

/// A message of this service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Votes and state of a node or of the quorum device.
    NodeInfo(NodeInfo),
    /// A change at run time.
    Reconfigure {
        /// Node that it is about.
        node: NodeId,
        /// New value.
        value: u32,
        /// What changes.
        parameter: Parameter,
    },
    /// A quorum device is registered (`true`) or unregistered.
    Device {
        /// Registered or unregistered.
        registered: bool,
        /// Name of the device, without terminator.
        name: Bytes,
    },
    /// A quorum device gets another name.
    DeviceRename {
        /// Name so far.
        old: Bytes,
        /// Name from now on.
        new: Bytes,
    },
}

/// Votes and state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeInfo {
    /// The node, 0 = the quorum device of the sender.
    pub node: NodeId,
    /// Its votes.
    pub votes: u32,
    /// Votes that it expects in the whole cluster, 0 for the device.
    pub expected_votes: u32,
    /// Its state.
    pub flags: NodeFlags,
}

/// What changes at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parameter {
    /// Expected votes of all nodes.
    ExpectedVotes,
    /// Votes of the node.
    Votes,
    /// Waiting for all nodes ends.
    CancelWaitForAll,
}

/// State bits of a node. Bits without a name are kept.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeFlags(pub u32);

impl NodeFlags {
    /// The node is in a quorate partition.
    pub const QUORATE: Self = Self(1);
    /// It is leaving.
    pub const LEAVING: Self = Self(2);
    /// It waits until all nodes have been seen once.
    pub const WAIT_FOR_ALL: Self = Self(4);
    /// It has not seen another member yet.
    pub const FIRST: Self = Self(8);
    /// It has a quorum device.
    pub const DEVICE_REGISTERED: Self = Self(16);
    /// The device polls.
    pub const DEVICE_ALIVE: Self = Self(32);
    /// The device gives its vote.
    pub const DEVICE_CAST_VOTE: Self = Self(64);
    /// The device decides alone.
    pub const DEVICE_MASTER_WINS: Self = Self(128);

    /// All bits of `other` are set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// With the bits of `other` set or cleared.
    #[must_use]
    pub fn with(self, other: Self, on: bool) -> Self {
        if on {
            self | other
        } else {
            Self(self.0 & !other.0)
        }
    }
}

impl BitOr for NodeFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for NodeFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeFlags({:#x})", self.0)
    }
}

impl Message {
    pub(super) fn function(&self) -> u16 {
        match self {
            Self::NodeInfo(_) => FUNCTION_NODE_INFO,
            Self::Reconfigure { .. } => FUNCTION_RECONFIGURE,
            Self::Device { .. } => FUNCTION_DEVICE,
            Self::DeviceRename { .. } => FUNCTION_DEVICE_RENAME,
        }
    }

    pub(super) fn decode(
        function: u32,
        reader: &mut Reader<'_>,
        bytes: &Bytes,
    ) -> Result<Self, DecodeError> {
        let message = match u16::try_from(function) {
            Ok(FUNCTION_NODE_INFO) => Self::NodeInfo(NodeInfo {
                node: NodeId(reader.u32()?),
                votes: reader.u32()?,
                expected_votes: reader.u32()?,
                flags: NodeFlags(reader.u32()?),
            }),
            Ok(FUNCTION_RECONFIGURE) => {
                let node = NodeId(reader.u32()?);
                let value = reader.u32()?;
                let parameter = match reader.u8()? {
                    1 => Parameter::ExpectedVotes,
                    2 => Parameter::Votes,
                    3 => Parameter::CancelWaitForAll,
                    _ => return Err(DecodeError::Malformed("parameter")),
                };
                reader.skip(7)?;
                Self::Reconfigure {
                    node,
                    value,
                    parameter,
                }
            }
            Ok(FUNCTION_DEVICE) => {
                let registered = match reader.u32()? {
                    0 => false,
                    1 => true,
                    _ => return Err(DecodeError::Malformed("operation on a quorum device")),
                };
                let name = decode_device_name(reader, bytes)?;
                reader.skip(5)?;
                Self::Device { registered, name }
            }
            Ok(FUNCTION_DEVICE_RENAME) => {
                let old = decode_device_name(reader, bytes)?;
                let new = decode_device_name(reader, bytes)?;
                reader.skip(2)?;
                Self::DeviceRename { old, new }
            }
            _ => return Err(DecodeError::UnknownKind(function)),
        };
        Ok(message)
    }

    /// Names of devices that are too long are cut.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::NodeInfo(info) => {
                out.put_u32(info.node.0);
                out.put_u32(info.votes);
                out.put_u32(info.expected_votes);
                out.put_u32(info.flags.0);
            }
            Self::Reconfigure {
                node,
                value,
                parameter,
            } => {
                out.put_u32(node.0);
                out.put_u32(*value);
                out.put_u8(match parameter {
                    Parameter::ExpectedVotes => 1,
                    Parameter::Votes => 2,
                    Parameter::CancelWaitForAll => 3,
                });
                out.put_zeros(7);
            }
            Self::Device { registered, name } => {
                out.put_u32(u32::from(*registered));
                encode_device_name(name, out);
                out.put_zeros(5);
            }
            Self::DeviceRename { old, new } => {
                encode_device_name(old, out);
                encode_device_name(new, out);
                out.put_zeros(2);
            }
        }
    }
}

fn decode_device_name(reader: &mut Reader<'_>, bytes: &Bytes) -> Result<Bytes, DecodeError> {
    let start = reader.position();
    let field = reader.take(DEVICE_NAME_CAPACITY)?;
    let len = field
        .iter()
        .position(|byte| *byte == 0)
        .ok_or(DecodeError::Malformed("name of a quorum device"))?;
    Ok(bytes.slice(start..start + len))
}

fn encode_device_name(name: &[u8], out: &mut Vec<u8>) {
    let name = name.get(..DEVICE_NAME_CAPACITY - 1).unwrap_or(name);
    out.put_bytes(name);
    out.put_zeros(DEVICE_NAME_CAPACITY - name.len());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::exec;
    use super::*;

    fn message() -> impl Strategy<Value = Message> {
        let name = || prop::collection::vec(1..=u8::MAX, 0..255).prop_map(Bytes::from);
        let parameters = vec![
            Parameter::ExpectedVotes,
            Parameter::Votes,
            Parameter::CancelWaitForAll,
        ];
        let parameter = prop::sample::select(parameters);
        prop_oneof![
            any::<(u32, u32, u32, u32)>().prop_map(|(node, votes, expected_votes, flags)| {
                Message::NodeInfo(NodeInfo {
                    node: NodeId(node),
                    votes,
                    expected_votes,
                    flags: NodeFlags(flags),
                })
            }),
            (any::<u32>(), any::<u32>(), parameter).prop_map(|(node, value, parameter)| {
                Message::Reconfigure {
                    node: NodeId(node),
                    value,
                    parameter,
                }
            }),
            (any::<bool>(), name())
                .prop_map(|(registered, name)| Message::Device { registered, name }),
            (name(), name()).prop_map(|(old, new)| Message::DeviceRename { old, new }),
        ]
    }

    proptest! {
        #[test]
        fn messages_decode_to_what_was_encoded(message in message()) {
            let message = exec::Message::Votequorum(message);
            let mut out = Vec::new();
            message.encode(&mut out);
            prop_assert_eq!(exec::Message::decode(&Bytes::from(out)), Ok(message));
        }
    }

    #[test]
    fn flags_are_set_and_cleared() {
        let flags = NodeFlags::default().with(NodeFlags::QUORATE | NodeFlags::FIRST, true);
        assert!(flags.contains(NodeFlags::FIRST));
        assert!(
            !flags
                .with(NodeFlags::FIRST, false)
                .contains(NodeFlags::FIRST)
        );
        assert!(!flags.contains(NodeFlags::LEAVING));
    }
}
