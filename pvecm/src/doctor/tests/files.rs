//! Files of the node and of the cluster.

use super::*;

#[test]
fn drift_of_the_configuration_is_found() {
    one(
        &[
            "FAIL configuration /etc/corosync/corosync.conf",
            "version 3 is older than the cluster's, 4",
        ],
        |facts| {
            facts.local_conf = edited("config_version: 4", "config_version: 3");
            facts.messaging.as_mut().unwrap().status.config_version = Some(3);
            for peer in facts.messaging.as_mut().unwrap().peers.values_mut() {
                peer.config_version = Some(3);
            }
        },
    );
    let found = after(|facts| facts.local_conf = edited("config_version: 4", "config_version: 5"));
    assert!(
        found[0].contains("version 5 is newer than the cluster's, 4"),
        "{found:?}"
    );
    assert!(
        found[0].contains("raise its config_version above 5"),
        "{found:?}"
    );
    assert!(
        found[1].contains("version 5 is on disk, the daemon has 4 in force"),
        "{found:?}"
    );
    one(
        &["FAIL configuration", "its text is not that of"],
        |facts| {
            facts.local_conf = edited("secauth: on", "secauth: on\n  token: 3000");
        },
    );
    one(
        &["FAIL configuration /etc/corosync/corosync.conf: it is not there"],
        |facts| facts.local_conf = Text::Absent,
    );
    let found = after(|facts| files(facts).conf = Text::Absent);
    assert!(
        found[0].contains("if this node has left the cluster"),
        "{found:?}"
    );
    one(
        &[
            "FAIL configuration /etc/pve/corosync.conf",
            "unable to read config version",
        ],
        |facts| {
            files(facts).conf = edited("config_version", "version_of_config");
            facts.services.clear();
        },
    );
}

#[test]
fn content_of_the_configuration_is_judged() {
    let both = |from: &'static str, to: &'static str| {
        move |facts: &mut Facts| {
            facts.local_conf = edited(from, to);
            files(facts).conf = edited(from, to);
        }
    };
    one(
        &["warn configuration", "authentication/encryption is not"],
        both("secauth: on", "secauth: off"),
    );
    some(
        "there is no node 'n1' in it",
        both("name: n1", "name: other"),
    );
    let removed = after(both("name: n1", "name: other")).join("\n");
    assert!(
        removed.contains("'pvecm leave' here separates it"),
        "{removed}"
    );
    assert!(!removed.contains("rm -r /etc/pve/nodes/n1"), "{removed}");
    some(
        "address 10.78.0.9 on link 1 is on none of its interfaces",
        both("ring1_addr: 10.78.0.1", "ring1_addr: 10.78.0.9"),
    );
    some(
        "node 'n3' is missing address for link 1",
        both("    ring1_addr: 10.78.0.3\n", ""),
    );
    let found = after(|facts| {
        both("ring0_addr: 10.77.0.1", "ring0_addr: n1.lab")(facts);
        let at = vec!["10.77.0.1".parse().unwrap()];
        facts.resolved = BTreeMap::from([("n1.lab".to_owned(), at)]);
    });
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("warn configuration"), "{found:?}");
}

#[test]
fn the_key_is_judged() {
    let key = |mode, size| Some(Mode { mode, uid: 0, size });
    one(&["FAIL key", "it is not there"], |facts| {
        facts.authkey = None
    });
    one(
        &["FAIL key", "mode 0644: who reads it", "chmod 0400"],
        |facts| facts.authkey = key(0o644, 256),
    );
    one(&["FAIL key", "5 bytes are no key"], |facts| {
        facts.authkey = key(0o400, 5)
    });
    one(&["warn key", "mode 0600"], |facts| {
        facts.authkey = key(0o600, 256)
    });
}

#[test]
fn certificates_are_judged() {
    const FILE: &str = "/etc/pve/nodes/n2/pve-ssl.pem";
    one(
        &[
            "FAIL certificates",
            FILE,
            "it ended 2 days ago",
            "on n2: 'pvecm updatecerts --force'",
        ],
        |facts| content(facts).ends_in = -2 * DAY,
    );
    one(&["warn certificates", FILE, "ends in 9 days"], |facts| {
        content(facts).ends_in = 9 * DAY + 5
    });
    one(&["FAIL certificates", "not valid yet"], |facts| {
        content(facts).starts_in = 60
    });
    one(
        &["FAIL certificates", "not made by the authority"],
        |facts| files(facts).certificates[1].is_signed = Some(false),
    );
    one(
        &["warn certificates", "the name 'n2' is not in it"],
        |facts| content(facts).names.clear(),
    );
    one(
        &["warn certificates", "address 10.77.0.2 is not in it"],
        |facts| content(facts).addresses.clear(),
    );
    one(
        &[
            "warn certificates",
            "n1: this node has none",
            "'pvecm updatecerts'",
        ],
        |facts| drop(files(facts).certificates.remove(0)),
    );
    one(&["FAIL certificates", "garbage"], |facts| {
        // Then nobody knows what its service ought to show.
        files(facts).certificates[1].content = Err("garbage".to_owned());
    });
    one(
        &[
            "warn certificates n2",
            "a certificate that the cluster does not know (FF)",
        ],
        |facts| {
            facts
                .services
                .get_mut("n2")
                .unwrap()
                .as_mut()
                .unwrap()
                .fingerprint = "FF".to_owned();
        },
    );
}

#[test]
fn settings_that_do_not_fit_the_nodes_are_found() {
    let quorum = |line: &'static str, nodes: usize| {
        move |facts: &mut Facts| {
            let provider = "  provider: corosync_votequorum\n";
            let mut text = CONF.replace(provider, &format!("{provider}  {line}\n"));
            for gone in nodes + 1..=3 {
                let begin = text
                    .find(&format!("  node {{\n    name: n{gone}\n"))
                    .unwrap();
                let end = begin + text[begin..].find("  }\n").unwrap() + 4;
                text.replace_range(begin..end, "");
            }
            facts.local_conf = Text::Found(text.clone().into_bytes());
            files(facts).conf = Text::Found(text.into_bytes());
        }
    };
    one(
        &[
            "FAIL configuration",
            "'two_node: 1' with 3 nodes",
            "take 'two_node' out of the section quorum",
        ],
        quorum("two_node: 1", 3),
    );
    some("'two_node: 1' with one node", quorum("two_node: 1", 1));
    one(
        &["FAIL configuration", "'expected_votes: 2'", "have 3 votes"],
        quorum("expected_votes: 2", 3),
    );
    one(
        &[
            "warn configuration",
            "'expected_votes: 5'",
            "take 'expected_votes' out of the section quorum",
        ],
        quorum("expected_votes: 5", 3),
    );
    for (fits, nodes) in [
        ("two_node: 1", 2),
        ("expected_votes: 3", 3),
        ("expected_votes: 0", 3),
    ] {
        let found = after(quorum(fits, nodes)).join("\n");
        assert!(
            !found.contains("two_node") && !found.contains("expected_votes"),
            "{found}"
        );
    }
}

#[test]
fn what_others_left_is_found() {
    let ghost = |guests: &[u32]| {
        let guests = guests.to_vec();
        move |facts: &mut Facts| drop(files(facts).directories.insert("old".to_owned(), guests))
    };
    one(
        &[
            "warn directories /etc/pve/nodes/old",
            "no node 'old'",
            "rm -r",
        ],
        ghost(&[]),
    );
    one(
        &["FAIL directories", "guests are in it: 101, 102"],
        ghost(&[101, 102]),
    );
    one(
        &[
            "warn locks /etc/pve/priv/lock/file-user_cfg",
            "taken 300 s ago",
        ],
        |facts| {
            files(facts).locks[0].age = Duration::from_secs(300);
        },
    );
}
