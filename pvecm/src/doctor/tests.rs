use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use corosync_lite::status::{Link, Node, Ring, Status};

use super::facts::*;
use super::gather::{storages_of, version_of};
use super::*;
use crate::host::pve::{Member as Known, Members};
use crate::state::{Info, Member, Peer, State, Votes};

const CONF: &str = "\
nodelist {
  node {
    name: n1
    nodeid: 1
    ring0_addr: 10.77.0.1
    ring1_addr: 10.78.0.1
  }
  node {
    name: n2
    nodeid: 2
    ring0_addr: 10.77.0.2
    ring1_addr: 10.78.0.2
  }
  node {
    name: n3
    nodeid: 3
    ring0_addr: 10.77.0.3
    ring1_addr: 10.78.0.3
  }
}

quorum {
  provider: corosync_votequorum
}

totem {
  cluster_name: lab
  config_version: 4
  secauth: on
}
";
const DAY: i64 = 86_400;

fn node(id: u32) -> Node {
    let link = |number: u8| Link {
        up: true,
        from: format!("10.{}.0.1", 77 + number),
        to: format!("10.{}.0.{id}", 77 + number),
        mtu: 1397,
        latency_ms: Some(0.3),
        ups: Some(1),
        downs: Some(0),
    };
    let links = if id == 1 { 0..0 } else { 0..2 };
    Node {
        id,
        name: Some(format!("n{id}")),
        votes: Some(1),
        member: true,
        reachable: (id != 1).then_some(true),
        links: links.map(|number| (number, link(number))).collect(),
    }
}

fn member(id: u32) -> Member {
    Member {
        id,
        info: Some(Info {
            votes: 1,
            ..Info::default()
        }),
        name: format!("n{id}"),
        address: Ok(format!("10.77.0.{id}").parse().unwrap()),
    }
}

fn certificate(node: u32) -> Certificate {
    Certificate {
        path: PathBuf::from(format!("/etc/pve/nodes/n{node}/pve-ssl.pem")),
        node: Some(format!("n{node}")),
        is_signed: Some(true),
        content: Ok(CertificateContent {
            starts_in: -DAY,
            ends_in: 700 * DAY,
            names: vec!["localhost".to_owned(), format!("n{node}")],
            addresses: vec![format!("10.77.0.{node}").parse().unwrap()],
            fingerprint: format!("0{node}:AA"),
        }),
    }
}

fn known(id: u32) -> (String, Known) {
    let ip = format!("10.77.0.{id}").parse().ok();
    (format!("n{id}"), Known { id, online: 1, ip })
}

fn messaging() -> Messaging {
    let peer = Peer {
        onwire: Some([1, 1, 1]),
        config_version: Some(4),
    };
    Messaging {
        status: Status {
            node: 1,
            config_version: Some(4),
            ring: Ring {
                id: "1.1e".to_owned(),
                members: vec![1, 2, 3],
            },
            nodes: [1, 2, 3].map(node).to_vec(),
            ..Status::default()
        },
        state: Some(State {
            node: 1,
            quorate: true,
            votes: Votes {
                expected: 3,
                highest_expected: 3,
                total: 3,
                needed: 2,
                flags: 2,
            },
            members: [1, 2, 3].map(member).to_vec(),
            ..State::default()
        }),
        peers: BTreeMap::from([(2, peer), (3, peer)]),
    }
}

fn interface(link: u8) -> Interface {
    Interface {
        name: format!("eth{link}"),
        address: format!("10.{}.0.1", 77 + link).parse().unwrap(),
        prefix: 24,
        mtu: Some(1500),
    }
}

/// A node of three with which all is well.
fn healthy() -> Facts {
    let now = Duration::from_secs(1_700_000_000);
    let seen = |id: u32| {
        let seen = Seen {
            ahead: Some(-0.4),
            fingerprint: format!("0{id}:AA"),
        };
        (format!("n{id}"), Ok(seen))
    };
    let program = Program {
        name: "corosync".to_owned(),
        version: Some("3.1.7".to_owned()),
        outdated: Vec::new(),
    };
    Facts {
        node: "n1".to_owned(),
        now,
        addresses: Ok(vec!["10.77.0.1".parse().unwrap()]),
        interfaces: [0, 1].map(interface).to_vec(),
        mount: Mount::Writable,
        files: Some(ClusterFiles {
            members: Some(Members {
                nodename: "n1".to_owned(),
                nodelist: [1, 2, 3].map(known).into(),
                ..Members::default()
            }),
            conf: Text::Found(CONF.into()),
            certificates: [1, 2, 3].map(certificate).to_vec(),
            locks: vec![Lock {
                name: "file-user_cfg".to_owned(),
                age: Duration::from_secs(1),
            }],
            directories: ["n1", "n2", "n3"]
                .map(|name| (name.to_owned(), Vec::new()))
                .into(),
            storages: Vec::new(),
            newest: Some((PathBuf::from("/etc/pve/user.cfg"), now)),
        }),
        local_conf: Text::Found(CONF.into()),
        authkey: Some(Mode {
            mode: 0o400,
            uid: 0,
            size: 256,
        }),
        resolved: BTreeMap::new(),
        messaging: Ok(messaging()),
        database: Database::Good {
            version: 77,
            notes: Vec::new(),
            mode: Some(Mode {
                mode: 0o600,
                uid: 0,
                size: 4096,
            }),
        },
        disk: Ok(Disk {
            free: 50 << 30,
            size: 100 << 30,
            files: None,
        }),
        journal: None,
        services: [2, 3].map(seen).into(),
        programs: vec![program],
    }
}

/// Findings that are not good after `spoil`, as `LEVEL check subject: what -> remedy`.
fn after(spoil: impl FnOnce(&mut Facts)) -> Vec<String> {
    let mut facts = healthy();
    spoil(&mut facts);
    let found = examine(&facts);
    let bad = found.into_iter().filter(|it| it.level != Level::Ok);
    bad.map(|it| {
        let remedy = it.remedy.map_or_else(String::new, |it| format!(" -> {it}"));
        let (level, check) = (it.level.word(), it.check);
        format!("{level} {check} {}: {}{remedy}", it.subject, it.what)
    })
    .collect()
}

/// The one bad finding after `spoil` says all of this.
#[track_caller]
fn one(words: &[&str], spoil: impl FnOnce(&mut Facts)) {
    let found = after(spoil);
    let [text] = found.as_slice() else {
        panic!("{words:?}: {found:#?}");
    };
    for word in words {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
}

fn files(facts: &mut Facts) -> &mut ClusterFiles {
    facts.files.as_mut().unwrap()
}

fn content(facts: &mut Facts) -> &mut CertificateContent {
    files(facts).certificates[1].content.as_mut().unwrap()
}

fn link(facts: &mut Facts) -> &mut Link {
    let messaging = facts.messaging.as_mut().unwrap();
    messaging.status.nodes[1].links.get_mut(&1).unwrap()
}

fn edited(from: &str, to: &str) -> Text {
    Text::Found(CONF.replace(from, to).into())
}

#[test]
fn a_healthy_node_has_no_findings() {
    assert_eq!(after(|_| {}), Vec::<String>::new());
    let report = Report::new(&healthy(), examine(&healthy()));
    assert!(report.is_healthy());
    assert_eq!(report.document()["summary"]["fail"], 0);
    assert_eq!(report.document()["cluster"], "lab");
    let text = report.to_string();
    assert!(
        text.starts_with("Node n1 of cluster lab\n\nok       mount         /etc/pve: mounted"),
        "{text}"
    );
    assert!(
        text.ends_with(" ok, 0 warnings, 0 failures, 0 not checked\n"),
        "{text}"
    );
}

#[test]
fn a_node_in_no_cluster_is_healthy() {
    let mut facts = healthy();
    files(&mut facts).conf = Text::Absent;
    facts.local_conf = Text::Absent;
    facts.authkey = None;
    facts.services.clear();
    facts.messaging = Err("no daemon".to_owned());
    let report = Report::new(&facts, examine(&facts));
    assert!(report.is_healthy(), "{report}");
    assert!(
        report.to_string().starts_with("Node n1 in no cluster\n"),
        "{report}"
    );
}

#[test]
fn mounts_are_judged() {
    let unmounted = |mount: Mount| {
        move |facts: &mut Facts| {
            facts.mount = mount;
            facts.files = None;
        }
    };
    let all = |mount| after(unmounted(mount)).join("\n");
    assert!(
        all(Mount::Absent(0))
            .contains("FAIL mount /etc/pve: the cluster file system is not mounted ->")
    );
    assert!(all(Mount::Absent(3)).contains("3 entries lie in its place"));
    assert!(all(Mount::Dead("gone".to_owned())).contains("-> 'umount -l /etc/pve'"));
    assert!(all(Mount::Hanging).contains("does not answer"));
    assert!(
        all(Mount::Hanging)
            .contains("unknown configuration /etc/corosync/corosync.conf: version 4; not compared")
    );
    one(&["FAIL mount", "read-only", "'pvecm status'"], |facts| {
        facts.mount = Mount::ReadOnly
    });
}

#[test]
fn names_are_judged() {
    let at = |text: &str| Ok(vec![text.parse().unwrap()]);
    one(
        &["FAIL name n1", "does not resolve: gone", "/etc/hosts"],
        |facts| facts.addresses = Err("gone".to_owned()),
    );
    one(&["FAIL name n1", "loopback address only"], |facts| {
        facts.addresses = at("127.0.1.1")
    });
    one(
        &["FAIL name n1", "10.9.9.9, which is no address of this node"],
        |facts| facts.addresses = at("10.9.9.9"),
    );
    one(&["FAIL name n1", "tells the others 10.77.0.1"], |facts| {
        facts.addresses = at("10.78.0.1")
    });
}

#[test]
fn the_database_and_its_disk_are_judged() {
    one(&["FAIL database", "not there, though"], |facts| {
        facts.database = Database::Absent
    });
    one(&["FAIL database", "page 7", "backup"], |facts| {
        facts.database = Database::Bad("page 7".to_owned())
    });
    one(&["unknown database"], |facts| {
        facts.database = Database::Unknown("busy".to_owned())
    });
    let odd = |mode| Database::Good {
        version: 1,
        notes: vec!["odd".to_owned()],
        mode: Some(Mode {
            mode,
            uid: 0,
            size: 1,
        }),
    };
    one(&["warn database", "odd"], |facts| {
        facts.database = odd(0o600)
    });
    let found = after(|facts| facts.database = odd(0o644));
    assert!(found[1].contains("mode 0644: others may read"), "{found:?}");
    let disk = |free, files| {
        Ok(Disk {
            free,
            size: 1 << 40,
            files,
        })
    };
    one(&["FAIL disk", "5 MiB of"], |facts| {
        facts.disk = disk(5 << 20, None)
    });
    one(&["warn disk", "500 MiB of"], |facts| {
        facts.disk = disk(500 << 20, None)
    });
    one(&["FAIL disk", "room for 3 files"], |facts| {
        facts.disk = disk(1 << 39, Some(3))
    });
    one(&["unknown disk"], |facts| facts.disk = Err("?".to_owned()));
}

#[test]
fn changes_and_programs_are_judged() {
    let journal = |goes_on| {
        Some(Journal {
            command: "create".to_owned(),
            goes_on,
        })
    };
    one(
        &["FAIL changes", "'pvecm create' was broken off"],
        |facts| facts.journal = journal(false),
    );
    one(&["unknown changes", "at work"], |facts| {
        facts.journal = journal(true)
    });
    one(
        &["warn versions", "process 7, 9 runs an older corosync"],
        |facts| facts.programs[0].outdated = vec![7, 9],
    );
}

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
    let found = after(both("name: n1", "name: other"));
    assert!(
        found
            .iter()
            .any(|it| it.contains("there is no node 'n1' in it")),
        "{found:?}"
    );
    let found = after(both("ring1_addr: 10.78.0.1", "ring1_addr: 10.78.0.9"));
    assert!(
        found
            .iter()
            .any(|it| it.contains("address 10.78.0.9 on link 1 is on none of its interfaces")),
        "{found:?}"
    );
    let found = after(both("    ring1_addr: 10.78.0.3\n", ""));
    assert!(
        found
            .iter()
            .any(|it| it.contains("node 'n3' is missing address for link 1")),
        "{found:?}"
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
    // The links to nodes that are off are no findings of their own.
    assert!(!text.contains("FAIL links"), "{text}");
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

#[test]
fn other_formats_are_read() {
    let text = "dir: local\n\tpath /var/lib/vz\n\nnfs: nas\n\tserver 10.1.0.5\n\tpath /x\n\nrbd: ceph\n\tmonhost 10.2.0.1 10.2.0.2;10.2.0.3\n\nnfs: named\n\tserver nas.lab\n";
    let shown: Vec<_> = storages_of(text)
        .into_iter()
        .map(|it| format!("{} {}", it.name, it.address))
        .collect();
    assert_eq!(
        shown,
        [
            "nas 10.1.0.5",
            "ceph 10.2.0.1",
            "ceph 10.2.0.2",
            "ceph 10.2.0.3"
        ]
    );
    assert_eq!(
        version_of("Corosync Cluster Engine, version '3.1.7'\n"),
        Some("3.1.7".to_owned())
    );
    assert_eq!(version_of("pmxcfs 0.1.0\n"), Some("0.1.0".to_owned()));
    assert_eq!(version_of("hello\n"), None);
}
