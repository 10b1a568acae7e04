//! The state transfer: the rows of this node become those of the member whose tree won.

use std::sync::Arc;

use imbl::ordmap::DiffItem;

use super::{
    Store, StoreError,
    check::is_refused,
    error::{Problem, Refusal},
    rows::{self, KIND_DIRECTORY, Rows},
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
            let mut rows = rows::read(writer.conn)?;
            if let Some(detail) = first_difference(&rows, new) {
                tracing::warn!(%detail, "stored rows are not what they should be, writing all");
                write_all(writer, new)?;
                rows = rows::read(writer.conn)?;
            }
            if let Some(detail) = first_difference(&rows, new) {
                let path = path.to_path_buf();
                return Ok(Err(StoreError::Mismatch { path, detail }));
            }
            drop(rows);
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
fn first_difference(rows: &Rows, new: &Tree) -> Option<String> {
    if let Some(problem) = rows.problems.first() {
        return Some(problem.to_string());
    }
    if rows.root != Some(new.root()) {
        return Some(format!("version row {:?}, not {:?}", rows.root, new.root()));
    }
    for entry in &rows.entries {
        match new.get(entry.inode) {
            None => return Some(format!("inode {} should not exist", entry.inode)),
            Some(wanted) if **wanted != *entry => {
                return Some(format!("inode {} differs", entry.inode));
            }
            Some(_) => {}
        }
    }
    // No key occurs twice, so equal counts mean that none is missing.
    let (stored, wanted) = (rows.entries.len(), new.entries().len());
    (stored != wanted).then(|| format!("{stored} entries, not {wanted}"))
}

/// Whether the tree loads at the next start.
fn loads(new: &Tree) -> Result<(), Vec<Problem>> {
    let entries = new.entries().values().map(shared_copy).collect();
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

/// The same entry, its data shared.
fn shared_copy(entry: &Arc<TreeEntry>) -> TreeEntry {
    entry.restamped(entry.version, entry.writer, entry.mtime)
}
