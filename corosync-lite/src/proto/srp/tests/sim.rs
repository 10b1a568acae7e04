//! A network of ring protocol cores in virtual time, deterministic from a seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::checker::{Checker, Process};
use crate::proto::srp::{Config, Destination, Event, Lane, Output, Phase, Srp};
use crate::wire::srp::{Message, NodeId, RingId};

/// Steps kept for the report of a failure.
const TRACE_LEN: usize = 300;
/// Datagrams kept for being played back.
const RECORDED_MAX: usize = 2000;
/// Datagrams that wait for a stopped process, as in a socket buffer.
const SOCKET_LEN_MAX: usize = 500;

/// SplitMix64.
#[derive(Clone, Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// True `permille` times of 1000.
    pub(super) fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }
}

/// How the network behaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    pub(super) loss: u64,
    pub(super) duplicate: u64,
    /// Datagrams that take up to 200 times as long.
    pub(super) slow: u64,
    /// Old datagrams that come once more.
    pub(super) replay: u64,
    pub(super) delay_us_max: u64,
}

impl Weather {
    pub(super) const FAIR: Self = Self {
        loss: 0,
        duplicate: 0,
        slow: 0,
        replay: 0,
        delay_us_max: 200,
    };
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Arrival { to: NodeId, datagram: Bytes },
    Wake { node: NodeId },
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) srp: Option<Srp>,
    pub(super) life: u32,
    stored_ring_seq: u64,
    stopped: bool,
    socket: VecDeque<Bytes>,
    wake_at: Option<u64>,
    synced: BTreeSet<NodeId>,
    sent: u64,
    pub(super) regular: Option<(RingId, Vec<NodeId>)>,
    pub(super) delivered: u64,
}

/// The cluster.
#[derive(Debug)]
pub(super) struct Sim {
    base: Instant,
    /// Nanoseconds since `base`.
    pub(super) now: u64,
    pub(super) random: Random,
    pub(super) weather: Weather,
    config: Config,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    /// Nodes can reach those with the same number.
    pub(super) side: BTreeMap<NodeId, u8>,
    agenda: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    counter: u64,
    recorded: Vec<Bytes>,
    pub(super) checker: Checker,
    pub(super) trace: VecDeque<String>,
    /// Hash of everything that happened.
    pub(super) digest: u64,
    pub(super) queued_max: usize,
    /// Whether the trace has every datagram.
    pub(super) is_verbose: bool,
    /// Drops what it says true to.
    pub(super) filter: Option<Filter>,
    /// Everything that was told to the layers above, with the time in microseconds.
    pub(super) journal: Vec<(u64, NodeId, Event)>,
    /// Datagrams sent to others.
    pub(super) sent: u64,
    /// One byte in so many datagrams of 1000 is changed.
    pub(super) mangled: u64,
    /// Whether the checker is not asked: stored numbers were lost, or datagrams changed.
    pub(super) is_lawless: bool,
}

/// From, to, datagram.
pub(super) type Filter = fn(NodeId, NodeId, &[u8]) -> bool;

fn fnv(digest: u64, bytes: &[u8]) -> u64 {
    let step = |digest: u64, byte: &u8| (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
    bytes.iter().fold(digest, step)
}

impl Sim {
    pub(super) fn new(seed: u64, node_count: u32, config: Config) -> Self {
        let mut sim = Self {
            base: super::origin(),
            now: 0,
            random: Random(seed),
            weather: Weather::FAIR,
            config,
            nodes: BTreeMap::new(),
            side: BTreeMap::new(),
            agenda: BinaryHeap::new(),
            counter: 0,
            recorded: Vec::new(),
            checker: Checker::default(),
            trace: VecDeque::new(),
            digest: 0,
            queued_max: 0,
            is_verbose: false,
            filter: None,
            journal: Vec::new(),
            sent: 0,
            mangled: 0,
            is_lawless: false,
        };
        for id in 1..=node_count {
            let node = Node {
                srp: None,
                life: 0,
                stored_ring_seq: 0,
                stopped: false,
                socket: VecDeque::new(),
                wake_at: None,
                synced: BTreeSet::new(),
                sent: 0,
                regular: None,
                delivered: 0,
            };
            sim.nodes.insert(NodeId(id), node);
            sim.side.insert(NodeId(id), 0);
        }
        sim
    }

    pub(super) fn time(&self) -> Instant {
        self.base + Duration::from_nanos(self.now)
    }

    fn note(&mut self, line: String) {
        self.digest = fnv(self.digest, line.as_bytes());
        if self.trace.len() == TRACE_LEN {
            self.trace.pop_front();
        }
        self.trace
            .push_back(format!("{:>10} {line}", self.now / 1000));
    }

    pub(super) fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    pub(super) fn start(&mut self, id: NodeId) -> Result<(), String> {
        let (now, seed, config) = (self.time(), self.random.next(), self.config.clone());
        let Some(node) = self.nodes.get_mut(&id) else {
            return Ok(());
        };
        if node.srp.is_some() {
            return Ok(());
        }
        let mut srp = Srp::new(config, id, node.stored_ring_seq, seed);
        srp.start(now);
        node.life += 1;
        node.srp = Some(srp);
        node.stopped = false;
        node.synced.clear();
        node.regular = None;
        self.note(format!("{id} starts"));
        self.settle(id)
    }

    /// The process is gone, what it had not stored is lost.
    pub(super) fn crash(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.srp = None;
            node.socket.clear();
            node.wake_at = None;
        }
        self.note(format!("{id} crashes"));
    }

    pub(super) fn leave(&mut self, id: NodeId) -> Result<(), String> {
        self.note(format!("{id} leaves"));
        if let Some(srp) = self.nodes.get_mut(&id).and_then(|node| node.srp.as_mut()) {
            srp.leave();
        }
        self.settle(id)?;
        self.crash(id);
        Ok(())
    }

    /// Stops a process without killing it.
    pub(super) fn stop(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.stopped = true;
        }
        self.note(format!("{id} is stopped"));
    }

    pub(super) fn go_on(&mut self, id: NodeId) -> Result<(), String> {
        let timers_first = self.random.chance(500);
        let now = self.time();
        self.note(format!("{id} goes on"));
        let Some(node) = self.nodes.get_mut(&id) else {
            return Ok(());
        };
        node.stopped = false;
        let socket = std::mem::take(&mut node.socket);
        if timers_first && let Some(srp) = &mut node.srp {
            srp.handle_timeout(now);
        }
        self.settle(id)?;
        for datagram in socket {
            self.arrive(id, datagram)?;
        }
        self.settle(id)
    }

    /// Submits a message that says who sent it.
    pub(super) fn submit(&mut self, id: NodeId, len: usize) -> Result<(), String> {
        let now = self.time();
        let Some(node) = self.nodes.get_mut(&id) else {
            return Ok(());
        };
        let Some(srp) = &mut node.srp else {
            return Ok(());
        };
        if node.stopped {
            return Ok(());
        }
        let mut frame = format!("M {id} {} {} ", node.life, node.sent).into_bytes();
        frame.resize(frame.len() + len, b'x');
        let frame = Bytes::from(frame);
        if srp.mcast(now, Lane::Ordinary, frame.clone()).is_ok() {
            node.sent += 1;
            let process = Process {
                node: id,
                life: node.life,
            };
            self.checker.submitted(process, frame);
        }
        self.settle(id)
    }

    /// Runs what is due within `duration`.
    pub(super) fn run(&mut self, duration: Duration) -> Result<(), String> {
        let end = self.now + u64::try_from(duration.as_nanos()).unwrap();
        while let Some(Reverse((at, _, _))) = self.agenda.peek()
            && *at <= end
        {
            let Some(Reverse((at, _, happening))) = self.agenda.pop() else {
                break;
            };
            self.now = self.now.max(at);
            match happening {
                Happening::Arrival { to, datagram } => self.arrive(to, datagram)?,
                Happening::Wake { node } => self.wake(node)?,
            }
        }
        self.now = end;
        Ok(())
    }

    fn wake(&mut self, id: NodeId) -> Result<(), String> {
        let (now, nanos) = (self.time(), self.now);
        let Some(node) = self.nodes.get_mut(&id) else {
            return Ok(());
        };
        if node.wake_at == Some(nanos) {
            node.wake_at = None;
        }
        let Some(srp) = node.srp.as_mut().filter(|_| !node.stopped) else {
            return Ok(());
        };
        srp.handle_timeout(now);
        self.settle(id)
    }

    fn arrive(&mut self, id: NodeId, datagram: Bytes) -> Result<(), String> {
        let now = self.time();
        let Some(node) = self.nodes.get_mut(&id) else {
            return Ok(());
        };
        if node.stopped {
            if node.socket.len() < SOCKET_LEN_MAX {
                node.socket.push_back(datagram);
            }
            return Ok(());
        }
        let Some(srp) = &mut node.srp else {
            return Ok(());
        };
        let result = srp.handle_datagram(now, &datagram);
        if self.is_verbose {
            self.note(format!(
                "{id} < {:?}: {result:?}",
                Message::decode(&datagram)
            ));
        } else {
            let bytes = [
                u8::try_from(id.0).unwrap_or(u8::MAX),
                u8::from(result.is_ok()),
            ];
            self.digest = fnv(fnv(self.digest, &bytes), &datagram);
        }
        self.settle(id)
    }

    /// Does what a node wants done.
    fn settle(&mut self, id: NodeId) -> Result<(), String> {
        let now = self.time();
        while let Some(node) = self.nodes.get_mut(&id)
            && let Some(srp) = &mut node.srp
        {
            self.queued_max = self.queued_max.max(srp.queued());
            let Some(output) = srp.poll_output() else {
                break;
            };
            match output {
                Output::Persist(seq) => {
                    if seq <= node.stored_ring_seq {
                        return Err(format!("{id}: ring sequence {seq} was used before"));
                    }
                    node.stored_ring_seq = seq;
                }
                Output::Transmit(transmit) => match transmit.to {
                    Destination::Node(to) if to == id => {
                        let result = srp.handle_datagram(now, &transmit.datagram);
                        self.digest = fnv(self.digest, &[u8::from(result.is_ok())]);
                    }
                    Destination::Node(to) => self.send(id, to, &transmit.datagram),
                    Destination::Others => {
                        for to in self.ids() {
                            if to != id {
                                self.send(id, to, &transmit.datagram);
                            }
                        }
                    }
                },
                Output::Event(event) => self.take_event(id, &event)?,
            }
        }
        self.plan_wake(id);
        Ok(())
    }

    fn plan_wake(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        let Some(at) = node.srp.as_ref().and_then(Srp::poll_timeout) else {
            return;
        };
        let at = u64::try_from((at - self.base).as_nanos())
            .unwrap()
            .max(self.now);
        if node.wake_at.is_none_or(|planned| at < planned) && !node.stopped {
            node.wake_at = Some(at);
            self.counter += 1;
            self.agenda
                .push(Reverse((at, self.counter, Happening::Wake { node: id })));
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, datagram: &Bytes) {
        if self.recorded.len() < RECORDED_MAX {
            self.recorded.push(datagram.clone());
        }
        if self.weather.replay > 0 && self.random.chance(self.weather.replay) {
            let old = self.random.below(self.recorded.len() as u64);
            let old = self.recorded[usize::try_from(old).unwrap()].clone();
            self.post(to, old);
        }
        self.sent += 1;
        let is_filtered = self
            .filter
            .is_some_and(|is_lost| is_lost(from, to, datagram));
        let is_cut = self.side.get(&from) != self.side.get(&to) || is_filtered;
        if is_cut || self.random.chance(self.weather.loss) {
            return;
        }
        if self.random.chance(self.weather.duplicate) {
            self.post(to, datagram.clone());
        }
        if self.mangled > 0 && self.random.chance(self.mangled) {
            let mut bytes = datagram.to_vec();
            let at = usize::try_from(self.random.below(bytes.len() as u64)).unwrap();
            bytes[at] ^= 1 << self.random.below(8);
            return self.post(to, Bytes::from(bytes));
        }
        self.post(to, datagram.clone());
    }

    /// Hands a datagram to a node at once, as if from the network.
    pub(super) fn inject(&mut self, to: NodeId, datagram: Bytes) -> Result<(), String> {
        self.arrive(to, datagram)
    }

    /// Everything that was sent so far, up to a limit.
    pub(super) fn recorded(&self) -> Vec<Bytes> {
        self.recorded.clone()
    }

    /// Loses what the node had stored.
    pub(super) fn wipe(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.stored_ring_seq = 0;
        }
    }

    fn post(&mut self, to: NodeId, datagram: Bytes) {
        let mut delay = 20 + self.random.below(self.weather.delay_us_max);
        if self.random.chance(self.weather.slow) {
            delay *= 1 + self.random.below(200);
        }
        self.counter += 1;
        let at = self.now + delay * 1000;
        self.agenda.push(Reverse((
            at,
            self.counter,
            Happening::Arrival { to, datagram },
        )));
    }

    /// The layers above in small: after each configuration every member sends one message, and
    /// ordinary ones flow when those of all have come.
    fn take_event(&mut self, id: NodeId, event: &Event) -> Result<(), String> {
        if !matches!(event, Event::Deliver(_)) {
            self.note(format!("{id} {event:?}"));
        }
        self.journal.push((self.now / 1000, id, event.clone()));
        let now = self.time();
        let Some(node) = self.nodes.get_mut(&id) else {
            return Ok(());
        };
        let Some(srp) = &mut node.srp else {
            return Ok(());
        };
        let process = Process {
            node: id,
            life: node.life,
        };
        match event {
            Event::Regular { ring, members, .. } => {
                node.synced.clear();
                node.regular = Some((*ring, members.clone()));
                let stale = srp.take_unsent(Lane::Sync);
                if stale.iter().any(|frame| !frame.starts_with(b"S ")) {
                    return Err(format!(
                        "{id}: an ordinary frame was queued for the sync phase"
                    ));
                }
                let frame = Bytes::from(format!("S {ring} {id} {}", node.life));
                srp.mcast(now, Lane::Sync, frame)
                    .map_err(|error| format!("{id}: sync message refused: {error}"))?;
            }
            Event::Deliver(delivered) => {
                node.delivered += 1;
                if let Some((ring, members)) = &node.regular
                    && delivered.frame.starts_with(format!("S {ring} ").as_bytes())
                {
                    node.synced.insert(delivered.sender);
                    if node.synced.len() == members.len() {
                        srp.sync_done(now, *ring);
                    }
                }
            }
            _ => {}
        }
        if self.is_lawless {
            Ok(())
        } else {
            self.checker.note(process, event)
        }
    }

    /// Whether all nodes run, on one ring, with the sync phase behind them.
    pub(super) fn is_whole(&self) -> bool {
        let is_behind = |node: &Node| node.srp.as_ref().is_some_and(|srp| !srp.is_synchronizing());
        self.is_one_ring() && self.nodes.values().all(is_behind)
    }

    /// Whether all nodes run, on one ring.
    pub(super) fn is_one_ring(&self) -> bool {
        let all = self.ids();
        let rings: BTreeSet<_> = self
            .nodes
            .values()
            .map(|node| node.regular.clone())
            .collect();
        let is_ready = |node: &Node| {
            node.srp
                .as_ref()
                .is_some_and(|srp| srp.phase() == Phase::Operational)
        };
        rings.len() == 1
            && rings.iter().flatten().all(|(_, members)| *members == all)
            && self.nodes.values().all(is_ready)
    }

    /// One line for each node.
    pub(super) fn status(&self) -> String {
        let mut lines = String::new();
        for (id, node) in &self.nodes {
            let srp = node.srp.as_ref();
            let line = srp.map(|srp| (srp.phase(), srp.ring(), srp.queued(), srp.stats().clone()));
            lines.push_str(&format!("{id}: {line:?} {:?}\n", node.regular));
        }
        lines
    }
}
