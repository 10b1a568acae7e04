//! Two or three transports on a network that loses, copies, delays and cuts as it is told.

mod histories;
mod hostile;
mod net;
mod vectors;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::seal::{Cipher, Hash, Suite};
use super::*;
use net::{Net, keyed, message};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A point in time to count from.
#[expect(
    clippy::disallowed_methods,
    reason = "there is no other way to make an instant"
)]
pub(in crate::proto) fn base() -> Instant {
    static BASE: OnceLock<Instant> = OnceLock::new();
    *BASE.get_or_init(Instant::now)
}

fn is_down(event: &Event) -> bool {
    matches!(event, Event::HostDown(_))
}

#[test]
fn links_come_up_and_messages_of_all_sizes_arrive() {
    let mut net = Net::new(2, 2, keyed());
    net.run(5 * SECOND);
    for node in 1..=2 {
        let other = NodeId(3 - node);
        assert!(net.knet(node).is_reachable(other));
        assert!(
            net.knet(node)
                .links()
                .all(|link| link.usable && link.mtu == 1500)
        );
        assert_eq!(net.knet(node).data_room(), 1397);
        for link in net.knet(node).links() {
            assert_eq!((link.data_room, link.ups, link.downs), (1397, 1, 0));
            assert!(link.traffic.total().sent > 5 && link.traffic.total().received_bytes > 400);
        }
        for len in [13, 1000, 1397, 1398, 20_000, MAX_MESSAGE_LEN] {
            let payload = message(0, len);
            net.send(node, Target::All, &payload).unwrap();
            net.run(10 * MS);
            assert_eq!(net.delivered(other.0), [(NodeId(node), payload.clone())]);
            assert_eq!(net.delivered(node), [(NodeId(node), payload)]);
        }
    }
    let too_large = net.send(1, Target::All, &message(0, MAX_MESSAGE_LEN + 1));
    assert!(matches!(too_large, Err(SendError::TooLarge { .. })));
}

#[test]
fn a_link_is_up_within_a_second_of_the_first_ping() {
    let mut net = Net::new(2, 1, keyed());
    net.run(SECOND);
    assert!(net.knet(1).is_reachable(NodeId(2)));
    assert!(net.knet(2).is_reachable(NodeId(1)));
}

#[test]
fn only_the_target_gets_a_message_to_one_node() {
    let mut net = Net::new(3, 1, Suite::Clear);
    net.run(5 * SECOND);
    let payload = message(2, 100);
    net.send(1, Target::Node(NodeId(2)), &payload).unwrap();
    net.run(10 * MS);
    assert_eq!(net.delivered(2), [(NodeId(1), payload)]);
    assert!(net.delivered(1).is_empty());
    assert!(net.delivered(3).is_empty());
    let own = message(1, 100);
    net.send(1, Target::Node(NodeId(1)), &own).unwrap();
    assert_eq!(net.delivered(1), [(NodeId(1), own)]);
    // The content decides on the other side, whoever it was sent to.
    net.send(1, Target::All, &message(2, 50)).unwrap();
    net.run(10 * MS);
    assert_eq!(net.delivered(2).len(), 1);
    assert!(net.delivered(3).is_empty());
    assert_eq!(net.knet(3).stats().drops.of(Discard::NotForUs), 1);
    let unknown = net.send(1, Target::Node(NodeId(9)), &message(9, 50));
    assert_eq!(unknown, Err(SendError::UnknownHost(NodeId(9))));
}

#[test]
fn nothing_is_numbered_while_nobody_is_reachable() {
    let mut net = Net::new(2, 1, keyed());
    for _ in 0..10 {
        net.send(1, Target::All, &message(0, 100)).unwrap();
    }
    assert_eq!(net.knet(1).stats().unreachable, 10);
    assert_eq!(net.knet(1).outbox.seq, 0);
    net.run(5 * SECOND);
    net.send(1, Target::All, &message(0, 100)).unwrap();
    assert_eq!(net.knet(1).outbox.seq, 1);
}

#[test]
fn loss_copies_and_disorder_never_deliver_twice_or_garble() {
    let mut net = Net::new(3, 2, keyed());
    net.run(5 * SECOND);
    net.loss = 0.03;
    net.copies = 0.2;
    net.jitter = 20 * MS;
    for mode in [LinkMode::Passive, LinkMode::Active, LinkMode::RoundRobin] {
        for node in 1..=3 {
            net.knet(node).set_link_mode(mode);
        }
        let mut sent = Vec::new();
        for number in 0..300_usize {
            let payload = message(0, 20 + number * 37 % 9000);
            let mut bytes = payload.to_vec();
            bytes[13..15].copy_from_slice(&u16::try_from(number).unwrap().to_le_bytes());
            let payload = Bytes::from(bytes);
            net.send(1, Target::All, &payload).unwrap();
            sent.push((NodeId(1), payload));
            net.run(5 * MS);
        }
        net.run(SECOND);
        for node in 2..=3 {
            let mut got = net.delivered(node);
            assert!(got.len() > 200, "{mode:?} {}", got.len());
            got.sort();
            let all = got.len();
            got.dedup();
            assert_eq!(got.len(), all, "{mode:?}");
            assert!(got.iter().all(|message| sent.contains(message)));
        }
    }
    assert!(net.knet(2).stats().drops.of(Discard::Duplicate) > 0);
}

#[test]
fn a_dead_link_is_left_within_the_ping_timeout() {
    for mode in [LinkMode::Passive, LinkMode::Active, LinkMode::RoundRobin] {
        let mut net = Net::new(2, 2, keyed());
        for node in 1..=2 {
            net.knet(node).set_link_mode(mode);
        }
        net.run(20 * SECOND);
        net.forget_events();
        net.cut(1, 2, 0);
        net.run(1600 * MS);
        let down = Event::LinkDown {
            host: NodeId(2),
            link: 0,
            reason: LinkDownReason::NoPong,
        };
        assert!(net.events(1).contains(&down), "{mode:?}");
        assert!(!net.events(1).iter().any(is_down));
        for _ in 0..20 {
            net.send(1, Target::All, &message(0, 5000)).unwrap();
            net.run(MS);
        }
        assert_eq!(net.delivered(2).len(), 20, "{mode:?}");
        net.heal();
        net.run(10 * SECOND);
        assert!(net.knet(1).links().all(|link| link.usable));
    }
}

#[test]
fn a_refused_send_leaves_the_link_at_once() {
    let mut net = Net::new(2, 2, keyed());
    net.run(20 * SECOND);
    net.forget_events();
    net.refuse(1, 0);
    net.send(1, Target::All, &message(0, 100)).unwrap();
    net.run(MS);
    let down = Event::LinkDown {
        host: NodeId(2),
        link: 0,
        reason: LinkDownReason::SendFailed,
    };
    assert!(net.events(1).contains(&down));
    net.send(1, Target::All, &message(0, 100)).unwrap();
    net.run(MS);
    assert_eq!(net.delivered(2).len(), 1);
    assert!(!net.events(1).iter().any(is_down));
    net.heal();
    net.run(10 * SECOND);
    assert!(net.knet(1).links().all(|link| link.usable));
    assert_eq!(net.knet(1).links().next().unwrap().downs, 1);
}

#[test]
fn a_host_without_links_is_down_and_comes_back() {
    let mut net = Net::new(2, 2, keyed());
    net.run(20 * SECOND);
    net.forget_events();
    net.cut(1, 2, 0);
    net.cut(1, 2, 1);
    net.run(2 * SECOND);
    assert!(net.events(1).contains(&Event::HostDown(NodeId(2))));
    net.heal();
    net.run(5 * SECOND);
    assert!(net.events(1).contains(&Event::HostUp(NodeId(2))));
    net.send(1, Target::All, &message(0, 100)).unwrap();
    net.run(MS);
    assert_eq!(net.delivered(2).len(), 1);
}

#[test]
fn a_pause_of_the_process_takes_no_link_down() {
    let mut net = Net::new(2, 2, keyed());
    net.run(20 * SECOND);
    net.forget_events();
    let mut paused = net.pause(1);
    net.run(700 * MS);
    net.resume(1, &mut paused);
    net.run(5 * SECOND);
    assert_eq!(net.events(1), []);
    assert_eq!(net.events(2), []);
    let mut paused = net.pause(1);
    net.run(10 * SECOND);
    net.resume(1, &mut paused);
    net.run(MS);
    assert_eq!(net.events(1), []);
}

#[test]
fn the_mode_and_the_priority_choose_the_links() {
    let mut net = Net::new(2, 3, keyed());
    net.run(5 * SECOND);
    let links = |net: &mut Net| {
        for _ in 0..6 {
            net.send(1, Target::All, &message(0, 100)).unwrap();
        }
        net.run(MS);
        net.take_data_links(1)
    };
    assert_eq!(links(&mut net), [0; 6]);
    let mut config = net::link_config();
    config.priority = 9;
    let now = net.now;
    net.knet(1).set_link(now, 2, config).unwrap();
    assert_eq!(links(&mut net), [2; 6]);
    net.knet(1).set_link_mode(LinkMode::RoundRobin);
    assert_eq!(links(&mut net), [0, 1, 2, 0, 1, 2]);
    net.knet(1).set_link_mode(LinkMode::Active);
    assert_eq!(links(&mut net), [0, 1, 2].repeat(6));
    assert_eq!(net.delivered(2).len(), 24);
}

#[test]
fn the_mtu_of_the_path_is_found_and_followed() {
    let mut net = Net::new(2, 1, keyed());
    net.path_mtu = 1400;
    net.run(20 * SECOND);
    let mtu = net.knet(1).links().next().unwrap().mtu;
    assert!((1392..=1400).contains(&mtu), "{mtu}");
    net.send(1, Target::All, &message(0, 60_000)).unwrap();
    net.run(10 * MS);
    assert_eq!(net.delivered(2).len(), 1);
    net.path_mtu = 1000;
    net.run(40 * SECOND);
    net.send(1, Target::All, &message(0, 60_000)).unwrap();
    net.run(10 * MS);
    assert_eq!(net.delivered(2).len(), 1);
    net.forget_events();
    net.path_mtu = 300;
    net.run(40 * SECOND);
    assert!(net.events(1).contains(&Event::HostDown(NodeId(2))));
    net.path_mtu = 9000;
    net.run(10 * SECOND);
    assert_eq!(net.knet(1).links().next().unwrap().mtu, 1500);
}

#[test]
fn keys_change_while_messages_flow() {
    let mut net = Net::new(3, 2, keyed());
    net.run(5 * SECOND);
    let key: Vec<u8> = (0..200).map(|byte| byte ^ 0x55).collect();
    let suite = || Suite::new(Cipher::Aes128, Hash::Sha512, &key).unwrap();
    let exchange = |net: &mut Net| {
        for node in 1..=3 {
            net.send(node, Target::All, &message(0, 3000)).unwrap();
        }
        net.run(10 * MS);
        for node in 1..=3 {
            assert_eq!(net.delivered(node).len(), 3);
        }
    };
    exchange(&mut net);
    for node in [2, 1, 3] {
        let now = net.now;
        net.knet(node).prepare_keys(now, suite());
        exchange(&mut net);
    }
    for node in [3, 1, 2] {
        let now = net.now;
        net.knet(node).activate_keys(now);
        exchange(&mut net);
    }
    for node in 1..=3 {
        net.knet(node).cleanup_keys();
        exchange(&mut net);
    }
    net.run(5 * SECOND);
    exchange(&mut net);
    for node in 1..=3 {
        assert_eq!(net.knet(node).stats().drops.of(Discard::Unauthentic), 0);
    }
}

#[test]
fn what_comes_before_its_key_is_taken_with_the_key() {
    let mut net = Net::new(2, 2, keyed());
    net.run(5 * SECOND);
    net.forget_events();
    let key: Vec<u8> = (0..200).map(|byte| byte ^ 0x55).collect();
    let suite = || Suite::new(Cipher::Aes128, Hash::Sha512, &key).unwrap();
    let now = net.now;
    net.knet(2).prepare_keys(now, suite());
    net.knet(2).activate_keys(now);
    let payload = message(0, 5000);
    net.send(2, Target::All, &payload).unwrap();
    net.run(10 * MS);
    assert!(net.delivered(1).is_empty());
    let now = net.now;
    net.knet(1).prepare_keys(now, suite());
    net.run(MS);
    assert_eq!(net.delivered(1), [(NodeId(2), payload.clone())]);
    assert_eq!(net.events(1), [Event::NextKeysUsed(NodeId(2))]);
    // That is told once, and not by those who are behind.
    net.send(2, Target::All, &payload).unwrap();
    net.send(1, Target::All, &payload).unwrap();
    net.run(10 * MS);
    assert_eq!(net.delivered(1).len(), 2);
    assert_eq!(net.delivered(2).len(), 3);
    assert_eq!(net.events(1).len(), 1);
    assert_eq!(net.events(2), []);
}

#[test]
fn a_node_that_starts_again_is_understood_at_once() {
    let mut net = Net::new(2, 1, keyed());
    net.run(5 * SECOND);
    for _ in 0..100 {
        net.send(2, Target::All, &message(0, 100)).unwrap();
        net.send(1, Target::All, &message(0, 100)).unwrap();
    }
    net.run(100 * MS);
    net.forget_events();
    net.restart(2, keyed());
    net.run(3 * SECOND);
    for number in 0..100 {
        net.send(2, Target::All, &message(0, 100 + number)).unwrap();
        net.send(1, Target::All, &message(0, 100 + number)).unwrap();
    }
    net.run(100 * MS);
    assert_eq!(net.delivered(1).len(), 200);
    assert_eq!(net.delivered(2).len(), 200);
}

#[test]
fn links_come_up_on_both_sides_together() {
    let mut net = Net::new(2, 1, keyed());
    net.kill(2);
    net.run(300 * MS);
    net.restart(2, keyed());
    let mut up = [None; 2];
    while up.contains(&None) {
        net.run(MS);
        let now = net.now;
        for (node, at) in (1..).zip(&mut up) {
            let is_reachable = net.knet(node).is_reachable(NodeId(3 - node));
            *at = at.or(is_reachable.then_some(now));
        }
    }
    let [one, other] = up.map(|at| at.unwrap());
    let apart = one.max(other).duration_since(one.min(other));
    assert!(apart < 10 * MS, "{apart:?}");
}

#[test]
fn a_node_that_starts_again_and_again_has_its_links_as_soon() {
    let mut net = Net::new(2, 1, keyed());
    let mut times = Vec::new();
    for _ in 0..4 {
        let start = net.now;
        while !(net.knet(1).is_reachable(NodeId(2)) && net.knet(2).is_reachable(NodeId(1))) {
            net.run(10 * MS);
        }
        times.push(net.now.duration_since(start));
        net.send(2, Target::All, &message(0, 100)).unwrap();
        net.run(100 * MS);
        net.kill(2);
        while net.knet(1).is_reachable(NodeId(2)) {
            net.run(10 * MS);
        }
        net.restart(2, keyed());
    }
    assert!(times[3] <= times[0] + 200 * MS, "{times:?}");
}

#[test]
fn halves_of_messages_before_and_after_a_start_are_not_joined() {
    let mut net = Net::new(2, 1, keyed());
    net.run(5 * SECOND);
    let [old, new] = [1, 2].map(|number| {
        let mut bytes = message(0, 2000).to_vec();
        bytes[13..].fill(number);
        Bytes::from(bytes)
    });
    // Only the first half of the old one comes, and only the second of the new one.
    net.send(2, Target::All, &old).unwrap();
    assert_eq!(net.lose_all_but(0), 1);
    net.run(MS);
    net.restart(2, keyed());
    while !net.knet(2).is_reachable(NodeId(1)) {
        net.run(MS);
    }
    net.send(2, Target::All, &new).unwrap();
    assert_eq!(net.lose_all_but(1), 1);
    net.run(100 * MS);
    assert_eq!(net.delivered(1), []);
}

#[test]
fn an_idle_node_wakes_up_a_few_times_a_second() {
    let mut net = Net::new(3, 2, keyed());
    net.run(10 * SECOND);
    net.timeouts = 0;
    net.run(60 * SECOND);
    // 80 pings in a minute, and two path-MTU runs.
    assert!(net.timeouts <= 3 * (80 + 4), "{}", net.timeouts);
}

#[test]
fn pings_are_forced_and_numbers_wrap_around_zero() {
    let mut net = Net::new(2, 1, Suite::Clear);
    net.run(5 * SECOND);
    let mut zero = 0;
    for number in 0..66_000_u32 {
        let mut bytes = message(0, 20).to_vec();
        bytes[13..17].copy_from_slice(&number.to_le_bytes());
        let now = net.now;
        net.knet(1)
            .send(now, Target::All, &Bytes::from(bytes))
            .unwrap();
        zero += u32::from(net.knet(1).outbox.seq == 0);
        let mut pings = 0;
        while let Some(transmit) = net.knet(1).poll_transmit() {
            pings += usize::from(transmit.purpose == Purpose::Ping);
            let from = net::address(1, 0).ip();
            net.knet(2)
                .handle_datagram(now, from, &transmit.datagram)
                .unwrap();
        }
        let forced = net.knet(1).outbox.seq.is_multiple_of(FORCED_PING_EVERY);
        assert_eq!(pings, usize::from(forced));
    }
    assert_eq!(zero, 0);
    assert_eq!(net.delivered(2).len(), 66_000);
}

#[test]
fn hosts_and_links_are_added_and_removed_while_running() {
    let mut net = Net::new(2, 1, keyed());
    net.run(5 * SECOND);
    net.forget_events();
    let now = net.now;
    let two: Addresses = (0..2).map(|link| (link, net::address(2, link))).collect();
    let one: Addresses = (0..2).map(|link| (link, net::address(1, link))).collect();
    let refused = net.knet(1).set_host(now, NodeId(2), &two);
    assert!(matches!(refused, Err(ConfigError::UnknownLink { .. })));
    for (node, other, addresses) in [(1, NodeId(2), two), (2, NodeId(1), one)] {
        let knet = net.knet(node);
        knet.set_link(now, 1, net::link_config()).unwrap();
        knet.set_host(now, other, &addresses).unwrap();
    }
    net.run(5 * SECOND);
    assert_eq!(net.knet(1).links().filter(|link| link.usable).count(), 2);
    for node in 1..=2 {
        let now = net.now;
        net.knet(node).remove_link(now, 0);
    }
    net.send(1, Target::All, &message(0, 100)).unwrap();
    net.run(10 * MS);
    assert_eq!(net.delivered(2).len(), 1);
    assert!(!net.events(1).iter().any(is_down));
    let now = net.now;
    net.knet(1).remove_host(now, NodeId(2));
    net.run(MS);
    assert_eq!(net.events(1).last(), Some(&Event::HostDown(NodeId(2))));
    let removed = |event: &&Event| {
        let reason = LinkDownReason::Removed;
        matches!(event, Event::LinkDown { reason: it, .. } if *it == reason)
    };
    assert_eq!(net.events(1).iter().filter(removed).count(), 2);
    assert!(!net.knet(1).is_reachable(NodeId(2)));
    let bad = net.knet(1).set_host(now, NodeId(70_000), &Addresses::new());
    assert_eq!(bad, Err(ConfigError::NodeId(NodeId(70_000))));
    let mut config = net::link_config();
    let bad = net.knet(1).set_link(now, 8, config);
    assert_eq!(bad, Err(ConfigError::LinkNumber(8)));
    config.ping_interval = Duration::ZERO;
    let bad = net.knet(1).set_link(now, 1, config);
    assert_eq!(bad, Err(ConfigError::PingTimers(1)));
    let own = net.knet(1).set_host(now, NodeId(1), &Addresses::new());
    assert_eq!(own, Err(ConfigError::Local(NodeId(1))));
}
