//! What the tests of three nodes share.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use tests::cluster::{Cluster, SYNC_DEADLINE};
use tests::compare::equal_trees;
use tests::corosync::Settings;
use tests::daemon::binary;
use tests::lab::{Requirement, available};
use tests::wait::eventually_ok;
use tests::writers::{Progress, Writers};

/// All nodes.
pub(crate) const NODES: [usize; 3] = [1, 2, 3];
/// What three nodes need of the machine.
pub(crate) const ALL: [Requirement; 4] = [
    Requirement::Root,
    Requirement::Fuse,
    Requirement::Network,
    Requirement::Corosync,
];

/// Three nodes in sync, or `None` where this machine cannot have them.
pub(crate) fn three_nodes() -> Option<Cluster> {
    three_nodes_with(&Settings::new(3))
}

/// The same with settings of Corosync.
pub(crate) fn three_nodes_with(settings: &Settings) -> Option<Cluster> {
    let start = || Cluster::start_with(settings, &vec![binary()?; NODES.len()]);
    available(&ALL).then(|| start().unwrap())
}

/// Waits until `look` succeeds on every node.
pub(crate) fn on_all(cluster: &Cluster, what: &str, look: impl Fn(&Path) -> Result<()>) {
    for id in NODES {
        let root = cluster.path(id, "");
        eventually_ok(SYNC_DEADLINE, &format!("n{id}: {what}"), || look(&root)).unwrap();
    }
}

/// Waits until a file has this content on every node.
pub(crate) fn holds_on_all(cluster: &Cluster, path: &str, data: &[u8]) {
    on_all(cluster, path, |root| {
        let found = fs::read(root.join(path))?;
        ensure!(found == data, "{} bytes", found.len());
        Ok(())
    });
}

/// Waits until something is at a path on every node.
pub(crate) fn there_on_all(cluster: &Cluster, path: &str) {
    on_all(cluster, path, |root| {
        fs::symlink_metadata(root.join(path))?;
        Ok(())
    });
}

/// Waits until nothing is at a path on any node.
pub(crate) fn gone_on_all(cluster: &Cluster, path: &str) {
    on_all(cluster, path, |root| {
        let found = fs::symlink_metadata(root.join(path));
        let absent = found.is_err_and(|error| error.raw_os_error() == Some(libc::ENOENT));
        ensure!(absent, "it is still there");
        Ok(())
    });
}

/// Writers on some nodes of a cluster.
pub(crate) struct Load(Writers);

impl Load {
    pub(crate) fn new(cluster: &Cluster, nodes: &[usize]) -> Self {
        Self::with_peers(cluster, nodes, &[])
    }

    /// The same where another implementation runs on some nodes.
    pub(crate) fn with_peers(cluster: &Cluster, nodes: &[usize], peers: &[usize]) -> Self {
        let roots = nodes.iter().map(|id| (*id, cluster.path(*id, "")));
        Self(Writers::new(roots).unwrap().with_peers(peers))
    }

    /// The same while nodes lose contact to the others: what their writers were told last before
    /// that can be lost.
    pub(crate) fn during_loss_of(&mut self, cut: &[usize], disturb: impl FnOnce(&Progress)) {
        self.0.set_loses_last(cut);
        self.during(disturb);
        self.0.set_loses_last(&[]);
    }

    /// Lets the writers work while `disturb` does its part, and for another moment.
    pub(crate) fn during(&mut self, disturb: impl FnOnce(&Progress)) {
        self.0.during(disturb).unwrap();
    }

    /// Waits for equal nodes, then checks that every node has what was acknowledged.
    pub(crate) fn check(&mut self, cluster: &Cluster) {
        cluster.await_equal().unwrap();
        self.0.check(&roots(cluster)).unwrap();
    }

    /// The same without a look at the databases, when one is not where they usually are.
    pub(crate) fn check_trees(&mut self, cluster: &Cluster) {
        let roots = roots(cluster);
        eventually_ok(SYNC_DEADLINE, "equal trees", || equal_trees(&roots)).unwrap();
        self.0.check(&roots).unwrap();
    }
}

fn roots(cluster: &Cluster) -> [PathBuf; NODES.len()] {
    NODES.map(|id| cluster.path(id, ""))
}
