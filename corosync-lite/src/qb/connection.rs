//! One client: handshake, doorbells, and the queue of events that its ring has no room for.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixCredentials, recv, recvmsg, send, setsockopt, sockopt,
};

use super::channels::Channels;
use super::ring::RingError;
use super::wire::{HELLO_LEN, Hello, WireError};

/// What an event that waits takes beyond its bytes.
const EVENT_EXTRA: usize = 64;
/// Doorbells sent with one call: one byte for each event, and the client takes one for each.
const BELLS_MAX: usize = 64;
/// The client is woken when it has so much to read: it shall begin before the ring is full.
const UNHEARD_MAX: usize = 128 << 10;

/// Who connected, as the kernel vouches for it: the real ids, not the effective ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Process.
    pub pid: i32,
    /// Real user.
    pub uid: u32,
    /// Real group; further groups are not visible.
    pub gid: u32,
}

/// Whether clients may send requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlowControl {
    /// They may.
    #[default]
    Free,
    /// Their sends fail with `EAGAIN`.
    Off,
    /// Sends that may fail with `EAGAIN` do so, other requests are sent and wait unread.
    Soft,
}

impl FlowControl {
    pub(super) fn value(self) -> u32 {
        match self {
            Self::Free => 0,
            Self::Off => 1,
            Self::Soft => 2,
        }
    }
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The client closed it, or died.
    #[error("the client closed the connection")]
    Disconnected,
    /// The service refused it with this number.
    #[error("refused with {0}")]
    Refused(i32),
    /// The server closed it.
    #[error("closed by the server")]
    Closed,
    /// The first message was not the one that opens a connection.
    #[error("no valid handshake: {0}")]
    BadHandshake(WireError),
    /// The first message came without the ids of its sender.
    #[error("no credentials came with the handshake")]
    NoCredentials,
    /// The first message did not come in time, or newer connections needed the place.
    #[error("the handshake took too long")]
    HandshakeTimeout,
    /// A request whose size field does not fit it.
    #[error("bad request: {0}")]
    BadRequest(WireError),
    /// Shared memory holds what no correct client writes, or was taken away.
    #[error("shared memory unusable: the client damaged it")]
    BadMemory,
    /// Events for it piled up beyond the bound.
    #[error("the client does not read its events")]
    EventOverrun,
    /// It sent requests without reading the responses.
    #[error("the client does not read its responses")]
    ResponseOverrun,
    /// A system call on its socket failed.
    #[error("socket error {0}")]
    Socket(Errno),
}

impl From<RingError> for CloseReason {
    fn from(error: RingError) -> Self {
        match error {
            RingError::Corrupt | RingError::Lost => Self::BadMemory,
        }
    }
}

/// Counters of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests read.
    pub requests: u64,
    /// Responses written.
    pub responses: u64,
    /// Events written or queued.
    pub events: u64,
    /// Events that wait for room in the ring of the client.
    pub queued: usize,
    /// Whether the client reads too slowly to be allowed to send more that comes back to it.
    pub is_behind: bool,
}

/// A client from its first byte on.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: UnixStream,
    /// Index of the listener.
    pub(super) service: usize,
    pub(super) state: State,
    /// Waits in the queue of connections that may have requests.
    pub(super) is_ready: bool,
    /// The kernel tells when the client has read a doorbell.
    pub(super) watches_output: bool,
}

#[derive(Debug)]
pub(super) enum State {
    /// Waits for the rest of the first message.
    Hello {
        received: Vec<u8>,
        credentials: Option<Credentials>,
        deadline: Instant,
    },
    /// Waits for the word of the service.
    Deciding {
        hello: Hello,
        credentials: Credentials,
    },
    /// Serves requests.
    Open(Box<Open>),
}

/// What an accepted connection holds.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) channels: Channels,
    pub(super) credentials: Credentials,
    pub(super) max_message: usize,
    pub(super) traffic: Traffic,
    /// After the client is gone: requests that it left behind and that are still served.
    pub(super) left: Option<u32>,
    queue: VecDeque<Vec<u8>>,
    queued_bytes: usize,
    /// Events in the ring for which no byte was sent yet.
    bells_owed: usize,
    /// Bytes of events since the last doorbell.
    unheard: usize,
    /// Bytes of events that may wait.
    queued_max: usize,
    /// What the service says of requests.
    flow: FlowControl,
    /// So much waits that the client shall read before it causes more.
    is_behind: bool,
}

/// What an input led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing to tell.
    Pending,
    /// The first message is complete.
    Hello(Credentials),
}

impl Connection {
    pub(super) fn new(stream: UnixStream, service: usize, deadline: Instant) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        setsockopt(&stream, sockopt::PassCred, &true)?;
        let received = Vec::with_capacity(HELLO_LEN);
        let state = State::Hello {
            received,
            credentials: None,
            deadline,
        };
        Ok(Self {
            stream,
            service,
            state,
            is_ready: false,
            watches_output: false,
        })
    }

    /// Reads what the client sent on the stream.
    pub(super) fn handle_input(&mut self) -> Result<Progress, CloseReason> {
        match self.state {
            State::Hello { .. } => self.read_hello(),
            State::Deciding { .. } => Ok(Progress::Pending),
            State::Open(_) => self.read_doorbells().map(|()| Progress::Pending),
        }
    }

    /// The accepted connection, if it is one.
    pub(super) fn open_mut(&mut self) -> Option<&mut Open> {
        match &mut self.state {
            State::Open(open) => Some(open),
            State::Hello { .. } | State::Deciding { .. } => None,
        }
    }

    /// Sends one message of the handshake, which a fresh stream always has room for.
    pub(super) fn send_whole(&self, message: &[u8]) -> Result<(), CloseReason> {
        match send(self.stream.as_raw_fd(), message, SEND_FLAGS) {
            Ok(length) if length == message.len() => Ok(()),
            Ok(_) => Err(CloseReason::Socket(Errno::EMSGSIZE)),
            Err(error) => Err(CloseReason::Socket(error)),
        }
    }

    /// Moves events into the ring while there is room, and rings for them.
    ///
    /// True when nothing is left to do.
    pub(super) fn flush_events(&mut self) -> Result<bool, CloseReason> {
        let fd = self.stream.as_raw_fd();
        let Some(open) = self.open_mut() else {
            return Ok(true);
        };
        while let Some(event) = open.queue.front() {
            if !open.channels.event.put(&[event])? {
                break;
            }
            open.queued_bytes -= taken_by(event);
            open.queue.pop_front();
            open.bells_owed += 1;
        }
        open.slow_down();
        while open.bells_owed > 0 {
            let bells = &[0; BELLS_MAX][..open.bells_owed.min(BELLS_MAX)];
            match send(fd, bells, SEND_FLAGS) {
                Ok(sent) => open.bells_owed -= sent.min(open.bells_owed),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(lost(error)),
            }
        }
        open.unheard = 0;
        open.traffic.queued = open.queue.len();
        Ok(open.bells_owed == 0 && open.queue.is_empty())
    }

    fn read_hello(&mut self) -> Result<Progress, CloseReason> {
        let State::Hello {
            received,
            credentials,
            ..
        } = &mut self.state
        else {
            return Ok(Progress::Pending);
        };
        while received.len() < HELLO_LEN {
            let mut buffer = vec![0; HELLO_LEN - received.len()];
            let (count, who) = match receive_with_credentials(&self.stream, &mut buffer) {
                Ok((0, _)) => return Err(CloseReason::Disconnected),
                Ok(part) => part,
                Err(Errno::EAGAIN) => return Ok(Progress::Pending),
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(lost(error)),
            };
            // They come with the first part.
            *credentials = credentials.or(who);
            received.extend(buffer.into_iter().take(count));
        }
        let hello = Hello::decode(received).map_err(CloseReason::BadHandshake)?;
        let credentials = credentials.ok_or(CloseReason::NoCredentials)?;
        setsockopt(&self.stream, sockopt::PassCred, &false).map_err(CloseReason::Socket)?;
        self.state = State::Deciding { hello, credentials };
        Ok(Progress::Hello(credentials))
    }

    /// Their number means nothing: the semaphore says how many requests there are.
    fn read_doorbells(&mut self) -> Result<(), CloseReason> {
        let mut buffer = [0; 4096];
        // More than a socket buffer holds: what comes later wakes us again.
        for _ in 0..64 {
            match recv(self.stream.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Err(CloseReason::Disconnected),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(lost(error)),
            }
        }
        Ok(())
    }
}

impl Open {
    pub(super) fn new(
        channels: Channels,
        credentials: Credentials,
        max_message: usize,
        queued_max: usize,
    ) -> Self {
        Self {
            channels,
            credentials,
            max_message,
            traffic: Traffic::default(),
            left: None,
            queue: VecDeque::new(),
            queued_bytes: 0,
            bells_owed: 0,
            unheard: 0,
            queued_max,
            flow: FlowControl::Free,
            is_behind: false,
        }
    }

    /// Sets whether the client may send requests, as far as the service is concerned.
    pub(super) fn set_flow(&mut self, flow: FlowControl) {
        self.flow = flow;
        self.show_flow();
    }

    /// Who does not keep up with reading can not send more of what comes back to it, until it has
    /// read half of what waits. Its other requests are served as ever.
    fn slow_down(&mut self) {
        let is_behind = if self.is_behind {
            self.queued_bytes > self.queued_max / 4
        } else {
            self.queued_bytes > self.queued_max / 2
        };
        if is_behind != self.is_behind {
            self.is_behind = is_behind;
            self.traffic.is_behind = is_behind;
            self.show_flow();
        }
    }

    fn show_flow(&self) {
        let flow = match self.flow {
            FlowControl::Free if self.is_behind => FlowControl::Soft,
            flow => flow,
        };
        self.channels.request.set_flow_control(flow.value());
    }

    /// Whether there are events of which the client was not told.
    pub(super) fn owes_bells(&self) -> bool {
        self.bells_owed > 0 || !self.queue.is_empty()
    }

    /// Whether the client has enough to do, or its ring has no more room.
    pub(super) fn shall_ring(&self) -> bool {
        self.bells_owed >= BELLS_MAX || self.unheard >= UNHEARD_MAX || !self.queue.is_empty()
    }

    /// Queues an event, within the bound.
    pub(super) fn queue_event(&mut self, parts: &[&[u8]]) -> Result<(), CloseReason> {
        self.traffic.events += 1;
        self.unheard += parts.iter().map(|part| part.len()).sum::<usize>();
        // The short way: no copy in between.
        if self.queue.is_empty() && self.channels.event.put(parts)? {
            self.bells_owed += 1;
            return Ok(());
        }
        let event = parts.concat();
        if self.queued_bytes + taken_by(&event) > self.queued_max {
            return Err(CloseReason::EventOverrun);
        }
        self.queued_bytes += taken_by(&event);
        self.queue.push_back(event);
        self.slow_down();
        Ok(())
    }
}

/// Memory of an event that waits.
fn taken_by(event: &[u8]) -> usize {
    event.len() + EVENT_EXTRA
}

const SEND_FLAGS: MsgFlags = MsgFlags::MSG_DONTWAIT.union(MsgFlags::MSG_NOSIGNAL);

fn receive_with_credentials(
    stream: &UnixStream,
    buffer: &mut [u8],
) -> Result<(usize, Option<Credentials>), Errno> {
    let mut space = cmsg_space!(UnixCredentials);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let credentials = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmCredentials(ids) => Some(Credentials {
            pid: ids.pid(),
            uid: ids.uid(),
            gid: ids.gid(),
        }),
        _ => None,
    });
    Ok((message.bytes, credentials))
}

fn lost(error: Errno) -> CloseReason {
    match error {
        Errno::ECONNRESET | Errno::EPIPE | Errno::ENOTCONN => CloseReason::Disconnected,
        other => CloseReason::Socket(other),
    }
}
