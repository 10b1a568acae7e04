//! Rings in which nodes run different daemons: the installed Corosync and corosync-lite.
//!
//! On each host a client joins one process group and tells all that is delivered; [`history`]
//! checks that all were delivered the same. A daemon of either kind that complains about what it
//! received fails the test: see [`Ring::check`].

mod client;
mod complaints;
mod group;
pub mod history;
mod link;
pub mod load;
pub mod protocol;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

pub use complaints::complaints;
use history::Session;
pub use link::Link;
use protocol::{Event, Order, Print};
pub use view::QuorumView;

use crate::corosync::{Corosync, Settings};
use crate::daemon::built;
use crate::lab::{Host, LINKS, Lab, address};
use crate::wait::eventually_ok;

pub use client::run as run_client;

/// First argument of the program when it is to be the client on a host.
pub const CLIENT_OPTION: &str = "--client";
/// A change of the ring is complete within this time, on a busy machine too.
pub const DEADLINE: Duration = Duration::from_secs(40);

/// Which daemon a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The installed Corosync.
    Corosync,
    /// The one under test.
    Lite,
}

impl Kind {
    /// The program.
    ///
    /// # Errors
    /// When it is not built.
    pub fn binary(self) -> Result<PathBuf> {
        match self {
            Self::Corosync => Ok(PathBuf::from("corosync")),
            Self::Lite => built("corosync-lite", "COROSYNC_LITE_BIN"),
        }
    }
}

/// Hosts with daemons and clients. Fields are dropped in order: programs end before their hosts.
#[derive(Debug)]
pub struct Ring {
    links: BTreeMap<usize, Link>,
    daemons: BTreeMap<usize, Corosync>,
    kinds: BTreeMap<usize, Kind>,
    /// The configuration that all nodes have.
    pub settings: Settings,
    /// The hosts and their networks.
    pub lab: Lab,
    connections: Receiver<Link>,
}

impl Ring {
    /// Makes hosts with clients, which are not members yet; no daemon runs. `program` is the one
    /// that has the client: its first argument is [`CLIENT_OPTION`].
    ///
    /// # Errors
    /// When the machine lacks something, or a client does not start.
    pub fn new(kinds: &[Kind], settings: Settings, program: &Path) -> Result<Self> {
        let lab = Lab::new(kinds.len())?;
        let socket = lab.dir().join("clients");
        let connections = link::listen(&socket)?;
        let mut ring = Self {
            links: BTreeMap::new(),
            daemons: BTreeMap::new(),
            kinds: (1..).zip(kinds.iter().copied()).collect(),
            settings,
            lab,
            connections,
        };
        let socket = socket.to_str().context("the path is not text")?;
        for id in 1..=kinds.len() {
            let args = [CLIENT_OPTION, &id.to_string(), socket];
            let client = ring.host(id).start("client", program, &args)?;
            let connected = ring.connections.recv_timeout(DEADLINE);
            let mut link = connected.context("a client did not start")?;
            ensure!(link.id() == id, "another client came first");
            link.keep(client);
            ring.links.insert(id, link);
        }
        Ok(ring)
    }

    /// The same, with all daemons running in one ring, and all clients in one group.
    ///
    /// # Errors
    /// When that does not come about.
    pub fn start(kinds: &[Kind], settings: Settings, program: &Path) -> Result<Self> {
        let mut ring = Self::new(kinds, settings, program)?;
        let all = ring.nodes();
        for id in &all {
            ring.start_daemon(*id)?;
        }
        ring.await_ring(&all)?;
        ring.join(&all)?;
        Ok(ring)
    }

    /// Numbers of all nodes.
    #[must_use]
    pub fn nodes(&self) -> Vec<usize> {
        self.kinds.keys().copied().collect()
    }

    /// Nodes whose daemon runs.
    #[must_use]
    pub fn running(&self) -> Vec<usize> {
        self.daemons.keys().copied().collect()
    }

    /// Nodes of one kind.
    #[must_use]
    pub fn of_kind(&self, kind: Kind) -> Vec<usize> {
        let of_kind = self.kinds.iter().filter(|(_, it)| **it == kind);
        of_kind.map(|(id, _)| *id).collect()
    }

    /// One node of each kind that there is.
    #[must_use]
    pub fn one_of_each(&self) -> Vec<usize> {
        let first: BTreeMap<_, _> = self.kinds.iter().map(|(id, kind)| (*kind, *id)).collect();
        first.into_values().collect()
    }

    /// What a node runs.
    ///
    /// # Panics
    /// When there is no such node.
    #[must_use]
    pub fn kind(&self, id: usize) -> Kind {
        self.kinds[&id]
    }

    /// The host of a node.
    #[must_use]
    pub fn host(&self, id: usize) -> &Host {
        self.lab.host(id)
    }

    /// The daemon of a node.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn daemon(&self, id: usize) -> &Corosync {
        &self.daemons[&id]
    }

    /// The client of a node.
    ///
    /// # Panics
    /// When there is no such node.
    #[must_use]
    pub fn link(&self, id: usize) -> &Link {
        &self.links[&id]
    }

    /// Writes the configuration to a host and starts its daemon.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_daemon(&mut self, id: usize) -> Result<()> {
        let host = self.host(id);
        self.settings.install(host)?;
        let daemon = Corosync::start_program(host, &self.kind(id).binary()?)?;
        self.daemons.insert(id, daemon);
        Ok(())
    }

    /// Kills the daemon of a node: it can say nothing to anybody any more.
    pub fn kill_daemon(&mut self, id: usize) {
        if let Some(daemon) = self.daemons.remove(&id) {
            daemon.program().kill();
        }
    }

    /// Ends the daemon of a node in order.
    ///
    /// # Errors
    /// When it does not end, or with an error.
    pub fn stop_daemon(&mut self, id: usize) -> Result<()> {
        self.daemons.remove(&id).map_or(Ok(()), Corosync::stop)
    }

    /// Waits for the end of a daemon that ends by itself.
    ///
    /// # Errors
    /// When it does not end.
    pub fn await_end(&mut self, id: usize) -> Result<std::process::ExitStatus> {
        let daemon = self.daemons.remove(&id).context("it does not run")?;
        daemon.program().wait(DEADLINE)
    }

    /// Waits until these nodes, and no others, are one ring for each of them.
    ///
    /// # Errors
    /// When that takes longer than [`DEADLINE`], or a daemon ends.
    pub fn await_ring(&self, ids: &[usize]) -> Result<()> {
        let all = eventually_ok(DEADLINE, &format!("a ring of {ids:?}"), || {
            let mut rings = BTreeSet::new();
            for id in ids {
                let view = QuorumView::of(self.host(*id))?;
                let same = view.members.iter().eq(ids);
                ensure!(same, "n{id} sees {view:?}");
                rings.insert(view.ring);
            }
            ensure!(rings.len() == 1, "they see the rings {rings:?}");
            Ok(())
        });
        self.explain(all)
    }

    /// Orders clients to be members, and waits until all of them see all of them.
    ///
    /// # Errors
    /// When that takes longer than [`DEADLINE`].
    pub fn join(&mut self, ids: &[usize]) -> Result<()> {
        for id in ids {
            self.order(*id, &Order::Join)?;
        }
        self.await_group(ids)
    }

    /// Waits until the group has just these members, for each of them.
    ///
    /// # Errors
    /// When that takes longer than [`DEADLINE`].
    pub fn await_group(&self, ids: &[usize]) -> Result<()> {
        let all = ids.iter().try_for_each(|id| {
            eventually_ok(DEADLINE, &format!("a group of {ids:?} on n{id}"), || {
                let view = self.link(*id).view()?;
                let same = view
                    .iter()
                    .map(|id| usize::try_from(*id))
                    .eq(ids.iter().map(|id| Ok(*id)));
                ensure!(same, "n{id} sees {view:?}");
                Ok(())
            })
        });
        self.explain(all)
    }

    /// Gives an order to the client of a node.
    ///
    /// # Errors
    /// When it is gone.
    pub fn order(&mut self, id: usize, order: &Order) -> Result<()> {
        let link = self.links.get_mut(&id).context("no such node")?;
        link.order(order)
    }

    /// Lets each of these nodes send messages of these sizes at the same time, and checks that all
    /// of them get all, unchanged and in one order.
    ///
    /// # Errors
    /// When not, or when that takes longer than [`DEADLINE`].
    pub fn exchange(&mut self, ids: &[usize], sizes: &[usize]) -> Result<()> {
        let marks: BTreeMap<_, _> = ids.iter().map(|id| (*id, self.link(*id).len())).collect();
        for id in ids {
            let sizes = sizes.to_vec();
            self.order(*id, &Order::Send { sizes })?;
        }
        let mut sent: BTreeMap<u32, Vec<Print>> = BTreeMap::new();
        let mut delivered: BTreeMap<usize, Vec<(u32, Print)>> = BTreeMap::new();
        let total = ids.len() * sizes.len();
        let complete = eventually_ok(DEADLINE, &format!("{total} messages on {ids:?}"), || {
            sent.clear();
            delivered.clear();
            for id in ids {
                let events = self.link(*id).since(marks[id])?;
                let own = u32::try_from(*id)?;
                let is_sent = |event: &Event| match event {
                    Event::Sent(print) => Some(*print),
                    _ => None,
                };
                sent.insert(own, events.iter().filter_map(is_sent).collect());
                let messages: Vec<_> = events.iter().filter_map(history::message).collect();
                ensure!(messages.len() >= total, "n{id} has {}", messages.len());
                delivered.insert(*id, messages);
            }
            Ok(())
        });
        self.explain(complete)?;
        let first = &delivered[&ids[0]];
        for (id, messages) in &delivered {
            ensure!(
                messages == first,
                "n{id} got other messages, or in another order, than n{}",
                ids[0]
            );
        }
        for (id, sent) in &sent {
            let of_it: Vec<_> = first.iter().filter(|(from, _)| from == id).collect();
            let same = of_it.iter().map(|(_, print)| print).eq(sent);
            ensure!(same, "what n{id} sent was changed on the way, or its order");
        }
        Ok(())
    }

    /// All that the clients of all nodes were told, by session.
    #[must_use]
    pub fn sessions(&self) -> Vec<Session> {
        let all = self.links.iter().map(|(id, link)| {
            let node = u32::try_from(*id).unwrap_or(u32::MAX);
            history::sessions(node, self.kind(*id), &link.all())
        });
        all.flatten().collect()
    }

    /// Fails when a daemon has ended, or has complained of what it received from others.
    ///
    /// # Errors
    /// When that is so: with the lines of the log.
    pub fn check(&self) -> Result<()> {
        for daemon in self.daemons.values() {
            daemon.program().check_running()?;
        }
        let corosyncs = self.of_kind(Kind::Corosync).into_iter();
        let corosyncs: Vec<_> = corosyncs
            .flat_map(|id| (0..LINKS).map(move |link| address(id, link)))
            .collect();
        for id in self.nodes() {
            let log = std::fs::read(self.lab.dir().join(format!("n{id}/corosync.log")));
            let text = String::from_utf8_lossy(&log.unwrap_or_default()).into_owned();
            let found = complaints(self.kind(id), &text, &corosyncs);
            ensure!(
                found.is_empty(),
                "n{id} ({:?}) complains:\n{}",
                self.kind(id),
                found.join("\n")
            );
        }
        Ok(())
    }

    /// Checks all ([`check`](Self::check)), then ends all daemons in order.
    ///
    /// # Errors
    /// When something was wrong, or a daemon does not end.
    pub fn finish(mut self) -> Result<()> {
        self.check()?;
        for id in self.running() {
            self.stop_daemon(id)?;
        }
        self.check()
    }

    /// An error with the ends of the logs of all daemons.
    fn explain<T>(&self, result: Result<T>) -> Result<T> {
        let Err(error) = result else { return result };
        let tails = self.daemons.iter().map(|(id, daemon)| {
            let state = daemon.program().exit_status();
            format!(
                "n{id} {:?} {state:?}\n{}\n",
                self.kind(*id),
                daemon.program().log_tail()
            )
        });
        let tails: String = tails.collect();
        bail!("{error:#}\n{tails}")
    }
}
