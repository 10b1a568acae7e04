//! Data packets of real rings through the receiving side.

use super::super::*;
use super::base;
use crate::wire::vectors::capture;

/// What a node on the way of all datagrams would be given: messages, duplicates, other drops.
fn receive(name: &str) -> (usize, usize, usize) {
    let mut hosts: BTreeMap<u16, Host> = BTreeMap::new();
    let (mut messages, mut duplicates, mut others) = (0, 0, 0);
    let now = base();
    for datagram in capture(name) {
        let packet = Packet::decode(&datagram.payload).unwrap();
        let Body::Data(header, payload) = packet.body else {
            continue;
        };
        let host = hosts.entry(packet.node).or_insert_with(Host::new);
        host.reachable = true;
        let fingerprint = Fingerprint::of(&datagram.payload);
        match receive_data(now, host, fingerprint, &header, payload) {
            Ok(Some(_)) => messages += 1,
            Ok(None) => (),
            Err(Discard::Duplicate) => duplicates += 1,
            Err(_) => others += 1,
        }
    }
    (messages, duplicates, others)
}

#[test]
fn copies_on_the_second_link_are_dropped() {
    // 329 packets came twice, 67 once and 14 four times; four of them make one message.
    assert_eq!(receive("knet-2link-active.pcap.gz"), (407, 371, 0));
}

#[test]
fn a_message_of_a_mebibyte_is_put_together() {
    let (messages, duplicates, others) = receive("knet-cpg1m.pcap.gz");
    // 961 packets, of which 736 are fragments of 16 messages.
    assert_eq!((messages, duplicates, others), (225 + 16, 0, 0));
}
