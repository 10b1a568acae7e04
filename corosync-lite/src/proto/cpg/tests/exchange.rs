//! The exchange after configuration changes.

use super::*;

const THIRD: NodeId = NodeId(3);

/// A member of a group, alone or with processes of others that were listed in an exchange.
fn member(others: &[(NodeId, &[(&str, u32)])]) -> Desk {
    let mut desk = Desk::among(&[LOCAL]);
    desk.join(A, "g", 7, 0);
    desk.pump();
    if !others.is_empty() {
        let mut members = vec![LOCAL];
        members.extend(others.iter().map(|(node, _)| *node));
        let lists: Vec<_> = others
            .iter()
            .map(|(node, entries)| (*node, list(entries)))
            .collect();
        desk.configure(&members, &[LOCAL], ring(8), &lists);
    }
    desk.events();
    desk
}

/// Events of the member alone; the other connection hears of the ring only.
fn of_member(desk: &mut Desk) -> Vec<Event> {
    let events = desk.events().into_iter();
    let of_member = events.filter(|(client, _)| *client == A);
    of_member.map(|(_, event)| event).collect()
}

#[test]
fn the_exchange_lists_own_processes_and_lost_nodes() {
    let mut desk = member(&[(OTHER, &[("g", 9)]), (THIRD, &[("g", 9)])]);
    desk.cpg
        .sync_init(&[LOCAL, THIRD], &[LOCAL, THIRD], ring(12));
    desk.cpg.sync_process();
    desk.drain();
    let downlist = Message::Downlist(wire::Downlist {
        old_members: 3,
        left: vec![OTHER],
    });
    assert_eq!(desk.sync, [downlist, list(&[("g", 7)])]);
    assert!(desk.ordinary.is_empty());
}

#[test]
fn without_processes_there_is_no_list() {
    let mut desk = Desk::among(&[LOCAL]);
    desk.cpg.sync_init(&[LOCAL], &[LOCAL], ring(12));
    desk.cpg.sync_process();
    desk.drain();
    let downlist = Message::Downlist(wire::Downlist {
        old_members: 1,
        left: Vec::new(),
    });
    assert_eq!(desk.sync, [downlist]);
}

#[test]
fn a_long_list_takes_several_messages() {
    let mut desk = Desk::among(&[LOCAL]);
    for pid in 0..7001 {
        desk.hear(LOCAL, join_message("g", pid));
    }
    desk.cpg.sync_init(&[LOCAL], &[LOCAL], ring(12));
    desk.cpg.sync_process();
    desk.drain();
    let lengths = desk.sync.iter().filter_map(|message| match message {
        Message::Joinlist(entries) => Some(entries.len()),
        _ => None,
    });
    assert_eq!(lengths.collect::<Vec<_>>(), [7000, 1]);
}

#[test]
fn nodes_that_come_are_told_in_one_event_and_then_the_ring() {
    let mut desk = member(&[]);
    let lists = [
        (THIRD, list(&[("g", 4)])),
        (OTHER, list(&[("h", 1), ("g", 9)])),
    ];
    desk.configure(&[LOCAL, OTHER, THIRD], &[LOCAL], ring(8), &lists);
    let joined = [at(2, 9, Reason::NodeUp), at(3, 4, Reason::NodeUp)];
    let expected = [
        (A, confchg("g", &[(1, 7), (2, 9), (3, 4)], &[], &joined)),
        (A, totem(8, &[1, 2, 3])),
        (B, totem(8, &[1, 2, 3])),
    ];
    assert_eq!(desk.events(), expected);
}

#[test]
fn nodes_that_go_are_told_in_one_event_before_those_that_come() {
    let mut desk = member(&[(OTHER, &[("g", 9), ("g", 8)])]);
    let lists = [(THIRD, list(&[("g", 4)]))];
    desk.configure(&[LOCAL, THIRD], &[LOCAL], ring(12), &lists);
    let left = [at(2, 8, Reason::NodeDown), at(2, 9, Reason::NodeDown)];
    let joined = [at(3, 4, Reason::NodeUp)];
    let expected = [
        confchg("g", &[(1, 7)], &left, &[]),
        confchg("g", &[(1, 7), (3, 4)], &[], &joined),
        totem(12, &[1, 3]),
    ];
    assert_eq!(of_member(&mut desk), expected);
}

#[test]
fn a_node_that_was_elsewhere_goes_and_comes() {
    let mut desk = member(&[(OTHER, &[("g", 9)])]);
    let lists = [(OTHER, list(&[("g", 9)]))];
    desk.configure(&[LOCAL, OTHER], &[LOCAL], ring(12), &lists);
    let expected = [
        confchg("g", &[(1, 7)], &[at(2, 9, Reason::NodeDown)], &[]),
        confchg("g", &[(1, 7), (2, 9)], &[], &[at(2, 9, Reason::NodeUp)]),
        totem(12, &[1, 2]),
    ];
    assert_eq!(of_member(&mut desk), expected);
}

#[test]
fn a_node_that_was_elsewhere_during_a_broken_off_exchange_goes_and_comes() {
    let mut desk = member(&[(OTHER, &[("g", 9)])]);
    desk.cpg.sync_init(&[LOCAL], &[LOCAL], ring(12));
    desk.cpg.sync_process();
    desk.cpg.sync_abort();
    desk.cpg.sync_init(&[LOCAL, OTHER], &[LOCAL], ring(16));
    desk.cpg.sync_abort();
    desk.drain();
    let lists = [(OTHER, list(&[("g", 9)]))];
    desk.configure(&[LOCAL, OTHER], &[LOCAL, OTHER], ring(20), &lists);
    let expected = [
        confchg("g", &[(1, 7)], &[at(2, 9, Reason::NodeDown)], &[]),
        confchg("g", &[(1, 7), (2, 9)], &[], &[at(2, 9, Reason::NodeUp)]),
        totem(20, &[1, 2]),
    ];
    assert_eq!(of_member(&mut desk), expected);
}

#[test]
fn nothing_but_the_ring_is_told_when_nothing_changed() {
    let mut desk = member(&[(OTHER, &[("g", 9)])]);
    let lists = [(OTHER, list(&[("g", 9), ("g", 9)]))];
    desk.configure(&[LOCAL, OTHER], &[LOCAL, OTHER], ring(12), &lists);
    assert_eq!(of_member(&mut desk), [totem(12, &[1, 2])]);
}

#[test]
fn processes_that_are_listed_no_more_are_down() {
    let mut desk = member(&[(OTHER, &[("g", 8), ("g", 9)])]);
    let lists = [(OTHER, list(&[("g", 10)]))];
    desk.configure(&[LOCAL, OTHER], &[LOCAL, OTHER], ring(12), &lists);
    let left = [at(2, 8, Reason::ProcessDown), at(2, 9, Reason::ProcessDown)];
    let before = [(1, 7), (2, 8), (2, 9), (2, 10)];
    let expected = [
        confchg("g", &before, &[], &[at(2, 10, Reason::NodeUp)]),
        confchg("g", &[(1, 7), (2, 10)], &left, &[]),
        totem(12, &[1, 2]),
    ];
    assert_eq!(of_member(&mut desk), expected);
}

#[test]
fn lists_of_other_times_and_of_strangers_are_nothing() {
    let mut desk = member(&[]);
    desk.hear(OTHER, list(&[("g", 1)]));
    desk.cpg.sync_init(&[LOCAL, OTHER], &[LOCAL], ring(8));
    desk.hear(OTHER, list(&[("g", 2)]));
    desk.cpg.sync_abort();
    desk.hear(OTHER, list(&[("g", 3)]));
    let lists = [(OTHER, list(&[("g", 4)])), (THIRD, list(&[("g", 5)]))];
    desk.configure(&[LOCAL, OTHER], &[LOCAL], ring(12), &lists);
    let joined = [at(2, 4, Reason::NodeUp)];
    let expected = [
        confchg("g", &[(1, 7), (2, 4)], &[], &joined),
        totem(12, &[1, 2]),
    ];
    assert_eq!(of_member(&mut desk), expected);
}

#[test]
fn a_process_that_leaves_in_the_exchange_is_not_taken_from_the_list() {
    let mut desk = member(&[(OTHER, &[("g", 9)])]);
    desk.cpg
        .sync_init(&[LOCAL, OTHER, THIRD], &[LOCAL, OTHER], ring(12));
    // Before and after the list, of a node that was there and of a new one.
    desk.hear(OTHER, leave_message("g", 9, wire::Reason::ProcessDown));
    desk.hear(OTHER, list(&[("g", 9)]));
    desk.hear(THIRD, list(&[("g", 4), ("g", 5)]));
    desk.hear(THIRD, leave_message("g", 4, wire::Reason::ProcessDown));
    let left = [at(2, 9, Reason::ProcessDown)];
    assert_eq!(of_member(&mut desk), [confchg("g", &[(1, 7)], &left, &[])]);
    desk.cpg.sync_activate();
    let expected = [
        confchg("g", &[(1, 7), (3, 5)], &[], &[at(3, 5, Reason::NodeUp)]),
        totem(12, &[1, 2, 3]),
    ];
    assert_eq!(of_member(&mut desk), expected);
}

#[test]
fn a_client_that_ends_in_an_exchange_is_listed_and_leaves_after_it() {
    let mut desk = member(&[]);
    desk.join(B, "g", 8, 0);
    desk.pump();
    desk.events();
    desk.cpg.sync_init(&[LOCAL, OTHER], &[LOCAL], ring(8));
    desk.cpg.client_gone(B);
    desk.cpg.sync_process();
    desk.drain();
    assert_eq!(desk.sync.back(), Some(&list(&[("g", 7), ("g", 8)])));
    assert_eq!(
        desk.ordinary,
        [leave_message("g", 8, wire::Reason::ProcessDown)]
    );
    desk.cpg.sync_activate();
    desk.pump();
    let left = [at(1, 8, Reason::ProcessDown)];
    let expected = [totem(8, &[1, 2]), confchg("g", &[(1, 7)], &left, &[])];
    assert_eq!(of_member(&mut desk), expected);
}

#[test]
fn own_processes_stay_whatever_the_configuration_says() {
    let mut desk = member(&[]);
    desk.configure(&[LOCAL], &[], ring(8), &[(LOCAL, list(&[("g", 99)]))]);
    assert_eq!(of_member(&mut desk), [totem(8, &[1])]);
    assert_eq!(desk.cpg.processes().count(), 1);
}

#[test]
fn lists_for_clients_have_a_longest_length() {
    let mut desk = member(&[]);
    let entries: Vec<_> = (0..300).map(|pid| ("g", pid)).collect();
    desk.configure(
        &[LOCAL, OTHER],
        &[LOCAL],
        ring(8),
        &[(OTHER, list(&entries))],
    );
    let lengths: Vec<_> = of_member(&mut desk)
        .iter()
        .map(|event| match event {
            Event::Confchg {
                members, joined, ..
            } => (members.len(), joined.len()),
            _ => (0, 0),
        })
        .collect();
    assert_eq!(lengths, [(128, 128), (128, 128), (128, 44), (0, 0)]);
    let group = group("g");
    let Response::Membership(members) = desk.ask(B, Request::Membership { group }) else {
        panic!("another response");
    };
    assert_eq!(members.len(), 128);
}

#[test]
fn who_went_another_way_has_no_effect_before_the_exchange_is_complete() {
    let mut desk = member(&[(OTHER, &[("g", 9)])]);
    desk.cpg.sync_init(&[LOCAL, OTHER], &[LOCAL], ring(12));
    desk.cpg.sync_abort();
    // It had completed the exchange, and went on.
    desk.hear(OTHER, mcast_message("g", 9, "x"));
    desk.hear(OTHER, part_message("g", 9, Piece::First, 2, "x"));
    desk.hear(OTHER, join_message("g", 10));
    desk.hear(OTHER, leave_message("g", 9, wire::Reason::Leave));
    assert_eq!(of_member(&mut desk), []);
    assert_eq!(desk.logs.len(), 2);
    desk.configure(&[LOCAL], &[LOCAL], ring(16), &[]);
    let left = [at(2, 9, Reason::NodeDown)];
    let expected = [confchg("g", &[(1, 7)], &left, &[]), totem(16, &[1])];
    assert_eq!(of_member(&mut desk), expected);
}
