//! Another address of this node.
//!
//! The ring comes first, while the cluster file system still tells the old address: so a command
//! that was broken off finds again which links have to move.

use std::net::IpAddr;

use super::{Machine, named, not_of_others, restart};
use crate::conf::ClusterConf;
use crate::failure::{Failure, Outcome};
use crate::host::services::FILE_SYSTEM;
use crate::host::{Host, clusterconf, pve};
use crate::value::NodeName;
use crate::verb::leftovers::mentions;
use crate::verb::link::show_steps;

/// What has to be done.
pub(super) struct Move<'a> {
    host: &'a Host,
    conf: ClusterConf,
    /// What the cluster knows this node by, if that is another address.
    old: Option<IpAddr>,
    new: IpAddr,
    /// Links on which this node is at the old address.
    links: Vec<u8>,
    steps: Vec<ClusterConf>,
}

/// What a node that changed its address too early has to do.
pub(super) fn out_of_reach(node: &NodeName, address: IpAddr) -> String {
    format!(
        "if this node has lost its old address already, give it back for a while and run this again; or \
         run 'pvecm link set-address 0 {node} {address}' on a member, copy its /etc/pve/corosync.conf to \
         /etc/corosync/corosync.conf here, and restart corosync"
    )
}

impl<'a> Move<'a> {
    /// Checks everything that can be checked before something changes.
    pub(super) fn look(
        host: &'a Host,
        node: &NodeName,
        new: IpAddr,
        machine: &dyn Machine,
    ) -> Outcome<Self> {
        if *node != host.name {
            return Err(Failure::refused(format!(
                "this is node '{}': run the command on '{node}', whose services and certificate change; \
                 'pvecm link set-address' changes a link from anywhere",
                host.name
            )));
        }
        let conf = clusterconf::read(host)?;
        let name = node.as_str();
        let own = conf.node(name).ok_or_else(|| {
            Failure::refused(format!(
                "node '{name}' is not in the cluster's configuration"
            ))
        })?;
        not_of_others(&conf, &own, new)?;
        named(host, name, new, machine)?;
        let members = pve::members(&host.paths)?;
        let old = members.nodelist.get(name).and_then(|member| member.ip);
        let old = old.filter(|old| *old != new);
        let is_old = |text: &String| {
            old.is_some_and(|old| text.parse() == Ok(old) || machine.resolve(text).contains(&old))
        };
        let at = own.addresses.iter().filter(|(_, text)| is_old(text));
        let links: Vec<u8> = at.map(|(link, _)| *link).collect();
        let steps = match links.is_empty() {
            true => Vec::new(),
            false => {
                let steps = conf.moves(name, &links, &new.to_string());
                steps.map_err(Failure::refused)?
            }
        };
        Ok(Self {
            host,
            conf,
            old,
            new,
            links,
            steps,
        })
    }

    /// What would be done, a line each.
    pub(super) fn plan(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let shown: Vec<String> = self.links.iter().map(u8::to_string).collect();
        if !shown.is_empty() {
            lines.push(format!(
                "move link {} to '{}' in {} steps: versions {} to {} of '{}'",
                shown.join(", "),
                self.new,
                self.steps.len(),
                self.conf.version() + 1,
                self.steps.last().map_or(0, ClusterConf::version),
                self.host.paths.cluster_conf().display()
            ));
        }
        if self.old.is_some() {
            lines.push(format!(
                "restart {FILE_SYSTEM}, which tells '{}' to the others",
                self.new
            ));
        }
        lines.push("make a certificate with the new address, if the one there lacks it".to_owned());
        lines.push("have the API services take the certificate".to_owned());
        lines
    }

    /// Does it.
    pub(super) fn run(&self, machine: &dyn Machine) -> Outcome {
        let host = self.host;
        if !self.steps.is_empty() {
            show_steps(&self.conf, &self.steps)?;
            machine.follow(host, &self.conf, &self.steps)?;
        }
        let name = host.name.as_str();
        if self.old.is_some() {
            let tells = |members: &pve::Members| {
                let own = members.nodelist.get(name);
                own.is_some_and(|own| own.ip == Some(self.new))
            };
            restart(host, machine, &tells)?;
        }
        machine.cluster_files(host)?;
        machine.reload()?;
        machine.say(&format!("node '{name}' is at '{}'", self.new))?;
        let Some(old) = self.old else {
            return Ok(());
        };
        for mention in mentions(host, |line| names_address(line, old))? {
            machine.say(&format!("the old address is still named in {mention}"))?;
        }
        machine.say(&format!(
            "on the other nodes: put '{}' in the place of '{old}' in /etc/hosts; here: take '{old}' out of the \
             settings of its interface (not off it by hand: the kernel may take other addresses of that \
             network off as well, unless net.ipv4.conf.all.promote_secondaries is 1)",
            self.new
        ))
    }
}

/// Whether a line has an address as a word of its own.
fn names_address(line: &str, address: IpAddr) -> bool {
    let inner = |letter: char| letter.is_ascii_hexdigit() || letter == '.' || letter == ':';
    let mut words = line.split(|letter| !inner(letter));
    words.any(|word| word.trim_end_matches(['.', ':']).parse() == Ok(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_words() {
        let old: IpAddr = "10.0.0.1".parse().unwrap();
        for line in ["server 10.0.0.1", "10.0.0.1:/export", "a=10.0.0.1,b"] {
            assert!(names_address(line, old), "{line}");
        }
        for line in ["server 10.0.0.11", "110.0.0.1", ""] {
            assert!(!names_address(line, old), "{line}");
        }
        assert!(names_address(
            "portal fd00::1 x",
            "fd00::1".parse().unwrap()
        ));
    }
}
