//! Makes the kernel forget what changed.
//!
//! Runs on threads that serve no request and hold no lock of ours, since the kernel may make them
//! wait: a name can only be forgotten under the lock of its directory, which a change of this node
//! holds until it is answered. Inodes are forgotten by a thread of their own, which waits for
//! pages that are being read or written at most, and names in directories with changes under way
//! by another, so that neither delays the rest.

use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
};

use super::device::Device;
use crate::fs::{Fs, NameBatch, Notes, Stale, differences, differing_names, ino_of};

/// Tells the kernel what to forget until it is closed.
#[derive(Debug)]
pub(super) struct Forgetter {
    notes: Arc<Notes>,
    /// Names in directories in which a change of this node is under way.
    late: Arc<Notes>,
    threads: Vec<JoinHandle<()>>,
}

/// The way to the kernel.
pub(super) struct Kernel {
    pub(super) device: Arc<Device>,
    pub(super) has_epoch: bool,
}

impl Forgetter {
    pub(super) fn start(fs: &Arc<Fs>, kernel: Kernel) -> io::Result<Self> {
        let notes = Arc::clone(fs.notes());
        let late = Arc::new(Notes::default());
        let kernel = Arc::new(kernel);
        let mut started = Self {
            notes: Arc::clone(&notes),
            late: Arc::clone(&late),
            threads: Vec::new(),
        };
        let (of, to) = (Arc::clone(fs), Arc::clone(&kernel));
        started.spawn("pmxcfs-inodes", move || forget_inodes(&of, &to))?;
        let (of, to, busy) = (Arc::clone(fs), Arc::clone(&kernel), Arc::clone(&late));
        started.spawn("pmxcfs-names", move || {
            while let Some(batch) = notes.next_names() {
                forget_names(&of, &to, batch, Some(&busy));
            }
        })?;
        let of = Arc::clone(fs);
        started.spawn("pmxcfs-late", move || {
            while let Some(batch) = late.next_names() {
                forget_names(&of, &kernel, batch, None);
            }
        })?;
        Ok(started)
    }

    /// Ends the threads. The connection is gone by now, so none of them waits for the kernel.
    pub(super) fn stop(&mut self) {
        self.notes.close();
        self.late.close();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that notifies the kernel panicked");
            }
        }
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run)?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Kernel {
    fn inode(&self, ino: u64, stale: Stale) {
        let offset = match stale {
            Stale::Attributes => -1,
            Stale::Content => 0,
        };
        log_failure(self.device.forget_inode(ino, offset));
    }

    fn name(&self, dir: u64, name: &[u8]) {
        log_failure(self.device.forget_name(dir, name));
    }

    /// All names at once, without waiting for any directory.
    fn all_names(&self) -> io::Result<()> {
        if !self.has_epoch {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.device.forget_all_names()
    }
}

fn forget_inodes(fs: &Fs, kernel: &Kernel) {
    while let Some(batch) = fs.notes().next_inodes() {
        for (ino, stale) in batch.inodes {
            kernel.inode(ino, stale);
        }
        if batch.since.is_none() && !batch.all_attributes {
            continue;
        }
        let tree = fs.snapshot();
        if let Some(since) = batch.since {
            for (ino, stale) in differences(&since, &tree) {
                kernel.inode(ino, stale);
            }
        }
        if batch.all_attributes {
            for (inode, _) in tree.entries() {
                kernel.inode(ino_of(*inode), Stale::Attributes);
            }
        }
    }
}

fn forget_names(fs: &Fs, kernel: &Kernel, batch: NameBatch, late: Option<&Notes>) {
    let mut names: Vec<_> = batch.names.into_iter().collect();
    if let Some(since) = batch.since {
        match kernel.all_names() {
            Ok(()) => return,
            Err(error) => tracing::debug!(%error, "names are invalidated one by one"),
        }
        names.extend(differing_names(&since, &fs.snapshot()));
    }
    for (dir, name) in names {
        match late {
            Some(late) if fs.is_changing(dir) => late.name(dir, name, &fs.snapshot()),
            _ => kernel.name(dir, &name),
        }
    }
}

fn log_failure(result: io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%error, "the kernel did not take a notification");
    }
}
