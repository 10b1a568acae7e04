//! The `corosync-lite` daemon.

use std::io::Write as _;
use std::process::{ExitCode, exit};

use corosync_lite::daemon::cli::{self, code};
use corosync_lite::daemon::run;

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(stop) => {
            let written = match stop.code {
                0 => std::io::stdout().write_all(stop.text.as_bytes()),
                _ => std::io::stderr().write_all(stop.text.as_bytes()),
            };
            return written.map_or(code::USAGE, |()| stop.code).into();
        }
    };
    // A thread that still asks for a name must not keep the process.
    exit(run(&cli).into())
}
