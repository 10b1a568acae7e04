//! The multi-link transport, without I/O.
//!
//! [`Knet`] carries messages of the ring to other nodes over up to eight links each: it seals them,
//! cuts them to the size that the paths carry, chooses links, finds out which links work and how
//! large packets may be, and on the other side checks, opens, filters and joins them again. The
//! user owns the sockets, the clock and the randomness: it calls a `handle_*` method or
//! [`Knet::send`] and then drains [`Knet::poll_transmit`] and [`Knet::poll_event`], and calls
//! [`Knet::handle_timeout`] when [`Knet::poll_timeout`] says so.
//!
//! Delivery is neither reliable nor ordered, and a host that is not reachable gets nothing.
//!
//! Invariants: a datagram is looked into only after it is found authentic; what one host sends
//! never makes this node keep more than a fixed amount of memory (see `defrag.rs`); a datagram that
//! was accepted is not accepted again as long as it is remembered.

#![warn(clippy::indexing_slicing)]

mod config;
mod defrag;
mod host;
mod link;
mod outbox;
mod pmtud;
mod reconfigure;
pub mod seal;
mod stats;
#[cfg(test)]
mod tests;
mod unread;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

pub use config::{Addresses, Config, ConfigError, MAX_LINKS};
pub use defrag::MAX_MESSAGE_LEN;
pub use host::LinkMode;
pub use link::{LinkConfig, LinkDownReason};
pub use outbox::{Purpose, Transmit};
pub use stats::{Amount, Discard, Drops, Latencies, LinkStatus, Stats, Traffic};
#[cfg(test)]
pub(in crate::proto) use tests::base as tests_base;

use crate::wire::NodeId;
use crate::wire::knet::{Body, DataHeader, MAX_FRAGMENTS, Packet, Ping, Pmtud};
use config::{check_link, wire_id};
use defrag::Fingerprint;
use host::Host;
use link::{Link, PingTime};
use outbox::{Destination, Outbox, overhead};
use seal::{MadeWith, Seal};
use unread::Unread;

/// Peers lose track of the numbers of a sender that never pings; so pings are sent also after
/// this many messages.
const FORCED_PING_EVERY: u16 = 8191;
/// A timeout that is handled this late means that the process did not run.
const PAUSE: Duration = Duration::from_millis(200);
/// Where the ring's header has the node that a message is for.
const TARGET: std::ops::Range<usize> = 9..13;
/// Fits a path of the smallest size under the largest seal.
const FALLBACK_DATA_ROOM: usize = 400;

/// Who gets a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// All reachable hosts and this node.
    All,
    /// All reachable hosts.
    Others,
    /// One node, possibly this one.
    Node(NodeId),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A message came, possibly from this node itself.
    Deliver {
        /// Node that sent it.
        from: NodeId,
        /// Its content.
        payload: Bytes,
    },
    /// Pongs come on a link.
    LinkUp {
        /// Host at its other end.
        host: NodeId,
        /// Number of the link.
        link: u8,
    },
    /// A link does not work any more.
    LinkDown {
        /// Host at its other end.
        host: NodeId,
        /// Number of the link.
        link: u8,
        /// How that was noticed.
        reason: LinkDownReason,
    },
    /// A host has its first usable link.
    HostUp(NodeId),
    /// A host has lost its last usable link.
    HostDown(NodeId),
    /// A host sends messages with the keys that were prepared, and this node does not yet. Told
    /// once for each change of keys.
    NextKeysUsed(NodeId),
}

/// Why a message was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// It is larger than peers can receive.
    #[error("message of {len} bytes is larger than the {MAX_MESSAGE_LEN} that peers can receive")]
    TooLarge {
        /// Its bytes.
        len: usize,
    },
    /// It is for a node that is not configured.
    #[error("node {0} is not in the node list")]
    UnknownHost(NodeId),
}

/// What the kernel said to a datagram, when it was sent or later through the error queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendFailure {
    /// It is too large for this host (EMSGSIZE).
    TooLarge {
        /// Largest IP packet that the kernel would take, if it says so.
        mtu: Option<u16>,
    },
    /// This host can not send on the link: its interface, route or address are gone (ENETDOWN,
    /// ENETUNREACH, EHOSTUNREACH, EADDRNOTAVAIL).
    LinkUnusable,
    /// Somebody on the way or the peer's host says that it did not arrive (ICMP): anyone could.
    Reported,
    /// Somebody on the way says that it was too large (ICMP): anyone could.
    ReportedTooLarge,
    /// A passing condition (EAGAIN, ENOBUFS), or one that says nothing about the link.
    Other,
}

/// The transport.
#[derive(Debug)]
pub struct Knet {
    local: NodeId,
    link_mode: LinkMode,
    link_configs: BTreeMap<u8, LinkConfig>,
    pmtud_interval: Duration,
    fixed_mtu: Option<u16>,
    hosts: BTreeMap<NodeId, Host>,
    outbox: Outbox,
    events: VecDeque<Event>,
    stats: Stats,
    /// Monotonic time of the machine at `epoch`. Only for the pings.
    clock: Duration,
    epoch: Instant,
    data_room: usize,
    deadline: Option<Instant>,
    opened: Vec<u8>,
    unread: Unread,
    /// [`Event::NextKeysUsed`] was told.
    next_keys_used: bool,
}

impl Knet {
    /// Starts with all links down.
    ///
    /// `seed` is the randomness for salts and has to be unpredictable to others. `clock` is the
    /// machine's monotonic time, which must not repeat when the program starts again.
    ///
    /// # Errors
    /// When node ids, link numbers or timers do not fit.
    pub fn new(
        config: Config,
        seed: [u8; 32],
        clock: Duration,
        now: Instant,
    ) -> Result<Self, ConfigError> {
        for (number, link) in &config.links {
            check_link(*number, link)?;
        }
        let seal = Seal::new(config.suite, seed);
        let mut knet = Self {
            local: config.local,
            link_mode: config.link_mode,
            link_configs: config.links,
            pmtud_interval: config.pmtud_interval,
            fixed_mtu: config.fixed_mtu,
            hosts: BTreeMap::new(),
            outbox: Outbox::new(wire_id(config.local)?, seal),
            events: VecDeque::new(),
            stats: Stats::default(),
            clock,
            epoch: now,
            data_room: FALLBACK_DATA_ROOM,
            deadline: Some(now),
            opened: Vec::new(),
            unread: Unread::default(),
            next_keys_used: false,
        };
        for (host, addresses) in config.hosts {
            knet.set_host(now, host, &addresses)?;
        }
        Ok(knet)
    }

    /// Takes a datagram that came from `from`.
    ///
    /// # Errors
    /// Why it was dropped. That is counted; there is nothing to do.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        from: IpAddr,
        datagram: &[u8],
    ) -> Result<(), Discard> {
        self.stats.received += 1;
        let from = from.to_canonical();
        let mut opened = std::mem::take(&mut self.opened);
        let result = self.open_datagram(now, from, datagram, &mut opened);
        self.opened = opened;
        if result == Err(Discard::Unauthentic) {
            self.unread.keep(now, from, datagram);
        }
        if let Err(reason) = result {
            self.stats.drops.count(reason);
        }
        result
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let Some(deadline) = self.deadline.filter(|deadline| *deadline <= now) else {
            return;
        };
        let late = now.saturating_duration_since(deadline);
        if late >= PAUSE {
            // Who did not run did not hear: that says nothing about the links.
            let links = self.hosts.values_mut().flat_map(|it| it.links.values_mut());
            links.for_each(|link| link.excuse(late));
        }
        self.run_links(now);
    }

    /// Takes note that the kernel refused a datagram.
    pub fn handle_send_failure(&mut self, now: Instant, sent: &Transmit, failure: SendFailure) {
        self.stats.send_failures += 1;
        let host = self.hosts.get_mut(&sent.host);
        let Some(link) = host.and_then(|host| host.links.get_mut(&sent.link)) else {
            return;
        };
        link.traffic.of_purpose(sent.purpose).refused += 1;
        match failure {
            SendFailure::Other => return,
            SendFailure::TooLarge { mtu } => {
                let probe = match sent.purpose {
                    Purpose::Probe(size) => Some(size),
                    _ => None,
                };
                link.pmtud.handle_too_large(now, probe, mtu);
            }
            SendFailure::Reported => link.doubt(now),
            SendFailure::ReportedTooLarge => link.pmtud.handle_report(now),
            SendFailure::LinkUnusable => {
                if link.take_down(now) {
                    self.events.push_back(Event::LinkDown {
                        host: sent.host,
                        link: sent.link,
                        reason: LinkDownReason::SendFailed,
                    });
                }
            }
        }
        self.run_links(now);
    }

    /// Sends a message to who is reachable of `target`, this node included.
    ///
    /// # Errors
    /// When it is too large or for nobody that is known. A host that is not reachable is no error.
    pub fn send(&mut self, now: Instant, target: Target, payload: &Bytes) -> Result<(), SendError> {
        if payload.len() > MAX_MESSAGE_LEN {
            return Err(SendError::TooLarge { len: payload.len() });
        }
        if let Target::Node(node) = target
            && node != self.local
            && !self.hosts.contains_key(&node)
        {
            return Err(SendError::UnknownHost(node));
        }
        if target == Target::All || target == Target::Node(self.local) {
            self.events.push_back(Event::Deliver {
                from: self.local,
                payload: payload.clone(),
            });
        }
        if target != Target::Node(self.local) {
            self.send_to_others(now, target, payload);
        }
        Ok(())
    }

    /// The next datagram to send.
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        let transmit = self.outbox.pop()?;
        let host = self.hosts.get_mut(&transmit.host);
        if let Some(link) = host.and_then(|host| host.links.get_mut(&transmit.link)) {
            let amount = link.traffic.of_purpose(transmit.purpose);
            amount.sent += 1;
            amount.sent_bytes += byte_count(&transmit.datagram);
        }
        Some(transmit)
    }

    /// The next thing that happened.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Knet::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// Sets counters to zero.
    pub fn clear_stats(&mut self) {
        self.stats = Stats::default();
        for link in self.hosts.values_mut().flat_map(|it| it.links.values_mut()) {
            link.clear_stats();
        }
    }

    /// Counters since the start, or since they were cleared.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Every link to every host.
    pub fn links(&self) -> impl Iterator<Item = LinkStatus> + '_ {
        self.hosts.iter().flat_map(|(host, state)| {
            state.links.iter().map(|(number, link)| LinkStatus {
                host: *host,
                link: *number,
                remote: link.remote,
                up: link.is_up(),
                usable: link.is_usable(),
                latency: link.latency(),
                mtu: link.pmtud.mtu(),
                data_room: data_room(&self.outbox.seal, link),
                ups: link.ups(),
                downs: link.downs(),
                traffic: link.traffic,
                latencies: link.latencies,
            })
        })
    }

    /// Whether a message to this host would be sent.
    #[must_use]
    pub fn is_reachable(&self, host: NodeId) -> bool {
        host == self.local || self.hosts.get(&host).is_some_and(|host| host.reachable)
    }

    /// Bytes of a message per datagram at present.
    #[must_use]
    pub fn data_room(&self) -> usize {
        self.data_room
    }

    fn open_datagram(
        &mut self,
        now: Instant,
        from: IpAddr,
        datagram: &[u8],
        opened: &mut Vec<u8>,
    ) -> Result<(), Discard> {
        // Before the costly check, so that a flood from elsewhere costs little.
        if !self.hosts.values().any(|host| host.has_address(from)) {
            return Err(Discard::UnknownSource);
        }
        let made_with = self.outbox.seal.open(datagram, opened);
        let made_with = made_with.ok_or(Discard::Unauthentic)?;
        let packet = Packet::decode(opened).map_err(|_| Discard::Malformed)?;
        if packet.node == self.outbox.local {
            return Err(Discard::Own);
        }
        let node = NodeId(u32::from(packet.node));
        let host = self.hosts.get_mut(&node).ok_or(Discard::UnknownHost)?;
        host.count_received(from, &packet.body, byte_count(datagram));
        self.stats.opened += u64::from(self.outbox.seal.is_keyed());
        let fingerprint = Fingerprint::of(datagram);
        match packet.body {
            Body::Data(header, payload) => {
                if !host.has_address(from) {
                    return Err(Discard::WrongSource);
                }
                let message = receive_data(now, host, fingerprint, &header, payload)?;
                if made_with == MadeWith::Next && !self.next_keys_used {
                    self.next_keys_used = true;
                    self.events.push_back(Event::NextKeysUsed(node));
                }
                self.deliver(node, message)
            }
            Body::Ping(ping) => {
                let destination = control_link(node, host, ping.link, from)?;
                if !host.recent.insert(fingerprint) {
                    return Err(Discard::Duplicate);
                }
                let is_sooner = host.handle_ping(now, &ping);
                self.outbox.pong(&mut self.stats, destination, ping);
                if is_sooner {
                    self.run_links(now);
                }
                Ok(())
            }
            Body::Pong(ping) => self.handle_pong(now, node, from, ping),
            Body::PmtudProbe { pmtud, .. } => {
                let destination = control_link(node, host, pmtud.link, from)?;
                self.outbox.probe_reply(&mut self.stats, destination, pmtud);
                Ok(())
            }
            Body::PmtudReply(pmtud) => self.handle_probe_reply(now, node, from, pmtud),
        }
    }

    fn deliver(&mut self, from: NodeId, message: Option<Bytes>) -> Result<(), Discard> {
        let Some(payload) = message else {
            return Ok(());
        };
        let target = payload
            .get(TARGET)
            .and_then(|target| target.try_into().ok())
            .map(|target| NodeId(u32::from_le_bytes(target)))
            .ok_or(Discard::Malformed)?;
        if target != NodeId::NONE && target != self.local {
            return Err(Discard::NotForUs);
        }
        self.stats.delivered += 1;
        self.events.push_back(Event::Deliver { from, payload });
        Ok(())
    }

    fn handle_pong(
        &mut self,
        now: Instant,
        node: NodeId,
        from: IpAddr,
        ping: Ping,
    ) -> Result<(), Discard> {
        let host = self.hosts.get_mut(&node).ok_or(Discard::UnknownHost)?;
        control_link(node, host, ping.link, from)?;
        let link = host.links.get_mut(&ping.link);
        let link = link.ok_or(Discard::UnknownLink)?;
        let came_up = link.handle_pong(now, ping.time)?;
        if came_up {
            self.events.push_back(Event::LinkUp {
                host: node,
                link: ping.link,
            });
            self.run_links(now);
        } else {
            // The pong is not late any more: no need to wake up for it.
            self.refresh(now);
        }
        Ok(())
    }

    fn handle_probe_reply(
        &mut self,
        now: Instant,
        node: NodeId,
        from: IpAddr,
        pmtud: Pmtud,
    ) -> Result<(), Discard> {
        let host = self.hosts.get_mut(&node).ok_or(Discard::UnknownHost)?;
        control_link(node, host, pmtud.link, from)?;
        let link = host.links.get_mut(&pmtud.link);
        let link = link.ok_or(Discard::UnknownLink)?;
        link.pmtud
            .handle_reply(now, pmtud.size)
            .ok_or(Discard::Unasked)?;
        self.run_links(now);
        Ok(())
    }

    fn send_to_others(&mut self, now: Instant, target: Target, payload: &Bytes) {
        let wanted = |node: NodeId| match target {
            Target::All | Target::Others => true,
            Target::Node(one) => one == node,
        };
        let mut hosts = self.hosts.iter();
        if !hosts.any(|(node, host)| wanted(*node) && host.reachable) {
            // Takes no number: peers tell a node that starts again by its low numbers.
            self.stats.unreachable += 1;
            return;
        }
        self.stats.sent += 1;
        let seq = self.outbox.next_seq();
        let room = self
            .data_room
            .max(payload.len().div_ceil(usize::from(MAX_FRAGMENTS)));
        let count = payload.len().div_ceil(room).max(1);
        let fragments = u8::try_from(count).unwrap_or(MAX_FRAGMENTS);
        let mut datagrams = Vec::with_capacity(count);
        for number in 1..=fragments {
            let start = usize::from(number - 1) * room;
            let end = payload.len().min(start + room);
            let header = DataHeader {
                seq,
                compression: 0,
                broadcast: !matches!(target, Target::Node(_)),
                fragments,
                fragment: if fragments == 1 { 0 } else { number },
                channel: 0,
            };
            let fragment = payload.get(start..end).unwrap_or_default();
            let Some(datagram) = self.outbox.data(&mut self.stats, header, fragment) else {
                return;
            };
            datagrams.push(datagram);
        }
        for (node, host) in &mut self.hosts {
            if !wanted(*node) || !host.reachable {
                continue;
            }
            // In a row for each host: so they can be handed to the kernel as one.
            for datagram in &datagrams {
                host.choose(self.link_mode, |link_number, link| {
                    let to = Destination::new(*node, link_number, link);
                    self.outbox
                        .push(&mut self.stats, to, Purpose::Data, datagram.clone());
                });
            }
        }
        if seq.is_multiple_of(FORCED_PING_EVERY) {
            self.ping_all(now);
        }
    }

    fn ping_all(&mut self, now: Instant) {
        let time = self.ping_time(now);
        for (node, host) in &mut self.hosts {
            for (number, link) in &mut host.links {
                let to = Destination::new(*node, *number, link);
                self.outbox
                    .ping(&mut self.stats, to, link, now, time, false);
            }
        }
    }

    /// Monotonic time as peers have it in their pings: seconds and nanoseconds.
    fn ping_time(&self, now: Instant) -> PingTime {
        let clock = self.clock + now.saturating_duration_since(self.epoch);
        let mut time = [0; 16];
        let (seconds, nanoseconds) = time.split_at_mut(8);
        seconds.copy_from_slice(&clock.as_secs().to_le_bytes());
        nanoseconds.copy_from_slice(&u64::from(clock.subsec_nanos()).to_le_bytes());
        time
    }

    /// Takes down, pings and probes what is due.
    fn run_links(&mut self, now: Instant) {
        let time = self.ping_time(now);
        for (node, host) in &mut self.hosts {
            for (number, link) in &mut host.links {
                let to = Destination::new(*node, *number, link);
                if link.handle_timeout(now) {
                    self.events.push_back(Event::LinkDown {
                        host: *node,
                        link: *number,
                        reason: LinkDownReason::NoPong,
                    });
                }
                if link.ping_due(now) {
                    self.outbox.ping(&mut self.stats, to, link, now, time, true);
                }
                let wait = link.probe_wait();
                while let Some(action) = link.pmtud.handle_timeout(now, wait) {
                    if let pmtud::Action::Probe(size) = action {
                        self.outbox.probe(&mut self.stats, to, size);
                    }
                }
            }
        }
        self.refresh(now);
    }

    /// Brings up to date what follows from the state of the links.
    fn refresh(&mut self, now: Instant) {
        let mut room: Option<usize> = None;
        let mut deadline: Option<Instant> = None;
        for (node, host) in &mut self.hosts {
            let reachable = host.is_reachable();
            if reachable != host.reachable {
                host.reachable = reachable;
                host.defrag.clear();
                self.events.push_back(if reachable {
                    Event::HostUp(*node)
                } else {
                    Event::HostDown(*node)
                });
            }
            for link in host.links.values() {
                let next = link.deadline(now);
                deadline = Some(deadline.map_or(next, |deadline| deadline.min(next)));
                if link.is_usable() {
                    let fits = data_room(&self.outbox.seal, link);
                    room = Some(room.map_or(fits, |room| room.min(fits)));
                }
            }
        }
        self.data_room = room.unwrap_or(FALLBACK_DATA_ROOM).max(1);
        self.deadline = deadline;
    }
}

fn byte_count(datagram: &[u8]) -> u64 {
    u64::try_from(datagram.len()).unwrap_or(u64::MAX)
}

/// Bytes of a message per datagram on this link.
fn data_room(seal: &Seal, link: &Link) -> usize {
    let datagram = usize::from(link.pmtud.mtu()).saturating_sub(overhead(link.remote));
    seal.data_room(datagram)
}

/// The link on which a control packet has to be answered.
fn control_link(
    node: NodeId,
    host: &Host,
    number: u8,
    from: IpAddr,
) -> Result<Destination, Discard> {
    let link = host.links.get(&number).ok_or(Discard::UnknownLink)?;
    if link.remote.ip() != from {
        return Err(Discard::WrongSource);
    }
    Ok(Destination::new(node, number, link))
}

/// A message that is complete with this packet.
fn receive_data(
    now: Instant,
    host: &mut Host,
    fingerprint: Fingerprint,
    header: &DataHeader,
    payload: &[u8],
) -> Result<Option<Bytes>, Discard> {
    if !host.reachable {
        return Err(Discard::Unreachable);
    }
    if header.channel != 0 {
        return Err(Discard::UnknownChannel);
    }
    if header.compression != 0 {
        return Err(Discard::Compressed);
    }
    if !host.recent.insert(fingerprint) {
        return Err(Discard::Duplicate);
    }
    host.note_sent(now);
    if header.fragments == 1 {
        return Ok(Some(Bytes::copy_from_slice(payload)));
    }
    let message = host.defrag.insert(now, header, payload)?;
    Ok(message.map(Bytes::from))
}
