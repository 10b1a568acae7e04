//! Datagrams that no key opens, kept for a moment.
//!
//! In a change of keys a peer can be ahead: what it sends with the new key may come before this
//! node has loaded it, or heard of the change at all. Dropped, it would be missing at the very time
//! at which peers go on by what they have delivered themselves, and forget the old key.
//!
//! Invariants: little is kept, and not for long, whatever comes; nothing of it is looked into.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

/// Most datagrams that are kept.
const COUNT_MAX: usize = 128;
/// Most bytes of them.
const BYTES_MAX: usize = 256 << 10;
/// What is older belongs to the past.
const AGE_MAX: Duration = Duration::from_secs(1);

/// The last datagrams that were not understood.
#[derive(Debug, Default)]
pub(super) struct Unread {
    kept: VecDeque<(Instant, IpAddr, Bytes)>,
    bytes: usize,
}

impl Unread {
    /// Keeps a datagram; the oldest ones make room.
    pub(super) fn keep(&mut self, now: Instant, from: IpAddr, datagram: &[u8]) {
        if datagram.len() > BYTES_MAX {
            return;
        }
        while self.kept.len() >= COUNT_MAX || self.bytes + datagram.len() > BYTES_MAX {
            let Some((_, _, oldest)) = self.kept.pop_front() else {
                break;
            };
            self.bytes -= oldest.len();
        }
        self.bytes += datagram.len();
        let datagram = Bytes::copy_from_slice(datagram);
        self.kept.push_back((now, from, datagram));
    }

    /// All of the last moment, in the order in which they came. None is left.
    pub(super) fn take(&mut self, now: Instant) -> impl Iterator<Item = (IpAddr, Bytes)> + use<> {
        self.bytes = 0;
        let kept = std::mem::take(&mut self.kept).into_iter();
        kept.filter(move |(at, _, _)| now.saturating_duration_since(*at) <= AGE_MAX)
            .map(|(_, from, datagram)| (from, datagram))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::tests_base;
    use super::*;

    #[test]
    fn little_is_kept_and_not_for_long() {
        let (mut unread, start) = (Unread::default(), tests_base());
        let from = IpAddr::V4(Ipv4Addr::LOCALHOST);
        for number in 0..200_u8 {
            unread.keep(start, from, &[number]);
        }
        let kept: Vec<_> = unread.take(start + AGE_MAX).collect();
        assert_eq!(kept.len(), COUNT_MAX);
        assert_eq!(kept.last().unwrap().1[..], [199]);
        assert_eq!(unread.take(start).count(), 0);
        for _ in 0..20 {
            unread.keep(start, from, &[0; 65_000]);
        }
        assert_eq!(unread.kept.len(), 4);
        unread.keep(start, from, &vec![0; BYTES_MAX + 1]);
        assert_eq!(unread.bytes, 4 * 65_000);
        let late = start + AGE_MAX + Duration::from_nanos(1);
        assert_eq!(unread.take(late).count(), 0);
        assert_eq!(unread.bytes, 0);
    }
}
