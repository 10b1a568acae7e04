//! What the user is told while a command works.
//!
//! Invariant: nobody has to read it. The terminal, or the program at the other end of a pipe, may be gone;
//! that is no reason to stop half-way.

use std::io::Write as _;

/// Tells the user something beside the result, on standard error.
pub fn tell(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// Asks something, on standard error; the answer is written on the same line.
pub fn ask(question: &str) {
    let mut output = std::io::stderr();
    drop(write!(output, "{question}").and_then(|()| output.flush()));
}

/// Tells how far a command is that changes something, on standard output.
pub fn announce(line: &str) {
    let mut output = std::io::stdout().lock();
    drop(writeln!(output, "{line}").and_then(|()| output.flush()));
}
