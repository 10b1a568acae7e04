//! The member over SSH, with programs that are made up.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use super::machine::FakeMachine;
use super::{CONF, facts, plan};
use crate::failure::{Failure, Outcome};
use crate::join::over_ssh::SshPeer;
use crate::join::peer::{Facts, Holder, NotAdmitted, Peer as _, Taken};
use crate::join::version::{OWN, Version};

const MEMBERS: &str = r#"{"nodename":"n1","version":3,"cluster":{"name":"lab","version":1,"nodes":1,"quorate":1},"nodelist":{"n1":{"id":1,"online":1,"ip":"10.77.0.1"}}}"#;

const IDLE: Duration = Duration::from_secs(150);

const VMLIST: &str = r#"{"version":2,"ids":{"101":{"node":"n2","type":"lxc","version":1},"102":{"node":"n1","type":"qemu","version":1}}}"#;

/// Programs as a member of this kind, or of the original, answers.
struct Programs {
    is_original: bool,
    fails: Option<&'static str>,
    /// What logins say that ask nobody, and those that ask.
    login: [Option<&'static str>; 2],
    ran: RefCell<Vec<String>>,
}

impl Programs {
    fn new() -> Self {
        Self {
            is_original: false,
            fails: None,
            login: [None; 2],
            ran: RefCell::default(),
        }
    }

    fn run(&self, name: &str, args: &[String]) -> Outcome<String> {
        let line = format!("{name} {}", args.join(" "));
        self.ran.borrow_mut().push(line.clone());
        let is_asking = usize::from(!line.contains("BatchMode=yes"));
        if line.contains("ControlMaster=yes")
            && let Some(text) = self.login[is_asking]
        {
            return Err(Failure::failed(text));
        }
        if self.is_original && line.contains("--probation") {
            return Err(Failure::failed(
                "400 unable to parse option\nUnknown option: probation",
            ));
        }
        if self.is_original && line.ends_with("pvecm --version") {
            return Err(Failure::failed("ERROR: unknown command 'pvecm --version'"));
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
            ("pvecm --version", format!("pvecm {OWN}\n")),
            ("date +%s", format!("{now}\n")),
            ("corosync.conf", CONF.to_owned()),
            ("pveversion", "pve-manager/9.1.1/42db4a6c\n".to_owned()),
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
    let mut peer = SshPeer::new(&machine.host, "n1", IDLE, &run);
    let taken = peer.taken(&[100, 101]).unwrap();
    let holder = Holder {
        node: "n2".to_owned(),
        folder: "lxc".to_owned(),
        conf: b"hostname: b\n".to_vec(),
    };
    assert_eq!(
        taken.into_iter().collect::<Vec<_>>(),
        [(101, Taken::By(holder))]
    );
}

#[test]
fn a_member_tells_and_lets_in_over_ssh() {
    let machine = FakeMachine::new();
    let before = machine.tree();
    let programs = Programs::new();
    let run = |name: &str, args: &[String]| programs.run(name, args);
    let mut peer = SshPeer::new(&machine.host, "n1", IDLE, &run);
    peer.open(&|| panic!("nobody is asked")).unwrap();
    let found = peer.facts().unwrap();
    assert!(found.ahead.is_some_and(|ahead| ahead.abs() <= 2));
    assert_eq!(
        Facts {
            ahead: Some(0),
            ..found
        },
        facts()
    );
    let directory = machine
        .host
        .paths
        .at(format!("run/pvecm-ssh.{}", std::process::id()));
    assert_eq!(
        fs::metadata(&directory).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let admitted = peer.admit(&plan().request).unwrap();
    assert_eq!(admitted.authkey, [0xfe; 256]);
    assert_eq!(admitted.conf, CONF.as_bytes());
    peer.withdraw(&"n2".parse().unwrap()).unwrap();
    drop(peer);
    assert_eq!(machine.tree(), before);
    let ran = programs.ran.borrow();
    let by = format!("-o ControlPath={}/master", directory.display());
    let first = format!(
        "ssh -o ConnectTimeout=10 -o ServerAliveInterval=5 -o ControlMaster=yes -o ControlPersist=150 {by} -o \
         BatchMode=yes -l root n1 -- true"
    );
    assert_eq!(ran[0], first);
    let through = format!("ssh -o BatchMode=yes -o ConnectTimeout=10 {by} -l root n1 --");
    let wanted =
        format!("{through} pvecm addnode n2 --new_node_ip 10.77.0.2 --apiversion 1 --probation 1");
    assert!(ran.contains(&wanted), "{ran:#?}");
    let (last, others) = ran.split_last().unwrap();
    assert_eq!(*last, format!("ssh {by} -O exit n1"));
    assert!(others.iter().all(|line| line.contains(&by)), "{ran:#?}");
    assert!(others.last().unwrap().ends_with("pvecm delnode n2"));
}

#[test]
fn who_has_to_answer_is_asked_once() {
    let denied = Some("exit status: 255: root@n1: Permission denied (publickey,password).");
    let machine = FakeMachine::new();
    let before = machine.tree();
    let open = |login: [Option<&'static str>; 2]| {
        let programs = Programs {
            login,
            ..Programs::new()
        };
        let run = |name: &str, args: &[String]| programs.run(name, args);
        let mut peer = SshPeer::new(&machine.host, "n1", IDLE, &run);
        let opened = peer.open(&|| Ok(()));
        drop(peer);
        let ran = programs.ran.take();
        let asking = |line: &&String| !line.contains("BatchMode=yes") && !line.contains("-O exit");
        let asking: Vec<String> = ran.iter().filter(asking).cloned().collect();
        assert_eq!(machine.tree(), before);
        (opened, asking)
    };
    let (opened, asking) = open([denied, None]);
    opened.unwrap();
    assert_eq!(asking.len(), 2, "{asking:#?}");
    assert!(asking[0].contains("ControlMaster=yes"), "{asking:#?}");
    let copy = &asking[1];
    assert!(copy.starts_with("ssh-copy-id -f -o ControlPath="), "{copy}");
    assert!(copy.ends_with("/root/.ssh/id_rsa root@n1"), "{copy}");
    // A wrong answer.
    let (opened, asking) = open([denied, denied]);
    let text = opened.unwrap_err().to_string();
    assert!(text.contains("root can not log in to 'n1'"), "{text}");
    assert_eq!(asking.len(), 1, "{asking:#?}");
    // Connections can not be shared.
    let shared = Some("exit status: 255: unix_listener: cannot bind to path");
    let (opened, asking) = open([denied, shared]);
    opened.unwrap();
    assert!(asking[1].starts_with("ssh-copy-id -i /"), "{asking:#?}");
    let (opened, asking) = open([shared, shared]);
    opened.unwrap();
    assert!(asking.is_empty(), "{asking:#?}");
}

#[test]
fn a_member_of_the_original_lets_in_without_probation() {
    let machine = FakeMachine::new();
    let programs = Programs {
        is_original: true,
        ..Programs::new()
    };
    let run = |name: &str, args: &[String]| programs.run(name, args);
    let mut peer = SshPeer::new(&machine.host, "n1", IDLE, &run);
    let version = Version::Original("9.1.1".to_owned());
    assert_eq!(peer.facts().unwrap().version, Some(version));
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
        ("'ssh n1 -- pvecm addnode n2': exit status: 255: ", false),
    ];
    for (text, is_known) in cases {
        let programs = Programs {
            fails: Some(text),
            ..Programs::new()
        };
        let run = |name: &str, args: &[String]| programs.run(name, args);
        let mut peer = SshPeer::new(&machine.host, "n1", IDLE, &run);
        let refused = peer.admit(&plan().request).unwrap_err();
        assert_eq!(
            matches!(refused, NotAdmitted::Refused(_)),
            is_known,
            "{text}"
        );
    }
}
