//! The life of a cluster of five nodes that is made with the command alone, and written to all the
//! time.

use std::fs;
use std::thread;

use tests::cluster::SYNC_DEADLINE;
use tests::corosync::QuorumState;
use tests::services::Messaging::{Corosync, Lite};
use tests::services::PveLab;
use tests::wait::eventually;

use crate::joining::{
    add_over_ssh, cluster_of_one, make_root_key, serve, with_password, with_token,
};
use crate::support::{all_vote, await_text, check, fails, fresh, link_args, step, writers};

const CONF: &str = "/etc/corosync/corosync.conf";
const NODES: [usize; 5] = [1, 2, 3, 4, 5];
/// A guest of the fourth.
const GUEST: &str = "nodes/n4/qemu-server/104.conf";

#[test]
fn five_nodes_are_joined_and_changed_while_they_are_written_to() {
    let Some(mut nodes) = fresh(&[Lite, Corosync, Lite, Corosync, Lite]) else {
        return;
    };
    step("created", || cluster_of_one(&nodes, 2));
    let mut load = writers(&nodes, &[1]);
    load.during(|_| joins(&nodes)).unwrap();
    check(&mut load, &nodes, &NODES);
    load.add(2, &nodes.path(2, "")).unwrap();
    load.during(|_| links(&nodes)).unwrap();
    check(&mut load, &nodes, &NODES);
    load.during(|_| remove_dead(&mut nodes)).unwrap();
    check(&mut load, &nodes, &[1, 2, 3, 5]);
    load.during(|_| separate_and_rejoin(&nodes)).unwrap();
    check(&mut load, &nodes, &[1, 2, 3, 5]);
    load.during(|_| come_back_with_a_guest(&mut nodes)).unwrap();
    check(&mut load, &nodes, &NODES);
    load.during(|_| lose_quorum_and_recover(&mut nodes))
        .unwrap();
    check(&mut load, &nodes, &NODES);
    assert!(nodes.path(5, "accepted").exists());
}

/// Joins a node with these arguments, and both links.
fn add(nodes: &PveLab, id: usize, how: &str, links: usize) {
    let args = link_args(nodes, id, links);
    let shown = nodes.pvecm(id, &format!("add {how} {args}")).unwrap();
    is_added(id, &shown);
}

fn is_added(id: usize, shown: &str) {
    let done = format!("successfully added node 'n{id}' to cluster.");
    assert!(shown.contains(&done), "{shown}");
}

/// Waits until these nodes vote, each of them with one vote, and all know it.
fn await_votes(nodes: &PveLab, ids: &[usize]) {
    nodes.await_online(ids).unwrap();
    for id in ids {
        let all_vote =
            || QuorumState::of(nodes.host(*id)).is_ok_and(|it| it.quorate && it.votes == ids.len());
        eventually(SYNC_DEADLINE, &format!("all votes on n{id}"), all_vote).unwrap();
    }
    all_vote(nodes, 1);
}

/// Four nodes join: one over HTTPS, one over SSH, and two at once, with a token and over HTTPS, each
/// of these by way of another member.
fn joins(nodes: &PveLab) {
    for id in [3, 4, 5] {
        make_root_key(nodes, id);
    }
    step("joined over HTTPS", || {
        add(nodes, 2, &with_password(nodes, 1, 2), 2);
        await_votes(nodes, &[1, 2]);
    });
    step("joined over SSH", || {
        let shown = add_over_ssh(nodes, 1, 3, &link_args(nodes, 3, 2));
        is_added(3, &shown);
        await_votes(nodes, &[1, 2, 3]);
    });
    serve(nodes, 2);
    step("joined two at once", || {
        let how = [
            (4, with_token(nodes, 1, 4)),
            (5, with_password(nodes, 2, 5)),
        ];
        thread::scope(|scope| {
            for (new, how) in &how {
                scope.spawn(move || add(nodes, *new, how, 2));
            }
        });
        await_votes(nodes, &NODES);
    });
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
    step("link added", || {
        nodes.pvecm(3, &format!("link add 2 {all}")).unwrap()
    });
    step("address changed", || {
        nodes.pvecm(1, "link set-address 2 n4 10.79.0.104").unwrap()
    });
    step("priority changed", || {
        nodes.pvecm(5, "link set-priority 1 20").unwrap()
    });
    await_text(nodes, &NODES, CONF, "ring2_addr: 10.79.0.104\n");
    await_text(nodes, &NODES, CONF, "knet_link_priority: 20\n");
    nodes.await_online(&NODES).unwrap();
}

/// One dies and is removed. The cluster forgets its guest, of which it knows itself.
fn remove_dead(nodes: &mut PveLab) {
    let rest = [1, 2, 3, 5];
    fs::write(nodes.path(1, GUEST), "name: of n4\n").unwrap();
    await_text(nodes, &[4], &format!("/etc/pve/{GUEST}"), "of n4");
    nodes.power_off(4);
    step("noticed a dead node", || nodes.await_online(&rest).unwrap());
    fs::remove_file(nodes.path(1, GUEST)).unwrap();
    step("removed it", || {
        nodes.pvecm(2, "delnode n4 --purge").unwrap();
        await_votes(nodes, &rest);
    });
    for id in rest {
        let is_out = || {
            let conf = fs::read_to_string(nodes.host(id).path(CONF)).unwrap_or_default();
            conf.contains("name: n5") && !conf.contains("name: n4")
        };
        eventually(SYNC_DEADLINE, &format!("n{id} without n4"), is_out).unwrap();
    }
    eventually(SYNC_DEADLINE, "no directory of n4", || {
        !nodes.path(1, "nodes/n4").exists()
    })
    .unwrap();
}

/// A node leaves without being installed again, and comes back under its name.
fn separate_and_rejoin(nodes: &PveLab) {
    let rest = [1, 2, 3];
    step("separated", || {
        nodes.pvecm(5, "leave --yes").unwrap();
        nodes.await_writable(5, true).unwrap();
    });
    eventually(SYNC_DEADLINE, "n1 without n5", || {
        let conf = fs::read_to_string(nodes.path(1, "corosync.conf")).unwrap_or_default();
        conf.contains("name: n3") && !conf.contains("name: n5")
    })
    .unwrap();
    await_votes(nodes, &rest);
    step("joined again", || {
        add(nodes, 5, &with_token(nodes, 2, 5), 3);
        await_votes(nodes, &[1, 2, 3, 5]);
    });
}

/// The one that was removed while it was off comes back, and brings its guest along.
fn come_back_with_a_guest(nodes: &mut PveLab) {
    nodes.boot(4).unwrap();
    nodes.host(4).sh_ok(&third_network(4)).unwrap();
    // The others know it by the hardware address that it had before.
    for id in [1, 2, 3, 5] {
        let host = nodes.host(id);
        host.sh_ok("ip neighbour flush dev eth1").unwrap();
    }
    let how = format!("readd {} --yes", with_token(nodes, 2, 4));
    let links = link_args(nodes, 4, 3);
    let key = nodes.host(4).path("/etc/corosync/authkey");
    // What keeps it out is found before it leaves.
    let said = fails(nodes, 4, &format!("{how} {links}"), 2);
    assert!(said.contains("virtual guests (104)"), "{said}");
    let said = fails(nodes, 4, &format!("{how} --import-guests"), 2);
    assert!(said.contains("give --link0 --link1 --link2"), "{said}");
    let readd = format!("{how} {links} --import-guests");
    let plan = nodes.pvecm(4, &format!("{readd} --dry-run")).unwrap();
    let (leave, join) = plan.split_once("would start pve-cluster").unwrap();
    assert!(leave.contains("would stop corosync"), "{plan}");
    assert!(join.contains("would carry over guest 104"), "{plan}");
    assert!(key.exists() && nodes.path(4, "corosync.conf").exists());
    let shown = step("joined again with a guest", || {
        nodes.pvecm(4, &readd).unwrap()
    });
    step("votes", || await_votes(nodes, &NODES));
    is_added(4, &shown);
    assert!(shown.contains("guest 104 is carried over"), "{shown}");
    await_text(nodes, &[1], &format!("/etc/pve/{GUEST}"), "of n4");
}

/// More than half of them fail: nothing can be written until fewer votes are expected.
fn lose_quorum_and_recover(nodes: &mut PveLab) {
    for id in [3, 4, 5] {
        nodes.power_off(id);
    }
    step("lost quorum", || {
        for id in [1, 2] {
            nodes.await_writable(id, false).unwrap();
        }
    });
    assert!(fs::write(nodes.path(1, "refused"), "x").is_err());
    step("expected 2", || {
        nodes.pvecm(1, "expected 2").unwrap();
        nodes.await_online(&[1, 2]).unwrap();
    });
    fs::write(nodes.path(2, "accepted"), "x").unwrap();
    step("came back", || {
        for id in [3, 4, 5] {
            nodes.boot(id).unwrap();
            nodes.host(id).sh_ok(&third_network(id)).unwrap();
        }
        await_votes(nodes, &NODES);
    });
}
