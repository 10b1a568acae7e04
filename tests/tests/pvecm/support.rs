//! What the tests of this folder share.

use std::fs;
use std::time::Duration;

use tests::cluster::SYNC_DEADLINE;
use tests::lab::{Requirement, available};
use tests::services::{Messaging, PveLab};
use tests::wait::{eventually_ok, now};
use tests::writers::Writers;

/// What nodes need of the machine.
const ALL: [Requirement; 5] = [
    Requirement::Root,
    Requirement::Fuse,
    Requirement::Network,
    Requirement::Corosync,
    Requirement::Ssh,
];
/// Files that a node takes from a member when it is joined by hand.
const COPIED: [(&str, &str); 2] = [
    ("/etc/corosync/authkey", "/etc/corosync/authkey"),
    ("/etc/pve/corosync.conf", "/etc/corosync/corosync.conf"),
];

/// Nodes that are in no cluster yet, or `None` where this machine can not have them.
pub(crate) fn fresh(messaging: &[Messaging]) -> Option<PveLab> {
    available(&ALL).then(|| PveLab::new(messaging).unwrap())
}

/// Makes a cluster of these nodes, the first of them the creator.
pub(crate) fn cluster(messaging: &[Messaging], links: usize) -> Option<PveLab> {
    let nodes = fresh(messaging)?;
    let args = link_args(&nodes, 1, links);
    nodes.pvecm(1, &format!("create lab {args}")).unwrap();
    nodes.await_online(&[1]).unwrap();
    for id in 2..=messaging.len() {
        join(&nodes, 1, id, links);
        nodes.await_online(&(1..=id).collect::<Vec<_>>()).unwrap();
        all_vote(&nodes, 1);
    }
    Some(nodes)
}

/// Waits until every node has its votes: one that the others could not do without has none before it
/// is there.
pub(crate) fn all_vote(nodes: &PveLab, id: usize) {
    eventually_ok(SYNC_DEADLINE, "votes of all nodes", || {
        let conf = fs::read_to_string(nodes.path(id, "corosync.conf"))?;
        anyhow::ensure!(!conf.contains("quorum_votes: 0"), "{conf}");
        Ok(())
    })
    .unwrap();
}

/// `--link0 ADDRESS` and so on for a node.
pub(crate) fn link_args(nodes: &PveLab, id: usize, links: usize) -> String {
    // A third link is on the cable of the second one.
    let address = |link| match link {
        0 | 1 => nodes.host(id).address(link),
        _ => format!("10.{}.0.{id}", 77 + link),
    };
    let link = |link| format!("--link{link} {}", address(link));
    (0..links).map(link).collect::<Vec<_>>().join(" ")
}

/// Between two changes of a writer: what is tested is the command.
const REST: Duration = Duration::from_millis(20);

/// Joins a node by hand: it is entered on a member, and takes key and configuration from there.
pub(crate) fn join(nodes: &PveLab, member: usize, new: usize, links: usize) {
    let args = link_args(nodes, new, links);
    nodes
        .pvecm(member, &format!("addnode n{new} {args} --apiversion 1"))
        .unwrap();
    let host = nodes.host(new);
    host.sh_ok("systemctl stop corosync pve-cluster").unwrap();
    host.sh_ok("rm -f /var/lib/pve-cluster/config.db*").unwrap();
    for (from, to) in COPIED {
        let content = fs::read(nodes.host(member).path(from)).unwrap();
        fs::write(host.path(to), content).unwrap();
    }
    host.sh_ok("systemctl start corosync pve-cluster").unwrap();
}

/// Waits until a file has a text in it on each of these nodes.
pub(crate) fn await_text(nodes: &PveLab, ids: &[usize], path: &str, text: &str) {
    for id in ids {
        let what = format!("'{text}' in {path} of n{id}");
        eventually_ok(SYNC_DEADLINE, &what, || {
            let found = fs::read_to_string(nodes.host(*id).path(path))?;
            anyhow::ensure!(found.contains(text), "{found}");
            Ok(())
        })
        .unwrap();
    }
}

/// Does a part of a test, and tells how long that took.
pub(crate) fn step<T>(what: &str, part: impl FnOnce() -> T) -> T {
    let start = now();
    let done = part();
    eprintln!("{what}: {:.1} s", start.elapsed().as_secs_f64());
    done
}

/// What a command wrote to its error output, that has to end with this code.
pub(crate) fn fails(nodes: &PveLab, id: usize, args: &str, code: i32) -> String {
    let output = nodes.try_pvecm(id, args).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args}: {said}");
    said
}

/// Writers on these nodes.
pub(crate) fn writers(nodes: &PveLab, ids: &[usize]) -> Writers {
    let writers = Writers::new(ids.iter().map(|id| (*id, nodes.path(*id, ""))));
    writers.unwrap().with_rests(REST)
}

/// Waits for equal nodes, then checks that each of them has what was acknowledged.
pub(crate) fn check(writers: &mut Writers, nodes: &PveLab, ids: &[usize]) {
    nodes.await_equal(ids).unwrap();
    let roots: Vec<_> = ids.iter().map(|id| nodes.path(*id, "")).collect();
    writers.check(&roots).unwrap();
}
