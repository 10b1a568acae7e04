//! Histories from seeds: faults first (safety), then a healed network (liveness).

use std::time::Duration;

use super::checker::Process;
use super::sim::{Random, Sim, Weather};
use crate::proto::srp::{Config, Delivery};
use crate::wire::srp::NodeId;

/// Histories in a normal run; `SRP_SEED` and `SRP_SEEDS` choose others.
const SEEDS: u64 = 300;
/// Things done in one history before the network heals.
const STEPS: u64 = 150;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn config(random: &mut Random) -> Config {
    let mut config = Config::with_token(ms(200 + random.below(800)));
    if random.chance(200) {
        config.delivery = Delivery::Safe;
    }
    if random.chance(200) {
        config.send_join = ms(30);
    }
    if random.chance(200) {
        config.window_size = 8;
        config.max_messages = 3;
    }
    if random.chance(200) {
        config.fail_recv_const = 60;
    }
    if random.chance(200) {
        config.heartbeat_failures_allowed = 3;
    }
    config.cancel_token_hold_on_retransmit = random.chance(300);
    config
}

fn weather(random: &mut Random) -> Weather {
    let pick = |random: &mut Random, most: u64| {
        if random.chance(500) {
            random.below(most)
        } else {
            0
        }
    };
    Weather {
        loss: pick(random, 150),
        duplicate: pick(random, 100),
        slow: pick(random, 30),
        replay: pick(random, 20),
        delay_us_max: 50 + random.below(1500),
    }
}

/// One fault, drawn from the seed.
fn disturb(sim: &mut Sim, random: &mut Random, id: NodeId) -> Result<(), String> {
    match random.below(10) {
        0 => sim.crash(id),
        1 => sim.leave(id)?,
        2 => sim.stop(id),
        3 | 4 => sim.go_on(id)?,
        5 => {
            for side in sim.side.values_mut() {
                *side = u8::from(random.chance(500));
            }
        }
        6 => {
            sim.side.values_mut().for_each(|side| *side = 0);
        }
        7 => sim.weather = weather(random),
        _ => sim.start(id)?,
    }
    Ok(())
}

fn heal(sim: &mut Sim) -> Result<(), String> {
    sim.weather = Weather::FAIR;
    sim.side.values_mut().for_each(|side| *side = 0);
    for id in sim.ids() {
        sim.go_on(id)?;
        sim.start(id)?;
    }
    for _ in 0..600 {
        if sim.is_whole() {
            break;
        }
        sim.run(ms(100))?;
    }
    if !sim.is_whole() {
        return Err("not one ring a minute after all is well".to_string());
    }
    for id in sim.ids() {
        sim.submit(id, 10)?;
    }
    sim.run(ms(5000))?;
    if !sim.is_whole() {
        return Err("the ring does not stay".to_string());
    }
    let lives: Vec<Process> = sim
        .nodes
        .iter()
        .map(|(id, node)| Process {
            node: *id,
            life: node.life,
        })
        .collect();
    sim.checker.finish(&lives)
}

fn history(seed: u64, steps: u64, is_verbose: bool) -> (Sim, Result<(), String>) {
    let mut random = Random(seed);
    let node_count = if random.chance(100) {
        16
    } else {
        1 + random.below(6)
    };
    let config = config(&mut random);
    let is_safe = config.delivery == Delivery::Safe;
    let mut sim = Sim::new(random.next(), u32::try_from(node_count).unwrap(), config);
    sim.checker.is_safe = is_safe;
    sim.is_verbose = is_verbose;
    sim.weather = weather(&mut random);
    let mut play = || -> Result<(), String> {
        for id in sim.ids() {
            sim.start(id)?;
        }
        let faults = 20 + random.below(200);
        for _ in 0..steps {
            let pause = random.below(60);
            sim.run(ms(pause))?;
            let ids = sim.ids();
            let id = ids[usize::try_from(random.below(ids.len() as u64)).unwrap()];
            if random.chance(faults) {
                disturb(&mut sim, &mut random, id)?;
            } else {
                for _ in 0..random.below(12) {
                    sim.submit(id, usize::try_from(random.below(200)).unwrap())?;
                }
            }
        }
        heal(&mut sim)
    };
    let result = play();
    (sim, result)
}

fn must_hold(seed: u64) -> Sim {
    let (sim, result) = history(seed, STEPS, false);
    if let Err(error) = result {
        // Once more, to see it.
        let (sim, _) = history(seed, STEPS, true);
        let trace: Vec<_> = sim.trace.iter().cloned().collect();
        panic!(
            "seed {seed}: {error}\n{}\n{}",
            trace.join("\n"),
            sim.status()
        );
    }
    assert!(
        sim.queued_max < 20_000,
        "seed {seed}: {} queued",
        sim.queued_max
    );
    sim
}

#[test]
fn histories_keep_virtual_synchrony_and_end_in_one_ring() {
    let first = std::env::var("SRP_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let count = std::env::var("SRP_SEEDS").ok().and_then(|n| n.parse().ok());
    let first = first.unwrap_or(0);
    for seed in first..first + count.unwrap_or(SEEDS) {
        must_hold(seed);
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in [3, 17] {
        assert_eq!(must_hold(seed).digest, must_hold(seed).digest);
    }
}
