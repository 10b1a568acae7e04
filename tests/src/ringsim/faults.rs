//! What goes wrong, and when it ends.

use bytes::Bytes;
use corosync_lite::{
    proto::node::{Request, Service, Stored},
    service::cfg,
};

use super::{
    cluster::{address, place},
    member::Owner,
    network::{Happening, Packet, Way},
    options::{Fault, Weather, draw_weather},
    world::{MS, World},
};

/// The end of a fault.
#[derive(Debug)]
pub(super) enum Repair {
    /// A daemon starts.
    Boot(u32),
    /// A daemon that said goodbye is gone.
    Finish(u32),
    /// A daemon goes on.
    GoOn(u32),
    /// Ways work again.
    Mend(Vec<Way>),
    /// Ways carry long datagrams again.
    Fill(Vec<Way>),
    /// The system sends again on a link.
    Usable(u32, u8),
    /// The network is as it was.
    Calm,
}

impl World {
    /// Something goes wrong, and something else is going to.
    pub(super) fn inject(&mut self) {
        if !self.busy || self.options.faults.is_empty() {
            return;
        }
        let gap = MS * self.rng.between(1, 2 * self.options.fault_gap_ms);
        self.agenda.plan(self.now + gap, Happening::Fault);
        let fault = *self.rng.pick(&self.options.faults);
        let id = 1 + u32::try_from(self.rng.below(self.options.nodes.into())).unwrap_or(0);
        self.journal
            .say(self.now, id, format_args!("fault: {fault:?}"));
        self.cause(fault, id);
    }

    /// Something goes wrong on a node.
    fn cause(&mut self, fault: Fault, id: u32) {
        match fault {
            Fault::Partition => self.partition(),
            Fault::OneWay => self.one_way(id),
            Fault::LinkCut => self.cut_link(id),
            Fault::MtuHole => self.mtu_hole(id),
            Fault::LinkUnusable => {
                let link = self.some_link();
                self.member(id).unusable.insert(link);
                self.later(8000, Repair::Usable(id, link));
            }
            Fault::Storm => {
                let forgets = self.options.has(Fault::CrashAndForget);
                let weather = Weather {
                    loss: self.rng.below(500),
                    slow: self.rng.below(100),
                    ..draw_weather(&mut self.rng)
                };
                self.network.weather = weather.of_rings_that_come_again(forgets);
                self.later(3000, Repair::Calm);
            }
            Fault::Crash | Fault::CrashAndForget => self.kill(fault, id),
            Fault::Leave => {
                if self.member(id).awake().is_some() {
                    self.leave(id);
                }
            }
            Fault::Pause => {
                let member = self.member(id);
                member.paused = member.node.is_some();
                let most = if self.rng.chance(500) { 500 } else { 10_000 };
                self.later(most, Repair::GoOn(id));
            }
            Fault::Replay => self.replay(),
            Fault::Garbage => self.garbage(id),
            Fault::Reload => self.change_files(id),
            Fault::Burst => {
                if self.member(id).awake().is_some() {
                    for slot in self.member(id).slots() {
                        self.send_some(id, slot, 60);
                    }
                }
            }
            Fault::KillClients => {
                if self.member(id).awake().is_some() {
                    for slot in self.member(id).slots() {
                        self.die(id, slot);
                    }
                }
            }
        }
    }

    fn later(&mut self, within_ms: u64, repair: Repair) {
        let at = self.now + MS * self.rng.between(1, within_ms);
        self.agenda.plan(at, Happening::Repair(repair));
    }

    /// A fault ends.
    pub(super) fn repair(&mut self, repair: Repair) {
        match repair {
            Repair::Boot(id) => self.boot(id),
            Repair::Finish(id) => self.crash(id),
            Repair::GoOn(id) => self.go_on(id),
            Repair::Mend(ways) => {
                for way in ways {
                    self.network.cut.remove(&way);
                }
                self.journal.say(self.now, 0, format_args!("ways work"));
            }
            Repair::Fill(ways) => {
                for way in ways {
                    self.network.holes.remove(&way);
                }
            }
            Repair::Usable(id, link) => {
                self.member(id).unusable.remove(&link);
            }
            Repair::Calm if self.busy => self.network.weather = self.options.weather,
            Repair::Calm => {}
        }
    }

    fn some_link(&mut self) -> u8 {
        let links = u64::from(self.cluster.links);
        u8::try_from(self.rng.below(links)).unwrap_or(0)
    }

    fn cut(&mut self, ways: Vec<Way>, within_ms: u64) {
        self.network.cut.extend(ways.iter().copied());
        self.later(within_ms, Repair::Mend(ways));
    }

    fn partition(&mut self) {
        let sides: Vec<u64> = (0..self.options.nodes).map(|_| self.rng.below(2)).collect();
        let mut ways = Vec::new();
        for a in 1..=self.options.nodes {
            for b in 1..=self.options.nodes {
                if sides[Self::at(a)] != sides[Self::at(b)] {
                    ways.extend((0..self.cluster.links).map(|link| (a, b, link)));
                }
            }
        }
        self.journal
            .say(self.now, 0, format_args!("sides {sides:?}"));
        self.cut(ways, 15_000);
    }

    fn one_way(&mut self, id: u32) {
        let some = self.rng.chance(500);
        let hears = self.rng.chance(500);
        let mut ways = Vec::new();
        for other in (1..=self.options.nodes).filter(|other| *other != id) {
            if some && self.rng.chance(500) {
                continue;
            }
            let (from, to) = if hears { (id, other) } else { (other, id) };
            ways.extend((0..self.cluster.links).map(|link| (from, to, link)));
        }
        self.journal.say(self.now, id, format_args!("cut {ways:?}"));
        self.cut(ways, 10_000);
    }

    fn ways_of(&mut self, id: u32) -> Vec<Way> {
        let link = self.some_link();
        let one = self.rng.chance(500);
        let chosen = 1 + u32::try_from(self.rng.below(self.options.nodes.into())).unwrap_or(0);
        let others = (1..=self.options.nodes).filter(|other| *other != id);
        let others = others.filter(|other| !one || *other == chosen);
        others
            .flat_map(|other| [(id, other, link), (other, id, link)])
            .collect()
    }

    fn cut_link(&mut self, id: u32) {
        let ways = self.ways_of(id);
        self.cut(ways, 10_000);
    }

    fn mtu_hole(&mut self, id: u32) {
        if self.options.transport != super::options::Transport::Knet {
            return;
        }
        let longest = usize::try_from(self.rng.between(600, 1450)).unwrap_or(1000);
        let ways = self.ways_of(id);
        let holes = ways.iter().map(|way| (*way, longest));
        self.network.holes.extend(holes);
        self.later(10_000, Repair::Fill(ways));
    }

    fn kill(&mut self, fault: Fault, id: u32) {
        if fault == Fault::Crash && self.rng.chance(500) {
            // In the middle of its next deeds.
            let after = self.rng.below(60);
            self.member(id).dies_after = Some(after);
        } else {
            self.crash(id);
        }
        if fault == Fault::CrashAndForget {
            let member = self.member(id);
            member.stored = Stored::default();
            member.installed_seq = 0;
            self.crash(id);
        }
        self.later(8000, Repair::Boot(id));
    }

    fn replay(&mut self) {
        for _ in 0..self.rng.between(1, 300) {
            let Some(old) = self.network.old(&mut self.rng) else {
                return;
            };
            let at = self.now + self.rng.below(500 * MS);
            self.agenda.plan(at, Happening::Arrival(old));
        }
    }

    fn garbage(&mut self, id: u32) {
        let port = self.members[Self::at(id)]
            .sockets
            .first()
            .map_or(5405, |spec| spec.bind.port());
        // A ring that was forgotten may get its name again: then what is old can not be told.
        let forgets = self.options.faults.contains(&Fault::CrashAndForget);
        for _ in 0..self.rng.between(1, 300) {
            let old = self.network.old(&mut self.rng);
            let at = self.now + self.rng.below(500 * MS);
            // What nobody has sealed may be changed, and nobody notices.
            let packet = match old {
                Some(mut old) if self.cluster.is_sealed() && self.rng.chance(700) => {
                    let mut bytes = old.datagram.to_vec();
                    let which = self.rng.index(bytes.len());
                    if self.rng.chance(300) {
                        bytes.truncate(which);
                    } else if let Some(byte) = bytes.get_mut(which) {
                        *byte ^= 1 << self.rng.below(8);
                    }
                    old.datagram = Bytes::from(bytes);
                    old
                }
                Some(old) if self.rng.chance(300) && !forgets => self.misled(old),
                _ => {
                    let from = (address(9 + id, 0), port).into();
                    let len = self.rng.below(200);
                    let byte = |_| u8::try_from(self.rng.below(256)).unwrap_or(0);
                    Packet {
                        from,
                        to: (address(id, 0), port).into(),
                        to_all: false,
                        datagram: (0..len).map(byte).collect(),
                    }
                }
            };
            self.agenda.plan(at, Happening::Arrival(packet));
        }
    }

    /// A datagram that comes to another node than the one it was for. Plain transports can not
    /// tell; a token has one owner.
    fn misled(&mut self, mut packet: Packet) -> Packet {
        if self.options.transport == super::options::Transport::Knet {
            let (_, link) = place(packet.to.ip());
            let other = 1 + u32::try_from(self.rng.below(self.options.nodes.into())).unwrap_or(0);
            packet.to.set_ip(address(other, link));
        }
        packet
    }

    /// The administrator changes the file on all machines, and has it read.
    fn change_files(&mut self, id: u32) {
        self.cluster.version += 1;
        match self.rng.below(3) {
            0 => self.cluster.token_ms = *self.rng.pick(&[300, 500, 1000, 2000]),
            1 if self.cluster.is_sealed() => self.cluster.key = 1 + self.cluster.key % 8,
            _ if self.options.links == 2 => self.cluster.links = 3 - self.cluster.links,
            _ => {}
        }
        for member in &mut self.members {
            member.file = self.cluster.clone();
        }
        if self.member(id).awake().is_none() || self.member(id).is_blocked {
            return;
        }
        if let Some(client) = self.connect(id, Service::Cfg, Owner::Passerby) {
            self.request(id, client, Request::Cfg(cfg::Request::Reload));
            if self.rng.chance(500) {
                self.hang_up(id, client);
            }
        }
    }
}
