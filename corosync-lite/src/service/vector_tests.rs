//! Every captured message of every service decodes, and encodes to the same bytes.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::{DecodeError, Message, Status, cfg, cmap, cpg, quorum, votequorum};
use crate::qb::vectors::{Direction, Frame, frames};

/// Decodes and encodes again, as the service has it.
fn again(service: &str, direction: Direction, bytes: &Bytes) -> Result<Vec<u8>, DecodeError> {
    use Direction::{Event, OneWay, Request, Response};
    let message = |message: Message| message.to_bytes();
    match (service, direction) {
        ("quorum", Request) => quorum::Request::decode(bytes).map(|r| r.encode()),
        ("quorum", Response) => quorum::Response::decode(bytes).map(|r| message(r.encode())),
        ("quorum", Event) => quorum::Event::decode(bytes).map(|r| message(r.encode())),
        ("votequorum", Request) => votequorum::Request::decode(bytes).map(|r| r.encode()),
        ("votequorum", Response) => {
            votequorum::Response::decode(bytes).map(|r| message(r.encode()))
        }
        ("votequorum", Event) => votequorum::Event::decode(bytes).map(|r| message(r.encode())),
        ("cmap", Request) => cmap::Request::decode(bytes).map(|r| r.encode()),
        ("cmap", Response) => cmap::Response::decode(bytes).map(|r| message(r.encode())),
        ("cmap", Event) => cmap::Event::decode(bytes).map(|r| message(r.encode())),
        ("cfg", Request) => cfg::Request::decode(bytes).map(|r| r.encode()),
        ("cfg", Response) => cfg::Response::decode(bytes).map(|r| message(r.encode())),
        ("cfg", Event) => cfg::Event::decode(bytes).map(|r| message(r.encode())),
        ("cpg", Request | OneWay) => cpg::Request::decode(bytes).map(|r| r.encode()),
        ("cpg", Response) => cpg::Response::decode(bytes).map(|r| message(r.encode())),
        ("cpg", Event) => cpg::Event::decode(bytes).map(|r| message(r.encode())),
        other => panic!("no such service: {other:?}"),
    }
}

/// Service that a frame belongs to: notes begin with it, those of events with the word `event`.
fn service(frame: &Frame) -> &str {
    let note = frame.note.strip_prefix("event ").unwrap_or(&frame.note);
    note.split(' ').next().unwrap_or_default()
}

const FILES: [&str; 15] = [
    "cs-cfg",
    "cs-cmap",
    "cs-cpg",
    "cs-cpg-large",
    "cs-cpg-membership",
    "cs-quorum",
    "cs-quorum-2node",
    "cs-votequorum",
    "cs-votequorum-2node",
    "pmxcfs-boot",
    "tool-2node",
    "tool-cfgtool",
    "tool-cmapctl",
    "tool-cpgtool",
    "tool-quorumtool",
];

#[test]
fn captured_messages_decode_and_encode() {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for file in FILES {
        for frame in frames(&format!("ipc/{file}.hex")) {
            let service = service(&frame);
            let bytes = Bytes::from(frame.bytes.clone());
            let ours = again(service, frame.direction, &bytes)
                .unwrap_or_else(|error| panic!("{file}: {}: {error}", frame.note));
            assert!(
                frame.matches(&ours),
                "{file}: {}\n{bytes:02x?}\n{ours:02x?}",
                frame.note
            );
            *counts.entry(service.to_owned()).or_default() += 1;
        }
    }
    assert_eq!(counts.len(), 5, "{counts:?}");
    assert!(counts.values().sum::<usize>() > 500, "{counts:?}");
}

#[test]
fn what_is_not_understood_has_an_answer() {
    let unknown = quorum::Request::decode(&[99, 0, 0, 0]).unwrap_err();
    assert_eq!(unknown, DecodeError::UnknownId(99));
    let answer = Message::rejected(unknown).to_bytes();
    assert_eq!((answer.len(), answer[16]), (24, 7));
    let mut long = cpg::Request::Membership {
        group: cpg::Group::default(),
    }
    .encode();
    long[16] = 129;
    let error = cpg::Request::decode(&Bytes::from(long)).unwrap_err();
    assert_eq!(error.status(), Status::NAME_TOO_LONG);
}

#[test]
fn bytes_that_are_no_text_do_not_outgrow_their_field() {
    let kill = |reason: String| cfg::Request::KillNode { nodeid: 1, reason }.encode();
    let mut request = kill("a".repeat(255));
    for byte in request.iter_mut().skip(26).take(255) {
        *byte = 0xff;
    }
    let Ok(cfg::Request::KillNode { reason, .. }) = cfg::Request::decode(&request) else {
        panic!("it is well-formed otherwise");
    };
    assert_eq!(reason, "\u{fffd}".repeat(85));
    let again = cfg::Request::decode(&kill(reason.clone()));
    assert_eq!(again, Ok(cfg::Request::KillNode { nodeid: 1, reason }));
    // What a peer wants to write is cut between characters, too.
    let long = "\u{e9}".repeat(200);
    let Ok(cfg::Request::KillNode { reason, .. }) = cfg::Request::decode(&kill(long)) else {
        panic!("it was made by the encoder");
    };
    assert_eq!(reason, "\u{e9}".repeat(127));
}

const DIRECTIONS: [Direction; 3] = [Direction::Request, Direction::Response, Direction::Event];

proptest! {
    /// Foreign bytes behind a plausible head are decoded or refused.
    #[test]
    fn any_bytes_are_taken(
        id in -3i32..20, which in 0usize..5, direction in 0usize..3,
        bytes in proptest::collection::vec(prop_oneof![Just(0u8), Just(1u8), any::<u8>()], 0..600),
    ) {
        let service = ["quorum", "votequorum", "cmap", "cfg", "cpg"][which];
        let message = Bytes::from([&id.to_le_bytes()[..], &bytes].concat());
        if let Ok(ours) = again(service, DIRECTIONS[direction], &message) {
            // What was understood is understood in the same way once more.
            let ours = Bytes::from(ours);
            let twice = again(service, DIRECTIONS[direction], &ours).unwrap();
            prop_assert_eq!(ours, twice);
        }
    }

    #[test]
    fn captured_messages_may_end_anywhere(cut in 0usize..400, pick in 0usize..200) {
        for service in ["cmap", "cpg", "votequorum"] {
            let all = frames(&format!("ipc/cs-{service}.hex"));
            let frame = &all[pick % all.len()];
            let length = cut.min(frame.bytes.len());
            drop(again(service, frame.direction, &Bytes::from(frame.bytes[..length].to_vec())));
        }
    }
}
