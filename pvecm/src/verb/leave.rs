//! This node is separated from its cluster without being installed again.
//!
//! First the others take it out of their configuration, as long as all of them still have quorum;
//! then this node forgets the cluster, or is put back as it was if that does not succeed.

use std::fs;
use std::path::PathBuf;

use super::change::{self, need_root, show_plan, tell, undone_on_failure};
use super::create::DATABASE;
use super::machine::{Machine, ThisMachine, wait_for_writable};
use super::question::confirm;
use super::{prepare, show};
use crate::cli::Leave;
use crate::conf::{ClusterConf, NodeEntry};
use crate::failure::{Failure, Outcome};
use crate::host::files::{self, SECRET, failed};
use crate::host::pve::{self, State};
use crate::host::services::{FILE_SYSTEM, MESSAGING, Verb};
use crate::host::{Host, calendar, ring};
use crate::join::database;
use crate::ssh;
use crate::transaction::Transaction;

/// Separates this node, as the command does it.
///
/// # Errors
/// When it is in no cluster, the user does not want it, or a step fails; this node is then as it was
/// before.
pub fn run(host: &Host, args: &Leave) -> Outcome {
    need_root()?;
    let farewell = Farewell::look(host)?;
    if args.dry_run {
        change::foresee(host);
        return show_plan(&farewell.plan(host));
    }
    for line in farewell.consequences(host.name.as_str()) {
        eprintln!("{line}");
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
    show(&format!(
        "this node is in no cluster any more; the database of before is in '{}'\n",
        backup.display()
    ))?;
    if !is_out {
        eprintln!(
            "the other nodes still expect this one: run 'pvecm delnode {}' on one of them (if they have \
             no quorum, 'pvecm expected VOTES' first)",
            host.name
        );
    }
    Ok(())
}

/// What leaving means for this node and the others.
struct Farewell {
    conf: ClusterConf,
    /// Nodes that are in the ring, without this one.
    others: Vec<NodeEntry>,
    quorate: bool,
    /// Guests of this node.
    guests: Vec<u32>,
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
        let guests = match pve::state(&host.paths) {
            State::Unmounted => Vec::new(),
            _ => pve::guests(&host.paths)?
                .into_iter()
                .filter(|(_, guest)| guest.node == own)
                .map(|(id, _)| id)
                .collect(),
        };
        Ok(Self {
            others,
            quorate: pve::state(&host.paths) == State::Writable,
            guests,
            conf,
        })
    }

    /// What the user has to know before.
    fn consequences(&self, own: &str) -> Vec<String> {
        let mut lines = Vec::new();
        let names: Vec<&str> = self.others.iter().map(|node| node.name.as_str()).collect();
        if names.is_empty() {
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
        let stay = self
            .conf
            .nodes()
            .into_iter()
            .filter(|node| node.name != own);
        let expected: u32 = stay.map(|node| node.votes).sum();
        let present: u32 = self.others.iter().map(|node| node.votes).sum();
        if expected > 0 && present <= expected / 2 {
            lines.push(format!(
                "the nodes that stay will have no quorum: {present} of {expected} votes are there"
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

    /// Has another node take this one out. Whether that is done.
    fn say(&self, host: &Host, machine: &dyn Machine) -> Outcome<bool> {
        if !self.quorate {
            return Ok(false);
        }
        let members = pve::members(&host.paths)?.nodelist;
        for other in &self.others {
            let name = &other.name;
            let address = members.get(name).and_then(|member| member.ip);
            let Some(address) = address else { continue };
            machine.step()?;
            let command = format!("pvecm delnode {} --purge", host.name);
            match prepare::run_on(host, name, address, &command) {
                Ok(said) => {
                    show(&said)?;
                    return Ok(true);
                }
                Err(failure) => eprintln!("{failure}"),
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
    machine.alone(host, &mut || forget_cluster(host, machine))?;
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

fn plain_files(directory: &std::path::Path) -> Outcome<Vec<PathBuf>> {
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let listed = fs::read_dir(directory).map_err(|error| failed("list", directory, &error))?;
    let mut found = Vec::new();
    for entry in listed {
        let path = entry
            .map_err(|error| failed("list", directory, &error))?
            .path();
        if path.is_file() {
            found.push(path);
        }
    }
    Ok(found)
}

/// Takes the cluster out of the tree.
fn forget_cluster(host: &Host, machine: &dyn Machine) -> Outcome {
    files::remove(&host.paths.cluster_conf())?;
    let nodes = host.paths.pve("nodes");
    let listed = fs::read_dir(&nodes).map_err(|error| failed("list", &nodes, &error))?;
    for entry in listed {
        let entry = entry.map_err(|error| failed("list", &nodes, &error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == host.name.as_str() {
            continue;
        }
        machine.step()?;
        // Its directory says which keys are its own.
        if let Ok(node) = name.parse() {
            ssh::purge(host, &node)?;
        }
        let path = entry.path();
        fs::remove_dir_all(&path).map_err(|error| failed("remove", &path, &error))?;
    }
    Ok(())
}
