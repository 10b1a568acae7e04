//! The receiving side.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::MESSAGE_LEN_MAX;
use crate::proto::srp::Lane;
use crate::wire::pg::Frame;
use crate::wire::{DecodeError, NodeId};

/// Joins the pieces of messages.
///
/// Members have to agree on what they lose, too. A Corosync that gets the end of a message without
/// its beginning drops that frame and all that follow, with all messages in them, until one of them
/// ends with a message; so does this. Senders that use [`Packer`](super::Packer) never make it
/// necessary.
#[derive(Debug, Default)]
pub struct Assembler {
    open: BTreeMap<(Lane, NodeId), Open>,
    /// Pieces that were dropped.
    lost: u64,
}

/// What a sender's last frame has left open.
#[derive(Debug, Default)]
struct Open {
    /// What the frame that continues it says.
    number: u8,
    /// What came so far; none when it is too long.
    data: Option<Vec<u8>>,
    /// Whether frames are dropped.
    drops: bool,
}

impl Open {
    /// Whether a frame goes on where the last one that was not dropped ended.
    fn takes(&mut self, frame: &Frame) -> bool {
        if self.drops {
            self.drops = frame.fragmented > 1;
            return false;
        }
        self.drops = frame.continuation != self.number;
        if !self.drops {
            self.number = frame.fragmented;
        }
        !self.drops
    }

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
        let is_inner = frame.pieces.len() == 1 && goes_on && frame.continuation != 0;
        let mut open = self.open.remove(&key).unwrap_or_default();
        let is_taken = open.takes(&frame);
        if is_inner && is_taken {
            open.append(&frame.pieces[0]);
            self.open.insert(key, open);
            return Ok(Vec::new());
        }
        let rest = if goes_on { frame.pieces.pop() } else { None };
        if !is_taken {
            self.lost += u64::try_from(frame.pieces.len()).unwrap_or(u64::MAX);
            frame.pieces.clear();
        } else if frame.continuation != 0
            && let Some(piece) = frame.pieces.first_mut()
        {
            open.append(piece);
            match open.data.take() {
                Some(data) => *piece = Bytes::from(data),
                None => {
                    frame.pieces.remove(0);
                    self.lost += 1;
                }
            }
        }
        if let Some(piece) = rest {
            open.data = Some(piece.to_vec());
            self.open.insert(key, open);
        }
        Ok(frame.pieces)
    }

    /// Forgets what a node has left open: it is no member any more, or newly one.
    pub fn forget(&mut self, node: NodeId) {
        for lane in [Lane::Ordinary, Lane::Sync] {
            self.open.remove(&(lane, node));
        }
    }

    /// Ends of messages and whole ones that were dropped, because a beginning did not come or a
    /// message was too long.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }
}
