//! What `corosync-quorumtool` says of the ring.

use anyhow::{Context, Result};

use crate::lab::Host;

/// The parts of it that must be the same on all nodes of a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumView {
    /// Representative and number of the ring.
    pub ring: String,
    /// Whether the partition has quorum.
    pub quorate: bool,
    /// Votes that there would be if all were there.
    pub expected: u32,
    /// Votes that are there.
    pub total: u32,
    /// Votes that are needed.
    pub quorum: u32,
    /// Flags, as words.
    pub flags: String,
    /// Nodes that are there.
    pub members: Vec<usize>,
}

impl QuorumView {
    /// Asks now.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn of(host: &Host) -> Result<Self> {
        // The exit status tells the quorum, so it is no sign of failure.
        let output = host.sh("corosync-quorumtool -s")?;
        let text = String::from_utf8_lossy(&output.stdout);
        Self::parse(&text).with_context(|| {
            let errors = String::from_utf8_lossy(&output.stderr);
            format!("{}: corosync-quorumtool: {text}{errors}", host.name())
        })
    }

    fn parse(text: &str) -> Result<Self> {
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim).with_context(|| format!("no '{name}'"))
        };
        let number = |name: &str| -> Result<u32> {
            let word = value(name)?.split_whitespace().next().unwrap_or_default();
            word.parse().with_context(|| format!("{name} {word}"))
        };
        let table = text.split("Nodeid      Votes").nth(1);
        let rows = table.unwrap_or_default().lines().skip(1);
        let first = |row: &str| row.split_whitespace().next()?.parse().ok();
        // The device has the number 0.
        let nodes = rows.filter_map(first).filter(|id| *id != 0);
        Ok(Self {
            ring: value("Ring ID:")?.to_owned(),
            quorate: value("Quorate:")? == "Yes",
            expected: number("Expected votes:")?,
            total: number("Total votes:")?,
            quorum: number("Quorum:")?,
            flags: value("Flags:")?.to_owned(),
            members: nodes.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_the_tool_is_understood() {
        let text = "Quorum information\n------------------\nRing ID:          1.9\n\
            Quorate:          Yes\n\nVotequorum information\nExpected votes:   3\n\
            Total votes:      2\nQuorum:           2  \nFlags:            Quorate \n\n\
            Membership information\n----------------------\n    Nodeid      Votes Name\n\
            \x20        1          1 n1 (local)\n         3          1 n3\n         \
            0          1            Qdevice\n";
        let view = QuorumView::parse(text).unwrap();
        assert_eq!(view.members, [1, 3]);
        assert_eq!((view.expected, view.total, view.quorum), (3, 2, 2));
        assert_eq!((view.ring.as_str(), view.quorate), ("1.9", true));
        assert!(QuorumView::parse("").is_err());
    }
}
