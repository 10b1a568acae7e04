//! The one place that reads the clock; everything else gets the time passed in.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "this is the clock function of the shells"
)]
pub fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Seconds since 1970 as the protocol carries them.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the protocol has the low 32 bits"
)]
pub fn unix_seconds_u32() -> u32 {
    unix_seconds() as u32
}

/// A point in time that never goes back.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "this is the clock function of the shells"
)]
pub fn monotonic() -> Instant {
    Instant::now()
}
