//! Are nodes equal? Compares trees as users see them, and databases row by row.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags};

use crate::lab::Host;
use crate::wait::eventually_ok;

/// Names at the top of the tree that are not replicated, or that differ by node.
const OWN: [&str; 10] = [
    ".version",
    ".members",
    ".vmlist",
    ".rrd",
    ".clusterlog",
    ".debug",
    "local",
    "qemu-server",
    "openvz",
    "lxc",
];
/// Differences that are listed in an error.
const SHOWN: usize = 10;

/// One file, directory or link, without what may differ between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Type bits of the mode.
    pub kind: u32,
    /// Size in bytes.
    pub size: u64,
    /// Time of the last change, in seconds.
    pub mtime: i64,
    /// Content of a file, target of a link, empty for a directory.
    pub content: Vec<u8>,
}

/// Everything below a directory, by path.
pub type Tree = BTreeMap<String, Entry>;
/// All rows of a database, by inode; a row is its values by column.
pub type Rows = BTreeMap<i64, BTreeMap<String, Value>>;

/// Reads the tree below `root`, without the virtual entries of pmxcfs.
///
/// # Errors
/// When something cannot be read, or vanishes meanwhile.
pub fn read_tree(root: &Path) -> Result<Tree> {
    let mut tree = Tree::new();
    let mut pending = vec![(String::new(), root.to_owned())];
    while let Some((prefix, dir)) = pending.pop() {
        for found in fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
            let path = found?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                bail!("the name of {} is not text", path.display());
            };
            if prefix.is_empty() && OWN.contains(&name) {
                continue;
            }
            let entry =
                read_entry(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let relative = format!("{prefix}{name}");
            if path.is_dir() {
                pending.push((format!("{relative}/"), path));
            }
            tree.insert(relative, entry);
        }
    }
    Ok(tree)
}

fn read_entry(path: &Path) -> Result<Entry> {
    let meta = fs::symlink_metadata(path)?;
    let content = if meta.is_file() {
        fs::read(path)?
    } else if meta.is_symlink() {
        fs::read_link(path)?.into_os_string().into_encoded_bytes()
    } else {
        Vec::new()
    };
    let kind = meta.mode() & libc::S_IFMT;
    Ok(Entry {
        kind,
        size: meta.size(),
        mtime: meta.mtime(),
        content,
    })
}

/// Fails unless all these directories hold equal trees.
///
/// # Errors
/// The first differences, or what cannot be read.
pub fn equal_trees<P: AsRef<Path>>(roots: &[P]) -> Result<()> {
    let trees = roots.iter().map(|root| {
        let root = root.as_ref();
        Ok((root.display().to_string(), read_tree(root)?))
    });
    equal(trees.collect::<Result<_>>()?)
}

/// Reads the database of pmxcfs from a file, which a daemon may have open.
///
/// The types 4 and 8 of the row with inode 0 mean the same, as do no data and empty data.
///
/// # Errors
/// When the file cannot be read.
pub fn read_database(path: &Path) -> Result<Rows> {
    let read = || -> rusqlite::Result<Rows> {
        let database = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let mut statement = database.prepare("SELECT * FROM tree")?;
        let names: Vec<_> = statement.column_names().map(str::to_owned).collect();
        let mut found = statement.query([])?;
        let mut rows = Rows::new();
        while let Some(row) = found.next()? {
            let inode = row.get("inode")?;
            let mut values = BTreeMap::new();
            for (index, name) in names.iter().enumerate() {
                values.insert(name.clone(), normal(inode, name, row.get(index)?));
            }
            rows.insert(inode, values);
        }
        Ok(rows)
    };
    read().with_context(|| format!("cannot read the database {}", path.display()))
}

fn normal(inode: i64, column: &str, value: Value) -> Value {
    match (column, value) {
        ("data", Value::Blob(data)) if data.is_empty() => Value::Null,
        ("type", Value::Integer(8)) if inode == 0 => Value::Integer(4),
        (_, value) => value,
    }
}

/// Fails unless the databases of all these hosts are equal.
///
/// # Errors
/// The first differences, or what cannot be read.
pub fn equal_databases(hosts: &[&Host]) -> Result<()> {
    let databases = hosts.iter().map(|host| {
        Ok((
            host.name(),
            read_database(&host.disk("var/lib/pve-cluster/config.db"))?,
        ))
    });
    equal(databases.collect::<Result<_>>()?)
}

/// Waits until trees and databases of all these hosts are equal.
///
/// # Errors
/// When they still differ after `deadline`: the first differences.
pub fn await_equal(deadline: Duration, hosts: &[&Host]) -> Result<()> {
    let roots: Vec<_> = hosts
        .iter()
        .map(|host| host.path(crate::daemon::MOUNT_POINT))
        .collect();
    eventually_ok(deadline, "equal nodes", || {
        equal_trees(&roots)?;
        equal_databases(hosts)
    })
}

/// Compares each map with the first.
fn equal<K: Ord + Debug, V: PartialEq + Debug>(all: Vec<(String, BTreeMap<K, V>)>) -> Result<()> {
    let Some(((first, expected), others)) = all.split_first() else {
        return Ok(());
    };
    for (name, found) in others {
        let keys = expected
            .keys()
            .chain(found.keys().filter(|key| !expected.contains_key(key)));
        let lines: Vec<_> = keys
            .filter(|key| expected.get(key) != found.get(key))
            .take(SHOWN)
            .map(|key| {
                let (a, b) = (brief(expected.get(key)), brief(found.get(key)));
                format!("  {key:?}\n    {first}: {a}\n    {name}: {b}")
            })
            .collect();
        if !lines.is_empty() {
            bail!("{first} and {name} differ:\n{}", lines.join("\n"));
        }
    }
    Ok(())
}

/// Contents are long lists of numbers; their beginning tells enough.
fn brief<V: Debug>(value: Option<&V>) -> String {
    value.map_or_else(
        || "absent".to_owned(),
        |value| format!("{value:?}").chars().take(300).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_with_one_other_byte_differ() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for dir in [&a, &b] {
            fs::create_dir(dir.path().join("nodes")).unwrap();
            fs::write(dir.path().join("nodes/x"), "one").unwrap();
            fs::write(dir.path().join(".version"), dir.path().to_str().unwrap()).unwrap();
        }
        equal_trees(&[a.path(), b.path()]).unwrap();
        fs::write(b.path().join("nodes/x"), "two").unwrap();
        let error = equal_trees(&[a.path(), b.path()]).unwrap_err().to_string();
        assert!(error.contains("nodes/x"), "{error}");
    }

    #[test]
    fn databases_are_compared_by_meaning() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, kind: u8, data: &str| {
            let path = dir.path().join(name);
            let database = Connection::open(&path).unwrap();
            let script = format!(
                "CREATE TABLE tree (inode INTEGER PRIMARY KEY, type INTEGER, data BLOB);
                 INSERT INTO tree VALUES (0, {kind}, NULL), (1, 8, {data});"
            );
            database.execute_batch(&script).unwrap();
            read_database(&path).unwrap()
        };
        let first = make("a", 4, "x''");
        assert_eq!(first, make("b", 8, "NULL"));
        assert_ne!(first, make("c", 8, "x'00'"));
    }
}
