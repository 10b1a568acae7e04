//! Saved and captured inputs, and a few mutations of them, against all targets.

use tests::fuzz::TARGETS;
use tests::fuzz::campaign::{self, Limit, attempt};

/// Inputs of each target, besides those that are saved or captured.
const INPUTS: u64 = 400;

#[test]
fn saved_inputs_break_nothing() {
    for target in &TARGETS {
        for (path, input) in target.corpus().unwrap() {
            if let Err(text) = attempt(target, &input) {
                panic!("{}: {text}", path.display());
            }
        }
    }
}

#[test]
fn a_short_campaign_finds_nothing() {
    for target in &TARGETS {
        let seeds = (target.seeds)().len() as u64;
        let summary = campaign::run(target, 1, Limit::Inputs(seeds + INPUTS)).unwrap();
        if let Some(find) = summary.finds.first() {
            panic!("{}: {:02x?}: {}", target.name, find.input, find.text);
        }
        assert!(summary.shapes > 1, "{} only says one thing", target.name);
    }
}
