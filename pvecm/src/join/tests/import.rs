//! Guests that are carried over, and what becomes of them when a join fails.

use std::collections::BTreeMap;
use std::fs;

use super::machine::{Break, FakeMachine};
use super::plan;
use super::steps::FakePeer;
use crate::failure::{Outcome, code};
use crate::join::checks::local;
use crate::join::guests::gather;
use crate::join::machine::Step;
use crate::join::peer::{Holder, Taken};
use crate::join::{Plan, join};

/// The configuration of the first guest.
const FIRST: &str = "name: a\nscsi0: fast:vm-100-disk-0\n";

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
        ("nodes/n2/qemu-server/100.conf", FIRST),
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

fn with_guests(machine: &FakeMachine) -> Plan {
    Plan {
        import: Some(gather(&machine.host).unwrap()),
        ..plan()
    }
}

/// What a member tells of a number.
fn holder(node: &str, folder: &str, conf: &str) -> Taken {
    Taken::By(Holder {
        node: node.to_owned(),
        folder: folder.to_owned(),
        conf: conf.as_bytes().to_vec(),
    })
}

fn run(machine: &FakeMachine, peer: &mut FakePeer) -> Outcome {
    let mut plan = with_guests(machine);
    join(&machine.host, &mut plan, peer, machine, false)
}

fn read(machine: &FakeMachine, path: &str) -> Option<String> {
    fs::read_to_string(machine.host.paths.node("n2", path)).ok()
}

#[test]
fn guests_are_a_fault_unless_they_are_carried_over() {
    let machine = machine(&[]);
    let said = |import: bool| {
        let guests = import.then(|| gather(&machine.host).unwrap());
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
    let text = said(false);
    assert!(
        text.contains("(100, 101); '--import-guests' carries"),
        "{text}"
    );
    assert_eq!(said(true), "");
    let list = r#"{"ids":{"100":{"node":"n2","type":"qemu"},"103":{"node":"old","type":"qemu"}}}"#;
    fs::write(machine.host.paths.pve(".vmlist"), list).unwrap();
    assert!(said(true).contains("would be lost: 103;"));
}

#[test]
fn guests_keep_free_numbers() {
    let machine = machine(&[102]);
    run(&machine, &mut FakePeer::new()).unwrap();
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
fn numbers_that_are_taken_stop_the_join() {
    let machine = machine(&[100, 102]);
    let before = machine.tree();
    let mut peer = FakePeer::new();
    let told = |whose: &str| Taken::Told(whose.to_owned());
    let cases = [
        (told(""), "taken in the cluster: 100;"),
        (
            told("qemu 'a' on node 'n3'"),
            "taken in the cluster: 100 (qemu 'a' on node 'n3');",
        ),
        (
            holder("n1", "lxc", FIRST),
            "'nodes/n2/qemu-server/100.conf' of this node is not what the cluster has as \
             'nodes/n1/lxc/100.conf' ('a'): one number",
        ),
        (
            holder("n2", "qemu-server", "name: x\n"),
            "'nodes/n2/qemu-server/100.conf' ('x'): one",
        ),
        (
            holder("n2", "lxc", FIRST),
            "'nodes/n2/lxc/100.conf' ('a'): one",
        ),
    ];
    // Whether or not the cluster has an entry of this node.
    for (again, (holder, words)) in [false, true]
        .into_iter()
        .flat_map(|again| cases.clone().into_iter().map(move |case| (again, case)))
    {
        peer.taken = Some(BTreeMap::from([(100, holder), (102, told(""))]));
        let mut plan = with_guests(&machine);
        plan.again = again;
        let failure = join(&machine.host, &mut plan, &mut peer, &machine, false).unwrap_err();
        assert_eq!(failure.code(), code::REFUSED);
        assert!(failure.to_string().contains(words), "{failure}");
        assert!(peer.requests.is_empty() && machine.tree() == before);
    }

    // Who does not tell: the user decides, and everything is put back.
    peer.taken = None;
    assert_eq!(run(&machine, &mut peer).unwrap_err().code(), code::REFUSED);
    let mut plan = with_guests(&machine);
    plan.force = true;
    let failure = join(&machine.host, &mut plan, &mut peer, &machine, false).unwrap_err();
    assert_eq!(failure.code(), code::FAILED);
    let text = failure.to_string();
    assert!(
        text.contains("'nodes/n1/qemu-server/100.conf': one number"),
        "{text}"
    );
    assert_eq!(machine.tree(), before);
}

#[test]
fn what_was_carried_over_before_stays() {
    let mut machine = machine(&[]);
    machine.taken = r#"{"100":{"node":"n2","type":"qemu"}}"#.to_owned();
    let mut peer = FakePeer::new();
    peer.taken = Some(BTreeMap::from([(100, holder("n2", "qemu-server", FIRST))]));
    // Not what the member told.
    machine.there = vec![("qemu-server/100.conf".to_owned(), "name: x\n".to_owned())];
    let before = machine.tree();
    let failure = run(&machine, &mut peer).unwrap_err().to_string();
    assert!(failure.contains("one number, two guests"), "{failure}");
    assert_eq!(machine.tree(), before);

    machine.there = vec![("qemu-server/100.conf".to_owned(), FIRST.to_owned())];
    run(&machine, &mut peer).unwrap();
    assert_eq!(read(&machine, "qemu-server/100.conf").unwrap(), FIRST);
    assert!(read(&machine, "lxc/101.conf").is_some());
    assert!(machine.said().contains("guest 100 was carried over before"));
}

#[test]
fn guests_are_carried_over_as_they_are_at_the_end() {
    let machine = machine(&[]);
    let mut plan = with_guests(&machine);
    let change =
        |path: &str| fs::write(machine.host.paths.node("n2", path), "name: new\n").unwrap();
    change("qemu-server/100.conf");
    let mut peer = FakePeer::new();
    join(&machine.host, &mut plan, &mut peer, &machine, false).unwrap();
    assert_eq!(
        read(&machine, "qemu-server/100.conf").unwrap(),
        "name: new\n"
    );

    let machine = self::machine(&[]);
    let mut plan = with_guests(&machine);
    let path = machine.host.paths.node("n2", "lxc/104.conf");
    fs::write(path, "hostname: late\n").unwrap();
    let failure = join(&machine.host, &mut plan, &mut peer, &machine, false).unwrap_err();
    assert!(
        failure.to_string().contains("after the checks: 104;"),
        "{failure}"
    );
}

#[test]
fn a_failure_after_the_import_leaves_nothing_of_it() {
    let machine = FakeMachine {
        break_at: Break::Fails(Step::Imported),
        ..machine(&[])
    };
    let before = machine.tree();
    run(&machine, &mut FakePeer::new()).unwrap_err();
    assert_eq!(machine.tree(), before);
    assert!(machine.said().contains("guest 100 is carried over"));
}

#[test]
fn a_dry_run_names_the_guests() {
    let machine = machine(&[]);
    let before = machine.tree();
    let mut plan = with_guests(&machine);
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
