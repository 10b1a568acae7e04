//! Tests of the store, and what they share.

mod faults;
mod random;
mod verdicts;

use std::{fs, path::PathBuf};

use tempfile::TempDir;

use super::*;
use crate::memdb::Outcome;

const NOW: u32 = 1_700_000_000;
const STAMP: Stamp = Stamp {
    writer: 3,
    mtime: 1_700_000_100,
};

pub(super) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn mkdir(path: &str) -> Op {
    Op::Mkdir { path: bytes(path) }
}

fn create(path: &str) -> Op {
    Op::Create { path: bytes(path) }
}

fn put(path: &str, data: impl Into<Bytes>) -> Op {
    Op::Write {
        path: bytes(path),
        offset: 0,
        data: data.into(),
        truncate: true,
    }
}

fn grow(path: &str, len: u32) -> Op {
    Op::Write {
        path: bytes(path),
        offset: len,
        data: Bytes::new(),
        truncate: true,
    }
}

fn open(dir: &Path) -> Opened {
    Store::open(dir, NOW).unwrap_or_else(|error| panic!("{}", error.chain()))
}

fn apply(tree: &mut Tree, op: &Op) -> Change {
    let outcome: Outcome = tree.apply(op, STAMP);
    outcome
        .result
        .unwrap_or_else(|error| panic!("{op:?}: {error}"));
    outcome.change.unwrap()
}

/// Applies operations and commits each.
fn run(opened: &mut Opened, ops: &[Op]) {
    for op in ops {
        let change = apply(&mut opened.tree, op);
        opened.store.commit(&[change]).unwrap();
    }
}

/// A tree to store something into.
fn sample() -> Vec<Op> {
    vec![
        mkdir("nodes"),
        mkdir("nodes/n1"),
        mkdir("nodes/n1/qemu-server"),
        create("nodes/n1/qemu-server/100.conf"),
        put("nodes/n1/qemu-server/100.conf", "memory: 512\n"),
        create("empty"),
        create("big"),
        put("big", vec![7; 30_000]),
    ]
}

/// Rows as text: all columns but the data, of which the length is shown.
fn rows_as_text(path: &Path) -> String {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let sql = "SELECT inode||' '||parent||' '||version||' '||writer||' '||mtime||' '||type||' '\
               ||lower(hex(name))||' '||coalesce(length(data),0) FROM tree ORDER BY inode";
    let mut statement = conn.prepare(sql).unwrap();
    let lines = statement
        .query_map([], |row| row.get::<_, String>(0))
        .unwrap();
    lines.map(|line| line.unwrap() + "\n").collect()
}

fn vector(name: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/config-db");
    Path::new(folder).join(name)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Copies database and log, as a crash would leave them.
fn crash_copy(from: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in ["config.db", "config.db-wal"] {
        fs::copy(from.join(name), copy.path().join(name)).unwrap();
    }
    copy
}

#[test]
fn a_new_database_has_the_version_row_only() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path());
    assert!(opened.fresh);
    assert_eq!(opened.tree, Tree::new());
    let path = dir.path().join(DB_FILE);
    let row = format!("0 0 1 0 {NOW} 8 5f5f76657273696f6e5f5f 0\n");
    assert_eq!(rows_as_text(&path), row);
    for name in ["config.db", "config.db-wal", "config.db-shm"] {
        let meta = fs::metadata(dir.path().join(name)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o600, "{name}");
    }
    opened.store.close().unwrap();
    assert!(!dir.path().join("config.db-wal").exists());
    let again = open(dir.path());
    assert!(!again.fresh);
    assert_eq!(again.tree.root().mtime, NOW);
    let get = |name: &str| -> i64 {
        let conn = &again.store.conn;
        conn.pragma_query_value(None, name, |row| row.get(0))
            .unwrap()
    };
    assert_eq!(get("page_size"), 1024);
    assert_eq!(get("user_version"), 0);
    assert_eq!(get("application_id"), 0);
    assert_eq!(get("synchronous"), 1);
}

#[test]
fn an_open_mode_is_tightened() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).store.close().unwrap();
    let path = dir.path().join(DB_FILE);
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    open(dir.path());
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_linked_database_is_used_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("other-name.db");
    fs::write(&target, "").unwrap();
    std::os::unix::fs::symlink(&target, dir.path().join(DB_FILE)).unwrap();
    let mut opened = open(dir.path());
    run(&mut opened, &[create("f")]);
    opened.store.sync().unwrap();
    assert!(place.path().join("other-name.db-wal").exists());
    opened.store.close().unwrap();
    assert_eq!(open(dir.path()).tree, opened.tree);
}

#[test]
fn changes_are_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path());
    run(&mut opened, &sample());
    opened.store.sync().unwrap();
    let crashed = crash_copy(dir.path());
    opened.store.close().unwrap();
    for folder in [crashed.path(), dir.path()] {
        let again = open(folder);
        assert_eq!(again.tree, opened.tree);
        assert_eq!(again.tree.checksum(), opened.tree.checksum());
        assert_eq!(again.issues, []);
        assert_eq!(again.notes, []);
    }
}

#[test]
fn a_batch_writes_each_row_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path());
    let mut changes: Vec<_> = sample()
        .iter()
        .map(|op| apply(&mut opened.tree, op))
        .collect();
    let path = bytes("empty");
    changes.push(apply(&mut opened.tree, &Op::Delete { path }));
    let before = opened.store.conn.total_changes();
    opened.store.commit(&changes).unwrap();
    // Five entries and the version row; the deleted one was never written.
    assert_eq!(opened.store.conn.total_changes() - before, 6);
    opened.store.commit(&[]).unwrap();
    opened.store.close().unwrap();
    assert_eq!(open(dir.path()).tree, opened.tree);
}

#[test]
fn a_small_change_writes_at_most_two_pages() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path());
    let files: Vec<_> = (0..100).map(|i| format!("file{i}")).collect();
    for file in &files {
        run(&mut opened, &[create(file), put(file, vec![b'x'; 300])]);
    }
    let log = sidecar(&opened.store.path, "-wal");
    let size = || fs::metadata(&log).unwrap().len();
    for file in files.iter().step_by(7) {
        let before = size();
        run(&mut opened, &[put(file, vec![b'y'; 300])]);
        assert!(size() - before <= 2 * (1024 + 24), "{}", size() - before);
    }
}

#[test]
fn a_replaced_file_is_deleted_with_the_rename() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path());
    let rename = Op::Rename {
        from: bytes("a"),
        to: bytes("b"),
    };
    run(&mut opened, &[create("a"), create("b"), rename]);
    opened.store.close().unwrap();
    let again = open(dir.path());
    assert_eq!(again.tree, opened.tree);
    assert_eq!(again.tree.entries().len(), 1);
}

#[test]
fn the_database_of_the_original_loads_alike() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(DB_FILE);
    fs::copy(vector("original.db"), &path).unwrap();
    let opened = open(dir.path());
    assert!(!opened.fresh);
    assert_eq!(opened.issues, []);
    assert_eq!(opened.notes, []);
    let checksum = fs::read_to_string(vector("original.checksum.txt")).unwrap();
    assert_eq!(hex(&opened.tree.checksum()), checksum.trim());
    let rows = fs::read_to_string(vector("original.rows.txt")).unwrap();
    assert_eq!(rows_as_text(&path), rows);
    // Its page size stays.
    let page_size: u32 = opened
        .store
        .conn
        .pragma_query_value(None, "page_size", |row| row.get(0))
        .unwrap();
    assert_eq!(page_size, 4096);
}

#[test]
fn the_schema_is_that_of_the_original() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).store.close().unwrap();
    let declared = |path: &Path| -> Vec<String> {
        let conn = Connection::open(path).unwrap();
        let sql = "SELECT sql FROM sqlite_schema ORDER BY name";
        let mut statement = conn.prepare(sql).unwrap();
        let rows = statement
            .query_map([], |row| row.get::<_, String>(0))
            .unwrap();
        let squeezed = |sql: String| sql.split_whitespace().collect::<Vec<_>>().join(" ");
        rows.map(|sql| squeezed(sql.unwrap()).replace("( ", "("))
            .collect()
    };
    assert_eq!(
        declared(&dir.path().join(DB_FILE)),
        declared(&vector("original.db"))
    );
}

#[test]
fn the_first_configuration_is_imported_at_version_three() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path());
    let conf = bytes("totem {\n  version: 2\n}\n");
    opened
        .store
        .import_conf(&mut opened.tree, &conf, NOW)
        .unwrap();
    let entry = opened.tree.find(b"corosync.conf").unwrap();
    assert_eq!((entry.inode, entry.version, entry.writer), (Inode(2), 3, 0));
    assert_eq!(opened.tree.root().version, 3);
    opened.store.close().unwrap();
    assert_eq!(open(dir.path()).tree, opened.tree);
}

#[test]
fn a_configuration_that_is_too_large_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path());
    let conf = Bytes::from(vec![b'#'; (1 << 20) + 1]);
    let error = opened.store.import_conf(&mut opened.tree, &conf, NOW);
    assert!(matches!(error, Err(StoreError::Import { .. })));
    assert_eq!(opened.tree, Tree::new());
    opened.store.close().unwrap();
    assert_eq!(open(dir.path()).tree.entries().len(), 0);
}

#[test]
fn a_hollow_file_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path());
    run(
        &mut opened,
        &[create("f"), grow("f", 5), create("g"), grow("g", 6)],
    );
    assert_eq!(opened.tree.find(b"f").unwrap().content, Content::Hollow(5));
    opened.store.close().unwrap();
    let mut opened = open(dir.path());
    assert_eq!(opened.tree.find(b"f").unwrap().content, Content::Hollow(5));
    // For others it is an empty file.
    assert!(rows_as_text(&dir.path().join(DB_FILE)).contains(" 8 66 0\n"));
    let path = bytes("g");
    run(&mut opened, &[put("f", "real"), Op::Delete { path }]);
    let left: i64 = opened
        .store
        .conn
        .query_row("SELECT count(*) FROM pmxcfs_hollow", [], |row| row.get(0))
        .unwrap();
    assert_eq!(left, 0);
    opened.store.close().unwrap();
    assert_eq!(open(dir.path()).tree, opened.tree);
}

#[test]
fn a_stale_hollow_size_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path());
    run(&mut opened, &[create("f"), grow("f", 5)]);
    opened.store.close().unwrap();
    let conn = Connection::open(dir.path().join(DB_FILE)).unwrap();
    conn.execute("UPDATE tree SET version = 4", []).unwrap();
    drop(conn);
    let opened = open(dir.path());
    assert_eq!(opened.tree.find(b"f").unwrap().size(), 0);
}

#[test]
fn a_transfer_makes_the_rows_those_of_the_leader() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path());
    run(&mut opened, &sample());
    let old = opened.tree.clone();

    let mut leader = old.clone();
    let path = bytes("big");
    let ops = [
        Op::Delete { path },
        put("empty", "x"),
        mkdir("more"),
        create("more/hollow"),
        grow("more/hollow", 9),
    ];
    for op in &ops {
        apply(&mut leader, op);
    }
    opened.store.replace(&old, &leader).unwrap();
    let path = dir.path().join(DB_FILE);
    assert!(rows_as_text(&path).starts_with("0 0 14 3 1700000100 4 "));
    let change = apply(&mut leader, &put("empty", "y"));
    opened.store.commit(&[change]).unwrap();
    opened.store.close().unwrap();
    let again = open(dir.path());
    assert_eq!(again.tree, leader);
    assert_eq!(again.tree.checksum(), leader.checksum());
}

#[test]
fn a_transfer_puts_rows_right_that_another_program_changed() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path());
    run(&mut opened, &sample());
    let other = Connection::open(dir.path().join(DB_FILE)).unwrap();
    other
        .execute("UPDATE tree SET mtime = 1 WHERE name = 'nodes'", [])
        .unwrap();
    let mut leader = opened.tree.clone();
    apply(&mut leader, &create("new"));
    opened.store.replace(&opened.tree, &leader).unwrap();
    opened.store.close().unwrap();
    drop(other);
    assert_eq!(open(dir.path()).tree, leader);
}

#[test]
fn a_transfer_of_what_others_would_not_load_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path());
    run(&mut opened, &sample());
    // Members can get here: a file in place of the folder of guests.
    let mut leader = opened.tree.clone();
    apply(&mut leader, &mkdir("nodes/n2"));
    apply(&mut leader, &create("nodes/n2/lxc"));
    opened.store.replace(&opened.tree, &leader).unwrap();
    opened.store.close().unwrap();
    assert_eq!(open(dir.path()).tree, leader);
}

#[test]
fn backups_are_whole_private_and_rotated() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path());
    run(&mut opened, &sample());
    let folder = dir.path().join("backup");
    fs::create_dir(&folder).unwrap();
    let foreign = folder.join("config-1.sql.gz");
    fs::write(&foreign, "").unwrap();
    let copies: Vec<_> = [9, 10, 11]
        .map(|now| opened.store.backup(&folder, now, 2).unwrap())
        .into();
    assert!(!copies[0].exists());
    assert!(copies[1].exists() && foreign.exists());
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 3);
    let mode = fs::metadata(&copies[2]).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(check(&copies[2]).unwrap().tree, opened.tree);
    run(&mut opened, &[create("still-works")]);
}

#[test]
fn other_programs_can_read_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path());
    run(&mut opened, &sample());
    let before = rows_as_text(&dir.path().join(DB_FILE));
    run(&mut opened, &[create("one-more")]);
    assert_ne!(rows_as_text(&dir.path().join(DB_FILE)), before);
    assert_eq!(opened.store.reload().unwrap(), opened.tree);
}
