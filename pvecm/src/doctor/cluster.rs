//! Checks of the cluster as the messaging daemon sees it, of its networks and clocks.

use std::collections::BTreeSet;
use std::net::IpAddr;

use corosync_lite::status::{Link, Node};

use super::facts::{Facts, Interface, Messaging, Storage};
use super::{Finding, Level};
use crate::state::words::{self, DOWNS_MANY, LATENCY_BAD_MS, LATENCY_WARN_MS, called};

/// Bytes of a packet that are not payload: headers of IP and UDP, knet's, and encryption's.
const OVERHEAD_MAX: u32 = 250;
/// Seconds that clocks may differ before logs and tickets become confusing.
const CLOCK_WARN: f64 = 2.0;
/// Seconds from which certificates and logins fail.
const CLOCK_BAD: f64 = 30.0;

/// Whether this node may act.
pub(super) fn quorum(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "quorum";
    let node = facts.node.as_str();
    let messaging = match &facts.messaging {
        Ok(messaging) => messaging,
        Err(why) if facts.conf().is_some() => {
            let remedy =
                "'systemctl start corosync', and see 'journalctl -u corosync' if that fails";
            return vec![Finding::fail(CHECK, node, why.clone(), remedy)];
        }
        Err(_) => return vec![Finding::ok(CHECK, node, "in no cluster: none is needed")],
    };
    let Some(state) = &messaging.state else {
        let remedy = "set 'provider: corosync_votequorum' in the section quorum of corosync.conf";
        let what = "no votes are counted: every side of a split cluster would act";
        return vec![Finding::fail(CHECK, node, what, remedy)];
    };
    let said = words::words(state, &messaging.status.nodes);
    if !state.quorate {
        let remedy = said.possible.join("; or ");
        return vec![Finding::fail(CHECK, node, said.quorum, remedy)];
    }
    let mut findings = vec![Finding::ok(CHECK, node, said.quorum)];
    for risk in said
        .possible
        .iter()
        .filter(|line| line.starts_with("with two nodes"))
    {
        let remedy = "add a third node, or a vote of a QDevice, or set 'two_node: 1' in the section quorum of \
                      corosync.conf";
        findings.push(Finding::warn(CHECK, node, risk.clone(), remedy));
    }
    findings
}

fn messaging(facts: &Facts) -> Option<&Messaging> {
    facts.messaging.as_ref().ok()
}

fn others(messaging: &Messaging) -> impl Iterator<Item = &Node> {
    let own = messaging.status.node;
    messaging
        .status
        .nodes
        .iter()
        .filter(move |node| node.id != own)
}

/// Who is missing, and whether all speak the same.
pub(super) fn members(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "members";
    let Some(messaging) = messaging(facts) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for node in others(messaging).filter(|node| !node.member) {
        let name = called(node);
        findings.push(if node.reachable == Some(true) {
            Finding::fail(
                CHECK,
                &name,
                "can be reached, but is not in the ring",
                "on that node: 'journalctl -u corosync'; compare authkey and corosync.conf with \
                 those of this node",
            )
        } else {
            let at: Vec<_> = node.links.values().map(|link| link.to.as_str()).collect();
            Finding::fail(
                CHECK,
                &name,
                format!(
                    "is not in the ring, and no link to it works ({})",
                    at.join(", ")
                ),
                format!(
                    "start it, or mend the network: UDP ports 5405 to 5412 between all nodes{}",
                    other_key(messaging)
                ),
            )
        });
    }
    let own = messaging.status.config_version;
    for (id, peer) in &messaging.peers {
        let name = messaging.status.nodes.iter().find(|node| node.id == *id);
        let name = name.map_or_else(|| format!("node {id}"), called);
        // Of one that has gone it is what it had then.
        let is_here = messaging.status.ring.members.contains(id);
        if let (Some(own), Some(its)) = (own, peer.config_version)
            && own != its
            && is_here
        {
            let what =
                format!("has version {its} of corosync.conf in force, this node version {own}");
            let remedy =
                "on the node with the older one: 'corosync-cfgtool -R', else restart corosync";
            findings.push(Finding::fail(CHECK, &name, what, remedy));
        }
    }
    findings.extend(wires(messaging));
    if findings.is_empty() {
        let count = messaging.status.ring.members.len();
        let what = format!("all {count} configured nodes are in the ring, with one configuration");
        findings.push(Finding::ok(CHECK, &facts.node, what));
    }
    findings
}

/// A node with another key is not to be told from one that is off, but for this.
fn other_key(messaging: &Messaging) -> &'static str {
    let count = messaging.status.dropped.get("unauthentic").copied();
    match count.unwrap_or_default() {
        0 => "",
        _ => {
            "; datagrams that are sealed with another key have come: compare 'sha256sum \
             /etc/corosync/authkey' on all nodes"
        }
    }
}

/// Versions of the wire.
fn wires(messaging: &Messaging) -> Option<Finding> {
    let highest = messaging
        .peers
        .values()
        .filter_map(|peer| Some(peer.onwire?[1]));
    let highest: BTreeSet<u8> = highest.collect();
    (highest.len() > 1).then(|| {
        let shown: Vec<_> = highest.iter().map(u8::to_string).collect();
        let what = format!(
            "nodes know the wire up to different versions: {}",
            shown.join(", ")
        );
        let remedy = "bring all nodes to the same version of corosync and libknet";
        Finding::warn("members", "cluster", what, remedy)
    })
}

/// Links to members, and how long they take.
pub(super) fn links(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "links";
    let Some(messaging) = messaging(facts) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for node in others(messaging).filter(|node| node.member) {
        let subject = called(node);
        for (number, link) in &node.links {
            findings.extend(link_trouble(&subject, *number, link));
        }
        if node.links.len() == 1 {
            let what = "there is one link only: without it the node is lost";
            let remedy = "'pvecm link add' gives the cluster a second one, on a network of its own";
            findings.push(Finding::warn(CHECK, &subject, what, remedy));
        }
    }
    let members = || others(messaging).filter(|node| node.member);
    let slowest = members().flat_map(|node| node.links.values());
    let slowest = slowest.filter_map(|link| link.latency_ms).reduce(f64::max);
    let is_well = |it: &Finding| it.level < Level::Fail;
    if others(messaging).count() == 0 {
        findings.push(Finding::ok(CHECK, &facts.node, "there are no other nodes"));
    } else if members().count() > 0 && findings.iter().all(is_well) {
        findings.push(match slowest {
            Some(ms) => Finding::ok(
                CHECK,
                &facts.node,
                format!("all links to members are up, the slowest takes {ms:.2} ms"),
            ),
            None => Finding::unknown(
                CHECK,
                &facts.node,
                "how long the links take is not known: the transport does not measure it",
            ),
        });
    }
    findings
}

fn link_trouble(subject: &str, number: u8, link: &Link) -> Option<Finding> {
    const CHECK: &str = "links";
    let Link { from, to, .. } = link;
    if !link.up {
        let what = format!("link {number} from {from} to {to} is down");
        let remedy =
            format!("check cables, switch and firewall between {from} and {to}: 'ping {to}'");
        return Some(Finding::fail(CHECK, subject, what, remedy));
    }
    let remedy = "keep other traffic (storage, migration, backups) off this network, or raise the \
                  priority of a faster link with 'pvecm link set-priority'";
    let slow =
        |ms: f64, limit: f64| format!("link {number} takes {ms:.1} ms, the limit is {limit} ms");
    match link.latency_ms {
        Some(ms) if ms >= LATENCY_BAD_MS => {
            return Some(Finding::fail(
                CHECK,
                subject,
                slow(ms, LATENCY_BAD_MS),
                remedy,
            ));
        }
        Some(ms) if ms >= LATENCY_WARN_MS => {
            return Some(Finding::warn(
                CHECK,
                subject,
                slow(ms, LATENCY_WARN_MS),
                remedy,
            ));
        }
        _ => {}
    }
    let downs = link.downs.filter(|downs| *downs >= DOWNS_MANY)?;
    let what = format!("link {number} went down {downs} times since the start of the daemon");
    let remedy = format!("check cables and switch ports between {from} and {to}");
    Some(Finding::warn(CHECK, subject, what, remedy))
}

/// Sizes of packets.
pub(super) fn packets(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "mtu";
    let Some(messaging) = messaging(facts) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    let mut sizes = BTreeSet::new();
    for node in others(messaging).filter(|node| node.member) {
        for (number, link) in node
            .links
            .iter()
            .filter(|(_, link)| link.up && link.mtu != 0)
        {
            sizes.insert(link.mtu);
            let own = facts
                .interfaces
                .iter()
                .find(|it| it.address.to_string() == link.from);
            let Some((own, mtu)) = own.and_then(|own| Some((own, own.mtu?))) else {
                continue;
            };
            if link.mtu + OVERHEAD_MAX >= mtu {
                continue;
            }
            let what = format!(
                "link {number}: packets of {} bytes get through, though interface {} takes {mtu}",
                link.mtu, own.name
            );
            let remedy = "give all interfaces and switches of this network the same MTU";
            findings.push(Finding::warn(CHECK, &called(node), what, remedy));
        }
    }
    if findings.is_empty() && !sizes.is_empty() {
        let shown: Vec<_> = sizes.iter().map(u32::to_string).collect();
        let what = format!(
            "payload of {} bytes gets through to all members",
            shown.join(" or ")
        );
        findings.push(Finding::ok(CHECK, &facts.node, what));
    }
    findings
}

/// The cluster's only network should not be that of a storage.
pub(super) fn networks(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "networks";
    let Some(conf) = facts.conf() else {
        return Vec::new();
    };
    let Some(own) = conf.node(&facts.node) else {
        return Vec::new();
    };
    let interface = |text: &String| {
        let address: IpAddr = text.parse().ok()?;
        facts.interfaces.iter().find(|it| it.address == address)
    };
    let used: Vec<&Interface> = own.addresses.values().filter_map(interface).collect();
    let storages = facts.files.iter().flat_map(|files| &files.storages);
    let mut findings = Vec::new();
    for storage in storages {
        if is_on_all(storage, &used) {
            let what = format!(
                "storage '{}' is on the only network of the cluster",
                storage.name
            );
            let remedy = "give the cluster a link on a network without storage: 'pvecm link add'";
            findings.push(Finding::warn(CHECK, &facts.node, what, remedy));
        }
    }
    if findings.is_empty() {
        let what = "no storage is on the only network of the cluster";
        findings.push(Finding::ok(CHECK, &facts.node, what));
    }
    findings
}

/// Whether a storage is on the networks of all of these interfaces.
pub(super) fn is_on_all(storage: &Storage, used: &[&Interface]) -> bool {
    !used.is_empty() && used.iter().all(|it| is_in(storage.address, it))
}

fn is_in(address: IpAddr, interface: &Interface) -> bool {
    let network = interface.network;
    network.map_or(address == interface.address, |network| {
        network.contains(address)
    })
}

/// Whether clocks go together.
pub(super) fn clocks(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "time";
    let mut findings = Vec::new();
    for (node, seen) in &facts.services {
        let seen = match seen {
            Ok(seen) => seen,
            Err(why) => {
                let what = format!("its clock is not known: {why}");
                findings.push(Finding::unknown(CHECK, node, what));
                continue;
            }
        };
        findings.push(clock(node, seen.ahead));
        findings.extend(shown_certificate(facts, node, &seen.fingerprint));
    }
    let newest = facts.files.as_ref().and_then(|files| files.newest.as_ref());
    if let Some((path, time)) = newest {
        let ahead = time.as_secs_f64() - facts.now.as_secs_f64();
        if ahead >= CLOCK_WARN {
            let what = format!(
                "was changed {ahead:.0} s in the future: a node's clock is ahead, or this one's is behind"
            );
            let subject = path.display().to_string();
            findings.push(Finding::fail(CHECK, &subject, what, CLOCK_REMEDY));
        }
    }
    findings
}

const CLOCK_REMEDY: &str =
    "keep the clocks of all nodes in step: install chrony, and see 'chronyc tracking'";

fn clock(node: &str, ahead: Option<f64>) -> Finding {
    const CHECK: &str = "time";
    let Some(ahead) = ahead else {
        return Finding::unknown(CHECK, node, "its service does not tell the time");
    };
    let side = if ahead < 0.0 { "behind" } else { "ahead of" };
    let off = ahead.abs();
    let what = format!("its clock is {off:.1} s {side} this one's");
    if off >= CLOCK_BAD {
        Finding::fail(CHECK, node, what, CLOCK_REMEDY)
    } else if off >= CLOCK_WARN {
        Finding::warn(CHECK, node, what, CLOCK_REMEDY)
    } else {
        Finding::ok(CHECK, node, "its clock is in step with this one's")
    }
}

/// The certificate that a node shows should be the one that the cluster knows.
fn shown_certificate(facts: &Facts, node: &str, shown: &str) -> Option<Finding> {
    let files = facts.files.as_ref()?;
    let of_node = files
        .certificates
        .iter()
        .filter(|it| it.node.as_deref() == Some(node));
    let mut known = of_node.filter_map(|it| it.content.as_ref().ok()).peekable();
    known.peek()?;
    if known.any(|content| content.fingerprint == shown) {
        return None;
    }
    let what = format!("its service shows a certificate that the cluster does not know ({shown})");
    let remedy = "on that node: restart the service on port 8006 so that it takes its certificate";
    Some(Finding::warn("certificates", node, what, remedy))
}
