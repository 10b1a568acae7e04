//! Nodes, the configurations that they go through, and the order of messages in each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::super::*;
use super::watch::{WHOLE, Watch, payload};

const NODES: u32 = 4;

/// Something in the order of a configuration.
#[derive(Clone, Debug)]
enum Body {
    Message(Message),
    /// The sender has sent all of its exchange.
    Barrier,
}

#[derive(Debug, Default)]
struct Ring {
    members: Vec<u32>,
    log: Vec<(u32, Body)>,
}

#[derive(Debug)]
struct Node {
    cpg: Cpg,
    ordinary: VecDeque<Message>,
    ring: usize,
    /// What was delivered of its log.
    at: usize,
    in_sync: bool,
    barriers: BTreeSet<u32>,
    /// Configurations since the last exchange that was completed, that one included.
    path: Vec<usize>,
}

/// Where events come from: all with the same place have to be the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// A message of a configuration.
    Log(usize, usize),
    /// A message of a configuration that only these nodes are still in.
    Recovered(usize, usize, Vec<u32>),
    /// The end of the exchange of the last of these configurations.
    Exchange(Vec<usize>),
}

#[derive(Debug, Default)]
pub(super) struct World {
    nodes: BTreeMap<u32, Node>,
    rings: Vec<Ring>,
    clients: BTreeMap<ClientId, Watch>,
    seen: BTreeMap<(Place, Group), Vec<Event>>,
    /// Whether members got the message of a place.
    got: BTreeMap<Place, bool>,
    /// The table at the end of an exchange.
    tables: BTreeMap<usize, Vec<(Group, NodeId, u32)>>,
    /// Path of a member when it entered a configuration.
    paths: BTreeMap<(usize, u32), Vec<usize>>,
    next_client: u64,
    next_message: u32,
}

impl World {
    pub(super) fn new() -> Self {
        let mut world = Self::default();
        for id in 1..=NODES {
            world.start(id);
        }
        world
    }

    /// A node comes up, alone.
    fn start(&mut self, id: u32) {
        let node = Node {
            cpg: Cpg::new(NodeId(id)),
            ordinary: VecDeque::new(),
            ring: self.rings.len(),
            at: 0,
            in_sync: false,
            barriers: BTreeSet::new(),
            path: Vec::new(),
        };
        self.rings.push(Ring::default());
        self.nodes.insert(id, node);
        self.enter(&[id], &BTreeMap::from([(id, vec![id])]));
        self.deliver_to(id, usize::MAX);
    }

    /// A regular configuration, with those that each member has come with.
    fn enter(&mut self, members: &[u32], together: &BTreeMap<u32, Vec<u32>>) {
        let ring = self.rings.len();
        let seq = u64::try_from(ring).unwrap();
        let ids = |list: &[u32]| list.iter().copied().map(NodeId).collect::<Vec<_>>();
        self.rings.push(Ring {
            members: members.to_vec(),
            log: Vec::new(),
        });
        for id in members {
            let node = self.nodes.get_mut(id).unwrap();
            (node.ring, node.at, node.in_sync) = (ring, 0, true);
            node.barriers.clear();
            node.path.push(ring);
            self.paths.insert((ring, *id), node.path.clone());
            let rep = NodeId(members[0]);
            node.cpg
                .sync_init(&ids(members), &ids(&together[id]), RingId { rep, seq });
            node.cpg.sync_process();
            self.drain(*id, None);
            self.rings[ring].log.push((*id, Body::Barrier));
        }
    }

    /// Carries out what a node wants done.
    fn drain(&mut self, id: u32, place: Option<&Place>) -> Vec<Response> {
        let node = self.nodes.get_mut(&id).unwrap();
        let mut responses = Vec::new();
        let mut seen: BTreeMap<ClientId, Vec<Event>> = BTreeMap::new();
        while let Some(output) = node.cpg.poll_output() {
            match output {
                Output::Mcast { lane, message } => match lane {
                    Lane::Ordinary => node.ordinary.push_back(message),
                    Lane::Sync => {
                        let log = &mut self.rings[node.ring].log;
                        log.push((id, Body::Message(message)));
                    }
                },
                Output::Respond(_, response) => responses.push(response),
                Output::Event(client, event) => {
                    let watch = self.clients.get_mut(&client).expect("it is there");
                    assert_eq!(watch.node, id);
                    watch.see(&event);
                    if !matches!(event, Event::TotemConfchg { .. }) {
                        seen.entry(client).or_default().push(event);
                    }
                }
                Output::Log(Log::StrayPart { .. }) => (),
                Output::Log(log) => {
                    assert!(matches!(place, Some(Place::Recovered(..))), "{log:?}");
                }
            }
        }
        for (client, events) in seen {
            let place = place.expect("requests cause no events").clone();
            let key = (place, self.clients[&client].group.clone());
            // Who joins in the middle sees the end of a message in parts as little as its start.
            let parts = events
                .iter()
                .any(|event| matches!(event, Event::PartialDeliver { .. }));
            let known = self.seen.entry(key).or_insert_with(|| events.clone());
            assert!(parts || *known == events, "{known:?}\n{events:?}");
        }
        responses
    }

    fn deliver_to(&mut self, id: u32, count: usize) {
        for _ in 0..count {
            let node = &self.nodes[&id];
            let (ring, at) = (node.ring, node.at);
            let Some((sender, body)) = self.rings[ring].log.get(at).cloned() else {
                return;
            };
            self.nodes.get_mut(&id).unwrap().at += 1;
            self.deliver_one(id, sender, body, Place::Log(ring, at));
        }
    }

    fn deliver_one(&mut self, id: u32, sender: u32, body: Body, place: Place) {
        let node = self.nodes.get_mut(&id).unwrap();
        match body {
            Body::Message(message) => {
                let group = match &message {
                    Message::Mcast(mcast) => Some(Group::new(&mcast.group).unwrap()),
                    _ => None,
                };
                let (before, members) = self.counts(id, group.as_ref());
                let node = self.nodes.get_mut(&id).unwrap();
                node.cpg.handle_message(NodeId(sender), message);
                self.drain(id, Some(&place));
                let (after, _) = self.counts(id, group.as_ref());
                let got = after - before;
                assert!(got == members || got == 0, "each member gets it once");
                if members > 0 {
                    self.check_got(id, sender, place, got > 0);
                }
            }
            Body::Barrier => {
                node.barriers.insert(sender);
                if node.in_sync && node.barriers.len() == self.rings[node.ring].members.len() {
                    self.activate(id);
                }
            }
        }
    }

    /// All agree whether a message is delivered; what was sent in a configuration always is, unless
    /// it is recovered by those who had not completed its exchange.
    fn check_got(&mut self, id: u32, sender: u32, place: Place, got: bool) {
        let (Place::Log(ring, _) | Place::Recovered(ring, ..)) = place else {
            panic!("not the place of a message");
        };
        let complete = self.nodes[&id].path == [ring];
        let same_way = self.paths[&(ring, id)] == self.paths[&(ring, sender)];
        assert!(got || !complete);
        assert!(!got || complete || same_way);
        assert_eq!(*self.got.entry(place).or_insert(got), got);
    }

    /// Messages that the local members of a group have got, and how many members that are.
    fn counts(&self, id: u32, group: Option<&Group>) -> (usize, usize) {
        let watches = self.clients.values().filter(|watch| {
            watch.node == id && Some(&watch.group) == group && watch.view.is_some()
        });
        watches.fold((0, 0), |(messages, members), watch| {
            (messages + watch.delivered, members + 1)
        })
    }

    fn activate(&mut self, id: u32) {
        let before = self.table(id);
        let node = self.nodes.get_mut(&id).unwrap();
        node.cpg.sync_activate();
        node.in_sync = false;
        let ring = node.ring;
        let place = Place::Exchange(std::mem::replace(&mut node.path, vec![ring]));
        let table = self.table(id);
        assert_eq!(self.tables.entry(ring).or_insert(table.clone()), &table);
        self.drain(id, Some(&place));
        self.check_gone(id, ring, &place, before);
    }

    fn table(&self, id: u32) -> Vec<(Group, NodeId, u32)> {
        let processes = self.nodes[&id].cpg.processes();
        processes
            .map(|(group, node, pid)| (group.clone(), node, pid))
            .collect()
    }

    /// Members of a group were told as gone exactly if their nodes went another way.
    fn check_gone(&self, id: u32, ring: usize, place: &Place, before: Vec<(Group, NodeId, u32)>) {
        let path = &self.paths[&(ring, id)];
        let mut gone: BTreeMap<Group, BTreeSet<(u32, u32)>> = BTreeMap::new();
        for (group, node, pid) in before {
            if self.paths.get(&(ring, node.0)) != Some(path) {
                gone.entry(group).or_default().insert((node.0, pid));
            }
        }
        let watches = self.clients.values();
        for watch in watches.filter(|watch| watch.node == id && watch.view.is_some()) {
            let events = self.seen.get(&(place.clone(), watch.group.clone()));
            let left = events.into_iter().flatten().flat_map(|event| match event {
                Event::Confchg { left, .. } => left.as_slice(),
                _ => &[],
            });
            let down = left.filter(|one| one.reason == Reason::NodeDown);
            let down: BTreeSet<_> = down.map(|one| (one.nodeid, one.pid)).collect();
            assert_eq!(down, gone.get(&watch.group).cloned().unwrap_or_default());
        }
    }

    fn node(&self, number: u8) -> Option<u32> {
        let ids: Vec<u32> = self.nodes.keys().copied().collect();
        (!ids.is_empty()).then(|| ids[usize::from(number) % ids.len()])
    }

    fn client(&self, number: u8) -> Option<ClientId> {
        let ids: Vec<ClientId> = self.clients.keys().copied().collect();
        (!ids.is_empty()).then(|| ids[usize::from(number) % ids.len()])
    }

    /// Asks a node that takes requests, which it does not do in an exchange.
    fn ask(&mut self, client: ClientId, request: Request) -> Option<Vec<Response>> {
        let id = self.clients[&client].node;
        let node = self.nodes.get_mut(&id)?;
        if node.in_sync {
            return None;
        }
        node.cpg.handle_request(client, request);
        Some(self.drain(id, None))
    }

    pub(super) fn join(&mut self, node: u8, name: u8, pid: u8) {
        let Some(id) = self.node(node) else {
            return;
        };
        let group = group(["g", "h"][usize::from(name % 2)]);
        let pid = u32::from(pid % 3);
        self.next_client += 1;
        let client = ClientId(self.next_client);
        let node = self.nodes.get_mut(&id).unwrap();
        node.cpg.client_connected(client);
        self.clients
            .insert(client, Watch::new(id, pid, group.clone()));
        self.ask_to_join(client, group);
    }

    fn ask_to_join(&mut self, client: ClientId, group: Group) {
        let pid = self.clients[&client].pid;
        let request = Request::Join {
            group: group.clone(),
            pid,
            flags: 1,
        };
        let responses = self.ask(client, request);
        let joining = responses.is_some_and(|got| got == [Response::Join(Status::OK)]);
        let watch = self.clients.get_mut(&client).unwrap();
        watch.wants = joining;
        if joining {
            watch.group = group;
        }
    }

    pub(super) fn join_again(&mut self, client: u8, name: u8) {
        let Some(client) = self.client(client) else {
            return;
        };
        let watch = &self.clients[&client];
        if !watch.wants && watch.view.is_none() {
            self.ask_to_join(client, group(["g", "h"][usize::from(name % 2)]));
        }
    }

    pub(super) fn leave(&mut self, client: u8) {
        let Some(client) = self.client(client) else {
            return;
        };
        let watch = &self.clients[&client];
        let (group, pid) = (watch.group.clone(), watch.pid);
        let responses = self.ask(client, Request::Leave { group, pid });
        if responses.is_some_and(|got| got == [Response::Leave(Status::OK)]) {
            let watch = self.clients.get_mut(&client).unwrap();
            (watch.wants, watch.sending) = (false, None);
        }
    }

    pub(super) fn close(&mut self, client: u8) {
        let Some(client) = self.client(client) else {
            return;
        };
        let watch = self.clients.remove(&client).unwrap();
        let node = self.nodes.get_mut(&watch.node).unwrap();
        node.cpg.client_gone(client);
        self.drain(watch.node, None);
    }

    pub(super) fn mcast(&mut self, client: u8) {
        let Some(client) = self.client(client) else {
            return;
        };
        self.next_message += 1;
        let id = self.next_message;
        let (guarantee, data) = (2, payload(id));
        if self
            .ask(client, Request::Mcast { guarantee, data })
            .is_some()
        {
            let watch = self.clients.get_mut(&client).unwrap();
            watch.sent.extend(watch.wants.then_some(id));
        }
    }

    pub(super) fn part(&mut self, client: u8) {
        let Some(client) = self.client(client) else {
            return;
        };
        let (id, out) = self.clients[&client].sending.unwrap_or_else(|| {
            self.next_message += 1;
            (self.next_message, 0)
        });
        let request = Request::PartialMcast {
            guarantee: 2,
            length: WHOLE,
            part: [Part::First, Part::Middle, Part::Last][usize::try_from(out).unwrap()],
            data: payload(id),
        };
        let Some(responses) = self.ask(client, request) else {
            return;
        };
        let watch = self.clients.get_mut(&client).unwrap();
        watch.sending = match responses[..] {
            [Response::PartialMcast(Status::OK)] if out == 2 => {
                watch.sent.push(id);
                None
            }
            [Response::PartialMcast(Status::OK)] => Some((id, out + 1)),
            [Response::PartialMcast(Status::INTERRUPT)] => None,
            [Response::PartialMcast(Status::NOT_EXIST)] => {
                assert!(!watch.wants);
                None
            }
            _ => panic!("{responses:?}"),
        };
    }

    pub(super) fn send(&mut self, node: u8, count: u8) {
        let Some(id) = self.node(node) else {
            return;
        };
        let node = self.nodes.get_mut(&id).unwrap();
        if node.in_sync {
            return;
        }
        let count = usize::from(count).min(node.ordinary.len());
        for message in node.ordinary.drain(..count) {
            self.rings[node.ring].log.push((id, Body::Message(message)));
        }
    }

    pub(super) fn deliver(&mut self, node: u8, count: u8) {
        if let Some(id) = self.node(node) {
            self.deliver_to(id, usize::from(count));
        }
    }

    pub(super) fn configure(&mut self, places: [u8; 4], crash: u8, last: u8) {
        let crashed = u32::from(crash % 16);
        if self.nodes.remove(&crashed).is_some() {
            self.clients.retain(|_, watch| watch.node != crashed);
        } else if let Some(down) = (1..=NODES).find(|id| !self.nodes.contains_key(id)) {
            self.start(down);
        }
        let mut together: BTreeMap<(usize, u8), Vec<u32>> = BTreeMap::new();
        let mut components: BTreeMap<u8, Vec<u32>> = BTreeMap::new();
        for (id, node) in &self.nodes {
            let place = places[usize::try_from(id - 1).unwrap()] % 3;
            together.entry((node.ring, place)).or_default().push(*id);
            components.entry(place).or_default().push(*id);
        }
        for ids in together.values() {
            self.recover(ids, last);
        }
        let came_with: BTreeMap<u32, Vec<u32>> = together
            .into_values()
            .flat_map(|ids| ids.clone().into_iter().map(move |id| (id, ids.clone())))
            .collect();
        for members in components.values() {
            self.enter(members, &came_with);
        }
    }

    /// Those who leave a configuration together deliver the same of it: all that one of them has
    /// delivered, what comes then up to a gap that `last` tells, and behind it what they have sent
    /// themselves.
    fn recover(&mut self, ids: &[u32], last: u8) {
        let ring = self.nodes[&ids[0]].ring;
        let common = ids.iter().map(|id| self.nodes[id].at).max().unwrap_or(0);
        let log = self.rings[ring].log.clone();
        for id in ids {
            let node = self.nodes.get_mut(id).unwrap();
            if node.at < common {
                self.deliver_to(*id, common - self.nodes[id].at);
            }
            let node = self.nodes.get_mut(id).unwrap();
            if node.in_sync {
                node.cpg.sync_abort();
                node.in_sync = false;
            }
            // The rest of an exchange may come when it is broken off already.
            for (at, (sender, body)) in log.iter().enumerate().skip(common) {
                let kept = at < common + usize::from(last % 32);
                if ids.contains(sender) || kept {
                    let place = Place::Recovered(ring, at, ids.to_vec());
                    self.deliver_one(*id, *sender, body.clone(), place);
                }
            }
        }
    }

    /// All nodes come back and together, and everything that is under way arrives.
    pub(super) fn heal(&mut self) {
        while (1..=NODES).any(|id| !self.nodes.contains_key(&id)) {
            self.configure([0; 4], 15, 255);
        }
        self.configure([0; 4], 15, 255);
        for _ in 0..3 {
            for number in 0..4 {
                self.deliver(number, u8::MAX);
                self.deliver(number, u8::MAX);
            }
            for number in 0..4 {
                self.send(number, u8::MAX);
            }
        }
        for node in self.nodes.values() {
            assert!(!node.in_sync && node.ordinary.is_empty());
            assert_eq!(node.at, self.rings[node.ring].log.len());
        }
        let mut processes = BTreeSet::new();
        for watch in self.clients.values() {
            assert_eq!(watch.sent, watch.came_back, "{watch:?}");
            assert_eq!(watch.wants, watch.view.is_some());
            if watch.wants {
                processes.insert((watch.group.clone(), NodeId(watch.node), watch.pid));
            }
        }
        for node in self.nodes.values() {
            let table = node.cpg.processes();
            let table: BTreeSet<_> = table
                .map(|(group, id, pid)| (group.clone(), id, pid))
                .collect();
            assert_eq!(table, processes);
        }
    }

    /// How many messages have reached how many clients.
    pub(super) fn messages_delivered(&self) -> usize {
        self.clients.values().map(|watch| watch.delivered).sum()
    }
}
