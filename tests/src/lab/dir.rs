//! The directory of a lab, on a real disk.
//!
//! Invariant: a directory whose owner lives is locked by it; one that is not locked is rubbish of
//! a killed process, and the next lab removes it. One without the file to lock was kept on purpose.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use nix::fcntl::{Flock, FlockArg};

const PREFIX: &str = "pmxcfs-lab-";
const LOCK: &str = "owner";
/// Set in the environment, it lets directories stay, with the logs and databases of all hosts.
const KEEP: &str = "PMXCFS_LAB_KEEP";

/// A locked directory that is removed with this value.
#[derive(Debug)]
pub(super) struct LabDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl LabDir {
    /// Makes one below `PMXCFS_LAB_DIR`, or `/var/tmp`, which is seldom in memory.
    pub(super) fn new() -> Result<Self> {
        let base = std::env::var_os("PMXCFS_LAB_DIR")
            .map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        sweep(&base);
        Self::below(&base).with_context(|| format!("cannot make a directory in {}", base.display()))
    }

    /// The name that [`sweep`] looks for is given only once the lock is held.
    fn below(base: &Path) -> Result<Self> {
        let fresh = tempfile::Builder::new()
            .prefix(".new-lab-")
            .tempdir_in(base)?;
        let owner = fresh.path().join(LOCK);
        fs::write(&owner, b"")?;
        let lock = lock(&owner)?;
        let name = fresh
            .path()
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let path = base.join(format!("{PREFIX}{}", name.trim_start_matches(".new-lab-")));
        fs::rename(fresh.path(), &path)?;
        drop(fresh);
        Ok(Self { path, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LabDir {
    fn drop(&mut self) {
        if std::env::var_os(KEEP).is_some() {
            eprintln!("kept: {}", self.path.display());
            drop(fs::remove_file(self.path.join(LOCK)));
        } else if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!(
                "cannot remove {}: {error}; please remove it by hand",
                self.path.display()
            );
        }
    }
}

fn lock(path: &Path) -> Result<Flock<File>> {
    let file = File::options().write(true).open(path)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, errno)| anyhow!("{} is locked: {errno}", path.display()))
}

/// Removes what killed processes left. What cannot be removed is left for the next time.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let is_lab = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(PREFIX));
        if is_lab && lock(&entry.path().join(LOCK)).is_ok() {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_without_an_owner_are_swept() {
        let base = tempfile::tempdir().unwrap();
        let kept = LabDir::below(base.path()).unwrap();
        let orphan = base.path().join(format!("{PREFIX}orphan"));
        fs::create_dir(&orphan).unwrap();
        sweep(base.path());
        assert!(orphan.exists());
        fs::write(orphan.join(LOCK), b"").unwrap();
        sweep(base.path());
        assert!(kept.path().exists());
        assert!(!orphan.exists());
        let path = kept.path().to_owned();
        drop(kept);
        assert!(!path.exists());
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
    }
}
