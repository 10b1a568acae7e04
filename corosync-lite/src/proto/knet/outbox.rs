//! Datagrams on their way out: numbered, sealed once, and queued for each destination.
//!
//! Limit: [`MAX_QUEUED`] datagrams wait; what comes on top is dropped and counted. The user sends
//! what is queued after each call, so the limit is not reached in ordinary operation.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::link::{Link, PingTime};
use super::seal::Seal;
use super::stats::Stats;
use crate::wire::NodeId;
use crate::wire::knet::{Body, DataHeader, PMTUD_LEN, Packet, Ping, Pmtud};

const MAX_QUEUED: usize = 65_536;
const POOL_BLOCK: usize = 65_536;

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Host that it is for.
    pub host: NodeId,
    /// Link on whose socket it has to be sent.
    pub link: u8,
    /// Where it goes.
    pub to: SocketAddr,
    /// What it is for.
    pub purpose: Purpose,
    /// Its bytes. Copies to several hosts share them.
    pub datagram: Bytes,
}

/// What a datagram is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Carries a message.
    Data,
    /// Asks for a pong.
    Ping,
    /// Answers a ping.
    Pong,
    /// Finds out whether an IP packet of this size gets through.
    Probe(u16),
    /// It did.
    ProbeReply,
}

/// Where a datagram goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Destination {
    pub(super) host: NodeId,
    pub(super) link: u8,
    pub(super) to: SocketAddr,
}

impl Destination {
    pub(super) fn new(host: NodeId, number: u8, link: &Link) -> Self {
        Self {
            host,
            link: number,
            to: link.remote,
        }
    }
}

#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) local: u16,
    pub(super) seal: Seal,
    /// Number of the last message, 0 = none yet.
    pub(super) seq: u16,
    queue: VecDeque<Transmit>,
    scratch: Vec<u8>,
    pool: BytesMut,
}

impl Outbox {
    pub(super) fn new(local: u16, seal: Seal) -> Self {
        Self {
            local,
            seal,
            seq: 0,
            queue: VecDeque::new(),
            scratch: Vec::new(),
            pool: BytesMut::new(),
        }
    }

    /// Number of the next message. 0 is left out: it means that there was none.
    pub(super) fn next_seq(&mut self) -> u16 {
        self.seq = self.seq.checked_add(1).unwrap_or(1);
        self.seq
    }

    pub(super) fn pop(&mut self) -> Option<Transmit> {
        self.queue.pop_front()
    }

    fn sealed(&mut self, stats: &mut Stats, body: Body<'_>) -> Option<Bytes> {
        let packet = Packet {
            node: self.local,
            body,
        };
        let mut packet_len = 0;
        let write = |out: &mut Vec<u8>| {
            let before = out.len();
            packet.encode(out);
            packet_len = out.len() - before;
        };
        let sealed = self.seal.seal(&mut self.scratch, write).is_ok();
        if !sealed {
            stats.not_sent += 1;
            return None;
        }
        if self.seal.is_keyed() {
            stats.sealed += 1;
            let extra = self.scratch.len().saturating_sub(packet_len);
            stats.sealed_extra += u64::try_from(extra).unwrap_or(u64::MAX);
        }
        if self.pool.capacity() - self.pool.len() < self.scratch.len() {
            // Takes the old block again if all its datagrams are sent.
            self.pool.reserve(POOL_BLOCK.max(self.scratch.len()));
        }
        self.pool.extend_from_slice(&self.scratch);
        Some(self.pool.split().freeze())
    }

    pub(super) fn data(
        &mut self,
        stats: &mut Stats,
        header: DataHeader,
        fragment: &[u8],
    ) -> Option<Bytes> {
        self.sealed(stats, Body::Data(header, fragment))
    }

    pub(super) fn push(
        &mut self,
        stats: &mut Stats,
        destination: Destination,
        purpose: Purpose,
        datagram: Bytes,
    ) {
        if self.queue.len() == MAX_QUEUED {
            stats.not_sent += 1;
            return;
        }
        stats.queued += 1;
        self.queue.push_back(Transmit {
            host: destination.host,
            link: destination.link,
            to: destination.to,
            purpose,
            datagram,
        });
    }

    fn control(
        &mut self,
        stats: &mut Stats,
        destination: Destination,
        purpose: Purpose,
        body: Body<'_>,
    ) {
        if let Some(datagram) = self.sealed(stats, body) {
            self.push(stats, destination, purpose, datagram);
        }
    }

    pub(super) fn ping(
        &mut self,
        stats: &mut Stats,
        destination: Destination,
        link: &mut Link,
        now: Instant,
        time: PingTime,
        timed: bool,
    ) {
        let ping = Ping {
            link: destination.link,
            time,
            seq: self.seq,
            timed,
        };
        self.control(stats, destination, Purpose::Ping, Body::Ping(ping));
        link.pinged(now, time, timed);
    }

    pub(super) fn pong(&mut self, stats: &mut Stats, destination: Destination, ping: Ping) {
        self.control(stats, destination, Purpose::Pong, Body::Pong(ping));
    }

    pub(super) fn probe_reply(
        &mut self,
        stats: &mut Stats,
        destination: Destination,
        pmtud: Pmtud,
    ) {
        let reply = Body::PmtudReply(pmtud);
        self.control(stats, destination, Purpose::ProbeReply, reply);
    }

    /// A probe that makes an IP packet of at most `size` bytes, less by no more than a cipher block.
    pub(super) fn probe(&mut self, stats: &mut Stats, destination: Destination, size: u16) {
        let room = usize::from(size).saturating_sub(overhead(destination.to));
        let pmtud = Pmtud {
            link: destination.link,
            size,
        };
        let filling = self.seal.packet_room(room).saturating_sub(PMTUD_LEN);
        let body = Body::PmtudProbe { pmtud, filling };
        self.control(stats, destination, Purpose::Probe(size), body);
    }
}

/// Bytes of the IP and UDP headers in front of a datagram.
pub(super) fn overhead(to: SocketAddr) -> usize {
    if to.is_ipv4() { 28 } else { 48 }
}

/// Smallest IP packet that every path has to carry.
pub(super) fn smallest_mtu(to: SocketAddr) -> u16 {
    if to.is_ipv4() { 576 } else { 1280 }
}
