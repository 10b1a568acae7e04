//! The ring protocol: two honest nodes, and somebody who sends what he likes to the first.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use corosync_lite::proto::srp::{Config, Destination, Event, Lane, Output, Srp};
use corosync_lite::wire::NodeId;
use corosync_lite::wire::srp::{Message, RingId, SeqNo};

use super::clock::AT_ONCE_MAX;
use super::input::{Fields, Shape, Step, steps};
use crate::wait::now;

/// Time that a datagram is on its way.
const DELAY: Duration = Duration::from_micros(100);
/// Datagrams carried in one step at most; the rest waits.
const CARRIED_MAX: usize = 3000;
/// Frames and slots that a node may keep.
const QUEUED_MAX: usize = 100_000;
const RECORD_MAX: usize = 512;

/// A hostile history.
pub(super) fn run(input: &[u8]) -> u64 {
    let mut ring = Ring::new();
    ring.pass(Duration::from_secs(4));
    assert_eq!(ring.nodes[&1].members().count(), 2, "no ring at the start");
    for step in steps(input).into_iter().take(400) {
        ring.take(&step);
    }
    ring.pass(Duration::from_secs(5));
    ring.outcome.note(&ring.nodes[&1].phase());
    ring.outcome.finish()
}

struct Ring {
    now: Instant,
    nodes: BTreeMap<u32, Srp>,
    /// On their way, to whom, in order.
    flying: VecDeque<(Instant, u32, Bytes)>,
    record: Vec<Bytes>,
    /// Latest delivery of each node.
    delivered: BTreeMap<u32, (RingId, SeqNo)>,
    cut: bool,
    outcome: Shape,
}

impl Ring {
    fn new() -> Self {
        let now = now();
        let mut ring = Self {
            now,
            nodes: [1, 2].map(|id| (id, node(id, now, 0))).into(),
            flying: VecDeque::new(),
            record: Vec::new(),
            delivered: BTreeMap::new(),
            cut: false,
            outcome: Shape::default(),
        };
        ring.collect();
        ring
    }

    fn take(&mut self, step: &Step) {
        let mut fields = Fields(&step.bytes);
        match step.op % 10 {
            0 => self.inject(1, &Bytes::copy_from_slice(&step.bytes)),
            1 => {
                if let Some(datagram) = self.current(&step.bytes) {
                    self.inject(1, &datagram);
                }
            }
            2 => self.pass(Duration::from_millis(u64::from(fields.short()) % 3000)),
            3 => self.submit(fields),
            4 => {
                let now = self.now;
                for srp in self.nodes.values_mut() {
                    srp.sync_done(now, srp.ring());
                }
                self.collect();
            }
            op @ 5..=6 => {
                if let Some(old) = self.record.get(fields.index(self.record.len())) {
                    let mut datagram = old.to_vec();
                    fields.patch(&mut datagram);
                    self.inject(u32::from(op - 4), &datagram.into());
                }
            }
            7 => self.cut = !self.cut,
            8 => {
                let stored = self.nodes[&2].ring().seq;
                self.flying.retain(|(_, to, _)| *to != 2);
                self.nodes.insert(2, node(2, self.now, stored));
                self.delivered.remove(&2);
                self.collect();
            }
            _ => {
                let lane = lane(fields.byte());
                for srp in self.nodes.values_mut() {
                    drop(srp.take_unsent(lane));
                }
            }
        }
        self.check();
    }

    /// A message as if of the ring that node 1 is in, so that it is looked at further.
    fn current(&self, bytes: &[u8]) -> Option<Bytes> {
        let ring = self.nodes[&1].ring();
        let mut message = Message::decode(&Bytes::copy_from_slice(bytes)).ok()?;
        match &mut message {
            Message::OrfToken(token) => {
                token.ring = ring;
                for rtr in &mut token.rtr {
                    rtr.ring = ring;
                }
            }
            Message::Mcast(mcast) => mcast.ring = ring,
            Message::HoldCancel(cancel) => cancel.ring = ring,
            Message::CommitToken(token) => token.ring = ring,
            Message::MembJoin(join) => join.ring_seq = ring.seq,
            Message::MergeDetect(_) => {}
        }
        Some(message.encode())
    }

    fn inject(&mut self, to: u32, datagram: &Bytes) {
        let now = self.now;
        if let Some(srp) = self.nodes.get_mut(&to) {
            let result = srp.handle_datagram(now, datagram);
            self.outcome.note(&result);
            self.outcome.note(&srp.phase());
        }
        self.collect();
    }

    fn submit(&mut self, mut fields: Fields<'_>) {
        let (node, lane) = (u32::from(fields.byte() % 2) + 1, lane(fields.byte()));
        let now = self.now;
        let frame = Bytes::copy_from_slice(fields.rest());
        if let Some(srp) = self.nodes.get_mut(&node) {
            let result = srp.mcast(now, lane, frame);
            self.outcome.note(&result);
        }
        self.collect();
    }

    /// Takes what all nodes have to say.
    fn collect(&mut self) {
        let at = self.now + DELAY;
        for (id, srp) in &mut self.nodes {
            while let Some(output) = srp.poll_output() {
                match output {
                    Output::Persist(_) => {}
                    Output::Transmit(sent) => {
                        if self.record.len() < RECORD_MAX {
                            self.record.push(sent.datagram.clone());
                        }
                        let to = match sent.to {
                            Destination::Others => 3 - id,
                            Destination::Node(node) => node.0,
                        };
                        if to == *id || (!self.cut && (1..=2).contains(&to)) {
                            self.flying.push_back((at, to, sent.datagram));
                        }
                    }
                    Output::Event(Event::Deliver(message)) => {
                        let place = (message.ring, message.seq);
                        let before = self.delivered.insert(*id, place);
                        if let Some((ring, seq)) = before.filter(|(ring, _)| *ring == place.0) {
                            let is_later = seq.is_before(place.1);
                            assert!(is_later, "{ring:?}: {seq:?} before {:?}", place.1);
                        }
                    }
                    Output::Event(event) => self.outcome.note(&event),
                }
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let (mut carried, mut at_once) = (0, 0);
        loop {
            let arrival = self.flying.front().map(|(at, _, _)| *at);
            let timeout = self.nodes.values().filter_map(Srp::poll_timeout).min();
            let Some(next) = arrival.into_iter().chain(timeout).min() else {
                break;
            };
            if next > end || carried >= CARRIED_MAX {
                break;
            }
            at_once = if next > self.now { 0 } else { at_once + 1 };
            self.now = self.now.max(next);
            let now = self.now;
            if arrival == Some(next) {
                carried += 1;
                if let Some((_, to, datagram)) = self.flying.pop_front()
                    && let Some(srp) = self.nodes.get_mut(&to)
                {
                    let result = srp.handle_datagram(now, &datagram);
                    self.outcome.note(&result.is_ok());
                }
            } else {
                assert!(at_once < AT_ONCE_MAX, "a timer is due again at once");
                for srp in self.nodes.values_mut() {
                    srp.handle_timeout(now);
                }
            }
            self.collect();
        }
        if carried < CARRIED_MAX {
            self.now = end;
        }
        self.check();
    }

    fn check(&self) {
        for (id, srp) in &self.nodes {
            assert!(
                srp.queued() < QUEUED_MAX,
                "node {id} keeps {}",
                srp.queued()
            );
        }
    }
}

fn node(id: u32, now: Instant, stored: u64) -> Srp {
    let config = Config::with_token(Duration::from_secs(1)).with_net_mtu(1500);
    let mut srp = Srp::new(config, NodeId(id), stored, u64::from(id));
    srp.start(now);
    srp
}

fn lane(byte: u8) -> Lane {
    if byte & 1 == 0 {
        Lane::Ordinary
    } else {
        Lane::Sync
    }
}
