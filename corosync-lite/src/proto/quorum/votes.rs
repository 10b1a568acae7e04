//! The count: who is here, with how many votes, and whether that is enough.
//!
//! Owns the record of each node that was ever seen, and the arithmetic on them. It knows nothing of
//! messages, clients and time.
//!
//! Three differences from the original are deliberate. Nothing is decided between the start of a
//! synchronisation and its end: half of the records are old then, and a node that believes for a
//! moment to have lost quorum would wait for all nodes afterwards. And a tie breaker lets what is
//! left of a partition keep quorum, as it is documented; nobody ever gains quorum by it. Otherwise
//! a node that was cut off and the last one of the other half could go on beside that half. And at
//! the end of a synchronisation all members expect the same: what those that were quorate expected,
//! or the most that anyone did. The original leaves each node with its own number.
//!
//! Invariants: this node always has a record. Within a synchronisation `quorate` does not change.

use std::collections::BTreeMap;

use crate::config::TieBreaker;
use crate::wire::NodeId;
use crate::wire::srp::NODES_MAX;
use crate::wire::votequorum::NodeFlags;

use super::settings::Settings;

/// What a node does, as clients are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// In this partition.
    Member,
    /// Not in it.
    Dead,
    /// Has said that it goes.
    Leaving,
}

impl State {
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Member => 1,
            Self::Dead => 2,
            Self::Leaving => 3,
        }
    }
}

/// What is known of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) state: State,
    pub(super) votes: u32,
    /// Votes of the whole cluster, as that node has it.
    pub(super) expected: u32,
    pub(super) flags: NodeFlags,
}

/// How often a count may go down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decrease {
    /// Never: nodes that are gone still count.
    Refused,
    /// A new value says so.
    Allowed,
    /// Nodes that are gone count no longer.
    ToMembers,
}

/// Result of a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count {
    /// Votes needed.
    pub(super) quorum: u32,
    /// Votes there.
    pub(super) total: u32,
}

/// All records, and what follows from them.
#[derive(Debug)]
pub(super) struct Votes {
    us: NodeId,
    nodes: BTreeMap<NodeId, Record>,
    /// Votes that a device has, cast or not.
    pub(super) device: u32,
    pub(super) quorum: u32,
    pub(super) quorate: bool,
    /// Some node has not been seen yet since the start, or since quorum was lost.
    pub(super) waiting: bool,
    /// Clean leaves lower the expected votes no further.
    pub(super) barrier: u32,
    /// The most votes ever expected.
    pub(super) tracked: u32,
    /// A device of this node may bless a partition.
    pub(super) master_wins: bool,
    /// Lowest and highest node of the last partition that was quorate by its votes.
    pub(super) ends: Option<(NodeId, NodeId)>,
    pub(super) members: Vec<NodeId>,
    /// Those of the last synchronisation that ended.
    pub(super) previous: Vec<NodeId>,
    /// Since then somebody has come.
    grown: bool,
    /// What members said in this synchronisation: their flags, and the votes that they expect.
    /// It has no effect if the synchronisation does not end.
    pub(super) said: BTreeMap<NodeId, (NodeFlags, u32)>,
    /// From the announcement of a configuration until everything of it is known.
    pub(super) in_sync: bool,
}

impl Votes {
    /// A node that has seen nobody. It decides nothing before its first synchronisation.
    pub(super) fn new(us: NodeId, tracked: u32) -> Self {
        let own = Record {
            state: State::Member,
            votes: 1,
            expected: 0,
            flags: NodeFlags::FIRST,
        };
        Self {
            us,
            nodes: BTreeMap::from([(us, own)]),
            device: 0,
            quorum: 0,
            quorate: false,
            waiting: false,
            barrier: 0,
            tracked,
            master_wins: false,
            ends: None,
            members: Vec::new(),
            previous: Vec::new(),
            grown: false,
            said: BTreeMap::new(),
            in_sync: true,
        }
    }

    pub(super) fn own(&self) -> Record {
        self.nodes.get(&self.us).copied().expect("own record")
    }

    pub(super) fn own_mut(&mut self) -> &mut Record {
        self.nodes.get_mut(&self.us).expect("own record")
    }

    pub(super) fn set_own_flag(&mut self, flag: NodeFlags, on: bool) {
        let own = self.own_mut();
        own.flags = own.flags.with(flag, on);
    }

    pub(super) fn set_waiting(&mut self, waiting: bool) {
        self.waiting = waiting;
        self.set_own_flag(NodeFlags::WAIT_FOR_ALL, waiting);
    }

    pub(super) fn record(&self, node: NodeId) -> Option<Record> {
        self.nodes.get(&node).copied()
    }

    pub(super) fn record_mut(&mut self, node: NodeId) -> Option<&mut Record> {
        self.nodes.get_mut(&node)
    }

    pub(super) fn records(&self) -> impl Iterator<Item = (NodeId, Record)> {
        self.nodes.iter().map(|(node, record)| (*node, *record))
    }

    pub(super) fn counted(&self) -> impl Iterator<Item = (NodeId, Record)> {
        self.records()
            .filter(|(_, record)| record.state == State::Member)
    }

    pub(super) fn insert(&mut self, node: NodeId, record: Record) {
        if !self.nodes.contains_key(&node) && self.nodes.len() > NODES_MAX {
            let dead = |record: &Record| record.state == State::Dead;
            let oldest = self.nodes.iter().find(|(_, record)| dead(record));
            if let Some(node) = oldest.map(|(node, _)| *node) {
                self.nodes.remove(&node);
            }
        }
        self.nodes.insert(node, record);
    }

    /// A configuration: whoever is not in it is dead. Says whether somebody is gone.
    pub(super) fn enter(&mut self, members: &[NodeId], transitional: &[NodeId]) -> bool {
        let mut left = false;
        for (node, record) in &mut self.nodes {
            if *node != self.us && !members.contains(node) {
                left |= record.state != State::Dead;
                record.state = State::Dead;
            }
        }
        if members.len() > 1 {
            self.set_own_flag(NodeFlags::FIRST, false);
        }
        let stayed = |node: &NodeId| self.members.contains(node) && transitional.contains(node);
        self.grown |= !members.iter().all(stayed);
        let before = std::mem::replace(&mut self.members, members.to_vec());
        if !self.in_sync {
            self.previous = before;
        }
        self.in_sync = true;
        self.said.clear();
        left
    }

    pub(super) fn count(&self, rules: &Settings, decrease: bool, most_expected: u32) -> Count {
        let mut high = 0;
        let (mut total, mut nodes) = (0_u32, 0_usize);
        for (_, record) in self.counted() {
            high = high.max(record.expected);
            total = total.saturating_add(record.votes);
            nodes += 1;
        }
        if self.own().flags.contains(NodeFlags::DEVICE_CAST_VOTE) {
            total = total.saturating_add(self.device);
            nodes += 1;
        }
        if most_expected > 0 {
            high = most_expected;
        }
        let mut quorum = majority(high).max(majority(total));
        if !decrease {
            quorum = quorum.max(self.quorum);
        }
        if rules.two_node && nodes <= 2 {
            quorum = 1;
        }
        Count { quorum, total }
    }

    /// Votes there, for the present decision.
    pub(super) fn total(&self, rules: &Settings) -> u32 {
        self.count(rules, true, 0).total
    }

    /// Counts again, and decides unless a synchronisation is under way.
    pub(super) fn recount(&mut self, rules: &Settings, decrease: Decrease) {
        let counted = self.counted();
        let mut all = counted.fold(self.device, |sum, (_, record)| {
            sum.saturating_add(record.votes)
        });
        let voters = self.counted().count() + usize::from(self.device > 0);
        all = all.max(self.own().expected);
        self.own_mut().expected = all;
        if rules.tracking {
            self.tracked = self.tracked.max(all);
        }
        let mut most = 0;
        if decrease == Decrease::ToMembers {
            most = u32::try_from(voters).unwrap_or(u32::MAX);
            if rules.allow_downscale {
                most = most.max(self.barrier);
            }
        }
        self.quorum = self
            .count(rules, decrease != Decrease::Refused, most)
            .quorum;
        self.expect(most);
        if !self.in_sync {
            self.decide(rules);
        }
    }

    /// All that are here expect `votes`; 0 changes nothing.
    pub(super) fn expect(&mut self, votes: u32) {
        let counted = self.nodes.values_mut();
        for record in counted.filter(|record| votes > 0 && record.state == State::Member) {
            record.expected = votes;
        }
    }

    /// The end of a synchronisation: counts again, and decides.
    pub(super) fn settle(&mut self, rules: &Settings) {
        let said = std::mem::take(&mut self.said);
        let has = |flag| move |(flags, _): &&(NodeFlags, u32)| flags.contains(flag);
        let most = |of: NodeFlags| said.values().filter(has(of)).map(|said| said.1).max();
        // Who remembers the most votes ever expected insists on them.
        let agreed = most(NodeFlags::QUORATE).filter(|_| !rules.tracking);
        let agreed = agreed.or(most(NodeFlags::default()));
        self.expect(agreed.unwrap_or(0));
        let mut decided = said.values().filter(has(NodeFlags::QUORATE));
        if self.waiting && decided.any(|said| !has(NodeFlags::WAIT_FOR_ALL)(&said)) {
            self.set_waiting(false);
        }
        let leaves = said.values().any(|said| has(NodeFlags::LEAVING)(&said));
        let decrease = if leaves {
            Decrease::ToMembers
        } else {
            Decrease::Allowed
        };
        self.recount(rules, decrease);
        self.decide(rules);
        self.in_sync = false;
        self.grown = false;
    }

    fn decide(&mut self, rules: &Settings) {
        let total = self.total(rules);
        if rules.wait_for_all && self.waiting && !self.quorate {
            if total != self.own().expected {
                return;
            }
            self.set_waiting(false);
        }
        let enough = self.quorum <= total;
        if enough {
            let nodes = || self.counted().map(|(node, _)| node).chain([self.us]);
            self.ends = nodes().min().zip(nodes().max());
        }
        let quorate = enough || self.keeps_by_tie(rules, total) || self.blessed();
        self.quorate = quorate;
        self.set_own_flag(NodeFlags::QUORATE, quorate);
        if rules.wait_for_all {
            self.set_waiting(!quorate);
        }
    }

    /// Half of the votes, and the half that is preferred.
    fn keeps_by_tie(&self, rules: &Settings, total: u32) -> bool {
        let Some(tie_breaker) = &rules.tie_breaker else {
            return false;
        };
        let gone = self.previous.len().saturating_sub(self.members.len());
        let rest_too_small = u32::try_from(gone).is_ok_and(|gone| gone < self.quorum);
        self.quorate
            && !self.grown
            && total == self.own().expected / 2
            && rest_too_small
            && self.is_preferred(tie_breaker)
    }

    fn is_preferred(&self, tie_breaker: &TieBreaker) -> bool {
        match tie_breaker {
            TieBreaker::Lowest => self.ends.is_some_and(|(lowest, _)| self.is_counted(lowest)),
            TieBreaker::Highest => self
                .ends
                .is_some_and(|(_, highest)| self.is_counted(highest)),
            TieBreaker::List(nodes) => {
                let here = |node: &u32| self.members.contains(&NodeId(*node));
                let Some(first) = nodes.iter().position(here) else {
                    return false;
                };
                // One that was there before may go on in the other half.
                let earlier = nodes.iter().take(first);
                !earlier
                    .into_iter()
                    .any(|node| self.previous.contains(&NodeId(*node)))
            }
        }
    }

    /// The device of some member has chosen this partition.
    fn blessed(&self) -> bool {
        let bits = NodeFlags::DEVICE_MASTER_WINS | NodeFlags::DEVICE_CAST_VOTE;
        self.master_wins
            && self
                .counted()
                .any(|(_, record)| record.flags.contains(bits))
    }

    pub(super) fn is_counted(&self, node: NodeId) -> bool {
        self.record(node)
            .is_some_and(|record| record.state == State::Member)
    }
}

/// More than half.
fn majority(votes: u32) -> u32 {
    votes / 2 + 1
}
