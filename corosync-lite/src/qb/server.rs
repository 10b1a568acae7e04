//! Listeners, all connections, fairness and limits.
//!
//! A [`Server`] does nothing on its own. The program that owns it waits until its descriptor is
//! readable or [`Server::poll_timeout`] is reached, calls [`Server::process`], and takes events
//! from [`Server::poll_event`] until there are none. Requests stay in the rings of their clients
//! until then, one is taken from each connection in turn. Responses may be given at any later
//! time, in the order of the requests of that connection.
//!
//! | limit | what happens when it is reached |
//! |---|---|
//! | unfinished handshakes | the oldest is closed |
//! | events that the owner has not taken | clients wait to be accepted |
//! | open connections | new ones are refused with `EMFILE` |
//! | size of messages that a client asks for | refused with `EINVAL` |
//! | events that a client does not read | the client is disconnected |

mod notify;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{setsockopt, sockopt};

use super::channels::Channels;
use super::connection::{
    CloseReason, Connection, Credentials, FlowControl, Open, Progress, State, Traffic,
};
use super::event::{ConnectionId, Event, Request, SendError, ServiceId};
use super::wire::{
    ID_DISCONNECT, RESPONSE_HEADER_LEN, RequestHeader, ResponseHeader, WELCOME_LEN, Welcome,
};

/// Longest name of a service.
const NAME_MAX: usize = 106;
/// Bytes of an abstract name: clients connect to the full length, filled with zeros.
const ABSTRACT_LEN: usize = 107;
/// Connections taken from one listener before others get their turn.
const ACCEPTS_PER_TURN: usize = 64;
/// While so many events wait for the owner, nobody is accepted: those who connect need no rights,
/// and may be faster than the owner.
const EVENTS_MAX: usize = 256;
/// Requests of a client that is gone which are still served.
const LEFT_MAX: u32 = 4096;

/// Limits and places of a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the files of connections are made.
    pub directory: PathBuf,
    /// Least size of messages that connections are made for, whatever clients ask for.
    pub message_min: u32,
    /// Largest size that a client may ask for. A connection takes three times that much memory.
    pub message_max: u32,
    /// Open connections, all services together.
    pub connections_max: usize,
    /// Connections that have not finished their handshake.
    pub handshakes_max: usize,
    /// Time for the first message.
    pub handshake_timeout: Duration,
    /// Bytes of events that wait for one client, besides those in its ring.
    pub event_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("/dev/shm"),
            message_min: 12_328,
            message_max: 16 << 20,
            connections_max: 1024,
            handshakes_max: 128,
            handshake_timeout: Duration::from_secs(5),
            // What a ring can bring while a busy machine keeps the client from running.
            event_bytes_max: 128 << 20,
        }
    }
}

/// Serves any number of services; see the module.
#[derive(Debug)]
pub struct Server {
    options: Options,
    epoll: Epoll,
    services: Vec<Service>,
    connections: BTreeMap<u64, Connection>,
    next: u64,
    /// Connections that wait for their first message. All have the same time for it, so the first
    /// in order is the first to run out of it.
    handshakes: BTreeSet<u64>,
    /// Connections that may have requests, each once.
    ready: VecDeque<u64>,
    events: VecDeque<Event>,
    /// Given up for a moment when descriptors are used up, to turn the next client away.
    spare: Option<File>,
    /// Connections whose doorbell may have to be rung.
    ringing: Vec<u64>,
    now: Option<Instant>,
    retry_at: Option<Instant>,
}

#[derive(Debug)]
struct Service {
    name: String,
    listener: UnixListener,
    flow_control: FlowControl,
}

impl Server {
    /// A server without services.
    ///
    /// # Errors
    /// When the system refuses a descriptor.
    pub fn new(options: Options) -> io::Result<Self> {
        Ok(Self {
            options,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            services: Vec::new(),
            connections: BTreeMap::new(),
            // Below are the numbers of services.
            next: 1 << 32,
            handshakes: BTreeSet::new(),
            ready: VecDeque::new(),
            events: VecDeque::new(),
            spare: File::open("/dev/null").ok(),
            ringing: Vec::new(),
            now: None,
            retry_at: None,
        })
    }

    /// Listens under the abstract name of a service.
    ///
    /// # Errors
    /// `AddrInUse` when another process of this network namespace does so.
    pub fn listen(&mut self, name: &str) -> io::Result<ServiceId> {
        if name.is_empty() || name.len() > NAME_MAX || name.contains(['/', '\0']) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut padded = name.as_bytes().to_vec();
        padded.resize(ABSTRACT_LEN, 0);
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(padded)?)?;
        listener.set_nonblocking(true)?;
        // Accepted sockets inherit it, so the ids are there whenever the client sends.
        setsockopt(&listener, sockopt::PassCred, &true)?;
        let index = self.services.len();
        let token = u64::try_from(index).map_err(io::Error::other)?;
        self.epoll
            .add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        let flow_control = FlowControl::Free;
        self.services.push(Service {
            name: name.to_owned(),
            listener,
            flow_control,
        });
        Ok(ServiceId(index))
    }

    /// Waits until there is something to process, or for `timeout`; for programs without a loop.
    ///
    /// # Errors
    /// When the system call fails; not when a signal interrupts it.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        // Rounded up: waking too early would be a busy loop.
        let timeout = timeout.map_or(PollTimeout::NONE, |timeout| {
            let ms = timeout.as_nanos().div_ceil(1_000_000);
            PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes in what clients did since the last call. Never blocks.
    ///
    /// # Errors
    /// When the system call fails; never for the sake of a client.
    pub fn process(&mut self, now: Instant) -> io::Result<()> {
        self.now = Some(now);
        let mut fired = [EpollEvent::empty(); 128];
        let count = match self.epoll.wait(&mut fired, EpollTimeout::ZERO) {
            Err(Errno::EINTR) => 0,
            result => result?,
        };
        for event in fired.iter().take(count) {
            match usize::try_from(event.data())
                .ok()
                .filter(|index| *index < self.services.len())
            {
                Some(index) => self.accept_clients(index, now),
                None => self.handle_connection(event.data(), event.events()),
            }
        }
        self.expire_handshakes(now);
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            let slow = self
                .connections
                .iter()
                .filter(|(_, client)| client.watches_output);
            for id in slow.map(|(id, _)| *id).collect::<Vec<_>>() {
                self.flush(id);
            }
        }
        Ok(())
    }

    /// When [`Server::process`] is to be called at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let handshake = self.first_handshake().map(|(_, deadline)| deadline);
        handshake.into_iter().chain(self.retry_at).min()
    }

    /// The next thing that happened. After `None` it is safe to wait.
    pub fn poll_event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let Some(id) = self.ready.pop_front() else {
                self.ring();
                // Who can not be told any more is gone.
                return self.events.pop_front();
            };
            let Some(client) = self.connections.get_mut(&id) else {
                continue;
            };
            client.is_ready = false;
            let service = ServiceId(client.service);
            match self.next_request(id) {
                Ok(Some(request)) => {
                    self.make_ready(id);
                    return Some(Event::Request {
                        connection: ConnectionId(id),
                        service,
                        request,
                    });
                }
                Ok(None) => {}
                Err(reason) => self.end(id, reason),
            }
        }
    }

    /// Whether [`Server::poll_event`] may have more to give; then the owner must not wait. For
    /// owners that take a bounded number of events at a time.
    pub fn has_pending(&self) -> bool {
        !self.events.is_empty() || !self.ready.is_empty()
    }

    /// Lets a client in.
    ///
    /// # Errors
    /// When it is gone, or its channels can not be made; then it is refused with the error number
    /// of the reason, and an [`Event::Closed`] follows.
    pub fn accept(&mut self, connection: ConnectionId) -> Result<(), SendError> {
        let id = connection.0;
        let Some(client) = self.connections.get_mut(&id) else {
            return Err(SendError::Closed);
        };
        let State::Deciding { hello, credentials } = client.state else {
            return Err(SendError::Closed);
        };
        let service = &self.services[client.service];
        let flow_control = service.flow_control;
        let size = hello.max_message.max(self.options.message_min);
        let open_count = self
            .connections
            .values()
            .filter(|client| is_open(client))
            .count();
        let made = if size > self.options.message_max {
            Err(Errno::EINVAL)
        } else if open_count >= self.options.connections_max {
            Err(Errno::EMFILE)
        } else {
            self.make_channels(id, size, &credentials)
        };
        let channels = match made {
            Ok(channels) => channels,
            Err(error) => {
                self.refuse(connection, -errno_number(error));
                return Err(SendError::Closed);
            }
        };
        let welcome = channels.welcome(id, size);
        let limit = usize::try_from(size).unwrap_or(usize::MAX);
        let Some(client) = self.connections.get_mut(&id) else {
            return Err(SendError::Closed);
        };
        let queued_max = self.options.event_bytes_max;
        let mut open = Box::new(Open::new(channels, credentials, limit, queued_max));
        open.set_flow(flow_control);
        client.state = State::Open(open);
        match client.send_whole(&welcome.encode()) {
            Ok(()) => Ok(()),
            Err(reason) => {
                self.end(id, reason);
                Err(SendError::Closed)
            }
        }
    }

    /// Turns a client away. `error` is what it is told, for example `-13` for `EACCES`, not 0.
    pub fn refuse(&mut self, connection: ConnectionId, error: i32) {
        if let Some(client) = self.connections.get(&connection.0)
            && matches!(client.state, State::Deciding { .. })
        {
            // A client that does not read the refusal sees the end of the connection instead.
            client.send_whole(&Welcome::Refused(error).encode()).ok();
            self.end(connection.0, CloseReason::Refused(error));
        }
    }

    /// Sends the response to the oldest request that has none yet; `body` lies behind the head.
    ///
    /// What a client left behind when it went is answered to nobody.
    ///
    /// # Errors
    /// See [`SendError`]. A client that does not read its responses is disconnected.
    pub fn respond(
        &mut self,
        connection: ConnectionId,
        id: i32,
        error: i32,
        body: &[&[u8]],
    ) -> Result<(), SendError> {
        let (open, head) = self.prepare(connection, id, error, body)?;
        if open.left.is_some() {
            return Ok(());
        }
        let parts = parts_of(&head, body);
        let reason = match open.channels.response.put(&parts) {
            Ok(true) => {
                open.traffic.responses += 1;
                return Ok(());
            }
            Ok(false) => CloseReason::ResponseOverrun,
            Err(error) => error.into(),
        };
        self.end(connection.0, reason);
        Err(SendError::Closed)
    }

    /// Sets whether the clients of a service may send requests. While they may not, none of their
    /// requests is read; events keep flowing.
    pub fn set_flow_control(&mut self, service: ServiceId, flow_control: FlowControl) {
        let Some(entry) = self.services.get_mut(service.0) else {
            return;
        };
        entry.flow_control = flow_control;
        let mut of_service = Vec::new();
        for (id, client) in &mut self.connections {
            if client.service == service.0
                && let Some(open) = client.open_mut()
            {
                open.set_flow(flow_control);
                of_service.push(*id);
            }
        }
        if flow_control == FlowControl::Free {
            for id in of_service {
                self.make_ready(id);
            }
        }
    }

    /// Ends a connection.
    pub fn close(&mut self, connection: ConnectionId) {
        self.end(connection.0, CloseReason::Closed);
    }

    /// Counters of an open connection.
    pub fn traffic(&self, connection: ConnectionId) -> Option<Traffic> {
        self.open(connection).map(|open| open.traffic)
    }

    /// Who is at the other end of an open connection.
    pub fn credentials(&self, connection: ConnectionId) -> Option<Credentials> {
        self.open(connection).map(|open| open.credentials)
    }

    /// All open connections, oldest first.
    pub fn connections(&self) -> impl Iterator<Item = (ConnectionId, ServiceId)> {
        let open = self
            .connections
            .iter()
            .filter(|(_, client)| is_open(client));
        open.map(|(id, client)| (ConnectionId(*id), ServiceId(client.service)))
    }

    fn open(&self, connection: ConnectionId) -> Option<&Open> {
        match &self.connections.get(&connection.0)?.state {
            State::Open(open) => Some(open),
            State::Hello { .. } | State::Deciding { .. } => None,
        }
    }

    fn prepare(
        &mut self,
        connection: ConnectionId,
        id: i32,
        error: i32,
        body: &[&[u8]],
    ) -> Result<(&mut Open, [u8; RESPONSE_HEADER_LEN]), SendError> {
        let client = self
            .connections
            .get_mut(&connection.0)
            .ok_or(SendError::Closed)?;
        let open = client.open_mut().ok_or(SendError::Closed)?;
        let size = RESPONSE_HEADER_LEN + body.iter().map(|part| part.len()).sum::<usize>();
        let too_long = SendError::TooLong {
            size,
            limit: open.max_message,
        };
        if size > open.max_message {
            return Err(too_long);
        }
        let size = i32::try_from(size).map_err(|_| too_long)?;
        Ok((open, ResponseHeader { id, size, error }.encode()))
    }

    fn accept_clients(&mut self, index: usize, now: Instant) {
        for _ in 0..ACCEPTS_PER_TURN {
            if self.events.len() >= EVENTS_MAX {
                // The listener stays readable.
                return;
            }
            let accepted = self.services[index].listener.accept();
            match accepted {
                Ok((stream, _)) => self.admit(stream, index, now),
                Err(error) if is_out_of_descriptors(&error) && self.spare.is_some() => {
                    // Otherwise the client would stay in the queue and wake us for ever.
                    self.spare = None;
                    drop(self.services[index].listener.accept());
                    self.spare = File::open("/dev/null").ok();
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => return,
            }
        }
    }

    fn admit(&mut self, stream: UnixStream, index: usize, now: Instant) {
        if self.handshakes.len() >= self.options.handshakes_max
            && let Some((oldest, _)) = self.first_handshake()
        {
            self.end(oldest, CloseReason::HandshakeTimeout);
        }
        let deadline = now + self.options.handshake_timeout;
        let Ok(client) = Connection::new(stream, index, deadline) else {
            return;
        };
        let id = self.next;
        self.next += 1;
        if self
            .epoll
            .add(&client.stream, EpollEvent::new(INPUT, id))
            .is_ok()
        {
            self.connections.insert(id, client);
            self.handshakes.insert(id);
            // The first message is usually there already.
            self.handle_connection(id, EpollFlags::EPOLLIN);
        }
    }

    fn handle_connection(&mut self, id: u64, what: EpollFlags) {
        if what.contains(EpollFlags::EPOLLOUT) {
            self.flush(id);
        }
        let Some(client) = self.connections.get_mut(&id) else {
            return;
        };
        match client.handle_input() {
            Ok(Progress::Hello(credentials)) => {
                let service = ServiceId(client.service);
                let connection = ConnectionId(id);
                self.handshakes.remove(&id);
                self.events.push_back(Event::Hello {
                    connection,
                    service,
                    credentials,
                });
            }
            Ok(Progress::Pending) if what.intersects(HANGUP) => self.hang_up(id),
            Ok(Progress::Pending) => self.make_ready(id),
            Err(CloseReason::Disconnected) => self.hang_up(id),
            Err(reason) => self.end(id, reason),
        }
    }

    /// The client is gone. What it asked for before is still done.
    fn hang_up(&mut self, id: u64) {
        let Some(client) = self.connections.get_mut(&id) else {
            return;
        };
        let blocked = self.services[client.service].flow_control != FlowControl::Free;
        let left = client
            .open_mut()
            .map_or(0, |open| open.channels.request.unread());
        if left == 0 || blocked {
            return self.end(id, CloseReason::Disconnected);
        }
        if let Some(open) = client.open_mut()
            && open.left.is_none()
        {
            open.left = Some(left.min(LEFT_MAX));
            // Otherwise the end of the stream would be reported for ever.
            self.epoll.delete(&client.stream).ok();
        }
        self.make_ready(id);
    }

    fn next_request(&mut self, id: u64) -> Result<Option<Request>, CloseReason> {
        let Some(client) = self.connections.get_mut(&id) else {
            return Ok(None);
        };
        if self.services[client.service].flow_control != FlowControl::Free {
            return Ok(None);
        }
        let Some(open) = client.open_mut() else {
            return Ok(None);
        };
        match &mut open.left {
            Some(0) => return Err(CloseReason::Disconnected),
            Some(left) => *left -= 1,
            None => {}
        }
        let mut message = Vec::new();
        if !open.channels.request.take(&mut message)? {
            return match open.left {
                Some(_) => Err(CloseReason::Disconnected),
                None => Ok(None),
            };
        }
        let (header, whole) = RequestHeader::split(&message).map_err(CloseReason::BadRequest)?;
        if header.id == ID_DISCONNECT {
            return Err(CloseReason::Disconnected);
        }
        let length = whole.len();
        message.truncate(length);
        open.traffic.requests += 1;
        Ok(Some(Request {
            id: header.id,
            message: Bytes::from(message),
        }))
    }

    fn make_ready(&mut self, id: u64) {
        if let Some(client) = self.connections.get_mut(&id)
            && !client.is_ready
            && is_open(client)
        {
            client.is_ready = true;
            self.ready.push_back(id);
        }
    }

    fn make_channels(
        &self,
        id: u64,
        size: u32,
        credentials: &Credentials,
    ) -> Result<Channels, Errno> {
        let client = self.connections.get(&id).ok_or(Errno::ENOTCONN)?;
        let service = &self.services[client.service].name;
        let root = &self.options.directory;
        Channels::create(root, service, credentials, client.stream.as_fd(), size)
            .map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
    }

    fn first_handshake(&self) -> Option<(u64, Instant)> {
        let id = self.handshakes.first()?;
        match self.connections.get(id)?.state {
            State::Hello { deadline, .. } => Some((*id, deadline)),
            State::Deciding { .. } | State::Open(_) => None,
        }
    }

    fn expire_handshakes(&mut self, now: Instant) {
        while let Some((id, _)) = self
            .first_handshake()
            .filter(|(_, deadline)| *deadline <= now)
        {
            self.end(id, CloseReason::HandshakeTimeout);
        }
    }

    fn end(&mut self, id: u64, reason: CloseReason) {
        let Some(client) = self.connections.remove(&id) else {
            return;
        };
        self.handshakes.remove(&id);
        // Nobody heard of those that did not come as far as a `Hello`.
        if !matches!(client.state, State::Hello { .. }) {
            let (connection, service) = (ConnectionId(id), ServiceId(client.service));
            self.events.push_back(Event::Closed {
                connection,
                service,
                reason,
            });
        }
    }
}

impl AsFd for Server {
    /// Readable when [`Server::process`] has something to do.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

const INPUT: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLRDHUP);
const HANGUP: EpollFlags = EpollFlags::EPOLLHUP
    .union(EpollFlags::EPOLLRDHUP)
    .union(EpollFlags::EPOLLERR);

const _: () = assert!(
    WELCOME_LEN == 12_328,
    "a welcome fits the least message size"
);

fn is_open(client: &Connection) -> bool {
    matches!(client.state, State::Open(_))
}

fn parts_of<'a>(head: &'a [u8], body: &[&'a [u8]]) -> Vec<&'a [u8]> {
    let mut parts = Vec::with_capacity(body.len() + 1);
    parts.push(head);
    parts.extend(body);
    parts
}

fn errno_number(error: Errno) -> i32 {
    io::Error::from(error).raw_os_error().unwrap_or(5)
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    let number = error.raw_os_error().map(Errno::from_raw);
    matches!(number, Some(Errno::EMFILE | Errno::ENFILE))
}
