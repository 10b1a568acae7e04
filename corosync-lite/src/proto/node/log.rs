//! What happened, for the log.

use std::fmt;
use std::time::Duration;

use crate::proto::knet::LinkDownReason;
use crate::proto::srp::{GatherReason, Phase};
use crate::wire::{NodeId, RingId};

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Of use to developers.
    Debug,
    /// A change of state.
    Info,
    /// Abnormal, still working.
    Warn,
    /// Something that was asked for failed.
    Error,
}

/// One thing that happened. It displays as one line of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Log {
    /// Pongs come on a link.
    LinkUp {
        /// Node at its other end.
        node: NodeId,
        /// Its number.
        link: u8,
    },
    /// A link does not work any more.
    LinkDown {
        /// Node at its other end.
        node: NodeId,
        /// Its number.
        link: u8,
        /// How that was noticed.
        reason: LinkDownReason,
    },
    /// A node has its first usable link.
    NodeReachable(NodeId),
    /// A node has no usable link any more.
    NodeUnreachable(NodeId),
    /// The ring protocol changed its state.
    Ring {
        /// The state entered.
        phase: Phase,
        /// The ring in use or being formed.
        ring: RingId,
        /// Why, when gathering.
        reason: Option<GatherReason>,
    },
    /// The token is late.
    TokenLate(Duration),
    /// A new membership is in force.
    Membership {
        /// Its ring.
        ring: RingId,
        /// Its members.
        members: Vec<NodeId>,
        /// Who was not in the one before.
        joined: Vec<NodeId>,
        /// Who is not any more.
        left: Vec<NodeId>,
    },
    /// The services of all members have told each other what they need to know.
    Synchronized(RingId),
    /// This partition may act, or may not any more.
    Quorate(bool),
    /// Words of a service.
    Service {
        /// How much they matter.
        level: Level,
        /// The words.
        text: String,
    },
}

impl Log {
    /// How much it matters.
    #[must_use]
    pub fn level(&self) -> Level {
        match self {
            Self::Ring { .. } | Self::Synchronized(_) => Level::Debug,
            Self::LinkUp { .. }
            | Self::NodeReachable(_)
            | Self::Membership { .. }
            | Self::Quorate(true) => Level::Info,
            Self::LinkDown { .. }
            | Self::NodeUnreachable(_)
            | Self::TokenLate(_)
            | Self::Quorate(false) => Level::Warn,
            Self::Service { level, .. } => *level,
        }
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LinkUp { node, link } => write!(f, "node {node} link {link} is up"),
            Self::LinkDown { node, link, reason } => {
                write!(f, "node {node} link {link} is down: {}", why(*reason))
            }
            Self::NodeReachable(node) => write!(f, "node {node} can be reached"),
            Self::NodeUnreachable(node) => write!(f, "node {node} can not be reached on any link"),
            Self::Ring {
                phase,
                ring,
                reason,
            } => {
                write!(f, "ring {ring} {}", name(*phase))?;
                reason.map_or(Ok(()), |reason| write!(f, ": {reason}"))
            }
            Self::TokenLate(after) => write!(
                f,
                "no token for {} ms: this host or the network is overloaded",
                after.as_millis()
            ),
            Self::Membership {
                ring,
                members,
                joined,
                left,
            } => {
                write!(f, "ring {ring} with members {}", Nodes(members))?;
                for (word, nodes) in [("joined", joined), ("left", left)] {
                    if !nodes.is_empty() {
                        write!(f, ", {word} {}", Nodes(nodes))?;
                    }
                }
                Ok(())
            }
            Self::Synchronized(ring) => write!(f, "ring {ring} is ready for service"),
            Self::Quorate(true) => f.write_str("this partition has quorum"),
            Self::Quorate(false) => f.write_str("this partition has no quorum"),
            Self::Service { text, .. } => f.write_str(text),
        }
    }
}

struct Nodes<'a>(&'a [NodeId]);

impl fmt::Display for Nodes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, node) in self.0.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{node}")?;
        }
        Ok(())
    }
}

fn why(reason: LinkDownReason) -> &'static str {
    match reason {
        LinkDownReason::NoPong => "no answer to pings",
        LinkDownReason::SendFailed => "the system refuses to send on it",
        LinkDownReason::Removed => "it was removed from the configuration",
    }
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Operational => "operational",
        Phase::Gather => "gather",
        Phase::Commit => "commit",
        Phase::Recovery => "recovery",
        Phase::Stopped => "stopped",
    }
}
