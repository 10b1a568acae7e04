//! Clusters in which another implementation of the daemon runs on one or two of three nodes.
//!
//! What is expected of the other one is what it promises: it can lose a race with `EEXIST`, it
//! replaces a file in two steps, it is not asked for files that are too large or grow from nothing.

use std::fs;

use tests::cluster::Cluster;
use tests::corosync::Settings;
use tests::daemon::{binary, peer_binary};
use tests::files;
use tests::lab::available;
use tests::sample::write_sample_tree;

use crate::faults::{apart_and_back, refuses_everything};
use crate::operations::{
    files_from_nothing, largest_file, operations_of, races, readers_see_whole_files,
    too_large_files,
};
use crate::support::{ALL, Load, NODES, holds_on_all};

/// Where the other implementation runs: as the lowest node, and as all but the lowest.
const PLACES: [&[usize]; 2] = [&[1], &[2, 3]];

/// Three nodes, of which some run the other implementation.
struct Mixed {
    cluster: Cluster,
    peers: &'static [usize],
}

impl Mixed {
    /// All clusters to test, one after the other; none where there is no other implementation.
    fn each(test: impl Fn(&mut Self)) {
        let Some(peer) = peer_binary() else { return };
        if !available(&ALL) {
            return;
        }
        for peers in PLACES {
            eprintln!("the other implementation on {peers:?}");
            let own = binary().unwrap();
            let choose = |id| if peers.contains(&id) { &peer } else { &own };
            let binaries = NODES.map(|id| choose(id).clone());
            let cluster = Cluster::start_with(&Settings::new(NODES.len()), &binaries).unwrap();
            let mut mixed = Self { cluster, peers };
            test(&mut mixed);
            for id in NODES {
                mixed.end(id);
            }
        }
    }

    fn is_own(&self, id: usize) -> bool {
        !self.peers.contains(&id)
    }

    fn own(&self) -> impl Iterator<Item = usize> {
        NODES.into_iter().filter(|id| self.is_own(*id))
    }

    /// Ends a daemon in order. The other implementation may have to be killed.
    fn end(&mut self, id: usize) {
        let ended = self.cluster.pmxcfs[id - 1].take().unwrap().stop();
        if self.is_own(id) {
            assert!(ended.unwrap().success(), "n{id}");
        }
    }

    fn load(&self) -> Load {
        Load::with_peers(&self.cluster, &NODES, self.peers)
    }

    /// Waits until all agree on everything.
    fn settle(&self) {
        self.cluster.await_in_sync().unwrap();
        self.cluster.await_equal().unwrap();
    }
}

#[test]
fn operations_and_races_of_two_implementations_give_one_tree() {
    Mixed::each(|mixed| {
        let cluster = &mixed.cluster;
        write_sample_tree(&cluster.path(mixed.peers[0], "")).unwrap();
        cluster.await_equal().unwrap();
        for id in NODES {
            operations_of(cluster, id);
            largest_file(cluster, id);
        }
        for id in mixed.own() {
            files_from_nothing(cluster, id);
            too_large_files(cluster, id);
        }
        cluster.await_equal().unwrap();
        races(cluster, mixed.peers);
        cluster.await_equal().unwrap();
        readers_see_whole_files(cluster, mixed.own().next().unwrap());
        mixed.settle();
    });
}

#[test]
fn lone_nodes_of_two_implementations_are_read_only_and_catch_up() {
    Mixed::each(|mixed| {
        let cluster = &mut mixed.cluster;
        fs::create_dir_all(cluster.path(3, "priv/lock")).unwrap();
        fs::create_dir(cluster.path(3, "d")).unwrap();
        files::replace(&cluster.path(3, "f"), b"before").unwrap();
        files::replace(&cluster.path(3, "deleted"), b"x").unwrap();
        cluster.await_equal().unwrap();
        for id in NODES {
            cluster.lab.isolate(id).unwrap();
            cluster.await_writable(id, false).unwrap();
            refuses_everything(cluster, id);
            let other = id % NODES.len() + 1;
            let name = format!("without-{id}");
            files::replace(&cluster.path(other, &name), b"text").unwrap();
            cluster.lab.heal().unwrap();
            cluster.await_in_sync().unwrap();
            holds_on_all(cluster, &name, b"text");
            cluster.await_equal().unwrap();
        }
        apart_and_back(cluster);
        all_at_once(mixed);
    });
}

/// All daemons end and start again; the other implementation needs a ring that is there.
fn all_at_once(mixed: &mut Mixed) {
    for id in NODES {
        mixed.end(id);
    }
    for id in NODES {
        mixed.cluster.start_pmxcfs(id, &[]).unwrap();
    }
    mixed.settle();
}

#[test]
fn cut_links_between_two_implementations_lose_nothing_that_was_acknowledged() {
    Mixed::each(|mixed| {
        let mut load = mixed.load();
        let cluster = &mut mixed.cluster;
        for id in NODES {
            load.during_loss_of(&[id], |progress| {
                cluster.lab.isolate(id).unwrap();
                cluster.await_writable(id, false).unwrap();
                progress.await_more(20).unwrap();
                cluster.lab.heal().unwrap();
                cluster.await_writable(id, true).unwrap();
            });
            load.check(cluster);
        }
        mixed.settle();
    });
}

#[test]
fn killed_daemons_of_two_implementations_lose_nothing_that_was_acknowledged() {
    Mixed::each(|mixed| {
        let mut load = mixed.load();
        for id in NODES {
            load.during(|progress| {
                mixed.cluster.pmxcfs[id - 1].take().unwrap().kill();
                progress.await_more(20).unwrap();
                mixed.cluster.start_pmxcfs(id, &[]).unwrap();
                mixed.cluster.await_writable(id, true).unwrap();
            });
            mixed.settle();
            load.check(&mixed.cluster);
            load.during(|progress| {
                mixed.end(id);
                progress.await_more(20).unwrap();
                mixed.cluster.start_pmxcfs(id, &[]).unwrap();
                mixed.cluster.await_writable(id, true).unwrap();
            });
            mixed.settle();
            load.check(&mixed.cluster);
        }
        for id in NODES {
            load.during_loss_of(&[id], |progress| {
                drop(mixed.cluster.corosync[id - 1].take());
                mixed.cluster.await_writable(id, false).unwrap();
                progress.await_more(20).unwrap();
                mixed.cluster.start_corosync(id).unwrap();
                mixed.cluster.await_writable(id, true).unwrap();
            });
            mixed.settle();
            load.check(&mixed.cluster);
        }
    });
}

#[test]
fn a_lost_database_is_filled_from_another_implementation() {
    Mixed::each(|mixed| {
        write_sample_tree(&mixed.cluster.path(2, "")).unwrap();
        mixed.cluster.await_equal().unwrap();
        for id in NODES {
            mixed.end(id);
            let database = mixed
                .cluster
                .lab
                .host(id)
                .disk("var/lib/pve-cluster/config.db");
            for extension in ["db", "db-wal", "db-shm"] {
                // An orderly end leaves the first alone.
                drop(fs::remove_file(database.with_extension(extension)));
            }
            let other = id % NODES.len() + 1;
            let data = id.to_string();
            files::replace(&mixed.cluster.path(other, "meanwhile"), data.as_bytes()).unwrap();
            mixed.cluster.start_pmxcfs(id, &[]).unwrap();
            mixed.cluster.await_in_sync().unwrap();
            holds_on_all(&mixed.cluster, "meanwhile", data.as_bytes());
            mixed.cluster.await_equal().unwrap();
        }
    });
}
