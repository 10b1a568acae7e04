//! Nodes come and go.

use std::fs;

use tests::cluster::SYNC_DEADLINE;
use tests::corosync::QuorumState;
use tests::services::Messaging::{Corosync, Lite};
use tests::services::PveLab;
use tests::wait::eventually;

use crate::joining::{make_root_key, serve, with_token};
use crate::support::{all_vote, await_text, cluster, fails, fresh, join, link_args, step};

const CONF: &str = "/etc/corosync/corosync.conf";

fn votes(nodes: &PveLab, id: usize, votes: usize) {
    eventually(SYNC_DEADLINE, &format!("{votes} votes on n{id}"), || {
        QuorumState::of(nodes.host(id)).is_ok_and(|it| it.quorate && it.votes == votes)
    })
    .unwrap();
}

#[test]
fn a_second_node_does_not_take_the_quorum_before_it_is_there() {
    for daemons in [[Corosync, Lite], [Lite, Corosync]] {
        let Some(nodes) = fresh(&daemons) else {
            return;
        };
        nodes.pvecm(1, "create lab").unwrap();
        let args = link_args(&nodes, 2, 1);
        nodes
            .pvecm(1, &format!("addnode n2 {args} --apiversion 1"))
            .unwrap();
        await_text(&nodes, &[1], CONF, "quorum_votes: 0");
        let reloaded = || {
            let key = "corosync-cmapctl -g totem.config_version";
            let text = nodes.host(1).sh_ok(key).unwrap_or_default();
            text.trim().ends_with("= 2")
        };
        eventually(SYNC_DEADLINE, "version 2 in force", reloaded).unwrap();
        fs::write(nodes.path(1, "while-waiting"), "1").unwrap();
        votes(&nodes, 1, 1);
        // It comes; what was entered by the command above is what it gets.
        let said = fails(&nodes, 1, &format!("addnode n2 {args}"), 2);
        assert!(said.contains("can't add existing node 'n2'"), "{said}");
        nodes.pvecm(1, "delnode n2").unwrap();
        join(&nodes, 1, 2, 1);
        nodes.await_online(&[1, 2]).unwrap();
        for id in [1, 2] {
            votes(&nodes, id, 2);
        }
        nodes.await_equal(&[1, 2]).unwrap();
    }
}

/// Whoever of the two stays goes on without the other; with a third node it takes a majority.
#[test]
fn two_nodes_go_on_without_each_other_until_there_are_three() {
    let Some(mut nodes) = fresh(&[Corosync, Lite, Lite]) else {
        return;
    };
    let args = link_args(&nodes, 1, 1);
    let create = format!("create lab --two-node {args}");
    step("two nodes", || {
        nodes.pvecm(1, &create).unwrap();
        nodes.await_online(&[1]).unwrap();
        join(&nodes, 1, 2, 1);
        nodes.await_online(&[1, 2]).unwrap();
        all_vote(&nodes, 1);
    });
    step("one of two", || {
        nodes.power_off(1);
        nodes.await_online(&[2]).unwrap();
        fs::write(nodes.path(2, "alone"), "1").unwrap();
    });
    step("both again", || {
        nodes.boot(1).unwrap();
        nodes.await_online(&[1, 2]).unwrap();
        nodes.await_equal(&[1, 2]).unwrap();
    });
    step("three nodes", || {
        join(&nodes, 1, 3, 1);
        nodes.await_online(&[1, 2, 3]).unwrap();
        for id in [1, 2, 3] {
            votes(&nodes, id, 3);
            let conf = fs::read_to_string(nodes.host(id).path(CONF)).unwrap();
            assert!(!conf.contains("two_node"), "{conf}");
        }
    });
    step("a majority", || {
        nodes.power_off(1);
        nodes.power_off(3);
        nodes.await_writable(2, false).unwrap();
        assert!(fs::write(nodes.path(2, "one-of-three"), "1").is_err());
    });
}

#[test]
fn requests_that_would_break_the_cluster_are_refused() {
    let Some(nodes) = cluster(&[Lite, Corosync], 2) else {
        return;
    };
    let before = fs::read_to_string(nodes.path(1, "corosync.conf")).unwrap();
    let own = link_args(&nodes, 2, 2);
    for (args, text) in [
        (
            "addnode n3 --link0 10.77.0.3 --apiversion 1",
            "link 1 exists in cluster config",
        ),
        (
            "addnode n3 --link0 10.77.0.1 --link1 10.78.0.3",
            "already used on link ring0_addr by node 'n1'",
        ),
        (
            "addnode n3 --link0 10.77.0.3 --link1 10.78.0.3 --link2 10.79.0.3",
            "link 2 specified for new node doesn't exist",
        ),
        (
            "addnode n3 --link0 10.77.0.3 --link1 10.78.0.3 --nodeid 2",
            "node id 2 is that of node 'n2'",
        ),
        ("addnode n3 --new_node_ip 10.77.0.3", "multiple links found"),
        ("addnode n3 --apiversion 1", "no links and no fallback ip"),
        ("delnode n1", "Cannot delete myself from cluster!"),
        ("delnode n9", "Node/IP: n9 is not a known host"),
    ] {
        let said = fails(&nodes, 1, args, 2);
        assert!(said.contains(text), "{args}: {said}");
    }
    let said = fails(&nodes, 1, &format!("addnode n2 {own} --apiversion 1"), 2);
    assert!(said.contains("can't add existing node 'n2'"), "{said}");
    let after = fs::read_to_string(nodes.path(1, "corosync.conf")).unwrap();
    assert_eq!(after, before);
    // Without quorum nothing goes.
    nodes.host(2).sh_ok("systemctl stop corosync").unwrap();
    nodes.await_writable(1, false).unwrap();
    let said = fails(&nodes, 1, "delnode n2", 3);
    assert!(said.contains("cluster not ready - no quorum?"), "{said}");
}

#[test]
fn the_last_partner_is_removed_alive_and_can_come_back() {
    for daemons in [[Corosync, Lite], [Lite, Corosync]] {
        let Some(nodes) = cluster(&daemons, 1) else {
            return;
        };
        for name in ["pve-ssl.key", "lrm_status"] {
            fs::write(nodes.path(1, format!("nodes/n2/{name}")), "x").unwrap();
        }
        fs::write(nodes.path(1, "storage.cfg"), "dir: a\n\tnodes n2,n1\n").unwrap();
        let said = nodes.try_pvecm(1, "delnode n2 --purge").unwrap();
        let errors = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.status.success(), "{errors}");
        assert!(errors.contains("storage.cfg:2: nodes n2,n1"), "{errors}");
        nodes.await_online(&[1]).unwrap();
        votes(&nodes, 1, 1);
        assert!(!nodes.path(1, "nodes/n2").exists());
        let text = fs::read_to_string(nodes.path(1, "corosync.conf")).unwrap();
        assert!(!text.contains("n2"), "{text}");
        fs::write(nodes.path(1, "after"), "1").unwrap();
        // The one that was removed takes no part, also after a new start.
        let restart = "systemctl restart corosync pve-cluster";
        drop(nodes.host(2).sh(restart).unwrap());
        nodes.await_writable(2, false).unwrap();
        votes(&nodes, 1, 1);
        // Nor is it brought to act on its own.
        let said = fails(&nodes, 2, "expected 1", 2);
        assert!(said.contains("'pvecm leave'"), "{said}");
        // It is separated, and joins again under its name.
        nodes.pvecm(2, "leave --yes").unwrap();
        nodes.await_writable(2, true).unwrap();
        assert!(!nodes.path(2, "corosync.conf").exists());
        assert!(!nodes.path(2, "nodes/n1").exists());
        assert!(!nodes.host(2).path("/etc/corosync/authkey").exists());
        join(&nodes, 1, 2, 1);
        nodes.await_online(&[1, 2]).unwrap();
        nodes.await_equal(&[1, 2]).unwrap();
        votes(&nodes, 2, 2);
    }
}

#[test]
fn a_node_that_can_not_leave_stays_as_it_was() {
    let Some(nodes) = cluster(&[Lite, Corosync], 1) else {
        return;
    };
    let said = fails(&nodes, 2, "leave", 2);
    assert!(said.contains("--yes"), "{said}");
    let plan = nodes.pvecm(2, "leave --dry-run").unwrap();
    assert!(
        plan.contains("would start pve-cluster.service, alone"),
        "{plan}"
    );
    // Nobody is there to be asked for its removal, and its own part breaks off half-way.
    let broken = "[Service]\nType=notify\nExecStart=/bin/false\n";
    let unit = fs::read_to_string(
        nodes
            .host(2)
            .path("/etc/systemd/system/pve-cluster.service"),
    );
    nodes.install_unit(2, "pve-cluster", broken).unwrap();
    let said = fails(&nodes, 2, "leave --yes", 1);
    assert!(
        said.contains("could be put back") || said.contains("as it was"),
        "{said}"
    );
    nodes
        .install_unit(2, "pve-cluster", &unit.unwrap())
        .unwrap();
    nodes
        .host(2)
        .sh_ok("systemctl start pve-cluster corosync")
        .unwrap();
    nodes.await_online(&[1, 2]).unwrap();
    nodes.await_equal(&[1, 2]).unwrap();
    step("separated by hand", || separate_by_hand(&nodes));
    step("joined again", || join_with_a_guest(&nodes));
}

/// Guests of the two.
const GUESTS: [&str; 2] = [
    "nodes/n1/qemu-server/101.conf",
    "nodes/n2/qemu-server/102.conf",
];

/// The documented steps, without `leave`: the node goes on alone with its files, the other one too.
fn separate_by_hand(nodes: &PveLab) {
    fs::write(nodes.path(1, "storage.cfg"), "dir: kept\n").unwrap();
    for (id, guest) in (1..).zip(GUESTS) {
        fs::create_dir_all(nodes.path(id, guest).parent().unwrap()).unwrap();
        fs::write(nodes.path(id, guest), format!("name: of n{id}\n")).unwrap();
    }
    nodes.await_equal(&[1, 2]).unwrap();
    let steps = "systemctl stop pve-cluster corosync
                 pmxcfs -l
                 rm /etc/pve/corosync.conf
                 rm -r /etc/corosync/*
                 killall pmxcfs
                 systemctl start pve-cluster";
    nodes.host(2).sh_ok(&format!("set -e; {steps}")).unwrap();
    nodes.await_writable(2, true).unwrap();
    nodes.await_writable(1, false).unwrap();
    nodes.pvecm(1, "expected 1").unwrap();
    nodes.await_writable(1, true).unwrap();
    nodes.pvecm(1, "delnode n2").unwrap();
    let left = "rm -f /var/lib/corosync/*
                rm -r /etc/pve/nodes/n1
                sed -i /@n1$/d /etc/pve/priv/authorized_keys";
    nodes.host(2).sh_ok(&format!("set -e; {left}")).unwrap();
    let text = |id, path: &str| fs::read_to_string(nodes.path(id, path)).unwrap();
    assert_eq!(text(2, GUESTS[1]), "name: of n2\n");
    assert_eq!(text(2, "storage.cfg"), "dir: kept\n");
    assert!(!text(2, ".vmlist").contains("n1"), "{}", text(2, ".vmlist"));
    assert!(!text(2, "priv/authorized_keys").contains("@n1"));
    let said = fails(nodes, 2, "status", 2);
    assert!(said.contains("is this node part of a cluster?"), "{said}");
    // Each of them writes for itself, a new start changes nothing.
    fs::write(nodes.path(2, "alone"), "2").unwrap();
    fs::write(nodes.path(1, "without-n2"), "1").unwrap();
    nodes
        .host(2)
        .sh_ok("systemctl restart pve-cluster")
        .unwrap();
    nodes.await_writable(2, true).unwrap();
    assert_eq!(text(2, "alone"), "2");
    assert!(!nodes.path(2, "without-n2").exists());
    nodes.await_online(&[1]).unwrap();
    votes(nodes, 1, 1);
}

/// The other one forgets its guest first; it brings it along.
fn join_with_a_guest(nodes: &PveLab) {
    fs::remove_dir_all(nodes.path(1, "nodes/n2")).unwrap();
    serve(nodes, 1);
    make_root_key(nodes, 2);
    let add = format!("add {} {}", with_token(nodes, 1, 2), link_args(nodes, 2, 1));
    nodes.pvecm(2, &format!("{add} --import-guests")).unwrap();
    nodes.await_online(&[1, 2]).unwrap();
    nodes.await_equal(&[1, 2]).unwrap();
    votes(nodes, 2, 2);
    assert!(nodes.path(2, "without-n2").exists());
    for (id, guest) in (1..).zip(GUESTS) {
        let text = fs::read_to_string(nodes.path(1, guest)).unwrap();
        assert_eq!(text, format!("name: of n{id}\n"));
    }
}
