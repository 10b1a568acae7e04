//! Joining, leaving, questions, and connections that end.

use super::*;

#[test]
fn a_join_takes_effect_when_it_is_delivered() {
    let mut desk = Desk::new();
    assert_eq!(desk.join(A, "g", 7, 0), Status::OK);
    assert_eq!(desk.events(), []);
    assert_eq!(desk.cpg.processes().count(), 0);
    desk.pump();
    let joined = confchg("g", &[(1, 7)], &[], &[at(1, 7, Reason::Join)]);
    assert_eq!(desk.events(), [(A, joined)]);
    assert_eq!(desk.join(B, "g", 8, 0), Status::OK);
    desk.pump();
    let joined = confchg("g", &[(1, 7), (1, 8)], &[], &[at(1, 8, Reason::Join)]);
    assert_eq!(desk.events(), [(A, joined.clone()), (B, joined)]);
}

#[test]
fn the_ring_follows_the_own_join_and_no_one_elses() {
    let mut desk = Desk::new();
    assert_eq!(desk.join(A, "g", 7, 1), Status::OK);
    desk.hear(LOCAL, join_message("other", 99));
    assert_eq!(desk.events(), []);
    desk.pump();
    let joined = confchg("g", &[(1, 7)], &[], &[at(1, 7, Reason::Join)]);
    assert_eq!(desk.events(), [(A, joined), (A, totem(4, &[1, 2]))]);
}

#[test]
fn joins_that_are_refused() {
    let mut desk = Desk::new();
    assert_eq!(desk.join(A, "g", 7, 0), Status::OK);
    assert_eq!(
        desk.join(B, "g", 7, 0),
        Status::EXIST,
        "of another connection"
    );
    assert_eq!(desk.join(A, "g", 7, 0), Status::EXIST, "joining");
    assert_eq!(desk.join(A, "h", 7, 0), Status::EXIST, "joining another");
    desk.pump();
    assert_eq!(desk.join(A, "h", 7, 0), Status::EXIST, "joined");
    assert_eq!(desk.join(A, "g", 8, 0), Status::EXIST, "joined as another");
    assert_eq!(desk.leave(A, "g", 7), Status::OK);
    assert_eq!(desk.join(A, "h", 7, 0), Status::BUSY, "leaving");
    assert_eq!(desk.join(A, "g", 7, 0), Status::EXIST, "has it still");
    assert_eq!(desk.join(B, "g", 7, 0), Status::EXIST, "has it still");
    assert!(matches!(
        desk.ask(A, Request::Finalize),
        Response::Finalize(Status::OK)
    ));
    assert_eq!(desk.join(B, "g", 7, 0), Status::TRY_AGAIN, "on its way out");
    desk.pump();
    assert_eq!(desk.join(B, "g", 7, 0), Status::OK);
}

#[test]
fn a_connection_is_free_after_its_leave() {
    let mut desk = Desk::new();
    desk.join(A, "g", 7, 0);
    desk.join(B, "g", 8, 0);
    desk.pump();
    desk.events();
    assert_eq!(desk.leave(A, "g", 7), Status::OK);
    assert_eq!(desk.leave(A, "g", 7), Status::NOT_EXIST);
    desk.hear(LOCAL, mcast_message("g", 8, "before"));
    desk.pump();
    desk.hear(LOCAL, mcast_message("g", 8, "after"));
    let left = confchg("g", &[(1, 8)], &[at(1, 7, Reason::Leave)], &[]);
    let expected = [
        (A, deliver("g", (1, 8), "before")),
        (B, deliver("g", (1, 8), "before")),
        (A, left.clone()),
        (B, left),
        (B, deliver("g", (1, 8), "after")),
    ];
    assert_eq!(desk.events(), expected);
    assert_eq!(desk.join(A, "g", 7, 0), Status::OK);
    desk.pump();
    assert_eq!(desk.cpg.processes().count(), 2);
}

#[test]
fn leaves_that_are_refused() {
    let mut desk = Desk::new();
    assert_eq!(desk.leave(A, "g", 7), Status::NOT_EXIST);
    desk.join(A, "g", 7, 0);
    assert_eq!(desk.leave(A, "g", 7), Status::BUSY);
    assert_eq!(desk.leave(A, "h", 7), Status::NOT_EXIST);
    desk.join(B, "h", 7, 0);
    desk.pump();
    // One connection can not take another one out, and a fork does not change who leaves.
    assert_eq!(desk.leave(A, "h", 7), Status::NOT_EXIST);
    assert_eq!(desk.leave(A, "g", 1234), Status::OK);
    let leave = leave_message("g", 7, wire::Reason::Leave);
    assert_eq!(desk.ordinary, [leave]);
}

#[test]
fn a_connection_that_ends_leaves_once() {
    let mut desk = Desk::new();
    desk.join(A, "g", 7, 0);
    desk.join(B, "g", 8, 0);
    desk.pump();
    desk.events();
    desk.cpg.client_gone(A);
    desk.pump();
    let left = confchg("g", &[(1, 8)], &[at(1, 7, Reason::ProcessDown)], &[]);
    assert_eq!(desk.events(), [(B, left)]);
    desk.leave(B, "g", 8);
    desk.cpg.client_gone(B);
    desk.drain();
    assert_eq!(desk.ordinary.len(), 1);
    desk.pump();
    assert_eq!(desk.events(), []);
    assert_eq!(desk.cpg.processes().count(), 0);
    desk.cpg.client_gone(B);
    desk.cpg.handle_request(B, Request::LocalNode);
    desk.pump();
    assert!(desk.responses.is_empty());
}

#[test]
fn a_successor_does_not_get_what_was_meant_for_the_dead() {
    let mut desk = Desk::new();
    desk.join(A, "g", 7, 0);
    desk.cpg.client_gone(A);
    assert_eq!(desk.join(B, "g", 7, 0), Status::TRY_AGAIN);
    desk.drain();
    let join = desk.ordinary.pop_front().unwrap();
    desk.hear(LOCAL, join);
    assert_eq!(desk.join(B, "g", 7, 0), Status::TRY_AGAIN);
    desk.pump();
    assert_eq!(desk.events(), []);
    assert_eq!(desk.join(B, "g", 7, 0), Status::OK);
    desk.pump();
    assert_eq!(desk.events().len(), 1);
}

#[test]
fn nothing_comes_after_finalize_but_the_process_is_a_member_until_the_end() {
    let mut desk = Desk::new();
    desk.join(A, "g", 7, 0);
    desk.pump();
    desk.events();
    assert_eq!(
        desk.ask(A, Request::Finalize),
        Response::Finalize(Status::OK)
    );
    desk.hear(LOCAL, mcast_message("g", 7, "x"));
    desk.hear(OTHER, join_message("g", 9));
    desk.configure(&[LOCAL], &[LOCAL], ring(8), &[]);
    assert_eq!(desk.events(), [(B, totem(8, &[1]))]);
    desk.cpg.client_gone(A);
    desk.drain();
    assert_eq!(
        desk.ordinary,
        [leave_message("g", 7, wire::Reason::ProcessDown)]
    );
}

#[test]
fn names_may_be_empty_or_hold_nuls() {
    let mut desk = Desk::new();
    assert_eq!(desk.join(A, "", 0, 0), Status::OK);
    assert_eq!(desk.join(B, "g\0", 0, 0), Status::OK);
    desk.pump();
    let events = [
        (A, confchg("", &[(1, 0)], &[], &[at(1, 0, Reason::Join)])),
        (B, confchg("g\0", &[(1, 0)], &[], &[at(1, 0, Reason::Join)])),
    ];
    assert_eq!(desk.events(), events);
    desk.hear(LOCAL, mcast_message("g", 0, "x"));
    assert_eq!(desk.events(), []);
    desk.cpg.client_gone(A);
    desk.pump();
    assert_eq!(desk.cpg.processes().count(), 1);
}

#[test]
fn a_full_group_takes_no_more() {
    let mut desk = Desk::new();
    for pid in 0..128 {
        desk.hear(OTHER, join_message("g", pid));
    }
    assert_eq!(desk.join(A, "g", 7, 0), Status::NO_RESOURCES);
    desk.hear(OTHER, leave_message("g", 0, wire::Reason::Leave));
    assert_eq!(desk.join(A, "g", 7, 0), Status::OK);
}

#[test]
fn questions_are_answered() {
    let mut desk = Desk::new();
    desk.join(A, "g", 7, 0);
    desk.pump();
    desk.hear(OTHER, join_message("g", 3));
    let members = vec![at(1, 7, Reason::None), at(2, 3, Reason::None)];
    let ask = |name| Request::Membership { group: group(name) };
    assert_eq!(desk.ask(B, ask("g")), Response::Membership(members));
    assert_eq!(desk.ask(B, ask("?")), Response::Membership(Vec::new()));
    assert_eq!(desk.ask(B, Request::LocalNode), Response::LocalNode(1));
    let refused = Response::ZeroCopy(Status::NOT_SUPPORTED);
    assert_eq!(desk.ask(B, Request::ZeroCopy { id: 9 }), refused);
}

fn walk(desk: &mut Desk, kind: IterKind, name: &str) -> Vec<(Group, u32, u32)> {
    let group = group(name);
    let Response::IterInit(Ok(handle)) = desk.ask(A, Request::IterInit { group, kind }) else {
        panic!("no walk");
    };
    let mut rows = Vec::new();
    loop {
        match desk.ask(A, Request::IterNext { handle }) {
            Response::IterNext(Ok(row)) => rows.push(row),
            Response::IterNext(Err(Status::NO_SECTIONS)) => break,
            other => panic!("{other:?}"),
        }
    }
    let finalize = Request::IterFinalize { handle };
    assert_eq!(
        desk.ask(A, finalize.clone()),
        Response::IterFinalize(Status::OK)
    );
    assert_eq!(
        desk.ask(A, finalize),
        Response::IterFinalize(Status::LIBRARY)
    );
    let next = Request::IterNext { handle };
    assert_eq!(desk.ask(A, next), Response::IterNext(Err(Status::LIBRARY)));
    rows
}

#[test]
fn walks_go_group_by_group() {
    let mut desk = Desk::new();
    assert_eq!(walk(&mut desk, IterKind::All, ""), []);
    for (node, name, pid) in [
        (2, "b", 1),
        (1, "b", 9),
        (1, "a", 9),
        (2, "c", 4),
        (1, "b", 2),
    ] {
        desk.hear(NodeId(node), join_message(name, pid));
    }
    let (a, b, c) = (group("a"), group("b"), group("c"));
    let in_b = [(b.clone(), 1, 2), (b.clone(), 1, 9), (b.clone(), 2, 1)];
    let all = [&[(a.clone(), 1, 9)][..], &in_b, &[(c.clone(), 2, 4)]].concat();
    assert_eq!(walk(&mut desk, IterKind::All, ""), all);
    assert_eq!(walk(&mut desk, IterKind::One, "b"), in_b);
    assert_eq!(walk(&mut desk, IterKind::One, "d"), []);
    let names = [(a, 0, 0), (b, 0, 0), (c, 0, 0)];
    assert_eq!(walk(&mut desk, IterKind::Names, ""), names);
}

#[test]
fn walks_survive_changes_and_are_private_and_bounded() {
    let mut desk = Desk::new();
    for name in ["a", "b", "c"] {
        desk.hear(OTHER, join_message(name, 1));
    }
    let init = |kind| Request::IterInit {
        group: Group::default(),
        kind,
    };
    let Response::IterInit(Ok(handle)) = desk.ask(A, init(IterKind::All)) else {
        panic!("no walk");
    };
    let next = Request::IterNext { handle };
    desk.ask(A, next.clone());
    let foreign = Response::IterNext(Err(Status::LIBRARY));
    assert_eq!(desk.ask(B, next.clone()), foreign);
    desk.hear(OTHER, leave_message("a", 1, wire::Reason::Leave));
    desk.hear(OTHER, leave_message("b", 1, wire::Reason::Leave));
    let last = Response::IterNext(Ok((group("c"), 2, 1)));
    assert_eq!(desk.ask(A, next), last);
    let mut open = 1;
    while let Response::IterInit(Ok(_)) = desk.ask(A, init(IterKind::Names)) {
        open += 1;
    }
    assert_eq!(open, 1024);
}

#[test]
fn requests_that_send_have_a_cost() {
    let mut desk = Desk::new();
    let group = group("g");
    let join = Request::Join {
        group: group.clone(),
        pid: 7,
        flags: 0,
    };
    let (guarantee, data) = (2, bytes("hello"));
    let mcast = Request::Mcast {
        guarantee,
        data: data.clone(),
    };
    let part = Request::PartialMcast {
        guarantee,
        length: 9,
        part: Part::First,
        data,
    };
    let leave = Request::Leave { group, pid: 7 };
    for request in [join, mcast, part, leave] {
        let cost = cost(&request).expect("a cost");
        desk.cpg.handle_request(A, request);
        desk.drain();
        let mut sent = Vec::new();
        let message = desk.ordinary.pop_front().unwrap();
        crate::wire::exec::Message::Cpg(message.clone()).encode(&mut sent);
        assert_eq!(sent.len(), cost);
        desk.hear(LOCAL, message);
    }
    assert_eq!(cost(&Request::LocalNode), None);
    assert_eq!(cost(&Request::Finalize), None);
}
