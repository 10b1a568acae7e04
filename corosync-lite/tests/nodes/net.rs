//! A network of nodes with one clock. Nothing happens by chance: one order of events.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use corosync_lite::config::{Config, Host};
use corosync_lite::proto::node::{
    ClientEvent, Credentials, Flow, Log, Node, Output, Request, Response, Service, ShutdownReason,
    SocketId, Stored, Transmit,
};
use corosync_lite::service::ClientId;
use corosync_lite::service::cpg::{self, Group};

pub const MS: Duration = Duration::from_millis(1);

/// How the nodes talk.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub transport: &'static str,
    pub links: u8,
    /// Lines of the section `totem`.
    pub totem: String,
    /// Lines of the section `quorum`.
    pub quorum: String,
    pub version: u64,
    pub nodes: Vec<u32>,
}

impl Cluster {
    pub fn knet(nodes: &[u32]) -> Self {
        Self {
            transport: "knet",
            links: 1,
            totem: "crypto_cipher: aes256\ncrypto_hash: sha256\nkeyfile: first\n".to_owned(),
            quorum: "provider: corosync_votequorum\n".to_owned(),
            version: 1,
            nodes: nodes.to_vec(),
        }
    }

    pub fn plain(transport: &'static str, nodes: &[u32]) -> Self {
        Self {
            transport,
            totem: String::new(),
            ..Self::knet(nodes)
        }
    }

    pub fn text(&self) -> String {
        let Self {
            transport,
            links,
            totem,
            quorum,
            version,
            nodes,
        } = self;
        let node = |id: &u32| {
            let addresses: String = (0..*links)
                .map(|link| format!("ring{link}_addr: {}\n", address(*id, link)))
                .collect();
            format!("node {{\nnodeid: {id}\nname: n{id}\n{addresses}}}\n")
        };
        let nodes: String = nodes.iter().map(node).collect();
        format!(
            "totem {{\nversion: 2\ncluster_name: test\nconfig_version: {version}\n\
             transport: {transport}\n{totem}}}\nnodelist {{\n{nodes}}}\nquorum {{\n{quorum}}}\n"
        )
    }

    pub fn config(&self, node: u32) -> Config {
        Config::read(self.text().as_bytes(), &Machine(node)).unwrap()
    }
}

/// The machine of a node.
pub struct Machine(pub u32);

impl Host for Machine {
    fn name(&self) -> String {
        format!("n{}", self.0)
    }

    fn addresses(&self) -> Vec<IpAddr> {
        (0..8).map(|link| address(self.0, link)).collect()
    }

    fn read_key(&self, path: &str) -> Result<Vec<u8>, String> {
        Ok(vec![u8::try_from(path.len()).unwrap(); 256])
    }
}

pub fn address(node: u32, link: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, link, u8::try_from(node).unwrap()))
}

/// What became of a node and its clients.
pub struct Member {
    pub node: Node,
    pub stored: Stored,
    pub responses: VecDeque<(ClientId, Response)>,
    pub events: BTreeMap<ClientId, Vec<ClientEvent>>,
    pub blocked: BTreeSet<Service>,
    pub logs: Vec<Log>,
    pub shutdown: Option<ShutdownReason>,
    pub reloads: usize,
    pub socket_changes: usize,
    next_client: u64,
}

struct Packet {
    from: SocketAddr,
    to: SocketAddr,
    datagram: Bytes,
}

pub struct Net {
    pub now: Instant,
    start: Instant,
    pub members: BTreeMap<u32, Member>,
    /// Pairs of nodes and links that nothing gets through between.
    cut: BTreeSet<(u32, u32, u8)>,
    flying: BTreeMap<(Instant, u64), Packet>,
    number: u64,
    pub delay: Duration,
    /// Every so many datagrams one is lost, if any.
    pub lose_every: Option<u64>,
    pub sent: u64,
    /// Every datagram sent, if wanted.
    pub record: Option<Vec<Bytes>>,
}

impl Net {
    #[expect(
        clippy::disallowed_methods,
        reason = "any point in time serves as the start of the virtual clock"
    )]
    pub fn new(cluster: &Cluster) -> Self {
        let now = Instant::now();
        let mut net = Self {
            now,
            start: now,
            members: BTreeMap::new(),
            cut: BTreeSet::new(),
            flying: BTreeMap::new(),
            number: 0,
            delay: Duration::from_micros(50),
            lose_every: None,
            sent: 0,
            record: None,
        };
        for node in &cluster.nodes {
            net.boot(cluster, *node, Stored::default());
        }
        net
    }

    /// A network on which all nodes have found each other.
    pub fn formed(cluster: &Cluster) -> Self {
        let mut net = Self::new(cluster);
        net.wait_for_ring(&cluster.nodes);
        net
    }

    pub fn boot(&mut self, cluster: &Cluster, id: u32, stored: Stored) {
        self.number += 1;
        let mut seed = [u8::try_from(id).unwrap(); 32];
        seed[..8].copy_from_slice(&self.number.to_le_bytes());
        let clock = Duration::from_secs(1000) + self.now.duration_since(self.start);
        let config = cluster.config(id);
        let mut node = Node::new(&config, stored, seed, clock, self.now).unwrap();
        node.start(self.now);
        let member = Member {
            node,
            stored,
            responses: VecDeque::new(),
            events: BTreeMap::new(),
            blocked: BTreeSet::new(),
            logs: Vec::new(),
            shutdown: None,
            reloads: 0,
            socket_changes: 0,
            next_client: 1,
        };
        self.members.insert(id, member);
        self.drain(id);
    }

    /// Stops a node without a word. What it has stored stays.
    pub fn kill(&mut self, id: u32) -> Stored {
        self.members.remove(&id).unwrap().stored
    }

    pub fn cut(&mut self, a: u32, b: u32) {
        for link in 0..8 {
            self.cut_link(a, b, link);
        }
    }

    pub fn cut_link(&mut self, a: u32, b: u32, link: u8) {
        self.cut.extend([(a, b, link), (b, a, link)]);
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// Nodes of different sides do not hear each other.
    pub fn partition(&mut self, sides: &[&[u32]]) {
        for (index, side) in sides.iter().enumerate() {
            for (a, b) in side.iter().flat_map(|a| {
                sides[index + 1..]
                    .concat()
                    .into_iter()
                    .map(move |b| (*a, b))
            }) {
                self.cut(a, b);
            }
        }
    }

    pub fn node(&self, id: u32) -> &Node {
        &self.members[&id].node
    }

    /// Something is done to a node, and what it puts out is carried out.
    pub fn with<T>(&mut self, id: u32, act: impl FnOnce(&mut Node, Instant) -> T) -> T {
        let now = self.now;
        let result = act(&mut self.members.get_mut(&id).unwrap().node, now);
        self.drain(id);
        result
    }

    fn drain(&mut self, id: u32) {
        loop {
            let Some(member) = self.members.get_mut(&id) else {
                return;
            };
            let Some(output) = member.node.poll_output() else {
                return;
            };
            match output {
                Output::Transmit(transmit) => self.transmit(id, &transmit),
                Output::PersistRing(seq) => member.stored.ring_seq = seq,
                Output::PersistExpectedVotes(votes) => member.stored.expected_votes = Some(votes),
                Output::Respond(client, response) => {
                    member.responses.push_back((client, response));
                }
                Output::Event(client, event) => {
                    member.events.entry(client).or_default().push(event);
                }
                Output::FlowControl(service, Flow::Blocked) => {
                    member.blocked.insert(service);
                }
                Output::FlowControl(service, Flow::Open) => {
                    member.blocked.remove(&service);
                }
                Output::Sockets => member.socket_changes += 1,
                Output::Reload => member.reloads += 1,
                Output::ReopenLogs => {}
                Output::Shutdown(reason) => member.shutdown = Some(reason),
                Output::Log(log) => member.logs.push(log),
            }
        }
    }

    fn transmit(&mut self, id: u32, transmit: &Transmit) {
        let sockets = self.members[&id].node.sockets();
        let socket = sockets.iter().find(|spec| spec.id == transmit.socket);
        let from = socket.expect("a socket that the node asked for").bind;
        let receivers: Vec<SocketAddr> = if transmit.to.ip().is_multicast() {
            let others = self.members.keys().filter(|other| **other != id);
            let port = transmit.to.port();
            others
                .map(|other| SocketAddr::new(address(*other, 0), port))
                .collect()
        } else {
            vec![transmit.to]
        };
        if let Some(record) = &mut self.record {
            record.push(transmit.datagram.clone());
        }
        for to in receivers {
            self.number += 1;
            self.sent += 1;
            if self
                .lose_every
                .is_some_and(|every| self.sent.is_multiple_of(every))
            {
                continue;
            }
            let packet = Packet {
                from,
                to,
                datagram: transmit.datagram.clone(),
            };
            self.flying
                .insert((self.now + self.delay, self.number), packet);
        }
    }

    fn arrive(&mut self, packet: &Packet) {
        let place = |at: &SocketAddr| match at.ip() {
            IpAddr::V4(ip) => (u32::from(ip.octets()[3]), ip.octets()[2]),
            IpAddr::V6(_) => panic!("these networks have IPv4"),
        };
        let ((from, link), (to, _)) = (place(&packet.from), place(&packet.to));
        if self.cut.contains(&(from, to, link)) || !self.members.contains_key(&to) {
            return;
        }
        let sockets = self.members[&to].node.sockets();
        let bound = sockets.iter().find(|spec| spec.bind == packet.to);
        let id = bound.map_or(SocketId::Multicast, |spec| spec.id);
        self.with(to, |node, now| {
            node.handle_datagram(now, id, packet.from, &packet.datagram);
        });
    }

    /// Does the next thing that is to happen until `end`.
    fn step(&mut self, end: Instant) -> bool {
        let packet = self.flying.first_key_value().map(|((at, _), _)| *at);
        let timers = self.members.iter();
        let timer = timers
            .filter_map(|(id, member)| Some((member.node.poll_timeout()?, *id)))
            .min();
        let is_packet = packet.is_some_and(|at| timer.is_none_or(|(due, _)| at <= due));
        if is_packet && packet.is_some_and(|at| at <= end) {
            let ((at, _), packet) = self.flying.pop_first().unwrap();
            self.now = self.now.max(at);
            self.arrive(&packet);
            return true;
        }
        match timer.filter(|(due, _)| !is_packet && *due <= end) {
            Some((due, id)) => {
                self.now = self.now.max(due);
                self.with(id, |node, now| node.handle_timeout(now));
                true
            }
            None => false,
        }
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Lets time pass until something is so. Returns how long it took.
    pub fn wait(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        let end = start + Duration::from_secs(120);
        while !is_so(self) {
            assert!(
                self.step(end),
                "{what}: never within two minutes\n{}",
                self.state()
            );
        }
        self.now.duration_since(start)
    }

    fn state(&self) -> String {
        let line = |(id, member): (&u32, &Member)| {
            let node = &member.node;
            let (ring, members) = (node.ring(), node.members());
            let phase = node.phase();
            let synchronized = node.is_synchronized();
            format!("{id}: {ring} {phase:?} {members:?} synchronized {synchronized}\n")
        };
        self.members.iter().map(line).collect()
    }

    /// Until these nodes form one synchronized ring, and nobody else is in it.
    pub fn wait_for_ring(&mut self, ids: &[u32]) -> Duration {
        self.wait("ring", |net| net.is_ring(ids))
    }

    pub fn is_ring(&self, ids: &[u32]) -> bool {
        let first = self.node(ids[0]).ring();
        ids.iter().all(|id| {
            let node = self.node(*id);
            let members: Vec<u32> = node.members().iter().map(|node| node.0).collect();
            node.ring() == first && members == ids && node.is_synchronized()
        })
    }

    pub fn connect(&mut self, id: u32, service: Service) -> ClientId {
        let member = self.members.get_mut(&id).unwrap();
        let client = ClientId(member.next_client);
        member.next_client += 1;
        let who = Credentials {
            pid: 1000 + i32::try_from(id).unwrap(),
            uid: 0,
            gid: 0,
        };
        self.with(id, |node, now| {
            node.client_connected(now, client, service, who)
        })
        .unwrap();
        client
    }

    pub fn request(&mut self, id: u32, client: ClientId, request: Request) {
        self.with(id, |node, now| node.handle_request(now, client, request));
    }

    /// A request and the answer to it.
    pub fn ask(&mut self, id: u32, client: ClientId, request: Request) -> Response {
        self.request(id, client, request);
        let is_mine = |net: &Self| {
            let mut responses = net.members[&id].responses.iter();
            responses.position(|(to, _)| *to == client)
        };
        self.wait("response", |net| is_mine(net).is_some());
        let at = is_mine(self).unwrap();
        let responses = &mut self.members.get_mut(&id).unwrap().responses;
        responses.remove(at).unwrap().1
    }

    /// A process that joins a group.
    pub fn join(&mut self, id: u32, group: &str) -> Process {
        let client = self.connect(id, Service::Cpg);
        let group = Group::new(group.as_bytes()).unwrap();
        let join = cpg::Request::Join {
            group: group.clone(),
            pid: 1000 + id,
            flags: 0,
        };
        let response = self.ask(id, client, Request::Cpg(join));
        assert!(matches!(response, Response::Cpg(cpg::Response::Join(_))));
        let process = Process { id, client };
        self.wait("own join", |net| !net.views(process).is_empty());
        process
    }

    pub fn mcast(&mut self, process: Process, data: &Bytes) {
        let request = cpg::Request::Mcast {
            guarantee: 0,
            data: data.clone(),
        };
        self.request(process.id, process.client, Request::Cpg(request));
    }

    fn cpg_events(&self, process: Process) -> impl Iterator<Item = &cpg::Event> {
        let events = self.members[&process.id].events.get(&process.client);
        events
            .into_iter()
            .flatten()
            .filter_map(|event| match event {
                ClientEvent::Cpg(event) => Some(event),
                _ => None,
            })
    }

    /// Messages that a process got, with the node that sent them.
    pub fn received(&self, process: Process) -> Vec<(u32, Bytes)> {
        let message = |event: &cpg::Event| match event {
            cpg::Event::Deliver { nodeid, data, .. } => Some((*nodeid, data.clone())),
            _ => None,
        };
        self.cpg_events(process).filter_map(message).collect()
    }

    /// How many of its own messages a process got.
    pub fn own_received(&self, process: Process) -> usize {
        let is_own = |event: &&cpg::Event| match event {
            cpg::Event::Deliver { nodeid, .. } => *nodeid == process.id,
            _ => false,
        };
        self.cpg_events(process).filter(is_own).count()
    }

    /// Memberships that a process was told of.
    pub fn views(&self, process: Process) -> Vec<Vec<u32>> {
        let view = |event: &cpg::Event| match event {
            cpg::Event::Confchg { members, .. } => {
                Some(members.iter().map(|member| member.nodeid).collect())
            }
            _ => None,
        };
        self.cpg_events(process).filter_map(view).collect()
    }

    /// Nodes of the processes that a process was told to be gone, and why.
    pub fn left(&self, process: Process) -> Vec<(u32, cpg::Reason)> {
        let left = |event: &cpg::Event| match event {
            cpg::Event::Confchg { left, .. } => left.clone(),
            _ => Vec::new(),
        };
        let all = self.cpg_events(process).flat_map(left);
        all.map(|gone| (gone.nodeid, gone.reason)).collect()
    }

    /// Sender and first byte of the messages that a process got since it was last told of these
    /// members.
    pub fn marks_since(&self, process: Process, view: &[u32]) -> Vec<(u32, u8)> {
        let mut marks = Vec::new();
        for event in self.cpg_events(process) {
            match event {
                cpg::Event::Confchg { members, .. } => {
                    let nodes = members.iter().map(|member| &member.nodeid);
                    if nodes.eq(view) {
                        marks.clear();
                    }
                }
                cpg::Event::Deliver { nodeid, data, .. } => marks.push((*nodeid, data[0])),
                _ => {}
            }
        }
        marks
    }

    pub fn log_has(&self, id: u32, is_it: impl Fn(&Log) -> bool) -> bool {
        self.members[&id].logs.iter().any(is_it)
    }
}

/// A member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub id: u32,
    pub client: ClientId,
}

/// Bytes that show where they belong.
pub fn payload(len: usize, seed: usize) -> Bytes {
    (0..len)
        .map(|at| u8::try_from((at * 7 + seed * 13) % 251).unwrap())
        .collect()
}
