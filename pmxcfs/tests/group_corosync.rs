//! Group messaging against Debian's corosync, alone in namespaces of its own.
//!
//! Needs root, `unshare`, `ip` and `corosync`; says so and passes where one is missing.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use pmxcfs::group::corosync::{CorosyncGroup, THREAD_STACK_BYTES, reload_config};
use pmxcfs::group::{Group, GroupEvent, GroupName, McastError, MemberId};

const INSIDE: &str = "PMXCFS_TEST_GROUP_INSIDE";
const CONF: &str = "/etc/corosync/corosync.conf";
const LONG_NAME: &str = "a-cluster-with-a-rather-long-name";

#[test]
fn a_daemon_meets_corosync() {
    if std::env::var_os(INSIDE).is_some() {
        let thread = std::thread::Builder::new().stack_size(THREAD_STACK_BYTES);
        thread.spawn(inside).unwrap().join().unwrap();
        return;
    }
    if let Some(missing) = missing() {
        assert!(
            std::env::var_os("PMXCFS_TEST_ALL").is_none(),
            "this test can not run here: it needs {missing}"
        );
        eprintln!("skipped: needs {missing}");
        return;
    }
    let status = Command::new("unshare")
        .args(["-n", "-m", "-u", "-i", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "a_daemon_meets_corosync", "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "the part inside the namespaces failed");
}

fn missing() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("root");
    }
    let found = |name: &str| {
        ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .iter()
            .any(|folder| Path::new(folder).join(name).exists())
    };
    let private = Command::new("unshare")
        .args(["-n", "-m", "-u", "-i", "true"])
        .status();
    match () {
        () if !found("corosync") => Some("corosync"),
        () if !found("ip") => Some("ip (iproute2)"),
        () if !private.is_ok_and(|status| status.success()) => Some("permission to unshare"),
        () => None,
    }
}

/// The whole life of a connection, in one daemon's order.
fn inside() {
    let home = tempfile::tempdir().unwrap();
    set_up(home.path());
    let mut host = Host {
        group: CorosyncGroup::new(),
        wake: EventFd::new().unwrap(),
        events: Vec::new(),
    };
    let sender = host.group.sender();
    assert!(host.group.connect().is_err(), "nothing to connect to yet");
    assert_eq!(
        sender.mcast(GroupName::Config, b"x"),
        Err(McastError::Disconnected)
    );

    let mut corosync = start_corosync();
    host.connect();
    host.sees_the_cluster(1, &["alpha"]);
    host.joins_and_talks();
    host.large_messages_arrive_whole();
    host.many_messages_come_in_batches_and_order();
    host.wakes_up_for_commands();
    host.leaves_and_joins_again();
    host.sees_a_changed_node_list();

    corosync.kill().unwrap();
    corosync.wait().unwrap();
    let lost = host.until("loss", |event| {
        matches!(event, GroupEvent::Disconnected { .. })
    });
    assert!(host.events.is_empty(), "{:?} after {lost:?}", host.events);
    assert!(!host.group.is_connected());
    assert_eq!(
        sender.mcast(GroupName::Status, b"x"),
        Err(McastError::Disconnected)
    );
    assert!(host.group.connect().is_err());

    let mut corosync = start_corosync();
    host.connect();
    host.sees_the_cluster(2, &["alpha", "beta"]);
    host.joins_and_talks();
    host.group.disconnect();
    assert!(!host.group.is_connected());
    corosync.kill().unwrap();
    corosync.wait().unwrap();
}

struct Host {
    group: CorosyncGroup,
    wake: EventFd,
    events: Vec<GroupEvent>,
}

impl Host {
    fn connect(&mut self) {
        // Corosync is ready some time after its start; it offers nothing to wait on.
        for _ in 0..200 {
            if self.group.connect().is_ok() {
                return;
            }
            poll(&mut [], PollTimeout::from(100u8)).unwrap();
        }
        panic!("no connection: {:?}", self.group.connect());
    }

    /// Waits for the next event that `wanted` accepts and takes all events up to it.
    fn until(&mut self, what: &str, wanted: impl Fn(&GroupEvent) -> bool) -> GroupEvent {
        for _ in 0..300 {
            if let Some(at) = self.events.iter().position(&wanted) {
                return self.events.drain(..=at).last().unwrap();
            }
            let timeout = Some(Duration::from_millis(100));
            self.group
                .wait(timeout, self.wake.as_fd(), &mut self.events);
        }
        panic!("{what} did not come, only {:?}", self.events);
    }

    fn me(&self) -> MemberId {
        MemberId {
            node: self.group.local_node_id().unwrap(),
            pid: std::process::id(),
        }
    }

    fn deliver(&mut self, group: GroupName) -> Bytes {
        let me = self.me();
        match self.until("own message", |e| matches!(e, GroupEvent::Deliver { .. })) {
            GroupEvent::Deliver {
                group: at,
                from,
                payload,
            } => {
                assert_eq!((at, from), (group, me));
                payload
            }
            other => panic!("{other:?}"),
        }
    }

    fn sees_the_cluster(&mut self, version: u64, names: &[&str]) {
        assert_eq!(self.group.local_node_id(), Some(7));
        match self.until("node list", |_| true) {
            GroupEvent::NodeList(list) => {
                assert_eq!(list.cluster_name, LONG_NAME);
                assert_eq!(list.config_version, version);
                assert_eq!(
                    list.nodes.iter().map(|n| &*n.name).collect::<Vec<_>>(),
                    names
                );
                let node = list.nodes.first().unwrap();
                assert_eq!((node.id, node.votes), (7, 3));
                assert_eq!(node.ring0_addr.as_deref(), Some("127.0.0.1"));
            }
            other => panic!("first event is {other:?}"),
        }
        let quorate = GroupEvent::Quorum {
            quorate: true,
            members: vec![7],
        };
        self.until("quorum", |event| *event == quorate);
    }

    fn joins_and_talks(&mut self) {
        let me = self.me();
        let sender = self.group.sender();
        for group in GroupName::ALL {
            assert_eq!(sender.mcast(group, b"early"), Err(McastError::NotMember));
            self.join(group);
            assert!(self.group.join(group).is_err(), "joined twice");
            match self.until("confchg", |e| matches!(e, GroupEvent::Confchg { .. })) {
                GroupEvent::Confchg {
                    group: at,
                    members,
                    left,
                    joined,
                } => {
                    assert_eq!((at, members, joined), (group, vec![me], vec![me]));
                    assert_eq!(left, vec![]);
                }
                other => panic!("{other:?}"),
            }
            sender.mcast(group, b"hello").unwrap();
            assert_eq!(self.deliver(group), &b"hello"[..]);
        }
    }

    fn join(&mut self, group: GroupName) {
        // The leave of this process may still be on its way.
        for _ in 0..50 {
            if self.group.join(group).is_ok() {
                return;
            }
            poll(&mut [], PollTimeout::from(20u8)).unwrap();
        }
        panic!("can not join {group}: {:?}", self.group.join(group));
    }

    fn large_messages_arrive_whole(&mut self) {
        let sender = self.group.sender();
        for size in [1_047_552, 1_047_553, 1_100_000, 3_300_001, 1, 0] {
            let payload: Vec<u8> = (0u32..size)
                .map(|i| i.to_le_bytes()[0] ^ i.to_le_bytes()[1])
                .collect();
            self.send(&sender, &payload);
            assert!(
                self.deliver(GroupName::Config) == payload,
                "message of {size} bytes"
            );
        }
    }

    fn send(&mut self, sender: &pmxcfs::group::Sender, payload: &[u8]) {
        insist(sender, payload, |pause| {
            self.group
                .wait(Some(pause), self.wake.as_fd(), &mut self.events);
        });
    }

    fn many_messages_come_in_batches_and_order(&mut self) {
        const COUNT: u32 = 2000;
        let sender = self.group.sender();
        // From another thread, while this one dispatches.
        let writer = std::thread::spawn(move || {
            let (never, closed) = std::sync::mpsc::channel::<()>();
            for number in 0..COUNT {
                let payload = number.to_le_bytes();
                insist(&sender, &payload, |pause| {
                    closed.recv_timeout(pause).unwrap_or_default();
                });
            }
            drop(never);
        });
        for number in 0..COUNT {
            assert_eq!(self.deliver(GroupName::Config), &number.to_le_bytes()[..]);
        }
        writer.join().unwrap();
    }

    fn wakes_up_for_commands(&mut self) {
        self.wake.write(1).unwrap();
        assert!(self.group.wait(None, self.wake.as_fd(), &mut self.events));
        self.wake.read().unwrap();
        let now = Some(Duration::ZERO);
        assert!(!self.group.wait(now, self.wake.as_fd(), &mut self.events));
    }

    fn leaves_and_joins_again(&mut self) {
        let me = self.me();
        let sender = self.group.sender();
        self.group.leave(GroupName::Status);
        assert_eq!(
            sender.mcast(GroupName::Status, b"x"),
            Err(McastError::NotMember)
        );
        sender.mcast(GroupName::Config, b"other group").unwrap();
        assert_eq!(self.deliver(GroupName::Config), &b"other group"[..]);
        self.join(GroupName::Status);
        let joined = self.until("confchg", |e| matches!(e, GroupEvent::Confchg { .. }));
        assert!(matches!(joined, GroupEvent::Confchg { members, .. } if members == [me]));
        sender.mcast(GroupName::Status, b"again").unwrap();
        assert_eq!(self.deliver(GroupName::Status), &b"again"[..]);
    }

    fn sees_a_changed_node_list(&mut self) {
        fs::write(CONF, configuration(2, &[(7, "alpha"), (8, "beta")])).unwrap();
        reload_config().unwrap();
        self.until("new node list", |event| {
            matches!(event, GroupEvent::NodeList(list)
                if list.config_version == 2 && list.nodes.len() == 2 && list.nodes[1].name == "beta")
        });
    }
}

/// Private folders where corosync keeps things, and a network with loopback alone.
fn set_up(home: &Path) {
    let none: Option<&str> = None;
    fs::create_dir_all("/etc/corosync").unwrap();
    fs::create_dir_all("/var/lib/corosync").unwrap();
    for (source, target) in [("etc", "/etc/corosync"), ("lib", "/var/lib/corosync")] {
        let source = home.join(source);
        fs::create_dir(&source).unwrap();
        mount(Some(&source), target, none, MsFlags::MS_BIND, none).unwrap();
    }
    for target in ["/run", "/dev/shm"] {
        mount(Some("none"), target, Some("tmpfs"), MsFlags::empty(), none).unwrap();
    }
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .unwrap();
    assert!(up.success());
    fs::write(CONF, configuration(1, &[(7, "alpha")])).unwrap();
}

fn configuration(version: u64, nodes: &[(u32, &str)]) -> String {
    let mut text = format!(
        "totem {{\n version: 2\n cluster_name: {LONG_NAME}\n config_version: {version}\n \
         transport: knet\n crypto_cipher: none\n crypto_hash: none\n}}\n\
         quorum {{\n provider: corosync_votequorum\n}}\n\
         logging {{\n to_stderr: yes\n to_syslog: no\n}}\n\
         system {{\n sched_rr: no\n move_to_root_cgroup: no\n}}\nnodelist {{\n"
    );
    for (host, (id, name)) in (1..).zip(nodes) {
        let votes = if host == 1 { 3 } else { 1 };
        let node = format!(
            " node {{\n  name: {name}\n  nodeid: {id}\n  quorum_votes: {votes}\n  ring0_addr: 127.0.0.{host}\n }}\n"
        );
        text.write_str(&node).unwrap();
    }
    text.push_str("}\n");
    text
}

fn start_corosync() -> Corosync {
    let log = fs::File::create("/etc/corosync/log").unwrap();
    let child = Command::new("corosync")
        .arg("-f")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    Corosync(child)
}

/// Never outlives the test.
struct Corosync(Child);

impl Corosync {
    fn kill(&mut self) -> io::Result<()> {
        self.0.kill()
    }

    fn wait(&mut self) -> io::Result<std::process::ExitStatus> {
        self.0.wait()
    }
}

impl Drop for Corosync {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "{}",
                fs::read_to_string("/etc/corosync/log").unwrap_or_default()
            );
        }
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Sends, and again while Corosync is busy.
fn insist(sender: &pmxcfs::group::Sender, payload: &[u8], mut pause: impl FnMut(Duration)) {
    use pmxcfs::group::retry::{ATTEMPTS, PAUSE};
    for _ in 0..ATTEMPTS {
        match sender.mcast(GroupName::Config, payload) {
            Err(McastError::Backpressure) => pause(PAUSE),
            result => return result.unwrap(),
        }
    }
    panic!("Corosync takes no messages");
}
