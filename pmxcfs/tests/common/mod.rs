//! A file system on a real mount, over a backend in memory. Needs root and `/dev/fuse`.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "helpers of tests, of which each test program uses its own part"
)]

use std::{
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use pmxcfs::{
    fs::{
        Fs, FsConfig,
        testing::{FixedStatus, MemBackend},
    },
    fuse::{MountConfig, Session, mount},
    memdb::Op,
};

/// Group of all entries in these tests.
pub const GID: u32 = 33;

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A mounted file system, unmounted on drop, also when a test panics.
pub struct Mounted {
    pub backend: Arc<MemBackend>,
    pub status: Arc<FixedStatus>,
    pub losses: Arc<AtomicU32>,
    pub session: Option<Session>,
    pub dir: Option<tempfile::TempDir>,
}

impl Mounted {
    pub fn new() -> Self {
        Self::with_threads(4)
    }

    pub fn with_threads(threads: usize) -> Self {
        require_mounts();
        let backend = MemBackend::new();
        let status = Arc::new(FixedStatus::default());
        let fs = Arc::new(Fs::new(FsConfig {
            backend: backend.clone(),
            status: status.clone(),
            node: "n1".to_owned(),
            gid: GID,
            clock: now,
        }));
        backend.observe(&fs);
        let dir = tempfile::tempdir().unwrap();
        let mut config = MountConfig::new(dir.path());
        config.threads = threads;
        let losses = Arc::new(AtomicU32::new(0));
        let lost = Arc::clone(&losses);
        let on_loss = move || {
            lost.fetch_add(1, Ordering::SeqCst);
        };
        let session = mount(&config, fs, on_loss).unwrap();
        Self {
            backend,
            status,
            losses,
            session: Some(session),
            dir: Some(dir),
        }
    }

    pub fn root(&self) -> &Path {
        self.dir.as_ref().unwrap().path()
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root().join(name)
    }

    /// Runs a shell script in the root of the mount and expects success.
    pub fn sh(&self, script: &str) -> String {
        let output = self.try_sh(script);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{script}\n{}\n{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    pub fn try_sh(&self, script: &str) -> Output {
        Command::new("bash")
            .args(["-c", script])
            .current_dir(self.root())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// What own operations wrote to a file since the log was taken last.
    pub fn writes_of(&self, name: &str) -> Vec<Bytes> {
        let log = self.backend.take_log();
        let writes = log.into_iter().filter_map(|op| match op {
            Op::Write { path, data, .. } if path.as_ref() == name.as_bytes() => Some(data),
            _ => None,
        });
        writes.collect()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.backend.unblock();
        drop(self.session.take());
        let Some(dir) = self.dir.take() else {
            return;
        };
        let kept = dir.keep();
        if let Err(error) = fs::remove_dir(&kept) {
            eprintln!("{}: {error}", kept.display());
        }
    }
}

/// Fails with what is missing for a real mount.
pub fn require_mounts() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test mounts a file system: run it as root"
    );
    assert!(
        Path::new("/dev/fuse").exists(),
        "this test mounts a file system: /dev/fuse is missing (modprobe fuse)"
    );
}

pub fn bytes(path: impl AsRef<Path>) -> Bytes {
    Bytes::copy_from_slice(path.as_ref().as_os_str().as_bytes())
}

/// Waits for a condition that no event tells of.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = clock();
    while !condition() {
        assert!(
            start.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}"
        );
        let nothing = &mut [];
        nix::poll::poll(nothing, 1u8).unwrap();
    }
}

#[expect(clippy::disallowed_methods, reason = "the clock of these tests")]
pub fn clock() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "the clock of these tests")]
fn now() -> u32 {
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    u32::try_from(since.as_secs()).unwrap()
}
