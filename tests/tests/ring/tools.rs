//! The tools of Corosync say the same on nodes of both kinds.

use std::collections::BTreeSet;

use tests::mixed::{Kind, QuorumView, Ring};
use tests::wait::eventually;

use crate::support::{C, DEADLINE, L, can_run, ring};

/// What a tool prints on a node of each kind.
fn on_both(ring: &Ring, command: &str) -> [String; 2] {
    [Kind::Corosync, Kind::Lite].map(|kind| {
        let id = ring.of_kind(kind)[0];
        ring.host(id).sh_ok(command).unwrap()
    })
}

/// Numbers and addresses replaced, so that only the form is left.
fn form(text: &str) -> String {
    let digit = |c: char| if c.is_ascii_digit() { '0' } else { c };
    let words = text.replace("localhost", "connected");
    words.chars().map(digit).collect()
}

/// Keys and types of the statistics, without what only one of the daemons counts. A connection
/// counts the same whoever has it.
fn counters(text: &str) -> BTreeSet<String> {
    let own = [
        "stats.knet.handle.dropped.",
        "stats.srp.token_retx ",
        "stats.schedmiss.",
    ];
    let keys = text.lines().filter_map(|line| line.split(" = ").next());
    keys.filter(|key| !own.iter().any(|own| key.starts_with(own)))
        .map(|key| match key.strip_prefix("stats.ipcs.service") {
            Some(of_client) => of_client.rsplit('.').next().unwrap_or(of_client).to_owned(),
            None => form(key),
        })
        .collect()
}

/// Keys of a map, without numbers and without the services that only Corosync has.
fn keys(text: &str) -> BTreeSet<String> {
    let others = [
        "internal_configuration.service.",
        "runtime.services.mon.",
        "runtime.services.pload.",
        "runtime.services.wd.",
        "resources.",
    ];
    let keys = text.lines().filter_map(|line| line.split(" = ").next());
    keys.filter(|key| !others.iter().any(|other| key.starts_with(other)))
        .map(form)
        .collect()
}

/// Compares what is said of the transport, whichever it is.
pub fn print_the_same_of_links(ring: &Ring) {
    let mtus = |text: &str| -> BTreeSet<String> {
        let parts = text.split("mtu: ").skip(1);
        parts
            .filter_map(|part| part.lines().next().map(str::to_owned))
            .collect()
    };
    eventually(DEADLINE, "the same MTU", || {
        let [corosync, lite] = on_both(ring, "corosync-cfgtool -n").map(|text| mtus(&text));
        corosync == lite
    })
    .unwrap();
    for command in ["corosync-cfgtool -s", "corosync-cfgtool -n"] {
        let [corosync, lite] = on_both(ring, command).map(|text| form(&text));
        assert_eq!(corosync, lite, "{command}");
    }
    let [corosync, lite] = on_both(ring, "corosync-cmapctl").map(|text| keys(&text));
    assert_eq!(corosync, lite, "keys of the map");
}

#[test]
fn tools_print_the_same_on_both() {
    if !can_run() {
        return;
    }
    let ring = ring(&[L, C, C]);
    let views: Vec<_> = ring
        .nodes()
        .iter()
        .map(|id| QuorumView::of(ring.host(*id)).unwrap())
        .collect();
    assert!(views.iter().all(|view| *view == views[0]), "{views:?}");
    assert_eq!(views[0].members, [1, 2, 3]);
    assert_eq!(
        (views[0].expected, views[0].total, views[0].quorum),
        (3, 3, 2)
    );

    // Both links of all nodes are up, and their MTU is known.
    eventually(DEADLINE, "links", || {
        on_both(&ring, "corosync-cfgtool -n")
            .iter()
            .all(|text| text.matches("connected mtu: 1397").count() == 4)
    })
    .unwrap();
    for command in [
        "corosync-cfgtool -s",
        "corosync-cfgtool -n",
        "corosync-quorumtool -s",
        "corosync-quorumtool -l",
    ] {
        let [corosync, lite] =
            on_both(&ring, command).map(|text| form(&text.replace(" (local)", "")));
        assert_eq!(corosync, lite, "{command}");
    }
    // Members are listed in the order of joining, which is not the same for all that merged.
    let groups = on_both(&ring, "corosync-cpgtool -e");
    let [corosync, lite] =
        groups.map(|text| text.lines().map(str::to_owned).collect::<BTreeSet<_>>());
    assert_eq!(corosync, lite, "members of groups");
    let [corosync, lite] = on_both(&ring, "corosync-cmapctl").map(|text| keys(&text));
    assert_eq!(corosync, lite, "keys of the map");
    let [corosync, lite] = on_both(&ring, "corosync-cmapctl -m stats").map(|text| counters(&text));
    assert_eq!(corosync, lite, "keys of the statistics");
    for text in on_both(&ring, "corosync-cmapctl -m stats stats.") {
        let line = |key: &str| text.lines().find(|line| line.starts_with(key));
        for key in [
            "stats.srp.memb_join_rx ",
            "stats.srp.commit_entered ",
            "stats.knet.node3.link0.rx_pong_packets ",
        ] {
            let line = line(key).unwrap();
            assert!(!line.ends_with(" = 0"), "{line}");
        }
        assert!(
            text.contains("(str) = corosync-cmapct"),
            "name of the process"
        );
    }
    let cleared = "corosync-cmapctl -C all && corosync-cmapctl -m stats stats.srp.commit_entered";
    for text in on_both(&ring, cleared) {
        assert!(text.ends_with(" = 0\n"), "{text}");
    }
    ring.finish().unwrap();
}

#[test]
fn expected_votes_are_set_from_either_kind() {
    if !can_run() {
        return;
    }
    let mut ring = ring(&[L, C, C]);
    // Fewer votes than there are nodes are refused everywhere.
    for id in [1, 2] {
        assert!(
            !ring
                .host(id)
                .sh("corosync-quorumtool -e 1")
                .unwrap()
                .status
                .success()
        );
    }
    for (from, expected) in [(1, 5), (2, 4)] {
        ring.host(from)
            .sh_ok(&format!("corosync-quorumtool -e {expected}"))
            .unwrap();
        for id in ring.nodes() {
            eventually(DEADLINE, &format!("{expected} votes on n{id}"), || {
                QuorumView::of(ring.host(id))
                    .is_ok_and(|view| view.expected == expected && view.quorum == expected / 2 + 1)
            })
            .unwrap();
        }
    }
    for (from, of, votes) in [(1, 2, 2), (2, 1, 3)] {
        ring.host(from)
            .sh_ok(&format!("corosync-quorumtool -v {votes} -n {of}"))
            .unwrap();
        let total = if of == 2 { 4 } else { 6 };
        for id in ring.nodes() {
            eventually(DEADLINE, &format!("votes of n{of} on n{id}"), || {
                QuorumView::of(ring.host(id)).is_ok_and(|view| view.total == total)
            })
            .unwrap();
        }
    }
    ring.exchange(&[1, 2, 3], &[10]).unwrap();
    ring.finish().unwrap();
}

#[test]
fn nodes_of_either_kind_are_told_to_end() {
    if !can_run() {
        return;
    }
    let mut ring = ring(&[L, C, L, C]);
    // From Corosync to corosync-lite, and the other way.
    ring.host(2).sh_ok("corosync-cfgtool -k 3").unwrap();
    ring.await_end(3).unwrap();
    ring.await_ring(&[1, 2, 4]).unwrap();
    ring.host(1).sh_ok("corosync-cfgtool -k 4").unwrap();
    ring.await_end(4).unwrap();
    ring.start_daemon(3).unwrap();
    ring.start_daemon(4).unwrap();
    ring.await_ring(&[1, 2, 3, 4]).unwrap();
    for id in [1, 2] {
        ring.host(id).sh_ok("corosync-cfgtool -H").unwrap();
        let status = ring.await_end(id).unwrap();
        assert!(status.success(), "n{id}: {status}");
    }
    ring.await_ring(&[3, 4]).unwrap();
    ring.await_group(&[3, 4]).unwrap();
    ring.exchange(&[3, 4], &[10]).unwrap();
    ring.finish().unwrap();
}
