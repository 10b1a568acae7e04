//! The device of this node: a program that polls, and votes or not.
//!
//! Each node has its own connection to the device, and counts the device's votes when its own says
//! so. The name is common to all nodes; the first that registers one decides.

use std::time::Instant;

use bytes::Bytes;

use crate::proto::srp::Lane;
use crate::service::{ClientId, RingId, Status, votequorum};
use crate::wire::NodeId;
use crate::wire::votequorum::{Message, NodeFlags};

use super::votes::{State, Votes};
use super::{Log, Output, Quorum};

/// Longest name that fits into its field with the terminator.
const NAME_LEN_MAX: usize = 254;

/// What is known of the device.
#[derive(Debug, Default)]
pub(super) struct Device {
    /// Empty: none is known.
    pub(super) name: Bytes,
    /// Who waits for the end of its registration, and under which name.
    registering: Option<(ClientId, Bytes)>,
    /// When it counts as dead.
    pub(super) deadline: Option<Instant>,
    /// It has not polled in the new ring yet.
    pub(super) awaited: bool,
    /// And the synchronisation waits for that.
    pub(super) holds_sync: bool,
}

impl Device {
    pub(super) fn is_registered(&self, votes: &Votes) -> bool {
        votes.own().flags.contains(NodeFlags::DEVICE_REGISTERED)
    }

    pub(super) fn casts(&self, votes: &Votes) -> bool {
        votes.own().flags.contains(NodeFlags::DEVICE_CAST_VOTE)
    }

    fn arrived(&mut self) {
        self.awaited = false;
        self.holds_sync = false;
    }
}

/// All that a device sets in the record of its node.
const DEVICE_FLAGS: [NodeFlags; 4] = [
    NodeFlags::DEVICE_REGISTERED,
    NodeFlags::DEVICE_ALIVE,
    NodeFlags::DEVICE_CAST_VOTE,
    NodeFlags::DEVICE_MASTER_WINS,
];

impl Quorum {
    pub(super) fn device_register(&mut self, client: ClientId, name: &str) {
        let status = if self.settings.device.excluded {
            self.log(Log::DeviceExcluded);
            Status::ACCESS
        } else if !is_name(name) {
            Status::INVALID_PARAM
        } else if self.device.is_registered(&self.votes) {
            self.known_as(name)
        } else if self.device.registering.is_some() {
            Status::TRY_AGAIN
        } else {
            let name = Bytes::copy_from_slice(name.as_bytes());
            self.device.registering = Some((client, name.clone()));
            let registered = true;
            return self.send(Lane::Ordinary, Message::Device { registered, name });
        };
        self.done(client, status);
    }

    pub(super) fn device_unregister(&mut self, client: ClientId, name: &str) {
        let status = self.check_name(name);
        if status == Status::OK {
            let lane = self.lane();
            self.device.deadline = None;
            self.device.arrived();
            self.votes.master_wins = false;
            for flag in DEVICE_FLAGS {
                self.votes.set_own_flag(flag, false);
            }
            self.send_node_info(lane);
            self.forget_name(self.device.name.clone());
        }
        self.done(client, status);
    }

    pub(super) fn device_rename(&mut self, client: ClientId, old: &str, new: &str) {
        let mut status = self.check_name(old);
        if status == Status::OK && !is_name(new) {
            status = Status::INVALID_PARAM;
        }
        if status == Status::OK {
            let [old, new] = [old, new].map(|name| Bytes::copy_from_slice(name.as_bytes()));
            self.send(Lane::Ordinary, Message::DeviceRename { old, new });
        }
        self.done(client, status);
    }

    pub(super) fn device_poll(
        &mut self,
        now: Instant,
        client: ClientId,
        name: &str,
        cast_vote: bool,
        ring: RingId,
    ) {
        let current = (self.ring.rep.0, self.ring.seq);
        let status = if self.settings.device.excluded {
            Status::ACCESS
        } else if !self.device.is_registered(&self.votes) {
            Status::NOT_EXIST
        } else if (ring.nodeid, ring.seq) != current {
            Status::MESSAGE_ERROR
        } else {
            self.check_name(name)
        };
        if status == Status::OK {
            let lane = self.lane();
            self.device.arrived();
            self.device.deadline = Some(now + self.settings.device.timeout);
            let before = self.votes.own().flags;
            self.votes.set_own_flag(NodeFlags::DEVICE_ALIVE, true);
            self.votes
                .set_own_flag(NodeFlags::DEVICE_CAST_VOTE, cast_vote);
            if self.votes.own().flags != before {
                self.send_node_info(lane);
            }
        }
        self.done(client, status);
    }

    pub(super) fn device_master_wins(&mut self, client: ClientId, name: &str, allow: bool) {
        let status = if self.settings.device.excluded {
            Status::ACCESS
        } else {
            self.check_name(name)
        };
        if status == Status::OK {
            let before = self.votes.own().flags;
            self.votes
                .set_own_flag(NodeFlags::DEVICE_MASTER_WINS, allow);
            self.votes.master_wins = allow;
            if self.votes.own().flags != before {
                let lane = self.lane();
                self.send_node_info(lane);
            }
        }
        self.done(client, status);
    }

    /// Within [`Quorum::device_timeout`] and calls of the device that end the waiting, news still
    /// belong to the synchronisation: all have to know them when they decide.
    fn lane(&self) -> Lane {
        if self.device.holds_sync {
            Lane::Sync
        } else {
            Lane::Ordinary
        }
    }

    /// The device has not polled in time.
    pub(super) fn device_timeout(&mut self) {
        let lane = self.lane();
        self.device.deadline = None;
        self.device.arrived();
        if !self.votes.own().flags.contains(NodeFlags::DEVICE_ALIVE) {
            return;
        }
        self.votes.set_own_flag(NodeFlags::DEVICE_ALIVE, false);
        self.votes.set_own_flag(NodeFlags::DEVICE_CAST_VOTE, false);
        let name = shown(&self.device.name);
        self.log(Log::DeviceLost { name });
        self.send_node_info(lane);
    }

    /// A new ring: the device may vote differently now.
    pub(super) fn await_device(&mut self, now: Instant) {
        self.device.arrived();
        let bits = NodeFlags::DEVICE_REGISTERED | NodeFlags::DEVICE_ALIVE;
        if self.votes.own().flags.contains(bits) {
            let limit = self.settings.device.sync_timeout;
            self.device.deadline = Some(now + limit);
            self.device.awaited = true;
            let name = shown(&self.device.name);
            self.log(Log::DeviceAwaited { name, limit });
        }
    }

    pub(super) fn handle_device_registered(&mut self, sender: NodeId, name: Bytes) {
        if sender != self.us {
            if self.device.name.is_empty() {
                self.device.name = name;
            }
            return;
        }
        // Each synchronisation repeats the name that is known; only the answer to a call counts.
        let answers = |(_, wanted): &mut (ClientId, Bytes)| *wanted == name;
        let Some((client, name)) = self.device.registering.take_if(answers) else {
            return;
        };
        if self.device.name.is_empty() {
            self.device.name = name.clone();
        }
        let status = self.known_as(&shown(&name));
        if status == Status::OK {
            self.votes.set_own_flag(NodeFlags::DEVICE_REGISTERED, true);
            self.send_device_info(Lane::Ordinary);
            self.send_node_info(Lane::Ordinary);
        }
        self.done(client, status);
    }

    pub(super) fn handle_device_unregistered(&mut self) {
        let registered = |flags: NodeFlags| flags.contains(NodeFlags::DEVICE_REGISTERED);
        let mut records = self.votes.records();
        let in_use =
            records.any(|(_, record)| record.state == State::Member && registered(record.flags));
        drop(records);
        if !in_use {
            self.device.name = Bytes::new();
        }
    }

    /// A client is gone that may wait for the end of its registration.
    pub(super) fn device_client_gone(&mut self, client: ClientId) {
        let is_his = |(waiting, _): &mut (ClientId, Bytes)| *waiting == client;
        if let Some((_, name)) = self.device.registering.take_if(is_his) {
            // Others have recorded the name by then.
            self.forget_name(name);
        }
    }

    fn forget_name(&mut self, name: Bytes) {
        let registered = false;
        self.send(Lane::Ordinary, Message::Device { registered, name });
    }

    /// A device that calls itself `name` is the one that is known.
    fn known_as(&mut self, name: &str) -> Status {
        if self.device.name == name.as_bytes() {
            return Status::OK;
        }
        let known = shown(&self.device.name);
        let refused = name.to_owned();
        self.log(Log::DeviceRefused { known, refused });
        Status::EXIST
    }

    fn check_name(&self, name: &str) -> Status {
        if !self.device.is_registered(&self.votes) {
            Status::NOT_EXIST
        } else if self.device.name != name.as_bytes() {
            Status::INVALID_PARAM
        } else {
            Status::OK
        }
    }

    pub(super) fn done(&mut self, client: ClientId, status: Status) {
        let response = votequorum::Response::Done(status);
        self.outputs
            .push_back(Output::RespondVotequorum(client, response));
    }
}

fn is_name(name: &str) -> bool {
    (1..=NAME_LEN_MAX).contains(&name.len()) && !name.contains('\0')
}

pub(super) fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
