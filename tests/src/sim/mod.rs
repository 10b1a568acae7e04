//! The deterministic simulator: whole clusters in one thread, from one seed.
//!
//! The production state machines of N nodes run over models of what surrounds them: group
//! messaging ([`net`]), disks ([`disk`]), the daemon's shell ([`node`]) and clients
//! ([`workload`]). [`check`] looks on from outside. A history has two phases: first faults, while
//! nothing may become wrong; then none, and the cluster has to become whole within a bound of
//! virtual time.
//!
//! Invariant: a seed decides everything. Nothing here reads a clock, an address or the order of a
//! hash map, so the same seed gives the same events and the same hash of them.

pub mod check;
pub mod disk;
mod faults;
pub mod lines;
pub mod net;
pub mod node;
pub mod options;
pub mod rng;
pub mod subject;
pub mod trace;
pub mod workload;
mod world;

pub(crate) use self::world::grow;

pub use self::{
    options::{Defect, Fault, Options},
    world::{Report, World},
};

/// Runs the history of a seed.
#[must_use]
pub fn run(seed: u64) -> Report {
    World::new(Options::draw(seed)).run()
}

impl Report {
    /// What a reader needs to understand and to repeat a failure.
    #[must_use]
    pub fn failure_text(&self) -> Option<String> {
        let failure = self.failure.as_ref()?;
        let seed = self.options.seed;
        let mut lines = vec![
            format!(
                "seed {seed}, step {}: {}: {}",
                self.steps, failure.checker, failure.text
            ),
            format!("{:?}", self.options),
            format!("{:?}", self.counts),
        ];
        lines.extend(self.events.iter().cloned());
        lines.extend(self.nodes.iter().cloned());
        lines.push(format!(
            "to repeat: cargo run --release -p tests --bin sim -- {seed}"
        ));
        Some(lines.join("\n"))
    }
}
