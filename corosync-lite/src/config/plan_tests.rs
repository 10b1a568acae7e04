use super::super::syntax::Document;
use super::super::test_host::TestHost;
use super::*;

const BASE: &str = "totem {\n version: 2\n cluster_name: c\n config_version: 1\n secauth: on\n \
    interface {\n  linknumber: 0\n  knet_link_priority: 2\n }\n}\nquorum {\n \
    provider: corosync_votequorum\n}\nnodelist {\n node {\n  name: n1\n  nodeid: 1\n  \
    ring0_addr: 10.77.0.1\n  ring1_addr: 10.77.1.1\n }\n node {\n  name: n2\n  nodeid: 2\n  \
    ring0_addr: 10.77.0.2\n  ring1_addr: 10.77.1.2\n }\n}\n";
const THIRD: &str = " node {\n  name: n3\n  nodeid: 3\n  ring0_addr: 10.77.0.3\n  \
    ring1_addr: 10.77.1.3\n }\n}\n";

fn running() -> Config {
    Config::read(BASE.as_bytes(), &TestHost).unwrap()
}

fn reload(text: &str) -> Result<ReloadPlan, CutOff> {
    let document = Document::parse(text.as_bytes()).unwrap();
    plan(
        &running(),
        Keys::read(&document, &TestHost).unwrap(),
        &TestHost,
    )
}

fn changed(from: &str, to: &str) -> Vec<Change> {
    assert!(BASE.contains(from));
    let plan = reload(&BASE.replace(from, to)).unwrap();
    assert_eq!(plan.refused, []);
    plan.changes
}

#[test]
fn nothing_new_changes_nothing() {
    assert_eq!(reload(BASE).unwrap().changes, []);
    assert_eq!(
        changed("config_version: 1", "config_version: 2"),
        [Change::Keys]
    );
    assert_eq!(changed("secauth: on", "# why\n secauth: on"), []);
}

#[test]
fn nodes_come_and_go() {
    let with_third = format!("{}{THIRD}", BASE.strip_suffix("}\n").unwrap());
    let more = reload(&with_third).unwrap();
    let expected = [
        Change::NodeAdded(3),
        Change::LinkSettings(0),
        Change::LinkSettings(1),
        Change::Timers,
        Change::Quorum,
    ];
    assert_eq!(more.changes, expected);
    let document = Document::parse(BASE.as_bytes()).unwrap();
    let fewer = plan(
        &more.config,
        Keys::read(&document, &TestHost).unwrap(),
        &TestHost,
    )
    .unwrap();
    assert_eq!(fewer.changes[0], Change::NodeRemoved(3));
    assert_eq!(fewer.config, running());
}

#[test]
fn links_and_addresses_change_one_at_a_time() {
    let removed = BASE
        .replace("  ring1_addr: 10.77.1.1\n", "")
        .replace("  ring1_addr: 10.77.1.2\n", "");
    assert_eq!(reload(&removed).unwrap().changes, [Change::LinkRemoved(1)]);
    let added = BASE.replace(
        "1_addr: 10.77.1.1",
        "1_addr: 10.77.1.1\n  ring4_addr: 10.77.4.1",
    );
    let added = added.replace(
        "1_addr: 10.77.1.2",
        "1_addr: 10.77.1.2\n  ring4_addr: 10.77.4.2",
    );
    assert_eq!(reload(&added).unwrap().changes, [Change::LinkAdded(4)]);
    let (from, to) = ("10.77.1.1".parse().unwrap(), "10.77.9.1".parse().unwrap());
    let moved = Change::AddressChanged {
        node: 1,
        link: 1,
        from,
        to,
    };
    assert_eq!(changed("10.77.1.1", "10.77.9.1"), [moved]);
    let both = BASE
        .replace("10.77.1.1", "10.77.9.1")
        .replace("10.77.0.1", "10.77.8.1");
    assert_eq!(reload(&both), Err(CutOff::NoLinkLeft));
}

#[test]
fn settings_apply_at_once() {
    let links = [Change::LinkSettings(0), Change::LinkSettings(1)];
    let token = changed("secauth: on", "secauth: on\n token: 5000");
    assert_eq!(token, [links.to_vec(), vec![Change::Timers]].concat());
    assert_eq!(
        changed("priority: 2", "priority: 3"),
        [Change::LinkSettings(0)]
    );
    assert_eq!(
        changed("secauth: on", "secauth: on\n keyfile: other"),
        [Change::Crypto]
    );
    assert_eq!(changed("secauth: on", "secauth: off"), [Change::Crypto]);
    assert_eq!(
        changed("votequorum\n", "votequorum\n expected_votes: 5\n"),
        [Change::Quorum]
    );
    assert_eq!(
        changed("nodelist {", "logging {\n debug: on\n}\nnodelist {"),
        [Change::Logging]
    );
    assert_eq!(
        changed("nodelist {", "uidgid {\n uid: 5\n}\nnodelist {"),
        [Change::Access]
    );
    assert_eq!(
        changed("secauth: on", "secauth: on\n knet_mtu: 900"),
        [Change::TransportSettings]
    );
}

#[test]
fn what_needs_a_restart_is_named_and_stays() {
    let text = BASE
        .replace(
            "cluster_name: c",
            "cluster_name: d\n token: 5000\n link_mode: active",
        )
        .replace("linknumber: 0", "linknumber: 0\n  mcastport: 6000");
    let plan = reload(&text).unwrap();
    let names: Vec<_> = plan
        .refused
        .iter()
        .map(|refused| refused.key.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "totem.cluster_name",
            "totem.link_mode",
            "totem.interface.0.mcastport"
        ]
    );
    let expected = "totem.cluster_name can not be changed at run time: 'c' stays in force, \
                    restart to get 'd'";
    assert_eq!(plan.refused[0].to_string(), expected);
    assert!(plan.changes.contains(&Change::Timers));
    assert_eq!(plan.config.totem.cluster_name.as_deref(), Some("c"));
    assert_eq!(plan.config.links[&0].port, 5405);
    assert_eq!(plan.config.totem.timers.token, 5000);
    let removed = reload(&BASE.replace(" cluster_name: c\n", "")).unwrap();
    assert_eq!(removed.config.totem.cluster_name.as_deref(), Some("c"));
}

#[test]
fn this_node_is_not_cut_off() {
    let gone = BASE
        .replace("name: n1", "name: n9")
        .replace("nodeid: 1", "nodeid: 9");
    let gone = gone
        .replace("10.77.0.1", "10.77.0.9")
        .replace("10.77.1.1", "10.77.1.9");
    assert_eq!(reload(&gone), Err(CutOff::NotListed { node: 1 }));
    let renumbered = BASE.replace("nodeid: 1", "nodeid: 4");
    assert_eq!(
        reload(&renumbered),
        Err(CutOff::OtherNodeId {
            running: 1,
            wanted: 4
        })
    );
    let invalid = reload(&BASE.replace("secauth: on", "secauth: on\n token: 20"));
    assert!(matches!(invalid, Err(CutOff::Invalid(_))));
}
