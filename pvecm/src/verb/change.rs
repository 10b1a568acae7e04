//! What the commands that change something have in common.
//!
//! Invariant: one change runs on a node at a time, and it begins with nothing of an earlier one that
//! was broken off.

use std::io::Write as _;

use nix::unistd::geteuid;

use super::machine::Machine;
use super::show;
use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::host::lock::{ClusterLock, NodeLock};
use crate::transaction::{self, Transaction};

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

/// Takes this node's lock, and puts back what a command that was killed has left.
///
/// # Errors
/// When another command runs, or something can not be put back.
pub fn begin(host: &Host) -> Outcome<NodeLock> {
    let lock = NodeLock::take(&host.paths.at("var/lock/pvecm.lock"))?;
    let Some(recovered) = transaction::recover(&transaction::directory(&host.paths))? else {
        return Ok(lock);
    };
    let command = &recovered.command;
    if recovered.failures.is_empty() {
        tell(&format!(
            "'{command}' was broken off earlier; what it had changed was put back"
        ));
        return Ok(lock);
    }
    Err(Failure::failed(format!(
        "'{command}' was broken off earlier, and not all of it could be put back: {}; copies of what was \
         there before are in '{}', remove that directory when all is well",
        recovered.failures.join("; "),
        transaction::directory(&host.paths).display()
    )))
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
        Failure::failed(format!(
            "{failure}; and not all of it could be put back: {}; copies of what was there before are in \
             '{}', the next command tries it again",
            self.left.join("; "),
            transaction::directory(&host.paths).display()
        ))
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
            format!(
                "'{command}' failed, and not all of it could be put back: {}; copies of what was there \
                 before are in '{}'",
                left.join("; "),
                transaction::directory(&host.paths).display()
            )
        })
    })
}

/// Tells the user something. The terminal may be gone, which is no reason to stop half-way.
pub fn tell(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// Shows what would be done, a step a line.
///
/// # Errors
/// When nobody reads it.
pub fn show_plan(steps: &[String]) -> Outcome {
    let lines: Vec<String> = steps.iter().map(|step| format!("would {step}\n")).collect();
    show(&lines.concat())
}
