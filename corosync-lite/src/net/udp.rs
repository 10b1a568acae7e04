//! One UDP socket of a link.
//!
//! The kernel reports late what became of a datagram: that a router or the peer refused it. Such a
//! report waits in the error queue of the socket, and the next call on the socket, whatever it
//! is, fails with its number. So after each failure the queue is emptied, each report goes to the
//! address that it is about, and the call is made again.
//!
//! Datagrams that go to one address in a row, all of one length but a shorter last one, are a run:
//! the kernel takes it as one and cuts it as late as it can, and gives such back as one. What is
//! on the wire is the same. A run that is refused is sent again datagram by datagram, so that each
//! has its own answer.

use std::cell::Cell;
use std::io::{self, IoSliceMut};
use std::iter;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrStorage, bind,
    recvmsg, setsockopt, socket, sockopt,
};

use super::sys::{self, BATCH, RUN_MAX, Received};
use crate::proto::node::{Multicast, SendFailure, SocketId, SocketSpec};

/// A datagram is no longer than this.
const SLOT: usize = 65_536;
/// Bytes that wait in the kernel, each way: what a ring with full windows can have on its way.
const BUFFER: usize = 8 << 20;
/// Before bulk traffic, behind routing protocols.
const PRIORITY: i32 = 6;
/// The header asks routers for little delay.
const LOW_DELAY: i32 = 0x10;
/// Bytes of a run: with heads it is an IP packet, for the kernel.
const RUN_BYTES_MAX: usize = 65_000;
/// Reports taken at a time; others wait for the next call.
const REPORTS_MAX: usize = 256;

/// A datagram to send.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// Where it goes.
    pub to: SocketAddr,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// A datagram that did not get through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its place among those that were sent in this call; none for one of an earlier call.
    pub index: Option<usize>,
    /// Where it was to go.
    pub to: SocketAddr,
    /// What the kernel said.
    pub error: Errno,
    /// The same, as the transport sees it.
    pub failure: SendFailure,
}

/// Room for received datagrams, used again and again.
#[derive(Debug)]
pub struct Inbox {
    space: Box<[u8]>,
    got: Vec<Option<Received>>,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            // Memory that no datagram has reached yet is not taken from the system.
            space: vec![0; SLOT * BATCH].into_boxed_slice(),
            got: Vec::with_capacity(BATCH),
        }
    }
}

impl Inbox {
    /// What the last call received: senders and datagrams.
    pub fn iter(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        let slots = self.space.chunks_exact(SLOT);
        self.got.iter().zip(slots).flat_map(|(got, slot)| {
            let got = got.as_ref();
            let bytes = got.and_then(|got| slot.get(..got.len));
            got.zip(bytes).into_iter().flat_map(|(got, bytes)| {
                // One of no length has no chunk; nobody sends such.
                let datagrams = bytes.chunks(got.each.max(1));
                datagrams.map(|datagram| (got.from, datagram))
            })
        })
    }

    pub(super) fn clear(&mut self) {
        self.got.clear();
    }

    /// Whether more may wait than fitted.
    pub fn is_full(&self) -> bool {
        self.got.len() == BATCH
    }
}

/// One socket.
#[derive(Debug)]
pub struct Socket {
    socket: UdpSocket,
    /// The kernel takes runs.
    takes_runs: Cell<bool>,
}

impl Socket {
    /// Opens a socket as the node wants it.
    ///
    /// # Errors
    /// `AddrNotAvailable` when the host does not have the address, `AddrInUse` when another
    /// program has the port.
    pub fn open(spec: &SocketSpec) -> io::Result<Self> {
        // Several clusters may use one group and port; nobody else may have ours.
        let is_group = spec.id == SocketId::Multicast;
        let socket = make(spec.bind.is_ipv4(), is_group)?;
        if spec.dont_fragment {
            sys::set_mtu_probe(socket.as_fd(), spec.bind.is_ipv4())?;
        }
        socket.set_broadcast(spec.broadcast)?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(spec.bind))?;
        if let Some(group) = &spec.multicast {
            if is_group {
                join(&socket, group)?;
            }
            send_to_group(&socket, group)?;
        }
        // Datagrams that are not cut to the path may have to be cut by the kernel one by one.
        let takes_runs = sys::join_runs(socket.as_fd()) && spec.dont_fragment;
        Ok(Self {
            socket,
            takes_runs: Cell::new(takes_runs),
        })
    }

    /// Takes what is there. Never blocks; nothing is there when the box is empty afterwards.
    ///
    /// # Errors
    /// When the socket does not work at all.
    pub fn receive(&self, inbox: &mut Inbox, failures: &mut Vec<Failure>) -> io::Result<()> {
        // Each report makes one call fail, so a bounded number of times is enough.
        for _ in 0..REPORTS_MAX {
            match sys::receive(self.socket.as_fd(), &mut inbox.space, SLOT, &mut inbox.got) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.take_reports(failures);
                    if is_fatal(&error) {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends what the kernel takes; gives how many datagrams are done with, sent or failed. When
    /// that is less than all, the rest is to be sent once the socket is writable.
    pub fn send(&self, datagrams: &[Outgoing<'_>], failures: &mut Vec<Failure>) -> usize {
        let mut done = 0;
        let mut again = None;
        // Up to here each datagram is sent alone.
        let mut alone = 0_usize;
        while let Some(rest) = datagrams.get(done..).filter(|rest| !rest.is_empty()) {
            let lonely = if self.takes_runs.get() {
                alone.saturating_sub(done)
            } else {
                rest.len()
            };
            match sys::send(self.socket.as_fd(), runs(rest, lonely)) {
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return done,
                Err(error) => {
                    let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
                    let to = rest.first().map(|datagram| datagram.to);
                    let before = failures.len();
                    // The port is not always told.
                    let ip = to.map(|to| to.ip());
                    let own = self.take_reports(failures);
                    let own = own.filter(|own| Some(own.to.ip()) == ip);
                    let refused = runs(rest, lonely).next().map_or(1, <[_]>::len);
                    if refused > 1 {
                        alone = done + refused;
                        // The route can not do it at all.
                        self.takes_runs.set(errno != Errno::EIO);
                        continue;
                    }
                    let is_late = own.is_none() && failures.len() > before;
                    // Errors of datagrams sent earlier may come without a report, too.
                    if own.is_none() && again != Some(done) {
                        again = Some(done);
                        continue;
                    }
                    let failure = match own.map(|own| own.failure) {
                        Some(failure) => failure,
                        None => match classify(errno, None) {
                            // It may be the error of another datagram.
                            SendFailure::LinkUnusable if is_late => SendFailure::Other,
                            SendFailure::TooLarge { .. } if is_late => {
                                SendFailure::ReportedTooLarge
                            }
                            failure => failure,
                        },
                    };
                    failures.extend(to.map(|to| Failure {
                        index: Some(done),
                        to,
                        error: errno,
                        failure,
                    }));
                    done += 1;
                }
            }
        }
        done
    }

    /// Empties the error queue: adds what happened to datagrams of earlier calls, and gives what
    /// the host itself said to the one that was just refused.
    pub fn take_reports(&self, failures: &mut Vec<Failure>) -> Option<Failure> {
        let mut own = None;
        for _ in 0..REPORTS_MAX {
            let Some((report, is_local)) = self.report() else {
                break;
            };
            if is_local {
                own = Some(report);
            } else {
                failures.push(report);
            }
        }
        own
    }

    fn report(&self) -> Option<(Failure, bool)> {
        // The head of the refused packet comes along; nobody looks at it.
        let mut head = [0; 64];
        let mut parts = [IoSliceMut::new(&mut head)];
        let mut space = cmsg_space!([u8; 128]);
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let fd = self.socket.as_raw_fd();
        let message = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut space), flags).ok()?;
        let to = message.address.as_ref().and_then(socket_address)?;
        message.cmsgs().ok()?.find_map(|item| {
            let (ControlMessageOwned::Ipv4RecvErr(report, _)
            | ControlMessageOwned::Ipv6RecvErr(report, _)) = item
            else {
                return None;
            };
            let number = i32::try_from(report.ee_errno).ok()?;
            let error = Errno::from_raw(number);
            let mtu = u16::try_from(report.ee_info).ok().filter(|mtu| *mtu != 0);
            let is_local = report.ee_origin == libc::SO_EE_ORIGIN_LOCAL;
            // What others say may be forged: that much is believed, but no number.
            let failure = match classify(error, mtu.filter(|_| is_local)) {
                SendFailure::LinkUnusable if !is_local => SendFailure::Reported,
                SendFailure::TooLarge { .. } if !is_local => SendFailure::ReportedTooLarge,
                failure => failure,
            };
            Some((
                Failure {
                    index: None,
                    to,
                    error,
                    failure,
                },
                is_local,
            ))
        })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Cuts datagrams into runs; each of the first `lonely` is one of its own.
fn runs<'a, 'b>(
    mut rest: &'b [Outgoing<'a>],
    mut lonely: usize,
) -> impl Iterator<Item = &'b [Outgoing<'a>]> {
    iter::from_fn(move || {
        let len = if lonely > 0 { 1 } else { run_len(rest) };
        lonely = lonely.saturating_sub(1);
        let (run, behind) = rest.split_at_checked(len)?;
        rest = behind;
        Some(run)
    })
}

/// How many datagrams, at least one, make a run.
fn run_len(datagrams: &[Outgoing<'_>]) -> usize {
    let Some(first) = datagrams.first() else {
        return 1;
    };
    let each = first.bytes.len().max(1);
    let most = RUN_MAX.min(RUN_BYTES_MAX / each).max(1);
    let alike = |other: &&Outgoing<'_>| other.to == first.to && other.bytes.len() == each;
    let whole = datagrams.iter().take(most).take_while(alike).count().max(1);
    let last = datagrams.get(whole).filter(|last| {
        whole < most && last.to == first.to && (1..each).contains(&last.bytes.len())
    });
    whole + usize::from(last.is_some())
}

fn make(v4: bool, shared: bool) -> io::Result<UdpSocket> {
    let family = if v4 {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(family, SockType::Datagram, flags, None)?;
    if v4 {
        setsockopt(&fd, sockopt::Ipv4RecvErr, &true)?;
        setsockopt(&fd, sockopt::Ipv4Tos, &LOW_DELAY).ok();
    } else {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
        setsockopt(&fd, sockopt::Ipv6RecvErr, &true)?;
    }
    if shared {
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    }
    // What the system grants of these is enough to work; more is better.
    if setsockopt(&fd, sockopt::RcvBufForce, &BUFFER).is_err() {
        setsockopt(&fd, sockopt::RcvBuf, &BUFFER).ok();
    }
    if setsockopt(&fd, sockopt::SndBufForce, &BUFFER).is_err() {
        setsockopt(&fd, sockopt::SndBuf, &BUFFER).ok();
    }
    setsockopt(&fd, sockopt::Priority, &PRIORITY).ok();
    Ok(UdpSocket::from(fd))
}

fn join(socket: &UdpSocket, group: &Multicast) -> io::Result<()> {
    match (group.group, group.interface) {
        (IpAddr::V4(to), IpAddr::V4(on)) if to.is_multicast() => socket.join_multicast_v4(&to, &on),
        (IpAddr::V6(to), on) if to.is_multicast() => {
            socket.join_multicast_v6(&to, interface_of(on)?)
        }
        _ => Ok(()),
    }
}

/// What is sent to the group leaves through the right interface, goes as far as it may, and does
/// not come back: the own messages are delivered inside the node.
fn send_to_group(socket: &UdpSocket, group: &Multicast) -> io::Result<()> {
    match group.interface {
        IpAddr::V4(on) => {
            socket.set_multicast_ttl_v4(group.ttl.into())?;
            socket.set_multicast_loop_v4(false)?;
            sys::set_multicast_interface_v4(socket.as_fd(), on)
        }
        on @ IpAddr::V6(_) => {
            setsockopt(socket, sockopt::Ipv6MulticastHops, &group.ttl.into())?;
            socket.set_multicast_loop_v6(false)?;
            sys::set_multicast_interface_v6(socket.as_fd(), interface_of(on)?)
        }
    }
}

/// Index of the interface that has an address.
fn interface_of(address: IpAddr) -> io::Result<u32> {
    let mut interfaces = nix::ifaddrs::getifaddrs()?;
    let has = |storage: &SockaddrStorage| {
        socket_address(storage).is_some_and(|found| found.ip() == address)
    };
    let found = interfaces.find(|interface| interface.address.as_ref().is_some_and(has));
    let name = found.ok_or(io::ErrorKind::AddrNotAvailable)?.interface_name;
    Ok(nix::net::if_::if_nametoindex(name.as_str())?)
}

pub(super) fn socket_address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in();
    let v6 = storage.as_sockaddr_in6();
    v4.map(|found| SocketAddr::from((found.ip(), found.port())))
        .or_else(|| v6.map(|found| SocketAddr::from((found.ip(), found.port()))))
}

fn classify(error: Errno, mtu: Option<u16>) -> SendFailure {
    match error {
        Errno::EMSGSIZE => SendFailure::TooLarge { mtu },
        Errno::ENETDOWN
        | Errno::ENETUNREACH
        | Errno::EHOSTDOWN
        | Errno::EHOSTUNREACH
        | Errno::EADDRNOTAVAIL
        | Errno::ENODEV
        // The socket is bound to an address that the host has lost.
        | Errno::EINVAL => SendFailure::LinkUnusable,
        Errno::ECONNREFUSED => SendFailure::Reported,
        _ => SendFailure::Other,
    }
}

/// Errors of the descriptor, not of a datagram.
fn is_fatal(error: &io::Error) -> bool {
    let number = error.raw_os_error().map(Errno::from_raw);
    matches!(
        number,
        Some(Errno::EBADF | Errno::ENOTSOCK | Errno::EFAULT | Errno::ENOMEM)
    )
}

#[cfg(test)]
#[path = "udp_tests.rs"]
mod tests;
