//! SHELL: what a node has to remember, on disk.
//!
//! A ring must never get a number that a ring of this node had before, as long as somebody remembers
//! that ring. The files are those of Corosync: `ringid_NODE` in the state directory has the number in eight
//! bytes; `ev_tracking` has the most votes ever expected, where they are tracked, in four.
//!
//! Invariant: a file holds the old number or the new one, whole; after [`StateStore::store_ring`] has
//! returned, every later process on this host reads the new one.
//!
//! Nothing waits for the disk, as in Corosync: a ring that is being formed would, and a disk that is
//! busy with what others wrote can take most of a minute. What a power cut takes away is a number
//! that nobody needs any more: who went on without this node has a higher one, which it learns when
//! it joins them, and all messages of the old ring were lost with the token.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::proto::node::Stored;
use crate::proto::srp::RING_SEQ_LIMIT;
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
    #[error("state file {}: {error}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file can not be written.
    #[error(
        "state file {}: {error}; without it a ring could get the number of an older one. Is the disk full or read-only?",
        .path.display()
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// The files of one node.
#[derive(Debug)]
pub struct StateStore {
    ring: PathBuf,
    votes: PathBuf,
}

impl StateStore {
    /// Makes the directory if it is missing; nothing in it is touched.
    ///
    /// # Errors
    /// When there is none and none can be made.
    pub fn make_directory(directory: &Path) -> Result<(), StoreError> {
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory);
        made.map_err(|error| StoreError::Directory {
            path: directory.to_owned(),
            error,
        })
    }

    /// Makes the directory if it is missing, and removes what an interrupted write left. Nobody
    /// else may use the directory meanwhile.
    ///
    /// # Errors
    /// When there is no directory that can be used.
    pub fn open(directory: &Path, node: NodeId) -> Result<Self, StoreError> {
        Self::make_directory(directory)?;
        let this = Self {
            ring: directory.join(format!("ringid_{}", node.0)),
            votes: directory.join("ev_tracking"),
        };
        for path in [&this.ring, &this.votes] {
            fs::remove_file(temporary(path)).ok();
        }
        Ok(this)
    }

    /// What an earlier life of the node has left; a ring id that is missing or cut short counts
    /// as 0, as Corosync has it, and so does one that no ring can have had: with it the node would
    /// never find into a ring again.
    ///
    /// The ring id is written again, so that a disk that can not be written is found at the start
    /// and not in the middle of the forming of a ring.
    ///
    /// # Errors
    /// When a file is there but can not be read, or can not be written.
    pub fn load(&self) -> Result<Stored, StoreError> {
        let ring_seq = read(&self.ring)?
            .map(u64::from_ne_bytes)
            .filter(|seq| *seq < RING_SEQ_LIMIT)
            .unwrap_or(0);
        self.store_ring(ring_seq)?;
        Ok(Stored {
            ring_seq,
            expected_votes: read(&self.votes)?.map(u32::from_ne_bytes),
        })
    }

    /// Keeps the number of a ring.
    ///
    /// # Errors
    /// When it could not be written; then it must not be used.
    pub fn store_ring(&self, sequence: u64) -> Result<(), StoreError> {
        Self::write(&self.ring, &sequence.to_ne_bytes())
    }

    /// Keeps the most votes that were ever expected.
    ///
    /// # Errors
    /// When they could not be written.
    pub fn store_expected_votes(&self, votes: u32) -> Result<(), StoreError> {
        Self::write(&self.votes, &votes.to_ne_bytes())
    }

    fn write(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let next = temporary(path);
        let write = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&next)?;
            file.write_all(bytes)?;
            fs::rename(&next, path)
        };
        write().map_err(|error| StoreError::Write {
            path: path.to_owned(),
            error,
        })
    }
}

/// The bytes of a file, if it has as many.
fn read<const N: usize>(path: &Path) -> Result<Option<[u8; N]>, StoreError> {
    let mut bytes = [0; N];
    match File::open(path).and_then(|mut file| file.read_exact(&mut bytes)) {
        Ok(()) => Ok(Some(bytes)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(StoreError::Read {
            path: path.to_owned(),
            error,
        }),
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
        let store = StateStore::open(&directory, NodeId(7)).unwrap();
        assert_eq!(store.load().unwrap().ring_seq, 0);
        store.store_ring(0x1_0000_0002).unwrap();
        let path = directory.join("ringid_7");
        assert_eq!(fs::read(&path).unwrap(), 0x1_0000_0002_u64.to_ne_bytes());
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let store = StateStore::open(&directory, NodeId(7)).unwrap();
        assert_eq!(store.load().unwrap().ring_seq, 0x1_0000_0002);
        store.store_expected_votes(5).unwrap();
        assert_eq!(store.load().unwrap().expected_votes, Some(5));
        let other = StateStore::open(&directory, NodeId(8)).unwrap();
        assert_eq!(other.load().unwrap().ring_seq, 0);
    }

    #[test]
    fn an_interrupted_write_leaves_the_old_number() {
        let root = tempfile::tempdir().unwrap();
        let store = StateStore::open(root.path(), NodeId(1)).unwrap();
        store.store_ring(9).unwrap();
        fs::write(root.path().join("ringid_1.new"), [1, 2]).unwrap();
        let store = StateStore::open(root.path(), NodeId(1)).unwrap();
        assert_eq!(store.load().unwrap().ring_seq, 9);
        assert!(!root.path().join("ringid_1.new").exists());
    }

    #[test]
    fn half_a_number_counts_as_none() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("ringid_1"), [1, 2]).unwrap();
        let store = StateStore::open(root.path(), NodeId(1)).unwrap();
        assert_eq!(store.load().unwrap().ring_seq, 0);
        assert_eq!(fs::read(root.path().join("ringid_1")).unwrap(), [0; 8]);
    }

    #[test]
    fn a_damaged_number_counts_as_none() {
        let root = tempfile::tempdir().unwrap();
        let store = StateStore::open(root.path(), NodeId(1)).unwrap();
        for damaged in [u64::MAX, RING_SEQ_LIMIT] {
            store.store_ring(damaged).unwrap();
            assert_eq!(store.load().unwrap().ring_seq, 0);
        }
        store.store_ring(RING_SEQ_LIMIT - 1).unwrap();
        assert_eq!(store.load().unwrap().ring_seq, RING_SEQ_LIMIT - 1);
    }

    #[test]
    fn errors_name_the_place_and_the_way_out() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let error = StateStore::open(&file.join("state"), NodeId(1)).unwrap_err();
        assert!(error.to_string().contains("system.state_dir"), "{error}");
        fs::create_dir(root.path().join("ringid_1")).unwrap();
        let store = StateStore::open(root.path(), NodeId(1)).unwrap();
        let error = store.store_ring(1).unwrap_err();
        assert!(error.to_string().contains("ringid_1"), "{error}");
    }
}
