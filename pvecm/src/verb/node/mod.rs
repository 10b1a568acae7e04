//! A node of the running cluster gets another address or another name.
//!
//! | module | owns |
//! |---|---|
//! | `address` | `node set-address` |
//! | `rename` | `node rename` |
//! | `hosts` | what `/etc/hosts` says of a name |
//!
//! Both run on the node itself, after its administrator has given it the address or the name: what
//! the system has is checked and never changed. What is shared follows in an order in which each step
//! can be gone back from or done again: a command that was broken off is run again.

mod address;
mod hosts;
mod rename;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::addnode::{System, resolved};
use super::change::{self, need_root, show_plan};
use super::link::{addresses_here, follow, name_absent, not_taken};
use super::machine::{self, look_for, present};
use super::updatecerts::{self, UpdateOptions};
use crate::cli::{NodeAction, NodeChange};
use crate::conf::{ClusterConf, NodeEntry, Resolve as _};
use crate::failure::{Failure, Outcome};
use crate::host::lock::ClusterLock;
use crate::host::services::{self, FILE_SYSTEM, Verb};
use crate::host::stop::interrupted;
use crate::host::{Host, clusterconf, files, pve, ring, wait};
use crate::tell::announce;

/// The cluster file system is there again, and says what it should of this node, within this time.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the changes ask of the machine, apart from files.
trait Machine {
    /// Tells the user how far it is.
    fn say(&self, line: &str) -> Outcome;

    /// Whether the command is to end.
    fn interrupted(&self) -> bool;

    /// Stands between two changes: the command ends here if it is to end.
    fn step(&self) -> Outcome {
        match self.interrupted() {
            true => Err(interrupted()),
            false => Ok(()),
        }
    }

    /// Addresses of the interfaces.
    fn addresses(&self) -> Outcome<Vec<IpAddr>>;

    /// What a name stands for.
    fn resolve(&self, name: &str) -> Vec<IpAddr>;

    /// Where the ring has this node, by link, as far as it tells.
    fn running(&self, conf: &ClusterConf) -> Outcome<BTreeMap<u8, IpAddr>>;

    /// The number that the messaging daemon of this node has.
    fn own_id(&self) -> Outcome<u32>;

    /// Puts one configuration after the other in force, or goes back.
    fn follow(&self, host: &Host, old: &ClusterConf, steps: &[ClusterConf]) -> Outcome;

    /// Writes a configuration and watches all nodes take it.
    fn take(&self, host: &Host, step: &ClusterConf) -> Outcome;

    /// Starts the cluster file system again.
    fn restart(&self) -> Outcome;

    /// Makes what this node has in the cluster's files: its certificate and keys.
    fn cluster_files(&self, host: &Host) -> Outcome;

    /// Has services look at names and certificates again.
    fn reload(&self) -> Outcome;
}

struct ThisMachine {
    machine: machine::ThisMachine,
    lock: RefCell<Option<ClusterLock>>,
    /// Nodes that are in the ring.
    there: Vec<NodeEntry>,
}

impl Machine for ThisMachine {
    fn say(&self, line: &str) -> Outcome {
        announce(line);
        Ok(())
    }

    fn interrupted(&self) -> bool {
        machine::Machine::interrupted(&self.machine)
    }

    fn step(&self) -> Outcome {
        machine::Machine::step(&self.machine)
    }

    fn addresses(&self) -> Outcome<Vec<IpAddr>> {
        addresses_here()
    }

    fn resolve(&self, name: &str) -> Vec<IpAddr> {
        System.resolve(name)
    }

    fn running(&self, conf: &ClusterConf) -> Outcome<BTreeMap<u8, IpAddr>> {
        let own = self.own_id()?;
        let mut running = BTreeMap::new();
        for node in conf.nodes() {
            let mut there = self.there.iter().filter_map(|node| node.id);
            let Some(id) = node.id.filter(|id| *id != own && there.any(|it| it == *id)) else {
                continue;
            };
            running.extend(ring::own_addresses(id, &resolved(conf, node.addresses)?)?);
        }
        Ok(running)
    }

    fn own_id(&self) -> Outcome<u32> {
        machine::Machine::own_id(&self.machine)
    }

    fn follow(&self, host: &Host, old: &ClusterConf, steps: &[ClusterConf]) -> Outcome {
        let lock = self.lock.borrow_mut().take();
        follow(host, &self.machine, lock, old, steps, &self.there)
    }

    fn take(&self, host: &Host, step: &ClusterConf) -> Outcome {
        if let Some(lock) = &*self.lock.borrow() {
            lock.renew()?;
        }
        clusterconf::write(host, &step.text())?;
        let mut missing = Vec::new();
        let taken = look_for(&self.machine, PATIENCE, || {
            missing = not_taken(&self.machine, step, &self.there);
            missing.is_empty().then_some(())
        });
        taken?.ok_or_else(|| Failure::failed(missing.join("\n")))
    }

    fn restart(&self) -> Outcome {
        services::control(Verb::Restart, &[FILE_SYSTEM])
    }

    fn cluster_files(&self, host: &Host) -> Outcome {
        updatecerts::cluster_files(host, UpdateOptions::default()).map(drop)
    }

    fn reload(&self) -> Outcome {
        // The change is done, whatever they say.
        drop(services::reload_api(&services::tell));
        Ok(())
    }
}

/// Changes this node, as the command does it.
///
/// # Errors
/// When a check says no, or a step fails: with what to do.
pub fn run(host: &Host, args: &NodeChange) -> Outcome {
    need_root()?;
    pve::need_quorum(&host.paths).map_err(|failure| match &args.action {
        NodeAction::SetAddress { node, address, .. } => {
            failure.within(address::out_of_reach(node, *address))
        }
        NodeAction::Rename { .. } => failure,
    })?;
    let signals = match args.dry_run {
        true => machine::ThisMachine::unwatched(),
        false => machine::ThisMachine::watched()?,
    };
    let conf = clusterconf::read(host)?;
    let there = present(&signals, &conf)?;
    let machine = ThisMachine {
        machine: signals,
        lock: RefCell::new(None),
        there,
    };
    if args.dry_run {
        change::foresee(host);
        return show_plan(&plan(host, &args.action, &machine)?);
    }
    let _node_lock = change::begin(host)?;
    machine.lock.replace(clusterconf::lock(host)?);
    perform(host, &args.action, &machine)?;
    name_absent(&conf, &machine.there);
    Ok(())
}

fn plan(host: &Host, action: &NodeAction, machine: &dyn Machine) -> Outcome<Vec<String>> {
    match action {
        NodeAction::SetAddress {
            node,
            address,
            from,
        } => Ok(address::Move::look(host, node, *address, *from, machine)?.plan()),
        NodeAction::Rename { old, new } => {
            Ok(rename::Rename::look(host, old, new, machine)?.plan())
        }
    }
}

fn perform(host: &Host, action: &NodeAction, machine: &dyn Machine) -> Outcome {
    match action {
        NodeAction::SetAddress {
            node,
            address,
            from,
        } => address::Move::look(host, node, *address, *from, machine)?.run(machine),
        NodeAction::Rename { old, new } => {
            rename::Rename::look(host, old, new, machine)?.run(machine)
        }
    }
}

/// Starts the cluster file system again and waits until it takes changes and says of itself what
/// `is_it` looks for.
fn restart(host: &Host, machine: &dyn Machine, is_it: &dyn Fn(&pve::Members) -> bool) -> Outcome {
    machine.step()?;
    machine.say(&format!("restart {FILE_SYSTEM}"))?;
    machine.restart()?;
    let settled = || {
        let is_writable = pve::state(&host.paths) == pve::State::Writable;
        let members = pve::members(&host.paths).ok().filter(|_| is_writable)?;
        is_it(&members).then_some(())
    };
    let found = wait::until(PATIENCE, || match machine.interrupted() {
        true => Some(Err(interrupted())),
        false => settled().map(Ok),
    });
    found.transpose()?.ok_or_else(|| {
        Failure::failed(format!(
            "the cluster file system was started again and is not as it should be after {} seconds: see \
             'journalctl -u pve-cluster', and run the command again",
            PATIENCE.as_secs()
        ))
    })
}

/// Whether this node has an address and its name stands for it.
fn named(host: &Host, name: &str, address: IpAddr, machine: &dyn Machine) -> Outcome {
    if !machine.addresses()?.contains(&address) {
        return Err(Failure::refused(format!(
            "'{address}' is not an address of this node: give it to an interface first, beside the old one"
        )));
    }
    let found = machine.resolve(name);
    if found.iter().find(|ip| !ip.is_loopback()) == Some(&address) {
        return Ok(());
    }
    let text = files::read(&host.paths.at("etc/hosts"))?.unwrap_or_default();
    Err(Failure::refused(format!(
        "the name '{name}' does not stand for '{address}' on this node: {}",
        hosts::advice(&text, name, address)
    )))
}
