//! Events on their way to clients: into their rings, and a doorbell for each.
//!
//! A doorbell wakes the client, which costs more than the event. So those of many events are sent
//! together: when the owner of the server is about to wait or has other work, or when many are due.

use std::time::Duration;

use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::{INPUT, Server, parts_of};
use crate::qb::connection::CloseReason;
use crate::qb::event::{ConnectionId, SendError};

/// How long until the ring of a slow client is looked at again, if the kernel does not say that
/// it read something.
const RETRY: Duration = Duration::from_millis(100);
const OUTPUT_EDGE: EpollFlags = EpollFlags::EPOLLOUT.union(EpollFlags::EPOLLET);

impl Server {
    /// Sends an event, now or when the client has room for it. It is woken by [`Server::ring`], or
    /// at the latest when [`Server::poll_event`] has nothing more.
    ///
    /// # Errors
    /// See [`SendError`]. A client that lets events pile up can not send any more what may be
    /// refused ([`super::FlowControl::Soft`]) when half of the bound is reached, and is
    /// disconnected at the bound.
    pub fn notify(
        &mut self,
        connection: ConnectionId,
        id: i32,
        error: i32,
        body: &[&[u8]],
    ) -> Result<(), SendError> {
        let (open, head) = self.prepare(connection, id, error, body)?;
        if open.left.is_some() {
            return Ok(());
        }
        let parts = parts_of(&head, body);
        let is_first = !open.owes_bells();
        if let Err(reason) = open.queue_event(&parts) {
            self.end(connection.0, reason);
            return Err(SendError::Closed);
        }
        if open.shall_ring() {
            self.flush(connection.0);
        } else if is_first {
            self.ringing.push(connection.0);
        }
        if self.connections.contains_key(&connection.0) {
            return Ok(());
        }
        Err(SendError::Closed)
    }

    /// Wakes the clients that have new events.
    pub fn ring(&mut self) {
        while let Some(id) = self.ringing.pop() {
            self.flush(id);
        }
    }

    /// Sends waiting events and doorbells; asks to be told when the client reads, if need be.
    pub(super) fn flush(&mut self, id: u64) {
        let Some(client) = self.connections.get_mut(&id) else {
            return;
        };
        let done = match client.flush_events() {
            Ok(done) => done,
            Err(reason) => return self.end(id, reason),
        };
        if client.watches_output == done {
            // Edge: each doorbell that the client reads is an event, however full the socket is.
            let interest = if done { INPUT } else { INPUT | OUTPUT_EDGE };
            client.watches_output = !done;
            let mut event = EpollEvent::new(interest, id);
            if let Err(error) = self.epoll.modify(&client.stream, &mut event) {
                return self.end(id, CloseReason::Socket(error));
            }
        }
        if !done && self.retry_at.is_none() {
            self.retry_at = self.now.map(|now| now + RETRY);
        }
    }
}
