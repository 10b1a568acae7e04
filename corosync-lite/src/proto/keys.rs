//! What the configuration map shows of the running daemon, beside the keys of the file.
//!
//! Each function takes plain facts and writes keys; a key whose value stays is left alone, so that
//! nobody is told of it. Numbers that grow all the time are not written when they grow, but when
//! somebody looks: [`Traffic`] and [`statistics::Statistics`].
//!
//! Invariant: the number of keys follows the number of nodes, links and connections that the facts
//! name. Nothing that a client or another node sends makes a key here.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::{Config, Transport, Value};
use crate::service::cmap::{Raw, kind};
use crate::service::map::Map;
use crate::wire::NodeId;

pub mod statistics;

pub use statistics::{Connection, Pause, Statistics};

const JOINED: &str = "joined";
const LEFT: &str = "left";

/// Keys that start something when they are set to anything but this.
pub(super) const IDLE: &str = "no";
/// Looks for a new membership.
pub(super) const FORCE_GATHER: &str = "runtime.force_gather";
/// Writes the state of the daemon to the log.
pub(super) const DUMP_STATE: &str = "runtime.blackbox.dump_state";
/// Writes the last lines of the log to a file.
pub(super) const DUMP_FLIGHT_DATA: &str = "runtime.blackbox.dump_flight_data";

/// A service as the map shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    /// Its number.
    pub id: u16,
    /// Its short name.
    pub name: &'static str,
    /// How many kinds of messages it sends to other nodes.
    pub functions: u16,
}

/// The services of this daemon.
pub const SERVICES: [ServiceFacts; 5] = [
    service(0, "cmap", 1),
    service(1, "cfg", 5),
    service(2, "cpg", 7),
    service(3, "quorum", 0),
    service(5, "votequorum", 4),
];

const fn service(id: u16, name: &'static str, functions: u16) -> ServiceFacts {
    ServiceFacts {
        id,
        name,
        functions,
    }
}

/// Messages between services, by service and kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    counts: BTreeMap<(u16, u16), Count>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    sent: u64,
    received: u64,
}

impl Traffic {
    /// Counts a message that is sent. Kinds that no service has are not counted.
    pub fn sent(&mut self, service: u16, function: u16) {
        if let Some(count) = self.count(service, function) {
            count.sent += 1;
        }
    }

    /// Counts a message that was delivered.
    pub fn received(&mut self, service: u16, function: u16) {
        if let Some(count) = self.count(service, function) {
            count.received += 1;
        }
    }

    fn count(&mut self, service: u16, function: u16) -> Option<&mut Count> {
        let known = |facts: &&ServiceFacts| facts.id == service && function < facts.functions;
        SERVICES.iter().find(known)?;
        Some(self.counts.entry((service, function)).or_default())
    }
}

/// What the counting of votes shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the keys below runtime.votequorum")]
pub struct VoteFacts {
    pub this_node_id: u32,
    pub lowest_node_id: u32,
    pub highest_node_id: u32,
    pub ev_barrier: u32,
    pub two_node: bool,
    /// Only where it is configured; the same holds for those below.
    pub wait_for_all_status: Option<bool>,
    pub atb_type: Option<u32>,
    pub ev_tracking_barrier: Option<u32>,
    pub qdevice_can_operate: Option<bool>,
    pub qdevice_master_wins: Option<bool>,
}

/// Keys that are there from the start.
pub fn put_services(map: &mut Map, votequorum: bool) {
    for facts in SERVICES.iter().filter(|facts| facts.id != 5 || votequorum) {
        let internal = format!("internal_configuration.service.{}", facts.id);
        let full = format!("corosync_{}", facts.name);
        map.set(&format!("{internal}.name"), Raw::text(&full));
        map.set(&format!("{internal}.ver"), Raw::u32(0));
        let id = format!("runtime.services.{}.service_id", facts.name);
        map.set(&id, Raw::u16(facts.id));
    }
    for key in [FORCE_GATHER, DUMP_STATE, DUMP_FLIGHT_DATA] {
        map.set(key, Raw::text(IDLE));
    }
}

/// Messages between services, as they are now.
pub fn put_traffic(map: &mut Map, traffic: &Traffic) {
    let there = |facts: &&ServiceFacts| {
        let id = format!("runtime.services.{}.service_id", facts.name);
        map.value(&id).is_some()
    };
    let services: Vec<_> = SERVICES.iter().filter(there).collect();
    for facts in services {
        for function in 0..facts.functions {
            let count = traffic.counts.get(&(facts.id, function));
            let Count { sent, received } = count.copied().unwrap_or_default();
            let key = format!("runtime.services.{}.{function}", facts.name);
            map.set(&format!("{key}.tx"), Raw::u64(sent));
            map.set(&format!("{key}.rx"), Raw::u64(received));
        }
    }
}

/// The keys of a configuration, and what follows from it.
pub fn put_config(map: &mut Map, config: &Config) {
    let mut all = config.keys.clone();
    let position = config.local.and_then(|at| u32::try_from(at).ok());
    all.change("nodelist.local_node_pos", position.map(Value::U32));
    for (position, node) in config.nodes.iter().enumerate() {
        let prefix = format!("nodelist.node.{position}.");
        if config.keys.with_prefix(&prefix).next().is_some() {
            all.change(&format!("{prefix}nodeid"), Some(Value::U32(node.id)));
        }
        if config.local != Some(position) {
            continue;
        }
        for (link, address) in &node.addresses {
            let written = config.keys.text(&format!("{prefix}ring{link}_addr"));
            let address = written.map_or_else(|| address.to_string(), str::to_owned);
            let key = format!("totem.interface.{link}.bindnetaddr");
            all.change(&key, Some(Value::Text(address)));
        }
    }
    if config.totem.transport == Transport::Udp {
        for (number, link) in &config.links {
            let key = |name: &str| format!("totem.interface.{number}.{name}");
            let address = link
                .multicast
                .map(|address| Value::Text(address.to_string()));
            let generated = [
                ("mcastaddr", address),
                ("mcastport", Some(Value::U16(link.port))),
            ];
            for (name, value) in generated {
                if config.keys.entry(&key(name)).is_none() {
                    all.change(&key(name), value);
                }
            }
        }
    }
    map.load(&all);
    if position.is_none() {
        map.remove("nodelist.local_node_pos");
    }
    put_effective(map, config);
}

/// Settings as they are in force, whether they are in the file or not.
pub fn put_effective(map: &mut Map, config: &Config) {
    let (totem, timers) = (&config.totem, &config.totem.timers);
    let (model, threshold, level) = match &totem.compression {
        Some((model, threshold, level)) => (model.as_str(), *threshold, *level),
        None => ("none", 0, 0),
    };
    let switches = &totem.switches;
    let numbers = [
        ("block_unlisted_ips", switches.block_unlisted_ips.into()),
        (
            "cancel_token_hold_on_retransmit",
            switches.cancel_token_hold_on_retransmit.into(),
        ),
        ("consensus", timers.consensus),
        ("downcheck", timers.downcheck),
        ("fail_recv_const", timers.fail_recv_const),
        (
            "heartbeat_failures_allowed",
            timers.heartbeat_failures_allowed,
        ),
        ("hold", timers.hold),
        ("join", timers.join),
        ("knet_compression_threshold", threshold),
        ("knet_mtu", totem.knet_mtu),
        ("knet_pmtud_interval", totem.knet_pmtud_interval_s),
        ("max_messages", timers.max_messages),
        ("max_network_delay", timers.max_network_delay),
        ("merge", timers.merge),
        ("miss_count_const", timers.miss_count_const),
        ("send_join", timers.send_join),
        ("seqno_unchanged_const", timers.seqno_unchanged_const),
        ("token", timers.token),
        ("token_retransmit", timers.token_retransmit),
        (
            "token_retransmits_before_loss_const",
            timers.token_retransmits_before_loss_const,
        ),
        ("token_warning", timers.token_warning),
        ("window_size", timers.window_size),
    ];
    for (name, number) in numbers {
        map.set(&format!("runtime.config.totem.{name}"), Raw::u32(number));
    }
    let compression = "runtime.config.totem.knet_compression";
    map.set(&format!("{compression}_model"), Raw::text(model));
    map.set(&format!("{compression}_level"), Raw::i32(level));
    put_ping_timers(map, config);
}

fn put_ping_timers(map: &mut Map, config: &Config) {
    const PREFIX: &str = "runtime.config.totem.interface.";
    let of_link = |key: &str| {
        key.strip_prefix(PREFIX)?
            .split('.')
            .next()?
            .parse::<u8>()
            .ok()
    };
    let shown: Vec<_> = map
        .iter()
        .map(|(key, _)| key)
        .filter(|key| key.starts_with(PREFIX))
        .collect();
    let gone = |key: &&str| of_link(key).is_none_or(|link| !config.links.contains_key(&link));
    let gone: Vec<_> = shown.into_iter().filter(gone).map(str::to_owned).collect();
    for key in gone {
        map.remove(&key);
    }
    // Also of transports that send none.
    for (number, link) in &config.links {
        let key = format!("{PREFIX}{number}.knet_ping");
        map.set(&format!("{key}_interval"), Raw::u32(link.ping_interval));
        map.set(&format!("{key}_timeout"), Raw::u32(link.ping_timeout));
    }
}

/// Votes, as they are counted now.
pub fn put_votes(map: &mut Map, facts: &VoteFacts) {
    let flag = |flag: bool| Raw::u8(flag.into());
    let values = [
        ("this_node_id", Some(Raw::u32(facts.this_node_id))),
        ("lowest_node_id", Some(Raw::u32(facts.lowest_node_id))),
        ("highest_node_id", Some(Raw::u32(facts.highest_node_id))),
        ("ev_barrier", Some(Raw::u32(facts.ev_barrier))),
        ("two_node", Some(flag(facts.two_node))),
        ("wait_for_all_status", facts.wait_for_all_status.map(flag)),
        ("atb_type", facts.atb_type.map(Raw::u32)),
        (
            "ev_tracking_barrier",
            facts.ev_tracking_barrier.map(Raw::u32),
        ),
        ("qdevice_can_operate", facts.qdevice_can_operate.map(flag)),
        ("qdevice_master_wins", facts.qdevice_master_wins.map(flag)),
    ];
    for (name, value) in values {
        let key = format!("runtime.votequorum.{name}");
        match value {
            Some(value) => map.set(&key, value),
            None => map.remove(&key),
        }
    }
}

/// A node came into the ring.
pub fn put_joined(map: &mut Map, node: NodeId, addresses: &BTreeMap<u8, IpAddr>) {
    let key = |name: &str| format!("runtime.members.{node}.{name}");
    let shown = |(link, address): (&u8, &IpAddr)| format!("r({link}) ip({address}) ");
    let address: String = addresses.iter().map(shown).collect();
    let address = if address.is_empty() {
        "no interface found for nodeid"
    } else {
        &address
    };
    let count = map.value(&key("join_count")).and_then(number);
    let count = count.map_or(1, |count| count.wrapping_add(1));
    map.set(&key("ip"), Raw::text(address));
    map.set(&key("join_count"), Raw::u32(count));
    map.set(&key("status"), Raw::text(JOINED));
}

/// A node left the ring. What was known of it stays.
pub fn put_left(map: &mut Map, node: NodeId) {
    let key = format!("runtime.members.{node}.status");
    map.set(&key, Raw::text(LEFT));
}

/// Version of the configuration of a node.
pub fn put_member_version(map: &mut Map, node: NodeId, version: u64) {
    let key = format!("runtime.members.{node}.config_version");
    map.set(&key, Raw::u64(version));
}

/// A value of 32 bits without a sign.
pub fn number(value: &Raw) -> Option<u32> {
    let bytes = value.bytes.as_slice().try_into().ok()?;
    (value.kind == kind::U32).then(|| u32::from_le_bytes(bytes))
}

/// A value of 8 bits without a sign.
pub(super) fn small(value: &Raw) -> Option<u8> {
    match value.bytes[..] {
        [byte] if value.kind == kind::U8 => Some(byte),
        _ => None,
    }
}

/// The value as a configuration has it, if it can have it.
pub(super) fn configured(value: &Raw) -> Option<Value> {
    let bytes = value.bytes.as_slice();
    Some(match value.kind {
        kind::U8 => Value::U8(small(value)?),
        kind::U16 => Value::U16(u16::from_le_bytes(bytes.try_into().ok()?)),
        kind::U32 => Value::U32(number(value)?),
        kind::I32 => Value::I32(i32::from_le_bytes(bytes.try_into().ok()?)),
        kind::U64 => Value::U64(u64::from_le_bytes(bytes.try_into().ok()?)),
        kind::TEXT => Value::Text(text(value)?.to_owned()),
        _ => return None,
    })
}

/// A text without its NUL.
pub(super) fn text(value: &Raw) -> Option<&str> {
    let bytes = value.bytes.strip_suffix(&[0])?;
    (value.kind == kind::TEXT).then(|| std::str::from_utf8(bytes).ok())?
}

#[cfg(test)]
mod tests;
