//! What was dropped and why, and the state of links, for whoever shows it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::outbox::Purpose;
use crate::wire::NodeId;
use crate::wire::knet::Body;

/// Why a datagram was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Discard {
    /// No configured host has the source address.
    UnknownSource,
    /// It was not made with a key of ours.
    Unauthentic,
    /// It can not be decoded.
    Malformed,
    /// It is from this node.
    Own,
    /// It is from a node that is not configured.
    UnknownHost,
    /// The node has no such link.
    UnknownLink,
    /// It came from an address of another node, or of another link.
    WrongSource,
    /// It is data of a host that does not answer our pings.
    Unreachable,
    /// It came before.
    Duplicate,
    /// Its fragment does not fit to others of the same message.
    Conflict,
    /// It is for another node.
    NotForUs,
    /// It is for a channel that nobody listens on.
    UnknownChannel,
    /// It is compressed, which is not supported.
    Compressed,
    /// It answers something that was not asked, or was answered.
    Unasked,
    /// It is a pong that took longer than the ping timeout.
    Late,
}

impl Discard {
    /// All reasons, in the order of the checks.
    pub const ALL: [Self; 15] = [
        Self::UnknownSource,
        Self::Unauthentic,
        Self::Malformed,
        Self::Own,
        Self::UnknownHost,
        Self::UnknownLink,
        Self::WrongSource,
        Self::Unreachable,
        Self::Duplicate,
        Self::Conflict,
        Self::NotForUs,
        Self::UnknownChannel,
        Self::Compressed,
        Self::Unasked,
        Self::Late,
    ];

    /// Name in statistics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UnknownSource => "unknown_source",
            Self::Unauthentic => "unauthentic",
            Self::Malformed => "malformed",
            Self::Own => "own",
            Self::UnknownHost => "unknown_host",
            Self::UnknownLink => "unknown_link",
            Self::WrongSource => "wrong_source",
            Self::Unreachable => "unreachable",
            Self::Duplicate => "duplicate",
            Self::Conflict => "conflict",
            Self::NotForUs => "not_for_us",
            Self::UnknownChannel => "unknown_channel",
            Self::Compressed => "compressed",
            Self::Unasked => "unasked",
            Self::Late => "late",
        }
    }
}

impl fmt::Display for Discard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Dropped datagrams by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drops([u64; Discard::ALL.len()]);

impl Drops {
    pub(super) fn count(&mut self, reason: Discard) {
        if let Some(count) = self.0.get_mut(reason as usize) {
            *count += 1;
        }
    }

    /// Datagrams dropped for this reason.
    #[must_use]
    pub fn of(&self, reason: Discard) -> u64 {
        self.0.get(reason as usize).copied().unwrap_or(0)
    }

    /// Every reason with its number.
    pub fn iter(&self) -> impl Iterator<Item = (Discard, u64)> + '_ {
        Discard::ALL
            .into_iter()
            .map(|reason| (reason, self.of(reason)))
    }
}

/// Counters of the transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Datagrams that came.
    pub received: u64,
    /// Messages that were given to the layer above, own ones not counted.
    pub delivered: u64,
    /// Messages that the layer above sent to others.
    pub sent: u64,
    /// Messages to hosts that were not reachable.
    pub unreachable: u64,
    /// Datagrams that were queued for sending.
    pub queued: u64,
    /// Datagrams that were not sent, because too many were queued or sealing failed.
    pub not_sent: u64,
    /// Datagrams that the kernel refused.
    pub send_failures: u64,
    /// Datagrams that were encrypted.
    pub sealed: u64,
    /// Bytes that this added to them.
    pub sealed_extra: u64,
    /// Encrypted datagrams that came and were authentic.
    pub opened: u64,
    /// Datagrams that were dropped.
    pub drops: Drops,
}

/// State of one link to one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkStatus {
    /// The host.
    pub host: NodeId,
    /// Number of the link.
    pub link: u8,
    /// Address of the host on it.
    pub remote: SocketAddr,
    /// Pongs come.
    pub up: bool,
    /// Data can be sent on it: it is up and its MTU is known to be large enough.
    pub usable: bool,
    /// Average time from ping to pong, while pongs come.
    pub latency: Option<Duration>,
    /// Largest IP packet.
    pub mtu: u16,
    /// Bytes of a message per datagram on this link.
    pub data_room: usize,
    /// Times it came up.
    pub ups: u64,
    /// Times it went down.
    pub downs: u64,
    /// What went over it.
    pub traffic: Traffic,
    /// How long its pongs took.
    pub latencies: Latencies,
}

impl LinkStatus {
    /// What a host has instead of a link to itself.
    #[must_use]
    pub fn of_oneself(host: NodeId, link: u8, address: IpAddr) -> Self {
        Self {
            host,
            link,
            remote: SocketAddr::new(address, 0),
            up: true,
            usable: true,
            latency: None,
            mtu: u16::MAX,
            data_room: usize::from(u16::MAX),
            ups: 1,
            downs: 0,
            traffic: Traffic::default(),
            latencies: Latencies::default(),
        }
    }
}

/// Datagrams on one link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Messages, or parts of them.
    pub data: Amount,
    /// Pings.
    pub ping: Amount,
    /// Their answers.
    pub pong: Amount,
    /// Probes of the path's MTU, and their answers.
    pub pmtud: Amount,
}

impl Traffic {
    /// All purposes together.
    #[must_use]
    pub fn total(&self) -> Amount {
        let all = [self.data, self.ping, self.pong, self.pmtud];
        all.into_iter().fold(Amount::default(), |sum, it| Amount {
            sent: sum.sent + it.sent,
            sent_bytes: sum.sent_bytes + it.sent_bytes,
            received: sum.received + it.received,
            received_bytes: sum.received_bytes + it.received_bytes,
            refused: sum.refused + it.refused,
        })
    }

    pub(super) fn of_purpose(&mut self, purpose: Purpose) -> &mut Amount {
        match purpose {
            Purpose::Data => &mut self.data,
            Purpose::Ping => &mut self.ping,
            Purpose::Pong => &mut self.pong,
            Purpose::Probe(_) | Purpose::ProbeReply => &mut self.pmtud,
        }
    }

    pub(super) fn of_body(&mut self, body: &Body<'_>) -> &mut Amount {
        match body {
            Body::Data(..) => &mut self.data,
            Body::Ping(_) => &mut self.ping,
            Body::Pong(_) => &mut self.pong,
            Body::PmtudProbe { .. } | Body::PmtudReply(_) => &mut self.pmtud,
        }
    }
}

/// Datagrams for one purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amount {
    /// Datagrams given to the socket.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Authentic datagrams that came.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Datagrams that the kernel refused.
    pub refused: u64,
}

/// Times from ping to pong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Latencies {
    /// The shortest one.
    pub shortest: Option<Duration>,
    /// The longest one.
    pub longest: Option<Duration>,
    /// How many there were.
    pub count: u64,
}

impl Latencies {
    pub(super) fn note(&mut self, latency: Duration) {
        self.count += 1;
        self.shortest = Some(self.shortest.map_or(latency, |it| it.min(latency)));
        self.longest = Some(self.longest.map_or(latency, |it| it.max(latency)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter() {
        let mut drops = Drops::default();
        for (index, reason) in Discard::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            drops.count(reason);
            drops.count(reason);
        }
        assert!(drops.iter().all(|(_, count)| count == 2));
    }
}
