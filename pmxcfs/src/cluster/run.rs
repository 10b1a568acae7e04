//! The cluster thread.

use std::{
    collections::VecDeque,
    os::fd::AsFd as _,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    Shared,
    disk::{self, Item},
};
use crate::{
    clock,
    confwatch::TREE_NAME,
    dcdb::{Effect, ProposeError},
    dfsm::{Action, App, Dfsm, Mode},
    group::{Group, GroupEvent, GroupName, McastError, NodeList, retry},
    memdb::OpError,
    status::{ClusterConfig, NodeInfo},
    wire::{MemberId, fuse_msg::FuseMessage},
};

/// Time between two attempts to reach the messaging daemon. Both services start together, and what
/// waits for quorum waits for the first attempt that succeeds.
const CONNECT_INTERVAL: Duration = Duration::from_millis(200);

/// Time between leaving a group because of a fault and joining anew: a node that is at fault
/// again and again must not keep the others busy with rounds.
const REJOIN_PAUSE: Duration = Duration::from_secs(5);

/// Time between two attempts to join that met a busy daemon.
const JOIN_RETRY: Duration = Duration::from_millis(100);

/// How often the state machines get to know the time.
const TICK: Duration = Duration::from_secs(1);

struct Queued {
    message: Bytes,
    or_leave: bool,
    attempts: u32,
}

/// One group as this thread sees it.
struct Membership {
    name: GroupName,
    joined: bool,
    join_at: Instant,
    outbox: VecDeque<Queued>,
    send_at: Option<Instant>,
}

impl Membership {
    fn new(name: GroupName, now: Instant) -> Self {
        Self {
            name,
            joined: false,
            join_at: now,
            outbox: VecDeque::new(),
            send_at: None,
        }
    }

    /// What a state machine wants done: fills the outbox, returns why to leave.
    fn take_actions<A: App>(
        &mut self,
        dfsm: &mut Dfsm<A>,
        mut answer: impl FnMut(u64, i32),
    ) -> Option<String> {
        let mut leave = None;
        while let Some(action) = dfsm.poll_action() {
            match action {
                Action::Send { message, or_leave } => {
                    self.outbox.push_back(Queued {
                        message,
                        or_leave,
                        attempts: 0,
                    });
                }
                Action::Answer { count, result } => answer(count, result),
                Action::Leave { reason } => leave = Some(reason),
                Action::Log(text) => tracing::warn!(group = %self.name, "{text}"),
            }
        }
        leave
    }
}

pub(super) struct Runner<G> {
    shared: Arc<Shared>,
    group: G,
    config: Membership,
    status: Membership,
    connect_at: Instant,
    tick_at: Instant,
    connect_failure: Option<String>,
    nodes: NodeList,
    online: Vec<u32>,
}

impl<G: Group> Runner<G> {
    pub(super) fn new(shared: Arc<Shared>, group: G) -> Self {
        let now = clock::monotonic();
        Self {
            shared,
            group,
            config: Membership::new(GroupName::Config, now),
            status: Membership::new(GroupName::Status, now),
            connect_at: now,
            tick_at: now,
            connect_failure: None,
            nodes: NodeList::default(),
            online: Vec::new(),
        }
    }

    pub(super) fn run(mut self) {
        let mut events = Vec::new();
        while !self.shared.lock_core().stopping {
            self.connect();
            self.join();
            let timeout = self.timeout();
            let shared = Arc::clone(&self.shared);
            if self
                .group
                .wait(Some(timeout), shared.wake.as_fd(), &mut events)
                && let Err(error) = shared.wake.read()
            {
                tracing::debug!("the wake-up was spurious: {error}");
            }
            for event in events.drain(..) {
                self.handle(event);
            }
            self.tick();
            self.drain();
        }
        self.group.disconnect();
        self.shared.send_parked();
        self.shared.waiters.abort(&ProposeError::Busy);
    }

    fn timeout(&self) -> Duration {
        let now = clock::monotonic();
        let mut next = self.tick_at;
        if !self.group.is_connected() {
            next = next.min(self.connect_at);
        }
        for membership in [&self.config, &self.status] {
            if !membership.joined && self.group.is_connected() && membership.join_at > now {
                next = next.min(membership.join_at);
            }
            next = membership.send_at.map_or(next, |at| next.min(at));
        }
        if self.shared.lock_core().parked.is_refused() {
            next = next.min(now + retry::PAUSE);
        }
        next.saturating_duration_since(now)
    }

    fn connect(&mut self) {
        let now = clock::monotonic();
        if self.group.is_connected() || now < self.connect_at {
            return;
        }
        self.connect_at = now + CONNECT_INTERVAL;
        match self.group.connect() {
            Ok(()) => {
                self.connect_failure = None;
                let node = self.group.local_node_id().unwrap_or_default();
                tracing::info!(node, "connected to corosync");
                let own = MemberId {
                    node,
                    pid: std::process::id(),
                };
                self.shared.lock_core().dfsm.set_own(own);
                let mut status = self.shared.status.lock();
                status.set_own(own);
                status.app_mut().set_node_id(node);
                self.config.join_at = now;
                self.status.join_at = now;
            }
            Err(error) => {
                let text = error.to_string();
                if self.connect_failure.as_ref() != Some(&text) {
                    tracing::warn!("{text}; trying again until it answers");
                }
                self.connect_failure = Some(text);
            }
        }
    }

    fn join(&mut self) {
        let now = clock::monotonic();
        let (mode, faulty) = {
            let core = self.shared.lock_core();
            (core.dfsm.mode(), core.fault.is_some())
        };
        for membership in [&mut self.config, &mut self.status] {
            let wanted = membership.name == GroupName::Status || (mode == Mode::Start && !faulty);
            if membership.joined
                || !self.group.is_connected()
                || now < membership.join_at
                || !wanted
            {
                continue;
            }
            match self.group.join(membership.name) {
                Ok(()) => membership.joined = true,
                Err(error) => {
                    tracing::debug!(group = %membership.name, "unable to join: {error}");
                    membership.join_at = now + JOIN_RETRY;
                }
            }
        }
    }

    fn handle(&mut self, event: GroupEvent) {
        let now = clock::unix_seconds();
        match event {
            GroupEvent::Deliver {
                group: GroupName::Config,
                from,
                payload,
            } => {
                self.shared
                    .lock_core()
                    .dfsm
                    .handle_message(now, from, &payload);
            }
            GroupEvent::Deliver {
                group: GroupName::Status,
                from,
                payload,
            } => {
                self.shared
                    .status
                    .lock()
                    .handle_message(now, from, &payload);
            }
            GroupEvent::Confchg {
                group,
                members,
                joined,
                left,
            } => {
                tracing::info!(%group, ?members, ?joined, ?left, "members of the group changed");
                let new = !joined.is_empty();
                match group {
                    GroupName::Config => {
                        self.shared
                            .lock_core()
                            .dfsm
                            .handle_membership(now, &members, new);
                    }
                    GroupName::Status => {
                        self.shared
                            .status
                            .lock()
                            .handle_membership(now, &members, new);
                    }
                }
            }
            GroupEvent::Quorum { quorate, members } => self.quorum(quorate, members),
            GroupEvent::NodeList(nodes) => {
                self.shared
                    .status
                    .lock()
                    .app_mut()
                    .set_cluster(cluster_config(&nodes));
                self.nodes = nodes;
            }
            GroupEvent::Disconnected { reason } => self.disconnected(&reason),
        }
    }

    fn quorum(&mut self, quorate: bool, members: Vec<u32>) {
        let before = {
            let mut core = self.shared.lock_core();
            let before = core.dfsm.app().is_quorate();
            core.dfsm.app_mut().set_quorate(quorate);
            before
        };
        self.shared.status.set_quorate(quorate);
        self.online = members;
        self.shared.refresh_writable();
        if before == quorate {
            return;
        }
        if quorate {
            tracing::info!("node has quorum");
        } else {
            let missing: Vec<&str> = self
                .nodes
                .nodes
                .iter()
                .filter(|node| !self.online.contains(&node.id))
                .map(|node| node.name.as_str())
                .collect();
            tracing::warn!(
                "node lost quorum: no connection to {}; /etc/pve is read-only until a majority \
                 of the nodes is connected again",
                if missing.is_empty() {
                    "a majority".to_owned()
                } else {
                    missing.join(", ")
                }
            );
        }
    }

    fn disconnected(&mut self, reason: &str) {
        tracing::warn!("lost the connection to corosync ({reason}): no quorum, read-only");
        {
            let mut core = self.shared.lock_core();
            core.dfsm.app_mut().set_quorate(false);
            core.dfsm.restart();
            let mut status = self.shared.status.lock();
            status.restart();
            status.app_mut().disconnected();
        }
        self.shared.status.set_quorate(false);
        self.shared.waiters.abort(&ProposeError::Busy);
        let now = clock::monotonic();
        for membership in [&mut self.config, &mut self.status] {
            *membership = Membership::new(membership.name, now);
        }
        self.connect_at = now;
        self.shared.refresh_writable();
    }

    fn tick(&mut self) {
        let now = clock::monotonic();
        if now < self.tick_at {
            return;
        }
        self.tick_at = now + TICK;
        self.shared.waiters.expire(now);
        let seconds = clock::unix_seconds();
        self.shared.lock_core().dfsm.handle_tick(seconds);
        self.shared.status.lock().handle_tick(seconds);
    }

    /// Does what the state machines want done.
    fn drain(&mut self) {
        loop {
            self.drain_config();
            self.drain_status();
            let failed_config = self.flush(GroupName::Config);
            let failed_status = self.flush(GroupName::Status);
            if !failed_config && !failed_status {
                break;
            }
        }
    }

    fn drain_config(&mut self) {
        let shared = Arc::clone(&self.shared);
        let (leave, pushed) = {
            let mut core = shared.lock_core();
            let mut items = Vec::new();
            while let Some(effect) = core.dfsm.app_mut().poll_effect() {
                self.take_effect(&mut core.dfsm, effect, &mut items);
            }
            let leave = self.config.take_actions(&mut core.dfsm, |count, result| {
                items.push(Item::Answer {
                    count,
                    answer: answer_for(result),
                });
            });
            // Under the lock of the core, so that a failed disk can drop what is queued.
            let pushed =
                (!items.is_empty()).then(|| shared.disk.push(items, core.dfsm.app().tree()));
            (leave, pushed)
        };
        if let Some(fits) = pushed {
            disk::store_now(&shared, fits);
        }
        if let Some(reason) = leave {
            self.leave_config(&reason);
        }
        shared.send_parked();
    }

    fn take_effect(
        &mut self,
        dfsm: &mut Dfsm<crate::dcdb::Replica>,
        effect: Effect,
        items: &mut Vec<Item>,
    ) {
        match effect {
            Effect::Applied { change, own } => items.push(Item::Change { change, own }),
            Effect::Replaced { old, new, diverged } => {
                items.push(Item::Replace { old, new, diverged });
            }
            Effect::Conf { reload } => {
                if let Some(content) = dfsm.app().tree().file(TREE_NAME.as_bytes()) {
                    items.push(Item::Conf { content, reload });
                }
            }
            Effect::GrantUnlock { path, checksum } => {
                let message = FuseMessage::Unlock { checksum, path };
                let (_, message) = dfsm.make_normal(
                    clock::unix_seconds_u32(),
                    message.subtype(),
                    message.encode(),
                );
                self.config.outbox.push_back(Queued {
                    message,
                    or_leave: false,
                    attempts: 0,
                });
            }
        }
    }

    fn leave_config(&mut self, reason: &str) {
        tracing::error!("leaving the configuration group: {reason}");
        self.group.leave(GroupName::Config);
        self.config = Membership::new(GroupName::Config, clock::monotonic() + REJOIN_PAUSE);
        let quorate = {
            let mut core = self.shared.lock_core();
            core.dfsm.restart();
            core.dfsm.app().is_quorate()
        };
        let error = if quorate {
            ProposeError::Busy
        } else {
            ProposeError::NoQuorum
        };
        self.shared.waiters.abort(&error);
        self.shared.refresh_writable();
    }

    fn drain_status(&mut self) {
        let shared = Arc::clone(&self.shared);
        for message in shared.status.take_unsent() {
            self.status.outbox.push_back(Queued {
                message,
                or_leave: false,
                attempts: 0,
            });
        }
        let mut dfsm = shared.status.lock();
        if let Some(reason) = self.status.take_actions(&mut dfsm, |_, _| {}) {
            tracing::error!("leaving the status group: {reason}");
            self.group.leave(GroupName::Status);
            dfsm.restart();
            self.status = Membership::new(GroupName::Status, clock::monotonic() + REJOIN_PAUSE);
        }
    }

    /// Sends what waits, in order. True when a failure gives the state machine something to do.
    fn flush(&mut self, name: GroupName) -> bool {
        let membership = match name {
            GroupName::Config => &mut self.config,
            GroupName::Status => &mut self.status,
        };
        membership.send_at = None;
        while let Some(queued) = membership.outbox.front_mut() {
            let error = match self.shared.sender.mcast(name, &queued.message) {
                Ok(()) => {
                    membership.outbox.pop_front();
                    continue;
                }
                Err(error) => error,
            };
            queued.attempts += 1;
            if error == McastError::Backpressure && queued.attempts < retry::ATTEMPTS {
                membership.send_at = Some(clock::monotonic() + retry::PAUSE);
                return false;
            }
            let or_leave = queued.or_leave;
            membership.outbox.pop_front();
            tracing::warn!(group = %name, "a message could not be sent: {error}");
            if or_leave {
                let text = error.to_string();
                match name {
                    GroupName::Config => {
                        self.shared.lock_core().dfsm.handle_send_failure(&text);
                    }
                    GroupName::Status => self.shared.status.lock().handle_send_failure(&text),
                }
                return true;
            }
        }
        false
    }
}

fn answer_for(result: i32) -> Result<u32, ProposeError> {
    if let Ok(written) = u32::try_from(result) {
        return Ok(written);
    }
    Err(match -result {
        libc::ENOENT => OpError::NotFound.into(),
        libc::ENOTDIR => OpError::NotDirectory.into(),
        libc::EEXIST => OpError::Exists.into(),
        libc::EFBIG => OpError::TooLarge.into(),
        libc::ENOTEMPTY => OpError::NotEmpty.into(),
        libc::EINVAL => OpError::Invalid.into(),
        libc::EACCES => OpError::Access.into(),
        _ => ProposeError::Busy,
    })
}

fn cluster_config(nodes: &NodeList) -> ClusterConfig {
    let node = |node: &crate::group::NodeInfo| NodeInfo {
        id: node.id,
        name: node.name.clone(),
        votes: Some(node.votes),
    };
    ClusterConfig {
        name: nodes.cluster_name.clone(),
        version: nodes.display_version(),
        nodes: nodes.nodes.iter().map(node).collect(),
    }
}
