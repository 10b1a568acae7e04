//! What nodes say, in total order.

use crate::wire::NodeId;
use crate::wire::votequorum::{Message, NodeFlags, NodeInfo, Parameter};

use super::votes::{Decrease, Record, State};
use super::{Log, Quorum};

impl Quorum {
    /// A message of `sender`, own ones included, in total order.
    pub fn handle_message(&mut self, sender: NodeId, message: Message) {
        if !self.provider {
            return;
        }
        if !self.votes.members.contains(&sender) {
            return self.log(Log::Strange(sender));
        }
        match message {
            Message::NodeInfo(info) if info.node == NodeId::NONE => {
                self.handle_device_info(sender, info);
            }
            Message::NodeInfo(info) if info.node == sender => self.handle_node_info(info),
            Message::NodeInfo(_) => self.log(Log::Strange(sender)),
            Message::Reconfigure {
                node,
                value,
                parameter,
            } => self.handle_reconfigure(node, value, parameter),
            Message::Device {
                registered: true,
                name,
            } => self.handle_device_registered(sender, name),
            Message::Device { .. } => self.handle_device_unregistered(),
            Message::DeviceRename { old, new } => {
                if old == self.device.name {
                    self.device.name = new;
                }
            }
        }
        self.publish();
    }

    fn handle_device_info(&mut self, sender: NodeId, info: NodeInfo) {
        // Nothing is known of a node that speaks of its device first.
        let Some(record) = self.votes.record(sender) else {
            return self.log(Log::Strange(sender));
        };
        let before = self.votes.device;
        let knows_better = !self.votes.quorate && record.flags.contains(NodeFlags::QUORATE);
        self.votes.device = if knows_better {
            info.votes
        } else {
            before.max(info.votes)
        };
        if self.votes.device != before {
            self.recount(Decrease::Refused);
        }
    }

    fn handle_node_info(&mut self, info: NodeInfo) {
        let (node, own) = (info.node, info.node == self.us);
        let before = self.votes.record(node);
        // Own flags may have changed since this was sent, and nobody else changes them.
        let flags = match before {
            Some(record) if own => record.flags,
            _ => info.flags,
        };
        let has = |flag| flags.contains(flag);
        let decided = has(NodeFlags::QUORATE);
        let adopts = decided && !self.votes.quorate && info.expected_votes > 0;
        if adopts && !self.votes.in_sync {
            // A partition that may act knows what to expect.
            self.votes.own_mut().expected = info.expected_votes;
        }
        let expected = if decided || self.settings.tracking {
            info.expected_votes
        } else {
            self.votes.own().expected
        };
        let state = if has(NodeFlags::LEAVING) {
            State::Leaving
        } else {
            State::Member
        };
        let record = Record {
            state,
            votes: info.votes,
            expected,
            flags,
        };
        if self.settings.last_man_standing && info.votes > 1 {
            self.settings.last_man_standing = false;
            (self.last_man, self.last_man_off) = (None, true);
            self.log(Log::LastManStandingOff(node));
        }
        if self.votes.in_sync {
            // All members settle together what follows from what they said.
            self.votes.said.insert(node, (flags, info.expected_votes));
            let expected = before.map_or(expected, |record| record.expected);
            return self.votes.insert(node, Record { expected, ..record });
        }
        self.votes.insert(node, record);
        let decrease = match (state, adopts) {
            (State::Leaving, _) => Decrease::ToMembers,
            (_, true) => Decrease::Allowed,
            (_, false) => Decrease::Refused,
        };
        if own || has(NodeFlags::FIRST) || before != Some(record) {
            self.recount(decrease);
        }
        let released = decided && !has(NodeFlags::WAIT_FOR_ALL);
        if self.settings.wait_for_all && self.votes.waiting && released {
            self.votes.set_waiting(false);
            self.recount(Decrease::Refused);
        }
    }

    fn handle_reconfigure(&mut self, node: NodeId, value: u32, parameter: Parameter) {
        match parameter {
            Parameter::ExpectedVotes if value > 0 => {
                self.votes.expect(value);
                for (_, expected) in self.votes.said.values_mut() {
                    *expected = value;
                }
                self.votes.barrier = value;
                if self.settings.tracking {
                    let own = self.votes.own().expected;
                    self.votes.own_mut().expected = own.max(self.votes.tracked);
                }
                // Clients hear of an order even if it changes nothing.
                self.tell_expected();
                self.recount(Decrease::Allowed);
            }
            Parameter::ExpectedVotes => {}
            Parameter::Votes => {
                if node == NodeId::NONE {
                    self.votes.device = value;
                } else if let Some(record) = self.votes.record_mut(node) {
                    record.votes = value;
                } else {
                    return;
                }
                self.recount(Decrease::Allowed);
            }
            Parameter::CancelWaitForAll => {
                self.votes.set_waiting(false);
                self.log(Log::WaitForAllCancelled(node));
                self.recount(Decrease::Refused);
            }
        }
    }
}
