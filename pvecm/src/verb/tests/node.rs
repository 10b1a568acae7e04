//! A node that makes a cluster, or leaves one.

use std::os::unix::fs::PermissionsExt as _;

use super::{Break, Fake, WAYS};
use crate::failure::Outcome;
use crate::verb::change::undone_on_failure;
use crate::verb::{create, leave};

const CONF: &str = "totem {\n  version: 2\n  cluster_name: lab\n  config_version: 4\n}\nnodelist {\n  \
                    node {\n    name: n1\n    nodeid: 1\n    quorum_votes: 1\n    ring0_addr: \
                    10.0.0.1\n  }\n  node {\n    name: n2\n    nodeid: 2\n    quorum_votes: 1\n    \
                    ring0_addr: 10.0.0.2\n  }\n}\n";
const FIRST: &str = "totem {\n  version: 2\n  cluster_name: lab\n  config_version: 1\n}\nnodelist {\n  \
                     node {\n    name: n1\n    nodeid: 1\n    quorum_votes: 1\n    ring0_addr: \
                     10.0.0.1\n  }\n}\n";

/// A node that is in no cluster.
fn single(break_at: Break) -> Fake {
    let node = Fake::new(break_at);
    node.mount();
    node.write("etc/pve/storage.cfg", "dir: local\n");
    node.write("etc/pve/nodes/n1/pve-ssl.pem", "old");
    node.write("root/.ssh/id_rsa", "old key");
    restart(&node);
    node
}

/// A node that is in a cluster.
fn member(break_at: Break) -> Fake {
    let node = Fake::new(break_at);
    node.mount();
    node.write("etc/pve/corosync.conf", CONF);
    node.write("etc/pve/nodes/n1/qemu-server/100.conf", "cores: 1\n");
    node.write("etc/pve/nodes/n2/qemu-server/200.conf", "cores: 1\n");
    node.write("etc/corosync/corosync.conf", CONF);
    node.write("etc/corosync/authkey", "key");
    node.write("var/lib/corosync/ringid_1", "ring");
    node.messaging.set(true);
    restart(&node);
    node
}

/// The database has what was written.
fn restart(node: &Fake) {
    node.unmount();
    node.mount();
}

fn create(node: &Fake) -> Outcome {
    undone_on_failure(&node.host, node, "pvecm create lab", |transaction| {
        create::make(&node.host, node, FIRST, transaction)
    })
}

fn leave(node: &Fake) -> Outcome {
    let left = undone_on_failure(&node.host, node, "pvecm leave", |transaction| {
        leave::separate(&node.host, node, transaction)
    });
    left.map(drop)
}

#[test]
fn a_cluster_is_made_and_left_again() {
    let node = single(Break::Never);
    create(&node).unwrap();
    let paths = &node.host.paths;
    assert!(paths.cluster_conf().exists() && paths.corosync("authkey").exists());
    assert!(node.messaging.get());
    leave(&node).unwrap();
    let backup = paths.database("backup").metadata().unwrap();
    assert_eq!(backup.permissions().mode() & 0o777, 0o700);
    assert!(!paths.cluster_conf().exists() && !paths.corosync("authkey").exists());
    assert!(!node.messaging.get());
}

#[test]
fn guests_of_other_nodes_are_kept_aside() {
    let node = member(Break::Never);
    leave(&node).unwrap();
    let backup = std::fs::read_dir(node.host.paths.database("backup")).unwrap();
    let mut kept = backup.map(|entry| entry.unwrap().path());
    let aside = kept.find(|path| path.to_string_lossy().contains("/node-n2-"));
    assert!(aside.unwrap().join("qemu-server/200.conf").exists());
}

#[test]
fn what_is_broken_off_is_put_back() {
    type Case = (fn(Break) -> Fake, fn(&Fake) -> Outcome);
    let cases: [Case; 2] = [(single, create), (member, leave)];
    for (make, command) in cases {
        for way in WAYS {
            let mut number = 0;
            loop {
                let break_at = way(number);
                let mut node = make(break_at);
                let before = node.state();
                let ended = node.run(|| command(&node));
                if !node.is_broken() {
                    break;
                }
                match (break_at, ended) {
                    (Break::Killed(_), None) => node.recover(),
                    (Break::Fails(_) | Break::Signal(_), Some(Err(failure))) => {
                        let text = failure.to_string();
                        assert!(text.contains("as it was before"), "{break_at:?}: {text}");
                    }
                    (_, other) => panic!("{break_at:?}: {other:?}"),
                }
                assert_eq!(node.state(), before, "{break_at:?}");
                // And nothing is in the way of the next one.
                node.break_at = Break::Never;
                node.interrupted.set(false);
                command(&node).unwrap();
                number += 1;
            }
            assert!(number > 10, "{number}");
        }
    }
}
