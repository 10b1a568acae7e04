//! The other side: a client of a service, this project's or Corosync's own.
//!
//! One request at a time, as the C libraries do it: [`Client::call`] sends one and waits for its
//! response. Events are taken with [`Client::event`]; the descriptor of the client is readable when
//! there may be one.
//!
//! Only channels in shared memory are supported: what servers offer unless they are told not to.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

use super::ring::{Ring, RingError};
use super::wire::{ChannelKind, Hello, WELCOME_LEN, Welcome, WireError};
use crate::clock;

/// Bytes of the largest message that clients of Corosync ask for.
const MESSAGE_MAX: u32 = 1 << 20;
/// The server could make us map more than it has any use for.
const MESSAGE_LIMIT: u32 = 64 << 20;
/// Both sides of a ring.
const ATTACHED: u32 = 2;
/// While waiting, how often it is looked whether the server still lives.
const SLICE: Duration = Duration::from_millis(250);
/// An abstract name: clients connect to the full length, filled with zeros.
const ABSTRACT_LEN: usize = 107;
const ACCESS: i32 = -13;
const AGAIN: i32 = -11;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody offers the service.
    #[error(
        "no daemon offers the service '{0}' in this network namespace: start it, or enter the namespace that it runs in"
    )]
    NotRunning(String),
    /// This user may not.
    #[error("this user may not connect: run as root, or name the user in a uidgid section")]
    NotAllowed,
    /// The daemon has not got so far.
    #[error("the daemon is not ready yet: it has no membership")]
    NotReady,
    /// The daemon said no, with this number.
    #[error("the daemon refused the connection with {0}")]
    Refused(i32),
    /// The daemon is gone.
    #[error("the daemon closed the connection")]
    Disconnected,
    /// No answer in time.
    #[error("the daemon did not answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// The daemon takes no requests at present.
    #[error("the daemon takes no requests at present: a membership is being formed")]
    Busy,
    /// The daemon wants to use sockets.
    #[error(
        "the daemon offers channels of a kind that is not supported (system.qb_ipc_type: socket)"
    )]
    Unsupported,
    /// The daemon does not keep to the rules.
    #[error("the daemon answered what no correct one does: {0}")]
    Malformed(#[from] WireError),
    /// The same, in memory.
    #[error("the memory shared with the daemon is damaged")]
    Damaged,
    /// A system call failed.
    #[error("connection to the daemon: {0}")]
    System(#[from] io::Error),
}

impl From<RingError> for ClientError {
    fn from(_: RingError) -> Self {
        Self::Damaged
    }
}

/// A connection to a service.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    request: Ring,
    response: Ring,
    event: Ring,
}

impl Client {
    /// Connects to a service, and waits for the daemon's word for `patience`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn connect(service: &str, patience: Duration) -> Result<Self, ClientError> {
        let mut name = service.as_bytes().to_vec();
        name.resize(ABSTRACT_LEN, 0);
        let mut stream =
            UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?).map_err(|error| {
                match error.kind() {
                    io::ErrorKind::ConnectionRefused => ClientError::NotRunning(service.to_owned()),
                    _ => error.into(),
                }
            })?;
        setsockopt(&stream, sockopt::PassCred, &true).map_err(io::Error::from)?;
        stream.set_read_timeout(Some(patience))?;
        let hello = Hello {
            max_message: MESSAGE_MAX,
        };
        stream.write_all(&hello.encode())?;
        let mut answer = vec![0; WELCOME_LEN];
        stream
            .read_exact(&mut answer)
            .map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => ClientError::TimedOut(patience),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                    ClientError::Disconnected
                }
                _ => error.into(),
            })?;
        let channels = match Welcome::decode(&answer)? {
            Welcome::Accepted(channels) => channels,
            Welcome::Refused(ACCESS) => return Err(ClientError::NotAllowed),
            Welcome::Refused(AGAIN) => return Err(ClientError::NotReady),
            Welcome::Refused(error) => return Err(ClientError::Refused(error)),
        };
        if channels.kind != ChannelKind::SharedMemory || channels.max_message > MESSAGE_LIMIT {
            return Err(ClientError::Unsupported);
        }
        let open = |name: &str| Ring::open(&path_of(name), channels.max_message);
        stream.set_nonblocking(true)?;
        Ok(Self {
            request: open(&channels.request)?,
            response: open(&channels.response)?,
            event: open(&channels.event)?,
            stream,
        })
    }

    /// Sends a request, head included, and waits for its response, head included.
    ///
    /// # Errors
    /// See [`ClientError`]. After a timeout the connection is of no more use: the response may
    /// still come.
    pub fn call(&mut self, request: &[u8], patience: Duration) -> Result<Vec<u8>, ClientError> {
        self.send(request)?;
        let end = clock::now() + patience;
        let mut message = Vec::new();
        loop {
            if self.response.take(&mut message)? {
                return Ok(message);
            }
            let left = end.saturating_duration_since(clock::now());
            if left.is_zero() {
                return Err(ClientError::TimedOut(patience));
            }
            self.response.wait(left.min(SLICE));
            if self.is_over(Duration::ZERO)? && !self.response.take(&mut message)? {
                return Err(ClientError::Disconnected);
            }
            if !message.is_empty() {
                return Ok(message);
            }
        }
    }

    /// Sends a request that has no response.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn send(&mut self, request: &[u8]) -> Result<(), ClientError> {
        if self.request.attached() != ATTACHED {
            return Err(ClientError::Disconnected);
        }
        if self.request.flow_control() != 0 || !self.request.put(&[request])? {
            return Err(ClientError::Busy);
        }
        // Rings the bell. If the daemon has heard many and answered none, it will look anyway.
        match self.stream.write(b"r") {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                Err(ClientError::Disconnected)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The next event, head included, if one comes before `until`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn event(&mut self, until: Instant) -> Result<Option<Vec<u8>>, ClientError> {
        let mut message = Vec::new();
        loop {
            if self.event.take(&mut message)? {
                return Ok(Some(message));
            }
            // Bells are rung when the event is there already: once they are heard it is looked for.
            if self.hear_bells()? {
                continue;
            }
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                return Ok(None);
            }
            if self.is_over(left)? {
                return Err(ClientError::Disconnected);
            }
        }
    }

    /// Takes all bells from the stream; whether there were any.
    fn hear_bells(&mut self) -> Result<bool, ClientError> {
        let mut bells = [0; 64];
        match self.stream.read(&mut bells) {
            Ok(0) => Err(ClientError::Disconnected),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                Err(ClientError::Disconnected)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for the daemon to say something on the stream; whether it said goodbye.
    fn is_over(&self, timeout: Duration) -> Result<bool, ClientError> {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        let [fd] = fds;
        let over = PollFlags::POLLHUP | PollFlags::POLLERR;
        Ok(fd.revents().is_some_and(|flags| flags.intersects(over)))
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// A channel as a file. Old servers name no directory.
fn path_of(name: &str) -> PathBuf {
    if name.contains('/') {
        PathBuf::from(name)
    } else {
        PathBuf::from(format!("/dev/shm/qb-{name}"))
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
