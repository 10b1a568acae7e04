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

use super::udp::Outgoing;

/// Datagrams of one call.
pub(super) const BATCH: usize = 32;

/// Datagrams that the kernel takes or gives as one.
pub(super) const RUN_MAX: usize = 64;
/// Bytes of all datagrams of one call to [`send`], counted in datagrams.
const PARTS: usize = 4 * RUN_MAX;

/// Room for the one control message of each datagram: the length of a run's datagrams.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 24]);

/// What came in one slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    pub(super) from: SocketAddr,
    pub(super) len: usize,
    /// Length of each datagram but the last: the kernel may join what comes in a row.
    pub(super) each: usize,
}

/// Takes what is there, up to [`BATCH`] slots of `slot` bytes in `space`. What does not fit its
/// slot, or has no sender, is `None`.
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
        [libc::sockaddr_in6; BATCH],
    ) = unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
    let mut controls = [Control([0; 24]); BATCH];
    let mut count = 0;
    let slots = space.chunks_exact_mut(slot);
    let places = heads.iter_mut().zip(&mut parts).zip(&mut names);
    for (((head, part), name), (control, slot)) in places.zip(controls.iter_mut().zip(slots)) {
        part.iov_base = slot.as_mut_ptr().cast();
        part.iov_len = slot.len();
        head.msg_hdr.msg_iov = part;
        head.msg_hdr.msg_iovlen = 1;
        head.msg_hdr.msg_name = ptr::from_mut(name).cast();
        head.msg_hdr.msg_namelen = len_of::<libc::sockaddr_in6>();
        head.msg_hdr.msg_control = ptr::from_mut(control).cast();
        head.msg_hdr.msg_controllen = size_of::<Control>();
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
        let each = joined(&head.msg_hdr).unwrap_or(len);
        let from = address(name).filter(|_| whole);
        got.push(from.map(|from| Received { from, len, each }));
    }
    Ok(())
}

/// Length of the datagrams that the kernel joined, if it did.
fn joined(head: &libc::msghdr) -> Option<usize> {
    // SAFETY: the kernel has set the head to the control messages that it wrote; they are still
    // there, and aligned.
    let control = unsafe { libc::CMSG_FIRSTHDR(head).as_ref() }?;
    if (control.cmsg_level, control.cmsg_type) != (libc::SOL_UDP, libc::UDP_GRO) {
        return None;
    }
    // SAFETY: the data of a message of this type is a number, which the room is large enough for.
    let each = unsafe {
        libc::CMSG_DATA(control)
            .cast::<libc::c_int>()
            .read_unaligned()
    };
    usize::try_from(each).ok().filter(|each| *each > 0)
}

/// Sends up to [`BATCH`] runs: datagrams to one address, all as long as the first, the last at
/// most, no more than [`RUN_MAX`]. Gives how many datagrams the kernel took: those of one run at
/// least, or an error that the first one met.
pub(super) fn send<'a, 'b: 'a>(
    socket: BorrowedFd<'_>,
    runs: impl Iterator<Item = &'a [Outgoing<'b>]>,
) -> io::Result<usize> {
    // SAFETY: as above.
    let (mut heads, mut parts): ([libc::mmsghdr; BATCH], [libc::iovec; PARTS]) =
        unsafe { (mem::zeroed(), mem::zeroed()) };
    let mut names = [const { MaybeUninit::<SockaddrStorage>::uninit() }; BATCH];
    let mut controls = [Control([0; 24]); BATCH];
    let mut rest = parts.as_mut_slice();
    let mut count = 0;
    let places = heads.iter_mut().zip(&mut names).zip(&mut controls);
    for (((head, name), control), run) in places.zip(runs) {
        let (Some(first), Some((own, behind))) =
            (run.first(), rest.split_at_mut_checked(run.len()))
        else {
            break;
        };
        for (part, datagram) in own.iter_mut().zip(run) {
            // The kernel only reads through this pointer.
            part.iov_base = datagram.bytes.as_ptr().cast_mut().cast();
            part.iov_len = datagram.bytes.len();
        }
        let name = name.write(SockaddrStorage::from(first.to));
        head.msg_hdr.msg_iov = own.as_mut_ptr();
        head.msg_hdr.msg_iovlen = own.len();
        head.msg_hdr.msg_name = name.as_ptr().cast_mut().cast();
        head.msg_hdr.msg_namelen = name.len();
        if run.len() > 1 {
            say_length(&mut head.msg_hdr, control, first.bytes.len());
        }
        count += 1;
        rest = behind;
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
    let taken = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
    let lens = heads.iter().take(taken).map(|head| head.msg_hdr.msg_iovlen);
    Ok(lens.sum())
}

/// Tells the kernel where to cut.
fn say_length(head: &mut libc::msghdr, control: &mut Control, each: usize) {
    let each = u16::try_from(each).unwrap_or(u16::MAX);
    head.msg_control = ptr::from_mut(control).cast();
    // SAFETY: the room is aligned, and larger than the message, which lies at its beginning.
    unsafe {
        head.msg_controllen = usize::try_from(libc::CMSG_SPACE(2)).unwrap_or(0);
        if let Some(message) = libc::CMSG_FIRSTHDR(head).as_mut() {
            message.cmsg_level = libc::SOL_UDP;
            message.cmsg_type = libc::UDP_SEGMENT;
            message.cmsg_len = usize::try_from(libc::CMSG_LEN(2)).unwrap_or(0);
            libc::CMSG_DATA(message).cast::<u16>().write_unaligned(each);
        }
    }
}

/// Asks the kernel to give datagrams that come in a row as one; whether it takes runs to send.
pub(super) fn join_runs(socket: BorrowedFd<'_>) -> bool {
    // Not to have it is no loss of function.
    set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1).ok();
    set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok()
}

/// Packets of this socket are never fragmented, and what the kernel has learnt of paths is not
/// applied to them: the daemon measures paths itself.
///
/// # Errors
/// What the kernel says.
pub fn set_mtu_probe(socket: BorrowedFd<'_>, v4: bool) -> io::Result<()> {
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

fn address(name: &libc::sockaddr_in6) -> Option<SocketAddr> {
    match libc::c_int::from(name.sin6_family) {
        libc::AF_INET => {
            // SAFETY: the kernel wrote an address of this family, which is shorter, and needs no
            // other alignment.
            let name = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(name.sin_port)).into())
        }
        libc::AF_INET6 => {
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
