//! A cluster on test hosts: corosync and pmxcfs on each.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::compare;
use crate::corosync::{Corosync, Settings};
use crate::daemon::{self, MOUNT_POINT, Pmxcfs};
use crate::lab::{Host, Lab};
use crate::wait::eventually_ok;

/// Nodes find each other, and are in sync, within this time on a busy machine too.
pub const SYNC_DEADLINE: Duration = Duration::from_secs(60);
/// The owner's permission to write; it is what clients look at to see whether a node is quorate.
const OWNER_WRITE: u32 = 0o200;

/// Hosts with both daemons. Fields are dropped in order: daemons end before their hosts.
#[derive(Debug)]
pub struct Cluster {
    /// The configuration daemon of each node; `None` while a test has stopped it.
    pub pmxcfs: Vec<Option<Pmxcfs>>,
    /// The messaging daemon of each node; `None` while a test has stopped it.
    pub corosync: Vec<Option<Corosync>>,
    /// The hosts and their networks.
    pub lab: Lab,
    /// The binary of each node's pmxcfs.
    binaries: Vec<PathBuf>,
    /// The binary of each node's messaging daemon.
    messaging: Vec<PathBuf>,
}

impl Cluster {
    /// Starts `count` nodes with the pmxcfs under test and waits until they are in sync.
    ///
    /// # Errors
    /// When the machine lacks something, or a daemon does not come up.
    pub fn start(count: usize) -> Result<Self> {
        Self::start_with(&Settings::new(count), &vec![daemon::binary()?; count])
    }

    /// Starts nodes with these settings, and a pmxcfs binary for each.
    ///
    /// # Errors
    /// When the machine lacks something, or a daemon does not come up.
    pub fn start_with(settings: &Settings, binaries: &[PathBuf]) -> Result<Self> {
        let lab = Lab::new(binaries.len())?;
        let corosync = Corosync::start_cluster(&lab, settings)?;
        Self::over(lab, corosync, binaries)
    }

    /// Starts pmxcfs on hosts where corosync runs already, and waits until they are in sync.
    ///
    /// # Errors
    /// When a daemon does not come up.
    pub fn over(lab: Lab, corosync: Vec<Corosync>, binaries: &[PathBuf]) -> Result<Self> {
        let messaging = corosync.iter().map(|it| it.path().to_owned()).collect();
        let corosync = corosync.into_iter().map(Some).collect();
        let pmxcfs = binaries.iter().map(|_| None).collect();
        let mut cluster = Self {
            pmxcfs,
            corosync,
            lab,
            binaries: binaries.to_vec(),
            messaging,
        };
        for id in 1..=binaries.len() {
            cluster.start_pmxcfs(id, &[])?;
        }
        cluster.await_in_sync()?;
        Ok(cluster)
    }

    /// Starts pmxcfs on a node where it does not run.
    ///
    /// # Errors
    /// When it does not come up.
    ///
    /// # Panics
    /// When there is no such node.
    pub fn start_pmxcfs(&mut self, id: usize, args: &[&str]) -> Result<()> {
        let host = self.lab.host(id);
        let daemon = Pmxcfs::start_binary(host, &self.binaries[id - 1], args)?;
        self.pmxcfs[id - 1] = Some(daemon);
        Ok(())
    }

    /// Starts corosync on a node where it does not run.
    ///
    /// # Errors
    /// When it cannot be started.
    ///
    /// # Panics
    /// When there is no such node.
    pub fn start_corosync(&mut self, id: usize) -> Result<()> {
        self.corosync[id - 1] = Some(Corosync::start_program(
            self.lab.host(id),
            &self.messaging[id - 1],
        )?);
        Ok(())
    }

    /// A path below the mounted directory of a node.
    #[must_use]
    pub fn path(&self, id: usize, path: impl AsRef<Path>) -> PathBuf {
        self.lab.host(id).path(MOUNT_POINT).join(path)
    }

    /// Waits until every node is quorate, sees all as online, and takes a change that all see.
    ///
    /// # Errors
    /// When that takes longer than [`SYNC_DEADLINE`].
    pub fn await_in_sync(&self) -> Result<()> {
        for host in self.lab.hosts() {
            self.await_online(host.id(), self.binaries.len())?;
        }
        for host in self.lab.hosts() {
            let name = format!("sync-probe-{}", host.name());
            eventually_ok(SYNC_DEADLINE, "a node that takes changes", || {
                Ok(fs::create_dir(self.path(host.id(), &name))?)
            })?;
            for other in self.lab.hosts() {
                eventually_ok(SYNC_DEADLINE, "a change on all nodes", || {
                    Ok(fs::metadata(self.path(other.id(), &name))?)
                })?;
            }
            fs::remove_dir(self.path(host.id(), &name))?;
        }
        Ok(())
    }

    /// Waits until a node is quorate and sees so many nodes as online.
    ///
    /// # Errors
    /// When that takes longer than [`SYNC_DEADLINE`].
    pub fn await_online(&self, id: usize, count: usize) -> Result<()> {
        eventually_ok(
            SYNC_DEADLINE,
            &format!("{count} nodes online for n{id}"),
            || {
                let text = fs::read_to_string(self.path(id, ".members"))?;
                let members: Value = serde_json::from_str(&text)?;
                let nodes = members["nodelist"]
                    .as_object()
                    .context("no node list yet")?;
                let online = nodes.values().filter(|node| node["online"] == 1).count();
                ensure!(
                    members["cluster"]["quorate"] == 1 && online == count,
                    "members: {text}"
                );
                Ok(())
            },
        )
    }

    /// Waits until a node's tree is writable, or is not.
    ///
    /// # Errors
    /// When that takes longer than [`SYNC_DEADLINE`].
    pub fn await_writable(&self, id: usize, writable: bool) -> Result<()> {
        let what = format!("n{id} {}", if writable { "writable" } else { "read-only" });
        eventually_ok(SYNC_DEADLINE, &what, || {
            let mode = fs::symlink_metadata(self.path(id, "local"))?.mode();
            ensure!((mode & OWNER_WRITE != 0) == writable, "mode {mode:o}");
            Ok(())
        })
    }

    /// Waits until trees and databases of all nodes are equal.
    ///
    /// # Errors
    /// When they still differ after [`SYNC_DEADLINE`]: the first differences.
    pub fn await_equal(&self) -> Result<()> {
        compare::await_equal(
            SYNC_DEADLINE,
            &self.lab.hosts().iter().collect::<Vec<&Host>>(),
        )
    }

    /// Ends all daemons in order.
    ///
    /// # Errors
    /// When one does not end.
    pub fn stop(mut self) -> Result<()> {
        for daemon in self.pmxcfs.iter_mut().filter_map(Option::take) {
            let status = daemon.stop()?;
            ensure!(status.success(), "pmxcfs ended with {status}");
        }
        self.corosync
            .iter_mut()
            .filter_map(Option::take)
            .try_for_each(Corosync::stop)
    }
}
