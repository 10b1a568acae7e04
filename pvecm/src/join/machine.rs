//! What joining asks of the machine around it, apart from files: services, addresses, the ring.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;

use rust_corosync::cmap;

use super::reach::{self, Reach};
use crate::conf::ClusterConf;
use crate::datacenter::Network;
use crate::failure::{Failure, Outcome};
use crate::host::services::MESSAGING;
use crate::host::stop::{Signals, interrupted};
use crate::host::{Host, local_addresses, local_networks, packets, pve, ring, services};
use crate::ssh;
use crate::tell::announce;
use crate::transaction::Transaction;
use crate::verb::prepare;
use crate::verb::updatecerts::{self, UpdateOptions};

/// Points between which a join can be broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// SSH is ready.
    Prepared,
    /// The member has let this node in.
    Admitted,
    /// The services are stopped.
    Stopped,
    /// Key and configuration are written.
    Configured,
    /// The old database is copied as text.
    BackedUp,
    /// The old database is moved away.
    MovedAway,
    /// The services run again.
    Started,
    /// The cluster has quorum with this node.
    Quorate,
    /// This node votes.
    Voting,
    /// Certificates and keys of this node are in the cluster.
    Certified,
    /// Its guests are carried over.
    Imported,
}

/// The machine.
pub trait Machine {
    /// Tells the user how far it is.
    fn say(&self, line: &str);

    /// A point was reached; the join ends here if this fails.
    ///
    /// # Errors
    /// When it is to end.
    fn reached(&self, step: Step) -> Outcome;

    /// Whether the user wants it to end.
    fn interrupted(&self) -> bool;

    /// Tells services something.
    ///
    /// # Errors
    /// What the service manager says.
    fn control(&self, verb: &str, units: &[&str]) -> Outcome;

    /// The same while something is put back.
    ///
    /// # Errors
    /// What the service manager says.
    fn put_back(&self, verb: &str, units: &[&str]) -> Outcome {
        self.control(verb, units)
    }

    /// Whether a messaging daemon runs.
    fn messaging_runs(&self) -> bool;

    /// Whether the messaging daemon that was started has ended by itself.
    fn messaging_has_ended(&self) -> bool;

    /// The address that others know this node by.
    ///
    /// # Errors
    /// When there is none.
    fn own_address(&self, host: &Host) -> Outcome<IpAddr>;

    /// Addresses of the interfaces.
    ///
    /// # Errors
    /// What the kernel says.
    fn addresses(&self) -> Outcome<Vec<IpAddr>>;

    /// Networks of the interfaces, as far as they are known.
    fn networks(&self) -> Vec<Network>;

    /// Whether nobody uses a UDP port.
    fn is_free(&self, at: SocketAddr) -> bool;

    /// Whether the second address of each pair is reached from the first.
    fn reach(&self, pairs: &[(IpAddr, IpAddr)]) -> Vec<Reach>;

    /// For each pair, the size of the packets from the first address that do not get to the second one,
    /// where shorter ones do.
    fn too_large(&self, pairs: &[(IpAddr, IpAddr)]) -> Vec<Option<usize>>;

    /// Whether the cluster file system can be written to, as a part of a quorate cluster.
    fn is_quorate(&self, host: &Host) -> bool {
        pve::state(&host.paths) == pve::State::Writable
            && pve::members(&host.paths)
                .is_ok_and(|members| members.cluster.is_some_and(|it| it.quorate == 1))
    }

    /// Why there is no quorum, in words.
    fn diagnosis(&self, host: &Host, conf: &ClusterConf) -> Vec<String>;

    /// Makes root's SSH key.
    ///
    /// # Errors
    /// What could not be made.
    fn make_root_key(&self, host: &Host) -> Outcome;

    /// Makes root's SSH key, lets root log in, and keeps the keys that let in now. What changes is
    /// remembered first.
    ///
    /// # Errors
    /// What could not be made.
    fn prepare_ssh(&self, host: &Host, transaction: &mut Transaction) -> Outcome;

    /// Makes this node's certificate and what else it has in the cluster's files.
    ///
    /// # Errors
    /// What could not be made.
    fn cluster_files(&self, host: &Host) -> Outcome;

    /// Makes the running ring count votes of a node before its configuration says so.
    ///
    /// # Errors
    /// What the messaging daemon says.
    fn give_votes(&self, id: u32, votes: u32) -> Outcome;
}

/// The machine that the command runs on.
#[derive(Debug)]
pub struct ThisMachine<'a> {
    signals: &'a Signals,
}

impl<'a> ThisMachine<'a> {
    /// Ends at a signal.
    #[must_use]
    pub fn new(signals: &'a Signals) -> Self {
        Self { signals }
    }
}

impl Machine for ThisMachine<'_> {
    fn say(&self, line: &str) {
        // A join goes on when nobody listens.
        announce(line);
    }

    fn reached(&self, _: Step) -> Outcome {
        if self.interrupted() {
            Err(interrupted())
        } else {
            Ok(())
        }
    }

    fn interrupted(&self) -> bool {
        self.signals.seen()
    }

    fn control(&self, verb: &str, units: &[&str]) -> Outcome {
        services::tell(verb, units)
    }

    fn put_back(&self, verb: &str, units: &[&str]) -> Outcome {
        services::put_back(verb, units)
    }

    fn messaging_runs(&self) -> bool {
        ring::is_running()
    }

    fn messaging_has_ended(&self) -> bool {
        services::has_ended(MESSAGING)
    }

    fn own_address(&self, host: &Host) -> Outcome<IpAddr> {
        host.address()
    }

    fn addresses(&self) -> Outcome<Vec<IpAddr>> {
        local_addresses().map_err(|error| {
            Failure::failed(format!("can not list the addresses of this node: {error}"))
        })
    }

    fn networks(&self) -> Vec<Network> {
        local_networks().unwrap_or_default()
    }

    fn is_free(&self, at: SocketAddr) -> bool {
        // Only a port that somebody has counts; a wrong address is found elsewhere.
        !matches!(UdpSocket::bind(at), Err(error) if error.kind() == std::io::ErrorKind::AddrInUse)
    }

    fn reach(&self, pairs: &[(IpAddr, IpAddr)]) -> Vec<Reach> {
        reach::all(pairs, &|| self.interrupted())
    }

    fn too_large(&self, pairs: &[(IpAddr, IpAddr)]) -> Vec<Option<usize>> {
        packets::too_large(pairs)
    }

    fn diagnosis(&self, host: &Host, conf: &ClusterConf) -> Vec<String> {
        let messaging = self.messaging_runs();
        let mounted = pve::state(&host.paths) != pve::State::Unmounted;
        let connected = connected_links(conf, host.name.as_str());
        super::quorum::diagnosis(conf, host.name.as_str(), messaging, mounted, &connected)
    }

    fn make_root_key(&self, host: &Host) -> Outcome {
        updatecerts::prepare_local(host)
    }

    fn prepare_ssh(&self, host: &Host, transaction: &mut Transaction) -> Outcome {
        prepare::local(host, transaction)?;
        ssh::carry_over(host)
    }

    fn cluster_files(&self, host: &Host) -> Outcome {
        let options = UpdateOptions {
            force: true,
            unmerge_known_hosts: true,
            ..UpdateOptions::default()
        };
        updatecerts::cluster_files(host, options).map(drop)
    }

    fn give_votes(&self, id: u32, votes: u32) -> Outcome {
        ring::give_votes(id, votes)
    }
}

/// Other nodes and links that answer now, as the messaging daemon says.
fn connected_links(conf: &ClusterConf, own: &str) -> Vec<(String, u8)> {
    let Ok(handle) = cmap::initialize(cmap::Map::Stats) else {
        return Vec::new();
    };
    let mut connected = Vec::new();
    for node in conf.nodes().into_iter().filter(|node| node.name != own) {
        for link in node.addresses.keys() {
            let key = format!(
                "stats.knet.node{}.link{link}.connected",
                node.id.unwrap_or(0)
            );
            if let Ok(cmap::Data::UInt8(1)) = cmap::get(&handle, &key) {
                connected.push((node.name.clone(), *link));
            }
        }
    }
    // The process ends soon, and the connection with it.
    cmap::finalize(&handle).ok();
    connected
}

/// Bytes that are free where `path` is.
pub(super) fn free_space(path: &Path) -> Option<u64> {
    let existing = path.ancestors().find(|above| above.exists())?;
    let found = nix::sys::statvfs::statvfs(existing).ok()?;
    Some(
        found
            .blocks_available()
            .saturating_mul(found.fragment_size()),
    )
}
