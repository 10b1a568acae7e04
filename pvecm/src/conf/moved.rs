//! The way to another address of a node, for a ring that goes on meanwhile.
//!
//! The messaging daemon does not change the address of a link: the link has to be taken away and
//! come back, and at each moment one that works has to be there. Where no other link is left, one
//! with the same addresses of the others, on another port, bridges the moment.
//!
//! Invariant: two configurations that follow each other have a link in common that is the same in
//! both, and none whose address differs.

use std::collections::BTreeMap;

use super::{ClusterConf, EditError};
use crate::value::LINK_MAX;

impl ClusterConf {
    /// The configurations that lead from this one to one in which a node has another address on these
    /// links, in order.
    ///
    /// # Errors
    /// When there is no such node or link, or no number is free for the link that bridges.
    pub fn moves(&self, node: &str, links: &[u8], address: &str) -> Result<Vec<Self>, EditError> {
        let mut wanted = self.clone();
        for link in links {
            wanted.set_address(node, *link, address)?;
        }
        let mut steps = Vec::new();
        let mut last = self.clone();
        let mut put = |mut step: Self| {
            step.set_version(last.version().saturating_add(1));
            last = step.clone();
            steps.push(step);
        };
        if self.links().iter().any(|link| !links.contains(link)) {
            put(without(self, links)?);
            put(wanted);
            return Ok(steps);
        }
        let (bridge, addresses) = self.bridge(node, address, links)?;
        let bridged = |conf: &Self| {
            let mut conf = conf.clone();
            conf.add_link(bridge, &addresses, 0).map(|()| conf)
        };
        put(bridged(self)?);
        put(without(&bridged(self)?, links)?);
        put(bridged(&wanted)?);
        put(wanted);
        Ok(steps)
    }

    /// Whether the messaging daemon can go on from another configuration to this one: a link stays, and
    /// none that stays has another address.
    fn can_follow(&self, before: &Self) -> bool {
        let (links, nodes) = (self.links(), before.nodes());
        let both = before
            .links()
            .into_iter()
            .filter(|link| links.contains(link));
        let is_same = |link: &u8| {
            let mut own = self.nodes().into_iter();
            own.all(|node| {
                let same = nodes.iter().find(|it| it.id == node.id && it.id.is_some());
                same.is_none_or(|it| it.addresses.get(link) == node.addresses.get(link))
            })
        };
        let mut both = both.peekable();
        both.peek().is_some() && both.all(|link| is_same(&link))
    }

    /// The way from this configuration back to the `old` one: straight, or through those of `between`,
    /// in whose order this one was come to. Each has a version above the one before.
    #[must_use]
    pub fn way_back(&self, between: &[Self], old: &Self) -> Vec<Self> {
        let between = if old.can_follow(self) { &[] } else { between };
        let mut way: Vec<Self> = Vec::new();
        for step in between.iter().rev().chain([old]) {
            let mut step = step.clone();
            step.raise_above(way.last().unwrap_or(self));
            way.push(step);
        }
        way
    }

    /// A number for the link that bridges, and the addresses on it.
    fn bridge(
        &self,
        node: &str,
        address: &str,
        links: &[u8],
    ) -> Result<(u8, BTreeMap<String, String>), EditError> {
        let used = self.links();
        let mut free = (0..=LINK_MAX).filter(|link| !used.contains(link));
        let bridge = free.next().ok_or(EditError::NoSpareLink)?;
        let first = links.first().copied().unwrap_or_default();
        let mut addresses = BTreeMap::new();
        for other in self.nodes() {
            let at = if other.name == node {
                address.to_owned()
            } else {
                let missing = EditError::MissingAddress {
                    link: first,
                    node: other.name.clone(),
                };
                other.addresses.get(&first).cloned().ok_or(missing)?
            };
            addresses.insert(other.name, at);
        }
        Ok((bridge, addresses))
    }
}

fn without(conf: &ClusterConf, links: &[u8]) -> Result<ClusterConf, EditError> {
    let mut conf = conf.clone();
    for link in links {
        conf.remove_link(*link)?;
    }
    Ok(conf)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::{Resolve, verify};

    struct Nobody;

    impl Resolve for Nobody {
        fn resolve(&self, name: &str) -> Vec<std::net::IpAddr> {
            name.parse().into_iter().collect()
        }
    }

    fn conf(links: &[u8], with_sections: bool) -> ClusterConf {
        let section = |link: &u8| format!("  interface {{\n    linknumber: {link}\n  }}\n");
        let sections: String = links
            .iter()
            .filter(|_| with_sections)
            .map(section)
            .collect();
        let mut text = format!(
            "totem {{\n  cluster_name: c\n  config_version: 7\n{sections}}}\nnodelist {{\n"
        );
        for node in 1..=3 {
            text += &format!("  node {{\n    name: n{node}\n    nodeid: {node}\n");
            for link in links {
                text += &format!("    ring{link}_addr: 10.7{link}.0.{node}\n");
            }
            text += "  }\n";
        }
        ClusterConf::parse((text + "}\n").as_bytes()).unwrap()
    }

    /// Links that are in both and the same in both.
    fn check(before: &ClusterConf, after: &ClusterConf) {
        assert_eq!(after.version(), before.version() + 1);
        assert_eq!(verify(after, &Nobody).errors, Vec::<String>::new());
        let both = before.links().into_iter();
        let both: Vec<u8> = both.filter(|link| after.links().contains(link)).collect();
        assert!(!both.is_empty(), "no link stays");
        for link in both {
            for (one, other) in before.nodes().iter().zip(after.nodes()) {
                assert_eq!(one.addresses[&link], other.addresses[&link], "link {link}");
            }
        }
    }

    #[test]
    fn each_step_keeps_a_link_and_changes_no_address_of_one() {
        for with_sections in [false, true] {
            for (links, moved, count) in [
                (&[0, 1][..], &[0][..], 2),
                (&[0, 1, 2], &[0, 2], 2),
                (&[0], &[0], 4),
                (&[1, 3], &[1, 3], 4),
            ] {
                let start = conf(links, with_sections);
                let steps = start.moves("n2", moved, "10.99.0.2").unwrap();
                assert_eq!(steps.len(), count);
                let mut before = start.clone();
                for step in &steps {
                    check(&before, step);
                    before = step.clone();
                }
                // And the way back, from wherever it was come to.
                for (number, from) in steps.iter().enumerate() {
                    let mut before = from.clone();
                    for step in from.way_back(&steps[..number], &start) {
                        check(&before, &step);
                        before = step;
                    }
                    let mut wanted = start.clone();
                    wanted.set_version(before.version());
                    assert_eq!(before, wanted);
                }
                let mut wanted = start.clone();
                for link in moved {
                    wanted.set_address("n2", *link, "10.99.0.2").unwrap();
                }
                wanted.set_version(steps.last().unwrap().version());
                assert_eq!(*steps.last().unwrap(), wanted, "nothing else has changed");
            }
        }
    }

    #[test]
    fn what_can_not_be_moved_is_said() {
        let all: Vec<u8> = (0..=LINK_MAX).collect();
        for (conf, node, links, error) in [
            (
                conf(&[0], true),
                "n9",
                &[0][..],
                EditError::UnknownNode("n9".to_owned()),
            ),
            (conf(&[0], true), "n1", &[1], EditError::UnknownLink(1)),
            (conf(&all, true), "n1", &all, EditError::NoSpareLink),
        ] {
            assert_eq!(conf.moves(node, links, "10.99.0.2").unwrap_err(), error);
        }
    }
}
