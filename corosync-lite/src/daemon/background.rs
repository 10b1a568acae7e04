//! Going to the background: one fork, before any thread exists. All daemons of this workspace do it
//! in this way.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, pipe, setsid};

use super::sys;

/// Tells the process that was started how it went.
#[derive(Debug)]
pub struct Parent(Option<File>);

impl Parent {
    /// For a daemon that stays in the foreground.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// The daemon serves: the parent may end. Lets go of the terminal.
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
        dup2_stderr(&null)?;
        // A parent that was killed meanwhile is no reason to end.
        pipe.write_all(b"1").ok();
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

/// Forks; the parent waits until the daemon is ready or has ended. Its exit code is then 0, or the
/// daemon's; `failed` if that has none.
///
/// # Errors
/// When no process or pipe can be had.
///
/// # Panics
/// When the process has more than one thread.
pub fn detach(failed: u8) -> io::Result<Side> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    assert_eq!(threads, 1, "a fork copies one thread only");
    let (reader, writer) = pipe()?;
    match sys::fork()? {
        Some(child) => {
            drop(writer);
            let ready = File::from(reader).read_exact(&mut [0]).is_ok();
            Ok(Side::Parent(if ready {
                0
            } else {
                exit_code(child).unwrap_or(failed)
            }))
        }
        None => {
            drop(reader);
            setsid()?;
            Ok(Side::Daemon(Parent(Some(File::from(writer)))))
        }
    }
}

fn exit_code(child: Pid) -> Option<u8> {
    match waitpid(child, None) {
        Ok(WaitStatus::Exited(_, code)) => u8::try_from(code).ok(),
        _ => None,
    }
}
