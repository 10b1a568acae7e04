//! Every transport with every mixture of daemons: messages, deaths, partitions, departures.

use tests::corosync::Settings;
use tests::mixed::protocol::Event;
use tests::mixed::{Kind, Ring};

use crate::support::{C, L, can_run, clear, encrypted, multicast, start, udpu};
use crate::tools::print_the_same_of_links;

/// From one byte to the longest that the client library takes.
const SIZES: [usize; 8] = [1, 2, 100, 1_409, 20_000, 65_536, 300_000, 1 << 20];
const FEW: [usize; 3] = [10, 3_000, 70_000];
/// Why a process left the group: its node is gone.
const NODE_DOWN: u8 = 3;
/// Why a process left the group: it, or its connection to the daemon, is gone.
const PROC_DOWN: u8 = 5;

fn everything(kinds: &[Kind], settings: Settings) {
    if !can_run() {
        return;
    }
    let mut ring = start(kinds, settings);
    let all = ring.nodes();
    if ring.one_of_each().len() > 1 {
        print_the_same_of_links(&ring);
    }
    ring.exchange(&all, &SIZES).unwrap();
    for id in ring.one_of_each() {
        lose_and_regain(&mut ring, id, NODE_DOWN, Ring::kill_daemon);
        lose_and_regain(&mut ring, id, PROC_DOWN, |ring, id| {
            ring.stop_daemon(id).unwrap();
        });
        cut_off_and_merge(&mut ring, id);
    }
    ring.finish().unwrap();
}

fn without(ring: &Ring, id: usize) -> Vec<usize> {
    ring.nodes().into_iter().filter(|it| *it != id).collect()
}

fn lose_and_regain(ring: &mut Ring, id: usize, reason: u8, lose: impl Fn(&mut Ring, usize)) {
    let (all, rest) = (ring.nodes(), without(ring, id));
    let marks: Vec<_> = rest.iter().map(|it| (*it, ring.link(*it).len())).collect();
    lose(ring, id);
    ring.await_ring(&rest).unwrap();
    ring.await_group(&rest).unwrap();
    let gone = vec![(u32::try_from(id).unwrap(), reason)];
    for (survivor, mark) in marks {
        let told = ring.link(survivor).since(mark).unwrap();
        let lost = told.iter().find_map(|event| match event {
            Event::View { left, .. } => Some(left),
            _ => None,
        });
        assert_eq!(lost, Some(&gone), "n{survivor} was told of another loss");
    }
    ring.exchange(&rest, &FEW).unwrap();
    ring.start_daemon(id).unwrap();
    ring.await_ring(&all).unwrap();
    ring.await_group(&all).unwrap();
    ring.exchange(&all, &FEW).unwrap();
}

fn cut_off_and_merge(ring: &mut Ring, id: usize) {
    let (all, rest) = (ring.nodes(), without(ring, id));
    ring.lab.isolate(id).unwrap();
    ring.await_ring(&rest).unwrap();
    ring.await_ring(&[id]).unwrap();
    ring.await_group(&rest).unwrap();
    ring.await_group(&[id]).unwrap();
    ring.exchange(&rest, &FEW).unwrap();
    ring.exchange(&[id], &FEW).unwrap();
    ring.lab.heal().unwrap();
    ring.await_ring(&all).unwrap();
    ring.await_group(&all).unwrap();
    ring.exchange(&all, &FEW).unwrap();
}

#[test]
fn encrypted_one_lite_and_two_corosync() {
    everything(&[L, C, C], encrypted(3));
}

#[test]
fn encrypted_two_lite_and_one_corosync() {
    everything(&[C, L, L], encrypted(3));
}

#[test]
fn encrypted_all_lite() {
    everything(&[L, L, L], encrypted(3));
}

#[test]
fn clear_one_lite_and_two_corosync() {
    everything(&[C, L, C], clear(3));
}

#[test]
fn clear_two_lite_and_one_corosync() {
    everything(&[L, C, L], clear(3));
}

#[test]
fn clear_all_lite() {
    everything(&[L, L, L], clear(3));
}

#[test]
fn udpu_one_lite_and_two_corosync() {
    everything(&[C, C, L], udpu(3));
}

#[test]
fn udpu_two_lite_and_one_corosync() {
    everything(&[L, L, C], udpu(3));
}

#[test]
fn udpu_all_lite() {
    everything(&[L, L, L], udpu(3));
}

#[test]
fn multicast_one_lite_and_two_corosync() {
    everything(&[L, C, C], multicast(3));
}

#[test]
fn multicast_two_lite_and_one_corosync() {
    everything(&[C, L, L], multicast(3));
}
