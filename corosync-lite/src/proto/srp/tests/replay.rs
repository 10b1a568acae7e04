//! Rings of other implementations, captured at one node: this core takes that node's place,
//! receives what it received, is given the frames that it sent, and must send what it sent.
//!
//! A line of a capture is `microseconds from to hex`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::proto::srp::ordering::SortQueue;
use crate::proto::srp::{Config, Destination, Event, Output, Phase, Srp, State};
use crate::wire::srp::{ENCAPSULATED_NOT, Mcast, MembJoin, Message, NodeId, RingId, SeqNo};

struct Line {
    at: u64,
    from: NodeId,
    datagram: Bytes,
    message: Message,
}

fn capture(name: &str) -> Vec<Line> {
    let path = format!(
        "{}/../tests/vectors/totem/srp-{name}.txt",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(path).unwrap();
    let line = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        let hex = fields[3];
        let bytes = (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16));
        let datagram: Bytes = bytes.map(Result::unwrap).collect();
        Line {
            at: fields[0].parse().unwrap(),
            from: NodeId(fields[1].parse().unwrap()),
            message: Message::decode(&datagram).unwrap(),
            datagram,
        }
    };
    text.lines().map(line).collect()
}

/// What must be equal, by what it is about. The target is without meaning outside knet.
type Key = (u8, RingId, u32);

fn keyed(message: &Message) -> Option<(Key, Message)> {
    let mut message = message.clone();
    let key = match &mut message {
        Message::OrfToken(token) => {
            token.header.target = NodeId::NONE;
            (0, token.ring, token.token_seq.0)
        }
        Message::CommitToken(token) => {
            token.header.target = NodeId::NONE;
            (4, token.ring, token.token_seq.0)
        }
        Message::Mcast(mcast) => {
            mcast.header.target = NodeId::NONE;
            (1, mcast.ring, mcast.seq.0)
        }
        _ => return None,
    };
    Some((key, message))
}

type Proposal = (BTreeSet<NodeId>, BTreeSet<NodeId>, u64);

fn proposal(join: &MembJoin) -> Proposal {
    (
        join.proc.iter().copied().collect(),
        join.failed.iter().copied().collect(),
        join.ring_seq,
    )
}

struct Stand {
    srp: Srp,
    base: Instant,
    now: Instant,
    sent: BTreeMap<Key, Message>,
    proposals: BTreeSet<Proposal>,
    events: Vec<Event>,
}

impl Stand {
    fn new(node: u32, net_mtu: usize, stored_ring_seq: u64) -> Self {
        let base = super::origin();
        let config = Config::with_token(Duration::from_millis(3650)).with_net_mtu(net_mtu);
        Self {
            srp: Srp::new(config, NodeId(node), stored_ring_seq, 0),
            base,
            now: base,
            sent: BTreeMap::new(),
            proposals: BTreeSet::new(),
            events: Vec::new(),
        }
    }

    /// In the middle of the life of a ring, with nothing outstanding.
    fn in_ring(mut self, members: &[u32], ring_seq: u64, seq: u32, this_seqno: i32) -> Self {
        let members: Vec<NodeId> = members.iter().copied().map(NodeId).collect();
        let srp = &mut self.srp;
        srp.start(self.base);
        while srp.poll_output().is_some() {}
        srp.timers.stop_protocol();
        srp.state = State::Operational;
        srp.ring = RingId {
            rep: members[0],
            seq: ring_seq,
        };
        srp.installed = srp.ring;
        srp.ring_seq_max = ring_seq;
        srp.memb = members.iter().copied().collect();
        srp.proc = srp.memb.clone();
        srp.failed.clear();
        let next = members.iter().copied().find(|node| *node > srp.node);
        srp.successor = next.unwrap_or(members[0]);
        srp.members = members;
        srp.rotation = super::super::token::Rotation::default();
        srp.regular = SortQueue::starting_after(SeqNo(seq));
        srp.this_seqno = this_seqno;
        self
    }

    fn settle(&mut self) {
        while let Some(output) = self.srp.poll_output() {
            match output {
                Output::Persist(_) => {}
                Output::Event(event) => self.events.push(event),
                Output::Transmit(transmit) => {
                    let message = Message::decode(&transmit.datagram).unwrap();
                    if let Message::MembJoin(join) = &message {
                        self.proposals.insert(proposal(join));
                    }
                    if transmit.to == Destination::Node(self.srp.node()) {
                        self.srp
                            .handle_datagram(self.now, &transmit.datagram)
                            .unwrap();
                    } else if let Some((key, message)) = keyed(&message) {
                        self.sent.insert(key, message);
                    } else {
                        // Joins were noted, the rest depends on timing.
                    }
                }
            }
        }
    }

    fn until(&mut self, at: u64) {
        let end = self.base + Duration::from_micros(at);
        while let Some(due) = self.srp.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.srp.handle_timeout(self.now);
            self.settle();
        }
        self.now = end;
    }

    fn submit(&mut self, frame: Bytes) {
        let lane = self.srp.lane();
        self.srp.mcast(self.now, lane, frame).unwrap();
        self.settle();
    }

    /// Plays the capture; `is_lost` names what the node did not receive.
    fn play(&mut self, lines: &[Line], is_lost: impl Fn(&Line) -> bool) {
        let node = self.srp.node();
        let mut submitted = BTreeSet::new();
        let mut fresh = |mcast: &Mcast| -> bool {
            mcast.header.encapsulated == ENCAPSULATED_NOT
                && mcast.system_from == node
                && submitted.insert((mcast.ring, mcast.seq.0))
        };
        for (index, line) in lines.iter().enumerate() {
            self.until(line.at);
            if line.from == node {
                // Alone, there are no tokens to be seen: the message shows that it was sent.
                if let Message::Mcast(mcast) = &line.message
                    && mcast.ring == self.srp.ring()
                    && mcast.ring.rep == node
                    && self.srp.members().count() == 1
                    && fresh(mcast)
                {
                    self.submit(mcast.body.clone());
                }
                continue;
            }
            if is_lost(line) {
                continue;
            }
            if let Message::OrfToken(token) = &line.message {
                let is_next = |line: &&Line| {
                    line.from == node || !matches!(line.message, Message::OrfToken(_))
                };
                for later in lines[index + 1..].iter().take_while(is_next) {
                    if let Message::Mcast(mcast) = &later.message
                        && later.from == node
                        && mcast.ring == token.ring
                        && fresh(mcast)
                    {
                        self.submit(mcast.body.clone());
                    }
                }
            }
            // What it drops is no concern here: what it sends is.
            let result = self.srp.handle_datagram(self.now, &line.datagram);
            assert_ne!(
                result,
                Err(crate::proto::srp::Discard::Implausible),
                "{:?}",
                line.message
            );
            self.settle();
        }
    }

    /// Compares everything that the captured node sent after `start`.
    fn compare(&self, lines: &[Line], start: u64) -> usize {
        let mut count = 0;
        let own = lines
            .iter()
            .filter(|line| line.from == self.srp.node() && line.at >= start);
        for line in own {
            if let Some((key, expected)) = keyed(&line.message) {
                let sent = self.sent.get(&key);
                assert_eq!(
                    sent,
                    Some(&expected),
                    "{} at {} us",
                    self.srp.node(),
                    line.at
                );
                count += 1;
            }
            if let Message::MembJoin(join) = &line.message {
                assert!(
                    self.proposals.contains(&proposal(join)),
                    "{join:?} at {} us",
                    line.at
                );
                count += 1;
            }
        }
        count
    }

    fn position(&self, is_it: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().position(is_it).unwrap()
    }
}

fn ring(rep: u32, seq: u64) -> RingId {
    RingId {
        rep: NodeId(rep),
        seq,
    }
}

#[test]
fn a_second_node_joins_as_the_captured_one_did() {
    let lines = capture("form-node2");
    let mut stand = Stand::new(2, 1500, 0);
    let start = 4_115_900;
    stand.until(start);
    stand.srp.start(stand.now);
    stand.settle();
    // The captured node was still forming its ring of one when the first join came.
    stand.play(&lines, |line| line.at < 4_117_300);
    assert!(stand.compare(&lines, start) > 150);
    assert_eq!(stand.srp.ring(), ring(1, 13));
    assert_eq!(stand.srp.phase(), Phase::Operational);
    assert_eq!(stand.srp.members().count(), 3);
}

#[test]
fn a_representative_leads_as_the_captured_one_did() {
    let lines = capture("form-node1");
    let mut stand = Stand::new(1, 1500, 0);
    stand.srp.start(stand.now);
    stand.settle();
    stand.play(&lines, |_| false);
    assert!(stand.compare(&lines, 0) > 150);
    assert_eq!(stand.srp.ring(), ring(1, 13));
    assert_eq!(stand.srp.members().count(), 3);
}

#[test]
fn missing_messages_are_requested_as_the_captured_node_did() {
    let lines = capture("knet-retransmit-node2");
    let mut stand = Stand::new(2, 65_536, 9).in_ring(&[1, 2, 3], 13, 16, 0);
    let is_lost = |line: &Line| {
        matches!(&line.message, Message::Mcast(mcast) if mcast.seq == SeqNo(18))
            && line.at < 1_000_000
    };
    stand.play(&lines, is_lost);
    assert!(stand.compare(&lines, 0) > 70);
    assert!(stand.srp.stats().requests > 20);
    assert_eq!(stand.srp.stats().messages_delivered, 3);
}

#[test]
fn an_old_message_is_recovered_before_the_configuration_changes() {
    let lines = capture("knet-recovery-node2");
    let mut stand = Stand::new(2, 65_536, 9).in_ring(&[1, 2, 3], 13, 19, 12);
    let old = ring(1, 13);
    let is_lost = |line: &Line| {
        matches!(&line.message, Message::Mcast(mcast)
            if mcast.seq == SeqNo(21) && mcast.ring == old)
    };
    stand.play(&lines, is_lost);
    assert!(stand.compare(&lines, 0) > 100);
    let recovered = stand.position(|event| {
        matches!(event, Event::Deliver(delivered)
            if delivered.seq == SeqNo(21) && delivered.ring == old)
    });
    let transitional = stand.position(|event| matches!(event, Event::Transitional { .. }));
    let regular = stand.position(|event| matches!(event, Event::Regular { .. }));
    assert!(recovered < transitional && transitional < regular);
    assert_eq!(
        stand.events[transitional],
        Event::Transitional {
            ring: ring(1, 17),
            members: vec![NodeId(1), NodeId(2)],
            left: vec![NodeId(3)]
        }
    );
}

#[test]
fn a_goodbye_is_followed_at_once_as_the_captured_node_did() {
    let lines = capture("leave-node1");
    let mut stand = Stand::new(1, 1500, 17).in_ring(&[1, 2, 3], 21, 21, 36);
    stand.play(&lines, |_| false);
    let is_leave =
        |line: &&Line| matches!(&line.message, Message::MembJoin(join) if join.is_leave());
    let left = lines.iter().find(is_leave).unwrap();
    // The capture ends with the goodbye of this node, too.
    stand.srp.leave();
    stand.settle();
    assert!(stand.compare(&lines, left.at) > 30);
    assert_eq!(stand.srp.phase(), Phase::Stopped);
}
