//! The group messaging service of all hosts: rings, total order, groups, quorum.
//!
//! Extended virtual synchrony as Corosync gives it: a ring orders messages in one log; each member
//! has received a prefix of it and hands messages to its processes in that order. When the ring
//! changes, the members that go on together first exchange what any of them has received, then
//! see the same change of membership. What only others had received is lost to them. A message
//! that was not ordered yet goes out in the next ring.
//!
//! Quorum travels beside the groups: a process looks at it first, so a change of quorum may
//! overtake messages of the ring before.

mod outside;

use std::{
    collections::{BTreeSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher as _},
};

use bytes::Bytes;
use pmxcfs::wire::MemberId;

pub use self::outside::Asked;
use super::rng::Rng;

/// Index of a node; its id is one more.
pub type Node = usize;

/// The two groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// The configuration tree.
    Config = 0,
    /// Status values.
    Status = 1,
}

impl Group {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Config, Self::Status];
}

/// What a process of a group gets.
#[derive(Clone, Debug)]
pub enum Event {
    /// A message.
    Deliver {
        /// Sender.
        from: MemberId,
        /// The message.
        payload: Bytes,
        /// Whether it was ordered in a ring with quorum.
        quorate: bool,
    },
    /// Messages that follow need not be those that other members get: the ring is breaking.
    Breaking,
    /// The members changed.
    Members {
        /// All of them.
        members: Vec<MemberId>,
        /// Whether somebody is new.
        joined: bool,
        /// The same for all who see the same change.
        view: u64,
    },
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Later.
    Busy,
    /// Not connected, not joined.
    NotMember,
    /// Another reason.
    Other,
}

#[derive(Clone, Debug)]
enum Entry {
    Data(Group, MemberId, Bytes),
    Join(Group, MemberId),
    Leave(Group, MemberId),
}

#[derive(Clone, Debug)]
struct Ring {
    id: u64,
    members: BTreeSet<Node>,
    log: Vec<Entry>,
    quorate: bool,
    /// The membership is about to change: nothing is ordered any more.
    is_stalled: bool,
}

/// A process that has joined, seen from its host.
#[derive(Clone, Copy, Debug)]
struct Local {
    group: Group,
    member: MemberId,
    /// It has left, but not everywhere yet.
    is_leaving: bool,
    /// Not the daemon, but somebody who says nothing.
    is_silent: bool,
}

/// The messaging daemon of one host, and what waits for the process on it.
#[derive(Clone, Debug, Default)]
struct Host {
    is_up: bool,
    /// Part of the network.
    side: u8,
    ring: Option<usize>,
    received: usize,
    delivered: usize,
    outgoing: VecDeque<Entry>,
    groups: [BTreeSet<MemberId>; 2],
    locals: Vec<Local>,
    quorum: VecDeque<bool>,
    events: [VecDeque<Event>; 2],
    is_disconnected: bool,
    is_busy: bool,
    fails: u32,
    /// What was told last of quorum, where that comes from outside.
    is_quorate: bool,
}

/// Messages that a host takes before it asks for patience.
const OUTGOING_MAX: usize = 256;

/// See the module documentation.
#[derive(Clone, Debug)]
pub struct Net {
    hosts: Vec<Host>,
    rings: Vec<Ring>,
    safe_delivery: bool,
    split_changes: bool,
}

impl Net {
    /// Hosts that run and know nothing of each other yet.
    #[must_use]
    pub fn new(nodes: usize, safe_delivery: bool, split_changes: bool) -> Self {
        let host = Host {
            is_up: true,
            ..Host::default()
        };
        Self {
            hosts: vec![host; nodes],
            rings: Vec::new(),
            safe_delivery,
            split_changes,
        }
    }

    /// Whether the messaging daemon of a host runs.
    #[must_use]
    pub fn is_up(&self, node: Node) -> bool {
        self.hosts[node].is_up
    }

    /// Sends.
    ///
    /// # Errors
    /// When the message was not taken.
    pub fn send(&mut self, group: Group, from: MemberId, bytes: &Bytes) -> Result<(), Refused> {
        let host = &mut self.hosts[node_of(from)];
        let joined = host
            .locals
            .iter()
            .any(|local| local.group == group && local.member == from && !local.is_leaving);
        if !host.is_up || host.is_disconnected || !joined {
            return Err(Refused::NotMember);
        }
        if host.fails > 0 {
            host.fails -= 1;
            return Err(Refused::Other);
        }
        if host.is_busy || host.outgoing.len() >= OUTGOING_MAX {
            return Err(Refused::Busy);
        }
        host.outgoing
            .push_back(Entry::Data(group, from, bytes.clone()));
        Ok(())
    }

    /// Connects the process of a host: the state of quorum follows.
    pub fn connect(&mut self, node: Node) -> bool {
        let ring = self.hosts[node].ring;
        let host = &mut self.hosts[node];
        let quorate = ring.map_or(host.is_quorate, |ring| self.rings[ring].quorate);
        if host.is_up {
            host.is_disconnected = false;
            host.quorum.clear();
            host.quorum.push_back(quorate);
        }
        host.is_up
    }

    /// Joins; false while an earlier leave is under way.
    pub fn join(&mut self, group: Group, member: MemberId) -> bool {
        self.admit(group, member, false)
    }

    /// Lets a process join that never says anything.
    pub fn join_silent(&mut self, group: Group, member: MemberId) -> bool {
        self.admit(group, member, true)
    }

    fn admit(&mut self, group: Group, member: MemberId, is_silent: bool) -> bool {
        let host = &mut self.hosts[node_of(member)];
        let known = |local: &Local| local.group == group && local.member == member;
        if !host.is_up || host.locals.iter().any(known) {
            return false;
        }
        if !is_silent {
            host.events[group as usize].clear();
        }
        host.locals.push(Local {
            group,
            member,
            is_leaving: false,
            is_silent,
        });
        host.outgoing.push_back(Entry::Join(group, member));
        true
    }

    /// Leaves, or dies.
    pub fn leave(&mut self, group: Group, member: MemberId) {
        let host = &mut self.hosts[node_of(member)];
        let known = |local: &&mut Local| {
            local.group == group && local.member == member && !local.is_leaving
        };
        if let Some(local) = host.locals.iter_mut().find(known) {
            local.is_leaving = true;
            let is_silent = local.is_silent;
            host.outgoing.push_back(Entry::Leave(group, member));
            if !is_silent {
                host.events[group as usize].clear();
            }
        }
    }

    /// The process of a host is gone: nothing is handed to it any more.
    pub fn kill_process(&mut self, member: MemberId) {
        for group in Group::ALL {
            self.leave(group, member);
        }
        let host = &mut self.hosts[node_of(member)];
        host.quorum.clear();
        host.events.iter_mut().for_each(VecDeque::clear);
    }

    /// The messaging daemon of a host dies.
    pub fn crash_daemon(&mut self, node: Node) {
        if let Some(ring) = self.hosts[node].ring {
            self.rings[ring].is_stalled = true;
        }
        let side = self.hosts[node].side;
        self.hosts[node] = Host {
            side,
            is_disconnected: true,
            ..Host::default()
        };
    }

    /// The messaging daemon of a host starts.
    pub fn start_daemon(&mut self, node: Node) {
        self.hosts[node].is_up = true;
    }

    /// Sets which part of the network a host is in.
    pub fn set_side(&mut self, node: Node, side: u8) {
        self.hosts[node].side = side;
        for ring in 0..self.rings.len() {
            let sides: BTreeSet<u8> = self.rings[ring]
                .members
                .iter()
                .map(|at| self.hosts[*at].side)
                .collect();
            self.rings[ring].is_stalled |= sides.len() > 1;
        }
    }

    /// Lets a host take no messages.
    pub fn set_busy(&mut self, node: Node, is_busy: bool) {
        self.hosts[node].is_busy = is_busy;
    }

    /// Makes the next messages of a host fail.
    pub fn fail_sends(&mut self, node: Node, count: u32) {
        self.hosts[node].fails = count;
    }

    /// Hosts with something to order.
    pub fn can_order(&self) -> impl Iterator<Item = Node> + '_ {
        (0..self.hosts.len()).filter(|node| {
            let host = &self.hosts[*node];
            let open = host.ring.is_some_and(|ring| !self.rings[ring].is_stalled);
            host.is_up && open && !host.outgoing.is_empty()
        })
    }

    /// Gives the oldest message of a host its place in the order.
    pub fn order(&mut self, node: Node) {
        let host = &mut self.hosts[node];
        if let Some(ring) = host.ring
            && let Some(entry) = host.outgoing.pop_front()
        {
            self.rings[ring].log.push(entry);
            host.received = self.rings[ring].log.len();
        }
    }

    /// Hosts that have not received or handed out all of their ring's messages.
    pub fn can_advance(&self) -> impl Iterator<Item = Node> + '_ {
        (0..self.hosts.len()).filter(|node| self.limits(*node).is_some())
    }

    /// What a host may receive, what it may hand out; `None` if neither changes anything.
    fn limits(&self, node: Node) -> Option<(usize, usize)> {
        let host = &self.hosts[node];
        let ring = &self.rings[host.ring?];
        let receivable = if ring.is_stalled {
            host.received
        } else {
            ring.log.len()
        };
        let stable = || ring.members.iter().map(|at| self.hosts[*at].received).min();
        let limit = if self.safe_delivery {
            stable().unwrap_or(0)
        } else {
            host.received
        };
        (receivable > host.received || limit > host.delivered).then_some((receivable, limit))
    }

    /// Lets a host receive some messages, or hand some to its processes.
    pub fn advance(&mut self, node: Node, rng: &mut Rng) {
        let Some((receivable, limit)) = self.limits(node) else {
            return;
        };
        let host = &mut self.hosts[node];
        if receivable > host.received && (limit == host.delivered || rng.chance(500)) {
            let most = (receivable - host.received).min(8);
            host.received += 1 + rng.index(most);
        } else {
            let many = 1 + rng.index((limit - host.delivered).min(4));
            for _ in 0..many {
                self.hand_out(node);
            }
        }
    }

    fn hand_out(&mut self, node: Node) {
        let Some(ring) = self.hosts[node].ring else {
            return;
        };
        let ring = &self.rings[ring];
        let host = &mut self.hosts[node];
        let seq = host.delivered;
        host.delivered += 1;
        match &ring.log[seq] {
            Entry::Data(group, from, payload) => {
                if host.active(*group).is_some() {
                    host.events[*group as usize].push_back(Event::Deliver {
                        from: *from,
                        payload: payload.clone(),
                        quorate: ring.quorate,
                    });
                }
            }
            Entry::Join(group, member) => {
                host.groups[*group as usize].insert(*member);
                host.tell(*group, true, (ring.id, seq, 0));
            }
            Entry::Leave(group, member) => {
                host.groups[*group as usize].remove(member);
                host.locals
                    .retain(|local| local.group != *group || local.member != *member);
                host.tell(*group, false, (ring.id, seq, 0));
            }
        }
    }

    /// Hosts whose ring is not the one they could have.
    #[must_use]
    pub fn unsettled(&self) -> Vec<Node> {
        let up: Vec<Node> = (0..self.hosts.len())
            .filter(|at| self.hosts[*at].is_up)
            .collect();
        let settled = |node: &Node| {
            let host = &self.hosts[*node];
            let reachable = up.iter().filter(|at| self.hosts[**at].side == host.side);
            host.ring.is_some_and(|ring| {
                let ring = &self.rings[ring];
                !ring.is_stalled && ring.members.iter().eq(reachable)
            })
        };
        up.iter().copied().filter(|node| !settled(node)).collect()
    }

    /// Stops the rings that are about to merge, some time before they do.
    pub fn stall(&mut self, node: Node) {
        if let Some(ring) = self.hosts[node].ring {
            self.rings[ring].is_stalled = true;
        }
    }

    /// Forms a new ring around a host. `partial`: leave some out that will come in later.
    pub fn form(&mut self, node: Node, partial: bool, rng: &mut Rng) -> (u64, bool) {
        let side = self.hosts[node].side;
        let mut members: BTreeSet<Node> = (0..self.hosts.len())
            .filter(|at| self.hosts[*at].is_up && self.hosts[*at].side == side)
            .collect();
        if partial {
            members.retain(|at| *at == node || rng.chance(500));
        }
        self.recover(&members);
        let old_rings: Vec<Option<usize>> = self.hosts.iter().map(|host| host.ring).collect();
        let id = self.rings.len() as u64;
        let quorate = members.len() * 2 > self.hosts.len();
        let views = Group::ALL.map(|group| self.joined_in(&members, group));
        for at in &members {
            // Who was in another ring meanwhile left and came back, even if the list is the same.
            let together = |member: &MemberId| {
                let other = node_of(*member);
                members.contains(&other) && old_rings[other] == old_rings[*at]
            };
            self.stall(*at);
            let host = &mut self.hosts[*at];
            host.ring = Some(self.rings.len());
            host.received = 0;
            host.delivered = 0;
            host.quorum.push_back(quorate);
            for group in Group::ALL {
                let known = &host.groups[group as usize];
                let stayed = known.iter().copied().filter(together).collect();
                host.change(
                    group,
                    (stayed, &views[group as usize]),
                    id,
                    self.split_changes,
                );
            }
        }
        self.rings.push(Ring {
            id,
            members,
            log: Vec::new(),
            quorate,
            is_stalled: false,
        });
        (id, quorate)
    }

    /// Hands out what members of the same old ring have received between them.
    fn recover(&mut self, members: &BTreeSet<Node>) {
        for node in members {
            let Some(ring) = self.hosts[*node].ring else {
                continue;
            };
            let together = members
                .iter()
                .filter(|at| self.hosts[**at].ring == Some(ring));
            let target = together
                .map(|at| self.hosts[*at].received)
                .max()
                .unwrap_or(0);
            while self.hosts[*node].delivered < target {
                self.hand_out(*node);
            }
        }
    }

    fn joined_in(&self, members: &BTreeSet<Node>, group: Group) -> BTreeSet<MemberId> {
        let own = |at: &Node| {
            let at = *at;
            let known = self.hosts[at].groups[group as usize].iter().copied();
            known.filter(move |member| node_of(*member) == at)
        };
        members.iter().flat_map(own).collect()
    }

    /// Whether the process of a host has something to read.
    #[must_use]
    pub fn has_events(&self, node: Node) -> bool {
        let host = &self.hosts[node];
        host.is_disconnected
            || !host.quorum.is_empty()
            || host.events.iter().any(|events| !events.is_empty())
    }

    /// Whether the connection is gone; then nothing else is to be read.
    #[must_use]
    pub fn is_disconnected(&self, node: Node) -> bool {
        self.hosts[node].is_disconnected
    }

    /// The next change of quorum.
    pub fn next_quorum(&mut self, node: Node) -> Option<bool> {
        self.hosts[node].quorum.pop_front()
    }

    /// The next event of a group.
    pub fn next_event(&mut self, node: Node, group: Group) -> Option<Event> {
        self.hosts[node].events[group as usize].pop_front()
    }

    /// Number of events that wait for the process of a host.
    #[must_use]
    pub fn waiting(&self, node: Node) -> usize {
        self.hosts[node].events.iter().map(VecDeque::len).sum()
    }

    /// Whether everything was ordered, received and handed out.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.can_order().next().is_none()
            && self.can_advance().next().is_none()
            && self.unsettled().is_empty()
            && (0..self.hosts.len()).all(|node| !self.has_events(node))
    }

    /// One line about a host.
    #[must_use]
    pub fn describe(&self, node: Node) -> String {
        let host = &self.hosts[node];
        let ring = host.ring.map(|ring| &self.rings[ring]);
        format!(
            "up={} side={} ring={:?} quorate={} stalled={} received={} delivered={} outgoing={} \
             waiting={}",
            u8::from(host.is_up),
            host.side,
            ring.map(|ring| ring.id),
            u8::from(ring.is_some_and(|ring| ring.quorate)),
            u8::from(ring.is_some_and(|ring| ring.is_stalled)),
            host.received,
            host.delivered,
            host.outgoing.len(),
            self.waiting(node),
        )
    }
}

impl Host {
    fn active(&self, group: Group) -> Option<MemberId> {
        let active = |local: &&Local| local.group == group && !local.is_leaving && !local.is_silent;
        let member = self.locals.iter().find(active)?.member;
        self.groups[group as usize]
            .contains(&member)
            .then_some(member)
    }

    fn tell(&mut self, group: Group, joined: bool, place: impl Hash) {
        if self.active(group).is_some() {
            let members: Vec<MemberId> = self.groups[group as usize].iter().copied().collect();
            let mut hasher = DefaultHasher::new();
            (place, group as usize, &members).hash(&mut hasher);
            self.events[group as usize].push_back(Event::Members {
                members,
                joined,
                view: hasher.finish(),
            });
        }
    }

    fn change(
        &mut self,
        group: Group,
        (stayed, new): (BTreeSet<MemberId>, &BTreeSet<MemberId>),
        ring: u64,
        split: bool,
    ) {
        let is_joined = new.difference(&stayed).next().is_some();
        let is_left = self.groups[group as usize]
            .difference(&stayed)
            .next()
            .is_some();
        if is_left && is_joined && split {
            self.groups[group as usize] = stayed;
            self.tell(group, false, (ring, 0, 1));
        }
        self.groups[group as usize].clone_from(new);
        if is_left || is_joined {
            self.tell(group, is_joined, (ring, 0, 2));
        }
    }
}

fn node_of(member: MemberId) -> Node {
    usize::try_from(member.node).unwrap_or(0).saturating_sub(1)
}
