//! Keys of all nodes, their addresses and their newest RRD lines.
//!
//! Each node owns its keys; members only keep copies. Values are copied on arrival, so that they do
//! not keep receive buffers alive.
//!
//! Limits: [`VALUE_LEN_MAX`] for a value, [`RRD_VALUE_LEN_MAX`] for an RRD line,
//! [`ADDRESS_LEN_MAX`] for an address, the last two with their NUL.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::wire::{MemberId, until_nul};

/// Most bytes of a value.
pub const VALUE_LEN_MAX: usize = 32_768;
/// Most bytes of an RRD line, its NUL included.
pub const RRD_VALUE_LEN_MAX: usize = 4095;
/// Most bytes of an address, its NUL included.
pub const ADDRESS_LEN_MAX: usize = 255;
/// Age in seconds above which an RRD line is dropped.
pub const RRD_AGE_MAX: u32 = 300;

/// The key under which a node announces its address.
pub(crate) const ADDRESS_KEY: &[u8] = b"nodeip";

/// Why a value was refused; it is then neither stored nor sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// Reported as `EFBIG`.
    #[error("status value of {len} bytes exceeds the limit of {VALUE_LEN_MAX}")]
    TooLarge {
        /// Bytes of the value.
        len: usize,
    },
    /// Reported as `ENOMEM`, as clients know it.
    #[error("node address must be a text of 1 to {ADDRESS_LEN_MAX} bytes that ends in NUL")]
    BadAddress,
    /// Reported as `ENOMEM`, as clients know it.
    #[error("RRD line must be a text of 1 to {RRD_VALUE_LEN_MAX} bytes that ends in NUL")]
    BadRrdLine,
}

/// What storing a value changed beyond the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// Nothing.
    Quietly,
    /// The address of the node is another one now.
    NewAddress,
}

/// Whose key is set.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Owner<'a> {
    /// This process.
    Own { name: &'a str },
    /// Another node.
    Peer { node_id: u32, name: &'a str },
}

/// All that the nodes have announced.
#[derive(Debug, Default)]
pub struct KvStore {
    own: KeyTable,
    peers: BTreeMap<u32, PeerTable>,
    /// By node name. Outlives the node, as the address does.
    addresses: BTreeMap<String, Bytes>,
    rrd: BTreeMap<Bytes, RrdLine>,
}

impl KvStore {
    /// Stores a value; which table it goes to depends on the key.
    pub(crate) fn set(
        &mut self,
        now: u32,
        owner: Owner<'_>,
        key: &[u8],
        value: &[u8],
    ) -> Result<Stored, SetError> {
        if value.len() > VALUE_LEN_MAX {
            return Err(SetError::TooLarge { len: value.len() });
        }
        if key == ADDRESS_KEY {
            let (Owner::Own { name } | Owner::Peer { name, .. }) = owner;
            return self.set_address(name, value);
        }
        if let Some(key) = key.strip_prefix(b"rrd/") {
            let data = text_value(value, RRD_VALUE_LEN_MAX).ok_or(SetError::BadRrdLine)?;
            self.rrd
                .insert(Bytes::copy_from_slice(key), RrdLine { time: now, data });
            return Ok(Stored::Quietly);
        }
        match owner {
            Owner::Own { .. } => self.own.set(key, value),
            Owner::Peer { node_id, .. } => {
                self.peers.entry(node_id).or_default().keys.set(key, value);
            }
        }
        Ok(Stored::Quietly)
    }

    fn set_address(&mut self, name: &str, value: &[u8]) -> Result<Stored, SetError> {
        let address = text_value(value, ADDRESS_LEN_MAX).ok_or(SetError::BadAddress)?;
        if self.addresses.get(name) == Some(&address) {
            return Ok(Stored::Quietly);
        }
        self.addresses.insert(name.to_owned(), address);
        Ok(Stored::NewAddress)
    }

    /// Last address announced for the node with this name.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<&Bytes> {
        self.addresses.get(name)
    }

    /// Keys of this process.
    #[must_use]
    pub fn own(&self) -> &KeyTable {
        &self.own
    }

    /// Keys of another node, if any were received.
    #[must_use]
    pub fn peer(&self, node_id: u32) -> Option<&KeyTable> {
        self.peers.get(&node_id).map(|peer| &peer.keys)
    }

    /// Takes note of the processes in the group. Keys of a process that was replaced by another one
    /// on its node are dropped: its successor announces its own.
    pub(crate) fn note_members(&mut self, members: &[MemberId]) {
        let mut pids: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for member in members {
            pids.entry(member.node).or_default().insert(member.pid);
        }
        for (node_id, pids) in pids {
            let peer = self.peers.entry(node_id).or_default();
            if !peer.pids.is_empty() && !pids.is_subset(&peer.pids) {
                peer.keys.retire();
            }
            peer.pids = pids;
        }
    }

    /// Drops the keys of all nodes but these.
    pub(crate) fn retain_peers(&mut self, keep: impl Fn(u32) -> bool) {
        self.peers.retain(|node_id, _| keep(*node_id));
    }

    /// Drops old RRD lines and returns the others, one `KEY:DATA` a line.
    pub fn dump_rrd(&mut self, now: u32) -> Vec<u8> {
        self.rrd
            .retain(|_, line| now.saturating_sub(line.time) <= RRD_AGE_MAX);
        let mut out = Vec::new();
        for (key, line) in &self.rrd {
            out.extend_from_slice(key);
            out.push(b':');
            out.extend_from_slice(&line.data);
            out.push(b'\n');
        }
        out
    }
}

/// Keys of one node, sorted by name.
#[derive(Debug, Default)]
pub struct KeyTable {
    rows: BTreeMap<Bytes, KeyRow>,
    /// Versions of keys whose process has gone. Readers compare versions only, so when the key
    /// comes back it must not start again at a version that they know.
    retired: BTreeMap<Bytes, u32>,
}

/// A value and how often it was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// 0 when first set, one more each time, also if the value is the same.
    pub version: u32,
    /// Opaque bytes.
    pub value: Bytes,
}

impl KeyTable {
    /// The row of a key.
    #[must_use]
    pub fn row(&self, key: &[u8]) -> Option<&KeyRow> {
        self.rows.get(key)
    }

    /// All keys in order.
    pub fn rows(&self) -> impl Iterator<Item = (&Bytes, &KeyRow)> {
        self.rows.iter()
    }

    fn set(&mut self, key: &[u8], value: &[u8]) {
        let retired = self.retired.remove(key);
        if value.is_empty() {
            self.rows.remove(key);
            return;
        }
        let value = Bytes::copy_from_slice(value);
        if let Some(row) = self.rows.get_mut(key) {
            *row = KeyRow {
                version: row.version.wrapping_add(1),
                value,
            };
        } else {
            let version = retired.map_or(0, |version| version.wrapping_add(1));
            self.rows
                .insert(Bytes::copy_from_slice(key), KeyRow { version, value });
        }
    }

    fn retire(&mut self) {
        let rows = std::mem::take(&mut self.rows);
        self.retired
            .extend(rows.into_iter().map(|(key, row)| (key, row.version)));
    }
}

#[derive(Debug, Default)]
struct PeerTable {
    keys: KeyTable,
    /// Processes of the node when it was last in the group.
    pids: BTreeSet<u32>,
}

#[derive(Debug)]
struct RrdLine {
    time: u32,
    data: Bytes,
}

/// A copy of a text that has at most `max` bytes and ends in NUL, up to its first NUL.
fn text_value(value: &[u8], max: usize) -> Option<Bytes> {
    let fits = value.len() <= max && value.last() == Some(&0);
    fits.then(|| until_nul(&Bytes::copy_from_slice(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Owner<'_> = Owner::Own { name: "n1" };
    const PEER: Owner<'_> = Owner::Peer {
        node_id: 2,
        name: "n2",
    };

    fn versions(table: &KeyTable) -> Vec<(&[u8], u32)> {
        table
            .rows()
            .map(|(key, row)| (&key[..], row.version))
            .collect()
    }

    #[test]
    fn versions_count_every_set() {
        let mut store = KvStore::default();
        for (key, value) in [
            ("a", "1"),
            ("b", "1"),
            ("a", "1"),
            ("a", "2"),
            ("b", ""),
            ("c", ""),
        ] {
            store.set(0, OWN, key.as_bytes(), value.as_bytes()).unwrap();
        }
        assert_eq!(versions(store.own()), [(&b"a"[..], 2)]);
        assert_eq!(store.own().row(b"a").unwrap().value, "2");
        store.set(0, OWN, b"b", b"again").unwrap();
        assert_eq!(store.own().row(b"b").unwrap().version, 0);
        assert!(store.peer(2).is_none());
    }

    #[test]
    fn values_are_limited() {
        let mut store = KvStore::default();
        let value = vec![b'k'; VALUE_LEN_MAX + 1];
        assert_eq!(store.set(0, OWN, b"k", &value[1..]), Ok(Stored::Quietly));
        assert_eq!(
            store.set(0, OWN, b"k", &value),
            Err(SetError::TooLarge { len: 32_769 })
        );
        assert_eq!(store.own().row(b"k").unwrap().version, 0);
    }

    #[test]
    fn addresses_are_checked_and_belong_to_names() {
        let mut store = KvStore::default();
        for bad in [&b""[..], b"10.0.0.1", &[0; 256]] {
            assert_eq!(
                store.set(0, PEER, b"nodeip", bad),
                Err(SetError::BadAddress)
            );
        }
        assert_eq!(
            store.set(0, PEER, b"nodeip", b"10.0.0.2\0"),
            Ok(Stored::NewAddress)
        );
        assert_eq!(
            store.set(0, PEER, b"nodeip", b"10.0.0.2\0"),
            Ok(Stored::Quietly)
        );
        assert_eq!(
            store.set(0, OWN, b"nodeip", b"10.0.0.2\0"),
            Ok(Stored::NewAddress)
        );
        assert_eq!(store.address("n2").unwrap(), "10.0.0.2");
        assert!(store.own().row(b"nodeip").is_none());
    }

    #[test]
    fn rrd_lines_end_at_their_first_nul_and_grow_old() {
        let mut store = KvStore::default();
        for bad in [&b""[..], b"1:2", &[0; 4096]] {
            assert_eq!(store.set(0, OWN, b"rrd/x", bad), Err(SetError::BadRrdLine));
        }
        store
            .set(100, OWN, b"rrd/pve-node-9.0/n1", b"100:12345:U:1\0")
            .unwrap();
        store
            .set(101, PEER, b"rrd/pve2-vm/100", b"1:2\0cut\0")
            .unwrap();
        let both: &[u8] = b"pve-node-9.0/n1:100:12345:U:1\npve2-vm/100:1:2\n";
        assert_eq!(store.dump_rrd(50), both);
        assert_eq!(store.dump_rrd(400), both);
        assert_eq!(store.dump_rrd(401), b"pve2-vm/100:1:2\n");
        assert_eq!(store.dump_rrd(402), b"");
        assert_eq!(store.dump_rrd(101), b"");
    }

    #[test]
    fn keys_of_a_replaced_process_go_and_versions_go_on() {
        let member = |node, pid| MemberId { node, pid };
        let mut store = KvStore::default();
        store.note_members(&[member(1, 7), member(2, 20)]);
        store.set(0, PEER, b"a", b"1").unwrap();
        store.set(0, PEER, b"a", b"2").unwrap();
        // Gone and back as the same process: a partition.
        store.note_members(&[member(1, 7)]);
        store.note_members(&[member(1, 7), member(2, 20)]);
        assert_eq!(versions(store.peer(2).unwrap()), [(&b"a"[..], 1)]);
        store.note_members(&[member(1, 7)]);
        store.note_members(&[member(1, 7), member(2, 21)]);
        assert_eq!(versions(store.peer(2).unwrap()), []);
        store.set(0, PEER, b"a", b"3").unwrap();
        assert_eq!(versions(store.peer(2).unwrap()), [(&b"a"[..], 2)]);
        store.retain_peers(|node_id| node_id != 2);
        assert!(store.peer(2).is_none());
    }
}
