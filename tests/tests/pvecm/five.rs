//! The life of a cluster of five nodes, under load.

use std::fs;

use tests::services::Messaging::{Corosync, Lite};
use tests::services::PveLab;

use crate::support::{all_vote, await_text, check, cluster, join, writers};

const CONF: &str = "/etc/corosync/corosync.conf";
const NODES: [usize; 5] = [1, 2, 3, 4, 5];

#[test]
fn five_nodes_are_changed_while_they_are_written_to() {
    let Some(mut nodes) = cluster(&[Lite, Corosync, Lite, Corosync, Lite], 2) else {
        return;
    };
    for id in NODES {
        // Logging in from node to node needs the keys of all.
        nodes.pvecm(id, "updatecerts --silent").unwrap();
        nodes.host(id).sh_ok("systemctl start ssh").unwrap();
    }
    let mut load = writers(&nodes, &[1, 2]);
    load.during(|_| links(&nodes)).unwrap();
    check(&mut load, &nodes, &NODES);

    // One dies and is removed.
    nodes.power_off(4);
    load.during(|_| {
        nodes.await_online(&[1, 2, 3, 5]).unwrap();
        nodes.pvecm(2, "delnode n4 --purge").unwrap();
        await_text(&nodes, &[1, 2, 3, 5], CONF, "name: n5");
    })
    .unwrap();
    assert!(!nodes.path(1, "nodes/n4").exists());
    load.during(|_| separate_and_rejoin(&nodes)).unwrap();
    check(&mut load, &nodes, &[1, 2, 3, 5]);

    // Half of them fail: nothing can be written until fewer votes are expected.
    for id in [3, 5] {
        nodes.power_off(id);
    }
    for id in [1, 2] {
        nodes.await_writable(id, false).unwrap();
    }
    assert!(fs::write(nodes.path(1, "refused"), "x").is_err());
    nodes.host(1).sh_ok("corosync-quorumtool -e 2").unwrap();
    nodes.await_online(&[1, 2]).unwrap();
    load.during(|_| {
        fs::write(nodes.path(2, "accepted"), "x").unwrap();
    })
    .unwrap();
    for id in [3, 5] {
        nodes.boot(id).unwrap();
        nodes.host(id).sh_ok(&third_network(id)).unwrap();
    }
    nodes.await_online(&[1, 2, 3, 5]).unwrap();
    nodes.await_equal(&[1, 2, 3, 5]).unwrap();
    check(&mut load, &nodes, &[1, 2, 3, 5]);
    assert!(nodes.path(5, "accepted").exists());
}

/// A network on the same cable as the second one.
fn third_network(id: usize) -> String {
    format!(
        "ip address replace 10.79.0.{id}/24 dev eth1; ip address replace 10.79.0.10{id}/24 dev eth1"
    )
}

/// A link is added, a node gets another address on it, and another link is preferred.
fn links(nodes: &PveLab) {
    for id in NODES {
        nodes.host(id).sh_ok(&third_network(id)).unwrap();
    }
    let all = NODES.map(|id| format!("n{id}=10.79.0.{id}")).join(" ");
    nodes.pvecm(3, &format!("link add 2 {all}")).unwrap();
    nodes.pvecm(1, "link set-address 2 n4 10.79.0.104").unwrap();
    nodes.pvecm(5, "link set-priority 1 20").unwrap();
    await_text(nodes, &NODES, CONF, "ring2_addr: 10.79.0.104\n");
    await_text(nodes, &NODES, CONF, "knet_link_priority: 20\n");
    nodes.await_online(&NODES).unwrap();
}

/// A node leaves without being installed again, and comes back under its name.
fn separate_and_rejoin(nodes: &PveLab) {
    let rest = [1, 2, 3];
    nodes.pvecm(5, "leave --yes").unwrap();
    nodes.await_writable(5, true).unwrap();
    // The others were told.
    let conf = fs::read_to_string(nodes.path(1, "corosync.conf")).unwrap();
    assert!(!conf.contains("name: n5"), "{conf}");
    nodes.await_online(&rest).unwrap();
    join(nodes, 2, 5, 3);
    nodes.await_online(&[1, 2, 3, 5]).unwrap();
    all_vote(nodes, 2);
}
