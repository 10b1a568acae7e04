//! The parts of a history: faults, then a network that works, and what has to come of it.

use corosync_lite::proto::node::Node;

use super::{
    member::Stage,
    network::Happening,
    options::{Defect, Fault},
    replicas::Replicas,
    world::{MS, World, failure},
};
use crate::sim::check::Failure;

/// Nodes start within this time, milliseconds.
const BOOT_MS: u64 = 1500;
/// Virtual time within which a healed cluster must be one ring, beside a number of token times.
const HEAL_MS: u64 = 40_000;
const HEAL_TOKENS: u64 = 30;
/// Within which everything sent is delivered.
const DELIVER_MS: u64 = 30_000;
const STEP: u64 = 50 * MS;

impl World {
    pub(super) fn phases(&mut self) -> Result<(), Failure> {
        self.begin();
        self.run_until(self.options.faulty_ms * MS)?;
        self.heal();
        self.form_one_ring()?;
        self.wait("all is delivered", DELIVER_MS * MS, Self::is_at_rest)?;
        self.say_hello()?;
        self.settle_replicas()?;
        let rings = self.check.rings();
        self.run_until(self.now + MS * (500 + 3 * self.options.token_ms))?;
        if self.check.rings() != rings {
            return Err(failure("the ring stays", "another one came"));
        }
        let joined = self.members.iter().flat_map(|member| {
            let processes = member.processes.iter();
            let joined = processes.filter(|process| process.stage == Stage::Joined);
            joined.map(|process| (process.pid, process.sent))
        });
        let joined: Vec<_> = joined.collect();
        self.check.finish(&joined)
    }

    fn begin(&mut self) {
        if self.options.replicas {
            self.replicas = Some(Replicas::new(&self.options));
        }
        for id in 1..=self.options.nodes {
            let at = MS * self.rng.below(BOOT_MS);
            let boot = super::faults::Repair::Boot(id);
            self.agenda.plan(at, Happening::Repair(boot));
            for slot in self.members[Self::at(id)].slots() {
                let at = at + MS * self.rng.below(1000);
                self.agenda.plan(at, Happening::Deed(id, slot));
            }
            if self.options.replicas {
                self.agenda.plan(at, Happening::Replica(id));
            }
        }
        let first = MS * self.rng.below(2 * self.options.fault_gap_ms);
        self.agenda.plan(first, Happening::Fault);
    }

    /// Ends all faults.
    fn heal(&mut self) {
        self.journal
            .say(self.now, 0, format_args!("all faults end"));
        self.busy = false;
        self.network.heal();
        if let Some(replicas) = &mut self.replicas {
            replicas.heal();
        }
        let away = match self.options.defect {
            Some((Defect::StayAway, id)) => Some(id),
            _ => None,
        };
        for id in 1..=self.options.nodes {
            let member = self.member(id);
            member.unusable.clear();
            member.dies_after = None;
            if Some(id) == away {
                self.crash(id);
                continue;
            }
            self.go_on(id);
            let leaves = self.members[Self::at(id)]
                .node
                .as_ref()
                .is_some_and(Node::is_stopped);
            if leaves {
                self.crash(id);
            }
            self.boot(id);
        }
        if self.options.has(Fault::Reload) {
            self.agree_on_files();
        }
    }

    /// Daemons that did not hear of the last change of the files are started anew.
    fn agree_on_files(&mut self) {
        for id in 1..=self.options.nodes {
            let version = self.cluster.version;
            let member = self.member(id);
            let Some(node) = &member.node else { continue };
            if node.config().totem.config_version != version {
                self.crash(id);
                self.boot(id);
            }
        }
    }

    /// Waits for a ring of all nodes that stays. Losses before the end of faults may show late.
    fn form_one_ring(&mut self) -> Result<(), Failure> {
        let (since, limit) = (self.now, self.heal_limit());
        loop {
            let left = (since + limit).saturating_sub(self.now);
            self.wait("one ring", left, Self::is_whole)?;
            let (rings, formed) = (self.check.rings(), self.now);
            self.run_until(self.now + MS * (2000 + 2 * self.options.token_ms))?;
            if self.check.rings() == rings {
                self.check.counts.healed_ms = (formed - since) / MS;
                return Ok(());
            }
        }
    }

    fn heal_limit(&self) -> u64 {
        let size = u64::from(self.options.nodes);
        // As much as the coefficient adds to the patience of the nodes.
        let token = self.options.token_ms.max(2000) + 650 * size.saturating_sub(2).min(8);
        MS * (HEAL_MS + HEAL_TOKENS * token)
    }

    fn wait(
        &mut self,
        what: &'static str,
        limit: u64,
        is_so: impl Fn(&Self) -> bool,
    ) -> Result<(), Failure> {
        let end = self.now + limit;
        while !is_so(self) {
            if self.now >= end {
                let missing = self.missing();
                let text = format!("not within {} ms; missing {missing:?}", limit / MS);
                return Err(failure(what, text));
            }
            self.run_until(self.now + STEP)?;
        }
        Ok(())
    }

    /// Whether all nodes are in one ring, and agree that it may act.
    pub(super) fn is_whole(&self) -> bool {
        let Some(first) = self.members.first().and_then(|it| it.node.as_ref()) else {
            return false;
        };
        let is_in = |node: &Node| {
            node.ring() == first.ring()
                && node.members().len() == self.members.len()
                && node.is_synchronized()
                && node.is_quorate()
        };
        let mut nodes = self.members.iter().map(|member| member.node.as_ref());
        nodes.all(|node| node.is_some_and(is_in))
    }

    /// Each process sends a message more, and all of them arrive.
    fn say_hello(&mut self) -> Result<(), Failure> {
        for id in 1..=self.options.nodes {
            for slot in self.members[Self::at(id)].slots() {
                self.send_some(id, slot, 1);
            }
        }
        self.wait("all is delivered", DELIVER_MS * MS, |world| {
            world.is_at_rest() && world.is_all_back()
        })
    }

    /// Whether each process has got back what it sent.
    fn is_all_back(&self) -> bool {
        self.missing().is_empty()
    }

    /// Processes that have not got back what they sent: process, sent, got back.
    fn missing(&self) -> Vec<(u32, u32, u32)> {
        let processes = self.members.iter().flat_map(|member| &member.processes);
        let joined = processes.filter(|process| process.stage == Stage::Joined);
        joined
            .map(|process| (process.pid, process.sent, self.check.own(process.pid)))
            .filter(|(_, sent, own)| sent != own)
            .collect()
    }
}
