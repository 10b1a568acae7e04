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
        Command::Status(args) => verb::status::run(&Host::this()?, *args),
        Command::Nodes(args) => verb::nodes::run(&Host::this()?, *args),
        Command::Expected(args) => verb::expected::run(&Host::this()?, args),
        Command::Doctor(args) => verb::doctor::run(&Host::this()?, *args),
        Command::Apiver => verb::apiver(),
        Command::Keygen(args) => verb::keygen::run(args),
        _ => Err(crate::failure::Failure::usage("not here yet")),
    }
}
