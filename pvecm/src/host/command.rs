//! Other programs that a node has.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use crate::failure::{Failure, Outcome};

/// Where programs are looked for, whatever the caller's environment says.
pub const PATH: &str = "/sbin:/bin:/usr/sbin:/usr/bin";

/// A command line that is about to run.
#[derive(Debug)]
pub struct Program {
    command: Command,
    shown: String,
}

/// Makes a command line. Its input is empty.
pub fn program<I: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = I>) -> Program {
    let mut command = Command::new(name);
    command.env("PATH", PATH).stdin(Stdio::null());
    let mut shown = name.to_owned();
    for arg in args {
        shown.push(' ');
        shown.push_str(&arg.as_ref().to_string_lossy());
        command.arg(arg);
    }
    Program { command, shown }
}

impl Program {
    /// Keeps it out of reach of the terminal: Ctrl-C there does not end it.
    #[must_use]
    pub fn apart(mut self) -> Self {
        self.command.process_group(0);
        self
    }

    /// Runs it to its end and returns what it wrote.
    ///
    /// # Errors
    /// When it can not be started, or fails: then with what it said.
    pub fn output(mut self) -> Outcome<String> {
        let output = self.command.output();
        let output = output.map_err(|error| Failure::failed(format!("{self}: {error}")))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Failure::failed(format!(
            "{self}: {}: {said}",
            output.status
        )))
    }

    /// Starts it; what it writes goes where this program's errors go.
    ///
    /// # Errors
    /// When it can not be started.
    pub fn spawn(mut self) -> Outcome<Child> {
        let spawned = self.command.stdout(std::io::stderr()).spawn();
        spawned.map_err(|error| Failure::failed(format!("{self}: {error}")))
    }

    /// Starts it for good: it goes on when this program has ended, and nobody sees what it writes.
    ///
    /// # Errors
    /// When it can not be started.
    pub fn detach(mut self) -> Outcome {
        let silent = self.command.stdout(Stdio::null()).stderr(Stdio::null());
        let spawned = silent.current_dir("/").process_group(0).spawn();
        let spawned = spawned.map(drop);
        spawned.map_err(|error| Failure::failed(format!("{self}: {error}")))
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}'", self.shown)
    }
}
