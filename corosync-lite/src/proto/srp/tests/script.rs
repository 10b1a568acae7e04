//! Scenarios step by step.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::sim::Sim;
use crate::proto::srp::ordering::SortQueue;
use crate::proto::srp::{
    Backpressure, Config, Delivery, Destination, Discard, Event, GatherReason, Lane, Output, Phase,
    Srp, State,
};
use crate::wire::srp::{
    CommitToken, Header, MembJoin, Message, NodeId, OrfToken, RingId, SeqNo, is_orf_token,
};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A settled ring.
fn ring_of(node_count: u32, config: Config) -> Sim {
    let mut sim = Sim::new(7, node_count, config);
    for id in sim.ids() {
        sim.start(id).unwrap();
    }
    sim.run(ms(20_000)).unwrap();
    assert!(sim.is_whole(), "{}", sim.status());
    sim
}

/// Time and members of the regular configurations of a node since then.
fn configurations(sim: &Sim, node: u32, since: u64) -> Vec<(u64, Vec<u32>)> {
    let regular = |(at, id, event): &(u64, NodeId, Event)| match event {
        Event::Regular { members, .. } if *id == NodeId(node) && *at >= since => {
            Some((*at - since, members.iter().map(|member| member.0).collect()))
        }
        _ => None,
    };
    sim.journal.iter().filter_map(regular).collect()
}

fn drain(srp: &mut Srp) -> Vec<Output> {
    std::iter::from_fn(|| srp.poll_output()).collect()
}

/// A node alone, with its ring installed.
fn alone(config: Config) -> (Srp, std::time::Instant) {
    let now = super::origin();
    let mut srp = Srp::new(config, NodeId(1), 0, 0);
    srp.start(now);
    while srp.phase() != Phase::Operational {
        for output in drain(&mut srp) {
            if let Output::Transmit(transmit) = output
                && transmit.to == Destination::Node(NodeId(1))
            {
                srp.handle_datagram(now, &transmit.datagram).unwrap();
            }
        }
    }
    (srp, now)
}

#[test]
fn a_node_alone_stores_its_ring_before_it_uses_it() {
    let now = super::origin();
    let mut srp = Srp::new(Config::default(), NodeId(3), 8, 0);
    assert_eq!(
        srp.handle_datagram(now, &Bytes::new()),
        Err(Discard::Stopped)
    );
    srp.start(now);
    let outputs = drain(&mut srp);
    let persist = outputs
        .iter()
        .position(|output| *output == Output::Persist(13))
        .unwrap();
    let uses_it = |output: &Output| match output {
        Output::Transmit(transmit) => {
            matches!(
                Message::decode(&transmit.datagram),
                Ok(Message::CommitToken(_))
            )
        }
        _ => false,
    };
    assert_eq!(
        outputs.iter().position(uses_it),
        Some(persist + 2),
        "{outputs:?}"
    );
    assert_eq!(
        srp.ring(),
        RingId {
            rep: NodeId(3),
            seq: 13
        }
    );
}

#[test]
fn an_idle_ring_is_quiet_and_wakes_at_once() {
    let mut sim = ring_of(3, Config::default());
    let before = sim.sent;
    sim.run(ms(10_000)).unwrap();
    // A rotation and a merge detection for each hold interval of 561 ms.
    assert!(sim.sent - before <= 18 * 5, "{}", sim.sent - before);
    for sender in [1, 2, 3] {
        sim.run(ms(3000)).unwrap();
        let delivered = sim.nodes[&NodeId(1)].delivered;
        sim.submit(NodeId(sender), 10).unwrap();
        sim.run(ms(3)).unwrap();
        assert_eq!(sim.nodes[&NodeId(1)].delivered, delivered + 1);
    }
}

#[test]
fn a_goodbye_needs_no_timeout() {
    let mut sim = ring_of(3, Config::default());
    let since = sim.now / 1000;
    sim.leave(NodeId(2)).unwrap();
    sim.run(ms(50)).unwrap();
    for node in [1, 3] {
        let seen = configurations(&sim, node, since);
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].1, [1, 3]);
    }
}

#[test]
fn a_death_costs_the_token_and_consensus_timeouts() {
    let mut sim = ring_of(3, Config::default());
    let since = sim.now / 1000;
    sim.crash(NodeId(1));
    sim.run(ms(10_000)).unwrap();
    let seen = configurations(&sim, 2, since);
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0].1, [2, 3]);
    assert!((6_000_000..6_700_000).contains(&seen[0].0), "{seen:?}");
}

#[test]
fn halves_go_on_alone_and_merge() {
    let mut sim = ring_of(5, Config::default());
    let since = sim.now / 1000;
    for node in [1, 2] {
        sim.side.insert(NodeId(node), 1);
    }
    sim.run(ms(10_000)).unwrap();
    assert_eq!(configurations(&sim, 2, since)[0].1, [1, 2]);
    assert_eq!(configurations(&sim, 5, since)[0].1, [3, 4, 5]);
    sim.submit(NodeId(1), 1).unwrap();
    sim.submit(NodeId(5), 1).unwrap();
    sim.run(ms(1000)).unwrap();
    let since = sim.now / 1000;
    sim.side.values_mut().for_each(|side| *side = 0);
    sim.run(ms(2000)).unwrap();
    assert!(sim.is_whole(), "{}", sim.status());
    let together = |(at, id, event): &(u64, NodeId, Event)| match event {
        Event::Transitional { members, .. } if *at >= since => Some((id.0, members.len())),
        _ => None,
    };
    let together: Vec<_> = sim.journal.iter().filter_map(together).collect();
    assert_eq!(
        together.len(),
        5,
        "one configuration change each: {together:?}"
    );
    assert!(
        together
            .iter()
            .all(|(id, count)| *count == if *id < 3 { 2 } else { 3 })
    );
    sim.checker.finish(&[]).unwrap();
}

#[test]
fn a_lost_message_is_sent_again_without_a_new_ring() {
    let mut sim = ring_of(3, Config::default());
    let rings = sim.nodes[&NodeId(1)]
        .srp
        .as_ref()
        .unwrap()
        .stats()
        .rings_installed;
    // All ordinary messages of node 1 to node 2; those that node 3 sends again arrive.
    sim.filter = Some(|from, to, datagram| {
        from == NodeId(1) && to == NodeId(2) && datagram.get(3) == Some(&1)
    });
    let before = sim.nodes[&NodeId(2)].delivered;
    for _ in 0..40 {
        sim.submit(NodeId(1), 100).unwrap();
    }
    sim.run(ms(3000)).unwrap();
    assert_eq!(sim.nodes[&NodeId(2)].delivered, before + 40);
    let stats = sim.nodes[&NodeId(2)].srp.as_ref().unwrap().stats().clone();
    assert!(stats.requests > 0);
    assert_eq!(
        sim.nodes[&NodeId(1)]
            .srp
            .as_ref()
            .unwrap()
            .stats()
            .rings_installed,
        rings
    );
}

#[test]
fn messages_are_repeated_without_being_asked_for() {
    let mut sim = ring_of(3, Config::default());
    sim.filter = Some(|from, to, datagram| {
        from == NodeId(1) && to == NodeId(2) && datagram.get(3) == Some(&1)
    });
    let before = sim.nodes[&NodeId(2)].delivered;
    let stats = |sim: &Sim, id| sim.nodes[&NodeId(id)].srp.as_ref().unwrap().stats().clone();
    let sent = stats(&sim, 1).messages_sent;
    sim.submit(NodeId(1), 100).unwrap();
    while stats(&sim, 1).messages_sent == sent {
        sim.run(Duration::from_micros(20)).unwrap();
    }
    let repeater = sim.nodes.get_mut(&NodeId(3)).unwrap().srp.as_mut().unwrap();
    repeater.repeat();
    sim.run(ms(2)).unwrap();
    assert_eq!(sim.nodes[&NodeId(2)].delivered, before + 1);
    assert_eq!(stats(&sim, 2).requests, 0);
    assert_eq!(stats(&sim, 3).messages_resent, 1);
    let repeated = |(_, id, event): &(u64, NodeId, Event)| match event {
        Event::Repeated => Some(*id),
        _ => None,
    };
    let repeated: Vec<_> = sim.journal.iter().filter_map(repeated).collect();
    assert_eq!(repeated, [NodeId(3)]);
}

#[test]
fn a_node_that_cannot_receive_gives_itself_up_and_comes_back() {
    let config = Config {
        fail_recv_const: 20,
        ..Config::default()
    };
    let mut sim = ring_of(3, config);
    sim.filter = Some(|_, to, datagram| to == NodeId(3) && datagram.get(3) == Some(&1));
    let since = sim.now / 1000;
    sim.submit(NodeId(1), 100).unwrap();
    sim.run(ms(30_000)).unwrap();
    assert!(
        configurations(&sim, 3, since)
            .iter()
            .any(|(_, members)| *members == [3])
    );
    assert!(
        configurations(&sim, 1, since)
            .iter()
            .any(|(_, members)| *members == [1, 2])
    );
    let srp = sim.nodes[&NodeId(3)].srp.as_ref().unwrap();
    assert!(
        srp.stats()
            .gathers
            .contains_key(&GatherReason::FailedToReceive)
    );
    sim.filter = None;
    sim.run(ms(10_000)).unwrap();
    assert!(sim.is_whole(), "{}", sim.status());
    sim.checker.finish(&[]).unwrap();
}

#[test]
fn a_ring_played_back_changes_nothing() {
    let mut sim = ring_of(3, Config::default());
    for id in sim.ids() {
        sim.submit(id, 50).unwrap();
    }
    sim.crash(NodeId(2));
    sim.run(ms(8000)).unwrap();
    sim.start(NodeId(2)).unwrap();
    sim.run(ms(8000)).unwrap();
    assert!(sim.is_whole());
    let since = sim.now / 1000;
    let recorded = sim.recorded();
    assert!(recorded.iter().any(|datagram| is_orf_token(datagram)));
    for datagram in recorded {
        for id in sim.ids() {
            sim.inject(id, datagram.clone()).unwrap();
        }
    }
    sim.run(ms(10_000)).unwrap();
    assert!(
        sim.journal.iter().all(|(at, _, _)| *at < since),
        "something happened"
    );
    assert!(sim.is_whole());
}

#[test]
fn the_dead_played_back_do_not_break_the_ring() {
    let mut sim = ring_of(3, Config::default());
    sim.submit(NodeId(3), 50).unwrap();
    sim.run(ms(100)).unwrap();
    sim.leave(NodeId(3)).unwrap();
    sim.run(ms(1000)).unwrap();
    let since = sim.now / 1000;
    for datagram in sim.recorded() {
        for id in [1, 2] {
            sim.inject(NodeId(id), datagram.clone()).unwrap();
        }
    }
    sim.run(ms(10_000)).unwrap();
    assert!(configurations(&sim, 1, since).is_empty());
    // The real one is welcome, even when it has lost what it had stored.
    sim.wipe(NodeId(3));
    sim.is_lawless = true;
    sim.start(NodeId(3)).unwrap();
    sim.run(ms(15_000)).unwrap();
    assert!(sim.is_whole(), "{}", sim.status());
}

#[test]
fn only_members_are_failed_for_failing_this_node() {
    let (mut srp, now) = alone(Config::default());
    let join = |failed: &[u32]| {
        let join = MembJoin {
            header: Header::new(NodeId(2), NodeId::NONE),
            system_from: NodeId(2),
            proc: [1, 2, 3].map(NodeId).to_vec(),
            failed: failed.iter().copied().map(NodeId).collect(),
            ring_seq: 0,
        };
        join.encode()
    };
    srp.handle_datagram(now, &join(&[])).unwrap();
    assert_eq!(srp.phase(), Phase::Gather);
    srp.handle_datagram(now, &join(&[1])).unwrap();
    assert!(srp.failed.is_empty());
    srp.memb.insert(NodeId(2));
    srp.handle_datagram(now, &join(&[1])).unwrap();
    assert_eq!(srp.failed.iter().copied().collect::<Vec<_>>(), [NodeId(2)]);
}

#[test]
fn who_changed_its_mind_is_not_committed_with() {
    let (mut srp, now) = alone(Config::default());
    let join = |from: u32, failed: &[u32]| {
        let join = MembJoin {
            header: Header::new(NodeId(from), NodeId::NONE),
            system_from: NodeId(from),
            proc: [1, 2, 3].map(NodeId).to_vec(),
            failed: failed.iter().copied().map(NodeId).collect(),
            ring_seq: 0,
        };
        join.encode()
    };
    srp.handle_datagram(now, &join(2, &[])).unwrap();
    srp.handle_datagram(now, &join(2, &[3])).unwrap();
    srp.handle_datagram(now, &join(3, &[])).unwrap();
    assert_eq!(srp.phase(), Phase::Gather);
    // Without another word of it this node begins anew, and fails it only if it stays away then.
    let later = now + Config::default().consensus;
    while let Some(due) = srp.poll_timeout().filter(|due| *due <= later) {
        srp.handle_timeout(due);
    }
    assert_eq!(srp.phase(), Phase::Gather);
    assert!(srp.failed.is_empty());
    srp.handle_datagram(later, &join(3, &[])).unwrap();
    srp.handle_datagram(later, &join(2, &[])).unwrap();
    assert_eq!(srp.phase(), Phase::Commit);
}

#[test]
fn who_was_given_up_and_begins_anew_is_forgiven_once() {
    let (mut srp, mut now) = alone(Config::default());
    let join = |ring_seq| {
        let join = MembJoin {
            header: Header::new(NodeId(2), NodeId::NONE),
            system_from: NodeId(2),
            proc: [1, 2, 3].map(NodeId).to_vec(),
            failed: Vec::new(),
            ring_seq,
        };
        join.encode()
    };
    let mut given_up = Vec::new();
    for _ in 0..2 {
        srp.handle_datagram(now, &join(1)).unwrap();
    }
    srp.proc.insert(NodeId(4));
    for ring_seq in [5, 5, 9, 13] {
        srp.failed.insert(NodeId(2));
        now += ms(1);
        srp.handle_datagram(now, &join(ring_seq)).unwrap();
        given_up.push(srp.failed.contains(&NodeId(2)));
    }
    assert_eq!(given_up, [false, true, true, true]);
    assert_eq!(srp.phase(), Phase::Gather);
}

#[test]
fn who_will_refuse_the_commit_token_is_not_waited_for() {
    let (mut srp, now) = alone(Config::default());
    let join = |proc: &[u32], ring_seq| {
        let join = MembJoin {
            header: Header::new(NodeId(2), NodeId::NONE),
            system_from: NodeId(2),
            proc: proc.iter().copied().map(NodeId).collect(),
            failed: Vec::new(),
            ring_seq,
        };
        join.encode()
    };
    srp.handle_datagram(now, &join(&[1, 2], 1)).unwrap();
    assert_eq!(srp.phase(), Phase::Commit);
    for (proc, ring_seq) in [(&[2][..], 1), (&[1, 2], 1), (&[1, 2, 3], 0)] {
        let join = join(proc, ring_seq);
        assert_eq!(srp.handle_datagram(now, &join), Err(Discard::Stale));
    }
    assert_eq!(srp.phase(), Phase::Commit);
    srp.handle_datagram(now, &join(&[1, 2, 3], 1)).unwrap();
    assert_eq!(srp.phase(), Phase::Gather);
    assert!(srp.proc.contains(&NodeId(3)));
}

#[test]
fn safe_delivery_waits_for_all() {
    let config = Config {
        delivery: Delivery::Safe,
        ..Config::default()
    };
    let mut sim = ring_of(3, config);
    sim.filter = Some(|_, to, datagram| to == NodeId(3) && datagram.get(3) == Some(&1));
    let before = sim.nodes[&NodeId(1)].delivered;
    sim.submit(NodeId(1), 1).unwrap();
    sim.run(ms(1000)).unwrap();
    assert_eq!(sim.nodes[&NodeId(1)].delivered, before);
    sim.filter = None;
    sim.run(ms(3000)).unwrap();
    assert_eq!(sim.nodes[&NodeId(1)].delivered, before + 1);
}

#[test]
fn numbers_wrap_within_a_ring() {
    let (mut srp, now) = alone(Config::default());
    drain(&mut srp);
    let start = SeqNo(u32::MAX - 20);
    srp.regular = SortQueue::starting_after(start);
    srp.rotation = super::super::token::Rotation::default();
    let ring = srp.ring();
    srp.sync_done(now, ring);
    let token = OrfToken {
        header: Header::new(NodeId(1), NodeId(1)),
        seq: start,
        token_seq: SeqNo(u32::MAX - 3),
        aru: start,
        aru_addr: NodeId::NONE,
        ring,
        backlog: 0,
        fcc: 0,
        retrans_flg: 0,
        rtr: Vec::new(),
    };
    srp.rotation = super::super::token::Rotation::after(SeqNo(u32::MAX - 4), start);
    srp.handle_datagram(now, &token.encode()).unwrap();
    let mut delivered = Vec::new();
    for step in 0..60u8 {
        assert_eq!(
            srp.mcast(now, Lane::Ordinary, Bytes::from(vec![step])),
            Ok(())
        );
        for _ in 0..2 {
            for output in drain(&mut srp) {
                match output {
                    Output::Transmit(transmit) if transmit.to == Destination::Node(NodeId(1)) => {
                        srp.handle_datagram(now, &transmit.datagram).unwrap();
                    }
                    Output::Event(Event::Deliver(message)) => delivered.push(message),
                    _ => {}
                }
            }
        }
    }
    assert!(delivered.len() > 50);
    for (index, message) in delivered.iter().enumerate() {
        let steps = u32::try_from(index).unwrap() + 1;
        assert_eq!(message.seq, start.plus(steps));
        assert_eq!(u32::from(message.frame[0]) + 1, steps);
    }
    assert!(
        srp.regular.len() < 30,
        "released across the wrap: {}",
        srp.regular.len()
    );
    assert_eq!(srp.phase(), Phase::Operational);
}

#[test]
fn frames_are_refused_when_there_is_no_room() {
    let config = Config {
        send_queue_len_max: 2,
        frame_len_max: 10,
        ..Config::default()
    };
    let (mut srp, now) = alone(config.clone());
    assert_eq!(srp.room(Lane::Ordinary), 2);
    let long = Bytes::from(vec![0; 11]);
    let too_long = Backpressure::TooLong { len: 11, max: 10 };
    assert_eq!(srp.mcast(now, Lane::Ordinary, long), Err(too_long));
    for _ in 0..2 {
        assert_eq!(
            srp.mcast(now, Lane::Ordinary, Bytes::from_static(b"x")),
            Ok(())
        );
    }
    assert_eq!(
        srp.mcast(now, Lane::Ordinary, Bytes::new()),
        Err(Backpressure::Full)
    );
    srp.leave();
    assert_eq!(
        srp.mcast(now, Lane::Ordinary, Bytes::new()),
        Err(Backpressure::Stopped)
    );
    assert_eq!(srp.poll_timeout(), None);
}

#[test]
fn what_is_not_used_is_counted_by_reason() {
    let (mut srp, now) = alone(Config::default());
    let join = |from: u32, proc: &[u32], ring_seq| {
        Message::MembJoin(MembJoin {
            header: Header::new(NodeId(from), NodeId::NONE),
            system_from: NodeId(from),
            proc: proc.iter().copied().map(NodeId).collect(),
            failed: Vec::new(),
            ring_seq,
        })
    };
    let token = OrfToken {
        header: Header::new(NodeId(2), NodeId(1)),
        seq: SeqNo::ZERO,
        token_seq: SeqNo(1000),
        aru: SeqNo::ZERO,
        aru_addr: NodeId::NONE,
        ring: srp.ring(),
        backlog: 0,
        fcc: 0,
        retrans_flg: 0,
        rtr: Vec::new(),
    };
    let foreign = OrfToken {
        ring: RingId {
            rep: NodeId(2),
            seq: 9,
        },
        ..token.clone()
    };
    let commit = CommitToken {
        header: Header::new(NodeId(1), NodeId(1)),
        token_seq: SeqNo(1),
        ring: RingId {
            rep: NodeId(1),
            seq: 99,
        },
        retrans_flg: 0,
        memb_index: 1,
        members: vec![(NodeId(1), crate::wire::srp::CommitEntry::default())],
    };
    let cases = [
        (Bytes::from_static(b"rubbish"), Discard::Malformed),
        (Bytes::from_static(&[0xC0, 0x70, 3, 0]), Discard::ByteOrder),
        (join(1, &[1], 5).encode(), Discard::Own),
        (join(2, &[3], 5).encode(), Discard::Implausible),
        (join(2, &[2, 0], 5).encode(), Discard::Implausible),
        (join(2, &[2], u64::MAX).encode(), Discard::Implausible),
        (token.encode(), Discard::Implausible),
        (foreign.encode(), Discard::Foreign),
        (commit.encode(), Discard::Unexpected),
    ];
    for (datagram, reason) in cases {
        let before = srp
            .stats()
            .discards
            .get(&reason)
            .copied()
            .unwrap_or_default();
        assert_eq!(srp.handle_datagram(now, &datagram), Err(reason));
        assert_eq!(srp.stats().discards[&reason], before + 1);
    }
    assert_eq!(srp.phase(), Phase::Operational);
}

#[test]
fn joins_from_before_a_pause_are_dropped() {
    let (mut srp, now) = alone(Config::with_token(ms(60_000)));
    drain(&mut srp);
    let later = now + ms(40_000);
    srp.handle_timeout(later);
    let join = MembJoin {
        header: Header::new(NodeId(2), NodeId::NONE),
        system_from: NodeId(2),
        proc: vec![NodeId(2)],
        failed: Vec::new(),
        ring_seq: 5,
    };
    assert_eq!(
        srp.handle_datagram(later, &join.encode()),
        Err(Discard::Paused)
    );
    assert_eq!(srp.handle_datagram(later + ms(60), &join.encode()), Ok(()));
    assert!(matches!(srp.state, State::Gather));
}

/// Changed bytes, as a network without authentication may bring: no order is promised then, but
/// nothing panics, nothing grows, and a ring forms again.
#[test]
fn changed_bytes_are_survived() {
    for seed in 0..30 {
        let config = Config {
            fail_recv_const: 30,
            ..Config::with_token(ms(300))
        };
        let mut sim = Sim::new(seed, 4, config);
        sim.mangled = 30;
        sim.is_lawless = true;
        for id in sim.ids() {
            // Complaints of the checker are no concern here.
            sim.start(id).ok();
        }
        for _ in 0..300 {
            let id = NodeId(1 + u32::try_from(sim.random.below(4)).unwrap());
            sim.submit(id, 20).ok();
            sim.run(ms(20)).ok();
        }
        assert!(sim.queued_max < 70_000, "seed {seed}: {}", sim.queued_max);
        sim.mangled = 0;
        sim.run(ms(120_000)).ok();
        assert!(sim.is_one_ring(), "seed {seed}: {}", sim.status());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_sequence_of_tokens_and_messages_is_survived(
        steps in proptest::collection::vec(
            (0..6u8, any::<[u32; 6]>(), 0..4u64, proptest::collection::vec(any::<u8>(), 0..80)),
            0..60,
        )
    ) {
        let (mut srp, mut now) = alone(Config::default());
        for (kind, numbers, wait, mut tail) in steps {
            // A plausible header, then numbers near to what is in use, then anything.
            let mut bytes = vec![0x70, 0xC0, 3, kind, 2];
            for node in [1u32, 1] {
                bytes.extend(node.to_le_bytes());
            }
            for number in numbers {
                let small = if number % 3 == 0 { number } else { number % 4 };
                bytes.extend(small.to_le_bytes());
            }
            let ring = srp.ring();
            let at = match kind { 0 => 29, 1 => 25, 2 | 4 => 17, _ => 13 };
            bytes.truncate(at);
            bytes.extend(ring.rep.0.to_le_bytes());
            bytes.extend(ring.seq.to_le_bytes());
            if kind == 0 {
                bytes.extend([0; 16]);
            }
            bytes.append(&mut tail);
            now += ms(wait * 400);
            srp.handle_timeout(now);
            srp.handle_datagram(now, &Bytes::from(bytes)).ok();
            for output in drain(&mut srp) {
                if let Output::Transmit(transmit) = output
                    && transmit.to == Destination::Node(NodeId(1))
                {
                    srp.handle_datagram(now, &transmit.datagram).ok();
                }
            }
            prop_assert!(srp.queued() < 40_000);
        }
    }
}
