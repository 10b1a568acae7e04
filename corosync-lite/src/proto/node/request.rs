//! Requests, responses and events of all services, as the node and its user pass them.

use bytes::Bytes;

use crate::service::{DecodeError, Message, cfg, cmap, cpg, quorum, votequorum};

/// What clients can connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// Configuration map.
    Cmap,
    /// State of links, reload, shutdown.
    Cfg,
    /// Process groups.
    Cpg,
    /// Whether this partition may act.
    Quorum,
    /// Votes.
    Votequorum,
}

impl Service {
    /// All of them, by number.
    pub const ALL: [Self; 5] = [
        Self::Cmap,
        Self::Cfg,
        Self::Cpg,
        Self::Quorum,
        Self::Votequorum,
    ];

    /// The name that clients connect to.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cmap => cmap::NAME,
            Self::Cfg => cfg::NAME,
            Self::Cpg => cpg::NAME,
            Self::Quorum => quorum::NAME,
            Self::Votequorum => votequorum::NAME,
        }
    }

    /// Its number in keys of the configuration map.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::Cmap => 0,
            Self::Cfg => 1,
            Self::Cpg => 2,
            Self::Quorum => 3,
            Self::Votequorum => 5,
        }
    }

    /// Whether the client waits for a response to a request with this number, also when it can
    /// not be decoded.
    #[must_use]
    pub fn is_answered(self, id: i32) -> bool {
        self != Self::Cpg || cpg::Request::is_answered(id)
    }
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "one per service")]
pub enum Request {
    Cmap(cmap::Request),
    Cfg(cfg::Request),
    Cpg(cpg::Request),
    Quorum(quorum::Request),
    Votequorum(votequorum::Request),
}

impl Request {
    /// Reads a request to a service, head included. Data is a slice of `message`.
    ///
    /// # Errors
    /// When the service has no such request, or it is too short. A client that waits for a
    /// response ([`Service::is_answered`]) gets [`Message::rejected`].
    pub fn decode(service: Service, message: &Bytes) -> Result<Self, DecodeError> {
        Ok(match service {
            Service::Cmap => Self::Cmap(cmap::Request::decode(message)?),
            Service::Cfg => Self::Cfg(cfg::Request::decode(message)?),
            Service::Cpg => Self::Cpg(cpg::Request::decode(message)?),
            Service::Quorum => Self::Quorum(quorum::Request::decode(message)?),
            Service::Votequorum => Self::Votequorum(votequorum::Request::decode(message)?),
        })
    }
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "one per service")]
pub enum Response {
    Cmap(cmap::Response),
    Cfg(cfg::Response),
    Cpg(cpg::Response),
    Quorum(quorum::Response),
    Votequorum(votequorum::Response),
}

impl Response {
    /// As it is sent.
    #[must_use]
    pub fn encode(&self) -> Message {
        match self {
            Self::Cmap(response) => response.encode(),
            Self::Cfg(response) => response.encode(),
            Self::Cpg(response) => response.encode(),
            Self::Quorum(response) => response.encode(),
            Self::Votequorum(response) => response.encode(),
        }
    }
}

/// Something that a client is told unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "one per service")]
pub enum ClientEvent {
    Cmap(cmap::Event),
    Cfg(cfg::Event),
    Cpg(cpg::Event),
    Quorum(quorum::Event),
    Votequorum(votequorum::Event),
}

impl ClientEvent {
    /// As it is sent.
    #[must_use]
    pub fn encode(&self) -> Message {
        match self {
            Self::Cmap(event) => event.encode(),
            Self::Cfg(event) => event.encode(),
            Self::Cpg(event) => event.encode(),
            Self::Quorum(event) => event.encode(),
            Self::Votequorum(event) => event.encode(),
        }
    }
}
