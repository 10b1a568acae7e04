//! The `pmxcfs` daemon on a test host.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::statfs::{FUSE_SUPER_MAGIC, statfs};

use crate::lab::{Host, Program, Requirement, missing};
use crate::wait::eventually_ok;

/// The mount answers within this time after the start, on a busy machine too.
pub const MOUNT_DEADLINE: Duration = Duration::from_secs(30);
/// An orderly end takes no longer.
pub const STOP_DEADLINE: Duration = Duration::from_secs(15);
/// Where the daemon mounts on a host.
pub const MOUNT_POINT: &str = "/etc/pve";

/// A running daemon.
#[derive(Debug)]
pub struct Pmxcfs {
    program: Program,
    root: PathBuf,
}

impl Pmxcfs {
    /// Starts the daemon in the foreground, with further arguments, and waits until it serves.
    ///
    /// # Errors
    /// When it ends, or does not serve in time; the text has the end of its log.
    pub fn start(host: &Host, args: &[&str]) -> Result<Self> {
        Self::start_binary(host, &binary()?, args)
    }

    /// The same with another binary.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub fn start_binary(host: &Host, binary: &Path, args: &[&str]) -> Result<Self> {
        let daemon = Self::spawn(host, binary, args)?;
        daemon
            .await_mounted()
            .with_context(|| daemon.program.log_tail())?;
        Ok(daemon)
    }

    /// Starts it without waiting for anything: for daemons that are expected to fail.
    ///
    /// # Errors
    /// When the machine lacks something, or the program cannot be started.
    pub fn spawn(host: &Host, binary: &Path, args: &[&str]) -> Result<Self> {
        if let Some(text) = missing(&[Requirement::Fuse]) {
            bail!("{text}");
        }
        let args: Vec<_> = std::iter::once("-f").chain(args.iter().copied()).collect();
        let program = host.start("pmxcfs", binary, &args)?;
        Ok(Self {
            program,
            root: host.path(MOUNT_POINT),
        })
    }

    /// Waits until the mount answers.
    ///
    /// # Errors
    /// When the daemon ends, or does not answer in time.
    pub fn await_mounted(&self) -> Result<()> {
        let mut ended = None;
        eventually_ok(MOUNT_DEADLINE, "the mount of pmxcfs", || {
            if let Err(error) = self.program.check_running() {
                ended = Some(error);
                return Ok(());
            }
            let kind = statfs(&self.root)
                .context("the mount does not answer")?
                .filesystem_type();
            ensure!(
                kind == FUSE_SUPER_MAGIC,
                "nothing is mounted at {}",
                self.root.display()
            );
            Ok(())
        })?;
        ended.map_or(Ok(()), Err)
    }

    /// The mounted directory, as this process sees it; valid until the host is powered off.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path below the mounted directory.
    #[must_use]
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// The running program: its pid, log and signals.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop(self) -> Result<ExitStatus> {
        self.program.stop(STOP_DEADLINE)
    }

    /// Kills it. The dead mount stays, as on a real node, until the next start takes it away.
    pub fn kill(self) {
        self.program.kill();
    }
}

/// The daemon under test: `PMXCFS_BIN`, or the `pmxcfs` that cargo built beside this program.
///
/// # Errors
/// When there is none.
pub fn binary() -> Result<PathBuf> {
    built("pmxcfs", "PMXCFS_BIN")
}

/// A program under test: the one that the variable names, or the one that cargo built beside this
/// program.
///
/// # Errors
/// When there is none.
pub fn built(name: &str, variable: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(PathBuf::from(path));
    }
    let own = std::env::current_exe()?;
    // Tests are in `deps`, commands one level higher.
    let found = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|p| p.is_file());
    found.with_context(|| {
        format!(
            "no {name} beside {}: run 'cargo build' first, or set {variable}",
            own.display()
        )
    })
}

/// A daemon of another implementation to test together with, named by `PMXCFS_PEER_BIN`. Without
/// it, says on stderr that the test is left out.
#[must_use]
pub fn peer_binary() -> Option<PathBuf> {
    let found = std::env::var_os("PMXCFS_PEER_BIN").map(PathBuf::from);
    if found.is_none() {
        eprintln!("left out: PMXCFS_PEER_BIN names no other daemon to test together with");
    }
    found
}
