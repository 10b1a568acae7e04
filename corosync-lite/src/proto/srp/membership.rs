//! Agreement on a membership: join messages, proc and failed lists, consensus, other rings.
//!
//! Invariants: `proc` contains this node while gathering; `consensus` holds only nodes that sent a
//! join message that equalled this node's lists, and `dissent` those whose last one did not; a
//! commit token is made only when all of `proc - failed` are in the first and none of them in the
//! second, and this node is the lowest of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::timer::Timer;
use super::{Destination, Discard, GatherReason, Srp, State};
use crate::wire::srp::{
    CommitEntry, CommitToken, Header, Mcast, MembJoin, MergeDetect, NODES_MAX, NodeId, RingId,
    SeqNo,
};

/// Ring sequences from here on are refused, so that the next one can always be made.
pub const RING_SEQ_LIMIT: u64 = 1 << 62;

/// What is known of a node that is no member.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// Lowest ring sequence that it can be at: above any ring shared with it, not below what it
    /// has shown since. (A node on its way to a new ring still shows the last one: to ignore that,
    /// too, would let two nodes chase each other for ever.)
    ring_seq_min: u64,
    /// First and last time that it was heard with a lower one.
    heard: Option<(Instant, Instant)>,
}

impl Srp {
    /// Starts to agree on a membership; the proposal is what `proc` and `failed` say.
    pub(super) fn enter_gather(&mut self, now: Instant, reason: GatherReason) {
        self.timers.stop_protocol();
        if matches!(self.state, State::Operational) {
            self.shown.clear();
            self.forgiven.clear();
        }
        self.rotation.held = false;
        self.proc.insert(self.node);
        self.consensus = BTreeMap::from([(self.node, self.ring.seq)]);
        self.dissent.clear();
        self.state = State::Gather;
        *self.stats.gathers.entry(reason).or_default() += 1;
        if reason == GatherReason::ConsensusTimeout {
            self.stats.gathers_in_vain = self.stats.gathers_in_vain.saturating_add(1);
        }
        self.announce(Some(reason));
        if self.config.send_join.is_zero() {
            self.send_join();
        } else {
            let delay = self.random_below(self.config.send_join);
            self.timers.start(Timer::SendJoin, now, delay);
        }
        self.timers.start(Timer::Join, now, self.config.join);
        self.timers
            .start(Timer::Consensus, now, self.config.consensus);
        self.check_consensus(now);
    }

    /// Multicasts this node's proposal.
    pub(super) fn send_join(&mut self) {
        let join = MembJoin {
            header: Header::new(self.node, NodeId::NONE),
            system_from: self.node,
            proc: self.proc.iter().copied().collect(),
            failed: self.failed.iter().copied().collect(),
            ring_seq: self.ring.seq,
        };
        self.stats.joins.sent += 1;
        self.transmit(Destination::Others, join.encode());
    }

    /// Multicasts the goodbye: a proposal without this node, from nobody.
    pub(super) fn send_leave(&mut self) {
        let proc = self
            .proc
            .iter()
            .copied()
            .filter(|node| *node != self.node)
            .collect();
        let others = self
            .failed
            .iter()
            .copied()
            .filter(|node| *node != self.node);
        let leave = MembJoin {
            header: Header::new(NodeId::NONE, NodeId::NONE),
            system_from: self.node,
            proc,
            failed: others.chain([self.node]).take(NODES_MAX).collect(),
            ring_seq: self.ring.seq,
        };
        self.stats.joins.sent += 1;
        self.transmit(Destination::Others, leave.encode());
    }

    pub(super) fn handle_join(&mut self, now: Instant, join: &MembJoin) -> Result<(), Discard> {
        if self.joins_ignored_until.is_some_and(|until| now < until) {
            return Err(Discard::Paused);
        }
        let from = join.system_from;
        if from == self.node {
            return Err(Discard::Own);
        }
        let proc: BTreeSet<NodeId> = join.proc.iter().copied().collect();
        let failed: BTreeSet<NodeId> = join.failed.iter().copied().collect();
        let names_itself = proc.contains(&from) || join.is_leave();
        let nobody = |nodes: &BTreeSet<NodeId>| nodes.contains(&NodeId::NONE);
        if from == NodeId::NONE || nobody(&proc) || nobody(&failed) || !names_itself {
            return Err(Discard::Implausible);
        }
        if join.ring_seq >= RING_SEQ_LIMIT {
            return Err(Discard::Implausible);
        }
        let is_overtaken = join.ring_seq < self.ring.seq;
        match self.state {
            State::Operational => {
                let is_stale = if self.memb.contains(&from) {
                    is_overtaken
                } else {
                    self.is_of_the_past(now, from, join.ring_seq)
                };
                if is_stale || failed.contains(&self.node) {
                    return Err(Discard::Stale);
                }
            }
            State::Gather => self.forgive(now, join),
            State::Commit | State::Recovery(_) => {
                let is_refusal = matches!(self.state, State::Commit)
                    && self.has_gone_on(from, join.ring_seq, &proc, &failed);
                if !self.members.contains(&from) || (is_overtaken && !is_refusal) {
                    self.ring_seq_max = self.ring_seq_max.max(join.ring_seq);
                    return Err(Discard::Stale);
                }
                let reason = match self.state {
                    State::Commit => GatherReason::JoinInCommit,
                    _ => GatherReason::JoinInRecovery,
                };
                self.ring_seq_max = self.ring_seq_max.max(join.ring_seq);
                self.enter_gather(now, reason);
            }
            State::Stopped => return Err(Discard::Stopped),
        }
        self.ring_seq_max = self.ring_seq_max.max(join.ring_seq);
        self.process_join(now, join, &proc, &failed)
    }

    /// A node that was given up and has had a ring of its own since has begun anew, with nobody
    /// given up: if those who go on without it did not hear that, parts of a cluster whose timeouts
    /// run in turns could give each other up for ever. Each node is forgiven once on the way to a
    /// ring, so one that does not hear the others does not keep them from theirs.
    fn forgive(&mut self, now: Instant, join: &MembJoin) {
        let from = join.system_from;
        if self.shown.len() >= NODES_MAX && !self.shown.contains_key(&from) {
            return;
        }
        let before = self.shown.insert(from, join.ring_seq);
        let is_anew = before.is_some_and(|before| before < join.ring_seq) && join.failed.is_empty();
        if is_anew && self.failed.contains(&from) && self.forgiven.insert(from) {
            self.failed.remove(&from);
            self.enter_gather(now, GatherReason::JoinNews);
        }
    }

    /// Whether a node that agreed to the ring being committed has heard of more since: it will not
    /// take the commit token, and to wait until that is missed would be a waste. What it proposed
    /// before it agreed was less, and on an older ring it does not count.
    fn has_gone_on(
        &self,
        from: NodeId,
        ring_seq: u64,
        proc: &BTreeSet<NodeId>,
        failed: &BTreeSet<NodeId>,
    ) -> bool {
        let is_more = (proc, failed) != (&self.proc, &self.failed);
        let is_all = proc.is_superset(&self.proc) && failed.is_superset(&self.failed);
        self.consensus.get(&from) == Some(&ring_seq) && is_all && is_more
    }

    /// Whether a node that is no member shows a ring sequence that it is known to have left
    /// behind: then the datagram is late, or recorded and played back. A node that has lost what
    /// it had stored shows the same; it is believed when it keeps on for a token timeout.
    fn is_of_the_past(&mut self, now: Instant, from: NodeId, ring_seq: u64) -> bool {
        let patience = self.config.token;
        let Some(past) = self.past.get_mut(&from) else {
            return false;
        };
        let (since, last) = match past.heard {
            Some((since, last)) if now.saturating_duration_since(last) < patience => (since, now),
            _ => (now, now),
        };
        let is_past = ring_seq < past.ring_seq_min;
        if is_past && now.saturating_duration_since(since) < patience {
            past.heard = Some((since, last));
            return true;
        }
        past.ring_seq_min = ring_seq;
        past.heard = None;
        false
    }

    /// Notes that a node has left the ring with this sequence.
    pub(super) fn remember(&mut self, node: NodeId, shared_ring_seq: u64) {
        if self.past.len() >= NODES_MAX && !self.past.contains_key(&node) {
            self.past.pop_first();
        }
        let ring_seq_min = shared_ring_seq.saturating_add(1);
        self.past.insert(
            node,
            Past {
                ring_seq_min,
                heard: None,
            },
        );
    }

    /// Compares a proposal with this node's, in the gather or operational state.
    fn process_join(
        &mut self,
        now: Instant,
        join: &MembJoin,
        proc: &BTreeSet<NodeId>,
        failed: &BTreeSet<NodeId>,
    ) -> Result<(), Discard> {
        let (from, ring_seq) = (join.system_from, join.ring_seq);
        if proc.is_subset(&self.proc) && failed.is_subset(&self.failed) {
            if matches!(self.state, State::Operational) {
                self.enter_gather(now, GatherReason::JoinInOperational);
            }
        } else if self.failed.contains(&from) {
            return Err(Discard::Stale);
        } else if self.adopt(from, proc, failed)? {
            self.enter_gather(now, GatherReason::JoinNews);
        } else if matches!(self.state, State::Operational) {
            // The goodbye of a node that was no member: nothing to do about it.
            return Err(Discard::Stale);
        }
        if *proc != self.proc || *failed != self.failed {
            self.dissent.insert(from);
        } else if !join.is_leave() {
            self.dissent.remove(&from);
            self.consensus.insert(from, ring_seq);
            self.check_consensus(now);
        }
        Ok(())
    }

    /// Takes over what a proposal adds to this node's. Returns whether that was anything.
    fn adopt(
        &mut self,
        from: NodeId,
        proc: &BTreeSet<NodeId>,
        failed: &BTreeSet<NodeId>,
    ) -> Result<bool, Discard> {
        let mut all: BTreeSet<NodeId> = self.proc.union(proc).copied().collect();
        all.insert(self.node);
        let believed: BTreeSet<NodeId> = if !self.memb.contains(&from) {
            // Not even what it says of this node: it may not have heard yet that this one began
            // anew, and many nodes that answer each such proposal with its like never agree. It is
            // failed when the consensus timeout finds that it still sees things differently.
            BTreeSet::new()
        } else if failed.contains(&self.node) {
            // A member that fails this node is failed by it.
            BTreeSet::from([from])
        } else {
            failed.clone()
        };
        let all_failed: BTreeSet<NodeId> = self.failed.union(&believed).copied().collect();
        if all.len() > NODES_MAX || all_failed.len() > NODES_MAX {
            return Err(Discard::NoRoom);
        }
        let is_news = all != self.proc || all_failed != self.failed;
        self.proc = all;
        self.failed = all_failed;
        Ok(is_news)
    }

    fn agreed_on(&self) -> Vec<NodeId> {
        self.proc.difference(&self.failed).copied().collect()
    }

    /// Whether all these agree now.
    fn agree(&self, nodes: &[NodeId]) -> bool {
        let agrees = |node| self.consensus.contains_key(node) && !self.dissent.contains(node);
        nodes.iter().all(agrees)
    }

    /// Makes the commit token when all agree and it is up to this node.
    ///
    /// Who agreed and has changed its mind since would not take it: while the token is lost, others
    /// begin anew, and with equal timeouts all of them may do so for ever. It is not failed for
    /// that, though: nodes of different rings find out about a silent one each for itself.
    fn check_consensus(&mut self, now: Instant) {
        if !matches!(self.state, State::Gather) {
            return;
        }
        let agreed_on = self.agreed_on();
        if !self.agree(&agreed_on) {
            return;
        }
        if self.failed_to_receive {
            // All others know: this node begins anew, alone.
            self.failed_to_receive = false;
            self.proc = BTreeSet::from([self.node]);
            self.failed.clear();
            self.create_commit_token(now, vec![self.node]);
        } else if agreed_on.first() == Some(&self.node) {
            self.create_commit_token(now, agreed_on);
        }
    }

    fn create_commit_token(&mut self, now: Instant, members: Vec<NodeId>) {
        let seq = self.ring_seq_max.saturating_add(4);
        let token = CommitToken {
            header: Header::new(self.node, NodeId::NONE),
            token_seq: SeqNo::ZERO,
            ring: RingId {
                rep: self.node,
                seq,
            },
            retrans_flg: 0,
            memb_index: 0,
            members: members
                .into_iter()
                .map(|node| (node, CommitEntry::default()))
                .collect(),
        };
        self.enter_commit(now, token, 0);
    }

    /// Agreement took too long. Returns whether that started a new round of joins.
    pub(super) fn consensus_timeout(&mut self, now: Instant) -> bool {
        if !matches!(self.state, State::Gather) {
            return false;
        }
        let agreed_on = self.agreed_on();
        if self.agree(&agreed_on) {
            // All agree, but the node that should make the commit token has not.
            self.consensus = BTreeMap::from([(self.node, self.ring.seq)]);
            self.timers.start(Timer::Token, now, self.config.token);
            return false;
        }
        let silent: Vec<NodeId> = self
            .proc
            .iter()
            .copied()
            .filter(|node| !self.consensus.contains_key(node))
            .collect();
        self.failed.extend(silent);
        self.enter_gather(now, GatherReason::ConsensusTimeout);
        true
    }

    pub(super) fn handle_merge_detect(
        &mut self,
        now: Instant,
        merge: &MergeDetect,
    ) -> Result<(), Discard> {
        if merge.ring == self.ring {
            return Ok(());
        }
        let reasons = [GatherReason::Merge, GatherReason::MergeInGather];
        self.handle_foreign(now, merge.system_from, merge.ring, reasons)
    }

    pub(super) fn handle_foreign_mcast(
        &mut self,
        now: Instant,
        mcast: &Mcast,
    ) -> Result<(), Discard> {
        let reasons = [
            GatherReason::ForeignMessage,
            GatherReason::ForeignMessageInGather,
        ];
        self.handle_foreign(now, mcast.system_from, mcast.ring, reasons)
    }

    /// A message of another ring shows that its sender can be reached. A member of this ring
    /// cannot be on an older one: such a message is late, or recorded and played back.
    fn handle_foreign(
        &mut self,
        now: Instant,
        from: NodeId,
        ring: RingId,
        [operational, gather]: [GatherReason; 2],
    ) -> Result<(), Discard> {
        if from == self.node {
            return Err(Discard::Own);
        }
        if from == NodeId::NONE || ring.seq >= RING_SEQ_LIMIT {
            return Err(Discard::Implausible);
        }
        let reason = match self.state {
            State::Operational => operational,
            State::Gather => gather,
            _ => return Err(Discard::Foreign),
        };
        let is_stale = if self.memb.contains(&from) {
            ring.seq <= self.installed.seq
        } else {
            matches!(self.state, State::Operational) && self.is_of_the_past(now, from, ring.seq)
        };
        if is_stale {
            return Err(Discard::Stale);
        }
        if matches!(self.state, State::Gather) && self.proc.contains(&from) {
            return Err(Discard::Foreign);
        }
        if !self.proc.contains(&from) && self.proc.len() >= NODES_MAX {
            return Err(Discard::NoRoom);
        }
        self.proc.insert(from);
        self.enter_gather(now, reason);
        Ok(())
    }

    /// The representative of a ring shows itself to others: while the ring is idle, and when a node
    /// that is no member can be reached.
    pub fn look_for_others(&mut self) {
        if matches!(self.state, State::Operational) && self.is_rep() {
            let merge = MergeDetect {
                header: Header::new(self.node, NodeId::NONE),
                system_from: self.node,
                ring: self.ring,
            };
            self.stats.merge_detects.sent += 1;
            self.transmit(Destination::Others, merge.encode());
        }
    }
}
