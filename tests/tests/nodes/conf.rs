//! Editing `corosync.conf` while the cluster runs.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use anyhow::ensure;
use nix::errno::Errno;
use tests::cluster::{Cluster, SYNC_DEADLINE};
use tests::compare::await_equal;
use tests::corosync::{Corosync, Settings};
use tests::daemon::Pmxcfs;
use tests::files;
use tests::lab::{Host, Lab, available};
use tests::wait::{eventually, eventually_ok, now};

use crate::support::{ALL, NODES, holds_on_all, three_nodes};

const HOST_FILE: &str = "/etc/corosync/corosync.conf";

#[test]
fn an_edited_configuration_is_taken_over_by_all_nodes_and_a_bad_one_by_none() {
    let Some(cluster) = three_nodes() else { return };
    let mut settings = Settings::new(3);
    for id in NODES {
        settings.config_version += 1;
        settings.totem = vec![format!("token_retransmits_before_loss_const: {}", 4 + id)];
        let text = settings.render();
        install(&cluster, id, text.as_bytes()).unwrap();
        in_force(&cluster, &settings);

        for (what, bad) in bad_ones(&settings, id) {
            let refused = install(&cluster, id, bad.as_bytes());
            assert_eq!(files::errno(refused), Errno::EINVAL, "{what}");
            let refused = files::rewrite(&cluster.path(id, "corosync.conf"), bad.as_bytes());
            assert_eq!(files::errno(refused), Errno::EINVAL, "{what}, in place");
            let log = cluster.pmxcfs[id - 1].as_ref().unwrap().program().log();
            assert!(log.contains("the new corosync.conf was refused"), "{what}");
        }
        in_force(&cluster, &settings);
    }
    // Edited in place: one close is one change.
    settings.config_version += 1;
    files::rewrite(
        &cluster.path(2, "corosync.conf"),
        settings.render().as_bytes(),
    )
    .unwrap();
    in_force(&cluster, &settings);
    cluster.await_in_sync().unwrap();
    cluster.await_equal().unwrap();
}

/// Every node takes over its host's file when it starts the first time, at a time of its own.
#[test]
fn a_new_cluster_of_equal_configurations_has_nothing_to_keep() {
    if !available(&ALL) {
        return;
    }
    let lab = Lab::new(NODES.len()).unwrap();
    let _corosync = Corosync::start_cluster(&lab, &Settings::new(NODES.len())).unwrap();
    let start = |host: &Host| {
        let begin = now();
        let daemon = Pmxcfs::start(host, &[]).unwrap();
        // The next one has to get another time.
        let second = Duration::from_secs(1);
        eventually(SYNC_DEADLINE, "another second", || begin.elapsed() > second).unwrap();
        daemon
    };
    let daemons: Vec<_> = lab.hosts().iter().map(start).collect();
    await_equal(SYNC_DEADLINE, &lab.hosts().iter().collect::<Vec<_>>()).unwrap();
    for (host, daemon) in lab.hosts().iter().zip(daemons) {
        let log = daemon.program().log();
        assert!(log.contains("imported '"), "{log}");
        assert!(!log.contains("held changes"), "{log}");
        let copies = host.disk("var/lib/pve-cluster").join("backup");
        assert!(!copies.exists(), "{}", host.name());
    }
}

/// As administrators do it: write beside, then rename.
fn install(cluster: &Cluster, id: usize, text: &[u8]) -> std::io::Result<()> {
    let new = cluster.path(id, "corosync.conf.new");
    files::replace(&new, text)?;
    fs::rename(new, cluster.path(id, "corosync.conf"))
}

fn bad_ones(settings: &Settings, id: usize) -> Vec<(&'static str, String)> {
    let mut newer = settings.clone();
    newer.config_version += 1;
    let text = newer.render();
    let mut without = newer.clone();
    without.nodes.retain(|node| *node != id);
    let mut older = settings.clone();
    older.config_version -= 1;
    vec![
        (
            "an unclosed section",
            text.trim_end().trim_end_matches('}').to_owned(),
        ),
        ("the same version", settings.render() + "# other\n"),
        ("an older version", older.render()),
        ("without its own node", without.render()),
        (
            "no version",
            text.replace("config_version", "version_of_config"),
        ),
        ("no text at all", "hello\n".to_owned()),
    ]
}

/// Waits until tree, hosts and Corosync of all nodes have these settings.
fn in_force(cluster: &Cluster, settings: &Settings) {
    let (text, version) = (settings.render(), settings.config_version);
    holds_on_all(cluster, "corosync.conf", text.as_bytes());
    for id in NODES {
        let host = cluster.lab.host(id);
        eventually_ok(
            SYNC_DEADLINE,
            &format!("version {version} on n{id}"),
            || {
                ensure!(
                    fs::read_to_string(host.path(HOST_FILE))? == text,
                    "the file"
                );
                let meta = fs::metadata(host.path(HOST_FILE))?;
                ensure!(meta.mode() & 0o7777 == 0o644, "mode {:o}", meta.mode());
                ensure!((meta.uid(), meta.gid()) == (0, 0), "its owner");
                let key = host.sh_ok("corosync-cmapctl -g totem.config_version")?;
                ensure!(key.trim().ends_with(&format!("= {version}")), "{key}");
                let members = fs::read_to_string(cluster.path(id, ".members"))?;
                let shown = format!("\"version\": {version}, \"nodes\": 3");
                ensure!(members.contains(&shown), "{members}");
                Ok(())
            },
        )
        .unwrap();
    }
}
