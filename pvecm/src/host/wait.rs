//! Conditions that nothing reports are looked at again and again, here alone.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(100);

/// Looks until there is something, or `patience` is over.
pub fn until<T>(patience: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = now() + patience;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        let left = end.checked_duration_since(now())?;
        pause(left.min(INTERVAL));
    }
}

/// This moment of the clock that only goes forward.
#[expect(
    clippy::disallowed_methods,
    reason = "the command's one look at this clock"
)]
pub fn now() -> Instant {
    Instant::now()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the state of a cluster announces nothing to wait for"
)]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}
