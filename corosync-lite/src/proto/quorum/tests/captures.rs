//! Real rings: one core stands in for one of their nodes, and says what that node has said.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::super::{Output, Part, Quorum, Status};
use super::Setup;
use super::net::Net;
use crate::service::{RingId as ServiceRing, votequorum::Request};
use crate::wire::vectors::{Checker, Delivered, capture};
use crate::wire::votequorum::{Message, Parameter};
use crate::wire::{NodeId, RingId, exec, sync};

/// Barriers of a synchronisation, one per service.
const BARRIERS: usize = 4;

/// Everything in a capture that was delivered to services.
fn delivered(name: &str) -> Vec<(u32, Delivered)> {
    let mut checker = Checker::default();
    for datagram in capture(&format!("{name}.pcap.gz")) {
        if name.starts_with("knet") {
            checker.knet(&datagram.payload);
        } else {
            checker.srp(&datagram.payload);
        }
    }
    checker.delivered
}

fn votes(name: &str) -> Vec<(u32, Message)> {
    let votes = delivered(name).into_iter();
    let votes = votes.filter_map(|(sender, message)| match message {
        Delivered::Executive(exec::Message::Votequorum(message)) => Some((sender, message)),
        _ => None,
    });
    votes.collect()
}

/// A core among the messages of real nodes.
struct StandIn {
    us: u32,
    core: Quorum,
    now: std::time::Instant,
    /// What it would have sent.
    own: VecDeque<Message>,
    /// Who has announced which ring, in the whole capture.
    rings: BTreeMap<RingId, BTreeSet<u32>>,
    ring: RingId,
    before: BTreeSet<u32>,
    barriers: BTreeMap<u32, usize>,
    compared: usize,
}

impl StandIn {
    /// `us` of a net in the state of the time before the capture.
    fn new(mut net: Net, us: u32, all: &[(u32, Delivered)]) -> Self {
        let mut rings: BTreeMap<RingId, BTreeSet<u32>> = BTreeMap::new();
        for (sender, message) in all {
            if let Delivered::Sync(sync::Message::Build { ring, .. }) = message {
                rings.entry(*ring).or_default().insert(*sender);
            }
        }
        let before = net.group(us).into_iter().collect();
        Self {
            us,
            now: net.now,
            core: net.peers.remove(&us).expect("a running node").core,
            own: VecDeque::new(),
            rings,
            ring: RingId::default(),
            before,
            barriers: BTreeMap::new(),
            compared: 0,
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.core.poll_output() {
            if let Output::Mcast { message, .. } = output {
                self.own.push_back(message);
            }
        }
    }

    fn take(&mut self, sender: u32, message: Delivered) {
        match message {
            Delivered::Sync(sync::Message::Build { ring, .. }) if ring != self.ring => {
                let members = self.rings[&ring].clone();
                if members.contains(&self.us) {
                    self.install(ring, members);
                }
            }
            Delivered::Sync(sync::Message::Barrier { ring }) if ring == self.ring => {
                *self.barriers.entry(sender).or_default() += 1;
                let all = self.barriers.len() == self.before.len();
                if all && self.barriers.values().all(|count| *count == BARRIERS) {
                    assert!(!self.core.sync_is_held());
                    self.core.sync_activate(Part::Votequorum);
                }
            }
            Delivered::Executive(exec::Message::Votequorum(message)) => {
                if !self.before.contains(&sender) {
                    return;
                }
                if sender == self.us {
                    self.drain();
                    assert_eq!(self.own.pop_front().as_ref(), Some(&message));
                    self.compared += 1;
                }
                self.core.handle_message(NodeId(sender), message);
            }
            _ => {}
        }
        self.drain();
    }

    fn install(&mut self, ring: RingId, members: BTreeSet<u32>) {
        let stayed = members.intersection(&self.before).copied();
        let stayed: Vec<NodeId> = stayed.map(NodeId).collect();
        let listed: Vec<NodeId> = members.iter().copied().map(NodeId).collect();
        (self.ring, self.before) = (ring, members);
        self.barriers.clear();
        self.core.sync_init(self.now, &listed, &stayed, ring);
        self.core.sync_process(Part::Quorum);
        self.core.sync_activate(Part::Quorum);
        self.core.sync_process(Part::Votequorum);
        self.drain();
    }
}

/// Replays a capture at node `us`, that was in `group` before; checks what it sends, and how many
/// messages that were.
///
/// Without a `group` the capture begins with its start. The original introduces itself then, before
/// its first synchronisation does the same; the core leaves that out.
fn replay(name: &str, us: u32, group: &[u32], sent: usize) -> Status {
    let mut net = Net::up(Setup::new(3, &[]));
    if !group.is_empty() {
        net.form(group);
    }
    let all = delivered(name);
    let mut stand_in = StandIn::new(net, us, &all);
    for (sender, message) in all {
        stand_in.take(sender, message);
    }
    assert!(stand_in.own.is_empty(), "{:?}", stand_in.own);
    assert_eq!(stand_in.compared, sent, "{name} {us}");
    stand_in.core.status()
}

#[test]
fn a_node_says_in_synchronisation_what_the_original_says() {
    let cases: &[(&str, u32, &[u32], usize)] = &[
        ("knet-form", 1, &[1], 4),
        ("knet-form", 2, &[2], 4),
        ("knet-form", 3, &[3], 2),
        ("knet-partition-merge", 1, &[1, 2, 3], 4),
        ("knet-partition-merge", 2, &[1, 2, 3], 4),
        ("knet-partition-merge", 3, &[3], 2),
        ("udpu-form", 1, &[], 6),
        ("udpu-form", 3, &[], 4),
    ];
    for (name, us, group, sent) in cases {
        let status = replay(name, *us, group, *sent);
        assert!(status.quorate, "{name} {us}");
        let votes = (status.votes, status.expected, status.quorum);
        assert_eq!(votes, (3, 3, 2), "{name} {us}");
    }
    for (name, us) in [("knet-leave", 1), ("knet-leave", 3), ("knet-death", 1)] {
        let status = replay(name, us, &[1, 2, 3], 2);
        assert!(status.quorate, "{name} {us}");
        assert_eq!((status.votes, status.expected, status.quorum), (2, 3, 2));
    }
}

#[test]
fn orders_have_the_effect_that_they_had() {
    let mut net = Net::together(Setup::new(3, &[]));
    let mut seen = Vec::new();
    for (sender, message) in votes("knet-votequorum") {
        let peer = net.peer(3);
        peer.core.handle_message(NodeId(sender), message);
        peer.drain();
        let status = net.status(3);
        assert!(status.quorate);
        seen.push((status.votes, status.expected, status.quorum));
    }
    let expected = [
        (3, 4, 3),
        (3, 3, 2),
        (4, 4, 3),
        (3, 4, 3),
        (3, 4, 3),
        (3, 4, 3),
        (3, 3, 2),
        (3, 3, 2),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn clients_cause_the_orders_that_they_caused() {
    let mut net = Net::together(Setup::new(3, &[]));
    net.sent.clear();
    for votes in [4, 3] {
        net.call(1, Request::SetExpected { votes });
    }
    for votes in [2, 1] {
        net.call(2, Request::SetVotes { nodeid: 2, votes });
    }
    net.peer(1).core.cancel_wait_for_all();
    net.peer(1).drain();
    net.run(&[1, 2, 3]);
    let mut captured = votes("knet-votequorum");
    // The original reads its configuration again when it resets the key that cancels.
    captured.drain(4..7);
    let cancel = Message::Reconfigure {
        node: NodeId(1),
        value: 0,
        parameter: Parameter::CancelWaitForAll,
    };
    assert_eq!(captured.last(), Some(&(1, cancel)));
    assert_eq!(net.sent, captured);
}

#[test]
fn a_device_causes_what_it_caused() {
    let device = "device {\nmodel: net\nvotes: 1\n}";
    let mut net = Net::together(Setup::new(3, &[device]));
    net.sent.clear();
    let name = "Qtest".to_owned();
    net.call(2, Request::DeviceRegister { name: name.clone() });
    let ring = net.peer(2).said.as_ref().expect("an announcement").2;
    let poll = Request::DevicePoll {
        name: name.clone(),
        cast_vote: true,
        ring: ServiceRing {
            nodeid: ring.rep.0,
            seq: ring.seq,
        },
    };
    net.call(2, poll);
    let allow = true;
    let blessing = Request::DeviceMasterWins {
        name: name.clone(),
        allow,
    };
    net.call(2, blessing);
    let new = "Qnew".to_owned();
    let rename = Request::DeviceUpdate {
        old: name,
        new: new.clone(),
    };
    net.call(2, rename);
    net.call(2, Request::DeviceUnregister { name: new });
    assert_eq!(net.sent, votes("knet-qdevice"));
}
