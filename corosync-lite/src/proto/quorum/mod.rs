//! Quorum: whether this partition may act.
//!
//! [`Quorum`] counts the votes of nodes and of a quorum device, decides, and answers the clients of
//! two services: `quorum` (may we act, who is here) and `votequorum` (the votes in detail, and the
//! calls of the device). Both take part in synchronisation, in this order; see [`Part`].
//!
//! | module | owns |
//! |---|---|
//! | `settings` | what the configuration says, and which options exclude each other |
//! | `votes` | the records of nodes and the arithmetic on them |
//! | `messages` | what other nodes say |
//! | `sync` | the steps of a synchronisation |
//! | `device` | the device of this node: calls and timer |
//! | `requests` | all other calls of clients |
//! | `trackers` | who is told what |
//! | `report` | what the administrator is told |
//!
//! Without a provider (no `quorum.provider`) every partition may act, and there are no votes.
//!
//! Invariants: all members of a partition decide at the same place of the total order, at the end of
//! a synchronisation or at a message; the timer of `last_man_standing` is the one exception. What is
//! announced never changes within a synchronisation.

mod device;
mod messages;
mod report;
mod requests;
mod settings;
mod sync;
mod trackers;
mod votes;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use crate::config;
use crate::proto::srp::Lane;
use crate::service::cmap::Raw;
use crate::service::{ClientId, quorum, votequorum};
use crate::wire::votequorum::{Message, NodeFlags, NodeInfo, Parameter};
use crate::wire::{NodeId, RingId};

use device::Device;
use settings::{PROVIDER, Settings, When};
use trackers::Trackers;
use votes::{Decrease, Votes};

pub use report::{Log, Status};
pub use settings::Conflict;

/// The two services that take part in a synchronisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// `quorum`: tells its clients who is here. It sends nothing.
    Quorum,
    /// `votequorum`: exchanges votes. It is there only with a provider.
    Votequorum,
}

impl Part {
    /// Number of the service, which is its place in the synchronisation.
    pub fn service(self) -> u32 {
        match self {
            Self::Quorum => 3,
            Self::Votequorum => 5,
        }
    }
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Goes to all nodes, this one included.
    Mcast {
        /// With which others it queues.
        lane: Lane,
        /// The message.
        message: Message,
    },
    /// Answer to a client of `quorum`.
    RespondQuorum(ClientId, quorum::Response),
    /// Answer to a client of `votequorum`.
    RespondVotequorum(ClientId, votequorum::Response),
    /// News for a client of `quorum`.
    EventQuorum(ClientId, quorum::Event),
    /// News for a client of `votequorum`.
    EventVotequorum(ClientId, votequorum::Event),
    /// The decision: after each synchronisation, and whenever it changes.
    Quorate {
        /// Whether this partition may act.
        quorate: bool,
        /// Its nodes.
        members: Vec<NodeId>,
        /// Its ring.
        ring: RingId,
    },
    /// The most votes ever expected; to be kept over restarts.
    Track(u32),
    /// A key of the configuration map has this value now.
    Key(&'static str, Raw),
    /// For the log.
    Log(Log),
}

/// The count of votes, and its clients.
#[derive(Debug)]
pub struct Quorum {
    us: NodeId,
    provider: bool,
    settings: Settings,
    /// The configuration was read again since the start.
    read_again: bool,
    votes: Votes,
    ring: RingId,
    /// Differences to the last completed synchronisation.
    joined: Vec<NodeId>,
    left: Vec<NodeId>,
    /// Members of the last completed synchronisation.
    settled: Vec<NodeId>,
    announced: Announced,
    device: Device,
    /// When those that are gone count no longer.
    last_man: Option<Instant>,
    /// A node with several votes ended it for good.
    last_man_off: bool,
    /// What clients that track heard last.
    told_expected: u32,
    trackers: Trackers,
    keys: BTreeMap<&'static str, Raw>,
    outputs: VecDeque<Output>,
}

/// What clients of `quorum` were told last.
#[derive(Clone, Debug, Default)]
struct Announced {
    quorate: bool,
    members: Vec<NodeId>,
    ring: RingId,
}

impl Quorum {
    /// The count of node `us`, before it has seen anybody.
    ///
    /// `tracked` is what the last [`Output::Track`] said, 0 if there was none.
    ///
    /// # Errors
    /// When options of the configuration exclude each other.
    pub fn new(us: NodeId, config: &config::Config, tracked: u32) -> Result<Self, Conflict> {
        let provider = match config.quorum.provider.as_deref() {
            None => false,
            Some(PROVIDER) => true,
            Some(other) => return Err(Conflict::Provider(other.to_owned())),
        };
        let (settings, conflicts) = match Settings::read(config, When::Start) {
            Err(_) if !provider => (Settings::none(), Vec::new()),
            read => read?,
        };
        let mut quorum = Self {
            us,
            provider,
            settings,
            read_again: false,
            votes: Votes::new(us, tracked),
            ring: RingId::default(),
            joined: Vec::new(),
            left: Vec::new(),
            settled: Vec::new(),
            announced: Announced::default(),
            device: Device::default(),
            last_man: None,
            last_man_off: false,
            told_expected: 0,
            trackers: Trackers::default(),
            keys: BTreeMap::new(),
            outputs: VecDeque::new(),
        };
        quorum.announced.quorate = !provider;
        if provider {
            conflicts
                .into_iter()
                .for_each(|conflict| quorum.log(Log::Conflict(conflict)));
            quorum.take_settings();
            quorum.votes.set_waiting(quorum.settings.wait_for_all);
            quorum.recount(Decrease::Refused);
            quorum.publish();
        }
        Ok(quorum)
    }

    /// Whether there is a service `votequorum`; without it, connecting to it is refused.
    pub fn has_votequorum(&self) -> bool {
        self.provider
    }

    /// Takes a changed configuration: a reload, or a key below `quorum.` or `nodelist.` was set.
    pub fn reload(&mut self, config: &config::Config) {
        if !self.provider {
            return;
        }
        self.read_again = true;
        let when = When::Running {
            device_registered: self.device.is_registered(&self.votes),
        };
        match Settings::read(config, when) {
            Ok((settings, conflicts)) => {
                conflicts
                    .into_iter()
                    .for_each(|conflict| self.log(Log::Conflict(conflict)));
                self.settings = settings;
            }
            Err(conflict) => return self.log(Log::Conflict(conflict)),
        }
        let before = self.votes.own();
        self.take_settings();
        if self.settings.wait_for_all_follows && !self.settings.wait_for_all {
            self.votes.set_waiting(false);
        }
        self.send_node_info(Lane::Ordinary);
        self.send_device_info(Lane::Ordinary);
        let now = self.votes.own();
        if now.votes != before.votes {
            self.send_reconfigure(self.us, Parameter::Votes, now.votes);
        }
        if now.expected != before.expected {
            self.send_reconfigure(self.us, Parameter::ExpectedVotes, now.expected);
        }
        self.publish();
    }

    /// No node waits any longer for those that were never seen: `quorum.cancel_wait_for_all` was
    /// set to 1. Whoever calls this sets the key back to 0.
    pub fn cancel_wait_for_all(&mut self) {
        if self.provider {
            self.send_reconfigure(self.us, Parameter::CancelWaitForAll, 0);
        }
    }

    /// This node stops: tells the others, where that changes their count. What it sends has to
    /// be delivered before the ring is left.
    pub fn leave(&mut self) {
        if self.provider && self.settings.allow_downscale {
            self.votes.set_own_flag(NodeFlags::LEAVING, true);
            self.send_node_info(Lane::Ordinary);
        }
    }

    /// Time for [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        // Records are half old within a synchronisation; its end lets the timer fire.
        let last_man = self.last_man.filter(|_| !self.votes.in_sync);
        [last_man, self.device.deadline].into_iter().flatten().min()
    }

    /// A time of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        let is_due = |deadline: &Instant| *deadline <= now;
        if self.device.deadline.as_ref().is_some_and(is_due) {
            self.device_timeout();
        }
        if !self.votes.in_sync && self.last_man.as_ref().is_some_and(is_due) {
            self.last_man = None;
            if self.votes.quorate {
                self.recount(Decrease::ToMembers);
            }
        }
        self.publish();
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Puts what was read in force.
    fn take_settings(&mut self) {
        if self.last_man_off {
            self.settings.last_man_standing = false;
        }
        let (votes, settings) = (&mut self.votes, &self.settings);
        let mut expected = settings.expected;
        if settings.tracking {
            expected = expected.max(votes.tracked);
        }
        votes.own_mut().votes = settings.own_votes;
        votes.own_mut().expected = expected;
        votes.barrier = expected;
        if let Some(device) = settings.device.votes {
            votes.device = device;
        }
    }

    /// Counts again and tells whom it concerns.
    fn recount(&mut self, decrease: Decrease) {
        let (quorate, tracked) = (self.votes.quorate, self.votes.tracked);
        self.votes.recount(&self.settings, decrease);
        self.after_count(tracked);
        if self.votes.quorate != quorate {
            self.announce();
        }
    }

    fn after_count(&mut self, tracked: u32) {
        if self.votes.tracked != tracked {
            self.outputs.push_back(Output::Track(self.votes.tracked));
        }
        if self.votes.own().expected != self.told_expected {
            self.tell_expected();
        }
    }

    fn send(&mut self, lane: Lane, message: Message) {
        self.outputs.push_back(Output::Mcast { lane, message });
    }

    fn send_node_info(&mut self, lane: Lane) {
        let own = self.votes.own();
        let info = NodeInfo {
            node: self.us,
            votes: own.votes,
            expected_votes: own.expected,
            flags: own.flags,
        };
        self.send(lane, Message::NodeInfo(info));
    }

    /// Never the first message of this node: others have to know it before.
    fn send_device_info(&mut self, lane: Lane) {
        let info = NodeInfo {
            node: NodeId::NONE,
            votes: self.votes.device,
            expected_votes: 0,
            flags: NodeFlags::default(),
        };
        self.send(lane, Message::NodeInfo(info));
    }

    fn send_reconfigure(&mut self, node: NodeId, parameter: Parameter, value: u32) {
        let message = Message::Reconfigure {
            node,
            value,
            parameter,
        };
        self.send(Lane::Ordinary, message);
    }

    fn log(&mut self, log: Log) {
        self.outputs.push_back(Output::Log(log));
    }
}
