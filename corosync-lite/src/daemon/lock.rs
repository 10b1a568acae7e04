//! One daemon per host: the lock is on the file that holds the process id, as Corosync has it, so
//! that either keeps the other from starting. And one daemon per state directory, wherever the
//! process ids are kept: two would use the same numbers of rings.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// In the state directory; it stays there.
const STATE_LOCK: &str = "corosync-lite.lock";

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error(
        "Another Corosync instance is already running (process {holder}, lock file {}); stop it first",
        .path.display()
    )]
    Running {
        /// Its process id.
        holder: i32,
        /// The file.
        path: PathBuf,
    },
    /// The file can not be used.
    #[error("lock file {} can not be used: {error}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// The lock, held until it is dropped.
#[derive(Debug)]
pub struct InstanceLock {
    /// To be removed at the end.
    path: Option<PathBuf>,
    /// Closing it gives the lock back.
    _file: File,
    before: Option<i32>,
}

impl InstanceLock {
    /// Takes the lock of the host and writes the process id to its file, which is removed at the
    /// end. Locks are not inherited: after a fork only.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        let mut lock = Self::take(path)?;
        lock.path = Some(path.to_owned());
        Ok(lock)
    }

    /// Takes the lock of a state directory, in the same way; its file stays.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn of_state(directory: &Path) -> Result<Self, LockError> {
        Self::take(&directory.join(STATE_LOCK))
    }

    fn take(path: &Path) -> Result<Self, LockError> {
        let failed = |error: io::Error| LockError::File {
            path: path.to_owned(),
            error,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o640)
            .open(path)
            .map_err(failed)?;
        match fcntl(&file, FcntlArg::F_SETLK(&whole())) {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => {
                let mut found = whole();
                let asked = fcntl(&file, FcntlArg::F_GETLK(&mut found));
                return Err(LockError::Running {
                    holder: asked.map_or(0, |_| found.l_pid),
                    path: path.to_owned(),
                });
            }
            Err(error) => return Err(failed(error.into())),
        }
        let mut left = String::new();
        // A file that holds anything else tells nothing.
        (&mut file).take(32).read_to_string(&mut left).ok();
        let text = format!("{}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(text.as_bytes()))
            .map_err(failed)?;
        Ok(Self {
            path: None,
            _file: file,
            before: left.trim().parse().ok(),
        })
    }

    /// The process that had the lock before and did not end in order, if there was one.
    pub fn predecessor(&self) -> Option<i32> {
        self.before
    }
}

impl Drop for InstanceLock {
    fn drop(&mut self) {
        // A file that stays behind does no harm: the lock is gone with the process.
        if let Some(path) = &self.path {
            fs::remove_file(path).ok();
        }
    }
}

/// A write lock on the whole file.
#[expect(
    clippy::cast_possible_truncation,
    reason = "constants that fit their fields"
)]
fn whole() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_names_the_process_while_it_runs() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("pid");
        fs::write(&path, "123456789\n").unwrap();
        let lock = InstanceLock::acquire(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
        assert_eq!(lock.predecessor(), Some(123_456_789));
        drop(lock);
        assert!(!path.exists());
    }

    #[test]
    fn the_lock_of_a_state_directory_stays_in_it() {
        let root = tempfile::tempdir().unwrap();
        let lock = InstanceLock::of_state(root.path()).unwrap();
        drop(lock);
        let again = InstanceLock::of_state(root.path()).unwrap();
        assert!(again.predecessor().is_some());
        assert!(root.path().join(STATE_LOCK).exists());
    }

    #[test]
    fn a_place_that_can_not_be_written_is_named() {
        let error = InstanceLock::acquire(Path::new("/nonexistent/pid")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/pid"));
    }
}
