//! Clients that are told what happens, and the words of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::service::{self, ClientId, quorum, votequorum};
use crate::wire::NodeId;

use super::{Announced, Log, Output, Quorum};

/// How the events of a client of `quorum` look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Model {
    /// Quorum and members in one.
    #[default]
    Together,
    /// One event for each.
    Apart,
}

/// Clients by connection. Those of the two services have different numbers.
#[derive(Debug, Default)]
pub(super) struct Trackers {
    pub(super) models: BTreeMap<ClientId, Model>,
    /// Of `quorum`.
    pub(super) quorum: BTreeSet<ClientId>,
    /// Of `votequorum`, with the context that each has given.
    pub(super) votequorum: BTreeMap<ClientId, u64>,
}

impl Trackers {
    pub(super) fn remove(&mut self, client: ClientId) {
        self.models.remove(&client);
        self.quorum.remove(&client);
        self.votequorum.remove(&client);
    }

    pub(super) fn model(&self, client: ClientId) -> Model {
        self.models.get(&client).copied().unwrap_or_default()
    }
}

impl Quorum {
    /// The decision is made: tells everybody.
    pub(super) fn announce(&mut self) {
        let changed = self.announced.quorate != self.votes.quorate;
        self.announced = Announced {
            quorate: self.votes.quorate,
            members: self.votes.members.clone(),
            ring: self.ring,
        };
        if changed {
            self.log(Log::Changed(self.status()));
        } else if !self.votes.quorate {
            self.log(Log::StillInquorate(self.status()));
        }
        self.output_quorate();
        let clients: Vec<ClientId> = self.trackers.quorum.iter().copied().collect();
        for client in clients {
            self.tell_quorum(client);
        }
        for (client, context) in self.trackers.votequorum.clone() {
            self.tell_votequorum(client, context);
        }
    }

    pub(super) fn output_quorate(&mut self) {
        let Announced {
            quorate,
            members,
            ring,
        } = self.announced.clone();
        self.outputs.push_back(Output::Quorate {
            quorate,
            members,
            ring,
        });
    }

    /// The decision, for one client of `quorum`.
    pub(super) fn tell_quorum(&mut self, client: ClientId) {
        let Announced {
            quorate,
            ref members,
            ring,
        } = self.announced;
        let members = numbers(members);
        let event = match self.trackers.model(client) {
            Model::Together => quorum::Event::Notification {
                quorate,
                ring_seq: ring.seq,
                members,
            },
            Model::Apart => quorum::Event::Quorum {
                quorate,
                ring: service_ring(ring),
                members,
            },
        };
        self.outputs.push_back(Output::EventQuorum(client, event));
    }

    /// Who is here, for one client of `quorum`; `changes`: and who came and went.
    pub(super) fn tell_members(&mut self, client: ClientId, changes: bool) {
        if self.trackers.model(client) != Model::Apart {
            return;
        }
        let listed = |nodes: &[NodeId]| if changes { numbers(nodes) } else { Vec::new() };
        let event = quorum::Event::Nodelist {
            ring: service_ring(self.ring),
            members: numbers(&self.votes.members),
            joined: listed(&self.joined),
            left: listed(&self.left),
        };
        self.outputs.push_back(Output::EventQuorum(client, event));
    }

    /// The decision and the states of nodes, for one client of `votequorum`.
    pub(super) fn tell_votequorum(&mut self, client: ClientId, context: u64) {
        let states = self.votes.records();
        let mut nodes: Vec<_> = states
            .map(|(node, record)| (node.0, record.state.number()))
            .collect();
        // As the original: the others in order, then this one.
        nodes.sort_by_key(|(node, _)| *node == self.us.0);
        if self.device.is_registered(&self.votes) {
            // The original never gives the device a state.
            nodes.push((NodeId::NONE.0, 0));
        }
        let event = votequorum::Event::Quorum {
            context,
            quorate: self.votes.quorate,
            nodes,
        };
        self.outputs
            .push_back(Output::EventVotequorum(client, event));
    }

    /// Who is here, for one client of `votequorum`.
    pub(super) fn tell_nodelist(&mut self, client: ClientId, context: u64) {
        let event = votequorum::Event::Nodelist {
            context,
            ring: service_ring(self.ring),
            members: numbers(&self.votes.members),
        };
        self.outputs
            .push_back(Output::EventVotequorum(client, event));
    }

    /// How many votes are expected, for all clients of `votequorum`.
    pub(super) fn tell_expected(&mut self) {
        self.told_expected = self.votes.own().expected;
        for (client, context) in self.trackers.votequorum.clone() {
            let event = votequorum::Event::ExpectedVotes {
                context,
                expected_votes: self.told_expected,
            };
            self.outputs
                .push_back(Output::EventVotequorum(client, event));
        }
    }
}

fn numbers(nodes: &[NodeId]) -> Vec<u32> {
    nodes.iter().map(|node| node.0).collect()
}

fn service_ring(ring: crate::wire::RingId) -> service::RingId {
    service::RingId {
        nodeid: ring.rep.0,
        seq: ring.seq,
    }
}
