//! Messages to groups: in one order, whole, and in the configuration that all senders agree on.

use std::time::Duration;

use corosync_lite::proto::node::Service;
use corosync_lite::service::cpg::MESSAGE_MAX;

use crate::net::{Cluster, MS, Net, Process, payload};

fn all_received(net: &Net, processes: &[Process], count: usize) -> bool {
    processes.iter().all(|it| net.received(*it).len() == count)
}

#[test]
fn all_members_get_all_messages_in_one_order() {
    for cluster in [
        Cluster::knet(&[1, 2, 3]),
        Cluster::plain("udpu", &[1, 2, 3]),
        Cluster::plain("udp", &[1, 2, 3]),
    ] {
        let mut net = Net::formed(&cluster);
        let processes = [1, 2, 3].map(|id| net.join(id, "group"));
        let alone = net.join(2, "other");
        for round in 0..40 {
            for (index, process) in processes.iter().enumerate() {
                net.mcast(*process, &payload(round * 97, round * 3 + index));
            }
            net.run(MS / 10);
        }
        net.wait("messages", |net| all_received(net, &processes, 120));
        let order = net.received(processes[0]);
        for process in &processes[1..] {
            assert_eq!(net.received(*process), order);
        }
        for id in [1, 2, 3] {
            let own: Vec<_> = order.iter().filter(|(from, _)| *from == id).collect();
            assert_eq!(own.len(), 40);
            assert!((0..40).all(|round| own[round].1.len() == round * 97));
        }
        assert!(net.received(alone).is_empty());
    }
}

#[test]
fn long_messages_arrive_whole_also_over_a_bad_network() {
    for cluster in [
        Cluster::knet(&[1, 2, 3]),
        Cluster::plain("udpu", &[1, 2, 3]),
    ] {
        let mut net = Net::formed(&cluster);
        let processes = [1, 2, 3].map(|id| net.join(id, "group"));
        net.lose_every = Some(101);
        let long = payload(MESSAGE_MAX, 1);
        for process in &processes {
            net.mcast(*process, &long);
            net.mcast(*process, &payload(5, 2));
        }
        net.wait("messages", |net| all_received(net, &processes, 6));
        for process in &processes {
            let received = net.received(*process);
            let longs = received.iter().filter(|(_, data)| *data == long);
            assert_eq!(longs.count(), 3);
        }
    }
}

#[test]
fn a_message_to_oneself_takes_no_longer_than_a_round() {
    let mut net = Net::formed(&Cluster::knet(&[1, 2, 3]));
    let process = net.join(2, "group");
    net.run(Duration::from_secs(5));
    // The token is held on an idle ring: a message fetches it.
    net.mcast(process, &payload(100, 0));
    let took = net.wait("message", |net| !net.received(process).is_empty());
    assert!(took < MS, "{took:?}");
    let busy = Duration::from_micros(700);
    for count in 2..30 {
        net.mcast(process, &payload(100, 0));
        let took = net.wait("message", |net| net.received(process).len() == count);
        assert!(took < busy, "{took:?}");
    }
}

#[test]
fn senders_are_held_back_and_nothing_is_lost() {
    let mut net = Net::formed(&Cluster::knet(&[1, 2, 3]));
    let processes = [1, 2, 3].map(|id| net.join(id, "group"));
    let message = payload(100_000, 3);
    let (mut sent, mut was_blocked) = (0, 0);
    while sent < 300 {
        if net.members[&1].blocked.contains(&Service::Cpg) {
            was_blocked += 1;
            net.run(MS / 10);
        } else {
            net.mcast(processes[0], &message);
            sent += 1;
        }
        assert!(net.node(1).queued() < 1000);
    }
    assert!(was_blocked > 0);
    net.wait("messages", |net| all_received(net, &processes, 300));
    assert!(net.members[&1].blocked.is_empty());
}

/// Messages that are cut by changes of the configuration, with senders on all sides all the time:
/// those on one side get the same, and behind the merge all do.
#[test]
fn messages_cut_by_partition_and_merge_are_delivered_alike() {
    for moment in [0, 3, 5] {
        // Small frames: a message takes several rounds of the token.
        let mut cluster = Cluster::plain("udpu", &[1, 2, 3]);
        cluster.totem.push_str("token: 400\ntoken_coefficient: 0\n");
        let mut net = Net::formed(&cluster);
        net.delay = MS * 3;
        let processes = [1, 2, 3].map(|id| net.join(id, "group"));
        let mut sent = [0; 3];
        net.run(50 * MS);
        // Each always has some messages under way.
        let mut keep_sending = |net: &mut Net, time: Duration| {
            let end = net.now + time;
            while net.now < end {
                for (process, sent) in processes.iter().zip(&mut sent) {
                    if *sent < net.own_received(*process) + 3 {
                        net.mcast(*process, &payload(100_000, *sent * 3 + index(*process)));
                        *sent += 1;
                    }
                }
                net.run(20 * MS);
            }
        };
        keep_sending(&mut net, 50 * MS + MS * moment * 3);
        net.partition(&[&[1, 2], &[3]]);
        keep_sending(&mut net, MS * 1500);
        assert!(net.is_ring(&[1, 2]) && net.is_ring(&[3]));
        net.heal();
        keep_sending(&mut net, MS * 1500 + MS * moment * 3);
        assert!(net.is_ring(&[1, 2, 3]));
        net.wait("the rest", |net| {
            let mut pairs = processes.iter().zip(&sent);
            pairs.all(|(process, sent)| net.own_received(*process) == *sent)
        });
        net.run(MS * 100);
        let after_merge = |at: usize| net.marks_since(processes[at], &[1, 2, 3]);
        assert!(after_merge(0).len() > 10);
        assert_eq!(after_merge(0), after_merge(1), "moment {moment}");
        assert_eq!(after_merge(0), after_merge(2), "moment {moment}");
        let apart = |at: usize| net.marks_since(processes[at], &[1, 2]);
        assert_eq!(apart(0), apart(1), "moment {moment}");
    }
}

fn index(process: Process) -> usize {
    usize::try_from(process.id).unwrap() - 1
}
