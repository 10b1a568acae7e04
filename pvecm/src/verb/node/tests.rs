//! Changes of a node below a temporary directory, with failures at each step.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::{Machine, perform, plan};
use crate::cli::NodeAction;
use crate::conf::ClusterConf;
use crate::failure::{Failure, Outcome, code};
use crate::host::test_node::test_node;
use crate::host::{Host, clusterconf, files};

const CONF: &str = "totem {\n  cluster_name: lab\n  config_version: 4\n  secauth: on\n}\nnodelist {\n  \
                    node {\n    name: n1\n    nodeid: 1\n    ring0_addr: 10.0.0.1\n  }\n  node {\n    \
                    name: n2\n    nodeid: 2\n    ring0_addr: 10.0.0.2\n  }\n}\n";

struct Fake {
    host: Host,
    addresses: Vec<IpAddr>,
    resolved: IpAddr,
    id: u32,
    /// Where the ring has this node, if it tells.
    running: RefCell<BTreeMap<u8, IpAddr>>,
    /// The command is to end after this many steps.
    ends_at: Cell<Option<usize>>,
    /// What somebody else writes as the configuration.
    meanwhile: RefCell<Option<String>>,
    /// Failures are refusals.
    refuses: Cell<bool>,
    said: RefCell<Vec<String>>,
    /// Steps that are done; the one with this number fails.
    done: RefCell<Vec<String>>,
    fails_at: Cell<Option<usize>>,
    _directory: tempfile::TempDir,
}

impl Fake {
    /// Machine `name`, which the cluster knows as n1.
    fn new(name: &str, resolved: &str) -> Self {
        let directories = [
            "etc/pve/nodes/n1/qemu-server",
            "etc/pve/nodes/n1/lxc",
            "etc/pve/priv/lock",
        ];
        let (directory, host) = test_node(name, &directories);
        let paths = &host.paths;
        for (path, text) in [
            ("corosync.conf", CONF),
            (".vmlist", r#"{"version":1,"ids":{}}"#),
            ("storage.cfg", "nfs: x\n\tserver 10.0.0.1\n\tnodes n1,n2\n"),
            ("nodes/n1/qemu-server/100.conf", "name: a\n"),
            ("nodes/n1/lxc/101.conf", "hostname: b\n"),
            ("nodes/n1/host.fw", "[OPTIONS]\n"),
            ("nodes/n1/pve-ssl.pem", "old\n"),
        ] {
            fs::write(paths.pve(path), text).unwrap();
        }
        symlink("nodes/n1", paths.pve("local")).unwrap();
        let resolved: IpAddr = resolved.parse().unwrap();
        let fake = Self {
            host,
            addresses: vec!["10.0.0.1".parse().unwrap(), "10.0.0.9".parse().unwrap()],
            resolved,
            id: 1,
            running: RefCell::default(),
            ends_at: Cell::new(None),
            refuses: Cell::new(false),
            meanwhile: RefCell::default(),
            said: RefCell::default(),
            done: RefCell::default(),
            fails_at: Cell::new(None),
            _directory: directory,
        };
        fake.members("n1", "10.0.0.1");
        fake
    }

    fn members(&self, name: &str, address: &str) {
        let text = format!(
            r#"{{"nodename":"{name}","version":9,"cluster":{{"name":"lab","version":4,"nodes":2,"quorate":1}},
            "nodelist":{{"n1":{{"id":1,"online":1,"ip":"{address}"}},"n2":{{"id":2,"online":1}}}}}}"#
        );
        fs::write(self.host.paths.pve(".members"), text).unwrap();
    }

    fn step(&self, what: impl Into<String>) -> Outcome {
        let mut done = self.done.borrow_mut();
        done.push(what.into());
        match self.fails_at.get() {
            Some(at) if at + 1 == done.len() => Err(match self.refuses.get() {
                true => Failure::no_quorum("broken"),
                false => Failure::failed("broken"),
            }),
            _ => Ok(()),
        }
    }

    fn conf(&self) -> ClusterConf {
        ClusterConf::parse(&fs::read(self.host.paths.cluster_conf()).unwrap()).unwrap()
    }

    fn tree(&self) -> BTreeMap<String, Vec<u8>> {
        let mut tree = BTreeMap::new();
        walk(&self.host.paths.pve("nodes"), &mut tree);
        tree
    }
}

fn walk(directory: &Path, tree: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, tree);
        } else {
            tree.insert(path.display().to_string(), fs::read(&path).unwrap());
        }
    }
}

impl Machine for Fake {
    fn say(&self, line: &str) -> Outcome {
        self.said.borrow_mut().push(line.to_owned());
        Ok(())
    }

    fn addresses(&self) -> Outcome<Vec<IpAddr>> {
        Ok(self.addresses.clone())
    }

    fn resolve(&self, name: &str) -> Vec<IpAddr> {
        if name == self.host.name.as_str() {
            return vec![self.resolved];
        }
        name.parse().into_iter().collect()
    }

    fn interrupted(&self) -> bool {
        let done = self.done.borrow().len();
        self.ends_at.get().is_some_and(|end| done >= end)
    }

    fn running(&self, _: &ClusterConf) -> Outcome<BTreeMap<u8, IpAddr>> {
        Ok(self.running.borrow().clone())
    }

    fn own_id(&self) -> Outcome<u32> {
        Ok(self.id)
    }

    fn follow(&self, host: &Host, old: &ClusterConf, steps: &[ClusterConf]) -> Outcome {
        for step in steps {
            if let Err(failure) = self.take(host, step) {
                let mut back = old.clone();
                back.raise_above(&self.conf());
                clusterconf::write(host, &back.text())?;
                return Err(failure);
            }
        }
        Ok(())
    }

    fn take(&self, host: &Host, step: &ClusterConf) -> Outcome {
        self.step(format!("version {}", step.version()))?;
        // The ring looks at a link when it is new.
        let own = step.nodes().remove(0).addresses;
        let mut running = self.running.borrow_mut();
        running.retain(|link, _| own.contains_key(link));
        for (link, text) in own {
            if let Some(at) = self.resolve(&text).first() {
                running.entry(link).or_insert(*at);
            }
        }
        clusterconf::write(host, &step.text())
    }

    fn restart(&self) -> Outcome {
        self.step("restart")?;
        self.members(self.host.name.as_str(), &self.resolved.to_string());
        let own = self.conf().nodes().remove(0).name;
        let path = self.host.paths.pve(".members");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, text.replace("\"n1\":", &format!("\"{own}\":"))).unwrap();
        Ok(())
    }

    fn cluster_files(&self, host: &Host) -> Outcome {
        self.step("files")?;
        if let Some(text) = self.meanwhile.take() {
            clusterconf::write(host, text.as_bytes())?;
        }
        let pem = host.paths.node(host.name.as_str(), "pve-ssl.pem");
        fs::create_dir_all(pem.parent().unwrap()).unwrap();
        files::replace(&pem, b"new\n", files::PUBLIC)
    }

    fn reload(&self) -> Outcome {
        self.step("reload")
    }
}

fn address(node: &str, address: &str) -> NodeAction {
    NodeAction::SetAddress {
        node: node.parse().unwrap(),
        address: address.parse().unwrap(),
        from: None,
    }
}

fn address_from(node: &str, new: &str, old: &str) -> NodeAction {
    NodeAction::SetAddress {
        node: node.parse().unwrap(),
        address: new.parse().unwrap(),
        from: Some(old.parse().unwrap()),
    }
}

fn rename(old: &str, new: &str) -> NodeAction {
    NodeAction::Rename {
        old: old.parse().unwrap(),
        new: new.parse().unwrap(),
    }
}

#[test]
fn a_node_moves_its_only_link() {
    let fake = Fake::new("n1", "10.0.0.9");
    let action = address("n1", "10.0.0.9");
    let before = fake.tree();
    let lines = plan(&fake.host, &action, &fake).unwrap().join("\n");
    assert!(
        lines.contains("move link 0 to '10.0.0.9' in 4 steps: versions 5 to 8"),
        "{lines}"
    );
    assert!(fake.done.borrow().is_empty() && fake.tree() == before);

    perform(&fake.host, &action, &fake).unwrap();
    let done = fake.done.take();
    let expected = [
        "version 5",
        "version 6",
        "version 7",
        "version 8",
        "restart",
        "files",
        "reload",
    ];
    assert_eq!(done, expected);
    assert_eq!(fake.conf().node("n1").unwrap().addresses[&0], "10.0.0.9");
    let said = fake.said.borrow().join("\n");
    assert!(
        said.contains("still named in storage.cfg:2: server 10.0.0.1"),
        "{said}"
    );

    // Again: what is done stays, the rest is looked at.
    perform(&fake.host, &action, &fake).unwrap();
    assert_eq!(fake.done.take(), ["files", "reload"]);
}

#[test]
fn a_move_that_fails_goes_on_or_is_taken_back() {
    for fails_at in 0..7 {
        let fake = Fake::new("n1", "10.0.0.9");
        fake.fails_at.set(Some(fails_at));
        let failure = perform(&fake.host, &address("n1", "10.0.0.9"), &fake).unwrap_err();
        assert_eq!(failure.code(), code::FAILED);
        let at = fake.conf().node("n1").unwrap().addresses[&0].clone();
        assert_eq!(
            at,
            if fails_at < 4 { "10.0.0.1" } else { "10.0.0.9" },
            "{fails_at}"
        );
        assert_eq!(fake.conf().links(), [0]);
        fake.fails_at.set(None);
        perform(&fake.host, &address("n1", "10.0.0.9"), &fake).unwrap();
        assert_eq!(fake.conf().node("n1").unwrap().addresses[&0], "10.0.0.9");
        assert!(
            fake.done
                .borrow()
                .ends_with(&["files".to_owned(), "reload".to_owned()])
        );
    }
}

#[test]
fn a_ring_that_did_not_move_is_seen() {
    // The machine has started with its new line in /etc/hosts, so the file system tells that already.
    let fake = Fake::new("n1", "10.0.0.9");
    fake.members("n1", "10.0.0.9");
    let failure = perform(&fake.host, &address("n1", "10.0.0.9"), &fake).unwrap_err();
    assert_eq!(failure.code(), code::REFUSED);
    let text = failure.to_string();
    assert!(
        text.contains("link 0 is at '10.0.0.1'; say which"),
        "{text}"
    );
    assert!(fake.done.borrow().is_empty() && fake.said.borrow().is_empty());
    let action = address_from("n1", "10.0.0.9", "10.0.0.1");
    perform(&fake.host, &action, &fake).unwrap();
    assert_eq!(fake.conf().node("n1").unwrap().addresses[&0], "10.0.0.9");
    assert_eq!(fake.done.borrow().last().unwrap(), "reload");
    perform(&fake.host, &action, &fake).unwrap();

    // By its name it is at the new address, but the ring has looked that up before.
    let fake = Fake::new("n1", "10.0.0.9");
    let text = CONF.replace("10.0.0.1\n", "n1\n");
    fs::write(fake.host.paths.cluster_conf(), text).unwrap();
    let old: IpAddr = "10.0.0.1".parse().unwrap();
    fake.running.borrow_mut().insert(0, old);
    perform(&fake.host, &address("n1", "10.0.0.9"), &fake).unwrap();
    assert_eq!(fake.conf().node("n1").unwrap().addresses[&0], "10.0.0.9");
    assert_eq!(fake.running.borrow()[&0], fake.resolved);
}

#[test]
fn a_move_has_the_tests_of_link_set_address() {
    let fake = Fake::new("n1", "10.0.0.9");
    let said = |text: String| {
        fs::write(fake.host.paths.cluster_conf(), text).unwrap();
        let failure = perform(&fake.host, &address("n1", "10.0.0.9"), &fake).unwrap_err();
        assert_eq!(failure.code(), code::REFUSED);
        assert!(fake.done.borrow().is_empty());
        failure.to_string()
    };
    let text = said(CONF.replace("10.0.0.1\n", "10.0.0.1\n    ring1_addr: 10.0.1.1\n"));
    assert!(text.contains("has faults"), "{text}");
    let two = CONF.replace("10.0.0.1\n", "10.0.0.1\n    ring1_addr: 10.0.0.9\n");
    let text = said(two.replace("10.0.0.2\n", "10.0.0.2\n    ring1_addr: 10.0.1.2\n"));
    assert!(
        text.contains("used already on link 1 by node 'n1'"),
        "{text}"
    );
    let text = said(CONF.replace("totem {\n", "totem {\n  ip_version: ipv6\n"));
    assert!(text.contains("does not resolve"), "{text}");
}

#[test]
fn a_move_is_checked_first() {
    let fake = Fake::new("n1", "10.0.0.1");
    fs::write(fake.host.paths.at("etc/hosts"), "10.0.0.1 n1\n").unwrap();
    for (action, text) in [
        (address("n2", "10.0.0.9"), "run the command on 'n2'"),
        (
            address("n1", "10.0.0.2"),
            "used already on link 0 by node 'n2'",
        ),
        (address("n1", "10.0.0.7"), "is not an address of this node"),
        (
            address("n1", "10.0.0.9"),
            "change line 1 of /etc/hosts from '10.0.0.1 n1' to '10.0.0.9 n1'",
        ),
    ] {
        let failure = perform(&fake.host, &action, &fake).unwrap_err();
        assert_eq!(failure.code(), code::REFUSED);
        assert!(failure.to_string().contains(text), "{failure}");
    }
    assert!(fake.done.borrow().is_empty());
}

#[test]
fn a_node_gets_another_name() {
    let fake = Fake::new("m1", "10.0.0.1");
    let before = fake.tree();
    let lines = plan(&fake.host, &rename("n1", "m1"), &fake)
        .unwrap()
        .join("\n");
    assert!(lines.contains("write version 5"), "{lines}");
    assert_eq!(fake.tree(), before);
    perform(&fake.host, &rename("n1", "m1"), &fake).unwrap();
    assert_eq!(
        fake.done.take(),
        ["restart", "files", "version 5", "restart", "reload"]
    );
    let node = fake.conf().node("m1").unwrap();
    assert_eq!(
        (node.id, node.addresses[&0].as_str()),
        (Some(1), "10.0.0.1")
    );
    let paths = &fake.host.paths;
    for (file, text) in [
        ("qemu-server/100.conf", "name: a\n"),
        ("lxc/101.conf", "hostname: b\n"),
        ("host.fw", "[OPTIONS]\n"),
        ("pve-ssl.pem", "new\n"),
    ] {
        assert_eq!(fs::read_to_string(paths.node("m1", file)).unwrap(), text);
    }
    assert!(!paths.node("n1", "").exists());
    let said = fake.said.borrow().join("\n");
    assert!(
        said.contains("named in storage.cfg:3: nodes n1,n2"),
        "{said}"
    );
    perform(&fake.host, &rename("n1", "m1"), &fake).unwrap();
    assert_eq!(fake.done.take(), ["files", "restart", "reload"]);
}

#[test]
fn a_rename_that_fails_moves_everything_back() {
    for fails_at in 0..5 {
        let fake = Fake::new("m1", "10.0.0.1");
        let before = fake.tree();
        fake.fails_at.set(Some(fails_at));
        perform(&fake.host, &rename("n1", "m1"), &fake).unwrap_err();
        if fails_at < 3 {
            assert_eq!(fake.tree(), before, "{fails_at}");
            assert!(fake.conf().node("n1").is_some());
        } else {
            assert!(fake.conf().node("m1").is_some());
        }
        fake.fails_at.set(None);
        perform(&fake.host, &rename("n1", "m1"), &fake).unwrap();
        assert!(fake.host.paths.node("m1", "qemu-server/100.conf").exists());
        assert!(!fake.host.paths.node("n1", "").exists());
    }
}

#[test]
fn what_an_earlier_run_has_moved_goes_back_too() {
    let fake = Fake::new("m1", "10.0.0.1");
    let before = fake.tree();
    // Killed after the first guest.
    let paths = &fake.host.paths;
    fs::create_dir_all(paths.node("m1", "qemu-server")).unwrap();
    let (old, new) = ("qemu-server/100.conf", "qemu-server/100.conf");
    fs::rename(paths.node("n1", old), paths.node("m1", new)).unwrap();
    fake.fails_at.set(Some(2));
    let failure = perform(&fake.host, &rename("n1", "m1"), &fake).unwrap_err();
    assert!(failure.to_string().contains("are as before"), "{failure}");
    assert_eq!(fake.tree(), before);

    // One that can not go back is told of.
    fs::create_dir_all(paths.node("m1", "lxc")).unwrap();
    fs::write(paths.node("m1", "lxc/101.conf"), "another").unwrap();
    fake.done.take();
    fake.fails_at.set(Some(1));
    let failure = perform(&fake.host, &rename("n1", "m1"), &fake).unwrap_err();
    let text = failure.to_string();
    assert!(text.contains("m1/lxc/101.conf' is still there"), "{text}");
    assert!(!text.contains("as before"), "{text}");
}

#[test]
fn a_rename_writes_over_nothing_that_came_meanwhile() {
    let fake = Fake::new("m1", "10.0.0.1");
    let before = fake.tree();
    let other = CONF.replace("config_version: 4", "config_version: 5");
    fake.meanwhile.replace(Some(other));
    let failure = perform(&fake.host, &rename("n1", "m1"), &fake).unwrap_err();
    assert!(failure.to_string().contains("somebody else"), "{failure}");
    assert_eq!((fake.conf().version(), fake.tree()), (5, before));
}

#[test]
fn a_signal_ends_a_change_of_a_node() {
    for (action, name, at, steps) in [
        (rename("n1", "m1"), "m1", "10.0.0.1", 5),
        (address("n1", "10.0.0.9"), "n1", "10.0.0.9", 6),
    ] {
        for end in 0..steps {
            let fake = Fake::new(name, at);
            let before = fake.tree();
            fake.ends_at.set(Some(end));
            let Err(failure) = perform(&fake.host, &action, &fake) else {
                panic!("{action:?} {end}")
            };
            assert_eq!(failure.code(), code::FAILED, "{action:?} {end}");
            let text = failure.to_string();
            assert!(text.contains("interrupted"), "{end}: {text}");
            if fake.conf().node("n1").is_some() {
                assert_eq!(fake.tree(), before, "{action:?} {end}");
            }
            fake.ends_at.set(None);
            perform(&fake.host, &action, &fake).unwrap();
        }
    }
}

#[test]
fn a_failure_after_a_change_is_no_refusal() {
    for (action, name, at, steps) in [
        (rename("n1", "m1"), "m1", "10.0.0.1", 0..5),
        (address("n1", "10.0.0.9"), "n1", "10.0.0.9", 4..7),
    ] {
        for number in steps {
            let fake = Fake::new(name, at);
            fake.refuses.set(true);
            fake.fails_at.set(Some(number));
            let failure = perform(&fake.host, &action, &fake).unwrap_err();
            assert_eq!(failure.code(), code::FAILED, "{action:?} {number}");
            assert!(failure.to_string().contains("run the command again"));
        }
    }
}

#[test]
fn what_a_rename_would_break_stops_it() {
    let fake = Fake::new("m1", "10.0.0.1");
    let refused = |text: &str| {
        let failure = perform(&fake.host, &rename("n1", "m1"), &fake).unwrap_err();
        assert_eq!(failure.code(), code::REFUSED);
        assert!(failure.to_string().contains(text), "{failure}");
        assert!(fake.done.borrow().is_empty());
    };
    let paths = &fake.host.paths;
    for own in ["n1", "N1.lan"] {
        let text = CONF.replace("10.0.0.1\n", &format!("{own}\n"));
        fs::write(paths.cluster_conf(), text).unwrap();
        refused("pvecm link set-address 0 n1 ADDRESS");
    }
    fs::write(paths.cluster_conf(), CONF).unwrap();
    let guests =
        r#"{"version":1,"ids":{"100":{"node":"n1","type":"qemu"},"7":{"node":"n2","type":"lxc"}}}"#;
    fs::write(paths.pve(".vmlist"), guests).unwrap();
    fs::create_dir_all(paths.pve("ha")).unwrap();
    let resources = paths.pve("ha/resources.cfg");
    fs::write(&resources, "ct: 7\n\tstate started\n\nvm: 100\n").unwrap();
    refused("on another one: vm:100; take");
    fs::write(&resources, "ct: 7\n\tstate started\n").unwrap();
    perform(&fake.host, &rename("n1", "m1"), &fake).unwrap();
}

#[test]
fn a_rename_is_checked_first() {
    let fake = Fake::new("n1", "10.0.0.1");
    let said = |action: &NodeAction, fake: &Fake| {
        let failure = perform(&fake.host, action, fake).unwrap_err();
        assert!(fake.done.borrow().is_empty());
        failure.to_string()
    };
    let text = said(&rename("n1", "m1"), &fake);
    assert!(text.contains("hostnamectl set-hostname m1"), "{text}");
    assert!(said(&rename("n1", "n1"), &fake).contains("are the same"));
    let mut fake = Fake::new("n2", "10.0.0.1");
    assert!(said(&rename("n1", "n2"), &fake).contains("has a node 'n2' already"));
    fake.host.name = "m1".parse().unwrap();
    fake.id = 2;
    assert!(said(&rename("n1", "m1"), &fake).contains("is another one"));
    assert!(said(&rename("n7", "m1"), &fake).contains("n7 is not a known host"));
}
