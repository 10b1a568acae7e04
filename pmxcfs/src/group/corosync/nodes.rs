//! The node list, read from the daemon's configuration map (cmap) and watched for changes.
//!
//! The crate reads by key with room for 16 bytes, and a longer string is refused. Its iterator
//! has no such limit: strings are looked up by iterating over the keys that start with theirs. An iterator is
//! always run to its end, because only then does the daemon forget it.

use std::os::fd::OwnedFd;

use rust_corosync::{CsError, DispatchFlags, cmap};

use super::fd::owned_copy;
use crate::group::{NodeInfo, NodeList};

/// Nodes beyond this position are not looked for; Corosync carries far fewer.
const NODES_MAX: u32 = 4096;

/// A connection to the map, with trackers on what the node list is made of.
pub(super) struct NodeMap {
    handle: cmap::Handle,
    pub(super) fd: OwnedFd,
}

impl NodeMap {
    /// Opens the map and starts tracking.
    pub(super) fn open() -> Result<Self, CsError> {
        let handle = cmap::initialize(cmap::Map::Icmap)?;
        let fd = owned_copy(cmap::fd_get(&handle)?).map_err(|_| CsError::CsErrNoResources)?;
        // That something changed is told by the descriptor; what it is, by reading again.
        let quiet = cmap::NotifyCallback { notify_fn: None };
        let changes = || cmap::TrackType::DELETE | cmap::TrackType::MODIFY | cmap::TrackType::ADD;
        let below = changes() | cmap::TrackType::PREFIX;
        cmap::track_add(&handle, "nodelist.node.", below, &quiet, 0)?;
        for key in ["totem.config_version", "totem.cluster_name"] {
            cmap::track_add(&handle, key, changes(), &quiet, 0)?;
        }
        Ok(Self { handle, fd })
    }

    /// Takes all notifications that wait.
    pub(super) fn dispatch(&self) -> Result<(), CsError> {
        cmap::dispatch(&self.handle, DispatchFlags::All)
    }

    /// Reads the whole list. The daemon changes the map in one step, so it is never half new.
    pub(super) fn read(&self) -> Result<NodeList, CsError> {
        let mut nodes = Vec::new();
        for position in 0..NODES_MAX {
            let key = |name: &str| format!("nodelist.node.{position}.{name}");
            let id = self.number(&key("nodeid"))?;
            let ring0_addr = self.string(&key("ring0_addr"))?;
            if id.is_none() && ring0_addr.is_none() {
                break;
            }
            let name = self.string(&key("name"))?.or_else(|| ring0_addr.clone());
            let id = id
                .and_then(|id| u32::try_from(id).ok())
                .filter(|id| *id != 0);
            let (Some(id), Some(name)) = (id, name) else {
                continue;
            };
            let votes = self
                .number(&key("quorum_votes"))?
                .and_then(|v| u32::try_from(v).ok());
            nodes.push(NodeInfo {
                id,
                name,
                votes: votes.unwrap_or(1),
                ring0_addr,
            });
        }
        let cluster_name = self.string("totem.cluster_name")?.unwrap_or_default();
        // Last: a number's lookup tells a lost connection, an iteration only ends early.
        let config_version = self.number("totem.config_version")?.unwrap_or(0);
        Ok(NodeList {
            cluster_name,
            config_version,
            nodes,
        })
    }

    fn number(&self, key: &str) -> Result<Option<u64>, CsError> {
        match cmap::get(&self.handle, key) {
            Ok(data) => Ok(number(&data)),
            // A long string where a number belongs counts as absent.
            Err(CsError::CsErrNotExist | CsError::CsErrInvalidParam) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn string(&self, key: &str) -> Result<Option<String>, CsError> {
        let mut found = None;
        for entry in cmap::CmapIterStart::new(&self.handle, key)? {
            if let (true, cmap::Data::String(text)) = (entry.key_name() == key, entry.data()) {
                found = Some(text.clone()).filter(|text| !text.is_empty());
            }
        }
        Ok(found)
    }
}

fn number(data: &cmap::Data) -> Option<u64> {
    match data {
        cmap::Data::UInt8(v) => Some(u64::from(*v)),
        cmap::Data::UInt16(v) => Some(u64::from(*v)),
        cmap::Data::UInt32(v) => Some(u64::from(*v)),
        cmap::Data::UInt64(v) => Some(*v),
        cmap::Data::Int8(v) => u64::try_from(*v).ok(),
        cmap::Data::Int16(v) => u64::try_from(*v).ok(),
        cmap::Data::Int32(v) => u64::try_from(*v).ok(),
        cmap::Data::Int64(v) => u64::try_from(*v).ok(),
        cmap::Data::String(text) => text.trim().parse().ok(),
        cmap::Data::Float(_)
        | cmap::Data::Double(_)
        | cmap::Data::Binary(_)
        | cmap::Data::Unknown => None,
    }
}
