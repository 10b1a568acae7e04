//! The Totem single-ring protocol: membership and one order of messages for all members.
//!
//! [`Srp`] is a state machine without I/O. Inputs are datagrams, due timers, frames to send; what
//! it wants done comes out of [`Srp::poll_output`] in the order in which it must be done. Not
//! here: packing of messages into frames, encryption, links, who is quorate.
//!
//! # States
//!
//! | state | meaning | leaves to |
//! |---|---|---|
//! | operational | a ring is installed, the token rotates | gather |
//! | gather | join messages are exchanged until all agree on a membership | commit |
//! | commit | the commit token collects what each member has of its old ring | recovery, gather |
//! | recovery | old messages are exchanged on the new ring | operational, gather |
//! | stopped | before the start and after leaving | gather |
//!
//! # Invariants
//!
//! - A ring id is handed out for storage ([`Output::Persist`]) before any datagram that uses it.
//! - Members that pass through the same two configurations deliver the same messages between
//!   them, in the same order; each delivers its own.
//! - Nothing received makes it panic; what is not used is counted by reason.
//! - Every queue is bounded: the message window by its slots, messages out of order by bytes, the
//!   send queues by frames, node lists by the limit of the protocol.

mod config;
mod membership;
mod ordering;
mod recovery;
mod stats;
mod timer;
mod token;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

pub use self::config::{Config, DATAGRAM_LEN_MAX, Delivery};
pub use self::membership::RING_SEQ_LIMIT;
pub use self::stats::{Discard, GatherReason, Stats};
use crate::wire::srp::{Message, NodeId, RingId, SeqNo};
use membership::Past;
use ordering::SortQueue;
use recovery::Recovery;
use timer::{Timer, TimerTable};
use token::Rotation;

/// Something to be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Store this ring sequence; go on only when it is on disk. After a restart it is what
    /// [`Srp::new`] wants.
    Persist(u64),
    /// Send a datagram.
    Transmit(Transmit),
    /// Tell the layer above.
    Event(Event),
}

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: Destination,
    /// The bytes.
    pub datagram: Bytes,
}

/// Where a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// All other nodes. Handing it back to this node does no harm.
    Others,
    /// One node, which may be this node itself: then the caller hands it back to
    /// [`Srp::handle_datagram`].
    Node(NodeId),
}

/// What the layer above learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message, in the total order.
    Deliver(Delivered),
    /// The old membership has shrunk to those who come along. Until the regular configuration
    /// follows, messages of the old ring are delivered whose order is known among these only.
    Transitional {
        /// The ring being installed.
        ring: RingId,
        /// Members of the old ring that come along.
        members: Vec<NodeId>,
        /// Members of the old ring that do not.
        left: Vec<NodeId>,
    },
    /// The new membership is in force; the sync phase begins.
    Regular {
        /// The installed ring.
        ring: RingId,
        /// Its members, ascending.
        members: Vec<NodeId>,
        /// Members that were not in the old ring, this node included the first time.
        joined: Vec<NodeId>,
    },
    /// The state has changed; for the log.
    State {
        /// The state entered.
        phase: Phase,
        /// The current ring.
        ring: RingId,
        /// Why, when gathering.
        reason: Option<GatherReason>,
    },
    /// The token is late: this host or the network is overloaded.
    TokenLate(Duration),
    /// What [`Srp::repeat`] asks for is sent, and the token is passed on.
    Repeated,
}

/// A message handed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Ring that ordered it.
    pub ring: RingId,
    /// Its place.
    pub seq: SeqNo,
    /// Who sent it.
    pub sender: NodeId,
    /// The frame.
    pub frame: Bytes,
}

/// Name of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// A ring is installed.
    Operational,
    /// Agreeing on a membership.
    Gather,
    /// Forming a ring.
    Commit,
    /// Exchanging old messages.
    Recovery,
    /// Not taking part.
    Stopped,
}

/// Which frames a frame is queued with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Sent outside sync phases only; kept across configuration changes.
    Ordinary,
    /// Sent during sync phases only: from a regular configuration to [`Srp::sync_done`].
    Sync,
}

/// Why a frame is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Backpressure {
    /// The queue is full; it drains as tokens come.
    #[error("send queue is full, try again")]
    Full,
    /// Longer than a frame may be.
    #[error("frame of {len} bytes, at most {max} fit")]
    TooLong {
        /// Bytes given.
        len: usize,
        /// Bytes that fit.
        max: usize,
    },
    /// Before the start or after leaving.
    #[error("not taking part in a ring")]
    Stopped,
}

/// What a node is doing, with the data that belongs to that alone.
#[derive(Debug)]
enum State {
    Operational,
    Gather,
    Commit,
    Recovery(Box<Recovery>),
    Stopped,
}

/// One node's part in the ring protocol.
#[derive(Debug)]
pub struct Srp {
    config: Config,
    node: NodeId,
    state: State,
    /// The ring being used or formed; changes on entering commit.
    ring: RingId,
    /// The ring that `regular` and `memb` belong to; differs from `ring` while one is formed.
    installed: RingId,
    /// Highest ring sequence heard of.
    ring_seq_max: u64,
    /// Members of the installed ring.
    memb: BTreeSet<NodeId>,
    /// Members of `ring`, ascending: the order of the token.
    members: Vec<NodeId>,
    /// Next after this node in `members`.
    successor: NodeId,
    proc: BTreeSet<NodeId>,
    failed: BTreeSet<NodeId>,
    /// Nodes that sent a join message that equalled this node's proposal, and the ring sequence in it.
    consensus: BTreeMap<NodeId, u64>,
    /// Ring sequences in the join messages since the last ring, and who was forgiven since.
    shown: BTreeMap<NodeId, u64>,
    forgiven: BTreeSet<NodeId>,
    /// Nodes whose last proposal was another one.
    dissent: BTreeSet<NodeId>,
    failed_to_receive: bool,
    /// Nodes that are no members, at most as many as a ring may have.
    past: BTreeMap<NodeId, Past>,
    /// Messages of the installed ring.
    regular: SortQueue,
    rotation: Rotation,
    ordinary: VecDeque<Bytes>,
    sync: VecDeque<Bytes>,
    synchronizing: bool,
    /// At the next visit of the token, messages of others are sent again.
    is_to_repeat: bool,
    /// Running counter of sent messages; informational.
    this_seqno: i32,
    timers: TimerTable,
    /// Join messages are dropped until then: they were queued during a pause.
    joins_ignored_until: Option<Instant>,
    random: u64,
    outputs: VecDeque<Output>,
    stats: Stats,
}

impl Srp {
    /// A node at rest. `stored_ring_seq` is what was last stored for this node, 0 if nothing;
    /// `seed` only spreads delayed join messages.
    #[must_use]
    pub fn new(config: Config, node: NodeId, stored_ring_seq: u64, seed: u64) -> Self {
        let ring = RingId {
            rep: node,
            seq: stored_ring_seq.saturating_add(1),
        };
        Self {
            config,
            node,
            state: State::Stopped,
            ring,
            installed: ring,
            ring_seq_max: ring.seq,
            memb: BTreeSet::new(),
            members: Vec::new(),
            successor: node,
            proc: BTreeSet::new(),
            failed: BTreeSet::new(),
            consensus: BTreeMap::new(),
            shown: BTreeMap::new(),
            forgiven: BTreeSet::new(),
            dissent: BTreeSet::new(),
            failed_to_receive: false,
            past: BTreeMap::new(),
            regular: SortQueue::default(),
            rotation: Rotation::default(),
            ordinary: VecDeque::new(),
            sync: VecDeque::new(),
            synchronizing: true,
            is_to_repeat: false,
            this_seqno: 0,
            timers: TimerTable::default(),
            joins_ignored_until: None,
            random: seed,
            outputs: VecDeque::new(),
            stats: Stats::default(),
        }
    }

    /// Begins to look for others: the transport is up.
    pub fn start(&mut self, now: Instant) {
        self.timers.start(Timer::Pause, now, self.config.token / 5);
        self.enter_gather(now, GatherReason::InterfaceUp);
    }

    /// Looks for a new membership although nothing is wrong with the present one.
    pub fn gather(&mut self, now: Instant) {
        if matches!(self.state, State::Operational) {
            self.enter_gather(now, GatherReason::InterfaceUp);
        }
    }

    /// Takes new parameters; running timers keep their deadlines.
    pub fn reconfigure(&mut self, config: Config) {
        self.config = config;
    }

    /// Takes a datagram from the network, or one that this node sent to itself. When it is an ORF
    /// token (`wire::srp::is_orf_token`), the frames it shall take along must be queued before.
    ///
    /// # Errors
    /// Why it was not used; already counted, there is nothing to do about it.
    pub fn handle_datagram(&mut self, now: Instant, datagram: &Bytes) -> Result<(), Discard> {
        let result = self.dispatch(now, datagram);
        if let Err(discard) = result {
            *self.stats.discards.entry(discard).or_default() += 1;
        }
        result
    }

    fn dispatch(&mut self, now: Instant, datagram: &Bytes) -> Result<(), Discard> {
        if matches!(self.state, State::Stopped) {
            return Err(Discard::Stopped);
        }
        if datagram.len() > DATAGRAM_LEN_MAX {
            return Err(Discard::Malformed);
        }
        match Message::decode(datagram)? {
            Message::OrfToken(token) => self.handle_orf_token(now, token),
            Message::Mcast(mcast) => self.handle_mcast(now, &mcast, datagram),
            Message::MergeDetect(merge) => {
                self.stats.merge_detects.received += 1;
                self.handle_merge_detect(now, &merge)
            }
            Message::MembJoin(join) => {
                self.stats.joins.received += 1;
                self.handle_join(now, &join)
            }
            Message::CommitToken(token) => {
                self.stats.commit_tokens.received += 1;
                self.handle_commit_token(now, token)
            }
            Message::HoldCancel(cancel) => {
                self.stats.hold_cancels.received += 1;
                self.handle_hold_cancel(now, &cancel)
            }
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((timer, due)) = self.timers.take_due(now) {
            match timer {
                Timer::Pause => self.check_pause(now, due),
                Timer::Token | Timer::Heartbeat => self.token_lost(now),
                Timer::TokenWarning => {
                    self.stats.tokens_late += 1;
                    let late = self.config.token * self.config.token_warning_percent / 100;
                    self.event(Event::TokenLate(late));
                }
                Timer::TokenRetransmit => self.resend_token(now),
                Timer::Hold => self.pass_held_token(),
                Timer::SendJoin => self.send_join(),
                Timer::Join => {
                    self.send_join();
                    self.timers.start(Timer::Join, now, self.config.join);
                }
                Timer::Consensus => {
                    self.consensus_timeout(now);
                }
                Timer::Merge => self.look_for_others(),
            }
        }
    }

    /// When [`Srp::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The next thing to do. To be called after every input until it gives nothing.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Queues a frame; it is sent at one of the next token visits.
    ///
    /// # Errors
    /// [`Backpressure`]; the frame was not queued.
    pub fn mcast(&mut self, now: Instant, lane: Lane, frame: Bytes) -> Result<(), Backpressure> {
        if matches!(self.state, State::Stopped) {
            return Err(Backpressure::Stopped);
        }
        let max = self.config.frame_len_max;
        if frame.len() > max {
            return Err(Backpressure::TooLong {
                len: frame.len(),
                max,
            });
        }
        if self.room(lane) == 0 {
            return Err(Backpressure::Full);
        }
        match lane {
            Lane::Ordinary => self.ordinary.push_back(frame),
            Lane::Sync => self.sync.push_back(frame),
        }
        if lane == self.lane() {
            self.cancel_hold(now);
        }
        Ok(())
    }

    /// A message is waiting to be packed: an idle ring shall not keep the token.
    pub fn wake(&mut self, now: Instant) {
        self.cancel_hold(now);
    }

    /// Sends again what others have sent lately, as soon as the token comes, without being asked:
    /// there is reason to think that it did not get to all. [`Event::Repeated`] follows.
    pub fn repeat(&mut self) {
        self.is_to_repeat = true;
    }

    /// How many frames a lane still takes.
    #[must_use]
    pub fn room(&self, lane: Lane) -> usize {
        let most = self.config.send_queue_len_max;
        most.saturating_sub(self.unsent(lane))
    }

    /// How many frames of a lane wait to be sent.
    #[must_use]
    pub fn unsent(&self, lane: Lane) -> usize {
        match lane {
            Lane::Ordinary => self.ordinary.len(),
            Lane::Sync => self.sync.len(),
        }
    }

    /// Takes back the frames of a lane that were not sent. When configurations follow each other
    /// faster than tokens, what was queued for the sync phase of an earlier one is of no use any
    /// more and fills the queue; the caller knows which of its frames can be left out.
    #[must_use]
    pub fn take_unsent(&mut self, lane: Lane) -> VecDeque<Bytes> {
        std::mem::take(match lane {
            Lane::Ordinary => &mut self.ordinary,
            Lane::Sync => &mut self.sync,
        })
    }

    /// All members have finished the sync phase of a configuration: ordinary frames are sent
    /// again. Without effect when a later configuration is already on its way up.
    pub fn sync_done(&mut self, now: Instant, ring: RingId) {
        if ring != self.installed {
            return;
        }
        self.synchronizing = false;
        if !self.ordinary.is_empty() {
            self.cancel_hold(now);
        }
    }

    /// Says goodbye, so that the others need not wait for a timeout, and stops.
    pub fn leave(&mut self) {
        if !matches!(self.state, State::Stopped) {
            self.send_leave();
            self.timers.stop_all();
            self.state = State::Stopped;
            self.announce(None);
        }
    }

    /// The present state.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Operational => Phase::Operational,
            State::Gather => Phase::Gather,
            State::Commit => Phase::Commit,
            State::Recovery(_) => Phase::Recovery,
            State::Stopped => Phase::Stopped,
        }
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The ring in use or being formed.
    #[must_use]
    pub fn ring(&self) -> RingId {
        self.ring
    }

    /// Members of the installed ring; none before the first.
    pub fn members(&self) -> impl Iterator<Item = NodeId> {
        self.memb.iter().copied()
    }

    /// Whether a sync phase is going on.
    #[must_use]
    pub fn is_synchronizing(&self) -> bool {
        self.synchronizing
    }

    /// Every member of the installed ring has received everything up to here.
    #[must_use]
    pub fn stable(&self) -> SeqNo {
        self.rotation.stable
    }

    /// Messages kept for others, slots in all queues: what a monitor or checker bounds.
    #[must_use]
    pub fn queued(&self) -> usize {
        let recovery = match &self.state {
            State::Recovery(recovery) => recovery.queued(),
            _ => 0,
        };
        self.regular.len() + recovery + self.ordinary.len() + self.sync.len()
    }

    /// Sets the counters to zero.
    pub fn clear_stats(&mut self) {
        self.stats = Stats::default();
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    fn is_rep(&self) -> bool {
        self.ring.rep == self.node
    }

    fn lane(&self) -> Lane {
        if self.synchronizing {
            Lane::Sync
        } else {
            Lane::Ordinary
        }
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn transmit(&mut self, to: Destination, datagram: Bytes) {
        self.outputs
            .push_back(Output::Transmit(Transmit { to, datagram }));
    }

    fn announce(&mut self, reason: Option<GatherReason>) {
        let event = Event::State {
            phase: self.phase(),
            ring: self.ring,
            reason,
        };
        self.event(event);
    }

    /// A random duration below `max` (SplitMix64).
    fn random_below(&mut self, max: Duration) -> Duration {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let nanos = u64::try_from(max.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos((z ^ (z >> 31)) % nanos)
    }

    /// The timer that fires often enough to notice that the process was stopped: what piled up
    /// meanwhile describes a past that the others have left.
    fn check_pause(&mut self, now: Instant, due: Instant) {
        let late = now.saturating_duration_since(due);
        if late > self.config.token / 2 - self.config.token / 5 {
            self.joins_ignored_until = now.checked_add(self.config.join);
        }
        self.timers.start(Timer::Pause, now, self.config.token / 5);
    }
}

#[cfg(test)]
mod tests;
