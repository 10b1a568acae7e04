//! Waiting for descriptors, with a timeout to the nanosecond.
//!
//! Descriptors stay registered while they are open, so that a turn of the loop costs what has
//! happened, and not what could have.
//!
//! Invariant: what is watched is what is open: a socket that was closed and opened anew, perhaps
//! as the same descriptor, is watched again.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::sys::{self, EVENTS_MAX};
use crate::net::Sockets;
use crate::proto::node::SocketId;

/// A descriptor that has something. Clients come first: what they want to send goes with the token
/// that is taken then. Sockets follow in the order in which they are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ready {
    Server,
    /// A socket, and whether there are reports of what it has sent.
    Socket(SocketId, bool),
    Signals,
    Watch,
    Reload,
}

/// All but sockets, under these numbers; sockets come behind.
const OTHERS: [Ready; 4] = [Ready::Server, Ready::Signals, Ready::Watch, Ready::Reload];

/// Numbers that sockets do not have.
const OTHERS_LEN: u64 = 4;

/// A socket as it is registered.
#[derive(Debug)]
struct Watched {
    id: SocketId,
    /// [`Sockets::open`] says that it is the same one.
    number: u64,
    wants_room: bool,
}

#[derive(Debug)]
pub(super) struct Waiter {
    epoll: Epoll,
    sockets: Vec<Watched>,
    /// The kernel knows timeouts in nanoseconds.
    is_fine: bool,
}

impl Waiter {
    /// Watches what is open as long as the program runs.
    ///
    /// # Errors
    /// When the kernel has no descriptor left.
    pub(super) fn new<'a>(
        others: impl IntoIterator<Item = (Ready, BorrowedFd<'a>)>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for (what, fd) in others {
            let number = OTHERS.iter().position(|other| *other == what);
            let number = number.and_then(|number| u64::try_from(number).ok());
            let number = number.ok_or(io::ErrorKind::InvalidInput)?;
            epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, number))?;
        }
        Ok(Self {
            epoll,
            sockets: Vec::new(),
            is_fine: true,
        })
    }

    /// Watches the sockets that are open now, and no others.
    ///
    /// # Errors
    /// When the kernel has no memory for that.
    pub(super) fn follow(
        &mut self,
        sockets: &Sockets,
        wants_room: impl Fn(SocketId) -> bool,
    ) -> io::Result<()> {
        // Those that were closed are gone from the kernel's list already.
        let is_open = |watched: &Watched| {
            let mut open = sockets.open();
            open.any(|(_, number, _)| number == watched.number)
        };
        self.sockets.retain(is_open);
        for (id, number, socket) in sockets.open() {
            let wants_room = wants_room(id);
            let mut flags = EpollFlags::EPOLLIN;
            flags.set(EpollFlags::EPOLLOUT, wants_room);
            let mut event = EpollEvent::new(flags, number + OTHERS_LEN);
            let known = self.sockets.iter_mut().find(|known| known.number == number);
            match known {
                None => {
                    self.epoll.add(socket.as_fd(), event)?;
                    self.sockets.push(Watched {
                        id,
                        number,
                        wants_room,
                    });
                }
                Some(known) if known.wants_room != wants_room => {
                    self.epoll.modify(socket.as_fd(), &mut event)?;
                    known.wants_room = wants_room;
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Waits until something is there, at most so long, and puts what it is into `ready`, in order.
    ///
    /// # Errors
    /// When the system call fails; a signal is no failure.
    pub(super) fn wait(
        &mut self,
        timeout: Option<Duration>,
        ready: &mut Vec<Ready>,
    ) -> io::Result<()> {
        ready.clear();
        let mut fired = [EpollEvent::empty(); EVENTS_MAX];
        let count = match self.fired(timeout, &mut fired) {
            Err(Errno::EINTR) => 0,
            result => result?,
        };
        for event in fired.iter().take(count) {
            let number = event.data();
            let other = usize::try_from(number).ok().and_then(|at| OTHERS.get(at));
            let socket = || {
                let mut sockets = self.sockets.iter();
                let found = sockets.find(|socket| socket.number + OTHERS_LEN == number)?;
                let has_reports = event.events().contains(EpollFlags::EPOLLERR);
                Some(Ready::Socket(found.id, has_reports))
            };
            ready.extend(other.copied().or_else(socket));
        }
        ready.sort_unstable();
        Ok(())
    }

    fn fired(
        &mut self,
        timeout: Option<Duration>,
        fired: &mut [EpollEvent; EVENTS_MAX],
    ) -> Result<usize, Errno> {
        if self.is_fine {
            match sys::epoll_wait(self.epoll.0.as_fd().as_raw_fd(), fired, timeout) {
                // Before Linux 5.11, or not allowed in this sandbox.
                Err(Errno::ENOSYS | Errno::EPERM) => self.is_fine = false,
                result => return result,
            }
        }
        // Too late by a little, rather than again and again too early.
        let up = |timeout: Duration| timeout.as_micros().div_ceil(1000);
        let coarse = timeout.map_or(EpollTimeout::NONE, |timeout| {
            let millis = i32::try_from(up(timeout)).unwrap_or(i32::MAX);
            EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::MAX)
        });
        self.epoll.wait(fired, coarse)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::clock;

    #[test]
    fn what_is_there_comes_in_order_and_time_passes_otherwise() {
        let (signals, mut signal) = UnixStream::pair().unwrap();
        let (server, mut client) = UnixStream::pair().unwrap();
        let others = [
            (Ready::Signals, signals.as_fd()),
            (Ready::Server, server.as_fd()),
        ];
        let mut waiter = Waiter::new(others).unwrap();
        let mut ready = vec![Ready::Reload];
        for is_fine in [true, false] {
            waiter.is_fine = is_fine;
            let (before, wait) = (clock::now(), Duration::from_micros(2500));
            waiter.wait(Some(wait), &mut ready).unwrap();
            assert!(clock::now() - before >= wait);
            assert_eq!(ready, []);
        }
        signal.write_all(b"x").unwrap();
        client.write_all(b"x").unwrap();
        for is_fine in [true, false] {
            waiter.is_fine = is_fine;
            waiter.wait(None, &mut ready).unwrap();
            assert_eq!(ready, [Ready::Server, Ready::Signals]);
        }
    }
}
