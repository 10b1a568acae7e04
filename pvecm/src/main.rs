//! The `pvecm` command.

use std::process::ExitCode;

use clap::Parser as _;
use pvecm::cli::{self, Cli};
use pvecm::failure::code;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() {
                code::USAGE
            } else {
                code::OK
            };
            // Nobody reads it if it can not be written.
            drop(error.print());
            return code.into();
        }
    };
    match cli::run(&cli) {
        Ok(()) => code::OK.into(),
        Err(failure) => {
            let text = failure.to_string();
            if !text.is_empty() {
                eprintln!("{text}");
            }
            failure.code().into()
        }
    }
}
