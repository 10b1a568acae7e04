//! A node that was in the cluster joins again: installed anew under the same name, or removed from
//! the cluster while it was off.
//!
//! What it still has of a cluster goes first, as `leave` does it, but not before all that a join needs
//! was looked at; then it joins as `add` does, and takes its old entry, with number and votes, if the
//! cluster still has that.

use std::cell::Cell;

use super::change::need_root;
use super::{add, leave};
use crate::cli::{Leave, Readd};
use crate::failure::{Failure, Outcome};
use crate::host::{Host, pve};
use crate::join::checks::UNCHANGED;

/// Joins again.
///
/// # Errors
/// When this node takes part in a cluster, a check says no, or a step fails.
pub fn run(host: &Host, args: &Readd) -> Outcome {
    need_root()?;
    if !has_cluster(host) {
        return add::again(host, &args.add);
    }
    refuse_member(host)?;
    let leaving = Leave {
        yes: args.yes,
        dry_run: args.add.dry_run,
    };
    let has_left = Cell::new(false);
    let leave = || {
        // The old entry is taken over, so nobody has to remove it.
        leave::separated(host, &leaving)?;
        has_left.set(!leaving.dry_run);
        Ok(())
    };
    add::after_leaving(host, &args.add, &leave).map_err(|failure| match has_left.get() {
        true => left_already(&failure),
        false => failure,
    })
}

/// The failure of a join of a node that has left its cluster just before: that stays.
fn left_already(failure: &Failure) -> Failure {
    let text = failure.to_string().replace(UNCHANGED, "");
    Failure::failed(format!(
        "{text}\nthis node has left its old cluster and has not joined again: mend that, then run 'pvecm \
         readd' once more, which joins as 'pvecm add' does"
    ))
}

/// Whether something of a cluster is here.
fn has_cluster(host: &Host) -> bool {
    let paths = &host.paths;
    paths.cluster_conf().exists() || paths.corosync("corosync.conf").exists()
}

/// A node that works in its cluster has nothing to join again.
fn refuse_member(host: &Host) -> Outcome {
    let members = pve::members(&host.paths).unwrap_or_default();
    let is_quorate = members.cluster.is_some_and(|cluster| cluster.quorate == 1);
    let own = host.name.as_str();
    let mut others = members.nodelist.iter().filter(|(name, _)| *name != own);
    if is_quorate && members.nodelist.contains_key(own) && others.any(|(_, node)| node.online == 1)
    {
        return Err(Failure::refused(
            "this node takes part in its cluster, there is nothing to join again: 'pvecm leave' separates \
             it from this one",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::host::Paths;

    #[test]
    fn after_leaving_a_refusal_is_a_failure() {
        use crate::failure::code;
        use crate::join::checks::{Fault, Faults};
        let fault = Fault {
            text: "no way".to_owned(),
            can_force: false,
        };
        let found = Faults {
            faults: vec![fault],
            ..Faults::default()
        };
        let refused = found.settle(false, &|_| {}).unwrap_err();
        assert!(refused.text().contains("Nothing was changed"));
        let failure = left_already(&refused);
        assert_eq!(failure.code(), code::FAILED);
        let text = failure.to_string();
        assert!(
            text.contains("no way") && text.contains("has left"),
            "{text}"
        );
        assert!(!text.contains("Nothing was changed"), "{text}");
    }

    #[test]
    fn a_node_that_takes_part_stays() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host {
            paths: Paths::below(directory.path()),
            name: "n2".parse().unwrap(),
        };
        fs::create_dir_all(host.paths.pve("")).unwrap();
        assert!(!has_cluster(&host));
        fs::write(host.paths.cluster_conf(), "").unwrap();
        assert!(has_cluster(&host));
        let is_refused = |quorate: u8, own: &str, other: u8| {
            let text = format!(
                r#"{{"nodename":"n2","version":1,"cluster":{{"name":"c","version":1,"nodes":2,"quorate":{quorate}}},
                "nodelist":{{"{own}":{{"id":2,"online":1}},"n1":{{"id":1,"online":{other}}}}}}}"#
            );
            fs::write(host.paths.pve(".members"), text).unwrap();
            refuse_member(&host).is_err()
        };
        assert!(is_refused(1, "n2", 1));
        // Without the others, or taken out by them: nothing keeps it here.
        assert!(!is_refused(0, "n2", 1));
        assert!(!is_refused(1, "n2", 0));
        assert!(!is_refused(1, "n3", 1));
    }
}
