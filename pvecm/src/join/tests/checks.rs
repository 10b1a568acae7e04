//! What keeps a node from joining.

use std::collections::BTreeMap;
use std::fs;

use super::machine::FakeMachine;
use super::{ADDRESS, facts, plan};
use crate::join::checks::{Faults, cluster, local};
use crate::join::peer::{Facts, Known};
use crate::join::reach::Reach;
use crate::join::version::Version;
use crate::join::{Plan, check_working_directory};
use crate::value::Link;

fn texts(found: &Faults) -> Vec<&str> {
    found
        .faults
        .iter()
        .map(|fault| fault.text.as_str())
        .collect()
}

fn only(found: &Faults, part: &str) {
    let texts = texts(found);
    assert!(
        texts.len() == 1 && texts[0].contains(part),
        "{part}: {texts:?}"
    );
}

fn links(list: &[(u8, &str)]) -> BTreeMap<u8, Link> {
    let link = |(number, text): &(u8, &str)| (*number, text.parse().unwrap());
    list.iter().map(link).collect()
}

fn ask(facts: &Facts, plan: &Plan) -> Faults {
    cluster("n1", facts, plan, &FakeMachine::new())
}

fn space_is_short(found: &Faults) -> bool {
    texts(found)
        .iter()
        .any(|text| text.contains("MiB are free"))
}

#[test]
fn a_clean_node_may_join() {
    let machine = FakeMachine::new();
    let mut given = links(&[(0, "localhost")]);
    let found = local(&machine.host, &machine, &mut given, None);
    assert!(
        found.faults.is_empty() || space_is_short(&found),
        "{found:?}"
    );
    assert_eq!(given[&0].address, "127.0.0.1");
    assert_eq!(ask(&facts(), &plan()), Faults::default());
}

#[test]
fn a_member_of_another_version_is_compared_before() {
    let of = |version| {
        let version = Some(version);
        ask(&Facts { version, ..facts() }, &plan())
    };
    only(&of(Version::Own("77.0.0".to_owned())), "upgrade this node");
    let original = of(Version::Original("77.0.0".to_owned()));
    assert!(original.faults.is_empty(), "{original:?}");
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let machine = FakeMachine::in_cluster();
    let paths = &machine.host.paths;
    let guests = r#"{"version":1,"ids":{"100":{"node":"n2","type":"qemu","version":1}}}"#;
    fs::write(paths.pve(".vmlist"), guests).unwrap();
    let found = local(
        &machine.host,
        &machine,
        &mut links(&[(1, "192.0.2.1")]),
        None,
    );
    let all = texts(&found).join("\n");
    for part in [
        "authkey' already exists",
        "corosync.conf' already exists",
        "this host already contains virtual guests (100)",
        "corosync is already running",
        "link1: cannot use IP '192.0.2.1', not found on local node!",
    ] {
        assert!(all.contains(part), "{part}: {all}");
    }
    let failure = found.clone().settle(false, &|_| ()).unwrap_err();
    assert_eq!(failure.code(), 2);
    assert!(
        failure
            .to_string()
            .starts_with("detected the following error(s):\n* ")
    );
    // All of these can be overridden.
    let said = std::cell::RefCell::new(String::new());
    found
        .settle(true, &|line| said.borrow_mut().push_str(line))
        .unwrap();
    assert!(
        said.borrow()
            .contains("WARNING : detected error but forced to continue!")
    );
}

#[test]
fn a_port_in_use_and_a_missing_mount_are_found() {
    let machine = FakeMachine {
        busy_port: true,
        ..FakeMachine::new()
    };
    fs::remove_file(machine.host.paths.pve(".vmlist")).unwrap();
    let found = local(&machine.host, &machine, &mut links(&[(0, ADDRESS)]), None);
    let all = texts(&found).join("\n");
    assert!(all.contains("uses UDP 10.77.0.2:5405"), "{all}");
    assert!(all.contains("systemctl start pve-cluster"), "{all}");
    // Without the mount nobody knows of guests: that can not be overridden.
    assert!(found.settle(true, &|_| ()).is_err());
}

#[test]
fn a_cluster_without_quorum_takes_nobody() {
    let found = ask(
        &Facts {
            quorate: Some(false),
            ..facts()
        },
        &plan(),
    );
    only(&found, "has no quorum");
    assert_eq!(found.settle(true, &|_| ()).unwrap_err().code(), 3);
    let alone = Facts {
        cluster: None,
        ..facts()
    };
    only(&ask(&alone, &plan()), "'pvecm create NAME'");
}

#[test]
fn names_numbers_and_addresses_are_unique() {
    let mut taken = facts();
    taken.nodes.push(Known {
        name: "n2".to_owned(),
        id: Some(2),
        online: Some(false),
        ..Known::default()
    });
    let found = ask(&taken, &plan());
    only(&found, "can't add existing node 'n2'");
    assert!(found.faults[0].can_force);
    taken.nodes[1].online = Some(true);
    assert!(!ask(&taken, &plan()).faults[0].can_force);

    let mut wanted = plan();
    wanted.request.id = Some(1);
    only(
        &ask(&facts(), &wanted),
        "node id 1 is that of node 'n1': choose another one, 2 is free",
    );

    let mut same = facts();
    same.nodes[0].addresses = BTreeMap::from([(0, ADDRESS.to_owned())]);
    only(
        &ask(&same, &plan()),
        "already used on link ring0_addr by node 'n1'",
    );
}

#[test]
fn links_are_those_of_the_cluster() {
    let mut two = facts();
    two.links = vec![0, 1];
    two.nodes[0].addresses.insert(1, "10.77.1.1".to_owned());
    only(&ask(&two, &plan()), "give --link0 --link1");
    let mut one = plan();
    one.request.links = links(&[(0, ADDRESS)]);
    only(&ask(&two, &one), "give --link1");
    let mut more = plan();
    more.request.links = links(&[(0, ADDRESS), (3, "10.77.3.2")]);
    only(&ask(&facts(), &more), "leave out --link3");
    let mut other = plan();
    other.request.links = links(&[(0, "fd00::2")]);
    only(&ask(&facts(), &other), "both must be IPv4");
}

#[test]
fn links_that_are_mixed_up_are_a_warning() {
    let mut two = facts();
    two.links = vec![0, 1, 2];
    two.nodes[0].addresses = (0..)
        .zip(["10.77.0.1", "10.78.0.1", "10.79.0.1"].map(str::to_owned))
        .collect();
    let given = |list: [&str; 3]| {
        let mut given = plan();
        given.request.links = (0..)
            .zip(list)
            .map(|(number, text)| (number, text.parse().unwrap()))
            .collect();
        let found = ask(&two, &given);
        assert!(found.faults.is_empty(), "{found:?}");
        found.warnings
    };
    let warnings = given(["10.78.0.2", "10.77.0.2", "10.79.0.2"]);
    assert_eq!(
        warnings,
        [
            "links look mixed up: 10.78.0.2 of link 0 is in the network in which the other nodes have \
             link 1, 10.77.0.2 of link 1 is in the network in which the other nodes have link 0; is it to \
             be --link0 10.77.0.2 --link1 10.78.0.2?"
        ]
    );
    let warnings = given(["10.78.0.2", "10.79.0.2", "10.77.0.2"]);
    assert!(
        warnings[0].ends_with("--link0 10.77.0.2 --link1 10.78.0.2 --link2 10.79.0.2?"),
        "{warnings:?}"
    );
    // As they should be; over routers; all in one network.
    for right in [
        ["10.77.0.2", "10.78.0.2", "10.79.0.2"],
        ["10.77.0.2", "10.78.0.2", "172.16.0.2"],
        ["10.1.0.2", "10.2.0.2", "10.3.0.2"],
    ] {
        assert_eq!(given(right), Vec::<String>::new());
    }
}

#[test]
fn clocks_devices_and_ways_are_looked_at() {
    let late = Facts {
        ahead: Some(-5),
        ..facts()
    };
    let found = ask(&late, &plan());
    assert!(found.faults.is_empty());
    assert!(found.warnings[0].contains("5 s behind"), "{found:?}");
    let early = Facts {
        ahead: Some(3600),
        ..facts()
    };
    only(&ask(&early, &plan()), "3600 s ahead of");
    let device = Facts {
        has_device: true,
        ..facts()
    };
    only(&ask(&device, &plan()), "take the section 'device' out");

    let mut machine = FakeMachine {
        reach: Reach::NoWay("no route to host".to_owned()),
        ..FakeMachine::new()
    };
    let found = cluster("n1", &facts(), &plan(), &machine);
    only(
        &found,
        "no way from 10.77.0.2 to node 'n1' at 10.77.0.1: no route to host",
    );
    machine.reach = Reach::Silent;
    let found = cluster("n1", &facts(), &plan(), &machine);
    assert!(
        found.faults.is_empty() && found.warnings[0].contains("UDP port 5405"),
        "{found:?}"
    );
    // A node that is off need not answer.
    let mut off = facts();
    off.nodes[0].online = Some(false);
    assert_eq!(cluster("n1", &off, &plan(), &machine), Faults::default());
}

#[test]
fn nobody_stands_in_what_is_going_to_be_exchanged() {
    let machine = FakeMachine::new();
    let host = &machine.host;
    assert_eq!(
        check_working_directory(host, &host.paths.at("root")),
        Ok(())
    );
    for inside in ["", "priv/lock"] {
        let refused = check_working_directory(host, &host.paths.pve(inside));
        assert_eq!(refused.unwrap_err().code(), 2);
    }
}

#[test]
fn packets_that_do_not_get_through_are_a_warning() {
    let machine = FakeMachine {
        too_large: Some(9000),
        ..FakeMachine::new()
    };
    let found = cluster("n1", &facts(), &plan(), &machine);
    assert!(found.faults.is_empty());
    let text = found.warnings.join("\n");
    assert!(
        text.contains("link 0: packets of 9000 bytes") && text.contains("the same MTU"),
        "{text}"
    );
}
