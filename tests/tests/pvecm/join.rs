//! Nodes join a cluster, and are kept out, with a password or a token. (Over SSH: see `five`.)

use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tests::corosync::QuorumState;
use tests::services::Messaging::{Corosync, Lite};
use tests::services::PveLab;

use crate::joining::{
    PASSWORD, cluster_of_one, fingerprint, secret, serve, token, with_password, with_token,
};
use crate::support::{fails, fresh};

/// What a host sends to the ring gets lost.
const MUTE: &str = "nft 'add table inet mute' && \
                    nft 'add chain inet mute out { type filter hook output priority 0; }' && \
                    nft 'add rule inet mute out udp dport 5405-5412 drop'";

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
        let [first, second] = match messaging {
            [Lite, _] => [1, 2].map(|id| nodes.host(id).address(0)),
            _ => with_ipv6(&nodes),
        };
        let create = format!("create lab --link0 {first}");
        nodes.pvecm(1, &create).unwrap();
        nodes.await_online(&[1]).unwrap();
        serve(&nodes, 1);
        let how = with_token(&nodes, 1, 2);
        let add = format!("add {how} --link0 {second}");
        let dry = nodes.pvecm(2, &format!("{add} --dry-run")).unwrap();
        assert!(dry.contains("would stop pve-cluster"), "{dry}");

        let is_writable = Beat::during(nodes.path(1, "beat"), || {
            let shown = nodes.pvecm(2, &add).unwrap();
            assert!(
                shown.contains("successfully added node 'n2' to cluster."),
                "{shown}"
            );
            assert!(shown.contains("'two_node: 1'"), "{shown}");
            let log = "cat \"$(ls -t /var/log/pve/tasks/*/UPID:n2:*:clusterjoin::root@pam: | head -n 1)\"";
            let log = nodes.host(2).sh_ok(log).unwrap();
            assert!(log.contains("Request addition of this node"), "{log}");
            assert!(log.ends_with("\nTASK OK\n"), "{log}");
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
        assert!(conf.contains(&format!("ring0_addr: {second}\n")), "{conf}");
        assert!(nodes.path(1, "nodes/n2/pve-ssl.pem").exists());

        // It is safe to say it again.
        let again = nodes.pvecm(2, &add).unwrap();
        assert!(
            again.contains("already a member of cluster 'lab'"),
            "{again}"
        );
        if messaging == [Lite, Lite] {
            the_authority_gets_a_new_key(&nodes);
        }
    }
}

/// Gives both nodes an IPv6 address.
fn with_ipv6(nodes: &PveLab) -> [String; 2] {
    [1, 2].map(|id| {
        let add = format!("ip address add fd77::{id}/64 dev eth0 nodad");
        nodes.host(id).sh_ok(&add).unwrap();
        format!("fd77::{id}")
    })
}

/// Both nodes show certificates that are trusted at each step.
fn the_authority_gets_a_new_key(nodes: &PveLab) {
    let trusted = |count: usize| {
        let shown = "for node in n1 n2; do openssl verify -CAfile /etc/pve/pve-root-ca.pem \
                     /etc/pve/nodes/$node/pve-ssl.pem; done && \
                     grep -c BEGIN /etc/pve/pve-root-ca.pem";
        let shown = nodes.host(2).sh_ok(shown).unwrap();
        assert!(shown.ends_with(&format!(": OK\n{count}\n")), "{shown}");
    };
    let step = |id: usize, name: &str| nodes.pvecm(id, &format!("certs rollover {name}")).unwrap();
    trusted(1);
    step(1, "announce");
    nodes.await_equal(&[1, 2]).unwrap();
    trusted(2);
    step(1, "switch");
    nodes.await_equal(&[1, 2]).unwrap();
    trusted(2);
    // The other node still shows one of the old key.
    let said = fails(nodes, 1, "certs rollover finish", 2);
    assert!(said.contains("n2"), "{said}");
    nodes.pvecm(2, "updatecerts").unwrap();
    step(2, "finish");
    nodes.await_equal(&[1, 2]).unwrap();
    trusted(1);
    let shown = nodes.pvecm(1, "certs").unwrap();
    assert!(shown.contains("no new authority is on its way"), "{shown}");
}

#[test]
fn what_is_wrong_is_found_before_anything_changes() {
    let Some(nodes) = fresh(&[Lite, Corosync]) else {
        return;
    };
    cluster_of_one(&nodes, 1);
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
    let dead = format!("--fingerprint {right}");
    let dead = with(PASSWORD, &dead).replacen(&peer, "10.77.0.77", 1);
    let text = fails(&nodes, 2, &dead, 1);
    assert!(text.contains("can not reach the API"), "{text}");
    wrong_tokens_are_refused(&nodes);
    a_member_without_quorum_takes_nobody(&nodes);
    a_member_with_a_full_disk_takes_nobody(&nodes);
    fs::remove_dir_all(nodes.path(1, "priv/join-tokens")).unwrap();
    fs::remove_dir_all(nodes.path(2, "nodes/n2/qemu-server")).ok();
    let after = (state(&nodes, 1), state(&nodes, 2));
    assert_eq!(after, before);
    // And then it does join.
    let add = with(PASSWORD, &format!("--fingerprint {right}"));
    nodes.pvecm(2, &add).unwrap();
    nodes.await_online(&[1, 2]).unwrap();
}

/// Garbled, revoked, and older than it may be.
fn wrong_tokens_are_refused(nodes: &PveLab) {
    let good = token(nodes, 1);
    let refused = |text: &str, why: &str| {
        let file = secret(nodes, 2, text);
        let said = fails(nodes, 2, &format!("add --token-file {file}"), 2);
        assert!(said.contains(why), "{said}");
    };
    refused(&good.replace("PVEJOIN1-", "PVEJOIN1-e"), "token");
    let listed = || -> serde_json::Value {
        let text = nodes.pvecm(1, "token list --output-format json").unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let id = listed()[0]["id"].as_str().unwrap().to_owned();
    nodes.pvecm(1, &format!("token revoke {id}")).unwrap();
    refused(&good, "join token is not known");
    let late = token(nodes, 1);
    let entry = fs::read_dir(nodes.path(1, "priv/join-tokens")).unwrap();
    let mut files: Vec<_> = entry.map(|entry| entry.unwrap().path()).collect();
    let file = files.pop().unwrap();
    assert!(files.is_empty(), "{files:?}");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    record["expires"] = 1.into();
    fs::write(&file, record.to_string()).unwrap();
    assert_eq!(listed(), serde_json::json!([]));
    refused(&late, "join token has expired");
}

fn a_member_without_quorum_takes_nobody(nodes: &PveLab) {
    let how = with_token(nodes, 1, 2);
    nodes.host(1).sh_ok("systemctl stop corosync").unwrap();
    nodes.await_writable(1, false).unwrap();
    let none = |id, args: &str| {
        let text = fails(nodes, id, args, 3);
        assert!(text.contains("quorum"), "{args}: {text}");
    };
    none(2, &format!("add {how}"));
    none(2, &format!("add {}", with_password(nodes, 1, 2)));
    none(1, "addnode n2 --link0 10.77.0.2 --apiversion 1");
    none(1, "token");
    nodes.host(1).sh_ok("systemctl start corosync").unwrap();
    nodes.await_writable(1, true).unwrap();
}

fn a_member_with_a_full_disk_takes_nobody(nodes: &PveLab) {
    let how = with_token(nodes, 1, 2);
    let member = nodes.host(1);
    member
        .sh_ok(
            "systemctl stop pve-cluster; mkdir /run/disk; mount -t tmpfs -o size=6m,mode=755 tmpfs /run/disk;
             cp -a /var/lib/pve-cluster/. /run/disk/; mount --bind /run/disk /var/lib/pve-cluster;
             systemctl start pve-cluster",
        )
        .unwrap();
    nodes.await_writable(1, true).unwrap();
    let before = (state(nodes, 1), state(nodes, 2));
    member
        .sh_ok("! dd if=/dev/zero of=/run/disk/filler bs=4k status=none")
        .unwrap();
    let refused = nodes.try_pvecm(2, &format!("add {how}")).unwrap();
    let text = said(&refused);
    assert!(!refused.status.success(), "{text}");
    assert!(text.contains("No space left on device"), "{text}");
    member.sh_ok("rm /run/disk/filler").unwrap();
    nodes.await_writable(1, true).unwrap();
    let after = (state(nodes, 1), state(nodes, 2));
    assert_eq!(after, before);
}

fn put_back_by_the_user(nodes: &PveLab) {
    let plan = nodes.pvecm(2, "undo --dry-run").unwrap();
    for step in [
        "put back '/var/lib/pve-cluster/config.db'",
        "remove '/etc/corosync/authkey'",
    ] {
        assert!(plan.contains(&format!("would {step}")), "{plan}");
    }
    let said = fails(nodes, 2, "undo", 2);
    assert!(said.contains("--yes"), "{said}");
    nodes.pvecm(2, "undo --yes").unwrap();
    nodes.await_writable(2, true).unwrap();
    let shown = nodes.pvecm(2, "undo --yes").unwrap();
    assert!(shown.contains("there is nothing to put back"), "{shown}");
}

/// Sends a signal to a join that waits for quorum; returns what it has said.
fn while_it_waits(nodes: &PveLab, add: &str, signal: &str) -> String {
    // What an earlier one said is gone before this one is watched.
    let script = format!(
        "rm -f /run/add-{signal}; \
         pvecm {add} --timeout 60 >/run/add-{signal} 2>&1 & joins=$!; \
         timeout 300 grep -q -m 1 'waiting for quorum' \
             <(tail --pid=$joins -n +1 -F /run/add-{signal} 2>&1); \
         kill -{signal} $joins; wait $joins; cat /run/add-{signal}"
    );
    nodes.host(2).sh_ok(&script).unwrap()
}

#[test]
fn a_join_that_fails_or_is_killed_is_put_back_on_both_sides() {
    let Some(nodes) = fresh(&[Lite, Lite]) else {
        return;
    };
    cluster_of_one(&nodes, 1);
    let add = format!("add {}", with_password(&nodes, 1, 2));
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

    // Ctrl-C while it waits.
    let text = while_it_waits(&nodes, &add, "INT");
    assert!(text.contains("interrupted"), "{text}");
    assert!(
        text.contains("'10.77.0.1' has taken this node out again"),
        "{text}"
    );
    assert!(text.contains("This node is as it was before."), "{text}");
    nodes.await_writable(2, true).unwrap();
    assert_eq!(state(&nodes, 2), before);
    let conf = fs::read_to_string(nodes.path(1, "corosync.conf")).unwrap();
    assert!(!conf.contains("n2"), "{conf}");

    // It is killed while it waits, and the user has it put back.
    while_it_waits(&nodes, &add, "KILL");
    put_back_by_the_user(&nodes);
    // The next join knows by it that the cluster may have an entry of this node.
    let note = nodes
        .host(2)
        .path("/var/lib/pve-cluster/pvecm-joining.json");
    let content = fs::read(&note).unwrap();
    fs::remove_file(&note).unwrap();
    assert_eq!(state(&nodes, 2), before);
    fs::write(&note, content).unwrap();

    // Both sides are killed while it waits.
    while_it_waits(&nodes, &add, "KILL");
    let server = "kill -9 $(cat /run/lab/pvecm-serve.pid)";
    nodes.host(1).sh_ok(server).unwrap();
    serve(&nodes, 1);
    nodes.host(2).sh_ok("nft flush ruleset").unwrap();
    // One line of a member says where it is and which certificate it has.
    let info = nodes.pvecm(1, "join-info --base64").unwrap();
    let file = secret(&nodes, 2, PASSWORD);
    let add = format!("add --info {} --password-file {file}", info.trim());
    let shown = nodes.try_pvecm(2, &add).unwrap();
    let text = said(&shown);
    assert!(shown.status.success(), "{text}");
    assert!(text.contains("was broken off earlier"), "{text}");
    nodes.await_online(&[1, 2]).unwrap();
    nodes.await_equal(&[1, 2]).unwrap();
}
