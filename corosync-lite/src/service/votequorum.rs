//! Service `votequorum`: votes of nodes, and the device that has some.

use super::layout::{Builder, DecodeError, Fields, Message, RingId, Status, bare, with_u32};

/// Name of the service.
pub const NAME: &str = "votequorum";
/// Field for the name of a device, its NUL included.
const DEVICE_NAME: usize = 255;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields are those of the calls of the client library"
)]
pub enum Request {
    /// About a node; 0 is this one.
    GetInfo { nodeid: u32 },
    /// Changes the expected votes of all.
    SetExpected { votes: u32 },
    /// Changes the votes of a node; 0 is the device.
    SetVotes { nodeid: u32, votes: u32 },
    /// Sends events, with `context` in them.
    TrackStart { context: u64, flags: u32 },
    /// No more events.
    TrackStop,
    /// A device is there.
    DeviceRegister { name: String },
    /// It is gone.
    DeviceUnregister { name: String },
    /// It has another name.
    DeviceUpdate { old: String, new: String },
    /// It is alive, and votes or not.
    DevicePoll {
        name: String,
        cast_vote: bool,
        ring: RingId,
    },
    /// The node that it chose is quorate whatever the count.
    DeviceMasterWins { name: String, allow: bool },
}

impl Request {
    /// Reads a request, head included.
    ///
    /// # Errors
    /// When it is none of this service, or too short.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let fields = Fields(message);
        let name = || fields.text(16, DEVICE_NAME);
        Ok(match fields.id()? {
            0 => Self::GetInfo {
                nodeid: fields.u32(16)?,
            },
            1 => Self::SetExpected {
                votes: fields.u32(16)?,
            },
            2 => Self::SetVotes {
                votes: fields.u32(16)?,
                nodeid: fields.u32(20)?,
            },
            3 => Self::TrackStart {
                context: fields.u64(16)?,
                flags: fields.u32(24)?,
            },
            4 => Self::TrackStop,
            5 => Self::DeviceRegister { name: name()? },
            6 => Self::DeviceUnregister { name: name()? },
            7 => Self::DeviceUpdate {
                old: name()?,
                new: fields.text(271, DEVICE_NAME)?,
            },
            8 => Self::DevicePoll {
                name: name()?,
                cast_vote: fields.i32(272)? != 0,
                ring: fields.ring(280)?,
            },
            9 => Self::DeviceMasterWins {
                name: name()?,
                allow: fields.u32(272)? != 0,
            },
            id => return Err(DecodeError::UnknownId(id)),
        })
    }

    /// The request as a client sends it.
    pub fn encode(&self) -> Vec<u8> {
        let named = |length, name: &str| Builder::new(length).text(16, DEVICE_NAME, name);
        match self {
            Self::GetInfo { nodeid } => with_u32(0, *nodeid),
            Self::SetExpected { votes } => with_u32(1, *votes),
            Self::SetVotes { nodeid, votes } => Builder::new(24)
                .u32(16, *votes)
                .u32(20, *nodeid)
                .request(2, &[]),
            Self::TrackStart { context, flags } => Builder::new(32)
                .u64(16, *context)
                .u32(24, *flags)
                .request(3, &[]),
            Self::TrackStop => bare(4),
            Self::DeviceRegister { name } => named(272, name).request(5, &[]),
            Self::DeviceUnregister { name } => named(272, name).request(6, &[]),
            Self::DeviceUpdate { old, new } => {
                named(528, old).text(271, DEVICE_NAME, new).request(7, &[])
            }
            Self::DevicePoll {
                name,
                cast_vote,
                ring,
            } => named(296, name)
                .u32(272, u32::from(*cast_vote))
                .ring(280, *ring)
                .request(8, &[]),
            Self::DeviceMasterWins { name, allow } => {
                named(280, name).u32(272, u32::from(*allow)).request(9, &[])
            }
        }
    }
}

/// What is known of a node, and of this partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// The node.
    pub nodeid: u32,
    /// 1 member, 2 dead, 3 leaving.
    pub state: u32,
    /// Its votes.
    pub votes: u32,
    /// What it expects.
    pub expected_votes: u32,
    /// The most that anyone expects.
    pub highest_expected: u32,
    /// Votes that are there.
    pub total_votes: u32,
    /// Votes that are needed.
    pub quorum: u32,
    /// Bits of [`flags`].
    pub flags: u32,
    /// Votes of the device.
    pub device_votes: u32,
    /// Its name; empty if there is none.
    pub device_name: String,
}

/// Bits of [`Info::flags`].
#[expect(
    missing_docs,
    reason = "named as the options and states that they stand for"
)]
pub mod flags {
    pub const TWO_NODE: u32 = 1;
    pub const QUORATE: u32 = 2;
    pub const WAIT_FOR_ALL: u32 = 4;
    pub const LAST_MAN_STANDING: u32 = 8;
    pub const AUTO_TIE_BREAKER: u32 = 16;
    pub const ALLOW_DOWNSCALE: u32 = 32;
    pub const DEVICE_REGISTERED: u32 = 64;
    pub const DEVICE_ALIVE: u32 = 128;
    pub const DEVICE_CAST_VOTE: u32 = 256;
    pub const DEVICE_MASTER_WINS: u32 = 512;
}

/// What a client is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// To [`Request::GetInfo`]: an unknown node is [`Status::NOT_EXIST`].
    Info(Result<Info, Status>),
    /// To all others.
    Done(Status),
}

impl Response {
    /// The response as it goes out.
    pub fn encode(&self) -> Message {
        let info = match self {
            Self::Done(status) => return Message::plain(0, *status),
            // As long as a good one: clients copy it whole.
            Self::Info(Err(status)) => return Builder::new(320).message(1, *status),
            Self::Info(Ok(info)) => info,
        };
        let numbers = [
            info.nodeid,
            info.state,
            info.votes,
            info.expected_votes,
            info.highest_expected,
            info.total_votes,
            info.quorum,
            info.flags,
            info.device_votes,
        ];
        let fields = Builder::new(320).u32s(24, &numbers);
        fields
            .text(60, DEVICE_NAME, &info.device_name)
            .message(1, Status::OK)
    }

    /// Reads a response, head included.
    ///
    /// # Errors
    /// When it is none of this service.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let fields = Fields(message);
        let status = fields.status()?;
        match fields.id()? {
            0 => return Ok(Self::Done(status)),
            1 if status != Status::OK => return Ok(Self::Info(Err(status))),
            1 => {}
            id => return Err(DecodeError::UnknownId(id)),
        }
        Ok(Self::Info(Ok(Info {
            nodeid: fields.u32(24)?,
            state: fields.u32(28)?,
            votes: fields.u32(32)?,
            expected_votes: fields.u32(36)?,
            highest_expected: fields.u32(40)?,
            total_votes: fields.u32(44)?,
            quorum: fields.u32(48)?,
            flags: fields.u32(52)?,
            device_votes: fields.u32(56)?,
            device_name: fields.text(60, DEVICE_NAME)?,
        })))
    }
}

/// What a client that tracks is told. `context` is what it gave with its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// At the end of each synchronisation, and whenever quorum changes.
    Quorum {
        /// The client's own number.
        context: u64,
        /// Whether this partition may act.
        quorate: bool,
        /// All known nodes with their states, dead ones too.
        nodes: Vec<(u32, u32)>,
    },
    /// Expected votes changed.
    ExpectedVotes {
        /// The client's own number.
        context: u64,
        /// The new value.
        expected_votes: u32,
    },
    /// A new ring.
    Nodelist {
        /// The client's own number.
        context: u64,
        /// The ring.
        ring: RingId,
        /// Its nodes.
        members: Vec<u32>,
    },
}

impl Event {
    /// The event as it goes out.
    pub fn encode(&self) -> Message {
        match self {
            Self::Quorum {
                context,
                quorate,
                nodes,
            } => {
                let flat: Vec<u32> = nodes.iter().flat_map(|(id, state)| [*id, *state]).collect();
                Builder::new(48 + 8 * nodes.len())
                    .u32(24, u32::from(*quorate))
                    .u64(32, *context)
                    .count(40, nodes.len())
                    .u32s(48, &flat)
                    .message(3, Status::OK)
            }
            Self::ExpectedVotes {
                context,
                expected_votes,
            } => Builder::new(40)
                .u64(24, *context)
                .u32(32, *expected_votes)
                .message(4, Status::OK),
            Self::Nodelist {
                context,
                ring,
                members,
            } => Builder::new(56 + 4 * members.len())
                .u64(24, *context)
                .ring(32, *ring)
                .count(48, members.len())
                .u32s(56, members)
                .message(5, Status::OK),
        }
    }

    /// Reads an event, head included.
    ///
    /// # Errors
    /// When it is none of this service.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let fields = Fields(message);
        Ok(match fields.id()? {
            3 => {
                let flat = fields.u32s(48, fields.size(40)?.saturating_mul(2))?;
                let pairs = flat
                    .chunks_exact(2)
                    .filter_map(|pair| Some((*pair.first()?, *pair.get(1)?)));
                Self::Quorum {
                    context: fields.u64(32)?,
                    quorate: fields.u32(24)? != 0,
                    nodes: pairs.collect(),
                }
            }
            4 => Self::ExpectedVotes {
                context: fields.u64(24)?,
                expected_votes: fields.u32(32)?,
            },
            5 => Self::Nodelist {
                context: fields.u64(24)?,
                ring: fields.ring(32)?,
                members: fields.u32s(56, fields.size(48)?)?,
            },
            id => return Err(DecodeError::UnknownId(id)),
        })
    }
}
