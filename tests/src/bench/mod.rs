//! A benchmark that compares mounted directories.
//!
//! All directories are measured in one run. Each round does every operation on every directory,
//! and each round begins with another directory, so that noise of the machine hits all alike.
//! Everything happens in a directory of its own below each target, which is removed at the end.

mod op;
mod report;
mod target;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;

pub use op::Op;
pub use report::Report;
pub use target::{Target, TargetSpec};

use crate::process::Usage;
use crate::wait::now;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Operations of each kind in each round.
    pub ops: u32,
    /// New rounds are begun until this much time has passed.
    pub time: Duration,
    /// Kinds of operation, in the order in which they are done.
    pub kinds: Vec<Op>,
}

/// What was measured for one kind of operation on one target, over all rounds.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Duration of each operation.
    pub latencies: Vec<Duration>,
    /// Time from the first operation's start to the last one's end, summed over rounds.
    pub wall: Duration,
    /// What the daemon used meanwhile.
    pub usage: Usage,
}

/// Runs `plan` on `targets` until its time is over or `stop` is set.
///
/// # Errors
/// When a target cannot be read or written, or does not give back what was written.
pub fn run(targets: &[Target], plan: &Plan, stop: &AtomicBool) -> Result<Report> {
    let mut series = vec![vec![Series::default(); targets.len()]; plan.kinds.len()];
    let start = now();
    let mut rounds = 0;
    'rounds: while rounds == 0 || start.elapsed() < plan.time {
        for (kind, row) in plan.kinds.iter().zip(&mut series) {
            for turn in 0..targets.len() {
                if stop.load(Ordering::Relaxed) {
                    break 'rounds;
                }
                let which = (rounds + turn) % targets.len();
                measure(&targets[which], *kind, plan.ops, &mut row[which])?;
            }
        }
        rounds += 1;
    }
    Report::new(targets, plan, &series, rounds)
}

/// One slice: prepares, measures, checks and tidies up.
fn measure(target: &Target, kind: Op, ops: u32, series: &mut Series) -> Result<()> {
    let count = kind.count(ops);
    kind.prepare(target.work(), count)?;
    let before = target.usage()?;
    let start = now();
    let latencies = kind.run(target.work(), count)?;
    series.wall += start.elapsed();
    let used = target.usage()?.since(&before);
    series.latencies.extend(latencies);
    series.usage.write_bytes += used.write_bytes;
    series.usage.wchar += used.wchar;
    series.usage.cpu += used.cpu;
    series.usage.rss = used.rss;
    kind.check(target.work(), count)?;
    kind.tidy(target.work())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_works_on_a_plain_directory_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let spec = format!("a={}:{}", dir.path().display(), std::process::id());
        let targets = vec![Target::prepare(&spec.parse().unwrap()).unwrap()];
        let plan = Plan {
            ops: 16,
            time: Duration::ZERO,
            kinds: Op::ALL.to_vec(),
        };
        let report = run(&targets, &plan, &AtomicBool::new(false)).unwrap();
        assert_eq!(report.rows().len(), Op::ALL.len());
        assert!(
            report
                .rows()
                .iter()
                .all(|row| row.ops > 0 && row.ops_per_second > 0.0)
        );
        drop(targets);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
