//! Which databases load, which are refused, and that refused ones stay as they are.

use std::collections::BTreeMap;

use super::*;
use crate::memdb::{LoadProblem, TreeHasher};

const UNCHECKED: &str = "CREATE TABLE tree (inode INTEGER PRIMARY KEY NOT NULL, parent, version, \
     writer, mtime, type, name, data)";

/// A database with a version row at 50 and whatever `sql` adds.
fn database(table: &str, sql: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let conn = Connection::open(dir.path().join(DB_FILE)).unwrap();
    conn.execute_batch(table).unwrap();
    let version_row = "INSERT INTO tree VALUES (0, 0, 50, 2, 60, 8, '__version__', NULL)";
    conn.execute(version_row, []).unwrap();
    conn.execute_batch(sql).unwrap();
    dir
}

fn with_rows(sql: &str) -> TempDir {
    database(schema::CREATE_TREE, sql)
}

/// All files of a folder but the scratch index of a log.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = fs::read_dir(dir).unwrap().map(|item| item.unwrap().path());
    paths
        .filter(|path| path.extension().is_none_or(|name| name != "db-shm"))
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

/// Opens what must be refused; the files must not change.
fn refused(dir: &Path) -> Vec<Problem> {
    let before = contents(dir);
    let error = Store::open(dir, NOW).map(|_| ()).unwrap_err();
    assert!(error.is_corrupt(), "{error}");
    let StoreError::Refused(refusal) = error else {
        panic!("{}", error.chain());
    };
    assert!(contents(dir) == before, "a refused database was changed");
    let text = refusal.to_string();
    assert!(text.contains("other nodes send"), "{text}");
    refusal.problems
}

/// What a remedy of the advice gives: the database must load then.
fn assert_remedies_work(dir: &Path) {
    for problem in refused(dir) {
        for remedy in problem.remedies() {
            let copy = tempfile::tempdir().unwrap();
            let path = copy.path().join(DB_FILE);
            fs::copy(dir.join(DB_FILE), &path).unwrap();
            Connection::open(&path)
                .unwrap()
                .execute_batch(&remedy)
                .unwrap();
            open(copy.path());
        }
    }
}

#[test]
fn empty_file_is_a_new_database() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(DB_FILE), "").unwrap();
    assert!(open(dir.path()).fresh);
}

#[test]
fn interrupted_creation_is_a_new_database() {
    let dir = tempfile::tempdir().unwrap();
    let conn = Connection::open(dir.path().join(DB_FILE)).unwrap();
    conn.pragma_update(None, "journal_mode", "WAL").unwrap();
    drop(conn);
    assert!(fs::metadata(dir.path().join(DB_FILE)).unwrap().len() > 0);
    assert!(open(dir.path()).fresh);
    assert!(!open(dir.path()).fresh);
}

#[test]
fn empty_file_with_a_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(DB_FILE), "").unwrap();
    fs::write(dir.path().join("config.db-wal"), "frames").unwrap();
    assert_eq!(refused(dir.path()), [Problem::LogWithoutDatabase(6)]);
}

#[test]
fn missing_version_row_counts_from_one() {
    for sql in ["DELETE FROM tree", "UPDATE tree SET version = 0"] {
        let dir = with_rows(&format!(
            "{sql} WHERE inode = 0; INSERT INTO tree VALUES (9, 0, 9, 1, 1, 4, 'd', NULL)"
        ));
        let opened = open(dir.path());
        assert_eq!(opened.tree.root().version, 1);
        assert_eq!(opened.notes, [Note::NoVersion]);
        assert_eq!(opened.issues.len(), 1);
        assert!(opened.tree.find(b"d").is_some());
        drop(opened);
        let rows = rows_as_text(&dir.path().join(DB_FILE));
        assert!(rows.starts_with(&format!("0 0 1 0 {NOW} 8 ")), "{rows}");
        assert_eq!(open(dir.path()).notes, []);
    }
}

#[test]
fn version_row_with_another_name_is_refused() {
    let dir = with_rows("UPDATE tree SET name = 'x'");
    assert!(matches!(
        refused(dir.path())[..],
        [Problem::VersionRowName(_)]
    ));
    assert_remedies_work(dir.path());
}

#[test]
fn rows_without_a_name_are_refused() {
    let dir = with_rows("INSERT INTO tree VALUES (9, 0, 9, 1, 1, 4, '', NULL)");
    assert!(matches!(refused(dir.path())[..], [Problem::NoName(_)]));
    assert_remedies_work(dir.path());
    let sql = "INSERT INTO tree VALUES (9, 0, 9, 1, 1, 4, NULL, NULL)";
    let dir = database(UNCHECKED, sql);
    assert!(matches!(refused(dir.path())[..], [Problem::NoName(_)]));
}

#[test]
fn the_type_counts_in_its_lowest_byte() {
    let dir = with_rows("INSERT INTO tree VALUES (9, 0, 9, 1, 1, 5, 'x', NULL)");
    assert!(matches!(refused(dir.path())[..], [Problem::BadType(_, 5)]));
    assert_remedies_work(dir.path());
    let dir = with_rows("INSERT INTO tree VALUES (9, 0, 9, 1, 1, 260, 'x', NULL)");
    assert!(open(dir.path()).tree.find(b"x").unwrap().is_dir());
    // The version row as a transfer leaves it, and one that nobody writes.
    let dir = with_rows("UPDATE tree SET type = 4");
    assert_eq!(open(dir.path()).tree.root().version, 50);
    let dir = with_rows("UPDATE tree SET type = 6");
    assert!(matches!(refused(dir.path())[..], [Problem::BadType(_, 6)]));
}

#[test]
fn a_directory_with_data_is_refused() {
    let dir = with_rows("INSERT INTO tree VALUES (9, 0, 9, 1, 1, 4, 'x', x'00')");
    assert!(matches!(
        refused(dir.path())[..],
        [Problem::DirectoryWithData(_, 1)]
    ));
    assert_remedies_work(dir.path());
    let dir = with_rows("INSERT INTO tree VALUES (9, 0, 9, 1, 1, 4, 'x', x'')");
    assert!(open(dir.path()).tree.find(b"x").unwrap().is_dir());
}

#[test]
fn a_missing_parent_is_refused() {
    let dir = with_rows("INSERT INTO tree VALUES (9, 8, 9, 1, 1, 4, 'x', NULL)");
    let [Problem::Tree(issue)] = &refused(dir.path())[..] else {
        panic!("one problem expected");
    };
    assert_eq!(issue.problem, LoadProblem::MissingParent);
    assert_remedies_work(dir.path());
}

#[test]
fn a_parent_that_is_a_file_is_refused_if_it_is_read_first() {
    let file_first = "INSERT INTO tree VALUES (5, 0, 5, 1, 1, 8, 'f', NULL); \
                      INSERT INTO tree VALUES (9, 5, 9, 1, 1, 8, 'x', NULL)";
    let dir = with_rows(file_first);
    assert!(matches!(refused(dir.path())[..], [Problem::Tree(_)]));
    assert_remedies_work(dir.path());
    let child_first = "INSERT INTO tree VALUES (5, 9, 5, 1, 1, 8, 'x', NULL); \
                       INSERT INTO tree VALUES (9, 0, 9, 1, 1, 8, 'f', NULL)";
    let opened = open(with_rows(child_first).path());
    assert_eq!(opened.issues[0].problem, LoadProblem::ParentIsFile);
    assert_eq!(opened.tree.entries().len(), 2);
    assert!(opened.tree.find(b"f/x").is_none());
}

#[test]
fn duplicate_names_are_refused_and_duplicate_guests_told() {
    let names = "INSERT INTO tree VALUES (5, 0, 5, 1, 1, 8, 'f', NULL); \
                 INSERT INTO tree VALUES (9, 0, 9, 1, 1, 4, 'f', NULL)";
    let dir = with_rows(names);
    let text = refused(dir.path())[0].to_string();
    assert!(
        text.contains("inode 9 ") && text.contains("inode 5 "),
        "{text}"
    );
    assert_remedies_work(dir.path());
    let guests = "INSERT INTO tree VALUES (1, 0, 1, 1, 1, 4, 'nodes', NULL); \
                  INSERT INTO tree VALUES (2, 1, 1, 1, 1, 4, 'a', NULL); \
                  INSERT INTO tree VALUES (3, 2, 1, 1, 1, 4, 'lxc', NULL); \
                  INSERT INTO tree VALUES (4, 2, 1, 1, 1, 4, 'qemu-server', NULL); \
                  INSERT INTO tree VALUES (5, 3, 1, 1, 1, 8, '7.conf', NULL); \
                  INSERT INTO tree VALUES (6, 4, 1, 1, 1, 8, '7.conf', NULL)";
    let dir = with_rows(guests);
    let opened = open(dir.path());
    assert!(opened.issues[0].to_string().contains("guest 7"));
    assert_eq!(
        opened.tree.guests().iter().count(),
        1,
        "listed once, both files are there"
    );
    assert!(opened.tree.find(b"nodes/a/qemu-server/7.conf").is_some());
}

#[test]
fn a_file_in_place_of_a_guest_folder_loads_and_is_told() {
    let dir = with_rows(
        "INSERT INTO tree VALUES (1, 0, 1, 1, 1, 4, 'nodes', NULL); \
         INSERT INTO tree VALUES (2, 1, 1, 1, 1, 4, 'a', NULL); \
         INSERT INTO tree VALUES (3, 2, 1, 1, 1, 8, 'openvz', NULL)",
    );
    let opened = open(dir.path());
    assert_eq!(opened.issues[0].problem, LoadProblem::GuestFolderIsFile);
    assert!(opened.tree.find(b"nodes/a/openvz").is_some());
}

#[test]
fn what_is_odd_but_representable_loads() {
    let dir = with_rows(
        "INSERT INTO tree VALUES (5, 6, 5, 1, 1, 4, 'a', NULL); \
         INSERT INTO tree VALUES (6, 5, 6, 1, 1, 4, 'b', NULL); \
         INSERT INTO tree VALUES (7, 0, 7, 1, 1, 8, 'large', zeroblob(2000000)); \
         INSERT INTO tree VALUES (70, 0, 7, 1, 1, 8, 'ahead', NULL); \
         INSERT INTO tree VALUES (8, 0, 7, 1, 1, 8, '..', NULL); \
         INSERT INTO tree VALUES (9, 0, 7, 1, 1, 8, 'x/y', NULL); \
         INSERT INTO tree VALUES (10, 0, 7, -1, 4294967298, 8, 'cut', NULL); \
         INSERT INTO tree VALUES (-1, 0, -2, 1, 1, 8, 'huge', NULL); \
         INSERT INTO tree VALUES (11, 0, 7, 1, 1, 8, 'text', 'abc'); \
         INSERT INTO tree VALUES (12, 0, 7, 1, 1, 8, 'number', 17); \
         ALTER TABLE tree ADD COLUMN extra TEXT NOT NULL DEFAULT 'd'; \
         CREATE TABLE more (x); CREATE INDEX by_parent ON tree (parent)",
    );
    let mut opened = open(dir.path());
    let tree = &opened.tree;
    let data = |name: &[u8]| tree.child(Inode::ROOT, name).unwrap().data();
    assert_eq!(data(b"large").len(), 2_000_000);
    assert_eq!(data(b"text"), "abc");
    assert_eq!(data(b"number"), "17");
    assert!(tree.child(Inode::ROOT, b"..").is_some());
    let cut = tree.find(b"cut").unwrap();
    assert_eq!((cut.writer, cut.mtime), (u32::MAX, 2));
    let huge = tree.find(b"huge").unwrap();
    assert_eq!((huge.inode, huge.version), (Inode(u64::MAX), u64::MAX - 1));
    let problems: Vec<_> = opened.issues.iter().map(|issue| &issue.problem).collect();
    assert_eq!(
        problems
            .iter()
            .filter(|p| ***p == LoadProblem::Cycle)
            .count(),
        2
    );
    let ahead = |p: &&&LoadProblem| ***p == LoadProblem::InodeAboveVersion;
    assert_eq!(problems.iter().filter(ahead).count(), 2);
    run(&mut opened, &[create("new"), put("number", "18")]);
    drop(opened.store);
    assert_eq!(open(dir.path()).tree, opened.tree);
}

#[test]
fn text_where_numbers_belong_is_converted() {
    let row = "(5, '0', '7x', 'x', 1.9, x'38', 42, NULL)";
    let dir = database(UNCHECKED, &format!("INSERT INTO tree VALUES {row}"));
    let opened = open(dir.path());
    let entry = opened.tree.find(b"42").unwrap();
    assert_eq!((entry.version, entry.writer, entry.mtime), (7, 0, 1));
    // The checks of the table, violated.
    let dir = with_rows(
        "PRAGMA ignore_check_constraints = ON; \
         INSERT INTO tree VALUES (9, 0, 'x', 1, 1, 8, 'f', NULL)",
    );
    let opened = open(dir.path());
    assert_eq!(opened.tree.find(b"f").unwrap().version, 0);
}

#[test]
fn a_name_ends_at_its_first_zero_byte() {
    let dir =
        with_rows("INSERT INTO tree VALUES (9, 0, 9, 1, 1, 8, CAST(x'610062' AS TEXT), NULL)");
    assert!(open(dir.path()).tree.find(b"a").is_some());
}

#[test]
fn another_text_encoding_gives_the_same_names() {
    let dir = tempfile::tempdir().unwrap();
    let conn = Connection::open(dir.path().join(DB_FILE)).unwrap();
    conn.pragma_update(None, "encoding", "UTF-16le").unwrap();
    conn.execute_batch(schema::CREATE_TREE).unwrap();
    let rows = "INSERT INTO tree VALUES (0, 0, 50, 2, 60, 8, '__version__', NULL); \
                INSERT INTO tree VALUES (2, 0, 50, 2, 60, 8, 'name', x'ff')";
    conn.execute_batch(rows).unwrap();
    drop(conn);
    let opened = open(dir.path());
    assert_eq!(opened.tree.find(b"name").unwrap().data(), &b"\xff"[..]);
}

#[test]
fn what_is_no_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(DB_FILE);
    for content in ["x", "this is not a database, but long enough to be one"] {
        fs::write(&path, content).unwrap();
        assert!(matches!(
            refused(dir.path())[..],
            [Problem::NotADatabase(_)]
        ));
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let error = Store::open(dir.path(), NOW).unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error}");
}

#[test]
fn a_newer_file_format_is_refused() {
    let good = fs::read(vector("original.db")).unwrap();
    for at in [18, 19] {
        let dir = tempfile::tempdir().unwrap();
        let mut newer = good.clone();
        newer[at] = 3;
        fs::write(dir.path().join(DB_FILE), newer).unwrap();
        let problems = refused(dir.path());
        assert!(matches!(problems[..], [Problem::NotADatabase(_)]));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

#[test]
fn tables_that_can_not_be_used_are_refused() {
    let all = "parent, version, writer, mtime, type, name, data";
    let schemas = [
        "CREATE TABLE tree (inode INTEGER PRIMARY KEY, parent, name)".to_owned(),
        "CREATE VIEW tree AS SELECT 1 AS inode".to_owned(),
        format!("CREATE TABLE tree (inode, {all})"),
        format!("CREATE TABLE tree (inode INTEGER PRIMARY KEY, {all}, extra NOT NULL)"),
        format!("CREATE TABLE tree (inode, {all}, PRIMARY KEY (inode, parent))"),
        format!(
            "CREATE TABLE tree (inode INTEGER PRIMARY KEY, {all}); CREATE TABLE pmxcfs_hollow (x)"
        ),
    ];
    for schema in schemas {
        let dir = tempfile::tempdir().unwrap();
        let conn = Connection::open(dir.path().join(DB_FILE)).unwrap();
        conn.execute_batch(&schema).unwrap();
        drop(conn);
        assert!(
            matches!(refused(dir.path())[..], [Problem::Schema(_)]),
            "{schema}"
        );
    }
}

#[test]
fn every_problem_is_listed() {
    let dir = with_rows(
        "INSERT INTO tree VALUES (5, 0, 5, 1, 1, 9, 'f', NULL); \
         INSERT INTO tree VALUES (6, 77, 5, 1, 1, 8, 'g', NULL); \
         INSERT INTO tree VALUES (7, 0, 5, 1, 1, 4, 'h', x'00')",
    );
    assert_eq!(refused(dir.path()).len(), 3);
}

#[test]
fn a_refused_database_in_use_keeps_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path());
    run(&mut opened, &sample());
    let sql = "INSERT INTO tree VALUES (99, 98, 9, 1, 1, 4, 'x', NULL)";
    opened.store.conn.execute(sql, []).unwrap();
    let crashed = crash_copy(dir.path());
    refused(crashed.path());
    // Again, with the index that the first look has left.
    refused(crashed.path());
}

#[test]
fn a_half_done_transaction_of_another_program_is_rolled_back() {
    let dir = with_rows("PRAGMA journal_mode = DELETE; PRAGMA cache_size = 1");
    let path = dir.path().join(DB_FILE);
    let conn = Connection::open(&path).unwrap();
    // With such a small cache changed pages go to the file before the commit.
    let sql = "PRAGMA cache_size = 1; BEGIN; UPDATE tree SET version = 9; \
               INSERT INTO tree VALUES (99, 98, 9, 1, 1, 4, 'x', zeroblob(100000))";
    conn.execute_batch(sql).unwrap();
    let crashed = tempfile::tempdir().unwrap();
    for name in ["config.db", "config.db-journal"] {
        fs::copy(dir.path().join(name), crashed.path().join(name)).unwrap();
    }
    assert!(
        fs::metadata(crashed.path().join("config.db-journal"))
            .unwrap()
            .len()
            > 512
    );
    let before = contents(crashed.path());
    let report = check(&crashed.path().join(DB_FILE)).unwrap();
    assert_eq!(report.tree.root().version, 50);
    assert!(contents(crashed.path()) == before);
    assert_eq!(open(crashed.path()).tree.root().version, 50);
}

/// Damage anywhere: no panic, and either a refusal that changes nothing, or a tree.
#[test]
fn damaged_bytes_never_panic() {
    let good = fs::read(vector("original.db")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(DB_FILE);
    let mut refusals = 0;
    // A small generator: the same damage in each run.
    let mut state = 12345_u32;
    let mut next = |limit: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % limit
    };
    for round in 0..400 {
        let mut bad = good.clone();
        for _ in 0..=round % 4 {
            let at = next(if round % 3 == 0 { 200 } else { bad.len() });
            bad[at] ^= 1 << next(8);
        }
        if round % 7 == 0 {
            bad.truncate(next(good.len()));
        }
        fs::write(&path, &bad).unwrap();
        match check(&path) {
            Ok(report) => drop(report.tree.checksum()),
            Err(_) => refusals += 1,
        }
        assert!(fs::read(&path).unwrap() == bad, "round {round}");
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "round {round}"
        );
        fs::remove_file(&path).unwrap();
    }
    assert!(refusals > 100, "{refusals}");
}

#[test]
fn the_root_row_enters_the_checksum_as_others_compute_it() {
    let dir = with_rows("INSERT INTO tree VALUES (2, 0, 2, 1, 1, 8, 'f', x'0102')");
    let tree = open(dir.path()).tree;
    let mut hasher = TreeHasher::default();
    hasher.entry(&tree.root_entry());
    hasher.entry(tree.find(b"f").unwrap());
    assert_eq!(hasher.finish(), tree.checksum());
}
