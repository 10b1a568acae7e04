//! Mounting, unmounting, and noticing that somebody else unmounted.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    mount::{MntFlags, MsFlags, umount2},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};
use thiserror::Error;

use super::{
    adapter::{self, Adapter},
    blocking::Blocking,
    device::{self, Device, Received},
    notify::{Forgetter, Kernel},
    protocol::{Call, InitIn, Request},
    serve,
};
use crate::fs::Fs;

const MOUNTS: &str = "/proc/self/mountinfo";

/// Fewest threads that serve: one that is held up, one that leads, one that watches it.
const THREADS_MIN: usize = 3;

/// Smallest buffer that the kernel accepts; its first request is shorter.
const FIRST_BYTES: usize = 8192;

/// How long an orderly end waits for changes under way to be answered.
const ANSWER_GRACE: Duration = Duration::from_millis(700);

/// How long an end waits for the workers once the connection is gone.
const WORKER_GRACE: Duration = Duration::from_millis(500);

/// Stacked dead mounts that are cleared.
const STALE_MOUNTS_MAX: usize = 16;

/// Names of files that an error about a mountpoint tells.
const NAMES_TOLD: usize = 10;

/// How to mount.
#[derive(Clone, Debug)]
pub struct MountConfig {
    /// Where.
    pub mountpoint: PathBuf,
    /// Threads that serve requests, at least three. One of them is at work unless it is held up.
    pub threads: usize,
}

impl MountConfig {
    /// Defaults for a mountpoint.
    #[must_use]
    pub fn new(mountpoint: impl Into<PathBuf>) -> Self {
        Self {
            mountpoint: mountpoint.into(),
            threads: 4,
        }
    }
}

/// Why there is no mount.
#[derive(Debug, Error)]
pub enum MountError {
    /// Files would be hidden.
    #[error(
        "{} is not empty ({}): move these files away, the mount would hide them",
        .path.display(),
        list(.names)
    )]
    NotEmpty {
        /// The mountpoint.
        path: PathBuf,
        /// Some names in it.
        names: Vec<OsString>,
    },
    /// A system call failed.
    #[error("can not {what} {}: {error}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

impl MountError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |error| Self::Io { what, path, error }
    }
}

/// How far a session is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Serving,
    /// Asked to end.
    Stopping,
    /// No worker is left.
    Ended,
}

#[derive(Debug, Default)]
struct Life {
    phase: Mutex<Phase>,
    changed: Condvar,
}

impl Life {
    fn lock(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A mounted file system; unmounted when dropped.
#[derive(Debug)]
pub struct Session {
    mountpoint: PathBuf,
    /// Device number in the mount table, `major:minor`.
    device: String,
    life: Arc<Life>,
    blocking: Blocking,
    forgetter: Forgetter,
    workers: Option<JoinHandle<()>>,
    watcher: Option<JoinHandle<()>>,
    stop_watching: Arc<EventFd>,
}

/// Mounts a file system.
///
/// `on_loss` is called once, from a thread of the session, if the mount ends without
/// [`Session::unmount`]: somebody unmounted it, or the kernel ended the connection.
///
/// # Errors
/// See [`MountError`].
pub fn mount(
    config: &MountConfig,
    fs: Arc<Fs>,
    on_loss: impl FnOnce() + Send + 'static,
) -> Result<Session, MountError> {
    // As the mount table has it. Found out now: later, looking at it asks ourselves.
    let path = config.mountpoint.canonicalize();
    let path = &path.map_err(MountError::io("find", &config.mountpoint))?;
    refuse_nonempty(path)?;
    let device = Device::open().map_err(MountError::io("open", Path::new(device::PATH)))?;
    mount_device(path, &device)?;
    let started = serve(config, path, fs, device, on_loss);
    if started.is_err()
        && let Err(error) = umount2(path, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH)
    {
        tracing::warn!(%error, path = %path.display(), "can not undo the mount");
    }
    started.map_err(MountError::io("serve", path))
}

/// Removes what a daemon that died left mounted. Live mounts are left alone.
///
/// # Errors
/// When the kernel does not unmount.
pub fn clear_stale_mount(path: &Path) -> io::Result<()> {
    for _ in 0..STALE_MOUNTS_MAX {
        match nix::sys::statfs::statfs(path) {
            Err(nix::Error::ENOTCONN | nix::Error::ECONNABORTED) => {}
            _ => return Ok(()),
        }
        if umount2(path, MntFlags::MNT_FORCE).is_err() {
            // Somebody has a file open there, or works in it.
            umount2(path, MntFlags::MNT_DETACH)?;
        }
    }
    Ok(())
}

impl Session {
    /// Whether it ended, asked for or not.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        *self.life.lock() == Phase::Ended
    }

    /// Unmounts, also while the mount is in use, and ends all threads.
    ///
    /// Changes under way are given a moment to be answered. What was written to open files and
    /// not published is lost, and their users get errors.
    pub fn unmount(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(workers) = self.workers.take() else {
            return;
        };
        {
            let mut phase = self.life.lock();
            if *phase == Phase::Serving {
                *phase = Phase::Stopping;
            }
        }
        if !self.blocking.wait_idle(ANSWER_GRACE) {
            tracing::warn!("changes are still under way at the end");
        }
        // The connection first, so that nobody waits for an answer that will not come, then the
        // mount, whoever uses it.
        while is_mounted(&self.mountpoint, &self.device) {
            let flags = MntFlags::MNT_FORCE | MntFlags::MNT_DETACH;
            if let Err(error) = umount2(&self.mountpoint, flags) {
                let path = self.mountpoint.display();
                tracing::error!(%error, %path, "can not unmount");
                break;
            }
        }
        if let Err(error) = self.stop_watching.write(1) {
            tracing::error!(%error, "can not stop watching the mount table");
        }
        let phase = self.life.lock();
        let waited = self
            .life
            .changed
            .wait_timeout_while(phase, WORKER_GRACE, |phase| *phase != Phase::Ended);
        let ended = *waited.unwrap_or_else(PoisonError::into_inner).0 == Phase::Ended;
        if !ended {
            // A mount in another name space, or a call that does not come back. They end with
            // the process.
            tracing::warn!("workers of the mount are still busy");
            return;
        }
        self.forgetter.stop();
        for thread in [Some(workers), self.watcher.take()].into_iter().flatten() {
            if thread.join().is_err() {
                tracing::error!("a thread of the mount panicked");
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end();
    }
}

fn refuse_nonempty(path: &Path) -> Result<(), MountError> {
    let names = fs::read_dir(path).map_err(MountError::io("read", path))?;
    let names: Vec<_> = names
        .flatten()
        .take(NAMES_TOLD)
        .map(|entry| entry.file_name())
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    let path = path.to_path_buf();
    Err(MountError::NotEmpty { path, names })
}

fn mount_device(path: &Path, device: &Device) -> Result<(), MountError> {
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
        device.raw_fd()
    );
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    nix::mount::mount(
        Some(device::PATH),
        path,
        Some("fuse"),
        flags,
        Some(options.as_str()),
    )
    .map_err(|error| MountError::io("mount on", path)(error.into()))
}

fn serve(
    config: &MountConfig,
    mountpoint: &Path,
    fs: Arc<Fs>,
    device: Device,
    on_loss: impl FnOnce() + Send + 'static,
) -> io::Result<Session> {
    let device = Arc::new(device);
    let blocking = Blocking::default();
    let init = first_request(&device)?;
    let kernel = Kernel {
        device: Arc::clone(&device),
        has_epoch: adapter::has_epoch(&init.1),
    };
    let adapter = Adapter::new(Arc::clone(&fs), blocking.clone(), Arc::clone(&device), init)
        .map_err(io::Error::other)?;
    let life = Arc::new(Life::default());
    let on_loss = OnLoss::new(on_loss);
    let threads = config.threads.max(THREADS_MIN);
    let serve = move || serve::run(adapter, device, threads);
    let workers = run_workers(serve, &life, &on_loss)?;
    let forgetter = Forgetter::start(&fs, kernel)?;
    let stop_watching = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?);
    let mut session = Session {
        mountpoint: mountpoint.to_path_buf(),
        device: device_of(mountpoint)?,
        life,
        blocking,
        forgetter,
        workers: Some(workers),
        watcher: None,
        stop_watching,
    };
    session.watcher = Some(watch_mounts(&session, on_loss)?);
    Ok(session)
}

/// Waits for the kernel's first request, which says what it can do.
fn first_request(device: &Device) -> io::Result<(u64, InitIn)> {
    let mut buffer = [0; FIRST_BYTES];
    loop {
        match device.receive(&mut buffer)? {
            Received::Nothing => device.wait()?,
            Received::End => return Err(io::ErrorKind::NotConnected.into()),
            Received::Request(len) => {
                let request = Request::decode(&buffer[..len]);
                if let Some(Request {
                    unique,
                    call: Call::Init(init),
                    ..
                }) = request
                {
                    return Ok((unique, init));
                }
                return Err(io::Error::other(
                    "the kernel did not begin with its version",
                ));
            }
        }
    }
}

type LossCall = Box<dyn FnOnce() + Send>;

/// Calls back once, whoever notices first.
#[derive(Clone)]
struct OnLoss(Arc<Mutex<Option<LossCall>>>);

impl OnLoss {
    fn new(call: impl FnOnce() + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::new(call)))))
    }

    fn lost(&self) {
        let call = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(call) = call {
            call();
        }
    }
}

fn run_workers(
    serve: impl FnOnce() -> io::Result<()> + Send + 'static,
    life: &Arc<Life>,
    on_loss: &OnLoss,
) -> io::Result<JoinHandle<()>> {
    let (life, on_loss) = (Arc::clone(life), on_loss.clone());
    thread::Builder::new()
        .name("pmxcfs-mount".to_owned())
        .spawn(move || {
            if let Err(error) = serve() {
                tracing::error!(%error, "the connection to the kernel failed");
            }
            let before = std::mem::replace(&mut *life.lock(), Phase::Ended);
            life.changed.notify_all();
            if before == Phase::Serving {
                on_loss.lost();
            }
        })
}

/// Notices a lazy unmount, after which the connection goes on as long as somebody uses it.
fn watch_mounts(session: &Session, on_loss: OnLoss) -> io::Result<JoinHandle<()>> {
    let table = File::open(MOUNTS)?;
    let stop = Arc::clone(&session.stop_watching);
    let life = Arc::clone(&session.life);
    let (path, device) = (session.mountpoint.clone(), session.device.clone());
    thread::Builder::new()
        .name("pmxcfs-mounts".to_owned())
        .spawn(move || {
            loop {
                let mut fds = [
                    PollFd::new(table.as_fd(), PollFlags::POLLPRI),
                    PollFd::new(stop.as_fd(), PollFlags::POLLIN),
                ];
                match poll(&mut fds, PollTimeout::NONE) {
                    Ok(_) | Err(nix::Error::EINTR) => {}
                    Err(error) => {
                        tracing::error!(%error, "can not watch the mount table");
                        return;
                    }
                }
                let stopped = fds[1].any().unwrap_or(true);
                if stopped || *life.lock() != Phase::Serving {
                    return;
                }
                if !is_mounted(&path, &device) && *life.lock() == Phase::Serving {
                    on_loss.lost();
                    return;
                }
            }
        })
}

/// Device number of what is mounted on top at a path, as the mount table has it.
fn device_of(path: &Path) -> io::Result<String> {
    let mounts = mounts()?;
    let found = mounts.into_iter().rev().find(|(at, _)| at == path);
    let (_, device) = found.ok_or(io::ErrorKind::NotFound)?;
    Ok(device)
}

/// Whether that device is mounted at a path.
fn is_mounted(path: &Path, device: &str) -> bool {
    let mounts = mounts().unwrap_or_default();
    mounts
        .iter()
        .any(|(at, mounted)| at == path && mounted == device)
}

/// Mountpoint and device number of all mounts.
fn mounts() -> io::Result<Vec<(PathBuf, String)>> {
    let table = fs::read(MOUNTS)?;
    let lines = table.split(|byte| *byte == b'\n');
    let mounts = lines.filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ').skip(2);
        let device = String::from_utf8(fields.next()?.to_vec()).ok()?;
        let at = unescape(fields.nth(1)?);
        Some((at, device))
    });
    Ok(mounts.collect())
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).filter(|_| *first == b'\\');
        let byte = octal.and_then(|octal| {
            let octal = std::str::from_utf8(octal).ok()?;
            u8::from_str_radix(octal, 8).ok()
        });
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[3..] } else { tail };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn list(names: &[OsString]) -> String {
    let names: Vec<_> = names.iter().map(|name| name.to_string_lossy()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mountpoint_with_files_is_refused_and_they_are_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(refuse_nonempty(dir.path()).is_ok());
        fs::write(dir.path().join("hidden.cfg"), "x").unwrap();
        let error = refuse_nonempty(dir.path()).unwrap_err().to_string();
        assert!(error.contains("hidden.cfg"), "{error}");
    }

    #[test]
    fn escaped_paths_of_the_mount_table_are_read() {
        assert_eq!(unescape(br"/a\040b\134c"), PathBuf::from(r"/a b\c"));
        assert_eq!(unescape(br"/a\04"), PathBuf::from(r"/a\04"));
    }

    #[test]
    fn a_live_directory_is_no_stale_mount() {
        let dir = tempfile::tempdir().unwrap();
        clear_stale_mount(dir.path()).unwrap();
        assert!(dir.path().exists());
    }
}
