//! The order of events: what arrives when, and what nodes want done.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use corosync_lite::{
    config::Reload,
    proto::node::{
        ClientEvent, Credentials, Flow, Log, Node, Output, Request, Response, SendFailure, Service,
        SocketId, Transmit,
    },
    service::{ClientId, cpg, quorum},
};
use pmxcfs::clock;

use super::{
    check::{Checker, Counts},
    cluster::{Cluster, Machine, address, place},
    faults::Repair,
    journal::Journal,
    member::{Member, Owner, SOCKET_MAX, Stage},
    network::{Agenda, Happening, Network, Packet},
    options::{Defect, Options},
    replicas::Replicas,
};
use crate::sim::{check::Failure, rng::Rng};

/// Nanoseconds in a millisecond.
pub(super) const MS: u64 = 1_000_000;
/// Messages that a ring may keep. More is a leak.
const QUEUED_MAX: usize = 20_000;
/// Datagrams on their way. More is a storm that feeds itself.
const FLYING_MAX: usize = 400_000;
/// Length of the longest datagram on an Ethernet, without its heads.
const DATAGRAM_MAX: usize = 1500 - 28;

/// How a history went.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its options.
    pub options: Options,
    /// Things that happened.
    pub steps: u64,
    /// Hash of all events.
    pub hash: u64,
    /// What happened how often.
    pub counts: Counts,
    /// The first broken rule.
    pub failure: Option<Failure>,
    /// The last events, if a rule was broken.
    pub events: Vec<String>,
    /// One line per node, if a rule was broken.
    pub nodes: Vec<String>,
}

impl Report {
    /// What a reader needs to understand and to repeat a failure.
    #[must_use]
    pub fn failure_text(&self) -> Option<String> {
        let failure = self.failure.as_ref()?;
        let seed = self.options.seed;
        let mut lines = self.events.clone();
        lines.extend(self.nodes.iter().cloned());
        lines.push(format!("{:?}", self.options));
        lines.push(format!("{:?}", self.counts));
        lines.push(format!(
            "seed {seed}, step {}: {}: {}",
            self.steps, failure.checker, failure.text
        ));
        lines.push(format!(
            "to repeat: cargo run --release -p tests --bin sim -- --rings {seed}"
        ));
        Some(lines.join("\n"))
    }
}

/// See the module documentation.
#[derive(Debug)]
pub struct World {
    pub(super) options: Options,
    pub(super) cluster: Cluster,
    pub(super) rng: Rng,
    pub(super) journal: Journal,
    pub(super) agenda: Agenda,
    pub(super) network: Network,
    pub(super) members: Vec<Member>,
    pub(super) check: Checker,
    pub(super) replicas: Option<Replicas>,
    /// Nanoseconds since the start.
    pub(super) now: u64,
    pub(super) steps: u64,
    /// Processes work and things go wrong.
    pub(super) busy: bool,
    base: Instant,
    numbers: u32,
}

impl World {
    /// Machines that are about to start their daemons.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let rng = Rng::new(options.seed);
        let cluster = Cluster::new(&options);
        let members = (1..=options.nodes)
            .map(|id| Member::new(id, cluster.clone(), options.processes))
            .collect();
        Self {
            cluster,
            rng,
            journal: Journal::default(),
            agenda: Agenda::default(),
            network: Network::new(options.weather),
            members,
            check: Checker::new(&options),
            replicas: None,
            now: 0,
            steps: 0,
            busy: true,
            base: clock::monotonic(),
            numbers: 1000,
            options,
        }
    }

    /// Prints each line of the journal at once.
    #[must_use]
    pub fn loud(mut self) -> Self {
        self.journal.is_loud = true;
        self
    }

    /// Runs both phases.
    #[must_use]
    pub fn run(mut self) -> Report {
        let named = Named(self.options.seed);
        let failure = self.phases().err();
        drop(named);
        let (mut events, mut nodes) = (Vec::new(), Vec::new());
        if failure.is_some() {
            events = self.journal.lines();
            nodes = self.members.iter().map(Member::describe).collect();
            if let Some(replicas) = &self.replicas {
                nodes.extend(replicas.describe());
            }
        }
        let mut counts = self.check.counts;
        if let Some(replicas) = &self.replicas {
            counts.acknowledged = replicas.acknowledged();
        }
        Report {
            steps: self.steps,
            hash: self.journal.hash(),
            counts,
            failure,
            events,
            nodes,
            options: self.options,
        }
    }

    pub(super) fn at(id: u32) -> usize {
        usize::try_from(id).unwrap_or(0).saturating_sub(1)
    }

    pub(super) fn member(&mut self, id: u32) -> &mut Member {
        &mut self.members[Self::at(id)]
    }

    fn instant(&self) -> Instant {
        self.base + Duration::from_nanos(self.now)
    }

    /// A number that no process had before.
    pub(super) fn new_number(&mut self) -> u32 {
        self.numbers += 1;
        self.numbers
    }

    /// Starts a daemon.
    pub(super) fn boot(&mut self, id: u32) {
        let now = self.instant();
        let mut seed = [0; 32];
        for byte in &mut seed {
            *byte = u8::try_from(self.rng.below(256)).unwrap_or(0);
        }
        let clock = Duration::from_secs(1000) + Duration::from_nanos(self.now);
        let forgets = self.options.defect == Some((Defect::ForgetRing, id));
        let member = &mut self.members[Self::at(id)];
        if member.node.is_some() {
            return;
        }
        if forgets {
            member.stored.ring_seq = 0;
        }
        let config = member.file.config(id);
        match Node::new(&config, member.stored, seed, clock, now) {
            Ok(node) => member.node = Some(node),
            Err(error) => {
                self.check.fail("nodes start", format!("n{id}: {error}"));
                return;
            }
        }
        member.sockets = member.node.as_ref().map(Node::sockets).unwrap_or_default();
        member.paused = false;
        member.is_blocked = false;
        member.wake_at = None;
        self.check.started(id);
        self.journal.say(self.now, id, format_args!("starts"));
        self.with(id, Node::start);
        if let Some(replicas) = &mut self.replicas {
            replicas.messaging_started(id);
        }
    }

    /// A daemon is gone at once.
    pub(super) fn crash(&mut self, id: u32) {
        let member = &mut self.members[Self::at(id)];
        if member.node.take().is_none() {
            return;
        }
        member.paused = false;
        member.waiting.clear();
        member.wake_at = None;
        member.dies_after = None;
        member.reload_wanted = false;
        member.must_stop = false;
        member.owners.clear();
        for process in &mut member.processes {
            process.stage = Stage::Away;
            process.client = None;
            process.partial = None;
        }
        self.check.stopped(id);
        self.journal.say(self.now, id, format_args!("is gone"));
        if let Some(replicas) = &mut self.replicas {
            replicas.messaging_gone(id);
        }
    }

    /// Something is done to a node that runs, and what it wants is carried out.
    pub(super) fn with<T>(
        &mut self,
        id: u32,
        act: impl FnOnce(&mut Node, Instant) -> T,
    ) -> Option<T> {
        let now = self.instant();
        let node = self.members[Self::at(id)].node.as_mut()?;
        let result = act(node, now);
        self.drain(id);
        Some(result)
    }

    /// Somebody connects to a service.
    pub(super) fn connect(&mut self, id: u32, service: Service, owner: Owner) -> Option<ClientId> {
        let number = self.new_number();
        let client = ClientId(number.into());
        let who = Credentials {
            pid: i32::try_from(number).unwrap_or(0),
            uid: 0,
            gid: 0,
        };
        self.members[Self::at(id)].owners.insert(client, owner);
        let connected = self.with(id, |node, now| {
            node.client_connected(now, client, service, who)
        })?;
        if let Err(refusal) = connected {
            self.check.fail("root may connect", refusal.to_string());
        }
        Some(client)
    }

    pub(super) fn request(&mut self, id: u32, client: ClientId, request: Request) {
        self.with(id, |node, now| node.handle_request(now, client, request));
    }

    /// A connection is closed.
    pub(super) fn hang_up(&mut self, id: u32, client: ClientId) {
        self.members[Self::at(id)].owners.remove(&client);
        self.check.hung_up(id, client);
        self.with(id, |node, now| node.client_gone(now, client));
    }

    /// Lets things happen until a time. Stops at the first broken rule.
    pub(super) fn run_until(&mut self, end: u64) -> Result<(), Failure> {
        while let Some((at, happening)) = self.agenda.next(end) {
            self.now = self.now.max(at);
            self.steps += 1;
            self.happen(happening);
            if let Some(failure) = self.check.take_failure() {
                return Err(failure);
            }
            if self.agenda.len() > FLYING_MAX {
                let text = format!("{} datagrams on their way", self.agenda.len());
                return Err(failure("no storm", text));
            }
        }
        self.now = self.now.max(end);
        Ok(())
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrival(packet) => self.arrive(packet),
            Happening::Wake(id) => self.wake(id),
            Happening::Deed(id, slot) => self.deed(id, slot),
            Happening::Replica(id) => self.run_replica(id),
            Happening::Fault => self.inject(),
            Happening::Repair(repair) => self.repair(repair),
        }
    }

    fn wake(&mut self, id: u32) {
        let now = self.now;
        let member = self.member(id);
        if member.wake_at == Some(now) {
            member.wake_at = None;
        }
        if member.awake().is_some() {
            self.with(id, Node::handle_timeout);
        }
    }

    fn arrive(&mut self, packet: Packet) {
        if !self.network.passes(&packet) {
            return;
        }
        let (id, _) = place(packet.to.ip());
        let Some(member) = self.members.get_mut(Self::at(id)) else {
            return;
        };
        if member.paused {
            if member.waiting.len() < SOCKET_MAX {
                member.waiting.push_back(packet);
            }
            return;
        }
        self.hand_in(id, &packet);
    }

    fn hand_in(&mut self, id: u32, packet: &Packet) {
        let member = &self.members[Self::at(id)];
        let socket = if packet.to_all {
            SocketId::Multicast
        } else {
            let spec = member.sockets.iter().find(|spec| spec.bind == packet.to);
            match spec {
                Some(spec) => spec.id,
                None => return,
            }
        };
        self.journal.mix((self.now, id, packet.datagram.len()));
        self.with(id, |node, now| {
            node.handle_datagram(now, socket, packet.from, &packet.datagram);
        });
    }

    /// A daemon that stood still goes on.
    pub(super) fn go_on(&mut self, id: u32) {
        let timers_first = self.rng.chance(500);
        let member = self.member(id);
        if !member.paused {
            return;
        }
        member.paused = false;
        let waiting = std::mem::take(&mut member.waiting);
        self.journal.say(self.now, id, format_args!("goes on"));
        if timers_first {
            self.with(id, Node::handle_timeout);
        }
        for packet in waiting {
            self.hand_in(id, &packet);
        }
        self.with(id, Node::handle_timeout);
    }

    /// Carries out what a node wants.
    fn drain(&mut self, id: u32) {
        let at = Self::at(id);
        loop {
            let member = &mut self.members[at];
            let Some(output) = member.node.as_mut().and_then(Node::poll_output) else {
                break;
            };
            if let Some(left) = &mut member.dies_after {
                if *left == 0 {
                    self.crash(id);
                    return;
                }
                *left -= 1;
            }
            self.carry_out(id, output);
        }
        let member = &mut self.members[at];
        if std::mem::take(&mut member.reload_wanted) {
            self.reload(id);
            return;
        }
        if std::mem::take(&mut member.must_stop) {
            self.journal.say(self.now, id, format_args!("has to stop"));
            self.leave(id);
            return;
        }
        self.look_at(id);
        self.plan_wake(id);
    }

    /// A daemon says goodbye and ends.
    pub(super) fn leave(&mut self, id: u32) {
        self.with(id, Node::leave);
        let restart = self.now + MS * self.rng.between(100, 4000);
        let member = self.member(id);
        if let Some(node) = &member.node {
            if node.is_stopped() {
                self.crash(id);
            } else {
                let soon = self.now + 1500 * MS;
                self.agenda
                    .plan(soon, Happening::Repair(Repair::Finish(id)));
            }
        }
        let repair = Happening::Repair(Repair::Boot(id));
        self.agenda.plan(restart.max(self.now + 1600 * MS), repair);
    }

    /// Looks at a node that is at rest.
    fn look_at(&mut self, id: u32) {
        let member = &self.members[Self::at(id)];
        let Some(node) = &member.node else { return };
        if node.queued() > QUEUED_MAX {
            let text = format!("n{id} keeps {} messages", node.queued());
            self.check.fail("queues are bounded", text);
        }
        let claims = self.options.defect == Some((Defect::ClaimQuorum, id));
        let quorate = node.is_quorate() || claims;
        if node.is_synchronized() && self.check.quorum(id, quorate) {
            self.journal
                .say(self.now, id, format_args!("quorate: {quorate}"));
        }
        if let Some(replicas) = &mut self.replicas {
            replicas.set_quorate(id, node.is_quorate());
        }
    }

    fn plan_wake(&mut self, id: u32) {
        let (base, now) = (self.base, self.now);
        let member = &mut self.members[Self::at(id)];
        let Some(due) = member.node.as_ref().and_then(Node::poll_timeout) else {
            return;
        };
        let due = due.saturating_duration_since(base).as_nanos();
        let due = u64::try_from(due).unwrap_or(u64::MAX).max(now + 1);
        if member.wake_at.is_none_or(|planned| due < planned) {
            member.wake_at = Some(due);
            self.agenda.plan(due, Happening::Wake(id));
        }
    }

    fn carry_out(&mut self, id: u32, output: Output) {
        let member = &mut self.members[Self::at(id)];
        match output {
            Output::Transmit(transmit) => self.transmit(id, &transmit),
            Output::PersistRing(seq) => {
                if seq <= member.stored.ring_seq {
                    let text = format!("n{id}: {seq} after {}", member.stored.ring_seq);
                    self.check.fail("ring sequences increase", text);
                }
                member.stored.ring_seq = seq;
            }
            Output::PersistExpectedVotes(votes) => member.stored.expected_votes = Some(votes),
            Output::Respond(client, response) => self.respond(id, client, &response),
            Output::Event(client, event) => self.event(id, client, event),
            Output::FlowControl(Service::Cpg, flow) => member.is_blocked = flow == Flow::Blocked,
            Output::FlowControl(..) | Output::ReopenLogs => {}
            Output::Sockets => {
                member.sockets = member.node.as_ref().map(Node::sockets).unwrap_or_default();
            }
            Output::Reload => member.reload_wanted = true,
            Output::Shutdown(reason) => {
                member.must_stop = true;
                self.journal
                    .say(self.now, id, format_args!("shutdown: {reason}"));
            }
            Output::Log(log) => self.log(id, &log),
        }
    }

    fn log(&mut self, id: u32, log: &Log) {
        self.journal.say(self.now, id, format_args!("{log}"));
        match log {
            Log::Ring { phase, .. } => self.check.phase(id, *phase),
            Log::Membership {
                ring,
                members,
                joined,
                ..
            } => {
                let member = &mut self.members[Self::at(id)];
                if ring.seq > member.stored.ring_seq {
                    let text = format!("n{id} is in ring {ring}");
                    self.check.fail("stored before used", text);
                }
                if ring.seq <= member.installed_seq {
                    let text = format!("n{id}: {ring} after {}", member.installed_seq);
                    self.check.fail("ring sequences increase", text);
                }
                member.installed_seq = ring.seq;
                self.check.installed(id, *ring, members, joined);
            }
            Log::Synchronized(ring) => self.check.synchronized(id, *ring),
            _ => {}
        }
    }

    fn transmit(&mut self, id: u32, transmit: &Transmit) {
        let now = self.instant();
        let member = &mut self.members[Self::at(id)];
        let Some(spec) = member.sockets.iter().find(|it| it.id == transmit.socket) else {
            return;
        };
        let (from, dont_fragment) = (spec.bind, spec.dont_fragment);
        let (_, link) = place(from.ip());
        let failure = if member.unusable.contains(&link) {
            Some(SendFailure::LinkUnusable)
        } else if dont_fragment && transmit.datagram.len() > DATAGRAM_MAX {
            Some(SendFailure::TooLarge { mtu: Some(1500) })
        } else {
            None
        };
        if let (Some(failure), Some(node)) = (failure, &mut member.node) {
            node.handle_send_failure(now, transmit, failure);
            return;
        }
        let to_all = match transmit.to.ip() {
            std::net::IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
            std::net::IpAddr::V6(ip) => ip.is_multicast(),
        };
        let receivers: Vec<SocketAddr> = if to_all {
            let others = (1..=self.options.nodes).filter(|other| *other != id);
            let port = transmit.to.port();
            others
                .map(|other| SocketAddr::new(address(other, link), port))
                .collect()
        } else {
            vec![transmit.to]
        };
        for to in receivers {
            let packet = Packet {
                from,
                to,
                to_all,
                datagram: transmit.datagram.clone(),
            };
            self.network
                .send(self.now, packet, &mut self.rng, &mut self.agenda);
        }
    }

    /// The node reads its file again.
    fn reload(&mut self, id: u32) {
        let member = self.member(id);
        let Some(running) = member.node.as_ref().map(|node| node.config().clone()) else {
            return;
        };
        let result = Reload::of_file(&running, member.file.text().as_bytes(), [], &Machine(id));
        let version = member.file.version;
        self.journal
            .say(self.now, id, format_args!("reads file {version}"));
        self.with(id, |node, now| match &result {
            Ok(reload) => node.reload(now, reload),
            Err(refusal) => node.reload_failed(now, refusal),
        });
    }

    fn respond(&mut self, id: u32, client: ClientId, response: &Response) {
        let owner = self.members[Self::at(id)].owners.get(&client).copied();
        self.journal.mix((self.now, id, client));
        if let (Some(owner), Response::Cpg(response)) = (owner, response) {
            self.responded(id, owner, response);
        }
    }

    fn event(&mut self, id: u32, client: ClientId, event: ClientEvent) {
        let owner = self.members[Self::at(id)].owners.get(&client).copied();
        match event {
            ClientEvent::Cpg(event) => {
                if self.options.defect.is_some_and(|(_, at)| at == id) {
                    self.spoil(id, client, owner, event);
                } else {
                    self.cpg_event(id, client, owner, event);
                }
            }
            ClientEvent::Quorum(quorum::Event::Quorum { quorate, .. }) => {
                self.journal.mix((self.now, id, quorate));
            }
            _ => {}
        }
    }

    pub(super) fn cpg_event(
        &mut self,
        id: u32,
        client: ClientId,
        owner: Option<Owner>,
        event: cpg::Event,
    ) {
        if let cpg::Event::Deliver {
            nodeid, pid, data, ..
        } = &event
        {
            self.journal.mix((self.now, id, nodeid, pid, data.len()));
        } else if let cpg::Event::Confchg { members, .. } = &event {
            let members: Vec<_> = members.iter().map(|it| (it.nodeid, it.pid)).collect();
            let (now, number) = (self.now, client.0);
            self.journal
                .say(now, id, format_args!("client {number} members {members:?}"));
        }
        self.check.event(id, client, &event);
        if let Some(owner) = owner {
            self.told(id, owner, event);
        }
    }
}

/// Names the seed when a history ends in a panic.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the panic is in the history of seed {}", self.0);
        }
    }
}

pub(super) fn failure(checker: &'static str, text: impl Into<String>) -> Failure {
    let text = text.into();
    Failure { checker, text }
}
