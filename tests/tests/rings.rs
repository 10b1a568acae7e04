//! Simulated histories of whole messaging daemons: fresh ones, old failures, scenarios by hand, and
//! proof that the checkers notice defects.

use tests::histories::on_all_cores;
use tests::ringsim::{
    self, Counts, Defect, Fault, Options, Report, World,
    options::{Transport, Votes, Weather},
};

/// Histories of one run: as many as a short run allows.
const HISTORIES: u64 = 2000;

/// Runs histories on all cores; the first failure ends the test.
fn run_all(histories: impl Fn(u64) -> Options + Sync, count: u64) -> Counts {
    let run = |at| {
        let report = World::new(histories(at)).run();
        report.failure_text().map_or(Ok(report.counts), Err)
    };
    on_all_cores(count, run, Counts::add)
}

/// Three nodes with two sealed links, and these faults.
fn with_faults(seed: u64, nodes: u32, faults: &[Fault]) -> Options {
    Options {
        nodes,
        transport: Transport::Knet,
        links: 2,
        crypto: Some(("aes256", "sha256")),
        token_ms: 500,
        votes: Votes::Majority,
        weather: Weather {
            delay_us: 200,
            ..Weather::default()
        },
        faulty_ms: 12_000,
        faults: faults.to_vec(),
        fault_gap_ms: 1000,
        processes: 2,
        deed_gap_ms: 50,
        message_max: 3000,
        replicas: false,
        ..Options::draw(seed)
    }
}

#[test]
fn histories_keep_the_rules() {
    let counts = run_all(|at| Options::draw(1_000_000 + at), HISTORIES);
    // Not by standing still.
    assert!(counts.delivered > HISTORIES * 500, "{counts:?}");
    assert!(counts.rings > HISTORIES * 5, "{counts:?}");
    assert!(counts.quorum > HISTORIES, "{counts:?}");
    assert!(counts.acknowledged > HISTORIES, "{counts:?}");
}

#[test]
fn old_failures_stay_fixed() {
    let seeds: Vec<u64> = include_str!("rings/seeds.txt")
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
    for seed in 1..=10 {
        let [first, second] = [ringsim::run(seed), ringsim::run(seed)];
        assert_eq!(
            (first.hash, first.steps),
            (second.hash, second.steps),
            "seed {seed}"
        );
    }
    assert_ne!(ringsim::run(1).hash, ringsim::run(2).hash);
}

#[test]
fn thirty_two_nodes_form_a_ring_and_survive_the_loss_of_some() {
    let options = |seed| Options {
        totem: "token_coefficient: 0\n".to_owned(),
        processes: 1,
        token_ms: 1000,
        faulty_ms: 8000,
        deed_gap_ms: 500,
        ..with_faults(seed, 32, &[Fault::Crash, Fault::Partition])
    };
    run_all(options, 4);
}

#[test]
fn a_node_dies_while_services_synchronize() {
    let options = |seed| Options {
        fault_gap_ms: 300,
        ..with_faults(seed, 4, &[Fault::Crash, Fault::Leave])
    };
    run_all(options, 30);
}

#[test]
fn one_of_two_links_is_enough() {
    let options = |seed| Options {
        faults: vec![],
        ..with_faults(seed, 3, &[])
    };
    let quiet = run_all(options, 5);
    let cut = |seed| with_faults(seed, 3, &[Fault::LinkUnusable]);
    let counts = run_all(cut, 5);
    assert!(counts.delivered > quiet.delivered / 10, "{counts:?}");
}

#[test]
fn what_was_sealed_once_does_no_harm_when_it_comes_again() {
    let faults = [Fault::Replay, Fault::Garbage, Fault::Crash];
    run_all(|seed| with_faults(seed, 3, &faults), 20);
}

/// The first history in which a defect is noticed.
fn noticed(defect: Defect) -> Option<Report> {
    let history = |seed: u64| {
        let mut options = with_faults(seed, 3, &[Fault::Partition, Fault::Crash, Fault::Pause]);
        options.groups = 1;
        options.defect = Some((defect, u32::try_from(seed % 3).expect("small") + 1));
        World::new(options).run()
    };
    (0..40).map(history).find(|report| report.failure.is_some())
}

#[test]
fn the_checkers_notice_defects() {
    for defect in Defect::ALL {
        let checker = noticed(defect)
            .and_then(|report| report.failure)
            .map(|failure| failure.checker);
        let expected: &[&str] = match defect {
            Defect::LoseMessage | Defect::DeliverTwice | Defect::SwapMessages => {
                &["messages come in order"]
            }
            Defect::SpoilMessage => &["messages are unchanged"],
            Defect::HideChange => &["changes add up", "only members are told"],
            Defect::ForgetRing => &["ring sequences increase"],
            Defect::ClaimQuorum => &["one partition may act", "a partition agrees on quorum"],
            Defect::StayAway => &["one ring"],
        };
        let is_expected = checker.is_some_and(|checker| expected.contains(&checker));
        assert!(is_expected, "{defect:?}: {checker:?}");
    }
}
