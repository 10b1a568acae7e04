//! Numbers, and their table.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::{Op, Plan, Series, Target};

/// One kind of operation on one target.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Kind of operation.
    pub operation: Op,
    /// Name of the target.
    pub target: String,
    /// How many were done.
    pub ops: usize,
    /// Operations per second.
    pub ops_per_second: f64,
    /// The same, in relation to the first target.
    pub ratio: f64,
    /// Half of the operations took no longer than this, in microseconds.
    pub p50_us: f64,
    /// 99 of 100 took no longer than this, in microseconds.
    pub p99_us: f64,
    /// Bytes that the daemon sent to the disk, per change.
    pub disk_bytes_per_change: Option<f64>,
    /// Bytes that the daemon wrote anywhere, per change, replies to the kernel included.
    pub wchar_per_change: Option<f64>,
    /// CPU time of the daemon per operation, in microseconds.
    pub cpu_us_per_op: Option<f64>,
}

/// Memory of one daemon at the end.
#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    /// Name of the target.
    pub target: String,
    /// Resident bytes.
    pub rss: u64,
}

/// All results of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    rounds: usize,
    rows: Vec<Row>,
    memory: Vec<Memory>,
}

impl Report {
    pub(super) fn new(
        targets: &[Target],
        plan: &Plan,
        series: &[Vec<Series>],
        rounds: usize,
    ) -> Result<Self> {
        let mut rows = Vec::new();
        for (kind, row) in plan.kinds.iter().zip(series) {
            let first = row.first().map_or(0.0, Series::ops_per_second);
            for (target, series) in targets.iter().zip(row) {
                if !series.latencies.is_empty() {
                    rows.push(Row::new(*kind, target, series, first));
                }
            }
        }
        let mut memory = Vec::new();
        for target in targets.iter().filter(|target| target.has_daemon()) {
            memory.push(Memory {
                target: target.name().to_owned(),
                rss: target.usage()?.rss,
            });
        }
        Ok(Self {
            rounds,
            rows,
            memory,
        })
    }

    /// One row for each kind of operation and target.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }
}

impl Series {
    fn ops_per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.wall.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The latency that `percent` of the operations do not exceed, in microseconds.
    fn percentile_us(&self, percent: usize) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(rank).map_or(0.0, Duration::as_secs_f64) * 1e6
    }
}

impl Row {
    fn new(operation: Op, target: &Target, series: &Series, first: f64) -> Self {
        let ops = series.latencies.len();
        let each = |total: f64| target.has_daemon().then_some(total / ops as f64);
        let change = |total: u64| each(total as f64).filter(|_| operation.is_change());
        let ops_per_second = series.ops_per_second();
        Self {
            operation,
            target: target.name().to_owned(),
            ops,
            ops_per_second,
            ratio: ops_per_second / first.max(f64::MIN_POSITIVE),
            p50_us: series.percentile_us(50),
            p99_us: series.percentile_us(99),
            disk_bytes_per_change: change(series.usage.write_bytes),
            wchar_per_change: change(series.usage.wchar),
            cpu_us_per_op: each(series.usage.cpu.as_secs_f64() * 1e6),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self
            .rows
            .iter()
            .map(|row| row.target.len())
            .max()
            .unwrap_or(0)
            .max(6);
        writeln!(
            f,
            "{:<12} {:<name$} {:>7} {:>10} {:>7} {:>10} {:>10} {:>10} {:>10} {:>9}",
            "operation",
            "target",
            "n",
            "ops/s",
            "ratio",
            "p50 us",
            "p99 us",
            "disk B/op",
            "write B/op",
            "cpu us/op",
        )?;
        let mut previous = None;
        for row in &self.rows {
            let label = if previous == Some(row.operation) {
                ""
            } else {
                row.operation.name()
            };
            previous = Some(row.operation);
            writeln!(
                f,
                "{label:<12} {:<name$} {:>7} {:>10.0} {:>7.2} {:>10.1} {:>10.1} {:>10} {:>10} {:>9}",
                row.target,
                row.ops,
                row.ops_per_second,
                row.ratio,
                row.p50_us,
                row.p99_us,
                optional(row.disk_bytes_per_change),
                optional(row.wchar_per_change),
                optional(row.cpu_us_per_op),
            )?;
        }
        for memory in &self.memory {
            writeln!(f, "{}: {} KiB of memory", memory.target, memory.rss / 1024)?;
        }
        write!(
            f,
            "{} rounds; ratio: operations per second against the first",
            self.rounds
        )
    }
}

fn optional(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_ranks() {
        let latencies = (1..=100).map(Duration::from_micros).collect();
        let series = Series {
            latencies,
            ..Series::default()
        };
        assert!((series.percentile_us(50) - 50.0).abs() < 1e-6);
        assert!((series.percentile_us(99) - 99.0).abs() < 1e-6);
        assert!(Series::default().percentile_us(50).abs() < 1e-6);
    }
}
