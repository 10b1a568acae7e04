//! Links of the running cluster are added, removed, moved and weighed.
//!
//! Each change is written as a new version, and watched until every node that is there has taken it
//! and is reached on all of its links. When that does not happen in time, the old configuration is
//! written again as a still newer version; an address is moved back the way it came.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::addnode::{System, resolved};
use super::change::{self, need_root, tell};
use super::diff::diff;
use super::machine::{Machine, ThisMachine, look_for, present};
use super::show;
use crate::cli::{LinkAction, LinkChange};
use crate::conf::{self, ClusterConf, NodeEntry};
use crate::doctor;
use crate::failure::{Failure, Outcome};
use crate::host::lock::ClusterLock;
use crate::host::{Host, clusterconf, local_addresses, pve, wait};
use crate::transaction::Transaction;
use crate::value::is_address;

/// Nodes take a version within this time.
const PATIENCE: Duration = Duration::from_secs(30);

/// A link that an earlier change has made is up, seen from each node, within this time.
const SETTLING: Duration = Duration::from_secs(10);

/// Changes links, as the command does it.
///
/// # Errors
/// When a check says no, or the nodes do not take the change; the old one is then in force again.
pub fn run(host: &Host, args: &LinkChange) -> Outcome {
    need_root()?;
    pve::need_quorum(&host.paths)?;
    if args.dry_run {
        change::foresee(host);
        let conf = clusterconf::read(host)?;
        return show_steps(&conf, &steps(host, &conf, &args.action)?);
    }
    let machine = ThisMachine::watched()?;
    let _node_lock = change::begin(host)?;
    let conf_lock = clusterconf::lock(host)?;
    let conf = clusterconf::read(host)?;
    let steps = steps(host, &conf, &args.action)?;
    show_steps(&conf, &steps)?;
    let there = present(&machine, &conf)?;
    follow(host, &machine, conf_lock, &conf, &steps, &there)?;
    name_absent(&conf, &there);
    Ok(())
}

/// Tells of nodes that are not there.
pub(super) fn name_absent(conf: &ClusterConf, there: &[NodeEntry]) {
    for node in conf.nodes().iter().filter(|node| !there.contains(node)) {
        tell(&format!(
            "node '{}' is not there; it takes the change when it is back",
            node.name
        ));
    }
}

/// Puts one configuration after the other in force.
pub(super) fn follow(
    host: &Host,
    machine: &dyn Machine,
    lock: Option<ClusterLock>,
    old: &ClusterConf,
    steps: &[ClusterConf],
    there: &[NodeEntry],
) -> Outcome {
    if let Some(first) = steps.first() {
        need_links(machine, old, first, there)?;
    }
    let take_all = |transaction: &mut Transaction| {
        let mut last = old;
        steps.iter().try_for_each(|step| {
            machine.step()?;
            clusterconf::unchanged(host, last)?;
            last = step;
            transaction.write_conf(host, &step.text())?;
            let look = || not_taken(machine, step, there);
            let taken = look_for(machine, PATIENCE, || look().is_empty().then_some(()))?;
            taken.ok_or_else(|| Failure::failed(look().join("\n")))
        })
    };
    change::undone(host, machine, "pvecm link", lock, take_all).map_err(|undone| {
        tell(&undone.failure.to_string());
        if !undone.left.is_empty() {
            return undone.within(host, "the change was not made");
        }
        gone_back(host, machine, old, there)
    })
}

/// Stops a change over links that do not work: those that are the same before and after it have to
/// carry the ring meanwhile, and a ring that breaks has no quorum to put the old configuration back with.
fn need_links(
    machine: &dyn Machine,
    old: &ClusterConf,
    first: &ClusterConf,
    there: &[NodeEntry],
) -> Outcome {
    let mut down = Vec::new();
    let all_up = look_for(machine, SETTLING, || {
        let found = staying_down(machine, old, first, there);
        let is_decided = found.as_ref().map_or(true, Vec::is_empty);
        let found = found.map(|found| down = found);
        is_decided.then_some(found)
    })?;
    if let Some(found) = all_up {
        return found;
    }
    Err(Failure::refused(format!(
        "{}\nthe links that stay have to carry the cluster during the change, so nothing was changed: \
         mend these first ('pvecm status' shows all links), or take such a link away with 'pvecm link \
         remove' while another works",
        down.join("\n")
    )))
}

/// Nodes that are not reached on a link that is the same in both configurations.
fn staying_down(
    machine: &dyn Machine,
    old: &ClusterConf,
    first: &ClusterConf,
    there: &[NodeEntry],
) -> Outcome<Vec<String>> {
    let own = machine.own_id()?;
    let (before, after) = (old.nodes(), first.nodes());
    let mut down = Vec::new();
    for node in there {
        let Some(id) = node.id.filter(|id| *id != own) else {
            continue;
        };
        let is_same = |(link, address): &(u8, String)| {
            let found = after.iter().find(|it| it.id == Some(id));
            let stays = found.is_some_and(|it| it.addresses.get(link) == Some(address));
            // Of this node too: its end of the link is what may move.
            let ours = |nodes: &[NodeEntry]| {
                let own = nodes.iter().find(|it| it.id == Some(own));
                own.and_then(|own| own.addresses.get(link).cloned())
            };
            stays && ours(&before) == ours(&after)
        };
        let staying = node.addresses.clone().into_iter().filter(is_same).collect();
        for link in machine.links_down(id, &resolved(old, staying)?)? {
            down.push(format!(
                "node '{}' is not reached on link {link}",
                node.name
            ));
        }
    }
    Ok(down)
}

/// The configurations that lead to what is wanted, one after the other.
pub(super) fn steps(
    host: &Host,
    conf: &ClusterConf,
    action: &LinkAction,
) -> Outcome<Vec<ClusterConf>> {
    without_faults(conf)?;
    let mut new = conf.clone();
    match action {
        LinkAction::Add {
            number,
            addresses,
            priority,
        } => {
            let addresses = by_node(host, conf, addresses)?;
            let added = new.add_link(*number, &addresses, *priority);
            added.map_err(Failure::refused)?;
        }
        LinkAction::Remove {
            number,
            allow_storage_network,
        } => {
            new.remove_link(*number).map_err(Failure::refused)?;
            let own = new.node(host.name.as_str());
            let at = own.iter().flat_map(|own| own.addresses.values());
            let at: Vec<IpAddr> = at.filter_map(|text| text.parse().ok()).collect();
            if !allow_storage_network {
                doctor::refuse_storage_network(host, &at)?;
            }
        }
        LinkAction::SetPriority { number, priority } => {
            if conf.priority(*number) == Some(*priority) {
                return Ok(Vec::new());
            }
            let set = new.set_priority(*number, *priority);
            set.map_err(Failure::refused)?;
        }
        LinkAction::SetAddress {
            number,
            node,
            address,
        } => {
            let new = NewAddress {
                node: node.as_str(),
                links: &[*number],
                address,
                is_own: *node == host.name,
                local: &addresses_here()?,
            };
            let at = conf
                .node(node.as_str())
                .and_then(|it| it.addresses.get(number).cloned());
            return match at.is_some_and(|at| new.checked(conf) == Ok(at)) {
                true => Ok(Vec::new()),
                false => moved(conf, &new),
            };
        }
    }
    faultless(&new)?;
    Ok(vec![new])
}

/// Refuses a new configuration with faults.
fn faultless(new: &ClusterConf) -> Outcome {
    let fault = conf::verify(new, &System);
    match fault.errors.is_empty() {
        true => Ok(()),
        false => Err(Failure::refused(fault.errors.join("\n"))),
    }
}

fn without_faults(conf: &ClusterConf) -> Outcome {
    let fault = conf::verify(conf, &System);
    if fault.errors.is_empty() {
        return Ok(());
    }
    Err(Failure::refused(format!(
        "the configuration in force has faults, mend them first: {}",
        fault.errors.join("; ")
    )))
}

/// An address that a node is to get.
pub(super) struct NewAddress<'a> {
    pub(super) node: &'a str,
    /// Links of the node that move to it.
    pub(super) links: &'a [u8],
    pub(super) address: &'a str,
    /// The node is this one.
    pub(super) is_own: bool,
    /// Addresses of this node's interfaces.
    pub(super) local: &'a [IpAddr],
}

/// The configurations in which a node moves to another address, one after the other.
///
/// # Errors
/// When the node may not have that address, or the configuration can not be built on.
pub(super) fn moved(conf: &ClusterConf, new: &NewAddress<'_>) -> Outcome<Vec<ClusterConf>> {
    without_faults(conf)?;
    let moves = conf.moves(new.node, new.links, &new.checked(conf)?);
    let moves = moves.map_err(Failure::refused)?;
    moves.iter().try_for_each(faultless)?;
    Ok(moves)
}

/// Addresses of this node's interfaces.
pub(super) fn addresses_here() -> Outcome<Vec<IpAddr>> {
    local_addresses().map_err(|error| Failure::failed(format!("no list of addresses: {error}")))
}

/// Reads `NODE=ADDRESS` for each node.
fn by_node(host: &Host, conf: &ClusterConf, given: &[String]) -> Outcome<BTreeMap<String, String>> {
    let local = addresses_here()?;
    let mut addresses = BTreeMap::new();
    for text in given {
        let (node, address) = text.split_once('=').ok_or_else(|| {
            Failure::usage(format!(
                "'{text}' is not known: use NODE=ADDRESS for each node"
            ))
        })?;
        let new = NewAddress {
            node,
            links: &[],
            address,
            is_own: node == host.name.as_str(),
            local: &local,
        };
        let address = new.checked(conf)?;
        if let Some((other, _)) = addresses.iter().find(|(_, used)| **used == address) {
            return Err(Failure::refused(format!(
                "'{address}' can not be that of both '{other}' and '{node}'"
            )));
        }
        if addresses.insert(node.to_owned(), address).is_some() {
            return Err(Failure::usage(format!("node '{node}' is given twice")));
        }
    }
    Ok(addresses)
}

/// Refuses an address that is in use, other than by this node on these links.
pub(super) fn refuse_taken(conf: &ClusterConf, node: &str, links: &[u8], address: &str) -> Outcome {
    for other in conf.nodes() {
        let stays = |link: &u8| other.name != node || !links.contains(link);
        let mut at = other.addresses.iter();
        let used = at.find(|(link, used)| **used == *address && stays(link));
        if let Some((link, _)) = used {
            return Err(Failure::refused(format!(
                "'{address}' is used already on link {link} by node '{}'",
                other.name
            )));
        }
    }
    Ok(())
}

impl NewAddress<'_> {
    /// The address if the node may get it: resolved, nobody else's nor its own on a link that stays, and
    /// one of its interfaces where that can be seen.
    fn checked(&self, conf: &ClusterConf) -> Outcome<String> {
        if !is_address(self.address) {
            return Err(Failure::usage(format!(
                "'{}' is neither an IP address nor a host name",
                self.address
            )));
        }
        let one = resolved(conf, [(0, self.address.to_owned())].into())?;
        let address = one.into_values().next().unwrap_or_default();
        refuse_taken(conf, self.node, self.links, &address)?;
        let is_local = address.parse().is_ok_and(|ip| self.local.contains(&ip));
        match (self.is_own, is_local) {
            (true, false) => Err(Failure::refused(format!(
                "'{address}' is not an address of this node: give it to an interface first"
            ))),
            (false, true) => Err(Failure::refused(format!(
                "'{address}' is an address of this node, and can not be that of '{}'",
                self.node
            ))),
            _ => Ok(address),
        }
    }
}

pub(super) fn show_steps(conf: &ClusterConf, steps: &[ClusterConf]) -> Outcome {
    if steps.is_empty() {
        return show("that is so already: nothing to do\n");
    }
    let mut before = conf.text();
    for step in steps {
        let after = step.text();
        show(&format!(
            "version {}:\n{}",
            step.version(),
            diff(&before, &after)
        ))?;
        before = after;
    }
    Ok(())
}

/// What is not yet as the configuration says.
pub(super) fn not_taken(
    machine: &dyn Machine,
    step: &ClusterConf,
    there: &[NodeEntry],
) -> Vec<String> {
    let missing = missing(machine, step, there);
    missing.unwrap_or_else(|failure| vec![failure.to_string()])
}

fn missing(machine: &dyn Machine, step: &ClusterConf, there: &[NodeEntry]) -> Outcome<Vec<String>> {
    let ids: Vec<u32> = there.iter().filter_map(|node| node.id).collect();
    let versions = machine.versions(&ids)?;
    let own = machine.own_id()?;
    let mut missing = Vec::new();
    for (node, id) in there.iter().zip(&ids) {
        let name = &node.name;
        match versions.get(id) {
            None => missing.push(format!("node '{name}' is in the ring no more")),
            Some(version) if *version < step.version() => missing.push(format!(
                "node '{name}' has version {version}, not {}",
                step.version()
            )),
            Some(_) if *id == own => {}
            Some(_) => {
                // By its number: the name may be what changes.
                let found = step.nodes().into_iter().find(|it| it.id == Some(*id));
                let addresses = resolved(step, found.unwrap_or_else(|| node.clone()).addresses)?;
                let down = machine.links_down(*id, &addresses)?;
                missing.extend(
                    down.into_iter()
                        .map(|link| format!("node '{name}' is not reached on link {link}")),
                );
            }
        }
    }
    Ok(missing)
}

/// Watches the nodes take the old configuration again.
fn gone_back(
    host: &Host,
    machine: &dyn Machine,
    old: &ClusterConf,
    there: &[NodeEntry],
) -> Failure {
    let back = match clusterconf::read(host) {
        Ok(back) => back,
        Err(failure) => return failure,
    };
    if back.version() == old.version() {
        return Failure::failed("nothing was changed");
    }
    let mut as_before = old.clone();
    as_before.set_version(back.version());
    if back.text() != as_before.text() {
        return Failure::failed(format!(
            "version {} is neither the old configuration nor the new one: somebody else has changed it, and \
             it stays; look at it, then run the command again",
            back.version()
        ));
    }
    tell("not all nodes have taken the change; going back to the old configuration");
    let mut missing = Vec::new();
    // Who has asked for an end has to be told how it ended.
    let taken = wait::until(machine.patience(PATIENCE), || {
        missing = not_taken(machine, &back, there);
        missing.is_empty().then_some(())
    });
    match taken {
        Some(()) => Failure::failed(format!(
            "the change was taken back; version {} is as version {} was",
            back.version(),
            old.version()
        )),
        None => Failure::failed(format!(
            "the change was to be taken back with version {}, but not all nodes have that: {}; \
             see 'pvecm status' and 'journalctl -u corosync' there",
            back.version(),
            missing.join("\n")
        )),
    }
}
