//! The `pvecm` command.

use std::io::Write as _;
use std::process::ExitCode;

use pvecm::cli;
use pvecm::failure::code;
use pvecm::tell::{ask, tell};

fn main() -> ExitCode {
    let words = std::env::args_os().skip(1);
    let words: Vec<String> = words
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let parsed = match cli::parse(&words) {
        Ok(parsed) => parsed,
        Err(stop) => {
            // Nobody reads it if it can not be written.
            match stop.code {
                code::OK => drop(std::io::stdout().write_all(stop.text.as_bytes())),
                _ => ask(&stop.text),
            }
            return stop.code.into();
        }
    };
    for warning in &parsed.warnings {
        tell(warning);
    }
    match cli::run(&parsed.cli) {
        Ok(()) => code::OK.into(),
        Err(failure) => {
            let text = failure.to_string();
            if !text.is_empty() {
                tell(&text);
            }
            failure.code().into()
        }
    }
}
