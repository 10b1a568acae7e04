//! The timers of a ring: which run, and which is due next.
//!
//! Invariant: timers due at the same instant fire in the order of [`Timer`], so that a run can be
//! repeated exactly.

use std::time::{Duration, Instant};

/// What can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Notices that this process was stopped for a while.
    Pause,
    /// The token did not come.
    Token,
    /// The token is late enough to be reported.
    TokenWarning,
    /// The token did not come within the time that heartbeats allow.
    Heartbeat,
    /// Send the last token again.
    TokenRetransmit,
    /// Pass on the token of an idle ring.
    Hold,
    /// Send the join message that `send_join` delayed.
    SendJoin,
    /// Send the join message again.
    Join,
    /// Agreement takes too long.
    Consensus,
    /// Look for other rings.
    Merge,
}

const COUNT: usize = 10;

/// Deadlines of the running timers.
#[derive(Clone, Debug, Default)]
pub(super) struct TimerTable([Option<Instant>; COUNT]);

const ALL: [Timer; COUNT] = [
    Timer::Pause,
    Timer::Token,
    Timer::TokenWarning,
    Timer::Heartbeat,
    Timer::TokenRetransmit,
    Timer::Hold,
    Timer::SendJoin,
    Timer::Join,
    Timer::Consensus,
    Timer::Merge,
];

impl TimerTable {
    /// Starts a timer, or starts it anew.
    pub(super) fn start(&mut self, timer: Timer, now: Instant, after: Duration) {
        self.0[timer as usize] = now.checked_add(after);
    }

    /// Stops a timer.
    pub(super) fn stop(&mut self, timer: Timer) {
        self.0[timer as usize] = None;
    }

    /// Stops all timers but the pause detection.
    pub(super) fn stop_protocol(&mut self) {
        for timer in &ALL[1..] {
            self.stop(*timer);
        }
    }

    /// Stops all timers.
    pub(super) fn stop_all(&mut self) {
        self.0 = [None; COUNT];
    }

    pub(super) fn is_running(&self, timer: Timer) -> bool {
        self.0[timer as usize].is_some()
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.iter().flatten().min().copied()
    }

    /// Takes the timer that is due first, if one is due.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<(Timer, Instant)> {
        let due = ALL
            .iter()
            .filter_map(|timer| Some((self.0[*timer as usize]?, *timer)))
            .min()?;
        if due.0 > now {
            return None;
        }
        self.stop(due.1);
        Some((due.1, due.0))
    }
}
