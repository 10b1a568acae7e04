//! The command line: what may be said, and who does it.
//!
//! | module | owns |
//! |---|---|
//! | `args` | what each command takes |
//! | `words` | spellings of users of the original, and of older versions of it |
//! | `usage` | what is said about calls that are wrong, and help |

mod args;
#[cfg(test)]
mod tests;
mod usage;
mod words;

use clap::Parser as _;
use clap::error::ErrorKind;

pub use args::*;

use self::usage::Fault;
use self::words::Words;
use crate::failure::{Outcome, code};
use crate::host::Host;
use crate::verb;

/// A command line that was understood.
#[derive(Debug)]
pub struct Parsed {
    /// What is to be done.
    pub cli: Cli,
    /// What the user should write instead.
    pub warnings: Vec<String>,
}

/// Nothing is to be done but to say something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Exit code.
    pub code: u8,
    /// For standard output if the code is 0, else for standard error.
    pub text: String,
}

impl Stop {
    fn usage(text: impl Into<String>) -> Self {
        let (code, text) = (code::USAGE, text.into());
        Self { code, text }
    }

    fn answer(text: impl Into<String>) -> Self {
        let (code, text) = (code::OK, text.into());
        Self { code, text }
    }
}

/// Reads a command line, without the name of the program.
///
/// # Errors
/// When it asks for help, or is wrong.
pub fn parse(args: &[String]) -> Result<Parsed, Stop> {
    let all = usage::built();
    let Some((word, given)) = args.split_first() else {
        let list = usage::list(&all);
        return Err(Stop::usage(format!("ERROR: no command specified\n{list}")));
    };
    match word.as_str() {
        "help" => return Err(help(&all, given)),
        "-h" | "--help" => return Err(Stop::answer(usage::list(&all))),
        "-V" | "--version" => return Err(Stop::answer(all.render_version())),
        _ => {}
    }
    let Some(command) = usage::command_of(&all, word) else {
        let list = usage::list(&all);
        return Err(Stop::usage(format!(
            "ERROR: unknown command 'pvecm {word}'\n{list}"
        )));
    };
    let words = Words::read(command, given).map_err(|reason| {
        let text = usage::complaint("400 unable to parse option", &[], command);
        Stop::usage(format!("{reason}\n{text}"))
    })?;
    let warnings = words.warnings.clone();
    let cli = understand(command, words)?;
    Ok(Parsed { cli, warnings })
}

/// Gives the words to the parser, again without each option that it finds wrong, so that all of
/// them are told at once.
fn understand(command: &clap::Command, mut words: Words) -> Result<Cli, Stop> {
    let mut faults = Vec::new();
    let name = command.get_name();
    loop {
        let spelt = words.spelt_out();
        let line = ["pvecm", name]
            .into_iter()
            .chain(spelt.iter().map(String::as_str));
        let error = match Cli::try_parse_from(line) {
            Ok(cli) if faults.is_empty() => return Ok(cli),
            Ok(_) => break,
            Err(error) => error,
        };
        if matches!(
            error.kind(),
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
        ) {
            return Err(Stop::answer(error.to_string()));
        }
        match usage::fault_of(&error, command) {
            Fault::Other(text) if faults.is_empty() => {
                return Err(Stop::usage(usage::complaint(&text, &[], command)));
            }
            Fault::Other(_) => break,
            Fault::Value { name, reason } => {
                faults.push(format!("{name}: {reason}"));
                if !words.remove(&name) {
                    break;
                }
            }
        }
    }
    let first = "400 Parameter verification failed.";
    Err(Stop::usage(usage::complaint(first, &faults, command)))
}

/// `help [COMMAND] [--verbose]`.
fn help(all: &clap::Command, given: &[String]) -> Stop {
    let is_option = |word: &&String| word.starts_with('-');
    let verbose = given.iter().filter(is_option).any(|word| {
        let name = word.trim_start_matches('-');
        !name.is_empty() && "verbose".starts_with(name)
    });
    let mut names = given.iter().filter(|word| !is_option(word));
    let Some(word) = names.next() else {
        let mut text = usage::list(all);
        if verbose {
            for command in all.get_subcommands() {
                text += &format!("\n{}", command.clone().render_long_help());
            }
        }
        return Stop::answer(text);
    };
    match usage::command_of(all, word) {
        Some(command) if verbose => Stop::answer(command.clone().render_long_help().to_string()),
        Some(command) => {
            let lines = usage::lines(command).join("\n       ");
            let help = command.clone().render_help();
            Stop::answer(format!("USAGE: {lines}\n\n{help}"))
        }
        None => Stop::usage(format!(
            "ERROR: unknown command 'pvecm {word}'\n{}",
            usage::list(all)
        )),
    }
}

/// Does what a command line says.
///
/// # Errors
/// What the user is to be told, with the exit code.
pub fn run(cli: &Cli) -> Outcome {
    match &cli.command {
        Command::Add(args) => verb::add::run(&Host::this()?, args),
        Command::Status(args) => verb::status::run(&Host::this()?, *args),
        Command::Quorum(args) => verb::quorum::run(&Host::this()?, args),
        Command::Nodes(args) => verb::nodes::run(&Host::this()?, *args),
        Command::Expected(args) => verb::expected::run(&Host::this()?, args),
        Command::Doctor(args) => verb::doctor::run(&Host::this()?, *args),
        Command::Readd(args) => verb::readd::run(&Host::this()?, args),
        Command::Certs(args) => verb::certs::run(&Host::this()?, args),
        Command::Apiver => verb::apiver(),
        Command::Keygen(args) => verb::keygen::run(args),
        Command::Updatecerts(args) => verb::updatecerts::run(&Host::this()?, args),
        Command::JoinInfo(args) => verb::join_info::run(&Host::this()?, args),
        Command::Serve(args) => verb::serve::run(&Host::this()?, args),
        Command::Token(args) => verb::token::run(&Host::this()?, args),
        Command::Mtunnel(args) => verb::mtunnel::run(&Host::this()?, args),
        Command::Nextid(args) => verb::nextid::run(&Host::this()?, args),
        Command::WaitQuorum(args) => verb::wait_quorum::run(&Host::this()?, args),
        Command::Create(args) => verb::create::run(&Host::this()?, args),
        Command::Leave(args) => verb::leave::run(&Host::this()?, args),
        Command::Undo(args) => verb::undo::run(&Host::this()?, *args),
        Command::Link(args) => verb::link::run(&Host::this()?, args),
        Command::Node(args) => verb::node::run(&Host::this()?, args),
        Command::Addnode(args) => verb::addnode::run(&Host::this()?, args),
        Command::Delnode(args) => verb::delnode::run(&Host::this()?, args),
    }
}
