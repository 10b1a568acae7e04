//! Nodes and links that fail under load.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use anyhow::ensure;
use nix::errno::Errno;
use serde_json::Value;
use tests::cluster::{Cluster, SYNC_DEADLINE};
use tests::compare::read_database;
use tests::corosync::{QuorumState, Settings};
use tests::files;
use tests::lab::LINKS;
use tests::wait::eventually_ok;

use crate::support::{Load, NODES, gone_on_all, holds_on_all, three_nodes, three_nodes_with};

#[test]
fn a_lone_node_is_read_only_in_every_respect() {
    let Some(mut cluster) = three_nodes() else {
        return;
    };
    fs::create_dir_all(cluster.path(3, "priv/lock")).unwrap();
    fs::create_dir(cluster.path(3, "d")).unwrap();
    files::replace(&cluster.path(3, "f"), b"before").unwrap();
    files::replace(&cluster.path(3, "deleted"), b"x").unwrap();
    cluster.await_equal().unwrap();

    cluster.lab.isolate(3).unwrap();
    cluster.await_writable(3, false).unwrap();
    refuses_everything(&cluster, 3);
    cluster.await_online(1, 2).unwrap();
    files::replace(&cluster.path(1, "f"), b"after").unwrap();
    fs::remove_file(cluster.path(2, "deleted")).unwrap();
    fs::remove_dir(cluster.path(2, "d")).unwrap();
    assert_eq!(fs::read(cluster.path(3, "f")).unwrap(), b"before");

    cluster.lab.heal().unwrap();
    cluster.await_in_sync().unwrap();
    for gone in ["deleted", "d"] {
        gone_on_all(&cluster, gone);
    }
    holds_on_all(&cluster, "f", b"after");
    assert_eq!(mode(&cluster, 3, "f"), 0o640);
    cluster.await_equal().unwrap();

    apart_and_back(&mut cluster);
    cold_start(&mut cluster);
    cluster.stop().unwrap();
}

fn mode(cluster: &Cluster, id: usize, path: &str) -> u32 {
    let meta = fs::symlink_metadata(cluster.path(id, path)).unwrap();
    meta.mode() & 0o7777
}

pub(crate) fn refuses_everything(cluster: &Cluster, id: usize) {
    let modes = [
        ("", 0o755),
        ("f", 0o440),
        ("d", 0o555),
        ("priv", 0o500),
        ("priv/lock", 0o500),
        ("local", 0o555),
        (".members", 0o440),
    ];
    // The kernel is told to forget the modes a moment after they change.
    eventually_ok(SYNC_DEADLINE, "the modes of a read-only node", || {
        for (path, expected) in modes {
            let mode = mode(cluster, id, path);
            ensure!(mode == expected, "mode of '{path}': {mode:o}");
        }
        Ok(())
    })
    .unwrap();
    let members = fs::read_to_string(cluster.path(id, ".members")).unwrap();
    let members: Value = serde_json::from_str(&members).unwrap();
    assert_eq!(members["cluster"]["quorate"], 0, "{members}");

    let at = |path: &str| cluster.path(id, path);
    let changes = [
        ("create", files::create_new(&at("new"))),
        ("replace", files::replace(&at("f"), b"lost")),
        ("append", files::append(&at("f"), b"lost")),
        ("truncate", files::truncate(&at("f"), 1)),
        ("mkdir", fs::create_dir(at("new"))),
        ("rmdir", fs::remove_dir(at("d"))),
        ("unlink", fs::remove_file(at("f"))),
        ("rename", fs::rename(at("f"), at("g"))),
        ("rename onto", fs::rename(at("deleted"), at("f"))),
        ("utime", files::set_time(&at("f"), 1)),
        ("lock", fs::create_dir(at("priv/lock/x"))),
    ];
    for (what, outcome) in changes {
        assert_eq!(files::errno(outcome), Errno::EACCES, "{what}");
    }
    assert_eq!(fs::read(at("f")).unwrap(), b"before");
}

pub(crate) fn apart_and_back(cluster: &mut Cluster) {
    cluster.lab.partition(&[&[1], &[2], &[3]]).unwrap();
    for id in NODES {
        cluster.await_writable(id, false).unwrap();
    }
    cluster.lab.heal().unwrap();
    cluster.await_in_sync().unwrap();
    cluster.await_equal().unwrap();
}

fn cold_start(cluster: &mut Cluster) {
    let before = read_database(&cluster.lab.host(1).disk("var/lib/pve-cluster/config.db")).unwrap();
    for id in NODES {
        cluster.lab.power_off(id);
        drop((
            cluster.pmxcfs[id - 1].take(),
            cluster.corosync[id - 1].take(),
        ));
    }
    for id in NODES {
        cluster.lab.boot(id).unwrap();
        cluster.start_corosync(id).unwrap();
        cluster.start_pmxcfs(id, &[]).unwrap();
    }
    for id in NODES {
        cluster.await_online(id, 3).unwrap();
    }
    cluster.await_equal().unwrap();
    let after = read_database(&cluster.lab.host(1).disk("var/lib/pve-cluster/config.db")).unwrap();
    assert_eq!(before, after, "a start changes nothing");
    cluster.await_in_sync().unwrap();
}

#[test]
fn killed_daemons_lose_nothing_that_was_acknowledged() {
    let Some(mut cluster) = three_nodes() else {
        return;
    };
    let mut load = Load::new(&cluster, &NODES);
    for id in NODES {
        load.during(|progress| {
            cluster.pmxcfs[id - 1].take().unwrap().kill();
            progress.await_more(20).unwrap();
            cluster.start_pmxcfs(id, &[]).unwrap();
            cluster.await_writable(id, true).unwrap();
        });
        load.check(&cluster);
    }
    for id in NODES {
        load.during_loss_of(&[id], |progress| {
            drop(cluster.corosync[id - 1].take());
            cluster.await_writable(id, false).unwrap();
            progress.await_more(20).unwrap();
            cluster.start_corosync(id).unwrap();
            cluster.await_writable(id, true).unwrap();
        });
        cluster.await_in_sync().unwrap();
        load.check(&cluster);
    }
}

#[test]
fn cut_links_lose_nothing_that_was_acknowledged() {
    let Some(mut cluster) = three_nodes() else {
        return;
    };
    let mut load = Load::new(&cluster, &NODES);
    for id in NODES {
        load.during_loss_of(&[id], |progress| {
            cluster.lab.isolate(id).unwrap();
            cluster.await_writable(id, false).unwrap();
            progress.await_more(20).unwrap();
            cluster.lab.heal().unwrap();
            cluster.await_writable(id, true).unwrap();
        });
        load.check(&cluster);
    }
    // So many lost packets can cut off the first, too, where time is short for sending them again.
    load.during_loss_of(&[1, 2], |_| {
        for id in NODES {
            cluster.lab.flap(id, 0, 5).unwrap();
            cluster.lab.flap(id, 1, 5).unwrap();
        }
        // All contacts of a node for moments, shorter and longer than a token.
        for _ in 0..10 {
            cluster.lab.isolate(2).unwrap();
            cluster.lab.heal().unwrap();
        }
        cluster.lab.lose_around(1, 20).unwrap();
        cluster.await_online(3, 3).unwrap();
        cluster.lab.heal().unwrap();
    });
    cluster.await_in_sync().unwrap();
    load.check(&cluster);
}

/// With one of two links lost nobody leaves, and all go on writing.
#[test]
fn one_of_two_links_is_enough() {
    // Corosync finds a link dead in less time than it allows a token, but only just.
    let mut settings = Settings::new(3);
    settings.token = Duration::from_secs(5);
    let Some(cluster) = three_nodes_with(&settings) else {
        return;
    };
    let changes = || -> usize {
        let log = |id: usize| cluster.pmxcfs[id - 1].as_ref().unwrap().program().log();
        let count = |id| log(id).matches("members of the group changed").count();
        NODES.map(count).into_iter().sum()
    };
    let before = changes();
    let mut load = Load::new(&cluster, &NODES);
    load.during(|progress| {
        for link in 0..LINKS {
            cluster.lab.set_cable(2, link, false).unwrap();
            progress.await_more(300).unwrap();
            for id in NODES {
                let state = QuorumState::of(cluster.lab.host(id)).unwrap();
                assert!(state.quorate && state.votes == 3, "n{id}: {state:?}");
                cluster.await_writable(id, true).unwrap();
            }
            cluster.lab.set_cable(2, link, true).unwrap();
            await_connected(&cluster, link);
        }
    });
    assert_eq!(changes(), before, "somebody left");
    load.check(&cluster);
}

/// Waits until node 2 reaches the others over a link again.
fn await_connected(cluster: &Cluster, link: usize) {
    let host = cluster.lab.host(2);
    eventually_ok(SYNC_DEADLINE, "a link that is back", || {
        let text = host.sh_ok(&format!(
            "corosync-cmapctl -m stats | grep -E 'stats.knet.node[13].link{link}.connected'"
        ))?;
        ensure!(text.matches("= 1").count() == 2, "{text}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_lost_database_is_filled_from_the_others() {
    let Some(mut cluster) = three_nodes() else {
        return;
    };
    tests::sample::write_sample_tree(&cluster.path(2, "")).unwrap();
    cluster.await_equal().unwrap();
    for id in [1, 3] {
        cluster.pmxcfs[id - 1].take().unwrap().stop().unwrap();
        let database = cluster.lab.host(id).disk("var/lib/pve-cluster/config.db");
        fs::remove_file(&database).unwrap();
        let wal = database.with_extension("db-wal");
        assert_eq!(
            fs::metadata(wal).unwrap_err().kind(),
            ErrorKind::NotFound,
            "left by an orderly end"
        );
        files::replace(&cluster.path(2, "meanwhile"), id.to_string().as_bytes()).unwrap();
        cluster.start_pmxcfs(id, &[]).unwrap();
        cluster.await_in_sync().unwrap();
        holds_on_all(&cluster, "meanwhile", id.to_string().as_bytes());
        cluster.await_equal().unwrap();
    }
}
