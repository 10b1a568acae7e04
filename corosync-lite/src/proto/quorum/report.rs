//! What the administrator is told: in the log, in the configuration map, and on request.

use std::time::Duration;

use crate::config::TieBreaker;
use crate::service::cmap::Raw;
use crate::wire::NodeId;

use super::settings::Conflict;
use super::{Output, Quorum};

/// The count, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether this partition may act.
    pub quorate: bool,
    /// Votes that are there, those of the device included.
    pub votes: u32,
    /// Votes of the whole cluster.
    pub expected: u32,
    /// Votes that are needed.
    pub quorum: u32,
    /// Votes that are missing until this partition may act; 0 if it may.
    pub short: u32,
    /// Not enough votes is not the reason: all nodes have to be seen once.
    pub waiting_for_all: bool,
    /// Nodes of the list that are not here.
    pub missing: Vec<NodeId>,
    /// Votes that the device has and does not give to this node.
    pub device_withheld: u32,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Log {
    /// This partition may act from now on, or no longer.
    Changed(Status),
    /// A synchronisation ended without quorum.
    StillInquorate(Status),
    /// A new configuration of the ring.
    Members {
        /// Its nodes.
        members: Vec<NodeId>,
        /// Those that were not in the last one.
        joined: Vec<NodeId>,
        /// Those that are not any more.
        left: Vec<NodeId>,
    },
    /// Options of the configuration exclude each other.
    Conflict(Conflict),
    /// Nobody waits for missing nodes any longer, by order of this node.
    WaitForAllCancelled(NodeId),
    /// `last_man_standing` needs one vote per node, and this one has more.
    LastManStandingOff(NodeId),
    /// The device did not poll in time: it has no vote now.
    DeviceLost {
        /// Its name.
        name: String,
    },
    /// Synchronisation waits for the device.
    DeviceAwaited {
        /// Its name.
        name: String,
        /// For this long at most.
        limit: Duration,
    },
    /// A device of another name wants to register.
    DeviceRefused {
        /// The one that is known.
        known: String,
        /// The other.
        refused: String,
    },
    /// The device is excluded by the configuration.
    DeviceExcluded,
    /// A message that this node should not have sent; it was ignored.
    Strange(NodeId),
}

impl Quorum {
    /// The count as it is now.
    pub fn status(&self) -> Status {
        if !self.provider {
            return Status {
                quorate: true,
                ..Status::default()
            };
        }
        let votes = &self.votes;
        let total = votes.total(&self.settings);
        let expected = votes.own().expected;
        let waiting_for_all = self.settings.wait_for_all && votes.waiting;
        let needed = if waiting_for_all {
            expected
        } else {
            votes.quorum
        };
        let cast = self.device.casts(votes);
        let nodes = self.settings.nodes.iter().copied();
        Status {
            quorate: votes.quorate,
            votes: total,
            expected,
            quorum: votes.quorum,
            short: if votes.quorate {
                0
            } else {
                needed.saturating_sub(total)
            },
            waiting_for_all,
            missing: nodes.filter(|node| !votes.is_counted(*node)).collect(),
            device_withheld: if cast { 0 } else { votes.device },
        }
    }

    /// Tells the configuration map what has changed.
    pub(super) fn publish(&mut self) {
        if !self.provider {
            return;
        }
        for (key, value) in self.runtime_keys() {
            if self.keys.get(key) != Some(&value) {
                self.keys.insert(key, value.clone());
                self.outputs.push_back(Output::Key(key, value));
            }
        }
    }

    fn runtime_keys(&self) -> Vec<(&'static str, Raw)> {
        let (votes, settings) = (&self.votes, &self.settings);
        let flag = |flag: bool| Raw::u8(u8::from(flag));
        let mut keys = vec![
            ("runtime.votequorum.this_node_id", Raw::u32(self.us.0)),
            ("runtime.votequorum.ev_barrier", Raw::u32(votes.barrier)),
            ("runtime.votequorum.two_node", flag(settings.two_node)),
        ];
        if let Some((lowest, highest)) = votes.ends {
            keys.push(("runtime.votequorum.lowest_node_id", Raw::u32(lowest.0)));
            keys.push(("runtime.votequorum.highest_node_id", Raw::u32(highest.0)));
        }
        let mut shown = |key, value: Raw, in_use: bool| {
            // Once shown, a key stays.
            if in_use || self.keys.contains_key(key) {
                keys.push((key, value));
            }
        };
        let waiting = "runtime.votequorum.wait_for_all_status";
        shown(waiting, flag(votes.waiting), settings.wait_for_all);
        let kind = match &settings.tie_breaker {
            None => 0,
            Some(TieBreaker::Lowest) => 1,
            Some(TieBreaker::Highest) => 2,
            Some(TieBreaker::List(_)) => 3,
        };
        let kind_shown = kind != 0 || self.read_again;
        shown("runtime.votequorum.atb_type", Raw::u32(kind), kind_shown);
        let tracked = "runtime.votequorum.ev_tracking_barrier";
        shown(tracked, Raw::u32(votes.tracked), settings.tracking);
        let usable = !settings.device.excluded;
        let configured = settings.device.votes != Some(0);
        let can_operate = "runtime.votequorum.qdevice_can_operate";
        shown(can_operate, flag(usable), configured);
        let wins = "runtime.votequorum.qdevice_master_wins";
        shown(wins, flag(votes.master_wins), votes.master_wins);
        keys
    }
}
