//! From keys to meaning: fills in every default, in the order in which Corosync reads.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::check;
use super::error::{ConfigError, Problem};
use super::host::{Host, IpVersion};
use super::keys::{Keys, Value};
use super::model::{
    Cipher, Config, Crypto, Device, Hash, LINK_MAX, Link, LinkMode, Node, Quorum, Switches,
    TieBreaker, Timers, Totem, Transport,
};
use super::syntax::Document;
use super::warn;

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// The first problem that Corosync would refuse it for.
    pub fn read(text: &[u8], host: &dyn Host) -> Result<Self, ConfigError> {
        Self::from_keys(Keys::read(&Document::parse(text)?, host)?, host)
    }

    /// Gives keys their meaning.
    ///
    /// # Errors
    /// The first problem that Corosync would refuse them for.
    pub fn from_keys(keys: Keys, host: &dyn Host) -> Result<Self, ConfigError> {
        check::logging(&keys)?;
        let mut totem = totem(&keys, host)?;
        let nodes = NodeKeys::all(&keys)?;
        let local = check::local_node(&nodes, host);
        let nodes = nodes
            .iter()
            .enumerate()
            .map(|(index, node)| node.read(&totem, &keys, host, local == Some(index)))
            .collect::<Result<Vec<_>, _>>()?;
        check::node_ids(&nodes, &keys)?;
        let first = nodes
            .iter()
            .filter(|node| node.addresses.contains_key(&0))
            .count();
        totem.timers = timers(&keys, first);
        let links = links(&keys, &totem, &nodes)?;
        let quorum = quorum(&keys);
        let warnings = warn::warnings(&keys, &totem, &nodes);
        let config = Self {
            totem,
            links,
            nodes,
            local,
            quorum,
            warnings,
            keys,
        };
        check::whole(&config)?;
        Ok(config)
    }
}

/// A number of which 0 means the default.
fn number_or(keys: &Keys, key: &str, default: u32) -> u32 {
    keys.number(key)
        .filter(|number| *number != 0)
        .unwrap_or(default)
}

fn flag(keys: &Keys, key: &str) -> bool {
    keys.number(key).is_some_and(|number| number != 0)
}

fn totem(keys: &Keys, host: &dyn Host) -> Result<Totem, ConfigError> {
    let fail = |key: &str, problem| Err(ConfigError::new(keys.place(key), problem));
    let transport = match keys.text("totem.transport") {
        None | Some("knet") => Transport::Knet,
        Some("udpu") => Transport::Udpu,
        Some("udp") => Transport::Udp,
        Some(_) => return fail("totem.transport", Problem::Transport),
    };
    let ip_version = match keys.text("totem.ip_version") {
        Some("ipv4") => IpVersion::V4,
        Some("ipv6") => IpVersion::V6,
        Some("ipv4-6") => IpVersion::V4Then6,
        None if transport == Transport::Udp => IpVersion::V4,
        _ => IpVersion::V6Then4,
    };
    let link_mode = match keys.text("totem.link_mode") {
        None | Some("passive") => LinkMode::Passive,
        Some("active") => LinkMode::Active,
        Some("rr") => LinkMode::RoundRobin,
        Some(text) if text.len() >= 64 => {
            return fail("totem.link_mode", Problem::LinkModeTooLong);
        }
        Some(text) => return fail("totem.link_mode", Problem::LinkMode(text.to_owned())),
    };
    let default_mtu = if transport == Transport::Knet {
        65536
    } else {
        1500
    };
    let level = match keys
        .entry("totem.knet_compression_level")
        .map(|entry| &entry.value)
    {
        Some(Value::I32(level)) => *level,
        _ => 0,
    };
    let threshold = number_or(keys, "totem.knet_compression_threshold", 100);
    let model = keys.text("totem.knet_compression_model");
    Ok(Totem {
        config_version: match keys.entry("totem.config_version").map(|entry| &entry.value) {
            Some(Value::U64(version)) => *version,
            _ => 0,
        },
        cluster_name: keys.text("totem.cluster_name").map(str::to_owned),
        transport,
        ip_version,
        link_mode,
        crypto: crypto(keys, host)?,
        timers: timers(keys, 0),
        netmtu: number_or(keys, "totem.netmtu", default_mtu),
        knet_mtu: number_or(keys, "totem.knet_mtu", 0),
        knet_pmtud_interval_s: number_or(keys, "totem.knet_pmtud_interval", 30),
        compression: model.map(|model| (model.to_owned(), threshold, level)),
        switches: Switches {
            block_unlisted_ips: keys.text("totem.block_unlisted_ips") != Some("no"),
            cancel_token_hold_on_retransmit: keys.text("totem.cancel_token_hold_on_retransmit")
                == Some("yes"),
        },
    })
}

fn crypto(keys: &Keys, host: &dyn Host) -> Result<Option<Crypto>, ConfigError> {
    let on = keys.text("totem.secauth") == Some("on");
    let cipher = match keys.text("totem.crypto_cipher") {
        Some("aes128") => Cipher::Aes128,
        Some("aes192") => Cipher::Aes192,
        Some("aes256") => Cipher::Aes256,
        None if on => Cipher::Aes256,
        _ => Cipher::None,
    };
    let hash = match keys.text("totem.crypto_hash") {
        Some("md5") => Some(Hash::Md5),
        Some("sha1") => Some(Hash::Sha1),
        Some("sha256") => Some(Hash::Sha256),
        Some("sha384") => Some(Hash::Sha384),
        Some("sha512") => Some(Hash::Sha512),
        None if on => Some(Hash::Sha256),
        _ => None,
    };
    let Some(hash) = hash else {
        let written = ["totem.crypto_hash", "totem.crypto_cipher"];
        let at = written.iter().find_map(|key| keys.place(key));
        return match cipher {
            Cipher::None => Ok(None),
            _ => Err(ConfigError::new(at, Problem::CipherWithoutHash)),
        };
    };
    Ok(Some(Crypto {
        cipher,
        hash,
        key: secret(keys, host)?,
    }))
}

const KEY_LEN_MIN: usize = 128;
const KEY_LEN_MAX: usize = 4096;

fn secret(keys: &Keys, host: &dyn Host) -> Result<Vec<u8>, ConfigError> {
    if let (None, Some(key)) = (keys.text("totem.keyfile"), keys.text("totem.key")) {
        let problem = match key.len() {
            ..KEY_LEN_MIN => Problem::KeyTooShort,
            KEY_LEN_MIN..=KEY_LEN_MAX => return Ok(key.as_bytes().to_vec()),
            _ => Problem::KeyTooLong,
        };
        return Err(ConfigError::new(keys.place("totem.key"), problem));
    }
    let path = keys
        .text("totem.keyfile")
        .unwrap_or("/etc/corosync/authkey")
        .to_owned();
    let fail = |problem| Err(ConfigError::new(keys.place("totem.keyfile"), problem));
    match host.read_key(&path) {
        Err(reason) => fail(Problem::KeyUnreadable { path, reason }),
        Ok(key) if key.len() < KEY_LEN_MIN => fail(Problem::KeyFileTooShort {
            path,
            bits: key.len() * 8,
        }),
        Ok(mut key) => {
            key.truncate(KEY_LEN_MAX);
            Ok(key)
        }
    }
}

/// Timers in force on a ring of `nodes` nodes.
fn timers(keys: &Keys, nodes: usize) -> Timers {
    let number = |key: &str, default| number_or(keys, &format!("totem.{key}"), default);
    let plain = |key: &str, default| keys.number(&format!("totem.{key}")).unwrap_or(default);
    let more = u32::try_from(nodes.saturating_sub(2)).unwrap_or(u32::MAX);
    let grown = plain("token_coefficient", 650).saturating_mul(more);
    let token = number("token", 3000).saturating_add(grown);
    let part = |value: u32, times: u64, of: u64| {
        u32::try_from(u64::from(value) * times / of).unwrap_or(u32::MAX)
    };
    let retransmits = number("token_retransmits_before_loss_const", 4);
    // token / (retransmits + 0.2)
    let retransmit = part(token, 10, u64::from(retransmits) * 10 + 2);
    let token_retransmit = number("token_retransmit", retransmit);
    let hold = part(token_retransmit, 8, 10).saturating_sub(10);
    Timers {
        token,
        token_warning: plain("token_warning", 75),
        token_retransmit,
        hold: number("hold", hold),
        token_retransmits_before_loss_const: retransmits,
        join: number("join", 50),
        send_join: plain("send_join", 0),
        consensus: number("consensus", part(token, 12, 10)),
        merge: number("merge", 200),
        downcheck: number("downcheck", 1000),
        fail_recv_const: number("fail_recv_const", 2500),
        seqno_unchanged_const: number("seqno_unchanged_const", 30),
        heartbeat_failures_allowed: plain("heartbeat_failures_allowed", 0),
        max_network_delay: number("max_network_delay", 50),
        window_size: number("window_size", 50),
        max_messages: number("max_messages", 17),
        miss_count_const: number("miss_count_const", 5),
    }
}

/// The keys of one node, before they mean anything.
pub(super) struct NodeKeys {
    /// Number in the keys.
    position: usize,
    prefix: String,
    pub(super) name: Option<String>,
    /// Texts by link.
    addresses: BTreeMap<u8, String>,
}

impl NodeKeys {
    fn all(keys: &Keys) -> Result<Vec<Self>, ConfigError> {
        let position = |key: &str| key.split('.').nth(2)?.parse::<usize>().ok();
        let nodes = keys
            .with_prefix("nodelist.node.")
            .filter_map(|(key, _)| position(key));
        let mut positions: Vec<_> = nodes.collect();
        positions.sort_unstable();
        positions.dedup();
        positions
            .into_iter()
            .map(|position| Self::one(keys, position))
            .collect()
    }

    fn one(keys: &Keys, position: usize) -> Result<Self, ConfigError> {
        let prefix = format!("nodelist.node.{position}.");
        let mut addresses = BTreeMap::new();
        for (key, entry) in keys.with_prefix(&prefix) {
            let ring = key
                .strip_prefix(&prefix)
                .and_then(|key| key.strip_prefix("ring"));
            let number = ring.and_then(|ring| ring.strip_suffix("_addr")?.parse::<u32>().ok());
            let Some(number) = number else { continue };
            let Some(link) = u8::try_from(number).ok().filter(|link| *link <= LINK_MAX) else {
                return Err(ConfigError::new(
                    Some(&entry.at),
                    Problem::LinkNumber(number),
                ));
            };
            addresses.insert(link, entry.value.to_text());
        }
        let name = keys.text(&format!("{prefix}name")).map(str::to_owned);
        Ok(Self {
            position,
            prefix,
            name,
            addresses,
        })
    }

    /// Position as text, by which the search for the own node goes.
    pub(super) fn order(&self) -> String {
        self.position.to_string()
    }

    pub(super) fn first_address(&self) -> Option<&str> {
        self.addresses.get(&0).map(String::as_str)
    }

    fn read(
        &self,
        totem: &Totem,
        keys: &Keys,
        host: &dyn Host,
        is_local: bool,
    ) -> Result<Node, ConfigError> {
        let mut addresses = BTreeMap::new();
        for (link, text) in &self.addresses {
            let found = host.resolve(text);
            let Some(address) = totem.ip_version.choose(&found) else {
                let at = keys.place(&format!("{}ring{link}_addr", self.prefix));
                return Err(ConfigError::new(at, Problem::BadAddress(text.clone())));
            };
            addresses.insert(*link, address);
        }
        let first = self.addresses.values().next().map_or("", String::as_str);
        let id_key = format!("{}nodeid", self.prefix);
        let written = keys.number(&id_key).filter(|id| *id != 0);
        let absent = keys.number(&id_key).is_none();
        let knet = totem.transport == Transport::Knet;
        let first_of_keys = keys
            .with_prefix(&self.prefix)
            .next()
            .map(|(_, entry)| &entry.at);
        let fail = |problem| {
            Err(ConfigError::new(
                keys.place(&id_key).or(first_of_keys),
                problem,
            ))
        };
        let id = match (written, addresses.values().next()) {
            (Some(id), _) if knet && id > 65535 => {
                return fail(Problem::NodeIdTooLarge(first.to_owned()));
            }
            (Some(id), _) => id,
            (None, _) if knet && is_local && absent => return fail(Problem::NoLocalNodeId),
            (None, _) if knet => return fail(Problem::NoNodeId(first.to_owned())),
            (None, Some(IpAddr::V4(address))) => generated_id(*address, keys),
            (None, _) => return fail(Problem::Ipv6NeedsNodeId(first.to_owned())),
        };
        let votes = keys
            .number(&format!("{}quorum_votes", self.prefix))
            .unwrap_or(1);
        Ok(Node {
            id,
            name: self.name.clone(),
            addresses,
            votes,
        })
    }
}

fn generated_id(address: Ipv4Addr, keys: &Keys) -> u32 {
    let id = u32::from(address);
    if keys.text("totem.clear_node_high_bit") == Some("yes") {
        id & 0x7FFF_FFFF
    } else {
        id
    }
}

fn links(keys: &Keys, totem: &Totem, nodes: &[Node]) -> Result<BTreeMap<u8, Link>, ConfigError> {
    let mut links = BTreeMap::new();
    for (key, entry) in keys.with_prefix("totem.interface.") {
        let Some(number) = key
            .split('.')
            .nth(2)
            .and_then(|number| number.parse::<u32>().ok())
        else {
            continue;
        };
        match u8::try_from(number).ok().filter(|link| *link <= LINK_MAX) {
            Some(number) => links.insert(number, link(keys, totem, number)?),
            None => {
                return Err(ConfigError::new(
                    Some(&entry.at),
                    Problem::LinkNumber(number),
                ));
            }
        };
    }
    for number in nodes.iter().flat_map(|node| node.addresses.keys()) {
        if !links.contains_key(number) {
            links.insert(*number, link(keys, totem, *number)?);
        }
    }
    Ok(links)
}

fn link(keys: &Keys, totem: &Totem, number: u8) -> Result<Link, ConfigError> {
    let prefix = format!("totem.interface.{number}.");
    let value = |key: &str, default| number_or(keys, &format!("{prefix}{key}"), default);
    let text = |key: &str| keys.text(&format!("{prefix}{key}"));
    let small = |key: &str, default: u8| {
        keys.number(&format!("{prefix}{key}"))
            .map_or(default, |n| u8::try_from(n).unwrap_or(default))
    };
    if !matches!(text("knet_transport"), None | Some("udp" | "sctp")) {
        let at = keys.place(&format!("{prefix}knet_transport"));
        return Err(ConfigError::new(at, Problem::KnetTransport));
    }
    let broadcast = text("broadcast") == Some("yes") && totem.transport == Transport::Udp;
    let step = if broadcast { 2 } else { 1 };
    let port = value("mcastport", 5405 + step * u32::from(number));
    let pong_count = value("knet_pong_count", 2);
    let token = totem.timers.token;
    let multicast = match text("mcastaddr") {
        _ if totem.transport != Transport::Udp => None,
        _ if broadcast => Some(IpAddr::V4(Ipv4Addr::BROADCAST)),
        Some(address) => address.parse().ok(),
        None => totem
            .cluster_name
            .as_deref()
            .map(|name| multicast_address(name, number, totem.ip_version)),
    };
    Ok(Link {
        port: u16::try_from(port).unwrap_or(5405),
        priority: small("knet_link_priority", 1),
        ping_interval: value("knet_ping_interval", token / pong_count.saturating_mul(2)),
        ping_timeout: value("knet_ping_timeout", token / pong_count),
        ping_precision: value("knet_ping_precision", 2048),
        pong_count,
        multicast,
        ttl: small("ttl", 1),
        bind_network: text("bindnetaddr").and_then(|address| address.parse().ok()),
    })
}

/// Where the members of a cluster of that name meet when nothing else is said.
fn multicast_address(cluster_name: &str, link: u8, ip_version: IpVersion) -> IpAddr {
    let step = |hash: i32, byte: u8| {
        hash.wrapping_mul(2)
            .wrapping_add(i32::from(byte.cast_signed()))
    };
    let hash = cluster_name
        .bytes()
        .fold(0, step)
        .cast_unsigned()
        .to_le_bytes();
    let id = u16::from_le_bytes([hash[0], hash[1]]).wrapping_add(u16::from(link));
    let [high, _] = id.to_be_bytes();
    match ip_version {
        // Not a mask: the original divides by 255 here.
        IpVersion::V4 | IpVersion::V4Then6 => {
            let low = u8::try_from(id % 255).unwrap_or(u8::MAX);
            IpAddr::V4(Ipv4Addr::new(239, 192, high, low))
        }
        IpVersion::V6 | IpVersion::V6Then4 => {
            IpAddr::V6(Ipv6Addr::new(0xFF15, 0, 0, 0, 0, 0, 0, id))
        }
    }
}

fn quorum(keys: &Keys) -> Quorum {
    let key = |key: &str| format!("quorum.{key}");
    let model = keys
        .text("quorum.device.model")
        .filter(|model| !model.is_empty());
    let tie_breaker = match keys.text("quorum.auto_tie_breaker_node") {
        None | Some("lowest") => TieBreaker::Lowest,
        Some("highest") => TieBreaker::Highest,
        Some(list) => TieBreaker::List(
            list.split_whitespace()
                .filter_map(|id| id.parse().ok())
                .collect(),
        ),
    };
    Quorum {
        provider: keys.text("quorum.provider").map(str::to_owned),
        expected_votes: keys.number("quorum.expected_votes"),
        votes: keys.number("quorum.votes"),
        two_node: flag(keys, "quorum.two_node"),
        wait_for_all: keys.number("quorum.wait_for_all").map(|number| number != 0),
        auto_tie_breaker: flag(keys, "quorum.auto_tie_breaker"),
        tie_breaker,
        last_man_standing: flag(keys, "quorum.last_man_standing"),
        last_man_standing_window: number_or(keys, &key("last_man_standing_window"), 10_000),
        allow_downscale: flag(keys, "quorum.allow_downscale"),
        expected_votes_tracking: flag(keys, "quorum.expected_votes_tracking"),
        device: model.map(|model| Device {
            model: model.to_owned(),
            votes: keys.number("quorum.device.votes"),
            timeout: number_or(keys, "quorum.device.timeout", 10_000),
            sync_timeout: number_or(keys, "quorum.device.sync_timeout", 30_000),
            master_wins: flag(keys, "quorum.device.master_wins"),
        }),
    }
}
