//! A node whose disk is full.

use std::fs;
use std::io::Write as _;

use nix::errno::Errno;
use tests::cluster::SYNC_DEADLINE;
use tests::files;
use tests::wait::eventually_ok;

use crate::support::{Load, holds_on_all, three_nodes};

const DATABASE_DIR: &str = "/var/lib/pve-cluster";

#[test]
fn a_node_with_a_full_disk_is_read_only_until_there_is_space() {
    let Some(mut cluster) = three_nodes() else {
        return;
    };
    // The same database, on a small disk.
    assert!(cluster.pmxcfs[1].take().unwrap().stop().unwrap().success());
    let host = cluster.lab.host(2);
    host.sh_ok(&format!(
        "mkdir /run/disk; mount -t tmpfs -o size=6m tmpfs /run/disk;
         cp -a {DATABASE_DIR}/. /run/disk/; mount --bind /run/disk {DATABASE_DIR}"
    ))
    .unwrap();
    cluster.start_pmxcfs(2, &[]).unwrap();
    cluster.await_in_sync().unwrap();
    files::replace(&cluster.path(1, "f"), b"before").unwrap();
    holds_on_all(&cluster, "f", b"before");

    let mut load = Load::new(&cluster, &[1, 2, 3]);
    load.during(|progress| {
        let filler = cluster.lab.host(2).path("/run/disk/filler");
        let mut file = fs::File::create(&filler).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        cluster.await_writable(2, false).unwrap();
        // The others go on without it.
        progress.await_more(200).unwrap();
        assert_eq!(fs::read(cluster.path(2, "f")).unwrap(), b"before");
        let refused = files::errno(files::replace(&cluster.path(2, "f"), b"lost"));
        assert!(matches!(refused, Errno::ENOSPC | Errno::EIO), "{refused}");
        let log = cluster.pmxcfs[1].as_ref().unwrap().program().log();
        assert!(log.contains("could not be written"), "{log}");
        let shared = fs::read_to_string(cluster.path(1, ".clusterlog")).unwrap();
        assert!(shared.contains("could not be written"), "{shared}");

        drop(file);
        fs::remove_file(&filler).unwrap();
        cluster.await_writable(2, true).unwrap();
        eventually_ok(SYNC_DEADLINE, "a node that takes changes", || {
            Ok(files::replace(&cluster.path(2, "f"), b"after")?)
        })
        .unwrap();
    });
    holds_on_all(&cluster, "f", b"after");
    load.check_trees(&cluster);
}
