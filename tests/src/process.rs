//! What `/proc` tells about a process: bytes written, CPU time, memory.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::unistd::{SysconfVar, sysconf};

/// Counters of one process since its start, and its memory now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that the process caused to be sent to the disk.
    pub write_bytes: u64,
    /// Bytes handed to `write` and its kin, replies to the kernel's FUSE requests included.
    pub wchar: u64,
    /// CPU time in user and kernel mode of all threads. Resolution: one clock tick.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub rss: u64,
}

impl Usage {
    /// Reads the counters of process `pid`.
    ///
    /// # Errors
    /// When there is no such process, or its files in `/proc` may not be read.
    pub fn of(pid: u32) -> Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
        };
        let io = read("io")?;
        let status = read("status")?;
        Ok(Self {
            write_bytes: field(&io, "write_bytes:")?,
            wchar: field(&io, "wchar:")?,
            cpu: cpu_time(&read("stat")?)?,
            rss: field(&status, "VmRSS:")?.saturating_mul(1024),
        })
    }

    /// What was used between `earlier` and now; memory as it is now.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            write_bytes: self.write_bytes.saturating_sub(earlier.write_bytes),
            wchar: self.wchar.saturating_sub(earlier.wchar),
            cpu: self.cpu.saturating_sub(earlier.cpu),
            rss: self.rss,
        }
    }
}

/// First number of the line that begins with `name`.
fn field(text: &str, name: &str) -> Result<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .ok_or_else(|| anyhow!("no line '{name}'"))?
        .parse()
        .with_context(|| format!("line '{name}' is not a number"))
}

/// User and system time from `/proc/PID/stat`, whose second field is a name in parentheses that
/// may itself hold blanks and parentheses.
fn cpu_time(stat: &str) -> Result<Duration> {
    let (_, rest) = stat.rsplit_once(')').context("no process name in stat")?;
    let mut ticks = 0u64;
    for value in rest.split_whitespace().skip(11).take(2) {
        ticks += value
            .parse::<u64>()
            .context("CPU time in stat is not a number")?;
    }
    let per_second = sysconf(SysconfVar::CLK_TCK)?.and_then(|n| u64::try_from(n).ok());
    let per_second = per_second.filter(|n| *n > 0).unwrap_or(100);
    Ok(Duration::from_millis(
        ticks.saturating_mul(1000) / per_second,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_usage_can_be_read() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.rss > 0);
    }

    #[test]
    fn a_process_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b)) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20";
        let ticks = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap();
        let expected = 200 * 1000 / u64::try_from(ticks).unwrap();
        assert_eq!(cpu_time(stat).unwrap(), Duration::from_millis(expected));
    }
}
