//! Two whole nodes without keys, a hostile host between them, and clients of all services on one.
//!
//! Whatever happens, nothing panics, no storm begins, and answers can be sent. After it, two nodes
//! that start again with what was stored find each other; where nobody forged anything, those that
//! ran do, too.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use corosync_lite::config::{Config, Host, Reload};
use corosync_lite::proto::node::{
    Credentials, Node, Output, Request, SendFailure, Service, SocketId, Stored, Transmit,
};
use corosync_lite::service::ClientId;

use super::clock::Timed;
use super::input::{Fields, Shape, Step, join, steps};
use super::seeds;
use crate::wait::now;

/// Datagrams that may be sent without time going by; more is a storm.
const STORM: usize = 20_000;
/// Two nodes find each other within this time.
const FORMED: Duration = Duration::from_secs(12);
/// Datagrams that are kept for sending them again.
const RECORD_MAX: usize = 512;
const STEPS_MAX: usize = 200;
/// Of a step, in milliseconds.
const PASS_MAX: u16 = 4000;

pub(super) fn run(input: &[u8]) -> u64 {
    let mut pair = Pair::new();
    pair.pass(FORMED);
    pair.assert_ring("at the start");
    for step in steps(input).into_iter().take(STEPS_MAX) {
        pair.take(&step);
    }
    pair.is_cut = false;
    pair.pass(FORMED);
    if !pair.is_forged {
        pair.assert_ring("after the faults");
    }
    for id in [1, 2] {
        pair.boot(id);
    }
    pair.pass(FORMED);
    pair.assert_ring("after both started again");
    pair.outcome.finish()
}

/// Histories of everyday things, and all captured requests and datagrams.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let requests = seeds::local_messages(&[">", "*"])
        .into_iter()
        .map(|it| Step::new(3, it));
    let datagrams = seeds::datagrams().into_iter().map(|it| Step::new(0, it));
    let all: Vec<Step> = requests.chain(datagrams).collect();
    let mut seeds: Vec<_> = all.chunks(STEPS_MAX).map(join).collect();
    let everyday = [
        Step::new(2, 500_u16.to_le_bytes()),
        Step::new(4, [2]),
        Step::new(5, []),
        Step::new(2, 3000_u16.to_le_bytes()),
        Step::new(5, []),
        Step::new(6, [1]),
        Step::new(7, []),
        Step::new(2, 1000_u16.to_le_bytes()),
        Step::new(1, [3, 0]),
        Step::new(1, [9, 0, 20, 0, 1]),
    ];
    seeds.push(join(&everyday));
    seeds
}

/// Node 1 is under test, node 2 is its honest peer.
struct Pair {
    start: Instant,
    now: Instant,
    nodes: BTreeMap<u32, Node>,
    stored: BTreeMap<u32, Stored>,
    /// Client of each service on node 1.
    clients: BTreeMap<Service, ClientId>,
    next_client: u64,
    flying: VecDeque<(u32, SocketAddr, Bytes)>,
    record: Vec<Bytes>,
    last: Option<Transmit>,
    boots: u8,
    is_cut: bool,
    /// Somebody with the rights of a node, or of root, did what could stop the nodes.
    is_forged: bool,
    outcome: Shape,
}

impl Pair {
    fn new() -> Self {
        let now = now();
        let mut pair = Self {
            start: now,
            now,
            nodes: BTreeMap::new(),
            stored: BTreeMap::new(),
            clients: BTreeMap::new(),
            next_client: 1,
            flying: VecDeque::new(),
            record: Vec::new(),
            last: None,
            boots: 0,
            is_cut: false,
            is_forged: false,
            outcome: Shape::default(),
        };
        pair.boot(1);
        pair.boot(2);
        pair
    }

    fn boot(&mut self, id: u32) {
        self.boots = self.boots.wrapping_add(1);
        let clock = Duration::from_secs(1000) + self.now.duration_since(self.start);
        let stored = self.stored.get(&id).copied().unwrap_or_default();
        let seed = [self.boots; 32];
        let mut node =
            Node::new(&config(id), stored, seed, clock, self.now).expect("a good config");
        node.start(self.now);
        self.nodes.insert(id, node);
        if id == 1 {
            self.clients.clear();
        }
        self.settle();
    }

    fn node(&mut self, id: u32) -> &mut Node {
        self.nodes.get_mut(&id).expect("one of two")
    }

    fn take(&mut self, step: &Step) {
        let mut fields = Fields(&step.bytes);
        match step.op % 8 {
            0 => {
                self.is_forged = true;
                self.inject(Bytes::copy_from_slice(&step.bytes));
            }
            1 => {
                let at = fields.index(self.record.len());
                if let Some(old) = self.record.get(at) {
                    let mut datagram = old.to_vec();
                    fields.patch(&mut datagram);
                    self.is_forged = true;
                    self.inject(datagram.into());
                }
            }
            2 => self.pass(Duration::from_millis(fields.short().min(PASS_MAX).into())),
            3 => self.request(&step.bytes),
            4 => self.hang_up(Service::ALL[usize::from(fields.byte()) % Service::ALL.len()]),
            5 => self.is_cut = !self.is_cut,
            6 => self.fail_sending(fields.byte()),
            _ => self.boot(2),
        }
    }

    /// In the order of `seeds::SERVICES`.
    fn request(&mut self, bytes: &[u8]) {
        const SERVICES: [Service; 5] = [
            Service::Cfg,
            Service::Cmap,
            Service::Cpg,
            Service::Quorum,
            Service::Votequorum,
        ];
        let Some((first, message)) = bytes.split_first() else {
            return;
        };
        let service = SERVICES[usize::from(*first) % SERVICES.len()];
        let Ok(request) = Request::decode(service, &Bytes::copy_from_slice(message)) else {
            return;
        };
        // Root may end nodes, change timers and take votes away.
        self.is_forged |= service != Service::Cpg && service != Service::Quorum;
        let client = self.client(service);
        let now = self.now;
        self.node(1).handle_request(now, client, request);
        self.settle();
    }

    fn client(&mut self, service: Service) -> ClientId {
        if let Some(client) = self.clients.get(&service) {
            return *client;
        }
        let client = ClientId(self.next_client);
        self.next_client += 1;
        let who = Credentials {
            pid: 4000,
            uid: 0,
            gid: 0,
        };
        let now = self.now;
        let result = self.node(1).client_connected(now, client, service, who);
        self.outcome.note(&result);
        self.clients.insert(service, client);
        self.settle();
        client
    }

    fn hang_up(&mut self, service: Service) {
        if let Some(client) = self.clients.remove(&service) {
            let now = self.now;
            self.node(1).client_gone(now, client);
            self.settle();
        }
    }

    fn inject(&mut self, datagram: Bytes) {
        self.flying.push_back((1, address(2), datagram));
        self.settle();
    }

    fn fail_sending(&mut self, kind: u8) {
        let Some(sent) = self.last.clone() else {
            return;
        };
        let failure = match kind % 5 {
            0 => SendFailure::LinkUnusable,
            1 => SendFailure::Other,
            2 => SendFailure::Reported,
            3 => SendFailure::ReportedTooLarge,
            _ => SendFailure::TooLarge { mtu: Some(1400) },
        };
        let now = self.now;
        self.node(1).handle_send_failure(now, &sent, failure);
        self.settle();
    }

    /// Carries everything that is to be sent, until nothing is.
    fn settle(&mut self) {
        let mut carried = 0;
        loop {
            while let Some((id, output)) = self.next_output() {
                self.carry_out(id, output);
            }
            let Some((to, from, datagram)) = self.flying.pop_front() else {
                return;
            };
            carried += 1;
            assert!(carried < STORM, "two nodes send without an end");
            let now = self.now;
            self.node(to)
                .handle_datagram(now, SocketId::Link(0), from, &datagram);
        }
    }

    fn next_output(&mut self) -> Option<(u32, Output)> {
        self.nodes
            .iter_mut()
            .find_map(|(id, node)| Some((*id, node.poll_output()?)))
    }

    fn carry_out(&mut self, id: u32, output: Output) {
        let now = self.now;
        match output {
            Output::Transmit(sent) => {
                if id == 2 && self.record.len() < RECORD_MAX {
                    self.record.push(sent.datagram.clone());
                }
                if !self.is_cut {
                    self.flying
                        .push_back((3 - id, address(id), sent.datagram.clone()));
                }
                if id == 1 {
                    self.last = Some(sent);
                }
            }
            Output::PersistRing(seq) => self.stored.entry(id).or_default().ring_seq = seq,
            Output::PersistExpectedVotes(votes) => {
                self.stored.entry(id).or_default().expected_votes = Some(votes);
            }
            Output::Respond(_, response) => {
                self.outcome.note(&response.encode().status.0);
            }
            Output::Event(_, event) => {
                self.outcome.note(&event.encode().id);
            }
            Output::Reload => {
                let current = self.node(id).config().clone();
                let document = text().into_bytes();
                match Reload::of_file(&current, &document, [], &Machine(id)) {
                    Ok(reload) => self.node(id).reload(now, &reload),
                    Err(refusal) => self.node(id).reload_failed(now, &refusal),
                }
            }
            Output::Shutdown(reason) => {
                self.outcome.note(&reason);
                self.node(id).leave(now);
            }
            Output::FlowControl(service, flow) => self.outcome.note(&(service, flow)),
            Output::Log(log) => self.outcome.note(&log),
            Output::Sockets | Output::ReopenLogs => {}
        }
    }

    fn assert_ring(&self, when: &str) {
        let rings: Vec<_> = self.nodes.values().map(Node::ring).collect();
        for (id, node) in &self.nodes {
            let (members, phase) = (node.members(), node.phase());
            assert!(
                members.len() == 2 && node.is_synchronized() && node.is_quorate(),
                "{when}, node {id}: {members:?}, {phase:?}, {rings:?}"
            );
        }
        assert_eq!(rings[0], rings[1], "{when}");
    }
}

impl Timed for Pair {
    fn now(&mut self) -> &mut Instant {
        &mut self.now
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.nodes.values().filter_map(Node::poll_timeout).min()
    }

    fn handle_timeout(&mut self, now: Instant) {
        for node in self.nodes.values_mut() {
            node.handle_timeout(now);
        }
        self.settle();
    }
}

/// The machine of a node.
struct Machine(u32);

impl Host for Machine {
    fn name(&self) -> String {
        format!("n{}", self.0)
    }

    fn addresses(&self) -> Vec<IpAddr> {
        vec![address(self.0).ip()]
    }

    fn read_key(&self, _: &str) -> Result<Vec<u8>, String> {
        Err("there is no key".to_owned())
    }
}

fn text() -> String {
    let node = |id: u32| {
        let address = address(id).ip();
        format!("node {{\nnodeid: {id}\nname: n{id}\nring0_addr: {address}\n}}\n")
    };
    format!(
        "totem {{\nversion: 2\ncluster_name: fuzz\nconfig_version: 1\ntransport: knet\n}}\n\
         nodelist {{\n{}{}}}\nquorum {{\nprovider: corosync_votequorum\n}}\n",
        node(1),
        node(2)
    )
}

fn config(id: u32) -> Config {
    Config::read(text().as_bytes(), &Machine(id)).expect("a good config")
}

fn address(node: u32) -> SocketAddr {
    let node = u8::try_from(node).unwrap_or(u8::MAX);
    SocketAddr::from(([10, 0, 0, node], 5405))
}
