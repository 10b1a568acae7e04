//! How commands are called, and what is said about calls that are wrong: in the original's words.

use clap::error::{ContextKind, ErrorKind};
use clap::{Command, CommandFactory as _, Error};

use super::Cli;

/// Commands in the order of the list: what makes a cluster, what a node does, what goes beyond the
/// original.
const GROUPS: [&[&str]; 3] = [
    &["addnode", "apiver", "create", "delnode"],
    &[
        "add",
        "expected",
        "keygen",
        "mtunnel",
        "nodes",
        "status",
        "updatecerts",
    ],
    &[
        "certs",
        "doctor",
        "join-info",
        "leave",
        "link",
        "nextid",
        "node",
        "quorum",
        "readd",
        "serve",
        "token",
        "undo",
        "wait-quorum",
    ],
];
const HELP: &str = "       pvecm help [<extra-args>] [OPTIONS]\n";

/// All commands, complete: the parser adds some things only when it runs.
pub(super) fn built() -> Command {
    let mut all = Cli::command();
    all.build();
    all
}

/// The command that a word means: its name, or a beginning that only one has. What the original
/// has comes before what goes beyond it, so that short forms keep their meaning.
pub(super) fn command_of<'a>(all: &'a Command, word: &str) -> Option<&'a Command> {
    if let Some(exact) = all.find_subcommand(word) {
        return Some(exact);
    }
    let original: Vec<&str> = GROUPS.iter().take(2).copied().flatten().copied().collect();
    let every: Vec<&str> = all.get_subcommands().map(Command::get_name).collect();
    for names in [original, every] {
        let mut fitting = names.into_iter().filter(|name| name.starts_with(word));
        if let (Some(name), None) = (fitting.next(), fitting.next()) {
            return all.find_subcommand(name);
        }
    }
    None
}

/// The list of commands.
pub(super) fn list(all: &Command) -> String {
    let mut text = "USAGE: pvecm <COMMAND> [ARGS] [OPTIONS]\n\n".to_owned();
    for group in GROUPS {
        for command in group.iter().filter_map(|name| all.find_subcommand(name)) {
            for line in lines(command) {
                text += &format!("       {line}\n");
            }
        }
        text += "\n";
    }
    text + HELP
}

/// How a command is called, a line for each of its forms.
pub(super) fn lines(command: &Command) -> Vec<String> {
    let mut lines: Vec<String> = command
        .get_subcommands()
        .map(|action| {
            line(
                &format!("{} {}", command.get_name(), action.get_name()),
                action,
            )
        })
        .collect();
    if !command.is_subcommand_required_set() {
        lines.insert(0, line(command.get_name(), command));
    }
    lines
}

fn line(name: &str, command: &Command) -> String {
    let positional = command.get_positionals().map(|arg| {
        let name = arg.get_id().as_str().replace('_', "-");
        if arg.is_required_set() {
            format!("<{name}>")
        } else {
            format!("[<{name}>]")
        }
    });
    let positional: Vec<String> = positional.collect();
    let mut options = command.get_opts();
    let has_flags = command
        .get_arguments()
        .any(|arg| !arg.is_positional() && arg.get_long() != Some("help"));
    let more = if options.next().is_some() || has_flags {
        " [OPTIONS]"
    } else {
        ""
    };
    format!("pvecm {name} {}{more}", positional.join(" "))
}

/// What is said about a call that is wrong: a first line in the original's words, more lines with
/// reasons, and how the command is called.
pub(super) fn complaint(first: &str, reasons: &[String], command: &Command) -> String {
    let mut text = format!("{first}\n");
    for reason in reasons {
        text += &format!("{reason}\n");
    }
    for line in lines(command) {
        text += &format!("{line}\n");
    }
    text
}

/// What is wrong with a call, as far as the parser has found out.
pub(super) enum Fault {
    /// A value that an option or argument can not have: its name, and the reason.
    Value { name: String, reason: String },
    /// Anything else, in the original's words.
    Other(String),
}

/// Reads a parser's error.
pub(super) fn fault_of(error: &Error, command: &Command) -> Fault {
    let context = |kind| error.get(kind).map(ToString::to_string);
    let about = context(ContextKind::InvalidArg).unwrap_or_default();
    match error.kind() {
        ErrorKind::MissingRequiredArgument if about.starts_with('-') => Fault::Other(format!(
            "Option {} is needed\n400 not enough arguments",
            name_of(&about)
        )),
        ErrorKind::MissingRequiredArgument => Fault::Other("400 not enough arguments".to_owned()),
        ErrorKind::UnknownArgument if about.starts_with('-') => Fault::Other(format!(
            "Unknown option: {about}\n400 unable to parse option"
        )),
        ErrorKind::UnknownArgument | ErrorKind::TooManyValues => {
            Fault::Other("400 too many arguments".to_owned())
        }
        ErrorKind::InvalidSubcommand if command.is_subcommand_required_set() => {
            let word = context(ContextKind::InvalidSubcommand).unwrap_or_default();
            Fault::Other(format!(
                "ERROR: unknown command 'pvecm {} {word}'",
                command.get_name()
            ))
        }
        ErrorKind::InvalidSubcommand => Fault::Other("400 too many arguments".to_owned()),
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Fault::Other(format!(
                "ERROR: incomplete command 'pvecm {}'",
                command.get_name()
            ))
        }
        _ => Fault::Value {
            name: name_of(&about),
            reason: reason_of(error),
        },
    }
}

/// The name of an option or argument in the parser's form, `--votes <VOTES>` or `<NODE>`.
fn name_of(about: &str) -> String {
    let word = about.split_whitespace().next().unwrap_or_default();
    let word = word.split(['=', '[']).next().unwrap_or_default();
    word.trim_start_matches('-')
        .trim_matches(['<', '>'])
        .trim_end_matches("...")
        .to_ascii_lowercase()
}

fn reason_of(error: &Error) -> String {
    if let Some(source) = std::error::Error::source(error) {
        let value = error.get(ContextKind::InvalidValue);
        let value = value.map(ToString::to_string).unwrap_or_default();
        let text = source.to_string();
        // What the parser's own types say is meant for programmers.
        if source.is::<std::num::ParseIntError>() {
            return format!("'{value}' is no whole number that fits");
        }
        return match text
            .split_once(" is not in ")
            .and_then(|(_, range)| range.split_once("..="))
        {
            Some((least, most)) => format!("'{value}' is not a number from {least} to {most}"),
            None => text,
        };
    }
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    let reason = first.trim_start_matches("error: ");
    match error.get(ContextKind::ValidValue) {
        Some(valid) if error.kind() == ErrorKind::InvalidValue => {
            format!("{reason}: use one of {valid}")
        }
        _ => reason.to_owned(),
    }
}
