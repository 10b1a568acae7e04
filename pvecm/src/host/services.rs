//! Services of a node, as its service manager runs them.

use super::command::{Program, program};
use crate::failure::Outcome;

/// The messaging daemon: Corosync's name, which corosync-lite's unit has as well.
pub const MESSAGING: &str = "corosync.service";
/// The cluster file system.
pub const FILE_SYSTEM: &str = "pve-cluster.service";

/// What is done to services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Starts what does not run.
    Start,
    /// Ends what runs.
    Stop,
    /// Ends and starts.
    Restart,
    /// Makes it read its files again, by a new start if it knows no other way.
    Reload,
}

impl Verb {
    /// The service manager's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Reload => "reload-or-restart",
        }
    }
}

/// Does `verb` to services and waits until it is done.
///
/// # Errors
/// What the service manager says.
pub fn control(verb: Verb, units: &[&str]) -> Outcome {
    tell(verb.word(), units)
}

/// The same with any word of the service manager.
///
/// # Errors
/// What it says.
pub fn tell(word: &str, units: &[&str]) -> Outcome {
    systemctl(word, units).output().map(drop)
}

/// The same while something is put back: whoever asked this command to end, and asks again, does not
/// keep it from that.
///
/// # Errors
/// What the service manager says.
pub fn put_back(word: &str, units: &[&str]) -> Outcome {
    systemctl(word, units).apart().output().map(drop)
}

fn systemctl(word: &str, units: &[&str]) -> Program {
    let args = std::iter::once(word).chain(units.iter().copied());
    program("systemctl", args)
}
