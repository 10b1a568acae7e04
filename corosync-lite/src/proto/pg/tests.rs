use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::proto::srp::Lane;
use crate::wire::NodeId;
use crate::wire::pg::{Frame, Group, Message};
use crate::wire::srp::{ENCAPSULATED_NOT, Message as SrpMessage};
use crate::wire::vectors;

const SENDER: NodeId = NodeId(1);

fn taken(packer: &mut Packer) -> Vec<Bytes> {
    std::iter::from_fn(|| packer.poll_frame()).collect()
}

fn joined(assembler: &mut Assembler, frames: &[Bytes]) -> Vec<Bytes> {
    let mut messages = Vec::new();
    for frame in frames {
        let complete = assembler.handle_frame(Lane::Ordinary, SENDER, frame);
        messages.extend(complete.unwrap());
    }
    messages
}

fn message(len: usize, seed: usize) -> Bytes {
    (0..len)
        .map(|at| u8::try_from((at + seed) % 251).unwrap())
        .collect()
}

fn push(packer: &mut Packer, message: &Bytes) {
    packer.push(|out| out.extend_from_slice(message));
}

/// What a fresh member makes of frames, without messages to nobody.
fn at_newcomer(frames: &[Bytes]) -> Vec<Bytes> {
    let mut messages = joined(&mut Assembler::default(), frames);
    messages.retain(|message| message[..] != [0, 0]);
    messages
}

proptest! {
    #[test]
    fn frames_join_to_what_was_pushed(
        frame_len_max in 20..200_usize,
        lens in prop::collection::vec((1..700_usize, any::<bool>()), 1..40),
    ) {
        let mut packer = Packer::new(frame_len_max);
        let mut frames = Vec::new();
        let messages: Vec<_> = lens.iter().enumerate()
            .map(|(seed, (len, _))| message(*len, seed)).collect();
        for (message, (_, flush)) in messages.iter().zip(&lens) {
            push(&mut packer, message);
            if *flush {
                packer.flush();
            }
            frames.extend(taken(&mut packer));
        }
        packer.flush();
        frames.extend(taken(&mut packer));
        prop_assert!(packer.is_empty());
        prop_assert!(frames.iter().all(|frame| frame.len() <= frame_len_max));
        prop_assert_eq!(joined(&mut Assembler::default(), &frames), messages);
    }

    /// A newcomer and a member of old get the same messages from a restart on: the one that was
    /// cut, and all that follow.
    #[test]
    fn after_a_restart_all_members_join_the_same_messages(
        lens in prop::collection::vec(1..300_usize, 1..30),
        sent in 0..40_usize,
        more in 0..10_usize,
    ) {
        let mut packer = Packer::new(64);
        let messages: Vec<_> = lens.iter().enumerate()
            .map(|(seed, len)| message(*len + 2, seed)).collect();
        let (first, second) = messages.split_at(messages.len().saturating_sub(more));
        first.iter().for_each(|message| push(&mut packer, message));
        let mut frames = taken(&mut packer);
        let unsent: VecDeque<Bytes> = frames.split_off(sent.min(frames.len())).into();
        packer.forget_sent(unsent.len());
        let mut old = Assembler::default();
        let before = joined(&mut old, &frames);
        packer.restart(&unsent);
        second.iter().for_each(|message| push(&mut packer, message));
        packer.flush();
        let frames = taken(&mut packer);
        let mut after = joined(&mut old, &frames);
        after.retain(|message| message[..] != [0, 0]);
        prop_assert_eq!(&after, &at_newcomer(&frames));
        prop_assert_eq!([before, after].concat(), messages);
    }

    /// After unsent frames were dropped, the lane goes on for everybody.
    #[test]
    fn a_lane_goes_on_after_frames_were_dropped(
        lens in prop::collection::vec(3..300_usize, 1..20),
        sent in 0..30_usize,
        again in prop::collection::vec(any::<bool>(), 0..3),
    ) {
        let mut packer = Packer::new(64);
        lens.iter().enumerate().for_each(|(seed, len)| push(&mut packer, &message(*len, seed)));
        let mut frames = taken(&mut packer);
        let unsent: VecDeque<Bytes> = frames.split_off(sent.min(frames.len())).into();
        let mut old = Assembler::default();
        joined(&mut old, &frames);
        packer.discard(&unsent);
        // Another configuration may come before anything is sent in this one.
        for taken_before in again {
            let unsent = if taken_before { taken(&mut packer).into() } else { VecDeque::new() };
            packer.discard(&unsent);
        }
        let next = message(100, 99);
        push(&mut packer, &next);
        packer.flush();
        let frames = taken(&mut packer);
        let at_member = joined(&mut old, &frames);
        prop_assert_eq!(at_member.last(), Some(&next));
        prop_assert_eq!(at_newcomer(&frames), [next]);
    }

    #[test]
    fn arbitrary_frames_never_panic(frames in prop::collection::vec(
        (any::<bool>(), 0..4_u8, 0..4_u8, prop::collection::vec(0..50_usize, 0..4)), 0..20)) {
        let mut assembler = Assembler::default();
        for (sync, fragmented, continuation, lens) in frames {
            let pieces = lens.iter().map(|len| message(*len, 0)).collect();
            let mut out = Vec::new();
            Frame { fragmented, continuation, pieces }.encode(&mut out).unwrap();
            let lane = if sync { Lane::Sync } else { Lane::Ordinary };
            std::hint::black_box(assembler.handle_frame(lane, SENDER, &Bytes::from(out)).is_ok());
        }
    }
}

#[test]
fn memory_of_taken_frames_ends_with_the_open_message() {
    let mut packer = Packer::new(64);
    for seed in 0..100 {
        push(&mut packer, &message(500, seed));
        taken(&mut packer);
        packer.forget_sent(3);
        assert!(packer.taken.len() < 3 + 12, "{}", packer.taken.len());
    }
}

#[test]
fn a_message_that_is_too_long_is_dropped_and_the_next_one_is_not() {
    let mut packer = Packer::new(65_446);
    push(&mut packer, &message(MESSAGE_LEN_MAX + 1, 0));
    push(&mut packer, &message(10, 1));
    push(&mut packer, &message(MESSAGE_LEN_MAX, 2));
    packer.flush();
    let frames = taken(&mut packer);
    let mut assembler = Assembler::default();
    let messages = joined(&mut assembler, &frames);
    assert_eq!(messages, [message(10, 1), message(MESSAGE_LEN_MAX, 2)]);
    assert_eq!(assembler.lost(), 1);
}

/// Real Corosync behaves so, and members that do not agree would go different ways.
#[test]
fn after_an_end_without_beginning_all_is_dropped_to_a_frame_that_ends_with_a_message() {
    let frame = |continuation, fragmented, lens: &[usize]| {
        let pieces = lens.iter().map(|len| message(*len, 0)).collect();
        let mut out = Vec::new();
        let frame = Frame {
            fragmented,
            continuation,
            pieces,
        };
        frame.encode(&mut out).unwrap();
        Bytes::from(out)
    };
    let sent = [
        frame(3, 4, &[40]),
        // Ends that message, holds a whole one, begins another.
        frame(4, 1, &[10, 20, 30]),
        frame(1, 2, &[40]),
        frame(2, 1, &[10, 21, 30]),
        frame(1, 0, &[10, 22]),
        frame(0, 1, &[23, 10]),
        frame(1, 0, &[14]),
    ];
    let mut assembler = Assembler::default();
    let lens: Vec<_> = joined(&mut assembler, &sent)
        .iter()
        .map(Bytes::len)
        .collect();
    assert_eq!(lens, [23, 24]);
    assert_eq!(assembler.lost(), 6);
    // Where nothing is missing nothing is dropped.
    let mut assembler = Assembler::default();
    joined(&mut assembler, &[frame(0, 3, &[5])]);
    let lens: Vec<_> = joined(&mut assembler, &sent)
        .iter()
        .map(Bytes::len)
        .collect();
    assert_eq!(lens, [55, 20, 80, 21, 40, 22, 23, 24]);
    assert_eq!(assembler.lost(), 0);
}

#[test]
fn fragment_numbers_skip_zero() {
    let mut packer = Packer::new(20);
    push(&mut packer, &message(5000, 0));
    packer.flush();
    let frames = taken(&mut packer);
    let decoded: Vec<_> = frames.iter().map(|f| Frame::decode(f).unwrap()).collect();
    assert_eq!(decoded[254].fragmented, 255);
    assert_eq!(
        (decoded[255].continuation, decoded[255].fragmented),
        (255, 1)
    );
}

/// Frames of the senders of a capture, in the order of the ring.
fn captured(name: &str) -> BTreeMap<NodeId, BTreeMap<(u64, u32), Bytes>> {
    let mut senders: BTreeMap<NodeId, BTreeMap<(u64, u32), Bytes>> = BTreeMap::new();
    for datagram in vectors::capture(&format!("{name}.pcap.gz")) {
        let payload = Bytes::from(datagram.payload);
        if let Ok(SrpMessage::Mcast(mcast)) = SrpMessage::decode(&payload)
            && mcast.header.encapsulated == ENCAPSULATED_NOT
        {
            let frames = senders.entry(mcast.header.node).or_default();
            frames.insert((mcast.ring.seq, mcast.seq.0), mcast.body);
        }
    }
    senders
}

/// What real nodes send is joined completely, and this packer makes the same frames of it
/// wherever they did not cut a message (they cut at borders of their buffers, too).
#[test]
fn captured_frames_join_and_are_packed_alike() {
    let (mut longest, mut frames_packed) = (0, 0);
    for name in ["udpu-form", "udpu-cpg10", "udpu-cpg1m", "udpu-leave"] {
        for (sender, frames) in captured(name) {
            let mut assembler = Assembler::default();
            for frame in frames.values() {
                let messages = assembler
                    .handle_frame(Lane::Ordinary, sender, frame)
                    .unwrap();
                for message in &messages {
                    longest = longest.max(message.len());
                    let groups = Message::decode(message).unwrap().groups;
                    assert!(matches!(groups[..], [Group::Executive | Group::Sync]));
                }
                let decoded = Frame::decode(frame).unwrap();
                if decoded.continuation == 0 && decoded.fragmented == 0 {
                    let mut packer = Packer::new(1410);
                    messages
                        .iter()
                        .for_each(|message| push(&mut packer, message));
                    packer.flush();
                    let again = taken(&mut packer);
                    assert_eq!(again, std::slice::from_ref(frame), "{name}");
                    frames_packed += 1;
                }
            }
            assert_eq!(assembler.lost(), 0, "{name} {sender}");
        }
    }
    assert!(longest > 1_000_000, "{longest}");
    assert!(frames_packed > 50, "{frames_packed}");
}
