//! The node that the command runs on.
//!
//! | module | owns |
//! |---|---|
//! | `paths` | where things are |
//! | [`clusterconf`] | the cluster's configuration: lock, read, write |
//! | [`files`], [`changes`] | files are written whole, and only when they must change |
//! | [`lock`] | one change at a time |
//! | [`packets`] | how large packets may be |
//! | [`ports`] | ports that programs of the node give out to each other |
//! | [`pve`] | the cluster file system as its files show it |
//! | [`ring`] | the messaging daemon as it runs |
//! | [`command`], [`services`] | other programs, and what the service manager runs |
//! | [`stop`] | signals that end a command |
//! | [`wait`] | conditions that nothing reports |

pub mod changes;
pub mod clusterconf;
pub mod command;
pub mod files;
pub mod lock;
pub mod packets;
mod paths;
pub mod ports;
pub mod pve;
pub mod ring;
pub mod services;
pub mod stop;
#[cfg(test)]
pub(crate) mod test_node;
pub mod wait;

use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::ifaddrs::InterfaceAddress;
use nix::net::if_::InterfaceFlags;
pub use paths::Paths;

use crate::datacenter::Network;
use crate::failure::{Failure, Outcome};
use crate::value::NodeName;

/// The node: its name and where its files are.
#[derive(Clone, Debug)]
pub struct Host {
    /// Where things are.
    pub paths: Paths,
    /// Name up to the first dot.
    pub name: NodeName,
}

impl Host {
    /// This machine.
    ///
    /// # Errors
    /// When its name can not be a node's.
    pub fn this() -> Outcome<Self> {
        let name = nix::unistd::gethostname();
        let name = name.map_err(|error| Failure::failed(format!("no host name: {error}")))?;
        let name = name.to_string_lossy();
        let label = name.split('.').next().unwrap_or_default();
        let name = label.parse().map_err(|error| {
            Failure::refused(format!("this machine's name can not be a node's: {error}"))
        })?;
        Ok(Self {
            paths: Paths::default(),
            name,
        })
    }

    /// The address that other nodes know this one by: what its name resolves to.
    ///
    /// # Errors
    /// When the name resolves to nothing, or to loopback alone.
    pub fn address(&self) -> Outcome<IpAddr> {
        let name = self.name.as_str();
        let found = resolve(name).map_err(|error| {
            Failure::refused(format!(
                "the name of this node, '{name}', does not resolve: {error}; add a line \
                 'ADDRESS {name}' to /etc/hosts"
            ))
        })?;
        found.into_iter().find(|ip| !ip.is_loopback()).ok_or_else(|| {
            Failure::refused(format!(
                "the name of this node, '{name}', resolves to a loopback address only; other nodes \
                 need one that they reach: mend the line of '{name}' in /etc/hosts"
            ))
        })
    }
}

/// Addresses of a name, in the resolver's order; an address is its own.
///
/// # Errors
/// What the resolver says.
pub fn resolve(name: &str) -> io::Result<Vec<IpAddr>> {
    let mut found: Vec<IpAddr> = (name, 0).to_socket_addrs()?.map(|at| at.ip()).collect();
    found.dedup();
    Ok(found)
}

/// Addresses of this node's interfaces.
///
/// # Errors
/// What the kernel says.
pub fn local_addresses() -> io::Result<Vec<IpAddr>> {
    interface_addresses(InterfaceFlags::empty())
}

/// Addresses of those interfaces that have all these flags.
///
/// # Errors
/// What the kernel says.
pub fn interface_addresses(flags: InterfaceFlags) -> io::Result<Vec<IpAddr>> {
    let interfaces = nix::ifaddrs::getifaddrs()?;
    let interfaces = interfaces.filter(|interface| interface.flags.contains(flags));
    let addresses = interfaces.filter_map(|interface| interface.address);
    Ok(addresses.filter_map(|address| ip(&address)).collect())
}

/// Networks of this node's interfaces.
///
/// # Errors
/// What the kernel says.
pub fn local_networks() -> io::Result<Vec<Network>> {
    let interfaces = nix::ifaddrs::getifaddrs()?;
    let network = |interface: InterfaceAddress| {
        let (address, mask) = (interface.address?, interface.netmask?);
        Network::of(ip(&address)?, ip(&mask)?)
    };
    Ok(interfaces.filter_map(network).collect())
}

/// Bytes that an interface takes in a packet.
#[must_use]
pub fn interface_mtu(name: &str) -> Option<u32> {
    let path = Path::new("/sys/class/net").join(name).join("mtu");
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The address in a socket's address, if it is one of IP.
#[must_use]
pub fn ip(address: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|at| IpAddr::V4(at.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|at| IpAddr::V6(at.ip())))
}

/// Time since 1970.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the command's one look at the calendar"
)]
pub fn calendar() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Asks the cluster file system to free the lock `path` if it is older than it may be.
///
/// # Errors
/// When the lock is gone, or still held: the request may be granted a moment later.
pub fn ask_for_release(path: &Path) -> io::Result<()> {
    let zero = std::fs::FileTimes::new()
        .set_accessed(UNIX_EPOCH)
        .set_modified(UNIX_EPOCH);
    std::fs::File::open(path)?.set_times(zero)
}
