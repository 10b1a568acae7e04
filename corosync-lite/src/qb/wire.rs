//! Bytes of the handshake and of message headers.
//!
//! All integers are little endian: the peer is always on the same machine, and the machines that
//! this runs on are little endian. Holes between fields hold anything when read and zeros when
//! written.
//!
//! Invariant: no input makes a decoder panic or read outside its input.

#![warn(clippy::indexing_slicing)]

use std::str;

/// Bytes of [`RequestHeader`] on the wire.
pub const REQUEST_HEADER_LEN: usize = 16;
/// Bytes of [`ResponseHeader`] on the wire, which events use too.
pub const RESPONSE_HEADER_LEN: usize = 24;
/// Bytes of [`Hello`].
pub const HELLO_LEN: usize = 24;
/// Bytes of [`Welcome`], and least size of messages that a connection may be made for.
pub const WELCOME_LEN: usize = 12328;
/// Request by which a client ends its connection.
pub const ID_DISCONNECT: i32 = -3;

/// Id of both messages of the handshake.
const ID_AUTHENTICATE: i32 = -1;
const CHANNEL_NAME_LEN: usize = 4096;

/// Why bytes of a client were not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The message ends inside its header.
    #[error("message of {have} bytes is too short, {need} are needed")]
    TooShort {
        /// Bytes needed.
        need: usize,
        /// Bytes that were there.
        have: usize,
    },
    /// The size in the header is not possible.
    #[error("size {size} in the header does not fit a message of {have} bytes")]
    BadSize {
        /// As written by the client.
        size: i32,
        /// Bytes that were there.
        have: usize,
    },
    /// The first message is not the one that opens a connection.
    #[error("first message has id {id}, -1 is needed")]
    NotAHello {
        /// As written by the client.
        id: i32,
    },
    /// A field holds what no peer of this transport writes.
    #[error("{field} of the answer is not valid")]
    BadField {
        /// Its name.
        field: &'static str,
    },
}

/// Head of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// Operation; negative ones belong to the transport.
    pub id: i32,
    /// Bytes of the whole message, this head included.
    pub size: i32,
}

impl RequestHeader {
    /// Reads the head of `message` and cuts what lies behind the size that it states.
    ///
    /// # Errors
    /// When the message is shorter than a head, or its size field is not within it.
    pub fn split(message: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let header = Self {
            id: i32_at(message, 0)?,
            size: i32_at(message, 8)?,
        };
        let bad = WireError::BadSize {
            size: header.size,
            have: message.len(),
        };
        let size = usize::try_from(header.size).map_err(|_| bad)?;
        if size < REQUEST_HEADER_LEN {
            return Err(bad);
        }
        Ok((header, message.get(..size).ok_or(bad)?))
    }

    /// The head as it goes out.
    pub fn encode(&self) -> [u8; REQUEST_HEADER_LEN] {
        let mut bytes = [0; REQUEST_HEADER_LEN];
        put_i32(&mut bytes, 0, self.id);
        put_i32(&mut bytes, 8, self.size);
        bytes
    }
}

/// Head of a response or event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHeader {
    /// Number of the response or event.
    pub id: i32,
    /// Bytes of the whole message, this head included.
    pub size: i32,
    /// Meaning depends on the service.
    pub error: i32,
}

impl ResponseHeader {
    /// Reads the head of `message`.
    ///
    /// # Errors
    /// When the message is shorter than a head.
    pub fn decode(message: &[u8]) -> Result<Self, WireError> {
        let error = i32_at(message, 16)?;
        short(message, RESPONSE_HEADER_LEN)?;
        Ok(Self {
            id: i32_at(message, 0)?,
            size: i32_at(message, 8)?,
            error,
        })
    }

    /// The head as it goes out.
    pub fn encode(&self) -> [u8; RESPONSE_HEADER_LEN] {
        let mut bytes = [0; RESPONSE_HEADER_LEN];
        put_i32(&mut bytes, 0, self.id);
        put_i32(&mut bytes, 8, self.size);
        put_i32(&mut bytes, 16, self.error);
        bytes
    }
}

/// What a client sends first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Largest message that the client wants to send and receive, in bytes.
    pub max_message: u32,
}

impl Hello {
    /// Reads the first message of a client.
    ///
    /// # Errors
    /// When it is too short or some other message.
    pub fn decode(message: &[u8]) -> Result<Self, WireError> {
        short(message, HELLO_LEN)?;
        let id = i32_at(message, 0)?;
        if id != ID_AUTHENTICATE {
            return Err(WireError::NotAHello { id });
        }
        let max_message = u32::from_le_bytes(array_at(message, 16)?);
        Ok(Self { max_message })
    }

    /// The message as it goes out.
    pub fn encode(&self) -> [u8; HELLO_LEN] {
        let mut bytes = [0; HELLO_LEN];
        put_i32(&mut bytes, 0, ID_AUTHENTICATE);
        put_i32(&mut bytes, 8, 24);
        put(&mut bytes, 16, &self.max_message.to_le_bytes());
        bytes
    }
}

/// How the channels of a connection are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelKind {
    /// Datagram sockets and a small shared file.
    Socket,
    /// Rings in shared memory.
    SharedMemory,
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Welcome {
    /// The client may not connect; the number is as the service has it (0 does not occur).
    Refused(i32),
    /// The client shall open the channels.
    Accepted(Channels),
}

/// Where a client finds its channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channels {
    /// How they are made.
    pub kind: ChannelKind,
    /// Largest message, in bytes; the size of the rings follows from it.
    pub max_message: u32,
    /// Any number; no client uses it.
    pub connection: u64,
    /// Name of the request channel, shorter than 4096 bytes, as are the others.
    pub request: String,
    /// Name of the response channel.
    pub response: String,
    /// Name of the event channel.
    pub event: String,
}

impl Welcome {
    /// Reads the answer of a server.
    ///
    /// # Errors
    /// When it is too short or a field is not valid.
    pub fn decode(message: &[u8]) -> Result<Self, WireError> {
        short(message, WELCOME_LEN)?;
        match i32_at(message, 16)? {
            0 => {}
            error => return Ok(Self::Refused(error)),
        }
        let kind = match i32_at(message, 24)? {
            0 => ChannelKind::Socket,
            1 => ChannelKind::SharedMemory,
            _ => return Err(WireError::BadField { field: "type" }),
        };
        Ok(Self::Accepted(Channels {
            kind,
            max_message: u32::from_le_bytes(array_at(message, 28)?),
            connection: u64::from_le_bytes(array_at(message, 32)?),
            request: name_at(message, 40, "request")?,
            response: name_at(message, 40 + CHANNEL_NAME_LEN, "response")?,
            event: name_at(message, 40 + 2 * CHANNEL_NAME_LEN, "event")?,
        }))
    }

    /// The message as it goes out. Names are cut where they would not fit.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; WELCOME_LEN];
        put_i32(&mut bytes, 0, ID_AUTHENTICATE);
        put_i32(&mut bytes, 8, 12328);
        match self {
            Self::Refused(error) => put_i32(&mut bytes, 16, *error),
            Self::Accepted(channels) => {
                let kind = match channels.kind {
                    ChannelKind::Socket => 0,
                    ChannelKind::SharedMemory => 1,
                };
                put_i32(&mut bytes, 24, kind);
                put(&mut bytes, 28, &channels.max_message.to_le_bytes());
                put(&mut bytes, 32, &channels.connection.to_le_bytes());
                let names = [&channels.request, &channels.response, &channels.event];
                for (index, name) in names.into_iter().enumerate() {
                    let length = name.len().min(CHANNEL_NAME_LEN - 1);
                    let name = name.as_bytes().get(..length).unwrap_or_default();
                    put(&mut bytes, 40 + index * CHANNEL_NAME_LEN, name);
                }
            }
        }
        bytes
    }
}

fn short(message: &[u8], need: usize) -> Result<(), WireError> {
    let have = message.len();
    if have < need {
        return Err(WireError::TooShort { need, have });
    }
    Ok(())
}

fn array_at<const N: usize>(message: &[u8], offset: usize) -> Result<[u8; N], WireError> {
    let bytes = message.get(offset..).and_then(|rest| rest.first_chunk());
    bytes.copied().ok_or(WireError::TooShort {
        need: offset + N,
        have: message.len(),
    })
}

fn i32_at(message: &[u8], offset: usize) -> Result<i32, WireError> {
    array_at(message, offset).map(i32::from_le_bytes)
}

fn name_at(message: &[u8], offset: usize, field: &'static str) -> Result<String, WireError> {
    let bad = WireError::BadField { field };
    let buffer = message.get(offset..offset + CHANNEL_NAME_LEN).ok_or(bad)?;
    let length = buffer.iter().position(|byte| *byte == 0).ok_or(bad)?;
    let name = buffer.get(..length).ok_or(bad)?;
    Ok(str::from_utf8(name).map_err(|_| bad)?.to_owned())
}

fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    if let Some(target) = bytes.get_mut(offset..offset + value.len()) {
        target.copy_from_slice(value);
    }
}

fn put_i32(bytes: &mut [u8], offset: usize, value: i32) {
    put(bytes, offset, &value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::qb::vectors::{Direction, frames};

    #[test]
    fn captured_handshakes_decode_and_encode() {
        let mut kinds = Vec::new();
        for frame in frames("ipc/qb-handshake.hex") {
            match frame.direction {
                Direction::Request => {
                    let hello = Hello::decode(&frame.bytes).unwrap();
                    assert_eq!(hello.max_message, 1 << 20);
                    assert!(frame.matches(&hello.encode()));
                }
                _ => {
                    let welcome = Welcome::decode(&frame.bytes).unwrap();
                    assert!(
                        frame.matches(&welcome.encode()),
                        "{}: {welcome:?}",
                        frame.note
                    );
                    kinds.push(match welcome {
                        Welcome::Accepted(channels) => Ok((channels.kind, channels.max_message)),
                        Welcome::Refused(error) => Err(error),
                    });
                }
            }
        }
        let shared = Ok((ChannelKind::SharedMemory, 1 << 20));
        let socket = Ok((ChannelKind::Socket, 1 << 20));
        assert_eq!(kinds, [shared, shared, socket, Err(-13), Err(1)]);
    }

    #[test]
    fn a_request_is_cut_to_its_size_and_never_reaches_beyond() {
        let mut message = RequestHeader { id: 7, size: 18 }.encode().to_vec();
        message.extend(b"abcd");
        let (header, whole) = RequestHeader::split(&message).unwrap();
        assert_eq!((header.id, &whole[16..]), (7, &b"ab"[..]));
        for size in [i32::MIN, -1, 0, 15, 21, i32::MAX] {
            message[8..12].copy_from_slice(&size.to_le_bytes());
            let error = RequestHeader::split(&message).unwrap_err();
            assert_eq!(error, WireError::BadSize { size, have: 20 });
        }
        assert!(RequestHeader::split(&message[..11]).is_err());
    }

    #[test]
    fn other_first_messages_are_refused() {
        let mut hello = Hello { max_message: 5 }.encode();
        assert!(Hello::decode(&hello[..23]).is_err());
        hello[0] = 3;
        hello[1..4].fill(0);
        assert_eq!(Hello::decode(&hello), Err(WireError::NotAHello { id: 3 }));
    }

    proptest! {
        #[test]
        fn headers_round_trip(id: i32, size: i32, error: i32) {
            let header = ResponseHeader { id, size, error };
            prop_assert_eq!(ResponseHeader::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn welcomes_round_trip(
            kind: bool, max_message: u32, connection: u64,
            names in proptest::array::uniform3("[a-z/]{0,80}"),
        ) {
            let [request, response, event] = names;
            let kind = if kind { ChannelKind::Socket } else { ChannelKind::SharedMemory };
            let welcome = Welcome::Accepted(Channels {
                kind, max_message, connection, request, response, event,
            });
            prop_assert_eq!(Welcome::decode(&welcome.encode()), Ok(welcome));
        }

        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            Hello::decode(&bytes).ok();
            RequestHeader::split(&bytes).ok();
            ResponseHeader::decode(&bytes).ok();
            let mut long = bytes.clone();
            long.resize(WELCOME_LEN, 0x41);
            drop(Welcome::decode(&long));
        }
    }
}
