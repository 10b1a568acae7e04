//! A node is entered into the cluster, on a member, for the node that joins.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::change::{self, need_root, show_plan};
use super::machine::{Machine, ThisMachine, await_version, look_for, present};
use super::{prepare, two_node, updatecerts};
use crate::cli::Addnode;
use crate::conf::{self, Admission, ClusterConf, Joiner, NodeEntry, Resolve};
use crate::failure::{Failure, Outcome};
use crate::host::command::program;
use crate::host::lock::{ClusterLock, NodeLock};
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
        for warning in &decision.warnings {
            change::tell(warning);
        }
        let text = String::from_utf8_lossy(&decision.text).into_owned();
        return show_plan(&[
            format!("make the directories of node '{}'", args.node),
            format!("write '{}':\n{text}", host.paths.cluster_conf().display()),
        ]);
    }
    let admitted = admit(host, &machine, args)?;
    for warning in &admitted.warnings {
        change::tell(warning);
    }
    Ok(())
}

/// Enters a node, and returns what it needs to join.
///
/// # Errors
/// When it is not let in: the cluster is as it was then.
pub fn admit(host: &Host, machine: &dyn Machine, args: &Addnode) -> Outcome<Admitted> {
    pve::need_quorum(&host.paths)?;
    let (_node_lock, conf_lock) = take_turn(host, machine, &args.node)?;
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

/// Waits until the nodes that were let in before are there, and keeps others from letting one in.
///
/// A messaging daemon that comes to a ring with a newer configuration than its own ends itself, so the
/// configuration must not change while a node is on its way (see
/// [`await_others`](member::await_others) for the change that follows).
fn take_turn(
    host: &Host,
    machine: &dyn Machine,
    name: &NodeName,
) -> Outcome<(NodeLock, Option<ClusterLock>)> {
    let is_turn = || {
        // Waiting does not mend a configuration that can not be used.
        let conf = clusterconf::read(host);
        conf.map_or(true, |conf| {
            member::on_probation(&conf, name.as_str()).is_empty()
        })
    };
    let lock = || {
        let node_lock = change::begin(host)?;
        Ok((node_lock, clusterconf::lock(host)?))
    };
    in_turn(machine, machine.patience(TURN), is_turn, lock)
}

/// Locks when it is the turn, and still is then. A turn that never comes is waited for no longer than
/// `patience`: a node that stays away does not keep the others out.
fn in_turn<L>(
    machine: &dyn Machine,
    patience: Duration,
    mut is_turn: impl FnMut() -> bool,
    mut lock: impl FnMut() -> Outcome<L>,
) -> Outcome<L> {
    let end = wait::now() + patience;
    loop {
        let left = end.saturating_duration_since(wait::now());
        look_for(machine, left, || is_turn().then_some(()))?;
        let locked = lock()?;
        if is_turn() || wait::now() >= end {
            return Ok(locked);
        }
    }
}

/// Gives a node its vote once it is there; takes it out again if it does not come. Nobody sees what this
/// says, so that goes to the system's log as well.
///
/// # Errors
/// When the configuration can not be written for long.
pub fn settle(host: &Host, name: &NodeName, votes: u32) -> Outcome {
    let ring = Settling {
        patience: ARRIVAL,
        is_joined: &|id| ring::is_joined(id).unwrap_or(false),
        give: &ring::give_votes,
        log: &|line| {
            change::tell(line);
            // Without a log there is nobody to tell.
            drop(program("logger", ["-t", "pvecm", line]).output());
        },
    };
    ring.settle(host, name, votes)
}

/// What settling asks of the ring.
struct Settling<'a> {
    /// The node comes within this time, and then can be settled within it.
    patience: Duration,
    is_joined: &'a dyn Fn(u32) -> bool,
    give: &'a dyn Fn(u32, u32) -> Outcome,
    log: &'a dyn Fn(&str),
}

impl Settling<'_> {
    fn settle(&self, host: &Host, name: &NodeName, votes: u32) -> Outcome {
        let entry = clusterconf::read(host)?.node(name.as_str());
        let Some(entry) = entry else { return Ok(()) };
        let Some(id) = entry.id else { return Ok(()) };
        // Its daemons are to have settled, too, before the quorum depends on them.
        let there = || {
            let online = pve::members(&host.paths).ok()?.is_online(name.as_str());
            (online && (self.is_joined)(id)).then_some(())
        };
        wait::until(self.patience, there);
        member::await_others(host, name.as_str(), || false);
        let mut last = String::new();
        let settled = wait::until(self.patience, || {
            let Err(failure) = self.once(host, &entry, votes, there().is_some()) else {
                return Some(());
            };
            if failure.text() != last {
                let what = "its vote waits, this is tried again";
                (self.log)(&format!("node '{name}': {failure}; {what}"));
                failure.text().clone_into(&mut last);
            }
            None
        });
        settled.ok_or_else(|| {
            let text = format!(
                "node '{name}' has no vote: {last}; run 'pvecm addnode {name} --settle {votes}'"
            );
            (self.log)(&text);
            Failure::failed(text)
        })
    }

    fn once(&self, host: &Host, entry: &NodeEntry, votes: u32, came: bool) -> Outcome {
        let name = entry.name.as_str();
        let _node_lock = change::begin(host)?;
        // Somebody may have settled it, or let in another one under that name.
        let is_ours = |conf: &ClusterConf| {
            let now = conf.node(name).filter(|now| now.votes == 0);
            now.is_some_and(|now| now.id == entry.id && now.addresses == entry.addresses)
        };
        if !is_ours(&clusterconf::read(host)?) {
            return Ok(());
        }
        if came {
            return member::confirm(host, name, votes, self.give).map(drop);
        }
        let _conf_lock = clusterconf::lock(host)?;
        let mut conf = clusterconf::read(host)?;
        if !is_ours(&conf) {
            return Ok(());
        }
        conf.remove_node(name).map_err(Failure::refused)?;
        clusterconf::write(host, &conf.text())
    }
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
    let before = conf.nodes();
    conf.put_node(&args.node, admission.id, admission.votes, &admission.links);
    warnings.extend(two_node::leave_out(&mut conf, &before, &present)?);
    // The others must be able to go on while it has not come yet.
    let expected = NodeEntry::votes_of(&conf.nodes());
    let there = present
        .iter()
        .filter(|node| node.name != args.node.as_str());
    let held = NodeEntry::votes_of(there) <= expected / 2;
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

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::fs;

    use super::*;
    use crate::host::Paths;

    const CONF: &str = "totem {\n  config_version: 4\n}\nnodelist {\n  node {\n    name: n1\n    nodeid: \
                        1\n    ring0_addr: 10.0.0.1\n  }\n  node {\n    name: n3\n    nodeid: 3\n    \
                        quorum_votes: 0\n    ring0_addr: 10.0.0.3\n  }\n}\n";

    fn host(directory: &std::path::Path) -> Host {
        let paths = Paths::below(directory);
        for path in ["etc/pve/priv/lock", "var/lock", "var/lib/pve-cluster"] {
            fs::create_dir_all(paths.at(path)).unwrap();
        }
        fs::write(paths.cluster_conf(), CONF).unwrap();
        let members = r#"{"nodename":"n1","version":1,"nodelist":{"n3":{"id":3,"online":1}}}"#;
        fs::write(paths.pve(".members"), members).unwrap();
        Host {
            paths,
            name: "n1".parse().unwrap(),
        }
    }

    #[test]
    fn a_vote_that_can_not_be_given_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let host = host(directory.path());
        let (tries, said) = (Cell::new(0), RefCell::new(Vec::new()));
        let settling = Settling {
            patience: Duration::from_secs(20),
            is_joined: &|_| true,
            give: &|_, _| {
                tries.set(tries.get() + 1);
                match tries.get() {
                    1 | 2 => Err(Failure::failed("busy")),
                    _ => Ok(()),
                }
            },
            log: &|line| said.borrow_mut().push(line.to_owned()),
        };
        settling.settle(&host, &"n3".parse().unwrap(), 1).unwrap();
        let conf = clusterconf::read(&host).unwrap();
        assert_eq!(conf.node("n3").unwrap().votes, 1);
        let said = said.take();
        assert!(said.len() == 1 && said[0].contains("busy"), "{said:?}");
    }

    #[test]
    fn a_node_that_another_member_has_let_in_meanwhile_is_waited_for() {
        let mut is_turn = [true, false, false, true, true].into_iter();
        let mut locked = 0;
        let lock = || {
            locked += 1;
            Ok(())
        };
        let patience = Duration::from_secs(20);
        let machine = ThisMachine::unwatched();
        in_turn(&machine, patience, || is_turn.next().unwrap(), lock).unwrap();
        assert_eq!(locked, 2);
        // One that never comes is not waited for.
        in_turn(&machine, Duration::ZERO, || false, || Ok(())).unwrap();
    }

    #[test]
    fn only_the_node_that_did_not_come_is_taken_out() {
        for replaced in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let host = host(directory.path());
            let settling = Settling {
                patience: Duration::from_millis(1),
                is_joined: &|_| {
                    if replaced {
                        let other = CONF.replace("10.0.0.3", "10.0.0.7");
                        fs::write(host.paths.cluster_conf(), other).unwrap();
                    }
                    false
                },
                give: &|_, _| Ok(()),
                log: &|line| panic!("{line}"),
            };
            settling.settle(&host, &"n3".parse().unwrap(), 1).unwrap();
            let conf = clusterconf::read(&host).unwrap();
            assert_eq!(conf.node("n3").is_some(), replaced);
        }
    }
}
