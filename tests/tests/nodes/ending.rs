//! Ends of the daemon, and of the quorum, while changes are under way.

use std::fs;
use std::io::{Read as _, Write as _};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use tests::cluster::Cluster;
use tests::files;
use tests::wait::{eventually, now};

use crate::support::three_nodes;

/// An orderly end takes no longer, whatever is under way.
const STOP_LIMIT: Duration = Duration::from_secs(2);
/// A change that waits for lost nodes is answered once they are known to be lost (the token
/// timeout and the consensus after it), with room for a busy machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

#[test]
fn blocked_changes_and_open_files_hold_nothing_up() {
    let Some(mut cluster) = three_nodes() else {
        return;
    };
    files::replace(&cluster.path(1, "f"), b"text").unwrap();
    cluster.await_equal().unwrap();
    a_cut_during_a_change(&mut cluster);
    an_end_with_open_files(&mut cluster);
    an_end_during_a_change(&mut cluster);
    cluster.await_equal().unwrap();
}

/// The minority is told, the majority goes on.
fn a_cut_during_a_change(cluster: &mut Cluster) {
    cluster.lab.isolate(1).unwrap();
    let start = now();
    thread::scope(|scope| {
        let lone = cluster.path(1, "lone");
        let many = cluster.path(2, "many");
        let file = cluster.path(1, "f");
        let create = scope.spawn(move || files::create_new(&lone));
        let rewrite = scope.spawn(move || files::rewrite(&file, b"lost"));
        let majority = scope.spawn(move || files::replace(&many, b"kept"));
        assert_eq!(files::errno(create.join().unwrap()), Errno::EACCES);
        assert_eq!(files::errno(rewrite.join().unwrap()), Errno::EACCES);
        majority.join().unwrap().unwrap();
    });
    assert!(start.elapsed() < ANSWER_LIMIT, "{:?}", start.elapsed());
    cluster.lab.heal().unwrap();
    cluster.await_in_sync().unwrap();
    cluster.await_equal().unwrap();
    assert_eq!(fs::read(cluster.path(1, "many")).unwrap(), b"kept");
    assert_eq!(fs::read(cluster.path(1, "f")).unwrap(), b"text");
    assert!(fs::metadata(cluster.path(2, "lone")).is_err());
}

fn an_end_with_open_files(cluster: &mut Cluster) {
    let host = cluster.lab.host(2);
    let script = "cd /etc/pve; exec 3<f; touch /run/inside; exec sleep 600";
    let busy = host
        .start("busy", "bash".as_ref(), &["-c", script])
        .unwrap();
    eventually(ANSWER_LIMIT, "a process inside the mount", || {
        host.path("/run/inside").exists()
    })
    .unwrap();

    let mut reader = fs::File::open(cluster.path(2, "f")).unwrap();
    let mut writer = fs::File::create(cluster.path(2, "unfinished")).unwrap();
    writer.write_all(b"never closed in time").unwrap();
    let daemon = cluster.pmxcfs[1].take().unwrap();
    let status = daemon.program().stop(STOP_LIMIT).unwrap();
    assert!(status.success(), "{status}");
    reader.read_to_end(&mut Vec::new()).unwrap_err();
    files::close(writer).unwrap_err();
    drop(busy);
    cluster.start_pmxcfs(2, &[]).unwrap();
    cluster.await_in_sync().unwrap();
}

fn an_end_during_a_change(cluster: &mut Cluster) {
    cluster.lab.isolate(3).unwrap();
    let path = cluster.path(3, "blocked");
    thread::scope(|scope| {
        let change = scope.spawn(move || files::create_new(&path));
        let daemon = cluster.pmxcfs[2].take().unwrap();
        let status = daemon.program().stop(STOP_LIMIT).unwrap();
        assert!(status.success(), "{status}");
        change.join().unwrap().unwrap_err();
    });
    cluster.lab.heal().unwrap();
    cluster.start_pmxcfs(3, &[]).unwrap();
    cluster.await_in_sync().unwrap();
}
