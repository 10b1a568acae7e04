//! Where a node keeps what the command reads and changes.

use std::path::{Path, PathBuf};

/// Paths of a node, below one root directory: `/`, or a directory of a test.
#[derive(Clone, Debug)]
pub struct Paths {
    root: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self::below("/")
    }
}

impl Paths {
    /// All paths below `root`.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Any other path of the node, given from `/`.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The cluster's files: `/etc/pve` and below.
    pub fn pve(&self, path: impl AsRef<Path>) -> PathBuf {
        self.at("etc/pve").join(path)
    }

    /// The cluster's configuration, as all nodes have it.
    #[must_use]
    pub fn cluster_conf(&self) -> PathBuf {
        self.pve("corosync.conf")
    }

    /// The messaging daemon's directory.
    pub fn corosync(&self, path: impl AsRef<Path>) -> PathBuf {
        self.at("etc/corosync").join(path)
    }

    /// The cluster file system's directory on disk.
    pub fn database(&self, path: impl AsRef<Path>) -> PathBuf {
        self.at("var/lib/pve-cluster").join(path)
    }

    /// Directory of a node's own files in the cluster.
    pub fn node(&self, name: &str, path: impl AsRef<Path>) -> PathBuf {
        self.pve("nodes").join(name).join(path)
    }

    /// Root's SSH directory.
    pub fn ssh(&self, path: impl AsRef<Path>) -> PathBuf {
        self.at("root/.ssh").join(path)
    }
}
