//! Codecs of everything that nodes send to each other.
//!
//! Bytes become typed values here and nowhere else. The modules know formats only: no state, no
//! I/O, no clock. Integers are little endian unless a module says otherwise: rings of mixed byte
//! order do not work with any implementation, so none is offered.
//!
//! | module | bytes |
//! |---|---|
//! | [`knet`] | datagrams of the multi-link transport, after decryption |
//! | [`srp`] | messages of the single-ring protocol |
//! | [`pg`] | frames that pack and fragment messages, and the group names in front of each message |
//! | [`exec`] | header of messages between services, and the choice of the service |
//! | [`sync`] | barriers of the synchronization phase |
//! | [`cmap`], [`mod@cfg`], [`cpg`], [`votequorum`] | messages of one service each |
//!
//! Holes in the layouts carry arbitrary bytes in messages of other implementations. They are
//! skipped when reading and written as zeros.
//!
//! Invariant: no input makes a decoder panic, read outside its input or allocate more than a small
//! multiple of it.

#![warn(clippy::indexing_slicing)]

pub mod cfg;
pub mod cmap;
pub mod cpg;
pub mod exec;
pub mod knet;
pub mod pg;
pub mod srp;
pub mod sync;
pub mod votequorum;

pub use srp::{NodeId, RingId};

#[cfg(test)]
pub(crate) mod vectors;

/// Why bytes from the network were not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends inside a part that has to be there.
    #[error("message of {have} bytes is too short, {need} are needed")]
    TooShort {
        /// Bytes needed up to the end of the part that was being read.
        need: usize,
        /// Bytes that were there.
        have: usize,
    },
    /// Bytes are left over, or a length field says something else than the bytes that came.
    #[error("message of {have} bytes says it has {expected}")]
    WrongLength {
        /// Length by the message's own fields.
        expected: usize,
        /// Bytes that were there.
        have: usize,
    },
    /// A version that this program does not speak.
    #[error("version {0} of the protocol is not known")]
    UnknownVersion(u32),
    /// A kind of message that is not known. Such messages are ignored.
    #[error("message of kind {0:#x} is not known")]
    UnknownKind(u32),
    /// A field has a value outside its range.
    #[error("malformed message: {0}")]
    Malformed(&'static str),
}

impl RingId {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            rep: NodeId(reader.u32()?),
            seq: reader.u64()?,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.rep.0);
        out.put_u64(self.seq);
    }
}

/// Bounds-checked cursor over a received message.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    total: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            total: bytes.len(),
        }
    }

    /// Bytes read so far.
    pub(crate) fn position(&self) -> usize {
        self.total - self.rest.len()
    }

    /// Bytes not read yet.
    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let Some((taken, rest)) = self.rest.split_at_checked(len) else {
            return Err(DecodeError::TooShort {
                need: self.position().saturating_add(len),
                have: self.total,
            });
        };
        self.rest = rest;
        Ok(taken)
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Passes over bytes whose content means nothing.
    pub(crate) fn skip(&mut self, len: usize) -> Result<(), DecodeError> {
        self.take(len).map(drop)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    /// Big-endian, as the transport has them.
    pub(crate) fn u16_network(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length or count as an index.
    pub(crate) fn length(&mut self) -> Result<usize, DecodeError> {
        usize::try_from(self.u32()?).map_err(|_| DecodeError::Malformed("length"))
    }

    /// Refuses leftover bytes.
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(DecodeError::WrongLength {
            expected: self.position(),
            have: self.total,
        })
    }
}

/// Appends fields to a message being written.
pub(crate) trait Put {
    fn put_bytes(&mut self, bytes: &[u8]);

    fn put_u8(&mut self, value: u8) {
        self.put_bytes(&[value]);
    }

    fn put_u16(&mut self, value: u16) {
        self.put_bytes(&value.to_le_bytes());
    }

    fn put_u16_network(&mut self, value: u16) {
        self.put_bytes(&value.to_be_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.put_bytes(&value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.put_bytes(&value.to_le_bytes());
    }

    /// A length or count. Messages are far below 4 GiB, so it always fits.
    fn put_length(&mut self, value: usize) {
        self.put_u32(u32::try_from(value).unwrap_or(u32::MAX));
    }

    fn put_zeros(&mut self, count: usize);
}

impl Put for Vec<u8> {
    fn put_bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn put_zeros(&mut self, count: usize) {
        self.resize(self.len() + count, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reader_refuses_to_read_past_the_end() {
        let mut reader = Reader::new(&[1, 2, 3, 4, 5]);
        assert_eq!(reader.u32(), Ok(0x0403_0201));
        assert_eq!(
            reader.u16(),
            Err(DecodeError::TooShort { need: 6, have: 5 })
        );
        assert_eq!(
            reader.take(usize::MAX).unwrap_err(),
            DecodeError::TooShort {
                need: usize::MAX,
                have: 5
            }
        );
        assert_eq!(reader.u8(), Ok(5));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn leftover_bytes_are_an_error() {
        let mut reader = Reader::new(&[1, 2, 3]);
        reader.u8().unwrap();
        assert_eq!(reader.remaining(), 2);
        assert_eq!(
            reader.finish(),
            Err(DecodeError::WrongLength {
                expected: 1,
                have: 3
            })
        );
    }
}
