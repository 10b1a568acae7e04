//! Waits until the cluster's files can be written. What must not run without quorum, guests first of
//! all, is started after it.

use std::time::Duration;

use super::show;
use crate::cli::WaitQuorum;
use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::host::pve::{self, State};
use crate::host::wait::until;

/// One wait of many, if there is no limit.
const LONG: Duration = Duration::from_secs(3600);

/// Waits, and says what for.
///
/// # Errors
/// When it takes longer than it may.
pub fn run(host: &Host, args: &WaitQuorum) -> Outcome {
    let limit = args.timeout.map(Duration::from_secs);
    let mut told = State::Writable;
    loop {
        let quorate = until(limit.unwrap_or(LONG), || {
            let state = pve::state(&host.paths);
            if state != told {
                told = state;
                // Nobody has to read it.
                drop(show(words(state)));
            }
            (state == State::Writable).then_some(())
        });
        if quorate.is_some() {
            return Ok(());
        }
        if let Some(limit) = limit {
            let why = match told {
                State::Unmounted => "/etc/pve is not mounted: 'systemctl start pve-cluster'",
                _ => "'pvecm status' shows who is missing",
            };
            let seconds = limit.as_secs();
            return Err(Failure::no_quorum(format!(
                "no quorum after {seconds} seconds: {why}"
            )));
        }
    }
}

fn words(state: State) -> &'static str {
    match state {
        State::Unmounted => "waiting for the cluster file system ...\n",
        State::ReadOnly => "waiting for quorum ...\n",
        State::Writable => "got quorum\n",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::code;
    use crate::host::Paths;

    #[test]
    fn it_ends_at_its_limit() {
        let root = tempfile::tempdir().unwrap();
        let host = Host {
            paths: Paths::below(root.path()),
            name: "n1".parse().unwrap(),
        };
        let wait = |seconds| {
            run(
                &host,
                &WaitQuorum {
                    timeout: Some(seconds),
                },
            )
        };
        let failure = wait(0).unwrap_err();
        assert_eq!(failure.code(), code::NO_QUORUM);
        assert!(failure.text().contains("not mounted"), "{failure}");
        // Links are writable everywhere but in the cluster's file system.
        std::fs::create_dir_all(root.path().join("etc/pve")).unwrap();
        std::os::unix::fs::symlink("nodes/n1", root.path().join("etc/pve/local")).unwrap();
        wait(0).unwrap();
    }
}
