//! A ring: hosts, a daemon on each, and a client of it.
//!
//! Events of all clients come through one channel, so waiting is for the next event, never for
//! a time. The two places where time is a part of what is measured (a quiet interval, a flood)
//! say so.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::protocol::{Event, Order};
use super::{AGENT_OPTION, Side};
use crate::corosync::Settings;
use crate::lab::{Lab, Program};
use crate::wait::now;

/// A client starts and connects to this process within this time.
const HELLO_DEADLINE: Duration = Duration::from_secs(30);

/// Hosts with daemons and clients. Fields are dropped in order: programs end before their hosts.
#[derive(Debug)]
pub struct Ring {
    agents: BTreeMap<usize, Agent>,
    daemons: BTreeMap<usize, Program>,
    lab: Lab,
    incoming: Receiver<Incoming>,
    side: Side,
    /// Whether a change of the membership is a failure.
    steady: bool,
}

#[derive(Debug)]
struct Agent {
    orders: UnixStream,
    _program: Program,
}

#[derive(Debug)]
enum Incoming {
    Connected(usize, UnixStream),
    Event(usize, Event),
    Gone(usize),
}

impl Ring {
    /// Makes hosts and starts the clients there; no daemon yet.
    ///
    /// # Errors
    /// When the machine lacks something, or a client does not start.
    pub fn new(side: &Side, nodes: usize, token: Duration) -> Result<Self> {
        let lab = Lab::new(nodes)?;
        let mut settings = Settings::new(nodes);
        settings.token = token;
        let socket = lab.dir().join("clients");
        let listener = UnixListener::bind(&socket)
            .with_context(|| format!("cannot listen at {}", socket.display()))?;
        let (sender, incoming) = channel();
        thread::spawn(move || accept(&listener, nodes, &sender));
        let mut programs = BTreeMap::new();
        for host in lab.hosts() {
            settings.install(host)?;
            let own = std::env::current_exe().context("cannot find this program")?;
            let socket = socket.to_str().context("the path is not text")?;
            let args = [AGENT_OPTION, &host.id().to_string(), socket];
            programs.insert(host.id(), host.start("client", &own, &args)?);
        }
        let mut ring = Self {
            agents: BTreeMap::new(),
            daemons: BTreeMap::new(),
            lab,
            incoming,
            side: side.clone(),
            steady: false,
        };
        while !programs.is_empty() {
            let incoming = ring.incoming.recv_timeout(HELLO_DEADLINE);
            let Ok(Incoming::Connected(id, orders)) = incoming else {
                bail!("a client did not start: {incoming:?}");
            };
            let program = programs.remove(&id).context("an unknown client")?;
            ring.agents.insert(
                id,
                Agent {
                    orders,
                    _program: program,
                },
            );
        }
        Ok(ring)
    }

    /// Numbers of all nodes.
    #[must_use]
    pub fn nodes(&self) -> Vec<usize> {
        self.agents.keys().copied().collect()
    }

    /// Starts the daemon of a node.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_daemon(&mut self, id: usize) -> Result<()> {
        let daemon = self
            .lab
            .host(id)
            .start("daemon", &self.side.binary, &["-f"])?;
        self.daemons.insert(id, daemon);
        Ok(())
    }

    /// Kills the daemon of a node: it can say nothing to anybody any more.
    pub fn kill_daemon(&mut self, id: usize) {
        if let Some(daemon) = self.daemons.remove(&id) {
            daemon.kill();
        }
    }

    /// Whether a change of the membership is a failure from now on.
    pub fn set_steady(&mut self, steady: bool) {
        self.steady = steady;
    }

    /// Processes of the daemons that run.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.daemons.values().map(Program::pid).collect()
    }

    /// Gives an order to some clients.
    ///
    /// # Errors
    /// When a client is gone.
    pub fn order(&mut self, to: &[usize], order: &Order) -> Result<()> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        for id in to {
            let agent = self.agents.get_mut(id).context("no such client")?;
            agent
                .orders
                .write_all(&line)
                .with_context(|| format!("the client on n{id} is gone"))?;
        }
        Ok(())
    }

    /// Waits until each of these clients has told something that `pick` takes; what others tell
    /// meanwhile is passed over.
    ///
    /// # Errors
    /// When that takes longer than `deadline`, or a client or daemon fails: with the logs.
    pub fn collect<T>(
        &self,
        from: &[usize],
        deadline: Duration,
        what: &str,
        pick: impl Fn(Event) -> Option<T>,
    ) -> Result<BTreeMap<usize, T>> {
        let mut found = BTreeMap::new();
        let start = now();
        while found.len() < from.len() {
            let left = deadline.saturating_sub(start.elapsed());
            match self.incoming.recv_timeout(left) {
                Ok(Incoming::Event(id, Event::Failed { text })) => {
                    let error = anyhow!("{what}: the client on n{id}: {text}");
                    return Err(self.failure(Some(id), &error));
                }
                Ok(Incoming::Event(id, Event::Members { count, .. })) if self.steady => {
                    let error = anyhow!("{what}: the ring broke: n{id} sees {count} members");
                    return Err(self.failure(Some(id), &error));
                }
                Ok(Incoming::Event(id, event)) if from.contains(&id) => {
                    if let Some(value) = pick(event) {
                        found.insert(id, value);
                    }
                }
                Ok(Incoming::Event(..) | Incoming::Connected(..)) => {}
                Ok(Incoming::Gone(id)) => {
                    let error = anyhow!("{what}: the client on n{id} ended");
                    return Err(self.failure(Some(id), &error));
                }
                Err(RecvTimeoutError::Timeout) => {
                    let missing: Vec<_> =
                        from.iter().filter(|id| !found.contains_key(id)).collect();
                    let error = anyhow!("waited {deadline:?} in vain: {what}; nodes {missing:?}");
                    return Err(self.failure(missing.first().map(|id| **id), &error));
                }
                Err(RecvTimeoutError::Disconnected) => bail!("all clients are gone"),
            }
        }
        Ok(found)
    }

    /// Lets so much time pass, in which nothing may happen.
    ///
    /// # Errors
    /// When something happens.
    pub fn quiet(&self, interval: Duration) -> Result<()> {
        match self.incoming.recv_timeout(interval) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            other => {
                let error = anyhow!("something happened in a quiet time: {other:?}");
                Err(self.failure(None, &error))
            }
        }
    }

    /// An error with the end of a daemon's log: of one that has ended, or else that of `node`.
    fn failure(&self, node: Option<usize>, error: &anyhow::Error) -> anyhow::Error {
        let mut daemons = self.daemons.values();
        let ended = daemons.find(|daemon| daemon.check_running().is_err());
        let shown = ended.or_else(|| self.daemons.get(&node?));
        let tail = shown.map(Program::log_tail).unwrap_or_default();
        anyhow!("{error:#}\n{tail}")
    }

    /// Fails when a daemon that should run has ended.
    ///
    /// # Errors
    /// When one has.
    pub fn check_daemons(&self) -> Result<()> {
        ensure!(
            self.daemons.len() == self.agents.len(),
            "a daemon is missing"
        );
        self.daemons.values().try_for_each(Program::check_running)
    }
}

/// Takes the connections of so many clients.
fn accept(listener: &UnixListener, count: usize, sender: &Sender<Incoming>) {
    for stream in listener.incoming().take(count).flatten() {
        let sender = sender.clone();
        thread::spawn(move || read_events(stream, &sender));
    }
}

/// Passes on what a client tells. A receiver that is gone no longer cares.
fn read_events(stream: UnixStream, sender: &Sender<Incoming>) {
    let mut id = 0;
    let Ok(orders) = stream.try_clone() else {
        return;
    };
    let mut orders = Some(orders);
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let incoming = match (serde_json::from_str(&line), orders.take()) {
            (Ok(Event::Hello { id: told }), Some(orders)) => {
                id = told;
                Incoming::Connected(id, orders)
            }
            (Ok(event), _) => Incoming::Event(id, event),
            (Err(_), _) => break,
        };
        drop(sender.send(incoming));
    }
    drop(sender.send(Incoming::Gone(id)));
}

/// The command of a client, for the program that holds it.
///
/// # Errors
/// What `agent::run` gives.
pub fn run_agent(id: usize, controller: &Path) -> Result<()> {
    super::agent::run(id, controller)
}
