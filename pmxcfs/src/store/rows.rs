//! Rows of the table to entries of the tree.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use rusqlite::{Connection, Row, types::ValueRef};

use super::{error::Problem, schema};
use crate::memdb::{Content, Inode, MAX_FILE_SIZE, Root, RowRef, TreeEntry};

/// Name of the row that holds the state of the whole tree.
pub(super) const VERSION_ROW_NAME: &[u8] = b"__version__";
/// Type of a directory.
pub(super) const KIND_DIRECTORY: u8 = 4;
/// Type of a file.
pub(super) const KIND_FILE: u8 = 8;

/// Everything that the table holds.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// The version row, if there is one.
    pub(super) root: Option<Root>,
    /// All others that make sense, in the order of their key.
    pub(super) entries: Vec<TreeEntry>,
    /// Those that do not.
    pub(super) problems: Vec<Problem>,
}

/// Sizes of hollow files by inode and version of their entry.
pub(super) type HollowSizes = BTreeMap<(Inode, u64), u32>;

/// Reads all rows, by ascending key.
pub(super) fn read(conn: &Connection) -> rusqlite::Result<Rows> {
    let mut rows = Rows::default();
    scan(conn, |row| match row {
        Ok(Decoded::Root(root)) => rows.root = Some(root),
        Ok(Decoded::Entry(entry)) => rows.entries.push(entry),
        Err(problem) => rows.problems.push(problem),
    })?;
    Ok(rows)
}

/// Calls `each` for all rows, by ascending key, one in memory at a time.
pub(super) fn scan(
    conn: &Connection,
    mut each: impl FnMut(Result<Decoded, Problem>),
) -> rusqlite::Result<()> {
    let hollow = read_hollow(conn)?;
    let mut statement = conn.prepare(SELECT_ALL)?;
    let mut cursor = statement.query([])?;
    while let Some(row) = cursor.next()? {
        each(decode(row, &hollow)?);
    }
    Ok(())
}

/// Reads the version row; [`rusqlite::Error::QueryReturnedNoRows`] if there is none.
pub(super) fn read_root(conn: &Connection) -> rusqlite::Result<Root> {
    conn.query_row(SELECT_ROOT, [], |row| {
        Ok(Root {
            version: unsigned(row, 0)?,
            writer: low_half(unsigned(row, 1)?),
            mtime: low_half(unsigned(row, 2)?),
        })
    })
}

/// Sizes of files without allocated bytes, which the table `tree` can not express.
///
/// The version ties each to one state of its entry: when another program has changed the file
/// meanwhile, or replaced it, its size is stale and not used.
fn read_hollow(conn: &Connection) -> rusqlite::Result<HollowSizes> {
    let mut sizes = HollowSizes::new();
    if !schema::has_hollow_table(conn)? {
        return Ok(sizes);
    }
    let mut statement = conn.prepare(SELECT_HOLLOW)?;
    let mut cursor = statement.query([])?;
    while let Some(row) = cursor.next()? {
        let size = u32::try_from(integer(row, 2)?).unwrap_or(0);
        if size > 0 && size <= MAX_FILE_SIZE {
            let key = (Inode(unsigned(row, 0)?), unsigned(row, 1)?);
            sizes.insert(key, size);
        }
    }
    Ok(sizes)
}

/// What a row says.
#[derive(Debug)]
pub(super) enum Decoded {
    /// State of the whole tree.
    Root(Root),
    /// Any other.
    Entry(TreeEntry),
}

/// One row; the outer error is SQLite's.
///
/// Conversions are those of the original, whatever type a value is stored with: see
/// [`SELECT_ALL`]. Entries have to come out the same on every member.
fn decode(row: &Row<'_>, hollow: &HollowSizes) -> rusqlite::Result<Result<Decoded, Problem>> {
    let inode = Inode(unsigned(row, 0)?);
    let parent = Inode(unsigned(row, 1)?);
    let version = unsigned(row, 2)?;
    let writer = low_half(unsigned(row, 3)?);
    let mtime = low_half(unsigned(row, 4)?);
    let [kind, ..] = integer(row, 5)?.to_le_bytes();
    let name = bytes(row, 6)?;
    let data = bytes(row, 7)?;
    let row_ref = || RowRef {
        inode,
        parent,
        name: name.escape_ascii().to_string(),
    };
    if name.is_empty() {
        return Ok(Err(Problem::NoName(row_ref())));
    }
    // As far as a C string goes.
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    let content = match kind {
        KIND_DIRECTORY if !data.is_empty() => {
            return Ok(Err(Problem::DirectoryWithData(row_ref(), data.len())));
        }
        KIND_DIRECTORY => Content::Directory,
        KIND_FILE => match hollow.get(&(inode, version)) {
            Some(size) if data.is_empty() => Content::Hollow(*size),
            _ => Content::File(Bytes::copy_from_slice(data)),
        },
        _ => return Ok(Err(Problem::BadType(row_ref(), i64::from(kind)))),
    };
    if inode == Inode::ROOT {
        if name != VERSION_ROW_NAME {
            return Ok(Err(Problem::VersionRowName(row_ref())));
        }
        return Ok(Ok(Decoded::Root(Root {
            version,
            writer,
            mtime,
        })));
    }
    let name = Arc::from(name);
    let entry = TreeEntry::new(inode, parent, version, writer, mtime, name, content);
    Ok(Ok(Decoded::Entry(entry)))
}

fn integer(row: &Row<'_>, column: usize) -> rusqlite::Result<i64> {
    Ok(match row.get_ref(column)? {
        ValueRef::Integer(value) => value,
        _ => 0,
    })
}

/// Numbers above the range of SQLite's integers are stored as negative ones.
fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    integer(row, column).map(i64::cast_unsigned)
}

fn bytes<'a>(row: &'a Row<'_>, column: usize) -> rusqlite::Result<&'a [u8]> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => &[],
    })
}

fn low_half(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The casts convert as SQLite's column functions do: text that is no number is 0, numbers become
/// text and then bytes. What has the declared type passes through.
const SELECT_ALL: &str = "SELECT inode, CAST(parent AS INTEGER), CAST(version AS INTEGER), \
     CAST(writer AS INTEGER), CAST(mtime AS INTEGER), CAST(type AS INTEGER), \
     CAST(name AS TEXT), CAST(data AS BLOB) FROM main.tree ORDER BY inode";

const SELECT_ROOT: &str = "SELECT CAST(version AS INTEGER), CAST(writer AS INTEGER), \
     CAST(mtime AS INTEGER) FROM main.tree WHERE inode = 0";

const SELECT_HOLLOW: &str = "SELECT inode, version, size FROM main.pmxcfs_hollow";
