//! The steps of a synchronisation.

use std::time::Instant;

use crate::proto::srp::Lane;
use crate::wire::votequorum::Message;
use crate::wire::{NodeId, RingId};

use super::{Log, Part, Quorum};

impl Quorum {
    /// A regular configuration was installed: `transitional` are the members that came with this
    /// node from the configuration before.
    pub fn sync_init(
        &mut self,
        now: Instant,
        members: &[NodeId],
        transitional: &[NodeId],
        ring: RingId,
    ) {
        let stayed = |node: &NodeId| {
            self.settled.contains(node) && transitional.contains(node) && members.contains(node)
        };
        let joined = members.iter().filter(|node| !stayed(node));
        self.joined = joined.copied().collect();
        let left = self.settled.iter().filter(|node| !stayed(node));
        self.left = left.copied().collect();
        self.log(Log::Members {
            members: members.to_vec(),
            joined: self.joined.clone(),
            left: self.left.clone(),
        });
        let somebody_left = self.votes.enter(members, transitional);
        self.ring = ring;
        if self.provider {
            self.start_last_man(now, somebody_left);
            self.await_device(now);
        }
    }

    /// Emits the messages of a part. The part is done when [`Self::sync_is_held`] says no.
    pub fn sync_process(&mut self, part: Part) {
        if part == Part::Quorum || !self.provider {
            return;
        }
        self.device.holds_sync = self.device.awaited;
        self.send_node_info(Lane::Sync);
        self.send_device_info(Lane::Sync);
        if !self.device.name.is_empty() {
            let name = self.device.name.clone();
            let registered = true;
            self.send(Lane::Sync, Message::Device { registered, name });
        }
        for (client, context) in self.trackers.votequorum.clone() {
            self.tell_nodelist(client, context);
        }
    }

    /// Whether the barrier after [`Self::sync_process`] of [`Part::Votequorum`] has to wait.
    ///
    /// The device of this node has not said yet whom it votes for in the new ring. A poll, the end
    /// of its time, or its unregistering changes that: ask again after each input.
    pub fn sync_is_held(&self) -> bool {
        self.device.holds_sync
    }

    /// Everything of all members was delivered: decides.
    pub fn sync_activate(&mut self, part: Part) {
        match part {
            Part::Quorum => {
                self.settled = self.votes.members.clone();
                let clients: Vec<_> = self.trackers.quorum.iter().copied().collect();
                for client in clients {
                    self.tell_members(client, true);
                }
                if !self.provider {
                    self.votes.in_sync = false;
                    self.announced.members = self.votes.members.clone();
                    self.announced.ring = self.ring;
                    self.output_quorate();
                }
            }
            Part::Votequorum if self.provider => {
                self.device.holds_sync = false;
                let tracked = self.votes.tracked;
                self.votes.settle(&self.settings);
                self.after_count(tracked);
                self.announce();
                self.publish();
            }
            Part::Votequorum => {}
        }
    }

    /// A newer configuration comes.
    pub fn sync_abort(&mut self) {
        // Votes that have arrived are right. What follows from them is for all to settle.
        self.votes.said.clear();
        self.device.holds_sync = false;
    }

    /// When nodes are lost from a partition that may act, it shrinks to what is left after a while.
    fn start_last_man(&mut self, now: Instant, somebody_left: bool) {
        let settings = &self.settings;
        if !settings.last_man_standing {
            return;
        }
        let size = u32::try_from(self.votes.members.len()).unwrap_or(u32::MAX);
        let lowest_here = || {
            let lowest = self.votes.ends.map(|(lowest, _)| lowest);
            lowest.is_some_and(|lowest| self.votes.is_counted(lowest))
        };
        let lost = size >= self.votes.quorum && somebody_left;
        let tied = size <= self.votes.quorum && settings.tie_breaker.is_some() && lowest_here();
        if lost || tied {
            self.last_man = Some(now + settings.last_man_standing_window);
        }
    }
}
