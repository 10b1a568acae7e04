//! What a daemon may be started with, but what has no effect, or hardly the one that was meant.
//!
//! Corosync takes every key into its map and says nothing of those that it does not look at, so a
//! slip of the pen goes unnoticed. Sections of which nothing is known here belong to other
//! programs, unless their name is almost that of a known one.

use std::collections::BTreeMap;

use super::keys::{INTERFACE_NUMBERS, Keys, QUORUM_FLAGS, QUORUM_NUMBERS, TOTEM_NUMBERS};
use super::model::{Node, Totem, Transport, Warning};

/// Names what has no meaning any more, never had one, or has a dangerous one.
pub(super) fn warnings(keys: &Keys, totem: &Totem, nodes: &[Node]) -> Vec<Warning> {
    let mut warnings = Vec::new();
    old_keys(keys, totem, nodes, &mut warnings);
    unknown_keys(keys, &mut warnings);
    doubles(nodes, &mut warnings);
    if matches!(keys.text("logging.to_logfile"), Some("yes" | "on"))
        && keys.text("logging.logfile").is_none()
    {
        let text = "no effect: 'logfile' does not say which file";
        warnings.push(Warning::new("logging.to_logfile", text));
    }
    match totem.transport {
        Transport::Knet if totem.crypto.is_none() => warnings.push(Warning::new(
            "totem.secauth",
            "off: everybody on the network can read and forge messages",
        )),
        Transport::Knet => {}
        Transport::Udpu | Transport::Udp => warnings.push(Warning::new(
            "totem.transport",
            "without encryption: everybody on the network can read and forge messages; use knet",
        )),
    }
    warnings
}

fn old_keys(keys: &Keys, totem: &Totem, nodes: &[Node], warnings: &mut Vec<Warning>) {
    let mut warn = |key: &str, text: &'static str| warnings.push(Warning::new(key, text));
    for (key, _) in keys.with_prefix("totem.") {
        let last = key.rsplit('.').next().unwrap_or_default();
        match key {
            "totem.rrp_mode" => warn(key, "ignored: redundancy is set by link_mode"),
            "totem.threads" => warn(key, "ignored: no threads are used"),
            "totem.nodeid" => warn(key, "ignored: the node id is that of the nodelist"),
            "totem.vsftype" => warn(key, "ignored: there is one kind of membership"),
            "totem.ip_dscp" => warn(key, "not supported: packets are not marked"),
            "totem.interface.ringnumber" => {
                warn(key, "old name: taken for linknumber, where that is absent");
            }
            _ if last.starts_with("rrp_") => warn(key, "ignored: it belonged to rrp_mode"),
            _ if last == "bindnetaddr" && !nodes.is_empty() => {
                warn(key, "ignored: addresses are those of the nodelist");
            }
            _ if matches!(last, "mcastaddr" | "broadcast") && totem.transport != Transport::Udp => {
                warn(key, "ignored: only transport udp sends to all at once");
            }
            _ if last == "knet_transport" && keys.text(key) == Some("sctp") => {
                warn(key, "not supported: the link uses udp");
            }
            _ => {}
        }
    }
}

/// Names and addresses that two nodes have: the ring takes both, and none of them works.
fn doubles(nodes: &[Node], warnings: &mut Vec<Warning>) {
    let mut names = BTreeMap::new();
    let mut addresses = BTreeMap::new();
    for (index, node) in nodes.iter().enumerate() {
        let mut warn = |key: String, what: &str, other: u32| {
            let text = format!("node {other} has the same {what}: one of both is wrong");
            warnings.push(Warning::new(&format!("nodelist.node.{index}.{key}"), text));
        };
        if let Some(name) = &node.name
            && let Some(other) = names.insert(name, node.id)
        {
            warn("name".to_owned(), "name", other);
        }
        for (link, address) in &node.addresses {
            if let Some(other) = addresses.insert((link, address), node.id) {
                warn(format!("ring{link}_addr"), "address", other);
            }
        }
    }
}

const SECTIONS: &[&str] = &["totem", "nodelist", "quorum", "logging", "system", "uidgid"];

/// Keys of section `totem` besides [`TOTEM_NUMBERS`], those that [`old_keys`] names too.
const TOTEM: &[&str] = &[
    "block_unlisted_ips",
    "cancel_token_hold_on_retransmit",
    "clear_node_high_bit",
    "cluster_name",
    "config_version",
    "crypto_cipher",
    "crypto_hash",
    "crypto_model",
    "crypto_type",
    "ip_dscp",
    "ip_version",
    "key",
    "keyfile",
    "knet_compression_level",
    "knet_compression_model",
    "link_mode",
    "rrp_mode",
    "secauth",
    "transport",
    "vsftype",
];
const INTERFACE: &[&str] = &[
    "bindnetaddr",
    "broadcast",
    "knet_link_priority",
    "knet_transport",
    "linknumber",
    "mcastaddr",
    "mcastport",
    "member",
    "ringnumber",
    "ttl",
];
const NODE: &[&str] = &[
    "name",
    "nodeid",
    "quorum_votes",
    "ring0_addr",
    "ring1_addr",
    "ring2_addr",
    "ring3_addr",
    "ring4_addr",
    "ring5_addr",
    "ring6_addr",
    "ring7_addr",
];
const QUORUM: &[&str] = &["auto_tie_breaker_node", "provider"];
const LOGGING: &[&str] = &[
    "blackbox",
    "debug",
    "fileline",
    "format",
    "function_name",
    "logfile",
    "logfile_mode",
    "logfile_priority",
    "name",
    "subsys",
    "syslog_facility",
    "syslog_level",
    "syslog_priority",
    "tags",
    "timestamp",
    "to_file",
    "to_logfile",
    "to_stderr",
    "to_syslog",
];
const SYSTEM: &[&str] = &[
    "allow_knet_handle_fallback",
    "move_to_root_cgroup",
    "priority",
    "qb_ipc_type",
    "run_dir",
    "sched_rr",
    "state_dir",
];

fn unknown_keys(keys: &Keys, warnings: &mut Vec<Warning>) {
    let mut sections: Vec<&str> = Vec::new();
    for (key, _) in keys.iter() {
        let Some((section, rest)) = key.split_once('.') else {
            let text = "no effect: it is in no section";
            warnings.push(Warning::new(key, text));
            continue;
        };
        let Some(known) = known_in(section, rest) else {
            if sections.last() != Some(&section) {
                sections.push(section);
            }
            continue;
        };
        let last = key.rsplit('.').next().unwrap_or_default();
        if known.contains(&last) {
            continue;
        }
        let text = match nearest(last, &known) {
            Some(other) => format!("no effect: not known here; is '{other}' meant?"),
            None => "no effect: not known here".to_owned(),
        };
        warnings.push(Warning::new(key, text));
    }
    for section in sections {
        if SECTIONS.contains(&section) {
            continue;
        }
        if let Some(other) = nearest(section, SECTIONS) {
            let text = format!("no effect: a section that is not known here; is '{other}' meant?");
            warnings.push(Warning::new(section, text));
        }
    }
}

/// Names that the section of a key may hold; `None`: whatever another program wants.
fn known_in(section: &str, rest: &str) -> Option<Vec<&'static str>> {
    let inner: Vec<&str> = rest.split('.').collect();
    let names: &[&[&str]] = match (section, inner.as_slice()) {
        ("totem", [_]) => &[TOTEM, TOTEM_NUMBERS],
        ("totem", ["interface", _] | ["interface", _, _]) => &[INTERFACE, INTERFACE_NUMBERS],
        ("nodelist", ["node", _, _]) => &[NODE],
        ("quorum", [_]) => &[QUORUM, QUORUM_FLAGS, QUORUM_NUMBERS],
        ("logging", [_] | ["logger_subsys", _, _]) => &[LOGGING],
        ("system", [_]) => &[SYSTEM],
        _ => return None,
    };
    Some(names.concat())
}

/// A known name that becomes this one by one or two slips.
fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let most = if name.len() < 5 { 1 } else { 2 };
    known
        .iter()
        .map(|other| (distance(name.as_bytes(), other.as_bytes()), *other))
        .min()
        .filter(|(distance, _)| *distance <= most)
        .map(|(_, other)| other)
}

/// How many bytes are to be put in, left out, replaced, or swapped with the next.
fn distance(one: &[u8], other: &[u8]) -> usize {
    let start: Vec<usize> = (0..=other.len()).collect();
    let mut rows = vec![start];
    for (line, byte) in one.iter().enumerate() {
        let mut row = vec![line + 1];
        for (column, against) in other.iter().enumerate() {
            let last = &rows[line];
            let mut least = last[column] + usize::from(byte != against);
            least = least.min(last[column + 1] + 1).min(row[column] + 1);
            if line > 0 && column > 0 && one[line - 1] == *against && *byte == other[column - 1] {
                least = least.min(rows[line - 1][column - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[one.len()][other.len()]
}
