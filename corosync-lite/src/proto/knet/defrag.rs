//! Duplicates and fragments of the messages of one host.
//!
//! A duplicate is a datagram with the same bytes as one that was accepted not long ago: a copy
//! that came over another link, a copy that the network made, or one that somebody recorded and
//! plays again. The number in the packet does not decide: it is only 16 bits, starts again with
//! every start of its sender, and a recorded packet with a number that is still to come must not
//! shut out the packet that will bear it rightly.
//!
//! What was recorded before the remembered time, or before this program started, gets through here.
//! The ring knows it by its own numbers.
//!
//! Fragments are not bound to each other by the wire format, so a recorded fragment can meet a new
//! message with the same number. When two different fragments claim the same place the whole
//! message is dropped; the ring asks for it again under a new number.
//!
//! Limits per host: [`RECENT_SETS`] * [`RECENT_WAYS`] datagrams remembered, [`MAX_OPEN`] messages
//! of at most [`MAX_MESSAGE_LEN`] bytes in assembly, none longer than [`MAX_AGE`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::proto::knet::Discard;
use crate::wire::knet::DataHeader;

/// Most bytes of one message.
pub const MAX_MESSAGE_LEN: usize = 65_536;

const RECENT_SETS: usize = 4096;
const RECENT_WAYS: usize = 4;
/// Not zero: so the memory is the program's own from the start, and not got page by page while the
/// ring works.
const FREE: u64 = u64::MAX;
const MAX_OPEN: usize = 32;
const MAX_AGE: Duration = Duration::from_secs(1);

/// Digest of a whole datagram. Not cryptographic: those who could make two datagrams with the same
/// one can make any datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint(u64);

impl Fingerprint {
    pub(super) fn of(datagram: &[u8]) -> Self {
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        let add = |hash: u64, word: &[u8; 8]| {
            (hash.rotate_left(23) ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR)
        };
        let (words, tail) = datagram.as_chunks::<8>();
        // Side by side: one alone would wait for each product.
        let (rows, rest) = words.as_chunks::<4>();
        let mut lanes = [1, 2, 3, 4];
        for row in rows {
            for (lane, word) in lanes.iter_mut().zip(row) {
                *lane = add(*lane, word);
            }
        }
        let mut last = [0; 8];
        last.iter_mut().zip(tail).for_each(|(to, from)| *to = *from);
        let hash = FACTOR ^ u64::try_from(datagram.len()).unwrap_or(0);
        let hash = rest.iter().chain([&last]).fold(hash, add);
        let lanes = lanes.map(u64::to_le_bytes);
        let hash = lanes.iter().fold(hash, add);
        Self((hash ^ (hash >> 32)).wrapping_mul(FACTOR))
    }

    fn set(self) -> usize {
        usize::try_from(self.0 >> 40).unwrap_or(0) % RECENT_SETS
    }
}

/// Remembers the latest datagrams of a host.
#[derive(Debug)]
pub(super) struct Recent {
    /// Latest first in each set, [`FREE`] = free.
    sets: Vec<[u64; RECENT_WAYS]>,
}

impl Recent {
    pub(super) fn new() -> Self {
        Self {
            // Made when it is needed: most hosts of a large file may never be up.
            sets: Vec::new(),
        }
    }

    /// Remembers a datagram; `false` if it was remembered already.
    pub(super) fn insert(&mut self, fingerprint: Fingerprint) -> bool {
        if self.sets.is_empty() {
            self.sets = vec![[FREE; RECENT_WAYS]; RECENT_SETS];
        }
        let Some(set) = self.sets.get_mut(fingerprint.set()) else {
            return true;
        };
        if set.contains(&fingerprint.0) {
            return false;
        }
        set.rotate_right(1);
        if let Some(first) = set.first_mut() {
            *first = fingerprint.0;
        }
        true
    }
}

/// Puts fragments together.
#[derive(Debug, Default)]
pub(super) struct Defrag {
    /// Oldest first.
    open: VecDeque<Assembly>,
}

impl Defrag {
    /// Adds a fragment and gives back the message when it is complete.
    pub(super) fn insert(
        &mut self,
        now: Instant,
        header: &DataHeader,
        fragment: &[u8],
    ) -> Result<Option<Vec<u8>>, Discard> {
        self.open
            .retain(|assembly| now.saturating_duration_since(assembly.started) < MAX_AGE);
        let index = match self.open.iter().position(|it| it.header.seq == header.seq) {
            Some(index) => index,
            None => {
                if self.open.len() == MAX_OPEN {
                    self.open.pop_front();
                }
                self.open.push_back(Assembly::new(now, header));
                self.open.len() - 1
            }
        };
        let Some(assembly) = self.open.get_mut(index) else {
            return Ok(None);
        };
        let result = assembly.insert(header, fragment);
        if let Ok(Some(_)) = result {
            self.open.remove(index);
        }
        result
    }

    pub(super) fn clear(&mut self) {
        self.open.clear();
    }

    #[cfg(test)]
    fn bytes_held(&self) -> usize {
        let held = |assembly: &Assembly| assembly.body.capacity() + assembly.last.capacity();
        self.open.iter().map(held).sum()
    }
}

#[derive(Debug)]
struct Assembly {
    /// Of the first fragment that came; the others have to agree.
    header: DataHeader,
    started: Instant,
    /// Two fragments claimed the same place, or they do not fit together.
    spoilt: bool,
    /// Which fragments are there, one bit each.
    present: [u64; 4],
    count: u8,
    /// Bytes of every fragment but the last, once one of them is there.
    size: Option<usize>,
    /// All fragments but the last, each at its place.
    body: Vec<u8>,
    last: Vec<u8>,
}

impl Assembly {
    fn new(now: Instant, header: &DataHeader) -> Self {
        Self {
            header: *header,
            started: now,
            spoilt: false,
            present: [0; 4],
            count: 0,
            size: None,
            body: Vec::new(),
            last: Vec::new(),
        }
    }

    fn insert(&mut self, header: &DataHeader, fragment: &[u8]) -> Result<Option<Vec<u8>>, Discard> {
        let expected = DataHeader {
            fragment: header.fragment,
            ..self.header
        };
        // The same bytes would have been dropped as a duplicate before.
        let claimed = !self.mark(header.fragment);
        if self.spoilt || claimed || expected != *header || !self.store(header, fragment) {
            self.spoil();
            return Err(Discard::Conflict);
        }
        self.count += 1;
        if self.count < self.header.fragments {
            return Ok(None);
        }
        let mut message = std::mem::take(&mut self.body);
        message.append(&mut self.last);
        if message.len() > MAX_MESSAGE_LEN {
            return Err(Discard::Malformed);
        }
        Ok(Some(message))
    }

    /// Keeps the assembly, so that what still comes is not taken for a new message.
    fn spoil(&mut self) {
        self.spoilt = true;
        self.body = Vec::new();
        self.last = Vec::new();
    }

    /// Marks a fragment as present; `false` if it was already.
    fn mark(&mut self, fragment: u8) -> bool {
        let bit = 1 << (fragment % 64);
        let Some(word) = self.present.get_mut(usize::from(fragment / 64)) else {
            return false;
        };
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// `false` if the fragment does not fit to the others.
    fn store(&mut self, header: &DataHeader, fragment: &[u8]) -> bool {
        if header.fragment == header.fragments {
            self.last = fragment.to_vec();
            return fragment.len() <= MAX_MESSAGE_LEN;
        }
        let before_last = usize::from(header.fragments - 1);
        let total = fragment.len() * before_last;
        if fragment.is_empty() || total > MAX_MESSAGE_LEN {
            return false;
        }
        if *self.size.get_or_insert(fragment.len()) != fragment.len() {
            return false;
        }
        self.body.resize(total, 0);
        let start = fragment.len() * usize::from(header.fragment - 1);
        let Some(place) = self.body.get_mut(start..start + fragment.len()) else {
            return false;
        };
        place.copy_from_slice(fragment);
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(seq: u16, fragments: u8, fragment: u8) -> DataHeader {
        DataHeader {
            seq,
            compression: 0,
            broadcast: true,
            fragments,
            fragment,
            channel: 0,
        }
    }

    fn base() -> Instant {
        crate::proto::knet::tests_base()
    }

    proptest! {
        #[test]
        fn fragments_in_any_order_give_the_message(
            message in prop::collection::vec(any::<u8>(), 2..5000),
            size in 1..5000_usize,
            seed: u64,
        ) {
            let size = size.clamp(message.len().div_ceil(254), message.len() - 1);
            let mut parts: Vec<_> = message.chunks(size).enumerate().collect();
            let count = u8::try_from(parts.len()).unwrap();
            parts.sort_by_key(|(index, _)| Fingerprint::of(&[&seed.to_le_bytes()[..], &index.to_le_bytes()].concat()).0);
            let mut defrag = Defrag::default();
            let mut result = None;
            for (index, part) in parts {
                prop_assert!(result.is_none());
                let header = header(9, count, u8::try_from(index + 1).unwrap());
                result = defrag.insert(base(), &header, part).unwrap();
            }
            prop_assert_eq!(result, Some(message));
            prop_assert!(defrag.open.is_empty());
        }

        #[test]
        fn arbitrary_fragments_stay_within_the_limit(
            parts in prop::collection::vec(
                (0..40_u16, 2..=254_u8, any::<u8>(), 0..70_000_usize), 1..200),
        ) {
            let mut defrag = Defrag::default();
            for (seq, fragments, fragment, len) in parts {
                let header = header(seq, fragments, 1 + fragment % fragments);
                let _ignored = defrag.insert(base(), &header, &vec![0; len]);
                prop_assert!(defrag.bytes_held() <= MAX_OPEN * 3 * MAX_MESSAGE_LEN);
            }
        }
    }

    #[test]
    fn a_second_claim_on_a_place_spoils_the_message() {
        let mut defrag = Defrag::default();
        assert_eq!(defrag.insert(base(), &header(1, 3, 1), b"aa"), Ok(None));
        assert_eq!(
            defrag.insert(base(), &header(1, 3, 1), b"xx"),
            Err(Discard::Conflict)
        );
        assert_eq!(
            defrag.insert(base(), &header(1, 3, 2), b"bb"),
            Err(Discard::Conflict)
        );
        let later = base() + MAX_AGE;
        assert_eq!(defrag.insert(later, &header(1, 3, 1), b"aa"), Ok(None));
        assert_eq!(defrag.insert(later, &header(1, 3, 2), b"bb"), Ok(None));
        assert_eq!(
            defrag.insert(later, &header(1, 3, 3), b"c"),
            Ok(Some(b"aabbc".to_vec()))
        );
    }

    #[test]
    fn the_oldest_message_makes_room() {
        let mut defrag = Defrag::default();
        for seq in 1..=33 {
            assert_eq!(defrag.insert(base(), &header(seq, 2, 1), b"a"), Ok(None));
        }
        assert_eq!(defrag.open.len(), MAX_OPEN);
        assert_eq!(
            defrag.insert(base(), &header(2, 2, 2), b"b"),
            Ok(Some(b"ab".to_vec()))
        );
        assert_eq!(defrag.insert(base(), &header(1, 2, 2), b"b"), Ok(None));
    }

    #[test]
    fn what_was_inserted_is_recent_until_much_else_came() {
        let mut recent = Recent::new();
        let print = |number: u32| Fingerprint::of(&number.to_le_bytes());
        assert!((0..8000).all(|number| recent.insert(print(number))));
        let again = (4000..8000).filter(|number| recent.insert(print(*number)));
        assert!(again.count() < 100);
        assert!((8000..100_000).all(|number| recent.insert(print(number))));
        assert!(
            (0..8000)
                .filter(|number| !recent.insert(print(*number)))
                .count()
                < 100
        );
    }
}
