//! Service `quorum`: whether this partition may act, and who is in it.
//!
//! A connection speaks one of two models of events; it is model 0 until it asks for model 1.

use super::layout::{Builder, DecodeError, Fields, Message, RingId, Status, bare, with_u32};

/// Name of the service.
pub const NAME: &str = "quorum";

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Is this partition quorate?
    GetQuorate,
    /// Sends events; flags as in [`super::TRACK_CURRENT`] and its like.
    TrackStart(u32),
    /// No more events.
    TrackStop,
    /// Is there a provider of quorum?
    GetType,
    /// The same, and chooses the model of events.
    ModelGetType(u32),
}

impl Request {
    /// Reads a request, head included.
    ///
    /// # Errors
    /// When it is none of this service.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let fields = Fields(message);
        Ok(match fields.id()? {
            0 => Self::GetQuorate,
            1 => Self::TrackStart(fields.u32(16)?),
            2 => Self::TrackStop,
            3 => Self::GetType,
            4 => Self::ModelGetType(fields.u32(16)?),
            id => return Err(DecodeError::UnknownId(id)),
        })
    }

    /// The request as a client sends it.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::GetQuorate => bare(0),
            Self::TrackStart(flags) => with_u32(1, *flags),
            Self::TrackStop => bare(2),
            Self::GetType => bare(3),
            Self::ModelGetType(model) => with_u32(4, *model),
        }
    }
}

/// What a client is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// To [`Request::GetQuorate`].
    Quorate(bool),
    /// To [`Request::TrackStart`].
    TrackStarted(Status),
    /// To [`Request::TrackStop`]: always [`Status::OK`], subscribed or not.
    TrackStopped(Status),
    /// To [`Request::GetType`]: whether there is a provider.
    Type(bool),
    /// To [`Request::ModelGetType`].
    ModelType(bool),
    /// To [`Request::ModelGetType`] with a model that does not exist, and to anything unknown.
    Refused(Status),
}

impl Response {
    /// The response as it goes out.
    pub fn encode(&self) -> Message {
        let number = |id, value| {
            Builder::new(32)
                .u32(24, u32::from(value))
                .message(id, Status::OK)
        };
        match *self {
            Self::Quorate(quorate) => number(0, quorate),
            Self::TrackStarted(status) => Message::plain(1, status),
            Self::TrackStopped(status) => Message::plain(2, status),
            Self::Type(set) => number(4, set),
            Self::ModelType(set) => number(5, set),
            Self::Refused(status) => Message::plain(0, status),
        }
    }

    /// Reads a response, head included.
    ///
    /// # Errors
    /// When it is none of this service.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let fields = Fields(message);
        let status = fields.status()?;
        let number = || fields.u32(24).map(|value| value != 0);
        Ok(match fields.id()? {
            0 | 5 if status != Status::OK => Self::Refused(status),
            0 => Self::Quorate(number()?),
            1 => Self::TrackStarted(status),
            2 => Self::TrackStopped(status),
            4 => Self::Type(number()?),
            5 => Self::ModelType(number()?),
            id => return Err(DecodeError::UnknownId(id)),
        })
    }
}

/// What a client that tracks is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Model 0: quorum and members together.
    Notification {
        /// Whether this partition may act.
        quorate: bool,
        /// Number of the ring.
        ring_seq: u64,
        /// Its nodes.
        members: Vec<u32>,
    },
    /// Model 1: at the end of each synchronisation, and whenever quorum changes.
    Quorum {
        /// Whether this partition may act.
        quorate: bool,
        /// The ring.
        ring: RingId,
        /// Its nodes.
        members: Vec<u32>,
    },
    /// Model 1: at the quorum step of each synchronisation.
    Nodelist {
        /// The ring.
        ring: RingId,
        /// Its nodes.
        members: Vec<u32>,
        /// Those that were not in the one before.
        joined: Vec<u32>,
        /// Those that are not any more.
        left: Vec<u32>,
    },
}

impl Event {
    /// The event as it goes out.
    pub fn encode(&self) -> Message {
        match self {
            Self::Notification {
                quorate,
                ring_seq,
                members,
            } => Builder::new(48 + 4 * members.len())
                .u32(24, u32::from(*quorate))
                .u64(32, *ring_seq)
                .count(40, members.len())
                .u32s(44, members)
                .message(3, Status::OK),
            Self::Quorum {
                quorate,
                ring,
                members,
            } => Builder::new(56 + 4 * members.len())
                .u32(24, u32::from(*quorate))
                .ring(32, *ring)
                .count(48, members.len())
                .u32s(52, members)
                .message(6, Status::OK),
            Self::Nodelist {
                ring,
                members,
                joined,
                left,
            } => {
                let all = [members.as_slice(), joined, left].concat();
                Builder::new(64 + 4 * all.len())
                    .ring(24, *ring)
                    .count(40, members.len())
                    .count(48, joined.len())
                    .count(56, left.len())
                    .u32s(60, &all)
                    .message(7, Status::OK)
            }
        }
    }

    /// Reads an event, head included.
    ///
    /// # Errors
    /// When it is none of this service.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let fields = Fields(message);
        let quorate = || fields.u32(24).map(|value| value != 0);
        Ok(match fields.id()? {
            3 => Self::Notification {
                quorate: quorate()?,
                ring_seq: fields.u64(32)?,
                members: fields.u32s(44, fields.size(40)?)?,
            },
            6 => Self::Quorum {
                quorate: quorate()?,
                ring: fields.ring(32)?,
                members: fields.u32s(52, fields.size(48)?)?,
            },
            7 => {
                let ring = fields.ring(24)?;
                let counts = [fields.size(40)?, fields.size(48)?, fields.size(56)?];
                let mut at = 60;
                let [members, joined, left] = counts.map(|count| {
                    let list = fields.u32s(at, count);
                    at = at.saturating_add(count.saturating_mul(4));
                    list
                });
                Self::Nodelist {
                    ring,
                    members: members?,
                    joined: joined?,
                    left: left?,
                }
            }
            id => return Err(DecodeError::UnknownId(id)),
        })
    }
}
