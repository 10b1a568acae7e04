//! The key changes while a ring of both kinds runs.

use std::time::Duration;

use tests::mixed::load::{await_messages, begin, end};
use tests::mixed::{Kind, Ring};
use tests::wait::eventually;

use crate::reload::{reload, ring_id};
use crate::support::{C, DEADLINE, L, can_run, ring};

/// What a node of ours says when a change is over, on all nodes.
const OVER: &str = "keys: all members send with the new ones";

/// Waits until so many changes are over: there is room for two keys, so the next one has to wait.
fn await_changes(ring: &Ring, count: usize) {
    for id in ring.of_kind(L) {
        let log = ring.lab.dir().join(format!("n{id}/corosync.log"));
        eventually(DEADLINE, &format!("{count} changes on n{id}"), || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            text.matches(OVER).count() == count
        })
        .unwrap();
    }
}

/// Every node tells the others of a new key or hash, in turns, while all of them send.
fn change_keys(kinds: &[Kind]) {
    let mut ring = ring(kinds);
    let before = ring_id(&ring, 1);
    begin(&mut ring, 20_000, Duration::from_millis(2)).unwrap();
    for from in 1..=kinds.len() {
        await_messages(&ring, from, 100).unwrap();
        if from == 3 {
            ring.settings.totem.push("crypto_hash: sha512".to_owned());
        } else {
            ring.settings.key.reverse();
            ring.settings.key[0] ^= 1;
        }
        reload(&mut ring, from);
        await_changes(&ring, from);
        assert_eq!(ring_id(&ring, 1), before, "change {from}, {kinds:?}");
    }
    await_messages(&ring, 1, 100).unwrap();
    end(&mut ring).unwrap();
    assert_eq!(ring_id(&ring, 1), before);
    // A node that was not there has the new key from its files.
    for id in [1, 3] {
        ring.kill_daemon(id);
        ring.start_daemon(id).unwrap();
        ring.await_ring(&[1, 2, 3]).unwrap();
    }
    ring.await_group(&[1, 2, 3]).unwrap();
    ring.exchange(&[1, 2, 3], &[10]).unwrap();
    ring.finish().unwrap();
}

#[test]
fn the_key_is_changed_while_the_ring_runs() {
    if !can_run() {
        return;
    }
    for kinds in [[L, C, C], [C, L, L], [L, L, L]] {
        change_keys(&kinds);
    }
}
