//! Compares two daemons of group messaging: `ringbench [--quick] [FIRST [SECOND]]`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;

use tests::agent::run_if_asked;
use tests::lab::{Requirement, missing};
use tests::ringbench::{AGENT_OPTION, Plan, Side, run, run_agent};

/// Measure two daemons of group messaging on rings of test hosts, in turns, and print the results
/// side by side. Needs root.
#[derive(Debug, Parser)]
struct Arguments {
    /// One ring of three, once: less than a minute
    #[arg(long)]
    quick: bool,
    /// Sizes of rings
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(2..=64))]
    nodes: Vec<u16>,
    /// How often everything is measured
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: Option<u16>,
    /// Begin no further round after so many minutes
    #[arg(long, value_name = "N")]
    minutes: Option<u64>,
    /// Token timeout of the rings, instead of a second for 4 nodes and 250 ms for each further one
    #[arg(long, value_name = "MILLISECONDS", value_parser = clap::value_parser!(u64).range(100..))]
    token: Option<u64>,
    /// Measure only what is named so: parts of names of rows
    #[arg(long, value_name = "TEXT,...", value_delimiter = ',')]
    only: Vec<String>,
    /// Print JSON, with the values of all rounds
    #[arg(long)]
    json: bool,
    /// The daemon to compare with
    #[arg(default_value = "corosync", value_name = "NAME=PATH")]
    first: Side,
    /// The daemon to measure
    #[arg(
        env = "COROSYNC_BIN",
        default_value = "corosync",
        value_name = "NAME=PATH"
    )]
    second: Side,
}

fn main() -> ExitCode {
    let result = match run_if_asked(AGENT_OPTION, run_agent) {
        Some(result) => result,
        None => measure(Arguments::parse()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringbench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: Arguments) -> Result<()> {
    let lacks = missing(&[Requirement::Root, Requirement::Network]);
    ensure!(lacks.is_none(), "{}", lacks.unwrap_or_default());
    let mut plan = if arguments.quick {
        Plan::quick()
    } else {
        Plan::full()
    };
    if !arguments.nodes.is_empty() {
        plan.rings = arguments.nodes.iter().copied().map(usize::from).collect();
    }
    if let Some(rounds) = arguments.rounds {
        plan.rounds = rounds.into();
    }
    if let Some(minutes) = arguments.minutes {
        plan.time = Duration::from_secs(minutes.saturating_mul(60));
    }
    if let Some(token) = arguments.token {
        plan.token = Some(Duration::from_millis(token));
    }
    plan.only = arguments.only;
    let sides = [arguments.first, arguments.second];
    let report = run(&sides, &plan, |line| eprintln!("{line}"));
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    ensure!(
        report.failures().is_empty(),
        "something went wrong, see above"
    );
    Ok(())
}
