//! Conditions that nothing reports are looked at again and again, here alone.

use std::sync::mpsc;
use std::thread;
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

/// Does something that may hang, as everything below a mount whose daemon is stuck: waits for it no
/// longer than `patience`. What hangs is left behind and ends with the process.
pub fn within<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (give, take) = mpsc::channel();
    let spawned = thread::Builder::new().spawn(move || {
        // Nobody takes it when it comes too late.
        drop(give.send(work()));
    });
    spawned.ok()?;
    take.recv_timeout(patience).ok()
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
    thread::sleep(duration);
}
