//! Questions whose answer decides whether something is done.

use std::io::{BufRead as _, IsTerminal as _};

use crate::failure::{Failure, Outcome};
use crate::tell::ask;

/// Asks; goes on only after a `yes`.
///
/// # Errors
/// When the answer is another one, or nobody is there: `unasked` says what to do then.
pub(super) fn confirm(question: &str, unasked: &str) -> Outcome {
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Err(Failure::refused(format!(
            "nobody is there to be asked: {unasked}"
        )));
    }
    ask(&format!("{question} (yes/no)? "));
    let mut answer = String::new();
    let read = input.lock().read_line(&mut answer);
    read.map_err(|error| Failure::failed(format!("can not read the answer: {error}")))?;
    match answer.trim() {
        "yes" => Ok(()),
        _ => Err(Failure::refused("nothing was changed")),
    }
}
