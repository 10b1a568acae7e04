//! Another name of this node.
//!
//! The cluster file system serves under the name that the system had when it started, so it starts
//! again first, and once more at the end, to tell the others the address that goes with the name. Then everything that is in the node's old directory moves to the new one; last comes
//! the configuration, after which the old name is unknown. A failure or a signal before that moves back all
//! that is in the new directory, also what an earlier run has moved; afterwards there is only left to remove what is left of the old name.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::{Machine, named, restart};
use crate::conf::{ClusterConf, NodeEntry};
use crate::failure::{Failure, Outcome};
use crate::host::files::failed;
use crate::host::services::FILE_SYSTEM;
use crate::host::{Host, clusterconf, files, pve};
use crate::value::NodeName;
use crate::verb::leftovers::Leftovers;

/// What is made anew under the new name, and does not move.
const MADE_ANEW: [&str; 4] = [
    "pve-ssl.key",
    "pve-ssl.pem",
    "ssh_known_hosts",
    "ssh_root_keys",
];

/// What has to be done.
pub(super) struct Rename<'a> {
    host: &'a Host,
    old: NodeName,
    new: NodeName,
    /// The new configuration; none: it is in force already.
    conf: Option<ClusterConf>,
    before: ClusterConf,
    /// The cluster file system serves under another name.
    restarts: bool,
}

impl<'a> Rename<'a> {
    /// Checks everything that can be checked before something changes.
    pub(super) fn look(
        host: &'a Host,
        old: &NodeName,
        new: &NodeName,
        machine: &dyn Machine,
    ) -> Outcome<Self> {
        if old == new {
            return Err(Failure::usage("the two names are the same"));
        }
        if host.name != *new {
            let text = files::read(&host.paths.at("etc/hosts"))?.unwrap_or_default();
            let known = machine.resolve(host.name.as_str());
            let at = known.into_iter().find(|ip| !ip.is_loopback());
            let hosts = at.map_or_else(String::new, |at| {
                super::hosts::advice(&text, new.as_str(), at)
            });
            return Err(Failure::refused(format!(
                "this machine is called '{}': give it its new name first ('hostnamectl set-hostname {new}', \
                 and {hosts}), then run this on it again; nothing else notices until then",
                host.name
            )));
        }
        let conf = clusterconf::read(host)?;
        let (before, after) = (conf.node(old.as_str()), conf.node(new.as_str()));
        let own = match (&before, &after) {
            (Some(_), Some(_)) => {
                return Err(Failure::refused(format!(
                    "the cluster has a node '{new}' already"
                )));
            }
            (Some(own), None) | (None, Some(own)) => own,
            (None, None) => {
                return Err(Failure::refused(format!(
                    "Node/IP: {old} is not a known host of the cluster."
                )));
            }
        };
        let id = machine.own_id()?;
        if own.id != Some(id) {
            return Err(Failure::refused(format!(
                "this machine is node {id} of the cluster, and '{}' is another one: run the command there",
                own.name
            )));
        }
        named(host, new.as_str(), address(new, machine)?, machine)?;
        if before.is_some() {
            refuse_own_name(own, old)?;
            refuse_managed(host, [old, new])?;
        }
        let renamed = before.is_some().then(|| {
            let mut renamed = conf.clone();
            renamed.rename_node(old.as_str(), new).map(|()| renamed)
        });
        let served = pve::members(&host.paths)?.nodename;
        Ok(Self {
            host,
            old: old.clone(),
            new: new.clone(),
            conf: renamed.transpose().map_err(Failure::refused)?,
            before: conf,
            restarts: served != new.as_str(),
        })
    }

    /// What would be done, a line each.
    pub(super) fn plan(&self) -> Vec<String> {
        let Self { old, new, .. } = self;
        let mut lines = Vec::new();
        if self.restarts {
            lines.push(format!(
                "restart {FILE_SYSTEM}, which serves as '{new}' then"
            ));
        }
        lines.push(format!(
            "make directories, certificate and keys of node '{new}'"
        ));
        lines.push(format!(
            "move guests and other files from nodes/{old} to nodes/{new}"
        ));
        if let Some(conf) = &self.conf {
            lines.push(format!(
                "write version {} of '{}' with the new name",
                conf.version(),
                self.host.paths.cluster_conf().display()
            ));
        }
        lines.push(format!(
            "restart {FILE_SYSTEM}, which tells the others the address of '{new}'"
        ));
        lines.push(format!(
            "remove what is left of '{old}', and keep a copy of its directory"
        ));
        lines
    }

    /// Does it.
    pub(super) fn run(&self, machine: &dyn Machine) -> Outcome {
        let Self { host, old, new, .. } = self;
        if self.restarts {
            let serves = |members: &pve::Members| members.nodename == new.as_str();
            restart(host, machine, &serves).map_err(Failure::midway)?;
        }
        if let Err(failure) = self.prepare(machine) {
            return Err(self.back(failure));
        }
        if let Some(conf) = &self.conf {
            let unchanged = clusterconf::unchanged(host, &self.before);
            if let Err(failure) = unchanged.and_then(|()| machine.take(host, conf)) {
                let is_written =
                    clusterconf::read(host).is_ok_and(|now| now.node(new.as_str()).is_some());
                if !is_written {
                    return Err(self.back(failure));
                }
                let failure = failure.within(format!(
                    "the new name is in the configuration, but not all nodes have that: run the command \
                     again when they are there ('{old}' is not completely removed yet)"
                ));
                return Err(failure.midway());
            }
        }
        self.finish(machine).map_err(Failure::midway)
    }

    /// What is left to do when the configuration has the new name.
    fn finish(&self, machine: &dyn Machine) -> Outcome {
        let Self { host, old, new, .. } = self;
        self.announce(machine)?;
        let leftovers = Leftovers::find(host, old)?;
        for line in leftovers.purge(host)? {
            machine.say(&line)?;
        }
        machine.reload()?;
        machine.say(&format!("node '{old}' is called '{new}' now"))?;
        for line in Leftovers::find(host, old)?.lines() {
            machine.say(&line)?;
        }
        machine.say(&format!(
            "on the other nodes: put '{new}' in the place of '{old}' in /etc/hosts; here: services that \
             started under the old name have to start again, a reboot does that"
        ))
    }

    /// Has the other nodes told the address of the new name: what they know belongs to names, and is
    /// told at the start. This node knows its own at once, which says nothing of the others.
    fn announce(&self, machine: &dyn Machine) -> Outcome {
        let is_told = |members: &pve::Members| {
            let own = members.nodelist.get(self.new.as_str());
            own.is_some_and(|own| own.ip.is_some())
        };
        restart(self.host, machine, &is_told)
    }

    /// Makes the new directory and moves everything into it.
    fn prepare(&self, machine: &dyn Machine) -> Outcome {
        machine.step()?;
        machine.cluster_files(self.host)?;
        let (from, to) = self.directories();
        let moved = move_files(&from, &to, &|| machine.step())?;
        machine.say(&format!("moved {moved} files to '{}'", to.display()))?;
        machine.step()
    }

    fn directories(&self) -> (PathBuf, PathBuf) {
        let paths = &self.host.paths;
        let (old, new) = (self.old.as_str(), self.new.as_str());
        (paths.node(old, ""), paths.node(new, ""))
    }

    /// Moves everything back, whichever run has moved it, and removes what was made; once the
    /// configuration has the new name there is no way back.
    fn back(&self, failure: Failure) -> Failure {
        let Self { host, old, new, .. } = self;
        if self.conf.is_none() {
            return failure.midway();
        }
        let (from, to) = self.directories();
        let moved = move_files(&to, &from, &|| Ok(()));
        let mut left: Vec<String> = moved
            .err()
            .map(|failure| failure.to_string())
            .into_iter()
            .collect();
        match remaining(&to) {
            Ok(files) => left.extend(
                files
                    .iter()
                    .map(|file| format!("'{}' is still there", file.display())),
            ),
            Err(failure) => left.push(failure.to_string()),
        }
        if left.is_empty() {
            let purged = Leftovers::find(host, new).and_then(|made| made.purge(host));
            left.extend(purged.err().map(|failure| failure.to_string()));
        }
        let state = if left.is_empty() {
            format!(
                "the cluster's files are as before: mend what is wrong and run the command again, or give \
                 this machine its old name back ('hostnamectl set-hostname {old}') and restart pve-cluster"
            )
        } else {
            format!(
                "not all could be put back: {}; run the command again",
                left.join("; ")
            )
        };
        Failure::failed(format!("{failure}\n{state}"))
    }
}

/// Stops a rename that would take away what the ring finds a node by.
fn refuse_own_name(own: &NodeEntry, old: &NodeName) -> Outcome {
    let is_name = |text: &str| {
        let label = text.split('.').next().unwrap_or_default();
        text.parse::<IpAddr>().is_err() && label.eq_ignore_ascii_case(old.as_str())
    };
    let named = own.addresses.iter().find(|(_, text)| is_name(text));
    let Some((link, text)) = named else {
        return Ok(());
    };
    Err(Failure::refused(format!(
        "the ring finds this node by its old name: link {link} is at '{text}'; run 'pvecm link set-address \
         {link} {old} ADDRESS' with its IP address on another node first"
    )))
}

/// Stops a rename of a node with guests that are started elsewhere when their node is gone.
fn refuse_managed(host: &Host, names: [&NodeName; 2]) -> Outcome {
    let text = files::read(&host.paths.pve("ha/resources.cfg"))?.unwrap_or_default();
    let guests = pve::guests(&host.paths)?;
    let is_here = |id: &str| {
        let guest = id.parse().ok().and_then(|id: u32| guests.get(&id));
        guest.is_some_and(|guest| names.iter().any(|name| guest.node == name.as_str()))
    };
    let text = String::from_utf8_lossy(&text);
    let managed: Vec<String> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(kind, id)| ["vm", "ct"].contains(kind) && is_here(id.trim()))
        .map(|(kind, id)| format!("{kind}:{}", id.trim()))
        .collect();
    if managed.is_empty() {
        return Ok(());
    }
    Err(Failure::refused(format!(
        "guests of this node are managed by HA, which would see the node gone and start them on another one: \
         {}; take each out ('ha-manager remove ID'), run this again, and then add it again",
        managed.join(", ")
    )))
}

/// What this machine's new name stands for.
fn address(new: &NodeName, machine: &dyn Machine) -> Outcome<IpAddr> {
    let found = machine.resolve(new.as_str());
    found.into_iter().find(|ip| !ip.is_loopback()).ok_or_else(|| {
        Failure::refused(format!(
            "the name '{new}' does not stand for an address that other nodes reach: add a line 'ADDRESS \
             {new}' to /etc/hosts"
        ))
    })
}

/// Moves the files of a directory into another; what is there already, or is made anew, stays. Returns
/// how many were moved.
fn move_files(from: &Path, to: &Path, step: &dyn Fn() -> Outcome) -> Outcome<usize> {
    let mut moved = 0;
    for entry in entries(from)? {
        let (path, target) = (from.join(&entry), to.join(&entry));
        if path.is_dir() {
            moved += move_files(&path, &target, step)?;
        } else if !is_made_anew(&entry) && !target.exists() {
            step()?;
            files::make_directory(to)?;
            fs::rename(&path, &target).map_err(|error| failed("move", &path, &error))?;
            moved += 1;
        }
    }
    Ok(moved)
}

/// Files of guests and others that are not made anew, below a directory.
fn remaining(directory: &Path) -> Outcome<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in entries(directory)? {
        let path = directory.join(&entry);
        if path.is_dir() {
            found.extend(remaining(&path)?);
        } else if !is_made_anew(&entry) {
            found.push(path);
        }
    }
    Ok(found)
}

fn is_made_anew(file: &OsStr) -> bool {
    MADE_ANEW.iter().any(|name| file == *name)
}

/// What is in a directory, if it is there.
fn entries(directory: &Path) -> Outcome<Vec<OsString>> {
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    files::names(directory)
}
