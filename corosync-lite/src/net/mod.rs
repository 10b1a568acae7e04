//! SHELL: sockets of the links, and the watch on the addresses that they are bound to.
//!
//! | module | owns |
//! |---|---|
//! | `sys` | the system calls for many datagrams at once: the only `unsafe` code |
//! | [`udp`] | one socket: options, batches, what the kernel reports of datagrams sent earlier |
//! | [`bind`] | which links have sockets: an address may come after the daemon, and go before it |
//!
//! Nothing here blocks, and nothing here looks into a datagram.

pub mod bind;
mod sys;
pub mod udp;

pub use bind::{AddressWatch, Change, LinkSpec, Links, Use};
pub use udp::{Failure, Inbox, Outgoing, Socket};
