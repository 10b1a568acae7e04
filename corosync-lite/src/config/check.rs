//! What a daemon may not be started with, in the order in which Corosync looks.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::error::{ConfigError, Problem};
use super::host::Host;
use super::keys::Keys;
use super::model::{Config, Node, Transport};
use super::read::NodeKeys;

type Done = Result<(), ConfigError>;

/// Least value of most timers.
const TIMER_MIN: u32 = 30;
const HOLD_MIN: u32 = 14;

/// Checks the values of section `logging` and of its subsystems.
pub(super) fn logging(keys: &Keys) -> Done {
    for (full, entry) in keys.with_prefix("logging.") {
        let rest = full.strip_prefix("logging.").unwrap_or_default();
        if rest.starts_with("logging_daemon.") {
            // Of other daemons.
            continue;
        }
        let key = match rest.strip_prefix("logger_subsys.") {
            Some(subsys) => subsys.split_once('.').map_or("", |(_, key)| key),
            None => rest,
        };
        let text = entry.value.to_text();
        if let Some(problem) = bad_log_value(key, &text) {
            return Err(ConfigError::new(Some(&entry.at), problem));
        }
    }
    Ok(())
}

fn bad_log_value(key: &str, text: &str) -> Option<Problem> {
    let unless = |allowed: &[&str], problem| (!allowed.contains(&text)).then_some(problem);
    let switch = ["yes", "on", "no", "off"];
    match key {
        "to_stderr" => unless(&switch, Problem::UnknownLogValue("to_stderr")),
        "to_syslog" => unless(&switch, Problem::UnknownLogValue("to_syslog")),
        "to_logfile" => unless(&switch, Problem::UnknownLogValue("to_logfile")),
        "to_file" => unless(&switch, Problem::UnknownLogValue("to_file")),
        "debug" => unless(&["off", "on", "trace"], Problem::UnknownLogValue("debug")),
        "timestamp" => unless(
            &["off", "on", "hires"],
            Problem::UnknownLogValue("timestamp"),
        ),
        "fileline" => unless(&["off", "on"], Problem::UnknownLogValue("fileline")),
        "function_name" => unless(&["off", "on"], Problem::UnknownLogValue("function_name")),
        "blackbox" => unless(&["off", "on"], Problem::UnknownLogValue("blackbox")),
        "syslog_facility" => unless(FACILITIES, Problem::UnknownLogName("syslog facility")),
        "syslog_priority" | "syslog_level" => {
            unless(PRIORITIES, Problem::UnknownLogName("syslog priority"))
        }
        "logfile_priority" => unless(PRIORITIES, Problem::UnknownLogName("logfile priority")),
        _ => None,
    }
}

const FACILITIES: &[&str] = &[
    "auth", "authpriv", "cron", "daemon", "ftp", "kern", "lpr", "mail", "news", "syslog", "user",
    "uucp", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];
const PRIORITIES: &[&str] = &[
    "emerg", "alert", "crit", "err", "error", "warning", "notice", "info", "debug",
];

/// Finds this machine in the list of nodes.
pub(super) fn local_node(nodes: &[NodeKeys], host: &dyn Host) -> Option<usize> {
    // Keys are looked through as texts, so node 10 comes before node 2.
    let mut order: Vec<usize> = (0..nodes.len()).collect();
    order.sort_by_key(|index| nodes.get(*index).map(NodeKeys::order));
    let listed: Vec<(usize, &str)> = order
        .into_iter()
        .filter_map(|index| nodes.get(index).map(|node| (index, node)))
        .flat_map(|(index, node)| {
            [node.name.as_deref(), node.first_address()]
                .into_iter()
                .flatten()
                .map(move |n| (index, n))
        })
        .collect();
    let find = |wanted: &str| {
        listed
            .iter()
            .find(|(_, name)| *name == wanted)
            .map(|(index, _)| *index)
    };
    let short = |name: &str| name.split('.').next().unwrap_or_default().to_owned();

    let own = host.name();
    let mut name = own.as_str();
    loop {
        if let Some(index) = find(name) {
            return Some(index);
        }
        match name.rsplit_once('.') {
            Some((rest, _)) => name = rest,
            None => break,
        }
    }
    let bare = short(&own);
    if let Some((index, _)) = listed.iter().find(|(_, name)| short(name) == bare) {
        return Some(*index);
    }
    let addresses = host.addresses();
    for address in &addresses {
        let reverse = host.name_of(*address);
        let cut = reverse.as_deref().map(short);
        let names = [reverse, cut, Some(address.to_string())];
        if let Some(index) = names.iter().flatten().find_map(|name| find(name)) {
            return Some(index);
        }
    }
    let is_here = |name: &str| {
        host.resolve(name)
            .iter()
            .any(|found| addresses.contains(found))
    };
    listed
        .iter()
        .find(|(_, name)| is_here(name))
        .map(|(index, _)| *index)
}

/// No number twice.
pub(super) fn node_ids(nodes: &[Node], keys: &Keys) -> Done {
    let mut seen = BTreeSet::new();
    for (index, node) in nodes.iter().enumerate() {
        if !seen.insert(node.id) {
            let at = keys.place(&format!("nodelist.node.{index}.nodeid"));
            return Err(ConfigError::new(at, Problem::DuplicateNodeId(node.id)));
        }
    }
    Ok(())
}

/// Checks what can only be judged together.
pub(super) fn whole(config: &Config) -> Done {
    if config.keys.number("totem.version") != Some(2) {
        return Err(ConfigError::new(
            config.keys.place("totem.version"),
            Problem::Version,
        ));
    }
    if config.totem.transport != Transport::Knet && config.totem.crypto.is_some() {
        let at = config.keys.place("totem.transport");
        return Err(ConfigError::new(at, Problem::CryptoWithoutKnet));
    }
    timers(config)?;
    if config.links.is_empty() {
        return Err(ConfigError::new(None, Problem::NoInterfaces));
    }
    if config.local.is_none() && !(config.nodes.is_empty() && has_bind_network(config)) {
        return Err(ConfigError::new(None, Problem::NoLocalNode));
    }
    links(config)
}

fn has_bind_network(config: &Config) -> bool {
    config.totem.transport != Transport::Knet
        && config
            .links
            .values()
            .all(|link| link.bind_network.is_some())
}

fn timers(config: &Config) -> Done {
    let (timers, keys) = (&config.totem.timers, &config.keys);
    let fail = |key: &str, problem| {
        Err(ConfigError::new(
            keys.place(&format!("totem.{key}")),
            problem,
        ))
    };
    let least = |key: &str, what, value, least| {
        if value < least {
            return fail(key, Problem::TooSmall { what, value, least });
        }
        Ok(())
    };
    least(
        "max_network_delay",
        "max_network_delay",
        timers.max_network_delay,
        TIMER_MIN,
    )?;
    least("token", "token timeout", timers.token, TIMER_MIN)?;
    if timers.token_warning > 100 {
        return fail("token_warning", Problem::TokenWarning(timers.token_warning));
    }
    if timers.token_retransmit < TIMER_MIN && keys.number("totem.token_retransmit").is_none() {
        return fail("token", Problem::TokenTooShort);
    }
    least(
        "token_retransmit",
        "token retransmit timeout",
        timers.token_retransmit,
        TIMER_MIN,
    )?;
    least("hold", "token hold timeout", timers.hold, HOLD_MIN)?;
    least("join", "join timeout", timers.join, TIMER_MIN)?;
    least(
        "consensus",
        "consensus timeout",
        timers.consensus,
        TIMER_MIN,
    )?;
    if timers.consensus < timers.join {
        let (consensus, join) = (timers.consensus, timers.join);
        return fail("consensus", Problem::ConsensusBelowJoin { consensus, join });
    }
    least("merge", "merge timeout", timers.merge, TIMER_MIN)?;
    least(
        "downcheck",
        "downcheck timeout",
        timers.downcheck,
        TIMER_MIN,
    )
}

fn links(config: &Config) -> Done {
    let (keys, transport) = (&config.keys, config.totem.transport);
    let count = config.links.len();
    if transport != Transport::Knet && count > 1 {
        return Err(ConfigError::new(None, Problem::TooManyLinks(count)));
    }
    for (number, link) in &config.links {
        let fail = |key: &str, problem| {
            let at = keys.place(&format!("totem.interface.{number}.{key}"));
            Err(ConfigError::new(at, problem))
        };
        if transport != Transport::Udp && link.ttl != 1 {
            return fail("ttl", Problem::TtlWithoutMulticast(*number));
        }
        if transport != Transport::Knet && link.priority != 1 {
            return fail("knet_link_priority", Problem::PriorityWithoutKnet(*number));
        }
        if transport == Transport::Udp {
            let key = format!("totem.interface.{number}.mcastaddr");
            multicast(config, *number, link.multicast)
                .map_err(|problem| ConfigError::new(keys.place(&key), problem))?;
        }
        families(config, *number)?;
        let lacks = |node: &Node| !node.addresses.contains_key(number);
        if let Some(index) = config.nodes.iter().position(lacks) {
            let prefix = format!("nodelist.node.{index}.");
            let at = keys.with_prefix(&prefix).next().map(|(_, entry)| &entry.at);
            return Err(ConfigError::new(at, Problem::UnevenLinks));
        }
    }
    if count > 1 && config.nodes.iter().any(|node| node.name.is_none()) {
        return Err(ConfigError::new(None, Problem::NamesNeeded));
    }
    Ok(())
}

fn multicast(config: &Config, link: u8, address: Option<IpAddr>) -> Result<(), Problem> {
    let written = config
        .keys
        .text(&format!("totem.interface.{link}.mcastaddr"));
    let own = config
        .local_node()
        .and_then(|node| node.addresses.get(&link));
    match address {
        None if written.is_some() => Err(Problem::BadMulticastAddress(link)),
        None => Err(Problem::NoMulticastAddress(link)),
        Some(IpAddr::V4(address)) if address.is_broadcast() => Ok(()),
        Some(address) if !address.is_multicast() => Err(Problem::BadMulticastAddress(link)),
        Some(address) if own.is_some_and(|own| own.is_ipv4() != address.is_ipv4()) => {
            Err(Problem::MulticastFamily(link))
        }
        Some(_) => Ok(()),
    }
}

fn families(config: &Config, link: u8) -> Done {
    let address = |node: &Node| node.addresses.get(&link).copied();
    let Some(first) = config.nodes.iter().find_map(address) else {
        return Ok(());
    };
    for (index, node) in config.nodes.iter().enumerate() {
        let Some(other) = address(node).filter(|other| other.is_ipv4() != first.is_ipv4()) else {
            continue;
        };
        let (one, other) = (other.to_string(), first.to_string());
        let at = config
            .keys
            .place(&format!("nodelist.node.{index}.ring{link}_addr"));
        return Err(ConfigError::new(
            at,
            Problem::MixedFamilies { link, one, other },
        ));
    }
    Ok(())
}
