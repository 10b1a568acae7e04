//! The device that votes, as Corosync's project has it: `corosync-qdevice` on the nodes, and
//! `corosync-qnetd`, which decides.

use std::path::Path;

use tests::lab::{Program, Requirement, available};
use tests::mixed::{QuorumView, Ring};
use tests::wait::eventually;

use crate::support::{C, DEADLINE, L, can_run, encrypted, start};

/// The server is on the host of node 1, which outlives its daemon.
fn server(ring: &Ring) -> Program {
    let host = ring.host(1);
    host.sh_ok("mkdir -p /run/corosync-qnetd /etc/corosync/qnetd")
        .unwrap();
    let program = Path::new("/usr/bin/corosync-qnetd");
    host.start("qnetd", program, &["-f", "-s", "off"]).unwrap()
}

/// Ends with the daemon that it votes for.
fn device(ring: &Ring, id: usize) -> Program {
    let host = ring.host(id);
    host.sh_ok("mkdir -p /run/corosync-qdevice").unwrap();
    let program = Path::new("/usr/sbin/corosync-qdevice");
    host.start("qdevice", program, &["-f"]).unwrap()
}

fn await_votes(ring: &Ring, ids: &[usize], total: u32) {
    for id in ids {
        eventually(DEADLINE, &format!("{total} votes on n{id}"), || {
            QuorumView::of(ring.host(*id)).is_ok_and(|view| view.total == total)
        })
        .unwrap();
    }
}

/// Lines of the list of members, as the tool prints it on a node.
fn votes(ring: &Ring, id: usize) -> Vec<String> {
    let text = ring.host(id).sh_ok("corosync-quorumtool -s").unwrap();
    let lines = text
        .lines()
        .skip_while(|line| !line.starts_with("Expected"));
    lines.map(|line| line.replace(" (local)", "")).collect()
}

#[test]
fn the_device_keeps_the_node_that_is_left_in_force() {
    let there = available(&[Requirement::Qdevice]);
    if !can_run() || !there {
        return;
    }
    let mut settings = encrypted(2);
    settings.quorum.push(
        "device {\n    model: net\n    votes: 1\n    net {\n      host: 10.77.0.1\n      \
         algorithm: ffsplit\n      tls: off\n    }\n  }"
            .to_owned(),
    );
    let mut ring = start(&[L, C], settings);
    let qnetd = server(&ring);
    let mut devices = [1, 2].map(|id| device(&ring, id));
    await_votes(&ring, &[1, 2], 3);
    eventually(DEADLINE, "the same votes on both", || {
        votes(&ring, 1) == votes(&ring, 2)
    })
    .unwrap();
    // What the server knows of the nodes came from the daemons.
    let known = ring.host(1).sh_ok("corosync-qnetd-tool -l").unwrap();
    assert_eq!(
        known.matches("Membership node list:\t1, 2").count(),
        2,
        "{known}"
    );

    for (gone, left) in [(1, 2), (2, 1)] {
        ring.kill_daemon(gone);
        // It ends with the daemon, and there is one on a host.
        devices[gone - 1].wait(DEADLINE).unwrap();
        eventually(DEADLINE, "quorum with the device", || {
            QuorumView::of(ring.host(left))
                .is_ok_and(|view| view.members == [left] && view.total == 2 && view.quorate)
        })
        .unwrap();
        ring.start_daemon(gone).unwrap();
        ring.await_ring(&[1, 2]).unwrap();
        devices[gone - 1] = device(&ring, gone);
        await_votes(&ring, &[1, 2], 3);
    }
    qnetd.kill();
    await_votes(&ring, &[1, 2], 2);
    eventually(DEADLINE, "the same votes without the server", || {
        votes(&ring, 1) == votes(&ring, 2)
    })
    .unwrap();
    drop(devices);
    ring.finish().unwrap();
}
