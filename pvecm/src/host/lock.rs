//! One change at a time: on this node by a file's lock, in the cluster by a directory.
//!
//! Invariant: who holds a guard is the only one; the lock goes with its guard, also when the process
//! is killed (the cluster's one then after 120 seconds).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::files;
use super::wait::until;
use crate::failure::{Failure, Outcome};

/// How long a lock is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// This node's lock.
#[derive(Debug)]
pub struct NodeLock {
    _file: File,
}

impl NodeLock {
    /// Takes the lock of this node, `/var/lock/pvecm.lock`.
    ///
    /// # Errors
    /// When another command holds it for more than ten seconds.
    pub fn take(path: &Path) -> Outcome<Self> {
        let open = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path);
        let file = open.map_err(|error| files::failed("open the lock", path, &error))?;
        let mut told = false;
        let taken = until(PATIENCE, || match file.try_lock() {
            Ok(()) => Some(Ok(())),
            Err(TryLockError::WouldBlock) => {
                if !told {
                    eprintln!("trying to acquire lock...");
                    told = true;
                }
                None
            }
            Err(TryLockError::Error(error)) => Some(Err(error)),
        });
        match taken {
            Some(Ok(())) => Ok(Self { _file: file }),
            Some(Err(error)) => Err(files::failed("lock", path, &error)),
            None => Err(Failure::refused(format!(
                "another pvecm runs on this node and holds '{}': try again when it is done",
                path.display()
            ))),
        }
    }
}

/// A lock that all nodes see.
#[derive(Debug)]
pub struct ClusterLock {
    directory: PathBuf,
}

impl ClusterLock {
    /// Takes the lock `name` below `locks` (`/etc/pve/priv/lock`).
    ///
    /// # Errors
    /// When somebody else holds it for more than ten seconds, or the cluster can not be written to.
    pub fn take(locks: &Path, name: &str) -> Outcome<Self> {
        files::make_directory(locks)?;
        let directory = locks.join(name);
        let taken = until(PATIENCE, || match fs::create_dir(&directory) {
            Ok(()) => Some(Ok(())),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                drop(super::ask_for_release(&directory));
                None
            }
            Err(error) => Some(Err(error)),
        });
        match taken {
            Some(Ok(())) => Ok(Self { directory }),
            Some(Err(error)) => Err(files::failed("take the lock", &directory, &error)),
            None => Err(Failure::refused(format!(
                "another change of the cluster is going on: '{}' is taken; it frees itself two minutes \
                 after its owner is gone",
                directory.display()
            ))),
        }
    }

    /// The lock below `locks` that a command of this node took and was killed with; nothing if it is
    /// not there any more.
    #[must_use]
    pub fn inherit(locks: &Path, name: &str, number: u64) -> Option<Self> {
        let directory = locks.join(name);
        (number_of(&directory) == Some(number)).then_some(Self { directory })
    }

    /// Tells this lock from any other of its name, earlier or later.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        number_of(&self.directory)
    }
}

/// The cluster file system gives no number twice.
fn number_of(directory: &Path) -> Option<u64> {
    directory.symlink_metadata().ok().map(|found| found.ino())
}

impl Drop for ClusterLock {
    fn drop(&mut self) {
        // It frees itself when that does not succeed.
        drop(fs::remove_dir(&self.directory));
    }
}
