//! Messages, whole and in parts.

use super::*;

#[test]
fn messages_go_to_all_local_members_with_their_sender() {
    let mut desk = Desk::new();
    desk.join(A, "g", 7, 0);
    desk.join(B, "g", 8, 0);
    desk.pump();
    desk.hear(OTHER, join_message("g", 9));
    desk.events();
    desk.mcast(A, "own");
    desk.pump();
    // The node is the one that the ring says, whatever the message does.
    desk.hear(OTHER, mcast_message("g", 9, "theirs"));
    let expected = [
        (A, deliver("g", (1, 7), "own")),
        (B, deliver("g", (1, 7), "own")),
        (A, deliver("g", (2, 9), "theirs")),
        (B, deliver("g", (2, 9), "theirs")),
    ];
    assert_eq!(desk.events(), expected);
}

#[test]
fn the_payload_is_shared_by_all_receivers() {
    let mut desk = Desk::new();
    desk.join(A, "g", 7, 0);
    desk.join(B, "g", 8, 0);
    desk.pump();
    desk.events();
    let message = mcast_message("g", 7, "shared");
    let Message::Mcast(mcast) = &message else {
        panic!();
    };
    let place = mcast.payload.as_ptr();
    desk.hear(LOCAL, message);
    for (_, event) in desk.events() {
        assert_eq!(event.encode().data.as_ptr(), place);
    }
}

#[test]
fn who_is_not_in_can_not_send_and_gets_nothing() {
    let mut desk = Desk::new();
    desk.mcast(A, "idle");
    assert!(desk.ordinary.is_empty());
    assert_eq!(desk.part(A, Part::First, 9, "idle"), Status::NOT_EXIST);
    desk.join(B, "g", 8, 0);
    desk.pump();
    desk.events();
    // Between request and delivery of the join: may send, gets nothing.
    desk.join(A, "g", 7, 0);
    desk.mcast(A, "early");
    desk.hear(LOCAL, mcast_message("g", 8, "x"));
    assert_eq!(desk.events(), [(B, deliver("g", (1, 8), "x"))]);
    desk.pump();
    let joined = confchg("g", &[(1, 7), (1, 8)], &[], &[at(1, 7, Reason::Join)]);
    let expected = [
        (A, joined.clone()),
        (B, joined),
        (A, deliver("g", (1, 7), "early")),
        (B, deliver("g", (1, 7), "early")),
    ];
    assert_eq!(desk.events(), expected);
    desk.leave(A, "g", 7);
    desk.mcast(A, "late");
    assert_eq!(desk.part(A, Part::First, 9, "late"), Status::NOT_EXIST);
    assert_eq!(desk.ordinary.len(), 1);
}

#[test]
fn messages_of_nodes_without_members_are_dropped() {
    let mut desk = Desk::new();
    desk.join(A, "g", 7, 0);
    desk.pump();
    desk.events();
    desk.hear(OTHER, mcast_message("g", 9, "x"));
    let (node, pid) = (OTHER, 9);
    let group = group("g");
    assert_eq!(desk.logs, [Log::UnknownSender { group, node, pid }]);
    assert_eq!(desk.events(), []);
    // Any process of the node will do.
    desk.hear(OTHER, join_message("g", 10));
    desk.events();
    desk.hear(OTHER, mcast_message("g", 9, "x"));
    assert_eq!(desk.events(), [(A, deliver("g", (2, 9), "x"))]);
}

#[test]
fn messages_that_are_too_long_are_not_sent() {
    let mut desk = Desk::new();
    desk.join(A, "g", 7, 0);
    desk.pump();
    let long = "x".repeat(MESSAGE_MAX + 1);
    desk.mcast(A, &long);
    assert_eq!(
        desk.part(A, Part::First, 3_000_000, &long),
        Status::INVALID_PARAM
    );
    assert!(desk.ordinary.is_empty());
    desk.mcast(A, &long[1..]);
    assert_eq!(desk.part(A, Part::First, 3_000_000, &long[1..]), Status::OK);
    assert_eq!(desk.ordinary.len(), 2);
}

fn pdeliver((nodeid, pid): (u32, u32), length: u32, part: Part, text: &str) -> Event {
    Event::PartialDeliver {
        group: group("g"),
        nodeid,
        pid,
        length,
        part,
        data: bytes(text),
    }
}

#[test]
fn parts_are_delivered_as_parts() {
    let mut desk = Desk::new();
    desk.join(A, "g", 7, 0);
    desk.pump();
    desk.events();
    assert_eq!(desk.part(A, Part::First, 6, "ab"), Status::OK);
    assert_eq!(desk.part(A, Part::Middle, 6, "c"), Status::OK);
    assert_eq!(desk.part(A, Part::Last, 6, "def"), Status::OK);
    desk.pump();
    let expected = [
        (A, pdeliver((1, 7), 6, Part::First, "ab")),
        (A, pdeliver((1, 7), 6, Part::Middle, "c")),
        (A, pdeliver((1, 7), 6, Part::Last, "def")),
    ];
    assert_eq!(desk.events(), expected);
}

#[test]
fn a_change_of_members_interrupts_a_message_in_parts() {
    let mut desk = Desk::new();
    desk.join(A, "g", 7, 0);
    desk.pump();
    assert_eq!(desk.part(A, Part::First, 6, "ab"), Status::OK);
    desk.hear(OTHER, join_message("h", 1));
    assert_eq!(desk.part(A, Part::Middle, 6, "c"), Status::OK);
    desk.hear(OTHER, join_message("g", 1));
    assert_eq!(desk.part(A, Part::Middle, 6, "d"), Status::INTERRUPT);
    assert_eq!(desk.part(A, Part::Last, 6, "ef"), Status::INTERRUPT);
    assert_eq!(desk.part(A, Part::First, 3, "ab"), Status::OK);
    assert_eq!(desk.part(A, Part::Last, 3, "c"), Status::OK);
    desk.hear(OTHER, leave_message("g", 1, wire::Reason::Leave));
    assert_eq!(desk.part(A, Part::Last, 3, ""), Status::INVALID_PARAM);
}

#[test]
fn parts_that_do_not_add_up_are_refused() {
    let mut desk = Desk::new();
    desk.join(A, "g", 7, 0);
    desk.pump();
    let wrong = Status::INVALID_PARAM;
    assert_eq!(
        desk.part(A, Part::Middle, 6, "ab"),
        wrong,
        "without a first"
    );
    assert_eq!(
        desk.part(A, Part::First, 1, "ab"),
        wrong,
        "longer than the whole"
    );
    assert_eq!(desk.part(A, Part::First, 6, "ab"), Status::OK);
    assert_eq!(desk.part(A, Part::Middle, 6, "cdefg"), wrong, "too long");
    assert_eq!(desk.part(A, Part::Last, 6, "cdef"), wrong, "of nothing");
    assert_eq!(desk.part(A, Part::First, 6, "ab"), Status::OK);
    assert_eq!(desk.part(A, Part::Last, 6, "cde"), wrong, "leaves a gap");
}

#[test]
fn parts_from_others_that_do_not_add_up_are_dropped() {
    let mut desk = Desk::new();
    desk.join(A, "g", 7, 0);
    desk.pump();
    desk.hear(OTHER, join_message("g", 9));
    desk.events();
    let from_other = |desk: &mut Desk, piece, total, text| {
        desk.hear(OTHER, part_message("g", 9, piece, total, text));
        desk.events().len()
    };
    assert_eq!(from_other(&mut desk, Piece::Continued, 6, "ab"), 0);
    assert_eq!(from_other(&mut desk, Piece::First, 6, "ab"), 1);
    // Given up for a new one.
    assert_eq!(from_other(&mut desk, Piece::First, 4, "ab"), 1);
    assert_eq!(from_other(&mut desk, Piece::Continued, 4, "cde"), 0);
    assert_eq!(from_other(&mut desk, Piece::Last, 4, "cd"), 0);
    assert_eq!(from_other(&mut desk, Piece::First, 4, "ab"), 1);
    assert_eq!(from_other(&mut desk, Piece::Last, 4, "c"), 0);
    assert_eq!(from_other(&mut desk, Piece::First, 1, "ab"), 0);
    assert_eq!(desk.logs.len(), 5);
    // What a process began before it left does not go on when it is back.
    assert_eq!(from_other(&mut desk, Piece::First, 4, "ab"), 1);
    desk.hear(OTHER, leave_message("g", 9, wire::Reason::Leave));
    desk.hear(OTHER, join_message("g", 9));
    desk.events();
    assert_eq!(from_other(&mut desk, Piece::Last, 4, "cd"), 0);
}

#[test]
fn who_comes_in_the_middle_of_a_message_gets_nothing_of_it() {
    let mut desk = Desk::new();
    desk.join(A, "g", 7, 0);
    desk.pump();
    desk.hear(OTHER, join_message("g", 9));
    desk.hear(OTHER, part_message("g", 9, Piece::First, 4, "ab"));
    desk.join(B, "g", 8, 0);
    desk.pump();
    desk.events();
    desk.hear(OTHER, part_message("g", 9, Piece::Last, 4, "cd"));
    assert_eq!(desk.events(), [(A, pdeliver((2, 9), 4, Part::Last, "cd"))]);
    desk.hear(OTHER, part_message("g", 9, Piece::First, 4, "ab"));
    assert_eq!(desk.events().len(), 2);
    assert_eq!(desk.logs, []);
}
