//! What must hold at any time, looked at from outside: extended virtual synchrony as processes see
//! it, their views, and quorum.
//!
//! - Messages and changes of a group come in one order for all its members, without gaps while the
//!   ring is in operation; members that go together from one ring to the next got the same in it.
//! - Each message is delivered unchanged, in one ring only, to members only, once, in the order of
//!   its sender, without gaps while the sender is a member, and to the sender itself.
//! - Changes of members add up; when a ring is synchronized, all have the same view of a group.
//! - All members of a ring agree on who is in it, and those that came along together on who they are.
//! - Of two rings that may act, each has a member of the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher as _},
};

use bytes::Bytes;
use corosync_lite::{
    proto::srp::Phase,
    service::{
        ClientId,
        cpg::{Event, Part},
    },
    wire::{NodeId, RingId},
};

use super::options::{Fault, Options};
use crate::sim::{check::Failure, rng::Rng};

mod spans;

use self::spans::{End, Spans};

/// Bytes that name a message: process and number.
pub(super) const HEAD: usize = 9;
/// Group of what replicas say; their messages are not numbered.
const FOREIGN: u64 = 100;

/// How often things happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rings that were installed, per node.
    pub rings: u64,
    /// Messages sent by processes.
    pub sent: u64,
    /// Messages delivered, per receiver.
    pub delivered: u64,
    /// Changes of members, per receiver.
    pub changes: u64,
    /// Changes of quorum, per node.
    pub quorum: u64,
    /// Changes to the configuration tree that were acknowledged.
    pub acknowledged: u64,
    /// Virtual time that the healed nodes needed, at most.
    pub healed_ms: u64,
    /// Deliberate defects that came up.
    pub spoiled: u64,
}

impl Counts {
    /// Adds those of another history.
    pub fn add(&mut self, other: Self) {
        self.rings += other.rings;
        self.sent += other.sent;
        self.delivered += other.delivered;
        self.changes += other.changes;
        self.quorum += other.quorum;
        self.acknowledged += other.acknowledged;
        self.healed_ms = self.healed_ms.max(other.healed_ms);
        self.spoiled += other.spoiled;
    }
}

/// A process in a view.
pub(super) type Who = (u32, u32);

/// A ring. If nodes forget numbers, those come again: then it is the life of the representative
/// that tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ring {
    id: RingId,
    life: u32,
}

/// A process that is connected.
#[derive(Debug, Default)]
struct Listener {
    group: u64,
    pid: u32,
    /// Members as it was told; none before it has joined.
    view: BTreeSet<Who>,
    /// Last number from each sender since that became a member.
    last: BTreeMap<Who, u32>,
    parts: BTreeMap<Who, Vec<u8>>,
    span: Option<usize>,
}

/// A daemon between a start and its end.
#[derive(Debug, Default)]
struct Life {
    ring: Option<Ring>,
    is_operational: bool,
    is_synchronized: bool,
    is_quorate: bool,
    listeners: BTreeMap<ClientId, Listener>,
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Checker {
    pub(super) counts: Counts,
    /// An event that a defect holds back.
    pub(super) held: Option<(ClientId, Event)>,
    is_safe: bool,
    forgets: bool,
    failure: Option<Failure>,
    lives: BTreeMap<u32, Life>,
    started: BTreeMap<u32, u32>,
    members: BTreeMap<Ring, Vec<NodeId>>,
    spans: Spans,
    /// Ring in which a message was delivered.
    places: BTreeMap<(u32, u32), Ring>,
    /// Views of groups when a ring was synchronized.
    views: BTreeMap<(Ring, u64), BTreeSet<Who>>,
    /// What each process got back of its own.
    own: BTreeMap<u32, u32>,
    quorate: BTreeMap<Ring, BTreeSet<NodeId>>,
}

impl Checker {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            counts: Counts::default(),
            held: None,
            is_safe: options.votes.is_safe(),
            forgets: options.has(Fault::CrashAndForget),
            failure: None,
            lives: BTreeMap::new(),
            started: BTreeMap::new(),
            members: BTreeMap::new(),
            spans: Spans::default(),
            places: BTreeMap::new(),
            views: BTreeMap::new(),
            own: BTreeMap::new(),
            quorate: BTreeMap::new(),
        }
    }

    /// Takes note of a broken rule; the first one counts.
    pub(super) fn fail(&mut self, checker: &'static str, text: impl Into<String>) {
        let text = text.into();
        self.failure.get_or_insert(Failure { checker, text });
    }

    pub(super) fn take_failure(&mut self) -> Option<Failure> {
        self.failure.take()
    }

    /// Rings installed so far.
    pub(super) fn rings(&self) -> u64 {
        self.counts.rings
    }

    /// What a process got back of its own messages.
    pub(super) fn own(&self, pid: u32) -> u32 {
        self.own.get(&pid).copied().unwrap_or(0)
    }

    /// The ring that a node has installed.
    pub(super) fn ring_of(&self, id: u32) -> Option<Ring> {
        self.lives.get(&id)?.ring
    }

    /// Whether that ring is in operation.
    pub(super) fn is_operational(&self, id: u32) -> bool {
        self.lives.get(&id).is_some_and(|life| life.is_operational)
    }

    pub(super) fn started(&mut self, id: u32) {
        self.lives.insert(id, Life::default());
        *self.started.entry(id).or_insert(0) += 1;
    }

    pub(super) fn stopped(&mut self, id: u32) {
        if let Some(life) = self.lives.remove(&id) {
            for listener in life.listeners.values() {
                self.spans.end(listener.span, End::Gone);
            }
        }
    }

    pub(super) fn phase(&mut self, id: u32, phase: Phase) {
        if let Some(life) = self.lives.get_mut(&id) {
            life.is_operational = phase == Phase::Operational;
        }
    }

    /// A node installed a ring; `joined` names those that did not come along.
    pub(super) fn installed(
        &mut self,
        id: u32,
        ring: RingId,
        members: &[NodeId],
        joined: &[NodeId],
    ) {
        self.counts.rings += 1;
        let rep_life = self.started.get(&ring.rep.0).copied().unwrap_or(0);
        let ring = Ring {
            id: ring,
            life: if self.forgets { rep_life } else { 0 },
        };
        let known = self.members.entry(ring).or_insert_with(|| members.to_vec());
        if known != members && !self.forgets {
            let text = format!("{ring:?}: n{id} says {members:?}, another {known:?}");
            self.fail("members of a ring agree on them", text);
        }
        if !members.contains(&NodeId(id)) {
            self.fail("nodes are in their ring", format!("n{id}: {members:?}"));
        }
        let along: BTreeSet<u32> = members
            .iter()
            .filter(|node| !joined.contains(node))
            .map(|node| node.0)
            .collect();
        let Some(life) = self.lives.get_mut(&id) else {
            return;
        };
        life.ring = Some(ring);
        life.is_synchronized = false;
        for listener in life.listeners.values_mut() {
            if listener.span.is_some() {
                let end = End::Moved(ring, along.clone());
                self.spans.end(listener.span, end);
                let at_start = true;
                let place = (ring, listener.group, id, listener.pid);
                listener.span = Some(self.spans.begin(place, at_start));
            }
        }
    }

    pub(super) fn synchronized(&mut self, id: u32, ring: RingId) {
        let Some(life) = self.lives.get_mut(&id) else {
            return;
        };
        life.is_synchronized = true;
        let Some(own) = life.ring else { return };
        if own.id != ring {
            self.fail("synchronized", format!("n{id}: {ring} in {own:?}"));
            return;
        }
        let mut wrong = None;
        for listener in life.listeners.values() {
            if listener.span.is_none() {
                continue;
            }
            let place = (own, listener.group);
            let known = self
                .views
                .entry(place)
                .or_insert_with(|| listener.view.clone());
            if *known != listener.view && !self.forgets {
                wrong = Some(format!(
                    "n{id} process {} in {own:?}: {:?}, another {known:?}",
                    listener.pid, listener.view
                ));
            }
        }
        if let Some(text) = wrong {
            self.fail("views agree", text);
        }
    }

    /// A process asks to join. Groups of replicas count from a higher number.
    pub(super) fn joining(&mut self, id: u32, client: ClientId, group: u64, pid: u32) {
        if let Some(life) = self.lives.get_mut(&id) {
            let listener = Listener {
                group,
                pid,
                ..Listener::default()
            };
            life.listeners.insert(client, listener);
        }
    }

    /// The same for the group of a replica.
    pub(super) fn joining_foreign(&mut self, id: u32, client: ClientId, group: u64, pid: u32) {
        self.joining(id, client, FOREIGN + group, pid);
    }

    pub(super) fn hung_up(&mut self, id: u32, client: ClientId) {
        if let Some(life) = self.lives.get_mut(&id)
            && let Some(listener) = life.listeners.remove(&client)
        {
            self.spans.end(listener.span, End::Gone);
        }
    }

    /// A process is told something.
    pub(super) fn event(&mut self, id: u32, client: ClientId, event: &Event) {
        let checked = match event {
            Event::Confchg {
                members,
                left,
                joined,
                ..
            } => {
                let set = |list: &[corosync_lite::service::cpg::Address]| -> BTreeSet<Who> {
                    list.iter().map(|it| (it.nodeid, it.pid)).collect()
                };
                self.changed(id, client, set(members), &set(left), &set(joined))
            }
            Event::Deliver {
                nodeid, pid, data, ..
            } => self.delivered(id, client, (*nodeid, *pid), data, true),
            Event::PartialDeliver {
                nodeid,
                pid,
                length,
                part,
                data,
                ..
            } => self.part(id, client, (*nodeid, *pid), (*length, *part, data)),
            Event::TotemConfchg { .. } => Ok(()),
        };
        if let Err((checker, text)) = checked {
            let text = format!("n{id} client {}: {text}", client.0);
            self.fail(checker, text);
        }
    }

    fn listener(&mut self, id: u32, client: ClientId) -> Result<(&mut Life, Listener), Broken> {
        let life = self.lives.get_mut(&id).ok_or(stranger("no daemon"))?;
        let listener = life.listeners.remove(&client);
        let listener = listener.ok_or(stranger("it is in no group"))?;
        Ok((life, listener))
    }

    fn changed(
        &mut self,
        id: u32,
        client: ClientId,
        members: BTreeSet<Who>,
        left: &BTreeSet<Who>,
        joined: &BTreeSet<Who>,
    ) -> Result<(), Broken> {
        self.counts.changes += 1;
        let (life, mut listener) = self.listener(id, client)?;
        let (ring, is_synchronized) = (life.ring, life.is_synchronized);
        let is_operational = life.is_operational;
        let own = (id, listener.pid);
        let is_first = listener.span.is_none();
        let sum: BTreeSet<Who> = listener.view.difference(left).copied().collect();
        let sum: BTreeSet<Who> = sum.union(joined).copied().collect();
        let is_sum = sum == members && left.is_subset(&listener.view);
        let is_news =
            joined.is_disjoint(&listener.view) || joined.iter().all(|it| left.contains(it));
        let adds_up = is_first || (is_sum && is_news);
        if !adds_up {
            let text = format!("{:?} - {left:?} + {joined:?} = {members:?}", listener.view);
            return Err(("changes add up", text));
        }
        if is_first && !(joined.contains(&own) && members.contains(&own)) {
            return Err(("changes add up", format!("not among {members:?} at first")));
        }
        for gone in left {
            listener.last.remove(gone);
            listener.parts.remove(gone);
        }
        let item = hash((1, &members, left, joined));
        if is_first {
            let ring = ring.ok_or(stranger("no ring"))?;
            let place = (ring, listener.group, id, listener.pid);
            listener.span = Some(self.spans.begin(place, false));
        }
        if is_first || is_synchronized {
            self.spans.push(listener.span, item, is_operational);
        }
        listener.view = members;
        if left.contains(&own) {
            self.spans.end(listener.span, End::Gone);
        } else if let Some(life) = self.lives.get_mut(&id) {
            life.listeners.insert(client, listener);
        }
        Ok(())
    }

    fn delivered(
        &mut self,
        id: u32,
        client: ClientId,
        from: Who,
        data: &[u8],
        in_one: bool,
    ) -> Result<(), Broken> {
        self.counts.delivered += 1;
        let (life, mut listener) = self.listener(id, client)?;
        let is_operational = life.is_operational;
        let ring = life.ring.ok_or(stranger("no ring"))?;
        let result = self.message(ring, &mut listener, id, from, data);
        let item = hash((2, from, data.len(), data.get(..64).unwrap_or(data)));
        // Who joins while parts come gets none of them.
        if in_one {
            self.spans.push(listener.span, item, is_operational);
        }
        if let Some(life) = self.lives.get_mut(&id) {
            life.listeners.insert(client, listener);
        }
        result
    }

    fn message(
        &mut self,
        ring: Ring,
        listener: &mut Listener,
        id: u32,
        from: Who,
        data: &[u8],
    ) -> Result<(), Broken> {
        if !listener.view.contains(&from) {
            return Err(stranger(&format!("from {from:?}, who is no member")));
        }
        let is_own = from == (id, listener.pid);
        if is_own {
            *self.own.entry(listener.pid).or_insert(0) += 1;
        }
        if listener.group >= FOREIGN || data.len() < HEAD {
            return Ok(());
        }
        let number = check_payload(from.1, data)?;
        let last = listener.last.insert(from, number);
        let is_next = match last {
            Some(last) => last + 1 == number,
            None => !is_own || number == 0,
        };
        if !is_next {
            let text = format!("{from:?}: {number} after {last:?}");
            return Err(("messages come in order", text));
        }
        let place = *self.places.entry((from.1, number)).or_insert(ring);
        if place != ring && !self.forgets {
            let text = format!("{from:?} {number} in {place:?} and in {ring:?}");
            return Err(("a message has one ring", text));
        }
        Ok(())
    }

    fn part(
        &mut self,
        id: u32,
        client: ClientId,
        from: Who,
        (length, part, data): (u32, Part, &Bytes),
    ) -> Result<(), Broken> {
        let life = self.lives.get_mut(&id).ok_or(stranger("no daemon"))?;
        let listener = life.listeners.get_mut(&client);
        let listener = listener.ok_or(stranger("it is in no group"))?;
        if part == Part::First {
            listener.parts.insert(from, Vec::new());
        }
        let Some(whole) = listener.parts.get_mut(&from) else {
            return Err(stranger("a part without a first one"));
        };
        whole.extend_from_slice(data);
        if part == Part::Last {
            let whole = listener.parts.remove(&from).unwrap_or_default();
            if u32::try_from(whole.len()) != Ok(length) {
                return Err(("messages are whole", format!("{from:?}: {}", whole.len())));
            }
            return self.delivered(id, client, from, &whole, false);
        }
        Ok(())
    }

    /// What a synchronized node says of quorum. Whether that is news.
    pub(super) fn quorum(&mut self, id: u32, quorate: bool) -> bool {
        let Some(life) = self.lives.get_mut(&id) else {
            return false;
        };
        let Some(ring) = life.ring else { return false };
        let is_news = std::mem::replace(&mut life.is_quorate, quorate) != quorate;
        self.counts.quorum += u64::from(is_news);
        if !quorate || !self.is_safe || self.quorate.contains_key(&ring) {
            return is_news;
        }
        let members: BTreeSet<NodeId> = self.members[&ring].iter().copied().collect();
        let other = self
            .quorate
            .iter()
            .find(|(_, other)| other.is_disjoint(&members));
        if let Some((other, nodes)) = other {
            let text = format!("{ring:?} of {members:?}, {other:?} of {nodes:?}");
            self.fail("one partition may act", text);
        }
        self.quorate.insert(ring, members);
        is_news
    }

    /// Checks what needs the whole history. `joined`: processes that are members at its end, with
    /// the number of messages that they sent.
    pub(super) fn finish(&self, joined: &[(u32, u32)]) -> Result<(), Failure> {
        for (pid, sent) in joined {
            if self.own(*pid) != *sent {
                return Err(Failure {
                    checker: "own messages come back",
                    text: format!("{pid} sent {sent}, got {}", self.own(*pid)),
                });
            }
        }
        let mut quorate = BTreeMap::new();
        for (id, life) in &self.lives {
            let Some(ring) = life.ring else { continue };
            let known = *quorate.entry(ring).or_insert(life.is_quorate);
            if known != life.is_quorate {
                return Err(Failure {
                    checker: "a partition agrees on quorum",
                    text: format!("n{id} in {ring:?}"),
                });
            }
        }
        self.spans.check(self.forgets)
    }
}

type Broken = (&'static str, String);

fn stranger(text: &str) -> Broken {
    ("only members are told", text.to_owned())
}

fn hash(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

fn fill(pid: u32, number: u32, at: usize) -> u8 {
    let [low, high, ..] = at.to_le_bytes();
    let [a, ..] = pid.to_le_bytes();
    let [b, ..] = number.to_le_bytes();
    a.wrapping_mul(31) ^ b.wrapping_mul(7) ^ low ^ high
}

/// A message that says whose it is, unless it is too short for that.
pub(super) fn payload(pid: u32, number: u32, len: u64, rng: &mut Rng) -> Bytes {
    let len = usize::try_from(len).unwrap_or(1);
    if len < HEAD {
        let byte = |_| u8::try_from(rng.below(256)).unwrap_or(0);
        return (0..len).map(byte).collect();
    }
    let mut bytes = Vec::with_capacity(len);
    bytes.extend_from_slice(&pid.to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend((8..len).map(|at| fill(pid, number, at)));
    bytes.into()
}

/// The number of a message, if it is as it was sent.
fn check_payload(pid: u32, data: &[u8]) -> Result<u32, Broken> {
    let wrong = || ("messages are unchanged", format!("{} bytes", data.len()));
    let (head, rest) = data.split_at_checked(8).ok_or_else(wrong)?;
    let number = u32::from_le_bytes(head[4..].try_into().unwrap_or_default());
    let same = |(at, byte): (usize, &u8)| *byte == fill(pid, number, at + 8);
    if head[..4] == pid.to_le_bytes() && rest.iter().enumerate().all(same) {
        Ok(number)
    } else {
        Err(wrong())
    }
}
