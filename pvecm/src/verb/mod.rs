//! The commands, a module each.

pub mod add;
pub mod addnode;
pub mod certs;
pub mod change;
pub mod create;
pub mod delnode;
mod diff;
pub mod doctor;
pub mod expected;
pub mod join_info;
pub mod keygen;
pub mod leave;
pub mod leftovers;
pub mod link;
pub mod machine;
pub mod mtunnel;
pub mod nextid;
pub mod node;
pub mod nodes;
pub mod prepare;
mod question;
pub mod quorum;
pub mod readd;
pub mod serve;
pub mod status;
pub mod task;
pub mod token;
pub mod two_node;
pub mod undo;
pub mod updatecerts;
pub mod wait_quorum;

#[cfg(test)]
mod tests;

use crate::failure::{Failure, Outcome};

/// Version of the join interface that this node speaks.
pub const API_VERSION: u32 = 1;

/// Shows the version of the join interface.
///
/// # Errors
/// When nobody reads it.
pub fn apiver() -> Outcome {
    show(&format!("{API_VERSION}\n"))
}

/// Writes a result to standard output.
///
/// # Errors
/// When nobody reads it.
pub fn show(text: &str) -> Outcome {
    use std::io::Write as _;
    let mut output = std::io::stdout().lock();
    let written = output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush());
    written.map_err(|error| Failure::failed(format!("can not write the result: {error}")))
}
