//! How often to send again while the messaging daemon is busy. Whoever sends decides on what to
//! wait in between.

use std::time::Duration;

/// Pause between two attempts.
pub const PAUSE: Duration = Duration::from_millis(100);

/// Attempts before giving up, 10 seconds in all.
pub const ATTEMPTS: u32 = 100;
