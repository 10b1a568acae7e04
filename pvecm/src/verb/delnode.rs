//! A node is taken out of the cluster, whether it lives or not.
//!
//! The configuration comes first, the messaging daemon of the node after it: when the write fails
//! nothing has happened, while a node that was killed first would still be expected to vote, and a
//! cluster of two would lose the quorum that the write needs. A node that lives gets the new
//! configuration like all others, so that its daemon does not start with the old one again.

use std::time::Duration;

use super::change::{self, need_root, show_plan};
use super::leftovers::Leftovers;
use super::machine::{Machine, ThisMachine, await_version, present};
use super::two_node;
use crate::cli::Delnode;
use crate::conf::{ClusterConf, NodeEntry};
use crate::failure::{Failure, Outcome, code};
use crate::host::{Host, clusterconf, pve, wait};
use crate::tell::announce;
use crate::transaction::Transaction;

/// A node that was put out of the ring is gone within this time.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was done, and what is left of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// What was done, a line each.
    pub done: Vec<String>,
    /// What the user has to know or do, a line each.
    pub remains: Vec<String>,
    /// Something that was asked for could not be done.
    pub is_incomplete: bool,
}

/// Takes a node out, as the command does it.
///
/// # Errors
/// When it is not known or is this one, when there is no quorum, or a step fails.
pub fn run(host: &Host, args: &Delnode) -> Outcome {
    need_root()?;
    if args.dry_run {
        change::foresee(host);
        return show_plan(&plan(host, args)?);
    }
    let removed = remove(host, &ThisMachine::watched()?, args)?;
    for line in &removed.done {
        announce(line);
    }
    for line in &removed.remains {
        change::tell(line);
    }
    match removed.is_incomplete {
        true => Err(Failure::quiet(code::FAILED)),
        false => Ok(()),
    }
}

/// Takes a node out.
///
/// # Errors
/// When it is not known or is this one, when there is no quorum, or a step fails.
pub fn remove(host: &Host, machine: &dyn Machine, args: &Delnode) -> Outcome<Removed> {
    refuse_self(host, args)?;
    pve::need_quorum(&host.paths)?;
    let _node_lock = change::begin(host)?;
    let conf_lock = clusterconf::lock(host)?;
    let (mut conf, node) = check(host, args)?;
    let others = conf.nodes();
    conf.remove_node(&node.name).map_err(Failure::refused)?;
    let name = &node.name;
    let command = format!("pvecm delnode {name}");
    let work = |transaction: &mut Transaction| {
        machine.step()?;
        transaction.write_conf(host, &conf.text())?;
        machine.step()?;
        await_goodbye(machine, &conf, &node, &others)
    };
    // Until here it can come back as if nothing had been; after that all goes on to its end.
    let found = change::undone(host, machine, &command, conf_lock, work)
        .map_err(|undone| undone.within(host, &format!("node '{name}' was not taken out")))?;
    let mut removed = Removed::default();
    removed
        .done
        .push(format!("node '{name}' is out of the configuration"));
    removed.remains.push(known_to(&node.name));
    removed.remains.extend(two_node::hint(&conf));
    match found.and_then(|id| id.map_or(Ok(Vec::new()), |id| put_out(machine, id))) {
        Ok(lines) => removed.done.extend(lines),
        Err(failure) => {
            removed.is_incomplete = true;
            removed.remains.push(format!(
                "{failure}; stop corosync on '{name}' before it is used again"
            ));
        }
    }
    let purged = if args.purge {
        Leftovers::find(host, &args.node).and_then(|leftovers| leftovers.purge(host))
    } else {
        Ok(Vec::new())
    };
    // The node is out already; what is left of it is another matter.
    match purged.and_then(|done| Ok((done, Leftovers::find(host, &args.node)?))) {
        Ok((done, left)) => {
            removed.done.extend(done);
            removed.is_incomplete |= args.purge && !left.is_purged();
            removed.remains.extend(left.lines());
        }
        Err(failure) => {
            removed.is_incomplete = true;
            removed.remains.push(failure.to_string());
        }
    }
    Ok(removed)
}

/// What a node that was removed can still do. No key is changed here: a node that is off would not have
/// the new one and could not come back, and Corosync may lose the ring over a change under load.
fn known_to(name: &str) -> String {
    format!(
        "'{name}' still knows the keys of the cluster; if it is not to be trusted, make new ones on the others: \
         of the ring with 'pvecm keygen FILE', FILE over /etc/corosync/authkey on all nodes, then \
         'corosync-cfgtool -R' on one; of the authority with 'pvecm certs rollover'"
    )
}

fn refuse_self(host: &Host, args: &Delnode) -> Outcome {
    if args.node == host.name {
        return Err(Failure::refused(
            "Cannot delete myself from cluster! Use 'pvecm leave' here, or 'pvecm delnode' on another \
             node",
        ));
    }
    Ok(())
}

fn check(host: &Host, args: &Delnode) -> Outcome<(ClusterConf, NodeEntry)> {
    let conf = clusterconf::read(host)?;
    let name = args.node.as_str();
    let node = conf.node(name).ok_or_else(|| {
        Failure::refused(format!(
            "Node/IP: {name} is not a known host of the cluster."
        ))
    })?;
    if conf.has_device() && !args.force {
        return Err(Failure::refused(
            "the cluster has a QDevice, whose votes would be wrong: remove it, delete the node, and set \
             it up again, or use --force",
        ));
    }
    Ok((conf, node))
}

/// Whether the messaging daemon of a node that is in the configuration no more has to be ended: its
/// number, once its vote is not needed any more; or why nobody can tell.
///
/// # Errors
/// When the command is to end.
fn await_goodbye(
    machine: &dyn Machine,
    conf: &ClusterConf,
    node: &NodeEntry,
    before: &[NodeEntry],
) -> Outcome<Outcome<Option<u32>>> {
    let found = goodbye(machine, conf, node, before);
    // Whatever did not succeed because of that.
    machine.step().map(|()| found)
}

fn goodbye(
    machine: &dyn Machine,
    conf: &ClusterConf,
    node: &NodeEntry,
    before: &[NodeEntry],
) -> Outcome<Option<u32>> {
    let Some(id) = node.id else {
        return Ok(None);
    };
    if !machine.is_joined(id)? {
        return Ok(None);
    }
    let shares = before
        .iter()
        .find(|other| other.name != node.name && other.id == Some(id));
    if let Some(other) = shares {
        return Err(Failure::failed(format!(
            "node id {id} is that of '{}' too, so nothing was put out of the ring",
            other.name
        )));
    }
    // Its vote may be needed until all have the new configuration, which does not count it.
    let expected = NodeEntry::votes_of(before);
    let present = NodeEntry::votes_of(&present(machine, conf)?);
    if present <= expected / 2 {
        await_version(machine, conf.version(), PATIENCE)?;
    }
    Ok(Some(id))
}

/// Ends the messaging daemon of a node.
fn put_out(machine: &dyn Machine, id: u32) -> Outcome<Vec<String>> {
    machine.kill(id)?;
    let gone = || (!machine.is_joined(id).unwrap_or(true)).then_some(());
    wait::until(machine.patience(PATIENCE), gone)
        .ok_or_else(|| Failure::failed(format!("node {id} is still in the ring of this node")))?;
    Ok(vec![format!("Killing node {id}")])
}

fn plan(host: &Host, args: &Delnode) -> Outcome<Vec<String>> {
    refuse_self(host, args)?;
    pve::need_quorum(&host.paths)?;
    let (mut conf, node) = check(host, args)?;
    conf.remove_node(&node.name).map_err(Failure::refused)?;
    let text = String::from_utf8_lossy(&conf.text()).into_owned();
    let mut steps = vec![format!(
        "write '{}':\n{text}",
        host.paths.cluster_conf().display()
    )];
    if let Some(id) = node.id {
        steps.push(format!("put node {id} out of the ring, if it is in it"));
    }
    let leftovers = Leftovers::find(host, &args.node)?;
    let verb = if args.purge { "remove" } else { "leave" };
    steps.extend(
        leftovers
            .lines()
            .iter()
            .map(|line| format!("{verb}: {line}")),
    );
    Ok(steps)
}
