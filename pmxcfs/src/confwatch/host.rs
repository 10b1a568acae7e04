//! The host's own `corosync.conf`, kept up to the one in the tree.

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, fchown, geteuid, mkstemp};

use super::version::config_version;

/// Name of the file in the root of the tree.
pub const TREE_NAME: &str = "corosync.conf";

/// Where Corosync reads it.
pub const HOST_FILE: &str = "/etc/corosync/corosync.conf";

/// What became of the host's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The tree's file is empty, a file being written for instance: nothing done.
    Empty,
    /// The tree's file has no version above 0: nothing done.
    NoVersion,
    /// The host has the same bytes.
    Unchanged,
    /// The host has a higher version, and keeps it.
    HostNewer {
        /// In the tree.
        tree: u64,
        /// On the host.
        host: u64,
    },
    /// The host's file was replaced.
    Written {
        /// The new version.
        version: u64,
        /// The one before; 0 if there was no file or none in it.
        before: u64,
    },
}

impl Outcome {
    /// Whether Corosync has to read its file again, if this node is the one to say so. Without a
    /// version before, Corosync could not have been running with the file.
    #[must_use]
    pub fn wants_reload(self) -> bool {
        matches!(self, Self::Written { before: 1.., .. })
    }
}

/// The host's file could not be written; it is as before.
#[derive(Debug, thiserror::Error)]
#[error(
    "unable to write {path}, Corosync keeps its old configuration: {doing}: {source}; make the folder writable and write the file in the cluster again"
)]
pub struct SyncError {
    /// The host's file.
    path: PathBuf,
    doing: &'static str,
    source: io::Error,
}

/// Brings the host's file at `host_path` up to `tree_content`, if the tree's version is not
/// lower. The file is written to disk before it gets its name, which survives a crash too.
///
/// # Errors
/// When writing fails; the old file is in place then.
pub fn sync_host_file(tree_content: &[u8], host_path: &Path) -> Result<Outcome, SyncError> {
    if tree_content.is_empty() {
        return Ok(Outcome::Empty);
    }
    let Some(version) = config_version(tree_content).filter(|version| *version > 0) else {
        return Ok(Outcome::NoVersion);
    };
    // A file that is missing or can not be read counts as one without a version.
    let host_content = fs::read(host_path).unwrap_or_default();
    if host_content == tree_content {
        return Ok(Outcome::Unchanged);
    }
    let before = config_version(&host_content).unwrap_or(0);
    if version < before {
        return Ok(Outcome::HostNewer {
            tree: version,
            host: before,
        });
    }
    replace(host_path, tree_content).map_err(|(doing, source)| SyncError {
        path: host_path.to_owned(),
        doing,
        source,
    })?;
    Ok(Outcome::Written { version, before })
}

type Failure = (&'static str, io::Error);

fn replace(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let mut template = path.as_os_str().to_owned();
    template.push(".XXXXXX");
    let (fd, temporary) = mkstemp(Path::new(&template))
        .map_err(|errno| ("creating a temporary file beside it", errno.into()))?;
    let result = fill(File::from(fd), content)
        .and_then(|()| fs::rename(&temporary, path).map_err(|error| ("renaming", error)));
    if result.is_err() {
        // What failed is reported; a left-over file harms nobody.
        drop(fs::remove_file(&temporary));
        return result;
    }
    let sync = || File::open(folder)?.sync_all();
    sync().map_err(|error| ("syncing its folder", error))
}

fn fill(mut file: File, content: &[u8]) -> Result<(), Failure> {
    file.write_all(content)
        .map_err(|error| ("writing", error))?;
    if geteuid().is_root() {
        let root = (Some(Uid::from_raw(0)), Some(Gid::from_raw(0)));
        fchown(&file, root.0, root.1).map_err(|errno| ("setting its owner", errno.into()))?;
    }
    file.set_permissions(Permissions::from_mode(0o644))
        .map_err(|error| ("setting its mode", error))?;
    file.sync_all().map_err(|error| ("syncing", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new(host: Option<&str>) -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            if let Some(text) = host {
                fs::write(folder.file(), text).unwrap();
            }
            folder
        }

        fn file(&self) -> PathBuf {
            self.0.path().join("corosync.conf")
        }

        /// Syncs; nothing but the file itself may be in the folder afterwards.
        fn sync(&self, tree: &str) -> (Outcome, Option<String>) {
            let outcome = sync_host_file(tree.as_bytes(), &self.file()).unwrap();
            let names: Vec<_> = fs::read_dir(&self.0)
                .unwrap()
                .map(|e| e.unwrap().file_name())
                .collect();
            assert!(
                names.iter().all(|name| name == "corosync.conf"),
                "{names:?}"
            );
            (outcome, fs::read_to_string(self.file()).ok())
        }
    }

    const V3: &str = "totem {\n config_version: 3\n}\n";
    const V3B: &str = "totem {\n config_version: 3\n token: 1\n}\n";
    const V4: &str = "totem {\n config_version: 4\n}\n";

    fn kept(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn nothing_usable_in_the_tree_changes_nothing() {
        let folder = Folder::new(Some(V3));
        assert_eq!(folder.sync(""), (Outcome::Empty, kept(V3)));
        assert_eq!(folder.sync("totem {\n}\n"), (Outcome::NoVersion, kept(V3)));
        assert_eq!(
            folder.sync("config_version: 0"),
            (Outcome::NoVersion, kept(V3))
        );
    }

    #[test]
    fn equal_bytes_are_left_alone() {
        let folder = Folder::new(Some(V3));
        let before = fs::metadata(folder.file()).unwrap().modified().unwrap();
        assert_eq!(folder.sync(V3), (Outcome::Unchanged, kept(V3)));
        assert_eq!(
            fs::metadata(folder.file()).unwrap().modified().unwrap(),
            before
        );
    }

    #[test]
    fn an_older_tree_does_not_win() {
        let folder = Folder::new(Some(V4));
        assert_eq!(
            folder.sync(V3),
            (Outcome::HostNewer { tree: 3, host: 4 }, kept(V4))
        );
    }

    #[test]
    fn a_newer_or_equal_version_is_written_and_reloaded() {
        let folder = Folder::new(Some(V3));
        for (text, version) in [(V3B, 3), (V4, 4)] {
            let (outcome, host) = folder.sync(text);
            assert_eq!(
                (outcome, host),
                (Outcome::Written { version, before: 3 }, kept(text))
            );
            assert!(outcome.wants_reload());
        }
        let mode = fs::metadata(folder.file()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o644);
    }

    #[test]
    fn a_first_file_needs_no_reload() {
        for host in [None, Some(""), Some("totem {\n}\n")] {
            let (outcome, text) = Folder::new(host).sync(V3);
            assert_eq!(
                (outcome, text),
                (
                    Outcome::Written {
                        version: 3,
                        before: 0
                    },
                    kept(V3)
                )
            );
            assert!(!outcome.wants_reload());
        }
    }

    #[test]
    fn failure_names_the_file_and_leaves_nothing_behind() {
        let folder = Folder::new(None);
        let path = folder.0.path().join("missing/corosync.conf");
        let error = sync_host_file(V3.as_bytes(), &path)
            .unwrap_err()
            .to_string();
        assert!(error.contains("missing/corosync.conf"), "{error}");
        // A folder in the file's place: creating works, renaming does not.
        fs::create_dir(folder.file()).unwrap();
        assert!(sync_host_file(V3.as_bytes(), &folder.file()).is_err());
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1);
    }
}
