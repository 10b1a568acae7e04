//! Runs simulated histories. See the module `tests::sim`.

use std::{
    cell::Cell,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use clap::Parser;
use pmxcfs::clock;
use tests::sim::{self, Report, check::Counts};

/// Simulates clusters, one history a seed.
#[derive(Debug, Parser)]
struct Arguments {
    /// The history to run; a fresh one if neither this nor a number of histories is given.
    seed: Option<u64>,
    /// Number of histories.
    #[arg(long)]
    histories: Option<u64>,
    /// First seed.
    #[arg(long)]
    from: Option<u64>,
    /// Go on for that long.
    #[arg(long)]
    minutes: Option<u64>,
    /// Histories at the same time.
    #[arg(long, default_value_t = 2)]
    threads: u32,
}

thread_local! {
    /// The history that this thread runs.
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// Runs a history; a panic names its seed, also where it ends the process at once.
fn run(seed: u64) -> Report {
    SEED.set(seed);
    sim::run(seed)
}

fn main() -> ExitCode {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        println!("panic in the history of seed {}", SEED.get());
        print(info);
    }));
    let arguments = Arguments::parse();
    let first = arguments
        .seed
        .or(arguments.from)
        .unwrap_or_else(|| clock::unix_seconds() * 1000);
    println!("first seed {first}");
    let one = arguments.histories.is_none() && arguments.minutes.is_none();
    if one {
        return finish(&run(first));
    }
    let last = arguments
        .histories
        .map_or(u64::MAX, |count| first.saturating_add(count));
    let minutes = arguments.minutes.unwrap_or(u64::MAX / 120);
    let limit = Duration::from_secs(minutes.saturating_mul(60));
    campaign(first, last, limit, arguments.threads)
}

fn finish(report: &Report) -> ExitCode {
    println!(
        "steps {} hash {:016x} {:?}",
        report.steps, report.hash, report.counts
    );
    match report.failure_text() {
        None => ExitCode::SUCCESS,
        Some(text) => {
            println!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn campaign(first: u64, last: u64, limit: Duration, threads: u32) -> ExitCode {
    let start = clock::monotonic();
    let next = AtomicU64::new(first);
    let failed = AtomicBool::new(false);
    let done = Mutex::new((0u64, Counts::default()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) && start.elapsed() < limit {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= last {
                        break;
                    }
                    let report = run(seed);
                    if report.failure.is_some() && !failed.swap(true, Ordering::Relaxed) {
                        finish(&report);
                    }
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.0 += 1;
                    done.1.add(report.counts);
                }
            });
        }
    });
    let (count, counts) = *done.lock().unwrap_or_else(PoisonError::into_inner);
    println!(
        "{count} histories in {:.1} s, {counts:?}",
        start.elapsed().as_secs_f64()
    );
    if failed.load(Ordering::Relaxed) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
