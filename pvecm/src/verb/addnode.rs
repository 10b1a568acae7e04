//! A node is entered into the cluster, on a member, for the node that joins.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::change::{self, need_root, show_plan};
use super::machine::{Machine, ThisMachine, await_version, look_for, present};
use super::{prepare, updatecerts};
use crate::cli::Addnode;
use crate::conf::{self, Admission, ClusterConf, Joiner, Resolve};
use crate::failure::{Failure, Outcome};
use crate::host::{Host, clusterconf, files, pve, resolve, ring, wait};
use crate::info::Admitted;
use crate::join::member;
use crate::transaction::Transaction;
use crate::value::NodeName;

/// A node that was let in is there within this time, also when somebody copies files by hand.
const ARRIVAL: Duration = Duration::from_secs(900);

/// Another node that was let in is there within this time, or may be overtaken.
const TURN: Duration = Duration::from_secs(25);
/// The ring has a new configuration in force within this time.
const IN_FORCE: Duration = Duration::from_secs(15);

/// The system's resolver.
pub(super) struct System;

impl Resolve for System {
    fn resolve(&self, name: &str) -> Vec<IpAddr> {
        resolve(name).unwrap_or_default()
    }
}

/// Enters a node, as the command does it.
///
/// # Errors
/// When it is not let in.
pub fn run(host: &Host, args: &Addnode) -> Outcome {
    need_root()?;
    if let Some(votes) = args.settle {
        return settle(host, &args.node, votes);
    }
    let machine = ThisMachine::watched()?;
    if args.dry_run {
        change::foresee(host);
        pve::need_quorum(&host.paths)?;
        let decision = decide(host, &machine, args)?;
        let text = String::from_utf8_lossy(&decision.text).into_owned();
        return show_plan(&[
            format!("make the directories of node '{}'", args.node),
            format!("write '{}':\n{text}", host.paths.cluster_conf().display()),
        ]);
    }
    let admitted = admit(host, &machine, args)?;
    for warning in &admitted.warnings {
        eprintln!("{warning}");
    }
    Ok(())
}

/// Enters a node, and returns what it needs to join.
///
/// # Errors
/// When it is not let in: the cluster is as it was then.
pub fn admit(host: &Host, machine: &dyn Machine, args: &Addnode) -> Outcome<Admitted> {
    pve::need_quorum(&host.paths)?;
    await_turn(host, machine, &args.node)?;
    let _node_lock = change::begin(host)?;
    let conf_lock = clusterconf::lock(host)?;
    let mut decision = decide(host, machine, args)?;
    let key = host.paths.corosync("authkey");
    let authkey = files::read(&key)?.ok_or_else(|| {
        Failure::refused(format!(
            "'{}' is not there: without it no node can join",
            key.display()
        ))
    })?;
    if decision.admission.replaces {
        let text = format!("forcing overwrite of configured node '{}'", args.node);
        decision.warnings.push(text);
    }
    if let Err(failure) = prepare::merge_keys(host) {
        decision
            .warnings
            .push(format!("failed to merge SSH keys: {failure}"));
    }
    let command = format!("pvecm addnode {}", args.node);
    change::undone(host, machine, &command, conf_lock, |transaction| {
        enter(host, machine, &args.node, &decision, transaction)
    })
    .map_err(|undone| undone.within(host, "the node was not let in"))?;
    Ok(Admitted {
        authkey,
        conf: decision.text,
        warnings: decision.warnings,
    })
}

/// Enters a node, and waits until the ring knows it.
fn enter(
    host: &Host,
    machine: &dyn Machine,
    name: &NodeName,
    decision: &Decision,
    transaction: &mut Transaction,
) -> Outcome {
    machine.step()?;
    for directory in updatecerts::directories_of(&host.paths, name) {
        transaction.make_directory(&directory)?;
    }
    machine.step()?;
    transaction.write_conf(host, &decision.text)?;
    await_version(machine, decision.version, IN_FORCE)?;
    machine.step()?;
    if decision.is_watched {
        let votes = member::counted(decision.admission.votes);
        machine.settle_later(host, name.as_str(), votes)?;
    }
    Ok(())
}

/// Waits until the nodes that were let in before are there. A messaging daemon that meets a ring with a
/// newer configuration than its own ends itself, so the configuration must not change while a node is
/// on its way; and of daemons that run, those with the older one end, so that a node may only come
/// when the ring has the one that it gets.
fn await_turn(host: &Host, machine: &dyn Machine, name: &NodeName) -> Outcome {
    let others_are_there = || {
        let nodes = clusterconf::read(host).ok()?.nodes();
        let mut others = nodes.iter().filter(|node| node.name != name.as_str());
        others.all(|node| node.votes > 0).then_some(())
    };
    // One that never comes does not keep the others out.
    look_for(machine, TURN, others_are_there).map(drop)
}

/// Gives a node its vote once it is there; takes it out again if it does not come.
///
/// # Errors
/// When the configuration can not be written.
pub fn settle(host: &Host, name: &NodeName, votes: u32) -> Outcome {
    let id = clusterconf::read(host)?
        .node(name.as_str())
        .and_then(|node| node.id);
    let Some(id) = id else { return Ok(()) };
    // Its daemons are to have settled, too, before the quorum depends on them.
    let there = || {
        let members = pve::members(&host.paths).ok()?.nodelist;
        let online = members.get(name.as_str()).is_some_and(|it| it.online == 1);
        (online && ring::is_joined(id).unwrap_or(false)).then_some(())
    };
    let came = wait::until(ARRIVAL, there).is_some();
    let _node_lock = change::begin(host)?;
    if came {
        return member::confirm(host, name.as_str(), votes, &ring::give_votes).map(drop);
    }
    let _conf_lock = clusterconf::lock(host)?;
    let mut conf = clusterconf::read(host)?;
    if !member::is_on_probation(&conf, name.as_str()) {
        return Ok(());
    }
    let edited = conf.remove_node(name.as_str());
    edited.map_err(Failure::refused)?;
    clusterconf::write(host, &conf.text())
}

/// What becomes of a request.
struct Decision {
    admission: Admission,
    /// Its vote has to wait until it is there, and it does not know that.
    is_watched: bool,
    text: Vec<u8>,
    version: u64,
    warnings: Vec<String>,
}

fn decide(host: &Host, machine: &dyn Machine, args: &Addnode) -> Outcome<Decision> {
    let (mut conf, mut warnings) = verified(host)?;
    let links = resolved(&conf, ClusterConf::addresses(&args.links.given()))?;
    let present = present(machine, &conf)?;
    let joiner = Joiner {
        name: args.node.clone(),
        id: args.nodeid,
        votes: args.votes,
        links,
        fallback: args.new_node_ip,
        api_version: args.apiversion,
        force: args.force,
    };
    if conf.has_device() && args.force {
        let text = "warning: the cluster has a QDevice; remove it and set it up again, or its votes are wrong";
        warnings.push(text.to_owned());
    }
    let admission = conf.admit(&joiner).map_err(Failure::refused)?;
    conf.put_node(&args.node, admission.id, admission.votes, &admission.links);
    // The others must be able to go on while it has not come yet.
    let expected: u32 = conf.nodes().iter().map(|node| node.votes).sum();
    let there = present
        .iter()
        .filter(|node| node.name != args.node.as_str());
    let held = there.map(|node| node.votes).sum::<u32>() <= expected / 2;
    if held || args.probation {
        conf.set_probation(args.node.as_str());
    }
    Ok(Decision {
        is_watched: held && !args.probation,
        admission,
        text: conf.text(),
        version: conf.version(),
        warnings,
    })
}

/// The cluster's configuration, if a node can be entered into it, and what is doubtful in it.
///
/// # Errors
/// Its faults, one by one.
pub fn verified(host: &Host) -> Outcome<(ClusterConf, Vec<String>)> {
    let conf = clusterconf::read(host)?;
    let fault = conf::verify(&conf, &System);
    if fault.errors.is_empty() {
        Ok((conf, fault.warnings))
    } else {
        Err(clusterconf::invalid(&fault.errors, &fault.warnings))
    }
}

/// Addresses with host names replaced by what they stand for: the nodes may not resolve them alike.
pub(super) fn resolved(
    conf: &ClusterConf,
    links: BTreeMap<u8, String>,
) -> Outcome<BTreeMap<u8, String>> {
    let resolve_one = |(link, address): (u8, String)| {
        let found = System.resolve(&address);
        let found = conf.ip_version().choose(&found).ok_or_else(|| {
            Failure::refused(format!(
                "link{link}: '{address}' does not resolve on this node: give an IP address"
            ))
        })?;
        Ok((link, found.to_string()))
    };
    links.into_iter().map(resolve_one).collect()
}
