//! What a node and its user say to each other, besides requests of clients.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use super::log::Log;
use super::request::{ClientEvent, Response, Service};
use crate::proto::knet;
use crate::service::ClientId;
use crate::wire::NodeId;

pub use crate::proto::knet::{Purpose, SendFailure};

/// A socket that the node wants to have; [`super::Node::sockets`] says how it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SocketId {
    /// Datagrams to all nodes, where the transport has multicast. It is to be read empty before
    /// the others: the token must not overtake the messages in front of it.
    Multicast,
    /// One link: datagrams from and to its address.
    Link(u8),
    /// Sends only, from a port of its own.
    Sender,
}

/// How a socket is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketSpec {
    /// Which one it is.
    pub id: SocketId,
    /// Address that it is bound to. Port 0: any.
    pub bind: SocketAddr,
    /// Group to be joined and hops of what is sent to it.
    pub multicast: Option<Multicast>,
    /// Datagrams to 255.255.255.255 are sent.
    pub broadcast: bool,
    /// The kernel must not fragment what is sent, and reports what is too large; otherwise it
    /// has to fragment.
    pub dont_fragment: bool,
}

/// A multicast group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Multicast {
    /// Its address.
    pub group: IpAddr,
    /// Own address on the interface to use.
    pub interface: IpAddr,
    /// Hops.
    pub ttl: u8,
}

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Socket to send it on.
    pub socket: SocketId,
    /// Where it goes.
    pub to: SocketAddr,
    /// Node that it is for; nobody: all.
    pub node: NodeId,
    /// What it is for.
    pub purpose: Purpose,
    /// Its bytes. Copies to several nodes share them.
    pub datagram: Bytes,
}

/// What was stored in an earlier life of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// What [`Output::PersistRing`] gave last, 0 if nothing.
    pub ring_seq: u64,
    /// What [`Output::PersistExpectedVotes`] gave last, if anything.
    pub expected_votes: Option<u32>,
}

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Process.
    pub pid: i32,
    /// Real user.
    pub uid: u32,
    /// Real group.
    pub gid: u32,
}

/// Why a client is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Neither root nor named in the configuration.
    #[error("user {uid}, group {gid} may not connect: name one of them in a uidgid section")]
    NotAllowed {
        /// Its user.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// The service is not configured.
    #[error("the service is not configured")]
    NotLoaded,
}

impl Refusal {
    /// The number for [`crate::qb::Server::refuse`].
    #[must_use]
    pub fn errno(self) -> i32 {
        match self {
            Self::NotAllowed { .. } => -13,
            Self::NotLoaded => -38,
        }
    }
}

/// Whether requests are taken from clients of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// They are.
    #[default]
    Open,
    /// They stay with the clients; calls that may fail do so.
    Blocked,
}

/// Why the daemon has to end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShutdownReason {
    /// A client asked for it, and none of those that were asked said no.
    #[error("a client asked for it")]
    Requested,
    /// Another node asked for it.
    #[error("node {by} asked for it: {reason}")]
    Killed {
        /// The node.
        by: NodeId,
        /// Its words.
        reason: String,
    },
    /// The configuration file is older than that of another member.
    #[error(
        "configuration version {own} is not that of the other members, {highest}: bring the file up to date and start again"
    )]
    OutdatedConfig {
        /// Of this node.
        own: u64,
        /// The highest that a member has.
        highest: u64,
    },
}

/// Something to be done, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send a datagram.
    Transmit(Transmit),
    /// Store this ring sequence; go on with further outputs only when it is on disk.
    PersistRing(u64),
    /// Store the highest number of expected votes.
    PersistExpectedVotes(u32),
    /// Answer a client; responses to one client come in the order of its requests.
    Respond(ClientId, Response),
    /// Tell a client.
    Event(ClientId, ClientEvent),
    /// Take requests from clients of a service, or do not.
    FlowControl(Service, Flow),
    /// What [`super::Node::sockets`] gives has changed: close and open what differs.
    Sockets,
    /// Read the configuration again, and call [`super::Node::reload`] or
    /// [`super::Node::reload_failed`].
    Reload,
    /// Open log files anew.
    ReopenLogs,
    /// End the daemon: call [`super::Node::leave`], carry out what it puts out until
    /// [`super::Node::is_stopped`], and exit.
    Shutdown(ShutdownReason),
    /// Something for the log.
    Log(Log),
}

/// Why a node can not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// There is no list of nodes with this host in it, which the transport needs.
    #[error(
        "No valid name found for local host: add this node to the nodelist, with one of its \
         addresses"
    )]
    NotListed,
    /// Settings of links or nodes do not fit the transport.
    #[error("{0}")]
    Transport(#[from] knet::ConfigError),
    /// The key can not be used.
    #[error("key: {0}")]
    Key(#[from] knet::seal::KeyError),
    /// Options of the quorum exclude each other, or say too little.
    #[error("{0}")]
    Quorum(#[from] crate::proto::quorum::Conflict),
    /// A setting that is not supported.
    #[error("{0} is not supported: remove it, on all nodes")]
    Unsupported(&'static str),
}
