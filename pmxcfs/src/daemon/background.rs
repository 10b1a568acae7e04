//! Going to the background: one fork, before any thread exists.
#![expect(unsafe_code, reason = "fork(2) has no safe form")]

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
};

use nix::{
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe, setsid},
};

/// Tells the process that was started in the foreground how it went.
#[derive(Debug)]
pub struct Parent(Option<File>);

impl Parent {
    /// For a daemon that stays in the foreground.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// The daemon serves: the parent may end. Detaches from the terminal.
    ///
    /// # Errors
    /// When `/dev/null` can not be opened.
    pub fn ready(&mut self) -> io::Result<()> {
        let Some(mut pipe) = self.0.take() else {
            return Ok(());
        };
        let null = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        // A parent that was killed meanwhile is no reason to end.
        if let Err(error) = pipe.write_all(b"1") {
            tracing::debug!("nobody waits for the daemon to be ready: {error}");
        }
        dup2_stderr(&null)?;
        Ok(())
    }
}

/// What this process is after the fork.
#[derive(Debug)]
pub enum Side {
    /// The process that was started: to end with this code.
    Parent(u8),
    /// The daemon.
    Daemon(Parent),
}

/// Forks; the parent waits until the daemon is ready or has ended.
///
/// # Errors
/// When no process or pipe can be had.
///
/// # Panics
/// Never: it must be called while the process has one thread, which is asserted.
pub fn detach() -> io::Result<Side> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    assert_eq!(threads, 1, "a fork copies one thread only");
    let (reader, writer) = pipe()?;
    // SAFETY: the process has one thread, so no lock can be held by another one, and the child
    // may use everything that the parent could.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            drop(writer);
            let mut answer = [0];
            let ready = File::from(reader).read_exact(&mut answer).is_ok();
            Ok(Side::Parent(if ready { 0 } else { exit_code(child) }))
        }
        ForkResult::Child => {
            drop(reader);
            setsid()?;
            Ok(Side::Daemon(Parent(Some(File::from(writer)))))
        }
    }
}

fn exit_code(child: Pid) -> u8 {
    match waitpid(child, None) {
        Ok(WaitStatus::Exited(_, code)) => u8::try_from(code).unwrap_or(super::cli::EXIT_FAILURE),
        _ => super::cli::EXIT_FAILURE,
    }
}
