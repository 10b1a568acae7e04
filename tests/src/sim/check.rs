//! Checkers that look at all nodes from outside.
//!
//! Which acknowledged changes may be lost is decided by the rule of all members alone: of the
//! states of a round the highest version wins, then the latest time, then the lowest node. A
//! change can lose only to another history of at least the same length, which arises when
//! messages were handed out to a part of the members before the network broke, when databases
//! lost transactions, or when daemons were away while their hosts were counted for quorum. So:
//!
//! - every member ends a round on the line of the member that wins by that rule ([`Checker::evaluated`]);
//! - a round never goes back on the same line;
//! - a change that a majority had, and that none of them lost by itself, is on the line that a
//!   majority agrees on in every later round, unless an earlier round chose another line by the
//!   rule ([`Checker::evaluated`]);
//! - what is acknowledged is on disk of its node, and was ordered in a ring with quorum
//!   ([`Checker::acknowledged`]);
//! - members of one configuration that are in sync and were handed the same messages have equal
//!   trees, and equal lines mean equal trees everywhere.

use std::collections::BTreeMap;

use pmxcfs::{
    memdb::{Root, Tree},
    wire::{MemberId, dfsm::Epoch},
};

use super::{
    lines::{LineId, Lines},
    net::Node,
};

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Name of the checker.
    pub checker: &'static str,
    /// What was found.
    pub text: String,
}

/// The state with which a member went into a round.
#[derive(Clone, Debug)]
struct Stated {
    root: Root,
    line: LineId,
    tree: Tree,
}

/// One round.
#[derive(Clone, Debug, Default)]
struct Round {
    states: BTreeMap<MemberId, Stated>,
    /// Acknowledged changes that a majority had when the first state was made.
    safe: Vec<Acknowledged>,
}

/// An acknowledged change.
#[derive(Clone, Copy, Debug)]
struct Acknowledged {
    line: LineId,
    node: Node,
}

/// How often rare things happened, so that tests can ask whether they did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rounds of two or more members that came to an end, per member.
    pub rounds: u64,
    /// Trees replaced by a leader's.
    pub replaced: u64,
    /// Acknowledged changes that lost to another line by the rule of all members.
    pub superseded: u64,
    /// Changes acknowledged.
    pub acknowledged: u64,
    /// Messages refused for lack of quorum.
    pub refused: u64,
    /// Acknowledged though ordered without quorum: quorum came back before they were handed out.
    pub late: u64,
    /// Times a node left a group.
    pub leaves: u64,
}

impl Counts {
    /// Adds those of another history.
    pub fn add(&mut self, other: Self) {
        self.rounds += other.rounds;
        self.replaced += other.replaced;
        self.superseded += other.superseded;
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.late += other.late;
        self.leaves += other.leaves;
    }
}

/// See the module documentation.
#[derive(Debug)]
pub struct Checker {
    /// Histories of trees.
    pub lines: Lines,
    /// What happened how often.
    pub counts: Counts,
    /// Nodes of the cluster.
    nodes: usize,
    failure: Option<Failure>,
    rounds: BTreeMap<[u32; 4], Round>,
    order: Vec<[u32; 4]>,
    synced: BTreeMap<(u64, u64), (Node, Tree)>,
    acknowledged: Vec<Acknowledged>,
    compare_lines: bool,
}

/// Rounds and places that are remembered.
const REMEMBERED: usize = 4096;

impl Checker {
    /// For a cluster of that size. `compare_lines`: no writer leaves traces outside of versions.
    #[must_use]
    pub fn new(nodes: usize, compare_lines: bool) -> Self {
        Self {
            lines: Lines::default(),
            counts: Counts::default(),
            nodes,
            failure: None,
            rounds: BTreeMap::new(),
            order: Vec::new(),
            synced: BTreeMap::new(),
            acknowledged: Vec::new(),
            compare_lines,
        }
    }

    /// Takes note of a broken rule; the first one counts.
    pub fn fail(&mut self, checker: &'static str, text: impl Into<String>) {
        let text = text.into();
        self.failure.get_or_insert(Failure { checker, text });
    }

    /// The first broken rule.
    pub fn take_failure(&mut self) -> Option<Failure> {
        self.failure.take()
    }

    fn majority(&self) -> usize {
        self.nodes / 2 + 1
    }

    /// A node is at the end of that line now.
    pub fn holds(&mut self, node: Node, line: LineId, tree: &Tree) {
        self.lines.hold(node, line);
        if self.compare_lines && !self.lines.same_tree(line, tree) {
            let text = format!("node {}: same changes, another tree", node + 1);
            self.fail("same changes, same tree", text);
        }
    }

    /// A member sends its state for a round.
    pub fn stated(&mut self, epoch: Epoch, member: MemberId, line: LineId, tree: &Tree) {
        let key = key_of(epoch);
        if !self.rounds.contains_key(&key) {
            self.order.push(key);
            let majority = self.majority();
            let safe = |change: &&Acknowledged| self.lines.is_safe(change.line, majority);
            let round = Round {
                states: BTreeMap::new(),
                safe: self.acknowledged.iter().filter(safe).copied().collect(),
            };
            self.rounds.insert(key, round);
        }
        let stated = Stated {
            root: tree.root(),
            line,
            tree: tree.clone(),
        };
        self.rounds
            .entry(key)
            .or_default()
            .states
            .insert(member, stated);
        if self.order.len() > REMEMBERED / 64 {
            let oldest = self.order.remove(0);
            self.rounds.remove(&oldest);
        }
    }

    /// The line that wins a round, by the rule of all members.
    fn winner(&self, epoch: Epoch, members: &[MemberId]) -> Option<(LineId, Tree)> {
        let round = self.rounds.get(&key_of(epoch))?;
        let mut best: Option<&Stated> = None;
        for member in members {
            let stated = round.states.get(member)?;
            let rank = |stated: &Stated| (stated.root.version, stated.root.mtime);
            if best.is_none_or(|best| rank(stated) > rank(best)) {
                best = Some(stated);
            }
        }
        best.map(|best| (best.line, best.tree.clone()))
    }

    /// A member has the states of all. `own`: its line, if it need not wait for updates.
    pub fn evaluated(
        &mut self,
        epoch: Epoch,
        node: Node,
        members: &[MemberId],
        own: Option<LineId>,
    ) {
        self.counts.rounds += 1;
        let Some((winner, _)) = self.winner(epoch, members) else {
            let text = format!("node {}: evaluated states that nobody sent", node + 1);
            return self.fail("rounds", text);
        };
        if own.is_some_and(|line| line != winner) {
            let text = format!("node {}: in sync without the winning tree", node + 1);
            return self.fail("highest version wins", text);
        }
        self.judge_losers(epoch, members, winner);
        if members.len() >= self.majority() {
            self.look_for_lost(epoch, node, winner);
        }
    }

    fn judge_losers(&mut self, epoch: Epoch, members: &[MemberId], winner: LineId) {
        let round = self.rounds.get(&key_of(epoch));
        let line = |member| {
            let stated = round.and_then(|round| round.states.get(member));
            stated.map(|stated| stated.line)
        };
        let lines: Vec<LineId> = members.iter().filter_map(line).collect();
        for line in lines {
            let is_lost = |change: &&Acknowledged| {
                self.lines.contains(line, change.line)
                    && !self.lines.contains(winner, change.line)
                    && !self.lines.is_superseded(change.line)
            };
            let lost = self.acknowledged.iter().filter(is_lost).count();
            self.counts.superseded += lost as u64;
            let fork = self.lines.fork(line, winner);
            if fork == winner && self.lines.version(line) > self.lines.version(winner) {
                self.fail(
                    "rounds go forward",
                    "the winner is an earlier state of a loser",
                );
            }
            self.lines.supersede(line, winner);
        }
    }

    fn look_for_lost(&mut self, epoch: Epoch, node: Node, winner: LineId) {
        let majority = self.majority();
        let lines = &self.lines;
        let round = self.rounds.get(&key_of(epoch));
        let safe = round.into_iter().flat_map(|round| &round.safe);
        let lost = safe.copied().find(|change| {
            lines.is_safe(change.line, majority) && !lines.contains(winner, change.line)
        });
        if let Some(lost) = lost {
            let text = format!(
                "node {} and a majority agree on a tree without a change acknowledged on node {}",
                node + 1,
                lost.node + 1
            );
            self.fail("acknowledged changes stay", text);
        }
    }

    /// The line that a member has after it took over the leader's tree.
    pub fn committed(
        &mut self,
        epoch: Epoch,
        node: Node,
        members: &[MemberId],
        tree: &Tree,
    ) -> LineId {
        self.counts.replaced += 1;
        let Some((line, winner)) = self.winner(epoch, members) else {
            let text = format!("node {}: took over a tree that nobody sent", node + 1);
            self.fail("rounds", text);
            return LineId::EMPTY;
        };
        if winner != *tree {
            let text = format!(
                "node {}: took over another tree than the winner's",
                node + 1
            );
            self.fail("highest version wins", text);
        }
        line
    }

    /// A member that is in sync has handled that many messages of a configuration.
    pub fn in_sync(&mut self, node: Node, view: u64, at: u64, tree: &Tree) {
        match self.synced.get(&(view, at)) {
            None => {
                self.synced.insert((view, at), (node, tree.clone()));
                if self.synced.len() > REMEMBERED {
                    self.synced.pop_first();
                }
            }
            Some((other, known)) if known != tree => {
                let text = format!(
                    "nodes {} and {} are in sync and differ: {:?} and {:?}",
                    other + 1,
                    node + 1,
                    known.root(),
                    tree.root()
                );
                self.fail("members in sync are equal", text);
            }
            Some(_) => {}
        }
    }

    /// A node applied a change that was ordered in a ring without quorum. `overtaken`: the node
    /// learnt of the return of quorum before it was handed the change.
    pub fn applied_without_quorum(&mut self, node: Node, overtaken: bool) {
        if overtaken {
            self.counts.late += 1;
        } else {
            let text = format!("node {} applied a change without quorum", node + 1);
            self.fail("no change without quorum", text);
        }
    }

    /// A client gets its answer: the change was made.
    pub fn acknowledged(&mut self, node: Node, line: LineId, stored: LineId) {
        self.counts.acknowledged += 1;
        if !self.lines.contains(stored, line) {
            let text = format!("node {} acknowledged what it has not stored", node + 1);
            self.fail("stored before acknowledged", text);
        }
        self.acknowledged.push(Acknowledged { line, node });
    }
}

fn key_of(epoch: Epoch) -> [u32; 4] {
    [epoch.counter, epoch.time, epoch.node_id, epoch.pid]
}
