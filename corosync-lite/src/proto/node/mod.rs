//! One node of a cluster: transport, ring, packing, synchronization and services, joined.
//!
//! [`Node`] is the only thing that the daemon's loop and the simulator see of the protocol. It does
//! no I/O: inputs are datagrams, due timers and what clients ask; what it wants done comes out of
//! [`Node::poll_output`], in order. After any number of inputs the user carries out all outputs,
//! so a batch of datagrams costs one wake-up.
//!
//! | module | does |
//! |---|---|
//! | `settings`, `transport` | from the configuration to the parts; the transport in use |
//! | `lanes` | messages on their way into the ring |
//! | `drive` | passes on what transport, ring and barrier put out |
//! | `services` | requests, messages and outputs of the services |
//! | `reload` | a new configuration while running |
//! | `held` | datagrams that wait for it |
//! | `facts` | what services may know of the node |
//! | `words` | log lines of the services |
//!
//! Invariants: a message of a service is sent in the configuration in which it is delivered, and
//! ordinary ones only when all services are synchronized; a ring id is put out for storage before
//! any datagram that shows it; responses to a client come in the order of its requests.

mod drive;
mod facts;
mod held;
mod lanes;
mod log;
mod reload;
mod request;
mod services;
mod settings;
mod surface;
mod transport;
mod words;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use self::facts::{Connection, Facts, facts};
use self::held::Held;
use self::lanes::Lanes;
pub use self::log::{Level, Log};
pub use self::request::{ClientEvent, Request, Response, Service};
pub use self::surface::{
    Credentials, Flow, Multicast, NodeError, Output, Purpose, Refusal, SendFailure, ShutdownReason,
    SocketId, SocketSpec, Stored, Transmit,
};
use self::transport::TransportCore;
use super::cfg::Cfg;
use super::cmap::Cmap;
use super::cpg::Cpg;
pub use super::keys::Pause;
use super::keys::Traffic;
use super::knet::LinkStatus;
use super::pg::Assembler;
use super::quorum::{self, Part, Quorum};
use super::srp::{self, Phase, Srp};
use super::sync::Sync;
use crate::config::Config;
use crate::service::ClientId;
use crate::service::map::Map;
use crate::wire::exec::service;
use crate::wire::{NodeId, RingId};

/// How long a node that leaves waits for its last message to get out.
const LEAVE_PATIENCE: Duration = Duration::from_secs(1);

/// One node; see the module.
#[derive(Debug)]
pub struct Node {
    local: NodeId,
    config: Config,
    transport: TransportCore,
    srp: Srp,
    lanes: Lanes,
    assembler: Assembler,
    sync: Sync,
    cmap: Cmap,
    cfg: Cfg,
    cpg: Cpg,
    quorum: Quorum,
    connections: BTreeMap<ClientId, Connection>,
    closed: u64,
    /// Times the daemon did not get to run, the newest first.
    pauses: VecDeque<Pause>,
    traffic: Traffic,
    /// Messages that no member of the ring should have sent.
    malformed: u64,
    /// Members of the installed ring.
    members: BTreeSet<NodeId>,
    flow: Flow,
    /// When the goodbye is said at the latest, if it is to be said.
    leaving: Option<Instant>,
    /// A changed configuration is being read.
    held: Option<Held>,
    /// What comes before the next datagram.
    urgent: VecDeque<Output>,
    outputs: VecDeque<Output>,
}

impl Node {
    /// A node at rest.
    ///
    /// `seed` has to be unpredictable to others. `clock` is the machine's monotonic time, which
    /// must not repeat when the program starts again.
    ///
    /// # Errors
    /// When the transport can not be set up as configured, or options of the quorum exclude each
    /// other.
    pub fn new(
        config: &Config,
        stored: Stored,
        seed: [u8; 32],
        clock: Duration,
        now: Instant,
    ) -> Result<Self, NodeError> {
        let local = settings::local(config)?;
        let ring = settings::ring(config);
        let delays = u64::from_le_bytes(seed[..8].try_into().unwrap_or_default());
        let quorum = Quorum::new(local, config, stored.expected_votes.unwrap_or(0))?;
        let mut services = vec![service::CMAP, service::CPG, service::QUORUM];
        if quorum.has_votequorum() {
            services.push(service::VOTEQUORUM);
        }
        Ok(Self {
            local,
            transport: TransportCore::new(config, local, seed, clock, now)?,
            lanes: Lanes::new(ring.frame_len_max, ring.send_queue_len_max),
            srp: Srp::new(ring, local, stored.ring_seq, delays),
            assembler: Assembler::default(),
            sync: Sync::new(services),
            cmap: Cmap::new(local, config),
            cfg: Cfg::new(local),
            cpg: Cpg::new(local),
            quorum,
            config: config.clone(),
            connections: BTreeMap::new(),
            closed: 0,
            pauses: VecDeque::new(),
            traffic: Traffic::default(),
            malformed: 0,
            members: BTreeSet::new(),
            flow: Flow::Open,
            leaving: None,
            held: None,
            urgent: VecDeque::new(),
            outputs: VecDeque::new(),
        })
    }

    /// The sockets that the node needs. Changes are told by [`Output::Sockets`].
    #[must_use]
    pub fn sockets(&self) -> Vec<SocketSpec> {
        settings::sockets(&self.config)
    }

    /// Begins to look for other nodes: the sockets are there, or tried to be.
    pub fn start(&mut self, now: Instant) {
        self.srp.start(now);
        self.settle(now);
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
        if socket != SocketId::Sender && !self.hold_datagram(now, socket, from, datagram) {
            self.transport.handle_datagram(now, from.ip(), datagram);
            self.settle(now);
        }
    }

    /// Takes note that the system refused to send a datagram.
    pub fn handle_send_failure(&mut self, now: Instant, sent: &Transmit, failure: SendFailure) {
        self.transport.handle_send_failure(now, sent, failure);
        self.settle(now);
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
        let Some(node) = self.transport.node_at(socket, to) else {
            return;
        };
        let sent = Transmit {
            socket,
            to,
            node,
            purpose: Purpose::Data,
            datagram: bytes::Bytes::new(),
        };
        self.handle_send_failure(now, &sent, failure);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.held.as_ref().is_some_and(|held| held.until() <= now) {
            self.release(now);
        }
        self.transport.handle_timeout(now);
        self.srp.handle_timeout(now);
        self.quorum.handle_timeout(now);
        self.cfg.handle_timeout(now);
        self.cmap.handle_timeout(now, &facts!(self));
        self.settle(now);
    }

    /// When [`Node::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let all = [
            self.transport.poll_timeout(),
            self.srp.poll_timeout(),
            self.quorum.poll_timeout(),
            self.cfg.poll_timeout(),
            self.cmap.poll_timeout(),
            self.leaving,
            self.held.as_ref().map(Held::until),
        ];
        all.into_iter().flatten().min()
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
        if service == Service::Votequorum && !self.quorum.has_votequorum() {
            return Err(Refusal::NotLoaded);
        }
        let Credentials { uid, gid, .. } = who;
        if !self.cmap.allows(uid, gid) {
            return Err(Refusal::NotAllowed { uid, gid });
        }
        self.connections
            .insert(client, Connection::new(service, who));
        if service == Service::Cpg {
            self.cpg.client_connected(client);
        }
        self.settle(now);
        Ok(())
    }

    /// Takes a request. Requests that are taken although [`Output::FlowControl`] says not to are
    /// served, too; so the output is to be carried out before many more are taken.
    pub fn handle_request(&mut self, now: Instant, client: ClientId, request: Request) {
        self.pass_request(now, client, request);
        self.settle(now);
    }

    /// A connection is closed. Nothing more is sent to the client.
    pub fn client_gone(&mut self, now: Instant, client: ClientId) {
        self.forget_client(client);
        self.settle(now);
    }

    /// Says goodbye to the others and stops. What is put out is still to be carried out, and time
    /// goes on until [`Node::is_stopped`]; in most cases that is at once.
    pub fn leave(&mut self, now: Instant) {
        if self.leaving.is_none() {
            // Other members hear first that these processes end, and then that the node goes.
            self.forget_clients_of(Service::Cpg);
            self.quorum.leave();
            self.leaving = Some(now + LEAVE_PATIENCE);
            self.settle(now);
        }
    }

    /// Whether the node has left, or was not started.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.srp.phase() == Phase::Stopped
    }

    /// The next thing to do. To be called after inputs until it gives nothing.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        // Others wait for the token; clients can wait for it to be on its way.
        if let Some(output) = self.urgent.pop_front() {
            return Some(output);
        }
        if let Some(transmit) = self.transport.poll_transmit() {
            return Some(Output::Transmit(transmit));
        }
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
        self.srp.ring()
    }

    /// What the ring protocol is doing.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.srp.phase()
    }

    /// Members of the installed ring, ascending; none before the first.
    #[must_use]
    pub fn members(&self) -> Vec<NodeId> {
        self.members.iter().copied().collect()
    }

    /// Whether the membership is complete: a ring is installed and all services are synchronized.
    #[must_use]
    pub fn is_synchronized(&self) -> bool {
        self.sync.is_done()
    }

    /// Whether this partition may act.
    #[must_use]
    pub fn is_quorate(&self) -> bool {
        self.quorum.status().quorate
    }

    /// The votes, for people.
    #[must_use]
    pub fn votes(&self) -> quorum::Status {
        self.quorum.status()
    }

    /// The process groups.
    #[must_use]
    pub fn groups(&self) -> &Cpg {
        &self.cpg
    }

    /// The configuration map.
    #[must_use]
    pub fn map(&self) -> &Map {
        self.cmap.map()
    }

    /// All links to other nodes; none for transports that do not watch any.
    #[must_use]
    pub fn links(&self) -> Vec<LinkStatus> {
        self.transport.links()
    }

    /// Counters of the ring.
    #[must_use]
    pub fn ring_stats(&self) -> &srp::Stats {
        self.srp.stats()
    }

    /// Messages kept for others or waiting to be sent: what a monitor or checker bounds.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.srp.queued()
    }
}

/// Number of a part of the quorum in the synchronization.
const fn number(part: Part) -> u16 {
    match part {
        Part::Quorum => service::QUORUM,
        Part::Votequorum => service::VOTEQUORUM,
    }
}
