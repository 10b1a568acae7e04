//! Another name of this node.
//!
//! The cluster file system serves under the name that the system had when it started, so it starts
//! again first, and once more at the end, to tell the others the address that goes with the name. Then everything that is in the node's old directory moves to the new one; last comes
//! the configuration, after which the old name is unknown. A failure before that moves back what was
//! moved; afterwards there is only left to remove what is left of the old name.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::{Machine, named, restart};
use crate::conf::ClusterConf;
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
            restart(host, machine, &serves)?;
        }
        let mut moved = Vec::new();
        if let Err(failure) = self.prepare(machine, &mut moved) {
            return Err(self.back(&moved, &failure));
        }
        if let Some(conf) = &self.conf {
            let before = clusterconf::read(host)?;
            if let Err(failure) = machine.take(host, conf) {
                let is_written =
                    clusterconf::read(host).is_ok_and(|now| now.version() > before.version());
                if !is_written {
                    return Err(self.back(&moved, &failure));
                }
                return Err(failure.within(format!(
                    "the new name is in the configuration, but not all nodes have that: run the command \
                     again when they are there ('{old}' is not completely removed yet)"
                )));
            }
        }
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
    fn prepare(&self, machine: &dyn Machine, moved: &mut Vec<(PathBuf, PathBuf)>) -> Outcome {
        machine.cluster_files(self.host)?;
        let paths = &self.host.paths;
        let (from, to) = (
            paths.node(self.old.as_str(), ""),
            paths.node(self.new.as_str(), ""),
        );
        if from.is_dir() {
            move_files(&from, &to, moved)?;
        }
        machine.say(&format!(
            "moved {} files to '{}'",
            moved.len(),
            to.display()
        ))
    }

    /// Moves back what was moved, and removes what was made.
    fn back(&self, moved: &[(PathBuf, PathBuf)], failure: &Failure) -> Failure {
        let Self { host, old, new, .. } = self;
        let mut left = Vec::new();
        for (from, to) in moved.iter().rev() {
            if let Err(error) = fs::rename(to, from) {
                left.push(failed("move back", from, &error).to_string());
            }
        }
        if left.is_empty() && self.conf.is_some() {
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

/// Moves the files of a directory into another; what is there already, or is made anew, stays.
fn move_files(from: &Path, to: &Path, moved: &mut Vec<(PathBuf, PathBuf)>) -> Outcome {
    files::make_directory(to)?;
    let listed = fs::read_dir(from).map_err(|error| failed("list", from, &error))?;
    for entry in listed {
        let entry = entry.map_err(|error| failed("list", from, &error))?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            move_files(&path, &target, moved)?;
        } else if !MADE_ANEW.iter().any(|name| entry.file_name() == *name) && !target.exists() {
            fs::rename(&path, &target).map_err(|error| failed("move", &path, &error))?;
            moved.push((path, target));
        }
    }
    Ok(())
}
