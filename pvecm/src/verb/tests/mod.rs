//! Commands that are broken off at each of their steps, below a temporary directory.

mod cluster;
mod node;
mod undo;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use crate::conf::ClusterConf;
use crate::failure::{Failure, Outcome};
use crate::host::test_node::{Tree, test_node, tree};
use crate::host::{Host, clusterconf};
use crate::transaction::{self, Transaction, recover_with};
use crate::verb::machine::Machine;

/// What happens at one of the points that a command passes, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Break {
    Never,
    Fails(usize),
    Signal(usize),
    Killed(usize),
}

const WAYS: [fn(usize) -> Break; 3] = [Break::Fails, Break::Signal, Break::Killed];

/// A node whose services change files as the real ones do: the tree is that of the database as long
/// as the file system runs.
struct Fake {
    host: Host,
    break_at: Break,
    points: Cell<usize>,
    interrupted: Cell<bool>,
    messaging: Cell<bool>,
    is_alone: Cell<bool>,
    /// Nodes of the ring.
    joined: RefCell<BTreeSet<u32>>,
    /// The daemon takes no new configuration.
    lags: Cell<bool>,
    settled: RefCell<Vec<String>>,
    /// Links on which no other node is reached.
    down: RefCell<BTreeSet<u8>>,
    _directory: tempfile::TempDir,
}

impl Fake {
    fn new(break_at: Break) -> Self {
        let directories = [
            "etc/pve",
            "etc/cron.d",
            "root/.ssh",
            "var/lib/pve-cluster",
            "var/lock",
        ];
        let (directory, host) = test_node("n1", &directories);
        Self {
            host,
            break_at,
            points: Cell::new(0),
            interrupted: Cell::new(false),
            messaging: Cell::new(false),
            is_alone: Cell::new(false),
            joined: RefCell::default(),
            lags: Cell::new(false),
            settled: RefCell::default(),
            down: RefCell::default(),
            _directory: directory,
        }
    }

    /// The command passes a point.
    fn pass(&self) -> Outcome {
        let point = self.points.get();
        self.points.set(point + 1);
        match self.break_at {
            Break::Fails(at) if at == point => Err(Failure::failed(format!("broken at {at}"))),
            Break::Killed(at) if at == point => resume_unwind(Box::new("killed")),
            Break::Signal(at) if at == point => {
                self.interrupted.set(true);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whether the command came to the point at which it was to be broken off.
    fn is_broken(&self) -> bool {
        match self.break_at {
            Break::Never => false,
            Break::Fails(at) | Break::Signal(at) | Break::Killed(at) => self.points.get() > at,
        }
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.host.paths.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn is_mounted(&self) -> bool {
        self.host.paths.pve("local").is_symlink()
    }

    fn mount(&self) {
        if self.is_mounted() {
            return;
        }
        let paths = &self.host.paths;
        let database = fs::read(paths.database("config.db")).unwrap_or_else(|_| b"{}".to_vec());
        let files: BTreeMap<String, Option<Vec<u8>>> = serde_json::from_slice(&database).unwrap();
        for (path, content) in files {
            match content {
                Some(content) => self.write(&format!("etc/pve/{path}"), content),
                None => fs::create_dir_all(paths.pve(path)).unwrap(),
            }
        }
        fs::write(paths.database("config.db-wal"), "log").unwrap();
        symlink("nodes/n1", paths.pve("local")).unwrap();
        fs::write(paths.pve(".vmlist"), r#"{"version":1,"ids":{}}"#).unwrap();
        let nodes = ClusterConf::parse(&fs::read(paths.cluster_conf()).unwrap_or_default())
            .map(|conf| conf.nodes())
            .unwrap_or_default();
        let list: Vec<String> = nodes
            .iter()
            .map(|node| {
                format!(
                    r#""{}":{{"id":{},"online":1}}"#,
                    node.name,
                    node.id.unwrap()
                )
            })
            .collect();
        let cluster = if nodes.is_empty() {
            String::new()
        } else {
            let count = nodes.len();
            format!(r#","cluster":{{"name":"lab","version":1,"nodes":{count},"quorate":1}}"#)
        };
        let members = format!(
            r#"{{"nodename":"n1","version":1{cluster},"nodelist":{{{}}}}}"#,
            list.join(",")
        );
        fs::write(paths.pve(".members"), members).unwrap();
    }

    fn unmount(&self) {
        if !self.is_mounted() {
            return;
        }
        let paths = &self.host.paths;
        for own in ["local", ".vmlist", ".members"] {
            fs::remove_file(paths.pve(own)).unwrap();
        }
        let tree = tree(&paths.pve(""));
        let root = format!(
            "{}/",
            paths.pve("").display().to_string().trim_end_matches('/')
        );
        let files: BTreeMap<String, Option<Vec<u8>>> = tree
            .into_iter()
            .map(|(path, (mode, content))| {
                let is_file = mode & 0o170_000 == 0o100_000;
                let path = path.strip_prefix(&root).unwrap().to_owned();
                (path, is_file.then_some(content))
            })
            .collect();
        let database = serde_json::to_vec(&files).unwrap();
        fs::write(paths.database("config.db"), database).unwrap();
        fs::remove_file(paths.database("config.db-wal")).unwrap();
        fs::remove_dir_all(paths.pve("")).unwrap();
        fs::create_dir(paths.pve("")).unwrap();
    }

    fn services(&self, verb: &str, units: &[&str]) {
        for unit in units {
            match (*unit, verb) {
                ("pve-cluster.service", "start") => self.mount(),
                ("pve-cluster.service", "stop") => self.unmount(),
                ("pve-cluster.service", "restart") => {
                    self.unmount();
                    self.mount();
                }
                ("corosync.service", verb) => self.messaging.set(verb != "stop"),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Everything of the node but its locks: kind, mode and content; and whether it is in a ring.
    fn state(&self) -> (Tree, bool) {
        let mut tree = tree(&self.host.paths.at(""));
        let locks = self.host.paths.at("var/lock").display().to_string();
        tree.retain(|path, _| !path.starts_with(&locks));
        (tree, self.messaging.get())
    }

    /// Lets a command run until it ends or is killed; then nothing, or what it has said.
    fn run<T>(&self, command: impl FnOnce() -> Outcome<T>) -> Option<Outcome<T>> {
        catch_unwind(AssertUnwindSafe(command)).ok()
    }

    /// What the next command does first.
    fn recover(&mut self) {
        self.break_at = Break::Never;
        if self.is_alone.replace(false) {
            self.unmount();
        }
        let control = |verb: &str, units: &[&str]| self.put_back(verb, units);
        let directory = transaction::directory(&self.host.paths);
        let recovered = recover_with(&directory, &control).unwrap();
        let failures = recovered.map(|recovered| recovered.failures);
        assert_eq!(failures.unwrap_or_default(), Vec::<String>::new());
    }
}

impl Machine for Fake {
    fn interrupted(&self) -> bool {
        self.interrupted.get()
    }

    fn step(&self) -> Outcome {
        self.pass()?;
        match self.interrupted() {
            true => Err(crate::host::stop::interrupted()),
            false => Ok(()),
        }
    }

    fn patience(&self, _: Duration) -> Duration {
        Duration::ZERO
    }

    fn control(&self, verb: &str, units: &[&str]) -> Outcome {
        self.pass()?;
        self.services(verb, units);
        self.pass()
    }

    fn put_back(&self, verb: &str, units: &[&str]) -> Outcome {
        self.services(verb, units);
        Ok(())
    }

    fn prepare(&self, host: &Host, transaction: &mut Transaction) -> Outcome {
        self.pass()?;
        transaction.save(&host.paths.ssh("id_rsa"))?;
        self.pass()?;
        self.write("root/.ssh/id_rsa", "new key");
        self.pass()
    }

    fn cluster_files(&self, host: &Host) -> Outcome {
        self.pass()?;
        self.write("etc/pve/nodes/n1/pve-ssl.pem", "new");
        symlink("/etc/pve/vzdump.cron", host.paths.at("etc/cron.d/vzdump")).unwrap();
        self.pass()
    }

    fn alone(&self, _: &Host, work: &mut dyn FnMut() -> Outcome) -> Outcome {
        self.pass()?;
        self.is_alone.set(true);
        self.mount();
        let done = self.pass().and_then(|()| work()).and_then(|()| self.pass());
        self.unmount();
        self.is_alone.set(false);
        done
    }

    fn is_joined(&self, id: u32) -> Outcome<bool> {
        self.pass()?;
        Ok(self.joined.borrow().contains(&id))
    }

    fn own_id(&self) -> Outcome<u32> {
        self.pass().map(|()| 1)
    }

    fn version_in_force(&self) -> Option<u64> {
        self.pass().ok()?;
        let conf = clusterconf::read(&self.host).ok()?;
        (!self.lags.get()).then(|| conf.version())
    }

    fn versions(&self, ids: &[u32]) -> Outcome<BTreeMap<u32, u64>> {
        let version = self.version_in_force().unwrap_or(1);
        Ok(ids.iter().map(|id| (*id, version)).collect())
    }

    fn links_down(&self, _: u32, links: &BTreeMap<u8, String>) -> Outcome<Vec<u8>> {
        self.pass()?;
        let down = self.down.borrow();
        Ok(links
            .keys()
            .copied()
            .filter(|it| down.contains(it))
            .collect())
    }

    fn kill(&self, id: u32) -> Outcome {
        self.pass()?;
        self.joined.borrow_mut().remove(&id);
        Ok(())
    }

    fn settle_later(&self, _: &Host, name: &str, _: u32) -> Outcome {
        self.pass()?;
        self.settled.borrow_mut().push(name.to_owned());
        Ok(())
    }
}
