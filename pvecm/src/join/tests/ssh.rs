//! The member over SSH, with programs that are made up.

use std::cell::RefCell;
use std::fs;
use std::path::Path;

use super::machine::FakeMachine;
use super::{CONF, facts, plan};
use crate::failure::{Failure, Outcome};
use crate::join::over_ssh::SshPeer;
use crate::join::peer::{Facts, Holder, NotAdmitted, Peer as _};

const MEMBERS: &str = r#"{"nodename":"n1","version":3,"cluster":{"name":"lab","version":1,"nodes":1,"quorate":1},"nodelist":{"n1":{"id":1,"online":1,"ip":"10.77.0.1"}}}"#;

const VMLIST: &str = r#"{"version":2,"ids":{"101":{"node":"n2","type":"lxc","version":1},"102":{"node":"n1","type":"qemu","version":1}}}"#;

/// Programs as a member of this kind, or of the original, answers.
struct Programs {
    is_original: bool,
    fails: Option<&'static str>,
    ran: RefCell<Vec<String>>,
}

impl Programs {
    fn new() -> Self {
        Self {
            is_original: false,
            fails: None,
            ran: RefCell::default(),
        }
    }

    fn run(&self, name: &str, args: &[String]) -> Outcome<String> {
        let line = format!("{name} {}", args.join(" "));
        self.ran.borrow_mut().push(line.clone());
        if self.is_original && line.contains("--probation") {
            return Err(Failure::failed(
                "400 unable to parse option\nUnknown option: probation",
            ));
        }
        if let Some(text) = self.fails.filter(|_| line.contains("addnode")) {
            return Err(Failure::failed(text));
        }
        if name == "rsync" {
            let target = Path::new(args.last().unwrap());
            fs::write(target.join("authkey"), [0xfe; 256]).unwrap();
            fs::write(target.join("corosync.conf"), CONF).unwrap();
        }
        let now = crate::host::calendar().as_secs();
        let answers = [
            ("pvecm apiver", "1\n".to_owned()),
            ("date +%s", format!("{now}\n")),
            ("corosync.conf", CONF.to_owned()),
            (".members", MEMBERS.to_owned()),
            (".vmlist", VMLIST.to_owned()),
            ("/etc/pve/nodes/n2/lxc/101.conf", "hostname: b\n".to_owned()),
        ];
        let answer = answers.into_iter().find(|(end, _)| line.ends_with(end));
        Ok(answer.map(|(_, text)| text).unwrap_or_default())
    }
}

#[test]
fn a_member_tells_over_ssh_which_guest_has_a_number() {
    let programs = Programs::new();
    let run = |name: &str, args: &[String]| programs.run(name, args);
    let machine = FakeMachine::new();
    let mut peer = SshPeer::new(&machine.host, "n1", &run);
    let taken = peer.taken(&[100, 101]).unwrap();
    let holder = Holder {
        node: "n2".to_owned(),
        folder: "lxc".to_owned(),
        conf: b"hostname: b\n".to_vec(),
    };
    assert_eq!(taken.into_iter().collect::<Vec<_>>(), [(101, Some(holder))]);
}

#[test]
fn a_member_tells_and_lets_in_over_ssh() {
    let machine = FakeMachine::new();
    let before = machine.tree();
    let programs = Programs::new();
    let run = |name: &str, args: &[String]| programs.run(name, args);
    let mut peer = SshPeer::new(&machine.host, "n1", &run);
    assert!(peer.is_open());
    let found = peer.facts().unwrap();
    assert!(found.ahead.is_some_and(|ahead| ahead.abs() <= 2));
    assert_eq!(
        Facts {
            ahead: Some(0),
            ..found
        },
        facts()
    );
    let admitted = peer.admit(&plan().request).unwrap();
    assert_eq!(admitted.authkey, [0xfe; 256]);
    assert_eq!(admitted.conf, CONF.as_bytes());
    peer.withdraw(&"n2".parse().unwrap()).unwrap();
    assert_eq!(machine.tree(), before);
    let ran = programs.ran.borrow();
    let asked = ran.iter().find(|line| line.contains("addnode")).unwrap();
    let wanted = "ssh -o BatchMode=yes -o ConnectTimeout=10 -l root n1 -- pvecm addnode n2 \
                  --new_node_ip 10.77.0.2 --apiversion 1 --probation 1";
    assert_eq!(asked, wanted);
    assert!(ran.last().unwrap().ends_with("pvecm delnode n2"));
}

#[test]
fn a_member_of_the_original_lets_in_without_probation() {
    let machine = FakeMachine::new();
    let programs = Programs {
        is_original: true,
        ..Programs::new()
    };
    let run = |name: &str, args: &[String]| programs.run(name, args);
    let mut peer = SshPeer::new(&machine.host, "n1", &run);
    peer.admit(&plan().request).unwrap();
    let ran = programs.ran.borrow();
    let asked: Vec<_> = ran.iter().filter(|line| line.contains("addnode")).collect();
    assert_eq!(asked.len(), 2);
    assert!(asked[1].ends_with("--apiversion 1"));
}

#[test]
fn a_refusal_is_told_from_a_lost_connection() {
    let machine = FakeMachine::new();
    let cases = [
        ("can't add existing node 'n2'", true),
        (
            "exit status: 255: Connection to n1 closed by remote host.",
            false,
        ),
        (
            "exit status: 255: ssh: connect to host n1 port 22: No route to host",
            false,
        ),
    ];
    for (text, is_known) in cases {
        let programs = Programs {
            fails: Some(text),
            ..Programs::new()
        };
        let run = |name: &str, args: &[String]| programs.run(name, args);
        let mut peer = SshPeer::new(&machine.host, "n1", &run);
        let refused = peer.admit(&plan().request).unwrap_err();
        assert_eq!(
            matches!(refused, NotAdmitted::Refused(_)),
            is_known,
            "{text}"
        );
    }
}
