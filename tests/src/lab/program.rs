//! A program that runs on a host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::eventually;

/// Lines of the log that are shown when something fails.
const TAIL: usize = 40;

/// A running program with a log of its output. Dropping it kills it; if the test is failing, the
/// end of its log is shown.
#[derive(Debug)]
pub struct Program {
    name: String,
    log: PathBuf,
    pid: u32,
    process: Arc<Process>,
}

/// The child process, shared with the host, which waits for it at a power cut.
#[derive(Debug)]
pub(super) struct Process {
    child: Mutex<Child>,
}

impl Process {
    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills it, if it still runs, and waits for its end.
    pub(super) fn end(&self) -> Option<ExitStatus> {
        let mut child = self.child();
        // An error means that it has ended already; the wait tells how.
        drop(child.kill());
        child.wait().ok()
    }
}

impl Program {
    pub(super) fn new(name: String, log: PathBuf, child: Child) -> (Self, Arc<Process>) {
        let pid = child.id();
        let process = Arc::new(Process {
            child: Mutex::new(child),
        });
        (
            Self {
                name,
                log,
                pid,
                process: Arc::clone(&process),
            },
            process,
        )
    }

    /// Its number, as the machine sees it; on the host it has another.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn exit_status(&self) -> Result<Option<ExitStatus>> {
        Ok(self.process.child().try_wait()?)
    }

    /// Fails, with the end of the log, when the program has ended.
    ///
    /// # Errors
    /// When it has ended.
    pub fn check_running(&self) -> Result<()> {
        match self.exit_status()? {
            None => Ok(()),
            Some(status) => bail!("{} ended: {status}\n{}", self.name, self.log_tail()),
        }
    }

    /// Asks it to end (SIGTERM) and waits for that.
    ///
    /// # Errors
    /// When it still runs after `deadline`; it is then killed.
    pub fn stop(&self, deadline: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(deadline)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `deadline`; it is then killed.
    pub fn wait(&self, deadline: Duration) -> Result<ExitStatus> {
        let mut status = None;
        let ended = eventually(deadline, "end of a program", || {
            status = self.exit_status().ok().flatten();
            status.is_some()
        });
        if let (Ok(()), Some(status)) = (ended, status) {
            return Ok(status);
        }
        let tail = self.log_tail();
        self.process.end();
        bail!(
            "{} did not end within {deadline:?}; it was killed\n{tail}",
            self.name
        )
    }

    /// Kills it (SIGKILL) and waits for its end.
    pub fn kill(&self) {
        self.process.end();
    }

    /// Stops its execution (SIGSTOP) until [`thaw`](Self::thaw).
    ///
    /// # Errors
    /// When it has ended.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Continues its execution.
    ///
    /// # Errors
    /// When it has ended.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Sends any signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.check_running()?;
        let pid = i32::try_from(self.pid)?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// File with all that it printed, of this and earlier starts on this host.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Text of that file.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The last lines of that file, below a line that names the program.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL)..];
        format!(
            "--- {}, last lines of its log:\n{}",
            self.name,
            tail.join("\n")
        )
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        self.process.end();
    }
}
