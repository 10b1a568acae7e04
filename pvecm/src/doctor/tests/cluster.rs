//! The node among others.

use super::*;

#[test]
fn quorum_is_judged() {
    let found = after(|facts| facts.messaging = Err("no daemon offers".to_owned()));
    assert!(
        found[0].contains("FAIL quorum n1: no daemon offers -> 'systemctl start corosync'"),
        "{found:?}"
    );
    let found = after(|facts| {
        facts.mount = Mount::ReadOnly;
        let messaging = facts.messaging.as_mut().unwrap();
        let state = messaging.state.as_mut().unwrap();
        state.quorate = false;
        state.votes.total = 1;
        state.members.truncate(1);
        for node in &mut messaging.status.nodes[1..] {
            node.member = false;
            node.reachable = Some(false);
        }
        messaging.peers.clear();
    });
    let text = found.join("\n");
    assert!(
        text.contains("FAIL quorum n1: 1 of 3 votes are here, 2 needed: this node may not act"),
        "{text}"
    );
    assert!(text.contains("'pvecm expected 1'"), "{text}");
    assert!(text.contains("FAIL members n2 (node 2): is not in the ring, and no link to it works (10.77.0.2, 10.78.0.2)"), "{text}");
    assert!(!text.contains("another key"), "{text}");
    // The links to nodes that are off are no findings of their own.
    assert!(!text.contains("FAIL links"), "{text}");
}

#[test]
fn a_node_with_another_key_is_suspected() {
    let found = after(|facts| {
        let messaging = facts.messaging.as_mut().unwrap();
        messaging.status.dropped = [("unauthentic".to_owned(), 7)].into();
        messaging.status.nodes[2].member = false;
        messaging.status.nodes[2].reachable = Some(false);
        messaging.status.ring.members.retain(|id| *id != 3);
        messaging.peers.get_mut(&3).unwrap().config_version = Some(1);
    });
    let text = found.join("\n");
    assert!(text.contains("sealed with another key"), "{text}");
    // Of a node that is not there nobody knows the version in force.
    assert!(!text.contains("has version 1"), "{text}");
}

#[test]
fn members_have_to_agree() {
    one(
        &[
            "FAIL members n2 (node 2)",
            "can be reached, but is not in the ring",
        ],
        |facts| {
            let messaging = facts.messaging.as_mut().unwrap();
            messaging.status.nodes[1].member = false;
        },
    );
    one(
        &[
            "FAIL members n3 (node 3)",
            "has version 3 of corosync.conf in force, this node version 4",
        ],
        |facts| {
            let messaging = facts.messaging.as_mut().unwrap();
            messaging.peers.get_mut(&3).unwrap().config_version = Some(3);
        },
    );
    one(
        &["warn members cluster", "different versions: 1, 2"],
        |facts| {
            let messaging = facts.messaging.as_mut().unwrap();
            messaging.peers.get_mut(&3).unwrap().onwire = Some([1, 2, 1]);
        },
    );
}

#[test]
fn links_are_judged() {
    one(
        &[
            "FAIL links n2 (node 2)",
            "link 1 from 10.78.0.1 to 10.78.0.2 is down",
            "'ping 10.78.0.2'",
        ],
        |facts| link(facts).up = false,
    );
    one(
        &["warn links", "link 1 takes 5.0 ms, the limit is 5 ms"],
        |facts| link(facts).latency_ms = Some(5.0),
    );
    one(
        &["FAIL links", "link 1 takes 10.4 ms, the limit is 10 ms"],
        |facts| link(facts).latency_ms = Some(10.4),
    );
    one(&["warn links", "went down 5 times"], |facts| {
        link(facts).downs = Some(5)
    });
    one(&["unknown links", "not measure"], |facts| {
        let messaging = facts.messaging.as_mut().unwrap();
        let links = messaging
            .status
            .nodes
            .iter_mut()
            .flat_map(|node| node.links.values_mut());
        links.for_each(|link| link.latency_ms = None);
    });
    one(&["warn links n2", "one link only"], |facts| {
        facts.messaging.as_mut().unwrap().status.nodes[1]
            .links
            .remove(&1);
    });
}

#[test]
fn sizes_of_packets_are_judged() {
    one(
        &[
            "warn mtu n2 (node 2)",
            "link 1: packets of 1397 bytes get through, though interface eth1 takes 9000",
        ],
        |facts| {
            facts.interfaces[1].mtu = Some(9000);
            let messaging = facts.messaging.as_mut().unwrap();
            messaging.status.nodes[2].links.get_mut(&1).unwrap().mtu = 8885;
        },
    );
}

#[test]
fn a_storage_on_the_only_network_is_found() {
    let storage = || Storage {
        name: "nas".to_owned(),
        address: "10.77.0.200".parse().unwrap(),
    };
    assert_eq!(
        after(|facts| files(facts).storages.push(storage())),
        Vec::<String>::new()
    );
    one(
        &["warn networks n1", "storage 'nas' is on the only network"],
        |facts| {
            files(facts).storages.push(storage());
            let single: String = CONF
                .lines()
                .filter(|it| !it.contains("ring1"))
                .map(|it| format!("{it}\n"))
                .collect();
            facts.local_conf = Text::Found(single.clone().into());
            files(facts).conf = Text::Found(single.into());
        },
    );
}

#[test]
fn clocks_are_judged() {
    let ahead = |seconds| {
        move |facts: &mut Facts| {
            facts
                .services
                .get_mut("n3")
                .unwrap()
                .as_mut()
                .unwrap()
                .ahead = seconds;
        }
    };
    one(
        &[
            "warn time n3",
            "its clock is 7.0 s ahead of this one's",
            "chrony",
        ],
        ahead(Some(7.0)),
    );
    one(
        &["FAIL time n3", "its clock is 3600.0 s behind this one's"],
        ahead(Some(-3600.0)),
    );
    one(&["unknown time n3", "does not tell the time"], ahead(None));
    one(&["unknown time n3", "not known: no service"], |facts| {
        facts
            .services
            .insert("n3".to_owned(), Err("no service".to_owned()));
    });
    one(
        &["FAIL time /etc/pve/x", "changed 90 s in the future"],
        |facts| {
            let time = facts.now + Duration::from_secs(90);
            files(facts).newest = Some((PathBuf::from("/etc/pve/x"), time));
        },
    );
}
