//! The edits of one open file between two of its publications.
//!
//! A session is what turns many writes and truncations into one replicated operation. It holds
//! edits only, not the file: what another node changes meanwhile shows through where the session
//! did not write, unless the session truncated.
//!
//! Invariants: extents neither overlap nor touch; with a fixed length no extent ends behind it and
//! the tail is empty.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::memdb::Op;

/// Pending edits of one open file.
#[derive(Clone, Debug)]
pub struct Session {
    /// Bytes of the base that survive.
    keep: usize,
    /// Length that a truncation gave the file, grown by later writes.
    fixed: Option<usize>,
    /// Bytes written, by offset.
    extents: BTreeMap<usize, Vec<u8>>,
    /// Bytes appended behind whatever the base ends with.
    tail: Vec<u8>,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            keep: usize::MAX,
            fixed: None,
            extents: BTreeMap::new(),
            tail: Vec::new(),
        }
    }
}

impl Session {
    /// Whether nothing was edited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fixed.is_none() && self.extents.is_empty() && self.tail.is_empty()
    }

    /// Whether all it did was to empty the file, as the start of a rewrite does.
    #[must_use]
    pub fn is_emptied(&self) -> bool {
        self.fixed == Some(0)
    }

    /// Writes at an offset. `base` is the length of the file below this session.
    pub fn write(&mut self, base: usize, offset: usize, data: &[u8]) {
        self.place_tail(base);
        self.insert(offset, data);
    }

    /// Appends to the end, wherever that is when the session is published.
    pub fn append(&mut self, data: &[u8]) {
        match self.fixed {
            Some(end) => self.insert(end, data),
            None => self.tail.extend_from_slice(data),
        }
    }

    /// Cuts or grows the file to a length.
    pub fn truncate(&mut self, base: usize, len: usize) {
        self.place_tail(base);
        self.keep = self.keep.min(len);
        self.fixed = Some(len);
        self.extents.split_off(&len);
        if let Some(mut last) = self.extents.last_entry() {
            let start = *last.key();
            last.get_mut().truncate(len - start);
        }
    }

    /// Adds the edits of a session that came after this one.
    pub fn extend(&mut self, base: usize, later: Self) {
        if let Some(len) = later.fixed {
            let kept = later.keep.min(self.length(base));
            self.truncate(base, kept);
            self.truncate(base, len);
        }
        for (offset, data) in later.extents {
            self.write(base, offset, &data);
        }
        if !later.tail.is_empty() {
            self.append(&later.tail);
        }
    }

    /// Length of the file as this session leaves it.
    #[must_use]
    pub fn length(&self, base: usize) -> usize {
        self.body(base) + self.tail.len()
    }

    /// Turns the base into what this session makes of it.
    pub fn apply(&self, view: &mut Vec<u8>) {
        let body = self.body(view.len());
        view.truncate(self.keep);
        view.resize(body, 0);
        for (&offset, data) in &self.extents {
            view[offset..offset + data.len()].copy_from_slice(data);
        }
        view.extend_from_slice(&self.tail);
    }

    /// The one operation that publishes this session over `base`; `None` if it changes nothing.
    #[must_use]
    pub fn to_op(&self, path: Bytes, base: &[u8]) -> Option<Op> {
        let mut result = base[..base.len().min(self.keep)].to_vec();
        if self.keep < base.len() {
            // The length is fixed then, so that of the base does not matter to `apply`.
            debug_assert!(
                self.fixed.is_some(),
                "only truncation drops bytes of the base"
            );
        }
        self.apply(&mut result);
        if result == base {
            return None;
        }
        let (offset, data, truncate) = match self.small_edit(base.len()) {
            Some(edit) => edit,
            None => (0, Bytes::from(result), true),
        };
        Some(Op::Write {
            path,
            offset: u32::try_from(offset).unwrap_or(u32::MAX),
            data,
            truncate,
        })
    }

    /// The edit as one partial write or truncation, if it is one.
    fn small_edit(&self, base: usize) -> Option<(usize, Bytes, bool)> {
        match (self.fixed, self.extents.len()) {
            (Some(len), 0) if len == self.keep => Some((len, Bytes::new(), true)),
            (None, 0) => Some((base, Bytes::copy_from_slice(&self.tail), false)),
            (None, 1) if self.tail.is_empty() => {
                let (&offset, data) = self.extents.first_key_value()?;
                let whole = offset == 0 && data.len() >= base;
                Some((offset, Bytes::copy_from_slice(data), whole))
            }
            _ => None,
        }
    }

    /// Length without the tail.
    fn body(&self, base: usize) -> usize {
        let written = self.extents.last_key_value();
        let written = written.map_or(0, |(offset, data)| offset + data.len());
        self.fixed.unwrap_or(base.max(written))
    }

    /// Gives appended bytes the place that they have now, since what follows depends on it.
    fn place_tail(&mut self, base: usize) {
        if !self.tail.is_empty() {
            let tail = std::mem::take(&mut self.tail);
            self.insert(self.body(base), &tail);
        }
    }

    fn insert(&mut self, offset: usize, data: &[u8]) {
        let mut end = offset + data.len();
        if let Some(fixed) = &mut self.fixed {
            *fixed = end.max(*fixed);
        }
        let joined: Vec<usize> = self
            .extents
            .range(..=end)
            .rev()
            .take_while(|(start, old)| *start + old.len() >= offset)
            .map(|(start, _)| *start)
            .collect();
        // Ascending now; the first may begin before the new bytes and then takes them in.
        let mut joined = joined.into_iter().rev().peekable();
        let (start, mut bytes) = match joined.next_if(|start| *start <= offset) {
            Some(start) => (start, self.extents.remove(&start).unwrap_or_default()),
            None => (offset, Vec::new()),
        };
        end = end.max(start + bytes.len());
        for old_start in joined {
            let old = self.extents.remove(&old_start).unwrap_or_default();
            end = end.max(old_start + old.len());
            bytes.resize((end - start).max(bytes.len()), 0);
            bytes[old_start - start..old_start - start + old.len()].copy_from_slice(&old);
        }
        bytes.resize(end - start, 0);
        bytes[offset - start..offset - start + data.len()].copy_from_slice(data);
        self.extents.insert(start, bytes);
    }
}
