//! A remote host: its links, which of them carry data, and what came from it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::defrag::{Defrag, Recent};
use super::link::Link;
use crate::wire::knet::{Body, Ping};

/// A ping may come as much later than a message that was sent after it. Links take longer to come up.
const LATE_PING: Duration = Duration::from_millis(200);

/// Which links carry data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkMode {
    /// The usable link with the highest priority; of equal ones the lowest.
    Passive,
    /// Every usable link. The receiver drops the copies.
    Active,
    /// The usable links in turn, one per datagram.
    RoundRobin,
}

impl LinkMode {
    /// The mode of this name in the configuration file.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "passive" => Self::Passive,
            "active" => Self::Active,
            "rr" => Self::RoundRobin,
            _ => return None,
        })
    }
}

/// A remote host.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) links: BTreeMap<u8, Link>,
    pub(super) recent: Recent,
    pub(super) defrag: Defrag,
    /// Reachability that was last told to the layer above.
    pub(super) reachable: bool,
    turn: u8,
    /// When the first message came since it started.
    sent_since: Option<Instant>,
}

impl Host {
    pub(super) fn new() -> Self {
        Self {
            links: BTreeMap::new(),
            recent: Recent::new(),
            defrag: Defrag::default(),
            reachable: false,
            turn: 0,
            sent_since: None,
        }
    }

    pub(super) fn is_reachable(&self) -> bool {
        self.links.values().any(Link::is_usable)
    }

    /// Whether a datagram from this address may be of this host.
    pub(super) fn has_address(&self, from: IpAddr) -> bool {
        self.links.values().any(|link| link.remote.ip() == from)
    }

    /// Counts an authentic datagram for the link that it came over.
    pub(super) fn count_received(&mut self, from: IpAddr, body: &Body<'_>, bytes: u64) {
        let mut links = self.links.values_mut();
        if let Some(link) = links.find(|link| link.remote.ip() == from) {
            let amount = link.traffic.of_body(body);
            amount.received += 1;
            amount.received_bytes += bytes;
        }
    }

    /// Takes a ping that came over this link. `true` if one should be sent back soon.
    pub(super) fn handle_ping(&mut self, now: Instant, ping: &Ping) -> bool {
        let has_sent = |since| now.saturating_duration_since(since) > LATE_PING;
        if ping.seq != 0 {
            self.note_sent(now);
        } else if ping.timed && self.sent_since.is_some_and(has_sent) {
            self.handle_restart();
        }
        let link = self.links.get_mut(&ping.link);
        link.is_some_and(Link::handle_ping)
    }

    /// It has sent a message.
    pub(super) fn note_sent(&mut self, now: Instant) {
        self.sent_since.get_or_insert(now);
    }

    /// Only who has started anew has sent nothing after it had sent something. Its messages have
    /// the numbers of those before: halves of these must not be joined with them. And that its
    /// links went down says nothing against them.
    fn handle_restart(&mut self) {
        self.sent_since = None;
        self.defrag.clear();
        self.links.values_mut().for_each(Link::forgive);
    }

    /// Calls `send` with each link that carries the next datagram.
    pub(super) fn choose(&mut self, mode: LinkMode, mut send: impl FnMut(u8, &Link)) {
        let usable = || self.links.iter().filter(|(_, link)| link.is_usable());
        match mode {
            LinkMode::Active => usable().for_each(|(id, link)| send(*id, link)),
            LinkMode::Passive => {
                // `max_by_key` gives the last of equal ones, so start at the end.
                let best = usable().rev().max_by_key(|(_, link)| link.config.priority);
                if let Some((id, link)) = best {
                    send(*id, link);
                }
            }
            LinkMode::RoundRobin => {
                let next = usable().find(|(id, _)| **id >= self.turn);
                if let Some((id, link)) = next.or_else(|| usable().next()) {
                    send(*id, link);
                    self.turn = *id + 1;
                }
            }
        }
    }
}
