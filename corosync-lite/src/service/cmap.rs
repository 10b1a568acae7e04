//! Service `cmap`: the configuration map.
//!
//! Keys are texts of 3 to 255 characters; each value has a type of its own. A client reads and
//! writes single keys, walks through those with a prefix, and is told of changes.

use super::layout::{Builder, DecodeError, Fields, Message, Status, with_u32, with_u64};

/// Name of the service.
pub const NAME: &str = "cmap";
/// Longest key.
pub const KEY_MAX: usize = 255;

/// Kinds of changes that a tracker asks for and is told of.
#[expect(missing_docs, reason = "the names say it")]
pub mod track {
    pub const DELETE: u32 = 1;
    pub const MODIFY: u32 = 2;
    pub const ADD: u32 = 4;
    pub const PREFIX: u32 = 8;
}

/// Types of values, as clients number them.
#[expect(missing_docs, reason = "the names say it")]
pub mod kind {
    pub const I8: u8 = 1;
    pub const U8: u8 = 2;
    pub const I16: u8 = 3;
    pub const U16: u8 = 4;
    pub const I32: u8 = 5;
    pub const U32: u8 = 6;
    pub const I64: u8 = 7;
    pub const U64: u8 = 8;
    pub const F32: u8 = 9;
    pub const F64: u8 = 10;
    pub const TEXT: u8 = 11;
    pub const BINARY: u8 = 12;
}

/// A value as it travels: its type and its bytes. Texts end with a NUL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Raw {
    /// One of [`kind`].
    pub kind: u8,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields are those of the calls of the client library"
)]
pub enum Request {
    /// Stores a value.
    Set { key: String, value: Raw },
    /// Removes a key.
    Delete { key: String },
    /// Reads a value into `room` bytes; with no room, its type and length alone.
    Get { key: String, room: u64 },
    /// Adds to a whole number.
    Adjust { key: String, step: i32 },
    /// Starts a walk through the keys with a prefix.
    IterInit { prefix: String },
    /// The next key.
    IterNext { handle: u64 },
    /// Ends the walk.
    IterFinalize { handle: u64 },
    /// Sends events; `client_handle` comes back in them.
    TrackAdd {
        key: String,
        kinds: u32,
        client_handle: u64,
    },
    /// No more of them.
    TrackDelete { handle: u64 },
    /// Chooses the map: 0 configuration, 1 statistics.
    SetCurrentMap { map: u32 },
}

impl Request {
    /// Reads a request, head included.
    ///
    /// # Errors
    /// When it is none of this service, or too short.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let fields = Fields(message);
        let key = || key_at(fields, 16);
        let handle = || fields.u64(16);
        Ok(match fields.id()? {
            0 => {
                let length = usize::try_from(fields.u64(280)?);
                let length = length.map_err(|_| DecodeError::BadField("length"))?;
                let bytes = fields.bytes(296, length)?.to_vec();
                Self::Set {
                    key: key()?,
                    value: Raw {
                        kind: fields.u8(288)?,
                        bytes,
                    },
                }
            }
            1 => Self::Delete { key: key()? },
            2 => Self::Get {
                key: key()?,
                room: fields.u64(280)?,
            },
            3 => Self::Adjust {
                key: key()?,
                step: fields.i32(280)?,
            },
            4 => Self::IterInit { prefix: key()? },
            5 => Self::IterNext { handle: handle()? },
            6 => Self::IterFinalize { handle: handle()? },
            7 => Self::TrackAdd {
                key: key()?,
                kinds: fields.u32(280)?,
                client_handle: fields.u64(288)?,
            },
            8 => Self::TrackDelete { handle: handle()? },
            9 => Self::SetCurrentMap {
                map: fields.u32(16)?,
            },
            id => return Err(DecodeError::UnknownId(id)),
        })
    }

    /// The request as a client sends it.
    pub fn encode(&self) -> Vec<u8> {
        let keyed = |length, key: &str| put_key(Builder::new(length), 16, key);
        match self {
            Self::Set { key, value } => keyed(296, key)
                .u64(280, long(value.bytes.len()))
                .u8(288, value.kind)
                .request(0, &value.bytes),
            Self::Delete { key } => keyed(280, key).request(1, &[]),
            Self::Get { key, room } => keyed(288, key).u64(280, *room).request(2, &[]),
            Self::Adjust { key, step } => keyed(288, key).i32(280, *step).request(3, &[]),
            Self::IterInit { prefix } => keyed(280, prefix).request(4, &[]),
            Self::IterNext { handle } => with_u64(5, *handle),
            Self::IterFinalize { handle } => with_u64(6, *handle),
            Self::TrackAdd {
                key,
                kinds,
                client_handle,
            } => keyed(296, key)
                .u32(280, *kinds)
                .u64(288, *client_handle)
                .request(7, &[]),
            Self::TrackDelete { handle } => with_u64(8, *handle),
            Self::SetCurrentMap { map } => with_u32(9, *map),
        }
    }
}

/// What a client is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the requests")]
pub enum Response {
    /// To [`Request::Set`].
    Set(Status),
    /// To [`Request::Delete`].
    Delete(Status),
    /// To [`Request::Get`]: the message has room for what was asked, however short the value.
    Get {
        length: u64,
        kind: u8,
        value: Vec<u8>,
        room: usize,
    },
    /// To [`Request::Get`] when there is no such value, or too little room.
    NotGot(Status),
    /// To [`Request::Adjust`].
    Adjust(Status),
    /// To [`Request::IterInit`].
    IterInit(Result<u64, Status>),
    /// To [`Request::IterNext`]: key, type and length of its value.
    IterNext(Result<(String, u8, u64), Status>),
    /// To [`Request::IterFinalize`].
    IterFinalize(Status),
    /// To [`Request::TrackAdd`].
    TrackAdd(Result<u64, Status>),
    /// To [`Request::TrackDelete`]: the client's own handle.
    TrackDelete(Result<u64, Status>),
    /// To [`Request::SetCurrentMap`].
    SetCurrentMap(Status),
}

impl Response {
    /// The response as it goes out.
    pub fn encode(&self) -> Message {
        let handle = |id, result: &Result<u64, Status>| match result {
            Ok(handle) => Builder::new(32).u64(24, *handle).message(id, Status::OK),
            Err(status) => Builder::new(32).message(id, *status),
        };
        match self {
            Self::Set(status) => Message::plain(0, *status),
            Self::Delete(status) => Message::plain(1, *status),
            Self::Get {
                length,
                kind,
                value,
                room,
            } => Builder::new(40 + room)
                .u64(24, *length)
                .u8(32, *kind)
                .bytes(40, value)
                .message(2, Status::OK),
            Self::NotGot(status) => Builder::new(40).message(2, *status),
            Self::Adjust(status) => Message::plain(3, *status),
            Self::IterInit(result) => handle(4, result),
            Self::IterNext(Ok((key, kind, length))) => put_key(Builder::new(304), 24, key)
                .u64(288, *length)
                .u8(296, *kind)
                .message(5, Status::OK),
            Self::IterNext(Err(status)) => Builder::new(304).message(5, *status),
            Self::IterFinalize(status) => Message::plain(6, *status),
            Self::TrackAdd(result) => handle(7, result),
            Self::TrackDelete(result) => handle(8, result),
            Self::SetCurrentMap(status) => Message::plain(10, *status),
        }
    }

    /// Reads a response, head included.
    ///
    /// # Errors
    /// When it is none of this service.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let fields = Fields(message);
        let status = fields.status()?;
        let result = |value: Result<u64, DecodeError>| match status {
            Status::OK => value.map(Ok),
            other => Ok(Err(other)),
        };
        Ok(match fields.id()? {
            0 => Self::Set(status),
            1 => Self::Delete(status),
            2 if status != Status::OK => Self::NotGot(status),
            2 => {
                let length = fields.u64(24)?;
                let room = message.len().saturating_sub(40);
                let here = usize::try_from(length).unwrap_or(usize::MAX).min(room);
                let value = fields.bytes(40, here)?.to_vec();
                Self::Get {
                    length,
                    kind: fields.u8(32)?,
                    value,
                    room,
                }
            }
            3 => Self::Adjust(status),
            4 => Self::IterInit(result(fields.u64(24))?),
            5 if status != Status::OK => Self::IterNext(Err(status)),
            5 => {
                let key = key_at(fields, 24)?;
                Self::IterNext(Ok((key, fields.u8(296)?, fields.u64(288)?)))
            }
            6 => Self::IterFinalize(status),
            7 => Self::TrackAdd(result(fields.u64(24))?),
            8 => Self::TrackDelete(result(fields.u64(24))?),
            10 => Self::SetCurrentMap(status),
            id => return Err(DecodeError::UnknownId(id)),
        })
    }
}

/// A change that a tracker asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What the client gave with its request.
    pub client_handle: u64,
    /// The key.
    pub key: String,
    /// One of [`track`].
    pub change: u32,
    /// The value now, if there is one.
    pub new: Option<Raw>,
    /// The value before, if there was one.
    pub old: Option<Raw>,
}

impl Event {
    /// The event as it goes out.
    pub fn encode(&self) -> Message {
        let raw = |value: &Option<Raw>| value.clone().unwrap_or_default();
        let (new, old) = (raw(&self.new), raw(&self.old));
        let values = [new.bytes.as_slice(), &old.bytes].concat();
        put_key(Builder::new(336 + values.len()), 32, &self.key)
            .u64(24, self.client_handle)
            .u32(296, self.change)
            .u8(304, new.kind)
            .u8(312, old.kind)
            .u64(320, long(new.bytes.len()))
            .u64(328, long(old.bytes.len()))
            .bytes(336, &values)
            .message(9, Status::OK)
    }

    /// Reads an event, head included.
    ///
    /// # Errors
    /// When it is none of this service.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let fields = Fields(message);
        let id = fields.id()?;
        if id != 9 {
            return Err(DecodeError::UnknownId(id));
        }
        let length = |at| {
            let length = usize::try_from(fields.u64(at)?);
            length.map_err(|_| DecodeError::BadField("length"))
        };
        let (new_length, old_length) = (length(320)?, length(328)?);
        let raw = |kind_at, at, length| {
            let (kind, bytes) = (fields.u8(kind_at)?, fields.bytes(at, length)?.to_vec());
            Ok((kind != 0).then_some(Raw { kind, bytes }))
        };
        Ok(Self {
            client_handle: fields.u64(24)?,
            key: key_at(fields, 32)?,
            change: fields.u32(296)?,
            new: raw(304, 336, new_length)?,
            old: raw(312, 336usize.saturating_add(new_length), old_length)?,
        })
    }
}

fn key_at(fields: Fields<'_>, at: usize) -> Result<String, DecodeError> {
    let length = usize::from(fields.u16(at)?);
    if length > KEY_MAX {
        return Err(DecodeError::NameTooLong(length));
    }
    fields.counted_text(at + 8, length)
}

fn put_key(fields: Builder, at: usize, key: &str) -> Builder {
    let length = u16::try_from(key.len().min(KEY_MAX)).unwrap_or_default();
    fields.u16(at, length).text(at + 8, KEY_MAX + 1, key)
}

/// Lengths here are those of vectors.
fn long(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
