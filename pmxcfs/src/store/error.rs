//! What can go wrong with the database, and what the administrator can do.

use std::{
    error::Error,
    fmt, io,
    path::{Path, PathBuf},
};

use rusqlite::{ErrorCode, ffi};
use thiserror::Error;

use crate::memdb::{LoadIssue, LoadProblem, OpError, RowRef};

/// Failure of the database.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("cannot {action} '{}'", .path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// SQLite failed. Nothing of the transaction is left.
    #[error("cannot {action} '{}'{}", .path.display(), hint(.source))]
    Sqlite {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which database.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: rusqlite::Error,
    },
    /// The database does not pass its checks. It was not changed.
    #[error(transparent)]
    Refused(#[from] Box<Refusal>),
    /// The version row is not the one that was checked a moment ago.
    #[error(
        "'{}' was changed by another program while it was being checked; \
         end that program (try 'fuser -v') and start again", .path.display()
    )]
    ChangedMeanwhile {
        /// The database.
        path: PathBuf,
    },
    /// The rows that were read back are not the tree that was to be stored. Rolled back.
    #[error("'{}': the rows read back differ from the received tree: {detail}", .path.display())]
    Mismatch {
        /// The database.
        path: PathBuf,
        /// First difference.
        detail: String,
    },
    /// The cluster configuration of this host can not be imported.
    #[error("cannot import '{conf}': {reason}; correct or remove that file and start again")]
    Import {
        /// Name of the file in the tree.
        conf: &'static str,
        /// Why the tree refuses it.
        reason: OpError,
    },
}

impl StoreError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_path_buf(),
            source,
        }
    }

    pub(super) fn sqlite(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(rusqlite::Error) -> Self {
        move |source| Self::Sqlite {
            action,
            path: path.to_path_buf(),
            source,
        }
    }

    /// Whether the disk, a quota or the database is full: it works again once there is space.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            Self::Sqlite { source, .. } => is_full(source),
            _ => false,
        }
    }

    /// Whether another process held the database for longer than the busy timeout.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(
            self.code(),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
        )
    }

    /// Whether the disk failed, or the file system does not let us write.
    #[must_use]
    pub fn is_io(&self) -> bool {
        if self.is_no_space() {
            return false;
        }
        matches!(self, Self::Io { .. })
            || matches!(
                self.code(),
                Some(
                    ErrorCode::SystemIoFailure
                        | ErrorCode::ReadOnly
                        | ErrorCode::CannotOpen
                        | ErrorCode::PermissionDenied
                        | ErrorCode::FileLockingProtocolFailed
                )
            )
    }

    /// Whether the content of the database is damaged.
    #[must_use]
    pub fn is_corrupt(&self) -> bool {
        matches!(self, Self::Refused(_))
            || matches!(
                self.code(),
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
            )
    }

    /// The message and the messages of all causes, on one line.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        text
    }

    fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Sqlite { source, .. } => source.sqlite_error_code(),
            _ => None,
        }
    }
}

fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
        || error
            .sqlite_error()
            // The index of the log could not grow, which only a full file system does.
            .is_some_and(|error| error.extended_code == ffi::SQLITE_IOERR_SHMSIZE)
}

/// What to do about an error, where SQLite's own words do not say it.
fn hint(error: &rusqlite::Error) -> &'static str {
    if is_full(error) {
        return " (free space on that file system; nothing was changed)";
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            " (another program keeps it locked; end that program)"
        }
        Some(ErrorCode::ReadOnly) => " (file or file system is read-only)",
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            " (stop the daemon and run its check before anything else)"
        }
        _ => "",
    }
}

/// One reason to refuse a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Neither empty nor a regular SQLite file.
    NotADatabase(String),
    /// There is no table, but a log that has held data; its size in bytes.
    LogWithoutDatabase(u64),
    /// Pages are damaged; SQLite's words.
    Damaged(String),
    /// The table can not be used as it is declared.
    Schema(String),
    /// The row with inode 0 has this name, not that of the version row.
    VersionRowName(RowRef),
    /// A row has no name.
    NoName(RowRef),
    /// A row is neither file nor directory; its type.
    BadType(RowRef, i64),
    /// A directory has data; how much, in bytes.
    DirectoryWithData(RowRef, usize),
    /// The rows do not make a tree.
    Tree(LoadIssue),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotADatabase(why) => write!(f, "not a database: {why}"),
            Self::LogWithoutDatabase(bytes) => write!(
                f,
                "no table is in it, yet its write-ahead log (-wal) has {bytes} bytes that can not be \
                 read"
            ),
            Self::Damaged(what) => write!(f, "damaged: {what}"),
            Self::Schema(what) => write!(f, "table tree: {what}"),
            Self::VersionRowName(row) => {
                write!(f, "{row}: the version row must be named '__version__'")
            }
            Self::NoName(row) => write!(f, "{row}: has no name"),
            Self::BadType(row, kind) => {
                write!(
                    f,
                    "{row}: type {kind} is neither 4 (directory) nor 8 (file)"
                )
            }
            Self::DirectoryWithData(row, len) => {
                write!(f, "{row}: a directory with {len} bytes of data")
            }
            Self::Tree(issue) => issue.fmt(f),
        }
    }
}

impl Problem {
    /// SQL statements that would repair this, alternatives first to last; none if SQL can not.
    #[must_use]
    pub fn remedies(&self) -> Vec<String> {
        let delete = |row: &RowRef| sql("DELETE FROM tree", row);
        let set = |what: &str, row: &RowRef| sql(&format!("UPDATE tree SET {what}"), row);
        let new_name = |row: &RowRef| set(&format!("name = 'recovered-{}'", row.inode), row);
        match self {
            Self::NotADatabase(_)
            | Self::LogWithoutDatabase(_)
            | Self::Damaged(_)
            | Self::Schema(_) => Vec::new(),
            Self::VersionRowName(row) => vec![set("name = '__version__'", row)],
            Self::NoName(row) => vec![new_name(row), delete(row)],
            Self::BadType(row, _) => vec![set("type = 8", row), delete(row)],
            Self::DirectoryWithData(row, _) => vec![set("data = NULL", row), set("type = 8", row)],
            Self::Tree(issue) => {
                let row = &issue.row;
                match &issue.problem {
                    LoadProblem::DuplicateName(other) => {
                        vec![new_name(row), delete(row), delete(other)]
                    }
                    LoadProblem::DuplicateGuest(_, other) => vec![delete(row), delete(other)],
                    LoadProblem::MissingParent | LoadProblem::ParentIsFile | LoadProblem::Cycle => {
                        vec![set("parent = 0", row), delete(row)]
                    }
                    LoadProblem::GuestFolderIsFile => vec![new_name(row), delete(row)],
                    LoadProblem::InodeAboveVersion => {
                        vec![format!(
                            "UPDATE tree SET version = {} WHERE inode = 0;",
                            row.inode
                        )]
                    }
                }
            }
        }
    }
}

fn sql(action: &str, row: &RowRef) -> String {
    // The column holds the number as a signed one.
    format!("{action} WHERE inode = {};", row.inode.0.cast_signed())
}

/// Why a database was refused: everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The database.
    pub path: PathBuf,
    /// What is wrong; at least one.
    pub problems: Vec<Problem>,
}

impl Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        let dir = self.path.parent().unwrap_or(Path::new("")).display();
        writeln!(f, "'{path}' is refused and was not changed:")?;
        for problem in self.problems.iter().take(PROBLEMS_SHOWN) {
            writeln!(f, "  - {problem}")?;
            for (i, remedy) in problem.remedies().iter().enumerate() {
                let word = if i == 0 { "repair" } else { "or" };
                writeln!(f, "      {word}: sqlite3 {path} \"{remedy}\"")?;
            }
        }
        if let Some(more) = self.problems.len().checked_sub(PROBLEMS_SHOWN + 1) {
            writeln!(f, "  - and {} more", more + 1)?;
        }
        writeln!(f, "To recover, with the daemon stopped, one of:")?;
        writeln!(
            f,
            "  - member of a cluster whose other nodes are fine: move config.db, config.db-wal \
             and config.db-shm out of {dir}, then start; the other nodes send their content"
        )?;
        if self
            .problems
            .iter()
            .all(|problem| !problem.remedies().is_empty())
        {
            writeln!(
                f,
                "  - copy these files to a safe place, run one repair for each problem, then start"
            )?;
        } else {
            writeln!(
                f,
                "  - copy these files to a safe place, save what can be read with \
                 'sqlite3 {path} .recover | sqlite3 {dir}/recovered.db', move them away, rename \
                 recovered.db to config.db, then start"
            )?;
        }
        write!(
            f,
            "  - move these files away, restore the newest backup from {dir}/backup (copy \
             config-SECONDS.db to {path}, or zcat config-SECONDS.sql.gz | sqlite3 {path}), then start"
        )
    }
}

/// A damaged database can have a problem in every row.
const PROBLEMS_SHOWN: usize = 20;
