//! What the process asks of the system: to run in time, to stay in memory, to leave no copy of the
//! key behind. All of it is wished for, none is needed: what is refused is named and done without.

use nix::errno::Errno;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

use super::sys;
use crate::config::Keys;

/// Descriptors that the process should be able to have: each client takes one.
const DESCRIPTORS: u64 = 65_536;

/// How the process is scheduled, as the section `system` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheduling {
    /// Before all ordinary processes.
    pub round_robin: bool,
    /// Nice value; 0 leaves it.
    pub nice: i32,
}

impl Scheduling {
    /// Reads the keys.
    ///
    /// # Errors
    /// The text for a value that is none.
    pub fn read(keys: &Keys) -> Result<Self, String> {
        let nice = match keys.text("system.priority") {
            None => 0,
            Some("max") => i32::MIN,
            Some("min") => i32::MAX,
            Some(text) => text
                .trim()
                .parse()
                .map_err(|_| format!("Priority value {text} is invalid"))?,
        };
        let round_robin = keys
            .text("system.sched_rr")
            .is_none_or(|text| text == "yes");
        Ok(Self { round_robin, nice })
    }

    /// Applies it to this thread. Gives what was refused.
    pub fn apply(self) -> Vec<String> {
        let mut refused = Vec::new();
        let mut nice = self.nice;
        if self.round_robin {
            nice = 0;
            if let Err((priority, error)) = sys::set_round_robin() {
                refused.push(format!(
                    "Could not set SCHED_RR at priority {priority}: {}; on a busy host the token \
                     may be lost",
                    error.desc()
                ));
                nice = i32::MIN;
            }
        }
        if nice != 0
            && let Err(error) = sys::set_nice(nice)
        {
            refused.push(format!("Could not set priority {nice}: {}", error.desc()));
        }
        refused
    }
}

/// Keeps the memory of the process from being paged out. Pages count once they are used, so a
/// client's rings cost no more than it writes.
///
/// # Errors
/// The text of what was refused.
pub fn lock_memory() -> Result<(), String> {
    setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).map_err(|error| {
        // With a limit in force later allocations would fail.
        format!(
            "Could not increase RLIMIT_MEMLOCK, not locking memory: {}",
            error.desc()
        )
    })?;
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    let flags = MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault;
    mlockall(flags).map_err(|error: Errno| {
        format!(
            "Could not lock memory of service to avoid page faults: {}",
            error.desc()
        )
    })
}

/// No memory image of the process is ever written, and no other user can look into it: it holds
/// the key of the cluster.
///
/// # Errors
/// The text of what was refused.
pub fn protect_key() -> Result<(), String> {
    let limited = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    limited
        .and_then(|()| set_dumpable(false))
        .map_err(|error| format!("Could not switch core dumps off: {}", error.desc()))
}

/// Allows as many descriptors as the system lets us have, up to what is ever useful.
pub fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let wanted = DESCRIPTORS.max(soft);
        // Root may raise both; otherwise the hard limit is what there is.
        if setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted.max(hard)).is_err() {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Document;
    use crate::host::ThisHost;

    fn scheduling(text: &str) -> Result<Scheduling, String> {
        let text = format!("system {{\n{text}\n}}\n");
        let document = Document::parse(text.as_bytes()).unwrap();
        Scheduling::read(&Keys::read(&document, &ThisHost).unwrap())
    }

    #[test]
    fn keys_choose_the_scheduling() {
        let plain = Scheduling {
            round_robin: true,
            nice: 0,
        };
        assert_eq!(scheduling(""), Ok(plain));
        let other = Scheduling {
            round_robin: false,
            nice: -5,
        };
        assert_eq!(scheduling("  sched_rr: no\n  priority: -5"), Ok(other));
        assert_eq!(
            scheduling("  priority: max").map(|it| it.nice),
            Ok(i32::MIN)
        );
        let error = scheduling("  priority: high").unwrap_err();
        assert_eq!(error, "Priority value high is invalid");
    }
}
