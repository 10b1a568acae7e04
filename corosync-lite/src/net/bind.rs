//! Which sockets are open.
//!
//! A link is bound to one address of this host. The address may come after the daemon has started
//! (a network that is slow to come up), and go while it runs. [`AddressWatch`] tells when addresses
//! may have changed; [`Sockets::refresh`] then closes the sockets whose address is gone, so that
//! what is sent there fails at once, and opens those whose address has come.
//!
//! Invariant: an open socket is as its [`SocketSpec`] says.

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
use crate::proto::node::{SendFailure, SocketId, SocketSpec};

/// What became of a socket.
#[derive(Debug)]
pub enum Change {
    /// It is open.
    Bound(SocketId, SocketAddr),
    /// It is closed: the host has lost the address.
    Lost(SocketId, SocketAddr),
    /// It can not be opened now; it is tried again.
    Failed(SocketId, SocketAddr, io::Error),
}

/// The sockets of the node, open or not.
#[derive(Debug, Default)]
pub struct Sockets {
    entries: BTreeMap<SocketId, Entry>,
    /// How many were opened so far.
    opened: u64,
}

#[derive(Debug)]
struct Entry {
    spec: SocketSpec,
    socket: Option<Socket>,
    /// Of the socket, see [`Sockets::open`].
    number: u64,
    /// Of the last attempt, so that it is told of once.
    error: Option<Option<i32>>,
}

impl Entry {
    /// Address that the host must have.
    fn own_address(&self) -> IpAddr {
        self.spec
            .multicast
            .map_or(self.spec.bind.ip(), |group| group.interface)
    }
}

impl Sockets {
    /// Takes over what the node wants. Sockets that stay as they are stay open; for the others,
    /// [`Sockets::refresh`] does the rest.
    pub fn set(&mut self, wanted: Vec<SocketSpec>) {
        let mut before = std::mem::take(&mut self.entries);
        for spec in wanted {
            let same = before.remove(&spec.id).filter(|entry| entry.spec == spec);
            let entry = same.unwrap_or_else(|| Entry {
                spec: spec.clone(),
                socket: None,
                number: 0,
                error: None,
            });
            self.entries.insert(spec.id, entry);
        }
    }

    /// Opens and closes sockets as the addresses of the host make it possible.
    pub fn refresh(&mut self, present: &[IpAddr]) -> Vec<Change> {
        let mut changes = Vec::new();
        for (id, entry) in &mut self.entries {
            let own = entry.own_address();
            let is_there = own.is_unspecified() || present.contains(&own);
            let bind = entry.spec.bind;
            if entry.socket.is_some() && !is_there {
                entry.socket = None;
                changes.push(Change::Lost(*id, bind));
            } else if entry.socket.is_none() {
                match Socket::open(&entry.spec) {
                    Ok(socket) => {
                        self.opened += 1;
                        entry.socket = Some(socket);
                        entry.number = self.opened;
                        entry.error = None;
                        changes.push(Change::Bound(*id, bind));
                    }
                    Err(error) => {
                        let number = Some(error.raw_os_error());
                        if entry.error != number {
                            entry.error = number;
                            changes.push(Change::Failed(*id, bind, error));
                        }
                    }
                }
            }
        }
        changes
    }

    /// Whether a socket waits for its address.
    pub fn is_incomplete(&self) -> bool {
        self.entries.values().any(|entry| entry.socket.is_none())
    }

    /// Whether at least one can be used.
    pub fn any_bound(&self) -> bool {
        self.entries.values().any(|entry| entry.socket.is_some())
    }

    /// Every open socket, in the order in which they are to be read. Each has a number that no
    /// other one ever had: so one that was opened anew can be told from the one before.
    pub fn open(&self) -> impl Iterator<Item = (SocketId, u64, &Socket)> {
        self.entries
            .iter()
            .filter_map(|(id, entry)| Some((*id, entry.number, entry.socket.as_ref()?)))
    }

    /// A socket, if it is open.
    pub fn get(&self, id: SocketId) -> Option<&Socket> {
        self.entries.get(&id)?.socket.as_ref()
    }

    /// Sends; gives how many datagrams are done with, as [`Socket::send`] does. Without a socket
    /// all of them fail.
    pub fn send(
        &self,
        id: SocketId,
        datagrams: &[Outgoing<'_>],
        failures: &mut Vec<Failure>,
    ) -> usize {
        if let Some(socket) = self.get(id) {
            return socket.send(datagrams, failures);
        }
        let failed = |(index, datagram): (usize, &Outgoing<'_>)| Failure {
            index: Some(index),
            to: datagram.to,
            error: Errno::EADDRNOTAVAIL,
            failure: SendFailure::LinkUnusable,
        };
        failures.extend(datagrams.iter().enumerate().map(failed));
        datagrams.len()
    }

    /// Takes what is there.
    ///
    /// # Errors
    /// When the socket does not work at all; it is closed then, and opened anew by the next
    /// [`Sockets::refresh`].
    pub fn receive(
        &mut self,
        id: SocketId,
        inbox: &mut Inbox,
        failures: &mut Vec<Failure>,
    ) -> io::Result<()> {
        inbox.clear();
        let Some(socket) = self.get(id) else {
            return Ok(());
        };
        let result = socket.receive(inbox, failures);
        if result.is_err()
            && let Some(entry) = self.entries.get_mut(&id)
        {
            entry.socket = None;
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
