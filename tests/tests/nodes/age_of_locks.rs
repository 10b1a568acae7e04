//! Locks: taken, refreshed, given back, taken away when they are too old.
//!
//! Tests run in the order of their names; this one mostly waits, so it is the first.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use nix::errno::Errno;
use tests::cluster::SYNC_DEADLINE;
use tests::files;
use tests::wait::{eventually, eventually_ok, now};

use crate::support::{gone_on_all, there_on_all, three_nodes};

/// Locks that were not refreshed for longer than this can be taken away.
const LOCK_LIFETIME: Duration = Duration::from_secs(120);

#[test]
fn locks_belong_to_one_node_until_they_are_given_back_or_too_old() {
    let Some(cluster) = three_nodes() else { return };
    fs::create_dir_all(cluster.path(1, "priv/lock")).unwrap();
    there_on_all(&cluster, "priv/lock");
    let lock = |id: usize, name: &str| cluster.path(id, format!("priv/lock/{name}"));
    let seconds = |path: &Path| fs::metadata(path).unwrap().mtime();

    fs::create_dir(lock(3, "old")).unwrap();
    fs::create_dir(lock(1, "kept")).unwrap();
    let taken = now();
    there_on_all(&cluster, "priv/lock/old");
    there_on_all(&cluster, "priv/lock/kept");
    for (id, name) in [(1, "old"), (2, "old"), (2, "kept"), (3, "kept")] {
        let path = lock(id, name);
        assert_eq!(files::errno(fs::create_dir(&path)), Errno::EEXIST);
        let refreshed = files::set_time(&path, seconds(&path));
        assert_eq!(
            files::errno(refreshed),
            Errno::EACCES,
            "n{id} does not own {name}"
        );
        assert_eq!(files::errno(files::set_time(&path, 0)), Errno::EACCES);
    }
    let back = files::set_time(&lock(1, "kept"), seconds(&lock(1, "kept")) - 1);
    assert_eq!(files::errno(back), Errno::EACCES);

    // Given back, also by another node, and taken by the next.
    fs::create_dir(lock(1, "passed")).unwrap();
    there_on_all(&cluster, "priv/lock/passed");
    fs::remove_dir(lock(2, "passed")).unwrap();
    gone_on_all(&cluster, "priv/lock/passed");
    fs::create_dir(lock(3, "passed")).unwrap();

    let wait_until = |age: Duration| {
        eventually(age * 2, "a lock of some age", || taken.elapsed() > age).unwrap();
    };
    wait_until(LOCK_LIFETIME / 2);
    files::set_time(&lock(1, "kept"), seconds(&lock(1, "kept")) + 60).unwrap();
    wait_until(LOCK_LIFETIME + Duration::from_secs(2));
    eventually_ok(SYNC_DEADLINE, "release of the old lock", || {
        // The first request after the time is over still says no.
        match files::errno(files::set_time(&lock(2, "old"), 0)) {
            Errno::ENOENT => Ok(()),
            errno => bail!("{errno}"),
        }
    })
    .unwrap();
    assert!(taken.elapsed() < LOCK_LIFETIME + Duration::from_secs(15));
    fs::create_dir(lock(2, "old")).unwrap();
    assert_eq!(
        files::errno(files::set_time(&lock(2, "kept"), 0)),
        Errno::EACCES
    );
    there_on_all(&cluster, "priv/lock/kept");
    cluster.await_equal().unwrap();
}
