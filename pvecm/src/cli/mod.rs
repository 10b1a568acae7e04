//! The command line: what may be said, and who does it.

mod args;

pub use args::*;

use crate::failure::Outcome;
use crate::host::Host;
use crate::verb;

/// Does what a command line says.
///
/// # Errors
/// What the user is to be told, with the exit code.
pub fn run(cli: &Cli) -> Outcome {
    match &cli.command {
        Command::Add(args) => verb::add::run(&Host::this()?, args),
        Command::Apiver => verb::apiver(),
        Command::Keygen(args) => verb::keygen::run(args),
        Command::Updatecerts(args) => verb::updatecerts::run(&Host::this()?, args),
        Command::JoinInfo(args) => verb::join_info::run(&Host::this()?, args),
        Command::Serve(args) => verb::serve::run(&Host::this()?, args),
        Command::Token(args) => verb::token::run(&Host::this()?, args),
        Command::Mtunnel(args) => verb::mtunnel::run(&Host::this()?, args),
        Command::Nextid(args) => verb::nextid::run(&Host::this()?, args),
        Command::WaitQuorum(args) => verb::wait_quorum::run(&Host::this()?, args),
        _ => Err(crate::failure::Failure::usage("not here yet")),
    }
}
