//! The state transfer: the rows of this node become those of the member whose tree won.

use std::sync::Arc;

use imbl::ordmap::DiffItem;
use rusqlite::Connection;

use super::{
    Store, StoreError,
    check::is_refused,
    error::{Problem, Refusal},
    rows::{self, Decoded, KIND_DIRECTORY},
    write::RowWriter,
};
use crate::memdb::{Tree, TreeEntry};

impl Store {
    /// Makes the rows those of `new`, in one transaction.
    ///
    /// `old` is the tree that is stored; what both share is not written. All rows are read back
    /// before the commit: they must be `new`, and must load at the next start. Should rows differ
    /// although nothing was to change there, all rows are written anew.
    ///
    /// # Errors
    /// [`StoreError::Refused`] if `new` would not load, [`StoreError::Mismatch`] if the rows do
    /// not come out right, [`StoreError::Sqlite`]. The database is unchanged then.
    pub fn replace(&mut self, old: &Tree, new: &Tree) -> Result<(), StoreError> {
        self.transaction("replace the content of", |writer, path| {
            write_difference(writer, old, new)?;
            if let Some(detail) = first_difference(writer.conn, new)? {
                tracing::warn!(%detail, "stored rows are not what they should be, writing all");
                write_all(writer, new)?;
            }
            if let Some(detail) = first_difference(writer.conn, new)? {
                let path = path.to_path_buf();
                return Ok(Err(StoreError::Mismatch { path, detail }));
            }
            let path = path.to_path_buf();
            Ok(loads(new).map_err(|problems| Box::new(Refusal { path, problems }).into()))
        })
    }
}

fn write_difference(writer: &mut RowWriter<'_>, old: &Tree, new: &Tree) -> rusqlite::Result<()> {
    for item in old.entries().diff(new.entries()) {
        match item {
            DiffItem::Add(_, entry)
            | DiffItem::Update {
                new: (_, entry), ..
            } => writer.put(entry)?,
            DiffItem::Remove(inode, _) => writer.delete(*inode)?,
        }
    }
    // As an entry of the transfer the root is a directory.
    writer.put_root(new.root(), KIND_DIRECTORY)
}

fn write_all(writer: &mut RowWriter<'_>, new: &Tree) -> rusqlite::Result<()> {
    writer.delete_all()?;
    for entry in new.entries().values() {
        writer.put(entry)?;
    }
    writer.put_root(new.root(), KIND_DIRECTORY)
}

/// Compares the rows with the tree; equal ones have equal digests.
fn first_difference(conn: &Connection, new: &Tree) -> rusqlite::Result<Option<String>> {
    let mut difference = None;
    let mut root = None;
    let mut count = 0;
    rows::scan(conn, |row| {
        let found = match row {
            Err(problem) => Some(problem.to_string()),
            Ok(Decoded::Root(stored)) => {
                root = Some(stored);
                None
            }
            Ok(Decoded::Entry(entry)) => {
                count += 1;
                entry_difference(&entry, new)
            }
        };
        if difference.is_none() {
            difference = found;
        }
    })?;
    if root != Some(new.root()) {
        let differs = || format!("version row {root:?}, not {:?}", new.root());
        return Ok(Some(difference.unwrap_or_else(differs)));
    }
    // No key occurs twice, so equal counts mean that none is missing.
    let wanted = new.entries().len();
    let is_short = (count != wanted).then(|| format!("{count} entries, not {wanted}"));
    Ok(difference.or(is_short))
}

fn entry_difference(entry: &TreeEntry, new: &Tree) -> Option<String> {
    match new.get(entry.inode) {
        None => Some(format!("inode {} should not exist", entry.inode)),
        Some(wanted) if **wanted != *entry => Some(format!("inode {} differs", entry.inode)),
        Some(_) => None,
    }
}

/// Whether the tree loads at the next start.
fn loads(new: &Tree) -> Result<(), Vec<Problem>> {
    let entries = new.entries().values().map(Arc::clone).collect();
    let issues = match Tree::load(new.root(), entries) {
        Ok((_, issues)) | Err(issues) => issues,
    };
    let problems: Vec<_> = issues
        .into_iter()
        .filter(is_refused)
        .map(Problem::Tree)
        .collect();
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}
