//! Packing of messages into the frames of the ring, and back.
//!
//! [`Packer`] fills frames with messages and cuts those that do not fit; there is one per lane,
//! because frames of a lane follow each other while those of the other may come in between.
//! [`Assembler`] joins the pieces of each sender again, with a set of open messages per lane.
//!
//! A message may be cut by a change of the configuration, too: its first frames were sent on one
//! ring, the rest waits for the next. Members that were not there before have no beginning for the
//! end that they get. So [`Packer::restart`] sends such a message from its first byte again, behind
//! a frame that makes members with a beginning forget it. All members of the new configuration
//! get the message in that configuration.
//!
//! Invariants: frames of one lane, in the order given out, join to the messages that were pushed;
//! what a sender leaves open is bounded by [`MESSAGE_LEN_MAX`]; nothing received panics.

mod assembler;
mod packer;
#[cfg(test)]
mod tests;

pub use assembler::Assembler;
pub use packer::Packer;

/// Longest message that is joined, group names included; other implementations stop at the same.
pub const MESSAGE_LEN_MAX: usize = (1 << 20) + (1 << 16);
