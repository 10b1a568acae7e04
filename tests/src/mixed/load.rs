//! Load on a ring while its nodes die.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Result, ensure};
use rand_core::{RngCore, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::history::{self, Session, Step};
use super::protocol::{Event, Order};
use super::{DEADLINE, Kind, Ring};
use crate::wait::{eventually, now};

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// No further node is lost after this time.
    pub time: Duration,
    /// Choices are made from this number.
    pub seed: u64,
    /// Longest message, in bytes.
    pub longest: usize,
    /// Rest of each sender after each message.
    pub pause: Duration,
}

/// What happened.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// How often nodes of a kind were killed.
    pub killed: BTreeMap<Kind, usize>,
    /// How often nodes of a kind left in order.
    pub left: BTreeMap<Kind, usize>,
    /// Messages that were sent.
    pub sent: usize,
    /// Messages that were delivered, at all members together.
    pub delivered: usize,
    /// Changes of membership that members were told of, together.
    pub views: usize,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} messages sent, {} delivered, all in one order; {} changes of membership told; \
             killed {:?}, left {:?}",
            self.sent, self.delivered, self.views, self.killed, self.left
        )
    }
}

/// Lets all members send, and again and again one node die, or leave, and come back. Then checks
/// that all were told the same.
///
/// # Errors
/// When they were not, or the ring does not recover, or a daemon complains.
pub fn run(ring: &mut Ring, plan: &Plan, mut say: impl FnMut(&str)) -> Result<Outcome> {
    let mut random = Pcg64Mcg::seed_from_u64(plan.seed);
    let mut outcome = Outcome::default();
    let all = ring.nodes();
    begin(ring, plan.longest, plan.pause)?;
    let start = now();
    while start.elapsed() < plan.time {
        let victim = all[below(&mut random, all.len())];
        let rest: Vec<_> = all.iter().copied().filter(|id| *id != victim).collect();
        await_messages(ring, rest[0], 1 + below(&mut random, 300))?;
        let kind = ring.kind(victim);
        if below(&mut random, 4) == 0 {
            ring.stop_daemon(victim)?;
            *outcome.left.entry(kind).or_default() += 1;
        } else {
            ring.kill_daemon(victim);
            *outcome.killed.entry(kind).or_default() += 1;
        }
        if below(&mut random, 3) > 0 {
            ring.await_ring(&rest)?;
            await_messages(ring, rest[0], 1 + below(&mut random, 300))?;
        }
        ring.start_daemon(victim)?;
        ring.await_ring(&all)?;
        ring.await_group(&all)?;
        ring.check()?;
        say(&format!(
            "{:.0} s: n{victim} ({kind:?}) is back",
            start.elapsed().as_secs_f64()
        ));
    }
    let sessions = end(ring)?;
    outcome.sent = sessions.iter().map(|it| it.sent.len()).sum();
    let is_message = |step: &&Step| matches!(step, Step::Message(..));
    let delivered = sessions
        .iter()
        .map(|it| it.steps.iter().filter(is_message).count());
    outcome.delivered = delivered.sum();
    let steps: usize = sessions.iter().map(|it| it.steps.len()).sum();
    outcome.views = steps - outcome.delivered;
    ensure!(outcome.delivered > 0, "nothing was sent");
    Ok(outcome)
}

/// Lets all members send messages of up to `longest` bytes, with a rest after each.
///
/// # Errors
/// When a client is gone.
pub fn begin(ring: &mut Ring, longest: usize, pause: Duration) -> Result<()> {
    let pause_us = u64::try_from(pause.as_micros())?;
    for id in ring.nodes() {
        ring.order(id, &Order::Load { longest, pause_us })?;
    }
    Ok(())
}

/// Stops that, waits for the last message, and checks that all were told the same. Returns what
/// they were told.
///
/// # Errors
/// When they were not, or a daemon complains.
pub fn end(ring: &mut Ring) -> Result<Vec<Session>> {
    let all = ring.nodes();
    for id in &all {
        ring.order(*id, &Order::Quiet)?;
    }
    drain(ring, &all)?;
    ring.check()?;
    let sessions = ring.sessions();
    history::check(&sessions)?;
    Ok(sessions)
}

/// Waits until so many further messages were delivered at a node: load, not time, passes.
///
/// # Errors
/// When that takes longer than [`DEADLINE`].
pub fn await_messages(ring: &Ring, id: usize, count: usize) -> Result<()> {
    let from = ring.link(id).len();
    eventually(DEADLINE, &format!("{count} messages on n{id}"), || {
        let told = ring.link(id).since(from);
        told.is_ok_and(|it| it.iter().filter_map(history::message).count() >= count)
    })
}

/// One last message of each node is behind all others.
fn drain(ring: &mut Ring, all: &[usize]) -> Result<()> {
    let marks: Vec<_> = all.iter().map(|id| (*id, ring.link(*id).len())).collect();
    // Of a length that the load does not have.
    let len = 15;
    for id in all {
        ring.order(*id, &Order::Send { sizes: vec![len] })?;
    }
    for (id, mark) in marks {
        eventually(DEADLINE, &format!("the last messages on n{id}"), || {
            let told = ring.link(id).since(mark).unwrap_or_default();
            let is_last =
                |event: &&Event| matches!(event, Event::Message { print, .. } if print.len == len);
            told.iter().filter(is_last).count() == all.len()
        })?;
    }
    Ok(())
}

fn below(random: &mut Pcg64Mcg, limit: usize) -> usize {
    let limit = u64::try_from(limit.max(1)).unwrap_or(1);
    usize::try_from(random.next_u64() % limit).unwrap_or(0)
}
