//! Several cores over a total order in memory: partitions, merges, restarts, aborted
//! synchronisations.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::{Log, Output, Part, Quorum, Status};
use super::Setup;
use crate::proto::srp::Lane;
use crate::service::{ClientId, quorum, votequorum};
use crate::wire::exec;
use crate::wire::votequorum::Message;
use crate::wire::{NodeId, RingId};

/// One node with what came out of its core.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) core: Quorum,
    /// Last announcement.
    pub(super) said: Option<(bool, Vec<NodeId>, RingId)>,
    pub(super) announcements: usize,
    pub(super) logs: Vec<Log>,
    pub(super) quorum_responses: Vec<quorum::Response>,
    pub(super) responses: Vec<votequorum::Response>,
    pub(super) quorum_events: Vec<(ClientId, quorum::Event)>,
    pub(super) events: Vec<(ClientId, votequorum::Event)>,
    pub(super) keys: BTreeMap<&'static str, crate::service::cmap::Raw>,
    pub(super) tracked: u32,
    ordinary: VecDeque<Message>,
    sync: VecDeque<Message>,
    ring: RingId,
    members: BTreeSet<u32>,
}

impl Peer {
    fn new(id: u32, setup: &Setup, tracked: u32) -> Self {
        let core = Quorum::new(NodeId(id), &setup.config(id), tracked).expect("good options");
        let mut peer = Self {
            core,
            said: None,
            announcements: 0,
            logs: Vec::new(),
            quorum_responses: Vec::new(),
            responses: Vec::new(),
            quorum_events: Vec::new(),
            events: Vec::new(),
            keys: BTreeMap::new(),
            tracked,
            ordinary: VecDeque::new(),
            sync: VecDeque::new(),
            ring: RingId::default(),
            members: BTreeSet::new(),
        };
        peer.drain();
        peer
    }

    pub(super) fn drain(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Mcast {
                    lane: Lane::Ordinary,
                    message,
                } => self.ordinary.push_back(message),
                Output::Mcast { message, .. } => self.sync.push_back(message),
                Output::RespondQuorum(_, response) => self.quorum_responses.push(response),
                Output::RespondVotequorum(_, response) => self.responses.push(response),
                Output::EventQuorum(client, event) => self.quorum_events.push((client, event)),
                Output::EventVotequorum(client, event) => self.events.push((client, event)),
                Output::Quorate {
                    quorate,
                    members,
                    ring,
                } => {
                    self.said = Some((quorate, members, ring));
                    self.announcements += 1;
                }
                Output::Track(votes) => {
                    assert!(votes > self.tracked);
                    self.tracked = votes;
                }
                Output::Key(key, value) => {
                    let before = self.keys.insert(key, value.clone());
                    assert_ne!(before, Some(value));
                }
                Output::Log(log) => self.logs.push(log),
            }
        }
    }
}

/// All nodes, those that are down left out.
#[derive(Debug)]
pub(super) struct Net {
    pub(super) setup: Setup,
    pub(super) peers: BTreeMap<u32, Peer>,
    pub(super) now: Instant,
    /// Ordinary messages with their senders, in their order.
    pub(super) sent: Vec<(u32, Message)>,
    tracked: BTreeMap<u32, u32>,
    next_ring: u64,
    chance: u64,
}

impl Net {
    /// No node is up.
    pub(super) fn new(setup: Setup) -> Self {
        let seed = u64::try_from(setup.votes.len()).unwrap();
        Self {
            setup,
            peers: BTreeMap::new(),
            now: start(),
            sent: Vec::new(),
            tracked: BTreeMap::new(),
            next_ring: 5,
            chance: seed,
        }
    }

    /// All nodes are up, each alone so far.
    pub(super) fn up(setup: Setup) -> Self {
        let nodes = u32::try_from(setup.votes.len()).unwrap();
        let mut net = Self::new(setup);
        (1..=nodes).for_each(|id| net.start(id));
        net
    }

    /// All nodes are up and together.
    pub(super) fn together(setup: Setup) -> Self {
        let mut net = Self::up(setup);
        let all: Vec<u32> = net.peers.keys().copied().collect();
        net.form(&all);
        net
    }

    pub(super) fn seed(&mut self, seed: u64) {
        self.chance = seed;
    }

    /// Some number below `below`.
    pub(super) fn pick(&mut self, below: usize) -> usize {
        self.chance = self
            .chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.chance >> 33).unwrap() % below
    }

    pub(super) fn start(&mut self, id: u32) {
        let tracked = self.tracked.get(&id).copied().unwrap_or(0);
        self.peers.insert(id, Peer::new(id, &self.setup, tracked));
    }

    /// The node dies at once.
    pub(super) fn kill(&mut self, id: u32) {
        let peer = self.peers.remove(&id).expect("a running node");
        self.tracked.insert(id, peer.tracked);
    }

    pub(super) fn peer(&mut self, id: u32) -> &mut Peer {
        self.peers.get_mut(&id).expect("a running node")
    }

    pub(super) fn status(&self, id: u32) -> Status {
        self.peers[&id].core.status()
    }

    /// What was announced.
    pub(super) fn quorate(&self, id: u32) -> bool {
        self.peers[&id]
            .said
            .as_ref()
            .is_some_and(|(quorate, _, _)| *quorate)
    }

    /// Nodes that are together with this one.
    pub(super) fn group(&self, id: u32) -> Vec<u32> {
        self.peers[&id].members.iter().copied().collect()
    }

    /// A whole synchronisation of these nodes.
    pub(super) fn form(&mut self, ids: &[u32]) {
        self.begin(ids);
        self.process(ids);
        while self.deliver_one(ids, Lane::Sync) {}
        let held: Vec<u32> = self.held(ids);
        assert!(held.is_empty(), "{held:?} wait for a device");
        self.activate(ids);
        self.run(ids);
    }

    pub(super) fn held(&self, ids: &[u32]) -> Vec<u32> {
        let held = |id: &&u32| self.peers[*id].core.sync_is_held();
        ids.iter().filter(held).copied().collect()
    }

    /// Installs a configuration, as far as the first step of the synchronisation.
    pub(super) fn begin(&mut self, ids: &[u32]) {
        let members: Vec<NodeId> = ids.iter().copied().map(NodeId).collect();
        let ring = RingId {
            rep: members[0],
            seq: self.next_ring,
        };
        self.next_ring += 4;
        let rings: BTreeMap<u32, RingId> =
            ids.iter().map(|id| (*id, self.peers[id].ring)).collect();
        for id in ids {
            let came = rings.iter().filter(|(_, from)| **from == rings[id]);
            let transitional: Vec<NodeId> = came
                .map(|(other, _)| NodeId(*other))
                .filter(|other| rings[id] != RingId::default() || other.0 == *id)
                .collect();
            let now = self.now;
            let peer = self.peer(*id);
            // What was not sent within the old synchronisation never will be.
            peer.sync.clear();
            peer.ring = ring;
            peer.members = ids.iter().copied().collect();
            peer.core.sync_init(now, &members, &transitional, ring);
            peer.drain();
        }
        // The others go on without these, whether they have noticed yet or not.
        for (id, peer) in &mut self.peers {
            if !ids.contains(id) {
                peer.members.retain(|member| !ids.contains(member));
            }
        }
    }

    pub(super) fn process(&mut self, ids: &[u32]) {
        for id in ids {
            let peer = self.peer(*id);
            peer.core.sync_process(Part::Quorum);
            peer.core.sync_activate(Part::Quorum);
            peer.core.sync_process(Part::Votequorum);
            peer.drain();
        }
    }

    pub(super) fn activate(&mut self, ids: &[u32]) {
        for id in ids {
            let peer = self.peer(*id);
            peer.core.sync_activate(Part::Votequorum);
            peer.drain();
        }
    }

    /// The node has the say next; its message goes to all.
    pub(super) fn deliver_one(&mut self, ids: &[u32], lane: Lane) -> bool {
        let queue = |peer: &mut Peer| match lane {
            Lane::Sync => peer.sync.pop_front(),
            Lane::Ordinary => peer.ordinary.pop_front(),
        };
        let first = self.pick(ids.len());
        for offset in 0..ids.len() {
            let sender = ids[(first + offset) % ids.len()];
            if let Some(message) = queue(self.peer(sender)) {
                let message = over_the_wire(message);
                if lane == Lane::Ordinary {
                    self.sent.push((sender, message.clone()));
                }
                for id in ids {
                    let peer = self.peer(*id);
                    peer.core.handle_message(NodeId(sender), message.clone());
                    peer.drain();
                }
                return true;
            }
        }
        false
    }

    /// Delivers everything among these nodes.
    pub(super) fn run(&mut self, ids: &[u32]) {
        while self.deliver_one(ids, Lane::Ordinary) {}
    }

    /// Time goes on.
    pub(super) fn sleep(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let next = self
                .peers
                .values()
                .filter_map(|peer| peer.core.poll_timeout());
            let Some(next) = next.min().filter(|next| *next <= until) else {
                break;
            };
            self.now = next.max(self.now);
            let now = self.now;
            for peer in self.peers.values_mut() {
                if peer.core.poll_timeout().is_some_and(|at| at <= now) {
                    peer.core.handle_timeout(now);
                    peer.drain();
                }
            }
            for group in self.groups() {
                self.run(&group);
            }
        }
        self.now = until;
    }

    /// All groups of nodes that are up.
    pub(super) fn groups(&self) -> Vec<Vec<u32>> {
        let groups: BTreeSet<Vec<u32>> = self.peers.keys().map(|id| self.group(*id)).collect();
        groups
            .into_iter()
            .filter(|group| !group.is_empty())
            .collect()
    }

    /// A call of a client of `votequorum`, with everything that follows from it.
    pub(super) fn call(&mut self, id: u32, request: votequorum::Request) -> votequorum::Response {
        let now = self.now;
        let peer = self.peer(id);
        let before = peer.responses.len();
        peer.core
            .handle_votequorum_request(now, ClientId(1), request);
        peer.drain();
        let group = self.group(id);
        self.run(&group);
        let responses = &self.peer(id).responses;
        assert_eq!(responses.len(), before + 1);
        responses[before].clone()
    }
}

#[expect(clippy::disallowed_methods, reason = "any start will do")]
fn start() -> Instant {
    Instant::now()
}

fn over_the_wire(message: Message) -> Message {
    let mut bytes = Vec::new();
    exec::Message::Votequorum(message).encode(&mut bytes);
    match exec::Message::decode(&Bytes::from(bytes)).expect("own message") {
        exec::Message::Votequorum(message) => message,
        other => panic!("{other:?}"),
    }
}
