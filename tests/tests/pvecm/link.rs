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

fn wrong_changes_are_refused(nodes: &PveLab) {
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
        (
            "node set-address n1 10.77.0.11",
            2,
            "is not an address of this node",
        ),
        ("node rename n1 m1", 2, "hostnamectl set-hostname m1"),
        ("link remove 0", 2, "is the only one"),
    ] {
        let said = fails(nodes, 1, args, code);
        assert!(said.contains(text), "{args}: {said}");
    }
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
    wrong_changes_are_refused(&nodes);
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
    let again = nodes.pvecm(1, "link set-address 1 n3 10.78.0.33").unwrap();
    assert!(again.contains("nothing to do"), "{again}");
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
    moved_on_the_only_link(&nodes);
    renamed(&nodes);
    nodes.await_equal(&ids).unwrap();
}

/// What the node at `id` says of a node: its address, if it is there.
fn told(nodes: &PveLab, id: usize, node: &str) -> Option<String> {
    let text = fs::read_to_string(nodes.path(id, ".members")).ok()?;
    let members: serde_json::Value = serde_json::from_str(&text).ok()?;
    let node = &members["nodelist"][node];
    let is_there = members["cluster"]["quorate"] == 1 && node["online"] == 1;
    node["ip"].as_str().filter(|_| is_there).map(str::to_owned)
}

fn moved_on_the_only_link(nodes: &PveLab) {
    let host = nodes.host(3);
    host.sh_ok("ip address add 10.77.0.33/24 dev eth0").unwrap();
    let said = fails(nodes, 3, "node set-address n3 10.77.0.33", 2);
    assert!(
        said.contains("change line") && said.contains("'10.77.0.33 n3"),
        "{said}"
    );
    host.sh_ok("sed -i 's/^10.77.0.3\\([^0-9].*n3\\)/10.77.0.33\\1/' /etc/hosts")
        .unwrap();
    nodes.pvecm(3, "node set-address n3 10.77.0.33").unwrap();
    // Else the kernel takes the other addresses of the network off with the first one.
    host.sh_ok(
        "echo 1 > /proc/sys/net/ipv4/conf/eth0/promote_secondaries && \
         ip address del 10.77.0.3/24 dev eth0",
    )
    .unwrap();
    for id in [1, 2, 3] {
        let is_told = || told(nodes, id, "n3").as_deref() == Some("10.77.0.33");
        eventually(SYNC_DEADLINE, "the new address of n3", is_told).unwrap();
    }
    let names = host
        .sh_ok("openssl x509 -noout -ext subjectAltName -in /etc/pve/local/pve-ssl.pem")
        .unwrap();
    assert!(names.contains("10.77.0.33"), "{names}");
    let text = fs::read_to_string(nodes.path(1, "corosync.conf")).unwrap();
    assert!(
        text.contains("ring0_addr: 10.77.0.33\n") && !text.contains("ring1"),
        "{text}"
    );
}

fn renamed(nodes: &PveLab) {
    let host = nodes.host(2);
    fs::write(nodes.path(2, "nodes/n2/qemu-server/102.conf"), "name: x\n").unwrap();
    host.sh_ok("hostname m2 && sed -i 's/\\bn2\\b/m2/g' /etc/hosts")
        .unwrap();
    let said = nodes.pvecm(2, "node rename n2 m2").unwrap();
    assert!(said.contains("node 'n2' is called 'm2' now"), "{said}");
    for id in [1, 2, 3] {
        let is_told = || told(nodes, id, "m2").as_deref() == Some("10.77.0.2");
        eventually(SYNC_DEADLINE, "the new name of n2", is_told).unwrap();
        let guest = nodes.path(id, "nodes/m2/qemu-server/102.conf");
        eventually(SYNC_DEADLINE, "the guest of m2", || guest.exists()).unwrap();
        let list = fs::read_to_string(nodes.path(id, ".vmlist")).unwrap();
        assert!(
            list.contains("\"m2\"") && !nodes.path(id, "nodes/n2").exists(),
            "{list}"
        );
    }
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
