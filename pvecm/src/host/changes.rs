//! Changes of files, made one after the other, or only looked for.
//!
//! The same steps run in three ways: to see whether anything is to be done, to say what, and to do
//! it. A step that finds everything as it should be does nothing in any of them.
//!
//! Invariant: below `/etc/pve` nothing is written unless the cluster file system is there and takes
//! changes; so nothing lands in the directory beneath the mount.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::files::{self, failed};
use super::wait::now;
use super::{Host, pve};
use crate::failure::{Failure, Outcome};
use crate::tell::announce;
use crate::verb::show;

/// What happens to changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They are counted.
    Look,
    /// They are shown to the user.
    Say,
    /// They are made.
    Make,
}

/// Changes of a node.
#[derive(Debug)]
pub struct Changes<'a> {
    host: &'a Host,
    mode: Mode,
    silent: bool,
    end: Option<Instant>,
    found: Vec<String>,
    warnings: Vec<String>,
}

impl<'a> Changes<'a> {
    /// None yet.
    #[must_use]
    pub fn new(host: &'a Host, mode: Mode, silent: bool) -> Self {
        Self {
            host,
            mode,
            silent,
            end: None,
            found: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// No shared file is written after `end`: a lock that covers the changes frees itself some time
    /// after its owner has stopped, and this node may have been stopped as well.
    #[must_use]
    pub fn before(self, end: Instant) -> Self {
        Self {
            end: Some(end),
            ..self
        }
    }

    /// The node.
    #[must_use]
    pub fn host(&self) -> &'a Host {
        self.host
    }

    /// What was found to be done, a line each.
    #[must_use]
    pub fn found(&self) -> &[String] {
        &self.found
    }

    /// What could not be done but does not stop the rest, for the user to see.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Something that could not be done.
    pub fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }

    /// Tells the user what is going on, if it is going on.
    pub fn progress(&self, text: &str) {
        if self.mode == Mode::Make && !self.silent {
            announce(text);
        }
    }

    /// Something is to be done. Returns whether the caller has to do it now.
    ///
    /// # Errors
    /// When it has to be shown and nobody reads it.
    pub fn due(&mut self, what: impl Into<String>) -> Outcome<bool> {
        let what = what.into();
        if self.mode == Mode::Say {
            show(&format!("{what}\n"))?;
        }
        self.found.push(what);
        Ok(self.mode == Mode::Make)
    }

    /// A file has this content; on the node's own disk also no more permissions than `mode`.
    ///
    /// # Errors
    /// When it can not be read or written.
    pub fn file(&mut self, path: &Path, content: &[u8], mode: u32) -> Outcome {
        if files::read(path)?.is_some_and(|found| found == content) {
            return self.protected(path, mode);
        }
        if self.due(format!("write '{}'", path.display()))? {
            self.put(path, content, mode)?;
        }
        Ok(())
    }

    /// Writes a file at once: for who was told by [`due`](Self::due) to do so.
    ///
    /// # Errors
    /// When it can not be written.
    pub fn put(&self, path: &Path, content: &[u8], mode: u32) -> Outcome {
        self.allowed(path)?;
        files::replace(path, content, mode)
    }

    /// A file, if it is there, has no more permissions than `mode`. The cluster file system sees to
    /// that by itself.
    ///
    /// # Errors
    /// When they can not be changed.
    pub fn protected(&mut self, path: &Path, mode: u32) -> Outcome {
        let Ok(found) = fs::metadata(path) else {
            return Ok(());
        };
        let more = found.mode() & 0o777 & !mode;
        if more == 0 || self.is_shared(path) {
            return Ok(());
        }
        if self.due(format!("set mode {mode:04o} of '{}'", path.display()))? {
            let set = fs::set_permissions(path, Permissions::from_mode(mode));
            set.map_err(|error| failed("set the mode of", path, &error))?;
        }
        Ok(())
    }

    /// A directory is there, with those above it; new ones get this mode.
    ///
    /// # Errors
    /// When it can not be made.
    pub fn directory(&mut self, path: &Path, mode: u32) -> Outcome {
        if path.is_dir() {
            return Ok(());
        }
        let what = format!("make directory '{}'", path.display());
        // Where nothing is made, a later step finds it missing as well.
        if self.found.contains(&what) {
            return Ok(());
        }
        if self.due(what)? {
            self.allowed(path)?;
            let made = fs::DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(path);
            made.map_err(|error| failed("make directory", path, &error))?;
        }
        Ok(())
    }

    /// A symbolic link points to `target`. What was in its place is gone.
    ///
    /// # Errors
    /// When it can not be made.
    pub fn link(&mut self, path: &Path, target: &Path) -> Outcome {
        if fs::read_link(path).is_ok_and(|found| found == target) {
            return Ok(());
        }
        let (shown, to) = (path.display(), target.display());
        if self.due(format!("link '{shown}' to '{to}'"))? {
            let mut beside = path.as_os_str().to_owned();
            beside.push(format!(".tmp.{}", std::process::id()));
            let beside = PathBuf::from(beside);
            files::remove(&beside)?;
            let made = symlink(target, &beside).and_then(|()| fs::rename(&beside, path));
            made.map_err(|error| failed("link", path, &error))?;
        }
        Ok(())
    }

    /// A file is not there.
    ///
    /// # Errors
    /// When it can not be removed.
    pub fn absent(&mut self, path: &Path) -> Outcome {
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed("look at", path, &error)),
            Ok(_) => {}
        }
        if self.due(format!("remove '{}'", path.display()))? {
            self.allowed(path)?;
            files::remove(path)?;
        }
        Ok(())
    }

    /// Stops what would write into the directory beneath the mount.
    fn allowed(&self, path: &Path) -> Outcome {
        if self.is_shared(path) {
            pve::need_quorum(&self.host.paths)
                .map_err(|failure| failure.within(format!("can not write '{}'", path.display())))?;
            if self.end.is_some_and(|end| now() >= end) {
                return Err(Failure::failed(format!(
                    "can not write '{}': this took longer than the cluster's lock lasts; run the \
                     command again",
                    path.display()
                )));
            }
        }
        Ok(())
    }

    fn is_shared(&self, path: &Path) -> bool {
        path.starts_with(self.host.paths.pve(""))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;
    use crate::host::Paths;
    use crate::host::files::PUBLIC;

    #[test]
    fn shared_files_are_written_in_time_only() {
        let dir = TempDir::new().unwrap();
        let host = Host {
            paths: Paths::below(dir.path()),
            name: "n1".parse().unwrap(),
        };
        fs::create_dir_all(host.paths.pve("")).unwrap();
        symlink("nodes/n1", host.paths.pve("local")).unwrap();
        let (shared, own) = (host.paths.pve("a"), host.paths.at("b"));
        let mut late = Changes::new(&host, Mode::Make, true).before(now());
        assert!(late.file(&shared, b"x", PUBLIC).is_err());
        late.file(&own, b"x", PUBLIC).unwrap();
        let end = now() + Duration::from_secs(60);
        let mut early = Changes::new(&host, Mode::Make, true).before(end);
        early.file(&shared, b"x", PUBLIC).unwrap();
        early.file(&shared, b"x", PUBLIC).unwrap();
        assert_eq!(early.found().len(), 1);
        assert!(shared.exists() && own.exists());
    }
}
