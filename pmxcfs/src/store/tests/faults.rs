//! Crashes, full disks, locks of other programs, read-only file systems.

use std::thread;

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use rusqlite::params;

use super::*;
use crate::memdb::Digest;

/// A crashed database and the checksums of all its states, oldest first.
fn history() -> (TempDir, Vec<Digest>) {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path());
    let mut history = vec![Tree::new().checksum()];
    for op in sample() {
        run(&mut opened, &[op]);
        history.push(opened.tree.checksum());
    }
    for i in 0..12_u8 {
        run(&mut opened, &[put("empty", vec![i; usize::from(i) * 90])]);
        history.push(opened.tree.checksum());
    }
    (crash_copy(dir.path()), history)
}

/// Opens the database with another log, and finds its state in the history.
fn state_with_log(crashed: &Path, log: &[u8], history: &[Digest]) -> Option<usize> {
    let copy = crash_copy(crashed);
    fs::write(copy.path().join("config.db-wal"), log).unwrap();
    let tree = match Store::open(copy.path(), NOW) {
        Ok(opened) => opened.tree,
        // No frame is usable, and there was no checkpoint yet: not taken for a new database.
        Err(error) => {
            assert!(error.to_string().contains("no table"), "{error}");
            return Some(0);
        }
    };
    if tree.root().version == 1 {
        // The version row of a new database has a time, the new tree has none.
        return Some(0);
    }
    let checksum = tree.checksum();
    history.iter().position(|known| *known == checksum)
}

#[test]
fn a_cut_log_gives_a_prefix_of_the_history() {
    let (crashed, history) = history();
    let log = fs::read(crashed.path().join("config.db-wal")).unwrap();
    const FRAME: usize = 24 + NEW_PAGE_SIZE as usize;
    let mut cuts: Vec<usize> = (0..=log.len() / FRAME)
        .flat_map(|frame| [0, 1, 23, 24, 25, FRAME - 1].map(|more| 32 + frame * FRAME + more))
        .chain([0, 1, 31])
        .chain((0..60).map(|i| i * 7919 % log.len()))
        .filter(|cut| *cut <= log.len())
        .collect();
    cuts.sort_unstable();
    let mut reached = 0;
    for cut in cuts {
        let at = state_with_log(crashed.path(), &log[..cut], &history);
        let at = at.unwrap_or_else(|| panic!("cut at {cut}: no state of the history"));
        assert!(at >= reached, "cut at {cut}: went back");
        reached = at;
    }
    assert_eq!(reached, history.len() - 1);
}

#[test]
fn a_damaged_log_gives_a_prefix_of_the_history() {
    let (crashed, history) = history();
    let log = fs::read(crashed.path().join("config.db-wal")).unwrap();
    for i in 0..60 {
        let at = i * 104_729 % log.len();
        let mut damaged = log.clone();
        damaged[at] ^= 1 << (i % 8);
        let state = state_with_log(crashed.path(), &damaged, &history);
        assert!(state.is_some(), "byte {at}: no state of the history");
    }
}

#[test]
fn garbage_behind_the_log_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path());
    run(&mut opened, &sample());
    let crashed = crash_copy(dir.path());
    let file = crashed.path().join("config.db-wal");
    let mut log = fs::read(&file).unwrap();
    log.extend(vec![0x5a; 5000]);
    fs::write(file, log).unwrap();
    assert_eq!(open(crashed.path()).tree, opened.tree);
}

/// Fills the store until it fails, lets `free` make room, and goes on.
fn fill_up(dir: &Path, mut opened: Opened, free: impl FnOnce(&Store)) {
    run(&mut opened, &[create("grows")]);
    let mut failed = None;
    for i in 0..2000 {
        let mut working = opened.tree.clone();
        let path = format!("f{i}");
        let changes = [
            apply(&mut working, &create(&path)),
            apply(&mut working, &put(&path, vec![1; 20_000])),
        ];
        match opened.store.commit(&changes) {
            Ok(()) => opened.tree = working,
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    let error = failed.expect("the limit is reached");
    assert!(error.is_no_space(), "{}", error.chain());
    assert!(!error.is_io() && !error.is_busy() && !error.is_corrupt());
    assert!(error.to_string().contains("free space"), "{error}");
    // Reading works, and what was there is still there.
    assert_eq!(opened.store.reload().unwrap(), opened.tree);
    free(&opened.store);
    run(&mut opened, &[put("grows", vec![2; 30_000])]);
    opened.store.close().unwrap();
    assert_eq!(open(dir).tree, opened.tree);
}

#[test]
fn a_full_database_fails_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path());
    let limit = |store: &Store, pages: u32| {
        let set = "max_page_count";
        let conn = &store.conn;
        conn.pragma_update_and_check(None, set, pages, |row| row.get::<_, i64>(0))
            .unwrap();
    };
    limit(&opened.store, 300);
    fill_up(dir.path(), opened, |store| limit(store, 100_000));
}

#[test]
fn a_transfer_that_does_not_fit_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path());
    run(&mut opened, &sample());
    let set = |pages: u32| {
        let conn = &opened.store.conn;
        conn.pragma_update_and_check(None, "max_page_count", pages, |row| row.get::<_, i64>(0))
            .unwrap();
    };
    set(100);
    let mut leader = opened.tree.clone();
    apply(&mut leader, &put("big", vec![1; 300_000]));
    let error = opened.store.replace(&opened.tree, &leader).unwrap_err();
    assert!(error.is_no_space(), "{}", error.chain());
    assert_eq!(opened.store.reload().unwrap(), opened.tree);
}

/// Runs `body` in a mount namespace of its own; false if that is not permitted.
fn in_private_mounts(body: impl FnOnce() + Send + 'static) -> bool {
    let result = thread::spawn(move || {
        if unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).is_err() {
            return false;
        }
        let none = None::<&str>;
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(none, "/", none, private, none).unwrap();
        body();
        true
    });
    result.join().unwrap()
}

fn tmpfs(at: &Path, options: &str, flags: MsFlags) -> Result<(), Errno> {
    mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some(options))
}

#[test]
fn a_full_file_system_fails_and_recovers() {
    let ran = in_private_mounts(|| {
        let dir = tempfile::tempdir().unwrap();
        tmpfs(dir.path(), "size=600k", MsFlags::empty()).unwrap();
        let opened = open(dir.path());
        let at = dir.path().to_path_buf();
        fill_up(dir.path(), opened, |_| {
            tmpfs(&at, "size=60m", MsFlags::MS_REMOUNT).unwrap();
        });
        nix::mount::umount2(dir.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    });
    if !ran {
        eprintln!("skipped: mount namespaces need root");
    }
}

#[test]
fn a_backup_that_does_not_fit_leaves_nothing() {
    let ran = in_private_mounts(|| {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = open(dir.path());
        run(&mut opened, &sample());
        let folder = dir.path().join("backup");
        fs::create_dir(&folder).unwrap();
        tmpfs(&folder, "size=16k", MsFlags::empty()).unwrap();
        let error = opened.store.backup(&folder, 1, 3).unwrap_err();
        assert!(error.is_no_space(), "{}", error.chain());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        run(&mut opened, &[create("still-works")]);
        nix::mount::umount2(&folder, nix::mount::MntFlags::MNT_DETACH).unwrap();
    });
    if !ran {
        eprintln!("skipped: mount namespaces need root");
    }
}

#[test]
fn a_read_only_file_system_is_refused_at_start() {
    let ran = in_private_mounts(|| {
        let dir = tempfile::tempdir().unwrap();
        tmpfs(dir.path(), "size=1m", MsFlags::empty()).unwrap();
        let mut opened = open(dir.path());
        run(&mut opened, &[create("f")]);
        opened.store.close().unwrap();
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        tmpfs(dir.path(), "size=1m", read_only).unwrap();
        let error = Store::open(dir.path(), NOW).unwrap_err();
        assert!(error.is_io(), "{}", error.chain());
        assert!(error.chain().contains("read-only"), "{}", error.chain());
        nix::mount::umount2(dir.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    });
    if !ran {
        eprintln!("skipped: mount namespaces need root");
    }
}

#[test]
fn a_missing_folder_is_an_error_with_its_name() {
    let error = Store::open(Path::new("/nonexistent/folder"), NOW).unwrap_err();
    assert!(error.is_io());
    assert!(error.chain().contains("/nonexistent/folder/config.db"));
}

#[test]
fn a_lock_of_another_program_ends_in_busy() {
    let dir = tempfile::tempdir().unwrap();
    let busy_timeout = Duration::from_millis(20);
    let mut opened = Store::open_with(dir.path(), NOW, Options { busy_timeout }).unwrap();
    let other = Connection::open(dir.path().join(DB_FILE)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut working = opened.tree.clone();
    let changes = [apply(&mut working, &create("f"))];
    let error = opened.store.commit(&changes).unwrap_err();
    assert!(error.is_busy() && !error.is_io(), "{}", error.chain());
    let error = opened.store.replace(&opened.tree, &working).unwrap_err();
    assert!(error.is_busy(), "{}", error.chain());
    other.execute_batch("ROLLBACK").unwrap();
    opened.store.commit(&changes).unwrap();
    opened.store.close().unwrap();
    drop(other);
    assert_eq!(open(dir.path()).tree, working);
}

#[test]
fn a_reader_does_not_block_commits() {
    let dir = tempfile::tempdir().unwrap();
    let busy_timeout = Duration::ZERO;
    let mut opened = Store::open_with(dir.path(), NOW, Options { busy_timeout }).unwrap();
    let other = Connection::open(dir.path().join(DB_FILE)).unwrap();
    let count = || -> i64 {
        let sql = "SELECT count(*) FROM tree WHERE inode > ?1";
        other.query_row(sql, params![0], |row| row.get(0)).unwrap()
    };
    other.execute_batch("BEGIN").unwrap();
    assert_eq!(count(), 0);
    run(&mut opened, &sample());
    assert_eq!(count(), 0);
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(count(), 6);
}

#[test]
fn a_database_that_changes_between_check_and_open_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).store.close().unwrap();
    let path = dir.path().join(DB_FILE);
    let report = check(&path).unwrap();
    let conn = connect(&path, Options::default()).unwrap();
    assert!(begin(&conn, &report, NOW).unwrap());
    conn.execute("UPDATE tree SET version = 5", []).unwrap();
    assert!(!begin(&conn, &report, NOW).unwrap());
}
