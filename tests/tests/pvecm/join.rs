//! Nodes join a cluster: over HTTPS with a password or a token, over SSH, and not at all.

use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tests::cluster::SYNC_DEADLINE;
use tests::corosync::QuorumState;
use tests::services::Messaging::{Corosync, Lite};
use tests::services::PveLab;
use tests::wait::eventually;

use crate::support::{fails, fresh};

const PASSWORD: &str = "open sesame & more";

/// What a host sends to the ring gets lost.
const MUTE: &str = "nft 'add table inet mute' && \
                    nft 'add chain inet mute out { type filter hook output priority 0; }' && \
                    nft 'add rule inet mute out udp dport 5405-5412 drop'";

/// A cluster of one, on the first of these nodes, that others can ask to be let in.
fn cluster_of_one(nodes: &PveLab) {
    let args = format!("create lab --link0 {}", nodes.host(1).address(0));
    nodes.pvecm(1, &args).unwrap();
    nodes.await_online(&[1]).unwrap();
    serve(nodes, 1);
    let host = nodes.host(1);
    fs::write(host.path("/run/password"), format!("root:{PASSWORD}\n")).unwrap();
    host.sh_ok("chpasswd </run/password && rm /run/password")
        .unwrap();
}

fn serve(nodes: &PveLab, id: usize) {
    nodes.host(id).sh_ok("systemctl start pveproxy").unwrap();
    eventually(SYNC_DEADLINE, "a server that listens", || {
        nodes
            .host(id)
            .sh("exec 3<>/dev/tcp/127.0.0.1/8006")
            .is_ok_and(|output| output.status.success())
    })
    .unwrap();
}

/// Writes a secret to a file of a node.
fn secret(nodes: &PveLab, id: usize, text: &str) -> &'static str {
    fs::write(nodes.host(id).path("/root/secret"), text).unwrap();
    "/root/secret"
}

fn token(nodes: &PveLab, id: usize) -> String {
    nodes.pvecm(id, "token 2>/dev/null").unwrap()
}

/// Fingerprint of what a node shows.
fn fingerprint(nodes: &PveLab, id: usize) -> String {
    let info: serde_json::Value =
        serde_json::from_str(&nodes.pvecm(id, "join-info").unwrap()).unwrap();
    let entry = info["nodelist"].as_array().unwrap().iter();
    let own = entry
        .into_iter()
        .find(|node| node["name"] == format!("n{id}"));
    own.unwrap()["pve_fp"].as_str().unwrap().to_owned()
}

/// What a host has that a join changes.
fn state(nodes: &PveLab, id: usize) -> String {
    let script = "cd / && find etc/corosync root etc/ssh var/lib/pve-cluster ! -name '.*' \
                  ! -name 'config.db*' ! -name secret -printf '%p %m %l\\n' | sort; \
                  cat etc/ssh/sshd_config; find etc/pve -type f ! -name '.*' | sort | xargs sha256sum";
    nodes.host(id).sh_ok(script).unwrap()
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

/// Writes to a node all the time; `false` from the first refusal on.
struct Beat {
    path: PathBuf,
    end: AtomicBool,
    refused: AtomicBool,
}

impl Beat {
    fn during(path: PathBuf, work: impl FnOnce()) -> bool {
        let beat = Self {
            path,
            end: AtomicBool::new(false),
            refused: AtomicBool::new(false),
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut count = 0_u64;
                while !beat.end.load(Ordering::Relaxed) {
                    count += 1;
                    if let Err(error) = fs::write(&beat.path, count.to_string()) {
                        eprintln!("write {count}: {error}");
                        beat.refused.store(true, Ordering::Relaxed);
                    }
                }
                eprintln!("{count} writes");
            });
            let end = End(&beat.end);
            work();
            drop(end);
        });
        !beat.refused.load(Ordering::Relaxed)
    }
}

/// Also when the work panics the writer has to end.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_second_node_joins_with_a_token_and_the_first_is_never_without_quorum() {
    for messaging in [[Lite, Lite], [Corosync, Corosync]] {
        let Some(nodes) = fresh(&messaging) else {
            return;
        };
        cluster_of_one(&nodes);
        let file = secret(&nodes, 2, &token(&nodes, 1));
        let add = format!(
            "add --token-file {file} --link0 {}",
            nodes.host(2).address(0)
        );
        let dry = nodes.pvecm(2, &format!("{add} --dry-run")).unwrap();
        assert!(dry.contains("would stop pve-cluster"), "{dry}");

        let is_writable = Beat::during(nodes.path(1, "beat"), || {
            let shown = nodes.pvecm(2, &add).unwrap();
            assert!(
                shown.contains("successfully added node 'n2' to cluster."),
                "{shown}"
            );
        });
        assert!(is_writable, "{messaging:?}: the first node refused a write");
        nodes.await_online(&[1, 2]).unwrap();
        nodes.await_equal(&[1, 2]).unwrap();
        for id in [1, 2] {
            let votes = QuorumState::of(nodes.host(id)).unwrap();
            assert!(votes.quorate && votes.votes == 2, "{votes:?}");
        }
        let conf = fs::read_to_string(nodes.path(1, "corosync.conf")).unwrap();
        assert!(!conf.contains("quorum_votes: 0"), "{conf}");
        assert!(nodes.path(1, "nodes/n2/pve-ssl.pem").exists());

        // It is safe to say it again.
        let again = nodes.pvecm(2, &add).unwrap();
        assert!(
            again.contains("already a member of cluster 'lab'"),
            "{again}"
        );
    }
}

#[test]
fn what_is_wrong_is_found_before_anything_changes() {
    let Some(nodes) = fresh(&[Lite, Corosync]) else {
        return;
    };
    cluster_of_one(&nodes);
    let right = fingerprint(&nodes, 1);
    let before = (state(&nodes, 1), state(&nodes, 2));
    let peer = nodes.host(1).address(0);
    let with = |password: &str, more: &str| {
        let file = secret(&nodes, 2, password);
        format!("add {peer} --password-file {file} {more}")
    };
    let text = fails(
        &nodes,
        2,
        &with("guess", &format!("--fingerprint {right}")),
        2,
    );
    assert!(text.contains("401 authentication failure"), "{text}");
    let wrong = ["AB"; 32].join(":");
    let text = fails(
        &nodes,
        2,
        &with(PASSWORD, &format!("--fingerprint {wrong}")),
        2,
    );
    assert!(text.contains("not verified, abort!"), "{text}");
    let text = fails(&nodes, 2, &with(PASSWORD, "</dev/null"), 2);
    assert!(text.contains("Fingerprint not verified"), "{text}");
    let taken = format!("--fingerprint {right} --nodeid 1");
    let text = fails(&nodes, 2, &with(PASSWORD, &taken), 2);
    assert!(text.contains("node id 1 is that of node 'n1'"), "{text}");
    let foreign = format!("--fingerprint {right} --link0 10.77.0.99");
    let text = fails(&nodes, 2, &with(PASSWORD, &foreign), 2);
    assert!(text.contains("not found on local node!"), "{text}");
    fs::create_dir_all(nodes.path(2, "nodes/n2/qemu-server")).unwrap();
    fs::write(
        nodes.path(2, "nodes/n2/qemu-server/100.conf"),
        "memory: 1\n",
    )
    .unwrap();
    let text = fails(
        &nodes,
        2,
        &with(PASSWORD, &format!("--fingerprint {right}")),
        2,
    );
    assert!(text.contains("virtual guests (100)"), "{text}");
    fs::remove_file(nodes.path(2, "nodes/n2/qemu-server/100.conf")).unwrap();
    let old = secret(
        &nodes,
        2,
        &token(&nodes, 1).replace("PVEJOIN1-", "PVEJOIN1-e"),
    );
    fails(&nodes, 2, &format!("add --token-file {old}"), 2);
    let dead = format!("add 10.77.0.77 --password-file {old} --fingerprint {right}");
    let text = fails(&nodes, 2, &dead, 1);
    assert!(text.contains("can not reach the API"), "{text}");
    let tokens = fs::read_dir(nodes.path(1, "priv/join-tokens"))
        .unwrap()
        .count();
    assert_eq!(tokens, 1);
    nodes.pvecm(1, "token list --output-format json").unwrap();
    fs::remove_dir_all(nodes.path(1, "priv/join-tokens")).unwrap();
    fs::remove_dir_all(nodes.path(2, "nodes/n2/qemu-server")).ok();
    let after = (state(&nodes, 1), state(&nodes, 2));
    assert_eq!(after.0, before.0);
    // And then it does join.
    let add = with(PASSWORD, &format!("--fingerprint {right}"));
    nodes.pvecm(2, &add).unwrap();
    nodes.await_online(&[1, 2]).unwrap();
}

#[test]
fn a_join_that_fails_or_is_killed_is_put_back_on_both_sides() {
    let Some(nodes) = fresh(&[Lite, Lite]) else {
        return;
    };
    cluster_of_one(&nodes);
    let right = fingerprint(&nodes, 1);
    let file = secret(&nodes, 2, PASSWORD);
    let peer = nodes.host(1).address(0);
    let add = format!("add {peer} --password-file {file} --fingerprint {right}");
    fs::write(nodes.path(2, "storage.cfg"), "dir: mine\n").unwrap();
    let before = state(&nodes, 2);
    // Its packets never leave, so there is no quorum with it.
    nodes.host(2).sh_ok(MUTE).unwrap();
    let is_writable = Beat::during(nodes.path(1, "beat"), || {
        let failed = nodes.try_pvecm(2, &format!("{add} --timeout 5")).unwrap();
        let text = said(&failed);
        assert_eq!(failed.status.code(), Some(1), "{text}");
        assert!(text.contains("no quorum within 5 seconds"), "{text}");
        assert!(text.contains("no answer of node 'n1' on link 0"), "{text}");
        assert!(text.contains("This node is as it was before."), "{text}");
    });
    assert!(is_writable, "the first node refused a write");
    nodes.await_writable(2, true).unwrap();
    assert_eq!(state(&nodes, 2), before);
    let conf = fs::read_to_string(nodes.path(1, "corosync.conf")).unwrap();
    assert!(!conf.contains("n2"), "{conf}");

    // Killed while it waits.
    let script = format!(
        "pvecm {add} --timeout 60 >/run/add.log 2>&1 & \
         until grep -q 'waiting for quorum' /run/add.log; do :; done; kill -9 $!; wait $!; true"
    );
    nodes.host(2).sh_ok(&script).unwrap();
    nodes.host(2).sh_ok("nft flush ruleset").unwrap();
    let shown = nodes.try_pvecm(2, &add).unwrap();
    let text = said(&shown);
    assert!(shown.status.success(), "{text}");
    assert!(text.contains("was broken off earlier"), "{text}");
    nodes.await_online(&[1, 2]).unwrap();
    nodes.await_equal(&[1, 2]).unwrap();
}

#[test]
fn nodes_join_over_ssh_and_two_at_once() {
    let Some(nodes) = fresh(&[Lite, Corosync, Lite, Corosync]) else {
        return;
    };
    cluster_of_one(&nodes);
    nodes.host(1).sh_ok("systemctl start ssh").unwrap();
    // What ssh-copy-id and the first question of ssh would do on a terminal.
    let (n1, n2) = (nodes.host(1), nodes.host(2));
    n2.sh_ok("mkdir -p -m 700 /root/.ssh && ssh-keygen -q -t rsa -N '' -f /root/.ssh/id_rsa")
        .unwrap();
    let key = fs::read_to_string(n2.path("/root/.ssh/id_rsa.pub")).unwrap();
    let list = nodes.path(1, "priv/authorized_keys");
    let keys = fs::read_to_string(&list).unwrap_or_default();
    fs::write(&list, format!("{keys}{key}")).unwrap();
    let peer = n1.address(0);
    n2.sh_ok(&format!(
        "ssh-keyscan {peer} >>/root/.ssh/known_hosts 2>/dev/null"
    ))
    .unwrap();
    nodes.pvecm(2, &format!("add {peer} --use_ssh")).unwrap();
    nodes.await_online(&[1, 2]).unwrap();

    serve(&nodes, 2);
    let files =
        [(3, 1), (4, 2)].map(|(new, member)| (new, secret(&nodes, new, &token(&nodes, member))));
    thread::scope(|scope| {
        for (new, file) in files {
            let nodes = &nodes;
            scope.spawn(move || {
                nodes
                    .pvecm(new, &format!("add --token-file {file}"))
                    .unwrap()
            });
        }
    });
    nodes.await_online(&[1, 2, 3, 4]).unwrap();
    nodes.await_equal(&[1, 2, 3, 4]).unwrap();
    let votes = QuorumState::of(nodes.host(3)).unwrap();
    assert!(votes.quorate && votes.votes == 4, "{votes:?}");
}
