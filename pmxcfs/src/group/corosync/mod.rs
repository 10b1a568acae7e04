//! [`Group`] over the client libraries of Corosync, which serve corosync-lite as well.
//!
//! Only this folder names the crate `rust_corosync`. One connection is made of a quorum handle,
//! a map handle for the node list, and a CPG handle for each joined group. A CPG handle that
//! left its group can not join again, so each join makes a new one.
//!
//! Threads: [`CorosyncGroup`] belongs to the cluster thread, whose stack must have room for the
//! libraries ([`THREAD_STACK_BYTES`]). Senders run anywhere, see `slots.rs`.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rust_corosync::{CsError, DispatchFlags, TrackFlags, cfg, cpg, quorum};

use self::fd::{Ready, owned_copy, wait_ready};
use self::nodes::NodeMap;
use self::slots::{Slot, Slots};
use super::{Group, GroupError, GroupEvent, GroupName, NodeList, Sender};

mod fd;
mod inbox;
mod nodes;
mod slots;

/// Least stack of a thread that calls [`Group::wait`]: each dispatch function of the libraries
/// keeps a buffer of 1 MiB on it.
pub const THREAD_STACK_BYTES: usize = 4 << 20;

/// Most callbacks of one group that one [`Group::wait`] hands out.
const BATCH_EVENTS: usize = 256;

/// A batch ends after this many bytes of messages: state transfers bring many large ones.
const BATCH_BYTES: usize = 8 << 20;

/// A node list that could not be read is read again after this time.
const STALE_RETRY: Duration = Duration::from_millis(100);

/// Group messaging through the local Corosync.
pub struct CorosyncGroup {
    slots: Arc<Slots>,
    link: Option<Link>,
    /// Handed out by the next wait, before anything else.
    pending: Vec<GroupEvent>,
}

/// What is open while connected.
struct Link {
    local: u32,
    quorum: quorum::Handle,
    quorum_fd: OwnedFd,
    map: NodeMap,
    nodes: NodeList,
    /// The map changed, but was too busy to be read.
    nodes_stale: bool,
    config: Option<Member>,
    status: Option<Member>,
}

/// The reading side of a joined group; the slot owns the handle.
struct Member {
    handle: cpg::Handle,
    fd: OwnedFd,
}

/// Why the connection has to be given up.
struct Lost(String);

impl CorosyncGroup {
    /// Not connected yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            slots: Arc::new(Slots::new()),
            link: None,
            pending: Vec::new(),
        }
    }
}

impl Default for CorosyncGroup {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for CorosyncGroup {
    /// Senders may live longer than the loop: their handles are closed here.
    fn drop(&mut self) {
        self.disconnect();
    }
}

impl fmt::Debug for CorosyncGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CorosyncGroup")
            .field("local_node_id", &self.local_node_id())
            .finish_non_exhaustive()
    }
}

impl Group for CorosyncGroup {
    fn connect(&mut self) -> Result<(), GroupError> {
        if self.link.is_some() {
            return Ok(());
        }
        let link = Link::open()?;
        self.pending = vec![GroupEvent::NodeList(link.nodes.clone())];
        self.link = Some(link);
        for group in GroupName::ALL {
            self.slots.set(group, Slot::NotMember);
        }
        Ok(())
    }

    fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    fn local_node_id(&self) -> Option<u32> {
        self.link.as_ref().map(|link| link.local)
    }

    fn sender(&self) -> Sender {
        Sender::new(Arc::clone(&self.slots) as _)
    }

    fn join(&mut self, group: GroupName) -> Result<(), GroupError> {
        let Some(link) = &mut self.link else {
            let reason = "not connected".to_owned();
            return Err(GroupError::Unavailable {
                call: "cpg_join",
                reason,
            });
        };
        let member = link.member(group);
        if member.is_some() {
            return Err(GroupError::AlreadyJoined(group));
        }
        // Dropping the handle on the way out closes it.
        let handle = cpg::initialize(&inbox::cpg_model(), 0).map_err(failed("cpg_initialize"))?;
        let fd = library_fd(cpg::fd_get(&handle), "cpg_fd_get")?;
        cpg::join(&handle, group.wire_name()).map_err(failed("cpg_join"))?;
        *member = Some(Member {
            handle: handle.clone(),
            fd,
        });
        self.slots.set(group, Slot::Joined(handle));
        Ok(())
    }

    fn leave(&mut self, group: GroupName) {
        let Some(link) = &mut self.link else { return };
        let Some(member) = link.member(group).take() else {
            return;
        };
        let mut slot = self.slots.lock(group);
        if let Err(error) = cpg::leave(&member.handle, group.wire_name()) {
            // Closing the handle is enough: the others then see a process that died.
            tracing::debug!(%group, %error, "leaving without goodbye");
        }
        *slot = Slot::NotMember;
    }

    fn disconnect(&mut self) {
        for group in GroupName::ALL {
            self.leave(group);
        }
        self.close();
    }

    fn wait(
        &mut self,
        timeout: Option<Duration>,
        wake: BorrowedFd<'_>,
        events: &mut Vec<GroupEvent>,
    ) -> bool {
        let timeout = if self.pending.is_empty() {
            timeout
        } else {
            Some(Duration::ZERO)
        };
        events.append(&mut self.pending);
        let Some(link) = &mut self.link else {
            return wait_ready(&[wake], timeout).first() != Some(&Ready::No);
        };
        let ready = link.poll(timeout, wake);
        if let Err(Lost(reason)) = link.dispatch(&ready, events) {
            self.close();
            events.push(GroupEvent::Disconnected { reason });
        }
        ready.wake
    }
}

impl CorosyncGroup {
    fn close(&mut self) {
        self.pending.clear();
        for group in GroupName::ALL {
            self.slots.set(group, Slot::Disconnected);
        }
        // Last: it holds copies of the descriptors, and the daemon waits for them to close.
        self.link = None;
    }
}

/// Asks the daemons of all nodes to read their `corosync.conf` again.
///
/// Needs no connection. Returns when this node's daemon has done so; blocks meanwhile.
///
/// # Errors
/// When the local daemon can not be reached or does not like the file.
pub fn reload_config() -> Result<(), GroupError> {
    let callbacks = cfg::Callbacks {
        corosync_cfg_shutdown_callback_fn: None,
    };
    let handle = cfg::initialize(&callbacks).map_err(failed("corosync_cfg_initialize"))?;
    cfg::reload_cnfig(&handle).map_err(failed("corosync_cfg_reload_config"))
}

/// Result of one poll.
struct Polled {
    wake: bool,
    quorum: Ready,
    map: Ready,
    config: Ready,
    status: Ready,
}

impl Link {
    fn open() -> Result<Self, GroupError> {
        let (quorum, kind) = quorum::initialize(&inbox::quorum_model(), 0)
            .map_err(failed("quorum_model_initialize"))?;
        if matches!(kind, quorum::QuorumType::Free) {
            return Err(GroupError::NoQuorumProvider);
        }
        let quorum_fd = library_fd(quorum::fd_get(&quorum), "quorum_fd_get")?;
        quorum::trackstart(&quorum, TrackFlags::Changes).map_err(failed("quorum_trackstart"))?;
        let map = NodeMap::open().map_err(failed("cmap_initialize"))?;
        let nodes = map.read().map_err(failed("cmap_get"))?;
        Ok(Self {
            local: local_node_id()?,
            quorum,
            quorum_fd,
            map,
            nodes,
            nodes_stale: false,
            config: None,
            status: None,
        })
    }

    fn member(&mut self, group: GroupName) -> &mut Option<Member> {
        match group {
            GroupName::Config => &mut self.config,
            GroupName::Status => &mut self.status,
        }
    }

    fn poll(&self, timeout: Option<Duration>, wake: BorrowedFd<'_>) -> Polled {
        let timeout = if self.nodes_stale {
            Some(timeout.map_or(STALE_RETRY, |time| time.min(STALE_RETRY)))
        } else {
            timeout
        };
        let mut fds = vec![wake, self.quorum_fd.as_fd(), self.map.fd.as_fd()];
        let members = [&self.config, &self.status];
        fds.extend(
            members
                .iter()
                .filter_map(|m| m.as_ref())
                .map(|m| m.fd.as_fd()),
        );
        let mut ready = wait_ready(&fds, timeout).into_iter();
        let mut next = || ready.next().unwrap_or(Ready::No);
        // In the order in which the descriptors were listed.
        Polled {
            wake: next() != Ready::No,
            quorum: next(),
            map: next(),
            config: if self.config.is_some() {
                next()
            } else {
                Ready::No
            },
            status: if self.status.is_some() {
                next()
            } else {
                Ready::No
            },
        }
    }

    /// Quorum first: a write that is pending when this node lands in a minority must find that
    /// out before its message is applied.
    fn dispatch(&mut self, ready: &Polled, events: &mut Vec<GroupEvent>) -> Result<(), Lost> {
        if ready.quorum != Ready::No {
            self.dispatch_quorum(events)?;
        }
        if ready.map != Ready::No || self.nodes_stale {
            self.dispatch_map(events)?;
        }
        for (group, ready) in [
            (GroupName::Config, ready.config),
            (GroupName::Status, ready.status),
        ] {
            if ready != Ready::No {
                self.dispatch_group(group, events)?;
            }
        }
        let all = [ready.quorum, ready.map, ready.config, ready.status];
        if all.contains(&Ready::HungUp) {
            // The library normally says so itself; never poll a dead descriptor in a loop.
            return Err(Lost("connection closed".to_owned()));
        }
        Ok(())
    }

    fn dispatch_quorum(&self, events: &mut Vec<GroupEvent>) -> Result<(), Lost> {
        quorum::dispatch(&self.quorum, DispatchFlags::All).map_err(lost("quorum_dispatch"))?;
        events.extend(inbox::take().into_iter().filter_map(inbox::quorum_event));
        Ok(())
    }

    fn dispatch_map(&mut self, events: &mut Vec<GroupEvent>) -> Result<(), Lost> {
        self.map.dispatch().map_err(lost("cmap_dispatch"))?;
        let nodes = match self.map.read() {
            Ok(nodes) => nodes,
            Err(CsError::CsErrTryAgain) => {
                self.nodes_stale = true;
                return Ok(());
            }
            Err(error) => return Err(lost("cmap_get")(error)),
        };
        self.nodes_stale = false;
        if nodes != self.nodes {
            self.nodes = nodes.clone();
            events.push(GroupEvent::NodeList(nodes));
        }
        Ok(())
    }

    /// Takes a batch of a group's events.
    ///
    /// After each one it looks at quorum again and hands a change out before the event: the
    /// event may have been sent after the change, but never the other way round.
    fn dispatch_group(
        &mut self,
        group: GroupName,
        events: &mut Vec<GroupEvent>,
    ) -> Result<(), Lost> {
        let Some(handle) = self
            .member(group)
            .as_ref()
            .map(|member| member.handle.clone())
        else {
            return Ok(());
        };
        let mut bytes = 0;
        for _ in 0..BATCH_EVENTS {
            match cpg::dispatch(&handle, DispatchFlags::OneNonblocking) {
                Ok(()) => {}
                Err(CsError::CsErrTryAgain) => break,
                Err(error) => return Err(lost("cpg_dispatch")(error)),
            }
            let items = inbox::take();
            self.dispatch_quorum(events)?;
            for event in items
                .into_iter()
                .filter_map(|item| inbox::group_event(group, item))
            {
                if let GroupEvent::Deliver { payload, .. } = &event {
                    bytes += payload.len();
                }
                events.push(event);
            }
            if bytes >= BATCH_BYTES {
                break;
            }
        }
        Ok(())
    }
}

/// Members are known by the id that CPG uses, so a short-lived handle asks there.
fn local_node_id() -> Result<u32, GroupError> {
    let handle = cpg::initialize(&inbox::cpg_model(), 0).map_err(failed("cpg_initialize"))?;
    let id = cpg::local_get(&handle).map_err(failed("cpg_local_get"))?;
    Ok(id.into())
}

fn library_fd(fd: Result<i32, CsError>, call: &'static str) -> Result<OwnedFd, GroupError> {
    let fd = fd.map_err(failed(call))?;
    owned_copy(fd).map_err(|error| GroupError::Refused {
        call,
        reason: error.to_string(),
    })
}

fn failed(call: &'static str) -> impl Fn(CsError) -> GroupError {
    move |error| match error {
        CsError::CsErrTryAgain => GroupError::Busy { call },
        CsError::CsErrLibrary | CsError::CsErrBadHandle => GroupError::Unavailable {
            call,
            reason: error.to_string(),
        },
        other => GroupError::Refused {
            call,
            reason: other.to_string(),
        },
    }
}

fn lost(call: &'static str) -> impl Fn(CsError) -> Lost {
    move |error| Lost(format!("{call}: {error}"))
}
