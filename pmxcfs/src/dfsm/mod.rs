//! The replicated state machine that both groups share: rounds of synchronisation, and the order
//! in which messages reach the group's own part, the [`App`].
//!
//! A core: no socket, clock, thread or random source. Membership changes, messages and time come
//! in through `handle_*`, what is to be done comes out of [`Dfsm::poll_action`], in order.
//!
//! A membership change with two or more members opens a round: the process on the lowest node
//! sends its epoch, everybody answers with a state, all evaluate the same states, the members
//! whose state differs from the leader's wait for its updates. See `docs/REPLICATION.md`.
//!
//! Invariants:
//! - every decision depends only on what all members of the configuration have received, in the
//!   one order in which they have received it;
//! - nothing that a member sends makes this one panic; what breaks the protocol makes it leave
//!   and come back, which opens a new round;
//! - each queue is bounded by what members may have in flight during one round
//!   ([`QUEUE_LIMIT`]); past that the member leaves.

mod interface;
mod queue;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

pub use self::interface::{Action, App, Delivery, Evaluation, Mode, Violation};
use self::queue::{MessageQueue, Waiting};
use crate::{
    memdb::Digest,
    wire::{
        DecodeError, MemberId,
        dfsm::{Epoch, Message},
    },
};

/// Messages that may wait in one queue.
pub const QUEUE_LIMIT: usize = 65_536;

/// Seconds between two verifications.
pub const VERIFY_INTERVAL_SECS: u64 = 3600;

/// Seconds after the end of a round before a verification may be asked for: members that still
/// finish the round would take the question for a violation.
pub const VERIFY_SETTLE_SECS: u64 = 10;

/// Seconds after which members that have not sent their state are named in the log.
pub const SILENT_MEMBER_SECS: u64 = 5;

#[derive(Clone, Debug)]
struct Member {
    id: MemberId,
    synced: bool,
    state: Option<Bytes>,
}

/// What was computed for a verification request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Verification {
    id: u64,
    epoch: Epoch,
    checksum: Digest,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Dfsm<A> {
    app: A,
    own: MemberId,
    mode: Mode,
    /// Sorted by node, then process.
    members: Vec<Member>,
    is_member: bool,
    epoch: Epoch,
    epoch_counter: u32,
    count: u64,
    queue: MessageQueue,
    sync_queue: VecDeque<Waiting>,
    updates: Vec<Bytes>,
    verification: Verification,
    verify_counter: u64,
    next_verify: Option<u64>,
    synced_since: u64,
    round_since: u64,
    silence_named: bool,
    actions: VecDeque<Action>,
}

impl<A: App> Dfsm<A> {
    /// A process that has joined nothing yet. Times are seconds of one clock, 1970 or not.
    pub fn new(app: A, own: MemberId) -> Self {
        Self {
            app,
            own,
            mode: Mode::Start,
            members: Vec::new(),
            is_member: false,
            epoch: Epoch::default(),
            epoch_counter: 0,
            count: 0,
            queue: MessageQueue::default(),
            sync_queue: VecDeque::new(),
            updates: Vec::new(),
            verification: Verification::default(),
            verify_counter: 0,
            next_verify: None,
            synced_since: 0,
            round_since: 0,
            silence_named: false,
            actions: VecDeque::new(),
        }
    }

    /// The group's own part.
    pub fn app(&self) -> &A {
        &self.app
    }

    /// The group's own part.
    pub fn app_mut(&mut self) -> &mut A {
        &mut self.app
    }

    /// This process.
    pub fn own(&self) -> MemberId {
        self.own
    }

    /// The node id became known or changed: it is learnt when the connection is there.
    pub fn set_own(&mut self, own: MemberId) {
        self.own = own;
    }

    /// Where this process stands.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Processes of the group, in member order.
    pub fn members(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.members.iter().map(|member| member.id)
    }

    /// Whether this process runs on the lowest node of the group.
    pub fn is_lowest(&self) -> bool {
        self.members
            .first()
            .is_some_and(|member| member.id.node == self.own.node)
    }

    /// Number of messages that wait for the end of a round.
    pub fn queued(&self) -> usize {
        self.queue.len() + self.sync_queue.len()
    }

    /// Takes the next thing to do.
    #[must_use]
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Makes a normal message of this process, to be sent at once by the caller.
    ///
    /// Returns its running number, under which [`Action::Answer`] comes back.
    #[must_use]
    pub fn make_normal(&mut self, now: u32, subtype: u16, payload: Bytes) -> (u64, Bytes) {
        self.count += 1;
        let message = Message::Normal {
            subtype,
            time: now,
            count: self.count,
            payload,
        };
        (self.count, message.encode(A::PROTOCOL))
    }

    /// A message that has to be sent could not be.
    pub fn handle_send_failure(&mut self, error: &str) {
        self.leave(format!("could not send to the group: {error}"));
    }

    /// The own state can not be kept any more: leave, or stop for good if `is_final`.
    pub fn handle_failure(&mut self, reason: String, is_final: bool) {
        if is_final {
            self.fail(Mode::Error, reason);
        } else {
            self.leave(reason);
        }
    }

    /// The group was left, or the connection is gone: start anew. Running numbers go on.
    pub fn restart(&mut self) {
        if matches!(self.mode, Mode::VersionError | Mode::Error) {
            return;
        }
        self.mode = Mode::Start;
        self.is_member = false;
        self.members.clear();
        self.queue.clear();
        self.drop_round();
        self.sync_queue.clear();
        self.actions.clear();
    }

    /// The membership changed. `joined`: whether somebody is new.
    pub fn handle_membership(&mut self, now: u64, members: &[MemberId], joined: bool) {
        self.epoch_counter = self.epoch_counter.wrapping_add(1);
        self.epoch = Epoch::new(self.epoch_counter, seconds(now), self.own);
        self.verification = Verification {
            id: self.verify_counter,
            ..Verification::default()
        };
        self.sync_queue.clear();
        self.is_member = false;
        if self.mode.is_error() {
            return;
        }
        self.drop_round();
        let mut sorted: Vec<MemberId> = members.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let new = |id| Member {
            id,
            synced: false,
            state: None,
        };
        self.members = sorted.iter().copied().map(new).collect();
        self.is_member = sorted.contains(&self.own);
        if !self.is_member {
            if self.mode != Mode::Start {
                self.leave("this process is not a member any more".into());
            }
            return;
        }
        let lowest = self.is_lowest();
        self.app.membership(&sorted, lowest);
        if sorted.len() == 1 {
            self.set_synced_flags();
            self.enter_synced(now);
            return;
        }
        if joined && !self.resend_queue() {
            return;
        }
        self.mode = Mode::StartSync;
        self.round_since = now;
        self.silence_named = false;
        if lowest {
            let message = Message::SyncStart {
                time: seconds(now),
                epoch: self.epoch,
            };
            self.send(&message, true);
        }
    }

    /// A message of the group.
    pub fn handle_message(&mut self, now: u64, from: MemberId, bytes: &Bytes) {
        if self.mode.is_error() {
            return;
        }
        if self.epoch_counter == 0 {
            return self.leave("a message came before any membership".into());
        }
        let message = match Message::decode(A::PROTOCOL, bytes.clone()) {
            Ok(message) => message,
            Err(DecodeError::OlderVersion { theirs, .. }) => {
                let text = format!("ignored a message of protocol version {theirs} from {from}");
                return self.actions.push_back(Action::Log(text));
            }
            Err(error @ DecodeError::NewerVersion { .. }) => {
                return self.fail(Mode::VersionError, format!("message from {from}: {error}"));
            }
            Err(error) => return self.leave(format!("message from {from}: {error}")),
        };
        let message = match message {
            Message::Normal {
                subtype,
                time,
                count,
                payload,
            } => {
                let raw = bytes.clone();
                let waiting = Waiting {
                    from,
                    count,
                    subtype,
                    time,
                    payload,
                    raw,
                };
                return self.handle_normal(now, waiting);
            }
            message => message,
        };
        let is_start = matches!(message, Message::SyncStart { .. });
        if !is_start && message.epoch() != Some(self.epoch) {
            return;
        }
        self.handle_state_message(now, from, message);
    }

    /// Time has passed; to be called at least every few seconds.
    pub fn handle_tick(&mut self, now: u64) {
        if self.mode == Mode::StartSync
            && !self.silence_named
            && now.saturating_sub(self.round_since) >= SILENT_MEMBER_SECS
        {
            self.silence_named = true;
            let silent: Vec<String> = self
                .members
                .iter()
                .filter(|member| member.state.is_none())
                .map(|member| member.id.to_string())
                .collect();
            let text = format!("still waiting for the state of {}", silent.join(", "));
            self.actions.push_back(Action::Log(text));
        }
        if A::VERIFIES {
            self.request_verification(now);
        }
    }

    fn request_verification(&mut self, now: u64) {
        let due = *self.next_verify.get_or_insert(now + VERIFY_INTERVAL_SECS);
        let settled = now.saturating_sub(self.synced_since) >= VERIFY_SETTLE_SECS;
        if now < due || self.mode != Mode::Synced || !self.is_lowest() || !settled {
            return;
        }
        self.next_verify = Some(now + VERIFY_INTERVAL_SECS);
        if self.verification.id != self.verify_counter {
            // The answer to the last request is still under way.
            return;
        }
        self.verify_counter += 1;
        let (time, epoch, id) = (seconds(now), self.epoch, self.verify_counter);
        self.send(&Message::VerifyRequest { time, epoch, id }, false);
    }

    fn handle_normal(&mut self, now: u64, message: Waiting) {
        if self.mode == Mode::Synced {
            self.deliver(now, message);
            return;
        }
        let Some(member) = self.members.iter().find(|member| member.id == message.from) else {
            return self.leave(format!("message from {}, which is no member", message.from));
        };
        if self.queued() >= QUEUE_LIMIT {
            return self.leave(format!("more than {QUEUE_LIMIT} messages wait for a round"));
        }
        if self.mode == Mode::Update && member.synced {
            self.sync_queue.push_back(message);
        } else {
            self.queue.insert(message);
        }
    }

    fn handle_state_message(&mut self, now: u64, from: MemberId, message: Message) {
        let mode = self.mode;
        match (mode, message) {
            // Questions about checksums make sense between rounds only; the original leaves.
            (
                Mode::StartSync | Mode::Update | Mode::Start,
                Message::VerifyRequest { .. } | Message::Verify { .. },
            )
            | (
                Mode::Synced,
                Message::SyncStart { .. }
                | Message::State { .. }
                | Message::Update { .. }
                | Message::Unknown { .. },
            ) => {}
            (Mode::StartSync, Message::SyncStart { epoch, .. }) => {
                self.start_round(now, from, epoch);
            }
            (Mode::StartSync, Message::State { blob, .. }) => self.collect_state(now, from, blob),
            (Mode::Update, Message::Update { payload, .. }) => {
                if self.updates.len() >= UPDATE_LIMIT {
                    return self.leave("the leader sends more entries than a tree may have".into());
                }
                self.updates.push(payload);
            }
            (Mode::Update, Message::UpdateComplete { .. }) => self.finish_update(now),
            (Mode::Synced, Message::UpdateComplete { .. }) => {
                self.set_synced_flags();
                self.empty_queue(now);
            }
            (Mode::Synced, Message::VerifyRequest { id, .. }) => self.verify_request(now, from, id),
            (Mode::Synced, Message::Verify { id, checksum, .. }) => self.verify(id, &checksum),
            (_, message) => {
                let kind = message.kind();
                self.leave(format!("message of type {kind} from {from} while {mode:?}"));
            }
        }
    }

    fn start_round(&mut self, now: u64, from: MemberId, epoch: Epoch) {
        if self
            .members
            .first()
            .is_some_and(|lowest| lowest.id.node != from.node)
        {
            // Obeyed all the same: other members do, and refusing would split the epochs.
            let text = format!("{from} opened a round without being the lowest node");
            self.actions.push_back(Action::Log(text));
        }
        self.epoch = epoch;
        self.drop_round();
        let blob = self.app.state(now);
        self.send(
            &Message::State {
                time: seconds(now),
                epoch,
                blob,
            },
            true,
        );
    }

    fn collect_state(&mut self, now: u64, from: MemberId, blob: Bytes) {
        if blob.is_empty() {
            return;
        }
        let Some(member) = self.members.iter_mut().find(|member| member.id == from) else {
            return self.leave(format!("state from {from}, which is no member"));
        };
        if member.state.replace(blob).is_some() {
            return self.leave(format!("second state from {from} in one round"));
        }
        let collected = |member: &Member| Some((member.id, member.state.clone()?));
        let states: Option<Vec<_>> = self.members.iter().map(collected).collect();
        if let Some(states) = states {
            self.evaluate(now, &states);
        }
    }

    fn evaluate(&mut self, now: u64, states: &[(MemberId, Bytes)]) {
        let Some(own) = states.iter().position(|(id, _)| *id == self.own) else {
            return self.leave("this process is not in its own member list".into());
        };
        let evaluation = match self.app.evaluate(now, states, own) {
            Ok(evaluation) => evaluation,
            Err(Violation(reason)) => return self.leave(reason),
        };
        for (member, synced) in self.members.iter_mut().zip(&evaluation.synced) {
            member.synced = *synced;
        }
        if let Some(updates) = evaluation.updates {
            let (time, epoch) = (seconds(now), self.epoch);
            for payload in updates {
                self.send(
                    &Message::Update {
                        time,
                        epoch,
                        payload,
                    },
                    false,
                );
            }
            self.send(&Message::UpdateComplete { time, epoch }, true);
        }
        self.send_normals(now, evaluation.messages);
        if evaluation.synced.get(own) == Some(&true) {
            self.drop_states();
            self.enter_synced(now);
        } else {
            self.mode = Mode::Update;
            self.empty_queue(now);
        }
    }

    fn finish_update(&mut self, now: u64) {
        let updates = std::mem::take(&mut self.updates);
        if let Err(Violation(reason)) = self.app.commit(now, updates) {
            return self.leave(reason);
        }
        self.set_synced_flags();
        self.drop_states();
        self.mode = Mode::Synced;
        self.synced_since = now;
        let messages = self.app.synced(now);
        self.send_normals(now, messages);
        while let Some(message) = self.sync_queue.pop_front() {
            if !self.deliver(now, message) {
                return;
            }
        }
        self.empty_queue(now);
    }

    fn enter_synced(&mut self, now: u64) {
        self.mode = Mode::Synced;
        self.synced_since = now;
        let messages = self.app.synced(now);
        self.send_normals(now, messages);
        self.empty_queue(now);
    }

    /// Hands waiting messages on: delivers those of synced members, or moves them to the sync
    /// queue; drops those of processes that are gone.
    fn empty_queue(&mut self, now: u64) {
        let flags: BTreeMap<MemberId, bool> = self
            .members
            .iter()
            .map(|member| (member.id, member.synced))
            .collect();
        let mut kept = Vec::new();
        let mut waiting = self.queue.take().into_iter();
        for message in waiting.by_ref() {
            match (flags.get(&message.from), self.mode) {
                (None, _) => {
                    let text = format!("dropped a waiting message of {}: it left", message.from);
                    self.actions.push_back(Action::Log(text));
                }
                (Some(false), _) => kept.push(message),
                (Some(true), Mode::Update) => self.sync_queue.push_back(message),
                (Some(true), _) => {
                    if !self.deliver(now, message) {
                        return;
                    }
                }
            }
        }
        self.queue.keep(kept);
    }

    /// False when the process has to leave.
    fn deliver(&mut self, now: u64, message: Waiting) -> bool {
        let Waiting {
            from,
            count,
            subtype,
            time,
            payload,
            ..
        } = message;
        let own = (from == self.own).then_some(count);
        let delivery = self.app.deliver(now, from, own, (subtype, time, payload));
        if own.is_some() {
            self.actions.push_back(Action::Answer {
                count,
                result: delivery.result,
            });
        }
        if !delivery.ok {
            self.leave(format!(
                "message number {subtype} from {from} could not be applied"
            ));
        }
        delivery.ok
    }

    fn verify_request(&mut self, now: u64, from: MemberId, id: u64) {
        if !A::VERIFIES {
            return;
        }
        let checksum = self.app.checksum();
        self.verification = Verification {
            id,
            epoch: self.epoch,
            checksum,
        };
        if from == self.own && id == self.verify_counter {
            let (time, epoch) = (seconds(now), self.epoch);
            self.send(
                &Message::Verify {
                    time,
                    epoch,
                    id,
                    checksum,
                },
                true,
            );
        }
    }

    fn verify(&mut self, id: u64, checksum: &Digest) {
        if self.verification.id != id || self.verification.epoch != self.epoch {
            return;
        }
        if self.verification.checksum != *checksum {
            self.leave("this node's tree differs from the one that was verified".into());
        }
    }

    fn resend_queue(&mut self) -> bool {
        for message in self.queue.take() {
            if message.from == self.own {
                self.actions.push_back(Action::Send {
                    message: message.raw,
                    or_leave: true,
                });
            }
        }
        !self.mode.is_error()
    }

    fn send_normals(&mut self, now: u64, messages: Vec<(u16, Bytes)>) {
        for (subtype, payload) in messages {
            let (_, message) = self.make_normal(seconds(now), subtype, payload);
            self.actions.push_back(Action::Send {
                message,
                or_leave: false,
            });
        }
    }

    fn send(&mut self, message: &Message, or_leave: bool) {
        let message = message.encode(A::PROTOCOL);
        self.actions.push_back(Action::Send { message, or_leave });
    }

    fn set_synced_flags(&mut self) {
        for member in &mut self.members {
            member.synced = true;
        }
    }

    fn drop_states(&mut self) {
        for member in &mut self.members {
            member.state = None;
        }
    }

    fn drop_round(&mut self) {
        self.drop_states();
        self.updates.clear();
    }

    fn leave(&mut self, reason: String) {
        self.fail(Mode::Leave, reason);
    }

    fn fail(&mut self, mode: Mode, reason: String) {
        let rank = |mode| match mode {
            Mode::Error => 3,
            Mode::VersionError => 2,
            Mode::Leave => 1,
            _ => 0,
        };
        if rank(mode) > rank(self.mode) {
            self.mode = mode;
            self.actions.push_back(Action::Leave { reason });
        }
    }
}

/// Entries that a leader may send: as many as a tree may have, with room for trees that grew
/// before limits were enforced.
const UPDATE_LIMIT: usize = 4 * 262_144;

/// The 32-bit time of the wire.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the wire has the low 32 bits"
)]
fn seconds(now: u64) -> u32 {
    now as u32
}
