//! Keys of the configuration map, with types, as clients of the `cmap` service see them.
//!
//! The sections of a file become keys `section.section.key`; some sections have rules of their own
//! (nodes are numbered, interfaces go by their link number, and so on). Numbers are checked here,
//! and so are the few values that the original checks while it parses.
//!
//! Invariant: keys are in byte order, and each knows where it was written.

use std::collections::BTreeMap;

use super::error::{ConfigError, Place, Problem};
use super::host::Host;
use super::syntax::{Document, Item, Part, Section};

/// A value with the type that the configuration map gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// 8 bits.
    U8(u8),
    /// 16 bits.
    U16(u16),
    /// 32 bits.
    U32(u32),
    /// 32 bits with a sign.
    I32(i32),
    /// 64 bits.
    U64(u64),
    /// Everything that is not a number.
    Text(String),
}

impl Value {
    /// As it would be written in a file.
    pub fn to_text(&self) -> String {
        match self {
            Self::U8(number) => number.to_string(),
            Self::U16(number) => number.to_string(),
            Self::U32(number) => number.to_string(),
            Self::I32(number) => number.to_string(),
            Self::U64(number) => number.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Value,
    /// Where it was written.
    pub at: Place,
}

/// All keys of one configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    entries: BTreeMap<String, Entry>,
}

impl Keys {
    /// Gives each item of a file its key and type.
    ///
    /// # Errors
    /// The first value that its key can not have.
    pub fn read(document: &Document, host: &dyn Host) -> Result<Self, ConfigError> {
        let mut reader = Reader {
            keys: Self::default(),
            host,
            nodes: 0,
        };
        reader.section(document.root(), "")?;
        Ok(reader.keys)
    }

    /// Adds what another file of the directory `uidgid.d` allows.
    ///
    /// # Errors
    /// When it holds anything but `uidgid` sections.
    pub fn read_uidgid(&mut self, document: &Document, host: &dyn Host) -> Result<(), ConfigError> {
        let mut reader = Reader {
            keys: std::mem::take(self),
            host,
            nodes: 0,
        };
        let mut result = Ok(());
        for section in document.root().sections() {
            result = result.and_then(|()| match section.name() {
                "uidgid" => reader.uidgid(section),
                _ => Err(ConfigError::new(
                    Some(&section.open_place()),
                    Problem::BadChoice("uidgid: Can't add subsection different than uidgid"),
                )),
            });
        }
        *self = reader.keys;
        result
    }

    /// The entry of a key.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Where a key was written.
    pub(super) fn place(&self, key: &str) -> Option<&Place> {
        self.entry(key).map(|entry| &entry.at)
    }

    /// Value of a key that holds text.
    pub fn text(&self, key: &str) -> Option<&str> {
        match &self.entry(key)?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Value of a key that holds a number of at most 32 bits without a sign.
    pub fn number(&self, key: &str) -> Option<u32> {
        match self.entry(key)?.value {
            Value::U8(number) => Some(number.into()),
            Value::U16(number) => Some(number.into()),
            Value::U32(number) => Some(number),
            Value::I32(_) | Value::U64(_) | Value::Text(_) => None,
        }
    }

    /// All entries, in byte order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries
            .iter()
            .map(|(key, entry)| (key.as_str(), entry))
    }

    /// Entries whose key starts with `prefix`.
    pub fn with_prefix<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a Entry)> {
        let from = self.entries.range::<str, _>((
            std::ops::Bound::Included(prefix),
            std::ops::Bound::Unbounded,
        ));
        from.take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(key, entry)| (key.as_str(), entry))
    }

    /// Sets a key that no file has, or removes it.
    pub(crate) fn change(&mut self, key: &str, value: Option<Value>) {
        let at = Place::default();
        let entry = value.map(|value| Entry { value, at });
        self.put(key, entry.as_ref());
    }

    /// Puts an entry, or takes it away.
    pub(super) fn put(&mut self, key: &str, entry: Option<&Entry>) {
        match entry {
            Some(entry) => self.entries.insert(key.to_owned(), entry.clone()),
            None => self.entries.remove(key),
        };
    }
}

struct Reader<'a> {
    keys: Keys,
    host: &'a dyn Host,
    /// Nodes of the present list.
    nodes: usize,
}

type Done = Result<(), ConfigError>;

impl Reader<'_> {
    /// Reads a section whose items are keys below `path`.
    fn section(&mut self, section: &Section, path: &str) -> Done {
        for part in section.parts() {
            match part {
                Part::Note(_) => {}
                Part::Item(item) => self.item(&join(path, item.key()), item)?,
                Part::Section(inner) => self.inner(inner, path)?,
            }
        }
        Ok(())
    }

    fn inner(&mut self, section: &Section, path: &str) -> Done {
        match (path, section.name()) {
            ("", "nodelist") => {
                // A second list starts again and overwrites the first.
                self.nodes = 0;
                self.section(section, "nodelist")
            }
            ("nodelist", "node") => {
                let path = format!("nodelist.node.{}", self.nodes);
                self.nodes += 1;
                self.section(section, &path)
            }
            ("totem", "interface") => self.interface(section),
            ("logging", "logger_subsys") => self.logger_subsys(section),
            ("logging", "logging_daemon") => self.logging_daemon(section),
            ("", "uidgid") => self.uidgid(section),
            (path, name) => self.section(section, &join(path, name)),
        }
    }

    fn item(&mut self, key: &str, item: &Item) -> Done {
        let value = typed(key, kind(key), item)?;
        check_choice(key, &value, item)?;
        self.store(key, value, item.value_place());
        Ok(())
    }

    fn store(&mut self, key: &str, value: Value, at: Place) {
        self.keys
            .entries
            .insert(key.to_owned(), Entry { value, at });
    }

    fn interface(&mut self, section: &Section) -> Done {
        let mut found = Vec::new();
        let (mut link, mut ring) = (None, None);
        for item in section.items() {
            let path = format!("totem.interface.{}", item.key());
            match (item.key(), kind(&path)) {
                ("linknumber", kind) => link = Some(typed(&path, kind, item)?.to_text()),
                // The name that Corosync 2 had for it.
                ("ringnumber", _) => {
                    ring = Some(typed(&path, Kind::U8, item)?.to_text());
                    self.store(
                        &path,
                        Value::Text(item.value().to_owned()),
                        item.value_place(),
                    );
                }
                (key, kind) if is_interface_key(key) => {
                    found.push((item, typed(&path, kind, item)?));
                }
                (_, kind) => self.store(&path, typed(&path, kind, item)?, item.value_place()),
            }
        }
        let link = link.or(ring).unwrap_or_else(|| "0".to_owned());
        for (item, value) in found {
            let key = format!("totem.interface.{link}.{}", item.key());
            self.store(&key, value, item.value_place());
        }
        let mut members = 0;
        for member in section.sections() {
            if member.name() != "member" {
                self.section(member, &format!("totem.interface.{}", member.name()))?;
                continue;
            }
            for item in member.items() {
                if item.key() != "memberaddr" {
                    return Err(ConfigError::new(
                        Some(&item.key_place()),
                        Problem::MemberItem,
                    ));
                }
                let key = format!("totem.interface.{link}.member.{members}");
                self.store(
                    &key,
                    Value::Text(item.value().to_owned()),
                    item.value_place(),
                );
                members += 1;
            }
        }
        Ok(())
    }

    fn logger_subsys(&mut self, section: &Section) -> Done {
        let Some(subsys) = section.value("subsys") else {
            return Err(ConfigError::new(
                Some(&section.close_place()),
                Problem::NoSubsys,
            ));
        };
        let path = format!("logging.logger_subsys.{subsys}");
        self.section(section, &path)
    }

    fn logging_daemon(&mut self, section: &Section) -> Done {
        let Some(name) = section.value("name") else {
            return Err(ConfigError::new(
                Some(&section.close_place()),
                Problem::NoDaemonName,
            ));
        };
        let path = match (name, section.value("subsys")) {
            ("corosync", None) => "logging".to_owned(),
            ("corosync", Some(subsys)) => format!("logging.logger_subsys.{subsys}"),
            (name, None) => format!("logging.logging_daemon.{name}"),
            (name, Some(subsys)) => format!("logging.logging_daemon.{name}.{subsys}"),
        };
        for item in section
            .items()
            .filter(|item| !matches!(item.key(), "name" | "subsys"))
        {
            self.item(&join(&path, item.key()), item)?;
        }
        Ok(())
    }

    fn uidgid(&mut self, section: &Section) -> Done {
        for item in section.items() {
            let (kind, file) = match item.key() {
                "uid" => ("user", "/etc/passwd"),
                "gid" => ("group", "/etc/group"),
                _ => {
                    return Err(ConfigError::new(
                        Some(&item.key_place()),
                        Problem::UidgidItem,
                    ));
                }
            };
            let by_name = || match kind {
                "user" => self.host.user_id(item.value()),
                _ => self.host.group_id(item.value()),
            };
            let Some(id) = item.value().parse().ok().or_else(by_name) else {
                let name = item.value().to_owned();
                let problem = Problem::UnknownAccount { kind, file, name };
                return Err(ConfigError::new(Some(&item.value_place()), problem));
            };
            let key = format!("uidgid.config.{}.{id}", item.key());
            self.store(&key, Value::U8(1), item.value_place());
        }
        Ok(())
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    U8,
    U16,
    U32,
    I32,
    U64,
    Text,
}

fn is_interface_key(key: &str) -> bool {
    let texts = ["bindnetaddr", "mcastaddr", "broadcast", "knet_transport"];
    texts.contains(&key) || kind(&format!("totem.interface.{key}")) != Kind::Text
}

/// Type of a key. Interfaces and nodes come without and with their number, in this order.
fn kind(key: &str) -> Kind {
    let key = match key.strip_prefix("nodelist.node.") {
        Some(rest) => rest.split_once('.').map_or(rest, |(_, key)| key),
        None => key,
    };
    let u32_in = |section: &str, keys: &[&str]| {
        key.strip_prefix(section)
            .is_some_and(|rest| keys.contains(&rest))
    };
    match key {
        "totem.config_version" => return Kind::U64,
        "totem.knet_compression_level" => return Kind::I32,
        "totem.interface.mcastport" => return Kind::U16,
        "totem.interface.linknumber"
        | "totem.interface.ttl"
        | "totem.interface.knet_link_priority"
        | "quorum.device.master_wins" => return Kind::U8,
        "nodeid" | "quorum_votes" | "resources.watchdog_timeout" => return Kind::U32,
        _ => {}
    }
    if u32_in("quorum.", QUORUM_FLAGS) {
        Kind::U8
    } else if u32_in("totem.", TOTEM_NUMBERS)
        || u32_in("totem.interface.", INTERFACE_NUMBERS)
        || u32_in("quorum.", QUORUM_NUMBERS)
    {
        Kind::U32
    } else {
        Kind::Text
    }
}

pub(super) const QUORUM_FLAGS: &[&str] = &[
    "two_node",
    "expected_votes_tracking",
    "allow_downscale",
    "wait_for_all",
    "auto_tie_breaker",
    "last_man_standing",
];
pub(super) const QUORUM_NUMBERS: &[&str] = &[
    "expected_votes",
    "votes",
    "last_man_standing_window",
    "leaving_timeout",
    "device.timeout",
    "device.sync_timeout",
    "device.votes",
];
pub(super) const INTERFACE_NUMBERS: &[&str] = &[
    "knet_ping_interval",
    "knet_ping_timeout",
    "knet_ping_precision",
    "knet_pong_count",
];
pub(super) const TOTEM_NUMBERS: &[&str] = &[
    "version",
    "nodeid",
    "threads",
    "netmtu",
    "token",
    "token_coefficient",
    "token_retransmit",
    "token_warning",
    "hold",
    "token_retransmits_before_loss_const",
    "join",
    "send_join",
    "consensus",
    "merge",
    "downcheck",
    "fail_recv_const",
    "seqno_unchanged_const",
    "heartbeat_failures_allowed",
    "max_network_delay",
    "window_size",
    "max_messages",
    "miss_count_const",
    "knet_pmtud_interval",
    "knet_mtu",
    "knet_compression_threshold",
    "rrp_token_expired_timeout",
    "rrp_problem_count_timeout",
    "rrp_problem_count_threshold",
    "rrp_problem_count_mcast_threshold",
    "rrp_autorecovery_check_timeout",
];

fn typed(key: &str, kind: Kind, item: &Item) -> Result<Value, ConfigError> {
    let (min, max) = match kind {
        Kind::Text => return Ok(Value::Text(item.value().to_owned())),
        Kind::U8 => (0, u64::from(u8::MAX)),
        Kind::U16 => (0, u64::from(u16::MAX)),
        Kind::U32 => (0, u64::from(u32::MAX)),
        Kind::I32 => (i64::from(i32::MIN), u64::from(i32::MAX.unsigned_abs())),
        Kind::U64 => (0, u64::MAX),
    };
    let bad = || {
        let (key, value) = (key.to_owned(), item.value().to_owned());
        let problem = Problem::NotANumber {
            key,
            min,
            max,
            value,
        };
        ConfigError::new(Some(&item.value_place()), problem)
    };
    let text = item.value();
    let number = match kind {
        Kind::Text => None,
        Kind::U8 => text.parse().ok().map(Value::U8),
        Kind::U16 => text.parse().ok().map(Value::U16),
        Kind::U32 => text.parse().ok().map(Value::U32),
        Kind::I32 => text.parse().ok().map(Value::I32),
        // A negative one wraps round, as in the original.
        Kind::U64 => {
            let negative = || text.parse::<i64>().ok().map(i64::cast_unsigned);
            text.parse().ok().or_else(negative).map(Value::U64)
        }
    };
    number.ok_or_else(bad)
}

/// Values that the original checks while it parses: the key, what may be written, what is said.
const CHOICES: &[(&str, &[&str], &str)] = &[
    (
        "totem.ip_version",
        &["ipv4", "ipv6", "ipv4-6", "ipv6-4"],
        "Invalid ip_version type",
    ),
    (
        "totem.crypto_model",
        &["nss", "openssl"],
        "Invalid crypto model. Should be nss or openssl",
    ),
    (
        "totem.crypto_cipher",
        &["none", "aes256", "aes192", "aes128"],
        "Invalid cipher type. Should be none, aes256, aes192 or aes128",
    ),
    (
        "totem.crypto_hash",
        &["none", "md5", "sha1", "sha256", "sha384", "sha512"],
        "Invalid hash type. Should be none, md5, sha1, sha256, sha384 or sha512",
    ),
    (
        "totem.knet_compression_model",
        &["zlib", "lz4", "lz4hc", "lzo2", "lzma", "bzip2", "zstd"],
        "Invalid compression model. Should be zlib, lz4, lz4hc, lzo2, lzma, bzip2 or zstd",
    ),
    (
        "system.qb_ipc_type",
        &["native", "shm", "socket"],
        "Invalid system.qb_ipc_type",
    ),
    (
        "system.sched_rr",
        &["yes", "no"],
        "Invalid system.sched_rr value",
    ),
    (
        "system.move_to_root_cgroup",
        &["yes", "no", "auto"],
        "Invalid system.move_to_root_cgroup",
    ),
    (
        "system.allow_knet_handle_fallback",
        &["yes", "no"],
        "Invalid system.allow_knet_handle_fallback",
    ),
];

fn check_choice(key: &str, value: &Value, item: &Item) -> Done {
    let Value::Text(text) = value else {
        return Ok(());
    };
    match CHOICES.iter().find(|(of, ..)| *of == key) {
        Some((_, allowed, message)) if !allowed.contains(&text.as_str()) => Err(ConfigError::new(
            Some(&item.value_place()),
            Problem::BadChoice(message),
        )),
        _ => Ok(()),
    }
}
