//! The sending side.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::wire::pg::{FRAME_HEADER_LEN, Frame, PIECE_HEADER_LEN};

/// A message to no group: every receiver ignores it.
const TO_NOBODY: &[u8] = &[0, 0];

/// Fills frames with messages.
#[derive(Debug)]
pub struct Packer {
    frame_len_max: usize,
    /// The frame being filled: lengths of its pieces, and their bytes.
    lens: Vec<u16>,
    data: Vec<u8>,
    /// What the first piece of the frame being filled continues.
    continuation: u8,
    /// Number of the next frame that ends inside a message.
    next_fragment: u8,
    /// Full frames that were not taken yet.
    ready: VecDeque<Bytes>,
    /// Frames that were taken, as far back as the message that may still be open.
    pub(super) taken: VecDeque<Bytes>,
}

impl Packer {
    /// Makes frames of at most `frame_len_max` bytes.
    #[must_use]
    pub fn new(frame_len_max: usize) -> Self {
        Self {
            frame_len_max: frame_len_max.max(FRAME_HEADER_LEN + 2 * PIECE_HEADER_LEN + 2),
            lens: Vec::new(),
            data: Vec::new(),
            continuation: 0,
            next_fragment: 1,
            ready: VecDeque::new(),
            taken: VecDeque::new(),
        }
    }

    /// Adds the message that `write` appends, group names included.
    pub fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut start = self.data.len();
        write(&mut self.data);
        let mut cut = 0;
        loop {
            // Bytes of the frame from `cut` on that are in use, and those that are left.
            let used = start - cut;
            let free = self.room_for_data().saturating_sub(used);
            let len = self.data.len() - start;
            // The next message shall find room for one byte and its length.
            if len + PIECE_HEADER_LEN < free {
                self.lens.push(u16::try_from(len).unwrap_or(u16::MAX));
                self.next_fragment = 1;
                break;
            }
            let len = len.min(free);
            self.lens.push(u16::try_from(len).unwrap_or(u16::MAX));
            let end = start + len;
            let fragmented = if end == self.data.len() {
                0
            } else {
                self.take_fragment_number()
            };
            self.finish_frame(cut, end, fragmented);
            (start, cut) = (end, end);
            if end == self.data.len() {
                break;
            }
        }
        self.data.drain(..cut);
    }

    /// Bytes of pieces in a frame with one piece more than now.
    fn room_for_data(&self) -> usize {
        let heads = FRAME_HEADER_LEN + PIECE_HEADER_LEN * (self.lens.len() + 1);
        self.frame_len_max.saturating_sub(heads)
    }

    fn take_fragment_number(&mut self) -> u8 {
        let number = self.next_fragment;
        self.next_fragment = number.checked_add(1).unwrap_or(1);
        number
    }

    fn finish_frame(&mut self, start: usize, end: usize, fragmented: u8) {
        let data = self.data.get(start..end).unwrap_or_default();
        let heads = FRAME_HEADER_LEN + PIECE_HEADER_LEN * self.lens.len();
        let mut frame = Vec::with_capacity(heads + data.len());
        frame.extend_from_slice(&[0, 0, 0, 0, fragmented, self.continuation]);
        let count = u16::try_from(self.lens.len()).unwrap_or(u16::MAX);
        frame.extend_from_slice(&count.to_le_bytes());
        for len in self.lens.drain(..) {
            frame.extend_from_slice(&len.to_le_bytes());
        }
        frame.extend_from_slice(data);
        self.ready.push_back(Bytes::from(frame));
        self.continuation = fragmented;
    }

    /// Finishes the frame being filled, so that everything pushed can be taken.
    pub fn flush(&mut self) {
        if !self.lens.is_empty() {
            self.finish_frame(0, self.data.len(), 0);
            self.data.clear();
        }
    }

    /// Takes the next full frame.
    pub fn poll_frame(&mut self) -> Option<Bytes> {
        let frame = self.ready.pop_front()?;
        self.taken.push_back(frame.clone());
        Some(frame)
    }

    /// Whether there is a full frame.
    #[must_use]
    pub fn has_frames(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether everything that was pushed was taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.lens.is_empty()
    }

    /// Takes note that all frames that were taken but the last `unsent` are sent.
    pub fn forget_sent(&mut self, unsent: usize) {
        let sent = self.taken.len().saturating_sub(unsent);
        let keep_from = if self.continues_at(sent) {
            self.start_of_open(sent)
        } else {
            sent
        };
        self.taken.drain(..keep_from);
    }

    /// The first frame that was not sent.
    fn next_frame(&self, sent: usize) -> Option<&Bytes> {
        self.taken.get(sent).or(self.ready.front())
    }

    /// Whether the first frame that was not sent continues a message.
    fn continues_at(&self, sent: usize) -> bool {
        self.next_frame(sent)
            .map_or(self.continuation, continuation_of)
            != 0
    }

    /// The frame in which the message starts that the frame `sent` continues.
    fn start_of_open(&self, sent: usize) -> usize {
        let starts = |frame: &Bytes| continuation_of(frame) == 0 || piece_count(frame) > 1;
        let before = self.taken.range(..sent.min(self.taken.len()));
        before.rev().position(starts).map_or(0, |back| {
            sent.min(self.taken.len()).saturating_sub(back + 1)
        })
    }

    /// Begins anew for members that have not received what was sent so far, if a message is cut.
    /// `unsent` gives back the frames that were taken but not sent. Returns whether there is
    /// anything to be taken again; else the frames are to be sent as they are.
    pub fn restart(&mut self, unsent: &VecDeque<Bytes>) {
        let sent = self.taken.len().saturating_sub(unsent.len());
        let mut again = VecDeque::new();
        if self.continues_at(sent) {
            let start = self.start_of_open(sent);
            again.push_back(beginning_anew());
            for (index, frame) in self.taken.range(start..sent).enumerate() {
                again.push_back(if index == 0 {
                    last_piece(frame)
                } else {
                    frame.clone()
                });
            }
        }
        again.extend(unsent.iter().cloned());
        again.append(&mut self.ready);
        self.ready = again;
        self.taken.clear();
    }

    /// Drops everything that was not sent; `unsent` are the frames that were taken but not sent.
    pub fn discard(&mut self, unsent: &VecDeque<Bytes>) {
        let sent = self.taken.len().saturating_sub(unsent.len());
        // Others may still wait for the frame that says so after an earlier cut.
        let is_told = self.next_frame(sent) == Some(&beginning_anew());
        let is_cut = is_told || self.continues_at(sent);
        let frame_len_max = self.frame_len_max;
        *self = Self::new(frame_len_max);
        if is_cut {
            self.ready.push_back(beginning_anew());
        }
    }
}

fn continuation_of(frame: &Bytes) -> u8 {
    frame.get(5).copied().unwrap_or(0)
}

fn piece_count(frame: &Bytes) -> u16 {
    let bytes = frame.get(6..8).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u16::from_le_bytes)
}

/// Has receivers that wait for the rest of a message drop what they have of it.
fn beginning_anew() -> Bytes {
    single_piece(Bytes::from_static(TO_NOBODY), 0)
}

fn single_piece(piece: Bytes, fragmented: u8) -> Bytes {
    let frame = Frame {
        fragmented,
        continuation: 0,
        pieces: vec![piece],
    };
    let mut out = Vec::new();
    frame
        .encode(&mut out)
        .expect("a piece of a frame fits a frame");
    Bytes::from(out)
}

/// The frame without the messages that it ends.
fn last_piece(frame: &Bytes) -> Bytes {
    let decoded = Frame::decode(frame).expect("made by this packer");
    let piece = decoded.pieces.last().cloned().unwrap_or_default();
    single_piece(piece, decoded.fragmented)
}
