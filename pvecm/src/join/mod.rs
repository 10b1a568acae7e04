//! This node joins a cluster.
//!
//! | module | owns |
//! |---|---|
//! | [`secret`] | passwords and answers |
//! | [`client`], [`api`] | the member over HTTPS |
//! | [`over_ssh`], `connection` | the member over SSH |
//! | [`peer`] | the member, however it is reached |
//! | [`checks`], [`reach`] | what would keep this node out, found before anything changes |
//! | `swapped` | links that look as if they were mixed up |
//! | [`version`] | versions of the programs of both sides |
//! | [`steps`] | what is changed, in order, and how it is put back |
//! | [`database`] | the database that this node had |
//! | [`guests`] | guests that this node brings along |
//! | [`leftover`] | a join that was broken off and that the cluster still knows of |
//! | [`quorum`] | why there is no quorum |
//! | [`member`] | the member's half: nodes on probation |
//! | [`machine`] | services and addresses of this machine |
//!
//! The order: everything is checked on this node; the member is asked what its cluster is like, and
//! that is checked; SSH is prepared; the member lets this node in; its key and configuration take
//! the place of what is here; the services start; there is quorum; this node gets its votes; its
//! certificate is made. A step that fails, a signal, and a kill all end with this node as it was,
//! and with its entry taken out of the cluster again, as far as the member can be reached.

pub mod api;
pub mod checks;
pub mod client;
mod connection;
pub mod database;
mod date;
pub mod guests;
pub mod leftover;
pub mod machine;
pub mod member;
pub mod over_ssh;
pub mod peer;
pub mod quorum;
pub mod reach;
pub mod secret;
pub mod steps;
mod swapped;
#[cfg(test)]
mod tests;
pub mod version;

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use crate::failure::{Failure, Outcome};
use crate::host::lock::NodeLock;
use crate::host::{Host, clusterconf, resolve};
use guests::Guest;
use machine::Machine;
use peer::{Facts, Peer, Request};

/// What is going to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the member is asked for.
    pub request: Request,
    /// A join of this node was broken off, and the cluster may still have its entry.
    pub replaces_leftover: bool,
    /// This node was in the cluster before, and takes its entry if that is still there.
    pub again: bool,
    /// It is still in a cluster, which it leaves first.
    pub leaves: bool,
    /// The user wants to join although checks fail.
    pub force: bool,
    /// How long quorum is waited for.
    pub timeout: Duration,
    /// Guests that are carried over.
    pub import: Option<Vec<Guest>>,
}

impl Plan {
    /// Addresses that this node is going to have in the cluster.
    #[must_use]
    pub fn own_addresses(&self) -> Vec<IpAddr> {
        let links = self.request.links.values();
        let given: Vec<IpAddr> = links.filter_map(|link| link.address.parse().ok()).collect();
        if given.is_empty() {
            self.request.fallback.into_iter().collect()
        } else {
            given
        }
    }

    /// Address of this node on a link.
    #[must_use]
    pub fn address_on(&self, link: u8) -> Option<IpAddr> {
        if self.request.links.is_empty() {
            return self.request.fallback;
        }
        self.request.links.get(&link)?.address.parse().ok()
    }

    /// The steps in words, for a user who wants to see them first.
    #[must_use]
    pub fn steps(&self, host: &Host, peer: &str) -> Vec<String> {
        let name = &self.request.name;
        let at: Vec<String> = self.own_addresses().iter().map(IpAddr::to_string).collect();
        let mut steps = vec!["prepare root's SSH key and sshd on this node".to_owned()];
        if self.replaces_leftover {
            steps.push(format!(
                "have '{peer}' remove what is left of the join that was broken off"
            ));
        }
        steps.extend([
            format!(
                "have '{peer}' add node '{name}' at {} to its cluster",
                at.join(", ")
            ),
            "stop pve-cluster".to_owned(),
            format!(
                "write '{}' and 'corosync.conf' beside it",
                host.paths.corosync("authkey").display()
            ),
            format!(
                "keep the old database in '{}'",
                host.paths.database("backup").display()
            ),
            "start corosync and pve-cluster".to_owned(),
            format!(
                "wait for quorum, {} seconds at most",
                self.timeout.as_secs()
            ),
            format!("give node '{name}' its votes"),
            "make this node's certificate, directories and keys in the cluster".to_owned(),
        ]);
        if let Some(guests) = self.import.as_ref().filter(|all| !all.is_empty()) {
            steps.push(format!(
                "carry over guest {}",
                guests::listed(guests.iter().map(|guest| guest.id))
            ));
        }
        steps.extend(["restart pvedaemon and pveproxy".to_owned()]);
        steps
    }
}

/// Stops a user who stands where the cluster file system is going to be exchanged.
///
/// # Errors
/// When the working directory, `here`, is below `/etc/pve`.
pub fn check_working_directory(host: &Host, here: &Path) -> Outcome {
    if here.starts_with(host.paths.pve("")) {
        return Err(Failure::refused(
            "Navigate out of /etc/pve before running 'pvecm add', for example by running 'cd'.",
        ));
    }
    Ok(())
}

/// Stops a user who names this node as the member to talk to.
///
/// # Errors
/// When `peer` is this node.
pub fn refuse_self(host: &Host, peer: &str, by_ssh: bool, machine: &dyn Machine) -> Outcome {
    let local = machine.addresses()?;
    let at = match resolve(client::bare(peer)) {
        Ok(at) => at,
        // SSH may know the name by its own configuration.
        Err(_) if by_ssh => Vec::new(),
        Err(error) => {
            return Err(Failure::refused(format!(
                "'{peer}' does not resolve ({error}): give the member's address, or a line for it in /etc/hosts"
            )));
        }
    };
    match at.iter().find(|address| local.contains(address)) {
        Some(address) => Err(Failure::refused(format!(
            "'{peer}' is this node itself, '{}' at {address}: name a member of the cluster that it is to join",
            host.name
        ))),
        None => Ok(()),
    }
}

/// Whether this node is a member of the cluster of the node `peer` already: then there is nothing to
/// do but what a join that was killed late has left, which `dry_run` leaves alone. Returns the name of
/// the cluster.
///
/// # Errors
/// When something is left to do, and that fails.
pub fn is_member(
    host: &Host,
    peer: &str,
    machine: &dyn Machine,
    dry_run: bool,
) -> Outcome<Option<String>> {
    if !host.paths.corosync("authkey").exists() {
        return Ok(None);
    }
    let Ok(conf) = clusterconf::read(host) else {
        return Ok(None);
    };
    let own = host.name.as_str();
    if conf.node(own).is_none() {
        return Ok(None);
    }
    let members = crate::host::pve::members(&host.paths).unwrap_or_default();
    let wanted = resolve(client::bare(peer)).unwrap_or_default();
    let is_it = conf
        .nodes()
        .iter()
        .filter(|node| node.name != own)
        .any(|node| {
            let told = members
                .nodelist
                .get(&node.name)
                .and_then(|member| member.ip);
            let rings = node.addresses.values();
            let known = rings
                .flat_map(|at| resolve(at).unwrap_or_default())
                .chain(told);
            node.name == peer || known.into_iter().any(|address| wanted.contains(&address))
        });
    if !is_it {
        return Ok(None);
    }
    if !dry_run && member::is_on_probation(&conf, own) && machine.is_quorate(host) {
        member::confirm(host, own, 1, &|id, votes| machine.give_votes(id, votes))?;
    }
    Ok(Some(conf.cluster_name().unwrap_or_default().to_owned()))
}

/// Looks at the cluster, and joins it. The checks of this node itself are passed.
///
/// # Errors
/// When a check says no, or a step fails: then everything is put back.
pub fn join(
    host: &Host,
    plan: &mut Plan,
    peer: &mut dyn Peer,
    machine: &dyn Machine,
    dry_run: bool,
) -> Outcome {
    let facts = look(host, plan, peer, machine)?;
    if dry_run {
        foretell(host, plan, peer, machine);
        return Ok(());
    }
    steps::run(host, plan, &facts, peer, machine)
}

/// What a node that is in a cluster does before it joins again.
pub(crate) struct Leaving<'a> {
    /// Leaves the cluster, or tells what that would do.
    pub leave: &'a dyn Fn() -> Outcome,
    /// Keeps others from changing this node, which is in no cluster any more, and looks at it as it
    /// is now.
    pub settle: &'a dyn Fn() -> Outcome<(NodeLock, Plan)>,
}

/// Looks at everything that can be seen before, then leaves the cluster that this node is in, and
/// joins. `plan` is for the node as it will be then.
///
/// # Errors
/// When a check says no: nothing is changed then. Or when a step fails: a join is put back, but this
/// node has left.
pub(crate) fn leave_and_join(
    host: &Host,
    plan: &mut Plan,
    leaving: &Leaving<'_>,
    peer: &mut dyn Peer,
    machine: &dyn Machine,
    dry_run: bool,
) -> Outcome {
    look(host, plan, peer, machine)?;
    (leaving.leave)()?;
    if dry_run {
        foretell(host, plan, peer, machine);
        return Ok(());
    }
    // That has taken time and keys, and what was hidden before can be seen now.
    peer.reopen()?;
    let (_lock, mut plan) = (leaving.settle)()?;
    join(host, &mut plan, peer, machine, false)
}

/// Tells what would be done.
fn foretell(host: &Host, plan: &Plan, peer: &dyn Peer, machine: &dyn Machine) {
    for step in plan.steps(host, &peer.name()) {
        machine.say(&format!("would {step}"));
    }
}

/// Looks at the cluster. The plan then says what of it this node replaces.
///
/// # Errors
/// When a check says no, or the user wants it to end.
fn look(
    host: &Host,
    plan: &mut Plan,
    peer: &mut dyn Peer,
    machine: &dyn Machine,
) -> Outcome<Facts> {
    machine.say("check cluster join API version");
    let facts = peer.facts()?;
    plan.replaces_leftover = leftover::applies(host, &facts);
    let name = peer.name();
    let mut found = checks::cluster(&name, &facts, plan, machine);
    if let Some(guests) = &plan.import
        && facts.cluster.is_some()
    {
        guests::check(guests, plan.request.name.as_str(), peer, &mut found);
    }
    if machine.interrupted() {
        return Err(crate::host::stop::interrupted());
    }
    found.settle(plan.force, &|line| machine.say(line))?;
    let own = plan.request.name.as_str();
    let is_known = facts.nodes.iter().any(|node| node.name == own);
    plan.request.force = (plan.force || plan.again) && is_known && !plan.replaces_leftover;
    Ok(facts)
}
