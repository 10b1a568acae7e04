//! A laboratory: test hosts on this machine, joined by two networks.
//!
//! A host has its own host name, network, process ids, IPC objects and view of the file system
//! (namespaces made by the test itself); it has no kernel of its own. Two bridges join the hosts,
//! in a network namespace that only they reach, so nothing touches the machine's own network.
//!
//! Lifetime: all processes of a host end with its process 1, which ends when this process does,
//! however that ends; namespaces and mounts go with their last process. The files of hosts are
//! below one directory, removed when the [`Lab`] is dropped or, after a kill, by the next one.
//!
//! | what a host sees | what it is |
//! |---|---|
//! | `/etc`, `/var/lib`, `/root` | the machine's, copied on write |
//! | `/etc/corosync`, `/var/lib/corosync`, `/var/lib/pve-cluster` | [`Host::disk`] |
//! | `/run`, `/dev/shm` | empty at each boot |
//! | everything else | the machine's |

mod dir;
mod host;
mod namespaces;
mod network;
mod program;
mod requirements;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, ensure};

use dir::LabDir;
pub use host::Host;
use namespaces::Namespaces;
pub use network::{LINKS, address};
pub use program::Program;
pub use requirements::{Requirement, available, missing};

use network::Network;

/// Hosts that a lab can have: their addresses end in their number.
const HOSTS_MAX: usize = 100;

/// A number of hosts and the networks between them.
#[derive(Debug)]
pub struct Lab {
    hosts: Vec<Host>,
    network: Network,
    dir: LabDir,
}

impl Lab {
    /// Makes `count` hosts, numbered from 1 and named `n1`, `n2`, and so on.
    ///
    /// # Errors
    /// When the machine lacks something ([`Requirement`]), or the kernel refuses a namespace.
    pub fn new(count: usize) -> Result<Self> {
        ensure!(
            (1..=HOSTS_MAX).contains(&count),
            "a lab has 1 to {HOSTS_MAX} hosts, not {count}"
        );
        requirements::check(&[Requirement::Root, Requirement::Network])?;
        let dir = LabDir::new()?;
        let network = Network::new(count)?;
        let hosts = (1..=count)
            .map(|id| Host::new(id, count, dir.path()))
            .collect();
        let mut lab = Self {
            hosts,
            network,
            dir,
        };
        for id in 1..=count {
            lab.boot(id)?;
        }
        Ok(lab)
    }

    /// The host with this number.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn host(&self, id: usize) -> &Host {
        let host = id.checked_sub(1).and_then(|index| self.hosts.get(index));
        host.unwrap_or_else(|| panic!("no host {id}: they are 1 to {}", self.hosts.len()))
    }

    /// All hosts, by number.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Directory with the files of all hosts.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts a host that was powered off. Its files are as they were; no daemon runs.
    ///
    /// # Errors
    /// When it is running already, or the kernel refuses a namespace.
    ///
    /// # Panics
    /// When there is no such host.
    pub fn boot(&mut self, id: usize) -> Result<()> {
        let namespaces = self.hosts[id - 1].boot()?;
        self.network.attach(id, &namespaces)
    }

    /// Ends all processes of a host at once, as a power cut does. What they wrote stays.
    ///
    /// # Panics
    /// When there is no such host.
    pub fn power_off(&mut self, id: usize) {
        self.hosts[id - 1].power_off();
    }

    /// Pulls the cable of one link of a host, or puts it back.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_cable(&self, id: usize, link: usize, plugged: bool) -> Result<()> {
        self.network.set_cable(id, link, plugged)
    }

    /// Pulls and puts back the cable so many times, each time until the host has noticed.
    ///
    /// # Errors
    /// When the kernel refuses, or the host does not notice.
    pub fn flap(&self, id: usize, link: usize, times: usize) -> Result<()> {
        for plugged in [false, true].repeat(times) {
            self.network.set_cable(id, link, plugged)?;
            Network::await_carrier(self.host(id), link, plugged)?;
        }
        Ok(())
    }

    /// Cuts a host off from all others, silently, on both links.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn isolate(&mut self, id: usize) -> Result<()> {
        let others: Vec<_> = (1..=self.hosts.len())
            .filter(|other| *other != id)
            .collect();
        self.partition(&[&[id], &others])
    }

    /// Lets hosts reach each other only within their group. Hosts in no group keep all contacts.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn partition(&mut self, groups: &[&[usize]]) -> Result<()> {
        self.network.partition(groups)
    }

    /// Loses so many of 100 packets from one host to another on a link, or on all links.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn lose(&mut self, from: usize, to: usize, link: Option<usize>, percent: u8) -> Result<()> {
        self.network.lose(from, to, link, percent)
    }

    /// Loses so many of 100 packets between a host and all others, both ways, on all links.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn lose_around(&mut self, id: usize, percent: u8) -> Result<()> {
        self.network.lose_around(id, percent)
    }

    /// Ends all faults of the network: cables plugged, nothing lost.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn heal(&mut self) -> Result<()> {
        self.network.heal()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for host in &mut self.hosts {
            host.power_off();
        }
        self.network.power_off();
    }
}

/// A path below the root of a process's view of the file system.
fn below_root(pid: u32, path: &Path) -> PathBuf {
    let inner = path.strip_prefix("/").unwrap_or(path);
    PathBuf::from(format!("/proc/{pid}/root")).join(inner)
}

/// Namespaces shared by a host and the programs that run on it.
type SharedNamespaces = Arc<Namespaces>;
