//! Connections of the local services.
//!
//! Invariant: the node knows exactly the clients that are in the table, and each under a number
//! that was never used before.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Instant;

use nix::sys::resource::{Resource, getrlimit};

use crate::proto::node::{Credentials, Flow, Node, Request, Service};
use crate::qb::{
    self, CloseReason, ConnectionId, Event, FlowControl, SendError, Server, ServiceId,
};
use crate::service::{ClientId, Message, Status, cmap, cpg};

use super::buffers::{Buffers, Outcome};

/// The daemon has no membership yet: clients try again.
const NOT_READY: i32 = -11;
/// Where libcpg makes the buffers that it shares.
const SHARED_MEMORY: &str = "/dev/shm";
/// Number of the answer to a message that was sent from such a buffer.
const MCAST: i32 = 2;
const VOTEQUORUM: &str = "corosync_votequorum";

/// What was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// There was nothing.
    Nothing,
    /// A client wrote keys of the configuration map.
    Keys,
    /// Anything else.
    Other,
}

#[derive(Debug)]
pub(super) struct Clients {
    server: Server,
    services: Vec<(ServiceId, Service)>,
    table: BTreeMap<ClientId, (ConnectionId, Service)>,
    buffers: Buffers,
    is_open: bool,
}

impl Clients {
    /// Offers the services of a node.
    ///
    /// # Errors
    /// `AddrInUse` when another daemon of this network namespace does.
    pub(super) fn new(mut server: Server, node: &Node) -> io::Result<Self> {
        let provider = node.config().quorum.provider.as_deref();
        let offered =
            |service: &Service| *service != Service::Votequorum || provider == Some(VOTEQUORUM);
        let mut services = Vec::new();
        for service in Service::ALL.into_iter().filter(offered) {
            let id = server
                .listen(service.name())
                .map_err(|error| match error.kind() {
                    io::ErrorKind::AddrInUse => io::Error::new(
                        io::ErrorKind::AddrInUse,
                        format!(
                            "the service '{}' is offered by another program in this network \
                         namespace: is another Corosync running?",
                            service.name()
                        ),
                    ),
                    _ => error,
                })?;
            services.push((id, service));
        }
        Ok(Self {
            server,
            services,
            table: BTreeMap::new(),
            buffers: Buffers::new(Path::new(SHARED_MEMORY), descriptors()),
            is_open: false,
        })
    }

    /// From now on clients are let in.
    pub(super) fn open(&mut self) {
        self.is_open = true;
    }

    pub(super) fn count(&self) -> usize {
        self.table.len()
    }

    pub(super) fn process(&mut self, now: Instant) -> io::Result<()> {
        self.server.process(now)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.server.poll_timeout()
    }

    pub(super) fn has_pending(&self) -> bool {
        self.server.has_pending()
    }

    /// Takes the next thing that a client did.
    pub(super) fn take_event(&mut self, node: &mut Node, now: Instant) -> Taken {
        let Some(event) = self.server.poll_event() else {
            return Taken::Nothing;
        };
        match event {
            Event::Hello {
                connection,
                service,
                credentials,
            } => {
                if let Some(service) = self.service(service) {
                    self.admit(node, now, connection, service, credentials);
                }
            }
            Event::Request {
                connection,
                request,
                ..
            } => {
                return self.handle_request(node, now, connection, &request);
            }
            Event::Closed {
                connection, reason, ..
            } => {
                let client = ClientId(connection.number());
                if let Some((_, service)) = self.table.remove(&client) {
                    tell_end(service, reason);
                    self.buffers.client_gone(client);
                    node.client_gone(now, client);
                }
            }
        }
        Taken::Other
    }

    pub(super) fn respond(&mut self, client: ClientId, message: &Message) {
        if let Some((connection, service)) = self.table.get(&client).copied() {
            let (id, error) = (message.id, message.status.0);
            let sent = self.server.respond(connection, id, error, &message.parts());
            self.check(connection, service, sent);
        }
    }

    pub(super) fn notify(&mut self, client: ClientId, message: &Message) {
        if let Some((connection, service)) = self.table.get(&client).copied() {
            let (id, error) = (message.id, message.status.0);
            let sent = self.server.notify(connection, id, error, &message.parts());
            self.check(connection, service, sent);
        }
    }

    /// Wakes the clients that were notified.
    pub(super) fn ring(&mut self) {
        self.server.ring();
    }

    pub(super) fn set_flow(&mut self, service: Service, flow: Flow) {
        let flow = match flow {
            Flow::Open => FlowControl::Free,
            Flow::Blocked => FlowControl::Soft,
        };
        if let Some((id, _)) = self.services.iter().find(|(_, other)| *other == service) {
            self.server.set_flow_control(*id, flow);
        }
    }

    fn service(&self, id: ServiceId) -> Option<Service> {
        let mut services = self.services.iter();
        services
            .find(|(other, _)| *other == id)
            .map(|(_, service)| *service)
    }

    fn admit(
        &mut self,
        node: &mut Node,
        now: Instant,
        connection: ConnectionId,
        service: Service,
        who: qb::Credentials,
    ) {
        let name = service.name();
        if !self.is_open {
            tracing::debug!(
                target: "QB",
                "Denied connection of process {} to '{name}', corosync is not ready",
                who.pid
            );
            return self.server.refuse(connection, NOT_READY);
        }
        let client = ClientId(connection.number());
        let credentials = Credentials {
            pid: who.pid,
            uid: who.uid,
            gid: who.gid,
        };
        if let Err(refusal) = node.client_connected(now, client, service, credentials) {
            tracing::warn!(
                target: "QB",
                "Denied connection of process {} to '{name}': {refusal}",
                who.pid
            );
            return self.server.refuse(connection, refusal.errno());
        }
        node.name_client(client, &process_name(who.pid));
        // Told to the node already: if this fails, the end of the connection is told, too.
        self.table.insert(client, (connection, service));
        if let Err(error) = self.server.accept(connection) {
            tracing::debug!(target: "QB", "process {} could not be let in: {error}", who.pid);
        }
    }

    fn handle_request(
        &mut self,
        node: &mut Node,
        now: Instant,
        connection: ConnectionId,
        request: &qb::Request,
    ) -> Taken {
        let client = ClientId(connection.number());
        let Some((_, service)) = self.table.get(&client).copied() else {
            return Taken::Other;
        };
        if service == Service::Cpg && self.handle_buffer(node, now, connection, request) {
            return Taken::Other;
        }
        match Request::decode(service, &request.message) {
            Ok(request) => {
                if service == Service::Cmap && node.looks_at_statistics(client) {
                    self.count_waiting(node);
                }
                let writes = matches!(
                    request,
                    Request::Cmap(cmap::Request::Set { .. } | cmap::Request::Delete { .. })
                );
                node.handle_request(now, client, request);
                if writes {
                    return Taken::Keys;
                }
            }
            Err(error) => {
                let (id, name) = (request.id, service.name());
                tracing::debug!(target: "QB", "request {id} to '{name}' is refused: {error}");
                node.note_invalid(client);
                if service.is_answered(id) {
                    self.respond(client, &Message::rejected(error));
                }
            }
        }
        Taken::Other
    }

    /// Serves requests about memory that is shared in another way. True if it was one.
    fn handle_buffer(
        &mut self,
        node: &mut Node,
        now: Instant,
        connection: ConnectionId,
        request: &qb::Request,
    ) -> bool {
        let client = ClientId(connection.number());
        let Some(who) = self.server.credentials(connection) else {
            return false;
        };
        let traffic = self.server.traffic(connection);
        let is_behind = traffic.is_some_and(|traffic| traffic.is_behind);
        let outcome = self
            .buffers
            .handle(client, who.uid, request.id, &request.message);
        let answer = match outcome {
            Outcome::NotMine => return false,
            Outcome::Done(status) => Message::plain(0, status),
            Outcome::Send(message) => match Request::decode(Service::Cpg, &message) {
                Ok(Request::Cpg(cpg::Request::Mcast { data, .. }))
                    if data.len() > cpg::MESSAGE_MAX =>
                {
                    Message::plain(MCAST, Status::TOO_BIG)
                }
                // Its library does not look at the flow control for these.
                Ok(Request::Cpg(cpg::Request::Mcast { .. })) if is_behind => {
                    Message::plain(MCAST, Status::TRY_AGAIN)
                }
                Ok(Request::Cpg(send @ cpg::Request::Mcast { .. })) => {
                    let is_member = node.groups().can_send(client);
                    node.handle_request(now, client, Request::Cpg(send));
                    let status = if is_member {
                        Status::OK
                    } else {
                        Status::NOT_EXIST
                    };
                    Message::plain(MCAST, status)
                }
                _ => Message::plain(MCAST, Status::INVALID_PARAM),
            },
        };
        self.respond(client, &answer);
        true
    }

    /// Tells the node what only the connections know.
    fn count_waiting(&self, node: &mut Node) {
        for (client, (connection, _)) in &self.table {
            if let Some(traffic) = self.server.traffic(*connection) {
                node.note_queue(*client, traffic.queued);
            }
        }
    }

    fn check(&mut self, connection: ConnectionId, service: Service, sent: Result<(), SendError>) {
        match sent {
            // Closed: that is told as an event.
            Ok(()) | Err(SendError::Closed) => {}
            Err(error @ SendError::TooLong { .. }) => {
                tracing::warn!(
                    target: "QB",
                    "client of '{}' is disconnected: {error}",
                    service.name()
                );
                self.server.close(connection);
            }
        }
    }
}

/// How many descriptors this process may have.
fn descriptors() -> usize {
    let granted = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(granted, _)| granted);
    usize::try_from(granted).unwrap_or(usize::MAX)
}

/// As tools show it; nothing if the process is gone or hidden.
fn process_name(pid: i32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

/// Most clients simply end; that one was cut off has to be seen.
fn tell_end(service: Service, reason: CloseReason) {
    let name = service.name();
    if matches!(
        reason,
        CloseReason::EventOverrun | CloseReason::ResponseOverrun | CloseReason::BadMemory
    ) {
        tracing::warn!(target: "QB", "client of '{name}' was disconnected: {reason}");
    } else {
        tracing::debug!(target: "QB", "client of '{name}': {reason}");
    }
}

impl AsFd for Clients {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.server.as_fd()
    }
}
