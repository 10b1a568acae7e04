//! What goes in and out of the state machine: its modes, what it wants done, and the group's own
//! part that it drives.

use bytes::Bytes;

use crate::{memdb::Digest, wire::MemberId};

/// Where this process stands in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The own join has not been seen yet.
    Start,
    /// States are being collected.
    StartSync,
    /// Normal operation.
    Synced,
    /// The leader's updates are being collected.
    Update,
    /// To leave the group and to join anew.
    Leave,
    /// A member speaks a newer protocol; final.
    VersionError,
    /// This process can not take part; final.
    Error,
}

impl Mode {
    /// Whether the process takes no part in the group any more.
    #[must_use]
    pub fn is_error(self) -> bool {
        matches!(self, Self::Leave | Self::VersionError | Self::Error)
    }
}

/// Result of handing a message to the [`App`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// For the sender, if it is this process: 0 or more, or a negative errno.
    pub result: i32,
    /// False when the message breaks the protocol: the process leaves the group.
    pub ok: bool,
}

/// What the [`App`] makes of the states of all members.
#[derive(Clone, Debug, Default)]
pub struct Evaluation {
    /// Per member, whether its state equals the leader's.
    pub synced: Vec<bool>,
    /// Updates to send, if this process leads; `None` if it does not.
    pub updates: Option<Vec<Bytes>>,
    /// Normal messages to send, as subtype and payload.
    pub messages: Vec<(u16, Bytes)>,
}

/// Why a member has to leave and come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

/// The group's own part.
pub trait App {
    /// Version in the headers of this group.
    const PROTOCOL: u32;
    /// Whether members verify their states against each other from time to time.
    const VERIFIES: bool = false;

    /// The members changed. Called for each change, before anything else. `lowest`: whether this
    /// process runs on the lowest node of the group from now on.
    fn membership(&mut self, members: &[MemberId], lowest: bool);

    /// State of this process for a round.
    fn state(&mut self, now: u64) -> Bytes;

    /// Evaluates the states of all members, in member order; `own` is the place of this process.
    ///
    /// # Errors
    /// When they can not be evaluated: the process leaves.
    fn evaluate(
        &mut self,
        now: u64,
        states: &[(MemberId, Bytes)],
        own: usize,
    ) -> Result<Evaluation, Violation>;

    /// Takes over what the leader sent. Groups whose evaluation finds all members in sync have no
    /// use for it.
    ///
    /// # Errors
    /// When it does not lead to the leader's state: the process leaves.
    fn commit(&mut self, _now: u64, _updates: Vec<Bytes>) -> Result<(), Violation> {
        Err(Violation("this group has no updates".into()))
    }

    /// A message in its place of the order: subtype, time of the sender, payload.
    ///
    /// `own` is its running number, if this process sent it.
    fn deliver(
        &mut self,
        now: u64,
        from: MemberId,
        own: Option<u64>,
        message: (u16, u32, Bytes),
    ) -> Delivery;

    /// The process is in sync now. Returns messages to send, as subtype and payload.
    fn synced(&mut self, _now: u64) -> Vec<(u16, Bytes)> {
        Vec::new()
    }

    /// Checksum of the whole state; asked for only where [`Self::VERIFIES`] is set.
    fn checksum(&mut self) -> Digest {
        Digest::default()
    }
}

/// What the shell has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send to the group.
    Send {
        /// The message.
        message: Bytes,
        /// Whether the process has to leave when it can not be sent.
        or_leave: bool,
    },
    /// Tell the caller that waits for the own message of that count. Nothing waits for some.
    Answer {
        /// Running number.
        count: u64,
        /// 0 or more, or a negative errno.
        result: i32,
    },
    /// Leave the group, wait a few seconds and join anew, unless the mode is final.
    Leave {
        /// For the log.
        reason: String,
    },
    /// Say it in the log.
    Log(String),
}
