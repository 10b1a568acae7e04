//! SHELL: the one place that reads the clock; everything else gets the time passed in.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// A point in time that never goes back.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock of the shell")]
pub fn now() -> Instant {
    Instant::now()
}

/// Time since 1970.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock of the shell")]
pub fn since_1970() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// The monotonic time of the machine: it does not begin anew with the process.
#[must_use]
pub fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}
