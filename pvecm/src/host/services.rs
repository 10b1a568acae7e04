//! Services of a node, as its service manager runs them.

use super::command::program;
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
    let args = [verb.word()].into_iter().chain(units.iter().copied());
    program("systemctl", args).output().map(drop)
}
