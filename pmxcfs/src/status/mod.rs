//! What the nodes tell each other about themselves: keys, addresses, RRD lines, the cluster log.
//!
//! [`Status`] is the content of the second group. It is plain data: the caller passes the time in,
//! sends what comes out, and decides about threads and locks. Nothing here persists.
//!
//! The state machine of the group drives it as an [`App`](crate::dfsm::App): [`Status::confchg`]
//! at every membership change, [`Status::build_state`] when a round opens, [`Status::evaluate`]
//! when all members have answered, [`Status::announce`] when the mode becomes synced,
//! [`Status::deliver`] for each normal message. No content that a member sends makes another one
//! leave this group.
//!
//! Invariant: what is sent for others was stored here first, and nothing that was refused is sent.

mod app;
pub mod clusterlog;
pub mod json;
pub mod kvstore;
mod render;

use bytes::Bytes;

use self::{
    clusterlog::ClusterLog,
    kvstore::{ADDRESS_KEY, KvStore, Owner, Stored},
};
pub use self::{
    clusterlog::{DUMP_ENTRIES, LogRequest},
    kvstore::SetError,
    render::VersionCounters,
};
use crate::wire::{
    DecodeError, MemberId,
    clusterlog::{self as wire_log, LogEntry},
    kv::{self, KvUpdate},
};

/// A message for the group: number and payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Message number.
    pub subtype: u16,
    /// Payload.
    pub payload: Bytes,
}

/// A configured node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// Node id, not 0.
    pub id: u32,
    /// Name, not empty.
    pub name: String,
    /// Votes, if the configuration says.
    pub votes: Option<u32>,
}

/// The cluster as configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Name of the cluster.
    pub name: String,
    /// Version of the configuration, its low 32 bits.
    pub version: u32,
    /// Its nodes.
    pub nodes: Vec<NodeInfo>,
}

/// Why a message had no effect. For logs and counters: the group goes on in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Discard {
    /// Sent by this process, which has stored it already.
    #[error("own message")]
    Own,
    /// The sender is not in the configured node list.
    #[error("node {0} is not in the cluster configuration")]
    UnknownNode(u32),
    /// Not readable.
    #[error("{0}")]
    Undecodable(#[from] DecodeError),
    /// The value breaks a rule of its key.
    #[error("{0}")]
    Refused(#[from] SetError),
    /// A log entry that is not newer than the last one of its node.
    #[error("log entry was seen before")]
    OldLogEntry,
}

/// State of the status group on this node.
#[derive(Debug)]
pub struct Status {
    own: MemberId,
    node_name: String,
    start_time: u32,
    cluster: Option<ClusterConfig>,
    /// Current members of the group, or what is left of them without corosync.
    members: Vec<MemberId>,
    /// Changes of what `.members` shows.
    clinfo: u32,
    /// Value of `nodeip` to announce.
    own_address: Option<Bytes>,
    kv: KvStore,
    log: ClusterLog,
}

impl Status {
    /// Status of a process that starts at `now`, in seconds since 1970; it logs that.
    ///
    /// `address` is announced to other nodes until a client sets another one.
    #[must_use]
    pub fn new(now: u32, own: MemberId, node_name: &str, address: Option<&str>) -> Self {
        let mut log = ClusterLog::new(node_name);
        let text = b"starting cluster log";
        let pid = own.pid;
        log.log(
            now,
            &LogRequest {
                pid,
                priority: 6,
                ident: b"root",
                tag: b"cluster",
                text,
            },
        );
        Self {
            own,
            node_name: node_name.to_owned(),
            start_time: now,
            cluster: None,
            members: Vec::new(),
            clinfo: 0,
            own_address: address.map(|address| format!("{address}\0").into()),
            kv: KvStore::default(),
            log,
        }
    }

    /// Name of this node.
    #[must_use]
    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    /// Seconds since 1970 when the process started.
    #[must_use]
    pub fn start_time(&self) -> u32 {
        self.start_time
    }

    /// Counter of changes of the cluster's configuration, membership and addresses.
    #[must_use]
    pub fn clinfo(&self) -> u32 {
        self.clinfo
    }

    /// The configured cluster; none in local mode or before corosync was reached.
    #[must_use]
    pub fn cluster(&self) -> Option<&ClusterConfig> {
        self.cluster.as_ref()
    }

    /// Whether a node has a process in the group.
    #[must_use]
    pub fn is_online(&self, node_id: u32) -> bool {
        self.members.iter().any(|member| member.node == node_id)
    }

    /// Sets the node id, which is known only once corosync is reached.
    pub fn set_node_id(&mut self, node_id: u32) {
        self.own.node = node_id;
    }

    /// Takes over the configured cluster. Entries without an id or a name are left out; the keys
    /// of nodes that are no longer listed are dropped.
    pub fn set_cluster(&mut self, mut config: ClusterConfig) {
        config
            .nodes
            .retain(|node| node.id != 0 && !node.name.is_empty());
        self.kv
            .retain_peers(|id| config.nodes.iter().any(|node| node.id == id));
        self.cluster = Some(config);
        self.bump_clinfo();
    }

    /// Takes note of the members of the group.
    pub fn confchg(&mut self, members: &[MemberId]) {
        self.members = members.to_vec();
        self.kv.note_members(members);
        if self.cluster.is_some() {
            self.bump_clinfo();
        }
    }

    /// Corosync is gone: nobody but this node is known to be online.
    pub fn disconnected(&mut self) {
        let alone: Vec<MemberId> = self
            .members
            .iter()
            .copied()
            .filter(|member| *member == self.own)
            .collect();
        if alone != self.members {
            self.members = alone;
            self.bump_clinfo();
        }
    }

    /// The state to send when a round opens.
    pub fn build_state(&mut self) -> Bytes {
        self.log.state()
    }

    /// Merges the states of all members, in member order with the own one at index `own`; returns
    /// what is to be sent right afterwards: the own keys.
    pub fn evaluate(&mut self, states: &[Bytes], own: usize) -> Vec<Outgoing> {
        self.log.merge(states, own);
        let rows = self.kv.own().rows();
        rows.map(|(key, row)| key_message(key, row.value.clone()))
            .collect()
    }

    /// The mode has become synced: returns the announcement of the own address.
    pub fn announce(&mut self, now: u32) -> Option<Outgoing> {
        let address = self.own_address.clone()?;
        // It was checked when it was set; one that came from the resolver is short.
        self.store_own(now, ADDRESS_KEY, &address).ok()?;
        Some(key_message(ADDRESS_KEY, address))
    }

    /// Applies a normal message of the group.
    ///
    /// # Errors
    ///
    /// Why the message was ignored. There is nothing to be done about it.
    pub fn deliver(
        &mut self,
        now: u32,
        from: MemberId,
        subtype: u16,
        payload: Bytes,
    ) -> Result<(), Discard> {
        if from == self.own {
            return Err(Discard::Own);
        }
        match subtype {
            kv::SUBTYPE => self.deliver_key(now, from.node, &KvUpdate::decode(payload)?),
            wire_log::SUBTYPE => {
                let entry = LogEntry::decode(payload)?;
                if self.log.insert(&entry) {
                    Ok(())
                } else {
                    Err(Discard::OldLogEntry)
                }
            }
            other => Err(DecodeError::UnknownSubtype(other).into()),
        }
    }

    fn deliver_key(&mut self, now: u32, node_id: u32, update: &KvUpdate) -> Result<(), Discard> {
        let nodes = self.cluster.iter().flat_map(|cluster| &cluster.nodes);
        let Some(node) = nodes.into_iter().find(|node| node.id == node_id) else {
            return Err(Discard::UnknownNode(node_id));
        };
        let owner = Owner::Peer {
            node_id,
            name: &node.name,
        };
        let stored = self.kv.set(now, owner, &update.key, &update.value)?;
        self.note(stored);
        Ok(())
    }

    /// Sets a key of this node; returns the message for the others. A key counts up to its first
    /// NUL and is cut to 255 bytes; an empty value removes it.
    ///
    /// # Errors
    ///
    /// If the value breaks a rule of its key. Nothing is stored or sent then.
    pub fn set(&mut self, now: u32, key: &[u8], value: Bytes) -> Result<Outgoing, SetError> {
        let key = crate::wire::slice_until_nul(key);
        let key = key.get(..kv::KEY_FIELD_LEN - 1).unwrap_or(key);
        self.store_own(now, key, &value)?;
        if key == ADDRESS_KEY {
            self.own_address = Some(value.clone());
        }
        Ok(key_message(key, value))
    }

    fn store_own(&mut self, now: u32, key: &[u8], value: &[u8]) -> Result<(), SetError> {
        let stored = self.kv.set(
            now,
            Owner::Own {
                name: &self.node_name,
            },
            key,
            value,
        )?;
        self.note(stored);
        Ok(())
    }

    /// The value of a key; `node` is this node if it is empty or its name.
    #[must_use]
    pub fn value(&self, node: &str, key: &[u8]) -> Option<Bytes> {
        let table = if node.is_empty() || node == self.node_name {
            self.kv.own()
        } else {
            let nodes = &self.cluster.as_ref()?.nodes;
            self.kv
                .peer(nodes.iter().find(|info| info.name == node)?.id)?
        };
        table.row(key).map(|row| row.value.clone())
    }

    /// Logs for a local process; returns the message for the others, if there is one.
    pub fn log(&mut self, now: u32, request: &LogRequest<'_>) -> Option<Outgoing> {
        let entry = self.log.log(now, request)?;
        Some(Outgoing {
            subtype: wire_log::SUBTYPE,
            payload: entry.encode(),
        })
    }

    /// The newest log entries as JSON; `max` 0 means [`DUMP_ENTRIES`]. If a user is given, only
    /// his entries.
    #[must_use]
    pub fn log_text(&self, max: usize, user: Option<&[u8]>) -> String {
        self.log
            .dump(if max == 0 { DUMP_ENTRIES } else { max }, user)
    }

    /// The text of `.rrd`. Lines that were not renewed for a while are dropped.
    pub fn rrd_text(&mut self, now: u32) -> Vec<u8> {
        self.kv.dump_rrd(now)
    }

    fn note(&mut self, stored: Stored) {
        if stored == Stored::NewAddress {
            self.bump_clinfo();
        }
    }

    fn bump_clinfo(&mut self) {
        self.clinfo = self.clinfo.wrapping_add(1);
    }
}

fn key_message(key: &[u8], value: Bytes) -> Outgoing {
    let update = KvUpdate {
        key: Bytes::copy_from_slice(key),
        value,
    };
    Outgoing {
        subtype: kv::SUBTYPE,
        payload: update.encode(),
    }
}

#[cfg(test)]
mod tests;
