//! Links of a running cluster are changed, and its configuration is edited by hand.

use std::fs;

use tests::cluster::SYNC_DEADLINE;
use tests::services::Messaging::{Corosync, Lite};
use tests::services::PveLab;
use tests::wait::eventually;

use crate::support::{await_text, cluster, fails};

const CONF: &str = "/etc/corosync/corosync.conf";

/// Waits until a key of the messaging daemon has a value on all of these nodes.
fn await_key(nodes: &PveLab, ids: &[usize], key: &str, value: &str) {
    for id in ids {
        eventually(SYNC_DEADLINE, &format!("{key} = {value} on n{id}"), || {
            let text = nodes.host(*id).sh_ok(&format!("corosync-cmapctl -g {key}"));
            text.is_ok_and(|text| text.trim().ends_with(&format!("= {value}")))
        })
        .unwrap();
    }
}

fn has_link(nodes: &PveLab, from: usize, to: &str) -> bool {
    let text = nodes
        .host(from)
        .sh_ok("corosync-cfgtool -n")
        .unwrap_or_default();
    text.lines()
        .any(|line| line.contains(&format!("->{to})")) && line.contains("enabled connected"))
}

#[test]
fn links_are_added_moved_weighed_and_removed() {
    let Some(nodes) = cluster(&[Lite, Corosync, Lite], 1) else {
        return;
    };
    let ids = [1, 2, 3];
    let text = fs::read_to_string(nodes.path(1, "corosync.conf")).unwrap();
    let commented = text
        .replace("nodelist {", "# all of them\nnodelist {")
        .replace("config_version: ", "config_version: 1");
    fs::write(nodes.path(1, "corosync.conf.new"), commented).unwrap();
    fs::rename(
        nodes.path(1, "corosync.conf.new"),
        nodes.path(1, "corosync.conf"),
    )
    .unwrap();
    await_text(&nodes, &ids, CONF, "# all of them\n");

    let all = "n1=10.78.0.1 n2=10.78.0.2 n3=10.78.0.3";
    for (args, code, text) in [
        (
            "link add 1 n1=10.78.0.1 n2=10.78.0.2",
            2,
            "needs an address of node 'n3'",
        ),
        (
            "link add 0 n1=10.78.0.1 n2=10.78.0.2 n3=10.78.0.3",
            2,
            "exists already",
        ),
        (
            "link add 1 n1=10.78.0.9 n2=10.78.0.2 n3=10.78.0.3",
            2,
            "not an address of this node",
        ),
        (
            "link add 1 n1=10.78.0.1 n2=10.77.0.1 n3=10.78.0.3",
            2,
            "is used already on link 0",
        ),
        ("link set-address 0 n2 10.78.0.2", 2, "is the only one"),
        ("link remove 0", 2, "is the only one"),
    ] {
        let said = fails(&nodes, 1, args, code);
        assert!(said.contains(text), "{args}: {said}");
    }
    let plan = nodes
        .pvecm(1, &format!("link add 1 {all} --dry-run"))
        .unwrap();
    assert!(plan.contains("+    ring1_addr: 10.78.0.3\n"), "{plan}");
    nodes
        .pvecm(2, &format!("link add 1 {all} --priority 5"))
        .unwrap();
    assert!(has_link(&nodes, 2, "10.78.0.1"));

    // n3 gets another address on it.
    nodes
        .host(3)
        .sh_ok("ip address add 10.78.0.33/24 dev eth1")
        .unwrap();
    let shown = nodes.pvecm(1, "link set-address 1 n3 10.78.0.33").unwrap();
    assert!(shown.contains("+    ring1_addr: 10.78.0.33\n"), "{shown}");
    assert!(has_link(&nodes, 1, "10.78.0.33"));
    // The command sees the links of its own node.
    let seen = || has_link(&nodes, 2, "10.78.0.33");
    eventually(SYNC_DEADLINE, "the link of n2 to the new address", seen).unwrap();

    nodes.pvecm(3, "link set-priority 1 9").unwrap();
    await_text(&nodes, &ids, CONF, "knet_link_priority: 9\n");
    nodes.pvecm(1, "link remove 1").unwrap();
    await_text(&nodes, &ids, CONF, "# all of them\n");
    let text = fs::read_to_string(nodes.path(1, "corosync.conf")).unwrap();
    assert!(!text.contains("ring1_addr"), "{text}");
    nodes.await_online(&ids).unwrap();
    nodes.await_equal(&ids).unwrap();
}

#[test]
fn a_link_that_does_not_work_is_taken_back() {
    let Some(nodes) = cluster(&[Corosync, Lite], 1) else {
        return;
    };
    let before = fs::read_to_string(nodes.path(1, "corosync.conf")).unwrap();
    nodes.lab.set_cable(2, 1, false).unwrap();
    let said = fails(&nodes, 1, "link add 1 n1=10.78.0.1 n2=10.78.0.2", 1);
    assert!(
        said.contains("node 'n2' is not reached on link 1"),
        "{said}"
    );
    assert!(said.contains("the change was taken back"), "{said}");
    let after = fs::read_to_string(nodes.path(2, "corosync.conf")).unwrap();
    let version = |text: &str| -> u64 {
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("config_version: "));
        line.unwrap().parse().unwrap()
    };
    assert!(version(&after) > version(&before));
    let replaced = format!("config_version: {}", version(&after));
    let old = format!("config_version: {}", version(&before));
    assert_eq!(after, before.replace(&old, &replaced));
    nodes.await_online(&[1, 2]).unwrap();
}

#[test]
fn an_edit_by_hand_reconfigures_all_nodes() {
    let Some(nodes) = cluster(&[Corosync, Lite, Corosync], 1) else {
        return;
    };
    for (id, token) in [(1, "4100"), (2, "4200"), (3, "4300")] {
        // As administrators are told to do it.
        let script = format!(
            "cd /etc/pve && cp corosync.conf corosync.conf.bak && \
             sed -e 's/token_coefficient: .*/token_coefficient: 0/' -e '/^  token: /d' \
                 -e 's/^totem {{/totem {{\\n  token: {token}/' corosync.conf > corosync.conf.new && \
             V=$(sed -n 's/.*config_version: //p' corosync.conf) && \
             sed -i.old \"s/config_version: .*/config_version: $((V + 1))/\" corosync.conf.new && \
             mv corosync.conf.new corosync.conf && rm -f corosync.conf.new.old"
        );
        nodes.host(id).sh_ok(&script).unwrap();
        await_text(&nodes, &[1, 2, 3], CONF, &format!("token: {token}\n"));
        await_key(&nodes, &[1, 2, 3], "runtime.config.totem.token", token);
    }
    nodes.await_online(&[1, 2, 3]).unwrap();
    nodes.await_equal(&[1, 2, 3]).unwrap();
}
