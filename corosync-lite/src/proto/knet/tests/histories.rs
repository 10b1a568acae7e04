//! Random histories: whatever the network does, nothing is delivered twice or garbled, and once
//! it is well again everybody is reachable and messages arrive.

use std::collections::BTreeSet;

use bytes::Bytes;
use rand_core::RngCore;

use super::super::*;
use super::net::{Net, keyed, message};
use super::{MS, SECOND};

const NODES: u32 = 3;
const LINKS: u8 = 2;

struct History {
    net: Net,
    /// Everything that was ever sent, by its sender.
    sent: BTreeSet<(NodeId, Bytes)>,
    /// What each node got since it was started.
    got: BTreeMap<u32, BTreeSet<(NodeId, Bytes)>>,
    number: u32,
}

impl History {
    fn new(seed: u64) -> Self {
        let mut net = Net::new(NODES, LINKS, keyed());
        net.reseed(seed);
        net.run(SECOND);
        Self {
            net,
            sent: BTreeSet::new(),
            got: BTreeMap::new(),
            number: 0,
        }
    }

    fn below(&mut self, limit: u32) -> u32 {
        self.net.rng.next_u32() % limit
    }

    fn link(&mut self) -> u8 {
        u8::try_from(self.below(u32::from(LINKS))).unwrap()
    }

    fn send(&mut self, node: u32) {
        let len = usize::try_from(20 + self.below(9000)).unwrap();
        let mut bytes = message(0, len).to_vec();
        bytes[13..17].copy_from_slice(&self.number.to_le_bytes());
        self.number += 1;
        let payload = Bytes::from(bytes);
        self.sent.insert((NodeId(node), payload.clone()));
        self.net.send(node, Target::All, &payload).unwrap();
    }

    fn check(&mut self) {
        for node in 1..=NODES {
            for message in self.net.delivered(node) {
                assert!(self.sent.contains(&message), "garbled for {node}");
                let new = self.got.entry(node).or_default().insert(message);
                assert!(new, "delivered twice to {node}");
            }
        }
    }

    fn step(&mut self) {
        let node = 1 + self.below(NODES);
        match self.below(20) {
            0 => self.net.loss = f64::from(self.below(4)) / 10.0,
            1 => self.net.copies = f64::from(self.below(4)) / 10.0,
            2 => self.net.jitter = MS * self.below(40),
            3 => {
                let link = self.link();
                let other = 1 + node % NODES;
                self.net.cut(node, other, link);
            }
            4 => {
                let link = self.link();
                self.net.refuse(node, link);
            }
            5 => self.net.heal(),
            6 => self.net.path_mtu = [300, 600, 1000, 1500][self.below(4) as usize],
            7 => {
                let modes = [LinkMode::Passive, LinkMode::Active, LinkMode::RoundRobin];
                let mode = modes[self.below(3) as usize];
                self.net.knet(node).set_link_mode(mode);
            }
            8 => {
                self.net.restart(node, keyed());
                self.got.remove(&node);
            }
            9 => {
                for _ in 0..100 {
                    let count = u32::try_from(self.net.record.len()).unwrap();
                    let index = self.below(count) as usize;
                    let sent = self.net.record[index].clone();
                    // A node that was started again does not remember what came before.
                    if sent.at >= self.net.started(sent.to) {
                        self.net.arrive(&sent);
                    }
                }
            }
            _ => self.send(node),
        }
        let time = MS * self.below(300);
        self.net.run(time);
        self.check();
    }

    fn recover(&mut self) {
        self.net.heal();
        (self.net.loss, self.net.copies) = (0.0, 0.0);
        self.net.path_mtu = 1500;
        self.net.run(20 * SECOND);
        self.check();
        let before: usize = self.got.values().map(BTreeSet::len).sum();
        for node in 1..=NODES {
            self.send(node);
        }
        self.net.run(SECOND);
        self.check();
        let after: usize = self.got.values().map(BTreeSet::len).sum();
        assert_eq!(after - before, 9);
    }
}

#[test]
fn random_histories_deliver_once_and_recover() {
    for seed in 0..60 {
        // The captured output of a failed test ends with the seed to blame.
        println!("seed {seed}");
        let mut history = History::new(seed);
        for _ in 0..80 {
            history.step();
        }
        history.recover();
    }
}
