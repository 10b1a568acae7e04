//! What the user is told while a command works.
//!
//! Invariant: nobody has to read it. The terminal, or the program at the other end of a pipe, may be gone;
//! that is no reason to stop half-way.

use std::fs::File;
use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where all of it is written as well.
static COPY: Mutex<Option<File>> = Mutex::new(None);

/// Has all that the user is told from here on written to a log too, or no more.
pub fn copy_to(log: Option<File>) {
    *copy() = log;
}

fn copy() -> MutexGuard<'static, Option<File>> {
    COPY.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write_copy(line: &str) {
    if let Some(log) = copy().as_mut() {
        drop(writeln!(log, "{line}"));
    }
}

/// Tells the user something beside the result, on standard error.
pub fn tell(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
    write_copy(line);
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
    drop(output);
    write_copy(line);
}
