//! Load on a ring of Corosync and corosync-lite while nodes die.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;

use tests::agent::run_if_asked;
use tests::corosync::{Settings, Transport};
use tests::lab::{Requirement, missing};
use tests::mixed::load::{Plan, run};
use tests::mixed::{CLIENT_OPTION, Kind, Ring, run_client};

/// Let the nodes of a ring of Corosync and corosync-lite send messages while nodes of either kind
/// are killed and come back, and check that all members are told the same. Needs root.
#[derive(Debug, Parser)]
struct Arguments {
    /// Nodes that run Corosync
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=16))]
    corosync: u8,
    /// Nodes that run corosync-lite
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=16))]
    lite: u8,
    /// How long
    #[arg(long, default_value_t = 600, value_name = "N")]
    seconds: u64,
    /// Choices are made from this number
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Longest message, in bytes
    #[arg(long, default_value_t = 100_000, value_name = "BYTES")]
    longest: usize,
    /// Rest of each sender after each message
    #[arg(long, default_value_t = 2000, value_name = "MICROSECONDS")]
    pause: u64,
    /// Plain UDP instead of knet
    #[arg(long)]
    udpu: bool,
    /// No encryption
    #[arg(long)]
    clear: bool,
}

fn main() -> ExitCode {
    let result = match run_if_asked(CLIENT_OPTION, run_client) {
        Some(result) => result,
        None => load(&Arguments::parse()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringload: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn load(arguments: &Arguments) -> Result<()> {
    let needed = [
        Requirement::Root,
        Requirement::Network,
        Requirement::Corosync,
    ];
    if let Some(text) = missing(&needed) {
        bail!("{text}");
    }
    // Kinds alternate, so that the lowest and the highest node differ.
    let (mut corosync, mut lite) = (arguments.corosync, arguments.lite);
    let mut kinds = Vec::new();
    while corosync + lite > 0 {
        if lite > 0 {
            kinds.push(Kind::Lite);
            lite -= 1;
        }
        if corosync > 0 {
            kinds.push(Kind::Corosync);
            corosync -= 1;
        }
    }
    let mut settings = Settings::new(kinds.len());
    settings.encrypted = !(arguments.clear || arguments.udpu);
    if arguments.udpu {
        settings.transport = Transport::Udpu;
        settings.links = 1;
    }
    let plan = Plan {
        time: Duration::from_secs(arguments.seconds),
        seed: arguments.seed,
        longest: arguments.longest,
        pause: Duration::from_micros(arguments.pause),
    };
    let own = std::env::current_exe().context("cannot find this program")?;
    let mut ring = Ring::start(&kinds, settings, &own)?;
    let outcome = run(&mut ring, &plan, |line| println!("{line}"))?;
    ring.finish()?;
    println!("{outcome}");
    Ok(())
}
