//! Service `cpg`: process groups, whose members get the same messages in the same order.

use std::borrow::Borrow;
use std::fmt;

use bytes::Bytes;

use super::layout::{Builder, DecodeError, Fields, Message, RingId, Status, bare, with_u64};

/// Name of the service.
pub const NAME: &str = "cpg";
/// Longest message that is sent in one piece.
pub const MESSAGE_MAX: usize = 1_047_552;
/// Longest name of a group.
pub const GROUP_MAX: usize = 128;
/// Most members that a list for clients holds.
const MEMBERS_MAX: usize = 384;

/// Name of a group: 0 to 128 bytes, which may be anything. Clones share them.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(Bytes);

impl Group {
    /// A name.
    ///
    /// # Errors
    /// When it is too long.
    pub fn new(name: &[u8]) -> Result<Self, DecodeError> {
        if name.len() > GROUP_MAX {
            return Err(DecodeError::NameTooLong(name.len()));
        }
        // A copy: a slice would keep the whole message that the name came in.
        Ok(Self(Bytes::copy_from_slice(name)))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its bytes, shared.
    pub fn to_bytes(&self) -> Bytes {
        self.0.clone()
    }
}

impl Borrow<[u8]> for Group {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// Why a process is in a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reason {
    /// It is a member as before.
    #[default]
    None,
    /// It joined.
    Join,
    /// It left.
    Leave,
    /// Its node is gone.
    NodeDown,
    /// Its node came.
    NodeUp,
    /// It died.
    ProcessDown,
}

impl Reason {
    fn number(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Join => 1,
            Self::Leave => 2,
            Self::NodeDown => 3,
            Self::NodeUp => 4,
            Self::ProcessDown => 5,
        }
    }

    fn from_number(number: u32) -> Result<Self, DecodeError> {
        Ok(match number {
            0 => Self::None,
            1 => Self::Join,
            2 => Self::Leave,
            3 => Self::NodeDown,
            4 => Self::NodeUp,
            5 => Self::ProcessDown,
            _ => return Err(DecodeError::BadField("reason")),
        })
    }
}

/// A process in a list of members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// Its node.
    pub nodeid: u32,
    /// The process there.
    pub pid: u32,
    /// Why it is in the list.
    pub reason: Reason,
}

/// Which groups a walk goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IterKind {
    /// All, names only.
    Names,
    /// The members of one.
    One,
    /// The members of all.
    All,
}

/// Part of a long message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The first.
    First,
    /// One in between.
    Middle,
    /// The last.
    Last,
}

impl Part {
    fn number(self) -> u32 {
        match self {
            Self::First => 1,
            Self::Middle => 2,
            Self::Last => 3,
        }
    }

    fn from_number(number: u32) -> Result<Self, DecodeError> {
        Ok(match number {
            1 => Self::First,
            2 => Self::Middle,
            3 => Self::Last,
            _ => return Err(DecodeError::BadField("part of the message")),
        })
    }
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields are those of the calls of the client library"
)]
pub enum Request {
    /// Joins a group; flag 1 asks for the ring, too.
    Join { group: Group, pid: u32, flags: u32 },
    /// Leaves it.
    Leave { group: Group, pid: u32 },
    /// Sends a message to the group; has no response.
    Mcast { guarantee: u32, data: Bytes },
    /// Who is in a group.
    Membership { group: Group },
    /// Number of this node.
    LocalNode,
    /// Starts a walk through groups.
    IterInit { group: Group, kind: IterKind },
    /// The next member.
    IterNext { handle: u64 },
    /// Ends the walk.
    IterFinalize { handle: u64 },
    /// No more events.
    Finalize,
    /// Requests for memory shared in another way, which is not offered.
    ZeroCopy { id: i32 },
    /// Sends a part of a long message.
    PartialMcast {
        guarantee: u32,
        length: u32,
        part: Part,
        data: Bytes,
    },
}

impl Request {
    /// Whether the client waits for a response, also to what can not be decoded.
    pub fn is_answered(id: i32) -> bool {
        id != 2
    }

    /// Reads a request, head included. Data is a slice of `message`.
    ///
    /// # Errors
    /// When it is none of this service, or too short.
    pub fn decode(message: &Bytes) -> Result<Self, DecodeError> {
        let fields = Fields(message);
        let group = || group_at(fields, 16);
        let handle = || fields.u64(16);
        Ok(match fields.id()? {
            0 => Self::Join {
                group: group()?,
                pid: fields.u32(152)?,
                flags: fields.u32(160)?,
            },
            1 => Self::Leave {
                group: group()?,
                pid: fields.u32(152)?,
            },
            2 => {
                let length = fields.size(32)?;
                fields.need(length.saturating_add(40))?;
                Self::Mcast {
                    guarantee: fields.u32(24)?,
                    data: message.slice(40..40 + length),
                }
            }
            3 => Self::Membership { group: group()? },
            4 => Self::LocalNode,
            5 => match fields.u32(152)? {
                1 => Self::IterInit {
                    group: Group::default(),
                    kind: IterKind::Names,
                },
                2 => Self::IterInit {
                    group: group()?,
                    kind: IterKind::One,
                },
                3 => Self::IterInit {
                    group: Group::default(),
                    kind: IterKind::All,
                },
                _ => return Err(DecodeError::BadField("kind of the walk")),
            },
            6 => Self::IterNext { handle: handle()? },
            7 => Self::IterFinalize { handle: handle()? },
            8 => Self::Finalize,
            id @ 9..=11 => Self::ZeroCopy { id },
            12 => {
                let length = fields.size(40)?;
                fields.need(length.saturating_add(56))?;
                Self::PartialMcast {
                    guarantee: fields.u32(24)?,
                    length: fields.u32(32)?,
                    part: Part::from_number(fields.u32(48)?)?,
                    data: message.slice(56..56 + length),
                }
            }
            id => return Err(DecodeError::UnknownId(id)),
        })
    }

    /// The request as a client sends it.
    pub fn encode(&self) -> Vec<u8> {
        let named = |length, group: &Group| put_group(Builder::new(length), 16, group);
        match self {
            Self::Join { group, pid, flags } => named(168, group)
                .u32(152, *pid)
                .u32(160, *flags)
                .request(0, &[]),
            Self::Leave { group, pid } => named(160, group).u32(152, *pid).request(1, &[]),
            Self::Mcast { guarantee, data } => Builder::new(40)
                .u32(24, *guarantee)
                .count(32, data.len())
                .request(2, data),
            Self::Membership { group } => named(152, group).request(3, &[]),
            Self::LocalNode => bare(4),
            Self::IterInit { group, kind } => {
                let number = match kind {
                    IterKind::Names => 1,
                    IterKind::One => 2,
                    IterKind::All => 3,
                };
                named(160, group).u32(152, number).request(5, &[])
            }
            Self::IterNext { handle } => with_u64(6, *handle),
            Self::IterFinalize { handle } => with_u64(7, *handle),
            Self::Finalize => bare(8),
            Self::ZeroCopy { id } => bare(*id),
            Self::PartialMcast {
                guarantee,
                length,
                part,
                data,
            } => Builder::new(56)
                .u32(24, *guarantee)
                .u32(32, *length)
                .count(40, data.len())
                .u32(48, part.number())
                .request(12, data),
        }
    }
}

/// What a client is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// To [`Request::Join`].
    Join(Status),
    /// To [`Request::Leave`].
    Leave(Status),
    /// To [`Request::Membership`]: at most 384 members.
    Membership(Vec<Address>),
    /// To [`Request::LocalNode`].
    LocalNode(u32),
    /// To [`Request::IterInit`].
    IterInit(Result<u64, Status>),
    /// To [`Request::IterNext`].
    IterNext(Result<(Group, u32, u32), Status>),
    /// To [`Request::IterFinalize`].
    IterFinalize(Status),
    /// To [`Request::Finalize`].
    Finalize(Status),
    /// To [`Request::ZeroCopy`].
    ZeroCopy(Status),
    /// To [`Request::PartialMcast`].
    PartialMcast(Status),
}

impl Response {
    /// The response as it goes out.
    pub fn encode(&self) -> Message {
        match self {
            Self::Join(status) => Message::plain(0, *status),
            Self::Leave(status) => Message::plain(1, *status),
            Self::Membership(members) => {
                let kept = members
                    .get(..members.len().min(MEMBERS_MAX))
                    .unwrap_or_default();
                let fields = Builder::new(32 + MEMBERS_MAX * ADDRESS_LEN).count(24, kept.len());
                put_addresses(fields, 32, kept).message(3, Status::OK)
            }
            Self::LocalNode(nodeid) => Builder::new(32).u32(24, *nodeid).message(7, Status::OK),
            Self::IterInit(Ok(handle)) => Builder::new(32).u64(24, *handle).message(9, Status::OK),
            Self::IterInit(Err(status)) => Builder::new(32).message(9, *status),
            Self::IterNext(Ok((group, nodeid, pid))) => put_group(Builder::new(168), 24, group)
                .u32(160, *nodeid)
                .u32(164, *pid)
                .message(10, Status::OK),
            Self::IterNext(Err(status)) => Builder::new(168).message(10, *status),
            Self::IterFinalize(status) => Message::plain(11, *status),
            Self::Finalize(status) => Message::plain(12, *status),
            Self::ZeroCopy(status) => Message::plain(14, *status),
            Self::PartialMcast(status) => Message::plain(18, *status),
        }
    }

    /// Reads a response, head included.
    ///
    /// # Errors
    /// When it is none of this service.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let fields = Fields(message);
        let status = fields.status()?;
        let failed = status != Status::OK;
        Ok(match fields.id()? {
            0 => Self::Join(status),
            1 => Self::Leave(status),
            3 => Self::Membership(addresses_at(fields, 32, fields.size(24)?)?),
            7 => Self::LocalNode(fields.u32(24)?),
            9 if failed => Self::IterInit(Err(status)),
            9 => Self::IterInit(Ok(fields.u64(24)?)),
            10 if failed => Self::IterNext(Err(status)),
            10 => Self::IterNext(Ok((
                group_at(fields, 24)?,
                fields.u32(160)?,
                fields.u32(164)?,
            ))),
            11 => Self::IterFinalize(status),
            12 => Self::Finalize(status),
            14 => Self::ZeroCopy(status),
            18 => Self::PartialMcast(status),
            id => return Err(DecodeError::UnknownId(id)),
        })
    }
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Members of its group changed.
    Confchg {
        /// The group.
        group: Group,
        /// Members from now on.
        members: Vec<Address>,
        /// Those who are not any more.
        left: Vec<Address>,
        /// Those who are new.
        joined: Vec<Address>,
    },
    /// A message to its group.
    Deliver {
        /// The group.
        group: Group,
        /// Node of the sender.
        nodeid: u32,
        /// Process of the sender.
        pid: u32,
        /// The message.
        data: Bytes,
    },
    /// A new ring.
    TotemConfchg {
        /// The ring.
        ring: RingId,
        /// Its nodes.
        members: Vec<u32>,
    },
    /// A part of a long message to its group.
    PartialDeliver {
        /// The group.
        group: Group,
        /// Node of the sender.
        nodeid: u32,
        /// Process of the sender.
        pid: u32,
        /// Bytes of the whole message.
        length: u32,
        /// Which part.
        part: Part,
        /// The part.
        data: Bytes,
    },
}

impl Event {
    /// The event as it goes out. Data is not copied.
    pub fn encode(&self) -> Message {
        match self {
            Self::Confchg {
                group,
                members,
                left,
                joined,
            } => {
                // In this order, though the counts are in another one.
                let all = [members.as_slice(), left, joined].concat();
                let fields = put_group(Builder::new(184 + ADDRESS_LEN * all.len()), 24, group)
                    .count(160, members.len())
                    .count(168, joined.len())
                    .count(176, left.len());
                put_addresses(fields, 184, &all).message(4, Status::OK)
            }
            Self::Deliver {
                group,
                nodeid,
                pid,
                data,
            } => {
                let fields = put_group(Builder::new(184), 24, group);
                let fields = fields
                    .count(160, data.len())
                    .u32(168, *nodeid)
                    .u32(176, *pid);
                Message {
                    data: data.clone(),
                    ..fields.message(5, Status::OK)
                }
            }
            Self::TotemConfchg { ring, members } => Builder::new(48 + 4 * members.len())
                .ring(24, *ring)
                .count(40, members.len())
                .u32s(44, members)
                .message(13, Status::OK),
            Self::PartialDeliver {
                group,
                nodeid,
                pid,
                length,
                part,
                data,
            } => {
                let fields = put_group(Builder::new(200), 24, group)
                    .u32(160, *length)
                    .count(168, data.len())
                    .u32(176, *nodeid)
                    .u32(184, *pid)
                    .u32(192, part.number());
                Message {
                    data: data.clone(),
                    ..fields.message(17, Status::OK)
                }
            }
        }
    }

    /// Reads an event, head included. Data is a slice of `message`.
    ///
    /// # Errors
    /// When it is none of this service.
    pub fn decode(message: &Bytes) -> Result<Self, DecodeError> {
        let fields = Fields(message);
        let data = |at: usize, length: usize| {
            fields.need(at.saturating_add(length))?;
            Ok(message.slice(at..at + length))
        };
        Ok(match fields.id()? {
            4 => {
                let counts = [fields.size(160)?, fields.size(176)?, fields.size(168)?];
                let mut at = 184usize;
                let [members, left, joined] = counts.map(|count| {
                    let list = addresses_at(fields, at, count);
                    at = at.saturating_add(count.saturating_mul(ADDRESS_LEN));
                    list
                });
                let group = group_at(fields, 24)?;
                Self::Confchg {
                    group,
                    members: members?,
                    left: left?,
                    joined: joined?,
                }
            }
            5 => Self::Deliver {
                group: group_at(fields, 24)?,
                nodeid: fields.u32(168)?,
                pid: fields.u32(176)?,
                data: data(184, fields.size(160)?)?,
            },
            13 => Self::TotemConfchg {
                ring: fields.ring(24)?,
                members: fields.u32s(44, fields.size(40)?)?,
            },
            17 => Self::PartialDeliver {
                group: group_at(fields, 24)?,
                nodeid: fields.u32(176)?,
                pid: fields.u32(184)?,
                length: fields.u32(160)?,
                part: Part::from_number(fields.u32(192)?)?,
                data: data(200, fields.size(168)?)?,
            },
            id => return Err(DecodeError::UnknownId(id)),
        })
    }
}

const ADDRESS_LEN: usize = 24;

fn group_at(fields: Fields<'_>, at: usize) -> Result<Group, DecodeError> {
    let length = fields.size(at)?;
    if length > GROUP_MAX {
        return Err(DecodeError::NameTooLong(length));
    }
    Group::new(fields.bytes(at + 8, length)?)
}

fn put_group(fields: Builder, at: usize, group: &Group) -> Builder {
    fields.count(at, group.0.len()).bytes(at + 8, &group.0)
}

fn addresses_at(fields: Fields<'_>, at: usize, count: usize) -> Result<Vec<Address>, DecodeError> {
    fields.need(count.saturating_mul(ADDRESS_LEN).saturating_add(at))?;
    let address = |index: usize| {
        let at = at + index * ADDRESS_LEN;
        let reason = Reason::from_number(fields.u32(at + 16)?)?;
        Ok(Address {
            nodeid: fields.u32(at)?,
            pid: fields.u32(at + 8)?,
            reason,
        })
    };
    (0..count).map(address).collect()
}

fn put_addresses(mut fields: Builder, at: usize, addresses: &[Address]) -> Builder {
    for (index, address) in addresses.iter().enumerate() {
        let at = at + index * ADDRESS_LEN;
        let (nodeid, pid) = (address.nodeid, address.pid);
        fields = fields
            .u32(at, nodeid)
            .u32(at + 8, pid)
            .u32(at + 16, address.reason.number());
    }
    fields
}
