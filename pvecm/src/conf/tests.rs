use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::value::{Link, NodeName};

struct Numbers;

impl Resolve for Numbers {
    fn resolve(&self, name: &str) -> Vec<IpAddr> {
        match name {
            "n2.example.com" => vec!["10.77.0.2".parse().unwrap()],
            other => other.parse().into_iter().collect(),
        }
    }
}

const CREATED: &str = "logging {
  debug: off
  to_syslog: yes
}

nodelist {
  node {
    name: n1
    nodeid: 1
    quorum_votes: 1
    ring0_addr: 10.77.0.1
    ring1_addr: 10.77.1.1
  }
}

quorum {
  provider: corosync_votequorum
}

totem {
  cluster_name: testclu
  config_version: 1
  interface {
    knet_link_priority: 15
    linknumber: 0
  }
  interface {
    linknumber: 1
  }
  ip_version: ipv4-6
  link_mode: passive
  secauth: on
  token_coefficient: 125
  version: 2
}

";

fn links(list: &[&str]) -> BTreeMap<u8, Link> {
    (0..)
        .zip(list.iter().map(|text| text.parse().unwrap()))
        .collect()
}

fn addresses(list: &[&str]) -> BTreeMap<u8, String> {
    (0..)
        .zip(list.iter().map(|text| (*text).to_owned()))
        .collect()
}

fn conf(text: &str) -> ClusterConf {
    ClusterConf::parse(text.as_bytes()).unwrap()
}

fn text(conf: &ClusterConf) -> String {
    String::from_utf8(conf.text()).unwrap()
}

fn joiner(name: &str, at: &[&str]) -> Joiner {
    Joiner {
        name: name.parse().unwrap(),
        id: None,
        votes: None,
        links: addresses(at),
        fallback: None,
        api_version: 1,
        force: false,
    }
}

#[test]
fn a_new_cluster_is_written_as_the_original_writes_it() {
    let node = FirstNode {
        name: "n1".parse().unwrap(),
        id: 1,
        votes: 1,
        links: links(&["10.77.0.1,priority=15", "10.77.1.1"]),
    };
    let written = create(&"testclu".parse().unwrap(), &node, 125);
    assert_eq!(written, CREATED);
    let conf = conf(&written);
    assert_eq!(conf.version(), 1);
    assert_eq!(conf.cluster_name(), Some("testclu"));
    assert_eq!(conf.ip_version(), IpVersion::V4Then6);
    assert_eq!(conf.interfaces(), [(0, 15), (1, 0)].into());
    assert_eq!(verify(&conf, &Numbers), Fault::default());
}

#[test]
fn one_of_two_nodes_is_enough_where_that_is_written() {
    let mut two = conf(CREATED);
    assert!(!two.is_two_node());
    two.set_two_node(true);
    assert!(two.is_two_node());
    let provider = "  provider: corosync_votequorum\n";
    let written = CREATED.replace(provider, &format!("{provider}  two_node: 1\n"));
    assert_eq!(text(&two), written);
    two.set_two_node(false);
    assert_eq!(text(&two), CREATED);
}

#[test]
fn edits_leave_comments_and_order_alone() {
    let before = CREATED.replace("nodelist {\n", "# who is in\nnodelist {\n  # first\n");
    let mut conf = conf(&before);
    let name: NodeName = "n2".parse().unwrap();
    conf.put_node(&name, 2, 1, &addresses(&["10.77.0.2", "10.77.1.2"]));
    let entry = "  node {
    name: n2
    nodeid: 2
    quorum_votes: 1
    ring0_addr: 10.77.0.2
    ring1_addr: 10.77.1.2
  }
}

quorum";
    let expected = before
        .replace("}\n\nquorum", entry)
        .replace("config_version: 1", "config_version: 2");
    assert_eq!(text(&conf), expected);
    conf.remove_node("n2").unwrap();
    assert_eq!(
        text(&conf),
        before.replace("config_version: 1", "config_version: 3")
    );
    let unknown = conf.remove_node("n2").unwrap_err();
    assert_eq!(
        unknown.to_string(),
        "Node/IP: n2 is not a known host of the cluster."
    );
    assert_eq!(conf.version(), 3);
}

#[test]
fn an_entry_is_replaced_whole() {
    let mut conf = conf(CREATED);
    conf.put_node(&"n1".parse().unwrap(), 1, 0, &addresses(&["10.77.9.1"]));
    let node = conf.node("n1").unwrap();
    assert_eq!(node.addresses, addresses(&["10.77.9.1"]));
    assert!(!text(&conf).contains("quorum_votes"));
    assert_eq!(conf.nodes().len(), 1);
}

#[test]
fn links_come_and_go_on_all_nodes() {
    let mut conf = conf(CREATED);
    conf.put_node(
        &"n2".parse().unwrap(),
        2,
        1,
        &addresses(&["10.77.0.2", "10.77.1.2"]),
    );
    let at = |list: &[(&str, &str)]| -> BTreeMap<String, String> {
        list.iter()
            .map(|(node, at)| ((*node).to_owned(), (*at).to_owned()))
            .collect()
    };
    let missing = conf
        .add_link(2, &at(&[("n1", "10.77.2.1")]), 0)
        .unwrap_err();
    assert_eq!(missing.to_string(), "link 2 needs an address of node 'n2'");
    let both = at(&[("n1", "10.77.2.1"), ("n2", "10.77.2.2")]);
    assert_eq!(conf.add_link(1, &both, 0), Err(EditError::LinkExists(1)));
    let before = conf.version();
    conf.add_link(2, &both, 7).unwrap();
    assert_eq!(conf.version(), before + 1);
    assert_eq!(conf.interfaces(), [(0, 15), (1, 0), (2, 7)].into());
    assert_eq!(verify(&conf, &Numbers).errors, Vec::<String>::new());
    conf.set_priority(2, 0).unwrap();
    conf.set_priority(0, 3).unwrap();
    assert_eq!(conf.interfaces(), [(0, 3), (1, 0), (2, 0)].into());
    let written = [0, 1, 7].map(|link| conf.priority(link));
    assert_eq!(written, [Some(3), Some(0), None]);
    conf.set_address("n2", 2, "10.77.2.99").unwrap();
    assert_eq!(conf.node("n2").unwrap().addresses[&2], "10.77.2.99");
    conf.remove_link(2).unwrap();
    conf.remove_link(0).unwrap();
    assert_eq!(conf.remove_link(1), Err(EditError::LastLink(1)));
    assert_eq!(conf.remove_link(2), Err(EditError::UnknownLink(2)));
    assert_eq!(conf.links(), [1]);
}

#[test]
fn a_joining_node_gets_the_lowest_free_number() {
    let mut conf = conf(CREATED);
    conf.put_node(
        &"n3".parse().unwrap(),
        3,
        1,
        &addresses(&["10.77.0.3", "10.77.1.3"]),
    );
    let given = conf
        .admit(&joiner("n2", &["10.77.0.2", "10.77.1.2"]))
        .unwrap();
    assert_eq!((given.id, given.votes, given.replaces), (2, 1, false));
}

#[test]
fn a_joining_node_must_fit() {
    let conf = conf(CREATED);
    let refused = |joiner: &Joiner| conf.admit(joiner).unwrap_err().to_string();
    assert_eq!(
        refused(&joiner("n2", &["10.77.0.2", "10.77.0.1"])),
        "corosync: address '10.77.0.1' already used on link ring0_addr by node 'n1'"
    );
    assert_eq!(
        refused(&joiner("n2", &["10.77.0.2"])),
        "corosync: link 1 exists in cluster config but wasn't specified for new node"
    );
    assert_eq!(
        refused(&joiner("n2", &["10.77.0.2", "10.77.1.2", "10.77.2.2"])),
        "corosync: link 2 specified for new node doesn't exist in cluster config"
    );
    assert_eq!(
        refused(&joiner("n2", &[])),
        "no links and no fallback ip (new_node_ip) given, cannot join cluster"
    );
    let mut alone = joiner("n2", &[]);
    alone.fallback = Some("10.77.0.2".parse().unwrap());
    assert!(refused(&alone).starts_with("no links given but multiple links found"));
    let mut same = joiner("n2", &["10.77.0.2", "10.77.1.2"]);
    same.id = Some(1);
    assert!(refused(&same).starts_with("node id 1 is that of node 'n1'"));
    same.id = Some(65536);
    assert!(refused(&same).starts_with("node id 65536 is too large"));
    same.id = Some(65535);
    assert_eq!(conf.admit(&same).unwrap().id, 65535);
    assert!(
        refused(&joiner("n2", &["10.77.0.2", "fd00::2"])).starts_with(
            "address 'fd00::2' can not be on link 1, where node 'n1' is at '10.77.1.1'"
        )
    );
    assert!(
        refused(&joiner("n2", &["10.77.0.2", "10.77.0.2"]))
            .starts_with("address '10.77.0.2' is given for two links")
    );
}

type Mend = fn(&mut Joiner);

/// Of several things that are wrong, the first complaint is the original's first.
#[test]
fn what_a_joining_node_brings_is_checked_in_order() {
    let mut conf = conf(CREATED);
    let name: NodeName = "n3".parse().unwrap();
    conf.put_node(&name, 3, 1, &addresses(&["10.77.0.3", "10.77.1.3"]));
    let mut joiner = joiner("n3", &[]);
    joiner.id = Some(1);
    joiner.links = [(0, "10.77.1.1".to_owned()), (2, "10.77.2.3".to_owned())].into();
    let mend: [(&str, Mend); 6] = [
        ("corosync: address '10.77.1.1' already used", |it| {
            it.links.insert(0, "10.77.0.3".to_owned());
        }),
        ("corosync: link 1 exists in cluster config", |it| {
            it.links.insert(1, "10.77.1.3".to_owned());
        }),
        ("corosync: link 2 specified for new node", |it| {
            it.links.clear()
        }),
        ("no links and no fallback ip", |it| {
            it.fallback = Some("10.77.0.3".parse().unwrap());
        }),
        ("no links given but multiple links found", |it| {
            it.links = addresses(&["10.77.0.3", "10.77.1.3"]);
        }),
        ("can't add existing node 'n3'", |it| {
            it.name = "n2".parse().unwrap();
            it.links = addresses(&["10.77.0.2", "10.77.1.2"]);
        }),
    ];
    for (complaint, mend) in mend {
        let refused = conf.admit(&joiner).unwrap_err().to_string();
        assert!(refused.starts_with(complaint), "{complaint}: {refused}");
        mend(&mut joiner);
    }
    let refused = conf.admit(&joiner).unwrap_err().to_string();
    assert!(refused.starts_with("node id 1 is that of"), "{refused}");
}

#[test]
fn a_known_node_comes_back_only_by_force_and_as_what_it_was() {
    let conf = conf(CREATED);
    let mut again = joiner("n1", &["10.77.0.9", "10.77.1.9"]);
    assert_eq!(
        conf.admit(&again).unwrap_err().to_string(),
        "can't add existing node 'n1'"
    );
    again.force = true;
    let given = conf.admit(&again).unwrap();
    assert_eq!((given.id, given.replaces), (1, true));
    again.id = Some(2);
    assert!(conf.admit(&again).is_err());
}

#[test]
fn one_link_may_be_left_to_the_fallback() {
    let one = CREATED
        .replace("    ring1_addr: 10.77.1.1\n", "")
        .replace("  interface {\n    linknumber: 1\n  }\n", "");
    let conf = conf(&one);
    let mut alone = joiner("n2", &[]);
    alone.fallback = Some("10.77.0.2".parse().unwrap());
    assert_eq!(conf.admit(&alone).unwrap().links, addresses(&["10.77.0.2"]));
    let mut old = joiner("n2", &["10.77.0.2"]);
    old.api_version = 0;
    assert_eq!(conf.admit(&old).unwrap().links, addresses(&["10.77.0.2"]));
}

#[test]
fn what_keeps_nodes_from_talking_is_named() {
    let conf = conf(&CREATED.replace("    ring1_addr: 10.77.1.1\n", ""));
    assert_eq!(
        verify(&conf, &Numbers).errors,
        ["node 'n1' is missing address for link 1"]
    );
    let open = conf_with_names();
    let fault = verify(&open, &Numbers);
    assert_eq!(fault.errors, Vec::<String>::new());
    assert_eq!(fault.warnings.len(), 3);
    assert!(fault.warnings[1].starts_with("ring0_addr: 'n2.example.com' resolves to '10.77.0.2'"));
    assert!(fault.warnings[2].starts_with("ring1_addr: unable to resolve 'nowhere'"));
}

fn conf_with_names() -> ClusterConf {
    conf(
        &CREATED
            .replace("secauth: on", "secauth: off")
            .replace("ring0_addr: 10.77.0.1", "ring0_addr: n2.example.com")
            .replace("ring1_addr: 10.77.1.1", "ring1_addr: nowhere"),
    )
}

#[test]
fn a_text_without_a_version_is_refused() {
    let text = CREATED.replace("  config_version: 1\n", "");
    assert_eq!(
        ClusterConf::parse(text.as_bytes()),
        Err(ConfError::NoVersion)
    );
}

proptest! {
    /// Whatever is edited: the text parses again and says what was written, the version rises.
    #[test]
    fn edits_are_found_again(
        names in prop::collection::btree_set("[a-z][a-z0-9]{0,8}", 1..6),
        gone in any::<prop::sample::Index>(),
    ) {
        let mut conf = conf(CREATED);
        for (id, name) in (2u8..).zip(&names) {
            let at = addresses(&[&format!("10.1.0.{id}"), &format!("10.2.0.{id}")]);
            let before = conf.version();
            conf.put_node(&name.parse().unwrap(), id.into(), 1, &at);
            prop_assert_eq!(conf.version(), before + 1);
        }
        let names: Vec<&String> = names.iter().collect();
        let gone = names[gone.index(names.len())];
        conf.remove_node(gone).unwrap();
        let again = ClusterConf::parse(&conf.text()).unwrap();
        prop_assert!(again.node(gone).is_none());
        for name in names.into_iter().filter(|name| *name != gone) {
            prop_assert!(again.node(name).is_some());
        }
        prop_assert_eq!(again.version(), conf.version());
    }
}
