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
use tests::{ringsim, sim};

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
    /// Whole messaging daemons over a network, instead of file systems over a model of messaging.
    #[arg(long)]
    rings: bool,
    /// Print all events of the history (with --rings).
    #[arg(long)]
    log: bool,
}

thread_local! {
    /// The history that this thread runs.
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// What there is to say of a history.
#[derive(Debug)]
struct Outcome {
    line: String,
    failure: Option<String>,
    counts: Counts,
}

/// What happened how often, in one of the simulators.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    replicas: sim::check::Counts,
    rings: ringsim::Counts,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.replicas.add(other.replicas);
        self.rings.add(other.rings);
    }

    fn text(&self, rings: bool) -> String {
        if rings {
            format!("{:?}", self.rings)
        } else {
            format!("{:?}", self.replicas)
        }
    }
}

/// Runs a history; a panic names its seed, also where it ends the process at once.
fn run(seed: u64, rings: bool, log: bool) -> Outcome {
    SEED.set(seed);
    let mut counts = Counts::default();
    let (steps, hash, failure) = if rings {
        let world = ringsim::World::new(ringsim::Options::draw(seed));
        let report = if log { world.loud() } else { world }.run();
        counts.rings = report.counts;
        (report.steps, report.hash, report.failure_text())
    } else {
        let report = sim::run(seed);
        counts.replicas = report.counts;
        (report.steps, report.hash, report.failure_text())
    };
    Outcome {
        line: format!("steps {steps} hash {hash:016x} {}", counts.text(rings)),
        failure,
        counts,
    }
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
        return finish(&run(first, arguments.rings, arguments.log));
    }
    let last = arguments
        .histories
        .map_or(u64::MAX, |count| first.saturating_add(count));
    let minutes = arguments.minutes.unwrap_or(u64::MAX / 120);
    let limit = Duration::from_secs(minutes.saturating_mul(60));
    campaign(first, last, limit, &arguments)
}

fn finish(outcome: &Outcome) -> ExitCode {
    println!("{}", outcome.line);
    match &outcome.failure {
        None => ExitCode::SUCCESS,
        Some(text) => {
            println!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn campaign(first: u64, last: u64, limit: Duration, arguments: &Arguments) -> ExitCode {
    let start = clock::monotonic();
    let next = AtomicU64::new(first);
    let failed = AtomicBool::new(false);
    let done = Mutex::new((0u64, Counts::default()));
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) && start.elapsed() < limit {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= last {
                        break;
                    }
                    let outcome = run(seed, arguments.rings, false);
                    if outcome.failure.is_some() && !failed.swap(true, Ordering::Relaxed) {
                        finish(&outcome);
                    }
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.0 += 1;
                    done.1.add(outcome.counts);
                }
            });
        }
    });
    let (count, counts) = *done.lock().unwrap_or_else(PoisonError::into_inner);
    println!(
        "{count} histories in {:.1} s, {}",
        start.elapsed().as_secs_f64(),
        counts.text(arguments.rings)
    );
    if failed.load(Ordering::Relaxed) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
