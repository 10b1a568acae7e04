//! What a ring counts, and the reasons it gives.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use crate::wire::srp::DecodeError;

/// Why a datagram was not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Discard {
    /// Not a message of this protocol.
    #[error("malformed message")]
    Malformed,
    /// From a host of the other byte order, which cannot take part.
    #[error("message in the other byte order")]
    ByteOrder,
    /// Well-formed, but its fields contradict each other or what this node knows for sure.
    #[error("implausible message")]
    Implausible,
    /// Received before.
    #[error("duplicate")]
    Duplicate,
    /// Overtaken: belongs to a ring or membership that its sender has left behind.
    #[error("stale message")]
    Stale,
    /// Belongs to a ring that this node is not part of.
    #[error("message of another ring")]
    Foreign,
    /// Has no meaning in the present state.
    #[error("not expected in this state")]
    Unexpected,
    /// Too far ahead of what this node has.
    #[error("outside the window")]
    OutsideWindow,
    /// No room for messages out of order, or for more nodes.
    #[error("no room")]
    NoRoom,
    /// Queued while this process was stopped.
    #[error("received during a pause of this process")]
    Paused,
    /// This node's own message, come back.
    #[error("own message")]
    Own,
    /// Not started, or already left.
    #[error("not taking part in a ring")]
    Stopped,
}

impl From<DecodeError> for Discard {
    fn from(error: DecodeError) -> Self {
        if error == DecodeError::ByteOrder {
            Self::ByteOrder
        } else {
            Self::Malformed
        }
    }
}

/// Why a node went looking for a new membership. The numbers in parentheses are those that other
/// implementations log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GatherReason {
    /// Agreement took too long; silent nodes count as failed (0).
    ConsensusTimeout,
    /// No token came (2).
    TokenLost,
    /// Agreed, but no commit token came (3).
    CommitTokenMissing,
    /// The commit token was lost (4).
    TokenLostInCommit,
    /// The token was lost in recovery (5).
    TokenLostInRecovery,
    /// This node cannot receive what others can (6).
    FailedToReceive,
    /// A message of another ring, while operational (7).
    ForeignMessage,
    /// A message of another ring, while gathering (8).
    ForeignMessageInGather,
    /// Another ring was found, while operational (9).
    Merge,
    /// Another ring was found, while gathering (10).
    MergeInGather,
    /// A join message brought news (11).
    JoinNews,
    /// A join message in the operational state (12).
    JoinInOperational,
    /// A join message while committing (13).
    JoinInCommit,
    /// A join message during recovery (14).
    JoinInRecovery,
    /// The transport has come up (15).
    InterfaceUp,
}

impl fmt::Display for GatherReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConsensusTimeout => "consensus_timeout",
            Self::TokenLost => "token_lost",
            Self::CommitTokenMissing => "commit_token_missing",
            Self::TokenLostInCommit => "token_lost_in_commit",
            Self::TokenLostInRecovery => "token_lost_in_recovery",
            Self::FailedToReceive => "failed_to_receive",
            Self::ForeignMessage => "foreign_message",
            Self::ForeignMessageInGather => "foreign_message_in_gather",
            Self::Merge => "merge",
            Self::MergeInGather => "merge_in_gather",
            Self::JoinNews => "join_news",
            Self::JoinInOperational => "join_in_operational",
            Self::JoinInCommit => "join_in_commit",
            Self::JoinInRecovery => "join_in_recovery",
            Self::InterfaceUp => "interface_up",
        })
    }
}

/// When tokens came, and what waited to be sent then. Knows the last hundred.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens(VecDeque<(Instant, u32)>);

impl Tokens {
    const MAX: usize = 100;

    pub(super) fn note(&mut self, now: Instant, backlog: u32) {
        if self.0.len() == Self::MAX {
            self.0.pop_front();
        }
        self.0.push_back((now, backlog));
    }

    /// When the last one came.
    #[must_use]
    pub fn last(&self) -> Option<Instant> {
        self.0.back().map(|(at, _)| *at)
    }

    /// Mean time between two.
    #[must_use]
    pub fn mean_interval(&self) -> Duration {
        let first = self.0.front().map(|(at, _)| *at);
        let between = first
            .zip(self.last())
            .map_or(Duration::ZERO, |(first, last)| {
                last.saturating_duration_since(first)
            });
        let count = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        between / count.saturating_sub(1).max(1)
    }

    /// Mean number of frames that waited.
    #[must_use]
    pub fn mean_backlog(&self) -> u32 {
        let sum: u64 = self.0.iter().map(|(_, backlog)| u64::from(*backlog)).sum();
        let count = u64::try_from(self.0.len()).unwrap_or(u64::MAX).max(1);
        u32::try_from(sum / count).unwrap_or(u32::MAX)
    }
}

/// Messages of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exchanged {
    /// Sent by this node.
    pub sent: u64,
    /// Received, whether they were of use or not.
    pub received: u64,
}

/// Counters since the start; all only grow, but [`Stats::gathers_in_vain`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// ORF tokens accepted.
    pub tokens_accepted: u64,
    /// ORF tokens sent for the first time.
    pub tokens_sent: u64,
    /// Tokens of both kinds sent again because nothing came back.
    pub tokens_resent: u64,
    /// New messages sent.
    pub messages_sent: u64,
    /// Messages sent again because a node asked.
    pub messages_resent: u64,
    /// Messages received and kept.
    pub messages_received: u64,
    /// Messages handed up.
    pub messages_delivered: u64,
    /// Requests for missing messages put into tokens.
    pub requests: u64,
    /// Old-ring messages carried to others during recovery.
    pub recovery_sent: u64,
    /// Old-ring messages obtained from others during recovery.
    pub recovery_received: u64,
    /// Rings installed.
    pub rings_installed: u64,
    /// Tokens that came later than the warning threshold.
    pub tokens_late: u64,
    /// Messages by which rings find each other.
    pub merge_detects: Exchanged,
    /// Join messages.
    pub joins: Exchanged,
    /// Commit tokens; those sent again do not count.
    pub commit_tokens: Exchanged,
    /// Messages that wake a node that holds the token.
    pub hold_cancels: Exchanged,
    /// Transitions to the commit state.
    pub commits: u64,
    /// Transitions to the recovery state.
    pub recoveries: u64,
    /// Attempts to agree on a membership that have failed since the last that did not.
    pub gathers_in_vain: u32,
    /// The last tokens.
    pub tokens: Tokens,
    /// Transitions to the gather state by reason.
    pub gathers: BTreeMap<GatherReason, u64>,
    /// Datagrams not used, by reason.
    pub discards: BTreeMap<Discard, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_of_the_last_hundred_tokens() {
        let mut tokens = Tokens::default();
        let start = crate::proto::knet::tests_base();
        assert_eq!(
            (tokens.mean_interval(), tokens.mean_backlog()),
            (Duration::ZERO, 0)
        );
        let mut now = start;
        for number in 0..300 {
            now += Duration::from_millis(if number < 150 { 1000 } else { 10 });
            tokens.note(now, if number < 150 { 90 } else { 7 });
        }
        assert_eq!(tokens.last(), Some(now));
        assert_eq!(tokens.mean_interval(), Duration::from_millis(10));
        assert_eq!(tokens.mean_backlog(), 7);
    }
}
