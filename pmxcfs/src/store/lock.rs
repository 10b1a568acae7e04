//! One daemon for one database: the lock file.
//!
//! The lock is a `flock` on a file of its own, as all implementations take it. Its content is for
//! people and messages: the process id of the holder.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Seek, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::mpsc::{RecvTimeoutError, sync_channel},
    thread,
    time::Duration,
};

use nix::sys::stat::{major, minor};
use thiserror::Error;

/// Why the lock was not taken.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another daemon has it.
    #[error(
        "'{}' is locked{}: another daemon uses this database; stop it first",
        .path.display(), by(*.holder)
    )]
    Held {
        /// The lock file.
        path: PathBuf,
        /// Process that has it, where that can be told.
        holder: Option<u32>,
    },
    /// The file could not be used.
    #[error("cannot lock '{}'", .path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn by(holder: Option<u32>) -> String {
    holder.map_or_else(String::new, |pid| format!(" by process {pid}"))
}

/// The lock, held until this is dropped.
///
/// A child process inherits it: it is released when the last of them is gone, and dropping this
/// in one of them takes it from no other. (Hence nothing unlocks, files are only closed.)
#[derive(Debug)]
pub struct InstanceLock {
    file: File,
    path: PathBuf,
}

impl InstanceLock {
    /// Name of the lock file, in the folder of the database.
    pub const FILE: &str = ".pmxcfs.lockfile";

    /// Takes the lock, if need be as soon as its holder ends within `patience`.
    ///
    /// `waiting` is called once before a wait, with the holder, to tell the user.
    ///
    /// # Errors
    /// [`LockError::Held`] when the time is over.
    pub fn acquire(
        dir: &Path,
        patience: Duration,
        waiting: impl FnOnce(Option<u32>),
    ) -> Result<Self, LockError> {
        let path = dir.join(Self::FILE);
        let io = |path: &Path, source| LockError::Io {
            path: path.to_path_buf(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| io(&path, source))?;
        let file = match file.try_lock() {
            Ok(()) => file,
            Err(TryLockError::Error(source)) => return Err(io(&path, source)),
            Err(TryLockError::WouldBlock) => {
                waiting(holder(&path));
                wait_for(file, patience)
                    .map_err(|source| io(&path, source))?
                    .ok_or_else(|| LockError::Held {
                        holder: holder(&path),
                        path: path.clone(),
                    })?
            }
        };
        let mut lock = Self { file, path };
        lock.record_pid()?;
        Ok(lock)
    }

    /// Writes the own process id into the file; again after a fork.
    ///
    /// # Errors
    /// [`LockError::Io`].
    pub fn record_pid(&mut self) -> Result<(), LockError> {
        let text = format!("{}\n", std::process::id());
        self.write(text.as_bytes()).map_err(|source| LockError::Io {
            path: self.path.clone(),
            source,
        })
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(text)
    }
}

/// Waits for the lock in a thread that blocks on it, so that it is taken at once when it is free.
///
/// A wait that was given up ends when the lock comes free, and gives it back at once.
fn wait_for(file: File, patience: Duration) -> io::Result<Option<File>> {
    let (sender, receiver) = sync_channel(0);
    thread::Builder::new()
        .name("instance-lock".into())
        .spawn(move || {
            let result = loop {
                match file.lock() {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => break Err(error),
                    Ok(()) => break Ok(file),
                }
            };
            // Nobody waits any more if this fails: the lock is dropped with the message.
            drop(sender.send(result));
        })?;
    match receiver.recv_timeout(patience) {
        Ok(result) => result.map(Some),
        Err(RecvTimeoutError::Timeout) => Ok(None),
        Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the waiting thread ended")),
    }
}

/// The process that has the lock: as the kernel knows it, else as the file says.
///
/// The kernel names the process that took it, which may have left it to a child and ended.
fn holder(path: &Path) -> Option<u32> {
    let is_alive = |pid: &u32| Path::new("/proc").join(pid.to_string()).exists();
    let recorded = || fs::read_to_string(path).ok()?.trim().parse().ok();
    holder_in_kernel(path)
        .filter(is_alive)
        .or_else(|| recorded().filter(is_alive))
}

fn holder_in_kernel(path: &Path) -> Option<u32> {
    let meta = fs::metadata(path).ok()?;
    let (dev, inode) = (meta.dev(), meta.ino());
    let id = format!("{:02x}:{:02x}:{inode}", major(dev), minor(dev));
    // 1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF
    fs::read_to_string("/proc/locks")
        .ok()?
        .lines()
        .find_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            let is_flock = words.next() == Some("FLOCK");
            let mut words = words.skip(2);
            let pid = words.next()?.parse().ok()?;
            (is_flock && words.next() == Some(&id)).then_some(pid)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_instance_is_told_who_holds_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let lock = InstanceLock::acquire(dir.path(), Duration::ZERO, |_| {}).unwrap();
        let mut told = None;
        let error = InstanceLock::acquire(dir.path(), Duration::from_millis(1), |pid| told = pid);
        let pid = std::process::id();
        assert_eq!(told, Some(pid));
        let Err(error) = error else {
            panic!("locked twice");
        };
        assert!(error.to_string().contains(&format!("process {pid}")));
        let mode = fs::metadata(dir.path().join(InstanceLock::FILE)).unwrap();
        assert_eq!(mode.mode() & 0o777, 0o600);
        drop(lock);
        // The wait that was given up may hold the lock for a moment before it gives it back.
        InstanceLock::acquire(dir.path(), Duration::from_secs(10), |_| {}).unwrap();
    }

    #[test]
    fn the_lock_is_taken_as_soon_as_it_is_released() {
        let dir = tempfile::tempdir().unwrap();
        let lock = InstanceLock::acquire(dir.path(), Duration::ZERO, |_| {}).unwrap();
        let mut lock = Some(lock);
        InstanceLock::acquire(dir.path(), Duration::from_secs(60), |_| drop(lock.take())).unwrap();
    }

    #[test]
    fn a_stale_pid_is_not_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "4194305\n").unwrap();
        assert_eq!(holder(&path), None);
        fs::write(&path, "garbage").unwrap();
        assert_eq!(holder(&path), None);
        assert_eq!(holder(Path::new("/nonexistent")), None);
    }
}
