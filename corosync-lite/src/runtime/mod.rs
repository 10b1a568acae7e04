//! SHELL: the one loop of the daemon: sockets, clients, signals and the clock on one side, the
//! [`Node`] on the other.
//!
//! | module | owns |
//! |---|---|
//! | `buffers` | memory that clients share to send from |
//! | `clients` | connections of the local services: who is let in, requests, answers |
//! | `outbox` | datagrams on their way to the sockets, and what the kernel says to them |
//! | `reload` | reading a changed configuration beside the loop |
//! | `signals` | signals as a descriptor |
//! | `sys` | the system call that waits: the only `unsafe` code |
//! | `waiter` | what is waited for |
//! | `words` | the lines of the log |
//!
//! A turn of the loop takes in what is there, a bounded amount of each kind, and carries out
//! what the node wants done: so neither the network nor clients can keep the others out, and a
//! token goes on in the turn in which it came.
//!
//! Invariant: what the node wants stored is on the disk before anything that it wants sent after
//! that leaves the host.
//!
//! Threads: the loop is one thread. It waits for nothing but its own descriptors, and for the disk
//! when a ring id is stored.

mod buffers;
mod clients;
mod outbox;
mod reload;
mod signals;
mod sys;
mod waiter;
mod words;

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::clock;
use crate::daemon::logging::{Log, Settings};
use crate::net::{AddressWatch, Change, Failure, Inbox, Sockets, bind};
use crate::proto::node::{Node, Output, Pause, ShutdownReason, SocketId};
use crate::qb::Server;
use crate::store::{StateStore, StoreError};
use clients::{Clients, Taken};
use outbox::Outbox;
use reload::{Outcome, Reloads};
pub use signals::Signals;
use waiter::{Ready, Waiter};

/// Batches of datagrams taken from one socket in one turn.
const BATCHES_PER_TURN: usize = 8;
/// The same for datagrams to all nodes: more than a ring has on its way at a time.
const MULTICAST_BATCHES_PER_TURN: usize = 512;
/// Events of clients taken in one turn.
const CLIENT_EVENTS_PER_TURN: usize = 64;
/// How often sockets that could not be opened are tried again, if the kernel does not say that an
/// address has come.
const BIND_RETRY: Duration = Duration::from_secs(3);
/// Times that what the kernel refuses is told to the node in one turn, which may send again.
const SEND_ROUNDS: usize = 16;

/// Why the loop ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// A signal asked for it.
    Signal(Signal),
    /// The node did.
    Shutdown(ShutdownReason),
}

/// Why the loop can not go on.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A system call without which there is no loop.
    #[error("{what}: {error}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// The ring id can not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What the loop works with.
#[derive(Debug)]
pub struct Parts {
    /// The protocol.
    pub node: Node,
    /// What it has to remember.
    pub store: StateStore,
    /// The local services.
    pub server: Server,
    /// Signals of the process.
    pub signals: Signals,
    /// The running log.
    pub log: Log,
    /// The configuration file.
    pub config: PathBuf,
}

/// The loop; see the module.
#[derive(Debug)]
pub struct Runtime {
    node: Node,
    store: StateStore,
    clients: Clients,
    waiter: Waiter,
    sockets: Sockets,
    outbox: Outbox,
    watch: Option<AddressWatch>,
    signals: Signals,
    reloads: Reloads,
    log: Log,
    inbox: Inbox,
    failures: Vec<Failure>,
    /// Reused for each turn.
    readable: Vec<Ready>,
    /// When sockets that are not open are tried again.
    bind_at: Option<Instant>,
    /// More may wait than was taken.
    is_behind: bool,
    /// Clients did something since they were last looked at.
    clients_wait: bool,
    is_serving: bool,
    end: Option<End>,
}

impl Runtime {
    /// Opens the sockets and offers the services.
    ///
    /// # Errors
    /// When the system refuses what is needed, or another daemon has the services.
    pub fn new(parts: Parts) -> Result<Self, RuntimeError> {
        let system = |what| move |error| RuntimeError::System { what, error };
        let clients = Clients::new(parts.server, &parts.node)
            .map_err(system("local services can not be offered"))?;
        let reloads = Reloads::new(parts.config).map_err(system("no descriptor can be had"))?;
        let watch = AddressWatch::new();
        if let Err(error) = &watch {
            tracing::warn!(
                target: "TOTEM",
                "changes of addresses are not reported: {error}; looking every {} s instead",
                BIND_RETRY.as_secs()
            );
        }
        let watched = watch.as_ref().map(|watch| (Ready::Watch, watch.as_fd()));
        let always = [
            (Ready::Server, clients.as_fd()),
            (Ready::Signals, parts.signals.as_fd()),
            (Ready::Reload, reloads.as_fd()),
        ];
        let waiter = Waiter::new(always.into_iter().chain(watched.ok()))
            .map_err(system("no descriptor can be had"))?;
        let mut this = Self {
            node: parts.node,
            store: parts.store,
            clients,
            waiter,
            sockets: Sockets::default(),
            outbox: Outbox::default(),
            watch: watch.ok(),
            signals: parts.signals,
            reloads,
            log: parts.log,
            inbox: Inbox::default(),
            failures: Vec::new(),
            readable: Vec::new(),
            bind_at: None,
            is_behind: false,
            clients_wait: false,
            is_serving: false,
            end: None,
        };
        this.sockets.set(this.node.sockets());
        this.refresh_sockets(clock::now());
        Ok(this)
    }

    /// Runs until something ends it. `ready` is called when the daemon serves: the first membership
    /// is in force.
    ///
    /// # Errors
    /// When the loop can not go on. The node has left nobody then.
    pub fn run(mut self, mut ready: impl FnMut()) -> Result<End, RuntimeError> {
        self.node.start(clock::now());
        self.settle(clock::now())?;
        loop {
            if !self.is_serving && self.node.is_synchronized() {
                self.is_serving = true;
                self.clients.open();
                ready();
            }
            if self.end.is_some() {
                self.node.leave(clock::now());
                self.settle(clock::now())?;
                if self.node.is_stopped()
                    && let Some(end) = self.end.take()
                {
                    return Ok(end);
                }
            }
            let deadline = self.deadline();
            self.wait(deadline)?;
            let now = clock::now();
            self.tell_pause(deadline, now);
            self.turn(now)?;
        }
    }

    /// Everything that is there, once.
    fn turn(&mut self, now: Instant) -> Result<(), RuntimeError> {
        let mut readable = std::mem::take(&mut self.readable);
        self.is_behind = false;
        for ready in readable.drain(..) {
            match ready {
                Ready::Signals => self.take_signals(),
                Ready::Watch => {
                    if self.watch.as_ref().is_some_and(AddressWatch::has_changed) {
                        self.refresh_sockets(now);
                    }
                }
                Ready::Reload => self.finish_reload(now),
                Ready::Server => {
                    self.clients_wait = true;
                    self.serve_clients(now)?;
                }
                Ready::Socket(id, has_reports) => self.receive(id, has_reports, now)?,
            }
        }
        self.readable = readable;
        if self.bind_at.is_some_and(|at| at <= now) {
            self.refresh_sockets(now);
        }
        if self.node.poll_timeout().is_some_and(|at| at <= now) {
            self.node.handle_timeout(now);
        }
        self.settle(now)?;
        self.serve_clients(now)
    }

    fn receive(
        &mut self,
        id: SocketId,
        has_reports: bool,
        now: Instant,
    ) -> Result<(), RuntimeError> {
        if has_reports && let Some(socket) = self.sockets.get(id) {
            socket.take_reports(&mut self.failures);
        }
        // The token must not overtake what was sent to all before it.
        let batches = if id == SocketId::Multicast {
            MULTICAST_BATCHES_PER_TURN
        } else {
            BATCHES_PER_TURN
        };
        for batch in 1.. {
            if let Err(error) = self
                .sockets
                .receive(id, &mut self.inbox, &mut self.failures)
            {
                tracing::error!(target: "TOTEM", "{id:?}: {error}; the socket is opened anew");
                self.bind_at = Some(now);
                break;
            }
            for (from, datagram) in self.inbox.iter() {
                self.node.handle_datagram(now, id, from, datagram);
            }
            if !self.inbox.is_full() {
                break;
            }
            if batch >= batches {
                self.is_behind = true;
                break;
            }
            self.settle(now)?;
        }
        self.outbox
            .tell(&mut self.node, id, &mut self.failures, now);
        Ok(())
    }

    fn serve_clients(&mut self, now: Instant) -> Result<(), RuntimeError> {
        let is_due = self.clients.poll_timeout().is_some_and(|at| at <= now);
        if std::mem::take(&mut self.clients_wait) || is_due {
            self.clients
                .process(now)
                .map_err(|error| RuntimeError::System {
                    what: "local services failed",
                    error,
                })?;
        }
        for _ in 0..CLIENT_EVENTS_PER_TURN {
            match self.clients.take_event(&mut self.node, now) {
                Taken::Nothing => break,
                Taken::Keys => self.apply_logging(),
                Taken::Other => {}
            }
            // At once: flow control counts from the next request on.
            self.carry_out(now)?;
        }
        self.settle(now)
    }

    /// Carries out all that the node wants, until it wants nothing more.
    fn settle(&mut self, now: Instant) -> Result<(), RuntimeError> {
        for _ in 0..SEND_ROUNDS {
            self.carry_out(now)?;
            if !self.outbox.send(&self.sockets, &mut self.node, now) {
                return Ok(());
            }
        }
        // Everything fails, and is tried again: others come first.
        self.is_behind = true;
        Ok(())
    }

    fn carry_out(&mut self, now: Instant) -> Result<(), RuntimeError> {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Transmit(transmit) => self.outbox.push(transmit),
                Output::PersistRing(sequence) => self.persist(now, sequence)?,
                Output::PersistExpectedVotes(votes) => {
                    if let Err(error) = self.store.store_expected_votes(votes) {
                        tracing::error!(target: "VOTEQ", "{error}");
                    }
                }
                Output::Respond(client, response) => {
                    self.clients.respond(client, &response.encode());
                }
                Output::Event(client, event) => self.clients.notify(client, &event.encode()),
                Output::FlowControl(service, flow) => self.clients.set_flow(service, flow),
                Output::Sockets => {
                    self.sockets.set(self.node.sockets());
                    self.refresh_sockets(now);
                }
                Output::Reload => self.reload(),
                Output::ReopenLogs => {
                    self.log.reopen();
                    tracing::info!(target: "CFG", "log files were opened anew");
                }
                Output::Shutdown(reason) => {
                    tracing::info!(target: "CFG", "Node was shut down: {reason}");
                    self.end = Some(End::Shutdown(reason));
                }
                Output::Log(log) => words::say(&log),
            }
        }
        self.clients.ring();
        Ok(())
    }

    fn persist(&mut self, started: Instant, sequence: u64) -> Result<(), RuntimeError> {
        /// From here on the disk is in the way of the ring.
        const SLOW: Duration = Duration::from_millis(100);
        let before = clock::now().max(started);
        self.store.store_ring(sequence)?;
        let took = clock::now().saturating_duration_since(before);
        if took > SLOW {
            tracing::warn!(
                target: "TOTEM",
                "storing the ring id took {} ms: the disk of the state directory is slow",
                took.as_millis()
            );
        }
        Ok(())
    }

    fn refresh_sockets(&mut self, now: Instant) {
        let present: Vec<IpAddr> = match bind::addresses() {
            Ok(present) => present,
            Err(error) => {
                tracing::warn!(target: "TOTEM", "addresses of this host are not known: {error}");
                self.bind_at = Some(now + BIND_RETRY);
                return;
            }
        };
        for change in self.sockets.refresh(&present) {
            match change {
                Change::Bound(id, address) => {
                    tracing::info!(target: "TOTEM", "{} uses {address}", words::socket(id));
                }
                Change::Lost(id, address) => tracing::warn!(
                    target: "TOTEM",
                    "{} is down: this host has lost the address {}; waiting for it",
                    words::socket(id),
                    address.ip()
                ),
                Change::Failed(id, address, error) => tracing::warn!(
                    target: "TOTEM",
                    "{} can not use {address}: {error}; trying again from time to time",
                    words::socket(id)
                ),
            }
        }
        let unsure = self.sockets.is_incomplete() || self.watch.is_none();
        self.bind_at = unsure.then(|| now + BIND_RETRY);
    }

    fn take_signals(&mut self) {
        while let Some(signal) = self.signals.next() {
            match signal {
                Signal::SIGHUP => {
                    self.log.reopen();
                    tracing::info!(target: "MAIN", "log files were opened anew");
                }
                Signal::SIGUSR2 => words::state(&self.node, self.clients.count()),
                signal => {
                    tracing::info!(target: "MAIN", "Node was shut down by a signal");
                    self.end = Some(End::Signal(signal));
                }
            }
        }
    }

    /// Takes over the section `logging`, if it has changed.
    fn apply_logging(&self) {
        let settings = Settings::read(&self.node.config().keys);
        if !self.log.has(&settings) {
            self.log.set(settings);
        }
    }

    fn reload(&mut self) {
        self.reloads.request(self.node.config());
    }

    fn finish_reload(&mut self, now: Instant) {
        if let Some(result) = self.reloads.finish() {
            self.take_over(now, result);
        }
    }

    fn take_over(&mut self, now: Instant, result: Outcome) {
        match result {
            Ok(reload) => self.node.reload(now, &reload),
            Err(refusal) => self.node.reload_failed(now, &refusal),
        }
        self.apply_logging();
        self.reloads.next(self.node.config());
    }

    /// When the next turn is due, whatever comes.
    fn deadline(&self) -> Option<Instant> {
        let others = [self.clients.poll_timeout(), self.bind_at];
        others
            .into_iter()
            .flatten()
            .chain(self.node.poll_timeout())
            .min()
    }

    /// Whether something waits that no descriptor tells of.
    fn has_work(&self) -> bool {
        self.is_behind || self.clients.has_pending()
    }

    /// Waits until something is there, or `deadline`.
    fn wait(&mut self, deadline: Option<Instant>) -> Result<(), RuntimeError> {
        let timeout = if self.has_work() {
            Some(Duration::ZERO)
        } else {
            deadline.map(|at| at.saturating_duration_since(clock::now()))
        };
        let outbox = &self.outbox;
        self.waiter
            .follow(&self.sockets, |id| outbox.is_waiting(id))
            .and_then(|()| self.waiter.wait(timeout, &mut self.readable))
            .map_err(|error| RuntimeError::System {
                what: "waiting for descriptors failed",
                error,
            })
    }

    /// Says so when the process did not run when it should have.
    fn tell_pause(&mut self, deadline: Option<Instant>, now: Instant) {
        let token = u64::from(self.node.config().totem.timers.token);
        let threshold = Duration::from_millis(token).mul_f32(0.8);
        let late = deadline.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        if late <= threshold {
            return;
        }
        let length_ms = late.as_secs_f32() * 1e3;
        tracing::warn!(
            target: "MAIN",
            "Corosync main process was not scheduled for {length_ms:.4} ms (threshold is {:.4} \
             ms). Consider token timeout increase.",
            threshold.as_secs_f32() * 1e3
        );
        let at_ms = u64::try_from(clock::since_1970().as_millis()).unwrap_or(u64::MAX);
        self.node.note_pause(Pause { at_ms, length_ms });
    }
}
