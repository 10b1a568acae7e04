//! Passwords, tokens and answers: from the terminal, standard input, or a file. Never from a command
//! line, where every user of the machine sees them.

use std::fmt;
use std::io::{self, BufRead as _, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::failure::{Failure, Outcome};
use crate::host::files;
use crate::host::stop::{Signals, interrupted};
use crate::tell::{ask, tell};

/// Longest secret that is read; the original's limit for passwords is 128.
const SECRET_MAX: usize = 4096;

/// A text that is never shown, and wiped when it goes.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Of its text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text, to be sent.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Asks the user.
#[derive(Debug)]
pub struct Prompt<'a> {
    signals: &'a Signals,
}

impl<'a> Prompt<'a> {
    /// Asks until a signal comes.
    #[must_use]
    pub fn new(signals: &'a Signals) -> Self {
        Self { signals }
    }

    /// Whether somebody sits there who can answer.
    #[must_use]
    pub fn is_terminal() -> bool {
        io::stdin().is_terminal()
    }

    /// A secret: typed without being shown, or one line of standard input.
    ///
    /// # Errors
    /// When there is none, or a signal came.
    pub fn secret(&self, question: &str) -> Outcome<Secret> {
        let hidden = Prompt::is_terminal().then(Hidden::new).flatten();
        let line = self.line(question);
        if hidden.is_some() {
            // The Enter key was not shown either.
            tell("");
        }
        drop(hidden);
        bounded(line?, "standard input")
    }

    /// An answer: one line.
    ///
    /// # Errors
    /// When a signal came, or the input can not be read.
    pub fn line(&self, question: &str) -> Outcome<String> {
        // Whoever does not see the question can still answer it.
        ask(question);
        self.wait()?;
        let mut line = String::new();
        io::stdin()
            .lock()
            .read_line(&mut line)
            .map_err(|error| Failure::failed(format!("can not read the answer: {error}")))?;
        Ok(line.trim_end_matches(['\n', '\r']).to_owned())
    }

    fn wait(&self) -> Outcome {
        if !Prompt::is_terminal() {
            return Ok(());
        }
        let input = io::stdin();
        loop {
            let mut both = [
                PollFd::new(input.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.descriptor(), PollFlags::POLLIN),
            ];
            match poll(&mut both, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => {
                    return Err(Failure::failed(format!("can not wait for input: {error}")));
                }
            }
            if self.signals.seen() {
                return Err(interrupted());
            }
            if both[0].any().unwrap_or(false) {
                return Ok(());
            }
        }
    }
}

/// The first line of a file, or of standard input for `-`.
///
/// # Errors
/// When it can not be read, or is empty.
pub fn from_file(path: &Path) -> Outcome<Secret> {
    if path == Path::new("-") {
        let mut line = String::new();
        let read = io::stdin().lock().read_line(&mut line);
        read.map_err(|error| Failure::failed(format!("can not read standard input: {error}")))?;
        return bounded(line, "standard input");
    }
    let content = files::read(path)?.ok_or_else(|| {
        Failure::refused(format!(
            "'{}' is not there: write the secret into it, readable for root alone",
            path.display()
        ))
    })?;
    let text = String::from_utf8(content)
        .map_err(|_| Failure::refused(format!("'{}' is not text", path.display())))?;
    bounded(
        text.lines().next().unwrap_or_default().to_owned(),
        &path.display().to_string(),
    )
}

fn bounded(line: String, source: &str) -> Outcome<Secret> {
    let text = line.trim_end_matches(['\n', '\r']);
    match text.len() {
        0 => Err(Failure::refused(format!("{source} holds no secret"))),
        length if length > SECRET_MAX => Err(Failure::refused(format!(
            "what {source} holds is too long for a secret"
        ))),
        _ => Ok(Secret::new(text)),
    }
}

/// While it is there the terminal does not show what is typed.
struct Hidden {
    before: Termios,
}

impl Hidden {
    fn new() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut hidden = before.clone();
        hidden.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &hidden).ok()?;
        Some(Self { before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // There is nobody to tell.
        tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.before).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_the_first_line_of_its_file_and_is_never_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, "open sesame\r\nmore\n").unwrap();
        let secret = from_file(&path).unwrap();
        assert_eq!(secret.expose(), "open sesame");
        assert_eq!(format!("{secret:?}"), "Secret");
        std::fs::write(&path, "\n").unwrap();
        assert_eq!(from_file(&path).unwrap_err().code(), 2);
        std::fs::write(&path, "x".repeat(SECRET_MAX + 1)).unwrap();
        assert_eq!(from_file(&path).unwrap_err().code(), 2);
        assert_eq!(
            from_file(&directory.path().join("no")).unwrap_err().code(),
            2
        );
    }
}
