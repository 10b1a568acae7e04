//! Messages of process groups.

use bytes::Bytes;

use super::exec::{Source, fixed_field};
use super::{DecodeError, NodeId, Put, Reader};

/// Longest name of a group.
pub const MAX_GROUP_NAME_LEN: usize = 128;
/// Most node ids that a downlist has room for.
pub const MAX_DOWNLIST: usize = 384;

/// Bytes of a [`Message::Join`] or [`Message::Leave`], header included.
pub const PROCESS_LEN: usize = 168;
/// Bytes of a [`Message::Mcast`] before its payload, header included.
pub const MCAST_HEAD_LEN: usize = 184;
/// Bytes of a [`Message::Partial`] before its payload, header included.
pub const PARTIAL_HEAD_LEN: usize = 200;

const FUNCTION_JOIN: u16 = 0;
const FUNCTION_LEAVE: u16 = 1;
const FUNCTION_JOINLIST: u16 = 2;
const FUNCTION_MCAST: u16 = 3;
const FUNCTION_DOWNLIST: u16 = 5;
const FUNCTION_PARTIAL: u16 = 6;
/// Rest of a response header, which the joinlist has for no reason.
const JOINLIST_HOLE: usize = 8;
const JOINLIST_ENTRY_LEN: usize = 144;

/// A message of this service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A process joins a group.
    Join(Process),
    /// A process leaves a group.
    Leave(Process),
    /// Every process of the sender's node, in a synchronization.
    Joinlist(Vec<JoinlistEntry>),
    /// A client's message.
    Mcast(Mcast),
    /// The nodes that the sender lost, in a synchronization.
    Downlist(Downlist),
    /// A piece of a client's message that is too large for one.
    Partial(Partial),
}

/// Why a process is or is no longer in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It joined.
    Join,
    /// It left.
    Leave,
    /// Its node was lost.
    NodeDown,
    /// Its node came.
    NodeUp,
    /// It died or lost its connection.
    ProcessDown,
    /// Not one that is known, kept as it came.
    Other(u32),
}

impl Reason {
    /// Number on the wire and in the client library.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Join => 1,
            Self::Leave => 2,
            Self::NodeDown => 3,
            Self::NodeUp => 4,
            Self::ProcessDown => 5,
            Self::Other(number) => number,
        }
    }

    fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Join,
            2 => Self::Leave,
            3 => Self::NodeDown,
            4 => Self::NodeUp,
            5 => Self::ProcessDown,
            other => Self::Other(other),
        }
    }
}

/// A process that joins or leaves. Its node is the sender of the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Name of the group, at most [`MAX_GROUP_NAME_LEN`] bytes, of any value.
    pub group: Bytes,
    /// Process id.
    pub pid: u32,
    /// Why.
    pub reason: Reason,
}

/// One process of a joinlist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinlistEntry {
    /// Process id.
    pub pid: u32,
    /// Name of the group.
    pub group: Bytes,
}

/// A client's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mcast {
    /// Name of the group.
    pub group: Bytes,
    /// Process that sent it.
    pub pid: u32,
    /// Its connection.
    pub source: Source,
    /// What it sent.
    pub payload: Bytes,
}

/// A piece of a client's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partial {
    /// Name of the group.
    pub group: Bytes,
    /// Bytes of the whole message.
    pub total: u32,
    /// Process that sent it.
    pub pid: u32,
    /// Place in the message.
    pub piece: Piece,
    /// Its connection.
    pub source: Source,
    /// The bytes of this piece.
    pub payload: Bytes,
}

/// Place of a piece in its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// Starts a message; one that is still open is given up.
    First,
    /// Neither first nor last.
    Continued,
    /// Ends the message.
    Last,
}

/// Nodes that were lost between two synchronizations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Downlist {
    /// Members of the previous synchronized membership.
    pub old_members: u32,
    /// Which of them are gone, at most [`MAX_DOWNLIST`].
    pub left: Vec<NodeId>,
}

impl Message {
    pub(super) fn function(&self) -> u16 {
        match self {
            Self::Join(_) => FUNCTION_JOIN,
            Self::Leave(_) => FUNCTION_LEAVE,
            Self::Joinlist(_) => FUNCTION_JOINLIST,
            Self::Mcast(_) => FUNCTION_MCAST,
            Self::Downlist(_) => FUNCTION_DOWNLIST,
            Self::Partial(_) => FUNCTION_PARTIAL,
        }
    }

    pub(super) fn decode(
        function: u32,
        reader: &mut Reader<'_>,
        bytes: &Bytes,
    ) -> Result<Self, DecodeError> {
        match u16::try_from(function) {
            Ok(FUNCTION_JOIN) => Process::decode(reader, bytes).map(Self::Join),
            Ok(FUNCTION_LEAVE) => Process::decode(reader, bytes).map(Self::Leave),
            Ok(FUNCTION_JOINLIST) => decode_joinlist(reader, bytes).map(Self::Joinlist),
            Ok(FUNCTION_MCAST) => Mcast::decode(reader, bytes).map(Self::Mcast),
            Ok(FUNCTION_DOWNLIST) => Downlist::decode(reader).map(Self::Downlist),
            Ok(FUNCTION_PARTIAL) => Partial::decode(reader, bytes).map(Self::Partial),
            _ => Err(DecodeError::UnknownKind(function)),
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Join(process) | Self::Leave(process) => process.encode(out),
            Self::Joinlist(entries) => {
                out.put_zeros(JOINLIST_HOLE);
                for entry in entries {
                    put_padded_u32(entry.pid, out);
                    encode_group(&entry.group, out);
                }
            }
            Self::Mcast(mcast) => mcast.encode(out),
            Self::Downlist(downlist) => downlist.encode(out),
            Self::Partial(partial) => partial.encode(out),
        }
    }
}

fn decode_joinlist(
    reader: &mut Reader<'_>,
    bytes: &Bytes,
) -> Result<Vec<JoinlistEntry>, DecodeError> {
    reader.skip(JOINLIST_HOLE)?;
    let mut entries = Vec::with_capacity(reader.remaining() / JOINLIST_ENTRY_LEN);
    while reader.remaining() > 0 {
        let pid = padded_u32(reader)?;
        let group = decode_group(reader, bytes)?;
        entries.push(JoinlistEntry { pid, group });
    }
    Ok(entries)
}

impl Process {
    fn decode(reader: &mut Reader<'_>, bytes: &Bytes) -> Result<Self, DecodeError> {
        Ok(Self {
            group: decode_group(reader, bytes)?,
            pid: padded_u32(reader)?,
            reason: Reason::from_number(padded_u32(reader)?),
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        encode_group(&self.group, out);
        put_padded_u32(self.pid, out);
        put_padded_u32(self.reason.number(), out);
    }
}

impl Mcast {
    fn decode(reader: &mut Reader<'_>, bytes: &Bytes) -> Result<Self, DecodeError> {
        let group = decode_group(reader, bytes)?;
        let len = padded_u32(reader)?;
        let pid = padded_u32(reader)?;
        let source = Source::decode(reader)?;
        Ok(Self {
            group,
            pid,
            source,
            payload: decode_payload(len, reader, bytes)?,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        encode_group(&self.group, out);
        out.put_length(self.payload.len());
        out.put_zeros(4);
        put_padded_u32(self.pid, out);
        self.source.encode(out);
        out.put_bytes(&self.payload);
    }
}

impl Partial {
    fn decode(reader: &mut Reader<'_>, bytes: &Bytes) -> Result<Self, DecodeError> {
        let group = decode_group(reader, bytes)?;
        let total = padded_u32(reader)?;
        let len = padded_u32(reader)?;
        let pid = padded_u32(reader)?;
        let piece = match padded_u32(reader)? {
            1 => Piece::First,
            2 => Piece::Continued,
            3 => Piece::Last,
            _ => return Err(DecodeError::Malformed("place of a piece")),
        };
        let source = Source::decode(reader)?;
        Ok(Self {
            group,
            total,
            pid,
            piece,
            source,
            payload: decode_payload(len, reader, bytes)?,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        encode_group(&self.group, out);
        put_padded_u32(self.total, out);
        out.put_length(self.payload.len());
        out.put_zeros(4);
        put_padded_u32(self.pid, out);
        let piece = match self.piece {
            Piece::First => 1,
            Piece::Continued => 2,
            Piece::Last => 3,
        };
        put_padded_u32(piece, out);
        self.source.encode(out);
        out.put_bytes(&self.payload);
    }
}

impl Downlist {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let old_members = padded_u32(reader)?;
        let count = reader.length()?;
        reader.skip(4)?;
        if count > MAX_DOWNLIST {
            return Err(DecodeError::Malformed("number of lost nodes"));
        }
        let left = (0..count)
            .map(|_| reader.u32().map(NodeId))
            .collect::<Result<_, _>>()?;
        reader.skip(4 * (MAX_DOWNLIST - count))?;
        Ok(Self { old_members, left })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let left = self.left.get(..MAX_DOWNLIST).unwrap_or(&self.left);
        put_padded_u32(self.old_members, out);
        out.put_length(left.len());
        out.put_zeros(4);
        left.iter().for_each(|node| out.put_u32(node.0));
        out.put_zeros(4 * (MAX_DOWNLIST - left.len()));
    }
}

fn decode_payload(len: u32, reader: &mut Reader<'_>, bytes: &Bytes) -> Result<Bytes, DecodeError> {
    let start = reader.position();
    let have = reader.rest().len();
    match usize::try_from(len) {
        Ok(len) if len == have => Ok(bytes.slice(start..start + len)),
        _ => Err(DecodeError::Malformed("length of a payload")),
    }
}

fn decode_group(reader: &mut Reader<'_>, bytes: &Bytes) -> Result<Bytes, DecodeError> {
    let len = reader.length()?;
    reader.skip(4)?;
    fixed_field(reader, bytes, len, MAX_GROUP_NAME_LEN)
}

/// A name that is too long is cut: clients are refused such names long before.
fn encode_group(group: &[u8], out: &mut Vec<u8>) {
    let group = group.get(..MAX_GROUP_NAME_LEN).unwrap_or(group);
    out.put_length(group.len());
    out.put_zeros(4);
    out.put_bytes(group);
    out.put_zeros(MAX_GROUP_NAME_LEN - group.len());
}

fn padded_u32(reader: &mut Reader<'_>) -> Result<u32, DecodeError> {
    let value = reader.u32()?;
    reader.skip(4)?;
    Ok(value)
}

fn put_padded_u32(value: u32, out: &mut Vec<u8>) {
    out.put_u32(value);
    out.put_zeros(4);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::exec;
    use super::*;

    fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..=max).prop_map(Bytes::from)
    }

    fn process() -> impl Strategy<Value = Process> {
        (bytes(MAX_GROUP_NAME_LEN), any::<u32>(), 0..8_u32).prop_map(|(group, pid, reason)| {
            Process {
                group,
                pid,
                reason: Reason::from_number(reason),
            }
        })
    }

    fn source() -> impl Strategy<Value = Source> {
        any::<(u32, u64)>().prop_map(|(node, connection)| Source {
            node: NodeId(node),
            connection,
        })
    }

    fn entry() -> impl Strategy<Value = JoinlistEntry> {
        (any::<u32>(), bytes(MAX_GROUP_NAME_LEN))
            .prop_map(|(pid, group)| JoinlistEntry { pid, group })
    }

    fn client_message() -> impl Strategy<Value = Message> {
        let pieces = vec![
            None,
            Some(Piece::First),
            Some(Piece::Continued),
            Some(Piece::Last),
        ];
        let numbers = any::<(u32, u32)>();
        let piece = prop::sample::select(pieces);
        (
            bytes(MAX_GROUP_NAME_LEN),
            numbers,
            piece,
            source(),
            bytes(300),
        )
            .prop_map(
                |(group, (pid, total), piece, source, payload)| match piece {
                    None => Message::Mcast(Mcast {
                        group,
                        pid,
                        source,
                        payload,
                    }),
                    Some(piece) => Message::Partial(Partial {
                        group,
                        total,
                        pid,
                        piece,
                        source,
                        payload,
                    }),
                },
            )
    }

    fn message() -> impl Strategy<Value = Message> {
        prop_oneof![
            process().prop_map(Message::Join),
            process().prop_map(Message::Leave),
            prop::collection::vec(entry(), 0..5).prop_map(Message::Joinlist),
            client_message(),
            (
                any::<u32>(),
                prop::collection::vec(any::<u32>(), 0..=MAX_DOWNLIST)
            )
                .prop_map(|(old_members, left)| {
                    let left = left.into_iter().map(NodeId).collect();
                    Message::Downlist(Downlist { old_members, left })
                }),
        ]
    }

    proptest! {
        #[test]
        fn messages_decode_to_what_was_encoded(message in message()) {
            let message = exec::Message::Cpg(message);
            let mut out = Vec::new();
            message.encode(&mut out);
            prop_assert_eq!(exec::Message::decode(&Bytes::from(out)), Ok(message));
        }

        /// Lengths and counts of a message that was right are made wrong, one at a time.
        #[test]
        fn damaged_messages_are_refused_or_decode_to_what_encodes(
            message in message(),
            at in any::<prop::sample::Index>(),
            value in prop::sample::select(vec![0, 1, 127, 128, 129, 255]),
        ) {
            let mut out = Vec::new();
            exec::Message::Cpg(message).encode(&mut out);
            let at = at.index(out.len());
            out[at] = value;
            if let Ok(message) = exec::Message::decode(&Bytes::from(out)) {
                let mut again = Vec::new();
                message.encode(&mut again);
                prop_assert_eq!(exec::Message::decode(&Bytes::from(again)), Ok(message));
            }
        }
    }
}
