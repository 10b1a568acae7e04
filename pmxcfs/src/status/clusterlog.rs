//! The cluster log: a ring of entries of all nodes, merged whenever members meet.
//!
//! Entries of other nodes append in order of arrival, so the order differs between nodes until the
//! next merge, which yields the same ring on all members. The size of the ring bounds the memory.
//!
//! Invariant: of each node's entries only those newer than the newest seen are appended, newer by
//! time and then running number. Own entries always are newer, also after the clock was set back.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write},
};

use bytes::Bytes;

use super::json;
use crate::wire::{
    clusterlog::{ENTRY_LEN_MAX, LogDraft, LogEntry, digest},
    ring::{RING_HEADER_LEN, RING_LEN, Ring, walk_blob},
};

/// Entries in a dump unless the reader asks for another number.
pub const DUMP_ENTRIES: usize = 50;

/// Highest syslog level.
const PRIORITY_MAX: u8 = 7;

/// A merge takes no further entry once it has this many bytes.
const MERGE_LEN: usize = RING_LEN - RING_HEADER_LEN - ENTRY_LEN_MAX;

/// What a local process wants to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRequest<'a> {
    /// The process.
    pub pid: u32,
    /// Syslog level; above 7 nothing is logged.
    pub priority: u8,
    /// User.
    pub ident: &'a [u8],
    /// Program.
    pub tag: &'a [u8],
    /// Text.
    pub text: &'a [u8],
}

/// The log as this node has it.
#[derive(Debug)]
pub struct ClusterLog {
    node: Vec<u8>,
    ring: Ring,
    /// Newest entry seen, by node digest.
    newest: BTreeMap<u64, Stamp>,
    last_uid: u32,
}

impl ClusterLog {
    /// An empty log on the node with this name.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self {
            node: node.into(),
            ring: Ring::new(),
            newest: BTreeMap::new(),
            last_uid: 0,
        }
    }

    /// Makes an entry at `now` (seconds) and appends it; returns it for the other members.
    pub fn log(&mut self, now: u32, request: &LogRequest<'_>) -> Option<LogEntry> {
        if request.priority > PRIORITY_MAX {
            return None;
        }
        let stamp = self.own_stamp(now);
        self.last_uid = stamp.uid;
        let entry = LogEntry::new(&LogDraft {
            uid: stamp.uid,
            time: stamp.time,
            pid: request.pid,
            priority: request.priority,
            node: &self.node,
            ident: request.ident,
            tag: request.tag,
            text: request.text,
        });
        self.insert(&entry);
        Some(entry)
    }

    /// The stamp of the next own entry. Members drop what is not newer than what they have seen
    /// of a node, so after a step back of the clock the time stands still instead.
    fn own_stamp(&self, now: u32) -> Stamp {
        let uid = self.last_uid.wrapping_add(1);
        let newest = self.newest.get(&digest(&self.node));
        match newest.filter(|newest| newest.time >= now) {
            None => Stamp { time: now, uid },
            Some(newest) => match newest.uid.checked_add(1) {
                Some(next) => Stamp {
                    time: newest.time,
                    uid: uid.max(next),
                },
                None => Stamp {
                    time: newest.time.saturating_add(1),
                    uid,
                },
            },
        }
    }

    /// Appends an entry unless it, or a newer one of its node, was seen before.
    pub fn insert(&mut self, entry: &LogEntry) -> bool {
        let is_new = note_newest(&mut self.newest, entry);
        if is_new {
            self.ring.append(entry);
        }
        is_new
    }

    /// Sorts the log and returns it as the blob for the other members.
    pub fn state(&mut self) -> Bytes {
        let mut sorted = SortedEntries::default();
        for entry in self.ring.walk() {
            sorted.add(entry);
        }
        self.ring = sorted.into_ring();
        self.ring.encode()
    }

    /// Replaces the log by the union of all members' logs, as far as it fits.
    ///
    /// `blobs` are in member order, the own one at index `own`; the live ring stands in for that.
    /// A blob that is no ring counts as empty; of a damaged one counts what is before the damage.
    pub fn merge(&mut self, blobs: &[Bytes], own: usize) {
        let mut walks: Vec<_> = blobs
            .iter()
            .enumerate()
            .filter_map(|(at, blob)| {
                if at == own {
                    Some(self.ring.walk())
                } else {
                    walk_blob(blob).ok()
                }
            })
            .map(Iterator::peekable)
            .collect();
        let mut merged = SortedEntries::default();
        let mut newest = BTreeMap::new();
        let mut total = 0;
        while total < MERGE_LEN {
            // The first of the newest heads; a time of 0 is never taken.
            let mut best = None;
            let mut best_time = 0;
            for walk in &mut walks {
                let time = walk.peek().map_or(0, LogEntry::time);
                if time > best_time {
                    best_time = time;
                    best = Some(walk);
                }
            }
            let Some(entry) = best.and_then(Iterator::next) else {
                break;
            };
            if merged.contains(&entry) {
                continue;
            }
            total += entry.ring_size();
            note_newest(&mut newest, &entry);
            merged.add(entry);
        }
        drop(walks);
        self.ring = merged.into_ring();
        self.newest = newest;
    }

    /// The newest `max` entries as JSON, newest first; only those of `user` if one is given.
    #[must_use]
    pub fn dump(&self, max: usize, user: Option<&[u8]>) -> String {
        json::text(|out| self.write_dump(out, max, user.map(digest)))
    }

    fn write_dump(&self, out: &mut String, max: usize, ident: Option<u64>) -> fmt::Result {
        out.push_str("{\n\"data\": [\n");
        let is_wanted = |entry: &LogEntry| ident.is_none_or(|ident| ident == entry.ident_digest());
        let mut separator = "";
        for entry in self.ring.walk().filter(is_wanted).take(max) {
            out.push_str(separator);
            separator = ",\n";
            write_entry(out, &entry)?;
        }
        out.push_str(if separator.is_empty() {
            "]\n}\n"
        } else {
            "\n]\n}\n"
        });
        Ok(())
    }
}

fn write_entry(out: &mut String, entry: &LogEntry) -> fmt::Result {
    write!(
        out,
        "{{\"uid\": {}, \"time\": {}, \"pri\": {}, \"tag\": \"{}\", \"pid\": {}, \
         \"node\": \"{}\", \"user\": \"{}\", \"msg\": \"{}\"}}",
        entry.uid(),
        entry.time(),
        entry.priority(),
        json::escape(entry.tag()),
        entry.pid(),
        json::escape(entry.node()),
        json::escape(entry.ident()),
        json::escape_log_text(entry.text()),
    )
}

/// Orders the entries of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Stamp {
    time: u32,
    uid: u32,
}

/// Notes the entry if it is the newest of its node, and says whether it is.
fn note_newest(newest: &mut BTreeMap<u64, Stamp>, entry: &LogEntry) -> bool {
    let stamp = Stamp {
        time: entry.time(),
        uid: entry.uid(),
    };
    let is_newer = newest
        .get(&entry.node_digest())
        .is_none_or(|seen| *seen < stamp);
    if is_newer {
        newest.insert(entry.node_digest(), stamp);
    }
    is_newer
}

/// Entries in the order that all members use, without duplicates.
#[derive(Default)]
struct SortedEntries {
    /// Mostly they come in this order, so insertion is cheap.
    newest_first: Vec<LogEntry>,
    keys: BTreeSet<[u32; 3]>,
}

impl SortedEntries {
    fn contains(&self, entry: &LogEntry) -> bool {
        self.keys.contains(&order_key(entry))
    }

    fn add(&mut self, entry: LogEntry) {
        if self.keys.insert(order_key(&entry)) {
            // Not `sort_by`: it may panic, as the order can be cyclic among three nodes.
            let search = self
                .newest_first
                .binary_search_by(|other| order(&entry, other));
            let (Ok(at) | Err(at)) = search;
            self.newest_first.insert(at, entry);
        }
    }

    fn into_ring(self) -> Ring {
        let mut ring = Ring::new();
        for entry in self.newest_first.iter().rev() {
            ring.append(entry);
        }
        ring
    }
}

/// Time, low half of the node digest, running number: all that the order looks at.
fn order_key(entry: &LogEntry) -> [u32; 3] {
    let [a, b, c, d, ..] = entry.node_digest().to_le_bytes();
    [entry.time(), u32::from_le_bytes([a, b, c, d]), entry.uid()]
}

/// The order of all members: each part by the sign of the 32-bit difference.
///
/// Not a total order, as the digests are spread over the whole range. It has to be the same on all
/// nodes, so it stays.
fn order(a: &LogEntry, b: &LogEntry) -> Ordering {
    std::iter::zip(order_key(a), order_key(b))
        .map(|(a, b)| a.wrapping_sub(b).cast_signed().cmp(&0))
        .find(|ordering| ordering.is_ne())
        .unwrap_or(Ordering::Equal)
}

#[cfg(test)]
#[path = "clusterlog_tests.rs"]
mod tests;
