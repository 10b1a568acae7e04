//! Another address of this node.
//!
//! The ring comes first, while the cluster file system still tells the old address: so a command
//! that was broken off finds again which links have to move.

use std::net::IpAddr;

use super::{Machine, named, restart};
use crate::conf::{ClusterConf, NodeEntry};
use crate::failure::{Failure, Outcome};
use crate::host::services::FILE_SYSTEM;
use crate::host::{Host, clusterconf, pve};
use crate::value::NodeName;
use crate::verb::leftovers::mentions;
use crate::verb::link::{NewAddress, moved, refuse_taken, show_steps};

/// What has to be done.
pub(super) struct Move<'a> {
    host: &'a Host,
    conf: ClusterConf,
    /// What the cluster knows this node by, if that is another address.
    old: Option<IpAddr>,
    new: IpAddr,
    /// The cluster file system tells another address.
    restarts: bool,
    /// Links on which this node has to move.
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
        from: Option<IpAddr>,
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
        let all: Vec<u8> = own.addresses.keys().copied().collect();
        refuse_taken(&conf, name, &all, &new.to_string())?;
        named(host, name, new, machine)?;
        let members = pve::members(&host.paths)?;
        let told = members.nodelist.get(name).and_then(|member| member.ip);
        let old = from.or(told).filter(|old| *old != new);
        let places = places(&conf, &own, machine)?;
        let behind = places.iter().filter(|place| place.has_to_move(old, new));
        let links: Vec<u8> = behind.map(|place| place.link).collect();
        let steps = match links.is_empty() {
            true if old.is_none() && !places.iter().any(|place| place.is_at(new)) => {
                return Err(Failure::refused(format!(
                    "the cluster file system tells '{new}' already, but no link of '{name}' is at it: {}; say \
                     which address is the old one ('--from OLD'): links that are at that one move",
                    words(&places)
                )));
            }
            true => Vec::new(),
            false => {
                let moving = NewAddress {
                    node: name,
                    links: &links,
                    address: &new.to_string(),
                    is_own: true,
                    local: &machine.addresses()?,
                };
                moved(&conf, &moving)?
            }
        };
        Ok(Self {
            host,
            conf,
            old,
            new,
            restarts: told.is_some_and(|told| told != new),
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
        if self.restarts {
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
        let is_changed = self.restarts || !self.steps.is_empty();
        self.rest(machine).map_err(|failure| match is_changed {
            true => failure.midway(),
            false => failure,
        })
    }

    /// What comes after the links.
    fn rest(&self, machine: &dyn Machine) -> Outcome {
        let host = self.host;
        let name = host.name.as_str();
        let places = self.arrived(machine)?;
        if self.restarts {
            let tells = |members: &pve::Members| {
                let own = members.nodelist.get(name);
                own.is_some_and(|own| own.ip == Some(self.new))
            };
            restart(host, machine, &tells)?;
        }
        machine.step()?;
        machine.cluster_files(host)?;
        machine.reload()?;
        machine.say(&match places.iter().any(|place| place.is_at(self.new)) {
            true => format!("node '{name}' is at '{}'", self.new),
            false => format!(
                "node '{name}' has the address '{}', its links stay: {}",
                self.new,
                words(&places)
            ),
        })?;
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

    /// Where this node is now: on the links that had to move, at the new address.
    fn arrived(&self, machine: &dyn Machine) -> Outcome<Vec<Place>> {
        let conf = clusterconf::read(self.host)?;
        let own = conf.node(self.host.name.as_str());
        let mut places = match own {
            Some(own) => places(&conf, &own, machine)?,
            None => Vec::new(),
        };
        let is_late = |place: &Place| self.links.contains(&place.link) && !place.is_at(self.new);
        if !places.iter().any(is_late) {
            return Ok(places);
        }
        places.retain(is_late);
        Err(Failure::failed(format!(
            "not all links have come to '{}': {}; see 'pvecm status', and run the command again",
            self.new,
            words(&places)
        )))
    }
}

/// Where this node is on a link.
struct Place {
    link: u8,
    /// In the configuration.
    text: String,
    configured: Vec<IpAddr>,
    /// In the ring, which looks host names up once.
    running: Option<IpAddr>,
}

impl Place {
    fn is_at(&self, address: IpAddr) -> bool {
        let runs_there = self.running.is_none_or(|running| running == address);
        self.configured.contains(&address) && runs_there
    }

    fn has_to_move(&self, old: Option<IpAddr>, new: IpAddr) -> bool {
        let is_old = old.is_some_and(|old| {
            self.configured.contains(&old) && self.configured != [new] || self.running == Some(old)
        });
        is_old || self.configured.contains(&new) && !self.is_at(new)
    }
}

fn places(conf: &ClusterConf, own: &NodeEntry, machine: &dyn Machine) -> Outcome<Vec<Place>> {
    let running = machine.running(conf)?;
    let place = |(link, text): (&u8, &String)| Place {
        link: *link,
        text: text.clone(),
        configured: match text.parse() {
            Ok(address) => vec![address],
            Err(_) => machine.resolve(text),
        },
        running: running.get(link).copied(),
    };
    Ok(own.addresses.iter().map(place).collect())
}

fn words(places: &[Place]) -> String {
    let word = |place: &Place| match place.running {
        Some(running) if place.text.parse() != Ok(running) => {
            format!("link {} is at '{}' ({running})", place.link, place.text)
        }
        _ => format!("link {} is at '{}'", place.link, place.text),
    };
    places.iter().map(word).collect::<Vec<_>>().join(", ")
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
