//! `nodes`: the members.

use std::io::IsTerminal as _;

use super::{show, status};
use crate::cli::{Format, Show};
use crate::failure::{Failure, Outcome, code};
use crate::host::Host;
use crate::state::{self, IdForm, NameForm, words};
use crate::tell::tell;

/// Shows the members.
///
/// # Errors
/// When this node is in no cluster, or the daemon does not answer.
pub fn run(host: &Host, args: Show) -> Outcome {
    let found = status::configuration(&host.paths)?;
    let state = state::ask().map_err(|error| status::no_state(&error))?;
    let nodes = status::all_nodes();
    match args.output_format {
        Format::Text => {
            show(&state::membership(&state, IdForm::Decimal, NameForm::Name))?;
            for complaint in state::complaints(&state) {
                tell(&complaint);
            }
            let missing = words::words(&state, &nodes).missing;
            if std::io::stdout().is_terminal() && !missing.is_empty() {
                show(&format!("\nMissing: {}\n", missing.join(", ")))?;
            }
        }
        Format::Json => show(&format!("{:#}\n", status::all(&state, &nodes)))?,
    }
    if found.mounted {
        Ok(())
    } else {
        Err(Failure::quiet(code::FAILED))
    }
}
