//! The vote of local clients on the shutdown of this node.

use std::collections::BTreeMap;
use std::time::Instant;

use super::Log;
use crate::service::cfg::Event;
use crate::service::{ClientId, Status};

/// Asks, but stops whatever the answers are.
const REGARDLESS: u32 = 1;
/// Stops without asking.
pub(super) const IMMEDIATE: u32 = 2;

/// A vote under way.
#[derive(Debug)]
pub(super) struct Vote {
    /// Who asked for the shutdown.
    pub(super) asker: ClientId,
    /// As in the request.
    pub(super) flags: u32,
    /// Who has not answered by then is against it.
    pub(super) deadline: Instant,
    /// Those who are asked, and what they said.
    replies: BTreeMap<ClientId, Option<bool>>,
    ended: bool,
}

/// How it ended.
#[derive(Debug)]
pub(super) struct Decision {
    /// This node stops.
    pub(super) stops: bool,
    /// The numbers.
    pub(super) log: Log,
}

impl Vote {
    pub(super) fn new(
        asker: ClientId,
        flags: u32,
        deadline: Instant,
        voters: impl Iterator<Item = ClientId>,
    ) -> Self {
        Self {
            asker,
            flags,
            deadline,
            replies: voters.map(|client| (client, None)).collect(),
            ended: false,
        }
    }

    /// What each of them is asked.
    pub(super) fn question(&self) -> Event {
        Event {
            status: Status::OK,
            flags: self.flags,
        }
    }

    pub(super) fn add(&mut self, client: ClientId) {
        self.replies.insert(client, None);
    }

    /// Takes an answer; the last one of a client counts. False when it was not asked.
    pub(super) fn reply(&mut self, client: ClientId, yes: bool) -> bool {
        let reply = self.replies.get_mut(&client);
        reply.map(|reply| *reply = Some(yes)).is_some()
    }

    /// No more answers are waited for.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    pub(super) fn silent(&self) -> impl Iterator<Item = ClientId> {
        let silent = self.replies.iter().filter(|(_, reply)| reply.is_none());
        silent.map(|(client, _)| *client)
    }

    /// Nothing while answers are waited for.
    pub(super) fn decision(&self) -> Option<Decision> {
        let said = |what| {
            self.replies
                .values()
                .filter(|reply| **reply == what)
                .count()
        };
        let (yes, no, silent) = (said(Some(true)), said(Some(false)), said(None));
        if silent > 0 && !self.ended {
            return None;
        }
        let stops = no + silent == 0 || self.flags == REGARDLESS;
        let log = Log::ShutdownVote {
            stops,
            yes,
            no,
            silent,
        };
        Some(Decision { stops, log })
    }
}
