//! The barrier after each new membership: one service after the other tells all members what it
//! needs them to know, and acts on it when all have done so.
//!
//! | step | message | goes on when |
//! |---|---|---|
//! | building | `build` with the services of this node | all members have sent theirs |
//! | a service of the union | its own messages, then `barrier` | all members have sent theirs |
//!
//! Messages are totally ordered, so when the last barrier of a service is delivered, everything
//! that it has sent is delivered at every member.
//!
//! Invariants: services are activated in ascending order, each once per membership, at the same
//! place of the order on all members; when a newer configuration comes, those that were told of the
//! present one and were not activated are told to give up; messages of other rings are ignored.
//!
//! Which lane a message of a sender was sent in is not on the wire. It follows from the place in
//! the order: behind the last barrier nothing of the sync lane comes any more. So barriers are
//! counted to the end also when the phase was given up and messages of the old ring still come.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};

use super::srp::Lane;
use crate::wire::sync::{MAX_SERVICES, Message};
use crate::wire::{NodeId, RingId};

/// Something to be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// A membership is in force: tell all services of this node.
    Init {
        /// Its ring.
        ring: RingId,
        /// Its members, ascending.
        members: Vec<NodeId>,
        /// Those that came along from the previous one.
        transitional: Vec<NodeId>,
    },
    /// Have this service of this node send its messages, in the sync lane; then call
    /// [`Sync::processed`].
    Process(u16),
    /// All members have sent the messages of this service.
    Activate(u16),
    /// A newer configuration comes; this service will not be activated.
    Abort(u16),
    /// Multicast in the sync lane, to the group [`crate::wire::pg::Group::Sync`].
    Mcast(Message),
    /// All services are done.
    Done(RingId),
}

/// The barrier; see the module.
#[derive(Debug)]
pub struct Sync {
    /// Services of this node that take part, ascending.
    services: Vec<u16>,
    ring: RingId,
    members: BTreeSet<NodeId>,
    transitional: Vec<NodeId>,
    state: State,
    /// Services of this node that were told of the membership and not activated.
    waiting: BTreeSet<u16>,
    /// The phase is given up; barriers are only counted.
    given_up: bool,
    /// A service of this node has still something to send before the barrier.
    processing: bool,
    /// Members whose message of the present step came.
    heard: BTreeSet<NodeId>,
    outputs: VecDeque<Output>,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Before the first configuration.
    New,
    /// Messages `build` come in.
    Building {
        /// Services of those members that were heard.
        services: BTreeSet<u32>,
    },
    /// Barriers of the first of these come in.
    Running {
        /// Services that are not done.
        left: VecDeque<u32>,
    },
    /// All are done.
    Done,
}

impl Sync {
    /// `services` of this node take part.
    #[must_use]
    pub fn new(mut services: Vec<u16>) -> Self {
        services.sort_unstable();
        services.dedup();
        Self {
            services,
            ring: RingId::default(),
            members: BTreeSet::new(),
            transitional: Vec::new(),
            state: State::New,
            waiting: BTreeSet::new(),
            given_up: false,
            processing: false,
            heard: BTreeSet::new(),
            outputs: VecDeque::new(),
        }
    }

    /// A transitional configuration came: what is going on will not end.
    pub fn handle_transitional(&mut self, members: &[NodeId]) {
        self.transitional = members.to_vec();
        self.given_up = true;
        self.processing = false;
        for service in std::mem::take(&mut self.waiting) {
            self.outputs.push_back(Output::Abort(service));
        }
    }

    /// A regular configuration came.
    pub fn handle_regular(&mut self, ring: RingId, members: &[NodeId]) {
        // Without a transitional configuration in front there is nobody that came along.
        let mut transitional = std::mem::take(&mut self.transitional);
        if !self.given_up {
            self.handle_transitional(&[]);
        }
        self.ring = ring;
        self.members = members.iter().copied().collect();
        self.given_up = false;
        self.heard.clear();
        self.state = State::Building {
            services: BTreeSet::new(),
        };
        self.waiting = self.services.iter().copied().collect();
        transitional.retain(|node| self.members.contains(node));
        let services = self.services.iter().copied().map(u32::from).collect();
        self.outputs.push_back(Output::Init {
            ring,
            members: self.members.iter().copied().collect(),
            transitional,
        });
        self.outputs
            .push_back(Output::Mcast(Message::Build { ring, services }));
    }

    /// Takes a message, own ones included.
    pub fn handle_message(&mut self, sender: NodeId, message: &Message) {
        let (Message::Build { ring, .. } | Message::Barrier { ring }) = message;
        if *ring != self.ring || !self.members.contains(&sender) {
            return;
        }
        match (message, &mut self.state) {
            (Message::Build { services, .. }, State::Building { services: all }) => {
                all.extend(services);
                self.heard.insert(sender);
                if self.all_heard() {
                    let State::Building { services } =
                        std::mem::replace(&mut self.state, State::Done)
                    else {
                        return;
                    };
                    let left = services.into_iter().take(MAX_SERVICES).collect();
                    self.state = State::Running { left };
                    self.begin_service();
                }
            }
            (Message::Barrier { .. }, State::Running { left }) => {
                self.heard.insert(sender);
                let service = left.front().copied();
                if self.all_heard() {
                    self.end_service(service);
                }
            }
            _ => {}
        }
    }

    fn all_heard(&self) -> bool {
        self.heard.len() == self.members.len()
    }

    fn begin_service(&mut self) {
        self.heard.clear();
        let State::Running { left } = &self.state else {
            return;
        };
        let Some(service) = left.front().copied() else {
            self.state = State::Done;
            if !self.given_up {
                self.outputs.push_back(Output::Done(self.ring));
            }
            return;
        };
        if self.given_up {
            return;
        }
        self.processing = true;
        match self.own(service) {
            Some(own) => self.outputs.push_back(Output::Process(own)),
            None => self.processed(),
        }
    }

    /// The service that was asked by [`Output::Process`] has sent everything.
    pub fn processed(&mut self) {
        if std::mem::take(&mut self.processing) {
            let ring = self.ring;
            self.outputs
                .push_back(Output::Mcast(Message::Barrier { ring }));
        }
    }

    /// Whether [`Sync::processed`] is awaited.
    #[must_use]
    pub fn is_processing(&self) -> bool {
        self.processing
    }

    fn end_service(&mut self, service: Option<u32>) {
        if let Some(own) = service.and_then(|service| self.own(service))
            && self.waiting.remove(&own)
        {
            self.outputs.push_back(Output::Activate(own));
        }
        if let State::Running { left } = &mut self.state {
            left.pop_front();
        }
        self.begin_service();
    }

    fn own(&self, service: u32) -> Option<u16> {
        let service = u16::try_from(service).ok()?;
        self.services.contains(&service).then_some(service)
    }

    /// The lane in which messages that are delivered now were sent.
    #[must_use]
    pub fn lane(&self) -> Lane {
        match self.state {
            State::Done => Lane::Ordinary,
            _ => Lane::Sync,
        }
    }

    /// Whether all services are done and no newer configuration is on its way.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done && !self.given_up
    }

    /// The next thing to do.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
}
