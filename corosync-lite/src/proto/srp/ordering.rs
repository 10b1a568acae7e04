//! Messages of one ring by sequence number: what is here, what is missing, what was handed up.
//!
//! Owns the stored bytes until every node has them. Invariants:
//! `head - 1 <= delivered <= aru <= high` on a ring that is not being closed; the window never
//! holds more than [`WINDOW`] slots; a slot once filled by a peer's message is not overwritten.

use std::collections::VecDeque;

use bytes::Bytes;

use super::stats::Discard;
use crate::wire::srp::{
    ENCAPSULATED_OLD, MCAST_HEADER_LEN, Mcast, NodeId, RTR_MAX, RingId, Rtr, SeqNo,
};

/// Slots of the window: a message this far ahead of the oldest kept one is refused.
pub(super) const WINDOW: u32 = 16_384;

/// A message as it was on the wire, and what delivery needs of its header.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    /// All bytes, header included.
    pub(super) raw: Bytes,
    /// Originating node.
    pub(super) sender: NodeId,
    /// Carries a message of the old ring.
    pub(super) is_encapsulated: bool,
}

impl Stored {
    pub(super) fn new(raw: Bytes, mcast: &Mcast) -> Self {
        Self {
            raw,
            sender: mcast.header.node,
            is_encapsulated: mcast.header.encapsulated == ENCAPSULATED_OLD,
        }
    }

    /// The bytes after the header.
    pub(super) fn body(&self) -> Bytes {
        self.raw.slice(MCAST_HEADER_LEN.min(self.raw.len())..)
    }
}

#[derive(Clone, Debug, Default)]
struct Slot {
    message: Option<Stored>,
    /// Token visits at which the message was missing.
    misses: u32,
}

/// Sort queue of one ring.
#[derive(Clone, Debug)]
pub(super) struct SortQueue {
    /// Number of the first slot; everything before it is with every node and was forgotten.
    head: SeqNo,
    slots: VecDeque<Slot>,
    /// Everything up to here was received.
    aru: SeqNo,
    /// Highest number received.
    high: SeqNo,
    /// Everything up to here was handed up (or skipped at the end of the ring).
    delivered: SeqNo,
    /// Bytes of stored messages beyond `aru`.
    reorder_bytes: usize,
}

impl Default for SortQueue {
    fn default() -> Self {
        Self::starting_after(SeqNo::ZERO)
    }
}

impl SortQueue {
    /// An empty queue whose first message will be the one after `last`.
    pub(super) fn starting_after(last: SeqNo) -> Self {
        Self {
            head: last.next(),
            slots: VecDeque::new(),
            aru: last,
            high: last,
            delivered: last,
            reorder_bytes: 0,
        }
    }

    pub(super) fn aru(&self) -> SeqNo {
        self.aru
    }

    pub(super) fn high(&self) -> SeqNo {
        self.high
    }

    pub(super) fn delivered(&self) -> SeqNo {
        self.delivered
    }

    /// Slots in use, filled or not.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// How far `seq` is from the last forgotten message.
    pub(super) fn distance(&self, seq: SeqNo) -> u32 {
        seq.next().since(self.head)
    }

    /// Keeps a received message.
    ///
    /// # Errors
    /// Already here or forgotten, outside the window, or beyond `reorder_bytes_max`.
    pub(super) fn insert(
        &mut self,
        seq: SeqNo,
        stored: Stored,
        reorder_bytes_max: usize,
    ) -> Result<(), Discard> {
        if seq.is_before(self.head) {
            return Err(Discard::Duplicate);
        }
        if self.get(seq).is_some() {
            return Err(Discard::Duplicate);
        }
        // The next message is always taken: it lets the others out.
        if seq != self.aru.next() && self.reorder_bytes + stored.raw.len() > reorder_bytes_max {
            return Err(Discard::NoRoom);
        }
        self.put(seq, stored)
    }

    /// Keeps a message that this node has given its number itself.
    ///
    /// # Errors
    /// Outside the window; the caller's flow control prevents it.
    pub(super) fn put(&mut self, seq: SeqNo, stored: Stored) -> Result<(), Discard> {
        let offset = seq.since(self.head);
        if offset >= WINDOW {
            return Err(Discard::OutsideWindow);
        }
        let index = usize::try_from(offset).map_err(|_| Discard::OutsideWindow)?;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, Slot::default);
        }
        let Some(slot) = self.slots.get_mut(index) else {
            return Err(Discard::OutsideWindow);
        };
        if let Some(old) = &slot.message {
            self.reorder_bytes = self.reorder_bytes.saturating_sub(old.raw.len());
        }
        self.reorder_bytes += stored.raw.len();
        slot.message = Some(stored);
        self.high = self.high.later(seq);
        self.advance_aru();
        Ok(())
    }

    fn advance_aru(&mut self) {
        while let Some(stored) = self.get(self.aru.next()) {
            let len = stored.raw.len();
            self.reorder_bytes = self.reorder_bytes.saturating_sub(len);
            self.aru = self.aru.next();
        }
    }

    /// A message that is here.
    pub(super) fn get(&self, seq: SeqNo) -> Option<&Stored> {
        let index = usize::try_from(seq.since(self.head)).ok()?;
        self.slots.get(index)?.message.as_ref()
    }

    /// Forgets messages that every node has.
    pub(super) fn release(&mut self, up_to: SeqNo) {
        let up_to = up_to.earlier(self.aru).earlier(self.delivered);
        // Half-way round the circle "earlier" has no meaning: stop at what is here in any case.
        while self.head.is_up_to(up_to) && self.head.is_up_to(self.aru) {
            self.slots.pop_front();
            self.head = self.head.next();
        }
    }

    /// Counts a token visit against every missing message up to `last`, and appends requests for
    /// those missing for `miss_count_const` visits. Returns how many were appended.
    pub(super) fn request_missing(
        &mut self,
        last: SeqNo,
        ring: RingId,
        miss_count_const: u32,
        rtr: &mut Vec<Rtr>,
    ) -> u64 {
        let end = self.head.plus(WINDOW - 1).earlier(last);
        let mut added = 0;
        let mut seq = self.aru.next();
        while seq.is_up_to(end) && rtr.len() < RTR_MAX {
            let Ok(index) = usize::try_from(seq.since(self.head)) else {
                break;
            };
            if self.slots.len() <= index {
                self.slots.resize_with(index + 1, Slot::default);
            }
            if let Some(slot) = self.slots.get_mut(index)
                && slot.message.is_none()
            {
                slot.misses = slot.misses.saturating_add(1);
                let request = Rtr { ring, seq };
                if slot.misses >= miss_count_const && !rtr.contains(&request) {
                    rtr.push(request);
                    added += 1;
                }
            }
            seq = seq.next();
        }
        added
    }

    /// Hands out the next message in order, up to `limit`.
    pub(super) fn deliver_next(&mut self, limit: SeqNo) -> Option<(SeqNo, Stored)> {
        let seq = self.delivered.next();
        if !seq.is_up_to(limit) || !seq.is_up_to(self.aru) {
            return None;
        }
        let stored = self.get(seq)?.clone();
        self.delivered = seq;
        Some((seq, stored))
    }

    /// Hands out the next message that is here, over holes: for a ring that is being closed.
    pub(super) fn deliver_next_over_holes(&mut self) -> Option<(SeqNo, Stored)> {
        while self.delivered.is_before(self.high) {
            self.delivered = self.delivered.next();
            if let Some(stored) = self.get(self.delivered) {
                return Some((self.delivered, stored.clone()));
            }
        }
        None
    }

    /// The messages that are here, after `low`.
    pub(super) fn after(&self, low: SeqNo) -> impl Iterator<Item = (SeqNo, &Stored)> {
        let seq = self.head.later(low.next());
        let count = if seq.is_up_to(self.high) {
            self.high.next().since(seq)
        } else {
            0
        };
        (0..count.min(WINDOW)).filter_map(move |step| {
            let at = seq.plus(step);
            self.get(at).map(|stored| (at, stored))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES_MAX: usize = 1000;

    fn stored(len: usize) -> Stored {
        Stored {
            raw: Bytes::from(vec![0; len]),
            sender: NodeId(1),
            is_encapsulated: false,
        }
    }

    fn delivered(queue: &mut SortQueue) -> Vec<u32> {
        std::iter::from_fn(|| queue.deliver_next(queue.high()))
            .map(|(seq, _)| seq.0)
            .collect()
    }

    #[test]
    fn delivery_waits_for_the_gap_and_crosses_the_wrap() {
        let start = SeqNo(u32::MAX - 1);
        let mut queue = SortQueue::starting_after(start);
        for step in [1, 3, 4] {
            queue
                .insert(start.plus(step), stored(10), BYTES_MAX)
                .unwrap();
        }
        assert_eq!(delivered(&mut queue), [u32::MAX]);
        queue.insert(start.plus(2), stored(10), BYTES_MAX).unwrap();
        assert_eq!(delivered(&mut queue), [0, 1, 2]);
        assert_eq!((queue.aru(), queue.high()), (SeqNo(2), SeqNo(2)));
        queue.release(SeqNo(1));
        assert_eq!(queue.len(), 1);
        assert_eq!(
            queue.insert(SeqNo(0), stored(1), BYTES_MAX),
            Err(Discard::Duplicate)
        );
    }

    #[test]
    fn duplicates_and_messages_outside_the_window_are_refused() {
        let mut queue = SortQueue::default();
        queue.insert(SeqNo(2), stored(1), BYTES_MAX).unwrap();
        assert_eq!(
            queue.insert(SeqNo(2), stored(1), BYTES_MAX),
            Err(Discard::Duplicate)
        );
        assert_eq!(
            queue.insert(SeqNo(0), stored(1), BYTES_MAX),
            Err(Discard::Duplicate)
        );
        let beyond = SeqNo(1).plus(WINDOW);
        assert_eq!(
            queue.insert(beyond, stored(1), BYTES_MAX),
            Err(Discard::OutsideWindow)
        );
        queue.insert(SeqNo(WINDOW), stored(1), BYTES_MAX).unwrap();
    }

    #[test]
    fn bytes_out_of_order_are_bounded_but_the_next_message_always_fits() {
        let mut queue = SortQueue::default();
        queue.insert(SeqNo(2), stored(900), BYTES_MAX).unwrap();
        assert_eq!(
            queue.insert(SeqNo(3), stored(200), BYTES_MAX),
            Err(Discard::NoRoom)
        );
        queue.insert(SeqNo(1), stored(5000), BYTES_MAX).unwrap();
        assert_eq!(queue.aru(), SeqNo(2));
        queue.insert(SeqNo(3), stored(200), BYTES_MAX).unwrap();
    }

    #[test]
    fn a_gap_is_requested_at_the_fifth_visit_and_once() {
        let ring = RingId {
            rep: NodeId(1),
            seq: 4,
        };
        let mut queue = SortQueue::default();
        queue.insert(SeqNo(2), stored(1), BYTES_MAX).unwrap();
        let mut rtr = Vec::new();
        for _ in 0..4 {
            assert_eq!(queue.request_missing(SeqNo(3), ring, 5, &mut rtr), 0);
        }
        assert_eq!(queue.request_missing(SeqNo(3), ring, 5, &mut rtr), 2);
        assert_eq!(
            rtr,
            [
                Rtr {
                    ring,
                    seq: SeqNo(1)
                },
                Rtr {
                    ring,
                    seq: SeqNo(3)
                }
            ]
        );
        assert_eq!(queue.request_missing(SeqNo(3), ring, 5, &mut rtr), 0);
        // An absurd end neither hangs nor grows beyond the window.
        for end in [1 << 30, 1 << 31, (1 << 31) + WINDOW, u32::MAX] {
            queue.request_missing(SeqNo(end), ring, u32::MAX, &mut Vec::new());
            queue.release(SeqNo(end));
            assert!(queue.len() <= WINDOW as usize);
        }
    }

    #[test]
    fn closing_delivers_over_holes() {
        let mut queue = SortQueue::default();
        for seq in [1, 2, 5, 7] {
            queue.insert(SeqNo(seq), stored(1), BYTES_MAX).unwrap();
        }
        assert_eq!(delivered(&mut queue), [1, 2]);
        assert_eq!(
            queue
                .after(SeqNo(1))
                .map(|(seq, _)| seq.0)
                .collect::<Vec<_>>(),
            [2, 5, 7]
        );
        let rest: Vec<_> = std::iter::from_fn(|| queue.deliver_next_over_holes()).collect();
        assert_eq!(
            rest.iter().map(|(seq, _)| seq.0).collect::<Vec<_>>(),
            [5, 7]
        );
        assert_eq!(queue.after(SeqNo(7)).count(), 0);
    }
}
