//! Words of a command line as users write them, turned into those that the parser takes.
//!
//! Users of the original write options with one dash or two, shorten them, give booleans a value,
//! and scripts that are older than it have names that it has forgotten.

use clap::{Arg, ArgAction, Command};

/// A command line whose options are spelt out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Words {
    /// In the order of the command line; an option that is given again replaces the first.
    words: Vec<(Option<String>, String)>,
    /// Words after `--`.
    rest: Vec<String>,
    /// What the user should write instead, or what has no effect any more.
    pub(super) warnings: Vec<String>,
}

/// An old option, by commands that had it, and what it became.
struct Old {
    name: &'static str,
    commands: &'static [&'static str],
    now: Option<&'static str>,
    advice: &'static str,
}

const JOINING: [&str; 3] = ["create", "add", "addnode"];
const OLD: [Old; 5] = [
    Old {
        name: "ring0_addr",
        commands: &JOINING,
        now: Some("link0"),
        advice: "use '--link0'",
    },
    Old {
        name: "ring1_addr",
        commands: &JOINING,
        now: Some("link1"),
        advice: "use '--link1'",
    },
    Old {
        name: "bindnet0_addr",
        commands: &["create"],
        now: None,
        advice: "it has no effect: addresses are those of '--link0'",
    },
    Old {
        name: "bindnet1_addr",
        commands: &["create"],
        now: None,
        advice: "it has no effect: addresses are those of '--link1'",
    },
    Old {
        name: "rrp_mode",
        commands: &["create"],
        now: None,
        advice: "it has no effect: the link with the highest priority carries the traffic",
    },
];

impl Words {
    /// Reads what follows the name of a command.
    ///
    /// # Errors
    /// A line that says which option can not be understood.
    pub(super) fn read(command: &Command, given: &[String]) -> Result<Self, String> {
        let mut words = Self::default();
        let mut given = given.iter().map(String::as_str).peekable();
        while let Some(word) = given.next() {
            if word == "--" {
                words.rest = given.map(str::to_owned).collect();
                break;
            }
            let Some(option) = option_of(word) else {
                words.words.push((None, word.to_owned()));
                continue;
            };
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option, None),
            };
            let found = find(command, name)?;
            if let Found::Old(old) = &found {
                let advice = old.advice;
                words.warnings.push(format!("'--{name}' is old: {advice}"));
            }
            let takes = match &found {
                Found::Known(arg) if is_flag(arg) => {
                    let next = given.next_if(|word| value.is_none() && boolean(word).is_some());
                    words.flag(arg, name, value.or(next))?;
                    continue;
                }
                Found::Known(arg) => arg.get_long(),
                Found::Old(old) => old.now,
            };
            let value = value.or_else(|| given.next());
            let value = value.ok_or_else(|| format!("Option {name} requires an argument"))?;
            if let Some(long) = takes {
                words.put(long, format!("--{long}={value}"));
            }
        }
        Ok(words)
    }

    /// The words, for the parser.
    pub(super) fn spelt_out(&self) -> Vec<String> {
        let mut all: Vec<String> = self.words.iter().map(|(_, word)| word.clone()).collect();
        if !self.rest.is_empty() {
            all.push("--".to_owned());
            all.extend(self.rest.iter().cloned());
        }
        all
    }

    /// Takes an option out; whether it was there.
    pub(super) fn remove(&mut self, long: &str) -> bool {
        let before = self.words.len();
        let is_it = |name: &Option<String>| name.as_deref() == Some(long);
        self.words.retain(|(name, _)| !is_it(name));
        self.words.len() < before
    }

    fn put(&mut self, long: &str, word: String) {
        self.remove(long);
        self.words.push((Some(long.to_owned()), word));
    }

    fn flag(&mut self, arg: &Arg, name: &str, value: Option<&str>) -> Result<(), String> {
        let long = arg.get_long().unwrap_or_default();
        let on = match value {
            None => true,
            Some(value) => boolean(value)
                .ok_or_else(|| format!("Option {name}: '{value}' is neither true nor false"))?,
        };
        if on {
            self.put(long, format!("--{long}"));
        } else {
            self.remove(long);
        }
        Ok(())
    }
}

enum Found<'a> {
    Known(&'a Arg),
    Old(&'static Old),
}

/// The option that a name, or the beginning of one, means.
fn find<'a>(command: &'a Command, name: &str) -> Result<Found<'a>, String> {
    let own = command.get_name();
    let mut old = OLD.iter();
    if let Some(old) = old.find(|old| old.name == name && old.commands.contains(&own)) {
        return Ok(Found::Old(old));
    }
    let actions = command.get_subcommands().flat_map(Command::get_arguments);
    let all: Vec<&Arg> = command.get_arguments().chain(actions).collect();
    let names = |arg: &Arg| -> Vec<String> {
        let aliases = arg.get_all_aliases().unwrap_or_default();
        let long = arg.get_long().into_iter();
        long.chain(aliases).map(str::to_owned).collect()
    };
    let exact = all
        .iter()
        .find(|arg| names(arg).iter().any(|it| it == name));
    if let Some(arg) = exact {
        return Ok(Found::Known(arg));
    }
    let mut close: Vec<&Arg> = Vec::new();
    for arg in all {
        let fits = names(arg).iter().any(|it| it.starts_with(name));
        if fits && !close.iter().any(|other| other.get_long() == arg.get_long()) {
            close.push(arg);
        }
    }
    match close.as_slice() {
        [arg] => Ok(Found::Known(arg)),
        [] => Err(format!("Unknown option: {name}")),
        several => {
            let names: Vec<&str> = several.iter().filter_map(|arg| arg.get_long()).collect();
            Err(format!("Option {name} is ambiguous ({})", names.join(", ")))
        }
    }
}

/// A word without the dashes that make it an option.
fn option_of(word: &str) -> Option<&str> {
    let option = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
    option
        .starts_with(|first: char| first.is_ascii_alphabetic())
        .then_some(option)
}

fn is_flag(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::Help)
}

/// What a word says about something that is or is not.
fn boolean(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "1" | "on" | "yes" | "true" => Some(true),
        "0" | "off" | "no" | "false" => Some(false),
        _ => None,
    }
}
