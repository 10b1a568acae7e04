//! A directory under test, and the daemon behind it.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail};

use crate::process::Usage;

/// Files that the reading operations find.
pub(super) const READ_FILES: u32 = 16;
/// Size of each of them.
pub(super) const READ_SIZE: usize = 4096;
/// Entries of the directory that is listed.
pub(super) const LIST_ENTRIES: u32 = 100;

/// A target as given on the command line: `NAME=DIR[:PID]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetSpec {
    /// Column head in the report.
    pub name: String,
    /// Existing directory.
    pub dir: PathBuf,
    /// The daemon that serves it, when its cost is to be measured.
    pub pid: Option<u32>,
}

impl FromStr for TargetSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some((name, rest)) = text.split_once('=') else {
            bail!("'{text}' is not NAME=DIR or NAME=DIR:PID");
        };
        let (dir, pid) = match rest.rsplit_once(':').map(|(dir, pid)| (dir, pid.parse())) {
            Some((dir, Ok(pid))) => (dir, Some(pid)),
            _ => (rest, None),
        };
        if name.is_empty() || dir.is_empty() {
            bail!("'{text}' is not NAME=DIR or NAME=DIR:PID");
        }
        Ok(Self {
            name: name.to_owned(),
            dir: PathBuf::from(dir),
            pid,
        })
    }
}

/// A prepared target. Dropping it removes what the benchmark made there.
#[derive(Debug)]
pub struct Target {
    name: String,
    work: PathBuf,
    pid: Option<u32>,
}

impl Target {
    /// Makes the work directory with the files that the reading operations need.
    ///
    /// # Errors
    /// When the directory cannot be written, or the daemon's counters cannot be read.
    pub fn prepare(spec: &TargetSpec) -> Result<Self> {
        let work = spec.dir.join(format!("bench-{}", std::process::id()));
        fs::create_dir(&work).with_context(|| format!("cannot make {}", work.display()))?;
        let target = Self {
            name: spec.name.clone(),
            work,
            pid: spec.pid,
        };
        target.fill()?;
        target.usage()?;
        Ok(target)
    }

    fn fill(&self) -> Result<()> {
        for dir in ["read", "list", "write"] {
            fs::create_dir(self.work.join(dir))?;
        }
        for i in 0..READ_FILES {
            fs::write(self.work.join(format!("read/{i}")), vec![b'x'; READ_SIZE])?;
        }
        for i in 0..LIST_ENTRIES {
            fs::write(self.work.join(format!("list/{i}")), b"")?;
        }
        Ok(())
    }

    /// Name given on the command line.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the daemon behind it is known.
    #[must_use]
    pub fn has_daemon(&self) -> bool {
        self.pid.is_some()
    }

    /// Directory in which the operations work.
    pub(super) fn work(&self) -> &Path {
        &self.work
    }

    /// What the daemon has used so far; zeros when no pid was given.
    pub(super) fn usage(&self) -> Result<Usage> {
        self.pid.map_or_else(|| Ok(Usage::default()), Usage::of)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.work) {
            eprintln!(
                "cannot remove {}: {error}; please remove it by hand",
                self.work.display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_are_parsed() {
        let spec: TargetSpec = "ours=/etc/pve:12".parse().unwrap();
        assert_eq!((spec.name.as_str(), spec.pid), ("ours", Some(12)));
        assert_eq!(spec.dir, Path::new("/etc/pve"));
        let spec: TargetSpec = "b=/tmp/a:b".parse().unwrap();
        assert_eq!(
            (spec.dir.as_path(), spec.pid),
            (Path::new("/tmp/a:b"), None)
        );
        assert!("/etc/pve".parse::<TargetSpec>().is_err());
        assert!("=/etc/pve".parse::<TargetSpec>().is_err());
    }
}
