//! The system calls that take many datagrams at once, and options that have no safe form.
//!
//! All pointers that the kernel gets point into arrays of the function that makes the call, or into
//! slices that it borrowed for its duration.
#![expect(
    unsafe_code,
    reason = "recvmmsg, sendmmsg and some socket options have no safe form that needs no allocation"
)]

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr;

use nix::sys::socket::{SockaddrLike as _, SockaddrStorage};

/// Datagrams of one call.
pub(super) const BATCH: usize = 32;

/// A datagram that came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    pub(super) from: SocketAddr,
    pub(super) len: usize,
}

/// Takes what is there, up to [`BATCH`] datagrams; the n-th goes to the n-th `slot` bytes of
/// `space`. What does not fit its slot, or has no sender, is `None`.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    space: &mut [u8],
    slot: usize,
    got: &mut Vec<Option<Received>>,
) -> io::Result<()> {
    got.clear();
    // SAFETY: all bytes zero is a valid value of these C structures of numbers and pointers.
    let (mut heads, mut parts, mut names): (
        [libc::mmsghdr; BATCH],
        [libc::iovec; BATCH],
        [libc::sockaddr_storage; BATCH],
    ) = unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
    let mut count = 0;
    let slots = space.chunks_exact_mut(slot);
    for (((head, part), name), slot) in heads.iter_mut().zip(&mut parts).zip(&mut names).zip(slots)
    {
        part.iov_base = slot.as_mut_ptr().cast();
        part.iov_len = slot.len();
        head.msg_hdr.msg_iov = part;
        head.msg_hdr.msg_iovlen = 1;
        head.msg_hdr.msg_name = ptr::from_mut(name).cast();
        head.msg_hdr.msg_namelen = len_of::<libc::sockaddr_storage>();
        count += 1;
    }
    // SAFETY: `count` heads are set up, and what they point to lives until the end of the function.
    let result = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            heads.as_mut_ptr(),
            count,
            libc::MSG_DONTWAIT,
            ptr::null_mut(),
        )
    };
    let taken = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
    for (head, name) in heads.iter().zip(&names).take(taken) {
        let whole = head.msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
        let len = usize::try_from(head.msg_len).unwrap_or(usize::MAX);
        let from = address(name).filter(|_| whole);
        got.push(from.map(|from| Received { from, len }));
    }
    Ok(())
}

/// Sends up to [`BATCH`] datagrams. Gives how many the kernel took: at least one, or an error that
/// the first one met.
pub(super) fn send<'a>(
    socket: BorrowedFd<'_>,
    datagrams: impl Iterator<Item = (SocketAddr, &'a [u8])>,
) -> io::Result<usize> {
    // SAFETY: as above.
    let (mut heads, mut parts): ([libc::mmsghdr; BATCH], [libc::iovec; BATCH]) =
        unsafe { (mem::zeroed(), mem::zeroed()) };
    let mut names = [const { MaybeUninit::<SockaddrStorage>::uninit() }; BATCH];
    let mut count = 0;
    let places = heads.iter_mut().zip(&mut parts).zip(&mut names);
    for (((head, part), name), (to, datagram)) in places.zip(datagrams) {
        let name = name.write(SockaddrStorage::from(to));
        // The kernel only reads through this pointer.
        part.iov_base = datagram.as_ptr().cast_mut().cast();
        part.iov_len = datagram.len();
        head.msg_hdr.msg_iov = part;
        head.msg_hdr.msg_iovlen = 1;
        head.msg_hdr.msg_name = name.as_ptr().cast_mut().cast();
        head.msg_hdr.msg_namelen = name.len();
        count += 1;
    }
    // SAFETY: as above; `names` are initialised as far as heads point to them.
    let result = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            heads.as_mut_ptr(),
            count,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Packets of this socket are never fragmented, and what the kernel has learnt of paths is not
/// applied to them: the daemon measures paths itself.
pub(super) fn set_mtu_probe(socket: BorrowedFd<'_>, v4: bool) -> io::Result<()> {
    let (level, option, value) = if v4 {
        (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_PROBE,
        )
    } else {
        (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_PROBE,
        )
    };
    set_option(socket, level, option, value)
}

/// Packets to groups leave through the interface that has this address.
pub(super) fn set_multicast_interface_v4(socket: BorrowedFd<'_>, on: Ipv4Addr) -> io::Result<()> {
    // The kernel takes the address as it is on the wire.
    let address = u32::from_ne_bytes(on.octets());
    set_option(socket, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, address)
}

/// Packets to groups leave through the interface with this index.
pub(super) fn set_multicast_interface_v6(socket: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, index)
}

/// An option whose value is a number or four bytes.
fn set_option<T: Copy + Into<i64>>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: T,
) -> io::Result<()> {
    // SAFETY: the kernel reads as many bytes as the number has, which lives until the call ends.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            ptr::from_ref(&value).cast(),
            len_of::<T>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the kernel wrote an address of this family, and the storage is large enough
            // and aligned for each.
            let name = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(name.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let name = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            let (ip, port) = (
                Ipv6Addr::from(name.sin6_addr.s6_addr),
                u16::from_be(name.sin6_port),
            );
            Some(SocketAddrV6::new(ip, port, name.sin6_flowinfo, name.sin6_scope_id).into())
        }
        _ => None,
    }
}

fn len_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}
