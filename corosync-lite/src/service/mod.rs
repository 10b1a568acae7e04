//! What the local IPC serves, as Corosync's own client libraries and tools speak it.
//!
//! | module | requests of |
//! |---|---|
//! | [`cpg`] | process groups: messages in one order for all members |
//! | [`quorum`] | whether this partition may act, and who is in it |
//! | [`votequorum`] | votes, and the device that has some |
//! | [`cmap`] | the configuration map |
//! | [`cfg`](mod@cfg) | state of links, reload, shutdown |
//!
//! Beside the codecs there is [`map`], the core behind `cmap`.
//!
//! The modules are codecs, and cores that hold no socket. Offsets in them count from the start
//! of the message, its head included. Holes are zeros when written and ignored when read.
//!
//! Invariant: no request makes a decoder panic or allocate more than a small multiple of it.

pub mod cfg;
pub mod cmap;
pub mod cpg;
mod layout;
pub mod map;
pub mod quorum;
pub mod votequorum;

#[cfg(test)]
mod vector_tests;

pub use layout::{DecodeError, Message, RingId, Status};

/// A client's connection, as the daemon numbers them. No number is used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// Asks for the present state at once.
pub const TRACK_CURRENT: u32 = 1;
/// Asks for changes.
pub const TRACK_CHANGES: u32 = 2;
/// Asks for changes alone.
pub const TRACK_CHANGES_ONLY: u32 = 4;
