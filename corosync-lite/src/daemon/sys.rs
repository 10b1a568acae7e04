//! System calls that have no safe form.
#![expect(
    unsafe_code,
    reason = "fork, localtime_r, sched_setscheduler and setpriority have no safe form"
)]

use std::io;
use std::mem;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::{ForkResult, Pid};

/// A point in time as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LocalTime {
    /// 0 is January.
    pub(super) month: usize,
    pub(super) day: i32,
    pub(super) hour: i32,
    pub(super) minute: i32,
    pub(super) second: i32,
    pub(super) millisecond: u32,
}

/// The time of this host's zone.
pub(super) fn local_time(since_1970: Duration) -> LocalTime {
    let seconds = libc::time_t::try_from(since_1970.as_secs()).unwrap_or(0);
    // SAFETY: all bytes zero is a valid value of this structure of numbers and a pointer.
    let mut parts: libc::tm = unsafe { mem::zeroed() };
    // SAFETY: both live until the call ends. It reads the environment, which nothing here changes.
    unsafe { libc::localtime_r(&raw const seconds, &raw mut parts) };
    LocalTime {
        month: usize::try_from(parts.tm_mon).unwrap_or(0),
        day: parts.tm_mday,
        hour: parts.tm_hour,
        minute: parts.tm_min,
        second: parts.tm_sec,
        millisecond: since_1970.subsec_millis(),
    }
}

/// Splits the process in two; gives the child to the parent.
pub(super) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: the caller has made sure that the process has one thread, so no lock can be held by
    // another one, and the child may use everything that the parent could.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// Gives this thread the highest priority of the round-robin class; gives that priority. Threads
/// that it starts later do not inherit it.
pub(super) fn set_round_robin() -> Result<i32, (i32, Errno)> {
    // SAFETY: takes and gives numbers.
    let priority = unsafe { libc::sched_get_priority_max(libc::SCHED_RR) };
    if priority < 0 {
        return Err((0, Errno::last()));
    }
    let parameter = libc::sched_param {
        sched_priority: priority,
    };
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the parameter lives until the call ends.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const parameter) };
    Errno::result(result).map_err(|error| (priority, error))?;
    Ok(priority)
}

/// Sets the nice value of the process group.
pub(super) fn set_nice(value: i32) -> Result<(), Errno> {
    // SAFETY: takes and gives numbers.
    let result = unsafe { libc::setpriority(libc::PRIO_PGRP, 0, value) };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_all_parts() {
        let time = local_time(Duration::from_millis(86_400_000 * 45 + 5_007));
        assert_eq!((time.month, time.second, time.millisecond), (1, 5, 7));
        assert!((14..=15).contains(&time.day));
    }
}
