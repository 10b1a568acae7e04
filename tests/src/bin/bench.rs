//! Compares mounted directories: `bench [--ops N] [--seconds S] NAME=DIR[:PID] ...`.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use nix::sys::signal::{SigSet, Signal};

use tests::bench::{Op, Plan, Target, TargetSpec, run};

/// Measure one or more mounted directories, in turns, and print them side by side.
#[derive(Debug, Parser)]
struct Arguments {
    /// Operations of each kind in each round
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=5000))]
    ops: u32,
    /// Begin new rounds for so many seconds
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Only these kinds of operation
    #[arg(long, value_delimiter = ',')]
    only: Vec<Op>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Directories, and the pids of the daemons that serve them
    #[arg(required = true, value_name = "NAME=DIR[:PID]")]
    targets: Vec<TargetSpec>,
}

fn main() -> ExitCode {
    match measure(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: Arguments) -> Result<()> {
    let stop = stop_on_signal()?;
    let targets: Vec<_> = arguments
        .targets
        .iter()
        .map(|spec| Target::prepare(spec).with_context(|| format!("target {}", spec.name)))
        .collect::<Result<_>>()?;
    let kinds = if arguments.only.is_empty() {
        Op::ALL.to_vec()
    } else {
        arguments.only
    };
    let time = Duration::from_secs(arguments.seconds);
    let report = run(
        &targets,
        &Plan {
            ops: arguments.ops,
            time,
            kinds,
        },
        &stop,
    )?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    Ok(())
}

/// Ctrl-C ends the run after the slice at hand, with the report so far and nothing left behind.
fn stop_on_signal() -> Result<Arc<AtomicBool>> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            flag.store(true, Ordering::Relaxed);
        }
    });
    Ok(stop)
}
