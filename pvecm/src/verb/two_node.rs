//! What keeps a cluster of two nodes usable when one of them fails: `two_node: 1`.
//!
//! Invariant: the option is written on demand only, and goes with the change that adds a third node:
//! with it, two of three nodes that do not see the third would not need each other.

use crate::conf::{ClusterConf, NodeEntry};
use crate::failure::{Failure, Outcome};

/// What the user can do for a cluster of two nodes that has nothing for the failure of one.
#[must_use]
pub fn hint(conf: &ClusterConf) -> Option<String> {
    let is_bare = conf.nodes().len() == 2 && !conf.is_two_node() && !conf.has_device();
    is_bare.then(|| {
        "the cluster has two nodes: when one fails, the other takes no changes. A third node mends that, or \
         'two_node: 1' in the section quorum of /etc/pve/corosync.conf (raise config_version): then one \
         goes on alone, also when only the network between them is cut, so both might"
            .to_owned()
    })
}

/// Takes the option out of a configuration with more than two nodes that is about to be written, and says
/// so. `before` are the nodes that were in it, `present` those of them that are there.
///
/// # Errors
/// When the nodes that are there would lose their quorum with it.
pub fn leave_out(
    conf: &mut ClusterConf,
    before: &[NodeEntry],
    present: &[NodeEntry],
) -> Outcome<Option<String>> {
    if !conf.is_two_node() || conf.nodes().len() <= 2 {
        return Ok(None);
    }
    if NodeEntry::votes_of(present) <= NodeEntry::votes_of(before) / 2 {
        let missing: Vec<&str> = before
            .iter()
            .filter(|node| !present.contains(node))
            .map(|node| node.name.as_str())
            .collect();
        return Err(Failure::refused(format!(
            "with a third node 'two_node: 1' has to go, and without it this side has no quorum while others are \
             not there ({}): start them first, or remove them with 'pvecm delnode'",
            missing.join(", ")
        )));
    }
    conf.set_two_node(false);
    let text = "'two_node: 1' is taken out of corosync.conf: it is for two nodes at most";
    Ok(Some(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::code;

    fn conf(nodes: u32, option: &str) -> ClusterConf {
        let nodes: String = (1..=nodes)
            .map(|id| {
                format!("  node {{\n    name: n{id}\n    nodeid: {id}\n    ring0_addr: 10.0.0.{id}\n  }}\n")
            })
            .collect();
        let text = format!(
            "totem {{\n  config_version: 4\n}}\nnodelist {{\n{nodes}}}\nquorum {{\n  provider: \
             corosync_votequorum\n{option}}}\n"
        );
        ClusterConf::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn two_nodes_without_help_are_told_what_helps() {
        assert!(hint(&conf(2, "")).unwrap().contains("'two_node: 1'"));
        let device = "  device {\n    model: net\n  }\n";
        for (nodes, option) in [(1, ""), (2, "  two_node: 1\n"), (2, device), (3, "")] {
            assert_eq!(hint(&conf(nodes, option)), None, "{nodes} {option}");
        }
    }

    #[test]
    fn the_option_goes_with_the_third_node_when_both_others_are_there() {
        let before = conf(2, "").nodes();
        let mut with_three = conf(3, "  two_node: 1\n");
        let alone = leave_out(&mut with_three, &before, &before[..1]).unwrap_err();
        assert_eq!(alone.code(), code::REFUSED);
        assert!(alone.text().contains("(n2)"), "{alone}");
        assert!(with_three.is_two_node());
        let said = leave_out(&mut with_three, &before, &before).unwrap();
        assert!(said.is_some());
        assert_eq!(with_three.text(), conf(3, "").text());
        for mut other in [conf(3, ""), conf(2, "  two_node: 1\n")] {
            let same = other.clone();
            assert_eq!(leave_out(&mut other, &before, &before).unwrap(), None);
            assert_eq!(other, same);
        }
    }
}
