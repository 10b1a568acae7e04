//! What is found on a node with which all is well, but for one thing.

mod cluster;
mod files;
mod node;

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
    let address = format!("10.{}.0.1", 77 + link);
    Interface {
        name: format!("eth{link}"),
        address: address.parse().unwrap(),
        network: Some(format!("{address}/24").parse().unwrap()),
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

/// One of the bad findings after `spoil` says this.
#[track_caller]
fn some(words: &str, spoil: impl FnOnce(&mut Facts)) {
    let found = after(spoil);
    assert!(found.iter().any(|it| it.contains(words)), "{found:?}");
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
