//! What the transport is told by its user.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::seal::Suite;
use super::{LinkConfig, LinkMode};
use crate::wire::NodeId;

/// Links are numbered 0 to 7.
pub const MAX_LINKS: u8 = 8;

/// Addresses of a host by link number.
pub type Addresses = BTreeMap<u8, SocketAddr>;

/// Settings of the transport.
#[derive(Debug)]
pub struct Config {
    /// This node.
    pub local: NodeId,
    /// Which links carry data.
    pub link_mode: LinkMode,
    /// Settings of each link.
    pub links: BTreeMap<u8, LinkConfig>,
    /// The other nodes.
    pub hosts: BTreeMap<NodeId, Addresses>,
    /// Time between path-MTU runs.
    pub pmtud_interval: Duration,
    /// Size of IP packets, if it is not to be discovered.
    pub fixed_mtu: Option<u16>,
    /// Encryption and authentication.
    pub suite: Suite,
}

/// Settings that do not fit together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Node ids travel in 16 bits, and 0 is nobody.
    #[error("node id {0} is not between 1 and 65535, as the knet transport requires")]
    NodeId(NodeId),
    /// No such link can exist.
    #[error("link {0} is bigger than allowed maximum 7")]
    LinkNumber(u8),
    /// A host has an address on a link without settings.
    #[error("node {host} has an address on link {link}, which is not configured")]
    UnknownLink {
        /// The host.
        host: NodeId,
        /// The link.
        link: u8,
    },
    /// A link that would be pinged without pause, or never come up.
    #[error("link {0}: ping interval and ping timeout have to be longer than zero")]
    PingTimers(u8),
    /// The local node among the others.
    #[error("node {0} is this node and can not be its own peer")]
    Local(NodeId),
}

/// Whether a link can have these settings.
pub(super) fn check_link(number: u8, config: &LinkConfig) -> Result<(), ConfigError> {
    if number >= MAX_LINKS {
        return Err(ConfigError::LinkNumber(number));
    }
    if config.ping_interval.is_zero() || config.ping_timeout.is_zero() {
        return Err(ConfigError::PingTimers(number));
    }
    Ok(())
}

/// Node id as it travels.
pub(super) fn wire_id(node: NodeId) -> Result<u16, ConfigError> {
    match u16::try_from(node.0) {
        Ok(id) if id != 0 => Ok(id),
        _ => Err(ConfigError::NodeId(node)),
    }
}
