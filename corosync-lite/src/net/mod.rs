//! SHELL: sockets of the node, and the watch on the addresses that they are bound to.
//!
//! | module | owns |
//! |---|---|
//! | `sys` | the system calls for many datagrams at once: the only `unsafe` code |
//! | [`udp`] | one socket: options, batches, what the kernel reports of datagrams sent earlier |
//! | [`bind`] | which sockets are open: an address may come after the daemon, and go before it |
//!
//! Nothing here blocks, and nothing here looks into a datagram.

pub mod bind;
mod sys;
pub mod udp;

pub use bind::{AddressWatch, Change, Sockets};
pub use sys::set_mtu_probe;
pub use udp::{Failure, Inbox, Outgoing, Socket};
