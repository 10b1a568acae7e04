//! Sending again while the messaging daemon is busy.
//!
//! Part of the shell: it decides how often, the caller decides on what to wait in between, so
//! that a stopping daemon or a lost connection ends the wait early.

use std::ops::ControlFlow;
use std::time::Duration;

use super::{GroupName, McastError, Sender};

/// Pause between two attempts.
pub const PAUSE: Duration = Duration::from_millis(100);

/// Attempts before giving up, 10 seconds in all.
pub const ATTEMPTS: u32 = 100;

/// Sends `payload`, and again after each [`McastError::Backpressure`].
///
/// `pause` waits for about the time it gets (a condition variable or a channel with a timeout)
/// and breaks to give up at once.
///
/// # Errors
/// [`McastError::Backpressure`] after [`ATTEMPTS`] or when `pause` broke; others at once.
pub fn mcast(
    sender: &Sender,
    group: GroupName,
    payload: &[u8],
    mut pause: impl FnMut(Duration) -> ControlFlow<()>,
) -> Result<(), McastError> {
    for attempt in 1..=ATTEMPTS {
        match sender.mcast(group, payload) {
            Err(McastError::Backpressure) if attempt < ATTEMPTS => {
                if pause(PAUSE).is_break() {
                    break;
                }
            }
            result => return result,
        }
    }
    Err(McastError::Backpressure)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::super::Multicast;
    use super::*;

    struct BusyFor(AtomicU32, McastError);

    impl Multicast for BusyFor {
        fn mcast(&self, _group: GroupName, _payload: &[u8]) -> Result<(), McastError> {
            let left = self.0.load(Ordering::Relaxed);
            if left == 0 {
                return Ok(());
            }
            self.0.store(left - 1, Ordering::Relaxed);
            Err(self.1.clone())
        }
    }

    fn run(busy: u32, error: McastError, break_at: u32) -> (Result<(), McastError>, u32) {
        let sender = Sender::new(Arc::new(BusyFor(AtomicU32::new(busy), error)));
        let mut pauses = 0;
        let result = mcast(&sender, GroupName::Config, b"x", |time| {
            assert_eq!(time, PAUSE);
            pauses += 1;
            if pauses == break_at {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        (result, pauses)
    }

    #[test]
    fn busy_is_tried_again_until_it_works() {
        assert_eq!(run(3, McastError::Backpressure, 0), (Ok(()), 3));
        assert_eq!(
            run(ATTEMPTS - 1, McastError::Backpressure, 0),
            (Ok(()), ATTEMPTS - 1)
        );
    }

    #[test]
    fn gives_up_after_the_last_attempt() {
        let expected = (Err(McastError::Backpressure), ATTEMPTS - 1);
        assert_eq!(run(ATTEMPTS, McastError::Backpressure, 0), expected);
    }

    #[test]
    fn a_break_ends_the_wait() {
        assert_eq!(
            run(50, McastError::Backpressure, 2),
            (Err(McastError::Backpressure), 2)
        );
    }

    #[test]
    fn other_errors_are_final() {
        assert_eq!(
            run(1, McastError::NotMember, 0),
            (Err(McastError::NotMember), 0)
        );
    }
}
