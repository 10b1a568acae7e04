//! What the tests of three nodes share.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::cluster::{Cluster, SYNC_DEADLINE};
use tests::compare::equal_trees;
use tests::corosync::Settings;
use tests::daemon::binary;
use tests::lab::{Requirement, available};
use tests::load::Writer;
use tests::wait::{eventually, eventually_ok};

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

/// One writer on each of these nodes, each in a directory `load-ID` that all nodes see.
pub(crate) struct Load {
    writers: Vec<(usize, Writer)>,
}

impl Load {
    pub(crate) fn new(cluster: &Cluster, nodes: &[usize]) -> Self {
        Self::with_peers(cluster, nodes, &[])
    }

    /// The same where another implementation runs on some nodes.
    pub(crate) fn with_peers(cluster: &Cluster, nodes: &[usize], peers: &[usize]) -> Self {
        let writers = nodes.iter().map(|id| {
            let dir = cluster.path(*id, format!("load-{id}"));
            fs::create_dir(&dir).unwrap();
            let writer = Writer::new(dir, u64::try_from(*id).unwrap());
            let peer = peers.contains(id);
            (*id, if peer { writer.in_pieces() } else { writer })
        });
        Self {
            writers: writers.collect(),
        }
    }

    /// The same while a node loses contact to the others: what its writer was told last before
    /// that can be lost.
    pub(crate) fn during_loss_of(&mut self, cut: usize, disturb: impl FnOnce(&Progress)) {
        self.set_loses_last(Some(cut));
        self.during(disturb);
        self.set_loses_last(None);
    }

    fn set_loses_last(&mut self, cut: Option<usize>) {
        for (id, writer) in &mut self.writers {
            writer.set_loses_last(Some(*id) == cut);
        }
    }

    /// Lets the writers work while `disturb` does its part, and for another moment.
    pub(crate) fn during(&mut self, disturb: impl FnOnce(&Progress)) {
        let progress = Progress::default();
        thread::scope(|scope| {
            for (_, writer) in &mut self.writers {
                let progress = &progress;
                scope.spawn(move || progress.write(writer));
            }
            // Also when it panics the writers have to end, or nobody would ever hear of it.
            let _end = EndOnDrop(&progress);
            progress.await_more(10);
            disturb(&progress);
            progress.await_more(10);
        });
    }

    /// Waits for equal nodes, then checks that every node has what was acknowledged.
    pub(crate) fn check(&mut self, cluster: &Cluster) {
        cluster.await_equal().unwrap();
        self.check_writers(cluster);
    }

    /// The same without a look at the databases, when one is not where they usually are.
    pub(crate) fn check_trees(&mut self, cluster: &Cluster) {
        let roots = NODES.map(|id| cluster.path(id, ""));
        eventually_ok(SYNC_DEADLINE, "equal trees", || equal_trees(&roots)).unwrap();
        self.check_writers(cluster);
    }

    fn check_writers(&mut self, cluster: &Cluster) {
        for (id, writer) in &mut self.writers {
            for node in NODES {
                writer
                    .check(&cluster.path(node, format!("load-{id}")))
                    .unwrap();
            }
        }
    }
}

/// How far writers are.
#[derive(Default)]
pub(crate) struct Progress {
    acknowledged: AtomicUsize,
    end: AtomicBool,
}

impl Progress {
    fn write(&self, writer: &mut Writer) {
        let root = writer.dir().parent().unwrap().to_owned();
        while !self.end.load(Ordering::Relaxed) {
            if writer.step().is_ok() {
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            // Most changes fail until the node takes changes again.
            let serves = || {
                self.end.load(Ordering::Relaxed)
                    || fs::symlink_metadata(root.join("local"))
                        .is_ok_and(|it| !it.permissions().readonly())
            };
            eventually(
                Duration::from_secs(600),
                "a node that takes changes",
                serves,
            )
            .unwrap();
        }
    }

    /// Waits until so many further changes were acknowledged.
    pub(crate) fn await_more(&self, count: usize) {
        let goal = self.acknowledged.load(Ordering::Relaxed) + count;
        eventually(SYNC_DEADLINE, "acknowledged changes", || {
            self.acknowledged.load(Ordering::Relaxed) >= goal
        })
        .unwrap();
    }
}

struct EndOnDrop<'a>(&'a Progress);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end.store(true, Ordering::Relaxed);
    }
}
