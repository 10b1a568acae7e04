//! One node: the production state machines of both groups, inside a model of the daemon's shell.
//!
//! The model keeps the rules of the cluster shell: changes are proposed only while in sync and
//! quorate, checked first, answered only when stored; a node that has to leave a group comes back
//! after a pause; a node whose disk fails goes back to what is stored and stays away until the
//! disk works; what could not be sent for the moment is sent later, in order.

mod clients;
mod outbox;
mod store;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use pmxcfs::{
    dcdb::{Effect, Replica},
    dfsm::{App, Dfsm, Mode},
    memdb::{Change, Op, Tree},
    status::{ClusterConfig, NodeInfo, Status},
    wire::{
        MemberId,
        dfsm::{Epoch, Message},
        fuse_msg::FuseMessage,
    },
};

use super::{
    check::Checker,
    disk::Disk,
    lines::LineId,
    net::{Event, Group, Net, Node},
    options::{Defect, Options},
    rng::Rng,
    subject::{Note, Subject},
    trace::Trace,
};

const REJOIN_PAUSE_MS: u64 = 5_000;
const RETRY_MS: u64 = 100;
const ATTEMPTS: u32 = 100;
const CONNECT_MS: u64 = 1_000;
const TICK_MS: u64 = 1_000;
const PROBE_MS: u64 = 2_000;
const PROPOSE_LIMIT_MS: u64 = 60_000;
/// Queues that grow past this without a limit of their own are a fault.
const QUEUE_MAX: usize = 4_000;
/// Clock of the simulation at its start, seconds since 1970.
const EPOCH_SECS: u64 = 1_700_000_000;

/// What the parts of a simulation share.
#[derive(Debug)]
pub struct Env {
    /// Options of the history.
    pub options: Options,
    /// Group messaging.
    pub net: Net,
    /// Checkers.
    pub check: Checker,
    /// Chance.
    pub rng: Rng,
    /// Events for the reader of a failure.
    pub trace: Trace,
    /// Milliseconds since the start.
    pub now_ms: u64,
    /// Process ids given so far.
    pub last_pid: u32,
}

/// What a client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Done,
    /// Refused, nothing happened.
    Refused,
    /// It may have happened.
    Unknown,
}

#[derive(Clone, Debug)]
struct Proposal {
    client: usize,
    op: Op,
    unchecked: bool,
    deadline_ms: u64,
    retry_ms: u64,
}

#[derive(Clone, Debug)]
struct Waiter {
    client: usize,
    deadline_ms: u64,
    line: Option<LineId>,
}

#[derive(Clone, Debug)]
enum Item {
    Change(Change, LineId),
    Replace(Box<Tree>, LineId),
    Answer(u64, i32),
    /// The working tree at this point.
    Mark(Box<Tree>),
}

#[derive(Clone, Debug, Default)]
struct Membership {
    joined: bool,
    join_ms: u64,
    outbox: VecDeque<(Bytes, bool, u32)>,
    send_ms: u64,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Daemon {
    /// Index of the node.
    pub node: Node,
    /// This process.
    pub member: MemberId,
    /// The configuration group.
    pub config: Dfsm<Subject>,
    /// The status group.
    pub status: Dfsm<Status>,
    /// The database.
    pub disk: Disk,
    /// Stands still.
    pub paused: bool,
    /// Whether the process runs.
    pub is_up: bool,
    /// Seconds that this clock is ahead.
    pub clock_ahead: u64,
    /// End of the line of the working tree.
    pub line: LineId,
    /// Answers for clients.
    pub answers: Vec<(usize, Answer)>,
    connected: bool,
    connect_ms: u64,
    quorate: bool,
    is_faulty: bool,
    tick_ms: u64,
    probe_ms: u64,
    members: [Membership; 2],
    proposals: VecDeque<Proposal>,
    waiters: BTreeMap<u64, Waiter>,
    items: VecDeque<Item>,
    defect: Option<Defect>,
    epoch: Epoch,
    view: (u64, u64),
}

impl Daemon {
    /// Starts a process on a database.
    pub fn start(node: Node, disk: Disk, env: &mut Env, clock_ahead: u64) -> Self {
        env.last_pid += 1;
        let member = MemberId {
            node: u32::try_from(node + 1).unwrap_or(0),
            pid: env.last_pid,
        };
        let tree = disk.load().unwrap_or_else(|error| {
            let text = format!("node {} can not load its database: {error}", node + 1);
            env.check.fail("databases load", text);
            Tree::new()
        });
        let now = EPOCH_SECS + clock_ahead + env.now_ms / 1000;
        let wanted = env.options.defect.filter(|(_, at)| *at == node);
        let defect = wanted.map(|(defect, _)| defect);
        let line = disk.line();
        let subject = Subject::new(Replica::new(tree, now), defect);
        let name = name_of(node);
        let now32 = u32::try_from(now).unwrap_or(u32::MAX);
        let mut status = Status::new(now32, member, &name, Some(&format!("10.0.0.{}", node + 1)));
        status.set_cluster(cluster_of(env.options.nodes));
        let mut daemon = Self {
            node,
            member,
            config: Dfsm::new(subject, member),
            status: Dfsm::new(status, member),
            disk,
            paused: false,
            is_up: true,
            clock_ahead,
            line,
            answers: Vec::new(),
            connected: false,
            connect_ms: env.now_ms,
            quorate: false,
            is_faulty: false,
            tick_ms: env.now_ms,
            probe_ms: 0,
            members: Default::default(),
            proposals: VecDeque::new(),
            waiters: BTreeMap::new(),
            items: VecDeque::new(),
            defect,
            epoch: Epoch::default(),
            view: (0, 0),
        };
        daemon.config.app_mut().set_quorate(false);
        env.check.holds(node, line, daemon.config.app().tree());
        daemon
    }

    /// The process dies.
    pub fn crash(&mut self, env: &mut Env) {
        self.is_up = false;
        self.paused = false;
        env.net.kill_process(self.member);
        env.check.lines.erode(self.line, self.disk.line());
        self.line = self.disk.line();
        self.abort(Answer::Unknown);
        self.items.clear();
    }

    fn seconds(&self, env: &Env) -> u64 {
        EPOCH_SECS + self.clock_ahead + env.now_ms / 1000
    }

    fn seconds32(&self, env: &Env) -> u32 {
        u32::try_from(self.seconds(env)).unwrap_or(u32::MAX)
    }

    /// Whether the process has something to do now.
    #[must_use]
    pub fn is_runnable(&self, env: &Env) -> bool {
        let due = self.next_ms(env) <= env.now_ms;
        self.is_up && !self.paused && (due || env.net.has_events(self.node))
    }

    /// When the process has something to do without an event.
    #[must_use]
    pub fn next_ms(&self, env: &Env) -> u64 {
        let mut next = self.tick_ms;
        if !self.connected {
            next = next.min(self.connect_ms);
        }
        for group in Group::ALL {
            let membership = &self.members[group as usize];
            if self.connected && !membership.joined && self.wants(group, env) {
                next = next.min(membership.join_ms);
            }
            if !membership.outbox.is_empty() {
                next = next.min(membership.send_ms);
            }
        }
        if self.is_faulty {
            next = next.min(self.probe_ms);
        }
        if let Some(proposal) = self.proposals.front()
            && self.config.mode() == Mode::Synced
        {
            next = next.min(proposal.retry_ms);
        }
        next
    }

    fn wants(&self, group: Group, env: &Env) -> bool {
        match group {
            Group::Config => self.config.mode() == Mode::Start && !self.is_faulty,
            Group::Status => env.options.status,
        }
    }

    /// Whether the disk has something to do.
    #[must_use]
    pub fn has_items(&self) -> bool {
        self.is_up && !self.items.is_empty()
    }

    /// Whether nothing waits anywhere in this process and it is in sync.
    #[must_use]
    pub fn is_settled(&self, env: &Env) -> bool {
        let is_joined = |group| {
            let mode = match group {
                Group::Config => self.config.mode(),
                Group::Status => self.status.mode(),
            };
            mode == Mode::Synced && self.members[group as usize].outbox.is_empty()
        };
        self.is_up
            && self.quorate
            && self.items.is_empty()
            && self.waiters.is_empty()
            && self.proposals.is_empty()
            && is_joined(Group::Config)
            && (!env.options.status || is_joined(Group::Status))
            && self.config.members().count() == env.options.nodes
            && (!env.options.status || self.status.members().count() == env.options.nodes)
    }

    /// Runs the loop of the process once.
    pub fn run(&mut self, env: &mut Env) {
        self.connect(env);
        self.join(env);
        for _ in 0..=env.rng.below(3) {
            self.take_event(env);
        }
        self.tick(env);
        self.drain(env);
        self.propose_waiting(env);
        self.expire(env);
        self.check_limits(env);
    }

    fn connect(&mut self, env: &mut Env) {
        if self.connected || env.now_ms < self.connect_ms {
            return;
        }
        self.connect_ms = env.now_ms + CONNECT_MS;
        if env.net.connect(self.node) {
            self.connected = true;
            for membership in &mut self.members {
                membership.join_ms = env.now_ms;
            }
        }
    }

    fn join(&mut self, env: &mut Env) {
        for group in Group::ALL {
            let wanted = self.connected && self.wants(group, env);
            let membership = &mut self.members[group as usize];
            if membership.joined || env.now_ms < membership.join_ms || !wanted {
                continue;
            }
            if env.net.join(group, self.member) {
                membership.joined = true;
            } else {
                membership.join_ms = env.now_ms + RETRY_MS;
            }
        }
    }

    fn take_event(&mut self, env: &mut Env) {
        if !self.connected {
            return;
        }
        if env.net.is_disconnected(self.node) {
            return self.disconnected(env);
        }
        while let Some(quorate) = env.net.next_quorum(self.node) {
            env.trace
                .add(env.now_ms, self.node, "quorum", [u64::from(quorate), 0]);
            self.quorate = quorate;
            self.config.app_mut().set_quorate(quorate);
        }
        let [first, second] = if env.rng.chance(500) {
            Group::ALL
        } else {
            [Group::Status, Group::Config]
        };
        let event = env
            .net
            .next_event(self.node, first)
            .map(|event| (first, event));
        let event = event.or_else(|| {
            env.net
                .next_event(self.node, second)
                .map(|event| (second, event))
        });
        match event {
            Some((Group::Config, event)) => self.handle_config(env, event),
            Some((Group::Status, event)) => self.handle_status(env, event),
            None => {}
        }
    }

    fn disconnected(&mut self, env: &mut Env) {
        env.trace.add(env.now_ms, self.node, "disconnected", [0, 0]);
        self.connected = false;
        self.connect_ms = env.now_ms;
        self.quorate = false;
        self.config.app_mut().set_quorate(false);
        self.config.restart();
        self.status.restart();
        self.status.app_mut().disconnected();
        self.members = Default::default();
        self.abort(Answer::Unknown);
    }

    fn handle_status(&mut self, env: &mut Env, event: Event) {
        let now = self.seconds(env);
        match event {
            Event::Deliver { from, payload, .. } => {
                self.status.handle_message(now, from, &payload);
            }
            Event::Members {
                members, joined, ..
            } => {
                self.status.handle_membership(now, &members, joined);
            }
            Event::Breaking => {}
        }
    }

    fn handle_config(&mut self, env: &mut Env, event: Event) {
        let now = self.seconds(env);
        let mut was_quorate = true;
        let before = self.config.mode();
        match event {
            Event::Members {
                members,
                joined,
                view,
            } => {
                let count = members.len() as u64;
                env.trace
                    .add(env.now_ms, self.node, "members", [count, u64::from(joined)]);
                self.view = (view, 0);
                self.config.handle_membership(now, &members, joined);
            }
            Event::Breaking => {
                // A view of its own.
                let mixed = self.view.0.wrapping_mul(0x9E37_79B9_7F4A_7C15);
                self.view = (mixed.wrapping_add(self.member.pid.into()), 0);
            }
            Event::Deliver {
                from,
                payload,
                quorate,
            } => {
                was_quorate = quorate;
                let kind = payload.first().copied().unwrap_or(0);
                let data = [u64::from(kind), u64::from(from.node)];
                env.trace.add(env.now_ms, self.node, "message", data);
                self.view.1 += 1;
                if before == Mode::StartSync
                    && let Ok(Message::SyncStart { epoch, .. }) =
                        Message::decode(Subject::PROTOCOL, payload.clone())
                {
                    self.epoch = epoch;
                }
                self.config.handle_message(now, from, &payload);
            }
        }
        self.take_notes(env);
        self.take_effects(env, was_quorate);
        if self.config.mode() == Mode::Synced {
            let (view, at) = self.view;
            env.check
                .in_sync(self.node, view, at, self.config.app().tree());
        }
        if before != self.config.mode() {
            let mode = self.config.mode() as u64;
            let version = self.config.app().tree().root().version;
            env.trace
                .add(env.now_ms, self.node, "mode", [mode, version]);
        }
    }

    fn take_notes(&mut self, env: &mut Env) {
        for note in self.config.app_mut().take_notes() {
            let tree = self.config.app().tree();
            match note {
                Note::Stated => env.check.stated(self.epoch, self.member, self.line, tree),
                Note::Evaluated(is_synced) => {
                    let members: Vec<MemberId> = self.config.members().collect();
                    // What the tree was before messages that waited were applied.
                    let own = is_synced.then_some(self.line);
                    env.check.evaluated(self.epoch, self.node, &members, own);
                }
            }
        }
    }

    fn take_effects(&mut self, env: &mut Env, was_quorate: bool) {
        let before = self.items.len();
        while let Some(effect) = self.config.app_mut().poll_effect() {
            match effect {
                Effect::Applied { change, own } => {
                    let known = env.check.lines.version(self.line);
                    // Filling up a file that has a length only is this node's own affair.
                    if change.root.version > known || change.delete.is_some() {
                        self.line = env.check.lines.extend(self.line, &change);
                        env.check.lines.hold(self.node, self.line);
                        if !was_quorate || !self.quorate {
                            env.check.applied_without_quorum(self.node, self.quorate);
                        }
                    }
                    if let Some(waiter) = own.and_then(|own| self.waiters.get_mut(&own)) {
                        waiter.line = Some(self.line);
                    }
                    self.items.push_back(Item::Change(change, self.line));
                }
                Effect::Replaced { new, .. } => {
                    let members: Vec<MemberId> = self.config.members().collect();
                    self.line = env.check.committed(self.epoch, self.node, &members, &new);
                    env.check.lines.hold(self.node, self.line);
                    self.items.push_back(Item::Replace(new, self.line));
                }
                Effect::Conf { .. } => {}
                Effect::GrantUnlock { path, checksum } => {
                    let message = FuseMessage::Unlock { checksum, path };
                    let now = self.seconds32(env);
                    let (_, bytes) =
                        self.config
                            .make_normal(now, message.subtype(), message.encode());
                    let outbox = &mut self.members[Group::Config as usize].outbox;
                    outbox.push_back((bytes, false, 0));
                }
            }
        }
        let tree = self.config.app().tree();
        env.check.holds(self.node, self.line, tree);
        if self.items.len() > before {
            self.items.push_back(Item::Mark(Box::new(tree.clone())));
        }
    }

    fn tick(&mut self, env: &mut Env) {
        if env.now_ms >= self.tick_ms {
            self.tick_ms = env.now_ms + TICK_MS;
            let now = self.seconds(env);
            self.config.handle_tick(now);
            self.status.handle_tick(now);
        }
        if self.is_faulty && env.now_ms >= self.probe_ms {
            self.probe_ms = env.now_ms + PROBE_MS;
            self.is_faulty = self.disk.full;
        }
    }

    fn expire(&mut self, env: &Env) {
        let over = |waiter: &Waiter| waiter.deadline_ms <= env.now_ms;
        let answers = &mut self.answers;
        self.waiters.retain(|_, waiter| {
            if over(waiter) {
                answers.push((waiter.client, Answer::Unknown));
            }
            !over(waiter)
        });
    }

    fn abort_waiters(&mut self, answer: Answer) {
        for (_, waiter) in std::mem::take(&mut self.waiters) {
            self.answers.push((waiter.client, answer));
        }
    }

    fn abort(&mut self, answer: Answer) {
        self.abort_waiters(answer);
        for proposal in std::mem::take(&mut self.proposals) {
            self.answers.push((proposal.client, Answer::Refused));
        }
    }

    fn check_limits(&mut self, env: &mut Env) {
        let lens = [
            self.config.queued(),
            self.status.queued(),
            self.items.len(),
            self.members[0].outbox.len(),
            self.members[1].outbox.len(),
        ];
        if lens.iter().any(|len| *len > QUEUE_MAX) {
            let text = format!("node {}: queues of {lens:?}", self.node + 1);
            env.check.fail("queues are bounded", text);
        }
        if matches!(self.config.mode(), Mode::Error | Mode::VersionError) {
            env.check
                .fail("no node gives up", format!("node {} did", self.node + 1));
        }
    }

    /// One line about this node.
    #[must_use]
    pub fn describe(&self, env: &Env) -> String {
        let root = self.config.app().tree().root();
        let members: Vec<String> = self.config.members().map(|id| id.to_string()).collect();
        format!(
            "n{} {} up={} paused={} mode={:?} status={:?} quorate={} faulty={} members=[{}] \
             version={} mtime={} entries={} items={} queued={} proposals={} waiters={} | {}",
            self.node + 1,
            self.member,
            u8::from(self.is_up),
            u8::from(self.paused),
            self.config.mode(),
            self.status.mode(),
            u8::from(self.quorate),
            u8::from(self.is_faulty),
            members.join(" "),
            root.version,
            root.mtime,
            self.config.app().tree().entry_count(),
            self.items.len(),
            self.config.queued(),
            self.proposals.len(),
            self.waiters.len(),
            env.net.describe(self.node),
        )
    }
}

/// Name of a node.
#[must_use]
pub fn name_of(node: Node) -> String {
    format!("n{}", node + 1)
}

fn cluster_of(nodes: usize) -> ClusterConfig {
    let node = |at: Node| NodeInfo {
        id: u32::try_from(at + 1).unwrap_or(0),
        name: name_of(at),
        votes: Some(1),
    };
    ClusterConfig {
        name: "sim".into(),
        version: 1,
        nodes: (0..nodes).map(node).collect(),
    }
}
