//! What would keep this node from joining. Everything is looked at before anything changes, and all
//! that is found is told at once.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};

use super::Plan;
use super::guests::{self, Guest, listed};
use super::machine::{Machine, free_space};
use super::peer::{Facts, Known};
use super::quorum::port;
use super::reach::Reach;
use super::{swapped, version};
use crate::failure::{Failure, Outcome};
use crate::host::{Host, pve, resolve};
use crate::value::{LINK_MAX, Link};
use crate::verb::API_VERSION;

/// What a refusal ends with.
pub const UNCHANGED: &str = " Nothing was changed.";

/// Clocks that differ by more make files look newer than they are.
const SKEW_DOUBTFUL: i64 = 2;
/// Clocks that differ by more make certificates and tickets invalid.
const SKEW_MAX: i64 = 30;
/// What the cluster's database may take beside the old one.
const SPACE_MIN: u64 = 64 << 20;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What, and how to mend it.
    pub text: String,
    /// The user may join all the same.
    pub can_force: bool,
}

/// All that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// It keeps the node from joining.
    pub faults: Vec<Fault>,
    /// It does not.
    pub warnings: Vec<String>,
    /// The cluster can not change anything now.
    pub no_quorum: bool,
}

impl Faults {
    pub(super) fn hard(&mut self, text: impl Into<String>) {
        self.faults.push(Fault {
            text: text.into(),
            can_force: false,
        });
    }

    pub(super) fn soft(&mut self, text: impl Into<String>) {
        self.faults.push(Fault {
            text: text.into(),
            can_force: true,
        });
    }

    /// Tells them, and ends the join if there is one that counts.
    ///
    /// # Errors
    /// With the faults as text.
    pub fn settle(self, force: bool, say: &dyn Fn(&str)) -> Outcome {
        for warning in &self.warnings {
            say(&format!("warning: {warning}"));
        }
        if self.faults.is_empty() {
            return Ok(());
        }
        let mut text = "detected the following error(s):".to_owned();
        for fault in &self.faults {
            text += &format!("\n* {}", fault.text);
        }
        if force && self.faults.iter().all(|fault| fault.can_force) {
            say(&text);
            say("WARNING : detected error but forced to continue!");
            return Ok(());
        }
        text += "\nCheck if node may join a cluster failed!";
        text += UNCHANGED;
        if self.faults.iter().any(|fault| fault.can_force) && !force {
            text += " --force overrides some of these checks.";
        }
        Err(if self.no_quorum {
            Failure::no_quorum(text)
        } else {
            Failure::refused(text)
        })
    }
}

/// Looks at this node, which is in no cluster. Names of links are replaced by the addresses that they
/// stand for. Guests are no fault if they are to be carried over.
pub fn local(
    host: &Host,
    machine: &dyn Machine,
    links: &mut BTreeMap<u8, Link>,
    import: Option<&[Guest]>,
) -> Faults {
    let mut found = Faults::default();
    in_cluster(host, machine, &mut found);
    match pve::guests(&host.paths) {
        Ok(_) if import.is_some() => left_behind(host, import.unwrap_or_default(), &mut found),
        Ok(guests) => present(guests.into_keys(), &mut found),
        Err(_) => found.hard(format!(
            "the cluster file system is not mounted on '{}': start it with 'systemctl start pve-cluster'",
            host.paths.pve("").display()
        )),
    }
    addresses(host, machine, links, &mut found);
    space(host, &mut found);
    found
}

/// Looks at this node as it will be when it has left its cluster. What can not be seen before is
/// looked at then.
pub fn leaving(
    host: &Host,
    machine: &dyn Machine,
    links: &mut BTreeMap<u8, Link>,
    import: Option<&[Guest]>,
) -> Faults {
    let mut found = Faults::default();
    if import.is_none() {
        let guests = pve::guests(&host.paths).unwrap_or_default().into_iter();
        let own = guests.filter(|(_, guest)| guest.node == host.name.as_str());
        present(own.map(|(id, _)| id), &mut found);
    }
    addresses(host, machine, links, &mut found);
    space(host, &mut found);
    found
}

fn present(guests: impl Iterator<Item = u32>, found: &mut Faults) {
    let some: Vec<u32> = guests.take(10).collect();
    if !some.is_empty() {
        found.soft(format!(
            "this host already contains virtual guests ({}); '--import-guests' carries them over, \
             or back them up and remove them, and restore them under free ids afterwards",
            listed(some)
        ));
    }
}

/// What shows that this node is in a cluster.
fn in_cluster(host: &Host, machine: &dyn Machine, found: &mut Faults) {
    let paths = &host.paths;
    let key = paths.corosync("authkey");
    if key.exists() {
        found.soft(format!(
            "authentication key '{}' already exists; if this node has left its cluster, remove the file, \
             else run 'pvecm leave' first",
            key.display()
        ));
    }
    let conf = paths.cluster_conf();
    if conf.exists() {
        found.soft(format!(
            "cluster config '{}' already exists; this node is in a cluster: 'pvecm leave' separates it",
            conf.display()
        ));
    }
    if machine.messaging_runs() {
        found.soft(
            "corosync is already running, is this node already in a cluster?! If not: 'systemctl stop \
             corosync'",
        );
    }
}

fn left_behind(host: &Host, import: &[Guest], found: &mut Faults) {
    match guests::elsewhere(host, import) {
        Ok(ids) if ids.is_empty() => {}
        Ok(ids) => found.soft(format!(
            "guests are not in the directory of this node and would be lost: {}; move their files to \
             '{}'",
            listed(ids),
            host.paths.node(host.name.as_str(), "").display()
        )),
        Err(failure) => found.hard(failure.to_string()),
    }
}

fn addresses(
    host: &Host,
    machine: &dyn Machine,
    links: &mut BTreeMap<u8, Link>,
    found: &mut Faults,
) {
    let local = match machine.addresses() {
        Ok(local) => local,
        Err(failure) => return found.hard(failure.to_string()),
    };
    match machine.own_address(host) {
        Err(failure) => found.soft(failure.to_string()),
        Ok(address) if !local.contains(&address) => found.soft(format!(
            "local node address: cannot use IP '{address}', not found on local node! Mend the line of \
             '{}' in /etc/hosts",
            host.name
        )),
        Ok(_) => {}
    }
    for (number, link) in links.iter_mut() {
        let known = resolve(&link.address).unwrap_or_default();
        match known.iter().find(|address| local.contains(address)) {
            Some(address) => link.address = address.to_string(),
            None => {
                found.soft(format!(
                    "link{number}: cannot use IP '{}', not found on local node! 'ip address' shows which \
                     there are",
                    link.address
                ));
                continue;
            }
        }
        let at: Option<IpAddr> = link.address.parse().ok();
        if let Some(at) = at.map(|address| SocketAddr::new(address, port(*number)))
            && !machine.messaging_runs()
            && !machine.is_free(at)
        {
            found.soft(format!(
                "link{number}: another program uses UDP {at}: 'ss -ulpn' shows which; stop it"
            ));
        }
    }
}

fn space(host: &Host, found: &mut Faults) {
    let directory = host.paths.database("");
    let database = fs::metadata(host.paths.database("config.db")).map_or(0, |file| file.len());
    let wanted = SPACE_MIN + database;
    if let Some(free) = free_space(&directory)
        && free < wanted
    {
        found.soft(format!(
            "{} MiB are free in '{}', {} are needed to keep the old database and to take the cluster's: \
             make room there",
            free >> 20,
            directory.display(),
            wanted >> 20
        ));
    }
}

/// Looks at the cluster.
#[must_use]
pub fn cluster(peer: &str, facts: &Facts, plan: &Plan, machine: &dyn Machine) -> Faults {
    let mut found = Faults::default();
    if facts.cluster.is_none() {
        found.hard(format!(
            "'{peer}' is not in a cluster: make one there with 'pvecm create NAME'"
        ));
        return found;
    }
    if facts.api_version == 0 {
        found.warnings.push(format!(
            "'{peer}' speaks version 0 of the join interface, this node {API_VERSION}"
        ));
    }
    if let Some(theirs) = &facts.version {
        version::check(peer, theirs, version::OWN, &mut found);
    }
    if facts.quorate == Some(false) {
        found.no_quorum = true;
        found.hard(no_quorum(peer, facts, plan));
    }
    // Its own entry is seen at work as long as this node is in the ring that it is going to leave.
    let is_here = plan.leaves && machine.messaging_runs();
    names(facts, plan, is_here, &mut found);
    links(facts, plan, &mut found);
    swapped::check(facts, plan, &machine.networks(), &mut found);
    clock(peer, facts, &mut found);
    if facts.has_device {
        found.hard(
            "the cluster has a QDevice, whose votes would be wrong: take the section 'device' out of \
             corosync.conf, add this node, and set the device up again",
        );
    }
    ways(facts, plan, machine, &mut found);
    found
}

fn no_quorum(peer: &str, facts: &Facts, plan: &Plan) -> String {
    let own = plan.request.name.as_str();
    let is_left_over = plan.replaces_leftover && facts.nodes.iter().any(|node| node.name == own);
    let mut text = format!(
        "the cluster of '{peer}' has no quorum and can not take a node: 'pvecm status' there shows who \
         is missing"
    );
    if is_left_over {
        text += &format!(
            "; it misses this node, whose join was broken off: run 'pvecm expected 1' and then 'pvecm \
             delnode {own}' on '{peer}'"
        );
    }
    text
}

fn names(facts: &Facts, plan: &Plan, is_here: bool, found: &mut Faults) {
    let own = plan.request.name.as_str();
    let known = facts.nodes.iter().find(|node| node.name == own);
    let is_off = |known: &Known| known.online != Some(true) || is_here;
    let is_own = |known: &&Known| plan.replaces_leftover || (plan.again && is_off(known));
    if let Some(known) = known.filter(|known| !is_own(known)) {
        let state = match known.online {
            Some(true) => "and it is running: give this host another name",
            _ => {
                "if it is an old entry of this host, join with 'pvecm readd', or remove it with \
                  'pvecm delnode' on a member; else give this host another name"
            }
        };
        let text = format!(
            "can't add existing node '{own}': the cluster has a node of that name, {state}"
        );
        if known.online == Some(true) {
            found.hard(text);
        } else {
            found.soft(text);
        }
    }
    let is_other = |node: &&Known| node.name != own;
    if let Some(id) = plan.request.id
        && let Some(other) = facts
            .nodes
            .iter()
            .filter(is_other)
            .find(|n| n.id == Some(id))
    {
        let free = (1..).find(|id| facts.nodes.iter().all(|node| node.id != Some(*id)));
        found.hard(format!(
            "node id {id} is that of node '{}': choose another one, {} is free, or none",
            other.name,
            free.unwrap_or_default()
        ));
    }
    for at in plan.own_addresses() {
        for node in facts.nodes.iter().filter(is_other) {
            let used = node
                .addresses
                .iter()
                .find(|(_, used)| **used == at.to_string());
            if let Some((link, _)) = used {
                found.hard(format!(
                    "corosync: address '{at}' already used on link ring{link}_addr by node '{}': two hosts \
                     have the same address, or the entry is an old one",
                    node.name
                ));
            }
        }
    }
}

fn links(facts: &Facts, plan: &Plan, found: &mut Faults) {
    let given = &plan.request.links;
    if given.is_empty() {
        if facts.links.len() > 1 {
            let list: Vec<String> = facts.links.iter().map(|l| format!("--link{l}")).collect();
            found.hard(format!(
                "no links given but multiple links found on other nodes, fallback only supported on \
                 single-link clusters: give {}",
                list.join(" ")
            ));
        }
        return;
    }
    if facts.links.is_empty() {
        return;
    }
    for link in 0..=LINK_MAX {
        match (facts.links.contains(&link), given.contains_key(&link)) {
            (true, false) => found.hard(format!(
                "corosync: link {link} exists in cluster config but wasn't specified for new node: give \
                 --link{link}"
            )),
            (false, true) => found.hard(format!(
                "corosync: link {link} specified for new node doesn't exist in cluster config: leave out \
                 --link{link}, or add the link to the cluster first"
            )),
            _ => {}
        }
    }
}

fn clock(peer: &str, facts: &Facts, found: &mut Faults) {
    let Some(ahead) = facts.ahead else {
        return;
    };
    let off = ahead.abs();
    let direction = if ahead > 0 { "ahead of" } else { "behind" };
    let text = format!(
        "the clock of '{peer}' is {off} s {direction} this node's: have both follow the same time servers \
         ('chronyc tracking' shows the state)"
    );
    if off > SKEW_MAX {
        found.soft(text);
    } else if off > SKEW_DOUBTFUL {
        found.warnings.push(text);
    }
}

/// Tries to reach each node on each link, and its API.
fn ways(facts: &Facts, plan: &Plan, machine: &dyn Machine, found: &mut Faults) {
    let own = plan.request.name.as_str();
    let mut pairs = Vec::new();
    let mut names = Vec::new();
    for node in facts.nodes.iter().filter(|node| node.name != own) {
        for (link, at) in &node.addresses {
            let from = plan.address_on(*link);
            let to = resolve(at).ok().and_then(|known| known.first().copied());
            match (from, to) {
                (Some(from), Some(to)) if from.is_ipv4() != to.is_ipv4() => found.hard(format!(
                    "link {link}: this node would be at {from}, node '{}' is at {to}: both must be IPv4 or \
                     both IPv6",
                    node.name
                )),
                (Some(from), Some(to)) => {
                    pairs.push((from, to));
                    names.push((node.name.as_str(), *link));
                }
                (_, None) => found.soft(format!(
                    "link {link}: the address '{at}' of node '{}' does not resolve on this node: add it to \
                     /etc/hosts",
                    node.name
                )),
                (None, _) => {}
            }
        }
    }
    for (((from, to), (node, link)), size) in
        pairs.iter().zip(&names).zip(machine.too_large(&pairs))
    {
        if let Some(size) = size {
            found.warnings.push(format!(
                "link {link}: packets of {size} bytes, which the interface of {from} takes, do not get \
                 through to node '{node}' at {to}, shorter ones do: give all interfaces and switches of \
                 that network the same MTU"
            ));
        }
    }
    let results = machine.reach(&pairs);
    for (((from, to), (node, link)), reach) in pairs.iter().zip(names).zip(results) {
        let is_down = facts
            .nodes
            .iter()
            .any(|known| known.name == node && known.online == Some(false));
        match reach {
            Reach::Answered => {}
            // A node that is off answers nobody.
            _ if is_down => {}
            Reach::Silent => found.warnings.push(format!(
                "link {link}: no answer of node '{node}' at {to} (tried with TCP port 8006; the ring uses \
                 UDP port {}, which can not be tried from outside): see that no firewall is between",
                port(link)
            )),
            Reach::NoWay(why) => found.soft(format!(
                "link {link}: no way from {from} to node '{node}' at {to}: {why}; check addresses, cables \
                 and routes of that network"
            )),
        }
    }
}
