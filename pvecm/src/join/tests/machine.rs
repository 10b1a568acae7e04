//! A machine below a temporary directory: its services change files as the real ones do.

use std::cell::{Cell, RefCell};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::ADDRESS;
use crate::conf::ClusterConf;
use crate::datacenter::Network;
use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::host::test_node::{Tree, test_node, tree};
use crate::join::machine::{Machine, Step};
use crate::join::reach::Reach;
use crate::transaction::Transaction;

/// What happens at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    Never,
    /// The step fails.
    Fails(Step),
    /// The process is killed.
    Killed(Step),
    /// It is killed before the n-th call of the service manager, or right after it.
    KilledAround(usize, bool),
}

pub struct FakeMachine {
    pub host: Host,
    pub said: RefCell<Vec<String>>,
    pub calls: RefCell<Vec<String>>,
    pub votes: RefCell<Vec<(u32, u32)>>,
    pub break_at: Break,
    pub interrupted: Cell<bool>,
    pub interrupt_at: Option<Step>,
    pub comes_up: bool,
    /// Else the running cluster stays with its configuration, and a signal comes.
    pub takes_votes: bool,
    pub starts: bool,
    pub messaging: bool,
    /// So often the messaging daemon ends after it was started.
    pub overtaken: Cell<usize>,
    pub busy_port: bool,
    pub reach: Reach,
    /// Size of packets that do not get through.
    pub too_large: Option<usize>,
    /// Guests of the cluster.
    pub taken: String,
    /// Files that the cluster has in the directory of the node.
    pub there: Vec<(String, String)>,
    pub _directory: tempfile::TempDir,
}

pub const KEYS: &str = "ssh-ed25519 AAAA admin\n";

impl FakeMachine {
    /// One with all that shows that a node is in a cluster.
    pub fn in_cluster() -> Self {
        let machine = Self {
            messaging: true,
            ..Self::new()
        };
        let paths = &machine.host.paths;
        fs::create_dir_all(paths.corosync("")).unwrap();
        fs::write(paths.corosync("authkey"), "key").unwrap();
        fs::write(paths.cluster_conf(), "").unwrap();
        machine
    }

    pub fn new() -> Self {
        let directories = [
            "etc/pve/priv",
            "etc/ssh",
            "root/.ssh",
            "var/lib/pve-cluster",
            "run",
            "var/lock",
        ];
        let (directory, host) = test_node("n2", &directories);
        let paths = &host.paths;
        fs::write(paths.pve(".vmlist"), r#"{"version":1,"ids":{}}"#).unwrap();
        fs::write(paths.pve(".members"), r#"{"nodename":"n2","version":1}"#).unwrap();
        fs::write(paths.pve("storage.cfg"), "dir: local\n").unwrap();
        fs::write(paths.pve("priv/authorized_keys"), KEYS).unwrap();
        symlink("nodes/n2", paths.pve("local")).unwrap();
        symlink(
            "/etc/pve/priv/authorized_keys",
            paths.ssh("authorized_keys"),
        )
        .unwrap();
        fs::write(paths.at("etc/ssh/sshd_config"), "PermitRootLogin no\n").unwrap();
        let database = rusqlite::Connection::open(paths.database("config.db")).unwrap();
        database
            .execute_batch(
                "CREATE TABLE tree (inode INTEGER, data BLOB); INSERT INTO tree VALUES (7, X'00');",
            )
            .unwrap();
        Self {
            host,
            said: RefCell::default(),
            calls: RefCell::default(),
            votes: RefCell::default(),
            break_at: Break::Never,
            interrupted: Cell::new(false),
            interrupt_at: None,
            comes_up: true,
            takes_votes: true,
            starts: true,
            messaging: false,
            overtaken: Cell::new(0),
            busy_port: false,
            reach: Reach::Answered,
            too_large: None,
            taken: "{}".to_owned(),
            there: Vec::new(),
            _directory: directory,
        }
    }

    pub fn said(&self) -> String {
        self.said.borrow().join("\n")
    }

    /// Everything below the root: its kind, mode and content.
    pub fn tree(&self) -> Tree {
        tree(&self.host.paths.at(""))
    }

    fn is_mounted_for_cluster(&self) -> bool {
        self.host.paths.at("etc/.pve-local").exists()
    }

    /// The cluster's files take the place of the node's.
    fn mount(&self) -> std::io::Result<()> {
        let paths = &self.host.paths;
        let conf = fs::read(paths.corosync("corosync.conf"))?;
        fs::write(paths.database("config.db"), "the cluster's")?;
        fs::write(paths.database("config.db-wal"), "the cluster's log")?;
        fs::rename(paths.pve(""), paths.at("etc/.pve-local")).unwrap();
        fs::create_dir_all(paths.pve("priv/lock")).unwrap();
        if self.comes_up && self.overtaken.get() == 0 {
            self.come_up(&conf)?;
        }
        Ok(())
    }

    /// It has quorum.
    fn come_up(&self, conf: &[u8]) -> std::io::Result<()> {
        let paths = &self.host.paths;
        symlink("nodes/n2", paths.pve("local")).unwrap();
        fs::write(paths.cluster_conf(), conf).unwrap();
        let guests = format!(r#"{{"version":2,"ids":{}}}"#, self.taken);
        fs::write(paths.pve(".vmlist"), guests)?;
        for (path, content) in &self.there {
            let path = paths.node("n2", path);
            fs::create_dir_all(path.parent().unwrap())?;
            fs::write(path, content)?;
        }
        let members = r#"{"nodename":"n2","version":9,"cluster":{"name":"lab","version":99,"nodes":2,"quorate":1},"nodelist":{"n1":{"id":1,"online":1,"ip":"10.77.0.1"},"n2":{"id":2,"online":1}}}"#;
        fs::write(paths.pve(".members"), members)
    }

    fn unmount(&self) {
        let paths = &self.host.paths;
        if self.is_mounted_for_cluster() {
            fs::remove_dir_all(paths.pve("")).unwrap();
            fs::rename(paths.at("etc/.pve-local"), paths.pve("")).unwrap();
        }
    }
}

/// Unwinds as far as a kill would end everything.
struct Kill;

fn kill() -> ! {
    std::panic::resume_unwind(Box::new(Kill))
}

impl Machine for FakeMachine {
    fn say(&self, line: &str) {
        self.said.borrow_mut().push(line.to_owned());
    }

    fn reached(&self, step: Step) -> Outcome {
        if self.interrupt_at == Some(step) {
            self.interrupted.set(true);
        }
        match self.break_at {
            Break::Fails(at) if at == step => Err(Failure::failed(format!("broken at {step:?}"))),
            Break::Killed(at) if at == step => kill(),
            _ if self.interrupted.get() => Err(crate::host::stop::interrupted()),
            _ => Ok(()),
        }
    }

    fn interrupted(&self) -> bool {
        self.interrupted.get()
    }

    fn control(&self, verb: &str, units: &[&str]) -> Outcome {
        let number = self.calls.borrow().len();
        if self.break_at == Break::KilledAround(number, false) {
            kill();
        }
        self.calls
            .borrow_mut()
            .push(format!("{verb} {}", units.join(" ")));
        let is_file_system = units.contains(&"pve-cluster.service");
        let has_conf = self.host.paths.corosync("corosync.conf").exists();
        match verb {
            "stop" if is_file_system => self.unmount(),
            "start" if is_file_system && has_conf => {
                if !self.starts {
                    return Err(Failure::failed("job for corosync.service failed"));
                }
                let mounted = self.mount();
                mounted.map_err(|error| Failure::failed(format!("pve-cluster: {error}")))?;
            }
            "start" if self.overtaken.get() > 0 => {
                self.overtaken.update(|left| left - 1);
                if self.overtaken.get() == 0 {
                    let conf = fs::read(self.host.paths.corosync("corosync.conf")).unwrap();
                    self.come_up(&conf).unwrap();
                }
            }
            _ => {}
        }
        if self.break_at == Break::KilledAround(number, true) {
            kill();
        }
        Ok(())
    }

    fn messaging_runs(&self) -> bool {
        self.messaging
    }

    fn messaging_has_ended(&self) -> bool {
        self.overtaken.get() > 0
    }

    fn own_address(&self, _: &Host) -> Outcome<IpAddr> {
        Ok(ADDRESS.parse().unwrap())
    }

    fn addresses(&self) -> Outcome<Vec<IpAddr>> {
        Ok(vec![ADDRESS.parse().unwrap(), "127.0.0.1".parse().unwrap()])
    }

    fn networks(&self) -> Vec<Network> {
        ["10.77.0.2/24", "10.78.0.2/24", "10.79.0.2/24", "10.0.0.2/8"]
            .map(|text| text.parse().unwrap())
            .into()
    }

    fn is_free(&self, _: SocketAddr) -> bool {
        !self.busy_port
    }

    fn reach(&self, pairs: &[(IpAddr, IpAddr)]) -> Vec<Reach> {
        vec![self.reach.clone(); pairs.len()]
    }

    fn too_large(&self, pairs: &[(IpAddr, IpAddr)]) -> Vec<Option<usize>> {
        vec![self.too_large; pairs.len()]
    }

    fn diagnosis(&self, host: &Host, conf: &ClusterConf) -> Vec<String> {
        crate::join::quorum::diagnosis(conf, host.name.as_str(), true, true, &[])
    }

    fn make_root_key(&self, _: &Host) -> Outcome {
        Ok(())
    }

    fn prepare_ssh(&self, host: &Host, transaction: &mut Transaction) -> Outcome {
        transaction.make_directory(&host.paths.ssh(""))?;
        for path in crate::ssh::local_files(host) {
            transaction.save(&path)?;
        }
        fs::write(host.paths.ssh("id_rsa"), "new key").unwrap();
        fs::set_permissions(host.paths.ssh("id_rsa"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(host.paths.ssh("id_rsa.pub"), "new public key").unwrap();
        fs::write(
            host.paths.at("etc/ssh/sshd_config"),
            "PermitRootLogin yes\n",
        )
        .unwrap();
        crate::ssh::carry_over(host)
    }

    fn cluster_files(&self, _: &Host) -> Outcome {
        self.say("generate new node certificate");
        Ok(())
    }

    fn give_votes(&self, id: u32, votes: u32) -> Outcome {
        self.votes.borrow_mut().push((id, votes));
        if !self.takes_votes {
            let members = self.host.paths.pve(".members");
            let text = fs::read_to_string(&members).unwrap();
            let behind = text.replace(r#""version":99"#, r#""version":1"#);
            fs::write(members, behind).unwrap();
            self.interrupted.set(true);
        }
        Ok(())
    }
}
