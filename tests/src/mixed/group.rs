//! A member of one process group, over the client library of Corosync.
//!
//! The library's callbacks leave what they get in an inbox of the thread.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, anyhow, bail};
use rust_corosync::{CsError, DispatchFlags, NodeId, cpg};

use super::protocol::{Event, Print, Process};

/// Stack of a thread that dispatches: the library puts a whole message there.
pub const STACK_BYTES: usize = 4 << 20;
/// Name of the group; the NUL is part of it, as with all clients written in C.
const GROUP: &str = "mixed\0";

thread_local! {
    static INBOX: RefCell<Vec<Event>> = const { RefCell::new(Vec::new()) };
}

/// A connection that has joined the group.
pub struct Member {
    handle: cpg::Handle,
    fd: OwnedFd,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").finish_non_exhaustive()
    }
}

impl Member {
    /// Connects and joins. `None`: the daemon is not there, or not ready.
    ///
    /// # Errors
    /// When the daemon refuses.
    pub fn join() -> Result<Option<Self>> {
        let model = cpg::ModelData::ModelV1(cpg::Model1Data {
            flags: cpg::Model1Flags::None,
            deliver_fn: Some(on_deliver),
            confchg_fn: Some(on_confchg),
            totem_confchg_fn: None,
        });
        let Some(handle) = ready(cpg::initialize(&model, 0)).context("cpg_initialize")? else {
            return Ok(None);
        };
        let joined = ready(cpg::join(&handle, GROUP)).context("cpg_join")?;
        if joined.is_none() {
            return Ok(None);
        }
        let fd = cpg::fd_get(&handle).map_err(|error| anyhow!("cpg_fd_get: {error}"))?;
        Ok(Some(Self {
            fd: owned_copy(fd)?,
            handle,
        }))
    }

    /// Readable when there is something to take.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Sends one message to all members, this one included. `false`: the daemon takes none now.
    ///
    /// # Errors
    /// When the daemon refuses.
    pub fn send(&self, message: &[u8]) -> Result<bool> {
        match cpg::mcast_joined(&self.handle, cpg::Guarantee::TypeAgreed, message) {
            Ok(()) => Ok(true),
            Err(
                CsError::CsErrTryAgain
                | CsError::CsErrInterrupt
                | CsError::CsErrQueueFull
                // The daemon is gone: taking tells.
                | CsError::CsErrLibrary
                | CsError::CsErrBadHandle,
            ) => Ok(false),
            Err(error) => bail!("cpg_mcast_joined: {error}"),
        }
    }

    /// Appends what was delivered, at most `limit` items. `false`: the daemon is gone.
    ///
    /// # Errors
    /// When the library fails in another way.
    pub fn take(&self, limit: usize, into: &mut Vec<Event>) -> Result<bool> {
        let mut is_there = true;
        for _ in 0..limit {
            match cpg::dispatch(&self.handle, DispatchFlags::OneNonblocking) {
                Ok(()) => {}
                Err(CsError::CsErrTryAgain) => break,
                Err(CsError::CsErrLibrary | CsError::CsErrBadHandle) => {
                    is_there = false;
                    break;
                }
                Err(error) => bail!("cpg_dispatch: {error}"),
            }
        }
        INBOX.with_borrow_mut(|inbox| into.append(inbox));
        Ok(is_there)
    }

    /// Leaves the group. `false`: the daemon takes no requests now, and will hear of it when the
    /// connection closes.
    pub fn leave(self) -> bool {
        cpg::leave(&self.handle, GROUP).is_ok()
    }
}

fn ready<T>(result: Result<T, CsError>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(
            CsError::CsErrTryAgain
            | CsError::CsErrLibrary
            | CsError::CsErrTimeout
            | CsError::CsErrBadHandle,
        ) => Ok(None),
        Err(error) => bail!("{error}"),
    }
}

#[expect(
    unsafe_code,
    reason = "the client library hands out a bare descriptor number"
)]
fn owned_copy(fd: i32) -> Result<OwnedFd> {
    anyhow::ensure!(fd >= 0, "the client library has no descriptor");
    // SAFETY: the library returned it for a handle that the caller holds open, so it is open, and
    // it is borrowed only for this statement.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()?)
}

fn push(event: Event) {
    INBOX.with_borrow_mut(|inbox| inbox.push(event));
}

fn on_deliver(
    _handle: &cpg::Handle,
    _group: String,
    node: NodeId,
    _pid: u32,
    message: &[u8],
    _length: usize,
) {
    push(Event::Message {
        from: node.into(),
        print: Print::of(message),
    });
}

fn on_confchg(
    _handle: &cpg::Handle,
    _group: &str,
    members: Vec<cpg::Address>,
    left: Vec<cpg::Address>,
    joined: Vec<cpg::Address>,
) {
    let mut members: Vec<u32> = members.iter().map(|it| it.nodeid.into()).collect();
    members.sort_unstable();
    push(Event::View {
        members,
        left: processes(left),
        joined: processes(joined),
    });
}

fn processes(list: Vec<cpg::Address>) -> Vec<Process> {
    let reason = |reason| match reason {
        cpg::Reason::Undefined => 0,
        cpg::Reason::Join => 1,
        cpg::Reason::Leave => 2,
        cpg::Reason::NodeDown => 3,
        cpg::Reason::NodeUp => 4,
        cpg::Reason::ProcDown => 5,
    };
    let mut all: Vec<_> = list
        .into_iter()
        .map(|it| (it.nodeid.into(), reason(it.reason)))
        .collect();
    all.sort_unstable();
    all
}
