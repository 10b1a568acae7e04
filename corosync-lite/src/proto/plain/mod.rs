//! The transports without encryption: one datagram for each message of the ring, one link.
//!
//! | transport | to all nodes | to one node |
//! |---|---|---|
//! | unicast (`udpu`) | a copy to each node of the list, from a port of its own | from the bound port |
//! | multicast (`udp`) | one datagram to the group | from the port below the bound one |
//!
//! What a node sends to itself never leaves it. Other nodes are told apart by their addresses
//! alone, ports are ignored; anybody who can send from such an address is believed.
//!
//! Invariant: with the filter on, nothing from an address that is not in the list gets through.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use super::srp::DATAGRAM_LEN_MAX;
use crate::wire::NodeId;

/// Datagrams that wait to be sent; what comes on top is dropped and counted.
const QUEUED_MAX: usize = 65_536;

/// Settings of the transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This node.
    pub local: NodeId,
    /// Port of all nodes.
    pub port: u16,
    /// The other nodes.
    pub nodes: BTreeMap<NodeId, IpAddr>,
    /// Where a message to all goes, if not to each node.
    pub group: Option<IpAddr>,
    /// Datagrams from addresses that are not in the list are dropped.
    pub filter: bool,
}

/// Who gets a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// All other nodes.
    Others,
    /// One node, possibly this one.
    Node(NodeId),
}

/// From which socket a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The one that tokens come to.
    Bound,
    /// The one that only sends.
    Sender,
}

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Socket to send it on.
    pub origin: Origin,
    /// Where it goes.
    pub to: SocketAddr,
    /// Node that it is for; nobody: all.
    pub node: NodeId,
    /// Its bytes.
    pub datagram: Bytes,
}

/// Why a datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// It came from an address that no node has.
    UnknownSource,
    /// It is longer than any message.
    TooLong,
}

/// Counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Datagrams that came.
    pub received: u64,
    /// Datagrams that were dropped.
    pub dropped: u64,
    /// Datagrams that were queued for sending.
    pub queued: u64,
    /// Datagrams that were not sent, because too many were queued or nobody has the address.
    pub not_sent: u64,
    /// Datagrams that the system refused.
    pub send_failures: u64,
}

/// The transport; see the module.
#[derive(Debug)]
pub struct Plain {
    config: Config,
    outbox: VecDeque<Transmit>,
    delivered: VecDeque<Bytes>,
    stats: Stats,
}

impl Plain {
    /// Ready at once.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            outbox: VecDeque::new(),
            delivered: VecDeque::new(),
            stats: Stats::default(),
        }
    }

    /// Takes new settings.
    pub fn reconfigure(&mut self, config: Config) {
        self.config = config;
    }

    /// Takes a datagram that came from `from`.
    ///
    /// # Errors
    /// Why it was dropped. That is counted; there is nothing to do.
    pub fn handle_datagram(&mut self, from: IpAddr, datagram: &[u8]) -> Result<(), Discard> {
        self.stats.received += 1;
        let result = self.check(from.to_canonical(), datagram);
        match result {
            Ok(()) => self.delivered.push_back(Bytes::copy_from_slice(datagram)),
            Err(_) => self.stats.dropped += 1,
        }
        result
    }

    fn check(&self, from: IpAddr, datagram: &[u8]) -> Result<(), Discard> {
        if self.config.filter && !self.config.nodes.values().any(|node| *node == from) {
            return Err(Discard::UnknownSource);
        }
        if datagram.len() > DATAGRAM_LEN_MAX {
            return Err(Discard::TooLong);
        }
        Ok(())
    }

    /// Takes note that the system refused a datagram.
    pub fn handle_send_failure(&mut self) {
        self.stats.send_failures += 1;
    }

    /// Sends a message.
    pub fn send(&mut self, target: Target, payload: &Bytes) {
        match target {
            Target::Node(node) if node == self.config.local => {
                self.delivered.push_back(payload.clone());
            }
            Target::Node(node) => {
                let origin = match self.config.group {
                    Some(_) => Origin::Sender,
                    None => Origin::Bound,
                };
                match self.config.nodes.get(&node).copied() {
                    Some(address) => self.push(origin, address, node, payload),
                    None => self.stats.not_sent += 1,
                }
            }
            Target::Others => match self.config.group {
                Some(group) => self.push(Origin::Sender, group, NodeId::NONE, payload),
                None => {
                    let nodes: Vec<_> = self.config.nodes.iter().map(|(n, a)| (*n, *a)).collect();
                    for (node, address) in nodes {
                        self.push(Origin::Sender, address, node, payload);
                    }
                }
            },
        }
    }

    fn push(&mut self, origin: Origin, address: IpAddr, node: NodeId, payload: &Bytes) {
        if self.outbox.len() >= QUEUED_MAX {
            self.stats.not_sent += 1;
            return;
        }
        self.stats.queued += 1;
        self.outbox.push_back(Transmit {
            origin,
            to: SocketAddr::new(address, self.config.port),
            node,
            datagram: payload.clone(),
        });
    }

    /// The next datagram to send.
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.outbox.pop_front()
    }

    /// The next message that came.
    #[must_use]
    pub fn poll_delivered(&mut self) -> Option<Bytes> {
        self.delivered.pop_front()
    }

    /// Counters since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }
}
