//! The receiving side.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::MESSAGE_LEN_MAX;
use crate::proto::srp::Lane;
use crate::wire::pg::Frame;
use crate::wire::{DecodeError, NodeId};

/// Joins the pieces of messages.
#[derive(Debug, Default)]
pub struct Assembler {
    open: BTreeMap<(Lane, NodeId), Open>,
    /// Pieces without a beginning, and beginnings without an end.
    lost: u64,
}

/// A message of which the end is missing.
#[derive(Debug)]
struct Open {
    /// What the frame that continues it says.
    number: u8,
    /// What came so far; none when it is too long.
    data: Option<Vec<u8>>,
}

impl Open {
    fn append(&mut self, piece: &Bytes) {
        if let Some(data) = &mut self.data {
            if data.len() + piece.len() <= MESSAGE_LEN_MAX {
                data.extend_from_slice(piece);
            } else {
                self.data = None;
            }
        }
    }
}

impl Assembler {
    /// Takes the next frame of a sender and gives the messages that it completes, in order.
    ///
    /// # Errors
    /// When it is malformed. Then it is of no use to any member.
    pub fn handle_frame(
        &mut self,
        lane: Lane,
        sender: NodeId,
        frame: &Bytes,
    ) -> Result<Vec<Bytes>, DecodeError> {
        let mut frame = Frame::decode(frame)?;
        if frame.pieces.is_empty() {
            return Err(DecodeError::Malformed("frame without pieces"));
        }
        let key = (lane, sender);
        let goes_on = frame.fragmented != 0;
        let open = self.open.remove(&key);
        if frame.continuation == 0 {
            self.lost += u64::from(open.is_some());
        } else {
            let matching = open.filter(|open| open.number == frame.continuation);
            let is_whole_frame = frame.pieces.len() == 1 && goes_on;
            match (matching, frame.pieces.first_mut()) {
                (Some(mut open), Some(piece)) => {
                    open.append(piece);
                    if is_whole_frame {
                        open.number = frame.fragmented;
                        self.open.insert(key, open);
                        return Ok(Vec::new());
                    }
                    match open.data {
                        Some(data) => *piece = Bytes::from(data),
                        None => self.lose_first(&mut frame.pieces),
                    }
                }
                _ => {
                    self.lose_first(&mut frame.pieces);
                    if is_whole_frame {
                        return Ok(Vec::new());
                    }
                }
            }
        }
        if goes_on && let Some(piece) = frame.pieces.pop() {
            let open = Open {
                number: frame.fragmented,
                data: Some(piece.to_vec()),
            };
            self.open.insert(key, open);
        }
        Ok(frame.pieces)
    }

    fn lose_first(&mut self, pieces: &mut Vec<Bytes>) {
        pieces.remove(0);
        self.lost += 1;
    }

    /// Forgets what a node has left open: it is no member any more, or newly one.
    pub fn forget(&mut self, node: NodeId) {
        for lane in [Lane::Ordinary, Lane::Sync] {
            self.open.remove(&(lane, node));
        }
    }

    /// Messages of which the beginning or the end did not come, or that were too long.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }
}
