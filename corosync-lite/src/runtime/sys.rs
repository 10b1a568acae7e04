//! The system call that waits for descriptors with a fine timeout.
#![expect(unsafe_code, reason = "epoll_pwait2 has no safe form")]

use std::os::fd::RawFd;
use std::ptr;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::EpollEvent;

/// Descriptors that are told of at a time; others wait for the next call.
pub(super) const EVENTS_MAX: usize = 16;

/// Waits for events, for ever without a timeout; gives how many of `fired` were set.
pub(super) fn epoll_wait(
    epoll: RawFd,
    fired: &mut [EpollEvent; EVENTS_MAX],
    timeout: Option<Duration>,
) -> Result<usize, Errno> {
    let room = libc::c_int::try_from(fired.len()).unwrap_or(libc::c_int::MAX);
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(i32::try_from(timeout.subsec_nanos()).unwrap_or(0)),
    });
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: `EpollEvent` is the kernel's structure and nothing else, there are at least `room` of them, and
    // the timeout lives until the call ends. No signals are blocked or let through.
    let count =
        unsafe { libc::epoll_pwait2(epoll, fired.as_mut_ptr().cast(), room, timeout, ptr::null()) };
    Errno::result(count).map(|count| usize::try_from(count).unwrap_or(0))
}

const _: () = assert!(size_of::<EpollEvent>() == size_of::<libc::epoll_event>());
