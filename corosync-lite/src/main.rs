//! The `corosync-lite` daemon.

use std::io::Write as _;
use std::process::{ExitCode, exit};

use corosync_lite::daemon::cli::{self, Command, code};
use corosync_lite::daemon::run;
use corosync_lite::status;

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
    if let Some(Command::Status { json }) = cli.command {
        return show_status(json).into();
    }
    // A thread that still asks for a name must not keep the process.
    exit(run(&cli).into())
}

fn show_status(json: bool) -> u8 {
    let status = match status::ask() {
        Ok(status) => status,
        Err(error) => {
            eprintln!("corosync-lite: {error}");
            return code::USAGE;
        }
    };
    let text = if json {
        serde_json::to_string_pretty(&status).map(|text| text + "\n")
    } else {
        Ok(status.to_string())
    };
    let written = text.map_err(std::io::Error::from);
    match written.and_then(|text| std::io::stdout().write_all(text.as_bytes())) {
        Ok(()) if status.quorum.quorate => 0,
        Ok(()) => code::NO_QUORUM,
        // Nobody reads it any more.
        Err(_) => code::USAGE,
    }
}
