//! Local services on the transport of libqb, as its unmodified clients speak it.
//!
//! A *service* is a name under which a server listens. Each client connection has a setup stream
//! (handshake, one-byte doorbells, end of connection) and three channels: requests, responses (one
//! per request, in order) and events (server to client, at any time). The channels are rings in
//! shared memory, so messages of 1 MiB pass with the default limits of the kernel.
//!
//! | module | owns |
//! |---|---|
//! | [`wire`] | bytes of the handshake and of message headers |
//! | `shm` | mapped files, atomics on them, the futex, the SIGBUS guard: the only `unsafe` code |
//! | `ring` | layout and rules of one ring |
//! | `channels` | directory, files and ownership of one connection's three rings |
//! | `connection` | one client: handshake, doorbells, queue of events |
//! | `event` | what a server tells its owner |
//! | `server` | listeners, all connections, fairness, limits |
//! | [`client`] | the other side, for programs of ours |
//!
//! Invariants: nothing that a client writes, on the stream or into memory that it shares with us,
//! makes the server panic, block or touch another client; every queue is bounded, and a client
//! that overruns its bound is disconnected; the server never waits for a client.
//!
//! Threads: a [`Server`] is used by one thread. The SIGBUS guard is process-wide and lock-free.

mod channels;
pub mod client;
mod connection;
mod event;
mod ring;
mod server;
mod shm;
pub mod wire;

#[cfg(test)]
mod test_client;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod vectors;

pub use channels::remove_leftovers;
pub use connection::{CloseReason, Credentials, FlowControl, Traffic};
pub use event::{ConnectionId, Event, Request, SendError, ServiceId};
pub use server::{Options, Server};
