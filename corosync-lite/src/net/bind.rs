//! Which links have sockets.
//!
//! A link is bound to one address of this host. The address may come after the daemon has started
//! (a network that is slow to come up), and go while it runs. [`AddressWatch`] tells when addresses
//! may have changed; [`Links::refresh`] then closes the sockets whose address is gone, so that
//! what is sent there fails at once, and opens those whose address has come.
//!
//! Invariant: an open socket is bound to the address of its [`LinkSpec`].

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

use super::udp::{Failure, Inbox, Outgoing, Socket, socket_address};

/// How a link is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Datagrams of knet.
    Knet,
    /// Plain datagrams from node to node.
    Unicast,
    /// Plain datagrams to all at once.
    Multicast {
        /// Where they go.
        group: SocketAddr,
        /// How many routers may pass them on.
        ttl: u8,
    },
}

/// What a link is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkSpec {
    /// Own address and port.
    pub local: SocketAddr,
    /// What it carries.
    pub kind: Use,
}

/// What became of the sockets of a link.
#[derive(Debug)]
pub enum Change {
    /// They are open.
    Bound(u8, SocketAddr),
    /// They are closed: the host has lost the address.
    Lost(u8, SocketAddr),
    /// They can not be opened now; it is tried again.
    Failed(u8, SocketAddr, io::Error),
}

/// The links and their sockets.
#[derive(Debug, Default)]
pub struct Links {
    links: BTreeMap<u8, Link>,
}

#[derive(Debug)]
struct Link {
    spec: LinkSpec,
    sockets: Option<Sockets>,
    /// Of the last attempt, so that it is told of once.
    error: Option<Option<i32>>,
}

#[derive(Debug)]
struct Sockets {
    /// Bound to the address of the link.
    main: Socket,
    /// Where datagrams to all come in, and from where they go out.
    group: Option<(Socket, Socket)>,
}

impl Sockets {
    fn open(spec: &LinkSpec) -> io::Result<Self> {
        let local = spec.local;
        let (main, group) = match spec.kind {
            Use::Knet => (Socket::knet(local)?, None),
            Use::Unicast => (Socket::plain(local)?, None),
            Use::Multicast { group, ttl } => {
                // The other nodes send from the port below theirs.
                let port = local
                    .port()
                    .checked_sub(1)
                    .ok_or(io::ErrorKind::InvalidInput)?;
                let out = Socket::to_group(SocketAddr::new(local.ip(), port), ttl)?;
                (
                    Socket::plain(local)?,
                    Some((Socket::group(group, local.ip())?, out)),
                )
            }
        };
        Ok(Self { main, group })
    }

    fn outlet(&self) -> &Socket {
        self.group.as_ref().map_or(&self.main, |(_, outlet)| outlet)
    }

    fn all(&self) -> impl Iterator<Item = &Socket> {
        let group = self
            .group
            .iter()
            .flat_map(|(inlet, outlet)| [inlet, outlet]);
        [&self.main].into_iter().chain(group)
    }
}

impl Links {
    /// Adds a link or changes it. [`Links::refresh`] opens its sockets.
    pub fn set(&mut self, number: u8, spec: LinkSpec) {
        let link = self.links.get(&number);
        if link.is_none_or(|link| link.spec != spec) {
            let link = Link {
                spec,
                sockets: None,
                error: None,
            };
            self.links.insert(number, link);
        }
    }

    /// Removes all links but these.
    pub fn keep(&mut self, wanted: impl Fn(u8) -> bool) {
        self.links.retain(|number, _| wanted(*number));
    }

    /// Opens and closes sockets as the addresses of the host make it possible.
    pub fn refresh(&mut self, present: &[IpAddr]) -> Vec<Change> {
        let mut changes = Vec::new();
        for (number, link) in &mut self.links {
            let local = link.spec.local;
            let is_there = local.ip().is_unspecified() || present.contains(&local.ip());
            if link.sockets.is_some() && !is_there {
                link.sockets = None;
                changes.push(Change::Lost(*number, local));
            } else if link.sockets.is_none() {
                match Sockets::open(&link.spec) {
                    Ok(sockets) => {
                        link.sockets = Some(sockets);
                        link.error = None;
                        changes.push(Change::Bound(*number, local));
                    }
                    Err(error) => {
                        let number_of_error = Some(error.raw_os_error());
                        if link.error != number_of_error {
                            link.error = number_of_error;
                            changes.push(Change::Failed(*number, local, error));
                        }
                    }
                }
            }
        }
        changes
    }

    /// Whether a link waits for its address.
    pub fn is_incomplete(&self) -> bool {
        self.links.values().any(|link| link.sockets.is_none())
    }

    /// Whether at least one link can be used.
    pub fn any_bound(&self) -> bool {
        self.links.values().any(|link| link.sockets.is_some())
    }

    /// Every open socket, with its link.
    pub fn sockets(&self) -> impl Iterator<Item = (u8, &Socket)> {
        self.links.iter().flat_map(|(number, link)| {
            let sockets = link.sockets.iter().flat_map(Sockets::all);
            sockets.map(|socket| (*number, socket))
        })
    }

    /// Sends on a link; gives how many are done with, as [`Socket::send`] does. Without a socket
    /// all of them fail.
    pub fn send(&self, link: u8, datagrams: &[Outgoing<'_>], failures: &mut Vec<Failure>) -> usize {
        let sockets = self.links.get(&link).and_then(|link| link.sockets.as_ref());
        if let Some(sockets) = sockets {
            return sockets.outlet().send(datagrams, failures);
        }
        failures.extend(
            datagrams
                .iter()
                .enumerate()
                .map(|(index, datagram)| Failure {
                    index: Some(index),
                    to: datagram.to,
                    error: Errno::EADDRNOTAVAIL,
                    failure: crate::proto::knet::SendFailure::LinkUnusable,
                }),
        );
        datagrams.len()
    }

    /// The socket that a link sends on, if it is open: to wait until it is writable.
    pub fn outlet(&self, link: u8) -> Option<&Socket> {
        Some(self.links.get(&link)?.sockets.as_ref()?.outlet())
    }

    /// Takes what is there on the `nth` of [`Links::sockets`].
    ///
    /// # Errors
    /// When the socket does not work at all; it is closed then, and opened anew by the next
    /// [`Links::refresh`].
    pub fn receive(
        &mut self,
        nth: usize,
        inbox: &mut Inbox,
        failures: &mut Vec<Failure>,
    ) -> io::Result<()> {
        let Some((number, socket)) = self.sockets().nth(nth) else {
            return Ok(());
        };
        let result = socket.receive(inbox, failures);
        if result.is_err()
            && let Some(link) = self.links.get_mut(&number)
        {
            link.sockets = None;
        }
        result
    }
}

/// Tells when the addresses of the host may have changed.
#[derive(Debug)]
pub struct AddressWatch(OwnedFd);

impl AddressWatch {
    /// Starts watching.
    ///
    /// # Errors
    /// When the kernel does not offer it; then addresses have to be looked at from time to time.
    pub fn new() -> io::Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let route = SockProtocol::NetlinkRoute;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, route)?;
        let groups = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
        let groups = u32::try_from(groups).map_err(io::Error::other)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self(fd))
    }

    /// Whether something happened since the last call. What it was has to be asked of the host.
    pub fn has_changed(&self) -> bool {
        let mut changed = false;
        let mut message = [0; 4096];
        loop {
            match recv(self.0.as_raw_fd(), &mut message, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EINTR) => {}
                // More happened than the kernel kept.
                Ok(_) | Err(Errno::ENOBUFS) => changed = true,
                Err(_) => return changed,
            }
        }
    }
}

impl AsFd for AddressWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// All addresses of the host.
///
/// # Errors
/// When the kernel does not tell.
pub fn addresses() -> io::Result<Vec<IpAddr>> {
    let address = |storage: Option<_>| Some(socket_address(&storage?)?.ip());
    Ok(getifaddrs()?
        .filter_map(|interface| address(interface.address))
        .collect())
}

#[cfg(test)]
#[path = "bind_tests.rs"]
mod tests;
