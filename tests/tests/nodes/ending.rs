//! Ends of the daemon, and of the quorum, while changes are under way.

use std::fs;
use std::io::{Read as _, Write as _};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::ensure;
use nix::errno::Errno;
use nix::unistd::{Pid, gettid};
use tests::cluster::Cluster;
use tests::files;
use tests::wait::{eventually, now};

use crate::support::{gone_on_all, on_all, three_nodes};

/// An orderly end takes a second or two, whatever is under way; a busy machine makes it longer.
const STOP_LIMIT: Duration = Duration::from_secs(10);
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
    a_loss_after_the_last_close(&cluster);
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
        let (sender, receiver) = mpsc::channel();
        let change = scope.spawn(move || {
            sender.send(gettid()).unwrap();
            files::create_new(&path)
        });
        let thread = receiver.recv().unwrap();
        // A call that comes after the end would find the empty mount point and succeed.
        eventually(ANSWER_LIMIT, "a change that waits", || is_opening(thread)).unwrap();
        let daemon = cluster.pmxcfs[2].take().unwrap();
        let status = daemon.program().stop(STOP_LIMIT).unwrap();
        assert!(status.success(), "{status}");
        change.join().unwrap().unwrap_err();
    });
    cluster.lab.heal().unwrap();
    cluster.start_pmxcfs(3, &[]).unwrap();
    cluster.await_in_sync().unwrap();
}

/// Whether a thread sleeps in a call that opens a file, or has ended.
fn is_opening(thread: Pid) -> bool {
    let call = fs::read_to_string(format!("/proc/self/task/{thread}/syscall"));
    call.map_or(true, |call| {
        call.starts_with(&format!("{} ", libc::SYS_openat))
    })
}

/// What a mapping changed is published when it goes: no call is left that could tell of a failure.
fn a_loss_after_the_last_close(cluster: &Cluster) {
    // The module mmap keeps a copy of the descriptor, which it would close last.
    const MAPPING: &str = "import ctypes, os, time
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
file = os.open('/etc/pve/mapped', os.O_RDWR)
PROT_READ_WRITE, MAP_SHARED = 3, 1
at = libc.mmap(None, ctypes.c_size_t(4), PROT_READ_WRITE, MAP_SHARED, file, ctypes.c_long(0))
os.close(file)
open('/run/mapped', 'w').close()
while not os.path.exists('/run/go-on'): time.sleep(0.01)
ctypes.memmove(at, b'lost', 4)
libc.munmap(ctypes.c_void_p(at), ctypes.c_size_t(4))";
    files::replace(&cluster.path(1, "mapped"), b"text").unwrap();
    let host = cluster.lab.host(1);
    let program = host
        .start("mapping", "python3".as_ref(), &["-c", MAPPING])
        .unwrap();
    eventually(ANSWER_LIMIT, "a mapping", || {
        host.path("/run/mapped").exists()
    })
    .unwrap();
    eventually(ANSWER_LIMIT, "the file on n2", || {
        fs::remove_file(cluster.path(2, "mapped")).is_ok()
    })
    .unwrap();
    gone_on_all(cluster, "mapped");
    fs::write(host.path("/run/go-on"), "").unwrap();
    assert!(program.wait(ANSWER_LIMIT).unwrap().success());
    on_all(cluster, "a word in the cluster log", |root| {
        let log = fs::read_to_string(root.join(".clusterlog"))?;
        ensure!(log.contains("writes to 'mapped' could not be"), "{log}");
        Ok(())
    });
}
