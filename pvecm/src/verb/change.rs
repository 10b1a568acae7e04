//! What the commands that change something have in common.
//!
//! Invariant: one change runs on a node at a time, and it begins with nothing of an earlier one that
//! was broken off.

use nix::unistd::geteuid;

use super::show;
use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::host::lock::NodeLock;
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
        eprintln!("'{command}' was broken off earlier; what it had changed was put back");
        return Ok(lock);
    }
    Err(Failure::failed(format!(
        "'{command}' was broken off earlier, and not all of it could be put back: {}; copies of what was \
         there before are in '{}', remove that directory when all is well",
        recovered.failures.join("; "),
        transaction::directory(&host.paths).display()
    )))
}

/// Does `work`; when it fails, puts back what it has changed.
///
/// # Errors
/// What `work` says, and what could not be put back.
pub fn undone_on_failure<T>(
    host: &Host,
    command: &str,
    work: impl FnOnce(&mut Transaction) -> Outcome<T>,
) -> Outcome<T> {
    let mut transaction = Transaction::begin(&transaction::directory(&host.paths), command)?;
    match work(&mut transaction) {
        Ok(result) => transaction.keep().map(|()| result),
        Err(failure) => {
            eprintln!("{failure}");
            eprintln!("putting back what was changed");
            let left = transaction.put_back();
            Err(if left.is_empty() {
                Failure::failed(format!("'{command}' failed; this node is as it was before"))
            } else {
                Failure::failed(format!(
                    "'{command}' failed, and not all of it could be put back: {}; copies of what was \
                     there before are in '{}'",
                    left.join("; "),
                    transaction::directory(&host.paths).display()
                ))
            })
        }
    }
}

/// Shows what would be done, a step a line.
///
/// # Errors
/// When nobody reads it.
pub fn show_plan(steps: &[String]) -> Outcome {
    let lines: Vec<String> = steps.iter().map(|step| format!("would {step}\n")).collect();
    show(&lines.concat())
}
