//! Waiting for the end: a signal, or the mount taken away.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};

/// Why the daemon has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// This signal came.
    Signal(Signal),
    /// Somebody unmounted the file system.
    Unmounted,
}

/// The signals that end the daemon, blocked in all threads and read from a descriptor.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Takes the signals over. To be called before any thread starts.
    ///
    /// # Errors
    /// When the signals can not be had.
    pub fn take() -> io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
            set.add(signal);
        }
        set.thread_block()?;
        Ok(Self(SignalFd::with_flags(
            &set,
            SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
        )?))
    }

    /// Waits for a signal, or for `unmounted` to become readable.
    ///
    /// # Errors
    /// When waiting is not possible.
    pub fn wait(&self, unmounted: BorrowedFd<'_>) -> io::Result<End> {
        loop {
            let mut fds = [
                PollFd::new(self.0.as_fd(), PollFlags::POLLIN),
                PollFd::new(unmounted, PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            }
            if let Some(info) = self.0.read_signal()? {
                let number = i32::try_from(info.ssi_signo).unwrap_or_default();
                let signal = Signal::try_from(number).unwrap_or(Signal::SIGTERM);
                return Ok(End::Signal(signal));
            }
            let ended = fds[1].revents().is_some_and(|events| !events.is_empty());
            if ended {
                return Ok(End::Unmounted);
            }
        }
    }
}
