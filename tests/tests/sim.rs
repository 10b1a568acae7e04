//! Simulated histories of whole clusters: fresh ones, old failures, scenarios by hand, and proof
//! that the checkers notice defects.

use tests::histories::on_all_cores;
use tests::sim::{self, Defect, Fault, Options, Report, World, check::Counts};

/// Histories of one run: as many as a short run allows.
const HISTORIES: u64 = 2500;

/// Runs histories on all cores; the first failure ends the test.
fn run_all(histories: impl Fn(u64) -> Options + Sync, count: u64) -> Counts {
    let run = |at| {
        let report = World::new(histories(at)).run();
        report.failure_text().map_or(Ok(report.counts), Err)
    };
    on_all_cores(count, run, Counts::add)
}

/// A quiet cluster with these faults and nothing else.
fn with_faults(seed: u64, nodes: usize, faults: &[Fault]) -> Options {
    Options {
        nodes,
        steps: 2500,
        faults: faults.to_vec(),
        fault_gap: 120,
        clients: 2,
        ..Options::draw(seed)
    }
}

#[test]
fn histories_keep_the_rules() {
    let counts = run_all(|at| Options::draw(1_000_000 + at), HISTORIES);
    // Not by standing still.
    assert!(counts.acknowledged > HISTORIES * 5, "{counts:?}");
    assert!(counts.replaced > HISTORIES, "{counts:?}");
    assert!(counts.refused > HISTORIES / 20, "{counts:?}");
    assert!(counts.superseded > 0, "{counts:?}");
}

#[test]
fn old_failures_stay_fixed() {
    let seeds: Vec<u64> = include_str!("sim/seeds.txt")
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .map(|line| line.trim().parse().expect("a seed"))
        .collect();
    let count = seeds.len() as u64;
    run_all(
        |at| Options::draw(seeds[usize::try_from(at).expect("an index")]),
        count,
    );
}

#[test]
fn a_seed_gives_the_same_events_each_time() {
    for seed in 1..=20 {
        let [first, second] = [sim::run(seed), sim::run(seed)];
        assert_eq!(
            (first.hash, first.steps),
            (second.hash, second.steps),
            "seed {seed}"
        );
    }
    assert_ne!(sim::run(1).hash, sim::run(2).hash);
}

#[test]
fn a_member_that_joins_and_stays_silent_holds_nobody_up_for_longer_than_it_lives() {
    run_all(|at| with_faults(at, 3, &[Fault::SilentMember]), 40);
}

#[test]
fn the_leader_dies_while_it_sends_updates() {
    let faults = [Fault::DieInRound, Fault::OldDatabase, Fault::Partition];
    let counts = run_all(|at| with_faults(at, 5, &faults), 40);
    assert!(counts.replaced > 0, "{counts:?}");
}

#[test]
fn quorum_is_lost_between_proposal_and_delivery() {
    let counts = run_all(
        |at| with_faults(at, 3, &[Fault::Partition, Fault::Burst]),
        60,
    );
    assert!(counts.refused > 0, "{counts:?}");
}

#[test]
fn the_disk_fails_at_commit() {
    let counts = run_all(|at| with_faults(at, 3, &[Fault::DiskFull]), 40);
    assert!(counts.leaves > 0, "{counts:?}");
}

#[test]
fn a_storm_of_writes_meets_a_busy_ring() {
    run_all(
        |at| with_faults(at, 5, &[Fault::Burst, Fault::Backpressure]),
        30,
    );
}

#[test]
fn a_node_can_be_heard_by_nobody() {
    run_all(|at| with_faults(at, 4, &[Fault::OneWay]), 40);
}

#[test]
fn acknowledged_changes_all_stay_where_no_process_or_disk_loses_anything() {
    // Delivered to all before anybody sees them, and nobody leaves or loses its disk: then no
    // acknowledged change may lose against another history.
    let options = |at| Options {
        safe_delivery: true,
        uneven_start: false,
        unchecked_writers: false,
        ..with_faults(at, 5, &[Fault::Pause, Fault::Backpressure])
    };
    let counts = run_all(options, 60);
    assert_eq!(counts.superseded, 0, "{counts:?}");
}

/// The first history in which a defect is noticed.
fn noticed(defect: Defect) -> Option<Report> {
    let history = |seed| {
        let mut options = Options::draw(seed);
        options.nodes = 3;
        options.steps = 3000;
        options.faults = vec![Fault::Partition, Fault::Crash, Fault::Pause];
        options.fault_gap = 150;
        options.clients = 2;
        options.defect = Some((defect, usize::try_from(seed % 3).expect("small")));
        World::new(options).run()
    };
    (0..60).map(history).find(|report| report.failure.is_some())
}

#[test]
fn the_checkers_notice_defects() {
    for defect in Defect::ALL {
        let checker = noticed(defect)
            .and_then(|report| report.failure)
            .map(|failure| failure.checker);
        let expected: &[&str] = match defect {
            Defect::IgnoreQuorum => &["no change without quorum"],
            Defect::SwapOrder => &["members in sync are equal", "same changes, same tree"],
            Defect::KeepDeleted => &["members in sync are equal", "same changes, same tree"],
            Defect::AnswerEarly => &["stored before acknowledged"],
            Defect::DropRow => &["database equals tree"],
            Defect::StaleState | Defect::NoRounds => &["highest version wins"],
        };
        let is_expected = checker.is_some_and(|checker| expected.contains(&checker));
        assert!(is_expected, "{defect:?}: {checker:?}");
    }
}
