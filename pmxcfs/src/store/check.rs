//! Looks at a database without changing it, and decides whether it may be opened for writing.
//!
//! Invariant: neither the database nor its write-ahead log is written, not even to switch the
//! journal mode, to roll a log forward, or to tidy up afterwards. How that is reached depends on
//! what lies beside the file:
//!
//! | beside the database | read through |
//! |---|---|
//! | no log, or an empty one | the file as an immutable one: no lock, no other file is touched |
//! | a write-ahead log (crash, or in use) | a read-only connection; it makes the `-shm` index, which is scratch data |
//! | a rollback journal (another program crashed) | a private copy of both, where SQLite rolls back |

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig};

use super::{
    error::{Problem, Refusal, StoreError},
    rows,
    schema::{self, Schema},
};
use crate::memdb::{LoadIssue, LoadProblem, Root, RowRef, Tree};

/// A remark about a database that is usable all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// There is no version row, or it says version 0; the next start makes it version 1.
    NoVersion,
    /// SQLite's check found something that does no harm, in SQLite's words.
    Integrity(String),
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoVersion => f.write_str("the version row is missing; counting starts at 1"),
            Self::Integrity(what) => write!(f, "harmless: {what}"),
        }
    }
}

/// What a usable database holds.
#[derive(Debug)]
pub struct Report {
    /// The tree; empty at version 1 for a new database.
    pub tree: Tree,
    /// Problems that it loads in spite of.
    pub issues: Vec<LoadIssue>,
    /// Other remarks.
    pub notes: Vec<Note>,
    /// Whether there is no table yet: no file, an empty one, or a creation that was interrupted.
    pub is_new: bool,
    /// The version row as stored.
    pub(super) stored_root: Option<Root>,
}

impl Report {
    fn new_database() -> Self {
        Self {
            tree: Tree::new(),
            issues: Vec::new(),
            notes: Vec::new(),
            is_new: true,
            stored_root: None,
        }
    }
}

/// Checks the database of that path and loads its tree. Changes nothing.
///
/// Not for a database that this process has open: closing the descriptors used here would drop
/// the locks of the open connection. [`Store::reload`](super::Store::reload) is for that.
///
/// # Errors
/// [`StoreError::Refused`] lists what is wrong with the content; others say why it could not be
/// read.
pub fn check(path: &Path) -> Result<Report, StoreError> {
    let path = &resolved(path);
    let refused = |problem| Err(refuse(path, vec![problem]));
    let log = size_of(&sidecar(path, "-wal"))?;
    match size_of(path)? {
        None | Some(0) => {
            return match log {
                Some(bytes) if bytes > 0 => refused(Problem::LogWithoutDatabase(bytes)),
                _ => Ok(Report::new_database()),
            };
        }
        Some(_) => {}
    }
    let mut header = Vec::with_capacity(HEADER_SIZE);
    File::open(path)
        .and_then(|file| {
            file.take(HEADER_SIZE as u64)
                .read_to_end(&mut header)
                .map(|_| ())
        })
        .map_err(StoreError::io("read", path))?;
    if !header.starts_with(MAGIC) {
        return refused(Problem::NotADatabase("it does not start as one".into()));
    }
    let Some(&[write_version, read_version]) = header.get(18..20) else {
        return refused(Problem::NotADatabase("it is cut off".into()));
    };
    if write_version > WAL_VERSION || read_version > WAL_VERSION {
        return refused(Problem::NotADatabase("its format is a newer one".into()));
    }
    let has_journal = size_of(&sidecar(path, "-journal"))?.is_some_and(|bytes| bytes > 0);
    let report = if has_journal {
        check_copy(path)?
    } else {
        let has_log = log.is_some_and(|bytes| bytes > 0);
        inspect(look_at(path, has_log || read_version != WAL_VERSION), path)?
    };
    match log {
        Some(bytes) if report.is_new && bytes > CREATION_LOG_BYTES => {
            refused(Problem::LogWithoutDatabase(bytes))
        }
        _ => Ok(report),
    }
}

fn look_at(path: &Path, is_shared: bool) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | NO_MUTEX;
    if is_shared {
        Connection::open_with_flags(path, flags)
    } else {
        let flags = flags | OpenFlags::SQLITE_OPEN_URI;
        Connection::open_with_flags(immutable_uri(path), flags)
    }
}

/// Checks a copy on which SQLite may finish what another program has left half done.
fn check_copy(path: &Path) -> Result<Report, StoreError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".check-{}", std::process::id()));
    let folder = path.with_file_name(name);
    let result = copy_and_inspect(path, &folder);
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            result.and(Err(StoreError::io("remove", &folder)(error)))
        }
        _ => result,
    }
}

fn copy_and_inspect(path: &Path, folder: &Path) -> Result<Report, StoreError> {
    fs::DirBuilder::new()
        .mode(0o700)
        .create(folder)
        .map_err(StoreError::io("create", folder))?;
    let copy = folder.join("copy.db");
    for suffix in ["", "-journal", "-wal"] {
        let from = sidecar(path, suffix);
        match fs::copy(&from, sidecar(&copy, suffix)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => {
                result.map_err(StoreError::io("copy", &from))?;
            }
        }
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | NO_MUTEX;
    inspect(Connection::open_with_flags(&copy, flags), path)
}

fn inspect(conn: rusqlite::Result<Connection>, path: &Path) -> Result<Report, StoreError> {
    let verdict = conn.and_then(|conn| {
        conn.busy_timeout(READ_TIMEOUT)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        conn.execute_batch(INSPECT_SETUP)?;
        let mut notes = Vec::new();
        let problems = quick_check(&conn, &mut notes)?;
        if !problems.is_empty() {
            return Ok(Err(problems));
        }
        match schema::check(&conn)? {
            Schema::Missing => return Ok(Ok(Report::new_database())),
            Schema::Unusable(problem) => return Ok(Err(vec![problem])),
            Schema::Usable => {}
        }
        Ok(build(rows::read(&conn)?, notes))
    });
    match verdict {
        Ok(Ok(report)) => Ok(report),
        Ok(Err(problems)) => Err(refuse(path, problems)),
        Err(error) => Err(unreadable(path, error)),
    }
}

/// Tells damage of the content from failures of the system.
fn unreadable(path: &Path, error: rusqlite::Error) -> StoreError {
    let text = error.to_string();
    let problem = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => Problem::NotADatabase(text),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::TooBig) => Problem::Damaged(text),
        // Plain errors are about SQL, which only a strange schema makes of constant statements.
        Some(ErrorCode::Unknown) => Problem::Schema(text),
        Some(_) => return StoreError::sqlite("check", path)(error),
        None => Problem::Schema(text),
    };
    refuse(path, vec![problem])
}

/// SQLite's check of pages, cells and constraints; returns what is not harmless.
fn quick_check(conn: &Connection, notes: &mut Vec<Note>) -> rusqlite::Result<Vec<Problem>> {
    let mut problems = Vec::new();
    let mut statement = conn.prepare("PRAGMA main.quick_check")?;
    let mut lines = statement.query([])?;
    // Structure comes before constraints, so a long list of the latter hides nothing.
    while let Some(row) = lines.next()? {
        let text: String = row.get(0)?;
        for line in text.lines().filter(|line| *line != "ok") {
            if is_harmless(line) {
                notes.push(Note::Integrity(line.to_owned()));
            } else {
                problems.push(Problem::Damaged(line.to_owned()));
            }
        }
    }
    Ok(problems)
}

/// Values that do not fit their declaration are judged row by row later, or are in tables that do
/// not matter; unused pages only waste space. (On a read-only connection SQLite leaves the checks
/// of the table out.)
fn is_harmless(line: &str) -> bool {
    line.starts_with("CHECK constraint failed in ")
        || [" value in ", "never used"]
            .iter()
            .any(|part| line.contains(part))
        || line.starts_with("*** in database")
}

/// Makes the tree of the rows, or says why they are none.
pub(super) fn build(rows: rows::Rows, mut notes: Vec<Note>) -> Result<Report, Vec<Problem>> {
    let mut problems = rows.problems;
    let stored_root = rows.root;
    let mut root = stored_root.unwrap_or(Root {
        version: 0,
        writer: 0,
        mtime: 0,
    });
    if root.version == 0 {
        notes.push(Note::NoVersion);
        root.version = 1;
    }
    let (tree, issues) = match Tree::load(root, rows.entries.into_iter().map(Arc::new).collect()) {
        Ok(loaded) => loaded,
        Err(issues) => {
            let fatal = issues.into_iter().filter(is_refused);
            problems.extend(fatal.map(Problem::Tree));
            return Err(problems);
        }
    };
    let (fatal, issues): (Vec<_>, Vec<_>) = issues.into_iter().partition(is_refused);
    problems.extend(fatal.into_iter().map(Problem::Tree));
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Report {
        tree,
        issues,
        notes,
        is_new: false,
        stored_root,
    })
}

/// Whether other implementations refuse to load this: where the file that is taken for a
/// directory is read before its child, they do.
pub(super) fn is_refused(issue: &LoadIssue) -> bool {
    let RowRef { inode, parent, .. } = &issue.row;
    issue.is_fatal()
        || issue.problem == LoadProblem::ParentIsFile
            && parent.0.cast_signed() < inode.0.cast_signed()
}

pub(super) fn refuse(path: &Path, problems: Vec<Problem>) -> StoreError {
    let path = path.to_path_buf();
    Box::new(Refusal { path, problems }).into()
}

/// Size of a file, `None` if there is none.
fn size_of(path: &Path) -> Result<Option<u64>, StoreError> {
    match fs::metadata(path) {
        Ok(meta) if meta.is_file() => Ok(Some(meta.len())),
        Ok(_) => {
            let problem = Problem::NotADatabase(format!("{} is no file", path.display()));
            Err(refuse(path, vec![problem]))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("look at", path)(error)),
    }
}

/// The path behind symbolic links: SQLite keeps its other files beside the real one.
pub(super) fn resolved(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf())
}

/// Path of a file that SQLite keeps beside the database.
pub(super) fn sidecar(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn immutable_uri(path: &Path) -> PathBuf {
    use std::{
        ffi::OsString,
        os::unix::ffi::{OsStrExt, OsStringExt},
    };
    let mut uri = b"file://".to_vec();
    // Without a root the name would be taken for that of a host.
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    for &byte in path.as_os_str().as_bytes() {
        if matches!(byte, b'%' | b'?' | b'#') {
            uri.extend(format!("%{byte:02x}").into_bytes());
        } else {
            uri.push(byte);
        }
    }
    uri.extend(b"?immutable=1");
    OsString::from_vec(uri).into()
}

const MAGIC: &[u8] = b"SQLite format 3\0";
/// Enough for the magic and the versions of the format.
const HEADER_SIZE: usize = 20;
/// Version of the format that uses a write-ahead log.
const WAL_VERSION: u8 = 2;
/// More than the creation of the table can leave in the log when it is interrupted. A log of this
/// size has held data; without a table it is one that can not be read, and must not be lost.
const CREATION_LOG_BYTES: u64 = 16 << 10;
const NO_MUTEX: OpenFlags = OpenFlags::SQLITE_OPEN_NO_MUTEX;
/// How long another program may hold the file while it is checked.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
const INSPECT_SETUP: &str = "PRAGMA query_only = ON; PRAGMA trusted_schema = OFF; \
    PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -1024; BEGIN";
