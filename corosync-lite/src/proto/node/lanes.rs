//! Messages on their way into the ring: waiting, packed into frames, queued.
//!
//! Invariant: messages of a lane keep their order; those that the queue of the ring has no room for
//! wait here, and clients are held back meanwhile (see [`Lanes::is_full`]).

use std::collections::VecDeque;
use std::time::Instant;

use crate::proto::pg::Packer;
use crate::proto::srp::{Lane, Srp};
use crate::wire::exec;
use crate::wire::pg::Group;
use crate::wire::sync;

/// A message to all members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outgoing {
    Executive(exec::Message),
    Sync(sync::Message),
}

impl Outgoing {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Executive(message) => {
                Group::Executive.write_alone(out);
                message.encode(out);
            }
            Self::Sync(message) => {
                Group::Sync.write_alone(out);
                message.encode(out);
            }
        }
    }
}

/// One lane.
#[derive(Debug)]
struct Queue {
    lane: Lane,
    packer: Packer,
    waiting: VecDeque<Outgoing>,
}

impl Queue {
    /// Fills the queue of the ring.
    fn pump(&mut self, now: Instant, srp: &mut Srp) {
        loop {
            while srp.room(self.lane) > 0 {
                let Some(frame) = self.packer.poll_frame() else {
                    break;
                };
                // After leaving there is nobody to send to.
                srp.mcast(now, self.lane, frame).ok();
            }
            if self.packer.has_frames() {
                break;
            }
            let Some(message) = self.waiting.pop_front() else {
                break;
            };
            self.packer.push(|out| message.write(out));
        }
        self.packer.forget_sent(srp.unsent(self.lane));
    }
}

/// Both lanes.
#[derive(Debug)]
pub(super) struct Lanes {
    ordinary: Queue,
    sync: Queue,
    frames_max: usize,
    is_full: bool,
}

impl Lanes {
    pub(super) fn new(frame_len_max: usize, frames_max: usize) -> Self {
        let queue = |lane| Queue {
            lane,
            packer: Packer::new(frame_len_max),
            waiting: VecDeque::new(),
        };
        Self {
            ordinary: queue(Lane::Ordinary),
            sync: queue(Lane::Sync),
            frames_max,
            is_full: false,
        }
    }

    fn queue(&mut self, lane: Lane) -> &mut Queue {
        match lane {
            Lane::Ordinary => &mut self.ordinary,
            Lane::Sync => &mut self.sync,
        }
    }

    pub(super) fn push(&mut self, lane: Lane, message: Outgoing) {
        self.queue(lane).waiting.push_back(message);
    }

    /// Moves on what can be moved on, and sees to it that the token comes to fetch it.
    pub(super) fn pump(&mut self, now: Instant, srp: &mut Srp) {
        self.ordinary.pump(now, srp);
        self.sync.pump(now, srp);
        let lane = active(srp);
        if !self.queue(lane).packer.is_empty() {
            srp.wake(now);
        }
    }

    /// The token is here: what is packed so far goes with it.
    pub(super) fn flush(&mut self, now: Instant, srp: &mut Srp) {
        let queue = self.queue(active(srp));
        if !queue.packer.has_frames() {
            queue.packer.flush();
        }
        queue.pump(now, srp);
    }

    /// A regular configuration came. What was to be sent in the sync phase of an earlier one is of
    /// no use, and if others have `joined`, a message that is cut has to begin anew.
    pub(super) fn change_configuration(&mut self, now: Instant, srp: &mut Srp, joined: bool) {
        self.sync.waiting.clear();
        let unsent = srp.take_unsent(Lane::Sync);
        self.sync.packer.discard(&unsent);
        if joined {
            let unsent = srp.take_unsent(Lane::Ordinary);
            self.ordinary.packer.restart(&unsent);
        }
        self.pump(now, srp);
    }

    /// Whether clients shall wait: turns on when half of the queue is used, and off again when a
    /// quarter is.
    pub(super) fn is_full(&mut self, srp: &Srp) -> bool {
        let queue = &self.ordinary;
        let used = srp.unsent(Lane::Ordinary);
        let bound = if self.is_full {
            self.frames_max / 4
        } else {
            self.frames_max / 2
        };
        self.is_full = used > bound || queue.packer.has_frames();
        self.is_full
    }

    /// Whether everything was handed to the ring and sent.
    pub(super) fn is_empty(&self, srp: &Srp) -> bool {
        let queue = &self.ordinary;
        queue.waiting.is_empty() && queue.packer.is_empty() && srp.unsent(Lane::Ordinary) == 0
    }

    /// Frames that wait, and for how many more there is room.
    pub(super) fn frames(&self, srp: &Srp) -> (usize, usize) {
        (srp.unsent(Lane::Ordinary), srp.room(Lane::Ordinary))
    }
}

fn active(srp: &Srp) -> Lane {
    if srp.is_synchronizing() {
        Lane::Sync
    } else {
        Lane::Ordinary
    }
}
