//! What others may send: rubbish, recorded datagrams, and well-sealed nonsense.

use std::net::IpAddr;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::*;
use super::net::{Net, address, key, keyed, message};
use super::{MS, SECOND};
use crate::proto::knet::seal::{Cipher, Hash, Suite};

fn talk(net: &mut Net, rounds: u8) {
    for number in 0..rounds {
        for node in 1..=3 {
            let mut payload = message(0, 100 + usize::from(number) * 150).to_vec();
            payload[14] = number;
            net.send(node, Target::All, &Bytes::from(payload)).unwrap();
        }
        net.run(100 * MS);
    }
}

#[test]
fn recorded_datagrams_deliver_nothing_and_change_nothing() {
    for suite in [keyed(), Suite::Clear] {
        let mut net = Net::new(3, 2, suite);
        net.run(5 * SECOND);
        talk(&mut net, 50);
        let record = net.record.clone();
        net.forget_events();
        for sent in record.iter().chain(record.iter().rev()) {
            net.arrive(sent);
        }
        for node in 1..=3 {
            assert!(net.delivered(node).is_empty());
        }
        talk(&mut net, 10);
        for node in 1..=3 {
            assert_eq!(net.delivered(node).len(), 30);
            assert_eq!(net.events(node), []);
        }
    }
}

#[test]
fn a_dead_node_is_not_kept_alive_by_its_recorded_datagrams() {
    let mut net = Net::new(3, 1, keyed());
    net.run(20 * SECOND);
    talk(&mut net, 50);
    let record = net.record.clone();
    net.kill(3);
    net.forget_events();
    for chunk in record.chunks(record.len() / 20) {
        for sent in chunk {
            net.arrive(sent);
        }
        net.run(100 * MS);
    }
    for node in 1..=2 {
        assert_eq!(net.events(node).last(), Some(&Event::HostDown(NodeId(3))));
        assert!(net.delivered(node).is_empty());
    }
    for sent in &record {
        net.arrive(sent);
    }
    assert!(net.delivered(1).is_empty());
    assert!(!net.knet(1).is_reachable(NodeId(3)));
}

#[test]
fn datagrams_are_dropped_and_counted_by_reason() {
    let mut net = Net::new(2, 2, keyed());
    net.run(5 * SECOND);
    let now = net.now;
    let suite = || Suite::new(Cipher::Aes256, Hash::Sha256, &key()).unwrap();
    let mut seal = Seal::new(suite(), [3; 32]);
    let mut sealed = |packet: &[u8]| {
        let mut out = Vec::new();
        seal.seal(&mut out, |out| out.extend_from_slice(packet))
            .unwrap();
        out
    };
    let ping = |node: u8, link: u8| {
        let mut packet = vec![0; 26];
        packet[..7].copy_from_slice(&[1, 0x81, 0, node, 0, 0, link]);
        packet
    };
    let pong = |link: u8| {
        let mut packet = ping(2, link);
        packet[1] = 0x82;
        packet
    };
    let data = |compression: u8, fragments: u8, fragment: u8, channel: u8| {
        let mut packet = vec![1, 0, 0, 2, 0, 0, 0, 9, compression, 0, 1];
        packet.extend_from_slice(&[fragments, fragment, channel]);
        packet.extend_from_slice(&message(0, 40));
        packet
    };
    let knet = net.knet(1);
    let peer = address(2, 0).ip();
    let stranger: IpAddr = "192.0.2.1".parse().unwrap();
    let cases = [
        (stranger, sealed(&ping(2, 0)), Discard::UnknownSource),
        (peer, ping(2, 0), Discard::Unauthentic),
        (peer, vec![], Discard::Unauthentic),
        (peer, sealed(&[1, 0x81, 0]), Discard::Malformed),
        (peer, sealed(&data(0, 0, 0, 0)), Discard::Malformed),
        (peer, sealed(&data(0, 1, 0, 0)[..20]), Discard::Malformed),
        (peer, sealed(&ping(1, 0)), Discard::Own),
        (peer, sealed(&ping(7, 0)), Discard::UnknownHost),
        (peer, sealed(&ping(2, 7)), Discard::UnknownLink),
        (peer, sealed(&ping(2, 255)), Discard::UnknownLink),
        (peer, sealed(&ping(2, 1)), Discard::WrongSource),
        (peer, sealed(&pong(0)), Discard::Unasked),
        (peer, sealed(&data(0, 1, 0, 1)), Discard::UnknownChannel),
        (peer, sealed(&data(2, 1, 0, 0)), Discard::Compressed),
    ];
    for (from, datagram, reason) in cases {
        let before = knet.stats().drops.of(reason);
        assert_eq!(knet.handle_datagram(now, from, &datagram), Err(reason));
        assert_eq!(knet.stats().drops.of(reason), before + 1);
    }
    let datagram = sealed(&data(0, 3, 1, 0));
    assert_eq!(knet.handle_datagram(now, peer, &datagram), Ok(()));
    let datagram = sealed(&data(0, 3, 1, 0));
    let again = knet.handle_datagram(now, peer, &datagram);
    assert_eq!(again, Err(Discard::Conflict));
    net.cut(1, 2, 0);
    net.cut(1, 2, 1);
    net.run(5 * SECOND);
    let (now, datagram) = (net.now, sealed(&data(0, 1, 0, 0)));
    let unreachable = net.knet(1).handle_datagram(now, peer, &datagram);
    assert_eq!(unreachable, Err(Discard::Unreachable));
}

fn hostile_packet() -> impl Strategy<Value = Vec<u8>> {
    let kinds = prop::sample::select(vec![0x00, 0x00, 0x81, 0x82, 0x83, 0x84]);
    (
        kinds,
        prop::collection::vec(any::<u8>(), 0..120),
        0..4_u8,
        any::<bool>(),
    )
        .prop_map(|(kind, body, fragments, all)| {
            let mut packet = vec![1, kind, 0, 2, 0, 0];
            packet.extend(body);
            if kind == 0 && packet.len() > 30 {
                packet[8] = 0;
                packet[11] = fragments;
                packet[13] = 0;
                if all {
                    packet[23..27].fill(0);
                }
            }
            packet
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn sealed_nonsense_of_a_peer_does_no_harm(
        packets in prop::collection::vec(hostile_packet(), 1..200),
    ) {
        let mut net = Net::new(2, 1, keyed());
        net.run(SECOND);
        let mut seal = Seal::new(keyed(), [9; 32]);
        let mut datagram = Vec::new();
        for packet in packets {
            seal.seal(&mut datagram, |out| out.extend_from_slice(&packet)).unwrap();
            let sent = super::net::Sent {
                at: net.now,
                from: address(2, 0),
                to: 1,
                datagram: Bytes::copy_from_slice(&datagram),
            };
            net.arrive(&sent);
            net.run(MS);
        }
        let lasting = net.delivered(1).len();
        net.send(2, Target::All, &message(0, 3000)).unwrap();
        net.run(10 * MS);
        prop_assert!(net.knet(1).is_reachable(NodeId(2)));
        prop_assert!(net.delivered(1).len() == 1, "{lasting}");
    }

    #[test]
    fn rubbish_from_the_address_of_a_peer_does_no_harm(
        datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..50),
    ) {
        let mut net = Net::new(2, 1, keyed());
        net.run(SECOND);
        let now = net.now;
        for datagram in &datagrams {
            let result = net.knet(1).handle_datagram(now, address(2, 0).ip(), datagram);
            prop_assert_eq!(result, Err(Discard::Unauthentic));
        }
    }
}
