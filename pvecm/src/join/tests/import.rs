//! Guests that are carried over, and what becomes of them when a join fails.

use std::collections::BTreeSet;
use std::fs;

use super::machine::{Break, FakeMachine};
use super::plan;
use super::steps::FakePeer;
use crate::failure::{Outcome, code};
use crate::join::checks::local;
use crate::join::guests::{Import, gather};
use crate::join::machine::Step;
use crate::join::{Plan, join};

/// A machine with two guests; the cluster has these numbers, on n1.
fn machine(taken: &[u32]) -> FakeMachine {
    let ids = taken
        .iter()
        .map(|id| format!(r#""{id}":{{"node":"n1","type":"qemu","version":1}}"#));
    let taken = format!("{{{}}}", ids.collect::<Vec<_>>().join(","));
    let machine = FakeMachine {
        taken,
        ..FakeMachine::new()
    };
    let paths = &machine.host.paths;
    for (path, text) in [
        (
            "nodes/n2/qemu-server/100.conf",
            "name: a\nscsi0: fast:vm-100-disk-0\n",
        ),
        (
            "nodes/n2/lxc/101.conf",
            "hostname: b\nrootfs: local:101/x.raw\n",
        ),
        ("firewall/100.fw", "[OPTIONS]\n"),
        (
            ".vmlist",
            r#"{"version":1,"ids":{"100":{"node":"n2","type":"qemu"},"101":{"node":"n2","type":"lxc"}}}"#,
        ),
    ] {
        let path = paths.pve(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    machine
}

fn with_guests(machine: &FakeMachine, import: Import) -> Plan {
    Plan {
        import: Some((import, gather(&machine.host).unwrap())),
        ..plan()
    }
}

fn run(machine: &FakeMachine, peer: &mut FakePeer, import: Import) -> Outcome {
    let mut plan = with_guests(machine, import);
    join(&machine.host, &mut plan, peer, machine, false)
}

fn read(machine: &FakeMachine, path: &str) -> Option<String> {
    fs::read_to_string(machine.host.paths.node("n2", path)).ok()
}

#[test]
fn guests_are_a_fault_unless_they_are_carried_over() {
    let machine = machine(&[]);
    let said = |import: Option<Import>| {
        let guests = import.map(|_| gather(&machine.host).unwrap());
        let found = local(
            &machine.host,
            &machine,
            &mut Default::default(),
            guests.as_deref(),
        );
        found
            .faults
            .iter()
            .map(|fault| fault.text.clone())
            .collect::<Vec<_>>()
            .join("\n")
    };
    let text = said(None);
    assert!(
        text.contains("(100, 101); '--import-guests keep'"),
        "{text}"
    );
    assert_eq!(said(Some(Import::Keep)), "");
    let list = r#"{"ids":{"100":{"node":"n2","type":"qemu"},"103":{"node":"old","type":"qemu"}}}"#;
    fs::write(machine.host.paths.pve(".vmlist"), list).unwrap();
    assert!(said(Some(Import::Keep)).contains("would be lost: 103;"));
}

#[test]
fn guests_keep_free_numbers() {
    let machine = machine(&[102]);
    run(&machine, &mut FakePeer::new(), Import::Keep).unwrap();
    assert_eq!(
        read(&machine, "lxc/101.conf").unwrap(),
        "hostname: b\nrootfs: local:101/x.raw\n"
    );
    assert!(
        read(&machine, "qemu-server/100.conf")
            .unwrap()
            .starts_with("name: a\n")
    );
    let rules = machine.host.paths.pve("firewall/100.fw");
    assert_eq!(fs::read_to_string(rules).unwrap(), "[OPTIONS]\n");
    let said = machine.said();
    assert!(said.contains("guest 101 is carried over"), "{said}");
    assert!(
        said.contains("storage 'fast' of guest 100 is not in"),
        "{said}"
    );
}

#[test]
fn numbers_that_are_taken_stop_the_join_or_are_changed() {
    let machine = machine(&[100, 102]);
    let before = machine.tree();
    let mut peer = FakePeer::new();
    peer.taken = Some(BTreeSet::from([100, 102]));
    let failure = run(&machine, &mut peer, Import::Keep).unwrap_err();
    assert_eq!(failure.code(), code::REFUSED);
    assert!(
        failure.to_string().contains("taken in the cluster: 100;"),
        "{failure}"
    );
    assert!(peer.requests.is_empty() && machine.tree() == before);

    // Only later, if the member does not tell: then everything is put back.
    peer.taken = None;
    let failure = run(&machine, &mut peer, Import::Keep).unwrap_err();
    assert_eq!(failure.code(), code::FAILED);
    assert!(
        failure.to_string().contains("guest 100 is taken"),
        "{failure}"
    );
    assert_eq!(machine.tree(), before);

    peer.taken = Some(BTreeSet::from([100, 102]));
    run(&machine, &mut peer, Import::Renumber).unwrap();
    let said = machine.said();
    assert!(said.contains("guest 100 is guest 103 now"), "{said}");
    assert!(read(&machine, "qemu-server/100.conf").is_none());
    let all = ["qemu-server", "lxc"].map(|kind| {
        fs::read_dir(machine.host.paths.node("n2", kind))
            .unwrap()
            .count()
    });
    assert_eq!(all, [1, 1]);
}

#[test]
fn a_guest_that_the_cluster_has_for_this_node_stays_as_it_is_there() {
    let mut machine = machine(&[]);
    machine.taken = r#"{"100":{"node":"n2","type":"qemu"}}"#.to_owned();
    run(&machine, &mut FakePeer::new(), Import::Keep).unwrap();
    assert!(
        read(&machine, "qemu-server/100.conf").is_none(),
        "it is not written"
    );
    assert!(read(&machine, "lxc/101.conf").is_some());
}

#[test]
fn a_failure_after_the_import_leaves_nothing_of_it() {
    let machine = FakeMachine {
        break_at: Break::Fails(Step::Imported),
        ..machine(&[])
    };
    let before = machine.tree();
    run(&machine, &mut FakePeer::new(), Import::Keep).unwrap_err();
    assert_eq!(machine.tree(), before);
    assert!(machine.said().contains("guest 100 is carried over"));
}

#[test]
fn a_dry_run_names_the_guests() {
    let machine = machine(&[]);
    let before = machine.tree();
    let mut plan = with_guests(&machine, Import::Renumber);
    join(
        &machine.host,
        &mut plan,
        &mut FakePeer::new(),
        &machine,
        true,
    )
    .unwrap();
    assert!(machine.said().contains("would carry over guest 100, 101"));
    assert_eq!(machine.tree(), before);
}
