//! What services may know of the node when a client asks them.

use std::collections::{BTreeMap, VecDeque};

use super::Node;
use super::lanes::Lanes;
use super::request::Service;
use super::surface::{Credentials, Flow};
use super::transport::TransportCore;
use crate::config::Config;
use crate::proto::cmap::View;
use crate::proto::keys::{self, Pause, Statistics, Traffic};
use crate::proto::srp::Srp;
use crate::service::ClientId;

/// Pauses that are remembered.
const PAUSES_MAX: usize = 10;

/// A client that was let in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection {
    pub(super) service: Service,
    who: Credentials,
    pub(super) requests: u64,
    pub(super) responses: u64,
    pub(super) events: u64,
}

impl Connection {
    pub(super) fn new(service: Service, who: Credentials) -> Self {
        Self {
            service,
            who,
            requests: 0,
            responses: 0,
            events: 0,
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.service, self.who);
    }
}

/// Facts for the configuration map: everything of the node but the map.
pub(super) struct Facts<'a> {
    pub(super) config: &'a Config,
    pub(super) traffic: &'a Traffic,
    pub(super) transport: &'a TransportCore,
    pub(super) srp: &'a Srp,
    pub(super) lanes: &'a Lanes,
    pub(super) connections: &'a BTreeMap<ClientId, Connection>,
    pub(super) closed: u64,
    pub(super) pauses: &'a VecDeque<Pause>,
    pub(super) flow: Flow,
}

impl View for Facts<'_> {
    fn config(&self) -> &Config {
        self.config
    }

    fn traffic(&self) -> Traffic {
        self.traffic.clone()
    }

    fn statistics(&self) -> Statistics {
        let (queued, room) = self.lanes.frames(self.srp);
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Statistics {
            queue_room: count(room),
            queued: count(queued),
            ring: self.srp.stats().clone(),
            links: self.transport.links(),
            connections: self.connections().collect(),
            closed: self.closed,
            pauses: self.pauses.iter().copied().collect(),
            dropped: self.transport.dropped(),
        }
    }
}

impl Facts<'_> {
    fn connections(&self) -> impl Iterator<Item = keys::Connection> {
        self.connections.iter().map(|(client, it)| {
            let can_wait = matches!(it.service, Service::Cfg | Service::Cpg);
            keys::Connection {
                service: it.service.number(),
                pid: u32::try_from(it.who.pid).unwrap_or(0),
                id: client.0,
                requests: it.requests,
                responses: it.responses,
                events: it.events,
                flow_control: can_wait && self.flow == Flow::Blocked,
                ..keys::Connection::default()
            }
        })
    }
}

impl Node {
    /// Takes note that the daemon did not get to run for a while; it is shown to who looks.
    pub fn note_pause(&mut self, pause: Pause) {
        self.pauses.truncate(PAUSES_MAX - 1);
        self.pauses.push_front(pause);
    }

    /// Counters of all parts.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.facts().statistics()
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            config: &self.config,
            traffic: &self.traffic,
            transport: &self.transport,
            srp: &self.srp,
            lanes: &self.lanes,
            connections: &self.connections,
            closed: self.closed,
            pauses: &self.pauses,
            flow: self.flow,
        }
    }
}
