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
        below(self.at("etc/pve"), path.as_ref())
    }

    /// The cluster's configuration, as all nodes have it.
    #[must_use]
    pub fn cluster_conf(&self) -> PathBuf {
        self.pve("corosync.conf")
    }

    /// The messaging daemon's directory.
    pub fn corosync(&self, path: impl AsRef<Path>) -> PathBuf {
        below(self.at("etc/corosync"), path.as_ref())
    }

    /// The cluster file system's directory on disk.
    pub fn database(&self, path: impl AsRef<Path>) -> PathBuf {
        below(self.at("var/lib/pve-cluster"), path.as_ref())
    }

    /// Directory of a node's own files in the cluster.
    pub fn node(&self, name: &str, path: impl AsRef<Path>) -> PathBuf {
        below(self.pve("nodes").join(name), path.as_ref())
    }

    /// Root's SSH directory.
    pub fn ssh(&self, path: impl AsRef<Path>) -> PathBuf {
        below(self.at("root/.ssh"), path.as_ref())
    }
}

/// A path below a directory, or the directory itself, without a slash at its end.
fn below(directory: PathBuf, path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() {
        return directory;
    }
    directory.join(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_named_without_a_slash_at_the_end() {
        let paths = Paths::default();
        for (path, text) in [
            (paths.pve(""), "/etc/pve"),
            (paths.pve("priv/lock"), "/etc/pve/priv/lock"),
            (paths.node("n1", ""), "/etc/pve/nodes/n1"),
            (paths.corosync(""), "/etc/corosync"),
            (paths.database(""), "/var/lib/pve-cluster"),
            (paths.ssh(""), "/root/.ssh"),
        ] {
            assert_eq!(path.display().to_string(), text);
        }
    }
}
