//! The transport that the configuration asks for, behind one face.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::settings;
use super::surface::{NodeError, Purpose, SendFailure, SocketId, Transmit};
use crate::config::{Config, Transport};
use crate::proto::knet::{self, Knet};
use crate::proto::plain::{self, Origin, Plain};
use crate::proto::srp::Destination;
use crate::wire::NodeId;

/// One of the transports.
#[derive(Debug)]
pub(super) enum TransportCore {
    Knet(Box<Knet>),
    Plain(Plain),
}

impl TransportCore {
    pub(super) fn new(
        config: &Config,
        local: NodeId,
        seed: [u8; 32],
        clock: Duration,
        now: Instant,
    ) -> Result<Self, NodeError> {
        Ok(match config.totem.transport {
            Transport::Knet => {
                let settings = settings::knet(config, local)?;
                Self::Knet(Box::new(Knet::new(settings, seed, clock, now)?))
            }
            Transport::Udpu | Transport::Udp => {
                Self::Plain(Plain::new(settings::plain(config, local)))
            }
        })
    }

    /// What is dropped is counted.
    pub(super) fn handle_datagram(&mut self, now: Instant, from: IpAddr, datagram: &[u8]) {
        match self {
            Self::Knet(knet) => knet.handle_datagram(now, from, datagram).ok(),
            Self::Plain(plain) => plain.handle_datagram(from, datagram).ok(),
        };
    }

    pub(super) fn handle_send_failure(
        &mut self,
        now: Instant,
        sent: &Transmit,
        failure: SendFailure,
    ) {
        match (self, sent.socket) {
            (Self::Knet(knet), SocketId::Link(link)) => {
                let sent = knet::Transmit {
                    host: sent.node,
                    link,
                    to: sent.to,
                    purpose: sent.purpose,
                    datagram: Bytes::new(),
                };
                knet.handle_send_failure(now, &sent, failure);
            }
            (Self::Knet(_), _) => {}
            (Self::Plain(plain), _) => plain.handle_send_failure(),
        }
    }

    /// The node that has an address.
    pub(super) fn node_at(&self, socket: SocketId, to: SocketAddr) -> Option<NodeId> {
        let (Self::Knet(knet), SocketId::Link(number)) = (self, socket) else {
            return None;
        };
        let mut links = knet.links();
        let found = links.find(|link| link.link == number && link.remote == to);
        found.map(|link| link.host)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let Self::Knet(knet) = self {
            knet.handle_timeout(now);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Knet(knet) => knet.poll_timeout(),
            Self::Plain(_) => None,
        }
    }

    /// Sends a message of the ring, which is never longer than a transport takes. What is for this
    /// node alone comes back as delivered.
    pub(super) fn send(&mut self, now: Instant, to: Destination, payload: &Bytes) {
        match self {
            Self::Knet(knet) => {
                let target = match to {
                    Destination::Others => knet::Target::Others,
                    Destination::Node(node) => knet::Target::Node(node),
                };
                // A node that has left the list is not told any more.
                knet.send(now, target, payload).ok();
            }
            Self::Plain(plain) => plain.send(
                match to {
                    Destination::Others => plain::Target::Others,
                    Destination::Node(node) => plain::Target::Node(node),
                },
                payload,
            ),
        }
    }

    pub(super) fn poll_transmit(&mut self) -> Option<Transmit> {
        match self {
            Self::Knet(knet) => {
                let sent = knet.poll_transmit()?;
                Some(Transmit {
                    socket: SocketId::Link(sent.link),
                    to: sent.to,
                    node: sent.host,
                    purpose: sent.purpose,
                    datagram: sent.datagram,
                })
            }
            Self::Plain(plain) => {
                let sent = plain.poll_transmit()?;
                Some(Transmit {
                    socket: match sent.origin {
                        Origin::Bound => SocketId::Link(0),
                        Origin::Sender => SocketId::Sender,
                    },
                    to: sent.to,
                    node: sent.node,
                    purpose: Purpose::Data,
                    datagram: sent.datagram,
                })
            }
        }
    }

    pub(super) fn poll_event(&mut self) -> Option<knet::Event> {
        match self {
            Self::Knet(knet) => knet.poll_event(),
            Self::Plain(plain) => {
                let payload = plain.poll_delivered()?;
                let from = NodeId::NONE;
                Some(knet::Event::Deliver { from, payload })
            }
        }
    }

    /// Takes what has changed; links whose addresses stay are not disturbed. New keys are
    /// accepted, and used when [`TransportCore::activate_keys`] says so.
    pub(super) fn reconfigure(
        &mut self,
        now: Instant,
        config: &Config,
        local: NodeId,
        rekey: bool,
    ) -> Result<(), NodeError> {
        let knet = match self {
            Self::Knet(knet) => knet,
            Self::Plain(plain) => {
                plain.reconfigure(settings::plain(config, local));
                return Ok(());
            }
        };
        if rekey {
            knet.prepare_keys(now, settings::suite(config)?);
        }
        let old: Vec<_> = knet.links().map(|link| (link.host, link.link)).collect();
        for (number, link) in &config.links {
            knet.set_link(now, *number, settings::link(link))?;
        }
        for node in config.nodes.iter().filter(|node| node.id != local.0) {
            knet.set_host(now, NodeId(node.id), &settings::addresses(config, node))?;
        }
        for (host, link) in old {
            if !config.nodes.iter().any(|node| node.id == host.0) {
                knet.remove_host(now, host);
            }
            if !config.links.contains_key(&link) {
                knet.remove_link(now, link);
            }
        }
        let interval = settings::pmtud_interval(config);
        knet.set_mtu(now, interval, settings::fixed_mtu(config));
        Ok(())
    }

    /// Sends with the new keys.
    pub(super) fn activate_keys(&mut self, now: Instant) {
        if let Self::Knet(knet) = self {
            knet.activate_keys(now);
        }
    }

    /// Accepts the old keys no longer.
    pub(super) fn cleanup_keys(&mut self) {
        if let Self::Knet(knet) = self {
            knet.cleanup_keys();
        }
    }

    /// Dropped datagrams by reason, as far as they are told apart.
    pub(super) fn dropped(&self) -> BTreeMap<&'static str, u64> {
        match self {
            Self::Knet(knet) => {
                let drops = knet.stats().drops;
                drops
                    .iter()
                    .map(|(reason, count)| (reason.name(), count))
                    .collect()
            }
            Self::Plain(plain) => BTreeMap::from([("any", plain.stats().dropped)]),
        }
    }

    /// Counters, where links are watched.
    pub(super) fn stats(&self) -> Option<knet::Stats> {
        match self {
            Self::Knet(knet) => Some(knet.stats()),
            Self::Plain(_) => None,
        }
    }

    /// Sets counters to zero.
    pub(super) fn clear_stats(&mut self) {
        if let Self::Knet(knet) = self {
            knet.clear_stats();
        }
    }

    /// All links; none for the transports that do not watch any.
    pub(super) fn links(&self) -> Vec<knet::LinkStatus> {
        match self {
            Self::Knet(knet) => knet.links().collect(),
            Self::Plain(_) => Vec::new(),
        }
    }
}
