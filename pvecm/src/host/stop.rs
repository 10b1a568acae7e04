//! The user, or the system, wants the command to end.
//!
//! From [`Signals::block`] on a signal does not end the process: it is seen between steps and while
//! waiting, so that what has changed is put back. Other programs that the command starts get their
//! signals as always.

use std::cell::Cell;
use std::os::fd::{AsFd as _, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::failure::{Failure, Outcome};

/// Ctrl-C, a polite kill, and the end of the terminal.
#[derive(Debug)]
pub struct Signals {
    descriptor: SignalFd,
    seen: Cell<bool>,
}

impl Signals {
    /// Takes the signals. To be called before there are other threads.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn block() -> Outcome<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            set.add(signal);
        }
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let descriptor = set
            .thread_block()
            .and_then(|()| SignalFd::with_flags(&set, flags));
        Ok(Self {
            descriptor: descriptor
                .map_err(|error| Failure::failed(format!("can not take signals: {error}")))?,
            seen: Cell::new(false),
        })
    }

    /// Whether one has come.
    pub fn seen(&self) -> bool {
        while let Ok(Some(_)) = self.descriptor.read_signal() {
            self.seen.set(true);
        }
        self.seen.get()
    }

    /// Readable when one has come that was not seen yet.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// The failure of a command that was told to end.
pub fn interrupted() -> Failure {
    Failure::failed("interrupted")
}
