//! The networks between hosts, and their faults.
//!
//! Each link is a bridge; each host has a cable (a veth pair) to each. Losses happen where packets
//! enter the bridge, or leave it if they are for a group: silently, as in a switch, and for both ends
//! without an error. The set of all losses is one table of packet rules, always replaced as a whole.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::host::Host;
use super::namespaces::{Namespaces, command, run};
use crate::wait::eventually_ok;

/// How long the kernel may take to remove the cables of a host that is off.
const UNPLUG_DEADLINE: Duration = Duration::from_secs(30);

/// Networks that every host is on.
pub const LINKS: usize = 2;

/// Carrier changes reach the other end of a cable within milliseconds.
const CARRIER_DEADLINE: Duration = Duration::from_secs(5);

/// Address of a host on a link.
#[must_use]
pub fn address(id: usize, link: usize) -> String {
    format!("10.{}.0.{id}", 77 + link)
}

/// Bridges, cables and rules.
#[derive(Debug)]
pub(super) struct Network {
    hub: Namespaces,
    count: usize,
    /// Lost packets in percent, by sender, receiver and link.
    losses: BTreeMap<(usize, usize, usize), u8>,
}

impl Network {
    pub(super) fn new(count: usize) -> Result<Self> {
        let hub = Namespaces::new(|| Ok(()))?;
        let mut script = String::new();
        for link in 0..LINKS {
            let options = "stp_state 0 forward_delay 0 mcast_snooping 0";
            writeln!(script, "link add br{link} type bridge {options}")?;
            writeln!(script, "link set br{link} up")?;
        }
        ip(&hub, &script)?;
        Ok(Self {
            hub,
            count,
            losses: BTreeMap::new(),
        })
    }

    /// Connects a host. At its boot it has no cables: the old ones go with its namespaces.
    pub(super) fn attach(&self, id: usize, host: &Namespaces) -> Result<()> {
        self.await_unplugged(id)?;
        let (mut outside, mut inside) = (String::new(), "link set lo up\n".to_owned());
        for link in 0..LINKS {
            let (port, pid) = (port(id, link), host.pid());
            writeln!(
                outside,
                "link add {port} type veth peer name eth{link} netns {pid}"
            )?;
            writeln!(outside, "link set {port} master br{link} up")?;
            writeln!(inside, "address add {}/24 dev eth{link}", address(id, link))?;
            writeln!(inside, "link set eth{link} up")?;
        }
        ip(&self.hub, &outside)?;
        ip(host, &inside)?;
        self.apply_losses()
    }

    /// Waits until the cables that a host had before are gone: the kernel takes a namespace apart
    /// in the background.
    fn await_unplugged(&self, id: usize) -> Result<()> {
        eventually_ok(UNPLUG_DEADLINE, "the old cables are gone", || {
            let ports = self.ports()?;
            let left = (0..LINKS)
                .map(|link| port(id, link))
                .find(|port| ports.contains(port));
            ensure!(left.is_none(), "{left:?} is still there");
            Ok(())
        })
    }

    pub(super) fn set_cable(&self, id: usize, link: usize, plugged: bool) -> Result<()> {
        ensure!(link < LINKS, "there is no link {link}");
        let state = if plugged { "up" } else { "down" };
        ip(&self.hub, &format!("link set {} {state}\n", port(id, link)))
    }

    /// Waits until the host has noticed its cable. That it carries again is said before the queue
    /// of the interface is opened; packets travel when the state is up.
    pub(super) fn await_carrier(host: &Host, link: usize, plugged: bool) -> Result<()> {
        let wanted = if plugged { " state UP " } else { "NO-CARRIER" };
        eventually_ok(CARRIER_DEADLINE, "carrier change", || {
            let state = host.sh_ok(&format!("ip -oneline link show eth{link}"))?;
            ensure!(state.contains(wanted), "{state}");
            Ok(())
        })
    }

    pub(super) fn partition(&mut self, groups: &[&[usize]]) -> Result<()> {
        for (index, group) in groups.iter().enumerate() {
            for other in groups
                .iter()
                .enumerate()
                .filter(|(i, _)| *i != index)
                .map(|(_, g)| g)
            {
                for (from, to) in group
                    .iter()
                    .flat_map(|a| other.iter().map(move |b| (*a, *b)))
                {
                    self.set_loss(from, to, None, 100)?;
                }
            }
        }
        self.apply_losses()
    }

    pub(super) fn lose(
        &mut self,
        from: usize,
        to: usize,
        link: Option<usize>,
        percent: u8,
    ) -> Result<()> {
        self.set_loss(from, to, link, percent)?;
        self.apply_losses()
    }

    pub(super) fn lose_around(&mut self, id: usize, percent: u8) -> Result<()> {
        for other in (1..=self.count).filter(|other| *other != id) {
            self.set_loss(id, other, None, percent)?;
            self.set_loss(other, id, None, percent)?;
        }
        self.apply_losses()
    }

    pub(super) fn heal(&mut self) -> Result<()> {
        self.losses.clear();
        self.apply_losses()?;
        let ports = self.ports()?;
        let script: String = ports
            .iter()
            .map(|port| format!("link set {port} up\n"))
            .collect();
        ip(&self.hub, &script)
    }

    pub(super) fn power_off(&self) {
        self.hub.kill(|| {});
    }

    fn set_loss(&mut self, from: usize, to: usize, link: Option<usize>, percent: u8) -> Result<()> {
        let hosts = 1..=self.count;
        ensure!(
            hosts.contains(&from) && hosts.contains(&to),
            "no host {from} or no host {to}"
        );
        ensure!(percent <= 100, "{percent} percent are more than all");
        for link in link.map_or(0..LINKS, |link| link..link + 1) {
            ensure!(link < LINKS, "there is no link {link}");
            if percent == 0 {
                self.losses.remove(&(from, to, link));
            } else {
                self.losses.insert((from, to, link), percent);
            }
        }
        Ok(())
    }

    /// Replaces the rules in one step. Cables of hosts that are off have none.
    fn apply_losses(&self) -> Result<()> {
        let ports = self.ports()?;
        let rules = rules(&self.losses, &ports);
        self.hub
            .inside_net(|| {
                let mut nft = command("nft");
                nft.args(["-f", "-"]);
                run(nft, &rules)
            })
            .context("cannot change the packet rules")
    }

    /// Cables that are there now.
    fn ports(&self) -> Result<Vec<String>> {
        let output = self.hub.inside_net(|| {
            Ok(command("ip")
                .args(["-oneline", "link", "show", "type", "veth"])
                .output()?)
        })?;
        let text = String::from_utf8_lossy(&output.stdout);
        let name = |line: &str| Some(line.split(": ").nth(1)?.split('@').next()?.to_owned());
        Ok(text.lines().filter_map(name).collect())
    }
}

/// The end of a cable at the bridge.
fn port(id: usize, link: usize) -> String {
    format!("n{id}-{link}")
}

fn rules(losses: &BTreeMap<(usize, usize, usize), u8>, ports: &[String]) -> String {
    let mut chains: BTreeMap<(String, &str), String> = BTreeMap::new();
    for ((from, to, link), percent) in losses {
        let chance = match percent {
            100 => String::new(),
            _ => format!("numgen random mod 100 < {percent} "),
        };
        let (source, target) = (address(*from, *link), address(*to, *link));
        let entering = chains.entry((port(*from, *link), "ingress")).or_default();
        *entering += &format!("  ip daddr {target} {chance}drop\n");
        let leaving = chains.entry((port(*to, *link), "egress")).or_default();
        *leaving += &format!("  ip saddr {source} ip daddr 224.0.0.0/4 {chance}drop\n");
    }
    let mut text = "table netdev loss\ndelete table netdev loss\ntable netdev loss {\n".to_owned();
    let there = |(port, _): &(String, &str)| ports.contains(port);
    for ((port, way), chain) in chains.into_iter().filter(|(key, _)| there(key)) {
        let hook = format!("type filter hook {way} device \"{port}\" priority 0;");
        text += &format!(
            " chain {}_{way} {{\n  {hook}\n{chain} }}\n",
            port.replace('-', "_")
        );
    }
    text + "}\n"
}

fn ip(namespaces: &Namespaces, script: &str) -> Result<()> {
    namespaces
        .inside_net(|| {
            let mut ip = command("ip");
            ip.args(["-batch", "-"]);
            run(ip, script)
        })
        .context("cannot change the network of the lab")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_only_cables_that_are_there() {
        let losses = BTreeMap::from([((1, 2, 0), 100), ((1, 3, 0), 30), ((2, 1, 1), 100)]);
        let text = rules(&losses, &["n1-0".to_owned()]);
        assert!(text.contains("ip daddr 10.77.0.2 drop"), "{text}");
        assert!(
            text.contains("ip daddr 10.77.0.3 numgen random mod 100 < 30 drop"),
            "{text}"
        );
        assert!(!text.contains("n2-1"), "{text}");
        let text = rules(&losses, &["n2-0".to_owned()]);
        assert!(text.contains("hook egress device \"n2-0\""), "{text}");
        assert!(
            text.contains("ip saddr 10.77.0.1 ip daddr 224.0.0.0/4 drop"),
            "{text}"
        );
    }
}
