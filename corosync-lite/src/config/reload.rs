//! A reload as a whole: from the text of a new file, or from one key that a client wrote, to what
//! is in force afterwards and what the log is told.
//!
//! Nothing is read and nothing applied here.
//!
//! Invariant: where a reload is refused, nothing of the new configuration is in force.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use super::error::ConfigError;
use super::host::Host;
use super::keys::{Keys, Value};
use super::model::{Config, Warning};
use super::plan::{Change, CutOff, Refused, ReloadPlan, plan};
use super::syntax::Document;

/// A reload that can be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reload {
    /// What is to be done, and what is in force then.
    pub plan: ReloadPlan,
    /// For the log, in this order.
    pub notes: Vec<Note>,
}

/// A line of the log about a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Everything is as before.
    Unchanged,
    /// The version of the configuration is another one.
    Version {
        /// In force so far.
        from: u64,
        /// From now on.
        to: u64,
    },
    /// Something that is applied.
    Changed(Change),
    /// Something that needs a restart.
    Refused(Refused),
    /// Something doubtful that was not there before.
    Warning(Warning),
}

/// Why a reload is refused. The running configuration stays in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The file can not be read.
    #[error("{0}; the running configuration stays in force")]
    Unreadable(String),
    /// The file, or what follows from it, is not valid.
    #[error("{0}; the running configuration stays in force: correct the file and reload again")]
    Invalid(ConfigError),
    /// A daemon could not be started with it.
    #[error(
        "{0} is not supported: remove it, on all nodes; the running configuration stays in force"
    )]
    Unsupported(&'static str),
    /// This node could not go on with it.
    #[error("{0}; the running configuration stays in force")]
    CutOff(CutOff),
    /// An old file.
    #[error(
        "totem.config_version {wanted} of the file is lower than {running}, which is in force: \
         this looks like an old file; if it is meant, give it a version above {running} and \
         reload again"
    )]
    OlderVersion {
        /// In force.
        running: u64,
        /// In the file; 0 when it has none.
        wanted: u64,
    },
}

impl Refusal {
    /// Several lines for a person; `file` is how the reader knows the text.
    pub fn render(&self, file: &str) -> String {
        match self {
            Self::Invalid(error) | Self::CutOff(CutOff::Invalid(error)) => error.render(file),
            other => format!("{file}: {other}\n"),
        }
    }
}

impl Reload {
    /// Reads a new file, and those of the directory `uidgid.d`.
    ///
    /// # Errors
    /// When nothing of it can be applied.
    pub fn of_file<'a>(
        running: &Config,
        text: &[u8],
        uidgid: impl IntoIterator<Item = &'a [u8]>,
        host: &dyn Host,
    ) -> Result<Self, Refusal> {
        let read = || {
            let mut keys = Keys::read(&Document::parse(text)?, host)?;
            for text in uidgid {
                keys.read_uidgid(&Document::parse(text)?, host)?;
            }
            Ok(keys)
        };
        let keys = read().map_err(Refusal::Invalid)?;
        let running_version = running.totem.config_version;
        let wanted = match keys.entry("totem.config_version").map(|entry| &entry.value) {
            Some(Value::U64(version)) => *version,
            _ => 0,
        };
        if wanted < running_version {
            return Err(Refusal::OlderVersion {
                running: running_version,
                wanted,
            });
        }
        Self::new(running, keys, host)
    }

    /// Takes one key that was written at run time, or removed. Nothing is asked of the machine:
    /// names stand for the addresses that they stood for.
    ///
    /// # Errors
    /// When the configuration would not be valid with it.
    pub fn of_key(running: &Config, key: &str, value: Option<Value>) -> Result<Self, Refusal> {
        let mut keys = running.keys.clone();
        keys.change(key, value);
        Self::new(running, keys, &AsBefore::new(running))
    }

    fn new(running: &Config, keys: Keys, host: &dyn Host) -> Result<Self, Refusal> {
        let plan = plan(running, keys, host).map_err(|cut_off| match cut_off {
            CutOff::Invalid(error) => Refusal::Invalid(error),
            other => Refusal::CutOff(other),
        })?;
        if let Some(key) = plan.config.unsupported() {
            return Err(Refusal::Unsupported(key));
        }
        let notes = notes(running, &plan);
        Ok(Self { plan, notes })
    }

    /// Whether the transport needs another key, cipher or hash.
    pub fn keys_changed(&self) -> bool {
        self.plan.changes.contains(&Change::Crypto)
    }
}

fn notes(running: &Config, plan: &ReloadPlan) -> Vec<Note> {
    let mut notes = Vec::new();
    let (from, to) = (
        running.totem.config_version,
        plan.config.totem.config_version,
    );
    if from != to {
        notes.push(Note::Version { from, to });
    }
    let changes = plan
        .changes
        .iter()
        .filter(|change| **change != Change::Keys);
    notes.extend(changes.cloned().map(Note::Changed));
    notes.extend(plan.refused.iter().cloned().map(Note::Refused));
    let new = |warning: &&Warning| !running.warnings.contains(warning);
    let warnings = plan.config.warnings.iter().filter(new);
    notes.extend(warnings.cloned().map(Note::Warning));
    if notes.is_empty() {
        notes.push(Note::Unchanged);
    }
    notes
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unchanged => f.write_str("the configuration is as before"),
            Self::Version { from, to } => write!(f, "configuration version {from} becomes {to}"),
            Self::Changed(change) => change.fmt(f),
            Self::Refused(refused) => refused.fmt(f),
            Self::Warning(warning) => warning.fmt(f),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LinkAdded(link) => write!(f, "link {link} is added"),
            Self::NodeAdded(node) => write!(f, "node {node} is added"),
            Self::AddressChanged {
                node,
                link,
                from,
                to,
            } => write!(f, "node {node} moves from {from} to {to} on link {link}"),
            Self::NodeRemoved(node) => write!(f, "node {node} is removed"),
            Self::LinkRemoved(link) => write!(f, "link {link} is removed"),
            Self::LinkSettings(link) => write!(f, "settings of link {link} change"),
            Self::Timers => f.write_str("timers of the ring change"),
            Self::TransportSettings => f.write_str("settings of the transport change"),
            Self::Crypto => f.write_str("key, cipher or hash change"),
            Self::Quorum => f.write_str("votes change"),
            Self::Access => f.write_str("access to local services changes"),
            Self::Logging => f.write_str("logging changes"),
            Self::Keys => f.write_str("keys change that other programs read"),
        }
    }
}

/// A machine on which everything is as the running configuration found it.
struct AsBefore<'a> {
    running: &'a Config,
    /// What names of the list stood for.
    names: BTreeMap<String, IpAddr>,
}

impl<'a> AsBefore<'a> {
    fn new(running: &'a Config) -> Self {
        let mut texts: BTreeMap<usize, Vec<(u8, String)>> = BTreeMap::new();
        for (key, entry) in running.keys.with_prefix("nodelist.node.") {
            let mut parts = key.split('.').skip(2);
            let position = parts.next().and_then(|part| part.parse().ok());
            let ring = parts.next().and_then(|part| part.strip_prefix("ring"));
            let link = ring.and_then(|ring| ring.strip_suffix("_addr")?.parse().ok());
            let Some(position) = position else { continue };
            let node = texts.entry(position).or_default();
            node.extend(link.map(|link| (link, entry.value.to_text())));
        }
        // Nodes are in the order of their positions.
        let nodes = running.nodes.iter().zip(texts.into_values());
        let names = nodes.flat_map(|(node, texts)| {
            let address = |(link, text)| Some((text, *node.addresses.get(&link)?));
            texts.into_iter().filter_map(address)
        });
        Self {
            running,
            names: names.collect(),
        }
    }

    fn own_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let own = self.running.local_node().into_iter();
        own.flat_map(|node| node.addresses.values().copied())
    }
}

impl Host for AsBefore<'_> {
    fn name(&self) -> String {
        let own = self.running.local_node();
        let named = own.and_then(|node| node.name.clone());
        let first = own.and_then(|node| node.addresses.get(&0));
        let listed = || {
            let mut names = self.names.iter();
            let found = names.find(|(_, address)| Some(*address) == first);
            found.map(|(text, _)| text.clone())
        };
        named.or_else(listed).unwrap_or_default()
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let bound = self
            .running
            .links
            .values()
            .filter_map(|link| link.bind_network);
        self.own_addresses().chain(bound).collect()
    }

    fn resolve(&self, name: &str) -> Vec<IpAddr> {
        let known = self.names.get(name).copied();
        known.or_else(|| name.parse().ok()).into_iter().collect()
    }

    fn read_key(&self, path: &str) -> Result<Vec<u8>, String> {
        let crypto = self.running.totem.crypto.as_ref();
        let key = crypto.map(|crypto| crypto.key.clone());
        key.ok_or_else(|| format!("{path} was not read when the daemon started"))
    }
}

#[cfg(test)]
#[path = "reload_tests.rs"]
mod tests;
