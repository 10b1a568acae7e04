//! The rotating token: order, flow control, retransmission, and holding it when idle.
//!
//! Invariants: a token is accepted once (its `token_seq` is after that of the last); what this
//! node adds to `fcc` and `backlog` it takes back at its next visit; `aru` in the token is never
//! left above what this node has; only the predecessor's token is taken.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use super::ordering::{SortQueue, Stored, WINDOW};
use super::timer::Timer;
use super::{Delivery, Destination, Discard, Event, GatherReason, Lane, Srp, State};
use crate::wire::srp::{
    ENCAPSULATED_NOT, ENCAPSULATED_OLD, Header, HoldCancel, Mcast, NodeId, OrfToken, SeqNo,
};

/// Messages of others that are sent again without being asked, most.
const REPEAT_MAX: usize = 100;

/// What a node remembers from one token visit to the next.
#[derive(Debug)]
pub(super) struct Rotation {
    /// Number of the last accepted token.
    token_seq: SeqNo,
    /// `aru` and `seq` of the last accepted token.
    last_aru: SeqNo,
    last_seq: SeqNo,
    /// Rotations without progress of `aru`.
    aru_count: u32,
    /// Tokens with unchanged `seq`.
    seq_unchanged: u32,
    /// The ring is idle: the representative keeps the token.
    pub(super) held: bool,
    /// This node's share in `fcc` and `backlog` of the token.
    sent_before: u32,
    backlog_before: u32,
    /// The token sent last, unchanged, for retransmission.
    pub(super) last_token: Option<Bytes>,
    /// Every member has received up to here.
    pub(super) stable: SeqNo,
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            token_seq: SeqNo::BEFORE_ZERO,
            last_aru: SeqNo::ZERO,
            last_seq: SeqNo::ZERO,
            aru_count: 0,
            seq_unchanged: 0,
            held: false,
            sent_before: 0,
            backlog_before: 0,
            last_token: None,
            stable: SeqNo::ZERO,
        }
    }
}

impl Rotation {
    /// As if these were the numbers of the last token.
    #[cfg(test)]
    pub(super) fn after(token_seq: SeqNo, aru: SeqNo) -> Self {
        Self {
            token_seq,
            last_aru: aru,
            last_seq: aru,
            stable: aru,
            ..Self::default()
        }
    }
}

impl Srp {
    pub(super) fn handle_orf_token(
        &mut self,
        now: Instant,
        mut token: OrfToken,
    ) -> Result<(), Discard> {
        if !matches!(self.state, State::Operational | State::Recovery(_)) {
            return Err(Discard::Unexpected);
        }
        if token.ring != self.ring {
            return Err(Discard::Foreign);
        }
        if token.header.node != self.predecessor() {
            // Recorded on its way to another node: two tokens would give a number twice.
            return Err(Discard::Implausible);
        }
        if token.token_seq.is_up_to(self.rotation.token_seq) {
            return Err(Discard::Duplicate);
        }
        let high = self.active_queue().high();
        // Numbers are given at token visits only: none can be in use beyond the token's. An aru
        // that belongs to no member would never rise again.
        let is_stranger = token.aru_addr != NodeId::NONE && !self.members.contains(&token.aru_addr);
        if token.seq.is_before(high) || token.seq.is_before(token.aru) || is_stranger {
            return Err(Discard::Implausible);
        }
        self.stats.tokens_accepted += 1;
        let forward = self.note_progress(now, &token);
        let is_recovering = matches!(self.state, State::Recovery(_));
        if is_recovering && self.rotation.seq_unchanged > self.config.fail_recv_const {
            // Recovery ends a few rotations after the last message: this one will not.
            self.enter_gather(now, GatherReason::TokenLostInRecovery);
            return Ok(());
        }
        self.release(token.aru);
        let last_aru = std::mem::replace(&mut self.rotation.last_aru, token.aru);

        let backlog = self.backlog();
        self.stats.tokens.note(now, backlog);
        let mut allowed = self.flow_control(&token, backlog);
        let is_repeating = self.repeat_messages(token.seq);
        let resent = self.retransmit(&mut token, &mut allowed);
        let (ring, miss_count) = (self.ring, self.config.miss_count_const);
        let queue = self.active_queue();
        self.stats.requests += queue.request_missing(token.seq, ring, miss_count, &mut token.rtr);
        let is_busy = resent > 0 || !token.rtr.is_empty();
        let cancel = self.config.cancel_token_hold_on_retransmit && is_busy;
        let forward = forward || cancel;
        if cancel {
            self.rotation.held = false;
        }
        let sent = resent + self.send_new(&mut token, allowed);
        token.fcc = token
            .fcc
            .wrapping_add(sent)
            .wrapping_sub(self.rotation.sent_before);
        token.backlog = token
            .backlog
            .wrapping_add(backlog)
            .wrapping_sub(self.rotation.backlog_before);
        self.rotation.sent_before = sent;
        self.rotation.backlog_before = backlog;

        if self.lower_aru(&mut token, last_aru) {
            self.failed_to_receive = true;
            self.failed.insert(self.node);
            self.enter_gather(now, GatherReason::FailedToReceive);
            return Ok(());
        }
        self.rotation.token_seq = token.token_seq;
        self.pass_on(now, token, forward);
        if is_repeating {
            self.event(Event::Repeated);
        }
        Ok(())
    }

    /// The node whose token comes to this one.
    pub(super) fn predecessor(&self) -> NodeId {
        let before = self.members.iter().rev().find(|node| **node < self.node);
        before.or(self.members.last()).copied().unwrap_or(self.node)
    }

    /// Counts rotations without messages; returns whether the token shall be passed on at once.
    fn note_progress(&mut self, now: Instant, token: &OrfToken) -> bool {
        let rotation = &mut self.rotation;
        if token.seq == rotation.last_seq {
            rotation.seq_unchanged = rotation.seq_unchanged.saturating_add(1);
            if !self.timers.is_running(Timer::Merge) {
                self.timers.start(Timer::Merge, now, self.config.merge);
            }
        } else {
            rotation.seq_unchanged = 0;
            self.timers.stop(Timer::Merge);
        }
        self.timers.stop(Timer::Hold);
        self.rotation.last_seq = token.seq;
        let idle = self.config.seqno_unchanged_const;
        let unchanged = self.rotation.seq_unchanged;
        let is_rep = self.is_rep();
        self.rotation.held = if is_rep {
            unchanged > idle
        } else {
            unchanged >= idle
        };
        !(is_rep && self.rotation.held)
    }

    /// Forgets messages that two successive tokens have shown to be everywhere.
    fn release(&mut self, aru: SeqNo) {
        if matches!(self.state, State::Operational) {
            let everywhere = aru.earlier(self.rotation.last_aru);
            self.rotation.stable = self.rotation.stable.later(everywhere);
            if self.config.delivery == Delivery::Safe {
                self.deliver_up_to(self.delivery_limit());
            }
            self.regular.release(everywhere);
        }
    }

    /// Messages that wait for this token.
    fn backlog(&self) -> u32 {
        let len = match (&self.state, self.lane()) {
            (State::Recovery(recovery), _) => recovery.unsent.len(),
            (_, Lane::Sync) => self.sync.len(),
            (_, Lane::Ordinary) => self.ordinary.len(),
        };
        u32::try_from(len).unwrap_or(u32::MAX)
    }

    /// How many messages may be sent at this visit.
    fn flow_control(&self, token: &OrfToken, backlog: u32) -> u32 {
        let (window, most) = (self.config.window_size, self.config.max_messages);
        // Above the window the count is wrong; waiting for it to heal could take for ever.
        let mut allowed = window
            .checked_sub(token.fcc)
            .map_or(most, |room| room.min(most));
        let before = self.rotation.backlog_before;
        let total = token.backlog.wrapping_add(backlog).wrapping_sub(before);
        let share = (u64::from(window) * u64::from(before)).checked_div(u64::from(total));
        if let Some(share) = share.and_then(|share| u32::try_from(share).ok())
            && share > 0
        {
            allowed = allowed.min(share);
        }
        allowed
    }

    /// Sends again what others ask for and this node has.
    fn retransmit(&mut self, token: &mut OrfToken, allowed: &mut u32) -> u32 {
        let (ring, mut resent) = (self.ring, Vec::new());
        let queue = self.active_queue();
        token.rtr.retain(|request| {
            let stored = queue.get(request.seq).filter(|_| request.ring == ring);
            match stored {
                Some(stored) if *allowed > 0 => {
                    *allowed -= 1;
                    resent.push(stored.raw.clone());
                    false
                }
                _ => true,
            }
        });
        let count = u32::try_from(resent.len()).unwrap_or(u32::MAX);
        self.stats.messages_resent += u64::from(count);
        for datagram in resent {
            self.transmit(Destination::Others, datagram);
        }
        count
    }

    /// Sends again what others have sent, up to `last`, and is not known to be everywhere. Returns
    /// whether that was wanted.
    fn repeat_messages(&mut self, last: SeqNo) -> bool {
        if !self.is_to_repeat || !matches!(self.state, State::Operational) {
            return false;
        }
        self.is_to_repeat = false;
        let mut again = VecDeque::new();
        let mut seq = self.rotation.stable.next();
        while seq.is_up_to(last) {
            let stored = self.regular.get(seq);
            if let Some(stored) = stored.filter(|stored| stored.sender != self.node) {
                again.push_back(stored.raw.clone());
                if again.len() > REPEAT_MAX {
                    again.pop_front();
                }
            }
            seq = seq.next();
        }
        self.stats.messages_resent += u64::try_from(again.len()).unwrap_or(0);
        for datagram in again {
            self.transmit(Destination::Others, datagram);
        }
        true
    }

    /// Gives numbers to new messages and sends them.
    fn send_new(&mut self, token: &mut OrfToken, allowed: u32) -> u32 {
        let window = self.config.window_size;
        let ahead = self.active_queue().distance(token.seq);
        if ahead.saturating_add(allowed).saturating_add(window) >= WINDOW {
            return 0;
        }
        let mut sent = 0;
        while sent < allowed {
            let Some((encapsulated, body)) = self.next_message() else {
                break;
            };
            let seq = token.seq.next();
            let mcast = Mcast {
                header: Header {
                    encapsulated,
                    node: self.node,
                    target: NodeId::NONE,
                },
                system_from: self.node,
                seq,
                this_seqno: self.this_seqno,
                ring: self.ring,
                node_id: 0,
                guarantee: 0,
                body,
            };
            let raw = mcast.encode();
            let stored = Stored::new(raw.clone(), &mcast);
            if self.active_queue().put(seq, stored).is_err() {
                break;
            }
            token.seq = seq;
            self.this_seqno = self.this_seqno.wrapping_add(1);
            self.transmit(Destination::Others, raw);
            sent += 1;
        }
        sent
    }

    fn next_message(&mut self) -> Option<(u8, Bytes)> {
        let lane = self.lane();
        if let State::Recovery(recovery) = &mut self.state {
            let (_, (_, raw)) = recovery.unsent.pop_first()?;
            self.stats.recovery_sent += 1;
            return Some((ENCAPSULATED_OLD, raw));
        }
        let frame = match lane {
            Lane::Ordinary => self.ordinary.pop_front(),
            Lane::Sync => self.sync.pop_front(),
        }?;
        self.stats.messages_sent += 1;
        Some((ENCAPSULATED_NOT, frame))
    }

    /// Writes this node's aru into the token where it is the lowest. Returns whether this node
    /// has failed to receive for too long.
    fn lower_aru(&mut self, token: &mut OrfToken, last_aru: SeqNo) -> bool {
        let aru = self.active_queue().aru();
        let is_mine = token.aru_addr == self.node || token.aru_addr == NodeId::NONE;
        if is_mine || aru.is_before(token.aru) {
            token.aru = aru;
            token.aru_addr = if token.aru == token.seq {
                NodeId::NONE
            } else {
                self.node
            };
        }
        let is_stuck = token.aru == last_aru && token.aru_addr != NodeId::NONE;
        self.rotation.aru_count = if is_stuck {
            self.rotation.aru_count + 1
        } else {
            0
        };
        self.rotation.aru_count > self.config.fail_recv_const && token.aru_addr == self.node
    }

    fn pass_on(&mut self, now: Instant, mut token: OrfToken, forward: bool) {
        token.token_seq = token.token_seq.next();
        let is_ready = match &mut self.state {
            State::Recovery(recovery) => recovery.advance(&mut token),
            _ => false,
        };
        token.header = Header::new(self.node, self.successor);
        let datagram = token.encode();
        if forward {
            self.stats.tokens_sent += 1;
            self.keep_and_send(datagram);
        } else {
            self.rotation.last_token = Some(datagram);
            self.timers.start(Timer::Hold, now, self.config.hold);
        }
        if is_ready {
            self.install();
        } else if matches!(self.state, State::Operational) {
            self.deliver_up_to(self.delivery_limit());
        }
        self.restart_token_timers(now);
    }

    fn restart_token_timers(&mut self, now: Instant) {
        self.timers
            .start(Timer::TokenRetransmit, now, self.config.token_retransmit);
        self.timers.start(Timer::Token, now, self.config.token);
        match self.config.token_warning_percent {
            0 => self.timers.stop(Timer::TokenWarning),
            percent => {
                self.timers
                    .start(Timer::TokenWarning, now, self.config.token * percent / 100);
            }
        }
        if let Some(heartbeat) = self.config.heartbeat() {
            self.timers.start(Timer::Heartbeat, now, heartbeat);
        }
    }

    /// The messages that the token of the present state orders.
    pub(super) fn active_queue(&mut self) -> &mut SortQueue {
        match &mut self.state {
            State::Recovery(recovery) => &mut recovery.queue,
            _ => &mut self.regular,
        }
    }

    /// Keeps a message, and hands up what it completes.
    pub(super) fn handle_mcast(
        &mut self,
        now: Instant,
        mcast: &Mcast,
        datagram: &Bytes,
    ) -> Result<(), Discard> {
        if mcast.ring != self.ring {
            return self.handle_foreign_mcast(now, mcast);
        }
        if mcast.header.node == NodeId::NONE {
            return Err(Discard::Implausible);
        }
        if self.ring != self.installed && !matches!(self.state, State::Recovery(_)) {
            // The ring was or will be given up, or has not begun for this node.
            return Err(Discard::Unexpected);
        }
        let bytes_max = self.config.reorder_bytes_max;
        let stored = Stored::new(datagram.clone(), mcast);
        let is_encapsulated = stored.is_encapsulated;
        self.active_queue().insert(mcast.seq, stored, bytes_max)?;
        self.stats.messages_received += 1;
        match self.state {
            State::Operational => self.deliver_up_to(self.delivery_limit()),
            State::Recovery(_) if is_encapsulated => {
                self.note_recovered(mcast.header.node, &mcast.body)
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn handle_hold_cancel(
        &mut self,
        now: Instant,
        cancel: &HoldCancel,
    ) -> Result<(), Discard> {
        if cancel.ring != self.ring {
            return Err(Discard::Foreign);
        }
        self.release_hold(now);
        Ok(())
    }

    /// There is something to send: the representative shall not keep the token.
    pub(super) fn cancel_hold(&mut self, now: Instant) {
        if self.rotation.held && matches!(self.state, State::Operational) {
            let cancel = HoldCancel {
                header: Header::new(self.node, NodeId::NONE),
                ring: self.ring,
            };
            self.stats.hold_cancels.sent += 1;
            self.transmit(Destination::Others, cancel.encode());
            self.release_hold(now);
        }
    }

    fn release_hold(&mut self, now: Instant) {
        self.rotation.held = false;
        self.rotation.seq_unchanged = 0;
        if self.timers.is_running(Timer::Hold) {
            self.timers.stop(Timer::Hold);
            self.pass_held_token();
            self.timers
                .start(Timer::TokenRetransmit, now, self.config.token_retransmit);
        }
    }

    /// Sends the token that was kept.
    pub(super) fn pass_held_token(&mut self) {
        if let Some(datagram) = self.rotation.last_token.clone()
            && matches!(self.state, State::Operational | State::Recovery(_))
        {
            self.stats.tokens_sent += 1;
            self.transmit(Destination::Node(self.successor), datagram);
        }
    }

    /// Nothing has come back for a while: sends the last token again.
    pub(super) fn resend_token(&mut self, now: Instant) {
        if let Some(datagram) = self.rotation.last_token.clone() {
            self.stats.tokens_resent += 1;
            self.transmit(Destination::Node(self.successor), datagram);
            self.timers
                .start(Timer::TokenRetransmit, now, self.config.token_retransmit);
        }
    }

    pub(super) fn token_lost(&mut self, now: Instant) {
        match self.state {
            State::Operational => self.enter_gather(now, GatherReason::TokenLost),
            State::Gather => {
                if !self.consensus_timeout(now) {
                    self.enter_gather(now, GatherReason::CommitTokenMissing);
                }
            }
            State::Commit => self.enter_gather(now, GatherReason::TokenLostInCommit),
            State::Recovery(_) => self.enter_gather(now, GatherReason::TokenLostInRecovery),
            State::Stopped => {}
        }
    }
}
