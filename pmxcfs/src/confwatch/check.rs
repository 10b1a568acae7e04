//! Whether the cluster may have a new `corosync.conf`.
//!
//! A mistake in this file stops Corosync on all nodes at once. So the node where it is written
//! refuses what can not be right, before anyone else sees it: a text that Corosync can not
//! parse, one that leaves this node out, a version that does not grow, nodes that can not be
//! told apart. The values of other settings are Corosync's own affair.

use std::fmt;
use std::net::Ipv6Addr;

use corosync_lite::config::{self as syntax, Document, Item, Section};

use super::version::config_version;

/// Links that Corosync can use.
const LINKS_MAX: u32 = 8;

/// Above it there is no room for later versions, and programs that count with a sign.
const VERSION_MAX: u64 = u64::MAX >> 1;

/// Why a text is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfError {
    /// Counted from 1, where one line is to blame.
    pub line: Option<usize>,
    /// What is wrong.
    pub problem: Problem,
}

impl fmt::Display for ConfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "corosync.conf line {line}: {}", self.problem),
            None => write!(f, "corosync.conf: {}", self.problem),
        }
    }
}

impl std::error::Error for ConfError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.problem)
    }
}

/// What is wrong with a text, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Corosync can not parse it.
    #[error("{problem}{advice}", problem = .0, advice = advice(.0))]
    Syntax(syntax::Problem),
    /// See the text.
    #[error("no config_version in section totem: add 'config_version: {wanted}'")]
    MissingVersion {
        /// A version that would pass.
        wanted: u64,
    },
    /// See the text.
    #[error("config_version '{value}' is not a number above 0: set it to {wanted}")]
    BadVersion {
        /// As written.
        value: String,
        /// A version that would pass.
        wanted: u64,
    },
    /// See the text.
    #[error("config_version {new} is not above the version {old} in force: set it to {wanted}")]
    VersionNotGrown {
        /// In the new text.
        new: u64,
        /// In force.
        old: u64,
        /// A version that would pass.
        wanted: u64,
    },
    /// See the text.
    #[error("config_version {new} leaves no room for later ones: set it to {wanted}")]
    VersionTooHigh {
        /// In the new text.
        new: u64,
        /// A version that would pass.
        wanted: u64,
    },
    /// See the text.
    #[error(
        "an earlier 'config_version' with number {found} would be taken for the version {real} of section totem: remove or change the earlier text"
    )]
    MisleadingVersion {
        /// First match in the text.
        found: u64,
        /// In section totem.
        real: u64,
    },
    /// See the text.
    #[error("no section nodelist: add one with a node section for each node")]
    NoNodeList,
    /// See the text.
    #[error(
        "no node with name '{name}' in section nodelist: this node would drop out; add it, or make the change on a node that stays"
    )]
    OwnNodeMissing {
        /// Name of this node.
        name: String,
    },
    /// See the text.
    #[error("node '{name}' has no address: add ring0_addr")]
    NoAddress {
        /// Name of the node.
        name: String,
    },
    /// See the text.
    #[error("{key} '{value}' is no address: correct it")]
    BadAddress {
        /// Key of the link.
        key: String,
        /// As written.
        value: String,
    },
    /// See the text.
    #[error("nodeid '{value}' is not a number from 1 to 4294967295: correct it")]
    BadNodeId {
        /// As written.
        value: String,
    },
    /// See the text.
    #[error(
        "{key} {value} is also that of the node section in line {other}: give each node its own"
    )]
    Duplicate {
        /// `nodeid` or `name`.
        key: &'static str,
        /// As written.
        value: String,
        /// Line of the other section.
        other: usize,
    },
}

fn advice(problem: &syntax::Problem) -> String {
    let advice = problem.hint().map(|hint| format!(": {hint}"));
    advice.unwrap_or_default()
}

impl From<syntax::ConfigError> for ConfError {
    fn from(error: syntax::ConfigError) -> Self {
        Self {
            line: error.at.map(|at| at.line),
            problem: Problem::Syntax(error.problem),
        }
    }
}

/// Checks a new text before it is submitted.
///
/// `old` is the text in force; `None` or an empty one sets no lower bound for the version.
/// Writing the text in force again is no change and passes.
///
/// # Errors
/// The first problem, with what to do about it.
pub fn check(new: &[u8], old: Option<&[u8]>, own_node_name: &str) -> Result<(), ConfError> {
    let old = old.filter(|old| !old.is_empty());
    if old == Some(new) {
        return Ok(());
    }
    let document = Document::parse(new)?;
    let root = document.root();
    check_version(root, new, old.map_or(0, version_in_force))?;
    check_nodes(root)?;
    let before = old.and_then(|old| Document::parse(old).ok());
    // What is wrong already is mended address by address, by whoever can.
    if before.is_none_or(|before| check_addresses(before.root()).is_ok()) {
        check_addresses(root)?;
    }
    let lists = |root: &Section| nodes(root).iter().any(|node| is_own(node, own_node_name));
    // Corosync also knows a node by its addresses. A text in force that does without the name
    // must not keep every later one from being written.
    let unnamed = old
        .and_then(|old| Document::parse(old).ok())
        .is_some_and(|old| !lists(old.root()));
    if lists(root) || unnamed {
        return Ok(());
    }
    let line = root.named("nodelist").next_back().map(Section::line);
    let problem = Problem::OwnNodeMissing {
        name: own_node_name.to_owned(),
    };
    Err(ConfError { line, problem })
}

/// The version that a new text has to exceed, whichever way nodes find it.
fn version_in_force(old: &[u8]) -> u64 {
    let parsed = Document::parse(old).ok();
    let real = parsed
        .as_ref()
        .and_then(|old| version_item(old.root()))
        .and_then(|item| item.value().parse().ok());
    config_version(old).unwrap_or(0).max(real.unwrap_or(0))
}

fn version_item(root: &Section) -> Option<&Item> {
    // A later section adds to an earlier one, so the last occurrence counts.
    root.named("totem")
        .filter_map(|totem| totem.item("config_version"))
        .next_back()
}

fn check_version(root: &Section, text: &[u8], old: u64) -> Result<(), ConfError> {
    let wanted = old.saturating_add(1);
    let Some(item) = version_item(root) else {
        let line = root.named("totem").next_back().map(Section::line);
        return Err(ConfError {
            line,
            problem: Problem::MissingVersion { wanted },
        });
    };
    let at = |problem| {
        Err(ConfError {
            line: Some(item.line()),
            problem,
        })
    };
    let digits = !item.value().is_empty() && item.value().bytes().all(|byte| byte.is_ascii_digit());
    let new = match item.value().parse::<u64>() {
        Ok(new) if digits && new > 0 => new,
        _ => {
            return at(Problem::BadVersion {
                value: item.value().to_owned(),
                wanted,
            });
        }
    };
    if new <= old {
        return at(Problem::VersionNotGrown { new, old, wanted });
    }
    // A version in force that is as high must not keep every later text out.
    if new > VERSION_MAX && old < VERSION_MAX {
        return at(Problem::VersionTooHigh { new, wanted });
    }
    match config_version(text) {
        Some(found) if found != new => at(Problem::MisleadingVersion { found, real: new }),
        _ => Ok(()),
    }
}

/// Nodes by position: a second list starts again at the first position and replaces.
fn nodes(root: &Section) -> Vec<&Section> {
    let mut nodes = Vec::new();
    for list in root.named("nodelist") {
        for (position, node) in list.named("node").enumerate() {
            match nodes.get_mut(position) {
                Some(earlier) => *earlier = node,
                None => nodes.push(node),
            }
        }
    }
    nodes
}

fn check_nodes(root: &Section) -> Result<(), ConfError> {
    let nodes = nodes(root);
    if nodes.is_empty() {
        return Err(ConfError {
            line: None,
            problem: Problem::NoNodeList,
        });
    }
    for (index, node) in nodes.iter().enumerate() {
        check_node(node, nodes.get(..index).unwrap_or_default())?;
    }
    Ok(())
}

fn check_node(node: &Section, earlier: &[&Section]) -> Result<(), ConfError> {
    if !(0..LINKS_MAX).any(|link| {
        node.value(&format!("ring{link}_addr"))
            .is_some_and(|a| !a.is_empty())
    }) {
        let name = node.value("name").unwrap_or_default().to_owned();
        return Err(ConfError {
            line: Some(node.line()),
            problem: Problem::NoAddress { name },
        });
    }
    if let Some(item) = node.item("nodeid")
        && node_id(node).is_none_or(|id| id == 0)
    {
        let problem = Problem::BadNodeId {
            value: item.value().to_owned(),
        };
        return Err(ConfError {
            line: Some(item.line()),
            problem,
        });
    }
    for other in earlier {
        let key = if node_id(node).is_some() && node_id(node) == node_id(other) {
            "nodeid"
        } else if name(node) == name(other) {
            "name"
        } else {
            continue;
        };
        let value = node
            .value(key)
            .or(name(node))
            .unwrap_or_default()
            .to_owned();
        let problem = Problem::Duplicate {
            key,
            value,
            other: other.line(),
        };
        return Err(ConfError {
            line: Some(node.line()),
            problem,
        });
    }
    Ok(())
}

/// Names may be known on other nodes alone; a text that can be nothing but an address has to be one.
fn check_addresses(root: &Section) -> Result<(), ConfError> {
    for node in nodes(root) {
        for link in 0..LINKS_MAX {
            let key = format!("ring{link}_addr");
            let Some(item) = node.item(&key).filter(|item| is_no_address(item.value())) else {
                continue;
            };
            let value = item.value().to_owned();
            return Err(ConfError {
                line: Some(item.line()),
                problem: Problem::BadAddress { key, value },
            });
        }
    }
    Ok(())
}

fn is_no_address(text: &str) -> bool {
    if text.contains(':') {
        let address = text
            .split_once('%')
            .map_or(text, |(address, _zone)| address);
        return address.parse::<Ipv6Addr>().is_err();
    }
    // Fewer parts, and parts that begin with 0, mean something to resolvers.
    let parts: Vec<&str> = text.split('.').collect();
    let digits = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    parts.len() >= 4
        && parts.iter().all(digits)
        && (parts.len() > 4
            || parts
                .iter()
                .any(|part| part.parse().is_ok_and(|n: u64| n > 255)))
}

/// Key `name`, else the address, as everything that lists nodes has it.
fn name(node: &Section) -> Option<&str> {
    node.value("name")
        .filter(|name| !name.is_empty())
        .or_else(|| node.value("ring0_addr"))
}

/// Names may carry a domain, this node's own name does not.
fn is_own(node: &Section, own: &str) -> bool {
    let same = |name: &str| {
        let short = name.split_once('.').map_or(name, |(host, _domain)| host);
        name == own || (short == own && name.parse::<std::net::IpAddr>().is_err())
    };
    name(node).is_some_and(same) || node.value("ring0_addr").is_some_and(same)
}

/// Corosync takes a sign and refuses hexadecimal numbers, as this does.
fn node_id(node: &Section) -> Option<u32> {
    node.value("nodeid")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn conf(version: &str, nodes: &[(&str, &str)]) -> String {
        let mut text = format!("totem {{\n  cluster_name: c\n  {version}\n}}\nnodelist {{\n");
        for (host, (id, name)) in (1..).zip(nodes) {
            text += &format!(
                "  node {{\n    name: {name}\n    nodeid: {id}\n    ring0_addr: 10.0.0.{host}\n  }}\n"
            );
        }
        text + "}\n"
    }

    fn refused(new: &str, old: Option<&str>) -> (Option<usize>, Problem) {
        let error = check(new.as_bytes(), old.map(str::as_bytes), "n1").unwrap_err();
        (error.line, error.problem)
    }

    fn passes(new: &str, old: Option<&str>) -> bool {
        check(new.as_bytes(), old.map(str::as_bytes), "n1").is_ok()
    }

    const TWO: [(&str, &str); 2] = [("1", "n1"), ("2", "n2")];

    #[test]
    fn a_growing_version_passes() {
        let (old, new) = (
            conf("config_version: 3", &TWO),
            conf("config_version: 4", &TWO),
        );
        assert!(passes(&new, Some(&old)));
        assert!(passes(&new, None));
        assert!(passes(&new, Some("")));
        assert!(passes(&old, Some(&old)), "the same text again is no change");
    }

    #[test]
    fn a_version_that_does_not_grow_is_refused() {
        let old = conf("config_version: 3", &TWO);
        for new in [2, 3] {
            let text = conf(&format!("config_version: {new}"), &TWO[..1]);
            let problem = Problem::VersionNotGrown {
                new,
                old: 3,
                wanted: 4,
            };
            assert_eq!(refused(&text, Some(&old)), (Some(3), problem));
        }
    }

    #[test]
    fn the_version_must_be_there_and_a_number() {
        let missing = Problem::MissingVersion { wanted: 1 };
        assert_eq!(
            refused(&conf("token: 3000", &TWO), None),
            (Some(1), missing.clone())
        );
        assert_eq!(refused("config_version: 3\n", None), (None, missing));
        for value in ["", "x", "-1", "+2", "0", "3 # x", "99999999999999999999"] {
            let (line, problem) = refused(&conf(&format!("config_version: {value}"), &TWO), None);
            assert_eq!(
                (line, problem),
                (
                    Some(3),
                    Problem::BadVersion {
                        value: value.into(),
                        wanted: 1
                    }
                )
            );
        }
    }

    #[test]
    fn a_version_has_to_leave_room() {
        let text = |version: u64| conf(&format!("config_version: {version}"), &TWO);
        let (old, new) = (text(3), VERSION_MAX + 1);
        assert!(passes(&text(VERSION_MAX), Some(&old)));
        let problem = Problem::VersionTooHigh { new, wanted: 4 };
        assert_eq!(refused(&text(new), Some(&old)), (Some(3), problem));
        assert!(passes(&text(new + 1), Some(&text(new))));
    }

    #[test]
    fn addresses_that_can_be_none_are_refused() {
        let text = |version: u32, address: &str| {
            let text = conf(&format!("config_version: {version}"), &TWO);
            text.replace("10.0.0.2", address)
        };
        for bad in [
            "10.0.0.256",
            "10.0.0.1.2",
            "10.77.0.333",
            "fd00::x",
            "fd00:::1",
            "10.0.0.1:5405",
        ] {
            let problem = Problem::BadAddress {
                key: "ring0_addr".into(),
                value: bad.into(),
            };
            assert_eq!(refused(&text(4, bad), None), (Some(14), problem));
            assert!(passes(&text(5, bad), Some(&text(4, bad))), "{bad}");
        }
        for good in [
            "10.0.0.2",
            "n2",
            "10.0.0.2.example.com",
            "fd00::2",
            "fe80::2%eth0",
            "10.2",
        ] {
            assert!(passes(&text(4, good), None), "{good}");
        }
    }

    #[test]
    fn a_comment_that_hides_the_version_is_refused() {
        let text = format!("# config_version: 77\n{}", conf("config_version: 4", &TWO));
        let problem = Problem::MisleadingVersion { found: 77, real: 4 };
        assert_eq!(refused(&text, None), (Some(4), problem));
        let problem = Problem::VersionNotGrown {
            new: 5,
            old: 77,
            wanted: 78,
        };
        assert_eq!(
            refused(&conf("config_version: 5", &TWO), Some(&text)),
            (Some(3), problem)
        );
    }

    #[test]
    fn a_broken_text_in_force_can_be_mended() {
        let broken = "totem {\n config_version: 3\n";
        assert!(passes(&conf("config_version: 4", &TWO), Some(broken)));
        assert!(!passes(&conf("config_version: 3", &TWO), Some(broken)));
    }

    #[test]
    fn the_own_node_must_stay() {
        let text = conf("config_version: 4", &[("2", "n2")]);
        assert_eq!(
            refused(&text, None),
            (Some(5), Problem::OwnNodeMissing { name: "n1".into() })
        );
        assert_eq!(
            refused("totem {\nconfig_version: 1\n}\n", None),
            (None, Problem::NoNodeList)
        );
        let by_address =
            "totem {\nconfig_version: 1\n}\nnodelist {\nnode {\nring0_addr: n1\nnodeid: 1\n}\n}";
        assert!(passes(by_address, None));
        assert!(passes(
            &conf("config_version: 4", &[("1", "n1.example.com")]),
            None
        ));
        assert!(!passes(&conf("config_version: 4", &[("1", "n10")]), None));
    }

    #[test]
    fn a_node_known_by_address_alone_can_still_change_the_file() {
        let text = |version: &str| conf(version, &[("1", "10.0.0.1"), ("2", "10.0.0.2")]);
        let (old, new) = (text("config_version: 3"), text("config_version: 4"));
        assert!(passes(&new, Some(&old)));
        let named = conf("config_version: 3", &TWO);
        let missing = Problem::OwnNodeMissing { name: "n1".into() };
        assert_eq!(refused(&new, Some(&named)), (Some(5), missing));
    }

    #[test]
    fn a_second_list_replaces_by_position() {
        let first = conf("config_version: 4", &[("1", "n0"), ("2", "n2")]);
        let second = "nodelist {\nnode {\nname: n1\nnodeid: 1\nring1_addr: 10.1.0.1\n}\n}\n";
        assert!(passes(&format!("{first}{second}"), None));
    }

    #[test]
    fn nodes_must_be_told_apart() {
        let text = |nodes: &[(&str, &str)]| conf("config_version: 4", nodes);
        let same = |key, value: &str| Problem::Duplicate {
            key,
            value: value.into(),
            other: 6,
        };
        assert_eq!(
            refused(&text(&[("1", "n1"), ("1", "n2")]), None),
            (Some(11), same("nodeid", "1"))
        );
        assert_eq!(
            refused(&text(&[("1", "n1"), ("2", "n1")]), None),
            (Some(11), same("name", "n1"))
        );
        for value in ["0", "0x1", "-1", "4294967296"] {
            let problem = Problem::BadNodeId {
                value: value.into(),
            };
            assert_eq!(refused(&text(&[(value, "n1")]), None), (Some(8), problem));
        }
        let text = "totem {\nconfig_version: 1\n}\nnodelist {\nnode {\nname: n1\n}\n}";
        assert_eq!(
            refused(text, None),
            (Some(5), Problem::NoAddress { name: "n1".into() })
        );
    }

    #[test]
    fn errors_say_where_and_what_to_do() {
        let error = check(b"totem {\n x {y\n", None, "n1").unwrap_err();
        let expected = "corosync.conf line 2: Extra characters after opening bracket '{': put each \
             setting on a line of its own; '{' can not be part of a value";
        assert_eq!(error.to_string(), expected);
        let error = check(b"", None, "n1").unwrap_err();
        let expected = "corosync.conf: no config_version in section totem: add 'config_version: 1'";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn line_ends_of_other_systems_pass_and_stray_ones_do_not() {
        let text = conf("config_version: 1", &TWO);
        assert!(passes(&text.replace('\n', "\r\n"), None));
        // Corosync strips one carriage return and stops at the line that is left.
        let (line, problem) = refused(&format!("\r\r\n{text}"), None);
        assert_eq!(line, Some(1));
        assert_eq!(problem, Problem::Syntax(syntax::Problem::NotASetting));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(new in proptest::collection::vec(any::<u8>(), 0..200), old in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..100))) {
            drop(check(&new, old.as_deref(), "n1"));
        }

        #[test]
        fn versions_pass_exactly_when_they_grow(old in 1u64..50, new in 1u64..50) {
            let text = |version, nodes| conf(&format!("config_version: {version}"), nodes);
            prop_assert_eq!(passes(&text(new, &TWO), Some(&text(old, &TWO[..1]))), new > old);
        }
    }
}
