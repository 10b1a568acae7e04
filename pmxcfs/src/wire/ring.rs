//! The ring of log entries: memory of the cluster log and state blob of the status group.
//!
//! Layout: size of the whole ring, offset of the newest entry (0: none), then the entries from
//! offset 8, each at a multiple of 8, linked by the offsets of the one before and of the place
//! behind. The newest entry destroys what lies within [`ENTRY_LEN_MAX`] bytes behind it.
//!
//! Only the layout is known here; order, duplicates and merging belong to the cluster log.
//! Invariant: a walk ends and stays inside the blob, whatever the blob holds.

use bytes::Bytes;

use super::{
    DecodeError,
    clusterlog::{ENTRY_LEN_MAX, LogEntry},
    length_field, size_of_field,
};

/// Bytes of the ring of every member.
pub const RING_LEN: usize = 131_072;

/// Offset of the first entry.
pub const RING_HEADER_LEN: usize = 8;

/// A ring that entries are appended to.
#[derive(Debug, Clone)]
pub struct Ring {
    bytes: Vec<u8>,
    newest: usize,
    /// Offset behind the newest entry.
    next: usize,
}

impl Default for Ring {
    fn default() -> Self {
        Self::new()
    }
}

impl Ring {
    /// An empty ring of [`RING_LEN`] bytes.
    #[must_use]
    pub fn new() -> Self {
        let mut ring = Self {
            bytes: vec![0; RING_LEN],
            newest: 0,
            next: RING_HEADER_LEN,
        };
        ring.put_u32(0, RING_LEN);
        ring
    }

    /// Appends an entry as the newest; old ones go when the ring is full.
    pub fn append(&mut self, entry: &LogEntry) {
        let size = entry.ring_size();
        let wraps = self.next + size >= self.bytes.len();
        let position = if wraps { RING_HEADER_LEN } else { self.next };
        self.put_u32(position, self.newest);
        self.put_u32(position + 4, position + size);
        self.put(position + 8, entry.body());
        self.put_u32(4, position);
        self.newest = position;
        self.next = position + size;
    }

    /// The entries, newest first.
    #[must_use]
    pub fn walk(&self) -> Walk<'_> {
        Walk::new(&self.bytes, self.newest)
    }

    /// The blob.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        Bytes::copy_from_slice(&self.bytes)
    }

    fn put_u32(&mut self, at: usize, value: usize) {
        self.put(at, &length_field(value).to_le_bytes());
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        let place = self.bytes.get_mut(at..at + bytes.len());
        place
            .expect("entries end before the ring does")
            .copy_from_slice(bytes);
    }
}

/// Walks the blob of a member, newest entry first, up to the first fault.
///
/// # Errors
///
/// If the size in the blob is not its length. The member then counts as having no log.
pub fn walk_blob(blob: &[u8]) -> Result<Walk<'_>, DecodeError> {
    let too_short = DecodeError::TooShort {
        need: RING_HEADER_LEN + 1,
        have: blob.len(),
    };
    if blob.len() <= RING_HEADER_LEN {
        return Err(too_short);
    }
    let size = u32_at(blob, 0).ok_or(too_short)?;
    let newest = u32_at(blob, 4).ok_or(too_short)?;
    if size_of_field(size) != blob.len() {
        return Err(DecodeError::Malformed("ring of the log has a wrong size"));
    }
    Ok(Walk::new(blob, size_of_field(newest)))
}

/// Iterator over the entries of a ring, newest first.
#[derive(Debug, Clone)]
pub struct Walk<'a> {
    bytes: &'a [u8],
    newest: usize,
    /// Offset of the entry to visit; 0 at the end.
    at: usize,
    /// Whether the walk has passed the start of the ring and goes on from its end.
    wrapped: bool,
}

impl<'a> Walk<'a> {
    fn new(bytes: &'a [u8], newest: usize) -> Self {
        Self {
            bytes,
            newest,
            at: newest,
            wrapped: false,
        }
    }

    fn read(&self) -> Option<LogEntry> {
        let at = self.at;
        let destroyed = at > self.newest && at - self.newest <= ENTRY_LEN_MAX;
        if at < RING_HEADER_LEN || destroyed {
            return None;
        }
        let rest = self.bytes.get(at..)?;
        let rest = rest.get(..ENTRY_LEN_MAX).unwrap_or(rest);
        let size = LogEntry::parse_size(rest)?;
        let entry = LogEntry::parse(Bytes::copy_from_slice(rest.get(..size)?)).ok()?;
        (size_of_field(entry.next()) == at + entry.ring_size()).then_some(entry)
    }

    /// Where to go from `at` to `prev`. Offsets go down, but once they may jump from the start
    /// of the ring to the part behind the newest entry; anything else would not end.
    fn step(&mut self, prev: usize) {
        let jumps = prev > self.at;
        let loops = prev == self.at || (jumps && self.wrapped);
        self.wrapped |= jumps;
        let overwritten = self.wrapped && prev <= self.newest;
        self.at = if loops || overwritten { 0 } else { prev };
    }
}

impl Iterator for Walk<'_> {
    type Item = LogEntry;

    fn next(&mut self) -> Option<LogEntry> {
        let Some(entry) = self.read() else {
            self.at = 0;
            return None;
        };
        self.step(size_of_field(entry.prev()));
        Some(entry)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    field.try_into().ok().map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{clusterlog::LogDraft, vectors};

    fn entry(uid: u32, text_len: usize) -> LogEntry {
        let text = vec![b'x'; text_len];
        LogEntry::new(&LogDraft {
            uid,
            time: 7,
            pid: 8,
            priority: 6,
            node: b"n1",
            ident: b"root",
            tag: b"t",
            text: &text,
        })
    }

    fn uids(walk: Walk<'_>) -> Vec<u32> {
        walk.map(|entry| entry.uid()).collect()
    }

    #[test]
    fn captured_rings_have_the_known_entries() {
        for (name, count, oldest, newest) in [
            ("clog-state-n1.bin", 7, 1_795_298_767, 1_795_298_798),
            ("clog-state-n3.bin", 1, 1_795_298_813, 1_795_298_813),
            ("clog-merged.bin", 8, 1_795_298_767, 1_795_298_813),
            ("clog-full-n1.bin", 662, 1_795_299_284, 1_795_299_285),
            ("clog-full-merged.bin", 662, 1_795_299_284, 1_795_299_285),
        ] {
            let blob = vectors::bin(name);
            let entries: Vec<LogEntry> = walk_blob(&blob).unwrap().collect();
            assert_eq!(entries.len(), count, "{name}");
            assert_eq!(entries.first().unwrap().time(), newest, "{name}");
            assert_eq!(entries.last().unwrap().time(), oldest, "{name}");
        }
    }

    #[test]
    fn captured_rings_are_rebuilt_by_appending() {
        for name in vectors::names(".bin")
            .iter()
            .filter(|name| name.starts_with("clog-"))
        {
            let blob = vectors::bin(name);
            let mut entries: Vec<LogEntry> = walk_blob(&blob).unwrap().collect();
            entries.reverse();
            let mut ring = Ring::new();
            entries.iter().for_each(|entry| ring.append(entry));
            assert!(ring.encode() == blob, "{name}");
        }
    }

    #[test]
    fn full_ring_keeps_the_newest_entries() {
        let mut ring = Ring::new();
        assert_eq!(ring.walk().count(), 0);
        for uid in 1..=5000 {
            ring.append(&entry(uid, usize::try_from(uid % 900).unwrap()));
            let seen = uids(ring.walk());
            let expected: Vec<u32> = (1..=uid).rev().take(seen.len()).collect();
            assert_eq!(seen, expected);
            assert!(uid < 100 || seen.len() >= 100);
        }
        assert_eq!(uids(walk_blob(&ring.encode()).unwrap()), uids(ring.walk()));
    }

    #[test]
    fn ring_of_wrong_size_is_refused() {
        let blob = Ring::new().encode();
        assert!(walk_blob(&blob[..RING_LEN - 1]).is_err());
        assert!(walk_blob(&[]).is_err());
        assert!(walk_blob(&[8, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert!(
            walk_blob(&[9, 0, 0, 0, 8, 0, 0, 0, 0])
                .unwrap()
                .next()
                .is_none()
        );
    }

    #[test]
    fn walk_ends_in_a_loop_of_links() {
        let mut ring = Ring::new();
        (1..=4).for_each(|uid| ring.append(&entry(uid, 10)));
        let size = entry(1, 10).ring_size();
        for prev in [
            8,
            8 + size,
            8 + 2 * size,
            8 + 3 * size,
            RING_LEN,
            usize::try_from(u32::MAX).unwrap(),
        ] {
            let mut bad = ring.clone();
            // The oldest entry claims to have a predecessor.
            bad.put_u32(8, prev);
            assert_eq!(uids(bad.walk()), [4, 3, 2, 1], "{prev}");
        }
    }

    proptest! {
        #[test]
        fn damaged_rings_are_walked_safely(
            damage in prop::collection::vec((0_usize..2000, any::<u8>()), 0..30),
            links in prop::collection::vec((0_usize..20, 0_usize..20), 0..10),
        ) {
            let mut ring = Ring::new();
            (1..=20).for_each(|uid| ring.append(&entry(uid, 10)));
            let size = entry(1, 10).ring_size();
            for (from, to) in links {
                ring.put_u32(8 + from * size, 8 + to * size);
            }
            let mut blob = ring.encode().to_vec();
            for (at, byte) in damage {
                blob[at] = byte;
            }
            if let Ok(walk) = walk_blob(&blob) {
                prop_assert!(walk.count() <= RING_LEN / 56);
            }
        }
    }
}
