//! CPU time and memory of a daemon, finer than clock ticks and with what is shared divided.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// CPU time in user and kernel mode of all threads that a process has now, in nanoseconds steps.
///
/// # Errors
/// When there is no such process.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let dir = format!("/proc/{pid}/task");
    let mut total = 0u64;
    for task in fs::read_dir(&dir).with_context(|| format!("cannot read {dir}"))? {
        // A thread may end meanwhile.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        let first = text.split_whitespace().next().unwrap_or_default();
        total += first
            .parse::<u64>()
            .context("schedstat does not begin with a number")?;
    }
    Ok(Duration::from_nanos(total))
}

/// Memory of a process, in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Resident.
    pub rss: u64,
    /// Resident, pages that several processes share counted in parts.
    pub pss: u64,
    /// Locked: never written to swap.
    pub locked: u64,
    /// Resident and neither shared nor from a file.
    pub anonymous: u64,
}

impl Memory {
    /// Of process `pid` now.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name))
                .and_then(|rest| rest.split_whitespace().next())
                .and_then(|value| value.parse().ok())
                .with_context(|| format!("no number '{name}' in {path}"))
        };
        Ok(Self {
            rss: field("Rss:")?,
            pss: field("Pss:")?,
            locked: field("Locked:")?,
            anonymous: field("Anonymous:")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_usage_can_be_read() {
        let pid = std::process::id();
        assert!(cpu_time(pid).unwrap() > Duration::ZERO);
        let memory = Memory::of(pid).unwrap();
        assert!(memory.rss >= memory.pss && memory.rss >= memory.anonymous);
    }
}
