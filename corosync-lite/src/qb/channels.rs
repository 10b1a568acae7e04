//! Directory, files and ownership of one connection's three rings.
//!
//! Each connection has a directory of its own below `/dev/shm`. The client owns directory and
//! files, so it can rename, shorten or replace any of them: after the welcome nothing here goes
//! through a path that the client controls, but the last `rmdir`, which removes an empty directory
//! at most.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, getpid, mkdtemp, unlinkat};

use super::connection::Credentials;
use super::ring::{Ring, paths};
use super::wire;

/// The three rings of a connection. Dropping it removes their files.
#[derive(Debug)]
pub(super) struct Channels {
    pub(super) request: Ring,
    pub(super) response: Ring,
    pub(super) event: Ring,
    directory: Directory,
    service: String,
}

impl Channels {
    /// Makes everything that the client opens once it has read the welcome.
    ///
    /// # Errors
    /// When files can not be made or given to the client; nothing stays behind then.
    pub(super) fn create(
        root: &Path,
        service: &str,
        client: &Credentials,
        stream: BorrowedFd<'_>,
        max_message: u32,
    ) -> io::Result<Self> {
        let name = format!(
            "qb-{}-{}-{}-XXXXXX",
            getpid(),
            client.pid,
            stream.as_raw_fd()
        );
        let directory = Directory::create(&root.join(name), service)?;
        let ring = |kind: &str| {
            Ring::create(
                &directory.path.join(format!("qb-{kind}-{service}")),
                max_message,
            )
        };
        let (request, response, event) = (ring("request")?, ring("response")?, ring("event")?);
        directory.give_to(client)?;
        Ok(Self {
            request,
            response,
            event,
            directory,
            service: service.to_owned(),
        })
    }

    /// What tells the client where its channels are.
    pub(super) fn welcome(&self, connection: u64, max_message: u32) -> wire::Welcome {
        let path = |kind: &str| {
            let path = self
                .directory
                .path
                .join(format!("qb-{kind}-{}", self.service));
            path.to_string_lossy().into_owned()
        };
        wire::Welcome::Accepted(wire::Channels {
            kind: wire::ChannelKind::SharedMemory,
            max_message,
            connection,
            request: path("request"),
            response: path("response"),
            event: path("event"),
        })
    }
}

/// Removes what a server of process `pid`, which is gone, left below `root`.
///
/// Returns the number of connections whose files were removed.
///
/// # Errors
/// When `root` can not be read. Directories that can not be removed are left.
pub fn remove_leftovers(root: &Path, pid: i32) -> io::Result<usize> {
    let prefix = format!("qb-{pid}-");
    let mut removed = 0;
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let ours = entry.file_name().to_string_lossy().starts_with(&prefix);
        if !ours || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let Ok(directory) = Directory::open(&entry.path()) else {
            continue;
        };
        drop(directory);
        removed += usize::from(!entry.path().exists());
    }
    Ok(removed)
}

/// A directory with the files of rings. Dropping it removes it.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    handle: File,
    files: Vec<PathBuf>,
}

impl Directory {
    fn create(template: &Path, service: &str) -> io::Result<Self> {
        let path = mkdtemp(template)?;
        let handle = File::open(&path).inspect_err(|_| {
            // Descriptors may be used up.
            fs::remove_dir(&path).ok();
        })?;
        let bases = ["request", "response", "event"].map(|kind| format!("qb-{kind}-{service}"));
        let files = bases
            .iter()
            .flat_map(|base| <[PathBuf; 2]>::from(paths(Path::new(base))));
        Ok(Self {
            path,
            handle,
            files: files.collect(),
        })
    }

    /// Takes over a directory that another process made. Its owner may replace it meanwhile, so
    /// links are not followed.
    fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY;
        let handle = File::options()
            .read(true)
            .custom_flags(flags.bits())
            .open(path)?;
        let is_ring = |name: &PathBuf| name.to_string_lossy().starts_with("qb-");
        let names = fs::read_dir(path)?.filter_map(|entry| Some(entry.ok()?.file_name().into()));
        let files = names.filter(is_ring).collect();
        Ok(Self {
            path: path.to_owned(),
            handle,
            files,
        })
    }

    /// Hands the files to the client, the directory last: from then on it is the client's.
    fn give_to(&self, client: &Credentials) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(client.uid), Gid::from_raw(client.gid));
        for name in &self.files {
            let file = File::options().write(true).open(self.path.join(name))?;
            fchown(&file, Some(uid), Some(gid))?;
        }
        self.handle.set_permissions(Permissions::from_mode(0o770))?;
        Ok(fchown(&self.handle, Some(uid), Some(gid))?)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What is gone already, or replaced by something that can not be removed so, may stay.
        for name in &self.files {
            unlinkat(self.handle.as_fd(), name, UnlinkatFlags::NoRemoveDir).ok();
        }
        fs::remove_dir(&self.path).ok();
    }
}
