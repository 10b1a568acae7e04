//! What the commands that change the node or the cluster ask of the machine around them, apart from
//! files: services, the running ring, and whether they are to end.

use std::collections::BTreeMap;
use std::process::Child;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::prepare;
use crate::conf::{ClusterConf, NodeEntry};
use crate::failure::{Failure, Outcome};
use crate::host::command::program;
use crate::host::pve::{self, State};
use crate::host::stop::{Signals, interrupted};
use crate::host::{Host, ring, services, wait};
use crate::transaction::Transaction;

/// A cluster of one node takes changes within this time.
const WRITABLE: Duration = Duration::from_secs(60);
/// The cluster file system mounts, and goes, within this time.
const PATIENCE: Duration = Duration::from_secs(30);

/// The machine.
pub trait Machine {
    /// Whether the command is to end.
    fn interrupted(&self) -> bool;

    /// Stands between two changes: the command ends here if it is to end.
    ///
    /// # Errors
    /// When it is.
    fn step(&self) -> Outcome {
        if self.interrupted() {
            Err(interrupted())
        } else {
            Ok(())
        }
    }

    /// How long something is waited for that usually is there within `usual`.
    fn patience(&self, usual: Duration) -> Duration {
        usual
    }

    /// Tells services something.
    ///
    /// # Errors
    /// What the service manager says.
    fn control(&self, verb: &str, units: &[&str]) -> Outcome;

    /// The same while something is put back.
    ///
    /// # Errors
    /// What the service manager says.
    fn put_back(&self, verb: &str, units: &[&str]) -> Outcome;

    /// Makes what this node needs on its own disk before it is in a cluster.
    ///
    /// # Errors
    /// What could not be made.
    fn prepare(&self, host: &Host, transaction: &mut Transaction) -> Outcome;

    /// Makes what this node has in the cluster's files.
    ///
    /// # Errors
    /// What could not be made.
    fn cluster_files(&self, host: &Host) -> Outcome;

    /// Does `work` while the cluster file system serves this node alone, whatever its tree says.
    ///
    /// # Errors
    /// When it can not, or `work` fails.
    fn alone(&self, host: &Host, work: &mut dyn FnMut() -> Outcome) -> Outcome;

    /// Whether a node is in the ring of this one.
    ///
    /// # Errors
    /// When the messaging daemon does not answer.
    fn is_joined(&self, id: u32) -> Outcome<bool>;

    /// The number of this node.
    ///
    /// # Errors
    /// When the messaging daemon does not answer.
    fn own_id(&self) -> Outcome<u32>;

    /// Version of the configuration that this node's messaging daemon has in force, if it tells.
    fn version_in_force(&self) -> Option<u64>;

    /// Version of the configuration that each node of `ids` has in force, where it is known.
    ///
    /// # Errors
    /// When the messaging daemon does not answer.
    fn versions(&self, ids: &[u32]) -> Outcome<BTreeMap<u32, u64>>;

    /// Those of `links` on which a node is not reached at its address.
    ///
    /// # Errors
    /// When the messaging daemon does not answer.
    fn links_down(&self, id: u32, links: &BTreeMap<u8, String>) -> Outcome<Vec<u8>>;

    /// Puts a member out of the ring.
    ///
    /// # Errors
    /// When the messaging daemon does not do it.
    fn kill(&self, id: u32) -> Outcome;

    /// Watches for a node that was let in, without this command.
    ///
    /// # Errors
    /// When nobody can.
    fn settle_later(&self, host: &Host, name: &str, votes: u32) -> Outcome;
}

/// The machine that the command runs on.
#[derive(Debug)]
pub struct ThisMachine {
    signals: Option<Signals>,
}

impl ThisMachine {
    /// For a command: ends at a signal. To be called before there are other threads.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn watched() -> Outcome<Self> {
        Signals::block().map(|signals| Self {
            signals: Some(signals),
        })
    }

    /// For a server, which has its own way to end.
    #[must_use]
    pub fn unwatched() -> Self {
        Self { signals: None }
    }
}

impl Machine for ThisMachine {
    fn interrupted(&self) -> bool {
        self.signals.as_ref().is_some_and(Signals::seen)
    }

    fn control(&self, verb: &str, units: &[&str]) -> Outcome {
        services::tell(verb, units)
    }

    fn put_back(&self, verb: &str, units: &[&str]) -> Outcome {
        services::put_back(verb, units)
    }

    fn prepare(&self, host: &Host, transaction: &mut Transaction) -> Outcome {
        prepare::local(host, transaction)
    }

    fn cluster_files(&self, host: &Host) -> Outcome {
        prepare::cluster(host)
    }

    fn alone(&self, host: &Host, work: &mut dyn FnMut() -> Outcome) -> Outcome {
        // It ends with this process, however that ends.
        let args = ["--pdeathsig", "TERM", "pmxcfs", "-l", "-f"];
        let mut local = program("setpriv", args).apart().spawn()?;
        let done = wait_for_writable(host, self).and_then(|()| work());
        let ended = end(&mut local);
        done.and(ended)
    }

    fn is_joined(&self, id: u32) -> Outcome<bool> {
        ring::is_joined(id)
    }

    fn own_id(&self) -> Outcome<u32> {
        ring::own_id()
    }

    fn version_in_force(&self) -> Option<u64> {
        ring::number("totem.config_version").ok().flatten()
    }

    fn versions(&self, ids: &[u32]) -> Outcome<BTreeMap<u32, u64>> {
        ring::versions(ids)
    }

    fn links_down(&self, id: u32, links: &BTreeMap<u8, String>) -> Outcome<Vec<u8>> {
        ring::links_down(id, links)
    }

    fn kill(&self, id: u32) -> Outcome {
        ring::kill(id)
    }

    fn settle_later(&self, host: &Host, name: &str, votes: u32) -> Outcome {
        let votes = votes.to_string();
        let mut words = services::of_its_own(&host.paths, &format!("vote of node {name}"));
        // By the first name it is found also after an upgrade has replaced its file; by the other one
        // when this process has ended, too.
        let own = match words.is_empty() {
            true => "/proc/self/exe".to_owned(),
            false => installed(),
        };
        words.push(own);
        words.extend(["addnode", name, "--settle", &votes].map(str::to_owned));
        let first = words.remove(0);
        program(&first, words).detach()
    }
}

/// Where this program is, or the one that has taken its place.
fn installed() -> String {
    let path = std::env::current_exe().unwrap_or_else(|_| "pvecm".into());
    let path = path.to_string_lossy();
    path.trim_end_matches(" (deleted)").to_owned()
}

fn end(local: &mut Child) -> Outcome {
    let unable = |what: &str| Failure::failed(format!("'pmxcfs -l' can not be ended: {what}"));
    let pid = i32::try_from(local.id()).map_err(|error| unable(&error.to_string()))?;
    // If it has ended by itself, the wait tells.
    kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
    let ended = wait::until(PATIENCE, || local.try_wait().ok().flatten());
    let Some(status) = ended else {
        // Nobody else may change its database while it lives.
        drop(local.kill());
        drop(local.wait());
        return Err(unable("it goes on, and was killed"));
    };
    if status.success() {
        Ok(())
    } else {
        Err(Failure::failed(format!(
            "'pmxcfs -l' failed: {status}: see 'journalctl -t pmxcfs'"
        )))
    }
}

/// Looks until there is something, `patience` is over, or the command is to end.
///
/// # Errors
/// When it is to end.
pub fn look_for<T>(
    machine: &dyn Machine,
    patience: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> Outcome<Option<T>> {
    let found = wait::until(machine.patience(patience), || match machine.interrupted() {
        true => Some(Err(interrupted())),
        false => look().map(Ok),
    });
    found.transpose()
}

/// Waits until the cluster file system takes changes.
///
/// # Errors
/// When it does not in time, or the command is to end.
pub fn wait_for_writable(host: &Host, machine: &dyn Machine) -> Outcome {
    let writable = || (pve::state(&host.paths) == State::Writable).then_some(());
    look_for(machine, WRITABLE, writable)?.ok_or_else(|| {
        Failure::failed(format!(
            "the cluster file system takes no changes after {} seconds: see 'journalctl -u corosync -u \
             pve-cluster'",
            WRITABLE.as_secs()
        ))
    })
}

/// Waits until this node's messaging daemon has a configuration of that version, or a newer one, in
/// force.
///
/// # Errors
/// When it has not in time, or the command is to end.
pub fn await_version(machine: &dyn Machine, version: u64, patience: Duration) -> Outcome {
    let taken = || {
        let running = machine.version_in_force();
        running
            .is_some_and(|running| running >= version)
            .then_some(())
    };
    look_for(machine, patience, taken)?.ok_or_else(|| {
        Failure::failed(format!(
            "corosync has not taken version {version} of the configuration within {} seconds: see \
             'journalctl -u corosync'",
            patience.as_secs()
        ))
    })
}

/// Nodes of a configuration that are in the ring.
///
/// # Errors
/// When the messaging daemon does not answer.
pub fn present(machine: &dyn Machine, conf: &ClusterConf) -> Outcome<Vec<NodeEntry>> {
    let mut there = Vec::new();
    for node in conf.nodes() {
        if node.id.map_or(Ok(false), |id| machine.is_joined(id))? {
            there.push(node);
        }
    }
    Ok(there)
}
