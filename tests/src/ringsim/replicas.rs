//! The configuration replica of the cluster file system on some histories: the production state
//! machine, in the shell of [`crate::sim::node`], over process groups of the simulated daemons.

use bytes::Bytes;
use corosync_lite::{
    proto::node::{Request, Service},
    service::{
        ClientId,
        cpg::{self, Address, Event as CpgEvent},
    },
};
use pmxcfs::{memdb::Op, wire::MemberId};

use super::{
    check::Ring,
    member::Owner,
    network::Happening,
    options::Options,
    world::{MS, World, failure},
};
use crate::sim::{
    self,
    check::{Checker, Failure},
    disk::Disk,
    net::{Asked, Event, Group, Net},
    node::{Daemon, Env},
    rng::Rng,
    trace::Trace,
    workload::{self, Deed},
};

/// Virtual time within which the replicas of a healed cluster are equal.
const SETTLE_MS: u64 = 60_000;
const GROUPS: [&[u8]; 2] = [b"pve_dcdb_v1\0", b"pve_kvstore_v1\0"];

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Replicas {
    env: Env,
    daemons: Vec<Daemon>,
    /// Connections of the groups of each node.
    clients: Vec<[Option<ClientId>; 2]>,
    /// What each was told of quorum last.
    quorate: Vec<Option<bool>>,
    /// How often processes have asked to join.
    joins: std::collections::BTreeMap<MemberId, u64>,
    is_busy: bool,
}

impl Replicas {
    pub(super) fn new(options: &Options) -> Self {
        let nodes = usize::try_from(options.nodes).unwrap_or(1);
        let mut inner = sim::Options::draw(options.seed);
        inner.nodes = nodes;
        inner.unchecked_writers = false;
        let mut env = Env {
            net: Net::new(nodes, false, false),
            check: Checker::new(nodes, true),
            rng: Rng::new(options.seed ^ 0x7265_706c_6963_6173),
            trace: Trace::default(),
            now_ms: 0,
            last_pid: 1 << 20,
            options: inner,
        };
        let (tree, line) = sim::grow(&mut env.check, &workload::skeleton(nodes));
        let daemons = (0..nodes)
            .map(|node| {
                env.net.daemon_gone(node);
                let ahead = env.rng.below(env.options.skew_secs + 1);
                Daemon::start(node, Disk::new(&tree, line), &mut env, ahead)
            })
            .collect();
        Self {
            env,
            daemons,
            clients: vec![[None; 2]; nodes],
            quorate: vec![None; nodes],
            joins: std::collections::BTreeMap::new(),
            is_busy: true,
        }
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.env.check.counts.acknowledged
    }

    pub(super) fn describe(&self) -> Vec<String> {
        let lines = self.env.trace.lines();
        let nodes = self.daemons.iter().map(|it| it.describe(&self.env));
        lines.into_iter().chain(nodes).collect()
    }

    pub(super) fn messaging_started(&mut self, id: u32) {
        let node = World::at(id);
        self.env.net.start_daemon(node);
        self.clients[node] = [None; 2];
        self.quorate[node] = None;
    }

    pub(super) fn messaging_gone(&mut self, id: u32) {
        let node = World::at(id);
        self.env.net.daemon_gone(node);
        self.clients[node] = [None; 2];
    }

    pub(super) fn set_quorate(&mut self, id: u32, quorate: bool) {
        let node = World::at(id);
        if self.quorate[node].replace(quorate) != Some(quorate) {
            self.env.net.tell_quorum(node, quorate);
        }
    }

    /// No client wants anything more.
    pub(super) fn heal(&mut self) {
        self.is_busy = false;
    }

    /// The next event comes in a ring that is not in operation any more.
    pub(super) fn breaking(&mut self, id: u32, group: Group) {
        self.env.net.tell(World::at(id), group, Event::Breaking);
    }

    /// A group tells its member something.
    pub(super) fn told(&mut self, id: u32, group: Group, ring: Option<Ring>, event: CpgEvent) {
        let node = World::at(id);
        match event {
            CpgEvent::Deliver {
                nodeid, pid, data, ..
            } => {
                let event = Event::Deliver {
                    from: MemberId { node: nodeid, pid },
                    payload: data,
                    quorate: self.quorate[node] == Some(true),
                };
                self.env.net.tell(node, group, event);
            }
            CpgEvent::Confchg {
                members,
                left,
                joined,
                ..
            } => {
                let own = self.daemons[node].member;
                if left.iter().any(|it| member(it) == own) {
                    self.env.net.has_left(group, own);
                    return;
                }
                let members: Vec<MemberId> = members.iter().map(member).collect();
                let event = Event::Members {
                    view: self.view(ring, &members, &left),
                    members,
                    joined: !joined.is_empty(),
                };
                self.env.net.tell(node, group, event);
            }
            CpgEvent::PartialDeliver { .. } | CpgEvent::TotemConfchg { .. } => {}
        }
    }

    /// A number for these members of a ring, and their present stay in the group. When somebody
    /// left within a ring the others may have been among themselves before in the same ring: so
    /// that stay belongs to it.
    fn view(&self, ring: Option<Ring>, members: &[MemberId], left: &[Address]) -> u64 {
        use std::hash::{DefaultHasher, Hash as _, Hasher as _};
        let mut hasher = DefaultHasher::new();
        (ring, members.len()).hash(&mut hasher);
        // A change of the ring has others that are gone on each side of a merge.
        let gone = left.iter().filter(|it| it.reason != cpg::Reason::NodeDown);
        for who in members.iter().copied().chain(gone.map(member)) {
            (who, self.joins.get(&who)).hash(&mut hasher);
        }
        hasher.finish()
    }

    fn work(&mut self, node: usize) {
        if !self.is_busy || !self.env.rng.chance(300) {
            return;
        }
        let nodes = self.env.options.nodes;
        if let Deed::Change(op) = workload::deed(&mut self.env.rng, node, nodes, false) {
            self.daemons[node].propose(&self.env, 0, op, false);
        }
    }

    fn is_settled(&self) -> bool {
        let mut nodes = self.daemons.iter();
        nodes.all(|daemon| {
            daemon.is_settled(&self.env)
                && !self.env.net.has_events(daemon.node)
                && !self.env.net.has_asked(daemon.node)
        })
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
        }
        Ok(())
    }
}

impl World {
    /// The replica of a node runs: reads what it was told, and asks for what it wants.
    pub(super) fn run_replica(&mut self, id: u32) {
        let (now, at) = (self.now, Self::at(id));
        let gap = MS * self.rng.between(1, 20);
        self.agenda.plan(now + gap, Happening::Replica(id));
        let Some(replicas) = &mut self.replicas else {
            return;
        };
        let env = &mut replicas.env;
        env.now_ms = now / MS;
        replicas.work(at);
        let (env, daemon) = (&mut replicas.env, &mut replicas.daemons[at]);
        if daemon.is_runnable(env) {
            for _ in 0..8 {
                daemon.run(env);
            }
        }
        while daemon.has_items() && env.rng.chance(800) {
            daemon.store(env);
        }
        daemon.answers.clear();
        if let Some(broken) = env.check.take_failure() {
            self.check.fail(broken.checker, broken.text);
        }
        self.carry_requests(id);
    }

    fn carry_requests(&mut self, id: u32) {
        let at = Self::at(id);
        loop {
            let member = &mut self.members[at];
            if member.awake().is_none() || member.is_blocked {
                return;
            }
            let Some(replicas) = &mut self.replicas else {
                return;
            };
            let Some(asked) = replicas.env.net.take_asked(at) else {
                return;
            };
            match asked {
                Asked::Join(group, who) => self.join_replica(id, group, who),
                Asked::Leave(group, who) => {
                    let request = cpg::Request::Leave {
                        group: name(group),
                        pid: who.pid,
                    };
                    self.replica_asks(id, group, request);
                }
                Asked::Send(group, data) => {
                    let request = cpg::Request::Mcast { guarantee: 0, data };
                    self.replica_asks(id, group, request);
                }
            }
        }
    }

    fn join_replica(&mut self, id: u32, group: Group, who: MemberId) {
        let owner = Owner::Replica(group);
        if let Some(replicas) = &mut self.replicas {
            *replicas.joins.entry(who).or_insert(0) += 1;
            let old = replicas.clients[Self::at(id)][group as usize].take();
            if let Some(old) = old {
                self.hang_up(id, old);
            }
        }
        let Some(client) = self.connect(id, Service::Cpg, owner) else {
            return;
        };
        let number = group as u64;
        self.check.joining_foreign(id, client, number, who.pid);
        if let Some(replicas) = &mut self.replicas {
            replicas.clients[Self::at(id)][group as usize] = Some(client);
        }
        let request = cpg::Request::Join {
            group: name(group),
            pid: who.pid,
            flags: 0,
        };
        self.request(id, client, Request::Cpg(request));
    }

    fn replica_asks(&mut self, id: u32, group: Group, request: cpg::Request) {
        let clients = self.replicas.as_ref().map(|it| it.clients[Self::at(id)]);
        if let Some(client) = clients.and_then(|clients| clients[group as usize]) {
            self.request(id, client, Request::Cpg(request));
        }
    }

    /// The replicas of a healed cluster become equal, and take changes.
    pub(super) fn settle_replicas(&mut self) -> Result<(), Failure> {
        if self.replicas.is_none() {
            return Ok(());
        }
        self.settle_once()?;
        if let Some(replicas) = &mut self.replicas {
            for node in 0..replicas.daemons.len() {
                let path = Bytes::from(format!("fresh-{node}"));
                replicas.daemons[node].propose(&replicas.env, 0, Op::Create { path }, false);
            }
        }
        self.settle_once()?;
        let Some(replicas) = &self.replicas else {
            return Ok(());
        };
        replicas.compare()?;
        let tree = replicas.daemons[0].config.app().tree();
        let there = |node: usize| tree.find(format!("fresh-{node}").as_bytes()).is_some();
        if !(0..replicas.daemons.len()).all(there) {
            return Err(failure("the healed cluster takes writes", "one is missing"));
        }
        Ok(())
    }

    fn settle_once(&mut self) -> Result<(), Failure> {
        let end = self.now + SETTLE_MS * MS;
        while !self.replicas.as_ref().is_some_and(Replicas::is_settled) {
            if self.now >= end {
                return Err(failure("replicas come to rest", "not in time"));
            }
            self.run_until(self.now + 50 * MS)?;
        }
        Ok(())
    }
}

fn member(address: &Address) -> MemberId {
    MemberId {
        node: address.nodeid,
        pid: address.pid,
    }
}

fn name(group: Group) -> cpg::Group {
    cpg::Group::new(GROUPS[group as usize]).unwrap_or_default()
}
