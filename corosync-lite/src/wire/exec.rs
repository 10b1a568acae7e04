//! Header of messages between the services of the nodes, and the choice of the service.
//!
//! A message is decoded only if the length in its header is the length that came: every known
//! sender is exact, and a receiver that took the field on trust could be made to read beyond it.

use bytes::Bytes;

use super::{DecodeError, NodeId, Put, Reader, cfg, cmap, cpg, votequorum};

/// Bytes of the header.
pub const HEADER_LEN: usize = 16;
const SOURCE_LEN: usize = 16;
const NAME_CAPACITY: usize = 256;

/// Service numbers.
pub mod service {
    /// Configuration map.
    pub const CMAP: u16 = 0;
    /// Cluster-wide commands.
    pub const CFG: u16 = 1;
    /// Process groups.
    pub const CPG: u16 = 2;
    /// Quorum. It sends no messages but takes part in the synchronization.
    pub const QUORUM: u16 = 3;
    /// Votes.
    pub const VOTEQUORUM: u16 = 5;
}

/// One message between services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Of the configuration map.
    Cmap(cmap::Message),
    /// Of the command service.
    Cfg(cfg::Message),
    /// Of the process groups.
    Cpg(cpg::Message),
    /// Of the vote counting.
    Votequorum(votequorum::Message),
}

impl Message {
    /// Decodes a message to the group [`Executive`](super::pg::Group::Executive); payloads share
    /// the buffer.
    ///
    /// # Errors
    /// [`DecodeError::UnknownKind`] for services and functions that are not known, which are to be
    /// ignored, and other errors for malformed ones.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let id = decode_header(&mut reader)?;
        let (service, function) = (id >> 16, id & 0xffff);
        let message = match u16::try_from(service) {
            Ok(service::CMAP) => Self::Cmap(cmap::Message::decode(function, &mut reader, bytes)?),
            Ok(service::CFG) => Self::Cfg(cfg::Message::decode(function, &mut reader, bytes)?),
            Ok(service::CPG) => Self::Cpg(cpg::Message::decode(function, &mut reader, bytes)?),
            Ok(service::VOTEQUORUM) => {
                Self::Votequorum(votequorum::Message::decode(function, &mut reader, bytes)?)
            }
            _ => return Err(DecodeError::UnknownKind(id)),
        };
        reader.finish()?;
        Ok(message)
    }

    /// Service and function.
    #[must_use]
    pub fn number(&self) -> (u16, u16) {
        match self {
            Self::Cmap(message) => (service::CMAP, message.function()),
            Self::Cfg(message) => (service::CFG, message.function()),
            Self::Cpg(message) => (service::CPG, message.function()),
            Self::Votequorum(message) => (service::VOTEQUORUM, message.function()),
        }
    }

    /// Appends the message to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (service, function) = self.number();
        let id = (u32::from(service) << 16) | u32::from(function);
        encode_message(id, out, |out| match self {
            Self::Cmap(message) => message.encode(out),
            Self::Cfg(message) => message.encode(out),
            Self::Cpg(message) => message.encode(out),
            Self::Votequorum(message) => message.encode(out),
        });
    }
}

/// Reads the header, checks the length and gives back the id.
pub(super) fn decode_header(reader: &mut Reader<'_>) -> Result<u32, DecodeError> {
    let have = reader.remaining();
    let id = reader.u32()?;
    reader.skip(4)?;
    let expected = reader.length()?;
    reader.skip(4)?;
    if expected == have {
        Ok(id)
    } else {
        Err(DecodeError::WrongLength { expected, have })
    }
}

/// Writes the header around what `body` writes.
pub(super) fn encode_message(id: u32, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.put_u32(id);
    out.put_zeros(HEADER_LEN - 4);
    body(out);
    let len = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    if let Some(field) = out.get_mut(start + 8..start + 12) {
        field.copy_from_slice(&len.to_le_bytes());
    }
}

/// The client connection that a message comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Source {
    /// Node of the client.
    pub node: NodeId,
    /// Means something to that node only.
    pub connection: u64,
}

impl Source {
    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(reader.take(SOURCE_LEN)?);
        let node = NodeId(reader.u32()?);
        reader.skip(4)?;
        let connection = reader.u64()?;
        Ok(Self { node, connection })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.node.0);
        out.put_zeros(4);
        out.put_u64(self.connection);
    }
}

/// Reads a name of up to 256 bytes in its fixed field.
pub(super) fn decode_name(reader: &mut Reader<'_>, bytes: &Bytes) -> Result<Bytes, DecodeError> {
    let len = usize::from(reader.u16()?);
    reader.skip(6)?;
    fixed_field(reader, bytes, len, NAME_CAPACITY)
}

/// Writes a name of up to 256 bytes; what is longer is cut.
pub(super) fn encode_name(name: &[u8], out: &mut Vec<u8>) {
    let name = name.get(..NAME_CAPACITY).unwrap_or(name);
    out.put_u16(u16::try_from(name.len()).unwrap_or(0));
    out.put_zeros(6);
    out.put_bytes(name);
    out.put_zeros(NAME_CAPACITY - name.len());
}

/// Takes `capacity` bytes of which `len` count.
pub(super) fn fixed_field(
    reader: &mut Reader<'_>,
    bytes: &Bytes,
    len: usize,
    capacity: usize,
) -> Result<Bytes, DecodeError> {
    if len > capacity {
        return Err(DecodeError::Malformed("length of a name"));
    }
    let start = reader.position();
    reader.skip(capacity)?;
    Ok(bytes.slice(start..start + len))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn known_ids() -> Vec<u32> {
        vec![
            0, 0x10000, 0x10001, 0x10002, 0x10003, 0x10004, 0x20000, 0x20001, 0x20002, 0x20003,
            0x20005, 0x20006, 0x50000, 0x50001, 0x50002, 0x50003,
        ]
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_never_panic(
            id in prop::sample::select(known_ids()),
            body in prop::collection::vec(any::<u8>(), 0..2000),
            small_lengths: bool,
        ) {
            let mut body = body;
            if small_lengths {
                // Length fields with plausible values get further into the decoders.
                body.iter_mut().skip(1).step_by(2).for_each(|byte| *byte = 0);
            }
            let mut out = Vec::new();
            encode_message(id, &mut out, |out| out.put_bytes(&body));
            if let Ok(message) = Message::decode(&Bytes::from(out)) {
                let mut again = Vec::new();
                message.encode(&mut again);
                prop_assert_eq!(Message::decode(&Bytes::from(again)), Ok(message));
            }
        }
    }

    #[test]
    fn wrong_length_and_unknown_services_are_refused() {
        let mut out = Vec::new();
        encode_message(0x0007_0001, &mut out, |_| ());
        assert_eq!(
            Message::decode(&Bytes::from(out.clone())),
            Err(DecodeError::UnknownKind(0x0007_0001))
        );
        out.push(0);
        assert_eq!(
            Message::decode(&Bytes::from(out)),
            Err(DecodeError::WrongLength {
                expected: 16,
                have: 17
            })
        );
    }
}
