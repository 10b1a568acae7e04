//! Nodes find each other, go, and come back.

use std::time::Duration;

use corosync_lite::proto::node::{Log, Service, Stored};
use corosync_lite::service::cpg::Reason;

use crate::net::{Cluster, MS, Net, payload};

#[test]
fn nodes_form_one_ring_over_encrypted_links() {
    let cluster = Cluster::knet(&[1, 2, 3]);
    let mut net = Net::new(&cluster);
    for id in cluster.nodes.clone() {
        // At once each is a ring of its own.
        assert!(net.node(id).is_synchronized());
        assert_eq!(net.node(id).members().len(), 1);
        assert!(!net.node(id).is_quorate());
    }
    let took = net.wait_for_ring(&[1, 2, 3]);
    assert!(took < Duration::from_secs(6), "{took:?}");
    for id in [1, 2, 3] {
        assert!(net.node(id).is_quorate());
        assert_eq!(net.node(id).votes().votes, 3);
        assert!(net.members[&id].blocked.is_empty());
        assert_eq!(net.members[&id].stored.ring_seq, net.node(id).ring().seq);
    }
    net.run(Duration::from_secs(60));
    assert!(net.is_ring(&[1, 2, 3]));
    let quiet = |log: &Log| matches!(log, Log::TokenLate(_));
    assert!(!net.log_has(1, quiet));
}

#[test]
fn the_transports_without_encryption_work_as_well() {
    for transport in ["udpu", "udp"] {
        let mut net = Net::formed(&Cluster::plain(transport, &[1, 2, 3]));
        net.run(Duration::from_secs(20));
        assert!(net.is_ring(&[1, 2, 3]), "{transport}");
    }
}

#[test]
fn a_lost_node_is_left_out_and_taken_in_again() {
    let cluster = Cluster::knet(&[1, 2, 3]);
    let mut net = Net::formed(&cluster);
    let [first, second] = [1, 2].map(|id| net.join(id, "group"));
    let third = net.join(3, "group");
    net.run(100 * MS);
    let stored = net.kill(3);
    let took = net.wait_for_ring(&[1, 2]);
    assert!(
        took > Duration::from_secs(4) && took < Duration::from_secs(10),
        "{took:?}"
    );
    assert!(net.node(1).is_quorate());
    for process in [first, second] {
        assert_eq!(net.views(process).last(), Some(&vec![1, 2]));
    }
    net.boot(&cluster, 3, stored);
    net.wait_for_ring(&[1, 2, 3]);
    assert!(net.node(3).is_quorate());
    let again = net.join(3, "group");
    net.wait("view", |net| {
        net.views(first).last() == Some(&vec![1, 2, 3])
    });
    assert_eq!(net.views(again).last(), Some(&vec![1, 2, 3]));
    assert_eq!(third.id, 3);
}

#[test]
fn a_goodbye_spares_the_others_the_wait() {
    let mut net = Net::formed(&Cluster::knet(&[1, 2, 3]));
    net.with(2, |node, now| node.leave(now));
    assert!(net.node(2).is_stopped());
    net.members.remove(&2);
    let took = net.wait_for_ring(&[1, 3]);
    assert!(took < 100 * MS, "{took:?}");
}

#[test]
fn processes_of_a_node_that_leaves_end_before_it_goes() {
    let mut net = Net::formed(&Cluster::knet(&[1, 2]));
    let (staying, leaving) = (net.join(1, "group"), net.join(2, "group"));
    net.wait("group", |net| {
        net.views(staying).last() == Some(&vec![1, 2])
    });
    net.mcast(leaving, &payload(5000, 1));
    net.with(2, |node, now| node.leave(now));
    net.wait("goodbye", |net| net.node(2).is_stopped());
    net.kill(2);
    net.wait_for_ring(&[1]);
    assert_eq!(net.received(staying).len(), 1);
    let left: Vec<_> = net.left(staying);
    assert_eq!(left, [(2, Reason::ProcessDown)]);
}

#[test]
fn with_downscale_the_goodbye_waits_for_the_last_message() {
    let mut cluster = Cluster::knet(&[1, 2, 3, 4]);
    cluster.quorum.push_str("allow_downscale: 1\n");
    let mut net = Net::formed(&cluster);
    net.with(4, |node, now| node.leave(now));
    assert!(!net.node(4).is_stopped());
    net.wait("goodbye", |net| net.node(4).is_stopped());
    net.kill(4);
    let took = net.wait_for_ring(&[1, 2, 3]);
    assert!(took < 100 * MS, "{took:?}");
}

#[test]
fn sides_of_a_partition_go_on_and_merge() {
    let cluster = Cluster::knet(&[1, 2, 3, 4, 5]);
    let mut net = Net::formed(&cluster);
    let processes: Vec<_> = cluster
        .nodes
        .iter()
        .map(|id| net.join(*id, "group"))
        .collect();
    net.run(100 * MS);
    net.partition(&[&[1, 2, 3], &[4, 5]]);
    net.wait("sides", |net| {
        net.is_ring(&[1, 2, 3]) && net.is_ring(&[4, 5])
    });
    assert!(net.node(1).is_quorate() && !net.node(4).is_quorate());
    assert_eq!(net.views(processes[0]).last(), Some(&vec![1, 2, 3]));
    assert_eq!(net.views(processes[4]).last(), Some(&vec![4, 5]));
    net.heal();
    net.wait_for_ring(&[1, 2, 3, 4, 5]);
    for process in processes {
        assert_eq!(net.views(process).last(), Some(&vec![1, 2, 3, 4, 5]));
        assert!(net.node(process.id).is_quorate());
    }
}

#[test]
fn one_link_of_two_is_enough() {
    let mut cluster = Cluster::knet(&[1, 2, 3]);
    cluster.links = 2;
    let mut net = Net::formed(&cluster);
    net.run(Duration::from_secs(20));
    let ring = net.node(1).ring();
    for (a, b) in [(1, 2), (1, 3), (2, 3)] {
        net.cut_link(a, b, 0);
    }
    net.wait("link down", |net| {
        net.log_has(1, |log| matches!(log, Log::LinkDown { link: 0, .. }))
    });
    net.run(Duration::from_secs(10));
    assert!(net.is_ring(&[1, 2, 3]));
    assert!(
        net.node(1)
            .links()
            .iter()
            .any(|link| link.link == 1 && link.up)
    );
    // The timers of the links are short enough for the ring to stay.
    assert_eq!(net.node(1).ring(), ring);
}

#[test]
fn a_node_with_an_old_configuration_stops_when_it_meets_others() {
    let old = Cluster::knet(&[1, 2, 3]);
    let new = Cluster {
        version: 2,
        ..old.clone()
    };
    let mut net = Net::new(&new);
    net.kill(3);
    net.boot(&old, 3, Stored::default());
    net.wait("shutdown", |net| net.members[&3].shutdown.is_some());
    assert!(net.members[&1].shutdown.is_none());
}

#[test]
fn clients_wait_while_services_synchronize() {
    let cluster = Cluster::knet(&[1, 2]);
    let mut net = Net::formed(&cluster);
    net.kill(2);
    let mut was_blocked = false;
    net.boot(&cluster, 2, Stored::default());
    for _ in 0..200_000 {
        net.run(MS / 4);
        let blocked = &net.members[&1].blocked;
        was_blocked |= blocked.contains(&Service::Cpg);
        assert!(!blocked.contains(&Service::Cmap));
        if was_blocked && net.is_ring(&[1, 2]) {
            break;
        }
    }
    assert!(was_blocked && net.members[&1].blocked.is_empty());
}
