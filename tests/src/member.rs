//! A member of one process group, over the client library of Corosync.
//!
//! The library's callbacks leave what they get in an inbox of the thread.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::{self, LocalKey};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rust_corosync::{CsError, DispatchFlags, NodeId, cpg};

/// Stack of a thread that dispatches: the library puts a whole message there.
const STACK_BYTES: usize = 4 << 20;

/// What a member keeps of what it is told.
pub trait Told: Sized + 'static {
    /// Name of the group, with the NUL that is part of it for all clients written in C.
    const GROUP: &'static str;

    /// Where the thread collects it.
    fn inbox() -> &'static LocalKey<RefCell<Vec<Self>>>;

    /// A message was delivered.
    fn message(from: u32, message: &[u8]) -> Self;

    /// The membership changed.
    fn view(members: &[cpg::Address], left: &[cpg::Address], joined: &[cpg::Address]) -> Self;
}

/// How sending went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// The daemon has it.
    Sent,
    /// Queues are full, or the membership is changing.
    Busy,
    /// The daemon is gone.
    Gone,
}

/// A connection that has joined the group.
pub struct Member<T> {
    handle: cpg::Handle,
    fd: OwnedFd,
    told: PhantomData<T>,
}

impl<T> fmt::Debug for Member<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").finish_non_exhaustive()
    }
}

impl<T: Told> Member<T> {
    /// Connects and joins. `None`: the daemon is not there, or not ready.
    ///
    /// # Errors
    /// When the daemon refuses.
    pub fn join() -> Result<Option<Self>> {
        let model = cpg::ModelData::ModelV1(cpg::Model1Data {
            flags: cpg::Model1Flags::None,
            deliver_fn: Some(on_deliver::<T>),
            confchg_fn: Some(on_confchg::<T>),
            totem_confchg_fn: None,
        });
        let Some(handle) = ready(cpg::initialize(&model, 0)).context("cpg_initialize")? else {
            return Ok(None);
        };
        let joined = ready(cpg::join(&handle, T::GROUP)).context("cpg_join")?;
        if joined.is_none() {
            return Ok(None);
        }
        let fd = cpg::fd_get(&handle).map_err(|error| anyhow!("cpg_fd_get: {error}"))?;
        Ok(Some(Self {
            fd: owned_copy(fd)?,
            handle,
            told: PhantomData,
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
    /// When the daemon refuses.
    pub fn send(&self, message: &[u8]) -> Result<Sending> {
        match cpg::mcast_joined(&self.handle, cpg::Guarantee::TypeAgreed, message) {
            Ok(()) => Ok(Sending::Sent),
            Err(CsError::CsErrTryAgain | CsError::CsErrInterrupt | CsError::CsErrQueueFull) => {
                Ok(Sending::Busy)
            }
            Err(CsError::CsErrLibrary | CsError::CsErrBadHandle) => Ok(Sending::Gone),
            Err(error) => bail!("cpg_mcast_joined: {error}"),
        }
    }

    /// Appends what was delivered, at most `limit` items. `false`: the daemon is gone.
    ///
    /// # Errors
    /// When the library fails in another way.
    pub fn take(&self, limit: usize, into: &mut Vec<T>) -> Result<bool> {
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
        T::inbox().with_borrow_mut(|inbox| into.append(inbox));
        Ok(is_there)
    }

    /// Leaves the group. `false`: the daemon takes no requests now, and will hear of it when the
    /// connection closes.
    pub fn leave(self) -> bool {
        cpg::leave(&self.handle, T::GROUP).is_ok()
    }
}

/// Connects to the controller and serves it on a thread that can dispatch.
///
/// # Errors
/// When the controller can not be reached, and those of `serve`.
pub fn serve(
    controller: &Path,
    serve: impl FnOnce(UnixStream) -> Result<()> + Send + 'static,
) -> Result<()> {
    let stream = UnixStream::connect(controller)
        .with_context(|| format!("cannot reach {}", controller.display()))?;
    let thread = thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(move || serve(stream))?;
    let ended = thread.join();
    ended.map_err(|_| anyhow!("the client's thread panicked"))?
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
    ensure!(fd >= 0, "the client library has no descriptor");
    // SAFETY: the library returned it for a handle that the caller holds open, so it is open, and
    // it is borrowed only for this statement.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()?)
}

fn on_deliver<T: Told>(
    _handle: &cpg::Handle,
    _group: String,
    node: NodeId,
    _pid: u32,
    message: &[u8],
    _length: usize,
) {
    let told = T::message(node.into(), message);
    T::inbox().with_borrow_mut(|inbox| inbox.push(told));
}

fn on_confchg<T: Told>(
    _handle: &cpg::Handle,
    _group: &str,
    members: Vec<cpg::Address>,
    left: Vec<cpg::Address>,
    joined: Vec<cpg::Address>,
) {
    let told = T::view(&members, &left, &joined);
    T::inbox().with_borrow_mut(|inbox| inbox.push(told));
}
