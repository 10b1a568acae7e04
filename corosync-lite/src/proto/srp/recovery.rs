//! From an agreed membership to an installed ring: commit token, old-ring messages, transitional
//! and regular configuration.
//!
//! Invariants: the old ring's queue is only added to, and only on installation, so that a failed
//! attempt leaves it as it was; members that come along have the same old messages when they
//! install; a message of a node that is not coming along is delivered only while all before it
//! are here.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::time::Instant;

use bytes::Bytes;

use super::ordering::{SortQueue, Stored};
use super::timer::Timer;
use super::token::Rotation;
use super::{Delivered, Delivery, Destination, Discard, Event, Output, Srp, State};
use crate::wire::srp::{
    CommitEntry, CommitToken, ENCAPSULATED_NOT, Header, Message, NodeId, OrfToken, RingId, SeqNo,
};

/// What only the recovery state needs.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// Messages of the ring being formed; becomes the regular queue.
    pub(super) queue: SortQueue,
    /// Old messages that this node still has to send, by their offset in the old ring's window.
    pub(super) unsent: BTreeMap<u32, (SeqNo, Bytes)>,
    /// Members of the old ring that come along.
    trans: BTreeSet<NodeId>,
    /// Highest old message that one of them has delivered.
    high_delivered: SeqNo,
    /// The first token was sent.
    originated: bool,
    /// This node has raised the token's flag.
    set_flg: bool,
    retrans_count: u32,
    rotation_count: u32,
    install_seq: SeqNo,
}

impl Recovery {
    pub(super) fn queued(&self) -> usize {
        self.queue.len() + self.unsent.len()
    }

    /// The installation protocol, once per token visit. Returns whether the ring is ready.
    pub(super) fn advance(&mut self, token: &mut OrfToken) -> bool {
        if !self.unsent.is_empty() {
            if token.retrans_flg == 0 {
                token.retrans_flg = 1;
                self.set_flg = true;
            }
        } else if token.retrans_flg == 1 && self.set_flg {
            token.retrans_flg = 0;
            self.set_flg = false;
        }
        self.retrans_count = if token.retrans_flg == 0 {
            self.retrans_count + 1
        } else {
            0
        };
        if self.retrans_count == 2 {
            self.install_seq = token.seq;
        }
        let all_have_it = self.retrans_count >= 3 && self.install_seq.is_up_to(token.aru);
        self.rotation_count = if all_have_it {
            self.rotation_count + 1
        } else {
            0
        };
        self.rotation_count >= 2 && self.install_seq.is_up_to(self.queue.aru())
    }
}

impl Srp {
    pub(super) fn handle_commit_token(
        &mut self,
        now: Instant,
        token: CommitToken,
    ) -> Result<(), Discard> {
        let nodes: Vec<NodeId> = token.members.iter().map(|(node, _)| *node).collect();
        let is_ascending = nodes.windows(2).all(|pair| pair[0] < pair[1]);
        let is_sane = is_ascending
            && nodes.first() == Some(&token.ring.rep)
            && token.ring.rep != NodeId::NONE
            && token.ring.seq < u64::MAX / 2;
        let index = usize::try_from(token.memb_index).map_err(|_| Discard::Implausible)?;
        let passed_by = if index == nodes.len() {
            Some(self.predecessor())
        } else {
            index
                .checked_sub(1)
                .and_then(|before| nodes.get(before))
                .copied()
        };
        if !is_sane || index > nodes.len() || passed_by != Some(token.header.node) {
            return Err(Discard::Implausible);
        }
        match &mut self.state {
            State::Gather => {
                let agreed = self.proc.difference(&self.failed);
                if !agreed.eq(nodes.iter()) || token.ring.seq <= self.ring.seq {
                    return Err(Discard::Stale);
                }
                if nodes.get(index) != Some(&self.node) {
                    return Err(Discard::Implausible);
                }
                self.enter_commit(now, token, index);
            }
            State::Commit => {
                if token.ring != self.ring || index != nodes.len() {
                    return Err(Discard::Duplicate);
                }
                if nodes != self.members {
                    return Err(Discard::Implausible);
                }
                self.enter_recovery(now, token);
            }
            State::Recovery(recovery) => {
                if token.ring != self.ring || self.ring.rep != self.node || recovery.originated {
                    return Err(Discard::Duplicate);
                }
                recovery.originated = true;
                recovery.set_flg = !recovery.unsent.is_empty();
                self.originate_token(now);
            }
            State::Operational | State::Stopped => return Err(Discard::Unexpected),
        }
        Ok(())
    }

    /// Adds this node's past to the commit token, commits to the ring and passes the token on.
    pub(super) fn enter_commit(&mut self, now: Instant, mut token: CommitToken, index: usize) {
        let own = CommitEntry {
            ring: self.installed,
            aru: self.regular.aru(),
            high_delivered: self.regular.delivered(),
            received_flg: u32::from(self.regular.aru() == self.regular.high()),
        };
        if let Some((_, entry)) = token.members.get_mut(index) {
            *entry = own;
        }
        let filled = || token.members.iter().take(index + 1).map(|(_, entry)| entry);
        let same_ring = filled().filter(|entry| entry.ring == self.installed);
        let high = same_ring.fold(own.aru, |high, entry| high.later(entry.aru));
        for (_, entry) in token.members.iter_mut().take(index + 1) {
            if entry.ring == self.installed && entry.aru.is_before(high) {
                entry.received_flg = 0;
            }
        }
        self.outputs.push_back(Output::Persist(token.ring.seq));
        self.timers.stop_protocol();
        self.members = token.members.iter().map(|(node, _)| *node).collect();
        let next = self.members.get(index + 1).or(self.members.first());
        self.successor = next.copied().unwrap_or(self.node);
        self.ring = token.ring;
        self.ring_seq_max = self.ring_seq_max.max(self.ring.seq);
        self.rotation = Rotation::default();
        self.state = State::Commit;
        self.stats.commits += 1;
        self.stats.gathers_in_vain = 0;
        self.announce(None);
        token.memb_index = token.memb_index.saturating_add(1);
        self.send_commit_token(now, token);
    }

    fn send_commit_token(&mut self, now: Instant, mut token: CommitToken) {
        token.header = Header::new(self.node, self.successor);
        token.token_seq = token.token_seq.next();
        self.stats.commit_tokens.sent += 1;
        self.keep_and_send(token.encode());
        self.timers
            .start(Timer::TokenRetransmit, now, self.config.token_retransmit);
        self.timers.start(Timer::Token, now, self.config.token);
    }

    /// All entries are known: finds out who comes along and what must be exchanged.
    fn enter_recovery(&mut self, now: Instant, token: CommitToken) {
        let comes_along = |(node, entry): &&(NodeId, CommitEntry)| -> bool {
            self.memb.contains(node) && entry.ring == self.installed
        };
        let along: Vec<_> = token.members.iter().filter(comes_along).copied().collect();
        let mut recovery = Recovery {
            trans: along.iter().map(|(node, _)| *node).collect(),
            high_delivered: self.regular.delivered(),
            ..Recovery::default()
        };
        let mut low = self.regular.high();
        for (_, entry) in &along {
            low = low.earlier(entry.aru);
            recovery.high_delivered = recovery.high_delivered.later(entry.high_delivered);
        }
        if along.iter().any(|(_, entry)| entry.received_flg == 0) {
            let messages = self.regular.after(low);
            recovery.unsent = messages
                .map(|(seq, stored)| (self.regular.distance(seq), (seq, stored.raw.clone())))
                .collect();
        }
        self.state = State::Recovery(Box::new(recovery));
        self.stats.recoveries += 1;
        self.announce(None);
        self.send_commit_token(now, token);
    }

    /// The representative sends the first token of the ring.
    fn originate_token(&mut self, now: Instant) {
        let retrans_flg = match &self.state {
            State::Recovery(recovery) => u32::from(!recovery.unsent.is_empty()),
            _ => 0,
        };
        let token = OrfToken {
            header: Header::new(self.node, self.successor),
            seq: SeqNo::ZERO,
            token_seq: SeqNo::ZERO,
            aru: SeqNo::BEFORE_ZERO,
            aru_addr: self.node,
            ring: self.ring,
            backlog: 0,
            fcc: 0,
            retrans_flg,
            rtr: Vec::new(),
        };
        self.keep_and_send(token.encode());
        self.stats.tokens_sent += 1;
        self.timers
            .start(Timer::TokenRetransmit, now, self.config.token_retransmit);
        self.timers.start(Timer::Token, now, self.config.token);
    }

    /// A message of the old ring has come in over the new one: this node need not send it.
    pub(super) fn note_recovered(&mut self, from: NodeId, carried: &Bytes) {
        let Some((ring, seq, _)) = old_message(carried) else {
            return;
        };
        let distance = self.regular.distance(seq);
        if ring == self.installed
            && let State::Recovery(recovery) = &mut self.state
            && recovery.trans.contains(&from)
        {
            recovery.unsent.remove(&distance);
        }
    }

    /// Installs the ring: everything of the old one is delivered, then the new begins.
    pub(super) fn install(&mut self) {
        let State::Recovery(recovery) = mem::replace(&mut self.state, State::Operational) else {
            return;
        };
        let Recovery {
            queue,
            trans,
            high_delivered,
            ..
        } = *recovery;
        self.take_recovered(&queue, &trans);
        let limit = match self.config.delivery {
            Delivery::Agreed => self.regular.high(),
            Delivery::Safe => self.stable().later(high_delivered),
        };
        self.deliver_up_to(limit);
        let members: BTreeSet<NodeId> = self.members.iter().copied().collect();
        let left: Vec<NodeId> = self.memb.difference(&trans).copied().collect();
        for node in &left {
            self.remember(*node, self.installed.seq);
        }
        self.past.retain(|node, _| !members.contains(node));
        let joined = members.difference(&trans).copied().collect();
        let ring = self.ring;
        self.event(Event::Transitional {
            ring,
            members: trans.iter().copied().collect(),
            left,
        });
        self.synchronizing = true;
        self.deliver_up_to(self.regular.high());
        while let Some((seq, stored)) = self.regular.deliver_next_over_holes() {
            if trans.contains(&stored.sender) {
                self.hand_up(seq, &stored);
            }
        }
        self.event(Event::Regular {
            ring,
            members: self.members.clone(),
            joined,
        });
        self.regular = queue;
        self.installed = ring;
        self.proc.clone_from(&members);
        self.failed.clear();
        self.memb = members;
        self.rotation.stable = SeqNo::ZERO;
        self.stats.rings_installed += 1;
        self.announce(None);
        self.deliver_up_to(self.delivery_limit());
    }

    /// Moves what was recovered into the old ring's queue. Only those that were on it have some: a
    /// node that lost its storage may have made another ring of the same name with others.
    fn take_recovered(&mut self, queue: &SortQueue, trans: &BTreeSet<NodeId>) {
        for (_, carrier) in queue
            .after(SeqNo::ZERO)
            .filter(|(_, stored)| stored.is_encapsulated && trans.contains(&stored.sender))
        {
            if let Some((ring, seq, stored)) = old_message(&carrier.body())
                && ring == self.installed
                && self.regular.insert(seq, stored, usize::MAX).is_ok()
            {
                self.stats.recovery_received += 1;
            }
        }
    }

    /// Up to where messages may be handed up in the operational state.
    pub(super) fn delivery_limit(&self) -> SeqNo {
        match self.config.delivery {
            Delivery::Agreed => self.regular.high(),
            Delivery::Safe => self.rotation.stable,
        }
    }

    /// Hands up messages in order, up to the first that is missing.
    pub(super) fn deliver_up_to(&mut self, limit: SeqNo) {
        while let Some((seq, stored)) = self.regular.deliver_next(limit) {
            self.hand_up(seq, &stored);
        }
    }

    fn hand_up(&mut self, seq: SeqNo, stored: &Stored) {
        // On the new ring those that carried old messages have done their service.
        if !stored.is_encapsulated {
            self.stats.messages_delivered += 1;
            let sender = stored.sender;
            let frame = stored.body();
            self.event(Event::Deliver(Delivered {
                ring: self.installed,
                seq,
                sender,
                frame,
            }));
        }
    }

    /// Keeps a token for retransmission and sends it.
    pub(super) fn keep_and_send(&mut self, datagram: Bytes) {
        self.rotation.last_token = Some(datagram.clone());
        self.transmit(Destination::Node(self.successor), datagram);
    }
}

/// The message of the old ring that an encapsulated one carries.
fn old_message(carried: &Bytes) -> Option<(RingId, SeqNo, Stored)> {
    match Message::decode(carried) {
        Ok(Message::Mcast(inner)) if inner.header.encapsulated == ENCAPSULATED_NOT => {
            Some((inner.ring, inner.seq, Stored::new(carried.clone(), &inner)))
        }
        _ => None,
    }
}
