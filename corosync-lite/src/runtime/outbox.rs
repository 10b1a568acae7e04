//! Datagrams on their way to the sockets.
//!
//! What the node puts out in a turn is sent with one call per socket. What the kernel has no room
//! for waits; the node is told what the kernel refuses.
//!
//! Limit: [`WAITING_MAX`] datagrams wait for a socket; what comes on top is dropped, as a network
//! would.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::net::{Failure, Outgoing, Sockets};
use crate::proto::node::{Node, SocketId, Transmit};

/// Datagrams that wait for one socket.
const WAITING_MAX: usize = 16_384;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    queues: BTreeMap<SocketId, Queue>,
    dropped: u64,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Transmit>,
    /// The kernel had no room for the first.
    is_blocked: bool,
}

impl Outbox {
    pub(super) fn push(&mut self, transmit: Transmit) {
        let queue = self.queues.entry(transmit.socket).or_default();
        if queue.waiting.len() < WAITING_MAX {
            queue.waiting.push(transmit);
        } else {
            self.dropped += 1;
        }
    }

    /// Whether datagrams wait until this socket is writable.
    pub(super) fn is_waiting(&self, id: SocketId) -> bool {
        self.queues.get(&id).is_some_and(|queue| queue.is_blocked)
    }

    /// Sends what waits; whether the node was told of failures and may want something now.
    pub(super) fn send(&mut self, sockets: &Sockets, node: &mut Node, now: Instant) -> bool {
        let mut told = false;
        for (id, queue) in &mut self.queues {
            if queue.waiting.is_empty() {
                queue.is_blocked = false;
                continue;
            }
            let datagrams: Vec<_> = queue
                .waiting
                .iter()
                .map(|transmit| Outgoing {
                    to: transmit.to,
                    bytes: &transmit.datagram,
                })
                .collect();
            let mut failures = Vec::new();
            let done = sockets.send(*id, &datagrams, &mut failures);
            for failure in &failures {
                told = true;
                let sent = failure.index.and_then(|index| queue.waiting.get(index));
                match sent {
                    Some(sent) => node.handle_send_failure(now, sent, failure.failure),
                    None => node.handle_network_error(now, *id, failure.to, failure.failure),
                }
            }
            queue.is_blocked = done < queue.waiting.len();
            if queue.is_blocked {
                queue.waiting.drain(..done);
            } else {
                queue.waiting.clear();
            }
        }
        told
    }

    /// Tells the node what became of datagrams sent earlier.
    pub(super) fn tell(
        &self,
        node: &mut Node,
        id: SocketId,
        failures: &mut Vec<Failure>,
        now: Instant,
    ) {
        for failure in failures.drain(..) {
            node.handle_network_error(now, id, failure.to, failure.failure);
        }
    }
}
