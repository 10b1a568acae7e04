//! A node that is in a cluster still, and joins again.

use std::fs;

use super::machine::FakeMachine;
use super::steps::FakePeer;
use super::{facts, plan};
use crate::failure::Outcome;
use crate::host::lock::NodeLock;
use crate::join::checks::{cluster, leaving, local};
use crate::join::machine::Machine as _;
use crate::join::peer::Known;
use crate::join::{Leaving, Plan, leave_and_join};

/// A plan of a node that leaves its cluster first.
fn leaves() -> Plan {
    Plan {
        again: true,
        leaves: true,
        ..plan()
    }
}

/// Joins again; what it does is told between what the machine says.
fn rejoin(machine: &FakeMachine, peer: &mut FakePeer, dry_run: bool) -> Outcome {
    let leave = || {
        machine.say("LEAVE");
        Ok(())
    };
    let settle = || {
        machine.say("SETTLE");
        let lock = NodeLock::take(&machine.host.paths.at("var/lock/pvecm.lock"))?;
        Ok((
            lock,
            Plan {
                again: true,
                ..plan()
            },
        ))
    };
    let leaving = Leaving {
        leave: &leave,
        settle: &settle,
    };
    let mut plan = leaves();
    leave_and_join(&machine.host, &mut plan, &leaving, peer, machine, dry_run)
}

#[test]
fn a_node_leaves_when_all_is_looked_at_and_joins_then() {
    let machine = FakeMachine::new();
    let mut peer = FakePeer::new();
    rejoin(&machine, &mut peer, false).unwrap();
    let said = machine.said();
    let order = [
        "check cluster join API version",
        "LEAVE",
        "SETTLE",
        "check cluster join API version",
        "Request addition of this node",
    ];
    let mut rest = said.as_str();
    for line in order {
        let (_, after) = rest
            .split_once(line)
            .unwrap_or_else(|| panic!("{line}: {said}"));
        rest = after;
    }
    assert_eq!(peer.requests.len(), 1);
}

#[test]
fn what_keeps_it_out_is_found_before_it_leaves() {
    type Spoil = fn(&mut FakePeer);
    let cases: [(Spoil, &str, i32); 4] = [
        (|peer| peer.facts.quorate = Some(false), "has no quorum", 3),
        (|peer| peer.facts.cluster = None, "is not in a cluster", 2),
        (
            |peer| peer.facts.links = vec![0, 1],
            "give --link0 --link1",
            2,
        ),
        (|peer| peer.broken = Some("no answer"), "no answer", 1),
    ];
    for (spoil, why, exit) in cases {
        let machine = FakeMachine::new();
        let before = machine.tree();
        let mut peer = FakePeer::new();
        spoil(&mut peer);
        let failure = rejoin(&machine, &mut peer, false).unwrap_err();
        assert!(failure.to_string().contains(why), "{failure}");
        assert_eq!(i32::from(failure.code()), exit, "{failure}");
        let said = machine.said();
        assert!(!said.contains("LEAVE"), "{said}");
        assert_eq!(machine.tree(), before);
    }
}

#[test]
fn a_plan_tells_of_both_parts_and_does_neither() {
    let machine = FakeMachine::new();
    let before = machine.tree();
    let mut peer = FakePeer::new();
    rejoin(&machine, &mut peer, true).unwrap();
    let said = machine.said();
    let (_, after) = said.split_once("LEAVE").unwrap();
    assert!(after.contains("would have 'n1' add node 'n2'"), "{said}");
    assert!(!said.contains("SETTLE"), "{said}");
    assert_eq!((peer.requests.len(), machine.tree()), (0, before));
}

#[test]
fn what_leaving_removes_is_no_fault_before_it() {
    let machine = FakeMachine::in_cluster();
    let paths = &machine.host.paths;
    let guests = |node: &str| {
        let list = format!(r#"{{"version":1,"ids":{{"100":{{"node":"{node}","type":"qemu"}}}}}}"#);
        fs::write(paths.pve(".vmlist"), list).unwrap();
        let found = leaving(&machine.host, &machine, &mut Default::default(), None);
        let texts = found.faults.into_iter().map(|fault| fault.text);
        texts
            .filter(|text| !text.contains("MiB"))
            .collect::<Vec<_>>()
    };
    // Those of others stay in the cluster that it leaves.
    assert_eq!(guests("n1"), Vec::<String>::new());
    let own = guests("n2").join("\n");
    assert!(own.contains("virtual guests (100)"), "{own}");
    let now = local(&machine.host, &machine, &mut Default::default(), None);
    assert!(now.faults.len() >= 4, "{now:?}");
}

#[test]
fn its_own_entry_is_at_work_as_long_as_it_is_there_itself() {
    let mut facts = facts();
    facts.nodes.push(Known {
        name: "n2".to_owned(),
        id: Some(2),
        online: Some(true),
        ..Known::default()
    });
    let mut machine = FakeMachine::new();
    // It is not this node that is seen.
    let found = cluster("n1", &facts, &leaves(), &machine);
    let text = &found.faults[0].text;
    assert!(text.contains("give this host another name"), "{text}");
    machine.messaging = true;
    let found = cluster("n1", &facts, &leaves(), &machine);
    assert!(found.faults.is_empty(), "{found:?}");
}
