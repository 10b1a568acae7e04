//! A benchmark that compares two daemons of group messaging on rings of test hosts.
//!
//! Rings are made one after the other: two daemons never run at the same time. Each round
//! measures both daemons on each size of ring, and every other round begins with the other one,
//! so that noise of the machine hits both alike. The client is the same for both.
//!
//! It also checks: a message that is lost, doubled, cut or in another order on one node than on
//! another fails the run.

mod agent;
mod client;
mod measure;
mod protocol;
mod report;
mod ring;
mod usage;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

pub use report::{Report, Row};
pub use ring::run_agent;

use crate::wait::now;

/// First argument of the program when it is to be the client on a host.
pub const AGENT_OPTION: &str = "--client";

/// One of the two daemons.
#[derive(Clone, Debug)]
pub struct Side {
    /// For the table.
    pub name: String,
    /// The program; it is started with the argument `-f`.
    pub binary: PathBuf,
}

impl FromStr for Side {
    type Err = anyhow::Error;

    /// `NAME=PATH`, `PATH`, or the name of an installed program.
    fn from_str(text: &str) -> Result<Self> {
        let (name, path) = text.split_once('=').unwrap_or_else(|| {
            let last = text.rsplit('/').next().unwrap_or(text);
            (last, text)
        });
        ensure!(!name.is_empty() && !path.is_empty(), "expected NAME=PATH");
        let mut binary = PathBuf::from(path);
        if path.contains('/') {
            // Hosts have another current directory.
            binary = Path::new(path)
                .canonicalize()
                .with_context(|| format!("no program {path}"))?;
        }
        Ok(Self {
            name: name.to_owned(),
            binary,
        })
    }
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Sizes of rings.
    pub rings: Vec<usize>,
    /// How often.
    pub rounds: usize,
    /// No further round is begun after this time.
    pub time: Duration,
    /// Token timeout of the rings; `None`: see [`Plan::token_of`].
    pub token: Option<Duration>,
    /// How long CPU time of idle daemons is measured.
    pub quiet: Duration,
    /// How long messages are sent for a rate.
    pub flood: Duration,
    /// Pings, one after the other.
    pub pings: u64,
    /// Pings with a rest before each.
    pub rested_pings: u64,
    /// How often a daemon is killed in each round.
    pub deaths: usize,
    /// Only rows whose names contain one of these; all when there are none.
    pub only: Vec<String>,
}

impl Plan {
    /// Less than a minute.
    #[must_use]
    pub fn quick() -> Self {
        Self {
            rings: vec![3],
            rounds: 2,
            time: Duration::from_secs(60),
            token: None,
            quiet: Duration::from_secs(2),
            flood: Duration::from_millis(300),
            pings: 300,
            rested_pings: 20,
            deaths: 1,
            only: Vec::new(),
        }
    }

    /// Everything.
    #[must_use]
    pub fn full() -> Self {
        Self {
            rings: vec![3, 8, 16],
            rounds: 3,
            time: Duration::from_secs(20 * 60),
            quiet: Duration::from_secs(5),
            flood: Duration::from_secs(1),
            pings: 2000,
            rested_pings: 100,
            deaths: 2,
            ..Self::quick()
        }
    }

    /// Whether a row is asked for.
    #[must_use]
    pub fn wants(&self, row: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| row.contains(part))
    }

    /// Token timeout of a ring: a second for four nodes and less, and in proportion above. All
    /// nodes share the cores of one machine, so large rings are slow.
    #[must_use]
    pub fn token_of(&self, nodes: usize) -> Duration {
        let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
        let proportional = Duration::from_millis(250).saturating_mul(nodes.max(4));
        self.token.unwrap_or(proportional)
    }
}

/// Runs `plan` for both daemons. A ring that breaks, and a message that goes astray, is a result
/// as well: see [`Report::failures`].
pub fn run(sides: &[Side; 2], plan: &Plan, mut say: impl FnMut(&str)) -> Report {
    let start = now();
    let mut report = Report::new(sides.clone().map(|side| side.name));
    let mut sheets: Vec<_> = plan.rings.iter().map(|_| <[_; 2]>::default()).collect();
    for round in 0..plan.rounds {
        if round > 0 && start.elapsed() >= plan.time {
            say("the time is over");
            break;
        }
        for (nodes, sheets) in plan.rings.iter().zip(&mut sheets) {
            for turn in 0..2 {
                let which = (round + turn) % 2;
                let side = &sides[which];
                let begun = now();
                let result = measure::session(side, *nodes, plan, &mut sheets[which]);
                let name = format!("round {}, {nodes} nodes, {}", round + 1, side.name);
                say(&format!("{name}: {:.0} s", begun.elapsed().as_secs_f64()));
                if let Err(error) = result {
                    say(&format!("{name}: {error:#}"));
                    report.fail(format!("{name}: {error:#}"));
                }
            }
        }
    }
    for (nodes, sheets) in plan.rings.iter().zip(&sheets) {
        report.add(*nodes, sheets);
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_named_or_take_the_name_of_the_program() {
        let side: Side = "corosync".parse().unwrap();
        assert_eq!(
            (side.name.as_str(), side.binary.to_str()),
            ("corosync", Some("corosync"))
        );
        let side: Side = "x=/bin/sh".parse().unwrap();
        assert_eq!(side.name, "x");
        assert!(side.binary.is_absolute());
        assert!("x=".parse::<Side>().is_err());
        assert!("x=/no/such".parse::<Side>().is_err());
    }
}
