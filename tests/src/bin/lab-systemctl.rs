//! Takes the place of `systemctl` on test hosts.

use std::process::ExitCode;

use tests::services::systemctl;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    systemctl(&args).unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::FAILURE
    })
}
