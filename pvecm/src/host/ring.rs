//! The messaging daemon of this node, as it runs.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rust_corosync::cmap::{self, Data, Map};
use rust_corosync::{CsError, NodeId, cfg, votequorum};

use crate::failure::{Failure, Outcome};

/// What a member is told that is put out of the ring.
const REASON: &str = "Killed by pvecm";

/// Whether it answers.
#[must_use]
pub fn is_running() -> bool {
    Connection::open().is_ok()
}

/// Puts a member out of the ring: its messaging daemon ends. Not being one is no failure.
///
/// # Errors
/// When the daemon of this node does not do it.
pub fn kill(id: u32) -> Outcome {
    let connection = Connection::open()?;
    match cfg::kill_node(&connection.cfg, NodeId::from(id), REASON) {
        Ok(()) | Err(CsError::CsErrNotExist) => Ok(()),
        Err(error) => Err(unable(&format!("put node {id} out of the ring"), error)),
    }
}

/// A number of the daemon's map.
///
/// # Errors
/// When the daemon does not answer.
pub fn number(key: &str) -> Outcome<Option<u64>> {
    Values::open()?.number(key)
}

/// Whether a node is in the ring of this one.
///
/// # Errors
/// When the daemon does not answer.
pub fn is_joined(id: u32) -> Outcome<bool> {
    let status = Values::open()?.text(&format!("runtime.members.{id}.status"))?;
    Ok(status.as_deref() == Some("joined"))
}

/// Makes the running ring count votes of a node, before its configuration says so.
///
/// # Errors
/// What the daemon says.
pub fn give_votes(id: u32, votes: u32) -> Outcome {
    let callbacks = votequorum::Callbacks {
        quorum_notification_fn: None,
        nodelist_notification_fn: None,
        expectedvotes_notification_fn: None,
    };
    let given = votequorum::initialize(&callbacks).and_then(|handle| {
        let given = votequorum::set_votes(&handle, NodeId::from(id), votes);
        votequorum::finalize(&handle).and(given)
    });
    given.map_err(|error| unable(&format!("count the votes of node {id}"), error))
}

/// The number of this node.
///
/// # Errors
/// When the daemon does not answer.
pub fn own_id() -> Outcome<u32> {
    let connection = Connection::open()?;
    let id = cfg::local_get(&connection.cfg);
    let id = id.map_err(|error| unable("read the number of this node", error))?;
    Ok(u32::from(id))
}

/// Those of `links` on which a node is not reached at its address.
///
/// # Errors
/// When the daemon does not answer.
pub fn links_down(id: u32, links: &BTreeMap<u8, String>) -> Outcome<Vec<u8>> {
    let status = links_to(id)?;
    // The list has no gaps where numbers of links have, so that a link is known by its address.
    let is_down = |address: &str| {
        let mut links = status.iter();
        !links.any(|link| link.enabled && link.connected && is_at(&link.dst_ipaddr, address))
    };
    let down = links.iter().filter(|(_, address)| is_down(address));
    Ok(down.map(|(link, _)| *link).collect())
}

/// Where this node is on `links` to another one, which is at these addresses; no more than is known.
///
/// # Errors
/// When the daemon does not answer.
pub fn own_addresses(id: u32, links: &BTreeMap<u8, String>) -> Outcome<BTreeMap<u8, IpAddr>> {
    let status = links_to(id)?;
    let own = |address: &String| {
        let mut links = status.iter();
        let found = links.find(|link| link.enabled && is_at(&link.dst_ipaddr, address))?;
        without_zone(&found.src_ipaddr).parse().ok()
    };
    let own = links
        .iter()
        .map(|(link, address)| Some((*link, own(address)?)));
    Ok(own.flatten().collect())
}

/// Whether the address that a daemon shows is this one. Corosync adds the interface to those of IPv6.
fn is_at(shown: &str, address: &str) -> bool {
    let ip = |text: &str| without_zone(text).parse::<IpAddr>().ok();
    shown == address || ip(shown).is_some_and(|shown| ip(address) == Some(shown))
}

fn without_zone(address: &str) -> &str {
    address
        .split_once('%')
        .map_or(address, |(address, _)| address)
}

fn links_to(id: u32) -> Outcome<Vec<cfg::LinkStatus>> {
    let connection = Connection::open()?;
    let status = cfg::node_status_get(
        &connection.cfg,
        NodeId::from(id),
        cfg::NodeStatusVersion::V1,
    );
    let status = status.map_err(|error| unable(&format!("see the links to node {id}"), error))?;
    Ok(status.link_status)
}

/// Version of the configuration that each node of `ids` has in force, where it is known.
///
/// # Errors
/// When the daemon of this node does not answer.
pub fn versions(ids: &[u32]) -> Outcome<BTreeMap<u32, u64>> {
    let values = Values::open()?;
    let mut versions = BTreeMap::new();
    for id in ids {
        let joined = values.text(&format!("runtime.members.{id}.status"))?;
        let version = values.number(&format!("runtime.members.{id}.config_version"))?;
        if let Some(version) = version.filter(|_| joined.as_deref() == Some("joined")) {
            versions.insert(*id, version);
        }
    }
    Ok(versions)
}

struct Connection {
    cfg: cfg::Handle,
}

impl Connection {
    fn open() -> Outcome<Self> {
        let callbacks = cfg::Callbacks {
            corosync_cfg_shutdown_callback_fn: None,
        };
        match cfg::initialize(&callbacks) {
            Ok(cfg) => Ok(Self { cfg }),
            Err(error) => Err(unable("connect", error)),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A connection that is broken need not be ended.
        cfg::finalize(&self.cfg).ok();
    }
}

struct Values {
    cmap: cmap::Handle,
}

impl Values {
    fn open() -> Outcome<Self> {
        let opened = cmap::initialize(Map::Icmap);
        let cmap = opened.map_err(|error| unable("connect", error))?;
        Ok(Self { cmap })
    }

    fn get(&self, key: &str) -> Outcome<Option<Data>> {
        match cmap::get(&self.cmap, key) {
            Ok(data) => Ok(Some(data)),
            Err(CsError::CsErrNotExist) => Ok(None),
            Err(error) => Err(unable(&format!("read '{key}'"), error)),
        }
    }

    fn number(&self, key: &str) -> Outcome<Option<u64>> {
        Ok(match self.get(key)? {
            Some(Data::UInt64(number)) => Some(number),
            Some(Data::UInt32(number)) => Some(number.into()),
            Some(Data::UInt16(number)) => Some(number.into()),
            Some(Data::UInt8(number)) => Some(number.into()),
            _ => None,
        })
    }

    fn text(&self, key: &str) -> Outcome<Option<String>> {
        Ok(match self.get(key)? {
            Some(Data::String(text)) => Some(text),
            _ => None,
        })
    }
}

impl Drop for Values {
    fn drop(&mut self) {
        cmap::finalize(&self.cmap).ok();
    }
}

fn unable(what: &str, error: CsError) -> Failure {
    Failure::failed(format!(
        "corosync on this node: unable to {what}: {error}; see 'systemctl status corosync'"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_the_same_with_their_interface_and_without() {
        assert!(is_at("10.0.0.1", "10.0.0.1"));
        assert!(is_at("fd00:77::2%2", "fd00:77::2"));
        assert!(is_at("fd00:77::2%eth0", "fd00:77:0::2"));
        assert!(!is_at("fd00:77::2%2", "fd00:77::3"));
        assert!(!is_at("10.0.0.1", "10.0.0.11"));
        assert!(!is_at("", "n1"));
    }
}
