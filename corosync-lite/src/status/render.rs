//! The state in words.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

use super::{Link, Node, Status, Votes};

/// Counters that tell of trouble, and what of.
const TROUBLE: [(&str, &str); 5] = [
    ("operational_token_lost", "tokens lost"),
    ("consensus_timeouts", "times no agreement was found in time"),
    ("mcast_retx", "messages sent again"),
    ("token_retx", "tokens sent again"),
    ("rx_msg_dropped", "ring messages dropped"),
];

/// Whether this node may act, and why.
pub(super) fn quorum(quorate: bool, votes: Option<&Votes>, nodes: &[Node]) -> String {
    let Some(votes) = votes else {
        return "no votes are counted: every partition may act".to_owned();
    };
    let Votes {
        expected,
        present,
        needed,
        ..
    } = votes;
    let mut text = format!("{present} of {expected} votes are here, {needed} are needed");
    let missing: Vec<_> = nodes
        .iter()
        .filter(|node| !node.member)
        .map(called)
        .collect();
    if quorate {
        text += ": this node may act";
    } else if present >= needed {
        text += ", but all nodes have to be seen once after a start: this node may not act";
    } else {
        text += ": this node may not act";
    }
    if !missing.is_empty() {
        write!(text, "; missing: {}", missing.join(", ")).ok();
    }
    text
}

fn called(node: &Node) -> String {
    node.name.as_ref().map_or_else(
        || format!("node {}", node.id),
        |name| format!("{name} ({})", node.id),
    )
}

fn shown(link: &Link) -> String {
    if !link.up {
        return format!("down ({})", link.to);
    }
    match link.latency_ms {
        Some(latency) => format!("up {latency:.2} ms"),
        None => "up".to_owned(),
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = self.nodes.iter().find(|node| node.id == self.node);
        let own = own.map_or_else(|| format!("node {}", self.node), called);
        let cluster = self.cluster.as_deref().unwrap_or("(without a name)");
        write!(f, "Node:    {own} of cluster {cluster}")?;
        if let Some(version) = self.config_version {
            write!(f, ", configuration version {version}")?;
        }
        let answer = if self.quorum.quorate { "yes" } else { "NO" };
        writeln!(f, "\nQuorum:  {answer}, {}", self.quorum.words)?;
        if let Some(votes) = &self.quorum.votes {
            if !votes.options.is_empty() {
                writeln!(f, "         options: {}", votes.options.join(" "))?;
            }
            if let Some((name, count)) = &votes.device {
                writeln!(f, "         device: {name} with {count} votes")?;
            }
        }
        let count = self.ring.members.len();
        let plural = if count == 1 { "" } else { "s" };
        writeln!(f, "Ring:    {} with {count} member{plural}", self.ring.id)?;
        let setting = |name| self.settings.get(name).copied().unwrap_or_default();
        writeln!(
            f,
            "Timers:  token {} ms, retransmit {} ms, consensus {} ms; transport {}",
            setting("token"),
            setting("token_retransmit"),
            setting("consensus"),
            self.transport
        )?;
        self.trouble(f)?;
        writeln!(f)?;
        self.table(f)
    }
}

impl Status {
    fn trouble(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for (key, words) in TROUBLE {
            if let Some(count) = self.counters.get(key).filter(|count| **count != 0) {
                parts.push(format!("{count} {words}"));
            }
        }
        if !parts.is_empty() {
            writeln!(f, "Ring so far: {}", parts.join(", "))?;
        }
        let dropped = self.dropped.iter().filter(|(_, count)| **count != 0);
        let dropped: Vec<_> = dropped
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        if !dropped.is_empty() {
            writeln!(f, "Datagrams dropped: {}", dropped.join(", "))?;
        }
        let has_lost = self.nodes.iter().any(|node| node.reachable == Some(false));
        if has_lost
            && self
                .dropped
                .get("unauthentic")
                .is_some_and(|count| *count != 0)
        {
            let words = "unauthentic: sealed with another key; compare the authkey of all nodes";
            writeln!(f, "                   {words}")?;
        }
        Ok(())
    }

    /// One line a node, one column a link.
    fn table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let links: BTreeSet<u8> = self
            .nodes
            .iter()
            .flat_map(|node| node.links.keys().copied())
            .collect();
        let mut head = vec![
            "NODE".to_owned(),
            "NAME".into(),
            "VOTES".into(),
            "STATE".into(),
        ];
        head.extend(links.iter().map(|link| format!("LINK {link}")));
        let mut rows = vec![head];
        for node in &self.nodes {
            let state = match (node.id == self.node, node.member, node.reachable) {
                (true, ..) => "this node",
                (_, true, _) => "member",
                (_, false, Some(true)) => "reachable, not a member",
                (_, false, _) => "not reachable",
            };
            let mut row = vec![
                node.id.to_string(),
                node.name.clone().unwrap_or_else(|| "-".to_owned()),
                node.votes
                    .map_or_else(|| "-".to_owned(), |votes| votes.to_string()),
                state.to_owned(),
            ];
            let of_link = |link| node.links.get(link).map_or_else(String::new, shown);
            row.extend(links.iter().map(of_link));
            rows.push(row);
        }
        let width = |column| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(String::len)
                .max()
        };
        let columns = rows.first().map_or(0, Vec::len);
        let widths: Vec<_> = (0..columns)
            .map(|column| width(column).unwrap_or(0))
            .collect();
        for row in &rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                write!(line, "{cell:<width$}  ")?;
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{Quorum, Ring};
    use super::*;

    fn node(id: u32, member: bool, links: &[(u8, bool)]) -> Node {
        let link = |up| Link {
            up,
            to: format!("10.0.0.{id}"),
            latency_ms: up.then_some(0.214),
            ..Link::default()
        };
        Node {
            id,
            name: Some(format!("n{id}")),
            votes: Some(1),
            member,
            reachable: (!links.is_empty()).then_some(member),
            links: links
                .iter()
                .map(|(number, up)| (*number, link(*up)))
                .collect(),
        }
    }

    fn status(quorate: bool, members: &[u32]) -> Status {
        let both = |id: u32| {
            let up = members.contains(&id);
            node(id, up, &[(0, up), (1, false)])
        };
        let nodes = vec![node(1, true, &[]), both(2), both(3)];
        let present = u32::try_from(members.len()).unwrap();
        let votes = Votes {
            expected: 3,
            present,
            needed: 2,
            ..Votes::default()
        };
        let words = quorum(quorate, Some(&votes), &nodes);
        Status {
            node: 1,
            cluster: Some("lab".to_owned()),
            config_version: Some(4),
            transport: "knet".to_owned(),
            ring: Ring {
                id: "1.1f".to_owned(),
                members: members.to_vec(),
            },
            quorum: Quorum {
                quorate,
                provider: None,
                votes: Some(votes),
                words,
            },
            nodes,
            settings: BTreeMap::from([("token".to_owned(), 3650)]),
            counters: BTreeMap::from([("mcast_retx".to_owned(), 2), ("mcast_tx".to_owned(), 9)]),
            dropped: BTreeMap::from([("unauthentic".to_owned(), 3), ("late".to_owned(), 0)]),
        }
    }

    #[test]
    fn a_healthy_node_is_shown_on_a_page() {
        let text = status(true, &[1, 2]).to_string();
        let expected = "\
Node:    n1 (1) of cluster lab, configuration version 4
Quorum:  yes, 2 of 3 votes are here, 2 are needed: this node may act; missing: n3 (3)
Ring:    1.1f with 2 members
Timers:  token 3650 ms, retransmit 0 ms, consensus 0 ms; transport knet
Ring so far: 2 messages sent again
Datagrams dropped: 3 unauthentic
                   unauthentic: sealed with another key; compare the authkey of all nodes

NODE  NAME  VOTES  STATE          LINK 0           LINK 1
1     n1    1      this node
2     n2    1      member         up 0.21 ms       down (10.0.0.2)
3     n3    1      not reachable  down (10.0.0.3)  down (10.0.0.3)
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_node_without_quorum_says_who_is_missing() {
        let status = status(false, &[1]);
        assert!(status.to_string().contains("Quorum:  NO, 1 of 3 votes"));
        assert!(status.quorum.words.ends_with("missing: n2 (2), n3 (3)"));
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["quorum"]["votes"]["needed"], 2);
        assert_eq!(json["nodes"][1]["links"]["0"]["up"], false);
    }
}
