//! This node is separated from its cluster without being installed again.
//!
//! First the others take it out of their configuration, as long as all of them still have quorum;
//! then this node forgets the cluster, or is put back as it was if that does not succeed.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::change::{self, need_root, show_plan, tell, undone_on_failure};
use super::create::DATABASE;
use super::machine::{Machine, ThisMachine, wait_for_writable};
use super::prepare;
use super::question::confirm;
use crate::cli::Leave;
use crate::conf::{ClusterConf, NodeEntry};
use crate::failure::{Failure, Outcome};
use crate::host::files::{self, SECRET, failed};
use crate::host::pve::{self, State};
use crate::host::services::{FILE_SYSTEM, MESSAGING, Verb};
use crate::host::{Host, calendar, ring};
use crate::join::database;
use crate::ssh;
use crate::tell::announce;
use crate::transaction::Transaction;

/// Where copies are kept.
const BACKUP: &str = "/var/lib/pve-cluster/backup";
/// Directories of guests in that of a node.
const GUESTS: [&str; 3] = ["lxc", "openvz", "qemu-server"];

/// Separates this node, as the command does it.
///
/// # Errors
/// When it is in no cluster, the user does not want it, or a step fails; this node is then as it was
/// before.
pub fn run(host: &Host, args: &Leave) -> Outcome {
    let is_out = separated(host, args)?;
    if !is_out && !args.dry_run {
        tell(&format!(
            "the other nodes still expect this one: run 'pvecm delnode {}' on one of them (if they have \
             no quorum, 'pvecm expected VOTES' first)",
            host.name
        ));
    }
    Ok(())
}

/// Separates this node. Whether the others have taken it out.
///
/// # Errors
/// As [`run`].
pub(super) fn separated(host: &Host, args: &Leave) -> Outcome<bool> {
    need_root()?;
    let farewell = Farewell::look(host)?;
    if args.dry_run {
        change::foresee(host);
        return show_plan(&farewell.plan(host)).map(|()| false);
    }
    for line in farewell.consequences(host.name.as_str()) {
        tell(&line);
    }
    if !args.yes {
        let unasked = "use --yes if this node is to leave its cluster";
        confirm("Separate this node from its cluster", unasked)?;
    }
    let machine = ThisMachine::watched()?;
    let _lock = change::begin(host)?;
    let is_out = farewell.say(host, &machine)?;
    let work = |transaction: &mut Transaction| separate(host, &machine, transaction);
    let backup = undone_on_failure(host, &machine, "pvecm leave", work).inspect_err(|_| {
        if is_out {
            tell(
                "the other nodes do not expect this one any more: run 'pvecm leave' again, it does the \
                 rest",
            );
        }
    })?;
    announce(&format!(
        "this node is in no cluster any more; the database of before is in '{}'",
        backup.display()
    ));
    Ok(is_out)
}

/// What leaving means for this node and the others.
struct Farewell {
    conf: ClusterConf,
    /// Nodes that are in the ring, without this one.
    others: Vec<NodeEntry>,
    quorate: bool,
    /// Guests of this node.
    guests: Vec<u32>,
    /// Those of nodes that are not in the ring.
    stranded: BTreeMap<String, Vec<u32>>,
}

impl Farewell {
    fn look(host: &Host) -> Outcome<Self> {
        let in_tree = files::read(&host.paths.cluster_conf())?;
        let text = match in_tree {
            Some(text) => Some(text),
            None => files::read(&host.paths.corosync("corosync.conf"))?,
        };
        let text = text.ok_or_else(|| Failure::refused("this node is in no cluster"))?;
        let conf = ClusterConf::parse(&text)
            .map_err(|error| Failure::refused(format!("can not use corosync.conf: {error}")))?;
        let own = host.name.as_str();
        let joined = |node: &NodeEntry| {
            let id = node.id.filter(|_| node.name != own);
            id.is_some_and(|id| ring::is_joined(id).unwrap_or(false))
        };
        let mut others = conf.nodes();
        others.retain(joined);
        let all = match pve::state(&host.paths) {
            State::Unmounted => BTreeMap::new(),
            _ => pve::guests(&host.paths)?,
        };
        let mut guests = Vec::new();
        let mut stranded: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for (id, guest) in all {
            if guest.node == own {
                guests.push(id);
            } else if !others.iter().any(|node| node.name == guest.node) {
                stranded.entry(guest.node).or_default().push(id);
            }
        }
        Ok(Self {
            others,
            quorate: pve::state(&host.paths) == State::Writable,
            guests,
            stranded,
            conf,
        })
    }

    /// What the user has to know before.
    fn consequences(&self, own: &str) -> Vec<String> {
        let mut lines = Vec::new();
        let names: Vec<&str> = self.others.iter().map(|node| node.name.as_str()).collect();
        if self.is_last(own) {
            lines.push("this node is the last one of its cluster, which ends with this".to_owned());
        } else if names.is_empty() {
            lines.push("no other node is in reach".to_owned());
        } else {
            lines.push(format!(
                "nodes that stay in the cluster: {}",
                names.join(", ")
            ));
        }
        if !self.quorate {
            lines.push(
                "the cluster has no quorum here, so the other nodes can not be told".to_owned(),
            );
        }
        let all = self.conf.nodes();
        let expected = NodeEntry::votes_of(all.iter().filter(|node| node.name != own));
        let present = NodeEntry::votes_of(&self.others);
        if expected > 0 && present <= expected / 2 {
            lines.push(format!(
                "the nodes that stay will have no quorum: {present} of {expected} votes are there"
            ));
        }
        for (node, guests) in &self.stranded {
            let ids: Vec<String> = guests.iter().map(u32::to_string).collect();
            lines.push(format!(
                "guests of '{node}', which is not there: {}; this node forgets them, and keeps a copy of their \
                 files in '{BACKUP}'",
                ids.join(", ")
            ));
        }
        if !self.guests.is_empty() {
            let ids: Vec<String> = self.guests.iter().map(u32::to_string).collect();
            lines.push(format!(
                "guests of this node stay on it: {}; the cluster must not use their numbers and disks \
                 again: separate shared storage first",
                ids.join(", ")
            ));
        }
        lines
    }

    fn plan(&self, host: &Host) -> Vec<String> {
        let mut steps = Vec::new();
        if let Some(other) = self.others.first().filter(|_| self.quorate) {
            steps.push(format!(
                "have '{}' run 'pvecm delnode {}'",
                other.name, host.name
            ));
        }
        steps.push(format!("stop {MESSAGING} and {FILE_SYSTEM}"));
        steps.push("keep a copy of the database".to_owned());
        steps.push(
            "remove corosync.conf, other nodes' directories and keys from the tree".to_owned(),
        );
        steps.push(format!(
            "remove the files in '{}' and '{}'",
            host.paths.corosync("").display(),
            host.paths.at("var/lib/corosync").display()
        ));
        steps.push(format!("start {FILE_SYSTEM}, alone"));
        steps
    }

    /// Nobody else is in the configuration.
    fn is_last(&self, own: &str) -> bool {
        self.conf.nodes().iter().all(|node| node.name == own)
    }

    /// Has another node take this one out. Whether that is done, or nobody is left to do it.
    fn say(&self, host: &Host, machine: &dyn Machine) -> Outcome<bool> {
        if self.is_last(host.name.as_str()) {
            return Ok(true);
        }
        if !self.quorate {
            return Ok(false);
        }
        let members = pve::members(&host.paths)?.nodelist;
        let address = |name: &str| members.get(name).and_then(|member| member.ip);
        self.have_taken_out(
            host.name.as_str(),
            machine,
            &address,
            &|name, at, command| prepare::run_on(host, name, at, command),
        )
    }

    /// Asks one after the other. A connection may break after all is done: who is asked twice, or next,
    /// knows this node no more then.
    fn have_taken_out(
        &self,
        own: &str,
        machine: &dyn Machine,
        address: &dyn Fn(&str) -> Option<IpAddr>,
        run_on: &dyn Fn(&str, IpAddr, &str) -> Outcome<String>,
    ) -> Outcome<bool> {
        let command = format!("pvecm delnode {own} --purge");
        let unknown = format!("{own} is not a known host");
        for name in self.others.iter().map(|node| node.name.as_str()) {
            let Some(at) = address(name) else { continue };
            let mut told = String::new();
            for _ in 0..2 {
                machine.step()?;
                match run_on(name, at, &command) {
                    Ok(said) => {
                        announce(said.trim_end());
                        return Ok(true);
                    }
                    Err(failure) if failure.text().contains(&unknown) => return Ok(true),
                    Err(failure) if failure.text() == told => {}
                    Err(failure) => {
                        tell(failure.text());
                        failure.text().clone_into(&mut told);
                    }
                }
            }
        }
        Ok(false)
    }
}

/// Forgets the cluster. Returns where the database of before is.
pub(super) fn separate(
    host: &Host,
    machine: &dyn Machine,
    transaction: &mut Transaction,
) -> Outcome<PathBuf> {
    let paths = &host.paths;
    let control = |verb: &str, units: &[&str]| machine.control(verb, units);
    machine.step()?;
    let units = [FILE_SYSTEM, MESSAGING];
    transaction.services_with(&control, Verb::Stop, &units, Verb::Start)?;
    machine.step()?;
    for file in DATABASE {
        transaction.save(&paths.database(file))?;
    }
    let backup = keep_database(host, transaction)?;
    machine.step()?;
    for directory in [paths.corosync(""), paths.at("var/lib/corosync")] {
        for file in plain_files(&directory)? {
            transaction.remove(&file)?;
            machine.step()?;
        }
    }
    machine.alone(host, &mut || forget_cluster(host, machine, transaction))?;
    machine.step()?;
    transaction.services_with(&control, Verb::Start, &[FILE_SYSTEM], Verb::Stop)?;
    wait_for_writable(host, machine)?;
    Ok(backup)
}

/// Copies the database, which nobody uses now.
fn keep_database(host: &Host, transaction: &mut Transaction) -> Outcome<PathBuf> {
    let directory = host.paths.database("backup");
    database::make_directory(&directory, transaction)?;
    let time = calendar().as_secs();
    for file in DATABASE {
        if let Some(content) = files::read(&host.paths.database(file))? {
            let name = file.replace("config.db", &format!("config-{time}.db"));
            transaction.replace(&directory.join(name), &content, SECRET)?;
        }
    }
    Ok(directory.join(format!("config-{time}.db")))
}

fn plain_files(directory: &Path) -> Outcome<Vec<PathBuf>> {
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let names = files::names(directory)?.into_iter();
    let paths = names.map(|name| directory.join(name));
    Ok(paths.filter(|path| path.is_file()).collect())
}

/// Takes the cluster out of the tree.
fn forget_cluster(host: &Host, machine: &dyn Machine, transaction: &mut Transaction) -> Outcome {
    files::remove(&host.paths.cluster_conf())?;
    let nodes = host.paths.pve("nodes");
    for entry in files::names(&nodes)? {
        let name = entry.to_string_lossy();
        if name == host.name.as_str() {
            continue;
        }
        machine.step()?;
        // Its directory says which keys are its own.
        if let Ok(node) = name.parse() {
            ssh::purge(host, &node)?;
        }
        let path = nodes.join(&entry);
        if has_guests(&path) {
            let to = format!("backup/node-{name}-{}", calendar().as_secs());
            keep_aside(transaction, &path, &host.paths.database(to))?;
        }
        fs::remove_dir_all(&path).map_err(|error| failed("remove", &path, &error))?;
    }
    Ok(())
}

/// Whether a node's directory has files of guests.
fn has_guests(directory: &Path) -> bool {
    GUESTS.iter().any(|kind| {
        let files = fs::read_dir(directory.join(kind));
        files.is_ok_and(|mut files| files.next().is_some())
    })
}

/// Copies a directory of the cluster to one that only root can read.
fn keep_aside(transaction: &mut Transaction, from: &Path, to: &Path) -> Outcome {
    transaction.make_directory(to)?;
    for name in files::names(from)? {
        let (path, to) = (from.join(&name), to.join(&name));
        if path.is_dir() {
            keep_aside(transaction, &path, &to)?;
        } else {
            let content = fs::read(&path).map_err(|error| failed("read", &path, &error))?;
            transaction.replace(&to, &content, SECRET)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn farewell() -> Farewell {
        let node = |id: u32| {
            format!(
                "  node {{\n    name: n{id}\n    nodeid: {id}\n    ring0_addr: 10.0.0.{id}\n  }}\n"
            )
        };
        let nodes: String = (1..=3).map(node).collect();
        let text = format!("totem {{\n  config_version: 1\n}}\nnodelist {{\n{nodes}}}\n");
        let conf = ClusterConf::parse(text.as_bytes()).unwrap();
        Farewell {
            others: conf.nodes().into_iter().skip(1).collect(),
            conf,
            quorate: true,
            guests: Vec::new(),
            stranded: BTreeMap::new(),
        }
    }

    #[test]
    fn who_knows_this_node_no_more_has_taken_it_out() {
        let asked = RefCell::new(Vec::new());
        let ask = |answers: &[Outcome<String>]| {
            asked.take();
            let run_on = |name: &str, _: IpAddr, _: &str| {
                asked.borrow_mut().push(name.to_owned());
                answers[asked.borrow().len() - 1].clone()
            };
            let address = |_: &str| "10.0.0.9".parse().ok();
            let machine = ThisMachine::unwatched();
            farewell().have_taken_out("n1", &machine, &address, &run_on)
        };
        let broken = || Err(Failure::failed("ssh: connection lost"));
        let unknown = || {
            Err(Failure::failed(
                "ssh: 2: Node/IP: n1 is not a known host of the cluster.",
            ))
        };
        assert!(ask(&[broken(), unknown()]).unwrap());
        assert_eq!(*asked.borrow(), ["n2", "n2"]);
        assert!(ask(&[broken(), broken(), unknown()]).unwrap());
        assert_eq!(*asked.borrow(), ["n2", "n2", "n3"]);
        assert!(!ask(&[broken(), broken(), broken(), broken()]).unwrap());
    }

    #[test]
    fn the_last_node_has_nobody_to_tell() {
        let mut farewell = farewell();
        farewell.others.clear();
        assert_eq!(farewell.consequences("n1")[0], "no other node is in reach");
        for name in ["n2", "n3"] {
            farewell.conf.remove_node(name).unwrap();
        }
        let lines = farewell.consequences("n1");
        assert!(
            lines[0].contains("the last one of its cluster"),
            "{lines:?}"
        );
        let host = Host {
            paths: crate::host::Paths::default(),
            name: "n1".parse().unwrap(),
        };
        assert!(farewell.say(&host, &ThisMachine::unwatched()).unwrap());
    }

    #[test]
    fn guests_of_nodes_that_are_not_there_are_named() {
        let mut farewell = farewell();
        farewell.others.pop();
        farewell.stranded.insert("n3".to_owned(), vec![300, 301]);
        let lines = farewell.consequences("n1").join("\n");
        assert!(
            lines.contains("guests of 'n3', which is not there: 300, 301"),
            "{lines}"
        );
    }
}
