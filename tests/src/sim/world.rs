//! One history: who does what next, what goes wrong, and what must hold at the end.

use bytes::Bytes;
use pmxcfs::memdb::{Op, Stamp, Tree};

use super::{
    check::{Checker, Counts, Failure},
    disk::Disk,
    faults::Repairs,
    lines::LineId,
    net::{Group, Net, Node},
    node::{Answer, Daemon, Env},
    options::Options,
    rng::Rng,
    trace::Trace,
    workload::{self, Deed},
};

/// Virtual time within which a healed cluster must be whole again.
const HEAL_LIMIT_MS: u64 = 90_000;
/// Steps within which a phase must end: a loop that makes no progress is a fault as well.
const STEP_LIMIT: u64 = 400_000;

#[derive(Clone, Copy, Debug)]
struct Client {
    node: Node,
    /// When it does something next; `None` while it waits for an answer.
    next_ms: Option<u64>,
    /// The last answer.
    answer: Option<Answer>,
}

/// How a history went.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its options.
    pub options: Options,
    /// Steps taken.
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

/// See the module documentation.
#[derive(Debug)]
pub struct World {
    pub(super) env: Env,
    pub(super) daemons: Vec<Daemon>,
    pub(super) repairs: Repairs,
    clients: Vec<Client>,
    steps: u64,
    /// Clients work.
    busy: bool,
}

impl World {
    /// A cluster at its start.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let mut rng = Rng::new(options.seed);
        let check = Checker::new(options.nodes, !options.unchecked_writers);
        let net = Net::new(options.nodes, options.safe_delivery, options.split_changes);
        let mut env = Env {
            net,
            check,
            rng: rng.clone(),
            trace: Trace::default(),
            now_ms: 0,
            last_pid: 1000,
            options,
        };
        let skeleton = workload::skeleton(env.options.nodes);
        let mut daemons = Vec::new();
        for node in 0..env.options.nodes {
            let uneven = env.options.uneven_start && rng.chance(300);
            let known = if uneven {
                rng.index(skeleton.len())
            } else {
                skeleton.len()
            };
            let (tree, line) = grow(&mut env.check, &skeleton[..known]);
            let ahead = rng.below(env.options.skew_secs + 1);
            let disk = Disk::new(&tree, line);
            daemons.push(Daemon::start(node, disk, &mut env, ahead));
        }
        let mut world = Self {
            env,
            daemons,
            repairs: Repairs::default(),
            clients: Vec::new(),
            steps: 0,
            busy: true,
        };
        for node in 0..world.env.options.nodes {
            world.add_clients(node, world.env.options.clients);
        }
        world
    }

    pub(super) fn add_clients(&mut self, node: Node, count: usize) {
        let client = Client {
            node,
            next_ms: Some(self.env.now_ms + self.env.rng.below(3000)),
            answer: None,
        };
        self.clients.extend(std::iter::repeat_n(client, count));
    }

    /// Runs both phases.
    #[must_use]
    pub fn run(mut self) -> Report {
        let named = Named(self.env.options.seed);
        let failure = self.phases().err();
        drop(named);
        let (events, nodes) = if failure.is_some() {
            let nodes = self.daemons.iter().map(|daemon| daemon.describe(&self.env));
            (self.env.trace.lines(), nodes.collect())
        } else {
            (Vec::new(), Vec::new())
        };
        Report {
            options: self.env.options,
            steps: self.steps,
            hash: self.env.trace.hash(),
            counts: self.env.check.counts,
            failure,
            events,
            nodes,
        }
    }

    fn phases(&mut self) -> Result<(), Failure> {
        for _ in 0..self.env.options.steps {
            self.inject();
            self.step()?;
        }
        self.heal();
        self.settle("the healed cluster becomes whole")?;
        self.write_everywhere()?;
        self.meet_again()?;
        self.compare()?;
        self.verify()
    }

    /// One step of something; moves the clock.
    pub(super) fn step(&mut self) -> Result<(), Failure> {
        self.steps += 1;
        let env = &mut self.env;
        env.now_ms += match (self.busy, env.rng.chance(15)) {
            (true, true) => env.rng.below(600),
            (true, false) => env.rng.below(6),
            // What piled up is worked off faster than that.
            (false, _) => env.rng.below(2),
        };
        self.repair();
        let roll = self.env.rng.below(1000);
        let disk_weight = self.env.options.disk_weight;
        let done = if roll < disk_weight {
            self.store()
        } else if roll < disk_weight + 60 && self.busy {
            self.client()
        } else if roll < disk_weight + 90 {
            self.form()
        } else {
            self.progress()
        };
        let done = done || self.progress() || self.store() || self.form();
        if !done {
            self.jump();
        }
        self.take_answers();
        match self.env.check.take_failure() {
            None => Ok(()),
            Some(failure) => Err(failure),
        }
    }

    /// Nothing to do: moves the clock to what comes next.
    fn jump(&mut self) {
        let running = self
            .daemons
            .iter()
            .filter(|daemon| daemon.is_up && !daemon.paused);
        let next = running.map(|daemon| daemon.next_ms(&self.env)).min();
        let next = next.unwrap_or(0).max(self.env.now_ms + 1);
        self.env.now_ms = next.min(self.env.now_ms + 1000);
    }

    fn progress(&mut self) -> bool {
        let first = self.env.rng.index(3);
        (0..3).any(|at| match (first + at) % 3 {
            0 => {
                let nodes: Vec<Node> = self.env.net.can_order().collect();
                let any = !nodes.is_empty();
                if any {
                    let node = *self.env.rng.pick(&nodes);
                    self.env.net.order(node);
                }
                any
            }
            1 => {
                let nodes: Vec<Node> = self.env.net.can_advance().collect();
                let any = !nodes.is_empty();
                if any {
                    let node = *self.env.rng.pick(&nodes);
                    self.env.net.advance(node, &mut self.env.rng);
                }
                any
            }
            _ => {
                let runnable = |daemon: &&Daemon| daemon.is_runnable(&self.env);
                let nodes: Vec<Node> = self
                    .daemons
                    .iter()
                    .filter(runnable)
                    .map(|daemon| daemon.node)
                    .collect();
                let any = !nodes.is_empty();
                if any {
                    let node = *self.env.rng.pick(&nodes);
                    self.daemons[node].run(&mut self.env);
                }
                any
            }
        })
    }

    fn store(&mut self) -> bool {
        let with_items = self.daemons.iter().filter(|daemon| daemon.has_items());
        let nodes: Vec<Node> = with_items.map(|daemon| daemon.node).collect();
        if nodes.is_empty() {
            return false;
        }
        let node = *self.env.rng.pick(&nodes);
        self.daemons[node].store(&mut self.env);
        match self.env.rng.below(40) {
            0 => self.daemons[node].disk.make_copy(),
            1..5 => self.daemons[node].disk.sync(),
            _ => {}
        }
        true
    }

    fn form(&mut self) -> bool {
        let nodes = self.env.net.unsettled();
        if nodes.is_empty() {
            return false;
        }
        let node = *self.env.rng.pick(&nodes);
        if self.env.rng.chance(600) {
            self.env.net.stall(node);
            return true;
        }
        let partial = self.busy && self.env.rng.chance(150);
        let (ring, quorate) = self.env.net.form(node, partial, &mut self.env.rng);
        let data = [ring, u64::from(quorate)];
        self.env.trace.add(self.env.now_ms, node, "ring", data);
        true
    }

    fn client(&mut self) -> bool {
        let now = self.env.now_ms;
        let due = |client: &Client| client.next_ms.is_some_and(|at| at <= now);
        let ready: Vec<usize> = (0..self.clients.len())
            .filter(|at| due(&self.clients[*at]))
            .collect();
        if ready.is_empty() {
            return false;
        }
        let at = *self.env.rng.pick(&ready);
        let node = self.clients[at].node;
        self.clients[at].next_ms = Some(now + self.env.rng.below(1500));
        if !self.daemons[node].is_up {
            return true;
        }
        let nodes = self.env.options.nodes;
        let unchecked = self.env.options.unchecked_writers;
        let deed = workload::deed(&mut self.env.rng, node, nodes, unchecked);
        let daemon = &mut self.daemons[node];
        match deed {
            Deed::Change(op) => {
                self.clients[at].next_ms = None;
                daemon.propose(&self.env, at, op, false);
            }
            Deed::Unchecked(op) => {
                self.clients[at].next_ms = None;
                daemon.propose(&self.env, at, op, true);
            }
            Deed::Unlock(path) => {
                self.clients[at].next_ms = None;
                daemon.request_unlock(&mut self.env, &path);
                daemon.propose(&self.env, at, Op::Mtime { path, mtime: 0 }, false);
            }
            Deed::Key(key, value) => daemon.set_key(&mut self.env, &key, value),
            Deed::Log(text) => daemon.log(&mut self.env, &text),
        }
        if !daemon.paused {
            daemon.run(&mut self.env);
        }
        true
    }

    fn take_answers(&mut self) {
        for daemon in &mut self.daemons {
            for (at, answer) in daemon.answers.drain(..) {
                let client = &mut self.clients[at];
                client.answer = Some(answer);
                client.next_ms = Some(self.env.now_ms + self.env.rng.below(1500));
            }
        }
    }

    /// Ends all faults.
    fn heal(&mut self) {
        self.env
            .trace
            .say(self.env.now_ms, 0, "all faults end".into());
        self.busy = false;
        self.repair_all();
    }

    fn settle(&mut self, what: &'static str) -> Result<(), Failure> {
        let deadline = self.env.now_ms + HEAL_LIMIT_MS;
        for _ in 0..STEP_LIMIT {
            let settled = self.env.net.is_quiet()
                && self
                    .daemons
                    .iter()
                    .all(|daemon| daemon.is_settled(&self.env));
            if settled {
                return Ok(());
            }
            if self.env.now_ms > deadline {
                break;
            }
            self.step()?;
        }
        Err(failure(what, "it did not in time"))
    }

    fn write_everywhere(&mut self) -> Result<(), Failure> {
        let first = self.clients.len();
        for node in 0..self.env.options.nodes {
            self.add_clients(node, 1);
            let path = Bytes::from(format!("fresh-{node}"));
            self.clients[first + node].next_ms = None;
            self.daemons[node].propose(&self.env, first + node, Op::Create { path }, false);
        }
        for _ in 0..STEP_LIMIT {
            if self.clients[first..]
                .iter()
                .all(|client| client.answer.is_some())
            {
                break;
            }
            self.step()?;
        }
        let refused = self.clients[first..]
            .iter()
            .find(|at| at.answer != Some(Answer::Done));
        if let Some(client) = refused {
            let text = format!("node {}: {:?}", client.node + 1, client.answer);
            return Err(failure("the healed cluster takes writes", text));
        }
        self.settle("the healed cluster falls quiet")
    }

    /// One more round, so that what spreads by rounds has spread.
    fn meet_again(&mut self) -> Result<(), Failure> {
        let node = self.env.rng.index(self.env.options.nodes);
        self.env.net.set_side(node, 1);
        for _ in 0..2000 {
            if self.env.net.unsettled().is_empty() {
                break;
            }
            self.step()?;
        }
        self.env.net.set_side(node, 0);
        self.settle("a short partition ends well")
    }

    fn compare(&self) -> Result<(), Failure> {
        let tree = self.daemons[0].config.app().tree();
        for daemon in &self.daemons {
            let name = daemon.node + 1;
            if daemon.config.app().tree() != tree {
                let text = format!("nodes 1 and {name} differ");
                return Err(failure("trees are equal in the end", text));
            }
            if let Some(difference) = daemon.disk.difference(tree) {
                let text = format!("node {name}: {difference}");
                return Err(failure("databases are equal in the end", text));
            }
            let loaded = daemon
                .disk
                .load()
                .map_err(|text| failure("databases load", text))?;
            if loaded.checksum() != tree.checksum() {
                return Err(failure(
                    "databases are equal in the end",
                    format!("node {name}"),
                ));
            }
        }
        if self.env.options.status {
            self.compare_status()?;
        }
        Ok(())
    }

    fn compare_status(&self) -> Result<(), Failure> {
        let log = self.daemons[0].status.app().log_text(100_000, None);
        for daemon in &self.daemons {
            if daemon.status.app().log_text(100_000, None) != log {
                let text = format!("nodes 1 and {}", daemon.node + 1);
                return Err(failure("cluster logs are equal in the end", text));
            }
            for key in (0..4).map(|at| format!("key{at}")) {
                let name = super::node::name_of(daemon.node);
                let own = daemon.status.app().value(&name, key.as_bytes());
                // Peers that were away do not learn that a key was removed.
                let Some(own) = own else { continue };
                let differs = |other: &&Daemon| {
                    other.status.app().value(&name, key.as_bytes()).as_ref() != Some(&own)
                };
                if let Some(other) = self.daemons.iter().find(differs) {
                    let text = format!("{key} of {name} on node {}", other.node + 1);
                    return Err(failure("status keys are equal in the end", text));
                }
            }
        }
        Ok(())
    }

    /// A verification finds nothing.
    fn verify(&mut self) -> Result<(), Failure> {
        let leaves = self.env.check.counts.leaves;
        self.env.now_ms += 3_700_000;
        let end = self.env.now_ms + 30_000;
        for _ in 0..STEP_LIMIT {
            if self.env.now_ms > end {
                break;
            }
            self.step()?;
        }
        if self.env.check.counts.leaves != leaves {
            return Err(failure("verification finds nothing", "a node left"));
        }
        self.settle("the verified cluster falls quiet")
    }

    /// Whether a message of that group is the business of this history.
    #[must_use]
    pub fn has_group(&self, group: Group) -> bool {
        group == Group::Config || self.env.options.status
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

fn failure(checker: &'static str, text: impl Into<String>) -> Failure {
    let text = text.into();
    Failure { checker, text }
}

/// The tree after some changes, and its line.
pub(crate) fn grow(check: &mut Checker, ops: &[Op]) -> (Tree, LineId) {
    let mut tree = Tree::new();
    let mut line = LineId::EMPTY;
    let stamp = Stamp {
        writer: 0,
        mtime: 1_699_999_000,
    };
    for op in ops {
        if let Some(change) = tree.apply(op, stamp).change {
            line = check.lines.extend(line, &change);
        }
    }
    (tree, line)
}
