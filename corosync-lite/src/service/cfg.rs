//! Service `cfg`: state of links, reload of the configuration, shutdown.

use std::net::IpAddr;

use super::layout::{Builder, DecodeError, Fields, Message, Status, bare, with_u32};

/// Name of the service.
pub const NAME: &str = "cfg";

const LINKS: usize = 8;
/// Entries of the old list of rings.
const RINGS: usize = 16;
const RING_NAME: usize = 128;
const RING_STATUS: usize = 512;
const LINK_STATUS: usize = 520;
const ADDRESS_TEXT: usize = 256;
const REASON: usize = 256;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields are those of the calls of the client library"
)]
pub enum Request {
    /// State of all links in the old form.
    RingStatus,
    /// Has no meaning any more.
    RingReenable,
    /// Makes a node leave.
    KillNode { nodeid: u32, reason: String },
    /// 0 asks those who track, 1 asks but does it anyway, 2 does it.
    TryShutdown { flags: u32 },
    /// Answer of one who was asked.
    ReplyToShutdown { yes: bool },
    /// Addresses of a node; 0 is this one.
    NodeAddresses { nodeid: u32 },
    /// Number of this node.
    LocalNode,
    /// All nodes read their configuration again.
    Reload,
    /// The log file was moved away.
    ReopenLogs,
    /// State of all links to a node.
    NodeStatus { nodeid: u32, version: u32 },
    /// Wants to be asked before a shutdown.
    TrackStart,
    /// No more.
    TrackStop,
}

impl Request {
    /// Reads a request, head included.
    ///
    /// # Errors
    /// When it is none of this service, or too short.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let fields = Fields(message);
        Ok(match fields.id()? {
            0 => Self::RingStatus,
            1 => Self::RingReenable,
            2 => {
                let length = usize::from(fields.u16(24)?).min(REASON - 1);
                Self::KillNode {
                    nodeid: fields.u32(16)?,
                    reason: fields.counted_text(26, length)?,
                }
            }
            3 => Self::TryShutdown {
                flags: fields.u32(16)?,
            },
            4 => Self::ReplyToShutdown {
                yes: fields.u32(16)? != 0,
            },
            5 => Self::NodeAddresses {
                nodeid: fields.u32(16)?,
            },
            6 => Self::LocalNode,
            7 => Self::Reload,
            8 => Self::ReopenLogs,
            9 => Self::NodeStatus {
                nodeid: fields.u32(16)?,
                version: fields.u32(24)?,
            },
            10 => Self::TrackStart,
            11 => Self::TrackStop,
            id => return Err(DecodeError::UnknownId(id)),
        })
    }

    /// The request as a client sends it.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::RingStatus => bare(0),
            Self::RingReenable => bare(1),
            Self::KillNode { nodeid, reason } => {
                let length = u16::try_from(reason.len().min(REASON - 1) + 1).unwrap_or_default();
                let fields = Builder::new(288).u32(16, *nodeid).u16(24, length);
                fields.text(26, REASON, reason).request(2, &[])
            }
            Self::TryShutdown { flags } => with_u32(3, *flags),
            Self::ReplyToShutdown { yes } => with_u32(4, u32::from(*yes)),
            Self::NodeAddresses { nodeid } => with_u32(5, *nodeid),
            Self::LocalNode => bare(6),
            Self::Reload => bare(7),
            Self::ReopenLogs => bare(8),
            Self::NodeStatus { nodeid, version } => Builder::new(32)
                .u32(16, *nodeid)
                .u32(24, *version)
                .request(9, &[]),
            Self::TrackStart => Builder::new(24).request(10, &[]),
            Self::TrackStop => bare(11),
        }
    }
}

/// One link to a node. A link that is not configured is all zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkStatus {
    /// Configured and in use.
    pub enabled: bool,
    /// Pongs come.
    pub connected: bool,
    /// The address was learnt, not configured.
    pub dynconnected: bool,
    /// Bytes of payload; 65535 to this node itself.
    pub mtu: u32,
    /// Own address.
    pub source: String,
    /// Address of the node.
    pub destination: String,
}

/// State of all links to a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeStatus {
    /// The node.
    pub nodeid: u32,
    /// Over one link at least.
    pub reachable: bool,
    /// Not reached directly.
    pub remote: bool,
    /// Not part of the cluster.
    pub external: bool,
    /// Lowest, highest and used version of the wire; zeros where unknown.
    pub onwire: [u8; 3],
    /// By link number; missing ones are not configured.
    pub links: Vec<LinkStatus>,
}

/// What a client is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// To [`Request::RingStatus`]: name and state of each link.
    RingStatus(Vec<(String, String)>),
    /// To [`Request::RingReenable`].
    RingReenable(Status),
    /// To [`Request::TrackStart`].
    TrackStart(Status),
    /// To [`Request::TrackStop`].
    TrackStop(Status),
    /// To [`Request::KillNode`].
    KillNode(Status),
    /// To [`Request::TryShutdown`]: [`Status::BUSY`] when somebody said no.
    TryShutdown(Status),
    /// To [`Request::NodeAddresses`].
    NodeAddresses(Result<Vec<IpAddr>, Status>),
    /// To [`Request::LocalNode`].
    LocalNode(u32),
    /// To [`Request::ReplyToShutdown`].
    ReplyToShutdown(Status),
    /// To [`Request::Reload`], once the own reload is done.
    Reload(Status),
    /// To [`Request::ReopenLogs`].
    ReopenLogs(Status),
    /// To [`Request::NodeStatus`].
    NodeStatus(Box<Result<NodeStatus, Status>>),
}

impl Response {
    /// The response as it goes out.
    pub fn encode(&self) -> Message {
        match self {
            Self::RingStatus(rings) => {
                let mut fields = Builder::new(10_272).count(24, rings.len().min(RINGS));
                for (index, (name, status)) in rings.iter().take(RINGS).enumerate() {
                    fields = fields.text(32 + index * RING_NAME, RING_NAME, name).text(
                        2080 + index * RING_STATUS,
                        RING_STATUS,
                        status,
                    );
                }
                fields.message(0, Status::OK)
            }
            Self::RingReenable(status) => Message::plain(1, *status),
            Self::TrackStart(status) => Message::plain(2, *status),
            Self::TrackStop(status) => Message::plain(3, *status),
            Self::KillNode(status) => Message::plain(8, *status),
            Self::TryShutdown(status) => Message::plain(9, *status),
            Self::NodeAddresses(Ok(addresses)) => put_addresses(addresses),
            Self::NodeAddresses(Err(status)) => Builder::new(32).message(11, *status),
            Self::LocalNode(nodeid) => Builder::new(32).u32(24, *nodeid).message(12, Status::OK),
            Self::ReplyToShutdown(status) => Message::plain(13, *status),
            Self::Reload(status) => Message::plain(14, *status),
            Self::ReopenLogs(status) => Message::plain(15, *status),
            Self::NodeStatus(result) => match result.as_ref() {
                Ok(status) => put_status(status),
                Err(status) => Builder::new(32).message(16, *status),
            },
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
            0 => {
                let count = fields.size(24)?.min(RINGS);
                let ring = |index: usize| {
                    let name = fields.text(32 + index * RING_NAME, RING_NAME)?;
                    Ok((name, fields.text(2080 + index * RING_STATUS, RING_STATUS)?))
                };
                Self::RingStatus((0..count).map(ring).collect::<Result<_, _>>()?)
            }
            1 => Self::RingReenable(status),
            2 => Self::TrackStart(status),
            3 => Self::TrackStop(status),
            8 => Self::KillNode(status),
            9 => Self::TryShutdown(status),
            11 if failed => Self::NodeAddresses(Err(status)),
            11 => Self::NodeAddresses(Ok(addresses_at(fields)?)),
            12 => Self::LocalNode(fields.u32(24)?),
            13 => Self::ReplyToShutdown(status),
            14 => Self::Reload(status),
            15 => Self::ReopenLogs(status),
            16 if failed => Self::NodeStatus(Box::new(Err(status))),
            16 => Self::NodeStatus(Box::new(Ok(status_at(fields)?))),
            id => return Err(DecodeError::UnknownId(id)),
        })
    }
}

fn put_addresses(addresses: &[IpAddr]) -> Message {
    let family = if addresses.first().is_some_and(IpAddr::is_ipv6) {
        10
    } else {
        2
    };
    let mut fields = Builder::new(32 + 16 * addresses.len());
    fields = fields.u32(24, family).count(28, addresses.len());
    for (index, address) in addresses.iter().enumerate() {
        let at = 32 + 16 * index;
        fields = match address {
            IpAddr::V4(address) => fields.bytes(at, &address.octets()),
            IpAddr::V6(address) => fields.bytes(at, &address.octets()),
        };
    }
    fields.message(11, Status::OK)
}

fn addresses_at(fields: Fields<'_>) -> Result<Vec<IpAddr>, DecodeError> {
    let (family, count) = (fields.u32(24)?, fields.size(28)?);
    fields.need(count.saturating_mul(16).saturating_add(32))?;
    let address = |index: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(fields.bytes(32 + 16 * index, 16)?);
        let [a, b, c, d, ..] = octets;
        match family {
            2 => Ok(IpAddr::from([a, b, c, d])),
            10 => Ok(IpAddr::from(octets)),
            _ => Err(DecodeError::BadField("address family")),
        }
    };
    (0..count).map(address).collect()
}

fn put_status(status: &NodeStatus) -> Message {
    let [reachable, remote, external] =
        [status.reachable, status.remote, status.external].map(u8::from);
    let [min, max, version] = status.onwire;
    let mut fields = Builder::new(40 + LINKS * LINK_STATUS)
        .u32(24, 1)
        .u32(28, status.nodeid)
        .bytes(32, &[reachable, remote, external, min, max, version]);
    for (index, link) in status.links.iter().take(LINKS).enumerate() {
        let at = 40 + index * LINK_STATUS;
        let states = [link.enabled, link.connected, link.dynconnected].map(u8::from);
        fields = fields
            .bytes(at, &states)
            .u32(at + 4, link.mtu)
            .text(at + 8, ADDRESS_TEXT, &link.source)
            .text(at + 264, ADDRESS_TEXT, &link.destination);
    }
    fields.message(16, Status::OK)
}

fn status_at(fields: Fields<'_>) -> Result<NodeStatus, DecodeError> {
    let is = |at| fields.u8(at).map(|byte| byte != 0);
    let link = |index: usize| {
        let at = 40 + index * LINK_STATUS;
        Ok(LinkStatus {
            enabled: is(at)?,
            connected: is(at + 1)?,
            dynconnected: is(at + 2)?,
            mtu: fields.u32(at + 4)?,
            source: fields.text(at + 8, ADDRESS_TEXT)?,
            destination: fields.text(at + 264, ADDRESS_TEXT)?,
        })
    };
    Ok(NodeStatus {
        nodeid: fields.u32(28)?,
        reachable: is(32)?,
        remote: is(33)?,
        external: is(34)?,
        onwire: [fields.u8(35)?, fields.u8(36)?, fields.u8(37)?],
        links: (0..LINKS).map(link).collect::<Result<_, DecodeError>>()?,
    })
}

/// Asks one who tracks whether the daemon may stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// [`Status::OK`] asks; [`Status::TIMEOUT`] says that the answer came too late.
    pub status: Status,
    /// As in [`Request::TryShutdown`].
    pub flags: u32,
}

impl Event {
    /// The event as it goes out.
    pub fn encode(&self) -> Message {
        Builder::new(32)
            .u32(24, self.flags)
            .message(10, self.status)
    }

    /// Reads an event, head included.
    ///
    /// # Errors
    /// When it is none of this service.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let fields = Fields(message);
        match fields.id()? {
            10 => Ok(Self {
                status: fields.status()?,
                flags: fields.u32(24)?,
            }),
            id => Err(DecodeError::UnknownId(id)),
        }
    }
}
