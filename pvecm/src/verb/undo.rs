//! What a command that was broken off has changed is put back, or kept.

use super::change::{self, need_root, show_plan};
use super::machine::ThisMachine;
use super::question::confirm;
use super::show;
use crate::cli::Undo;
use crate::failure::Outcome;
use crate::host::{Host, services};
use crate::tell::announce;
use crate::transaction::{self, BrokenOff, Control, recover_with};

const NOTHING: &str = "no change was broken off, there is nothing to put back\n";

/// Puts back, or keeps.
///
/// # Errors
/// When the user does not want it, or not all of it can be put back.
pub fn run(host: &Host, args: Undo) -> Outcome {
    need_root()?;
    if args.dry_run {
        change::foresee(host);
        let plan = plan(host, args.forget)?;
        if plan.is_empty() {
            return show(NOTHING);
        }
        return show_plan(&plan);
    }
    undo(host, args, ThisMachine::watched, &services::put_back)
}

pub(super) fn plan(host: &Host, forget: bool) -> Outcome<Vec<String>> {
    let directory = transaction::directory(&host.paths);
    let broken = transaction::broken_off(&directory);
    if forget {
        let is_there = broken.map_or(true, |broken| broken.is_some());
        let step = || format!("remove '{}'", directory.display());
        return Ok(is_there.then(step).into_iter().collect());
    }
    Ok(broken?.map(|broken| broken.steps).unwrap_or_default())
}

/// As [`run`], with another service manager. From `watch` on signals wait until it is done; a question
/// they may end.
pub(super) fn undo<W>(
    host: &Host,
    args: Undo,
    watch: impl FnOnce() -> Outcome<W>,
    control: Control<'_>,
) -> Outcome {
    // While a command is at work its journal is there as well.
    let _lock = change::node_lock(host)?;
    let directory = transaction::directory(&host.paths);
    let broken = match transaction::broken_off(&directory) {
        // The way out when it can not be read.
        Err(failure) if args.forget => {
            change::tell(&failure.to_string());
            Some(BrokenOff {
                command: "a command".to_owned(),
                when: "at an unknown time".to_owned(),
                is_dated: true,
                steps: Vec::new(),
            })
        }
        broken => broken?,
    };
    let Some(broken) = broken else {
        return show(NOTHING);
    };
    let (command, when) = (&broken.command, &broken.when);
    if !args.yes {
        let question = if args.forget {
            format!("'{command}' was broken off {when}. Keep what is there now")
        } else {
            let steps = broken.steps.join("\n  ");
            format!(
                "'{command}' was broken off {when}. To be done now:\n  {steps}\nWhat was changed since in \
                 these files is lost. Put back what was there before"
            )
        };
        confirm(&question, "use --yes if it is to be done")?;
    }
    let _watched = watch()?;
    if args.forget {
        transaction::forget(&directory)?;
        announce(&format!(
            "what '{command}' has changed stays; the copies of what was there before are removed"
        ));
        return Ok(());
    }
    match recover_with(&directory, control)? {
        Some(recovered) => change::report(host, &recovered),
        None => Ok(()),
    }
}
