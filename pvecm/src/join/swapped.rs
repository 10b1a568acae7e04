//! Links of this node that look as if they were mixed up: each is in the network in which the other
//! nodes have another one.
//!
//! Such a node may still be reached over a router, or by chance, so that nobody notices before one of
//! the networks fails.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Plan;
use super::checks::Faults;
use super::peer::Facts;
use crate::datacenter::Network;
use crate::host::resolve;

/// Looks at the links that were given. `networks` are those of this node.
pub(super) fn check(facts: &Facts, plan: &Plan, networks: &[Network], found: &mut Faults) {
    let own = plan.request.links.iter();
    let own: BTreeMap<u8, IpAddr> = own
        .filter_map(|(link, at)| Some((*link, at.address.parse().ok()?)))
        .collect();
    if own.len() < 2 {
        return;
    }
    let others = others(facts, plan);
    let wrong = own.iter().filter_map(|(link, at)| {
        let network = networks.iter().filter(|network| network.contains(*at));
        let network = network.max_by_key(|network| network.prefix())?;
        let is_at = |there: &u8| {
            let known = others.get(there);
            known.is_some_and(|all| all.iter().all(|at| network.contains(*at)))
        };
        let there = own.keys().find(|there| is_at(there))?;
        (!is_at(link)).then_some((*link, *there))
    });
    let wrong: BTreeMap<u8, u8> = wrong.collect();
    // Mixed up, and not just in other networks: each has the place of another.
    let places: BTreeSet<u8> = wrong.values().copied().collect();
    if wrong.is_empty() || !places.iter().eq(wrong.keys()) {
        return;
    }
    let (mut seen, mut right) = (Vec::new(), BTreeMap::new());
    for (link, there) in &wrong {
        let at = own.get(link).map(IpAddr::to_string).unwrap_or_default();
        seen.push(format!(
            "{at} of link {link} is in the network in which the other nodes have link {there}"
        ));
        right.insert(there, format!("--link{there} {at}"));
    }
    let right: Vec<String> = right.into_values().collect();
    found.warnings.push(format!(
        "links look mixed up: {}; is it to be {}?",
        seen.join(", "),
        right.join(" ")
    ));
}

/// Addresses of the other nodes on each link.
fn others(facts: &Facts, plan: &Plan) -> BTreeMap<u8, Vec<IpAddr>> {
    let own = plan.request.name.as_str();
    let mut others: BTreeMap<u8, Vec<IpAddr>> = BTreeMap::new();
    let nodes = facts.nodes.iter().filter(|node| node.name != own);
    for (link, text) in nodes.flat_map(|node| &node.addresses) {
        // A name that does not resolve is told elsewhere.
        if let Some(at) = resolve(text).unwrap_or_default().first() {
            others.entry(*link).or_default().push(*at);
        }
    }
    others
}
