//! `expected`: how many votes there are to be, until the missing nodes are back.

use std::time::Duration;

use super::change::need_root;
use super::{show, status};
use crate::cli::Expected;
use crate::failure::{Failure, Outcome};
use crate::host::pve::{self, State as Mount};
use crate::host::{Host, wait};
use crate::state::{self, State, expected};

/// The daemons agree on a new value within this time.
const AGREEMENT: Duration = Duration::from_secs(15);
/// The cluster file system learns of quorum within this time.
const LEARNING: Duration = Duration::from_secs(45);

/// Changes the expected votes and waits until that is in force.
///
/// # Errors
/// When the daemon refuses, or what is expected to follow does not.
pub fn run(host: &Host, args: &Expected) -> Outcome {
    need_root()?;
    pve::need_mount(&host.paths)?;
    let found = status::configuration(&host.paths)?;
    if !found.mounted {
        return Err(Failure::failed(format!(
            "'{}' does not answer: see 'journalctl -u pve-cluster'",
            host.paths.at("etc/pve").display()
        )));
    }
    // Alone it would act beside the cluster, under its name and with its keys.
    if let Some(reason) = status::removed(&found.conf, &host.name) {
        return Err(Failure::refused(format!("{reason}; nothing was changed")));
    }
    let wanted = args.expected;
    let before = state::ask().map_err(|error| status::no_state(&error))?;
    let change = expected::judge(&before, &status::all_nodes(), wanted);
    let lines = change.effect.iter().map(|line| format!("{line}\n"));
    let risks = change.risk.iter().map(|line| format!("RISK: {line}\n"));
    show(&lines.chain(risks).collect::<String>())?;
    if let Some(reason) = &change.refusal {
        return Err(refused("CS_ERR_INVALID_PARAM", reason));
    }
    if args.dry_run {
        return show("nothing was changed (--dry-run)\n");
    }
    let answer = state::set_expected(wanted).map_err(|error| status::no_state(&error))?;
    answer.map_err(|code| refused(&code, "see 'journalctl -u corosync'"))?;
    let after = agreed(wanted, change.quorate)?;
    if !after.quorate {
        return show(&format!("{}\n", state::words::quorum(&after)));
    }
    let writable = || (pve::state(&host.paths) == Mount::Writable).then_some(());
    wait::until(LEARNING, writable).ok_or_else(|| {
        Failure::failed(format!(
            "the messaging daemon has quorum, but '{}' is still read-only after {} s: see \
             'journalctl -u pve-cluster'",
            host.paths.at("etc/pve").display(),
            LEARNING.as_secs()
        ))
    })?;
    show("quorate: /etc/pve takes changes\n")
}

/// Waits until the new value is in force, with the quorum that was foreseen if it comes.
fn agreed(wanted: u32, quorate: bool) -> Outcome<State> {
    let mut last = None;
    let settled = wait::until(AGREEMENT, || {
        let state = state::ask().ok()?;
        let is_settled = state.votes.expected == wanted && state.quorate == quorate;
        last = Some(state.clone());
        is_settled.then_some(state)
    });
    // The options of the cluster may have it otherwise.
    let in_force = settled.or_else(|| last.filter(|state| state.votes.expected == wanted));
    in_force.ok_or_else(|| {
        Failure::failed(format!(
            "the daemons have not agreed on {wanted} expected votes after {} s: see 'pvecm status'",
            AGREEMENT.as_secs()
        ))
    })
}

fn refused(code: &str, reason: &str) -> Failure {
    Failure::refused(format!(
        "Unable to set expected votes: {code}: {reason}; nothing was changed"
    ))
}
