//! SHELL: the number of the last ring, on disk.
//!
//! A ring must never get a number that a ring of this node had before, not even after a power cut.
//! The file is that of Corosync: `ringid_NODE` in the state directory, the number in eight bytes.
//!
//! Invariant: the file holds the old number or the new one, whole; after [`RingStore::store`] has
//! returned, the new one is there after a power cut, too.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::wire::NodeId;

/// Why the number can not be kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such directory, and none can be made.
    #[error("state directory {}: {error}; make it, or name another in system.state_dir", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file can not be read.
    #[error("ring id file {}: {error}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file can not be written.
    #[error(
        "ring id file {}: {error}; without it a ring could get the number of an older one. Is the disk full or read-only?",
        .path.display()
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// The file of one node.
#[derive(Debug)]
pub struct RingStore {
    path: PathBuf,
    directory: File,
}

impl RingStore {
    /// Makes the directory if it is missing, and removes what an interrupted write left.
    ///
    /// # Errors
    /// When there is no directory that can be used.
    pub fn open(directory: &Path, node: NodeId) -> Result<Self, StoreError> {
        let failed = |error| StoreError::Directory {
            path: directory.to_owned(),
            error,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(failed)?;
        let handle = File::open(directory).map_err(failed)?;
        let path = directory.join(format!("ringid_{}", node.0));
        fs::remove_file(temporary(&path)).ok();
        Ok(Self {
            path,
            directory: handle,
        })
    }

    /// The number; 0 when there is none, or half of one, as Corosync has it. In that case it is
    /// written at once: a directory that can not be written is found before it matters.
    ///
    /// # Errors
    /// When the file is there but can not be read, or can not be written.
    pub fn load(&self) -> Result<u64, StoreError> {
        let mut bytes = [0; 8];
        let read = File::open(&self.path).and_then(|mut file| file.read_exact(&mut bytes));
        match read {
            // Writing is tried here too, so that a disk that is read-only does not stop the node
            // in the middle of the forming of a ring.
            Ok(()) => {
                let sequence = u64::from_ne_bytes(bytes);
                self.store(sequence)?;
                Ok(sequence)
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof
                ) =>
            {
                self.store(0)?;
                Ok(0)
            }
            Err(error) => Err(StoreError::Read {
                path: self.path.clone(),
                error,
            }),
        }
    }

    /// Keeps a number.
    ///
    /// # Errors
    /// When it is not on the disk; then it must not be used.
    pub fn store(&self, sequence: u64) -> Result<(), StoreError> {
        let next = temporary(&self.path);
        let write = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&next)?;
            file.write_all(&sequence.to_ne_bytes())?;
            file.sync_data()?;
            fs::rename(&next, &self.path)?;
            self.directory.sync_all()
        };
        write().map_err(|error| StoreError::Write {
            path: self.path.clone(),
            error,
        })
    }
}

fn temporary(path: &Path) -> PathBuf {
    path.with_extension("new")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_number_survives_a_restart_in_the_format_of_corosync() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("state");
        let store = RingStore::open(&directory, NodeId(7)).unwrap();
        assert_eq!(store.load().unwrap(), 0);
        store.store(0x1_0000_0002).unwrap();
        let path = directory.join("ringid_7");
        assert_eq!(fs::read(&path).unwrap(), 0x1_0000_0002_u64.to_ne_bytes());
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let store = RingStore::open(&directory, NodeId(7)).unwrap();
        assert_eq!(store.load().unwrap(), 0x1_0000_0002);
        let other = RingStore::open(&directory, NodeId(8)).unwrap();
        assert_eq!(other.load().unwrap(), 0);
    }

    #[test]
    fn an_interrupted_write_leaves_the_old_number() {
        let root = tempfile::tempdir().unwrap();
        let store = RingStore::open(root.path(), NodeId(1)).unwrap();
        store.store(9).unwrap();
        fs::write(root.path().join("ringid_1.new"), [1, 2]).unwrap();
        let store = RingStore::open(root.path(), NodeId(1)).unwrap();
        assert_eq!(store.load().unwrap(), 9);
        assert!(!root.path().join("ringid_1.new").exists());
    }

    #[test]
    fn half_a_number_counts_as_none() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("ringid_1"), [1, 2]).unwrap();
        let store = RingStore::open(root.path(), NodeId(1)).unwrap();
        assert_eq!(store.load().unwrap(), 0);
        assert_eq!(fs::read(root.path().join("ringid_1")).unwrap(), [0; 8]);
    }

    #[test]
    fn errors_name_the_place_and_the_way_out() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let error = RingStore::open(&file.join("state"), NodeId(1)).unwrap_err();
        assert!(error.to_string().contains("system.state_dir"), "{error}");
        fs::create_dir(root.path().join("ringid_1")).unwrap();
        let store = RingStore::open(root.path(), NodeId(1)).unwrap();
        let error = store.store(1).unwrap_err();
        assert!(error.to_string().contains("ringid_1"), "{error}");
    }
}
