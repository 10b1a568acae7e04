//! Configurations that change while a ring of both kinds runs, and links that fail.

use std::time::Duration;

use tests::mixed::{QuorumView, Ring};
use tests::wait::eventually;

use crate::support::{C, DEADLINE, L, can_run, encrypted, ring, start};

/// Writes the next version of the configuration to all hosts, and lets `from` tell all daemons.
pub fn reload(ring: &mut Ring, from: usize) {
    ring.settings.config_version += 1;
    for host in ring.lab.hosts() {
        ring.settings.install(host).unwrap();
    }
    ring.host(from).sh_ok("corosync-cfgtool -R").unwrap();
    let version = format!("= {}\n", ring.settings.config_version);
    await_map(ring, "totem.config_version", &version);
}

/// Waits until a key has a value on all running nodes.
fn await_map(ring: &Ring, key: &str, end: &str) {
    for id in ring.running() {
        eventually(DEADLINE, &format!("{key} {end} on n{id}"), || {
            let text = ring.host(id).sh_ok(&format!("corosync-cmapctl -g {key}"));
            text.is_ok_and(|text| text.ends_with(end))
        })
        .unwrap();
    }
}

pub fn ring_id(ring: &Ring, id: usize) -> String {
    QuorumView::of(ring.host(id)).unwrap().ring
}

/// Waits until each running node has so many links that are up, each to each other node.
fn await_links(ring: &Ring, links: usize) {
    let wanted = links * (ring.running().len() - 1);
    for id in ring.running() {
        eventually(DEADLINE, &format!("{wanted} links on n{id}"), || {
            let text = ring
                .host(id)
                .sh_ok("corosync-cfgtool -n")
                .unwrap_or_default();
            text.matches("enabled connected").count() == wanted
        })
        .unwrap();
    }
}

/// Waits for some answers to pings. libknet gives links that have just come up ten times the usual
/// time to answer: the failure of one breaks a ring of any daemons.
fn await_trust(ring: &Ring) {
    let answers = |id: usize| -> Vec<u64> {
        let map = ring
            .host(id)
            .sh_ok("corosync-cmapctl -m stats")
            .unwrap_or_default();
        let counts = map.lines().filter(|line| line.contains("rx_pong_packets"));
        counts
            .filter_map(|line| line.split(" = ").nth(1)?.parse().ok())
            .collect()
    };
    for id in ring.of_kind(C) {
        let before = answers(id);
        eventually(DEADLINE, &format!("answers to pings on n{id}"), || {
            let now = answers(id);
            // Each node has counters for itself as well; they stay 0.
            let enough = before
                .iter()
                .zip(&now)
                .filter(|(a, b)| **b >= **a + 15)
                .count();
            enough >= 2 * (ring.running().len() - 1)
        })
        .unwrap();
    }
}

#[test]
fn nodes_and_timeouts_are_changed_from_either_kind() {
    if !can_run() {
        return;
    }
    let mut settings = encrypted(4);
    settings.nodes = vec![1, 2];
    let mut ring = Ring::new(&[L, C, L, C], settings, crate::support::client()).unwrap();
    for id in [1, 2] {
        ring.start_daemon(id).unwrap();
    }
    ring.await_ring(&[1, 2]).unwrap();
    for (from, new) in [(1, 3), (2, 4)] {
        let before = ring_id(&ring, 1);
        ring.settings.nodes.push(new);
        ring.settings.token += Duration::from_millis(500);
        reload(&mut ring, from);
        assert_eq!(ring_id(&ring, 1), before, "a reload needs no new ring");
        let token = format!("= {}\n", ring.settings.token.as_millis());
        await_map(&ring, "runtime.config.totem.token", &token);
        ring.start_daemon(new).unwrap();
        let members = ring.settings.nodes.clone();
        ring.await_ring(&members).unwrap();
        let view = QuorumView::of(ring.host(new)).unwrap();
        assert_eq!(view.expected, u32::try_from(new).unwrap());
    }
    ring.join(&[1, 2, 3, 4]).unwrap();
    ring.exchange(&[1, 2, 3, 4], &[10, 100_000]).unwrap();
    // And a node less.
    ring.stop_daemon(4).unwrap();
    ring.await_ring(&[1, 2, 3]).unwrap();
    ring.settings.nodes.pop();
    reload(&mut ring, 1);
    for id in [1, 2, 3] {
        eventually(DEADLINE, &format!("3 votes expected on n{id}"), || {
            QuorumView::of(ring.host(id)).is_ok_and(|view| view.expected == 3)
        })
        .unwrap();
    }
    ring.finish().unwrap();
}

#[test]
fn a_link_is_added_and_taken_away() {
    if !can_run() {
        return;
    }
    let mut settings = encrypted(3);
    settings.links = 1;
    let mut ring = start(&[L, C, C], settings);
    let before = ring_id(&ring, 1);
    for (from, links) in [(1, 2), (2, 1), (2, 2)] {
        ring.settings.links = links;
        reload(&mut ring, from);
        await_links(&ring, links);
        ring.exchange(&[1, 2, 3], &[10, 20_000]).unwrap();
    }
    assert_eq!(ring_id(&ring, 1), before);
    ring.finish().unwrap();
}

#[test]
fn one_of_two_links_fails_and_the_ring_stays() {
    if !can_run() {
        return;
    }
    let mut ring = ring(&[L, C, L]);
    await_links(&ring, 2);
    await_trust(&ring);
    let before = ring_id(&ring, 1);
    for (id, link) in [(1, 0), (2, 0), (2, 1), (1, 1)] {
        for other in [1, 2, 3].into_iter().filter(|other| *other != id) {
            ring.lab.lose(id, other, Some(link), 100).unwrap();
            ring.lab.lose(other, id, Some(link), 100).unwrap();
        }
        ring.exchange(&[1, 2, 3], &[10, 100_000]).unwrap();
        eventually(DEADLINE, "a link that is down", || {
            let text = ring.host(id).sh_ok("corosync-cfgtool -s").unwrap();
            text.matches("disconnected").count() == 2
        })
        .unwrap();
        ring.exchange(&[1, 2, 3], &[10, 100_000]).unwrap();
        ring.lab.heal().unwrap();
        await_links(&ring, 2);
        await_trust(&ring);
        ring.exchange(&[1, 2, 3], &[10, 100_000]).unwrap();
    }
    assert_eq!(ring_id(&ring, 1), before);
    ring.finish().unwrap();
}
