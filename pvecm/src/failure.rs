//! How a command ends when it does not do what was asked.
//!
//! Invariant: each failure has a text that says what happened and what can be done, unless that was
//! said before, and a code that is not 0.

use std::fmt::{self, Display};

/// Exit codes of the command.
pub mod code {
    /// Done.
    pub const OK: u8 = 0;
    /// It was tried and did not succeed; what was changed is put back as far as it can be.
    pub const FAILED: u8 = 1;
    /// A check said no before anything was changed.
    pub const REFUSED: u8 = 2;
    /// The cluster has no quorum; nothing was changed.
    pub const NO_QUORUM: u8 = 3;
    /// The command line is wrong.
    pub const USAGE: u8 = 64;
}

/// A command's failure, as it is shown to the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    code: u8,
    text: String,
    /// What is wrong with each parameter or part, by its name.
    fields: Vec<(String, String)>,
}

impl Failure {
    /// Something was tried and did not succeed.
    pub fn failed(text: impl Display) -> Self {
        Self::new(code::FAILED, text)
    }

    /// A check said no; nothing was changed.
    pub fn refused(text: impl Display) -> Self {
        Self::new(code::REFUSED, text)
    }

    /// The cluster has no quorum; nothing was changed.
    pub fn no_quorum(text: impl Display) -> Self {
        Self::new(code::NO_QUORUM, text)
    }

    /// The command line is wrong.
    pub fn usage(text: impl Display) -> Self {
        Self::new(code::USAGE, text)
    }

    /// All has been said; what is left is the exit code.
    #[must_use]
    pub fn quiet(code: u8) -> Self {
        Self::new(code, "")
    }

    fn new(code: u8, text: impl Display) -> Self {
        Self {
            code,
            text: text.to_string(),
            fields: Vec::new(),
        }
    }

    /// The same failure with a reason for each parameter or part that is wrong.
    #[must_use]
    pub fn with_fields(self, fields: Vec<(String, String)>) -> Self {
        Self { fields, ..self }
    }

    /// The same failure with more words before its own.
    #[must_use]
    pub fn within(self, what: impl Display) -> Self {
        Self {
            text: format!("{what}: {}", self.text),
            ..self
        }
    }

    /// The same failure of a command that has changed something before: no refusal any more.
    #[must_use]
    pub fn midway(self) -> Self {
        const AGAIN: &str = "run the command again";
        let text = match self.text.contains(AGAIN) || self.text.is_empty() {
            true => self.text,
            false => format!("{}; {AGAIN}", self.text),
        };
        Self {
            code: code::FAILED,
            text,
            ..self
        }
    }

    /// The text without its [`fields`](Self::fields).
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What is wrong with each parameter or part, by its name.
    #[must_use]
    pub fn fields(&self) -> &[(String, String)] {
        &self.fields
    }

    /// Exit code of the command.
    #[must_use]
    pub fn code(&self) -> u8 {
        self.code
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        let mut fields = self.fields.iter();
        fields.try_for_each(|(name, reason)| write!(f, "\n{name}: {reason}"))
    }
}

impl std::error::Error for Failure {}

/// What a command returns.
pub type Outcome<T = ()> = Result<T, Failure>;
