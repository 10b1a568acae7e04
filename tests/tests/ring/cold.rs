//! Cold starts of rings that must wait for all, and rings of two.

use tests::mixed::{QuorumView, Ring};
use tests::wait::eventually;

use crate::support::{C, DEADLINE, L, can_run, client, encrypted};

fn is_quorate(ring: &Ring, id: usize) -> bool {
    QuorumView::of(ring.host(id)).is_ok_and(|view| view.quorate)
}

#[test]
fn two_nodes_wait_for_each_other_and_then_stand_alone() {
    if !can_run() {
        return;
    }
    for kinds in [[L, C], [C, L]] {
        let mut settings = encrypted(2);
        settings.quorum.push("two_node: 1".to_owned());
        let mut ring = Ring::new(&kinds, settings, client()).unwrap();
        ring.start_daemon(1).unwrap();
        ring.await_ring(&[1]).unwrap();
        assert!(!is_quorate(&ring, 1), "it has not seen the other");
        ring.start_daemon(2).unwrap();
        ring.await_ring(&[1, 2]).unwrap();
        for id in [1, 2] {
            eventually(DEADLINE, "quorum", || is_quorate(&ring, id)).unwrap();
            let flags = QuorumView::of(ring.host(id)).unwrap().flags;
            assert_eq!(flags, "2Node Quorate WaitForAll", "n{id}");
        }
        ring.kill_daemon(2);
        ring.await_ring(&[1]).unwrap();
        assert!(is_quorate(&ring, 1), "one of two is enough");
        ring.start_daemon(2).unwrap();
        ring.await_ring(&[1, 2]).unwrap();
        ring.kill_daemon(1);
        ring.await_ring(&[2]).unwrap();
        assert!(is_quorate(&ring, 2), "one of two is enough");
        ring.finish().unwrap();
    }
}

#[test]
fn three_nodes_wait_for_all() {
    if !can_run() {
        return;
    }
    let mut settings = encrypted(3);
    settings.quorum.push("wait_for_all: 1".to_owned());
    let mut ring = Ring::new(&[L, C, L], settings, client()).unwrap();
    for id in [1, 2] {
        ring.start_daemon(id).unwrap();
    }
    ring.await_ring(&[1, 2]).unwrap();
    assert!(!is_quorate(&ring, 1) && !is_quorate(&ring, 2));
    ring.start_daemon(3).unwrap();
    ring.await_ring(&[1, 2, 3]).unwrap();
    for id in [1, 2, 3] {
        eventually(DEADLINE, "quorum", || is_quorate(&ring, id)).unwrap();
    }
    ring.kill_daemon(2);
    ring.await_ring(&[1, 3]).unwrap();
    assert!(is_quorate(&ring, 1) && is_quorate(&ring, 3));
    ring.start_daemon(2).unwrap();
    ring.await_ring(&[1, 2, 3]).unwrap();
    ring.finish().unwrap();
}
