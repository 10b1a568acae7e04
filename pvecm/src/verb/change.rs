//! What the commands that change something have in common.
//!
//! Invariant: one change runs on a node at a time, and it begins with nothing of an earlier one that
//! was broken off, unless the user has decided about that.

use nix::unistd::geteuid;

use super::machine::Machine;
use super::show;
use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::host::lock::{ClusterLock, NodeLock};
pub use crate::tell::tell;
use crate::transaction::{self, BrokenOff, Recovered, Transaction};

/// Stops a command that only root can do.
///
/// # Errors
/// When somebody else runs it.
pub fn need_root() -> Outcome {
    if geteuid().is_root() {
        Ok(())
    } else {
        Err(Failure::refused("please run as root"))
    }
}

/// Takes this node's lock alone.
///
/// # Errors
/// When another command runs.
pub(super) fn node_lock(host: &Host) -> Outcome<NodeLock> {
    NodeLock::take(&host.paths.at("var/lock/pvecm.lock")).map(NodeLock::signed)
}

/// Takes this node's lock, and puts back what a command that was killed has left.
///
/// # Errors
/// When another command runs, or something can not be put back, or might take the place of what was
/// changed long after.
pub fn begin(host: &Host) -> Outcome<NodeLock> {
    let lock = node_lock(host)?;
    let directory = transaction::directory(&host.paths);
    if let Some(broken) = transaction::broken_off(&directory)?.filter(|broken| broken.is_dated) {
        return Err(Failure::refused(dated(&broken)));
    }
    if let Some(recovered) = transaction::recover(&directory)? {
        report(host, &recovered)?;
    }
    Ok(lock)
}

/// As [`begin`], unless the user only wants to know what would be done: then nothing is locked and
/// nothing put back.
///
/// # Errors
/// As [`begin`].
pub fn begin_unless(dry_run: bool, host: &Host) -> Outcome<Option<NodeLock>> {
    if dry_run {
        foresee(host);
        return Ok(None);
    }
    begin(host).map(Some)
}

/// Tells what became of a command that was broken off.
///
/// # Errors
/// When not all of it was put back.
pub(super) fn report(host: &Host, recovered: &Recovered) -> Outcome {
    let command = &recovered.command;
    if recovered.failures.is_empty() {
        tell(&format!(
            "'{command}' was broken off earlier; what it had changed was put back"
        ));
        return Ok(());
    }
    Err(Failure::failed(format!(
        "'{command}' was broken off earlier, and {}; 'pvecm undo --forget' leaves it as it is",
        rest(host, &recovered.failures)
    )))
}

/// Tells a user who only wants to know what a command would do that there is something to put back
/// first.
pub fn foresee(host: &Host) {
    match transaction::broken_off(&transaction::directory(&host.paths)) {
        Ok(None) => {}
        Ok(Some(broken)) if broken.is_dated => tell(&dated(&broken)),
        Ok(Some(broken)) => tell(&format!(
            "'{}' is at work, or was broken off {}: then what it has changed would be put back first",
            broken.command, broken.when
        )),
        Err(failure) => tell(&failure.to_string()),
    }
}

fn dated(broken: &BrokenOff) -> String {
    format!(
        "'{}' was broken off {}. What was there before would take the place of all that was changed since, \
         so you decide: 'pvecm undo --dry-run' shows what would be put back, 'pvecm undo' puts it back, \
         'pvecm undo --forget' keeps what is there now",
        broken.command, broken.when
    )
}

/// What could not be put back, and what becomes of it.
pub(crate) fn rest(host: &Host, left: &[String]) -> String {
    format!(
        "not all of it could be put back: {}; the rest is tried again by 'pvecm undo', and within 15 \
         minutes by the next command that changes something; copies of what was there before are in '{}'",
        left.join("; "),
        transaction::directory(&host.paths).display()
    )
}

/// A change that did not succeed.
#[derive(Debug)]
pub struct Undone {
    /// Why.
    pub failure: Failure,
    /// What could not be put back.
    pub left: Vec<String>,
    /// Still held: the others are to take the old configuration before there is another one.
    pub lock: Option<ClusterLock>,
}

impl Undone {
    /// The failure of a change of the cluster.
    #[must_use]
    pub fn within(self, host: &Host, what: &str) -> Failure {
        let failure = self.failure.within(what);
        if self.left.is_empty() {
            return failure;
        }
        Failure::failed(format!("{failure}; and {}", rest(host, &self.left)))
    }
}

/// Does `work`; when it fails, or the command is to end, puts back what it has changed. `lock` is held
/// until then.
///
/// # Errors
/// What `work` says, and what could not be put back.
pub fn undone<T>(
    host: &Host,
    machine: &dyn Machine,
    command: &str,
    lock: Option<ClusterLock>,
    work: impl FnOnce(&mut Transaction) -> Outcome<T>,
) -> Result<T, Undone> {
    attempt(host, machine, command, lock, work, |_| {})
}

fn attempt<T>(
    host: &Host,
    machine: &dyn Machine,
    command: &str,
    lock: Option<ClusterLock>,
    work: impl FnOnce(&mut Transaction) -> Outcome<T>,
    told: impl FnOnce(&Failure),
) -> Result<T, Undone> {
    let unchanged = |failure| Undone {
        failure,
        left: Vec::new(),
        lock: None,
    };
    let directory = transaction::directory(&host.paths);
    let mut transaction = Transaction::begin(&directory, command).map_err(unchanged)?;
    transaction.hold(lock);
    match work(&mut transaction).and_then(|result| machine.step().map(|()| result)) {
        Ok(result) => transaction.keep().map(|()| result).map_err(unchanged),
        Err(failure) => {
            told(&failure);
            let control = |verb: &str, units: &[&str]| machine.put_back(verb, units);
            let lock = transaction.release();
            let left = transaction.put_back_with(&control);
            Err(Undone {
                failure,
                left,
                lock,
            })
        }
    }
}

/// As [`undone`], for a change of this node, whose user is told what happens.
///
/// # Errors
/// As [`undone`].
pub fn undone_on_failure<T>(
    host: &Host,
    machine: &dyn Machine,
    command: &str,
    work: impl FnOnce(&mut Transaction) -> Outcome<T>,
) -> Outcome<T> {
    let told = |failure: &Failure| {
        tell(&failure.to_string());
        tell("putting back what was changed");
    };
    let worked = attempt(host, machine, command, None, work, told);
    worked.map_err(|Undone { left, .. }| {
        Failure::failed(if left.is_empty() {
            format!("'{command}' failed; this node is as it was before")
        } else {
            format!("'{command}' failed, and {}", rest(host, &left))
        })
    })
}

/// Shows what would be done, a step a line.
///
/// # Errors
/// When nobody reads it.
pub fn show_plan(steps: &[String]) -> Outcome {
    let lines: Vec<String> = steps.iter().map(|step| format!("would {step}\n")).collect();
    show(&lines.concat())
}
