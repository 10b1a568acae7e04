//! Services of a node, as its service manager runs them.

use super::Paths;
use super::command::{Program, program};
use crate::failure::{Failure, Outcome};

/// The messaging daemon: Corosync's name, which corosync-lite's unit has as well.
pub const MESSAGING: &str = "corosync.service";
/// The cluster file system.
pub const FILE_SYSTEM: &str = "pve-cluster.service";
/// What shows the node's certificate, and knows its name.
const API: [&str; 3] = [
    "pvedaemon.service",
    "pveproxy.service",
    "pvecm-serve.service",
];

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

/// Whether a service has ended, though it was started and not told to. A service manager that does not
/// tell leaves that open: then it has not.
#[must_use]
pub fn has_ended(unit: &str) -> bool {
    // The code says the same of a service that is about to run.
    let state = systemctl("show", &["--property=ActiveState", unit]).output();
    state.is_ok_and(|state| matches!(state.trim(), "ActiveState=inactive" | "ActiveState=failed"))
}

/// Has the services that show the node's certificate and know its name look at both again, through
/// `control`. Returns what went wrong; not every node has them all.
pub fn reload_api(control: &dyn Fn(&str, &[&str]) -> Outcome) -> Vec<Failure> {
    let reload = |unit: &&str| {
        // One of them may be what this command was started by, and is not to wait for its end.
        let failure = control("try-reload-or-restart", &["--no-block", unit]).err()?;
        let text = failure.to_string();
        let is_there = !text.contains("not found") && !text.contains("not loaded");
        is_there.then_some(failure)
    };
    API.iter().filter_map(reload).collect()
}

/// Words before a command line that let it go on when the service or the session ends that starts it:
/// it gets a control group of its own. None where the service manager is not there, or can not do it;
/// it is told then. The process stays the one that is started.
#[must_use]
pub fn of_its_own(paths: &Paths, what: &str) -> Vec<String> {
    if !paths.at("run/systemd/system").is_dir() {
        return Vec::new();
    }
    let words = scope(what);
    let (name, args) = ("systemd-run", words.iter().skip(1).map(String::as_str));
    // What follows is to run in any case.
    match program(name, args.chain(["true"])).apart().output() {
        Ok(_) => words,
        Err(failure) => {
            tracing::warn!("{what} ends when who started it is stopped by force: {failure}");
            Vec::new()
        }
    }
}

fn scope(what: &str) -> Vec<String> {
    let description = format!("--description={what}");
    let words = ["systemd-run", "--scope", "--quiet", "--collect"];
    let words = words.into_iter().chain([description.as_str(), "--"]);
    words.map(str::to_owned).collect()
}

fn systemctl(word: &str, units: &[&str]) -> Program {
    let args = std::iter::once(word).chain(units.iter().copied());
    program("systemctl", args)
}
