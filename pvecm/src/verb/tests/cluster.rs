//! A member that changes the cluster's configuration.

use std::fs;

use super::{Break, Fake, WAYS};
use crate::cli::{self, Command};
use crate::conf::ClusterConf;
use crate::failure::{Outcome, code};
use crate::host::clusterconf;
use crate::transaction::{self, Transaction, recover};
use crate::verb::machine::present;
use crate::verb::{addnode, delnode, link, prepare};

const CONF: &str = "totem {\n  version: 2\n  cluster_name: lab\n  config_version: 4\n  ip_version: \
                    ipv4-6\n  interface {\n    linknumber: 0\n  }\n}\nnodelist {\n  node {\n    name: \
                    n1\n    nodeid: 1\n    quorum_votes: 1\n    ring0_addr: 10.0.0.1\n  }\n  # the \
                    old one\n  node {\n    name: n2\n    nodeid: 2\n    quorum_votes: 1\n    \
                    ring0_addr: 10.0.0.2\n  }\n}\n";

/// A member of a cluster of two.
fn member(break_at: Break) -> Fake {
    let node = Fake::new(break_at);
    node.mount();
    node.write("etc/pve/corosync.conf", CONF);
    node.write("etc/corosync/authkey", "key");
    node.unmount();
    node.mount();
    node.joined.borrow_mut().extend([1, 2]);
    fs::create_dir_all(node.host.paths.pve("priv/lock")).unwrap();
    prepare::merge_keys(&node.host).unwrap();
    node
}

fn command(line: &str) -> Command {
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let Ok(parsed) = cli::parse(&words) else {
        panic!("{line}")
    };
    parsed.cli.command
}

fn add(node: &Fake) -> Outcome {
    admit(node, "addnode n3 --new_node_ip 10.0.0.3 --probation")
}

fn add_and_watch(node: &Fake) -> Outcome {
    node.joined.borrow_mut().remove(&2);
    admit(node, "addnode n3 --new_node_ip 10.0.0.3")
}

fn replace(node: &Fake) -> Outcome {
    admit(node, "addnode n2 --new_node_ip 10.0.0.9 --force")
}

fn admit(node: &Fake, line: &str) -> Outcome {
    let Command::Addnode(args) = command(line) else {
        panic!("{line}")
    };
    addnode::admit(&node.host, node, &args).map(drop)
}

fn delete(node: &Fake) -> Outcome {
    let Command::Delnode(args) = command("delnode n2") else {
        panic!()
    };
    delnode::remove(&node.host, node, &args).map(drop)
}

/// Two versions, one after the other.
fn change(node: &Fake) -> Outcome {
    let old = clusterconf::read(&node.host)?;
    let mut first = old.clone();
    first.set_priority(0, 7).unwrap();
    let mut second = old.clone();
    second.set_priority(0, 9).unwrap();
    second.raise_above(&first);
    let there = present(node, &old)?;
    let lock = clusterconf::lock(&node.host)?;
    link::follow(&node.host, node, lock, &old, &[first, second], &there)
}

/// Everything of a node; of the configuration, what it says apart from its version.
fn state(node: &Fake) -> (super::Tree, u64) {
    let (mut tree, _) = node.state();
    let path = node.host.paths.cluster_conf().display().to_string();
    let conf = ClusterConf::parse(&tree[&path].1).unwrap();
    let text = String::from_utf8(tree[&path].1.clone()).unwrap();
    let version = format!("config_version: {}", conf.version());
    let text = text.replace(&version, "config_version: 0");
    tree.get_mut(&path).unwrap().1 = text.into_bytes();
    (tree, conf.version())
}

type Case = (&'static str, fn(&Fake) -> Outcome);

#[test]
fn what_is_broken_off_is_put_back() {
    let cases: [Case; 5] = [
        ("add", add),
        ("add and watch", add_and_watch),
        ("replace", replace),
        ("delete", delete),
        ("change", change),
    ];
    for (case, command) in cases {
        for way in WAYS {
            let mut number = 0;
            loop {
                let break_at = way(number);
                let mut node = member(break_at);
                let (before, first) = state(&node);
                let ended = node.run(|| command(&node));
                if !node.is_broken() {
                    assert!(matches!(ended, Some(Ok(()))), "{case}: {ended:?}");
                    break;
                }
                if ended.is_none() {
                    node.recover();
                }
                let (after, version) = state(&node);
                let told = format!("{case} {break_at:?} {ended:?}");
                if ended == Some(Ok(())) {
                    // It was too late, or did not matter.
                    assert_ne!(after, before, "{told}");
                } else if ended.is_none() && after != before {
                    // Killed when all was done but what follows.
                    let directory = transaction::directory(&node.host.paths);
                    assert_eq!(case, "delete", "{told}");
                    assert!(!directory.exists(), "{told}");
                } else {
                    assert_eq!(after, before, "{told}");
                    assert!(version == first || version > first + 1, "{told} {version}");
                }
                number += 1;
            }
            assert!(number >= 5, "{case}: {number}");
        }
    }
}

#[test]
fn a_ring_that_does_not_take_a_new_node_keeps_what_it_had() {
    for command in [add, replace] {
        let node = member(Break::Never);
        node.lags.set(true);
        let (before, first) = state(&node);
        let failure = command(&node).unwrap_err().to_string();
        assert!(failure.contains("the node was not let in"), "{failure}");
        let (after, version) = state(&node);
        assert_eq!(after, before);
        assert!(version > first + 1);
        assert!(node.settled.borrow().is_empty());
    }
}

#[test]
fn a_link_is_not_taken_away_while_the_one_that_stays_is_down() {
    let two = CONF.replace(
        "linknumber: 0\n",
        "linknumber: 0\n  }\n  interface {\n    linknumber: 1\n",
    );
    let two = two.replace("10.0.0.1\n", "10.0.0.1\n    ring1_addr: 10.0.1.1\n");
    let two = two.replace("10.0.0.2\n", "10.0.0.2\n    ring1_addr: 10.0.1.2\n");
    let change = |node: &Fake, removes: bool| {
        let old = clusterconf::read(&node.host).unwrap();
        let steps = if removes {
            let mut new = old.clone();
            new.remove_link(0).unwrap();
            vec![new]
        } else {
            old.moves("n1", &[0], "10.0.0.9").unwrap()
        };
        let there = present(node, &old).unwrap();
        let lock = clusterconf::lock(&node.host).unwrap();
        link::follow(&node.host, node, lock, &old, &steps, &there)
    };
    for removes in [true, false] {
        let node = member(Break::Never);
        node.write("etc/pve/corosync.conf", &two);
        node.down.borrow_mut().insert(1);
        let failure = change(&node, removes).unwrap_err();
        assert_eq!(failure.code(), code::REFUSED);
        let text = failure.to_string();
        assert!(
            text.contains("node 'n2' is not reached on link 1"),
            "{text}"
        );
        assert_eq!(clusterconf::read(&node.host).unwrap().version(), 4);
        // That the other one is down is no reason to keep it.
        node.down.replace([0].into());
        if removes {
            change(&node, removes).unwrap();
        }
    }
}

#[test]
fn what_could_not_be_removed_is_a_failure() {
    let Command::Delnode(args) = command("delnode n2 --purge") else {
        panic!()
    };
    let removed = |spoil: &dyn Fn(&Fake)| {
        let node = member(Break::Never);
        spoil(&node);
        delnode::remove(&node.host, &node, &args)
            .unwrap()
            .is_incomplete
    };
    assert!(!removed(&|_| {}));
    // That it stays where guests are is said before.
    let guest = r#"{"version":1,"ids":{"200":{"node":"n2","type":"qemu"}}}"#;
    assert!(!removed(&|node| {
        node.write("etc/pve/nodes/n2/qemu-server/200.conf", "cores: 1\n");
        node.write("etc/pve/.vmlist", guest);
    }));
    assert!(removed(&|node| node.write("etc/pve/.vmlist", "?")));
}

#[test]
fn a_change_that_has_lost_its_lock_writes_nothing() {
    let node = member(Break::Never);
    let old = clusterconf::read(&node.host).unwrap();
    let mut new = old.clone();
    new.set_priority(0, 7).unwrap();
    let there = present(&node, &old).unwrap();
    let locks = node.host.paths.pve("priv/lock");
    let lock = clusterconf::lock(&node.host).unwrap();
    fs::rename(locks.join("file-corosync_conf"), locks.join("freed")).unwrap();
    let follow = |lock| link::follow(&node.host, &node, lock, &old, &[new.clone()], &there);
    follow(lock).unwrap_err();
    assert_eq!(
        fs::read(node.host.paths.cluster_conf()).unwrap(),
        old.text()
    );
    // Somebody has edited it by hand.
    let mut other = old.clone();
    other.set_priority(0, 9).unwrap();
    clusterconf::write(&node.host, &other.text()).unwrap();
    let failure = follow(clusterconf::lock(&node.host).unwrap()).unwrap_err();
    assert!(failure.to_string().contains("somebody else"), "{failure}");
    assert_eq!(
        fs::read(node.host.paths.cluster_conf()).unwrap(),
        other.text()
    );
}

#[test]
fn a_node_that_takes_the_majority_with_it_is_watched() {
    let node = member(Break::Never);
    add_and_watch(&node).unwrap();
    assert_eq!(*node.settled.borrow(), ["n3"]);
}

#[test]
fn votes_may_be_more_than_can_be_counted() {
    let node = member(Break::Never);
    let most = CONF.replacen("quorum_votes: 1", "quorum_votes: 4294967295", 1);
    node.unmount();
    node.write("etc/pve/corosync.conf", most);
    node.mount();
    add(&node).unwrap();
    delete(&node).unwrap();
}

/// A change that is killed while it has the cluster's lock.
fn killed(node: &Fake) {
    let directory = transaction::directory(&node.host.paths);
    let mut transaction = Transaction::begin(&directory, "pvecm test").unwrap();
    transaction.hold(clusterconf::lock(&node.host).unwrap());
    let mut conf = clusterconf::read(&node.host).unwrap();
    conf.remove_node("n2").unwrap();
    transaction.write_conf(&node.host, &conf.text()).unwrap();
    std::mem::forget(transaction);
}

#[test]
fn the_next_command_has_the_lock_of_the_killed_one() {
    let node = member(Break::Never);
    let (before, _) = state(&node);
    killed(&node);
    let lock = node.host.paths.pve("priv/lock/file-corosync_conf");
    assert!(lock.exists());
    let directory = transaction::directory(&node.host.paths);
    let recovered = recover(&directory).unwrap().unwrap();
    assert!(recovered.failures.is_empty(), "{recovered:?}");
    assert!(!lock.exists());
    assert_eq!(state(&node).0, before);
}

#[test]
fn what_somebody_else_has_written_after_a_kill_stays() {
    let node = member(Break::Never);
    killed(&node);
    let mut conf = clusterconf::read(&node.host).unwrap();
    conf.set_priority(0, 5).unwrap();
    clusterconf::write(&node.host, &conf.text()).unwrap();
    let draft = node.host.paths.pve("corosync.conf.new");
    fs::write(&draft, "a draft").unwrap();
    let directory = transaction::directory(&node.host.paths);
    let recovered = recover(&directory).unwrap().unwrap();
    assert!(recovered.failures.is_empty(), "{recovered:?}");
    assert_eq!(
        fs::read(node.host.paths.cluster_conf()).unwrap(),
        conf.text()
    );
    assert_eq!(fs::read(&draft).unwrap(), b"a draft");
}

#[test]
fn without_the_file_system_the_configuration_waits() {
    let node = member(Break::Never);
    killed(&node);
    node.unmount();
    let directory = transaction::directory(&node.host.paths);
    let recovered = recover(&directory).unwrap().unwrap();
    assert!(recovered.failures[0].contains("systemctl start pve-cluster"));
    node.mount();
    // It has freed itself: the file system that came back here has given it another number.
    fs::remove_dir(node.host.paths.pve("priv/lock/file-corosync_conf")).unwrap();
    let recovered = recover(&directory).unwrap().unwrap();
    assert!(recovered.failures.is_empty(), "{recovered:?}");
    assert!(clusterconf::read(&node.host).unwrap().node("n2").is_some());
}

#[test]
fn who_removes_a_node_is_told_what_it_knows() {
    let node = member(Break::Never);
    let Command::Delnode(args) = command("delnode n2") else {
        panic!()
    };
    let removed = delnode::remove(&node.host, &node, &args).unwrap();
    let told = |text: &str| removed.remains.iter().any(|line| line.contains(text));
    assert!(told("/etc/corosync/authkey"), "{removed:?}");
    assert!(told("pvecm certs rollover"), "{removed:?}");
}

#[test]
fn a_priority_that_is_so_already_makes_no_version() {
    let node = member(Break::Never);
    let conf = clusterconf::read(&node.host).unwrap();
    let steps = |conf: &ClusterConf, line: &str| {
        let Command::Link(change) = command(line) else {
            panic!("{line}")
        };
        link::steps(&node.host, conf, &change.action).unwrap()
    };
    assert_eq!(steps(&conf, "link set-priority 0 0"), []);
    let changed = steps(&conf, "link set-priority 0 9");
    assert_eq!(changed.len(), 1);
    assert_eq!(changed[0].version(), conf.version() + 1);
    assert_eq!(steps(&changed[0], "link set-priority 0 9"), []);
}

#[test]
fn the_option_for_two_nodes_goes_with_the_third() {
    let with_option = format!("{CONF}quorum {{\n  two_node: 1\n}}\n");
    let node = member(Break::Never);
    node.write("etc/pve/corosync.conf", &with_option);
    let line = "addnode n3 --new_node_ip 10.0.0.3";
    // The other one is needed as soon as the option is gone.
    node.joined.borrow_mut().remove(&2);
    let refused = admit(&node, line).unwrap_err();
    assert_eq!(refused.code(), code::REFUSED);
    assert!(refused.text().contains("(n2)"), "{refused}");
    let conf = clusterconf::read(&node.host).unwrap();
    assert_eq!(conf.text(), with_option.as_bytes());

    node.joined.borrow_mut().insert(2);
    admit(&node, line).unwrap();
    let conf = clusterconf::read(&node.host).unwrap();
    assert!(!conf.is_two_node() && conf.node("n3").is_some());
    // With two nodes it is not written again, and the user is told.
    let Command::Delnode(args) = command("delnode n3") else {
        panic!()
    };
    let removed = delnode::remove(&node.host, &node, &args).unwrap();
    assert!(!clusterconf::read(&node.host).unwrap().is_two_node());
    let told = |line: &String| line.contains("'two_node: 1'");
    assert!(removed.remains.iter().any(told), "{removed:?}");
}

/// As the original: the cluster can be written to, its configuration is sound, then what is asked for.
#[test]
fn a_node_is_let_in_by_checks_in_order() {
    let node = member(Break::Never);
    let broken = CONF.replace("    ring0_addr: 10.0.0.2\n", "");
    node.write("etc/pve/corosync.conf", &broken);
    node.unmount();
    let complaint = || {
        let line = "addnode n2 --link0 10.0.0.1 --link1 10.1.0.1";
        admit(&node, line).unwrap_err().to_string()
    };
    assert!(complaint().contains("not mounted"), "{}", complaint());
    node.mount();
    let fault = "node 'n2' is missing address for link 0";
    assert!(complaint().contains(fault), "{}", complaint());
    node.write("etc/pve/corosync.conf", CONF);
    let taken = "address '10.0.0.1' already used";
    assert!(complaint().contains(taken), "{}", complaint());
}
