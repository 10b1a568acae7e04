//! The table: how it is declared, and whether an existing one can be used.

use rusqlite::{Connection, OptionalExtension};

use super::error::Problem;

/// Creates the table, with the column declarations that all implementations use.
pub(super) const CREATE_TREE: &str = "CREATE TABLE tree (\
    inode INTEGER PRIMARY KEY NOT NULL, \
    parent INTEGER NOT NULL CHECK(typeof(parent)=='integer'), \
    version INTEGER NOT NULL CHECK(typeof(version)=='integer'), \
    writer INTEGER NOT NULL CHECK(typeof(writer)=='integer'), \
    mtime INTEGER NOT NULL CHECK(typeof(mtime)=='integer'), \
    type INTEGER NOT NULL CHECK(typeof(type)=='integer'), \
    name TEXT NOT NULL, \
    data BLOB)";

/// Creates the table of sizes of files without allocated bytes. Most databases never need it.
pub(super) const CREATE_HOLLOW: &str = "CREATE TABLE IF NOT EXISTS pmxcfs_hollow (\
    inode INTEGER PRIMARY KEY NOT NULL, \
    version INTEGER NOT NULL, \
    size INTEGER NOT NULL)";

const COLUMNS: [&str; 8] = [
    "inode", "parent", "version", "writer", "mtime", "type", "name", "data",
];

/// State of the schema.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Schema {
    /// There is no table `tree` yet.
    Missing,
    /// It can be used.
    Usable,
    /// It can not.
    Unusable(Problem),
}

struct Column {
    name: String,
    required: bool,
    has_default: bool,
    key: i64,
    computed: bool,
}

/// Looks whether the table has what reading and writing need.
///
/// More columns and more tables are fine, as long as rows can be written without them.
pub(super) fn check(conn: &Connection) -> rusqlite::Result<Schema> {
    let unusable = |what: String| Ok(Schema::Unusable(Problem::Schema(what)));
    match kind_of(conn, "tree")? {
        None => return Ok(Schema::Missing),
        Some(kind) if kind != "table" => return unusable(format!("is a {kind}, not a table")),
        Some(_) => {}
    }
    let columns = columns(conn, "tree")?;
    let known = |column: &Column| COLUMNS.iter().any(|name| is_same(name, &column.name));
    for name in COLUMNS {
        match columns.iter().find(|column| is_same(name, &column.name)) {
            None => return unusable(format!("column {name} is missing")),
            Some(column) if column.computed => {
                return unusable(format!("column {name} is a computed one"));
            }
            Some(_) => {}
        }
    }
    let keys = || columns.iter().filter(|column| column.key > 0);
    if keys().count() != 1 || !keys().all(|column| is_same("inode", &column.name)) {
        return unusable("inode is not its primary key".to_owned());
    }
    for column in columns.iter().filter(|column| !known(column)) {
        if column.required && !column.has_default && !column.computed {
            return unusable(format!(
                "the extra column {} has no default, so that no row can be written",
                column.name
            ));
        }
    }
    if let Some(kind) = kind_of(conn, "pmxcfs_hollow")? {
        let columns = self::columns(conn, "pmxcfs_hollow")?;
        let complete = ["inode", "version", "size"]
            .iter()
            .all(|name| columns.iter().any(|column| is_same(name, &column.name)));
        if kind != "table" || !complete {
            return unusable(format!(
                "the {kind} pmxcfs_hollow beside it is of another program; drop or rename it"
            ));
        }
    }
    Ok(Schema::Usable)
}

/// Whether the table of hollow files exists.
pub(super) fn has_hollow_table(conn: &Connection) -> rusqlite::Result<bool> {
    Ok(kind_of(conn, "pmxcfs_hollow")?.is_some())
}

fn kind_of(conn: &Connection, name: &str) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT type FROM pragma_table_list \
               WHERE schema = 'main' AND name = ?1 COLLATE NOCASE";
    conn.query_row(sql, [name], |row| row.get(0)).optional()
}

fn columns(conn: &Connection, table: &str) -> rusqlite::Result<Vec<Column>> {
    let sql = "SELECT name, \"notnull\", dflt_value IS NOT NULL, pk, hidden \
               FROM pragma_table_xinfo(?1, 'main')";
    let mut statement = conn.prepare(sql)?;
    let columns = statement.query_map([table], |row| {
        Ok(Column {
            name: row.get(0)?,
            required: row.get(1)?,
            has_default: row.get(2)?,
            key: row.get(3)?,
            computed: row.get::<_, i64>(4)? != 0,
        })
    })?;
    columns.collect()
}

fn is_same(name: &str, other: &str) -> bool {
    name.eq_ignore_ascii_case(other)
}
