//! The `pmxcfs` daemon.

use std::{
    io::Write as _,
    process::{ExitCode, exit},
};

use corosync_lite::daemon::background::{self, Parent, Side};
use pmxcfs::daemon::{
    cli::{self, Cli, EXIT_FAILURE},
    logging, run,
};

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(stop) => {
            let written = match stop.code {
                0 => std::io::stdout().write_all(stop.text.as_bytes()),
                _ => std::io::stderr().write_all(stop.text.as_bytes()),
            };
            return if written.is_ok() {
                stop.code.into()
            } else {
                EXIT_FAILURE.into()
            };
        }
    };
    let parent = if cli.foreground {
        Parent::none()
    } else {
        match background::detach(EXIT_FAILURE) {
            Ok(Side::Parent(code)) => return code.into(),
            Ok(Side::Daemon(parent)) => parent,
            Err(error) => {
                eprintln!("pmxcfs: unable to go to the background: {error}");
                return EXIT_FAILURE.into();
            }
        }
    };
    let code = serve(&cli, parent);
    // Threads that wait for the kernel or for other nodes must not keep the process: everything
    // that has to be stored is stored by now.
    exit(i32::from(code))
}

fn serve(cli: &Cli, parent: Parent) -> u8 {
    let log = match logging::start(cli.foreground, cli.debug) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("pmxcfs: unable to start logging: {error}");
            return EXIT_FAILURE;
        }
    };
    match run(cli, log, parent) {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!("{error:#}");
            EXIT_FAILURE
        }
    }
}
