//! The database on disk: keeps the tree across restarts.
//!
//! Owns `config.db` and the only connection to it that writes, and everything that knows SQLite.
//! Does not own the tree: it is given changes that have been applied, and gives a tree at start.
//!
//! Invariants:
//! - a database that does not pass its [checks](check()) is never written;
//! - a call stores all of its changes or none, and a failure leaves the store usable;
//! - the table is what the tree says, row by row, and other implementations of this file system
//!   can open it: same schema, same conventions, in write-ahead log mode.
//!
//! Not durable at once: a commit survives the end of the process, [`Syncer::sync`] makes it
//! survive a loss of power.
//!
//! Threads: [`Store`] can move between threads and is used by one at a time. [`Syncer`] is
//! independent of it, so that waiting for the disk holds nobody up.

mod backup;
mod check;
mod error;
mod keeper;
mod lock;
mod log_file;
mod replace;
mod rows;
mod schema;
mod write;

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use rusqlite::{Connection, MAIN_DB, OpenFlags, OptionalExtension};

pub use check::{Note, Report, check};
pub use error::{Problem, Refusal, StoreError};
pub use keeper::Keeper;
pub use lock::{InstanceLock, LockError};

use crate::memdb::{Change, Content, Inode, LoadIssue, Op, Root, Stamp, Tree, TreeEntry};
use check::{resolved, sidecar};
use rows::KIND_FILE;
use write::{Batch, RowWriter};

/// Name of the database in its folder.
pub const DB_FILE: &str = "config.db";

/// How a database is opened.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long to wait for another process that holds the database.
    pub busy_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            busy_timeout: Duration::from_secs(10),
        }
    }
}

/// A database that was opened.
#[derive(Debug)]
pub struct Opened {
    /// The database.
    pub store: Store,
    /// What it holds.
    pub tree: Tree,
    /// What is wrong with it, but not so much that it could not be loaded.
    pub issues: Vec<LoadIssue>,
    /// Other remarks.
    pub notes: Vec<Note>,
    /// Whether it was created just now.
    pub fresh: bool,
}

/// The open database. See the module documentation.
#[derive(Debug)]
pub struct Store {
    conn: Connection,
    path: PathBuf,
    /// Inodes with a row in the table of hollow files.
    hollow: BTreeSet<Inode>,
    syncer: Syncer,
}

impl Store {
    /// Checks, loads and opens the database in a folder, or creates it.
    ///
    /// `now`, in seconds since 1970, becomes the time of a new version row.
    ///
    /// # Errors
    /// See [`StoreError`]. After [`StoreError::Refused`] nothing has been written.
    pub fn open(dir: &Path, now: u32) -> Result<Opened, StoreError> {
        Self::open_with(dir, now, Options::default())
    }

    /// [`Store::open`] with options.
    ///
    /// # Errors
    /// As there.
    pub fn open_with(dir: &Path, now: u32, options: Options) -> Result<Opened, StoreError> {
        let path = resolved(&dir.join(DB_FILE));
        let report = check(&path)?;
        ensure_file(&path)?;
        let conn = connect(&path, options).map_err(StoreError::sqlite("open", &path))?;
        configure(&conn, &path, report.is_new)?;
        let opened = begin(&conn, &report, now).map_err(StoreError::sqlite("open", &path))?;
        if !opened {
            return Err(StoreError::ChangedMeanwhile { path });
        }
        let log = sidecar(&path, "-wal");
        let file = File::open(&log).map_err(StoreError::io("open", &log))?;
        if report.is_new {
            sync_dir(path.parent().unwrap_or(dir))?;
        }
        let store = Self {
            conn,
            hollow: hollow_inodes(&report.tree),
            syncer: Syncer {
                log: Arc::new(file),
                path: Arc::from(log),
            },
            path,
        };
        Ok(Opened {
            store,
            tree: report.tree,
            issues: report.issues,
            notes: report.notes,
            fresh: report.is_new,
        })
    }

    /// Path of the database.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Stores changes, in one transaction: all of them or none.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`]; a later commit may work.
    pub fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let Some(batch) = Batch::new(changes) else {
            return Ok(());
        };
        self.transaction("write to", |writer, _| batch.write(writer).map(Ok))
    }

    /// Reads the tree back from the rows as they are stored.
    ///
    /// # Errors
    /// [`StoreError::Refused`] if they make no tree, [`StoreError::Sqlite`].
    pub fn reload(&self) -> Result<Tree, StoreError> {
        let rows = rows::read(&self.conn).map_err(StoreError::sqlite("read", &self.path))?;
        match check::build(rows, Vec::new()) {
            Ok(report) => Ok(report.tree),
            Err(problems) => Err(check::refuse(&self.path, problems)),
        }
    }

    /// Sets how long to wait for another process that holds the database.
    pub fn set_busy_timeout(&self, timeout: Duration) {
        if let Err(error) = self.conn.busy_timeout(timeout) {
            tracing::warn!(%error, "the busy timeout of the database stays as it was");
        }
    }

    /// Tries whether the database can be written: stores the version row once more as it is.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn probe(&mut self) -> Result<(), StoreError> {
        self.transaction("write to", |writer, _| {
            writer
                .conn
                .execute("UPDATE tree SET mtime = mtime WHERE inode = 0", [])
                .map(|_| Ok(()))
        })
    }

    /// Creates `corosync.conf` with that content in a new database, in one transaction.
    ///
    /// # Errors
    /// [`StoreError::Import`] if the tree refuses it; then, and on failure, `tree` is unchanged.
    pub fn import_conf(
        &mut self,
        tree: &mut Tree,
        content: &Bytes,
        now: u32,
    ) -> Result<(), StoreError> {
        let path = Bytes::from_static(CONF_PATH.as_bytes());
        let stamp = Stamp {
            writer: 0,
            mtime: now,
        };
        let ops = [
            Op::Create { path: path.clone() },
            Op::Write {
                path,
                offset: 0,
                data: content.clone(),
                truncate: false,
            },
        ];
        let mut working = tree.clone();
        let mut changes = Vec::new();
        for op in &ops {
            let outcome = working.apply(op, stamp);
            outcome.result.map_err(|reason| StoreError::Import {
                conf: CONF_PATH,
                reason,
            })?;
            changes.extend(outcome.change);
        }
        self.commit(&changes)?;
        *tree = working;
        Ok(())
    }

    /// Makes everything that was committed survive a loss of power.
    ///
    /// # Errors
    /// As [`Syncer::sync`].
    pub fn sync(&self) -> Result<(), StoreError> {
        self.syncer.sync()
    }

    /// Does what [`Store::sync`] does, without the store.
    #[must_use]
    pub fn syncer(&self) -> Syncer {
        self.syncer.clone()
    }

    /// Closes the database: moves the log into it and removes the log.
    ///
    /// Dropping does the same, but can not say that it failed. Nothing is lost if it fails.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn close(self) -> Result<(), StoreError> {
        let Self { conn, path, .. } = self;
        conn.flush_prepared_statement_cache();
        conn.close()
            .map_err(|(_, error)| StoreError::sqlite("close", &path)(error))
    }

    /// Runs `body` in a transaction; the inner error is for what SQLite did not refuse.
    fn transaction(
        &mut self,
        action: &'static str,
        body: impl FnOnce(&mut RowWriter<'_>, &Path) -> rusqlite::Result<Result<(), StoreError>>,
    ) -> Result<(), StoreError> {
        let run = |sql: &str| self.conn.prepare_cached(sql)?.execute([]).map(|_| ());
        run("BEGIN IMMEDIATE").map_err(StoreError::sqlite(action, &self.path))?;
        let mut writer = RowWriter {
            conn: &self.conn,
            hollow: self.hollow.clone(),
        };
        let done = match body(&mut writer, &self.path) {
            Ok(Ok(())) => log_file::in_one_piece(|| run("COMMIT"))
                .map_err(StoreError::sqlite(action, &self.path)),
            Ok(Err(error)) => Err(error),
            Err(error) => Err(StoreError::sqlite(action, &self.path)(error)),
        };
        let hollow = writer.hollow;
        if let Err(error) = done {
            // SQLite has rolled back by itself after some errors, and a rollback that fails is
            // made up for by the next transaction, which overwrites the tail of the log.
            if !self.conn.is_autocommit()
                && let Err(rollback) = run("ROLLBACK")
            {
                tracing::warn!(error = %rollback, "rollback of the database failed");
            }
            return Err(error);
        }
        self.hollow = hollow;
        Ok(())
    }
}

/// Waits until the disk has what was committed.
#[derive(Clone, Debug)]
pub struct Syncer {
    /// Own descriptor of the write-ahead log. One of the database itself would not do: closing it
    /// drops the locks that SQLite holds there.
    log: Arc<File>,
    path: Arc<Path>,
}

impl Syncer {
    /// Makes everything that was committed before the call survive a loss of power.
    ///
    /// Committed changes are in the log, or have been moved to the database, which SQLite syncs
    /// before it uses the log anew.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the disk does not take it. What was not yet durable may be lost
    /// with the next crash, even if a later call succeeds.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.log
            .sync_data()
            .map_err(StoreError::io("sync", &self.path))
    }
}

/// Creates the database file if it is missing, and makes it and its log private.
fn ensure_file(path: &Path) -> Result<(), StoreError> {
    let created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path);
    match created {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(StoreError::io("create", path)(error)),
    }
    for suffix in ["", "-wal", "-shm"] {
        let file = sidecar(path, suffix);
        match fs::metadata(&file) {
            Ok(meta) if meta.permissions().mode() & 0o7777 != FILE_MODE => {
                fs::set_permissions(&file, Permissions::from_mode(FILE_MODE))
                    .map_err(StoreError::io("change the mode of", &file))?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn connect(path: &Path, options: Options) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = match log_file::layer() {
        Some(layer) => Connection::open_with_flags_and_vfs(path, flags, layer)?,
        None => Connection::open_with_flags(path, flags)?,
    };
    conn.busy_timeout(options.busy_timeout)?;
    Ok(conn)
}

/// Sets what is not part of the file, and what a new file needs.
fn configure(conn: &Connection, path: &Path, is_new: bool) -> Result<(), StoreError> {
    let error = || StoreError::sqlite("open", path);
    let is_readonly = conn.is_readonly(MAIN_DB).map_err(error())?;
    if is_readonly {
        // SQLite opens such a file, too, and fails at the first change.
        return Err(StoreError::io("open for writing", path)(
            io::ErrorKind::ReadOnlyFilesystem.into(),
        ));
    }
    if is_new {
        conn.pragma_update(None, "page_size", NEW_PAGE_SIZE)
            .map_err(error())?;
    }
    let mode: String = conn
        .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))
        .map_err(error())?;
    if !mode.eq_ignore_ascii_case("wal") {
        let why = io::Error::other("this file system can not hold a database in WAL mode");
        return Err(StoreError::io("open for writing", path)(why));
    }
    conn.execute_batch(SETUP).map_err(error())?;
    let page_size: u32 = conn
        .pragma_query_value(None, "page_size", |row| row.get(0))
        .map_err(error())?;
    for (pragma, bytes) in [
        ("wal_autocheckpoint", LOG_BYTES),
        ("cache_spill", SPILL_BYTES),
    ] {
        conn.pragma_update(None, pragma, bytes / page_size.max(1))
            .map_err(error())?;
    }
    Ok(())
}

/// First access: creates what is missing, and makes sure that the rows are those that were
/// checked. Returns whether they are.
fn begin(conn: &Connection, report: &Report, now: u32) -> rusqlite::Result<bool> {
    let wanted = report.stored_root.filter(|root| root.version > 0);
    if !report.is_new && stored_root(conn)? != report.stored_root {
        return Ok(false);
    }
    if wanted.is_some() {
        return Ok(true);
    }
    conn.execute_batch("BEGIN IMMEDIATE")?;
    if report.is_new {
        conn.execute_batch(schema::CREATE_TREE)?;
    }
    let root = Root {
        version: 1,
        writer: 0,
        mtime: now,
    };
    let hollow = BTreeSet::new();
    RowWriter { conn, hollow }.put_root(root, KIND_FILE)?;
    conn.execute_batch("COMMIT")?;
    Ok(true)
}

fn stored_root(conn: &Connection) -> rusqlite::Result<Option<Root>> {
    rows::read_root(conn).optional()
}

fn hollow_inodes(tree: &Tree) -> BTreeSet<Inode> {
    let is_hollow = |entry: &&Arc<TreeEntry>| matches!(entry.content, Content::Hollow(_));
    let hollow = tree.entries().values().filter(is_hollow);
    hollow.map(|entry| entry.inode).collect()
}

fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(StoreError::io("sync", dir))
}

const CONF_PATH: &str = "corosync.conf";
const FILE_MODE: u32 = 0o600;
/// A small change dirties two pages, and each goes to the log as a whole: small pages spare the
/// disk. Existing databases keep theirs.
const NEW_PAGE_SIZE: u32 = 1024;
/// Size of the log at which it is moved into the database, bytes.
const LOG_BYTES: u32 = 4 << 20;
/// A transaction is kept in memory up to this size, bytes: pages that are written early can get
/// dirty again and are then written twice.
const SPILL_BYTES: u32 = 4 << 20;
/// The tree holds all data already, so SQLite gets a cache for inner pages only. The log gives
/// space back that a large transaction has taken.
const SETUP: &str = "PRAGMA synchronous = NORMAL; PRAGMA temp_store = MEMORY; \
    PRAGMA trusted_schema = OFF; PRAGMA cache_size = -128; PRAGMA journal_size_limit = 8388608";

#[cfg(test)]
mod tests;
