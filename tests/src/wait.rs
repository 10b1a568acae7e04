//! The clock of the tests, and waiting for a condition with a deadline.
//!
//! Invariant: this is the only module of the crate that reads the clock or sleeps. Tests say what
//! they wait for and for how long at most; they never assume that some time is enough.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::time::{ClockId, clock_gettime};

/// Time from here to `deadline` is split into polls of this length.
///
/// Short against everything that is waited for (a token timeout is 1 s), long against the cost of
/// a typical condition, so that waiting does not take the CPU from the daemons under test.
const POLL: Duration = Duration::from_millis(10);

/// A look that takes long, as one that starts programs, is followed by so many times that, at most
/// [`POLL_MAX`]: a few tests that wait would otherwise take all processors.
const LEISURE: u32 = 5;
const POLL_MAX: Duration = Duration::from_millis(150);

/// Set once somebody wants the program to end.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Lets every wait of this process fail from now on, so that it can end in order.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Whether [`interrupt`] was called.
pub fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// The present moment.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where the tests read the clock"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// A clock that all processes of this machine share, in every namespace: for times that one
/// process notes and another one subtracts.
///
/// # Panics
/// When the kernel has no monotonic clock.
#[must_use]
pub fn machine_clock() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux has a monotonic clock");
    Duration::from(time)
}

/// CPU time of this thread: for limits that a busy machine does not make shorter.
///
/// # Panics
/// When the kernel does not count it.
#[must_use]
pub fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux counts CPU time");
    Duration::from(time)
}

/// Waits until `condition` holds.
///
/// # Errors
/// When it does not within `deadline`; the text names `what`.
pub fn eventually(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> bool,
) -> Result<()> {
    eventually_ok(deadline, what, || {
        if condition() {
            Ok(())
        } else {
            bail!("the condition does not hold")
        }
    })
}

/// Waits until `attempt` succeeds, and hands back what it gives.
///
/// # Errors
/// When it does not within `deadline`: the error of the last attempt, below a line with `what`.
pub fn eventually_ok<T>(
    deadline: Duration,
    what: &str,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    let start = now();
    loop {
        let begun = now();
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() >= deadline => {
                return Err(error.context(format!("waited {deadline:?} in vain: {what}")));
            }
            Err(_) if is_interrupted() => bail!("interrupted while waiting for {what}"),
            Err(_) => rest((LEISURE * begun.elapsed()).clamp(POLL, POLL_MAX)),
        }
    }
}

/// Looks for a condition without a pause, and tells how long it took to come true: for measuring.
///
/// # Errors
/// When it does not within `deadline`; the text names `what`.
pub fn measure_until(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> bool,
) -> Result<Duration> {
    let start = now();
    while !condition() {
        if start.elapsed() >= deadline || is_interrupted() {
            bail!("waited {:?} in vain: {what}", start.elapsed());
        }
        std::thread::yield_now();
    }
    Ok(start.elapsed())
}

/// Rests: between two operations of a load that is not to take all of the machine, and between two
/// looks for a condition. Daemons and the kernel offer no event for most of what a test waits for
/// (another node's view, a mount in another namespace), so there is nothing but to look again.
#[expect(
    clippy::disallowed_methods,
    reason = "the rate of a load is a matter of time, and what is waited for sends no event"
)]
pub fn rest(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_ends_the_wait() {
        let mut calls = 0;
        eventually(Duration::from_secs(5), "three calls", || {
            calls += 1;
            calls == 3
        })
        .unwrap();
        assert_eq!(calls, 3);
    }

    #[test]
    fn the_last_error_is_reported_with_what_was_awaited() {
        let error = eventually_ok(Duration::ZERO, "rain", || -> Result<()> { bail!("dry") });
        assert_eq!(
            format!("{:#}", error.unwrap_err()),
            "waited 0ns in vain: rain: dry"
        );
    }
}
