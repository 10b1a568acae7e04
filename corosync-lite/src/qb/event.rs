//! What a server tells its owner.

use bytes::Bytes;

use super::connection::{CloseReason, Credentials};

/// A connection, for as long as the server lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(pub(super) u64);

impl ConnectionId {
    /// A number that no other connection of this server has.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// A name that the server listens under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceId(pub(super) usize);

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Operation. Those below 0 have no meaning but must be answered, too.
    pub id: i32,
    /// The whole message, head included: layouts of services count from there.
    pub message: Bytes,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A client asks to be let in: call [`super::Server::accept`] or [`super::Server::refuse`].
    Hello {
        /// The connection.
        connection: ConnectionId,
        /// What it connected to.
        service: ServiceId,
        /// Who it is.
        credentials: Credentials,
    },
    /// A client that was let in sent a request.
    Request {
        /// The connection.
        connection: ConnectionId,
        /// What it connected to.
        service: ServiceId,
        /// What it sent.
        request: Request,
    },
    /// A connection that a `Hello` told of is gone. Nothing more comes from it.
    Closed {
        /// The connection.
        connection: ConnectionId,
        /// What it had connected to.
        service: ServiceId,
        /// Why it ended.
        reason: CloseReason,
    },
}

/// Why a message was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The connection is gone. An [`Event::Closed`] says why.
    #[error("the connection is closed")]
    Closed,
    /// The client has no room for a message of that size; nothing was sent.
    #[error("message of {size} bytes, the client takes {limit} at most")]
    TooLong {
        /// Bytes of the message with its head.
        size: usize,
        /// What the client asked for.
        limit: usize,
    },
}
