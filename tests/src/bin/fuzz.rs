//! Feeds hostile input: `fuzz [--target NAME]... [--seconds N] [--seed S]`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;

use tests::fuzz::campaign::{self, Limit, attempt, save};
use tests::fuzz::{TARGETS, Target, find};

/// Feed mutated input to everything that reads what others wrote. What breaks something is made
/// small, saved in `tests/corpus` and named.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only these targets
    #[arg(long, value_name = "NAME", value_parser = |name: &str| find(name).copied())]
    target: Vec<Target>,
    /// Time for each target
    #[arg(long, value_name = "N", default_value_t = 10)]
    seconds: u64,
    /// Seed of the mutations
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only name the targets
    #[arg(long)]
    list: bool,
    /// Only run this input
    #[arg(long, value_name = "FILE", requires = "target")]
    replay: Option<PathBuf>,
    /// Only write what campaigns start with to this folder, for other programs
    #[arg(long, value_name = "FOLDER")]
    write_seeds: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fuzz: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let targets = if arguments.target.is_empty() {
        TARGETS.to_vec()
    } else {
        arguments.target
    };
    if arguments.list {
        for target in targets {
            println!("{}", target.name);
        }
        return Ok(());
    }
    if let Some(path) = arguments.replay {
        let input = std::fs::read(&path).with_context(|| path.display().to_string())?;
        for target in &targets {
            match attempt(target, &input) {
                Ok(shape) => println!("{}: all is well (shape {shape:016x})", target.name),
                Err(text) => bail!("{}: {text}", target.name),
            }
        }
        return Ok(());
    }
    if let Some(folder) = arguments.write_seeds {
        return write_seeds(&targets, &folder);
    }
    let limit = Limit::Time(Duration::from_secs(arguments.seconds));
    let mut finds = 0;
    for target in &targets {
        let summary = campaign::run(target, arguments.seed, limit)?;
        println!(
            "{:<18} {:>9} inputs {:>6} shapes {:>3} finds",
            target.name,
            summary.inputs,
            summary.shapes,
            summary.finds.len()
        );
        for find in &summary.finds {
            finds += 1;
            let path = save(target, &find.input)?;
            println!(
                "  {}\n  {}",
                path.display(),
                find.text.replace('\n', "\n  ")
            );
        }
    }
    if finds > 0 {
        bail!("{finds} inputs break something; they are saved, run one with --target and --replay");
    }
    Ok(())
}

fn write_seeds(targets: &[Target], folder: &std::path::Path) -> Result<()> {
    for target in targets {
        let folder = folder.join(target.name);
        std::fs::create_dir_all(&folder)?;
        for (number, seed) in (target.seeds)().into_iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number:04}")), seed)?;
        }
    }
    Ok(())
}
