//! The calls of a device, its time, and what its votes decide.

use std::time::Duration;

use proptest::prelude::*;

use super::super::Log;
use super::Setup;
use super::net::Net;
use crate::proto::srp::Lane;
use crate::service::votequorum::{Request, Response};
use crate::service::{ClientId, RingId, Status};
use crate::wire::NodeId;

const NAME: &str = "Qdevice";
const TIMEOUT: Duration = Duration::from_secs(10);
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);
const DEVICE: &str = "device {\nmodel: net\n}";

fn register() -> Request {
    Request::DeviceRegister {
        name: NAME.to_owned(),
    }
}

fn unregister(name: &str) -> Request {
    Request::DeviceUnregister {
        name: name.to_owned(),
    }
}

fn update(old: &str, new: &str) -> Request {
    Request::DeviceUpdate {
        old: old.to_owned(),
        new: new.to_owned(),
    }
}

fn poll(name: &str, cast_vote: bool, ring: RingId) -> Request {
    Request::DevicePoll {
        name: name.to_owned(),
        cast_vote,
        ring,
    }
}

fn bless(allow: bool) -> Request {
    Request::DeviceMasterWins {
        name: NAME.to_owned(),
        allow,
    }
}

/// The ring that the node is in, as its clients know it.
fn ring(net: &mut Net, id: u32) -> RingId {
    let ring = net.peer(id).core.ring;
    RingId {
        nodeid: ring.rep.0,
        seq: ring.seq,
    }
}

fn vote(net: &mut Net, id: u32, cast_vote: bool) {
    let ring = ring(net, id);
    let done = net.call(id, poll(NAME, cast_vote, ring));
    assert_eq!(done, Response::Done(Status::OK));
}

fn ask(net: &mut Net, id: u32, request: Request, status: Status) {
    let context = format!("{request:?}");
    assert_eq!(net.call(id, request), Response::Done(status), "{context}");
}

/// Nodes with a device each that votes.
fn voting(nodes: usize, options: &[&str]) -> Net {
    let mut net = Net::together(Setup::new(nodes, options));
    let ids: Vec<u32> = net.peers.keys().copied().collect();
    for id in ids {
        ask(&mut net, id, register(), Status::OK);
        vote(&mut net, id, true);
    }
    net
}

/// A synchronisation in which the devices of these nodes vote as they are told.
fn form(net: &mut Net, ids: &[u32], cast_vote: bool) {
    net.begin(ids);
    net.process(ids);
    while net.deliver_one(ids, Lane::Sync) {}
    for id in net.held(ids) {
        let ring = ring(net, id);
        let now = net.now;
        let request = poll(NAME, cast_vote, ring);
        let core = &mut net.peer(id).core;
        core.handle_votequorum_request(now, ClientId(1), request);
        net.peer(id).drain();
    }
    while net.deliver_one(ids, Lane::Sync) {}
    assert!(net.held(ids).is_empty());
    net.activate(ids);
    net.run(ids);
}

#[test]
fn votes_of_a_device_that_are_not_written_outweigh_all_nodes_but_one() {
    let mut net = voting(3, &[DEVICE]);
    let status = net.status(1);
    assert_eq!((status.votes, status.expected, status.quorum), (5, 5, 3));
    form(&mut net, &[1], true);
    form(&mut net, &[2, 3], false);
    assert!(net.quorate(1));
    assert!(!net.quorate(2));
    let status = net.status(2);
    assert_eq!((status.short, status.device_withheld), (1, 2));
}

#[test]
fn the_device_decides_between_two_nodes() {
    let mut net = voting(2, &["device {\nmodel: net\nvotes: 1\n}"]);
    form(&mut net, &[1], false);
    form(&mut net, &[2], true);
    assert!(!net.quorate(1) && net.quorate(2));
    form(&mut net, &[1, 2], true);
    assert!(net.quorate(1) && net.quorate(2));
}

#[test]
fn calls_are_refused_in_the_order_of_the_original() {
    let mut net = Net::together(Setup::new(2, &[DEVICE]));
    let now = ring(&mut net, 1);
    let other = RingId {
        seq: now.seq + 4,
        ..now
    };
    ask(&mut net, 1, poll(NAME, true, now), Status::NOT_EXIST);
    ask(&mut net, 1, bless(true), Status::NOT_EXIST);
    ask(&mut net, 1, unregister(NAME), Status::NOT_EXIST);
    ask(&mut net, 1, update(NAME, "Q"), Status::NOT_EXIST);
    ask(&mut net, 1, register(), Status::OK);
    ask(&mut net, 1, register(), Status::OK);
    let named = |name: &str| Request::DeviceRegister {
        name: name.to_owned(),
    };
    ask(&mut net, 1, named("Other"), Status::EXIST);
    // The name belongs to all nodes.
    ask(&mut net, 2, named("Other"), Status::EXIST);
    ask(&mut net, 2, named(&"n".repeat(255)), Status::INVALID_PARAM);
    ask(&mut net, 2, named(""), Status::INVALID_PARAM);
    ask(
        &mut net,
        1,
        poll("Other", true, other),
        Status::MESSAGE_ERROR,
    );
    ask(&mut net, 1, poll("Other", true, now), Status::INVALID_PARAM);
    ask(&mut net, 1, unregister("Other"), Status::INVALID_PARAM);
    ask(&mut net, 1, update("Other", "Q"), Status::INVALID_PARAM);
    ask(&mut net, 1, update(NAME, ""), Status::INVALID_PARAM);
    ask(&mut net, 1, update(NAME, "Q"), Status::OK);
    ask(&mut net, 1, poll(NAME, true, now), Status::INVALID_PARAM);
    ask(&mut net, 2, named("Q"), Status::OK);
    ask(&mut net, 1, unregister("Q"), Status::OK);
    ask(&mut net, 1, named("Other"), Status::EXIST);
    ask(&mut net, 2, unregister("Q"), Status::OK);
    ask(&mut net, 1, named("Other"), Status::OK);
}

#[test]
fn an_excluded_device_has_no_access() {
    let mut net = voting(3, &[DEVICE]);
    let config = Setup::new(3, &["last_man_standing: 1", DEVICE]).config(1);
    net.peer(1).core.reload(&config);
    let now = ring(&mut net, 1);
    ask(&mut net, 1, register(), Status::ACCESS);
    ask(&mut net, 1, poll(NAME, true, now), Status::ACCESS);
    ask(&mut net, 1, bless(true), Status::ACCESS);
    assert!(net.peer(1).logs.contains(&Log::DeviceExcluded));
    net.sleep(TIMEOUT);
    assert_eq!(net.status(1).device_withheld, 2);
}

#[test]
fn a_device_that_does_not_poll_loses_its_vote() {
    let mut net = voting(2, &[DEVICE]);
    form(&mut net, &[1], true);
    assert!(net.quorate(1));
    net.sleep(TIMEOUT - Duration::from_millis(1));
    assert!(net.quorate(1));
    vote(&mut net, 1, true);
    net.sleep(TIMEOUT - Duration::from_millis(1));
    assert!(net.quorate(1));
    net.sleep(Duration::from_millis(1));
    assert!(!net.quorate(1));
    let lost = Log::DeviceLost {
        name: NAME.to_owned(),
    };
    assert!(net.peer(1).logs.contains(&lost));
    vote(&mut net, 1, true);
    assert!(net.quorate(1));
}

#[test]
fn synchronisation_waits_for_the_device_but_not_for_ever() {
    let mut net = voting(3, &[DEVICE]);
    let ids = [1, 2];
    net.begin(&ids);
    assert!(net.held(&ids).is_empty());
    net.process(&ids);
    while net.deliver_one(&ids, Lane::Sync) {}
    assert_eq!(net.held(&ids), ids);
    let announcements = net.peer(1).announcements;
    let late = RingId { nodeid: 1, seq: 1 };
    net.call(1, poll(NAME, true, late));
    assert_eq!(net.held(&ids), ids, "a poll for the old ring says nothing");
    let now = net.now;
    let ring = ring(&mut net, 1);
    let request = poll(NAME, true, ring);
    let core = &mut net.peer(1).core;
    core.handle_votequorum_request(now, ClientId(1), request);
    assert_eq!(net.held(&ids), [2]);
    // Node 3 is not part of it, and its device is silent as well.
    net.kill(3);
    net.sleep(SYNC_TIMEOUT);
    assert!(net.held(&ids).is_empty());
    while net.deliver_one(&ids, Lane::Sync) {}
    assert_eq!(net.peer(1).announcements, announcements);
    net.activate(&ids);
    assert_eq!(net.status(2).device_withheld, 2);
    assert!(!net.quorate(2));
}

#[test]
fn an_aborted_synchronisation_waits_for_nothing() {
    let mut net = voting(2, &[DEVICE]);
    net.begin(&[1]);
    net.process(&[1]);
    assert_eq!(net.held(&[1]), [1]);
    net.peer(1).core.sync_abort();
    assert!(net.held(&[1]).is_empty());
    form(&mut net, &[1, 2], true);
    assert!(net.quorate(1));
}

#[test]
fn unregistering_ends_the_waiting() {
    let mut net = voting(2, &[DEVICE]);
    net.begin(&[1]);
    net.process(&[1]);
    net.call(1, unregister(NAME));
    assert!(net.held(&[1]).is_empty());
}

#[test]
fn a_blessed_partition_is_quorate_whatever_the_count() {
    let mut net = voting(4, &["device {\nmodel: net\nvotes: 1\n}"]);
    for id in 1..=4 {
        ask(&mut net, id, bless(true), Status::OK);
    }
    form(&mut net, &[1], true);
    form(&mut net, &[2, 3, 4], false);
    assert!(net.quorate(1));
    ask(&mut net, 1, bless(false), Status::OK);
    assert!(!net.quorate(1));
    ask(&mut net, 1, bless(true), Status::OK);
    assert!(net.quorate(1));
    ask(&mut net, 1, unregister(NAME), Status::OK);
    assert!(!net.quorate(1));
}

#[test]
fn a_client_that_dies_while_it_registers_leaves_nothing_behind() {
    let mut net = Net::together(Setup::new(2, &[DEVICE]));
    let now = net.now;
    let core = &mut net.peer(1).core;
    core.handle_votequorum_request(now, ClientId(5), register());
    core.handle_votequorum_request(now, ClientId(6), register());
    net.peer(1).drain();
    let busy = Response::Done(Status::TRY_AGAIN);
    assert_eq!(net.peer(1).responses, [busy]);
    net.peer(1).core.client_gone(ClientId(5));
    net.peer(1).drain();
    net.run(&[1, 2]);
    assert_eq!(net.peer(1).responses.len(), 1);
    let other = Request::DeviceRegister {
        name: "Other".to_owned(),
    };
    ask(&mut net, 2, other, Status::OK);
    ask(&mut net, 1, register(), Status::EXIST);
}

#[test]
fn new_nodes_learn_the_name_and_the_votes() {
    let mut net = Net::up(Setup::new(3, &["device {\nmodel: net\nvotes: 1\n}"]));
    net.form(&[1, 2]);
    ask(&mut net, 1, register(), Status::OK);
    net.form(&[1, 2, 3]);
    let other = Request::DeviceRegister {
        name: "Other".to_owned(),
    };
    ask(&mut net, 3, other, Status::EXIST);
    let refused = Log::DeviceRefused {
        known: NAME.to_owned(),
        refused: "Other".to_owned(),
    };
    assert!(net.peer(3).logs.contains(&refused));
    let info = net.call(3, Request::GetInfo { nodeid: 1 });
    let Response::Info(Ok(info)) = info else {
        panic!("{info:?}");
    };
    assert_eq!((info.device_name.as_str(), info.device_votes), (NAME, 1));
    assert_eq!(info.flags & 64, 64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The device votes in one of two partitions; half of the time it is the smaller one.
    #[test]
    fn a_device_that_votes_once_makes_one_quorate_partition(
        nodes in 2_usize..6, one_vote: bool,
        steps in prop::collection::vec((any::<u8>(), any::<bool>()), 1..10),
    ) {
        let device = if one_vote { "device {\nmodel: net\nvotes: 1\n}" } else { DEVICE };
        let mut net = voting(nodes, &[device]);
        let all: Vec<u32> = net.peers.keys().copied().collect();
        for (mask, granted) in steps {
            let inside = |id: &u32| mask >> id & 1 == u8::from(granted);
            let (with, without): (Vec<u32>, Vec<u32>) = all.iter().partition(|id| inside(id));
            if !without.is_empty() {
                form(&mut net, &without, false);
            }
            if !with.is_empty() {
                form(&mut net, &with, true);
            }
            let quorate = |group: &[u32]| group.iter().filter(|id| net.quorate(**id)).count();
            let counts = [quorate(&with), quorate(&without)];
            prop_assert!(counts[0] == 0 || counts[1] == 0, "{:?} {:?}", with, without);
            prop_assert!([0, with.len()].contains(&counts[0]));
            prop_assert!([0, without.len()].contains(&counts[1]));
            // Any node that has all votes of the device goes on.
            prop_assert!(one_vote || with.is_empty() || counts[0] > 0);
        }
    }
}

#[test]
fn foreign_and_early_messages_are_reported() {
    use crate::wire::votequorum::{Message, NodeFlags, NodeInfo};
    let mut net = Net::together(Setup::new(2, &[]));
    for node in [0, 2] {
        let info = NodeInfo {
            node: NodeId(node),
            votes: 9,
            expected_votes: 9,
            flags: NodeFlags::default(),
        };
        let core = &mut net.peer(1).core;
        core.handle_message(NodeId(7), Message::NodeInfo(info));
    }
    net.peer(1).drain();
    let strange = net.peer(1).logs.iter();
    assert_eq!(
        strange
            .filter(|log| **log == Log::Strange(NodeId(7)))
            .count(),
        2
    );
    assert_eq!(net.status(1).votes, 2);
}
