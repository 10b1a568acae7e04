//! Entries of the tree to rows of the table.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rusqlite::{
    Connection, params,
    types::{Null, ToSqlOutput, ValueRef},
};

use super::{
    rows::{KIND_FILE, VERSION_ROW_NAME},
    schema::CREATE_HOLLOW,
};
use crate::memdb::{Change, Content, Inode, Root, TreeEntry};

/// What several changes do to the rows, each row once.
pub(super) struct Batch<'a> {
    /// Last state of each row that changes; `None` if it goes.
    rows: BTreeMap<Inode, Option<&'a Arc<TreeEntry>>>,
    /// Last state of the whole tree.
    root: Root,
}

impl<'a> Batch<'a> {
    /// Sums changes up; `None` if there are none.
    pub(super) fn new(changes: &'a [Change]) -> Option<Self> {
        let root = changes.last()?.root;
        let mut rows = BTreeMap::new();
        for change in changes {
            if let Some(inode) = change.delete {
                rows.insert(inode, None);
            }
            if let Some(entry) = &change.upsert {
                rows.insert(entry.inode, Some(entry));
            }
        }
        Some(Self { rows, root })
    }

    /// Writes all rows. Runs inside a transaction.
    pub(super) fn write(&self, writer: &mut RowWriter<'_>) -> rusqlite::Result<()> {
        for (inode, row) in &self.rows {
            match row {
                Some(entry) => writer.put(entry)?,
                None => writer.delete(*inode)?,
            }
        }
        writer.put_root(self.root, KIND_FILE)
    }
}

/// Writes single rows, and knows which hollow sizes are stored.
pub(super) struct RowWriter<'a> {
    pub(super) conn: &'a Connection,
    /// Inodes that have a row in the table of hollow files. Becomes that of the store on commit.
    pub(super) hollow: BTreeSet<Inode>,
}

impl RowWriter<'_> {
    /// Writes the row of an entry, new or replaced.
    pub(super) fn put(&mut self, entry: &TreeEntry) -> rusqlite::Result<()> {
        let data = match &entry.content {
            Content::File(data) if !data.is_empty() => ToSqlOutput::Borrowed(ValueRef::Blob(data)),
            Content::Directory | Content::File(_) | Content::Hollow(_) => Null.into(),
        };
        self.conn.prepare_cached(REPLACE)?.execute(params![
            entry.inode.0.cast_signed(),
            entry.parent.0.cast_signed(),
            entry.version.cast_signed(),
            entry.writer,
            entry.mtime,
            entry.kind(),
            // Names are bytes, not always UTF-8.
            ToSqlOutput::Borrowed(ValueRef::Text(&entry.name)),
            data,
        ])?;
        match entry.content {
            Content::Hollow(size) => self.put_hollow(entry, size),
            Content::Directory | Content::File(_) => self.delete_hollow(entry.inode),
        }
    }

    /// Writes the version row with that type.
    pub(super) fn put_root(&mut self, root: Root, kind: u8) -> rusqlite::Result<()> {
        self.conn.prepare_cached(REPLACE)?.execute(params![
            0,
            0,
            root.version.cast_signed(),
            root.writer,
            root.mtime,
            kind,
            ToSqlOutput::Borrowed(ValueRef::Text(VERSION_ROW_NAME)),
            Null,
        ])?;
        Ok(())
    }

    /// Deletes a row, if it exists.
    pub(super) fn delete(&mut self, inode: Inode) -> rusqlite::Result<()> {
        let key = inode.0.cast_signed();
        self.conn.prepare_cached(DELETE)?.execute([key])?;
        self.delete_hollow(inode)
    }

    /// Deletes all rows.
    pub(super) fn delete_all(&mut self) -> rusqlite::Result<()> {
        self.conn.execute("DELETE FROM main.tree", [])?;
        if !self.hollow.is_empty() {
            self.conn.execute("DELETE FROM main.pmxcfs_hollow", [])?;
            self.hollow.clear();
        }
        Ok(())
    }

    fn put_hollow(&mut self, entry: &TreeEntry, size: u32) -> rusqlite::Result<()> {
        self.conn.execute_batch(CREATE_HOLLOW)?;
        let key = entry.inode.0.cast_signed();
        let row = params![key, entry.version.cast_signed(), size];
        self.conn.prepare_cached(REPLACE_HOLLOW)?.execute(row)?;
        self.hollow.insert(entry.inode);
        Ok(())
    }

    fn delete_hollow(&mut self, inode: Inode) -> rusqlite::Result<()> {
        // The table need not exist, and costs nothing while it is not needed.
        if self.hollow.remove(&inode) {
            let key = inode.0.cast_signed();
            self.conn.prepare_cached(DELETE_HOLLOW)?.execute([key])?;
        }
        Ok(())
    }
}

const REPLACE: &str = "REPLACE INTO main.tree \
    (inode, parent, version, writer, mtime, type, name, data) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
const DELETE: &str = "DELETE FROM main.tree WHERE inode = ?1";
const REPLACE_HOLLOW: &str =
    "REPLACE INTO main.pmxcfs_hollow (inode, version, size) VALUES (?1, ?2, ?3)";
const DELETE_HOLLOW: &str = "DELETE FROM main.pmxcfs_hollow WHERE inode = ?1";
