//! Passes on what the transport, the ring and the barrier put out, until nobody has anything left.

use std::collections::BTreeSet;
use std::time::Instant;

use bytes::Bytes;

use super::lanes::Outgoing;
use super::log::Log;
use super::request::Service;
use super::surface::{Flow, Output};
use super::{Node, number};
use crate::proto::quorum::Part;
use crate::proto::srp::{self, Lane, Phase};
use crate::proto::sync;
use crate::proto::{keys, knet};
use crate::wire::exec::service;
use crate::wire::pg::{Group, Message};
use crate::wire::srp::is_orf_token;
use crate::wire::{NodeId, RingId, exec};

impl Node {
    /// Brings everything to rest; at the end of each input.
    pub(super) fn settle(&mut self, now: Instant) {
        loop {
            self.drain_ring(now);
            self.drain_services(now);
            if self.sync.is_processing() && !self.quorum.sync_is_held() {
                self.sync.processed();
                self.drain_sync(now);
            }
            self.lanes.pump(now, &mut self.srp);
            self.drain_ring(now);
            match self.transport.poll_event() {
                Some(event) => self.handle_transport_event(now, event),
                None if self.goodbye(now) => {}
                None => break,
            }
        }
        self.control_flow();
    }

    fn handle_transport_event(&mut self, now: Instant, event: knet::Event) {
        match event {
            knet::Event::Deliver { payload, .. } => {
                if is_orf_token(&payload) {
                    self.lanes.flush(now, &mut self.srp);
                }
                // What is not used is counted.
                self.srp.handle_datagram(now, &payload).ok();
            }
            knet::Event::LinkUp { host: node, link } => self.log(Log::LinkUp { node, link }),
            knet::Event::LinkDown {
                host: node,
                link,
                reason,
            } => self.log(Log::LinkDown { node, link, reason }),
            knet::Event::HostUp(node) => {
                self.log(Log::NodeReachable(node));
                if !self.members.contains(&node) {
                    self.srp.look_for_others();
                    self.drain_ring(now);
                }
            }
            knet::Event::HostDown(node) => self.log(Log::NodeUnreachable(node)),
            knet::Event::NextKeysUsed(_) => {
                self.cfg.next_keys_used();
                self.drain_services(now);
            }
        }
    }

    fn drain_ring(&mut self, now: Instant) {
        while let Some(output) = self.srp.poll_output() {
            match output {
                srp::Output::Persist(seq) => self.urgent.push_back(Output::PersistRing(seq)),
                srp::Output::Transmit(transmit) => {
                    self.transport.send(now, transmit.to, &transmit.datagram);
                }
                srp::Output::Event(event) => self.handle_ring_event(now, event),
            }
        }
    }

    fn handle_ring_event(&mut self, now: Instant, event: srp::Event) {
        match event {
            srp::Event::Deliver(delivered) => self.deliver(now, &delivered),
            srp::Event::Transitional { members, left, .. } => {
                left.iter().for_each(|node| self.assembler.forget(*node));
                self.sync.handle_transitional(&members);
                self.drain_sync(now);
            }
            srp::Event::Regular {
                ring,
                members,
                joined,
            } => self.change_configuration(now, ring, &members, joined),
            srp::Event::State {
                phase,
                ring,
                reason,
            } => self.log(Log::Ring {
                phase,
                ring,
                reason,
            }),
            srp::Event::TokenLate(after) => self.log(Log::TokenLate(after)),
            srp::Event::Repeated => {
                self.cfg.follow();
                self.drain_services(now);
            }
        }
    }

    fn change_configuration(
        &mut self,
        now: Instant,
        ring: RingId,
        members: &[NodeId],
        joined: Vec<NodeId>,
    ) {
        let members: BTreeSet<NodeId> = members.iter().copied().collect();
        let before = std::mem::replace(&mut self.members, members);
        let left: Vec<_> = before.difference(&self.members).copied().collect();
        let others = || joined.iter().filter(|node| **node != self.local);
        for node in left.iter().chain(others()) {
            self.assembler.forget(*node);
        }
        let others_joined = others().next().is_some();
        self.show_members(&before);
        let members = self.members();
        self.log(Log::Membership {
            ring,
            members: members.clone(),
            joined,
            left,
        });
        self.lanes
            .change_configuration(now, &mut self.srp, others_joined);
        self.sync.handle_regular(ring, &members);
        self.drain_sync(now);
    }

    /// The configuration map shows who is in the ring.
    fn show_members(&mut self, before: &BTreeSet<NodeId>) {
        let (config, members) = (&self.config, &self.members);
        self.cmap.update(|map| {
            for node in before.difference(members) {
                keys::put_left(map, *node);
            }
            for node in members.difference(before) {
                let listed = config.nodes.iter().find(|listed| listed.id == node.0);
                let addresses = listed.map(|listed| listed.addresses.clone());
                keys::put_joined(map, *node, &addresses.unwrap_or_default());
            }
        });
    }

    fn deliver(&mut self, now: Instant, delivered: &srp::Delivered) {
        let (lane, sender) = (self.sync.lane(), delivered.sender);
        let Ok(messages) = self.assembler.handle_frame(lane, sender, &delivered.frame) else {
            self.malformed += 1;
            return;
        };
        for message in messages {
            if let Some((group, body)) = Group::split_alone(&message) {
                self.deliver_to(now, sender, &group, &body);
            } else if let Ok(message) = Message::decode(&message) {
                for group in &message.groups {
                    self.deliver_to(now, sender, group, &message.body);
                }
            } else {
                self.malformed += 1;
            }
        }
        self.drain_services(now);
    }

    fn deliver_to(&mut self, now: Instant, sender: NodeId, group: &Group, body: &Bytes) {
        match group {
            Group::Executive => match exec::Message::decode(body) {
                Ok(message) => self.pass_message(sender, message),
                // Of services that are not offered here.
                Err(crate::wire::DecodeError::UnknownKind(_)) => {}
                Err(_) => self.malformed += 1,
            },
            Group::Sync => match crate::wire::sync::Message::decode(body) {
                Ok(message) => {
                    // Messages of services go first: the barrier stands behind them.
                    self.drain_services(now);
                    self.sync.handle_message(sender, &message);
                    self.drain_sync(now);
                }
                Err(_) => self.malformed += 1,
            },
            Group::Other(_) => {}
        }
    }

    pub(super) fn drain_sync(&mut self, now: Instant) {
        while let Some(output) = self.sync.poll_output() {
            match output {
                sync::Output::Init {
                    ring,
                    members,
                    transitional,
                } => {
                    self.cmap.sync_init(&members, &transitional, ring);
                    self.cpg.sync_init(&members, &transitional, ring);
                    self.quorum.sync_init(now, &members, &transitional, ring);
                    self.cfg.set_members(&members);
                }
                sync::Output::Process(service) => {
                    self.process(service);
                    self.drain_services(now);
                    let held = service == number(Part::Votequorum) && self.quorum.sync_is_held();
                    if !held {
                        self.sync.processed();
                    }
                }
                sync::Output::Activate(service) => self.activate(service),
                sync::Output::Abort(service) => self.abort(service),
                sync::Output::Mcast(message) => {
                    self.lanes.push(Lane::Sync, Outgoing::Sync(message));
                }
                sync::Output::Done(ring) => {
                    self.srp.sync_done(now, ring);
                    self.log(Log::Synchronized(ring));
                }
            }
            self.drain_services(now);
        }
    }

    fn process(&mut self, service: u16) {
        match service {
            service::CMAP => self.cmap.sync_process(),
            service::CPG => self.cpg.sync_process(),
            service::QUORUM => self.quorum.sync_process(Part::Quorum),
            service::VOTEQUORUM => self.quorum.sync_process(Part::Votequorum),
            _ => {}
        }
    }

    fn activate(&mut self, service: u16) {
        match service {
            service::CMAP => self.cmap.sync_activate(),
            service::CPG => self.cpg.sync_activate(),
            service::QUORUM => self.quorum.sync_activate(Part::Quorum),
            service::VOTEQUORUM => self.quorum.sync_activate(Part::Votequorum),
            _ => {}
        }
    }

    fn abort(&mut self, service: u16) {
        match service {
            service::CMAP => self.cmap.sync_abort(),
            service::CPG => self.cpg.sync_abort(),
            service::QUORUM | service::VOTEQUORUM => self.quorum.sync_abort(),
            _ => {}
        }
    }

    /// Leaves the ring once the last messages are out, or it takes too long. Returns whether that
    /// was now.
    fn goodbye(&mut self, now: Instant) -> bool {
        let Some(deadline) = self.leaving else {
            return false;
        };
        let can_send = self.srp.phase() == Phase::Operational && self.sync.is_done();
        if can_send && !self.lanes.is_empty(&self.srp) && now < deadline {
            return false;
        }
        let is_news = !self.is_stopped();
        self.srp.leave();
        self.leaving = None;
        is_news
    }

    /// Clients wait while services synchronize, and while there is too much to be sent.
    fn control_flow(&mut self) {
        let blocked = !self.sync.is_done() || self.lanes.is_full(&self.srp);
        let flow = if blocked { Flow::Blocked } else { Flow::Open };
        if flow != self.flow {
            self.flow = flow;
            let waiting = self.connections.values_mut().filter(|it| it.can_wait());
            waiting.for_each(|it| it.blocked += u64::from(blocked));
            for service in [Service::Cfg, Service::Cpg] {
                self.outputs.push_back(Output::FlowControl(service, flow));
            }
        }
    }

    pub(super) fn log(&mut self, log: Log) {
        self.outputs.push_back(Output::Log(log));
    }
}
