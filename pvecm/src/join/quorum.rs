//! Why a node that has just joined finds no quorum, in words.

use crate::conf::ClusterConf;

/// First UDP port of the ring; each link has the next one.
const FIRST_PORT: u16 = 5405;

/// UDP port of a link.
#[must_use]
pub fn port(link: u8) -> u16 {
    FIRST_PORT + u16::from(link)
}

/// What is seen and what follows from it. `connected` has the links that other nodes answer on.
#[must_use]
pub fn diagnosis(
    conf: &ClusterConf,
    own: &str,
    messaging: bool,
    mounted: bool,
    connected: &[(String, u8)],
) -> Vec<String> {
    if !messaging {
        return vec![
            "corosync does not run on this node: 'journalctl -u corosync' says why".to_owned(),
        ];
    }
    let mut lines = Vec::new();
    if !mounted {
        lines.push(
            "the cluster file system is not mounted: 'journalctl -u pve-cluster' says why"
                .to_owned(),
        );
    }
    let others: Vec<_> = conf.nodes().into_iter().collect();
    let others = others.iter().filter(|node| node.name != own);
    let mut heard = 0_usize;
    for node in others {
        let answers = |link: &u8| connected.contains(&(node.name.clone(), *link));
        let (good, bad): (Vec<&u8>, Vec<&u8>) = node.addresses.keys().partition(|l| answers(l));
        heard += usize::from(!good.is_empty());
        for link in bad {
            let address = node.addresses.get(link).map_or("", String::as_str);
            let port = port(*link);
            lines.push(format!(
                "no answer of node '{}' on link {link}: is UDP port {port} open both ways between this \
                 node and {address}, and does the network carry packets of the size that the \
                 interfaces are set to?",
                node.name
            ));
        }
    }
    if heard > 0 {
        lines.push(format!(
            "{heard} other nodes answer, but do not make up a quorum with this one: 'pvecm status' on \
             them shows who is missing, 'journalctl -u corosync' whether they refuse this node's key"
        ));
    }
    lines
}
