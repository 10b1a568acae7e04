//! Every operation, from every node, seen by all; races.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{bail, ensure};
use nix::errno::Errno;
use tests::cluster::Cluster;
use tests::daemon::MOUNT_POINT;
use tests::files;

use crate::support::{NODES, gone_on_all, holds_on_all, on_all, there_on_all, three_nodes};

const MIB: usize = 1 << 20;
/// Times that a file is rewritten while others read it.
const ROUNDS: usize = 150;

#[test]
fn every_operation_of_every_node_is_seen_by_all() {
    let Some(cluster) = three_nodes() else { return };
    for id in NODES {
        operations_of(&cluster, id);
        files_from_nothing(&cluster, id);
    }
    for id in NODES {
        largest_file(&cluster, id);
        too_large_files(&cluster, id);
    }
    cluster.await_equal().unwrap();
    races(&cluster, &[]);
    cluster.await_equal().unwrap();
    readers_see_whole_files(&cluster, 1);
    cluster.await_equal().unwrap();
    cluster.stop().unwrap();
}

pub(crate) fn operations_of(cluster: &Cluster, id: usize) {
    let root = cluster.path(id, "");
    let at = |name: &str| root.join(name);
    files::create_new(&at("f")).unwrap();
    holds_on_all(cluster, "f", b"");
    files::replace(&at("f"), b"one\n").unwrap();
    holds_on_all(cluster, "f", b"one\n");
    files::append(&at("f"), b"two\n").unwrap();
    holds_on_all(cluster, "f", b"one\ntwo\n");
    files::write_at(&at("f"), 2, b"XYZ").unwrap();
    holds_on_all(cluster, "f", b"onXYZwo\n");
    files::truncate(&at("f"), 3).unwrap();
    holds_on_all(cluster, "f", b"onX");
    files::truncate(&at("f"), 6).unwrap();
    holds_on_all(cluster, "f", b"onX\0\0\0");
    files::truncate(&at("f"), 0).unwrap();
    holds_on_all(cluster, "f", b"");
    files::replace(&at("f"), b"again").unwrap();
    holds_on_all(cluster, "f", b"again");

    fs::rename(at("f"), at("g")).unwrap();
    gone_on_all(cluster, "f");
    holds_on_all(cluster, "g", b"again");
    files::replace(&at("h"), b"new").unwrap();
    fs::rename(at("h"), at("g")).unwrap();
    gone_on_all(cluster, "h");
    holds_on_all(cluster, "g", b"new");
    files::set_time(&at("g"), 1_234_567_890).unwrap();
    on_all(cluster, "the time of g", |root| {
        let time = fs::metadata(root.join("g"))?.mtime();
        ensure!(time == 1_234_567_890, "{time}");
        Ok(())
    });

    fs::create_dir(at("d")).unwrap();
    files::replace(&at("d/x"), b"inside").unwrap();
    holds_on_all(cluster, "d/x", b"inside");
    assert_eq!(
        files::errno(fs::remove_dir(at("d"))),
        Errno::ENOTEMPTY,
        "n{id}"
    );
    fs::rename(at("d/x"), at("g")).unwrap();
    holds_on_all(cluster, "g", b"inside");
    fs::rename(at("d"), at("e")).unwrap();
    gone_on_all(cluster, "d");
    there_on_all(cluster, "e");
    fs::remove_dir(at("e")).unwrap();
    gone_on_all(cluster, "e");
    fs::remove_file(at("g")).unwrap();
    gone_on_all(cluster, "g");
}

/// Files that grow without being written.
pub(crate) fn files_from_nothing(cluster: &Cluster, id: usize) {
    let path = cluster.path(id, "grown");
    files::create_new(&path).unwrap();
    files::truncate(&path, 5).unwrap();
    holds_on_all(cluster, "grown", &[0; 5]);
    fs::remove_file(path).unwrap();
    gone_on_all(cluster, "grown");
}

fn large(id: usize) -> (String, Vec<u8>) {
    let mut data: Vec<u8> = (0..=u8::MAX).cycle().take(MIB).collect();
    data[0] = u8::try_from(id).unwrap();
    (format!("large-{id}"), data)
}

pub(crate) fn largest_file(cluster: &Cluster, id: usize) {
    let (name, data) = large(id);
    files::replace(&cluster.path(id, &name), &data).unwrap();
    holds_on_all(cluster, &name, &data);
}

/// To be called after [`largest_file`].
pub(crate) fn too_large_files(cluster: &Cluster, id: usize) {
    let (name, mut data) = large(id);
    data.push(0);
    let refused = files::replace(&cluster.path(id, &name), &data);
    assert_eq!(files::errno(refused), Errno::EFBIG);
    assert_eq!(
        files::errno(files::append(&cluster.path(id, &name), b"x")),
        Errno::EFBIG
    );
    for size in [MIB + 1, 1 << 32] {
        let grown = files::truncate(&cluster.path(id, &name), i64::try_from(size).unwrap());
        assert_eq!(files::errno(grown), Errno::EFBIG);
    }
    data.pop();
    holds_on_all(cluster, &name, &data);
    fs::remove_file(cluster.path(id, &name)).unwrap();
}

/// All nodes try the same at the same moment: one wins. `exclusive` are nodes where every creation is.
pub(crate) fn races(cluster: &Cluster, exclusive: &[usize]) {
    for id in NODES {
        fs::create_dir_all(cluster.path(1, format!("nodes/n{id}/qemu-server"))).unwrap();
    }
    for id in NODES {
        there_on_all(cluster, &format!("nodes/n{id}/qemu-server"));
    }
    for round in 0..20 {
        race(cluster, "a directory", |_, root| {
            fs::create_dir(root.join(format!("dir-{round}")))
        });
        race(cluster, "a file", |_, root| {
            files::create_new(&root.join(format!("exclusive-{round}")))
        });
        race(cluster, "a guest", |id, root| {
            let conf = format!("nodes/n{id}/qemu-server/{}.conf", 500 + round);
            files::create_new(&root.join(conf))
        });
        // Without O_EXCL nobody loses: whoever is late opens what is there.
        let path = format!("shared-{round}");
        let outcomes = at_once(cluster, |_, root| {
            files::replace(&root.join(&path), b"same")
        });
        for (id, outcome) in outcomes {
            let late = exclusive.contains(&id);
            match outcome {
                Err(error) if late && error.kind() == ErrorKind::AlreadyExists => {}
                outcome => outcome.unwrap_or_else(|error| panic!("n{id}: {error}")),
            }
        }
        holds_on_all(cluster, &path, b"same");
    }
}

fn race(
    cluster: &Cluster,
    what: &str,
    attempt: impl Fn(usize, &Path) -> std::io::Result<()> + Sync,
) {
    let outcomes = at_once(cluster, attempt);
    let failures = outcomes
        .values()
        .filter_map(|outcome| outcome.as_ref().err());
    let codes: Vec<_> = failures.map(std::io::Error::raw_os_error).collect();
    assert_eq!(codes, [Some(libc::EEXIST); 2], "{what}: {outcomes:?}");
}

fn at_once<T: Send>(
    cluster: &Cluster,
    attempt: impl Fn(usize, &Path) -> T + Sync,
) -> BTreeMap<usize, T> {
    let barrier = Barrier::new(NODES.len());
    thread::scope(|scope| {
        let threads = NODES.map(|id| {
            let (root, barrier, attempt) = (cluster.path(id, ""), &barrier, &attempt);
            scope.spawn(move || {
                barrier.wait();
                (id, attempt(id, &root))
            })
        });
        threads.map(|thread| thread.join().unwrap()).into()
    })
}

/// A file that is rewritten in a loop, in one write or in many, is always whole on other nodes.
///
/// Processes of the host write it: of the machine's own, which also start programs all the time, the
/// daemon in its PID namespace does not see who closes what.
pub(crate) fn readers_see_whole_files(cluster: &Cluster, writer: usize) {
    let host = cluster.lab.host(writer);
    let whole = |round: usize| format!("{round:06}\n").repeat(5_000);
    fs::create_dir_all(host.path("/root/rounds")).unwrap();
    for round in 0..ROUNDS {
        fs::write(host.path(format!("/root/rounds/{round}")), whole(round)).unwrap();
    }
    for (name, piece) in [("at-once", "1M"), ("in-pieces", "700")] {
        files::replace(&cluster.path(writer, name), whole(0).as_bytes()).unwrap();
        holds_on_all(cluster, name, whole(0).as_bytes());
        let end = AtomicBool::new(false);
        thread::scope(|scope| {
            let others = NODES.into_iter().filter(|id| *id != writer);
            let readers: Vec<_> = others
                .map(|id| {
                    let (path, end) = (cluster.path(id, name), &end);
                    scope.spawn(move || read_until(&path, end))
                })
                .collect();
            let written = host.sh_ok(&format!(
                "for round in $(seq {}); do dd status=none bs={piece} if=/root/rounds/$round \
                 of={MOUNT_POINT}/{name} || exit; done",
                ROUNDS - 1
            ));
            end.store(true, Ordering::Relaxed);
            written.unwrap();
            for reader in readers {
                reader.join().unwrap().unwrap();
            }
        });
        holds_on_all(cluster, name, whole(ROUNDS - 1).as_bytes());
    }
}

fn read_until(path: &Path, end: &AtomicBool) -> anyhow::Result<()> {
    while !end.load(Ordering::Relaxed) {
        let text = fs::read_to_string(path)?;
        let first = text.get(..7).unwrap_or_default();
        if text.len() != 35_000 || text != first.repeat(5_000) {
            bail!(
                "{} bytes of more than one version: {first:?}, then {:?}",
                text.len(),
                text.split_inclusive('\n').find(|line| *line != first)
            );
        }
    }
    Ok(())
}
