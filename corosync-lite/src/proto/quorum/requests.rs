//! Calls of clients, but those of the device.

use std::time::Instant;

use crate::service::votequorum::{Info, Request, Response, flags};
use crate::service::{ClientId, Status, TRACK_CHANGES, TRACK_CHANGES_ONLY, TRACK_CURRENT, quorum};
use crate::wire::NodeId;
use crate::wire::votequorum::{NodeFlags, Parameter};

use super::device::shown;
use super::trackers::Model;
use super::votes::{Count, Record};
use super::{Output, Quorum};

impl Quorum {
    /// A call of a client of `quorum`.
    pub fn handle_quorum_request(&mut self, client: ClientId, request: quorum::Request) {
        let response = match request {
            quorum::Request::GetQuorate => quorum::Response::Quorate(self.announced.quorate),
            quorum::Request::TrackStart(wanted) => self.track_quorum(client, wanted),
            quorum::Request::TrackStop => {
                self.trackers.quorum.remove(&client);
                quorum::Response::TrackStopped(Status::OK)
            }
            quorum::Request::GetType => quorum::Response::Type(self.provider),
            quorum::Request::ModelGetType(model) => self.choose_model(client, model),
        };
        self.outputs
            .push_back(Output::RespondQuorum(client, response));
    }

    /// A call of a client of `votequorum`.
    pub fn handle_votequorum_request(&mut self, now: Instant, client: ClientId, request: Request) {
        match request {
            Request::GetInfo { nodeid } => {
                let info = Response::Info(self.info(nodeid));
                self.outputs
                    .push_back(Output::RespondVotequorum(client, info));
            }
            Request::SetExpected { votes } => {
                let status = self.set_expected(votes);
                self.done(client, status);
            }
            Request::SetVotes { nodeid, votes } => {
                let status = self.set_votes(NodeId(nodeid), votes);
                self.done(client, status);
            }
            Request::TrackStart { context, flags } => {
                let status = self.track_votequorum(client, context, flags);
                self.done(client, status);
            }
            Request::TrackStop => {
                let status = match self.trackers.votequorum.remove(&client) {
                    Some(_) => Status::OK,
                    None => Status::NOT_EXIST,
                };
                self.done(client, status);
            }
            Request::DeviceRegister { name } => self.device_register(client, &name),
            Request::DeviceUnregister { name } => self.device_unregister(client, &name),
            Request::DeviceUpdate { old, new } => self.device_rename(client, &old, &new),
            Request::DevicePoll {
                name,
                cast_vote,
                ring,
            } => self.device_poll(now, client, &name, cast_vote, ring),
            Request::DeviceMasterWins { name, allow } => {
                self.device_master_wins(client, &name, allow);
            }
        }
        self.publish();
    }

    /// A connection of either service has ended.
    pub fn client_gone(&mut self, client: ClientId) {
        self.trackers.remove(client);
        self.device_client_gone(client);
    }

    fn choose_model(&mut self, client: ClientId, model: u32) -> quorum::Response {
        let model = match model {
            0 => Model::Together,
            1 => Model::Apart,
            _ => return quorum::Response::Refused(Status::INVALID_PARAM),
        };
        self.trackers.models.insert(client, model);
        quorum::Response::ModelType(self.provider)
    }

    fn track_quorum(&mut self, client: ClientId, wanted: u32) -> quorum::Response {
        if wanted & (TRACK_CURRENT | TRACK_CHANGES) != 0 {
            self.tell_members(client, false);
            self.tell_quorum(client);
        }
        if self.trackers.quorum.contains(&client) {
            return quorum::Response::TrackStarted(Status::EXIST);
        }
        if wanted & (TRACK_CHANGES | TRACK_CHANGES_ONLY) != 0 {
            self.trackers.quorum.insert(client);
        }
        quorum::Response::TrackStarted(Status::OK)
    }

    fn track_votequorum(&mut self, client: ClientId, context: u64, wanted: u32) -> Status {
        if wanted & (TRACK_CURRENT | TRACK_CHANGES) != 0 {
            self.tell_nodelist(client, context);
            self.tell_votequorum(client, context);
        }
        if self.trackers.votequorum.contains_key(&client) {
            return Status::EXIST;
        }
        if wanted & (TRACK_CHANGES | TRACK_CHANGES_ONLY) != 0 {
            self.trackers.votequorum.insert(client, context);
        }
        Status::OK
    }

    fn set_expected(&mut self, votes: u32) -> Status {
        // An order goes below what nodes that left have agreed on.
        let mut rules = self.settings.clone();
        rules.allow_downscale = false;
        let Count { quorum, total } = self.votes.count(&rules, true, votes);
        if votes == 0 || votes < total || self.votes.quorate && quorum > total {
            return Status::INVALID_PARAM;
        }
        self.send_reconfigure(self.us, Parameter::ExpectedVotes, votes);
        Status::OK
    }

    fn set_votes(&mut self, node: NodeId, votes: u32) -> Status {
        // What would be: put in, counted, and taken out again. The order takes effect when all
        // nodes get it.
        let Some(before) = self.replace_votes(node, votes) else {
            return Status::NAME_NOT_FOUND;
        };
        let Count { quorum, total } = self.votes.count(&self.settings, true, 0);
        self.replace_votes(node, before);
        if quorum < total / 2 || quorum > total {
            return Status::INVALID_PARAM;
        }
        self.send_reconfigure(node, Parameter::Votes, votes);
        Status::OK
    }

    fn replace_votes(&mut self, node: NodeId, votes: u32) -> Option<u32> {
        let place = if node == NodeId::NONE {
            &mut self.votes.device
        } else {
            &mut self.votes.record_mut(node)?.votes
        };
        Some(std::mem::replace(place, votes))
    }

    fn info(&self, nodeid: u32) -> Result<Info, Status> {
        let node = if nodeid == 0 { self.us } else { NodeId(nodeid) };
        let record = self.votes.record(node).ok_or(Status::NOT_EXIST)?;
        let counted = || self.votes.counted().map(|(_, record)| record);
        let mut total = counted().fold(0_u32, |sum, record| sum.saturating_add(record.votes));
        if record.flags.contains(NodeFlags::DEVICE_CAST_VOTE) {
            total = total.saturating_add(self.votes.device);
        }
        Ok(Info {
            nodeid: node.0,
            state: record.state.number(),
            votes: record.votes,
            expected_votes: record.expected,
            highest_expected: counted().map(|record| record.expected).max().unwrap_or(0),
            total_votes: total,
            quorum: self.votes.quorum,
            flags: self.info_flags(record),
            device_votes: self.votes.device,
            device_name: shown(&self.device.name),
        })
    }

    fn info_flags(&self, record: Record) -> u32 {
        let settings = &self.settings;
        let has = |flag| record.flags.contains(flag);
        let bits = [
            (settings.two_node, flags::TWO_NODE),
            (self.votes.quorate, flags::QUORATE),
            (settings.wait_for_all, flags::WAIT_FOR_ALL),
            (settings.last_man_standing, flags::LAST_MAN_STANDING),
            (settings.tie_breaker.is_some(), flags::AUTO_TIE_BREAKER),
            (settings.allow_downscale, flags::ALLOW_DOWNSCALE),
            (has(NodeFlags::DEVICE_REGISTERED), flags::DEVICE_REGISTERED),
            (has(NodeFlags::DEVICE_ALIVE), flags::DEVICE_ALIVE),
            (has(NodeFlags::DEVICE_CAST_VOTE), flags::DEVICE_CAST_VOTE),
            (
                has(NodeFlags::DEVICE_MASTER_WINS),
                flags::DEVICE_MASTER_WINS,
            ),
        ];
        let set = bits.into_iter().filter(|(set, _)| *set);
        set.fold(0, |all, (_, bit)| all | bit)
    }
}
