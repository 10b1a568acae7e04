//! Descriptors of the client libraries, and waiting for them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What poll said about one descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    No,
    Data,
    /// The other side is gone; data may still wait.
    HungUp,
}

/// A copy of a descriptor that a library handed out, ours to keep and to close.
///
/// It must be dropped with the library's handle: the daemon sees the connection close only when
/// all copies are closed.
#[expect(
    unsafe_code,
    reason = "the client libraries hand out bare descriptor numbers"
)]
pub(super) fn owned_copy(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: callers pass what a library returned for a handle that they hold open, so the
    // descriptor is open, and it is borrowed only for this statement.
    unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()
}

/// Waits until one of `fds` is ready or `timeout` is over; `None` waits without limit.
///
/// An interrupting signal counts as nothing ready. Times are rounded up, so that a timer that
/// is due a little later is not polled for in a loop.
pub(super) fn wait_ready(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> Vec<Ready> {
    let mut polled: Vec<_> = fds
        .iter()
        .map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN))
        .collect();
    match poll(&mut polled, poll_timeout(timeout)) {
        Ok(_) => polled.iter().map(|fd| readiness(fd.revents())).collect(),
        Err(Errno::EINTR) => vec![Ready::No; fds.len()],
        // Out of memory: dispatching finds out what waits.
        Err(_) => vec![Ready::Data; fds.len()],
    }
}

fn readiness(revents: Option<PollFlags>) -> Ready {
    let lost = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
    match revents {
        Some(flags) if flags.intersects(lost) => Ready::HungUp,
        Some(flags) if flags.is_empty() => Ready::No,
        Some(_) | None => Ready::Data,
    }
}

fn poll_timeout(timeout: Option<Duration>) -> PollTimeout {
    timeout.map_or(PollTimeout::NONE, |time| {
        let ms = time.as_nanos().div_ceil(1_000_000);
        i32::try_from(ms)
            .ok()
            .and_then(|ms| PollTimeout::try_from(ms).ok())
            .unwrap_or(PollTimeout::MAX)
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn copies_see_data_and_hangup() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let copy = owned_copy(far.as_raw_fd()).unwrap();
        drop(far);
        let now = Some(Duration::ZERO);
        assert_eq!(wait_ready(&[copy.as_fd()], now), [Ready::No]);
        near.write_all(b"x").unwrap();
        assert_eq!(wait_ready(&[copy.as_fd()], now), [Ready::Data]);
        drop(near);
        assert_eq!(wait_ready(&[copy.as_fd()], None), [Ready::HungUp]);
    }

    #[test]
    fn a_bad_number_is_refused() {
        assert!(owned_copy(-1).is_err());
    }

    #[test]
    fn short_times_are_not_cut_to_nothing() {
        assert_eq!(
            poll_timeout(Some(Duration::from_micros(1))),
            PollTimeout::from(1u8)
        );
        assert_eq!(poll_timeout(Some(Duration::ZERO)), PollTimeout::ZERO);
        assert_eq!(poll_timeout(Some(Duration::MAX)), PollTimeout::MAX);
        assert!(poll_timeout(None).is_none());
    }
}
