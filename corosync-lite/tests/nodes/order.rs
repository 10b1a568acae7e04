//! What a node says to the others after a new membership, and in which order: as it was captured
//! on a ring of another implementation.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use corosync_lite::proto::pg::Assembler;
use corosync_lite::proto::srp::Lane;
use corosync_lite::wire::pg::{Group, Message as Packed};
use corosync_lite::wire::srp::{ENCAPSULATED_NOT, Message, NodeId, RingId};

use crate::net::{Cluster, Net};

/// Of one sender: messages by ring, as (to the barrier, id).
fn said(datagrams: impl Iterator<Item = Bytes>, by: u32) -> BTreeMap<u64, Vec<(bool, u32)>> {
    let mut frames: BTreeMap<(u64, u32), (RingId, Bytes)> = BTreeMap::new();
    for datagram in datagrams {
        if let Ok(Message::Mcast(mcast)) = Message::decode(&datagram)
            && mcast.header.encapsulated == ENCAPSULATED_NOT
            && mcast.header.node == NodeId(by)
        {
            frames.insert((mcast.ring.seq, mcast.seq.0), (mcast.ring, mcast.body));
        }
    }
    let mut said: BTreeMap<u64, Vec<(bool, u32)>> = BTreeMap::new();
    let mut assembler = Assembler::default();
    for (ring, frame) in frames.values() {
        let messages = assembler
            .handle_frame(Lane::Sync, NodeId(by), frame)
            .unwrap();
        for message in messages {
            let packed = Packed::decode(&message).unwrap();
            let id = u32::from_le_bytes(packed.body[..4].try_into().unwrap());
            let is_sync = packed.groups == [Group::Sync];
            said.entry(ring.seq).or_default().push((is_sync, id));
        }
    }
    said
}

fn captured(name: &str, by: u32) -> BTreeMap<u64, Vec<(bool, u32)>> {
    let path = format!(
        "{}/../tests/vectors/totem/{name}.txt",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(path).unwrap();
    let datagrams = text.lines().map(|line| {
        let hex = line.split(' ').nth(3).unwrap();
        let byte = |at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
        (0..hex.len() / 2).map(byte).collect()
    });
    said(datagrams, by)
}

#[test]
fn a_synchronization_is_what_it_was_on_the_captured_ring() {
    let (barrier, build) = ((true, 0), (true, 1));
    let expected = [
        build,
        (false, 0),
        barrier,
        (false, 0x2_0005),
        barrier,
        barrier,
        (false, 0x5_0000),
        (false, 0x5_0000),
        barrier,
    ];
    let captured = captured("srp-form-node1", 1);
    let last = captured.values().next_back().unwrap();
    assert_eq!(last[..9], expected);

    let mut net = Net::new(&Cluster::plain("udpu", &[1, 2, 3]));
    net.record = Some(Vec::new());
    net.wait_for_ring(&[1, 2, 3]);
    net.run(Duration::from_secs(1));
    let record = net.record.take().unwrap();
    for id in [1, 2, 3] {
        let said = said(record.iter().cloned(), id);
        let last = said.values().next_back().unwrap();
        assert_eq!(last[..9], expected, "node {id}");
    }
}
