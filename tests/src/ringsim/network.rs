//! The links between the machines, and the datagrams on their way.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    net::SocketAddr,
};

use bytes::Bytes;

use super::{cluster::place, options::Weather};
use crate::sim::rng::Rng;

/// Datagrams that are kept for being sent again.
const CAPTURED_MAX: usize = 600;

/// A datagram.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) from: SocketAddr,
    /// Machine and socket; of a datagram to all, those of one receiver.
    pub(super) to: SocketAddr,
    pub(super) to_all: bool,
    pub(super) datagram: Bytes,
}

/// Something that happens at a time.
#[derive(Debug)]
pub(super) enum Happening {
    /// A datagram arrives.
    Arrival(Packet),
    /// A node has something to do.
    Wake(u32),
    /// A process of a node does something.
    Deed(u32, u32),
    /// The replica on a node runs.
    Replica(u32),
    /// Something goes wrong.
    Fault,
    /// Something is repaired.
    Repair(super::faults::Repair),
}

#[derive(Debug)]
struct Planned {
    at: u64,
    number: u64,
    happening: Happening,
}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Planned {}

/// What is going to happen, in order.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    heap: BinaryHeap<Planned>,
    number: u64,
}

impl Agenda {
    pub(super) fn plan(&mut self, at: u64, happening: Happening) {
        self.number += 1;
        let number = self.number;
        self.heap.push(Planned {
            at,
            number,
            happening,
        });
    }

    /// What comes next, if that is until `end`.
    pub(super) fn next(&mut self, end: u64) -> Option<(u64, Happening)> {
        if self.heap.peek()?.at > end {
            return None;
        }
        self.heap.pop().map(|next| (next.at, next.happening))
    }

    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }
}

/// Two nodes, in this direction, and a link.
pub(super) type Way = (u32, u32, u8);

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Network {
    pub(super) weather: Weather,
    /// Ways that nothing gets through.
    pub(super) cut: BTreeSet<Way>,
    /// Ways with the length of the longest datagram that gets through.
    pub(super) holes: BTreeMap<Way, usize>,
    captured: Vec<Packet>,
    sent: u64,
}

impl Network {
    pub(super) fn new(weather: Weather) -> Self {
        Self {
            weather,
            ..Self::default()
        }
    }

    /// Takes a datagram to a machine; what becomes of it is in the agenda.
    pub(super) fn send(&mut self, now: u64, packet: Packet, rng: &mut Rng, agenda: &mut Agenda) {
        self.sent += 1;
        let weather = self.weather;
        if rng.chance(weather.replay)
            && let Some(old) = self.old(rng)
        {
            agenda.plan(now + 1000 * rng.below(2000), Happening::Arrival(old));
        }
        self.capture(&packet, rng);
        let copies = 1 + u64::from(rng.chance(weather.duplicate));
        for _ in 0..copies {
            if rng.chance(weather.loss) {
                continue;
            }
            let mut delay = 10 + rng.below(weather.delay_us);
            if rng.chance(weather.slow) {
                delay *= 1 + rng.below(100);
            }
            agenda.plan(now + delay * 1000, Happening::Arrival(packet.clone()));
        }
    }

    /// Keeps the first, and of the later ones those that chance names.
    fn capture(&mut self, packet: &Packet, rng: &mut Rng) {
        if self.captured.len() < CAPTURED_MAX {
            self.captured.push(packet.clone());
        } else if self.sent.is_multiple_of(17) {
            let at = rng.index(CAPTURED_MAX);
            self.captured[at] = packet.clone();
        }
    }

    /// A datagram that was sent before.
    pub(super) fn old(&self, rng: &mut Rng) -> Option<Packet> {
        let at = rng.index(self.captured.len());
        self.captured.get(at).cloned()
    }

    /// Whether a datagram gets through, as the network is at this moment.
    pub(super) fn passes(&self, packet: &Packet) -> bool {
        let ((from, link), (to, _)) = (place(packet.from.ip()), place(packet.to.ip()));
        let way = (from, to, link);
        let hole = self.holes.get(&way);
        !self.cut.contains(&way) && hole.is_none_or(|longest| packet.datagram.len() <= *longest)
    }

    /// Ends all faults of the network.
    pub(super) fn heal(&mut self) {
        self.cut.clear();
        self.holes.clear();
        self.weather = Weather {
            delay_us: 200,
            ..Weather::default()
        };
    }
}
