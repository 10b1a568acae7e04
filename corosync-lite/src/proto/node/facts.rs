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
use crate::proto::knet::LinkStatus;
use crate::proto::srp::Srp;
use crate::service::ClientId;

/// Pauses that are remembered.
const PAUSES_MAX: usize = 10;

/// A client that was let in.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) service: Service,
    who: Credentials,
    pub(super) requests: u64,
    pub(super) responses: u64,
    pub(super) events: u64,
    pub(super) invalid: u64,
    pub(super) blocked: u64,
    pub(super) queued: u32,
    /// Name of its process.
    pub(super) process: String,
}

impl Connection {
    pub(super) fn new(service: Service, who: Credentials) -> Self {
        Self {
            service,
            who,
            requests: 0,
            responses: 0,
            events: 0,
            invalid: 0,
            blocked: 0,
            queued: 0,
            process: String::new(),
        }
    }

    /// Whether its requests wait when there is too much to do.
    pub(super) fn can_wait(&self) -> bool {
        matches!(self.service, Service::Cfg | Service::Cpg)
    }

    pub(super) fn clear(&mut self) {
        let fresh = Self::new(self.service, self.who);
        let (queued, process) = (self.queued, std::mem::take(&mut self.process));
        *self = Self {
            queued,
            process,
            ..fresh
        };
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

/// Facts of a node whose map is free to be changed meanwhile.
macro_rules! facts {
    ($node:ident) => {
        Facts {
            config: &$node.config,
            traffic: &$node.traffic,
            transport: &$node.transport,
            srp: &$node.srp,
            lanes: &$node.lanes,
            connections: &$node.connections,
            closed: $node.closed,
            pauses: &$node.pauses,
            flow: $node.flow,
        }
    };
}
pub(super) use facts;

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
            links: self.links(),
            transport: self.transport.stats(),
            connections: self.connections().collect(),
            closed: self.closed,
            pauses: self.pauses.iter().copied().collect(),
            dropped: self.transport.dropped(),
        }
    }
}

impl Facts<'_> {
    /// That of the node to itself never fails.
    fn links(&self) -> Vec<LinkStatus> {
        let mut links = self.transport.links();
        let local = self.srp.node();
        let address = self.config.local_node().and_then(|node| {
            let (link, address) = node.addresses.first_key_value()?;
            Some((*link, *address))
        });
        if let (Some((link, address)), true) = (address, self.transport.stats().is_some()) {
            links.push(LinkStatus::of_oneself(local, link, address));
        }
        links
    }

    fn connections(&self) -> impl Iterator<Item = keys::Connection> {
        self.connections
            .iter()
            .map(|(client, it)| keys::Connection {
                service: it.service.number(),
                pid: u32::try_from(it.who.pid).unwrap_or(0),
                id: client.0,
                requests: it.requests,
                responses: it.responses,
                events: it.events,
                flow_control: it.can_wait() && self.flow == Flow::Blocked,
                flow_control_count: it.blocked,
                process: it.process.clone(),
                queued: it.queued,
                invalid: it.invalid,
            })
    }
}

impl Node {
    /// Takes note that the daemon did not get to run for a while; it is shown to who looks.
    pub fn note_pause(&mut self, pause: Pause) {
        self.pauses.truncate(PAUSES_MAX - 1);
        self.pauses.push_front(pause);
    }

    /// Takes note of the name of a client's process.
    pub fn name_client(&mut self, client: ClientId, process: &str) {
        if let Some(connection) = self.connections.get_mut(&client) {
            process.clone_into(&mut connection.process);
        }
    }

    /// Takes note of a request that was not understood.
    pub fn note_invalid(&mut self, client: ClientId) {
        if let Some(connection) = self.connections.get_mut(&client) {
            connection.invalid += 1;
        }
    }

    /// Takes note of how many events wait for a client.
    pub fn note_queue(&mut self, client: ClientId, queued: usize) {
        if let Some(connection) = self.connections.get_mut(&client) {
            connection.queued = u32::try_from(queued).unwrap_or(u32::MAX);
        }
    }

    /// Whether a client looks at statistics, not at the configuration.
    #[must_use]
    pub fn looks_at_statistics(&self, client: ClientId) -> bool {
        self.cmap.map().looks_at_statistics(client)
    }

    /// Counters of all parts.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.facts().statistics()
    }

    fn facts(&self) -> Facts<'_> {
        facts!(self)
    }
}
