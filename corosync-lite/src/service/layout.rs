//! Fields at fixed offsets, and what all services share.

#![warn(clippy::indexing_slicing)]

use bytes::Bytes;

use crate::qb::wire::{REQUEST_HEADER_LEN, RESPONSE_HEADER_LEN, RequestHeader};

/// Result of a request, as Corosync numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub i32);

#[expect(missing_docs, reason = "the names say it")]
impl Status {
    pub const OK: Self = Self(1);
    pub const LIBRARY: Self = Self(2);
    pub const TIMEOUT: Self = Self(5);
    pub const TRY_AGAIN: Self = Self(6);
    pub const INVALID_PARAM: Self = Self(7);
    pub const NO_MEMORY: Self = Self(8);
    pub const BAD_HANDLE: Self = Self(9);
    pub const BUSY: Self = Self(10);
    pub const ACCESS: Self = Self(11);
    pub const NOT_EXIST: Self = Self(12);
    pub const NAME_TOO_LONG: Self = Self(13);
    pub const EXIST: Self = Self(14);
    pub const NO_SPACE: Self = Self(15);
    pub const INTERRUPT: Self = Self(16);
    pub const NAME_NOT_FOUND: Self = Self(17);
    pub const NO_RESOURCES: Self = Self(18);
    pub const NOT_SUPPORTED: Self = Self(19);
    pub const FAILED_OPERATION: Self = Self(21);
    pub const MESSAGE_ERROR: Self = Self(22);
    pub const TOO_BIG: Self = Self(26);
    pub const NO_SECTIONS: Self = Self(27);
}

/// Why a request was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than its layout, or than a length in it.
    #[error("message of {have} bytes is too short, {need} are needed")]
    TooShort {
        /// Bytes needed.
        need: usize,
        /// Bytes that were there.
        have: usize,
    },
    /// The service has no such request or event.
    #[error("number {0} is not known to the service")]
    UnknownId(i32),
    /// A name longer than its field.
    #[error("name of {0} bytes is too long")]
    NameTooLong(usize),
    /// A field holds a value that it can not have.
    #[error("{0} is not valid")]
    BadField(&'static str),
}

impl DecodeError {
    /// What the client is told.
    pub fn status(self) -> Status {
        match self {
            Self::NameTooLong(_) => Status::NAME_TOO_LONG,
            Self::TooShort { .. } | Self::UnknownId(_) | Self::BadField(_) => Status::INVALID_PARAM,
        }
    }
}

/// A response or event, ready for [`crate::qb::Server::respond`] or `notify`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Number of the response or event.
    pub id: i32,
    /// Result.
    pub status: Status,
    /// What lies behind the head.
    pub body: Vec<u8>,
    /// What lies behind the body: data that is not copied.
    pub data: Bytes,
}

impl Message {
    /// A response that is nothing but a result.
    pub fn plain(id: i32, status: Status) -> Self {
        Self {
            id,
            status,
            body: Vec::new(),
            data: Bytes::new(),
        }
    }

    /// The answer to what was not understood, whatever the service.
    pub fn rejected(error: DecodeError) -> Self {
        Self::plain(0, error.status())
    }

    /// What to pass on as the body.
    pub fn parts(&self) -> [&[u8]; 2] {
        [&self.body, &self.data]
    }

    /// The whole message, for those who do not use the server.
    pub fn to_bytes(&self) -> Vec<u8> {
        let size = RESPONSE_HEADER_LEN + self.body.len() + self.data.len();
        let size = i32::try_from(size).unwrap_or(i32::MAX);
        let (id, error) = (self.id, self.status.0);
        let head = crate::qb::wire::ResponseHeader { id, size, error }.encode();
        [&head[..], &self.body, &self.data].concat()
    }
}

/// A ring: who made it, and which one it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RingId {
    /// Its representative.
    pub nodeid: u32,
    /// Grows with each ring.
    pub seq: u64,
}

/// Reads fields of a received message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn need(self, need: usize) -> Result<(), DecodeError> {
        let have = self.0.len();
        if have < need {
            return Err(DecodeError::TooShort { need, have });
        }
        Ok(())
    }

    pub(super) fn bytes(self, at: usize, length: usize) -> Result<&'a [u8], DecodeError> {
        let need = at.saturating_add(length);
        self.need(need)?;
        Ok(self.0.get(at..need).unwrap_or_default())
    }

    fn array<const N: usize>(self, at: usize) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(at, N)?);
        Ok(array)
    }

    pub(super) fn u8(self, at: usize) -> Result<u8, DecodeError> {
        self.array(at).map(u8::from_le_bytes)
    }

    pub(super) fn u16(self, at: usize) -> Result<u16, DecodeError> {
        self.array(at).map(u16::from_le_bytes)
    }

    pub(super) fn u32(self, at: usize) -> Result<u32, DecodeError> {
        self.array(at).map(u32::from_le_bytes)
    }

    pub(super) fn i32(self, at: usize) -> Result<i32, DecodeError> {
        self.array(at).map(i32::from_le_bytes)
    }

    pub(super) fn u64(self, at: usize) -> Result<u64, DecodeError> {
        self.array(at).map(u64::from_le_bytes)
    }

    pub(super) fn ring(self, at: usize) -> Result<RingId, DecodeError> {
        Ok(RingId {
            nodeid: self.u32(at)?,
            seq: self.u64(at + 8)?,
        })
    }

    /// A length or count that is used as such.
    pub(super) fn size(self, at: usize) -> Result<usize, DecodeError> {
        usize::try_from(self.u32(at)?).map_err(|_| DecodeError::BadField("length"))
    }

    /// `count` numbers in a row.
    pub(super) fn u32s(self, at: usize, count: usize) -> Result<Vec<u32>, DecodeError> {
        self.need(count.saturating_mul(4).saturating_add(at))?;
        (0..count).map(|index| self.u32(at + 4 * index)).collect()
    }

    /// A text in a field of `length` bytes, its NUL included: what [`Builder::text`] writes.
    pub(super) fn text(self, at: usize, length: usize) -> Result<String, DecodeError> {
        let mut text = self.counted_text(at, length)?;
        cut(&mut text, length.saturating_sub(1));
        Ok(text)
    }

    /// A text of `length` bytes, less if there is a NUL. Bytes that are no text take more room as
    /// text: it is cut, so that what was read is never longer than what may be written.
    pub(super) fn counted_text(self, at: usize, length: usize) -> Result<String, DecodeError> {
        let bytes = self.bytes(at, length)?;
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        let mut text = String::from_utf8_lossy(text).into_owned();
        cut(&mut text, length);
        Ok(text)
    }

    /// Result in the head of a response.
    pub(super) fn status(self) -> Result<Status, DecodeError> {
        self.i32(16).map(Status)
    }

    pub(super) fn id(self) -> Result<i32, DecodeError> {
        self.i32(0)
    }
}

/// Cuts a text between two characters, to `length` bytes or a few less.
fn cut(text: &mut String, length: usize) {
    while text.len() > length {
        text.pop();
    }
}

/// Writes a message of known length, zeros where nothing is put.
#[derive(Debug)]
pub(super) struct Builder(Vec<u8>);

impl Builder {
    pub(super) fn new(length: usize) -> Self {
        Self(vec![0; length])
    }

    /// What does not fit is cut off.
    pub(super) fn bytes(mut self, at: usize, value: &[u8]) -> Self {
        let room = self.0.get_mut(at..).unwrap_or_default();
        for (target, byte) in room.iter_mut().zip(value) {
            *target = *byte;
        }
        self
    }

    pub(super) fn u8(self, at: usize, value: u8) -> Self {
        self.bytes(at, &[value])
    }

    pub(super) fn u16(self, at: usize, value: u16) -> Self {
        self.bytes(at, &value.to_le_bytes())
    }

    pub(super) fn u32(self, at: usize, value: u32) -> Self {
        self.bytes(at, &value.to_le_bytes())
    }

    pub(super) fn i32(self, at: usize, value: i32) -> Self {
        self.bytes(at, &value.to_le_bytes())
    }

    pub(super) fn u64(self, at: usize, value: u64) -> Self {
        self.bytes(at, &value.to_le_bytes())
    }

    pub(super) fn ring(self, at: usize, ring: RingId) -> Self {
        self.u32(at, ring.nodeid).u64(at + 8, ring.seq)
    }

    pub(super) fn u32s(self, at: usize, values: &[u32]) -> Self {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.bytes(at, &bytes)
    }

    /// A number of elements; no list here is so long that it would not fit.
    pub(super) fn count(self, at: usize, count: usize) -> Self {
        self.u32(at, u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// A text in a field of `length` bytes, its NUL included.
    pub(super) fn text(self, at: usize, length: usize, text: &str) -> Self {
        let mut text = text.to_owned();
        cut(&mut text, length.saturating_sub(1));
        self.bytes(at, text.as_bytes())
    }

    /// Finishes a response or event.
    pub(super) fn message(mut self, id: i32, status: Status) -> Message {
        let body = self.0.split_off(RESPONSE_HEADER_LEN.min(self.0.len()));
        Message {
            id,
            status,
            body,
            data: Bytes::new(),
        }
    }

    /// Finishes a request, with data behind it.
    pub(super) fn request(self, id: i32, data: &[u8]) -> Vec<u8> {
        let size = i32::try_from(self.0.len() + data.len()).unwrap_or(i32::MAX);
        let mut bytes = self.bytes(0, &RequestHeader { id, size }.encode()).0;
        bytes.extend(data);
        bytes
    }
}

/// A request that is nothing but its head.
pub(super) fn bare(id: i32) -> Vec<u8> {
    Builder::new(REQUEST_HEADER_LEN).request(id, &[])
}

/// A request with one number behind its head.
pub(super) fn with_u32(id: i32, value: u32) -> Vec<u8> {
    Builder::new(24).u32(16, value).request(id, &[])
}

/// A request with one handle behind its head.
pub(super) fn with_u64(id: i32, value: u64) -> Vec<u8> {
    Builder::new(24).u64(16, value).request(id, &[])
}
