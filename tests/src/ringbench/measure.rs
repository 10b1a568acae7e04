//! What is measured on one ring of one daemon, from its forming to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, ensure};

use super::agent::nanos;
use super::protocol::{Event, Order};
use super::report::{Better, Metric, Sheet};
use super::ring::Ring;
use super::usage::{Memory, cpu_time};
use super::{Plan, Side};
use crate::corosync::FORM_DEADLINE;
use crate::wait::machine_clock;

/// Sizes of messages.
const SIZES: [usize; 3] = [64, 1024, 64 << 10];
/// A flood is delivered everywhere, and pings are over, well within this time.
const DRAIN_DEADLINE: Duration = Duration::from_secs(120);
/// Rest before each ping on a ring at rest: longer than the token goes around without work, thirty
/// times, which takes Corosync on sixteen nodes more than 50 ms.
const REST_MS: u64 = 100;

/// Measures everything once.
///
/// # Errors
/// When the ring does not form, a message is lost, doubled or out of order, or a daemon ends.
pub fn session(side: &Side, nodes: usize, plan: &Plan, sheet: &mut Sheet) -> Result<()> {
    let mut session = Session {
        ring: Ring::new(side, nodes, plan.token_of(nodes))?,
        plan,
        sheet,
        run: 0,
    };
    session.form()?;
    session.idle()?;
    session.pings("latency", 64, plan.pings, 0)?;
    session.pings("latency at rest", 64, plan.rested_pings, REST_MS)?;
    let counts = BTreeSet::from([1, 3.min(nodes), nodes]);
    for size in SIZES {
        for senders in &counts {
            session.flood(*senders, size)?;
        }
    }
    session.memory()?;
    for _ in 0..plan.deaths {
        session.death()?;
    }
    session.ring.check_daemons()
}

struct Session<'a> {
    ring: Ring,
    plan: &'a Plan,
    sheet: &'a mut Sheet,
    run: u32,
}

impl Session<'_> {
    fn note(&mut self, name: &str, unit: &'static str, better: Better, value: f64) {
        let metric = Metric {
            name: name.to_owned(),
            unit,
            better,
        };
        self.sheet.note(metric, value);
    }

    /// From the start of the first daemon until every client sees all others.
    fn form(&mut self) -> Result<()> {
        let start = nanos(machine_clock());
        let nodes = self.ring.nodes();
        for id in &nodes {
            self.ring.start_daemon(*id)?;
        }
        let seen = self.await_members(&nodes, nodes.len())?;
        self.note("form", "ms", Better::Lower, latest_ms(&seen, start));
        self.ring.set_steady(true);
        Ok(())
    }

    /// Waits until these clients see so many members; when each of them did.
    fn await_members(&self, from: &[usize], wanted: usize) -> Result<BTreeMap<usize, u64>> {
        let what = format!("{wanted} members");
        self.ring
            .collect(from, FORM_DEADLINE, &what, |event| match event {
                Event::Members { count, at } if count == wanted => Some(at),
                _ => None,
            })
    }

    fn idle(&mut self) -> Result<()> {
        const NAME: &str = "idle cpu of a node";
        if !self.plan.wants(NAME) {
            return Ok(());
        }
        let before = self.cpu()?;
        self.ring.quiet(self.plan.quiet)?;
        let used = self.cpu()?.saturating_sub(before);
        let daemons = count(self.ring.pids().len());
        let percent = 100.0 * used.as_secs_f64() / self.plan.quiet.as_secs_f64() / daemons;
        self.note(NAME, "%", Better::Lower, percent);
        Ok(())
    }

    /// CPU time of all daemons.
    fn cpu(&self) -> Result<Duration> {
        self.ring.pids().into_iter().map(cpu_time).sum()
    }

    fn pings(&mut self, name: &str, size: usize, pings: u64, pause_ms: u64) -> Result<()> {
        if !self.plan.wants(name) {
            return Ok(());
        }
        self.run += 1;
        let run = self.run;
        let nodes = self.ring.nodes();
        let sender = &nodes[..1];
        let order = Order::Ping {
            run,
            count: pings,
            size,
            pause_ms,
        };
        self.ring.order(sender, &order)?;
        let own = self
            .ring
            .collect(sender, DRAIN_DEADLINE, "pings", |event| match event {
                Event::Pinged { run: told, delays } if told == run => Some(delays),
                _ => None,
            })?;
        let mut own: Vec<u64> = own.into_values().flatten().collect();
        let mut remote: Vec<u64> = self
            .complete(run, pings)?
            .into_iter()
            .filter(|(id, _)| !sender.contains(id))
            .flat_map(|(_, done)| done.delays)
            .collect();
        for (whose, delays) in [("own", &mut own), ("remote", &mut remote)] {
            delays.sort_unstable();
            for percent in [50, 99] {
                let value = percentile(delays, percent) / 1e3;
                self.note(
                    &format!("{name}, {whose}, p{percent}"),
                    "us",
                    Better::Lower,
                    value,
                );
            }
        }
        Ok(())
    }

    /// Waits until all have all messages, in one order.
    fn complete(&mut self, run: u32, total: u64) -> Result<BTreeMap<usize, Done>> {
        let nodes = self.ring.nodes();
        self.ring.order(&nodes, &Order::Expect { run, total })?;
        let what = format!("delivery of {total} messages");
        let done = self
            .ring
            .collect(&nodes, DRAIN_DEADLINE, &what, |event| match event {
                Event::Complete {
                    run: told,
                    at,
                    digest,
                    delays,
                } if told == run => Some(Done { at, digest, delays }),
                _ => None,
            })?;
        let orders: BTreeSet<u64> = done.values().map(|done| done.digest).collect();
        ensure!(
            orders.len() == 1,
            "nodes delivered messages in different orders"
        );
        Ok(done)
    }

    fn flood(&mut self, senders: usize, size: usize) -> Result<()> {
        let name = flood_name(senders, size);
        if !self.plan.wants(&name) {
            return Ok(());
        }
        self.run += 1;
        let run = self.run;
        let who = self.ring.nodes()[..senders].to_vec();
        let cpu = self.cpu()?;
        let start = machine_clock();
        let order = Order::Flood {
            run,
            size,
            ends_at: nanos(start + self.plan.flood),
        };
        self.ring.order(&who, &order)?;
        let sent = self.ring.collect(
            &who,
            DRAIN_DEADLINE,
            "end of sending",
            |event| match event {
                Event::Sent { run: told, count } if told == run => Some(count),
                _ => None,
            },
        )?;
        let total: u64 = sent.values().sum();
        let done = self.complete(run, total)?;
        let cpu = self.cpu()?.saturating_sub(cpu);
        let at = done.values().map(|done| done.at).max().unwrap_or(0);
        let seconds = Duration::from_nanos(at.saturating_sub(nanos(start))).as_secs_f64();
        let messages = count_u64(total);
        self.note(&name, "msg/s", Better::Higher, messages / seconds.max(1e-9));
        // Of all daemons together: the number of nodes is the same on both sides.
        let each = cpu.as_secs_f64() * 1e6 / messages.max(1.0);
        self.note(&format!("{name}, cpu"), "us/msg", Better::Lower, each);
        Ok(())
    }

    fn memory(&mut self) -> Result<()> {
        let memory: Vec<Memory> = self
            .ring
            .pids()
            .into_iter()
            .map(Memory::of)
            .collect::<Result<_>>()?;
        let nodes = count(memory.len());
        let mean = |of: fn(&Memory) -> u64| count_u64(memory.iter().map(of).sum::<u64>()) / nodes;
        let rows = [
            ("memory of a node, resident", mean(|it| it.rss)),
            ("memory of a node, proportional", mean(|it| it.pss)),
            ("memory of a node, anonymous", mean(|it| it.anonymous)),
            ("memory of a node, locked", mean(|it| it.locked)),
        ];
        for (name, value) in rows {
            self.note(name, "KiB", Better::Lower, value);
        }
        Ok(())
    }

    /// The last node's daemon is killed and started again.
    fn death(&mut self) -> Result<()> {
        const NAME: &str = "death seen by all";
        if !self.plan.wants(NAME) {
            return Ok(());
        }
        let nodes = self.ring.nodes();
        let Some((victim, others)) = nodes.split_last() else {
            return Ok(());
        };
        self.ring.set_steady(false);
        let start = nanos(machine_clock());
        self.ring.kill_daemon(*victim);
        let seen = self.await_members(others, others.len())?;
        self.note(NAME, "ms", Better::Lower, latest_ms(&seen, start));
        let start = nanos(machine_clock());
        self.ring.start_daemon(*victim)?;
        let seen = self.await_members(&nodes, nodes.len())?;
        self.note(
            "return seen by all",
            "ms",
            Better::Lower,
            latest_ms(&seen, start),
        );
        Ok(())
    }
}

struct Done {
    at: u64,
    digest: u64,
    delays: Vec<u64>,
}

fn flood_name(senders: usize, size: usize) -> String {
    let size = match size {
        0..1024 => format!("{size} B"),
        _ => format!("{} KiB", size / 1024),
    };
    format!("{senders} sending {size}")
}

fn latest_ms(seen: &BTreeMap<usize, u64>, start: u64) -> f64 {
    let latest = seen.values().max().copied().unwrap_or(start);
    Duration::from_nanos(latest.saturating_sub(start)).as_secs_f64() * 1e3
}

/// Of sorted values, by rank.
fn percentile(sorted: &[u64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().map_or(0.0, count_u64)
}

#[expect(clippy::cast_precision_loss, reason = "for a table")]
fn count_u64(number: u64) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "for a table")]
fn count(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_ranks() {
        let values: Vec<u64> = (1..=200).collect();
        assert!((percentile(&values, 50) - 100.0).abs() < 1e-6);
        assert!((percentile(&values, 99) - 198.0).abs() < 1e-6);
        assert!(percentile(&[], 50).abs() < 1e-6);
    }
}
