//! One node of a cluster: transport, ring, packing, synchronization and services, joined.
//!
//! [`Node`] is the only thing that the daemon's loop and the simulator see of the protocol. It does
//! no I/O: inputs are datagrams, due timers and what clients ask; what it wants done comes out of
//! [`Node::poll_output`], in order. After any number of inputs the user carries out all outputs,
//! so a batch of datagrams costs one wake-up.

mod log;
mod request;
mod surface;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub use self::log::{Level, Log};
pub use self::request::{ClientEvent, Request, Response, Service};
pub use self::surface::{
    Credentials, Flow, Multicast, NodeError, Output, Purpose, Refusal, SendFailure, ShutdownReason,
    SocketId, SocketSpec, Stored, Transmit,
};
use crate::config::{Config, ReloadPlan};
use crate::service::ClientId;
use crate::wire::{NodeId, RingId};

/// One node; see the module.
#[derive(Debug)]
pub struct Node {
    local: NodeId,
    config: Config,
    outputs: VecDeque<Output>,
}

impl Node {
    /// A node at rest.
    ///
    /// `seed` has to be unpredictable to others. `clock` is the machine's monotonic time, which
    /// must not repeat when the program starts again.
    ///
    /// # Errors
    /// When the transport can not be set up as configured.
    pub fn new(
        config: &Config,
        stored: Stored,
        seed: [u8; 32],
        clock: Duration,
        now: Instant,
    ) -> Result<Self, NodeError> {
        let _ = (stored, seed, clock, now);
        let local = config.local_node().ok_or(NodeError::NotListed)?;
        Ok(Self {
            local: NodeId(local.id),
            config: config.clone(),
            outputs: VecDeque::new(),
        })
    }

    /// The sockets that the node needs. Changes are told by [`Output::Sockets`].
    #[must_use]
    pub fn sockets(&self) -> Vec<SocketSpec> {
        Vec::new()
    }

    /// Begins to look for other nodes: the sockets are there, or tried to be.
    pub fn start(&mut self, now: Instant) {
        let _ = now;
    }

    /// Takes a datagram that came on one of the sockets. Those that are waiting on
    /// [`SocketId::Multicast`] go first.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        socket: SocketId,
        from: SocketAddr,
        datagram: &[u8],
    ) {
        let _ = (now, socket, from, datagram);
    }

    /// Takes note that the system refused to send a datagram.
    pub fn handle_send_failure(&mut self, now: Instant, sent: &Transmit, failure: SendFailure) {
        let _ = (now, sent, failure);
    }

    /// Takes note of an error that came back later (the socket's error queue), by the address that
    /// the datagram was sent to.
    pub fn handle_network_error(
        &mut self,
        now: Instant,
        socket: SocketId,
        to: SocketAddr,
        failure: SendFailure,
    ) {
        let _ = (now, socket, to, failure);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// When [`Node::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Asks whether a client may connect to a service, and if so, gets to know it.
    ///
    /// # Errors
    /// Why it may not; nothing more is to be said about the client then.
    pub fn client_connected(
        &mut self,
        now: Instant,
        client: ClientId,
        service: Service,
        who: Credentials,
    ) -> Result<(), Refusal> {
        let _ = (now, client, service, who);
        Ok(())
    }

    /// Takes a request. Requests that are taken although [`Output::FlowControl`] says not to are
    /// served, too.
    pub fn handle_request(&mut self, now: Instant, client: ClientId, request: Request) {
        let _ = (now, client, request);
    }

    /// A connection is closed. Nothing more is sent to the client.
    pub fn client_gone(&mut self, now: Instant, client: ClientId) {
        let _ = (now, client);
    }

    /// Takes over a configuration that was read after [`Output::Reload`], compared with
    /// [`Node::config`].
    pub fn reload(&mut self, now: Instant, plan: &ReloadPlan) {
        let _ = now;
        self.config = plan.config.clone();
    }

    /// The configuration could not be read, or must not be used; the running one stays.
    pub fn reload_failed(&mut self, now: Instant) {
        let _ = now;
    }

    /// Says goodbye to the others and stops. What is put out is still to be carried out.
    pub fn leave(&mut self, now: Instant) {
        let _ = now;
    }

    /// The next thing to do. To be called after inputs until it gives nothing.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// This node.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.local
    }

    /// The ring that is installed, or being formed.
    #[must_use]
    pub fn ring(&self) -> RingId {
        RingId::default()
    }

    /// Members of the installed ring, ascending; none before the first.
    #[must_use]
    pub fn members(&self) -> Vec<NodeId> {
        Vec::new()
    }

    /// Whether the membership is complete: a ring is installed and all services are synchronized.
    #[must_use]
    pub fn is_synchronized(&self) -> bool {
        false
    }

    /// Whether this partition may act.
    #[must_use]
    pub fn is_quorate(&self) -> bool {
        false
    }
}
