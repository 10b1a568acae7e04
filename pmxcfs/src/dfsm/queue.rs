//! Messages that wait for the end of a round.
//!
//! Invariant: the order in which the message queue is emptied depends on the messages alone, so
//! all members of a round empty it alike. It is *not* the order of arrival: the running numbers
//! of all senders are compared with each other, as the original does.

use std::cmp::Ordering;

use bytes::Bytes;

use crate::wire::MemberId;

/// A normal message, as it waits.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) from: MemberId,
    pub(super) count: u64,
    pub(super) subtype: u16,
    pub(super) time: u32,
    pub(super) payload: Bytes,
    /// The whole message, to send it once more unchanged.
    pub(super) raw: Bytes,
}

/// Orders running numbers by the low 32 bits of their difference, taken as signed.
fn compare(left: u64, right: u64) -> Ordering {
    let low = left.wrapping_sub(right) & u64::from(u32::MAX);
    match low {
        0 => Ordering::Equal,
        1..0x8000_0000 => Ordering::Greater,
        _ => Ordering::Less,
    }
}

/// Messages sorted by running number; equal ones stay in order of arrival.
#[derive(Clone, Debug, Default)]
pub(super) struct MessageQueue(Vec<Waiting>);

impl MessageQueue {
    pub(super) fn insert(&mut self, message: Waiting) {
        let after = |queued: &Waiting| compare(queued.count, message.count) != Ordering::Greater;
        let at = self.0.partition_point(after);
        self.0.insert(at, message);
    }

    pub(super) fn take(&mut self) -> Vec<Waiting> {
        std::mem::take(&mut self.0)
    }

    /// Puts back what stays, in the order in which it was taken.
    pub(super) fn keep(&mut self, messages: Vec<Waiting>) {
        self.0 = messages;
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(node_id: u32, count: u64) -> Waiting {
        Waiting {
            from: MemberId {
                node: node_id,
                pid: 1,
            },
            count,
            subtype: 1,
            time: 0,
            payload: Bytes::new(),
            raw: Bytes::new(),
        }
    }

    #[test]
    fn sorts_by_count_over_all_senders_and_keeps_equals_in_order() {
        let mut queue = MessageQueue::default();
        for (node, count) in [(2, 25), (1, 19), (3, 19), (1, 20)] {
            queue.insert(message(node, count));
        }
        let order: Vec<_> = queue
            .take()
            .iter()
            .map(|m| (m.from.node, m.count))
            .collect();
        assert_eq!(order, [(1, 19), (3, 19), (1, 20), (2, 25)]);
    }

    #[test]
    fn counts_wrap_at_32_bits() {
        assert_eq!(compare(1, u64::from(u32::MAX)), Ordering::Greater);
        assert_eq!(compare(0x1_0000_0001, 1), Ordering::Equal);
    }
}
