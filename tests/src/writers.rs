//! Writers on several nodes of a cluster, at work while a test disturbs it.
//!
//! Invariant: the writers end when the disturbance has ended, however it ended.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::cluster::SYNC_DEADLINE;
use crate::load::Writer;
use crate::wait::{self, eventually};

/// Changes that have to be acknowledged before and after a disturbance.
const SOME: usize = 10;
/// Most changes fail until a node takes changes again, which is after this time at the latest.
const REFUSAL: Duration = Duration::from_secs(600);

/// One writer on each of some nodes, each in a directory `load-ID` that all nodes see.
#[derive(Debug)]
pub struct Writers {
    writers: Vec<(usize, Writer)>,
    /// Between two changes of a writer.
    rest: Duration,
}

/// How far writers are.
#[derive(Debug, Default)]
pub struct Progress {
    acknowledged: AtomicUsize,
    end: AtomicBool,
}

impl Writers {
    /// Makes the directories on nodes, by number and root of the tree.
    ///
    /// # Errors
    /// When a directory can not be made.
    pub fn new(nodes: impl IntoIterator<Item = (usize, PathBuf)>) -> Result<Self> {
        let mut all = Self {
            writers: Vec::new(),
            rest: Duration::ZERO,
        };
        nodes
            .into_iter()
            .try_for_each(|(id, root)| all.add(id, &root))?;
        Ok(all)
    }

    /// Another writer, on the node with this number and root of the tree.
    ///
    /// # Errors
    /// When its directory can not be made.
    pub fn add(&mut self, id: usize, root: &Path) -> Result<()> {
        let dir = root.join(directory(id));
        fs::create_dir(&dir).with_context(|| format!("{}", dir.display()))?;
        self.writers
            .push((id, Writer::new(dir, u64::try_from(id)?)));
        Ok(())
    }

    /// Lets the writers of these nodes write in pieces: what runs there is another implementation.
    #[must_use]
    pub fn with_peers(mut self, peers: &[usize]) -> Self {
        let writers = self.writers.into_iter().map(|(id, writer)| {
            let peer = peers.contains(&id);
            (id, if peer { writer.in_pieces() } else { writer })
        });
        self.writers = writers.collect();
        self
    }

    /// Lets the writers rest between changes: at full speed they and the ring take the processors from
    /// all that goes on beside them.
    #[must_use]
    pub fn with_rests(mut self, rest: Duration) -> Self {
        self.rest = rest;
        self
    }

    /// What the writers of these nodes, and of no others, were told last can be lost.
    pub fn set_loses_last(&mut self, cut: &[usize]) {
        for (id, writer) in &mut self.writers {
            writer.set_loses_last(cut.contains(id));
        }
    }

    /// Lets the writers work while `disturb` does its part, and for another moment.
    ///
    /// # Errors
    /// When too little is acknowledged before or after, or a node refuses changes for too long.
    pub fn during(&mut self, disturb: impl FnOnce(&Progress)) -> Result<()> {
        let progress = Progress::default();
        let rest = self.rest;
        thread::scope(|scope| {
            let writers: Vec<_> = self
                .writers
                .iter_mut()
                .map(|(_, writer)| scope.spawn(|| progress.write(writer, rest)))
                .collect();
            // Also when it panics the writers have to end, or nobody would ever hear of it.
            let end = EndOnDrop(&progress);
            let result = progress.await_more(SOME).and_then(|()| {
                disturb(&progress);
                progress.await_more(SOME)
            });
            drop(end);
            // Why a writer gave up tells more than that nothing was written any more.
            writers
                .into_iter()
                .try_for_each(|writer| writer.join().map_err(|_| anyhow!("a writer panicked"))?)
                .and(result)
        })
    }

    /// Checks that the nodes with these trees have what was acknowledged.
    ///
    /// # Errors
    /// When one has not.
    pub fn check(&mut self, roots: &[PathBuf]) -> Result<()> {
        for (id, writer) in &mut self.writers {
            for root in roots {
                writer.check(&root.join(directory(*id)))?;
            }
        }
        Ok(())
    }
}

/// Directory of a node's writer.
fn directory(id: usize) -> String {
    format!("load-{id}")
}

impl Progress {
    fn write(&self, writer: &mut Writer, rest: Duration) -> Result<()> {
        let root = writer.dir().parent().map(Path::to_owned);
        let root = root.context("a writer without a tree")?;
        while !self.end.load(Ordering::Relaxed) {
            if writer.step().is_ok() {
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
                wait::rest(rest);
                continue;
            }
            let serves = || {
                self.end.load(Ordering::Relaxed)
                    || fs::symlink_metadata(root.join("local"))
                        .is_ok_and(|it| !it.permissions().readonly())
            };
            eventually(REFUSAL, "a node that takes changes", serves)?;
        }
        Ok(())
    }

    /// Waits until so many further changes were acknowledged.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn await_more(&self, count: usize) -> Result<()> {
        let goal = self.acknowledged.load(Ordering::Relaxed) + count;
        eventually(SYNC_DEADLINE, "acknowledged changes", || {
            self.acknowledged.load(Ordering::Relaxed) >= goal
        })
    }
}

struct EndOnDrop<'a>(&'a Progress);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end.store(true, Ordering::Relaxed);
    }
}
