//! Each option of the configuration does what its documentation says.

use std::time::Duration;

use super::super::{Conflict, Log, Quorum};
use super::Setup;
use super::net::Net;
use crate::proto::srp::Lane;
use crate::service::cmap::Raw;
use crate::service::votequorum::{Event, Request, Response};
use crate::service::{ClientId, Status, TRACK_CHANGES};
use crate::wire::NodeId;

const WINDOW: Duration = Duration::from_secs(10);

fn expect(votes: u32) -> Request {
    Request::SetExpected { votes }
}

fn refused(setup: &Setup) -> Conflict {
    Quorum::new(NodeId(1), &setup.config(1), 0).expect_err("a conflict")
}

#[test]
fn more_than_half_of_the_votes_are_enough() {
    let mut net = Net::together(Setup::new(3, &[]));
    let status = net.status(1);
    assert_eq!((status.votes, status.expected, status.quorum), (3, 3, 2));
    net.form(&[1, 2]);
    assert!(net.quorate(1) && net.quorate(2));
    net.form(&[1]);
    assert!(!net.quorate(1));
    let status = net.status(1);
    assert_eq!(
        (status.short, status.missing),
        (1, vec![NodeId(2), NodeId(3)])
    );
    assert!(matches!(net.peer(1).logs.last(), Some(Log::Changed(now)) if !now.quorate));
    net.form(&[1]);
    assert!(matches!(
        net.peer(1).logs.last(),
        Some(Log::StillInquorate(_))
    ));
}

#[test]
fn votes_of_nodes_count() {
    let mut net = Net::together(Setup::weighted(&[3, 1, 1], &[]));
    assert_eq!(net.status(1).quorum, 3);
    net.form(&[1]);
    assert!(net.quorate(1));
    net.form(&[2, 3]);
    assert!(!net.quorate(2));
}

#[test]
fn more_votes_than_eight_bits_count() {
    let mut net = Net::together(Setup::weighted(&[200, 200, 200], &[]));
    assert_eq!(net.status(1).quorum, 301);
    net.form(&[1]);
    assert!(!net.quorate(1));
}

#[test]
fn written_expected_votes_are_in_force_until_more_show_up() {
    let mut net = Net::up(Setup::new(3, &["expected_votes: 5"]));
    net.form(&[1, 2, 3]);
    let status = net.status(1);
    assert_eq!((status.expected, status.quorum), (5, 3));
    let mut net = Net::together(Setup::new(3, &["expected_votes: 2"]));
    assert_eq!(net.status(2).expected, 3);
    assert!(net.quorate(2));
    net.form(&[2]);
    assert!(!net.quorate(2));
}

#[test]
fn one_of_two_nodes_is_enough_once_both_were_there() {
    let mut net = Net::up(Setup::new(2, &["two_node: 1"]));
    net.form(&[1]);
    assert!(!net.quorate(1));
    assert!(net.status(1).waiting_for_all);
    assert_eq!(net.status(1).short, 1);
    net.form(&[1, 2]);
    assert!(net.quorate(1) && net.quorate(2));
    net.form(&[1]);
    assert!(net.quorate(1));
    net.kill(2);
    net.start(2);
    net.form(&[2]);
    assert!(!net.quorate(2));
    net.form(&[1, 2]);
    assert!(net.quorate(1) && net.quorate(2));
    let key = "runtime.votequorum.wait_for_all_status";
    assert_eq!(net.peer(2).keys[key], Raw::u8(0));
}

#[test]
fn two_nodes_that_do_not_wait_are_quorate_alone() {
    let mut net = Net::up(Setup::new(2, &["two_node: 1", "wait_for_all: 0"]));
    net.form(&[1]);
    assert!(net.quorate(1));
}

#[test]
fn nodes_wait_for_all_once() {
    let mut net = Net::up(Setup::new(3, &["wait_for_all: 1"]));
    net.form(&[1, 2]);
    assert!(!net.quorate(1));
    assert_eq!(net.status(1).short, 1);
    net.form(&[1, 2, 3]);
    assert!(net.quorate(1));
    net.form(&[1, 2]);
    assert!(net.quorate(1));
    // A restarted node is told by the others that they do not wait.
    net.kill(3);
    net.start(3);
    net.form(&[1, 2, 3]);
    assert!(net.quorate(3));
}

#[test]
fn a_node_that_keeps_quorum_tells_new_ones_not_to_wait() {
    let mut net = Net::up(Setup::new(5, &["wait_for_all: 1"]));
    net.form(&[1, 2, 3, 4, 5]);
    net.form(&[1, 2, 3]);
    [4, 5].into_iter().for_each(|id| {
        net.kill(id);
        net.start(id);
    });
    // Nodes 2 and 3 go in the same moment in which the others come.
    for seed in 0..20 {
        net.seed(seed);
        net.form(&[1, 4, 5]);
        assert!([1, 4, 5].into_iter().all(|id| net.quorate(id)), "{seed}");
    }
}

#[test]
fn who_loses_quorum_waits_again_until_told_not_to() {
    let mut net = Net::together(Setup::new(5, &["wait_for_all: 1"]));
    net.form(&[1, 2]);
    net.form(&[1, 2, 3]);
    assert!(net.quorate(3) && net.quorate(1));
    net.form(&[1, 2]);
    net.kill(3);
    net.start(3);
    net.form(&[1, 2, 3]);
    assert!(!net.quorate(1) && net.status(1).waiting_for_all);
    net.peer(2).core.cancel_wait_for_all();
    net.peer(2).drain();
    net.run(&[1, 2, 3]);
    assert!([1, 2, 3].into_iter().all(|id| net.quorate(id)));
    assert!(
        net.peer(1)
            .logs
            .contains(&Log::WaitForAllCancelled(NodeId(2)))
    );
}

#[test]
fn an_aborted_synchronisation_releases_nobody() {
    let mut net = Net::up(Setup::new(3, &["wait_for_all: 1"]));
    (1..=3).for_each(|id| net.form(&[id]));
    assert_eq!(net.call(2, expect(1)), Response::Done(Status::OK));
    assert!(net.quorate(2));
    let attempt = [2, 3];
    net.begin(&attempt);
    net.process(&attempt);
    while net.deliver_one(&attempt, Lane::Sync) {}
    net.peer(3).core.sync_abort();
    net.form(&[1, 3]);
    assert!(!net.quorate(1) && !net.quorate(3));
    assert_eq!(net.status(3).expected, 3);
    net.form(&[2, 3]);
    assert!(net.quorate(3));
}

#[test]
fn the_preferred_half_keeps_quorum() {
    for (node, winners) in [
        ("lowest", [1, 2]),
        ("highest", [3, 4]),
        ("3 1", [3, 4]),
        ("9 2 3", [1, 2]),
    ] {
        let line = format!("auto_tie_breaker_node: {node}");
        let mut net = Net::together(Setup::new(4, &["auto_tie_breaker: 1", &line]));
        net.form(&[1, 2]);
        net.form(&[3, 4]);
        for id in 1..=4 {
            assert_eq!(net.quorate(id), winners.contains(&id), "{node} {id}");
        }
    }
}

#[test]
fn a_tie_breaker_does_not_give_quorum_to_a_half_that_had_none() {
    let mut net = Net::together(Setup::new(4, &["auto_tie_breaker: 1"]));
    net.form(&[1]);
    net.form(&[2, 3, 4]);
    net.form(&[2, 3]);
    assert!(net.quorate(2), "lowest of the last quorate partition");
    net.form(&[1, 4]);
    assert!(!net.quorate(1) && !net.quorate(4));
}

#[test]
fn quorum_shrinks_with_the_last_men() {
    let mut net = Net::together(Setup::new(5, &["last_man_standing: 1", "wait_for_all: 1"]));
    net.form(&[1, 2, 3]);
    assert_eq!(net.status(1).expected, 5);
    net.sleep(WINDOW - Duration::from_millis(1));
    assert_eq!(net.status(1).expected, 5);
    net.sleep(Duration::from_millis(1));
    assert_eq!((net.status(1).expected, net.status(1).quorum), (3, 2));
    net.form(&[1, 2]);
    assert!(net.quorate(1));
    net.sleep(WINDOW);
    net.form(&[1]);
    assert!(!net.quorate(1), "the last step needs a tie breaker");
}

#[test]
fn the_last_man_stands_with_a_tie_breaker() {
    let options = [
        "last_man_standing: 1",
        "auto_tie_breaker: 1",
        "wait_for_all: 1",
    ];
    let mut net = Net::together(Setup::new(4, &options));
    for group in [vec![1, 2, 3], vec![1, 2], vec![1]] {
        net.form(&group);
        assert!(net.quorate(1), "{group:?}");
        net.sleep(WINDOW);
    }
    // Whoever comes back adopts what the last man expects.
    net.form(&[1, 2]);
    assert!(net.quorate(2));
    assert_eq!((net.status(1).expected, net.status(2).expected), (2, 2));
}

#[test]
fn last_man_standing_ends_with_a_node_of_several_votes() {
    let mut net = Net::together(Setup::weighted(&[1, 2, 1], &["last_man_standing: 1"]));
    assert!(
        net.peer(1)
            .logs
            .contains(&Log::LastManStandingOff(NodeId(2)))
    );
    net.form(&[1, 2]);
    net.sleep(WINDOW);
    assert_eq!(net.status(1).expected, 4);
}

#[test]
fn leaving_lowers_what_is_expected_as_far_as_it_was_written() {
    let setup = Setup::new(5, &["allow_downscale: 1", "expected_votes: 3"]);
    let mut net = Net::together(setup);
    assert_eq!((net.status(1).expected, net.peer(1).tracked), (5, 5));
    for (left, expected) in [(5, 4), (4, 3), (3, 3)] {
        net.peer(left).core.leave();
        net.peer(left).drain();
        let all: Vec<u32> = (1..=left).collect();
        net.run(&all);
        net.kill(left);
        net.form(&all[..all.len() - 1]);
        assert_eq!(net.status(1).expected, expected, "{left}");
        assert!(net.quorate(1));
    }
    assert_eq!(net.status(1).quorum, 2);
}

#[test]
fn without_downscale_nobody_says_that_he_leaves() {
    let mut net = Net::together(Setup::new(3, &[]));
    net.peer(3).core.leave();
    assert_eq!(net.peer(3).core.poll_output(), None);
}

#[test]
fn the_most_expected_votes_are_remembered_over_restarts() {
    let setup = Setup::new(3, &["expected_votes_tracking: 1"]);
    let mut net = Net::together(setup);
    assert_eq!(
        net.call(1, expect(7)),
        Response::Done(Status::INVALID_PARAM)
    );
    assert_eq!(net.call(1, expect(5)), Response::Done(Status::OK));
    assert_eq!(net.peer(2).tracked, 5);
    [1, 2, 3].into_iter().for_each(|id| {
        net.kill(id);
        net.start(id);
    });
    net.form(&[1, 2]);
    assert_eq!((net.status(1).expected, net.quorate(1)), (5, false));
    net.form(&[1, 2, 3]);
    assert!(net.quorate(1));
}

#[test]
fn expected_votes_are_lowered_by_order_and_adopted_by_those_who_come() {
    let mut net = Net::together(Setup::new(4, &[]));
    net.form(&[1]);
    net.form(&[2]);
    assert!(!net.quorate(1));
    let call = net.call(
        1,
        Request::TrackStart {
            context: 7,
            flags: TRACK_CHANGES,
        },
    );
    assert_eq!(call, Response::Done(Status::OK));
    assert_eq!(net.call(1, expect(1)), Response::Done(Status::OK));
    assert!(net.quorate(1));
    let told = Event::ExpectedVotes {
        context: 7,
        expected_votes: 1,
    };
    assert!(net.peer(1).events.contains(&(ClientId(1), told)));
    net.form(&[1, 2]);
    assert!(net.quorate(1) && net.quorate(2));
    assert_eq!((net.status(1).expected, net.status(2).expected), (2, 2));
}

#[test]
fn orders_that_cost_quorum_are_refused() {
    let mut net = Net::together(Setup::new(3, &[]));
    for (votes, status) in [
        (2, Status::INVALID_PARAM),
        (6, Status::INVALID_PARAM),
        (0, Status::INVALID_PARAM),
        (5, Status::OK),
    ] {
        assert_eq!(
            net.call(2, expect(votes)),
            Response::Done(status),
            "{votes}"
        );
    }
    assert_eq!((net.status(1).expected, net.status(3).quorum), (5, 3));
    let votes = |nodeid, votes| Request::SetVotes { nodeid, votes };
    assert_eq!(
        net.call(1, votes(9, 1)),
        Response::Done(Status::NAME_NOT_FOUND)
    );
    assert_eq!(
        net.call(1, votes(2, 0)),
        Response::Done(Status::INVALID_PARAM)
    );
    assert_eq!(net.status(1).votes, 3, "a refused order changes nothing");
    assert_eq!(net.call(1, votes(2, 2)), Response::Done(Status::OK));
    assert_eq!((net.status(3).votes, net.status(1).quorum), (4, 3));
}

#[test]
fn a_changed_configuration_is_taken() {
    let mut net = Net::together(Setup::new(3, &[]));
    let wider = Setup::weighted(&[2, 1, 1, 1], &[]);
    for id in 1..=3 {
        let config = wider.config(id);
        net.peer(id).core.reload(&config);
        net.peer(id).drain();
    }
    net.run(&[1, 2, 3]);
    for id in 1..=3 {
        let status = net.status(id);
        assert_eq!((status.votes, status.expected, status.quorum), (4, 5, 3));
        assert_eq!(status.missing, [NodeId(4)]);
    }
    net.setup = wider;
    net.start(4);
    net.form(&[1, 2, 3, 4]);
    assert_eq!(net.status(4).votes, 5);
    let smaller = Setup::new(2, &["two_node: 1"]);
    net.form(&[1, 2]);
    for id in 1..=2 {
        let config = smaller.config(id);
        net.peer(id).core.reload(&config);
        net.peer(id).drain();
    }
    net.run(&[1, 2]);
    let keys = &net.peer(1).keys;
    assert_eq!(keys["runtime.votequorum.two_node"], Raw::u8(1));
    // As with Corosync, there from the first reload on.
    assert_eq!(keys["runtime.votequorum.atb_type"], Raw::u32(0));
    net.form(&[1]);
    assert!(net.quorate(1));
}

#[test]
fn a_bad_change_is_reported_and_what_runs_stays() {
    let mut net = Net::together(Setup::new(3, &["device {\nmodel: net\n}"]));
    let conflicts = |net: &mut Net| {
        let logs = std::mem::take(&mut net.peer(1).logs);
        let conflict = |log| match log {
            Log::Conflict(conflict) => Some(conflict),
            _ => None,
        };
        logs.into_iter().filter_map(conflict).collect::<Vec<_>>()
    };
    let both = Setup::new(3, &["two_node: 1", "device {\nmodel: net\n}"]).config(1);
    net.peer(1).core.reload(&both);
    net.peer(1).drain();
    assert_eq!(conflicts(&mut net), [Conflict::TwoNodeWithDevice]);
    let register = Request::DeviceRegister {
        name: "Q".to_owned(),
    };
    assert_eq!(net.call(1, register), Response::Done(Status::ACCESS));
    let foreign = Setup {
        votes: vec![],
        quorum: "provider: corosync_votequorum\n".to_owned(),
    };
    let mut empty = foreign.quorum;
    empty.push_str("expected_votes: 0\n");
    let mut config = Setup {
        votes: vec![1],
        quorum: empty,
    }
    .config(1);
    config.local = None;
    net.peer(1).core.reload(&config);
    net.peer(1).drain();
    assert_eq!(conflicts(&mut net), [Conflict::NoVotes]);
}

#[test]
fn options_that_exclude_each_other_are_refused_at_the_start() {
    let device = "device {\nmodel: net\n}";
    let with_votes = "device {\nmodel: net\nvotes: 3\n}";
    let cases: &[(&[u32], &[&str], Conflict)] = &[
        (
            &[1, 1],
            &["two_node: 1", device],
            Conflict::TwoNodeWithDevice,
        ),
        (
            &[1, 1, 1],
            &["last_man_standing: 1", device],
            Conflict::DeviceWithLastMan,
        ),
        (
            &[1, 1],
            &["auto_tie_breaker: 1", device],
            Conflict::DeviceWithTieBreaker,
        ),
        (
            &[1, 1],
            &["allow_downscale: 1", device],
            Conflict::DeviceWithDownscale,
        ),
        (
            &[1, 1],
            &["expected_votes: 3", device],
            Conflict::DeviceVotesWithExpected,
        ),
        (&[2, 1], &[device], Conflict::DeviceVotesUneven),
        (
            &[1, 1],
            &["expected_votes: 4", with_votes],
            Conflict::DeviceVotesTooHigh,
        ),
        (
            &[1, 1, 1],
            &["auto_tie_breaker: 1", "last_man_standing: 1"],
            Conflict::OddTieBreakerWithLastMan,
        ),
    ];
    for (votes, options, conflict) in cases {
        assert_eq!(refused(&Setup::weighted(votes, options)), *conflict);
    }
    let mut setup = Setup::new(2, &[]);
    setup.quorum = "provider: corosync_ykd\n".to_owned();
    assert_eq!(
        refused(&setup),
        Conflict::Provider("corosync_ykd".to_owned())
    );
}

#[test]
fn options_that_yield_are_named() {
    let cases: &[(usize, &[&str], Conflict)] = &[
        (
            2,
            &["two_node: 1", "auto_tie_breaker: 1"],
            Conflict::TwoNodeWithTieBreaker,
        ),
        (3, &["auto_tie_breaker: 1"], Conflict::OddTieBreaker),
        (
            2,
            &["auto_tie_breaker: 1", "auto_tie_breaker_node: x"],
            Conflict::TieBreakerNode,
        ),
    ];
    for (nodes, options, conflict) in cases {
        let mut net = Net::up(Setup::new(*nodes, options));
        let log = Log::Conflict(conflict.clone());
        assert!(net.peer(1).logs.contains(&log), "{conflict}");
    }
}

#[test]
fn without_a_provider_everything_is_quorate_and_nothing_is_sent() {
    let mut net = Net::up(Setup::without_provider(3));
    assert!(!net.peer(1).core.has_votequorum());
    net.form(&[1]);
    let said = net.peer(1).said.clone().expect("an announcement");
    assert_eq!((said.0, said.1), (true, vec![NodeId(1)]));
    assert!(net.status(1).quorate);
    assert!(!net.deliver_one(&[1], Lane::Sync));
}
