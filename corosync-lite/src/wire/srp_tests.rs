use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn vector(name: &str) -> String {
    let path = format!(
        "{}/../tests/vectors/totem/{name}",
        env!("CARGO_MANIFEST_DIR")
    );
    std::fs::read_to_string(path).unwrap()
}

fn unhex(hex: &str) -> Bytes {
    (0..hex.len() / 2)
        .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
        .collect()
}

fn packet(name: &str) -> Bytes {
    let text = vector("srp-packets.txt");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name}|")))
        .unwrap();
    unhex(line)
}

fn decoded(name: &str) -> Message {
    Message::decode(&packet(name)).unwrap()
}

#[test]
fn captured_packets_decode_and_encode_to_the_same_bytes() {
    let text = vector("srp-packets.txt");
    for line in text.lines() {
        let (name, hex) = line.split_once('|').unwrap();
        let bytes = unhex(hex);
        let message = Message::decode(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(message.encode(), bytes, "{name}");
    }
    for capture in ["form-node1", "form-node2", "knet-recovery-node2"] {
        for line in vector(&format!("srp-{capture}.txt")).lines() {
            let bytes = unhex(line.rsplit(' ').next().unwrap());
            let message = Message::decode(&bytes).unwrap();
            assert_eq!(message.encode(), bytes, "{capture}: {line}");
            if let Message::Mcast(outer) = &message
                && outer.header.encapsulated == ENCAPSULATED_OLD
            {
                assert!(matches!(
                    Message::decode(&outer.body),
                    Ok(Message::Mcast(_))
                ));
            }
        }
    }
}

#[test]
fn leave_names_its_sender_outside_the_header() {
    let Message::MembJoin(leave) = decoded("leave") else {
        panic!()
    };
    assert!(leave.is_leave());
    assert_eq!(leave.system_from, NodeId(2));
    assert_eq!(leave.proc, [NodeId(1), NodeId(3)]);
    assert_eq!(leave.failed, [NodeId(2)]);
    assert_eq!(leave.ring_seq, 30);
}

#[test]
fn token_with_requests_has_every_field_in_place() {
    let Message::OrfToken(token) = decoded("orf_token with retransmit requests") else {
        panic!()
    };
    let ring = RingId {
        rep: NodeId(1),
        seq: 21,
    };
    assert_eq!(token.header, Header::new(NodeId(2), NodeId(3)));
    assert_eq!(
        (token.seq, token.token_seq, token.aru),
        (SeqNo(18), SeqNo(373), SeqNo(16))
    );
    assert_eq!((token.aru_addr, token.ring), (NodeId(2), ring));
    assert_eq!((token.backlog, token.fcc, token.retrans_flg), (0, 1, 0));
    assert_eq!(
        token.rtr,
        [
            Rtr {
                ring,
                seq: SeqNo(17)
            },
            Rtr {
                ring,
                seq: SeqNo(18)
            }
        ]
    );
    assert!(is_orf_token(&packet("orf_token with retransmit requests")));
    assert!(!is_orf_token(&packet("leave")));
}

#[test]
fn commit_token_pairs_members_with_their_entries() {
    let Message::CommitToken(token) = decoded("commit_token round 1") else {
        panic!()
    };
    assert_eq!(
        token.ring,
        RingId {
            rep: NodeId(1),
            seq: 9
        }
    );
    assert_eq!((token.token_seq, token.memb_index), (SeqNo(1), 1));
    let first = CommitEntry {
        ring: RingId {
            rep: NodeId(1),
            seq: 5,
        },
        aru: SeqNo(6),
        high_delivered: SeqNo(6),
        received_flg: 1,
    };
    assert_eq!(
        token.members,
        [(NodeId(1), first), (NodeId(2), CommitEntry::default())]
    );
}

#[test]
fn foreign_and_malformed_datagrams_are_refused_by_name() {
    let token = packet("orf_token");
    let refused = |at: usize, with: u8| {
        let mut bytes = token.to_vec();
        bytes[at] = with;
        Message::decode(&Bytes::from(bytes)).unwrap_err()
    };
    assert_eq!(refused(0, 0), DecodeError::Magic);
    assert_eq!(refused(2, 2), DecodeError::Version(2));
    assert_eq!(refused(3, 6), DecodeError::Type(6));
    assert_eq!(refused(53, 31), DecodeError::ListLength);
    assert_eq!(refused(56, 0x80), DecodeError::ListLength);
    let mut swapped = token.to_vec();
    swapped.swap(0, 1);
    assert_eq!(
        Message::decode(&Bytes::from(swapped)),
        Err(DecodeError::ByteOrder)
    );
    let mut mcast = packet("mcast cpg join").to_vec();
    mcast[4] = 3;
    assert_eq!(
        Message::decode(&Bytes::from(mcast)),
        Err(DecodeError::Encapsulation(3))
    );
    for name in [
        "merge_detect",
        "memb_join",
        "commit_token round 2",
        "orf_token",
        "hold_cancel",
    ] {
        let whole = packet(name);
        for len in 0..whole.len() {
            assert_eq!(
                Message::decode(&whole.slice(..len)),
                Err(DecodeError::Short),
                "{name}"
            );
        }
    }
}

#[test]
fn sequence_numbers_keep_their_order_across_the_wrap() {
    let last = SeqNo(u32::MAX);
    assert!(last.is_before(last.next()));
    assert_eq!(last.next(), SeqNo::ZERO);
    assert!(SeqNo::BEFORE_ZERO.is_before(SeqNo::ZERO));
    assert!(SeqNo(u32::MAX - 5).is_before(SeqNo(9)));
    assert!(!SeqNo(9).is_before(SeqNo(u32::MAX - 5)));
    assert_eq!(SeqNo(9).since(SeqNo(u32::MAX - 5)), 15);
    assert_eq!(SeqNo(9).earlier(last), last);
    assert_eq!(SeqNo(9).later(last), SeqNo(9));
    assert!(SeqNo(7).is_up_to(SeqNo(7)) && !SeqNo(7).is_before(SeqNo(7)));
}

fn header() -> impl Strategy<Value = Header> {
    (any::<u32>(), any::<u32>()).prop_map(|(a, b)| Header::new(NodeId(a), NodeId(b)))
}

fn ring() -> impl Strategy<Value = RingId> {
    (any::<u32>(), any::<u64>()).prop_map(|(rep, seq)| RingId {
        rep: NodeId(rep),
        seq,
    })
}

fn seq() -> impl Strategy<Value = SeqNo> {
    any::<u32>().prop_map(SeqNo)
}

fn node() -> impl Strategy<Value = NodeId> {
    any::<u32>().prop_map(NodeId)
}

fn orf_token() -> impl Strategy<Value = Message> {
    let rtr = vec(
        (ring(), seq()).prop_map(|(ring, seq)| Rtr { ring, seq }),
        0..=RTR_MAX,
    );
    (
        (header(), seq(), seq(), seq(), node()),
        (ring(), any::<[u32; 3]>(), rtr),
    )
        .prop_map(
            |(
                (header, seq, token_seq, aru, aru_addr),
                (ring, [backlog, fcc, retrans_flg], rtr),
            )| {
                Message::OrfToken(OrfToken {
                    header,
                    seq,
                    token_seq,
                    aru,
                    aru_addr,
                    ring,
                    backlog,
                    fcc,
                    retrans_flg,
                    rtr,
                })
            },
        )
}

fn commit_token() -> impl Strategy<Value = Message> {
    let entry = (ring(), seq(), seq(), any::<u32>()).prop_map(
        |(ring, aru, high_delivered, received_flg)| CommitEntry {
            ring,
            aru,
            high_delivered,
            received_flg,
        },
    );
    (
        header(),
        seq(),
        ring(),
        any::<(u32, i32)>(),
        vec((node(), entry), 0..20),
    )
        .prop_map(
            |(header, token_seq, ring, (retrans_flg, memb_index), members)| {
                Message::CommitToken(CommitToken {
                    header,
                    token_seq,
                    ring,
                    retrans_flg,
                    memb_index,
                    members,
                })
            },
        )
}

fn mcast() -> impl Strategy<Value = Message> {
    let rest = (ring(), any::<(i32, u32, i32)>(), any::<Vec<u8>>());
    ((header(), 1..=2u8, node(), seq()), rest).prop_map(
        |((header, encapsulated, system_from, seq), (ring, (this_seqno, node_id, g), body))| {
            Message::Mcast(Mcast {
                header: Header {
                    encapsulated,
                    ..header
                },
                system_from,
                seq,
                this_seqno,
                ring,
                node_id,
                guarantee: g,
                body: Bytes::from(body),
            })
        },
    )
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        orf_token(),
        mcast(),
        (header(), node(), ring()).prop_map(|(header, system_from, ring)| {
            Message::MergeDetect(MergeDetect {
                header,
                system_from,
                ring,
            })
        }),
        (
            header(),
            node(),
            vec(node(), 0..20),
            vec(node(), 0..20),
            any::<u64>()
        )
            .prop_map(|(header, system_from, proc, failed, ring_seq)| {
                Message::MembJoin(MembJoin {
                    header,
                    system_from,
                    proc,
                    failed,
                    ring_seq,
                })
            }),
        commit_token(),
        (header(), ring())
            .prop_map(|(header, ring)| Message::HoldCancel(HoldCancel { header, ring })),
    ]
}

proptest! {
    #[test]
    fn any_message_survives_the_round_trip(message in message()) {
        prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
    }

    #[test]
    fn any_bytes_are_refused_or_decoded_without_panic(
        kind in 0..8u8, rest in vec(any::<u8>(), 0..200)
    ) {
        let mut bytes = vec![0x70, 0xC0, 3, kind];
        bytes.extend(rest);
        let bytes = Bytes::from(bytes);
        if let Ok(message) = Message::decode(&bytes) {
            let again = message.encode();
            prop_assert_eq!(&again[..], &bytes[..again.len()]);
        }
    }

    #[test]
    fn order_of_near_numbers_is_that_of_their_distance(a in any::<u32>(), d in 1..(1u32 << 31)) {
        let (a, b) = (SeqNo(a), SeqNo(a).plus(d));
        prop_assert!(a.is_before(b) && !b.is_before(a));
        prop_assert_eq!((a.earlier(b), a.later(b), b.since(a)), (a, b, d));
    }
}
