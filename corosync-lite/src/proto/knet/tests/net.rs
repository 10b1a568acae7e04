//! The network of the tests. One seed, one order of events.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use super::super::*;
use super::{MS, base};
use crate::proto::knet::seal::{Cipher, Hash, Suite};

const INTERFACE_MTU: u16 = 1500;

pub(super) fn key() -> Vec<u8> {
    (0..=255).collect()
}

pub(super) fn keyed() -> Suite {
    Suite::new(Cipher::Aes256, Hash::Sha256, &key()).unwrap()
}

/// A message for `target`, 0 = all, as far as the transport looks into it.
pub(super) fn message(target: u32, len: usize) -> Bytes {
    let mut bytes: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
    bytes[TARGET].copy_from_slice(&target.to_le_bytes());
    Bytes::from(bytes)
}

pub(super) fn address(node: u32, link: u8) -> SocketAddr {
    let ip = Ipv4Addr::new(10, 0, link, u8::try_from(node).unwrap());
    SocketAddr::from((ip, 5405 + u16::from(link)))
}

pub(super) fn link_config() -> LinkConfig {
    LinkConfig {
        ping_interval: 750 * MS,
        ping_timeout: 1500 * MS,
        pong_count: 2,
        ping_precision: 2048,
        priority: 1,
    }
}

pub(super) fn config(local: u32, nodes: u32, links: u8, suite: Suite) -> Config {
    let addresses = |node| (0..links).map(|link| (link, address(node, link))).collect();
    let others = (1..=nodes).filter(|node| *node != local);
    Config {
        local: NodeId(local),
        link_mode: LinkMode::Passive,
        links: (0..links).map(|link| (link, link_config())).collect(),
        hosts: others.map(|node| (NodeId(node), addresses(node))).collect(),
        pmtud_interval: Duration::from_secs(30),
        fixed_mtu: None,
        suite,
    }
}

/// A datagram that was on the network.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) at: Instant,
    pub(super) from: SocketAddr,
    pub(super) to: u32,
    pub(super) datagram: Bytes,
}

#[derive(Debug)]
pub(super) struct Net {
    pub(super) now: Instant,
    pub(super) loss: f64,
    pub(super) copies: f64,
    pub(super) jitter: Duration,
    pub(super) path_mtu: u16,
    pub(super) timeouts: usize,
    /// Every datagram that was sent.
    pub(super) record: Vec<Sent>,
    nodes: u32,
    links: u8,
    start: Instant,
    pub(super) rng: ChaCha8Rng,
    started: BTreeMap<u32, Instant>,
    knets: BTreeMap<u32, Knet>,
    cut: BTreeSet<(u32, u32, u8)>,
    refused: BTreeSet<(u32, u8)>,
    flying: BTreeMap<(Instant, u64), Sent>,
    waiting: Vec<Sent>,
    number: u64,
    data_links: Vec<(u32, u8)>,
    delivered: BTreeMap<u32, Vec<(NodeId, Bytes)>>,
    events: BTreeMap<u32, Vec<Event>>,
}

impl Net {
    pub(super) fn new(nodes: u32, links: u8, suite: Suite) -> Self {
        let now = base();
        let mut net = Self {
            now,
            loss: 0.0,
            copies: 0.0,
            jitter: Duration::ZERO,
            path_mtu: INTERFACE_MTU,
            timeouts: 0,
            record: Vec::new(),
            nodes,
            links,
            start: now,
            rng: ChaCha8Rng::seed_from_u64(1),
            started: BTreeMap::new(),
            knets: BTreeMap::new(),
            cut: BTreeSet::new(),
            refused: BTreeSet::new(),
            flying: BTreeMap::new(),
            waiting: Vec::new(),
            number: 0,
            data_links: Vec::new(),
            delivered: BTreeMap::new(),
            events: BTreeMap::new(),
        };
        let clear = matches!(suite, Suite::Clear);
        for node in 1..=nodes {
            net.restart(node, if clear { Suite::Clear } else { keyed() });
        }
        net
    }

    /// Starts a node, or starts it again.
    pub(super) fn restart(&mut self, node: u32, suite: Suite) {
        self.number += 1;
        let mut seed = [u8::try_from(node).unwrap(); 32];
        seed[..8].copy_from_slice(&self.number.to_le_bytes());
        let config = config(node, self.nodes, self.links, suite);
        let clock = Duration::from_secs(1000) + self.now.duration_since(self.start);
        let knet = Knet::new(config, seed, clock, self.now).unwrap();
        self.knets.insert(node, knet);
        self.started.insert(node, self.now);
    }

    pub(super) fn started(&self, node: u32) -> Instant {
        self.started[&node]
    }

    pub(super) fn reseed(&mut self, seed: u64) {
        self.rng = ChaCha8Rng::seed_from_u64(seed);
    }

    pub(super) fn kill(&mut self, node: u32) {
        self.knets.remove(&node);
    }

    /// The process stops; what comes for it waits in its socket.
    pub(super) fn pause(&mut self, node: u32) -> Option<Knet> {
        self.waiting.clear();
        self.knets.remove(&node)
    }

    pub(super) fn resume(&mut self, node: u32, paused: &mut Option<Knet>) {
        self.knets.extend(paused.take().map(|knet| (node, knet)));
        for sent in std::mem::take(&mut self.waiting) {
            self.arrive(&sent);
        }
    }

    pub(super) fn knet(&mut self, node: u32) -> &mut Knet {
        self.knets.get_mut(&node).unwrap()
    }

    /// Both ways.
    pub(super) fn cut(&mut self, one: u32, other: u32, link: u8) {
        self.cut.extend([(one, other, link), (other, one, link)]);
    }

    /// The kernel of the node refuses to send on the link.
    pub(super) fn refuse(&mut self, node: u32, link: u8) {
        self.refused.insert((node, link));
    }

    pub(super) fn heal(&mut self) {
        self.cut.clear();
        self.refused.clear();
    }

    pub(super) fn send(
        &mut self,
        node: u32,
        target: Target,
        payload: &Bytes,
    ) -> Result<(), SendError> {
        let now = self.now;
        let result = self.knet(node).send(now, target, payload);
        self.drain(node);
        result
    }

    /// Of what is on its way, one datagram arrives. Returns how many do not.
    pub(super) fn lose_all_but(&mut self, place: usize) -> usize {
        let kept = self.flying.keys().nth(place).copied().unwrap();
        let count = self.flying.len();
        self.flying.retain(|key, _| *key == kept);
        count - self.flying.len()
    }

    /// Messages since the last call.
    pub(super) fn delivered(&mut self, node: u32) -> Vec<(NodeId, Bytes)> {
        self.drain(node);
        self.delivered.remove(&node).unwrap_or_default()
    }

    /// Other events, all of them.
    pub(super) fn events(&mut self, node: u32) -> &[Event] {
        self.drain(node);
        self.events.get(&node).map_or(&[], |events| events)
    }

    pub(super) fn forget_events(&mut self) {
        self.events.clear();
        self.delivered.clear();
    }

    pub(super) fn take_data_links(&mut self, node: u32) -> Vec<u8> {
        let mine = |(from, link): (u32, u8)| (from == node).then_some(link);
        std::mem::take(&mut self.data_links)
            .into_iter()
            .filter_map(mine)
            .collect()
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let timeout = self.knets.values().filter_map(Knet::poll_timeout).min();
            let arrival = self.flying.keys().next().map(|(at, _)| *at);
            let next = timeout.into_iter().chain(arrival).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            if arrival.is_some_and(|at| at <= self.now) {
                let (_, sent) = self.flying.pop_first().unwrap();
                self.arrive(&sent);
            } else {
                self.time_out();
            }
        }
        self.now = end;
    }

    fn time_out(&mut self) {
        let due = |knet: &Knet| knet.poll_timeout().is_some_and(|at| at <= self.now);
        let nodes: Vec<u32> = self
            .knets
            .iter()
            .filter_map(|(node, knet)| due(knet).then_some(*node))
            .collect();
        for node in nodes {
            self.timeouts += 1;
            let now = self.now;
            self.knet(node).handle_timeout(now);
            self.drain(node);
        }
    }

    pub(super) fn arrive(&mut self, sent: &Sent) {
        let now = self.now;
        if let Some(knet) = self.knets.get_mut(&sent.to) {
            match knet.handle_datagram(now, sent.from.ip(), &sent.datagram) {
                // Why it was dropped is counted.
                Ok(()) | Err(_) => self.drain(sent.to),
            }
        } else {
            self.waiting.push(sent.clone());
        }
    }

    fn drain(&mut self, node: u32) {
        let Some(mut knet) = self.knets.remove(&node) else {
            return;
        };
        while let Some(transmit) = knet.poll_transmit() {
            self.transmit(node, &mut knet, &transmit);
        }
        while let Some(event) = knet.poll_event() {
            match event {
                Event::Deliver { from, payload } => {
                    let delivered = self.delivered.entry(node).or_default();
                    delivered.push((from, payload));
                }
                event => self.events.entry(node).or_default().push(event),
            }
        }
        self.knets.insert(node, knet);
    }

    fn transmit(&mut self, node: u32, knet: &mut Knet, transmit: &Transmit) {
        let size = transmit.datagram.len() + 28;
        if size > usize::from(INTERFACE_MTU) {
            let mtu = Some(INTERFACE_MTU);
            let failure = SendFailure::TooLarge { mtu };
            return knet.handle_send_failure(self.now, transmit, failure);
        }
        if self.refused.contains(&(node, transmit.link)) {
            return knet.handle_send_failure(self.now, transmit, SendFailure::LinkUnusable);
        }
        if transmit.purpose == Purpose::Data {
            self.data_links.push((node, transmit.link));
        }
        let lost = size > usize::from(self.path_mtu)
            || self.cut.contains(&(node, transmit.host.0, transmit.link))
            || self.chance(self.loss);
        let sent = Sent {
            at: self.now,
            from: address(node, transmit.link),
            to: transmit.host.0,
            datagram: transmit.datagram.clone(),
        };
        self.record.push(sent.clone());
        if lost {
            return;
        }
        let copies = 1 + usize::from(self.chance(self.copies));
        for _ in 0..copies {
            let jitter = self.jitter.mul_f64(self.fraction());
            self.number += 1;
            let at = (self.now + Duration::from_micros(100) + jitter, self.number);
            self.flying.insert(at, sent.clone());
        }
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.fraction() < probability
    }

    fn fraction(&mut self) -> f64 {
        f64::from(self.rng.next_u32()) / f64::from(u32::MAX)
    }
}
