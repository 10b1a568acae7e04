//! Frames of the packing layer, and the names of groups in front of each message.
//!
//! A frame carries whole messages and pieces of messages of one sender. The first piece may
//! continue the last one of the sender's previous frame; the last piece may continue in its next.

use bytes::Bytes;

use super::{DecodeError, Put, Reader};

/// Bytes of a frame's fixed header.
pub const FRAME_HEADER_LEN: usize = 8;
/// Bytes per piece in front of the data.
pub const PIECE_HEADER_LEN: usize = 2;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// 0 = the last piece ends its message; else a number that the sender's next frame repeats as
    /// its `continuation`.
    pub fragmented: u8,
    /// 0 = the first piece starts a message; else it continues the one that the sender's previous
    /// frame left open under this number.
    pub continuation: u8,
    /// The pieces, in order.
    pub pieces: Vec<Bytes>,
}

impl Frame {
    /// Decodes a frame; the pieces share its buffer.
    ///
    /// # Errors
    /// When version or type are not zero, or the lengths do not add up to the frame exactly.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u16()?;
        if version != 0 {
            return Err(DecodeError::UnknownVersion(u32::from(version)));
        }
        let kind = reader.u16()?;
        if kind != 0 {
            return Err(DecodeError::UnknownKind(u32::from(kind)));
        }
        let fragmented = reader.u8()?;
        let continuation = reader.u8()?;
        let count = usize::from(reader.u16()?);
        let mut lengths = Reader::new(reader.take(count * PIECE_HEADER_LEN)?);
        let mut pieces = Vec::with_capacity(count);
        while lengths.remaining() > 0 {
            let start = reader.position();
            reader.skip(usize::from(lengths.u16()?))?;
            pieces.push(bytes.slice(start..reader.position()));
        }
        reader.finish()?;
        Ok(Self {
            fragmented,
            continuation,
            pieces,
        })
    }

    /// Appends the frame to `out`.
    ///
    /// # Errors
    /// When there are more than 65,535 pieces or one is longer than 65,535 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        let count = u16::try_from(self.pieces.len())
            .map_err(|_| DecodeError::Malformed("pieces of a frame"))?;
        out.put_u32(0);
        out.put_bytes(&[self.fragmented, self.continuation]);
        out.put_u16(count);
        for piece in &self.pieces {
            let len = u16::try_from(piece.len())
                .map_err(|_| DecodeError::Malformed("length of a piece"))?;
            out.put_u16(len);
        }
        for piece in &self.pieces {
            out.put_bytes(piece);
        }
        Ok(())
    }
}

/// Who a message is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Group {
    /// The services.
    Executive,
    /// The synchronization phase.
    Sync,
    /// Somebody else. Ignored.
    Other(Bytes),
}

impl Group {
    fn name(&self) -> &[u8] {
        match self {
            Self::Executive => b"a",
            Self::Sync => b"sync",
            Self::Other(name) => name,
        }
    }

    /// Appends what stands in front of a message to this group alone.
    pub fn write_alone(&self, out: &mut Vec<u8>) {
        let name = self.name();
        out.put_u16(1);
        out.put_u16(u16::try_from(name.len()).unwrap_or(u16::MAX));
        out.put_bytes(name);
    }

    /// Takes apart a message to one of the two groups of every node alone: all of them, in
    /// practice. Others are for [`Message::decode`].
    #[must_use]
    pub fn split_alone(message: &Bytes) -> Option<(Self, Bytes)> {
        let one = |group: Self, len: usize| Some((group, message.slice(len..)));
        match message.get(..) {
            Some([1, 0, 1, 0, b'a', ..]) => one(Self::Executive, 5),
            Some([1, 0, 4, 0, b's', b'y', b'n', b'c', ..]) => one(Self::Sync, 8),
            _ => None,
        }
    }
}

/// A complete message: the groups that it is for, and what it says to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Receivers; one in practice.
    pub groups: Vec<Group>,
    /// What follows the group names.
    pub body: Bytes,
}

impl Message {
    /// A message to one group.
    #[must_use]
    pub fn new(group: Group, body: Bytes) -> Self {
        Self {
            groups: vec![group],
            body,
        }
    }

    /// Decodes a complete message; its parts share the buffer.
    ///
    /// # Errors
    /// When it ends inside the names.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let count = usize::from(reader.u16()?);
        let mut lengths = Reader::new(reader.take(count * 2)?);
        let mut groups = Vec::with_capacity(count);
        while lengths.remaining() > 0 {
            let start = reader.position();
            groups.push(match reader.take(usize::from(lengths.u16()?))? {
                b"a" => Group::Executive,
                b"sync" => Group::Sync,
                _ => Group::Other(bytes.slice(start..reader.position())),
            });
        }
        Ok(Self {
            groups,
            body: bytes.slice(reader.position()..),
        })
    }

    /// Appends the message to `out`.
    ///
    /// # Errors
    /// When there are more than 65,535 groups or a name is longer than 65,535 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        let too_long = |_| DecodeError::Malformed("group names");
        out.put_u16(u16::try_from(self.groups.len()).map_err(too_long)?);
        for group in &self.groups {
            out.put_u16(u16::try_from(group.name().len()).map_err(too_long)?);
        }
        for group in &self.groups {
            out.put_bytes(group.name());
        }
        out.put_bytes(&self.body);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..max).prop_map(Bytes::from)
    }

    proptest! {
        #[test]
        fn frames_decode_to_what_was_encoded(
            fragmented: u8,
            continuation: u8,
            pieces in prop::collection::vec(bytes(300), 0..20),
        ) {
            let frame = Frame { fragmented, continuation, pieces };
            let mut out = Vec::new();
            frame.encode(&mut out).unwrap();
            prop_assert_eq!(Frame::decode(&Bytes::from(out)), Ok(frame));
        }

        #[test]
        fn messages_decode_to_what_was_encoded(body in bytes(300), other in bytes(10)) {
            let other = if matches!(&other[..], b"a" | b"sync") { Bytes::new() } else { other };
            let groups = vec![Group::Sync, Group::Other(other), Group::Executive];
            let message = Message { groups, body };
            let mut out = Vec::new();
            message.encode(&mut out).unwrap();
            prop_assert_eq!(Message::decode(&Bytes::from(out)), Ok(message));
        }

        #[test]
        fn arbitrary_bytes_never_panic(input in bytes(100)) {
            std::hint::black_box(Frame::decode(&input).is_ok());
            std::hint::black_box(Message::decode(&input).is_ok());
            let mut framed = vec![0; 4];
            framed.extend_from_slice(&input);
            std::hint::black_box(Frame::decode(&Bytes::from(framed)).is_ok());
        }
    }

    #[test]
    fn messages_to_one_group_are_written_and_taken_apart() {
        for group in [Group::Executive, Group::Sync] {
            let mut out = Vec::new();
            group.write_alone(&mut out);
            out.extend_from_slice(b"body");
            let message = Bytes::from(out);
            let body = Bytes::from_static(b"body");
            assert_eq!(
                Group::split_alone(&message),
                Some((group.clone(), body.clone()))
            );
            assert_eq!(Message::decode(&message), Ok(Message::new(group, body)));
            assert_eq!(Group::split_alone(&message.slice(..3)), None);
        }
    }

    #[test]
    fn lengths_have_to_add_up() {
        let frame = |bytes: &'static [u8]| Frame::decode(&Bytes::from_static(bytes));
        assert!(frame(&[0, 0, 0, 0, 0, 0, 1, 0, 2, 0, 7, 8]).is_ok());
        assert!(matches!(
            frame(&[0, 0, 0, 0, 0, 0, 1, 0, 2, 0, 7]),
            Err(DecodeError::TooShort { .. })
        ));
        assert!(matches!(
            frame(&[0, 0, 0, 0, 0, 0, 1, 0, 2, 0, 7, 8, 9]),
            Err(DecodeError::WrongLength { .. })
        ));
    }
}
