//! A cluster is made.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use tests::corosync::QuorumState;
use tests::services::Messaging::{Corosync, Lite};

use crate::support::fresh;

#[test]
fn a_cluster_of_one_is_made_on_either_messaging_daemon() {
    let Some(nodes) = fresh(&[Corosync, Lite]) else {
        return;
    };
    for id in [1, 2] {
        let host = nodes.host(id);
        let args = format!(
            "create lab{id} --two-node --link0 {} --link1 n{id}-1,priority=7",
            host.address(0)
        );
        let plan = nodes.pvecm(id, &format!("{args} --dry-run")).unwrap();
        assert!(plan.contains("would write"), "{plan}");
        assert!(plan.contains("  two_node: 1\n"), "{plan}");
        assert!(!nodes.path(id, "corosync.conf").exists());

        // Nobody has to read how far it is.
        let unread = format!("set -o pipefail; pvecm {args} | true");
        nodes.host(id).sh_ok(&unread).unwrap();
        nodes.await_online(&[id]).unwrap();
        // Old logs of the machine may be there as well.
        let last = format!(
            "tail -n 1 \"$(ls -t /var/log/pve/tasks/*/UPID:n{id}:*:clustercreate:lab{id}:root@pam: | head -n 1)\""
        );
        assert_eq!(host.sh_ok(&last).unwrap(), "TASK OK\n");
        let state = QuorumState::of(host).unwrap();
        assert!(state.quorate && state.votes == 1, "{state:?}");
        let conf = fs::read_to_string(nodes.path(id, "corosync.conf")).unwrap();
        let address = format!("ring1_addr: {}\n", host.address(1));
        assert!(conf.contains(&address), "{conf}");
        assert!(conf.contains("knet_link_priority: 7\n"), "{conf}");
        let on_host = fs::read_to_string(host.path("/etc/corosync/corosync.conf")).unwrap();
        assert_eq!(on_host, conf);
        let key = fs::metadata(host.path("/etc/corosync/authkey")).unwrap();
        assert_eq!((key.mode() & 0o7777, key.len()), (0o400, 256));
        assert!(!host.path("/var/lib/pve-cluster/pvecm-undo").exists());

        let again = nodes.try_pvecm(id, &args).unwrap();
        assert_eq!(again.status.code(), Some(2));
        let said = String::from_utf8_lossy(&again.stderr).into_owned();
        assert!(said.contains("corosync.conf' already exists"), "{said}");
    }
}

#[test]
fn a_cluster_that_does_not_come_up_leaves_the_node_as_it_was() {
    let Some(nodes) = fresh(&[Corosync]) else {
        return;
    };
    fs::write(nodes.path(1, "storage.cfg"), "dir: local\n").unwrap();
    // The daemon fails; and it takes its time, until somebody presses Ctrl-C.
    let interrupted = "pvecm create lab >/run/create 2>&1 & creates=$!; \
         timeout 300 grep -q -m 1 'Restart corosync' \
             <(tail --pid=$creates -n +1 -F /run/create 2>&1); \
         kill -INT $creates; wait $creates; code=$?; cat /run/create >&2; exit $code";
    for (program, create) in [
        ("/bin/false", "pvecm create lab"),
        ("/bin/sleep 6", interrupted),
    ] {
        let broken = format!(
            "ConditionPathExists=/etc/corosync/corosync.conf\nType=notify\nExecStart={program}\n"
        );
        nodes.install_unit(1, "corosync", &broken).unwrap();
        let failed = nodes.host(1).sh(create).unwrap();
        let said = String::from_utf8_lossy(&failed.stderr).into_owned();
        assert_eq!(failed.status.code(), Some(1), "{said}");
        assert!(said.contains("this node is as it was before"), "{said}");
        nodes.await_writable(1, true).unwrap();
        let host = nodes.host(1);
        assert!(!nodes.path(1, "corosync.conf").exists());
        assert!(!host.path("/etc/corosync/authkey").exists());
        assert!(!host.path("/etc/corosync/corosync.conf").exists());
        assert!(!host.path("/var/lib/pve-cluster/pvecm-undo").exists());
        let kept = fs::read_to_string(nodes.path(1, "storage.cfg")).unwrap();
        assert_eq!(kept, "dir: local\n");
    }
}

#[test]
fn addresses_that_the_node_does_not_have_are_refused() {
    let Some(nodes) = fresh(&[Lite]) else { return };
    let refused = nodes.try_pvecm(1, "create lab --link0 10.77.0.2").unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("not found on local node!"), "{said}");
    assert!(!nodes.path(1, "corosync.conf").exists());
    // The original's task begins before it looks at addresses.
    let last = "tail -n 1 \"$(ls -t /var/log/pve/tasks/*/UPID:n1:*:clustercreate:lab:root@pam: | head -n 1)\"";
    let last = nodes.host(1).sh_ok(last).unwrap();
    let why = "TASK ERROR: link0: cannot use IP '10.77.0.2', not found on local node!\n";
    assert_eq!(last, why);
}
