//! `doctor`: checks this node and the cluster.

use std::io::IsTerminal as _;

use super::{change::need_root, show};
use crate::cli::{Doctor, Format};
use crate::doctor::{Report, examine, gather};
use crate::failure::{Failure, Outcome, code};
use crate::host::Host;
use crate::tell::tell;

/// Checks, and shows what was found.
///
/// # Errors
/// When another user than root calls it. When something fails: with nothing but the exit code, as the findings were shown.
pub fn run(host: &Host, args: Doctor) -> Outcome {
    // What others may not read would be taken for broken, and the remedy for that is no small one.
    need_root()?;
    if std::io::stderr().is_terminal() {
        tell("looking at this node and asking the others, up to half a minute...");
    }
    let facts = gather(host);
    let report = Report::new(&facts, examine(&facts));
    match args.output_format {
        Format::Text => show(&report.to_string())?,
        Format::Json => show(&format!("{:#}\n", report.document()))?,
    }
    if report.is_healthy() {
        Ok(())
    } else {
        Err(Failure::quiet(code::FAILED))
    }
}
