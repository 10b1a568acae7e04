//! One change at a time: on this node by a file's lock, in the cluster by a directory.
//!
//! Invariant: who holds a guard is the only one; the lock goes with its guard, also when the process
//! is killed (the cluster's one then after 120 seconds, which begin again when it is renewed). A
//! guard that has lost its lock neither renews nor removes that of somebody else.

use std::cell::Cell;
use std::fs::{self, File, FileTimes, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

use super::files;
use super::wait::{now, until};
use crate::failure::{Failure, Outcome};

/// How long a lock is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// The cluster's lock is renewed when it is older than this.
const FRESH: Duration = Duration::from_secs(30);

/// This node's lock.
#[derive(Debug)]
pub struct NodeLock {
    file: File,
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
                    crate::tell::tell("trying to acquire lock...");
                    told = true;
                }
                None
            }
            Err(TryLockError::Error(error)) => Some(Err(error)),
        });
        match taken {
            Some(Ok(())) => Ok(Self { file }),
            Some(Err(error)) => Err(files::failed("lock", path, &error)),
            None => Err(taken_by(path)),
        }
    }

    /// Leaves word in it for those who wait. A file that can not be written is a lock all the same.
    #[must_use]
    pub fn signed(self) -> Self {
        let verb = std::env::args().nth(1).unwrap_or_default();
        let text = format!("'pvecm {verb}' (process {})\n", std::process::id());
        let emptied = self.file.set_len(0);
        drop(emptied.and_then(|()| self.file.write_all_at(text.as_bytes(), 0)));
        self
    }
}

/// Who holds the lock of the node, in words.
fn taken_by(path: &Path) -> Failure {
    let owner = fs::read_to_string(path).unwrap_or_default();
    let owner = match owner.trim() {
        "" => "another pvecm",
        owner => owner,
    };
    Failure::refused(format!(
        "{owner} runs on this node and holds '{}': try again when it is done",
        path.display()
    ))
}

/// A lock that all nodes see.
#[derive(Debug)]
pub struct ClusterLock {
    renewal: Box<Renewal>,
}

/// Keeps a lock from freeing itself; whoever holds it may be somebody else.
#[derive(Clone, Debug)]
pub struct Renewal {
    directory: PathBuf,
    number: Option<u64>,
    renewed: Cell<Instant>,
}

impl Renewal {
    fn of(directory: PathBuf) -> Self {
        Self {
            number: number_of(&directory),
            directory,
            renewed: Cell::new(now()),
        }
    }

    fn is_held(&self) -> bool {
        self.number.is_some() && number_of(&self.directory) == self.number
    }

    /// Begins its time again.
    ///
    /// # Errors
    /// When it is held no more: what it was to keep out may be going on.
    pub fn renew(&self) -> Outcome {
        let now_is = UNIX_EPOCH + super::calendar();
        let times = FileTimes::new().set_accessed(now_is).set_modified(now_is);
        let lost = |why: &str| {
            Failure::failed(format!(
                "the lock '{}' is held no more ({why}): somebody else may change the cluster, run the \
                 command again",
                self.directory.display()
            ))
        };
        if !self.is_held() {
            return Err(lost("it has freed itself"));
        }
        let touched = File::open(&self.directory).and_then(|lock| lock.set_times(times));
        touched.map_err(|error| lost(&error.to_string()))?;
        self.renewed.set(now());
        Ok(())
    }

    /// As [`renew`](Self::renew), where some time has gone since the last one.
    ///
    /// # Errors
    /// When it is held no more.
    pub fn keep(&self) -> Outcome {
        match now().saturating_duration_since(self.renewed.get()) >= FRESH {
            true => self.renew(),
            false => Ok(()),
        }
    }
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
            Some(Ok(())) => Ok(Self {
                renewal: Box::new(Renewal::of(directory)),
            }),
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
        let renewal = Box::new(Renewal::of(locks.join(name)));
        (renewal.number == Some(number)).then_some(Self { renewal })
    }

    /// Tells this lock from any other of its name, earlier or later.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        self.renewal.number
    }

    /// Keeps it held while a change takes long.
    #[must_use]
    pub fn renewal(&self) -> &Renewal {
        &self.renewal
    }
}

/// The cluster file system gives no number twice.
fn number_of(directory: &Path) -> Option<u64> {
    directory.symlink_metadata().ok().map(|found| found.ino())
}

impl Drop for ClusterLock {
    fn drop(&mut self) {
        // It frees itself when that does not succeed.
        if self.renewal.is_held() {
            drop(fs::remove_dir(&self.renewal.directory));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn who_waits_is_told_for_whom() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        fs::write(&path, "'pvecm of-an-earlier-owner' (process 1)\n").unwrap();
        let lock = NodeLock::take(&path).unwrap().signed();
        let owner = format!("(process {}) runs on this node", std::process::id());
        let text = taken_by(&path).to_string();
        assert!(text.contains(&owner) && !text.contains("earlier"), "{text}");
        drop(lock);
    }

    #[test]
    fn a_lock_is_renewed_while_it_is_held() {
        let directory = tempfile::tempdir().unwrap();
        let lock = ClusterLock::take(directory.path(), "x").unwrap();
        let path = directory.path().join("x");
        let old = FileTimes::new()
            .set_accessed(UNIX_EPOCH)
            .set_modified(UNIX_EPOCH);
        File::open(&path).unwrap().set_times(old).unwrap();
        lock.renewal().keep().unwrap();
        assert_eq!(path.metadata().unwrap().mtime(), 0, "it is fresh");
        lock.renewal().renew().unwrap();
        assert!(path.metadata().unwrap().mtime() > 0);
        drop(lock);
        assert!(!path.exists());
    }

    #[test]
    fn the_lock_of_somebody_else_stays() {
        let directory = tempfile::tempdir().unwrap();
        let lock = ClusterLock::take(directory.path(), "x").unwrap();
        let path = directory.path().join("x");
        // It took too long, and another one has it now.
        fs::rename(&path, directory.path().join("freed")).unwrap();
        let other = ClusterLock::take(directory.path(), "x").unwrap();
        let failure = lock.renewal().renew().unwrap_err();
        assert!(failure.to_string().contains("is held no more"), "{failure}");
        drop(lock);
        assert!(path.exists());
        drop(other);
        assert!(!path.exists());
    }
}
