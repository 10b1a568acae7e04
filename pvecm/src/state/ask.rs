//! Asks the local services of the daemon, as `corosync-quorumtool` does.

use std::collections::BTreeMap;
use std::time::Duration;

use corosync_lite::clock;
use corosync_lite::qb::client::{Client, ClientError};
use corosync_lite::service::cmap::kind;
use corosync_lite::service::{DecodeError, Status, TRACK_CURRENT};
use corosync_lite::service::{cfg, cmap, quorum, votequorum};

use super::{Info, Member, State, Votes, sys};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The provider that counts votes.
const VOTEQUORUM: &str = "corosync_votequorum";
/// Room for a value of the map; longer ones are no names.
const ROOM: u64 = 1024;
/// Positions of the node list that are looked at; Corosync carries far fewer nodes.
const NODES_MAX: u32 = 4096;
/// A service of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// The configuration map.
    Cmap,
    /// Members and quorum.
    Quorum,
    /// Addresses and links.
    Cfg,
    /// Votes.
    Votequorum,
}

impl Service {
    fn name(self) -> &'static str {
        match self {
            Self::Cmap => cmap::NAME,
            Self::Quorum => quorum::NAME,
            Self::Cfg => cfg::NAME,
            Self::Votequorum => votequorum::NAME,
        }
    }
}

/// Why the state is not known. The texts begin as those of `corosync-quorumtool`.
#[derive(Debug, thiserror::Error)]
pub enum NoState {
    /// A service did not take the connection.
    #[error("{}: {error}", cannot(*.service))]
    Connect {
        /// Which one.
        service: Service,
        /// Why.
        error: ClientError,
    },
    /// A service did not answer.
    #[error("no answer of the service '{}': {error}", .service.name())]
    Call {
        /// Which one.
        service: Service,
        /// Why.
        error: ClientError,
    },
    /// An answer that is not understood.
    #[error("the service '{}' gave an answer that is not understood: {error}", .service.name())]
    Answer {
        /// Which one.
        service: Service,
        /// Why.
        error: DecodeError,
    },
    /// The answer to another question.
    #[error("the service '{}' gave the answer to another question", .0.name())]
    Unexpected(Service),
    /// The daemon has said no.
    #[error("{what}: {}", code(*.status))]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// The daemon's number.
        status: i32,
    },
    /// Nothing counts votes.
    #[error(
        "corosync is not using votequorum: set 'provider: corosync_votequorum' in the section \
         quorum of corosync.conf"
    )]
    NoVotes,
}

impl NoState {
    /// Whether no daemon runs here.
    #[must_use]
    pub fn is_not_running(&self) -> bool {
        let not_running = ClientError::NotRunning(String::new());
        matches!(self, Self::Connect { error, .. }
            if std::mem::discriminant(error) == std::mem::discriminant(&not_running))
    }
}

/// The words of `corosync-quorumtool`, its spelling included.
fn cannot(service: Service) -> &'static str {
    match service {
        Service::Cmap => "Cannot initialize CMAP service",
        Service::Quorum => "Cannot initialize QUORUM service",
        Service::Cfg => "Cannot initialise CFG service",
        Service::Votequorum => "Cannot initialise VOTEQUORUM service",
    }
}

/// Name of a result, as Corosync's tools write it.
#[must_use]
pub(super) fn code(status: i32) -> String {
    let name = match Status(status) {
        Status::LIBRARY => "CS_ERR_LIBRARY",
        Status::TIMEOUT => "CS_ERR_TIMEOUT",
        Status::TRY_AGAIN => "CS_ERR_TRY_AGAIN",
        Status::INVALID_PARAM => "CS_ERR_INVALID_PARAM",
        Status::NO_MEMORY => "CS_ERR_NO_MEMORY",
        Status::ACCESS => "CS_ERR_ACCESS",
        Status::NOT_EXIST => "CS_ERR_NOT_EXIST",
        Status::NO_RESOURCES => "CS_ERR_NO_RESOURCES",
        Status::NOT_SUPPORTED => "CS_ERR_NOT_SUPPORTED",
        _ => return format!("error {status}"),
    };
    name.to_owned()
}

/// A connection to a service.
struct Connection {
    service: Service,
    client: Client,
}

impl Connection {
    fn open(service: Service) -> Result<Self, NoState> {
        match Client::connect(service.name(), PATIENCE) {
            Ok(client) => Ok(Self { service, client }),
            Err(error) => Err(NoState::Connect { service, error }),
        }
    }

    fn call<R>(
        &mut self,
        request: &[u8],
        decode: impl FnOnce(&[u8]) -> Result<R, DecodeError>,
    ) -> Result<R, NoState> {
        let service = self.service;
        let answer = self.client.call(request, PATIENCE);
        let answer = answer.map_err(|error| NoState::Call { service, error })?;
        decode(&answer).map_err(|error| NoState::Answer { service, error })
    }

    fn event<R>(
        &mut self,
        decode: impl FnOnce(&[u8]) -> Result<R, DecodeError>,
    ) -> Result<R, NoState> {
        let service = self.service;
        let event = self.client.event(clock::now() + PATIENCE);
        let event = event.map_err(|error| NoState::Call { service, error })?;
        let error = ClientError::TimedOut(PATIENCE);
        let event = event.ok_or(NoState::Call { service, error })?;
        decode(&event).map_err(|error| NoState::Answer { service, error })
    }

    /// A value of the map, its type first.
    fn get(&mut self, key: &str) -> Result<Option<(u8, Vec<u8>)>, NoState> {
        let request = cmap::Request::Get {
            key: key.to_owned(),
            room: ROOM,
        };
        match self.call(&request.encode(), cmap::Response::decode)? {
            cmap::Response::Get { kind, value, .. } => Ok(Some((kind, value))),
            cmap::Response::NotGot(_) => Ok(None),
            _ => Err(NoState::Unexpected(self.service)),
        }
    }

    fn text(&mut self, key: &str) -> Result<Option<String>, NoState> {
        let found = self.get(key)?.filter(|(kind, _)| *kind == kind::TEXT);
        Ok(found.map(|(_, bytes)| {
            let end = bytes.iter().position(|byte| *byte == 0);
            let text = bytes.get(..end.unwrap_or(bytes.len()));
            String::from_utf8_lossy(text.unwrap_or_default()).into_owned()
        }))
    }

    fn number(&mut self, key: &str) -> Result<Option<u64>, NoState> {
        let wide = |(kind, bytes): (u8, Vec<u8>)| {
            let is_number = matches!(kind, kind::U8 | kind::U16 | kind::U32 | kind::U64);
            let mut wide = [0; 8];
            let room = wide.get_mut(..bytes.len()).filter(|_| is_number)?;
            room.copy_from_slice(&bytes);
            Some(u64::from_le_bytes(wide))
        };
        Ok(self.get(key)?.and_then(wide))
    }
}

/// Asks the daemon of this host.
///
/// # Errors
/// When there is none, or it does not answer in time.
pub fn ask() -> Result<State, NoState> {
    let mut map = Connection::open(Service::Cmap)?;
    let mut members = Connection::open(Service::Quorum)?;
    let mut addresses = Connection::open(Service::Cfg)?;
    let provider = map.text("quorum.provider")?.unwrap_or_default();
    if provider != VOTEQUORUM {
        return Err(NoState::NoVotes);
    }
    let mut counting = Connection::open(Service::Votequorum)?;
    let node = map.number("runtime.votequorum.this_node_id")?;
    let node = node.and_then(|node| u32::try_from(node).ok());
    let node = node.ok_or(NoState::Refused {
        what: "Unable to retrieve this_node_id",
        status: Status::NOT_EXIST.0,
    })?;
    let (quorate, ring_seq, list) = ask_members(&mut members)?;
    let ring_node = ask_ring(&mut counting)?;
    let own = info(&mut counting, node)?.unwrap_or_default();
    let names = names(&mut map)?;
    let mut state = State {
        provider,
        node,
        ring_node,
        ring_seq,
        quorate,
        votes: Votes {
            expected: own.expected_votes,
            highest_expected: own.highest_expected,
            total: own.total_votes,
            needed: own.quorum,
            flags: own.flags,
        },
        members: Vec::new(),
    };
    for id in list {
        let address = address(&mut addresses, id)?;
        let name = names.iter().find(|(known, _)| *known == id);
        let name = match (name, address) {
            (Some((_, name)), _) => name.clone(),
            (None, Ok(address)) => sys::name_of(address),
            (None, Err(_)) => String::new(),
        };
        state.members.push(Member {
            id,
            info: info(&mut counting, id)?.map(|info| Info {
                votes: info.votes,
                flags: info.flags,
                device_votes: info.device_votes,
                device_name: info.device_name,
            }),
            name,
            address,
        });
    }
    Ok(state)
}

/// Changes the expected votes of all nodes. `Ok(Err(_))` is the daemon's refusal.
///
/// # Errors
/// When there is no daemon, or it does not answer in time.
pub fn set_expected(votes: u32) -> Result<Result<(), String>, NoState> {
    let mut counting = Connection::open(Service::Votequorum)?;
    let request = votequorum::Request::SetExpected { votes }.encode();
    match counting.call(&request, votequorum::Response::decode)? {
        votequorum::Response::Done(Status::OK) => Ok(Ok(())),
        votequorum::Response::Done(status) => Ok(Err(code(status.0))),
        votequorum::Response::Info(_) => Err(NoState::Unexpected(Service::Votequorum)),
    }
}

/// What the daemon knows of another node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Version of the wire that is spoken with it, with the lowest and the highest that it knows.
    pub onwire: Option<[u8; 3]>,
    /// Version of the configuration that it has in force.
    pub config_version: Option<u64>,
}

/// Asks what the daemon knows of these nodes.
///
/// # Errors
/// When there is none, or it does not answer in time.
pub fn ask_peers(ids: &[u32]) -> Result<BTreeMap<u32, Peer>, NoState> {
    let mut map = Connection::open(Service::Cmap)?;
    let mut links = Connection::open(Service::Cfg)?;
    let mut peers = BTreeMap::new();
    for id in ids {
        let request = cfg::Request::NodeStatus {
            nodeid: *id,
            version: 1,
        };
        let answer = links.call(&request.encode(), cfg::Response::decode)?;
        let cfg::Response::NodeStatus(status) = answer else {
            return Err(NoState::Unexpected(Service::Cfg));
        };
        let onwire = status.ok().map(|status| status.onwire);
        let key = format!("runtime.members.{id}.config_version");
        let peer = Peer {
            onwire: onwire.filter(|versions| versions.iter().any(|version| *version != 0)),
            config_version: map.number(&key)?,
        };
        peers.insert(*id, peer);
    }
    Ok(peers)
}

/// Whether this node may act, and the ring: its number and members.
fn ask_members(service: &mut Connection) -> Result<(bool, u64, Vec<u32>), NoState> {
    let unexpected = || NoState::Unexpected(Service::Quorum);
    let request = quorum::Request::GetQuorate.encode();
    let quorum::Response::Quorate(quorate) = service.call(&request, quorum::Response::decode)?
    else {
        return Err(unexpected());
    };
    let request = quorum::Request::TrackStart(TRACK_CURRENT).encode();
    match service.call(&request, quorum::Response::decode)? {
        quorum::Response::TrackStarted(Status::OK) => {}
        quorum::Response::TrackStarted(status) => {
            return Err(NoState::Refused {
                what: "Unable to start quorum status tracking",
                status: status.0,
            });
        }
        _ => return Err(unexpected()),
    }
    match service.event(quorum::Event::decode)? {
        quorum::Event::Notification {
            ring_seq, members, ..
        } => Ok((quorate, ring_seq, members)),
        _ => Err(unexpected()),
    }
}

/// The node that the ring is named after.
fn ask_ring(service: &mut Connection) -> Result<u32, NoState> {
    let request = votequorum::Request::TrackStart {
        context: 0,
        flags: TRACK_CURRENT,
    };
    match service.call(&request.encode(), votequorum::Response::decode)? {
        votequorum::Response::Done(Status::OK) => {}
        votequorum::Response::Done(status) => {
            return Err(NoState::Refused {
                what: "Unable to start votequorum status tracking",
                status: status.0,
            });
        }
        votequorum::Response::Info(_) => return Err(NoState::Unexpected(Service::Votequorum)),
    }
    loop {
        // Others that come with it say nothing of the ring.
        if let votequorum::Event::Nodelist { ring, .. } =
            service.event(votequorum::Event::decode)?
        {
            return Ok(ring.nodeid);
        }
    }
}

fn info(service: &mut Connection, nodeid: u32) -> Result<Option<votequorum::Info>, NoState> {
    let request = votequorum::Request::GetInfo { nodeid }.encode();
    match service.call(&request, votequorum::Response::decode)? {
        votequorum::Response::Info(info) => Ok(info.ok()),
        votequorum::Response::Done(_) => Err(NoState::Unexpected(Service::Votequorum)),
    }
}

/// Address on the first link.
fn address(
    service: &mut Connection,
    nodeid: u32,
) -> Result<Result<std::net::IpAddr, i32>, NoState> {
    let request = cfg::Request::NodeAddresses { nodeid }.encode();
    match service.call(&request, cfg::Response::decode)? {
        cfg::Response::NodeAddresses(Ok(list)) => {
            Ok(list.first().copied().ok_or(Status::NOT_EXIST.0))
        }
        cfg::Response::NodeAddresses(Err(status)) => Ok(Err(status.0)),
        _ => Err(NoState::Unexpected(Service::Cfg)),
    }
}

/// Names of the nodes in the list that have one.
fn names(map: &mut Connection) -> Result<Vec<(u32, String)>, NoState> {
    let mut names = Vec::new();
    for position in 0..NODES_MAX {
        let key = |name: &str| format!("nodelist.node.{position}.{name}");
        let Some(id) = map.number(&key("nodeid"))? else {
            if map.text(&key("ring0_addr"))?.is_none() {
                break;
            }
            continue;
        };
        let name = map.text(&key("name"))?.filter(|name| !name.is_empty());
        if let (Ok(id), Some(name)) = (u32::try_from(id), name) {
            names.push((id, name));
        }
    }
    Ok(names)
}
