//! A member of one process group, over the client library of Corosync.
//!
//! The library's callbacks leave what they get in an inbox of the thread, as headers only: no
//! payload is copied, so that the time measured is that of the daemon.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, anyhow, bail};
use rust_corosync::{CsError, DispatchFlags, NodeId, cpg};

use super::protocol::Header;

/// Stack of a thread that dispatches: the library puts a whole message there.
pub const STACK_BYTES: usize = 4 << 20;
/// Name of the group; the NUL is part of it, as with all clients written in C.
const GROUP: &str = "ringbench\0";

thread_local! {
    static INBOX: RefCell<Vec<Delivery>> = const { RefCell::new(Vec::new()) };
}

/// What was delivered.
#[derive(Debug)]
pub enum Delivery {
    /// A message.
    Message {
        /// Its sender.
        node: u32,
        /// Its header, or what is wrong with the message.
        header: Result<Header>,
    },
    /// A membership: how many members.
    Members(usize),
}

/// How sending went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// The daemon has it.
    Sent,
    /// Queues are full, or the membership is changing.
    Busy,
}

/// A connection that has joined the group.
pub struct Client {
    handle: cpg::Handle,
    fd: OwnedFd,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// Connects and joins. `None`: the daemon is not there, or not ready.
    ///
    /// # Errors
    /// When the daemon refuses.
    pub fn connect() -> Result<Option<Self>> {
        let model = cpg::ModelData::ModelV1(cpg::Model1Data {
            flags: cpg::Model1Flags::None,
            deliver_fn: Some(on_deliver),
            confchg_fn: Some(on_confchg),
            totem_confchg_fn: None,
        });
        let Some(handle) = ready(cpg::initialize(&model, 0)).context("cpg_initialize")? else {
            return Ok(None);
        };
        if ready(cpg::join(&handle, GROUP))
            .context("cpg_join")?
            .is_none()
        {
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

    /// Sends one message to all members, this one included.
    ///
    /// # Errors
    /// When the daemon is gone, or refuses.
    pub fn send(&self, message: &[u8]) -> Result<Sending> {
        match cpg::mcast_joined(&self.handle, cpg::Guarantee::TypeAgreed, message) {
            Ok(()) => Ok(Sending::Sent),
            Err(CsError::CsErrTryAgain | CsError::CsErrInterrupt | CsError::CsErrQueueFull) => {
                Ok(Sending::Busy)
            }
            Err(error) => bail!("cpg_mcast_joined: {error}"),
        }
    }

    /// Appends what was delivered, at most `limit` items. `false`: the daemon is gone.
    ///
    /// # Errors
    /// When the library fails in another way.
    pub fn take(&self, limit: usize, into: &mut Vec<Delivery>) -> Result<bool> {
        for _ in 0..limit {
            match cpg::dispatch(&self.handle, DispatchFlags::OneNonblocking) {
                Ok(()) => {}
                Err(CsError::CsErrTryAgain) => break,
                Err(CsError::CsErrLibrary | CsError::CsErrBadHandle) => return Ok(false),
                Err(error) => bail!("cpg_dispatch: {error}"),
            }
        }
        INBOX.with_borrow_mut(|inbox| into.append(inbox));
        Ok(true)
    }
}

fn ready<T>(result: Result<T, CsError>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(CsError::CsErrTryAgain | CsError::CsErrLibrary | CsError::CsErrTimeout) => Ok(None),
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

fn push(delivery: Delivery) {
    INBOX.with_borrow_mut(|inbox| inbox.push(delivery));
}

fn on_deliver(
    _handle: &cpg::Handle,
    _group: String,
    node: NodeId,
    _pid: u32,
    message: &[u8],
    _length: usize,
) {
    push(Delivery::Message {
        node: node.into(),
        header: Header::read(message),
    });
}

fn on_confchg(
    _handle: &cpg::Handle,
    _group: &str,
    members: Vec<cpg::Address>,
    _left: Vec<cpg::Address>,
    _joined: Vec<cpg::Address>,
) {
    push(Delivery::Members(members.len()));
}
