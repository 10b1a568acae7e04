//! The database of the cluster file system that a joining node had: kept as text, as
//! `sqlite3 config.db .dump | gzip` does it.

use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

use super::client::escape;
use crate::failure::Outcome;
use crate::host::files::{SECRET, failed};
use crate::transaction::Transaction;

/// Files of a database.
pub const FILES: [&str; 3] = ["config.db", "config.db-wal", "config.db-shm"];
/// How many copies are kept.
const KEPT: usize = 10;
/// Only root may look into them: the database holds keys.
const DIRECTORY_MODE: u32 = 0o700;

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It can not be written.
    #[error("{0}")]
    Write(#[from] io::Error),
    /// It can not be read.
    #[error("the database can not be read: {0}")]
    Read(#[from] rusqlite::Error),
}

impl BackupError {
    /// The disk is full: nothing else will succeed either.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Write(error)
            if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

/// Name of a copy made at a time in seconds since 1970.
#[must_use]
pub fn copy_name(seconds: u64) -> String {
    format!("config-{seconds}.sql.gz")
}

/// Makes the directory of the copies, which only root may look into.
///
/// # Errors
/// Names the directory.
pub fn make_directory(path: &Path, transaction: &mut Transaction) -> Outcome {
    transaction.make_directory(path)?;
    let set = fs::set_permissions(path, fs::Permissions::from_mode(DIRECTORY_MODE));
    set.map_err(|error| failed("set the mode of", path, &error))
}

/// Writes a database as compressed text. Nobody else may have it open; nothing beside it changes.
/// `scratch` is a directory for a database that was not closed properly.
///
/// # Errors
/// When it can not be read or the copy not be written; there is no copy then.
pub fn dump(database: &Path, copy: &Path, scratch: &Path) -> Result<(), BackupError> {
    let written = write(database, copy, scratch);
    if written.is_err() {
        // Half a copy is worse than none.
        drop(fs::remove_file(copy));
    }
    written
}

fn write(database: &Path, copy: &Path, scratch: &Path) -> Result<(), BackupError> {
    let connection = open(database, scratch)?;
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(SECRET)
        .open(copy)?;
    let mut output = BufWriter::new(GzEncoder::new(file, Compression::default()));
    text(&connection, &mut output)?;
    let file = output
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?
        .finish()?;
    file.sync_all()?;
    Ok(())
}

fn open(database: &Path, scratch: &Path) -> Result<Connection, BackupError> {
    let wal = beside(database, "-wal");
    let is_closed = fs::metadata(&wal).map_or(true, |found| found.len() == 0);
    if is_closed {
        let path = database.to_string_lossy();
        let path: Vec<String> = path.split('/').map(escape).collect();
        let uri = format!("file:{}?immutable=1", path.join("/"));
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        return Ok(Connection::open_with_flags(uri, flags)?);
    }
    // What is in the log belongs to the content; reading it in place would change the files.
    let copy = scratch.join("dump.db");
    fs::copy(database, &copy)?;
    fs::copy(&wal, beside(&copy, "-wal"))?;
    Ok(Connection::open(&copy)?)
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn text(connection: &Connection, output: &mut impl Write) -> Result<(), BackupError> {
    output.write_all(b"PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n")?;
    let select = "SELECT name, sql FROM sqlite_schema \
                  WHERE type = 'table' AND sql NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
                  ORDER BY rowid";
    let mut tables = connection.prepare(select)?;
    let mut tables = tables.query([])?;
    while let Some(table) = tables.next()? {
        let (name, sql): (String, String) = (table.get(0)?, table.get(1)?);
        writeln!(output, "{sql};")?;
        rows(connection, &name, output)?;
    }
    let select = "SELECT sql FROM sqlite_schema \
                  WHERE type IN ('index', 'trigger', 'view') AND sql NOT NULL ORDER BY rowid";
    let mut others = connection.prepare(select)?;
    let mut others = others.query([])?;
    while let Some(other) = others.next()? {
        let sql: String = other.get(0)?;
        writeln!(output, "{sql};")?;
    }
    output.write_all(b"COMMIT;\n")?;
    Ok(())
}

fn rows(connection: &Connection, table: &str, output: &mut impl Write) -> Result<(), BackupError> {
    let quoted = format!("\"{}\"", table.replace('"', "\"\""));
    let is_plain = table
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let shown = if is_plain { table } else { &quoted };
    let mut select = connection.prepare(&format!("SELECT * FROM {quoted}"))?;
    let columns = select.column_count();
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        write!(output, "INSERT INTO {shown} VALUES(")?;
        for column in 0..columns {
            if column > 0 {
                output.write_all(b",")?;
            }
            value(row.get_ref(column)?, output)?;
        }
        output.write_all(b");\n")?;
    }
    Ok(())
}

fn value(value: ValueRef<'_>, output: &mut impl Write) -> io::Result<()> {
    match value {
        ValueRef::Null => output.write_all(b"NULL"),
        ValueRef::Integer(number) => write!(output, "{number}"),
        ValueRef::Real(number) => write!(output, "{number:?}"),
        ValueRef::Text(text) => {
            output.write_all(b"'")?;
            for piece in text.split_inclusive(|byte| *byte == b'\'') {
                output.write_all(piece)?;
                if piece.ends_with(b"'") {
                    output.write_all(b"'")?;
                }
            }
            output.write_all(b"'")
        }
        ValueRef::Blob(blob) => {
            output.write_all(b"X'")?;
            for byte in blob {
                write!(output, "{byte:02x}")?;
            }
            output.write_all(b"'")
        }
    }
}

/// Removes all copies but the newest ones, and returns the removed ones.
pub fn prune(directory: &Path) -> Vec<PathBuf> {
    let mut copies: Vec<PathBuf> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let number = name
                .strip_prefix("config-")
                .and_then(|rest| rest.strip_suffix(".sql.gz"));
            number.is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit()))
        })
        .map(|entry| entry.path())
        .collect();
    copies.sort();
    let old = copies.len().saturating_sub(KEPT);
    copies.truncate(old);
    copies.retain(|copy| fs::remove_file(copy).is_ok());
    copies
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::Command;

    use super::*;

    fn unpacked(copy: &Path) -> String {
        let mut text = String::new();
        let file = fs::File::open(copy).unwrap();
        flate2::read::GzDecoder::new(file)
            .read_to_string(&mut text)
            .unwrap();
        text
    }

    fn filled(path: &Path) -> Connection {
        let connection = Connection::open(path).unwrap();
        connection
            .execute_batch(
                "CREATE TABLE tree (inode INTEGER PRIMARY KEY NOT NULL, name TEXT NOT NULL, data BLOB);\n\
                 INSERT INTO tree VALUES (0, '__version__', NULL), (2, 'it''s', X'00ff0a'), (3, '', X'');\n\
                 CREATE INDEX names ON tree (name);",
            )
            .unwrap();
        connection
    }

    #[test]
    fn a_dump_is_what_the_tool_writes_and_makes_the_same_database() {
        let directory = tempfile::tempdir().unwrap();
        let (database, copy) = (
            directory.path().join("config.db"),
            directory.path().join("copy.gz"),
        );
        filled(&database).close().unwrap();
        let before = fs::read(&database).unwrap();
        dump(&database, &copy, directory.path()).unwrap();
        assert_eq!(fs::read(&database).unwrap(), before);
        let text = unpacked(&copy);
        assert!(
            text.contains("INSERT INTO tree VALUES(2,'it''s',X'00ff0a');\n"),
            "{text}"
        );
        if let Ok(tool) = Command::new("sqlite3").arg(&database).arg(".dump").output() {
            assert_eq!(String::from_utf8(tool.stdout).unwrap(), text);
        }
        let again = Connection::open_in_memory().unwrap();
        again.execute_batch(&text).unwrap();
        let count: u32 = again
            .query_row("SELECT count(*) FROM tree", [], |row| row.get(0))
            .unwrap();
        assert_eq!(count, 3);
        let names: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(names.len(), 2, "nothing else is left: {names:?}");
    }

    #[test]
    fn what_is_only_in_the_log_is_dumped_too() {
        let directory = tempfile::tempdir().unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let database = directory.path().join("config.db");
        let copy = directory.path().join("copy.gz");
        let connection = filled(&database);
        connection
            .pragma_update(None, "journal_mode", "WAL")
            .unwrap();
        connection
            .execute("INSERT INTO tree VALUES (9, 'late', NULL)", [])
            .unwrap();
        dump(&database, &copy, scratch.path()).unwrap();
        assert!(unpacked(&copy).contains("(9,'late',NULL)"));
    }

    #[test]
    fn a_damaged_database_has_no_dump() {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("config.db");
        let copy = directory.path().join("copy.gz");
        fs::write(
            &database,
            "this is no database, but long enough to be looked at".repeat(99),
        )
        .unwrap();
        let error = dump(&database, &copy, directory.path()).unwrap_err();
        assert!(matches!(error, BackupError::Read(_)) && !error.is_full());
        assert!(!copy.exists());
    }

    #[test]
    fn ten_copies_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        for seconds in 100..115 {
            fs::write(directory.path().join(copy_name(seconds)), "").unwrap();
        }
        fs::write(directory.path().join("config-mine.sql.gz"), "").unwrap();
        assert_eq!(prune(directory.path()).len(), 5);
        assert!(!directory.path().join(copy_name(104)).exists());
        assert!(directory.path().join(copy_name(105)).exists());
        assert!(directory.path().join("config-mine.sql.gz").exists());
    }
}
