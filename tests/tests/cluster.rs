//! Three real nodes: replication, loss of the majority, crashes.

#![expect(
    clippy::unwrap_used,
    reason = "functions that tests share fail the test as tests do"
)]

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::thread;

use tests::cluster::{Cluster, SYNC_DEADLINE};
use tests::lab::{Requirement, available};
use tests::sample::write_sample_tree;
use tests::wait::eventually_ok;

const ALL: [Requirement; 4] = [
    Requirement::Root,
    Requirement::Fuse,
    Requirement::Network,
    Requirement::Corosync,
];

#[test]
fn parallel_writers_on_all_nodes_leave_equal_nodes() {
    if !available(&ALL) {
        return;
    }
    let cluster = Cluster::start(3).unwrap();
    write_sample_tree(&cluster.path(1, "")).unwrap();
    thread::scope(|scope| {
        for id in 1..=3 {
            let root = cluster.path(id, "");
            scope.spawn(move || write_files(&root, id));
        }
    });
    cluster.await_equal().unwrap();
    for id in 1..=3 {
        let count = fs::read_dir(cluster.path(1, format!("writer-{id}")))
            .unwrap()
            .count();
        assert_eq!(count, 40, "files of n{id}");
    }
    cluster.stop().unwrap();
}

#[test]
fn a_minority_serves_reads_alone_and_catches_up() {
    if !available(&ALL) {
        return;
    }
    let mut cluster = Cluster::start(3).unwrap();
    fs::write(cluster.path(1, "a.cfg"), "before").unwrap();
    cluster.await_equal().unwrap();

    cluster.lab.isolate(2).unwrap();
    cluster.await_writable(2, false).unwrap();
    cluster.await_online(1, 2).unwrap();
    assert_eq!(
        fs::read_to_string(cluster.path(2, "a.cfg")).unwrap(),
        "before"
    );
    let error = fs::write(cluster.path(2, "b.cfg"), "lost").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    fs::write(cluster.path(1, "a.cfg"), "meanwhile").unwrap();

    cluster.lab.heal().unwrap();
    cluster.await_writable(2, true).unwrap();
    cluster.await_in_sync().unwrap();
    cluster.await_equal().unwrap();
    assert_eq!(
        fs::read_to_string(cluster.path(2, "a.cfg")).unwrap(),
        "meanwhile"
    );
}

#[test]
fn a_node_that_lost_power_comes_back_with_all_changes() {
    if !available(&ALL) {
        return;
    }
    let mut cluster = Cluster::start(3).unwrap();
    fs::write(cluster.path(3, "a.cfg"), "before").unwrap();
    cluster.await_equal().unwrap();

    cluster.lab.power_off(3);
    drop((cluster.pmxcfs[2].take(), cluster.corosync[2].take()));
    cluster.await_online(1, 2).unwrap();
    fs::write(cluster.path(1, "a.cfg"), "meanwhile").unwrap();
    fs::write(cluster.path(2, "b.cfg"), "new").unwrap();

    cluster.lab.boot(3).unwrap();
    cluster.start_corosync(3).unwrap();
    cluster.start_pmxcfs(3, &[]).unwrap();
    cluster.await_in_sync().unwrap();
    cluster.await_equal().unwrap();
    assert_eq!(fs::read_to_string(cluster.path(3, "b.cfg")).unwrap(), "new");
}

#[test]
fn a_killed_daemon_is_replaced_by_the_next_start() {
    if !available(&ALL) {
        return;
    }
    let mut cluster = Cluster::start(3).unwrap();
    cluster.pmxcfs[0].take().unwrap().kill();
    assert_eq!(
        fs::metadata(cluster.path(1, "local")).unwrap_err().kind(),
        ErrorKind::NotConnected
    );
    fs::write(cluster.path(2, "a.cfg"), "meanwhile").unwrap();
    cluster.start_pmxcfs(1, &[]).unwrap();
    eventually_ok(SYNC_DEADLINE, "the change on n1", || {
        Ok(fs::read_to_string(cluster.path(1, "a.cfg"))?)
    })
    .unwrap();
    cluster.await_in_sync().unwrap();
    cluster.await_equal().unwrap();
}

/// Forty files, every other one replaced once.
fn write_files(root: &Path, id: usize) {
    let dir = root.join(format!("writer-{id}"));
    fs::create_dir(&dir).unwrap();
    for i in 0..40 {
        let path = dir.join(format!("{i}.cfg"));
        fs::write(&path, format!("{id} {i}\n")).unwrap();
        if i % 2 == 0 {
            let tmp = dir.join("tmp");
            fs::write(&tmp, format!("{id} {i} again\n")).unwrap();
            fs::rename(&tmp, &path).unwrap();
        }
    }
}
