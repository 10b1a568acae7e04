//! What a configuration means, with every default filled in.
//!
//! A [`Config`] has passed all checks: there is nothing left to validate behind it. Times are in
//! milliseconds where the name does not say otherwise, as the configuration map publishes them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use super::host::IpVersion;
use super::keys::Keys;

/// Links are numbered 0 to 7.
pub(super) const LINK_MAX: u8 = 7;

/// A configuration that a daemon can run with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Section `totem`.
    pub totem: Totem,
    /// Links in use, by number.
    pub links: BTreeMap<u8, Link>,
    /// Nodes in the order of the file. Empty only for `udp` without a list.
    pub nodes: Vec<Node>,
    /// Position of this node in the list.
    pub local: Option<usize>,
    /// Section `quorum`.
    pub quorum: Quorum,
    /// What was read but has no effect, or a doubtful one.
    pub warnings: Vec<Warning>,
    /// All keys as the configuration map shows them.
    pub keys: Keys,
}

/// Something worth a line in the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {text}")]
pub struct Warning {
    /// The key that it is about.
    pub key: String,
    /// What to know about it.
    pub text: Cow<'static, str>,
}

impl Warning {
    pub(super) fn new(key: &str, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            key: key.to_owned(),
            text: text.into(),
        }
    }
}

/// How datagrams travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Links with encryption and fail-over.
    #[default]
    Knet,
    /// Unicast without encryption.
    Udpu,
    /// Multicast without encryption.
    Udp,
}

/// Which links carry traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkMode {
    /// The best one.
    #[default]
    Passive,
    /// All of them.
    Active,
    /// One after the other.
    RoundRobin,
}

/// Cipher of datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "their own names")]
pub enum Cipher {
    None,
    Aes128,
    Aes192,
    Aes256,
}

/// Hash that authenticates datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "their own names")]
pub enum Hash {
    Md5,
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

/// How datagrams are sealed.
#[derive(Clone, PartialEq, Eq)]
pub struct Crypto {
    /// `None`: authenticated, but readable by everybody.
    pub cipher: Cipher,
    /// Never absent: a cipher without it is refused.
    pub hash: Hash,
    /// 128 to 4096 bytes.
    pub key: Vec<u8>,
}

impl fmt::Debug for Crypto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key never reaches a log.
        let mut shown = f.debug_struct("Crypto");
        shown
            .field("cipher", &self.cipher)
            .field("hash", &self.hash)
            .finish_non_exhaustive()
    }
}

/// Section `totem` but its interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totem {
    /// Grows with each change of the file; 0 when absent.
    pub config_version: u64,
    /// Name of the cluster.
    pub cluster_name: Option<String>,
    /// How datagrams travel.
    pub transport: Transport,
    /// Which addresses names stand for.
    pub ip_version: IpVersion,
    /// Which links carry traffic.
    pub link_mode: LinkMode,
    /// `None`: open datagrams.
    pub crypto: Option<Crypto>,
    /// Timers and counters of the ring.
    pub timers: Timers,
    /// Largest datagram of the ring before the transport adds to it.
    pub netmtu: u32,
    /// Size of IP packets; 0: discover it.
    pub knet_mtu: u32,
    /// Seconds between two searches for the MTU.
    pub knet_pmtud_interval_s: u32,
    /// Compression, if any; its threshold in bytes and its level.
    pub compression: Option<(String, u32, i32)>,
    /// The two switches.
    pub switches: Switches,
}

/// Settings that are on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switches {
    /// Datagrams from addresses that are not in the list are dropped.
    pub block_unlisted_ips: bool,
    /// A retransmission ends the holding of the token.
    pub cancel_token_hold_on_retransmit: bool,
}

/// Timers (ms) and counters of the ring, as they are in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the keys below runtime.config.totem")]
pub struct Timers {
    pub token: u32,
    pub token_warning: u32,
    pub token_retransmit: u32,
    pub hold: u32,
    pub token_retransmits_before_loss_const: u32,
    pub join: u32,
    pub send_join: u32,
    pub consensus: u32,
    pub merge: u32,
    pub downcheck: u32,
    pub fail_recv_const: u32,
    pub seqno_unchanged_const: u32,
    pub heartbeat_failures_allowed: u32,
    pub max_network_delay: u32,
    pub window_size: u32,
    pub max_messages: u32,
    pub miss_count_const: u32,
}

/// One link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// UDP port.
    pub port: u16,
    /// Higher is better, in passive mode.
    pub priority: u8,
    /// Milliseconds between two pings.
    pub ping_interval: u32,
    /// Milliseconds without a pong until the link is down.
    pub ping_timeout: u32,
    /// Averaging window of the latency.
    pub ping_precision: u32,
    /// Pongs until the link is up.
    pub pong_count: u32,
    /// Where `udp` sends to all.
    pub multicast: Option<IpAddr>,
    /// Hops of multicast.
    pub ttl: u8,
    /// Network to bind to where there is no list of nodes.
    pub bind_network: Option<IpAddr>,
}

/// One node of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Number of the node, never 0.
    pub id: u32,
    /// Key `name`.
    pub name: Option<String>,
    /// Resolved addresses by link.
    pub addresses: BTreeMap<u8, IpAddr>,
    /// Votes of the node.
    pub votes: u32,
}

/// Section `quorum`, as it is written; what follows from it is decided by the quorum module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quorum {
    /// Key `provider`. None: no quorum, everything runs as quorate.
    pub provider: Option<String>,
    /// Total of possible votes.
    pub expected_votes: Option<u32>,
    /// Own votes where there is no list of nodes.
    pub votes: Option<u32>,
    /// One of two nodes is enough.
    pub two_node: bool,
    /// Absent: as `two_node`.
    pub wait_for_all: Option<bool>,
    /// Half of the votes can be enough.
    pub auto_tie_breaker: bool,
    /// Which half.
    pub tie_breaker: TieBreaker,
    /// Quorum shrinks while nodes are lost one by one.
    pub last_man_standing: bool,
    /// Milliseconds until it does.
    pub last_man_standing_window: u32,
    /// Quorum shrinks when nodes leave.
    pub allow_downscale: bool,
    /// Remembers the most votes ever seen.
    pub expected_votes_tracking: bool,
    /// The device that votes.
    pub device: Option<Device>,
}

/// Key `auto_tie_breaker_node`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TieBreaker {
    /// The half with the lowest node.
    #[default]
    Lowest,
    /// The half with the highest node.
    Highest,
    /// The half with the first of these that is there.
    List(Vec<u32>),
}

/// Section `quorum.device`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Never empty.
    pub model: String,
    /// Votes of the device.
    pub votes: Option<u32>,
    /// Milliseconds without a poll until the device is dead.
    pub timeout: u32,
    /// The same while nodes synchronise.
    pub sync_timeout: u32,
    /// A node that the device chose is quorate whatever the count.
    pub master_wins: bool,
}

impl Config {
    /// This node, where there is a list.
    pub fn local_node(&self) -> Option<&Node> {
        self.local.and_then(|index| self.nodes.get(index))
    }

    /// The key of something that Corosync has, and this daemon has not.
    pub fn unsupported(&self) -> Option<&'static str> {
        let compressed =
            self.totem.transport == Transport::Knet && self.totem.compression.is_some();
        compressed.then_some("totem.knet_compression_model")
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
