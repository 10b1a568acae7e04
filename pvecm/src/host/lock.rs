//! One change at a time: on this node by a file's lock, in the cluster by a directory.
//!
//! Invariant: who holds a guard is the only one; the lock goes with its guard, also when the process
//! is killed (the cluster's one then after 120 seconds, which begin again each time when the guard
//! renews it). A guard that has lost its lock neither renews nor removes that of somebody else.

use std::fs::{self, File, FileTimes, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, UNIX_EPOCH};

use super::files;
use super::wait::until;
use crate::failure::{Failure, Outcome};

/// How long a lock is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// The cluster's lock is renewed so often.
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

/// A lock that all nodes see. It is kept from freeing itself as long as this is there.
#[derive(Debug)]
pub struct ClusterLock {
    held: Box<Held>,
    _keeper: Box<Keeper>,
}

/// The directory that was made to take the lock; whoever has it now may be somebody else.
#[derive(Clone, Debug)]
struct Held {
    directory: PathBuf,
    number: Option<u64>,
}

impl Held {
    fn of(directory: PathBuf) -> Self {
        Self {
            number: number_of(&directory),
            directory,
        }
    }

    fn is_held(&self) -> bool {
        self.number.is_some() && number_of(&self.directory) == self.number
    }

    /// Begins its time again; that of nobody else.
    fn renew(&self) -> io::Result<()> {
        let now_is = UNIX_EPOCH + super::calendar();
        let times = FileTimes::new().set_accessed(now_is).set_modified(now_is);
        let lock = File::open(&self.directory)?;
        if self.number != Some(lock.metadata()?.ino()) {
            return Err(io::Error::other("it has freed itself"));
        }
        lock.set_times(times)
    }
}

/// Renews a lock from time to time, until it is dropped.
#[derive(Debug)]
struct Keeper {
    /// Its end is what the thread waits for.
    alive: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    fn start(held: Held, interval: Duration) -> io::Result<Self> {
        let (alive, end) = mpsc::channel();
        let keep = move || {
            while end.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                // Without quorum it can not be renewed now, and maybe the next time.
                drop(held.renew());
            }
        };
        let thread = thread::Builder::new().name("lock".to_owned()).spawn(keep)?;
        Ok(Self {
            alive: Some(alive),
            thread: Some(thread),
        })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.alive = None;
        // It does not panic, and has nothing to tell.
        drop(self.thread.take().map(JoinHandle::join));
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
            Some(Ok(())) => Self::kept(Held::of(directory), FRESH),
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
    ///
    /// # Errors
    /// When it is there and can not be kept.
    pub fn inherit(locks: &Path, name: &str, number: u64) -> Outcome<Option<Self>> {
        let held = Held::of(locks.join(name));
        let is_it = held.number == Some(number);
        is_it.then(|| Self::kept(held, FRESH)).transpose()
    }

    fn kept(held: Held, interval: Duration) -> Outcome<Self> {
        match Keeper::start(held.clone(), interval) {
            Ok(keeper) => Ok(Self {
                held: Box::new(held),
                _keeper: Box::new(keeper),
            }),
            Err(error) => {
                drop(fs::remove_dir(&held.directory));
                Err(files::failed("keep the lock", &held.directory, &error))
            }
        }
    }

    /// Tells this lock from any other of its name, earlier or later.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        self.held.number
    }

    /// Makes sure, before a change, that it is held, and its time begins again.
    ///
    /// # Errors
    /// When it is held no more: what it was to keep out may be going on.
    pub fn renew(&self) -> Outcome {
        self.held.renew().map_err(|error| {
            Failure::failed(format!(
                "the lock '{}' is held no more ({error}): somebody else may change the cluster, run the \
                 command again",
                self.held.directory.display()
            ))
        })
    }
}

/// The cluster file system gives no number twice.
fn number_of(directory: &Path) -> Option<u64> {
    directory.symlink_metadata().ok().map(|found| found.ino())
}

impl Drop for ClusterLock {
    fn drop(&mut self) {
        // It frees itself when that does not succeed.
        if self.held.is_held() {
            drop(fs::remove_dir(&self.held.directory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes the lock at `path` look old.
    fn age(path: &Path) {
        let old = FileTimes::new()
            .set_accessed(UNIX_EPOCH)
            .set_modified(UNIX_EPOCH);
        File::open(path).unwrap().set_times(old).unwrap();
    }

    fn is_old(path: &Path) -> bool {
        path.metadata().unwrap().mtime() == 0
    }

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
        let path = directory.path().join("x");
        fs::create_dir(&path).unwrap();
        let often = Duration::from_millis(10);
        let lock = ClusterLock::kept(Held::of(path.clone()), often).unwrap();
        for _ in 0..3 {
            age(&path);
            until(PATIENCE, || (!is_old(&path)).then_some(())).expect("it is renewed");
        }
        drop(lock);
        assert!(!path.exists());
        // One that takes its name is its own.
        fs::create_dir(&path).unwrap();
        age(&path);
        let renewed = until(often * 10, || (!is_old(&path)).then_some(()));
        assert_eq!(renewed, None);
    }

    #[test]
    fn the_lock_of_somebody_else_stays() {
        let directory = tempfile::tempdir().unwrap();
        let lock = ClusterLock::take(directory.path(), "x").unwrap();
        lock.renew().unwrap();
        let path = directory.path().join("x");
        // It took too long, and another one has it now.
        fs::rename(&path, directory.path().join("freed")).unwrap();
        let failure = lock.renew().unwrap_err();
        assert!(failure.to_string().contains("is held no more"), "{failure}");
        let other = ClusterLock::take(directory.path(), "x").unwrap();
        age(&path);
        let failure = lock.renew().unwrap_err();
        assert!(failure.to_string().contains("freed itself"), "{failure}");
        assert!(is_old(&path));
        drop(lock);
        assert!(path.exists());
        let number = other.number().unwrap();
        let inherit = |number| ClusterLock::inherit(directory.path(), "x", number);
        assert!(inherit(number + 1).unwrap().is_none());
        assert!(path.exists());
        drop(other);
        assert!(!path.exists());
    }
}
