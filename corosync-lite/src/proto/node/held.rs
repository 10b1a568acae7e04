//! Datagrams that wait while a changed configuration is read.
//!
//! What comes after the message that tells all nodes to reload is meant for the new configuration.
//! Other daemons take it over before they look at anything else, and pass the token on with it in
//! force; two rounds later they no longer understand an old key. So this node waits for its own, in
//! the common case for a millisecond; not for long, since reading can mean to ask the network.
//!
//! Invariant: the wait has an end, by its time and by what is kept.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::surface::SocketId;
use super::{Node, settings};

/// Longest wait.
const PATIENCE_MAX: Duration = Duration::from_millis(500);
/// Most datagrams that wait.
const COUNT_MAX: usize = 4096;
/// Most bytes of them.
const BYTES_MAX: usize = 4 << 20;

/// What has come since the reload began.
#[derive(Debug)]
pub(super) struct Held {
    until: Instant,
    datagrams: VecDeque<(SocketId, SocketAddr, Bytes)>,
    bytes: usize,
}

impl Held {
    /// When the wait ends at the latest.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    fn has_room(&self, len: usize) -> bool {
        self.datagrams.len() < COUNT_MAX && self.bytes + len <= BYTES_MAX
    }
}

impl Node {
    /// From now on datagrams wait, but no longer than others wait for a token.
    pub(super) fn hold(&mut self, now: Instant) {
        let patience = settings::ring(&self.config).token / 4;
        self.held.get_or_insert_with(|| Held {
            until: now + patience.min(PATIENCE_MAX),
            datagrams: VecDeque::new(),
            bytes: 0,
        });
    }

    /// Has a datagram wait, if it has to.
    pub(super) fn hold_datagram(
        &mut self,
        now: Instant,
        socket: SocketId,
        from: SocketAddr,
        datagram: &[u8],
    ) -> bool {
        let Some(held) = &mut self.held else {
            return false;
        };
        if held.has_room(datagram.len()) {
            held.bytes += datagram.len();
            let datagram = Bytes::copy_from_slice(datagram);
            held.datagrams.push_back((socket, from, datagram));
            return true;
        }
        self.release(now);
        false
    }

    /// Waits no longer.
    pub(super) fn release(&mut self, now: Instant) {
        if let Some(held) = self.held.take() {
            self.take_in(now, held);
        }
    }

    /// Takes in what had to wait. If it has a further reload in it, the rest waits for that.
    pub(super) fn take_in(&mut self, now: Instant, held: Held) {
        for (socket, from, datagram) in held.datagrams {
            self.handle_datagram(now, socket, from, &datagram);
        }
    }
}
