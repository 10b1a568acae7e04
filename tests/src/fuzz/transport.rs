//! The transport, with a peer that holds the key and means ill, and the real peer behind it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use corosync_lite::proto::knet::seal::{Cipher, Hash, Seal, Suite};
use corosync_lite::proto::knet::{
    Config, Event, Knet, LinkConfig, LinkMode, SendFailure, Target, Transmit,
};
use corosync_lite::wire::NodeId;

use super::clock::Timed;
use super::input::{Fields, Shape, Step, steps};
use crate::wait::now;

const LINKS: u8 = 2;
/// Datagrams that two nodes may send without time going by; more is a storm.
const STORM: usize = 20_000;
/// After so long without faults everything works again.
const HEALED: Duration = Duration::from_secs(20);
/// Datagrams that are kept for sending them again.
const RECORD_MAX: usize = 512;

/// Encrypted datagrams.
pub(super) fn sealed(input: &[u8]) -> u64 {
    let key: Vec<u8> = (0..=255).collect();
    run(input, || {
        Suite::new(Cipher::Aes256, Hash::Sha256, &key).expect("a good key")
    })
}

/// Datagrams in the clear.
pub(super) fn open(input: &[u8]) -> u64 {
    run(input, || Suite::Clear)
}

fn run(input: &[u8], suite: impl Fn() -> Suite) -> u64 {
    let mut pair = Pair::new(&suite);
    pair.pass(Duration::from_secs(5));
    pair.assert_reachable("at the start");
    for step in steps(input).into_iter().take(400) {
        pair.take(&step);
    }
    pair.pass(HEALED);
    pair.assert_reachable("after the faults");
    pair.outcome.note(&"talk");
    pair.assert_talking();
    pair.outcome.finish()
}

/// Node 1 is under test, node 2 is its honest peer.
struct Pair {
    now: Instant,
    knets: BTreeMap<u32, Knet>,
    hostile: Seal,
    record: Vec<Bytes>,
    last: Option<Transmit>,
    delivered: usize,
    outcome: Shape,
}

impl Pair {
    fn new(suite: &impl Fn() -> Suite) -> Self {
        let now = now();
        let knet = |local: u32| {
            let config = config(local, suite());
            Knet::new(config, [9; 32], Duration::from_secs(1000), now).expect("a good config")
        };
        Self {
            now,
            knets: [1, 2].map(|id| (id, knet(id))).into(),
            hostile: Seal::new(suite(), [3; 32]),
            record: Vec::new(),
            last: None,
            delivered: 0,
            outcome: Shape::default(),
        }
    }

    fn knet(&mut self, id: u32) -> &mut Knet {
        self.knets.get_mut(&id).expect("one of two")
    }

    fn take(&mut self, step: &Step) {
        let mut fields = Fields(&step.bytes);
        match step.op % 9 {
            link @ 0..=1 => self.inject_sealed(link, &step.bytes),
            2 => self.inject(0, &step.bytes),
            3 => self.pass(Duration::from_millis(fields.short().into())),
            op @ 4..=5 => {
                let mut payload = step.bytes.clone();
                // What the transport looks at: who it is for.
                payload.resize(payload.len().max(13), 0);
                payload[9..13].fill(0);
                let (now, id) = (self.now, u32::from(6 - op));
                let sent = self.knet(id).send(now, Target::All, &payload.into());
                self.outcome.note(&sent);
                self.settle();
            }
            6 => {
                if let Some(old) = self.record.get(fields.index(self.record.len())) {
                    let mut datagram = old.to_vec();
                    fields.patch(&mut datagram);
                    self.inject(0, &datagram);
                }
            }
            7 => {
                let mut packet = Vec::new();
                let old = self.record.get(fields.index(self.record.len()));
                if old.is_some_and(|old| self.hostile.open(old, &mut packet).is_some()) {
                    fields.patch(&mut packet);
                    self.inject_sealed(0, &packet);
                }
            }
            _ => self.fail_sending(fields),
        }
    }

    fn inject_sealed(&mut self, link: u8, packet: &[u8]) {
        let mut datagram = Vec::new();
        let write = |out: &mut Vec<u8>| out.extend_from_slice(packet);
        if self.hostile.seal(&mut datagram, write).is_ok() {
            self.inject(link, &datagram);
        }
    }

    fn inject(&mut self, link: u8, datagram: &[u8]) {
        let (now, from) = (self.now, address(2, link).ip());
        let result = self.knet(1).handle_datagram(now, from, datagram);
        self.outcome.note(&result);
        self.settle();
    }

    fn fail_sending(&mut self, mut fields: Fields<'_>) {
        let Some(sent) = self.last.clone() else {
            return;
        };
        let failure = match fields.byte() % 5 {
            0 => SendFailure::LinkUnusable,
            1 => SendFailure::Other,
            2 => SendFailure::Reported,
            4 => SendFailure::ReportedTooLarge,
            _ => SendFailure::TooLarge {
                mtu: Some(fields.short()).filter(|mtu| *mtu != 0),
            },
        };
        let now = self.now;
        self.knet(1).handle_send_failure(now, &sent, failure);
        self.settle();
    }

    /// Carries everything that is to be sent, until nothing is.
    fn settle(&mut self) {
        let mut carried = 0;
        while let Some((from, sent)) = self.next_transmit() {
            carried += 1;
            assert!(carried < STORM, "two nodes send without an end");
            if from == 1 && self.record.len() < RECORD_MAX {
                self.record.push(sent.datagram.clone());
            }
            let (now, source) = (self.now, address(from, sent.link).ip());
            let to = self.knet(3 - from);
            // Hostile datagrams may have made it unwelcome.
            let result = to.handle_datagram(now, source, &sent.datagram);
            if let Err(discard) = result {
                self.outcome.note(&discard);
            }
            self.last = Some(sent);
        }
        for id in [1, 2] {
            while let Some(event) = self.knet(id).poll_event() {
                match event {
                    Event::Deliver { from, .. } if id == 1 && from == NodeId(2) => {
                        self.delivered += 1;
                    }
                    Event::Deliver { .. } => {}
                    other => self.outcome.note(&other),
                }
            }
        }
    }

    fn next_transmit(&mut self) -> Option<(u32, Transmit)> {
        self.knets
            .iter_mut()
            .find_map(|(id, knet)| Some((*id, knet.poll_transmit()?)))
    }

    fn assert_reachable(&self, when: &str) {
        for (id, knet) in &self.knets {
            let links: Vec<_> = knet.links().collect();
            let other = NodeId(3 - id);
            assert!(knet.is_reachable(other), "{when}, node {id}: {links:?}");
        }
    }

    /// Messages of the peer arrive again: those whose numbers a forger has used up are dropped
    /// until pings have told the new ones.
    fn assert_talking(&mut self) {
        let before = self.delivered;
        for _ in 0..3 {
            let now = self.now;
            let payload = Bytes::from(vec![0; 4000]);
            let sent = self.knet(2).send(now, Target::All, &payload);
            assert_eq!(sent, Ok(()));
            self.pass(Duration::from_secs(2));
        }
        assert!(self.delivered > before, "nothing is delivered any more");
    }
}

impl Timed for Pair {
    fn now(&mut self) -> &mut Instant {
        &mut self.now
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.knets.values().filter_map(Knet::poll_timeout).min()
    }

    fn handle_timeout(&mut self, now: Instant) {
        for knet in self.knets.values_mut() {
            knet.handle_timeout(now);
        }
        self.settle();
    }
}

fn config(local: u32, suite: Suite) -> Config {
    let addresses = |node| (0..LINKS).map(|link| (link, address(node, link))).collect();
    let link = LinkConfig {
        ping_interval: Duration::from_millis(750),
        ping_timeout: Duration::from_millis(1500),
        pong_count: 2,
        ping_precision: 2048,
        priority: 1,
    };
    Config {
        local: NodeId(local),
        link_mode: LinkMode::Passive,
        links: (0..LINKS).map(|number| (number, link)).collect(),
        hosts: [(NodeId(3 - local), addresses(3 - local))].into(),
        pmtud_interval: Duration::from_secs(30),
        fixed_mtu: None,
        suite,
    }
}

fn address(node: u32, link: u8) -> SocketAddr {
    let node = u8::try_from(node).unwrap_or(u8::MAX);
    SocketAddr::from(([10, 0, link, node], 5405 + u16::from(link)))
}
