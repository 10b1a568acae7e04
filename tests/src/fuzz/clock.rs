//! Time of a few nodes that share one clock, and answer each other at once.

use std::time::{Duration, Instant};

/// Timers due without time going by; more is a loop.
pub(super) const AT_ONCE_MAX: usize = 1000;

/// Nodes with one clock.
pub(super) trait Timed {
    /// Their clock.
    fn now(&mut self) -> &mut Instant;

    /// When the first of their timers is due.
    fn next_timeout(&self) -> Option<Instant>;

    /// Handles the timers of all nodes, and all that comes of it.
    fn handle_timeout(&mut self, now: Instant);

    /// Lets time go by.
    fn pass(&mut self, time: Duration) {
        let end = *self.now() + time;
        let mut at_once = 0;
        while let Some(next) = self.next_timeout().filter(|next| *next <= end) {
            let now = *self.now();
            at_once = if next > now { 0 } else { at_once + 1 };
            assert!(at_once < AT_ONCE_MAX, "a timer is due again at once");
            let now = now.max(next);
            *self.now() = now;
            self.handle_timeout(now);
        }
        *self.now() = end;
    }
}
